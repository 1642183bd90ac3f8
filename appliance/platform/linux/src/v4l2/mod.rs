//! Capture from V4L2 devices: HDMI receivers, capture dongles, webcams; MMAP streaming.
//!
//! The kernel wants its calls in one order; the types keep it: `device::Device` (opened, input chosen)
//! → `device::Configured` (timings, format and rate set) → `device::Running` (buffers mapped, queued,
//! `STREAMON`), whose end is `STREAMOFF`. [`V4l2Source`] moves between them as the signal comes and goes.

mod abi;
mod device;
mod format;
mod ioctl;
mod jpeg;
mod pool;
mod probe;
mod source;

use std::path::PathBuf;

use soft_kvm_core::{FourCc, FrameRate, Size};

pub use probe::{DeviceFacts, DeviceKind, inspect};
pub use source::{CaptureCounters, V4l2Source};

/// Which device to capture from, and what is wanted of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V4l2Options {
    /// The node, e.g. `/dev/video0`.
    pub device: PathBuf,
    /// Input of the device by its index; by default the first with DV timings, else the one that is set.
    pub input: Option<u32>,
    /// Wanted size; devices with DV timings give the size of their signal. By default 1920x1080.
    pub size: Option<Size>,
    /// Wanted rate.
    pub rate: FrameRate,
    /// Only this pixel format; by default the cheapest that gives size and rate.
    pub format: Option<FourCc>,
}

impl V4l2Options {
    /// Defaults for a device: its own size, 30 frames in a second.
    #[must_use]
    pub fn new(device: impl Into<PathBuf>) -> Self {
        Self {
            device: device.into(),
            input: None,
            size: None,
            rate: FrameRate::hz(30),
            format: None,
        }
    }

    fn wanted_size(&self) -> Size {
        self.size.unwrap_or(Size::new(1920, 1080))
    }
}
