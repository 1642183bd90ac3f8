//! Pictures on the plane as they lie in a decoder's memory.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use drm::control::{AtomicCommitFlags, Device as ControlDevice, framebuffer, property};
use soft_kvm_core::Size;
use soft_kvm_video::frame::{Colorimetry, DmaBuf, Frame, Matrix, PixelFormat, Range};

use super::DisplayError;
use super::screen::{Card, Display, Properties, failed, fit, id};

/// Framebuffers that are kept: a decoder has a dozen buffers at most.
const KEPT: usize = 16;

/// What a plane takes or does not, whatever the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    size: Size,
    format: PixelFormat,
    color: Colorimetry,
}

/// A buffer that was imported.
#[derive(Debug)]
struct Imported {
    /// Inode of the first plane's DMA-BUF: its identity while it exists, which an import makes it do.
    inode: u64,
    framebuffer: framebuffer::Handle,
    /// GEM handles, each once; 0 for none.
    handles: [u32; 4],
}

/// Framebuffers of memory that others made.
#[derive(Debug, Default)]
pub(super) struct Imports {
    known: Vec<Imported>,
    /// What was tried last, and whether the plane takes it.
    tried: Option<(Kind, bool)>,
    /// What was put on the plane last: without its framebuffer the whole screen would go dark.
    shown: Option<framebuffer::Handle>,
}

impl Imports {
    /// The framebuffer of a picture's memory.
    fn framebuffer(
        &mut self,
        card: &Card,
        dma: &DmaBuf<'_>,
        size: Size,
    ) -> io::Result<framebuffer::Handle> {
        let first = dma.planes[0].ok_or(io::ErrorKind::InvalidInput)?.fd;
        let inode = nix::sys::stat::fstat(first)?.st_ino;
        if let Some(known) = self.known.iter().find(|known| known.inode == inode) {
            return Ok(known.framebuffer);
        }
        if self.known.len() >= KEPT {
            self.forget_others(card);
        }
        let imported = import(card, dma, size, inode)?;
        let framebuffer = imported.framebuffer;
        self.known.push(imported);
        Ok(framebuffer)
    }

    /// Gives all back, once the plane shows something else.
    pub(super) fn forget(&mut self, card: &Card) {
        self.shown = None;
        self.tried = None;
        self.forget_others(card);
    }

    fn forget_others(&mut self, card: &Card) {
        let shown = self.shown;
        self.known.retain(|known| {
            let stays = Some(known.framebuffer) == shown;
            if !stays {
                // Nothing to do about failures: closing the card frees them too.
                let _ = card.destroy_framebuffer(known.framebuffer);
                close(card, known.handles);
            }
            stays
        });
    }
}

fn import(card: &Card, dma: &DmaBuf<'_>, size: Size, inode: u64) -> io::Result<Imported> {
    let (mut handles, mut pitches, mut offsets, mut modifiers) =
        ([0; 4], [0; 4], [0; 4], [0_u64; 4]);
    let mut unique = [0; 4];
    let mut add = || -> io::Result<u32> {
        for (at, plane) in dma.planes.iter().enumerate() {
            let Some(plane) = plane else { break };
            // The same memory has the same handle, which is closed once.
            let handle = handle_of(card, plane.fd)?;
            if !unique.contains(&handle) {
                unique[at] = handle;
            }
            (handles[at], pitches[at], offsets[at]) = (handle, plane.stride, plane.offset);
            modifiers[at] = dma.modifier;
        }
        // Drivers without modifiers take linear memory by not being told of one.
        let (flags, modifiers) = if dma.modifier == DmaBuf::LINEAR {
            (0, [0; 4])
        } else {
            (drm_ffi::DRM_MODE_FB_MODIFIERS, modifiers)
        };
        let made = drm_ffi::mode::add_fb2(
            card.as_fd(),
            size.width,
            size.height,
            dma.fourcc,
            &handles,
            &pitches,
            &offsets,
            &modifiers,
            flags,
        )?;
        Ok(made.fb_id)
    };
    let made = add().and_then(|number| {
        let framebuffer = drm::control::from_u32(number);
        framebuffer.ok_or_else(|| io::Error::other("a framebuffer without a number"))
    });
    match made {
        Ok(framebuffer) => Ok(Imported {
            inode,
            framebuffer,
            handles: unique,
        }),
        Err(error) => {
            close(card, unique);
            Err(error)
        }
    }
}

fn handle_of(card: &Card, fd: BorrowedFd<'_>) -> io::Result<u32> {
    let told = drm_ffi::gem::fd_to_handle(card.as_fd(), fd)?;
    Ok(told.handle)
}

fn close(card: &Card, handles: [u32; 4]) {
    for handle in handles.into_iter().filter(|handle| *handle != 0) {
        let _ = drm_ffi::gem::close(card.as_fd(), handle);
    }
}

/// Numbers of the properties that a change of the plane's picture sets, in the order of [`Change::values`].
#[derive(Clone, Copy, Debug)]
pub(super) struct PlaneIds {
    place: [u32; 9],
    /// `COLOR_ENCODING` and `COLOR_RANGE` with the values for each matrix and range; planes of RGB only have none.
    color: Option<ColorIds>,
}

#[derive(Clone, Copy, Debug)]
struct ColorIds {
    ids: [u32; 2],
    /// BT.601, BT.709, BT.2020.
    matrices: [Option<u64>; 3],
    /// Limited, full.
    ranges: [Option<u64>; 2],
}

impl PlaneIds {
    pub(super) fn of(plane: &Properties) -> io::Result<Self> {
        let mut place = [0; 9];
        let names = [
            "FB_ID", "SRC_X", "SRC_Y", "SRC_W", "SRC_H", "CRTC_X", "CRTC_Y", "CRTC_W", "CRTC_H",
        ];
        for (number, name) in place.iter_mut().zip(names) {
            *number = id(plane, name)?.into();
        }
        Ok(Self {
            place,
            color: ColorIds::of(plane),
        })
    }
}

impl ColorIds {
    fn of(plane: &Properties) -> Option<Self> {
        let (encoding, range) = (plane.get("COLOR_ENCODING")?, plane.get("COLOR_RANGE")?);
        // Names as in drm_color_mgmt.c.
        let matrices = [
            "ITU-R BT.601 YCbCr",
            "ITU-R BT.709 YCbCr",
            "ITU-R BT.2020 YCbCr",
        ];
        let ranges = ["YCbCr limited range", "YCbCr full range"];
        Some(Self {
            ids: [encoding.handle().into(), range.handle().into()],
            matrices: matrices.map(|name| choice(encoding, name)),
            ranges: ranges.map(|name| choice(range, name)),
        })
    }

    /// The values for these colours; `None` if the plane does not know them.
    fn values(&self, color: Colorimetry) -> Option<[u64; 2]> {
        let [bt601, bt709, bt2020] = self.matrices;
        let [limited, full] = self.ranges;
        let matrix = match color.matrix {
            Matrix::Bt601 => bt601,
            Matrix::Bt709 => bt709,
            Matrix::Bt2020 => bt2020,
        };
        let range = match color.range {
            Range::Limited => limited,
            Range::Full => full,
        };
        Some([matrix?, range?])
    }
}

fn choice(property: &property::Info, name: &str) -> Option<u64> {
    let property::ValueType::Enum(values) = property.value_type() else {
        return None;
    };
    let (_, choices) = values.values();
    let found = choices
        .iter()
        .find(|choice| choice.name().to_bytes() == name.as_bytes());
    found.map(property::EnumValue::value)
}

/// A plane's next picture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) framebuffer: framebuffer::Handle,
    /// Of the picture and of the screen, in pixels.
    pub(super) size: Size,
    pub(super) screen: Size,
    /// Of YCbCr pictures.
    pub(super) color: Option<Colorimetry>,
}

impl Change {
    /// As the kernel has them: coordinates in the picture are 16.16 fixed-point numbers.
    fn values(&self) -> [u64; 9] {
        let (x, y, shown) = fit(self.size, self.screen);
        let fixed = |pixels: u32| u64::from(pixels) << 16;
        [
            u32::from(self.framebuffer).into(),
            0,
            0,
            fixed(self.size.width),
            fixed(self.size.height),
            x.into(),
            y.into(),
            shown.width.into(),
            shown.height.into(),
        ]
    }
}

impl Display {
    /// Puts a picture on the plane, which has a mode already. Allocates nothing.
    pub(super) fn change(&self, change: &Change, flags: AtomicCommitFlags) -> io::Result<()> {
        let (mut ids, mut values) = ([0; 11], [0; 11]);
        ids[..9].copy_from_slice(&self.plane_ids.place);
        values[..9].copy_from_slice(&change.values());
        let mut count = 9;
        if let Some(color) = change.color {
            // Colours that are not said are the driver's guess, and wrong ones are worse than slow ones.
            let unknown = || io::Error::other("the plane is not told of these colours");
            let known = self.plane_ids.color.as_ref().ok_or_else(unknown)?;
            ids[9..].copy_from_slice(&known.ids);
            values[9..].copy_from_slice(&known.values(color).ok_or_else(unknown)?);
            count = 11;
        }
        drm_ffi::mode::atomic_commit(
            self.card.as_fd(),
            flags.bits(),
            &mut [self.plane.into()],
            &mut [u32::try_from(count).unwrap_or(0)],
            &mut ids[..count],
            &mut values[..count],
        )
    }

    /// Shows a frame where it lies, at the next vertical blank, after [`Display::prepare`] for its size; false where the hardware
    /// cannot, or devices cannot import its memory: then it has to be drawn. When this returns, of the frames before only the
    /// last one may still be on the screen.
    ///
    /// # Errors
    /// [`DisplayError`]: the monitor or the right to it has gone; prepare anew later.
    pub fn show_frame(&mut self, frame: &Frame) -> Result<bool, DisplayError> {
        let info = frame.info();
        let kind = Kind {
            size: info.size,
            format: info.format,
            color: info.color,
        };
        let tried = self.imports.tried.filter(|(tried, _)| *tried == kind);
        let Some(screen) = self.screen() else {
            return Ok(false);
        };
        if tried.is_some_and(|(_, taken)| !taken) {
            return Ok(false);
        }
        let Some(dma) = frame.dma_buf() else {
            return Ok(false);
        };
        self.finish_flip();
        if tried.is_none() {
            self.imports.forget_others(&self.card);
        }
        let made = self.imports.framebuffer(&self.card, &dma, info.size);
        let change = made.map(|framebuffer| Change {
            framebuffer,
            size: info.size,
            screen,
            color: info.format.is_ycbcr().then_some(info.color),
        });
        let change = match (change, tried) {
            (Ok(change), Some(_)) => change,
            (change, None) => {
                let tried = change.and_then(|change| {
                    self.change(&change, AtomicCommitFlags::TEST_ONLY)?;
                    Ok(change)
                });
                self.imports.tried = Some((kind, tried.is_ok()));
                match tried {
                    Ok(change) => {
                        tracing::info!(
                            device = self.device,
                            ?kind,
                            "shown from the decoder's memory"
                        );
                        change
                    }
                    Err(error) => {
                        tracing::info!(device = self.device, ?kind, %error, "decoded pictures are copied to the screen");
                        return Ok(false);
                    }
                }
            }
            (Err(error), Some(_)) => {
                return Err(failed(&self.device, "DRM_IOCTL_MODE_ADDFB2")(error));
            }
        };
        self.flip(&change)?;
        self.imports.shown = Some(change.framebuffer);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_placed_in_the_kernels_numbers() {
        let framebuffer = drm::control::from_u32(7).expect("a number");
        let change = Change {
            framebuffer,
            size: Size::new(640, 480),
            screen: Size::new(1920, 1080),
            color: None,
        };
        let values = [7, 0, 0, 640 << 16, 480 << 16, 240, 0, 1440, 1080];
        assert_eq!(change.values(), values);
    }

    #[test]
    fn a_plane_is_told_of_colours_that_it_knows_only() {
        let ids = ColorIds {
            ids: [1, 2],
            matrices: [Some(0), Some(1), None],
            ranges: [Some(0), Some(1)],
        };
        let of = |matrix, range| ids.values(Colorimetry { matrix, range });
        assert_eq!(of(Matrix::Bt709, Range::Limited), Some([1, 0]));
        assert_eq!(of(Matrix::Bt601, Range::Full), Some([0, 1]));
        assert_eq!(of(Matrix::Bt2020, Range::Full), None);
    }
}
