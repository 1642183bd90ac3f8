//! From the story's words to an opened source.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use soft_kvm_core::story::{CaptureDriver, CaptureParams};
use soft_kvm_platform::os::probe::{self, Choice};
use soft_kvm_video::source::{SourceError, VideoSource};

use super::Shared;
use super::testcard::TestCardSource;

/// Opens what the story asks for; `auto` takes the first kind that the machine has.
pub(super) fn source(
    params: &CaptureParams,
    shared: &Shared,
) -> Result<Box<dyn VideoSource>, SourceError> {
    let choice = choose(params)?;
    let shown = choice == Choice::Testcard;
    shared.echo_shown.store(shown, Ordering::Relaxed);
    if shown {
        let echo = Arc::clone(&shared.echo);
        return Ok(Box::new(TestCardSource::new(
            params,
            echo,
            shared.name.clone(),
        )));
    }
    probe::open(&choice, params.size, params.fps)
}

fn choose(params: &CaptureParams) -> Result<Choice, SourceError> {
    let device = params.device.as_ref().map(PathBuf::from);
    // Without a device the first of the wanted kind, also one that `auto` would not take, such as a webcam.
    let first = |wanted: fn(&Choice) -> bool, kind: &'static str| {
        let found = probe::probe()
            .into_iter()
            .map(|candidate| candidate.choice)
            .find(wanted);
        found.ok_or_else(|| SourceError::Unsupported {
            device: kind.to_owned(),
            what: "this machine has no such device: soft-kvm-server devices lists what there is"
                .to_owned(),
        })
    };
    Ok(match params.driver {
        CaptureDriver::Auto => probe::chosen(&probe::probe()),
        CaptureDriver::V4l2 => match device {
            Some(device) => Choice::V4l2 { device },
            None => first(|choice| matches!(choice, Choice::V4l2 { .. }), "v4l2")?,
        },
        CaptureDriver::Kms => match (
            device,
            first(|choice| matches!(choice, Choice::Kms { .. }), "kms"),
        ) {
            (Some(device), _) | (None, Ok(Choice::Kms { device, .. })) => Choice::Kms {
                device,
                connector: params.connector.clone(),
            },
            (None, other) => other?,
        },
        CaptureDriver::X11 => Choice::X11 {
            display: params.device.clone(),
        },
        CaptureDriver::Testcard => Choice::Testcard,
    })
}
