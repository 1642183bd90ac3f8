//! Capture of what a screen shows, from DRM/KMS: linear framebuffers, mapped into memory.
//!
//! Works below every compositor, on the text console and at the login screen. Reading another program's
//! framebuffer needs `CAP_SYS_ADMIN` (without it the kernel hides the buffer handles of `GETFB2`).
//!
//! A frame is a view of the live framebuffer, not a copy: a program that draws into the front buffer may
//! draw while it is read. The cursor plane is not composed yet, and neither are overlay planes.

mod mapping;
mod source;

use std::path::PathBuf;

use soft_kvm_core::FrameRate;

pub use source::{KmsSource, active_connectors};

/// Which screen to capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KmsOptions {
    /// The card's node, e.g. `/dev/dri/card0`.
    pub device: PathBuf,
    /// Connector as the kernel names it, e.g. `HDMI-A-1`; by default the first that shows something.
    pub connector: Option<String>,
    /// Wanted rate; the screen's own is the limit.
    pub rate: FrameRate,
}

impl KmsOptions {
    /// The first active connector of a card, 30 frames in a second.
    #[must_use]
    pub fn new(device: impl Into<PathBuf>) -> Self {
        Self {
            device: device.into(),
            connector: None,
            rate: FrameRate::hz(30),
        }
    }
}
