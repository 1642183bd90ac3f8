//! The cursor plane, told apart from the pictures.

use std::sync::Arc;
use std::time::Duration;

use soft_kvm_core::story::GpuMode;
use soft_kvm_core::{MonoTime, Size};
use soft_kvm_video::compose::{Blend, Target};
use soft_kvm_video::convert::expand;
use soft_kvm_video::cursor::{Cursor, CursorImage, MAX_CURSOR};
use soft_kvm_video::frame::{Colorimetry, FrameInfo, Plane, Rect};

use super::card::Card;
use super::framebuffer::{self, FbError};
use super::mapping::Exported;
use super::planes::PlaneState;

/// How long a cursor's picture is trusted: a program may draw another one into the same framebuffer.
const TRUST: Duration = Duration::from_millis(500);

/// What the viewer was told, and what there is to tell.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    told: Cursor,
    now: Cursor,
    fb: u32,
    checked: MonoTime,
    /// A framebuffer that is no cursor's picture: too large, or not readable.
    refused: u32,
}

impl Tracker {
    /// Takes the cursor plane's state, or that there is none; `screen` is the CRTC's size, `picture` that of the
    /// pictures. False when the plane has to be composed like another one.
    pub(super) fn update(
        &mut self,
        card: &Card,
        plane: Option<&PlaneState>,
        (screen, picture): (Size, Size),
        now: MonoTime,
    ) -> bool {
        let Some((plane, target)) = plane.and_then(|plane| Some((plane, plane.place?.1))) else {
            self.now.image = None;
            self.fb = 0;
            return plane.is_none();
        };
        if plane.fb != self.fb || now.since(self.checked) >= TRUST {
            match image(card, plane) {
                Ok(image) => {
                    let same = self.now.image.as_ref().is_some_and(|old| **old == image);
                    if !same {
                        self.now.image = Some(Arc::new(image));
                    }
                }
                Err(FbError::Gone) => {}
                Err(error) => {
                    if self.refused != plane.fb {
                        tracing::info!(?error, "the cursor is drawn into the picture");
                    }
                    self.refused = plane.fb;
                    self.now.image = None;
                }
            }
            self.fb = plane.fb;
            self.checked = now;
        }
        self.now.position = in_picture(target, screen, picture);
        self.now.image.is_some() || self.refused != plane.fb
    }

    /// What the viewer has not been told yet.
    pub(super) fn news(&mut self) -> Option<Cursor> {
        if self.now.is_as(&self.told) {
            return None;
        }
        self.told = self.now.clone();
        Some(self.now.clone())
    }
}

/// The CRTC's pixels are not always the picture's: the hardware may scale.
fn in_picture(target: Target, screen: Size, picture: Size) -> (i32, i32) {
    let scale = |at: i32, from: u32, to: u32| {
        if from == to || from == 0 {
            return at;
        }
        let scaled = i64::from(at) * i64::from(to) / i64::from(from);
        i32::try_from(scaled).unwrap_or(at)
    };
    (
        scale(target.x, screen.width, picture.width),
        scale(target.y, screen.height, picture.height),
    )
}

fn image(card: &Card, plane: &PlaneState) -> Result<CursorImage, FbError> {
    // One that only a GPU reads is drawn into the picture.
    let (layout, fds) = framebuffer::export(card, plane.fb, GpuMode::Off)?;
    let size = layout.size;
    let refuse = |what: &str| FbError::Unsupported(format!("a cursor of {size} {what}"));
    if size.width.max(size.height) > MAX_CURSOR {
        return Err(refuse("is larger than a viewer draws"));
    }
    if plane.rotated {
        return Err(refuse("is turned"));
    }
    let exported =
        Exported::new(layout, fds, Rect::whole(size), 0).map_err(|_| refuse("cannot be mapped"))?;
    let info = FrameInfo {
        format: layout.format,
        color: Colorimetry::RGB,
        size,
        sequence: 0,
        captured: MonoTime::ZERO,
        damage: soft_kvm_video::frame::Damage::Unknown,
        cpu_bytes: 0,
    };
    let frame = Arc::new(exported).lend(info).ok_or(FbError::Gone)?;
    let planes: [Option<Plane<'_>>; 3] = std::array::from_fn(|plane| frame.plane(plane));
    let width = size.width as usize;
    let mut pixels = vec![[0; 4]; size.pixels()];
    for (y, line) in pixels.chunks_exact_mut(width.max(1)).enumerate() {
        if !expand::line(layout.format, info.color, &planes, y, 0, line) {
            return Err(refuse("cannot be read"));
        }
    }
    let blend = match layout.blend {
        Blend::Opaque => Blend::Opaque,
        own => plane.blend.unwrap_or(own),
    };
    for pixel in &mut pixels {
        premultiply(pixel, blend);
    }
    Ok(CursorImage {
        size,
        hot: plane.hot,
        pixels: pixels.into_flattened(),
    })
}

fn premultiply(pixel: &mut [u8; 4], blend: Blend) {
    match blend {
        Blend::Opaque => pixel[3] = 255,
        Blend::Premultiplied => {}
        Blend::Coverage => {
            let alpha = u16::from(pixel[3]);
            for colour in pixel.iter_mut().take(3) {
                *colour = u8::try_from((u16::from(*colour) * alpha + 127) / 255).unwrap_or(255);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_follow_the_hardware_scaler() {
        let target = Target {
            x: -64,
            y: 540,
            size: Size::new(64, 64),
        };
        let (screen, half) = (Size::new(1920, 1080), Size::new(960, 540));
        assert_eq!(in_picture(target, screen, screen), (-64, 540));
        assert_eq!(in_picture(target, screen, half), (-32, 270));
    }

    #[test]
    fn colours_are_multiplied_once() {
        let shown = |blend| {
            let mut pixel = [200, 100, 0, 128];
            premultiply(&mut pixel, blend);
            pixel
        };
        assert_eq!(shown(Blend::Premultiplied), [200, 100, 0, 128]);
        assert_eq!(shown(Blend::Coverage), [100, 50, 0, 128]);
        assert_eq!(shown(Blend::Opaque), [200, 100, 0, 255]);
    }
}
