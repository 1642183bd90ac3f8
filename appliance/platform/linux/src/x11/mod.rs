//! Capture of an X display: MIT-SHM, DAMAGE, and the cursor by XFixes drawn into the picture; and its clipboard.
//!
//! `x11rb` allocates a few small replies for each tick; pictures go through shared memory made once.

pub(crate) mod clipboard;
mod pool;
mod source;

use soft_kvm_core::FrameRate;

pub use source::X11Source;

/// Which display to capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X11Options {
    /// Its name, e.g. `:0`; by default the environment's.
    pub display: Option<String>,
    /// Wanted rate.
    pub rate: FrameRate,
}

impl X11Options {
    /// A display at 30 frames in a second.
    #[must_use]
    pub fn new(display: Option<String>) -> Self {
        Self {
            display,
            rate: FrameRate::hz(30),
        }
    }
}
