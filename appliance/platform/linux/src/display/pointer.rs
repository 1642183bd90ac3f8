//! The hardware's cursor over a screen: it moves without a new picture.
//!
//! By the calls that are older than atomic commits (drm-uapi, `DRM_IOCTL_MODE_CURSOR`): drivers carry them out at once, beside a
//! flip that is under way, where an atomic commit would have to wait for it.

use std::io;
use std::sync::Arc;

use drm::buffer::{Buffer as _, DrmFourcc};
use drm::control::dumbbuffer::DumbBuffer;
use drm::control::{Device as ControlDevice, crtc};
use drm::{Device as DrmDevice, DriverCapability};
use soft_kvm_core::Size;
use soft_kvm_video::cursor::{Cursor, CursorImage, MAX_CURSOR};

use super::screen::Card;
use crate::dmabuf::Mapping;

/// What cursors have room in where the driver does not tell.
const ROOM: u64 = 64;

/// Where on the screen the picture is that the cursor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) picture: Size,
    /// The upper left corner, in the screen's pixels.
    pub(super) corner: (u32, u32),
    /// How large it is there.
    pub(super) size: Size,
}

impl Place {
    /// As large as a part of the picture is on the screen, at least one pixel.
    fn scaled(&self, part: Size) -> Size {
        let axis = |part: u32, shown: u32, length: u32| {
            let pixels = (u64::from(part) * u64::from(shown)).div_ceil(u64::from(length.max(1)));
            u32::try_from(pixels.max(1)).unwrap_or(u32::MAX)
        };
        Size::new(
            axis(part.width, self.size.width, self.picture.width),
            axis(part.height, self.size.height, self.picture.height),
        )
    }

    /// Where a place of the picture is on the screen.
    fn on_screen(&self, at: (i32, i32)) -> (i32, i32) {
        let axis = |at: i32, corner: u32, shown: u32, length: u32| {
            let moved = (i64::from(at) * i64::from(shown)).div_euclid(i64::from(length.max(1)));
            // A cursor far outside is as invisible anywhere else outside.
            let place = (moved + i64::from(corner)).clamp(-0x8000, 0x7fff);
            i32::try_from(place).unwrap_or(0)
        };
        (
            axis(at.0, self.corner.0, self.size.width, self.picture.width),
            axis(at.1, self.corner.1, self.size.height, self.picture.height),
        )
    }
}

/// The memory of the hardware's cursor.
#[derive(Debug)]
pub(super) struct Pointer {
    buffer: DumbBuffer,
    memory: Mapping,
    room: Size,
    /// What it looks like and how large; nothing while it is hidden.
    shown: Option<(Arc<CursorImage>, Size)>,
    /// Where it was moved to last.
    at: Option<(i32, i32)>,
}

impl Pointer {
    /// A cursor that is not shown yet.
    pub(super) fn new(card: &Card) -> io::Result<Self> {
        let room = |capability| {
            let told = card.get_driver_capability(capability).unwrap_or(0);
            let pixels = if told == 0 { ROOM } else { told };
            // More is of no use to a cursor that is not scaled up.
            u32::try_from(pixels).map_or(MAX_CURSOR, |pixels| pixels.min(MAX_CURSOR))
        };
        let room = Size::new(
            room(DriverCapability::CursorWidth),
            room(DriverCapability::CursorHeight),
        );
        let buffer = card.create_dumb_buffer((room.width, room.height), DrmFourcc::Argb8888, 32)?;
        match card.map(&buffer) {
            Ok(memory) => Ok(Self {
                buffer,
                memory,
                room,
                shown: None,
                at: None,
            }),
            Err(error) => {
                let _ = card.destroy_dumb_buffer(buffer);
                Err(error)
            }
        }
    }

    /// Shows the cursor at its place, or none if there is none; false when the hardware has no room for it, and shows none.
    #[expect(deprecated, reason = "by the older calls, as said above")]
    pub(super) fn show(
        &mut self,
        card: &Card,
        crtc: crtc::Handle,
        cursor: &Cursor,
        place: &Place,
    ) -> io::Result<bool> {
        let Some(image) = &cursor.image else {
            self.hide(card, crtc)?;
            return Ok(true);
        };
        let size = place.scaled(image.size);
        if size.width > self.room.width || size.height > self.room.height {
            self.hide(card, crtc)?;
            return Ok(false);
        }
        let at = place.on_screen(cursor.position);
        // Every picture asks, and the cursor rests mostly.
        if self.at != Some(at) {
            card.move_cursor(crtc, at)?;
            self.at = Some(at);
        }
        let same =
            |(shown, at): &(Arc<CursorImage>, Size)| Arc::ptr_eq(shown, image) && *at == size;
        if !self.shown.as_ref().is_some_and(same) {
            self.paint(image, size);
            card.set_cursor(crtc, Some(&self.buffer))?;
            self.shown = Some((Arc::clone(image), size));
        }
        Ok(true)
    }

    #[expect(deprecated, reason = "by the older calls, as said above")]
    pub(super) fn hide(&mut self, card: &Card, crtc: crtc::Handle) -> io::Result<()> {
        if self.shown.take().is_some() {
            card.set_cursor(crtc, None::<&DumbBuffer>)?;
        }
        Ok(())
    }

    /// Writes the picture, scaled to `size`; transparent around it.
    fn paint(&mut self, image: &CursorImage, size: Size) {
        let pitch = self.buffer.pitch() as usize;
        let (pixels, _) = image.pixels.as_chunks::<4>();
        let source = |at: usize, shown: u32, length: u32| at * length as usize / shown as usize;
        let lines = self.memory.bytes_mut().chunks_exact_mut(pitch.max(4));
        for (y, line) in lines.enumerate() {
            line.fill(0);
            if y >= size.height as usize {
                continue;
            }
            let row = source(y, size.height, image.size.height) * image.size.width as usize;
            let (out, _) = line.as_chunks_mut::<4>();
            for (x, pixel) in out.iter_mut().take(size.width as usize).enumerate() {
                let from = pixels.get(row + source(x, size.width, image.size.width));
                *pixel = from.copied().unwrap_or_default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_scaled_and_placed_like_its_picture() {
        let place = Place {
            picture: Size::new(640, 480),
            corner: (240, 0),
            size: Size::new(1440, 1080),
        };
        assert_eq!(place.scaled(Size::new(64, 64)), Size::new(144, 144));
        assert_eq!(place.on_screen((0, 0)), (240, 0));
        assert_eq!(place.on_screen((320, 240)), (960, 540));
        assert_eq!(
            place.on_screen((-4, -2)),
            (231, -5),
            "its corner may be outside"
        );
        assert_eq!(place.on_screen((i32::MAX, i32::MIN)), (0x7fff, -0x8000));
        let small = Place {
            picture: Size::new(1920, 1080),
            corner: (0, 0),
            size: Size::new(640, 360),
        };
        assert_eq!(small.scaled(Size::new(24, 1)), Size::new(8, 1));
    }
}
