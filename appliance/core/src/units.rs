//! Units with their meaning in the type.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Width and height of a picture in pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Size {
    /// Pixels in a line.
    pub width: u32,
    /// Lines.
    pub height: u32,
}

impl Size {
    /// The largest picture that any part of the program handles (OpenH264's and H.264 level 5.2's limit).
    pub const MAX: Self = Self {
        width: 3840,
        height: 2160,
    };

    /// A size.
    #[must_use]
    pub const fn new(width: u32, height: u32) -> Self {
        Self { width, height }
    }

    /// Pixels in the picture.
    #[must_use]
    pub const fn pixels(self) -> usize {
        self.width as usize * self.height as usize
    }

    /// Whether the picture has at least 16x16 pixels and fits in [`Size::MAX`].
    #[must_use]
    pub const fn is_supported(self) -> bool {
        self.width >= 16
            && self.height >= 16
            && self.width <= Self::MAX.width
            && self.height <= Self::MAX.height
    }

    /// The size rounded down to even numbers, as 4:2:0 chroma needs it.
    #[must_use]
    pub const fn even(self) -> Self {
        Self {
            width: self.width & !1,
            height: self.height & !1,
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// Why a text is not a [`Size`], [`FrameRate`] or [`FourCc`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct ParseUnitError {
    /// What was given.
    pub text: String,
    /// What would have been right, e.g. `WIDTHxHEIGHT`.
    pub expected: &'static str,
}

impl FromStr for Size {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text
            .split_once('x')
            .and_then(|(w, h)| Some(Self::new(w.parse().ok()?, h.parse().ok()?)))
            .filter(|size| size.is_supported());
        parsed.ok_or_else(|| ParseUnitError {
            text: text.to_owned(),
            expected: "WIDTHxHEIGHT from 16x16 to 3840x2160",
        })
    }
}

/// Frames in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FrameRate(NonZeroU32);

impl FrameRate {
    /// A rate; zero counts as one.
    #[must_use]
    pub fn hz(hz: u32) -> Self {
        Self(NonZeroU32::new(hz).unwrap_or(NonZeroU32::MIN))
    }

    /// Frames in a second.
    #[must_use]
    pub const fn as_hz(self) -> u32 {
        self.0.get()
    }

    /// Time from one frame to the next.
    #[must_use]
    pub fn interval(self) -> Duration {
        Duration::from_nanos(1_000_000_000 / u64::from(self.0.get()))
    }
}

impl fmt::Display for FrameRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} fps", self.0)
    }
}

/// Bits in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bitrate(u64);

impl Bitrate {
    /// From bits in a second.
    #[must_use]
    pub const fn bps(bps: u64) -> Self {
        Self(bps)
    }

    /// From thousand bits in a second.
    #[must_use]
    pub const fn kbps(kbps: u32) -> Self {
        Self(kbps as u64 * 1_000)
    }

    /// Bits in a second.
    #[must_use]
    pub const fn as_bps(self) -> u64 {
        self.0
    }

    /// How long `bytes` take on a line of this rate.
    #[must_use]
    pub fn time_for(self, bytes: usize) -> Duration {
        let nanos = (bytes as u128 * 8 * 1_000_000_000) / u128::from(self.0.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Bitrate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} kbit/s", self.0 / 1_000)
    }
}

/// A pixel or coded format as V4L2 and DRM name it: four ASCII characters, first in the low byte.
///
/// V4L2 (`videodev2.h`) and DRM (`drm_fourcc.h`) use the same packing but different names for the same
/// memory layout; the type does not say whose name it is, the place where it stands does.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FourCc(pub u32);

impl FourCc {
    /// From four characters, e.g. `FourCc::new(b"NV12")`.
    #[must_use]
    pub const fn new(code: &[u8; 4]) -> Self {
        Self(u32::from_le_bytes(*code))
    }
}

impl fmt::Display for FourCc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.to_le_bytes() {
            write!(f, "{}", byte.escape_ascii())?;
        }
        Ok(())
    }
}

impl fmt::Debug for FourCc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FourCc({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_within_limits() {
        assert_eq!("1920x1080".parse(), Ok(Size::new(1920, 1080)));
        for bad in [
            "",
            "1920",
            "1920x",
            "0x0",
            "99999x10",
            "1920x1080x2",
            "-1x20",
        ] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }

    #[test]
    fn fourcc_prints_as_the_kernel_writes_it() {
        assert_eq!(FourCc::new(b"NV12").to_string(), "NV12");
        assert_eq!(FourCc(0x3231_564e), FourCc::new(b"NV12"));
    }

    #[test]
    fn line_time_of_a_key_frame() {
        assert_eq!(
            Bitrate::kbps(8_000).time_for(1_000),
            Duration::from_millis(1)
        );
        assert_eq!(Bitrate::bps(0).time_for(1), Duration::from_secs(8));
    }
}
