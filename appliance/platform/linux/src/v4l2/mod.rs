//! Capture from V4L2 devices: HDMI receivers, capture dongles, webcams; MMAP streaming.
//!
//! The kernel wants its calls in one order; the types keep it: `device::Device` (opened, input chosen)
//! → `device::Configured` (timings, format and rate set) → `device::Running` (buffers mapped, queued,
//! `STREAMON`), whose end is `STREAMOFF`. [`V4l2Source`] moves between them as the signal comes and goes.

mod abi;
mod color;
mod device;
mod edid;
mod format;
mod ioctl;
mod jpeg;
pub mod m2m;
mod media;
mod pool;
mod probe;
mod source;

#[doc(hidden)]
pub mod fuzzing {
    //! Bodies of fuzz targets. Not a public interface.

    use soft_kvm_core::Size;

    use super::jpeg::JpegPool;
    use super::{Edid, EdidError};

    /// Any bytes as a frame of an MJPEG device, of the size that its own header tells.
    pub fn mjpeg(data: &[u8]) {
        let told = data
            .windows(9)
            .find(|part| matches!(part, [0xff, 0xc0..=0xc2, ..]));
        let size = match told {
            Some(&[_, _, _, _, _, 0, height, 0, width]) if width > 0 && height > 0 => {
                Size::new(width.into(), height.into())
            }
            _ => Size::new(64, 48),
        };
        let _ = JpegPool::new(size).decode(data);
    }

    /// Any bytes as a display's identification.
    pub fn edid(data: &[u8]) {
        match Edid::parse(data.to_vec()) {
            Ok(edid) => assert_eq!(edid.bytes(), data),
            Err(EdidError::Broken { what }) => assert!(!what.is_empty()),
            Err(other) => panic!("{other}"),
        }
    }
}

use std::path::PathBuf;

use soft_kvm_core::{FourCc, FrameRate, Size};

/// Whether an opened device is a codec or converter, and not one to capture from.
pub(crate) fn is_memory_to_memory(
    fd: std::os::fd::BorrowedFd<'_>,
) -> Result<bool, nix::errno::Errno> {
    Ok(ioctl::query_capabilities(&fd)?.flags & (abi::CAP_M2M) != 0)
}

pub use edid::{Edid, EdidError};
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
    /// What the input tells the machine at its other end; by default what it has, or the built-in `1080p30` (which
    /// every receiver takes) if it has none.
    pub edid: Option<Edid>,
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
            edid: None,
        }
    }

    fn wanted_size(&self) -> Size {
        self.size.unwrap_or(Size::new(1920, 1080))
    }
}
