//! The encoders of this machine, as rungs of the ladder.

use std::path::{Path, PathBuf};
use std::{fmt, iter};

use soft_kvm_core::story::{EncoderDriver, VideoParams};
use soft_kvm_platform::openh264;
use soft_kvm_platform::os::m2m::{self, M2mEncoder, M2mKind, M2mNode};
use soft_kvm_platform::os::vaapi::{self, VaapiEncoder};
use soft_kvm_video::codec::{CodecError, EncoderConfig, FrameEncoder, VideoEncoder};
use soft_kvm_video::frame::Frame;

use super::Shared;
use super::converting::Converting;

/// One encoder that may be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rung {
    pub(super) driver: EncoderDriver,
    pub(super) device: Option<PathBuf>,
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.device {
            Some(device) => write!(f, "{} {}", self.driver, device.display()),
            None => write!(f, "{}", self.driver),
        }
    }
}

/// Opens encoders; the tests have their own.
pub(super) trait Encoders: Send {
    /// What may be tried under these settings, best first; never empty.
    fn rungs(&self, params: &VideoParams) -> Vec<Rung>;

    /// Opens a rung for frames that stay where they are.
    fn import(
        &self,
        rung: &Rung,
        config: EncoderConfig,
        first: &Frame,
    ) -> Result<Box<dyn FrameEncoder>, CodecError>;

    /// Opens a rung for pictures in ordinary memory.
    fn pictures(
        &self,
        rung: &Rung,
        config: EncoderConfig,
    ) -> Result<Box<dyn VideoEncoder>, CodecError>;
}

/// A device that was named and is of this kind, or all that make H.264.
fn devices(named: Option<&Path>, driver: EncoderDriver) -> Vec<Rung> {
    let found = match (named, driver) {
        (Some(device), _) => vec![device.to_owned()],
        (None, EncoderDriver::Vaapi) => vaapi::probe()
            .into_iter()
            .filter(|node| node.unusable.is_none())
            .map(|node| node.path)
            .collect(),
        (None, _) => m2m::probe()
            .into_iter()
            // One that cannot be opened now may be an encoder in use: the ladder tries it again.
            .filter(|node| makes_h264(node) || node.kind.is_none())
            .map(|node| node.path)
            .collect(),
    };
    let rung = |device| Rung {
        driver,
        device: Some(device),
    };
    found.into_iter().map(rung).collect()
}

/// Hardware encoders, best first. A story names the driver to begin with, and may name its device.
fn hardware(params: &VideoParams) -> Vec<Rung> {
    use EncoderDriver::{Auto, Openh264, V4l2m2m, Vaapi};

    let named = params.device.as_deref().map(Path::new);
    let graphics = named.is_some_and(|device| device.starts_with("/dev/dri"));
    match (params.driver, named) {
        (Openh264, _) => Vec::new(),
        (Vaapi, _) => devices(named, Vaapi),
        (Auto, Some(_)) if graphics => devices(named, Vaapi),
        (Auto | V4l2m2m, _) => [devices(named, V4l2m2m), devices(None, Vaapi)].concat(),
    }
}

/// Asks for the hardware encoders once: what drivers of graphics devices answer is remembered.
pub(super) fn ask_drivers(params: &VideoParams) {
    let found = hardware(params);
    tracing::debug!(?found, "hardware encoders");
}

/// Whether the automatic choice may take it: other formats need a viewer with the same hardware.
pub(crate) fn makes_h264(node: &M2mNode) -> bool {
    let format = |name: &String| name == "H264";
    node.kind == Some(M2mKind::Encoder) && node.unusable.is_none() && node.output.iter().any(format)
}

/// The encoders of this machine; the pipeline's settings say whether a GPU converts for them.
#[derive(Debug)]
pub(super) struct Machine<'a>(pub(super) &'a Shared);

impl Encoders for Machine<'_> {
    fn rungs(&self, params: &VideoParams) -> Vec<Rung> {
        let software = Rung {
            driver: EncoderDriver::Openh264,
            device: None,
        };
        hardware(params)
            .into_iter()
            .chain(iter::once(software))
            .collect()
    }

    fn import(
        &self,
        rung: &Rung,
        config: EncoderConfig,
        first: &Frame,
    ) -> Result<Box<dyn FrameEncoder>, CodecError> {
        match (&rung.device, rung.driver) {
            (Some(device), EncoderDriver::Vaapi) => {
                Ok(Box::new(VaapiEncoder::open(device, &config, first)?))
            }
            (Some(device), _) => match M2mEncoder::open(device, &config, first) {
                Ok(encoder) => Ok(Box::new(encoder)),
                Err(error) => match Converting::open(device, &config, first, self.0.gpu()) {
                    Some(encoder) => Ok(Box::new(encoder)),
                    None => Err(error),
                },
            },
            (None, _) => Err(CodecError {
                codec: rung.driver.as_str(),
                what: "works on pictures in memory".to_owned(),
            }),
        }
    }

    fn pictures(
        &self,
        rung: &Rung,
        config: EncoderConfig,
    ) -> Result<Box<dyn VideoEncoder>, CodecError> {
        Ok(match (&rung.device, rung.driver) {
            (Some(device), EncoderDriver::Vaapi) => {
                Box::new(VaapiEncoder::open_cpu(device, &config)?)
            }
            (Some(device), _) => Box::new(M2mEncoder::open_cpu(device, &config)?),
            (None, _) => Box::new(openh264::Encoder::open(config)?),
        })
    }
}
