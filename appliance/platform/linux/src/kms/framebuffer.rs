//! What a framebuffer is, and its memory as DMA-BUFs.

use std::num::NonZeroU32;
use std::os::fd::{AsFd, OwnedFd};

use drm::buffer::Handle as GemHandle;
use drm::control::Device as ControlDevice;
use nix::errno::Errno;
use soft_kvm_core::Size;
use soft_kvm_video::compose::Blend;
use soft_kvm_video::frame::{DmaBuf, PixelFormat};

use super::card::Card;
use super::sys::{self, Fb1, Fb2};
use crate::broker;
use crate::capability;

/// `DRM_MODE_FB_MODIFIERS`: the modifiers of `GETFB2` count.
const FB_MODIFIERS: u32 = 2;
/// `DRM_FORMAT_MOD_INVALID`: the driver's own way, which for what can be mapped is linear.
const MODIFIER_INVALID: u64 = 0x00ff_ffff_ffff_ffff;
/// `DRM_CLOEXEC`; reading needs no `DRM_RDWR`.
const CLOEXEC: u32 = 0o2_000_000;

/// Why a framebuffer's memory was not got.
#[derive(Debug)]
pub(super) enum FbError {
    /// It was removed meanwhile.
    Gone,
    /// The kernel hides the memory: no `CAP_SYS_ADMIN`.
    Hidden,
    /// It is of a kind that cannot be read, in words.
    Unsupported(String),
    /// The kernel said no to the named call.
    Failed(&'static str, Errno),
}

/// A framebuffer's description without its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) size: Size,
    pub(super) fourcc: u32,
    pub(super) format: PixelFormat,
    /// What its fourth byte means, unless the plane says otherwise.
    pub(super) blend: Blend,
    pub(super) pitches: [u32; 4],
    pub(super) offsets: [u32; 4],
    /// Which of the exported buffers each plane is in.
    pub(super) buffers: [usize; 4],
}

/// The layout and an own descriptor for each buffer, at most one for each plane.
pub(super) fn export(card: &Card, id: u32) -> Result<(Layout, [Option<OwnedFd>; 4]), FbError> {
    let (described, fds) = if broker::is_used() {
        broker::framebuffer(card.node(), id).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT) => FbError::Gone,
            Some(libc::EPERM) => FbError::Hidden,
            code => FbError::Failed("the broker", Errno::from_raw(code.unwrap_or(libc::EIO))),
        })?
    } else {
        fetch(card, id)?
    };
    let mut layout = layout(&described)?;
    let planes = layout.format.planes(layout.size).count();
    for (buffer, &handle) in layout
        .buffers
        .iter_mut()
        .zip(&described.handles)
        .take(planes)
    {
        *buffer = (handle as usize).checked_sub(1).ok_or(FbError::Hidden)?;
        if fds.get(*buffer).is_none_or(Option::is_none) {
            return Err(FbError::Hidden);
        }
    }
    Ok((layout, fds))
}

/// What the kernel tells, and a descriptor to read each buffer by; the handles become the descriptors' places, from 1 on.
fn fetch(card: &Card, id: u32) -> Result<(Fb2, [Option<OwnedFd>; 4]), FbError> {
    // The handles that these calls make are shown only to whom the capability allows it, or to the card's master.
    let described = {
        let _raised = capability::Raised::new();
        describe(sys::get_fb2(card.as_fd(), id), || {
            sys::get_fb(card.as_fd(), id)
        })
    };
    let mut described = described?;
    let handles = Handles(card, described.handles);
    let mut fds = [None, None, None, None];
    for (plane, place) in described.handles.iter_mut().enumerate() {
        let Some(handle) = NonZeroU32::new(*place) else {
            continue;
        };
        let first = handles.1.iter().position(|&h| h == handle.get());
        let first = first.unwrap_or(plane);
        if let Some(fd @ None) = fds.get_mut(first) {
            let exported = card.buffer_to_prime_fd(GemHandle::from(handle), CLOEXEC);
            *fd = Some(exported.map_err(|error| {
                let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
                FbError::Failed("DRM_IOCTL_PRIME_HANDLE_TO_FD", errno)
            })?);
        }
        *place = u32::try_from(first + 1).unwrap_or(0);
    }
    // The descriptors keep the memory; the handles, which are ours alone, go in any case.
    drop(handles);
    Ok((described, fds))
}

/// What the broker hands over for a framebuffer: its description and its memory, to read only.
///
/// # Errors
/// The kernel's error number.
pub(crate) fn take_framebuffer(card: &Card, id: u32) -> Result<(Fb2, Vec<OwnedFd>), i32> {
    let (mut described, mut fds) = fetch(card, id).map_err(|error| match error {
        FbError::Gone => libc::ENOENT,
        FbError::Hidden => libc::EPERM,
        FbError::Unsupported(_) => libc::EOPNOTSUPP,
        FbError::Failed(_, errno) => errno as i32,
    })?;
    // The empty places go, for none of them crosses the socket.
    let mut taken = Vec::new();
    let mut places = [0; 4];
    for (fd, place) in fds.iter_mut().zip(&mut places) {
        if let Some(fd) = fd.take() {
            taken.push(fd);
            *place = u32::try_from(taken.len()).unwrap_or(0);
        }
    }
    for handle in &mut described.handles {
        let at = (*handle as usize).checked_sub(1);
        *handle = at.and_then(|at| places.get(at)).copied().unwrap_or(0);
    }
    Ok((described, taken))
}

/// GEM handles that are closed, each once.
struct Handles<'a>(&'a Card, [u32; 4]);

impl Drop for Handles<'_> {
    fn drop(&mut self) {
        for (index, &handle) in self.1.iter().enumerate() {
            let seen = self.1.iter().take(index).any(|&other| other == handle);
            if let Some(handle) = NonZeroU32::new(handle).filter(|_| !seen) {
                let _ = self.0.close_buffer(GemHandle::from(handle));
            }
        }
    }
}

/// What the kernel tells, by the newer call or else by the older one.
fn describe(
    newer: Result<Fb2, Errno>,
    older: impl FnOnce() -> Result<Fb1, Errno>,
) -> Result<Fb2, FbError> {
    match newer {
        Ok(fb) => Ok(fb),
        Err(Errno::ENOENT) => Err(FbError::Gone),
        Err(error @ (Errno::ENODEV | Errno::ENXIO | Errno::EACCES | Errno::EPERM)) => {
            Err(FbError::Failed("DRM_IOCTL_MODE_GETFB2", error))
        }
        // A kernel before 5.7, or a driver that makes no handles for what it shows.
        Err(_) => match older() {
            Ok(fb) => Ok(Fb2 {
                id: fb.id,
                width: fb.width,
                height: fb.height,
                fourcc: legacy_fourcc(fb.bpp, fb.depth)
                    .ok_or_else(|| legacy_words(fb.bpp, fb.depth))?,
                handles: [fb.handle, 0, 0, 0],
                pitches: [fb.pitch, 0, 0, 0],
                ..Fb2::default()
            }),
            Err(Errno::ENOENT) => Err(FbError::Gone),
            Err(error) => Err(FbError::Failed("DRM_IOCTL_MODE_GETFB", error)),
        },
    }
}

/// As `drm_mode_legacy_fb_format` of the kernel.
const fn legacy_fourcc(bpp: u32, depth: u32) -> Option<u32> {
    Some(match (bpp, depth) {
        (16, 16) => fourcc(*b"RG16"),
        (32, 24) => fourcc(*b"XR24"),
        (32, 30) => fourcc(*b"XR30"),
        (32, 32) => fourcc(*b"AR24"),
        _ => return None,
    })
}

fn legacy_words(bpp: u32, depth: u32) -> FbError {
    FbError::Unsupported(format!(
        "the framebuffer has {depth} bits of colour in {bpp}: set the screen to 24 or 16 bits"
    ))
}

const fn fourcc(code: [u8; 4]) -> u32 {
    u32::from_le_bytes(code)
}

/// A fourcc as people write it.
pub(super) fn name(fourcc: u32) -> String {
    let bytes = fourcc.to_le_bytes();
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

fn layout(fb: &Fb2) -> Result<Layout, FbError> {
    // The other planes have the first one's, the kernel sees to that.
    let modifier = fb.modifiers[0];
    if fb.flags & FB_MODIFIERS != 0 && modifier != DmaBuf::LINEAR && modifier != MODIFIER_INVALID {
        return Err(FbError::Unsupported(tiled(modifier)));
    }
    let (format, blend) = match &fb.fourcc.to_le_bytes() {
        b"XR24" => (PixelFormat::Bgrx, Blend::Opaque),
        b"AR24" => (PixelFormat::Bgrx, Blend::Premultiplied),
        b"XB24" => (PixelFormat::Rgbx, Blend::Opaque),
        b"AB24" => (PixelFormat::Rgbx, Blend::Premultiplied),
        b"RG16" => (PixelFormat::Rgb565, Blend::Opaque),
        b"XR30" => (PixelFormat::Xrgb2101010, Blend::Opaque),
        b"NV12" => (PixelFormat::Nv12, Blend::Opaque),
        _ => {
            return Err(FbError::Unsupported(format!(
                "the framebuffer's format {} cannot be read: set the screen to 24, 30 or 16 bits",
                name(fb.fourcc)
            )));
        }
    };
    let size = Size::new(fb.width, fb.height);
    for ((line, _), &pitch) in format.planes(size).zip(&fb.pitches) {
        if size.pixels() == 0 || (pitch as usize) < line {
            return Err(FbError::Unsupported(format!(
                "a framebuffer of {size} whose lines have {pitch} bytes"
            )));
        }
    }
    Ok(Layout {
        size,
        fourcc: fb.fourcc,
        format,
        blend,
        pitches: fb.pitches,
        offsets: fb.offsets,
        buffers: [0; 4],
    })
}

/// Why a modifier is refused. Its vendor is in the highest byte (`<drm/drm_fourcc.h>`).
fn tiled(modifier: u64) -> String {
    let vendor = match modifier >> 56 {
        1 => "Intel",
        2 => "AMD",
        3 => "NVIDIA",
        4 => "Samsung",
        5 => "Qualcomm",
        6 => "Vivante",
        7 => "Broadcom",
        8 => "ARM",
        9 => "Allwinner",
        10 => "Amlogic",
        _ => "an unknown vendor",
    };
    format!(
        "the framebuffer is tiled or compressed in a way of {vendor} (modifier {modifier:#018x}), and this build \
         has no GPU path (GBM/EGL) that makes it linear: let the compositor use linear buffers, capture the \
         desktop with --source x11, or use a text console"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fb2(code: [u8; 4]) -> Fb2 {
        Fb2 {
            width: 64,
            height: 48,
            fourcc: fourcc(code),
            handles: [1, 0, 0, 0],
            pitches: [256, 256, 0, 0],
            ..Fb2::default()
        }
    }

    #[test]
    fn kernels_without_the_newer_call_are_asked_by_the_older() {
        let old = |bpp, depth| Fb1 {
            width: 64,
            height: 48,
            pitch: 256,
            bpp,
            depth,
            handle: 9,
            id: 3,
        };
        for (bpp, depth, code) in [
            (32, 24, b"XR24"),
            (32, 32, b"AR24"),
            (32, 30, b"XR30"),
            (16, 16, b"RG16"),
        ] {
            let got = describe(Err(Errno::EINVAL), || Ok(old(bpp, depth))).expect("known");
            assert_eq!(
                (got.fourcc, got.handles, got.pitches[0]),
                (fourcc(*code), [9, 0, 0, 0], 256)
            );
            layout(&got).expect("readable");
        }
        let got = describe(Err(Errno::ENOTTY), || Ok(old(8, 8)));
        assert!(matches!(got, Err(FbError::Unsupported(text)) if text.contains("8 bits")));
        let got = describe(Err(Errno::EINVAL), || Err(Errno::ENOENT));
        assert!(matches!(got, Err(FbError::Gone)));
        let got = describe(Err(Errno::ENOENT), || panic!("the framebuffer is gone"));
        assert!(matches!(got, Err(FbError::Gone)));
        let got = describe(Err(Errno::ENODEV), || panic!("the card is gone"));
        assert!(matches!(got, Err(FbError::Failed(_, Errno::ENODEV))));
    }

    #[test]
    fn formats_of_screens_are_known() {
        for (code, format, blend) in [
            (b"XR24", PixelFormat::Bgrx, Blend::Opaque),
            (b"AR24", PixelFormat::Bgrx, Blend::Premultiplied),
            (b"XB24", PixelFormat::Rgbx, Blend::Opaque),
            (b"AB24", PixelFormat::Rgbx, Blend::Premultiplied),
            (b"RG16", PixelFormat::Rgb565, Blend::Opaque),
            (b"XR30", PixelFormat::Xrgb2101010, Blend::Opaque),
            (b"NV12", PixelFormat::Nv12, Blend::Opaque),
        ] {
            let got = layout(&fb2(*code)).expect("known");
            assert_eq!((got.format, got.blend), (format, blend));
        }
        let error = layout(&fb2(*b"C8  ")).expect_err("a palette");
        assert!(matches!(error, FbError::Unsupported(text) if text.contains("C8")));
        let mut narrow = fb2(*b"XR24");
        narrow.pitches[0] = 255;
        assert!(layout(&narrow).is_err());
    }

    #[test]
    fn tiled_framebuffers_are_refused_with_what_to_do() {
        let mut fb = fb2(*b"XR24");
        fb.modifiers[0] = 0x0100_0000_0000_0002;
        layout(&fb).expect("without the flag it does not count");
        fb.flags = FB_MODIFIERS;
        let Err(FbError::Unsupported(text)) = layout(&fb) else {
            panic!("Y tiling cannot be read");
        };
        assert!(text.contains("Intel") && text.contains("0x0100000000000002"));
        assert!(text.contains("--source x11"), "{text}");
        for modifier in [DmaBuf::LINEAR, MODIFIER_INVALID] {
            fb.modifiers[0] = modifier;
            layout(&fb).expect("linear");
        }
    }
}
