//! From the story's words to an opened source.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use soft_kvm_core::story::{CaptureDriver, CaptureParams};
use soft_kvm_platform::os::probe::{self, Choice, Wanted};
use soft_kvm_video::source::{SourceError, VideoSource};

use super::Shared;
use super::testcard::TestCardSource;
use crate::clipboard::Screen;

/// Opens what the story asks for; `auto` takes the first kind that the machine has.
pub(super) fn source(
    params: &CaptureParams,
    shared: &Shared,
) -> Result<Box<dyn VideoSource>, SourceError> {
    let choice = choose(params)?;
    let shown = choice == Choice::Testcard;
    shared.echo_shown.store(shown, Ordering::Relaxed);
    let screen = Screen::of(&choice);
    if shown {
        let echo = Arc::clone(&shared.echo);
        shared.clipboards.captured(screen);
        return Ok(Box::new(TestCardSource::new(params, echo, shared.name())));
    }
    let source = probe::open(
        &choice,
        &Wanted {
            size: params.size,
            rate: params.fps,
            edid: params.edid.as_deref(),
            gpu: params.gpu,
        },
    )?;
    shared.clipboards.captured(screen);
    Ok(source)
}

fn choose(params: &CaptureParams) -> Result<Choice, SourceError> {
    let device = params.device.as_ref().map(PathBuf::from);
    let missing = |kind: &str| SourceError::Io {
        device: kind.to_owned(),
        action: "looking for it",
        source: io::Error::new(
            io::ErrorKind::NotFound,
            "this machine has no such device: soft-kvm-server devices lists what there is",
        ),
    };
    Ok(match params.driver {
        CaptureDriver::Auto => probe::chosen(&probe::probe()),
        CaptureDriver::V4l2 => match device {
            Some(device) => Choice::V4l2 { device },
            None => probe::first_capture(&probe::probe()).ok_or_else(|| missing("v4l2"))?,
        },
        CaptureDriver::Kms => {
            let connector = params.connector.clone();
            let first = || probe::first_card(&probe::probe(), connector.as_deref());
            let device = device.or_else(first).ok_or_else(|| missing("kms"))?;
            Choice::Kms { device, connector }
        }
        CaptureDriver::X11 => Choice::X11 {
            display: params.device.clone(),
        },
        CaptureDriver::Testcard => Choice::Testcard,
    })
}
