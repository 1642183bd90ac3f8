//! Where pictures come from.

use std::fmt;
use std::time::Duration;

use soft_kvm_core::{FrameRate, Size};

use crate::cursor::Cursor;
use crate::frame::Frame;

/// A capture device or screen, opened and running.
///
/// Runs on the `capture` thread. Dropping it stops the device.
pub trait VideoSource: Send {
    /// What it gives at the moment.
    fn info(&self) -> SourceInfo;

    /// What made the last frame's memory readable for others, for people; `None` if nothing had to.
    fn converter(&self) -> Option<&str> {
        None
    }

    /// Waits for the next picture, at most about `timeout`.
    ///
    /// # Errors
    /// [`SourceError`]: this source is of no use any more and has to be opened again.
    fn next(&mut self, timeout: Duration) -> Result<Captured, SourceError>;
}

/// What a source came back with.
#[derive(Debug)]
pub enum Captured {
    /// A picture.
    Frame(Frame),
    /// Nothing changed, or nothing came within the time.
    Nothing,
    /// There is no picture, for this reason: show it instead.
    NoPicture(NoPicture),
    /// The cursor, which is not in the pictures, looks another way or has moved.
    Cursor(Cursor),
}

/// What a source gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceInfo {
    /// Driver name as in the story: `v4l2`, `kms`, `x11`, `testcard`.
    pub driver: &'static str,
    /// Device path, display or connector, e.g. `/dev/video0` or `:0`.
    pub device: String,
    /// Size in pixels.
    pub size: Size,
    /// Frames in a second that the source gives at most.
    pub rate: FrameRate,
    /// The device's own name for its pixel format, e.g. `NV12`.
    pub pixel_format: String,
}

/// Why there is no picture, in the words of HDMI receivers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoPicture {
    /// The device has gone.
    NoDevice,
    /// Nothing plugged in: the source's 5 V are not there.
    NoCable,
    /// `ENOLINK`: nothing sent, or nothing plugged in where the receiver can't tell.
    NoSignal,
    /// `ENOLCK`: something is sent, but the receiver cannot lock on to it.
    NoLock,
    /// `ERANGE`: the signal is outside what the receiver can do.
    OutOfRange,
    /// The monitor is off, or no mode is set.
    DisplayOff,
    /// Anything else, in words.
    Other(String),
}

/// A source that cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The device has gone: unplugged, unbound, display closed.
    #[error("{device}: the device has gone")]
    Gone {
        /// Which one.
        device: String,
    },
    /// No right to use the device.
    #[error("{device}: permission denied: {hint}")]
    Permission {
        /// Which one.
        device: String,
        /// What to do about it.
        hint: String,
    },
    /// The device can't do what is needed.
    #[error("{device}: {what}")]
    Unsupported {
        /// Which one.
        device: String,
        /// What it cannot do, and what would help.
        what: String,
    },
    /// The operating system said no.
    #[error("{device}: {action}: {source}")]
    Io {
        /// Which one.
        device: String,
        /// The step that failed, e.g. `VIDIOC_STREAMON`.
        action: &'static str,
        /// What it said.
        source: std::io::Error,
    },
}

/// The content that the test card shows besides its clock, barcode and input echo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Content {
    /// Text typed into a terminal beside an editor, a pointer that moves: a few tiles change.
    #[default]
    Typing,
    /// Half the screen scrolls.
    Scroll,
    /// The whole screen moves, with gradients and noise.
    Motion,
    /// Nothing moves but the barcode.
    Static,
}

impl Content {
    /// All, with the names that the story and the benchmarks use.
    pub const ALL: [(&'static str, Self); 4] = [
        ("typing", Self::Typing),
        ("scroll", Self::Scroll),
        ("motion", Self::Motion),
        ("static", Self::Static),
    ];
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL
            .iter()
            .find(|(_, content)| content == self)
            .map_or("", |(name, _)| name);
        f.write_str(name)
    }
}
