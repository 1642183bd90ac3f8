//! The operator's devices by evdev: listed, watched, grabbed.

mod button;
mod device;
mod guard;
mod source;

pub use button::Button;
pub(crate) use button::open_button;
pub use guard::{Guard, Release, STALL, run_guard};
pub use source::{EvdevSource, Selection};

use std::io;
use std::path::{Path, PathBuf};

use evdevil::Evdev;
use soft_kvm_input::{DeviceClass, SourceError};
use soft_kvm_protocol::input::{DeviceDescriptor, DeviceId};

use crate::uinput::PHYS_PREFIX;

const FOLDER: &str = "/dev/input";

/// An input device of this machine.
#[derive(Clone, Debug)]
pub struct FoundDevice {
    /// Its node, such as `/dev/input/event3`.
    pub path: PathBuf,
    /// What it can do; the id is the number of its node.
    pub descriptor: DeviceDescriptor,
    /// Its class.
    pub class: DeviceClass,
    /// One of our own virtual devices, which are never grabbed.
    pub ours: bool,
}

/// All input devices, by the number of their node; those that can't be opened as errors.
#[must_use]
pub fn list() -> Vec<Result<FoundDevice, SourceError>> {
    nodes()
        .into_iter()
        .map(|(number, path)| {
            let device = open(&path)?;
            let look = || {
                let descriptor = device::describe(&device, DeviceId(number))?;
                let class = DeviceClass::of(&descriptor);
                let ours = is_ours(&device)?;
                Ok((descriptor, class, ours))
            };
            let (descriptor, class, ours) = look().map_err(problem(&path, "read capabilities"))?;
            Ok(FoundDevice {
                path,
                descriptor,
                class,
                ours,
            })
        })
        .collect()
}

/// The event nodes that there are, by number.
fn nodes() -> Vec<(u16, PathBuf)> {
    let mut nodes: Vec<_> = std::fs::read_dir(FOLDER)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let number = path.file_name()?.to_str()?.strip_prefix("event")?;
            Some((number.parse().ok()?, path))
        })
        .collect();
    nodes.sort_unstable();
    nodes
}

fn open(path: &Path) -> Result<Evdev, SourceError> {
    Evdev::open(path).map_err(problem(path, "open"))
}

fn problem(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> SourceError {
    let path = path.to_owned();
    move |source| SourceError::Device {
        path,
        what,
        hint: match source.kind() {
            io::ErrorKind::PermissionDenied => {
                ": add the user to group input or install the udev rule"
            }
            io::ErrorKind::ResourceBusy => ": another program has grabbed it",
            _ => "",
        },
        source,
    }
}

fn is_ours(device: &Evdev) -> io::Result<bool> {
    let phys = device.phys()?;
    Ok(phys.is_some_and(|phys| phys.starts_with(PHYS_PREFIX)))
}
