//! Reason pictures: what a viewer sees when there is no picture. Never a black or frozen screen.
//!
//! The words are English: the embedded bitmap fonts have no kana or kanji.

use soft_kvm_core::{MonoTime, Size};

use crate::draw::{Canvas, Color, Font, clamp, lines};
use crate::frame::{Colorimetry, Damage, Frame, FrameInfo, PixelFormat};
use crate::memory::MemoryPool;
use crate::source::NoPicture;

/// What pictures with words have behind them.
pub const BACKGROUND: Color = Color::rgb(24, 28, 36);
/// Their titles.
pub const TITLE: Color = Color::rgb(255, 190, 90);
/// Their other words.
pub const TEXT: Color = Color::rgb(225, 228, 235);

/// The words of a reason picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// What is the matter, in a few words.
    pub title: String,
    /// Why.
    pub reason: String,
    /// What to do about it.
    pub advice: String,
}

impl Reason {
    /// The words for a source's state; `device` is its path or name.
    #[must_use]
    pub fn new(state: &NoPicture, device: &str) -> Self {
        let (title, reason, advice) = match state {
            NoPicture::NoDevice => (
                "No capture device",
                format!("{device} has gone."),
                "Plug it in again; the picture comes back by itself.",
            ),
            NoPicture::NoCable => (
                "No cable",
                format!("{device}: nothing is plugged in, or the machine has no power."),
                "Plug the cable in at both ends, and turn the machine on.",
            ),
            NoPicture::NoSignal => (
                "No signal",
                format!("{device}: nothing is sent."),
                "Check the cable, and that the machine is on and awake.",
            ),
            NoPicture::NoLock => (
                "No lock",
                format!("{device}: there is a signal, but the receiver cannot lock on to it."),
                "Try a shorter or better cable, or a lower resolution.",
            ),
            NoPicture::OutOfRange => (
                "Out of range",
                format!("{device}: the signal is outside what the receiver can do."),
                "Set a lower resolution or refresh rate on the machine.",
            ),
            NoPicture::DisplayOff => (
                "The display is off",
                format!("{device}: no mode is set, or the screen sleeps."),
                "Press a key to wake it up.",
            ),
            NoPicture::Other(what) => (
                "No picture",
                format!("{device}: {what}"),
                "The server's log says more.",
            ),
        };
        Self {
            title: title.to_owned(),
            reason,
            advice: advice.to_owned(),
        }
    }

    /// Draws the words in the middle of a dark canvas, broken into lines and shrunk as far as needed.
    pub fn draw(&self, canvas: &mut Canvas<'_>) {
        let size = canvas.size();
        canvas.fill(0, 0, size.width, size.height, BACKGROUND);
        let (large, small) = if size.width >= 960 {
            (Font::Large, Font::Medium)
        } else if size.width >= 480 {
            (Font::Medium, Font::Small)
        } else {
            (Font::Small, Font::Small)
        };
        let margin = size.width / 16;
        let parts = [
            (&self.title, large, TITLE),
            (&self.reason, small, TEXT),
            (&self.advice, small, TEXT),
        ];
        let columns = |font: Font| ((size.width - margin * 2) / font.width()).max(1) as usize;
        let height: u32 = parts
            .iter()
            .map(|(text, font, _)| {
                let lines = lines(text, columns(*font)).count();
                u32::try_from(lines)
                    .unwrap_or(u32::MAX)
                    .saturating_add(1)
                    .saturating_mul(font.height())
            })
            .fold(0, u32::saturating_add);
        let mut y = clamp(size.height.saturating_sub(height) / 2);
        for (text, font, color) in parts {
            for line in lines(text, columns(font)) {
                canvas.text(clamp(margin), y, line, font, color, None);
                y = y.saturating_add(clamp(font.height()));
            }
            y = y.saturating_add(clamp(font.height()));
        }
    }

    /// The reason picture as a frame, BGRX. A size out of bounds becomes 1280x720.
    ///
    /// Allocates: made once per change of state, not per frame.
    #[must_use]
    pub fn frame(&self, size: Size, sequence: u64, captured: MonoTime) -> Frame {
        let size = if size.is_supported() {
            size
        } else {
            Size::new(1280, 720)
        };
        let mut pool = MemoryPool::new(PixelFormat::Bgrx, size, 1);
        if let Some((data, stride)) = pool.plane_mut(0, 0) {
            self.draw(&mut Canvas::new(data, stride, size));
        }
        let info = FrameInfo {
            format: PixelFormat::Bgrx,
            size,
            sequence,
            captured,
            damage: Damage::Unknown,
            cpu_bytes: 0,
            color: Colorimetry::RGB,
        };
        pool.lend(0, info)
            .expect("the pool was made with one buffer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_draws_words_at_every_size() {
        let states = [
            NoPicture::NoDevice,
            NoPicture::NoCable,
            NoPicture::NoSignal,
            NoPicture::NoLock,
            NoPicture::OutOfRange,
            NoPicture::DisplayOff,
            NoPicture::Other("VIDIOC_STREAMON: ケーブル ".repeat(40)),
        ];
        for state in &states {
            let reason = Reason::new(state, "/dev/video0");
            assert!(!reason.title.is_empty() && !reason.advice.is_empty());
            for size in [
                Size::new(1920, 1080),
                Size::new(641, 481),
                Size::new(16, 16),
            ] {
                let frame = reason.frame(size, 7, MonoTime::ZERO);
                assert_eq!((frame.info().size, frame.info().sequence), (size, 7));
                let plane = frame.plane(0).expect("BGRX has a plane");
                let first = plane.data.first_chunk::<4>().copied();
                let ink = plane
                    .data
                    .chunks_exact(4)
                    .filter(|pixel| Some(*pixel) != first.as_ref().map(<[u8; 4]>::as_slice));
                assert!(ink.count() > 10, "{state:?} at {size}");
            }
        }
    }

    #[test]
    fn a_size_out_of_bounds_is_replaced() {
        let reason = Reason::new(&NoPicture::NoSignal, "x");
        let frame = reason.frame(Size::new(0, 0), 0, MonoTime::ZERO);
        assert_eq!(frame.info().size, Size::new(1280, 720));
    }
}
