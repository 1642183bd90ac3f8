//! What a V4L2 node is, without starting it.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use soft_kvm_video::source::SourceError;

use crate::broker::{self, Kind};

use super::abi;
use super::device::{failed, open_error};
use super::ioctl::{self, Api};

/// What a V4L2 node is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// Gives pictures.
    Capture,
    /// Takes pictures.
    Output,
    /// Converts or encodes (memory to memory).
    Converter,
    /// Gives data about pictures.
    Metadata,
    /// Radio, VBI, touch and others.
    Other,
}

/// What is known of a V4L2 node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceFacts {
    /// The node.
    pub path: String,
    /// Kernel driver, e.g. `uvcvideo`.
    pub driver: String,
    /// The device's name for people.
    pub card: String,
    /// Where it is plugged in.
    pub bus: String,
    /// What it is for.
    pub kind: DeviceKind,
    /// Pixel formats, as fourccs.
    pub formats: Vec<String>,
    /// Whether an input has DV timings: an HDMI, DVI or SDI receiver.
    pub dv_timings: bool,
    /// USB vendor and product, if it is a USB device.
    pub usb: Option<(u16, u16)>,
}

/// Asks the node at `path` what it is.
///
/// # Errors
/// [`SourceError`]: it has gone, or the process has no right to it.
pub fn inspect(path: &Path) -> Result<DeviceFacts, SourceError> {
    let name = path.display().to_string();
    let fd = broker::open(Kind::Video, path).map_err(|error| open_error(&name, error))?;
    let caps =
        ioctl::query_capabilities(&fd).map_err(|errno| failed(&name, "VIDIOC_QUERYCAP", errno))?;
    let has = |flags| caps.flags & flags != 0;
    let kind = if has(abi::CAP_M2M) {
        DeviceKind::Converter
    } else if has(abi::CAP_CAPTURE | abi::CAP_CAPTURE_MPLANE) {
        DeviceKind::Capture
    } else if has(abi::CAP_OUTPUT) {
        DeviceKind::Output
    } else if has(abi::CAP_META) {
        DeviceKind::Metadata
    } else {
        DeviceKind::Other
    };
    let api = if has(abi::CAP_CAPTURE) {
        Api::Single
    } else {
        Api::Multi
    };
    let mut facts = DeviceFacts {
        usb: usb_id(path),
        path: name,
        driver: caps.driver,
        card: caps.card,
        bus: caps.bus,
        kind,
        formats: Vec::new(),
        dv_timings: false,
    };
    if kind == DeviceKind::Capture {
        let formats = (0..256).map_while(|index| ioctl::enum_format(&fd, api, index).ok()?);
        facts.formats = formats.map(|format| format.to_string()).collect();
        let mut inputs = (0..64).map_while(|index| ioctl::enum_input(&fd, index).ok()?);
        facts.dv_timings = inputs.any(|(_, timings)| timings);
    }
    Ok(facts)
}

/// Vendor and product of the USB device that the node belongs to, from sysfs.
fn usb_id(path: &Path) -> Option<(u16, u16)> {
    let class = Path::new("/sys/class/video4linux").join(path.file_name()?);
    let device = fs::canonicalize(class.join("device")).ok()?;
    let number = |folder: &Path, file: &str| {
        let text = fs::read_to_string(folder.join(file)).ok()?;
        u16::from_str_radix(text.trim(), 16).ok()
    };
    device
        .ancestors()
        .take_while(|folder| folder.starts_with("/sys/devices"))
        .find_map(|folder| Some((number(folder, "idVendor")?, number(folder, "idProduct")?)))
}
