//! What a framebuffer is, and its memory as DMA-BUFs.

use std::num::NonZeroU32;
use std::os::fd::{AsFd, OwnedFd};

use drm::buffer::Handle as GemHandle;
use drm::control::Device as ControlDevice;
use nix::errno::Errno;
use soft_kvm_core::Size;
use soft_kvm_core::story::GpuMode;
use soft_kvm_video::compose::Blend;
use soft_kvm_video::frame::{DmaBuf, PixelFormat};

use super::card::Card;
use super::sys::{self, Fb1, Fb2};
use crate::broker;
use crate::capability;

/// `DRM_MODE_FB_MODIFIERS`: the modifiers of `GETFB2` count.
const FB_MODIFIERS: u32 = 2;
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
pub(crate) struct Layout {
    pub(crate) size: Size,
    pub(crate) fourcc: u32,
    pub(crate) format: PixelFormat,
    /// What its fourth byte means, unless the plane says otherwise.
    pub(crate) blend: Blend,
    pub(crate) pitches: [u32; 4],
    pub(crate) offsets: [u32; 4],
    /// Which of the exported buffers each plane is in.
    pub(crate) buffers: [usize; 4],
    /// The modifier of memory that only a GPU reads; `None` for memory that everything reads.
    pub(crate) gpu: Option<u64>,
    /// How many planes of memory there are: more than the format's where some of them say how others are compressed.
    pub(crate) planes: usize,
}

/// The layout and an own descriptor for each buffer, at most one for each plane.
pub(super) fn export(
    card: &Card,
    id: u32,
    gpu: GpuMode,
) -> Result<(Layout, [Option<OwnedFd>; 4]), FbError> {
    let (described, fds) = if broker::is_used() {
        broker::framebuffer(card.node(), id).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT) => FbError::Gone,
            Some(libc::EPERM) => FbError::Hidden,
            code => FbError::Failed("the broker", Errno::from_raw(code.unwrap_or(libc::EIO))),
        })?
    } else {
        fetch(card, id)?
    };
    let mut layout = layout(&described, gpu)?;
    let buffers = layout.buffers.iter_mut().zip(&described.handles);
    for (buffer, &handle) in buffers.take(layout.planes) {
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

/// What reads memory of a modifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    /// Everything: the CPU, encoders, converters.
    Anything,
    /// Only a GPU, or it is to be one.
    Gpu,
    /// What the story turns off.
    Nothing,
}

/// The choice of the route. A driver's own way that is not told is linear for what can be mapped.
const fn reader(modifier: u64, gpu: GpuMode) -> Reader {
    let linear = modifier == DmaBuf::LINEAR || modifier == DmaBuf::IMPLICIT;
    match (gpu, linear) {
        (GpuMode::Always, _) | (GpuMode::Auto, false) => Reader::Gpu,
        (GpuMode::Auto | GpuMode::Off, true) => Reader::Anything,
        (GpuMode::Off, false) => Reader::Nothing,
    }
}

fn layout(fb: &Fb2, gpu: GpuMode) -> Result<Layout, FbError> {
    // The other planes have the first one's, the kernel sees to that.
    let modifier = match fb.flags & FB_MODIFIERS {
        0 => DmaBuf::IMPLICIT,
        _ => fb.modifiers[0],
    };
    let gpu = match reader(modifier, gpu) {
        Reader::Anything => None,
        Reader::Gpu => Some(modifier),
        Reader::Nothing => return Err(refused(modifier, "the story has gpu: 'off'")),
    };
    let (format, blend) = match &fb.fourcc.to_le_bytes() {
        b"XR24" => (PixelFormat::Bgrx, Blend::Opaque),
        b"AR24" => (PixelFormat::Bgrx, Blend::Premultiplied),
        b"XB24" => (PixelFormat::Rgbx, Blend::Opaque),
        b"AB24" => (PixelFormat::Rgbx, Blend::Premultiplied),
        b"RG16" => (PixelFormat::Rgb565, Blend::Opaque),
        b"XR30" => (PixelFormat::Xrgb2101010, Blend::Opaque),
        b"NV12" => (PixelFormat::Nv12, Blend::Opaque),
        b"YU12" => (PixelFormat::I420, Blend::Opaque),
        // What it is when a GPU has read it.
        b"XB30" | b"XR48" | b"XB48" if gpu.is_some() => (PixelFormat::Bgrx, Blend::Opaque),
        b"AR30" | b"AB30" | b"AR48" | b"AB48" if gpu.is_some() => {
            (PixelFormat::Bgrx, Blend::Premultiplied)
        }
        _ => {
            return Err(FbError::Unsupported(format!(
                "the framebuffer's format {} cannot be read: set the screen to 24, 30 or 16 bits",
                name(fb.fourcc)
            )));
        }
    };
    let size = Size::new(fb.width, fb.height);
    for ((line, _), &pitch) in format.planes(size).zip(&fb.pitches) {
        // What a pitch is in tiled memory is the GPU's business.
        if size.pixels() == 0 || (gpu.is_none() && (pitch as usize) < line) {
            return Err(FbError::Unsupported(format!(
                "a framebuffer of {size} whose lines have {pitch} bytes"
            )));
        }
    }
    let planes = match gpu {
        None => format.planes(size).count(),
        Some(_) => fb.handles.iter().take_while(|handle| **handle != 0).count(),
    };
    Ok(Layout {
        size,
        fourcc: fb.fourcc,
        format,
        blend,
        pitches: fb.pitches,
        offsets: fb.offsets,
        buffers: [0; 4],
        gpu,
        planes,
    })
}

/// Why a modifier is refused. Its vendor is in the highest byte (`<drm/drm_fourcc.h>`).
pub(super) fn refused(modifier: u64, why: &str) -> FbError {
    if modifier == DmaBuf::LINEAR || modifier == DmaBuf::IMPLICIT {
        return FbError::Unsupported(format!(
            "the framebuffer did not go through the GPU, which the story has take all of them: {why}. With gpu: 'auto' it \
             is read as it is"
        ));
    }
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
    FbError::Unsupported(format!(
        "the framebuffer is tiled or compressed in a way of {vendor} (modifier {modifier:#018x}), and no GPU makes it \
         linear: {why}. Else let the compositor use linear buffers, capture the desktop with --source x11, or use a \
         text console"
    ))
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
            pitches: [256, 256, 256, 0],
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
            layout(&got, GpuMode::Auto).expect("readable");
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
            (b"YU12", PixelFormat::I420, Blend::Opaque),
        ] {
            let got = layout(&fb2(*code), GpuMode::Auto).expect("known");
            assert_eq!((got.format, got.blend), (format, blend));
        }
        let error = layout(&fb2(*b"C8  "), GpuMode::Auto).expect_err("a palette");
        assert!(matches!(error, FbError::Unsupported(text) if text.contains("C8")));
        let mut narrow = fb2(*b"XR24");
        narrow.pitches[0] = 255;
        assert!(layout(&narrow, GpuMode::Auto).is_err());
    }

    /// Modifiers of `<drm/drm_fourcc.h>`.
    const TILED: [(u64, &str); 5] = [
        (0x0100_0000_0000_0001, "Intel"), // I915_FORMAT_MOD_X_TILED
        (0x0100_0000_0000_0004, "Intel"), // I915_FORMAT_MOD_Y_TILED_CCS
        (0x0200_0000_0000_0901, "AMD"),
        (0x0300_0000_0000_0014, "NVIDIA"),
        (0x0800_0000_0000_0011, "ARM"),
    ];

    #[test]
    fn the_route_of_each_modifier() {
        use GpuMode::{Always, Auto, Off};
        for modifier in [DmaBuf::LINEAR, DmaBuf::IMPLICIT] {
            assert_eq!(reader(modifier, Auto), Reader::Anything);
            assert_eq!(reader(modifier, Off), Reader::Anything);
            assert_eq!(reader(modifier, Always), Reader::Gpu);
        }
        for (modifier, _) in TILED {
            assert_eq!(reader(modifier, Auto), Reader::Gpu);
            assert_eq!(reader(modifier, Always), Reader::Gpu);
            assert_eq!(reader(modifier, Off), Reader::Nothing);
        }
    }

    #[test]
    fn tiled_framebuffers_are_the_gpus() {
        let mut fb = fb2(*b"XR24");
        // Compressed: what says how is in planes of its own.
        fb.handles = [1, 1, 2, 0];
        for (modifier, vendor) in TILED {
            fb.modifiers[0] = modifier;
            fb.flags = 0;
            let got = layout(&fb, GpuMode::Auto).expect("without the flag it does not count");
            assert_eq!((got.gpu, got.planes), (None, 1));
            fb.flags = FB_MODIFIERS;
            let got = layout(&fb, GpuMode::Auto).expect("a GPU may read it");
            assert_eq!((got.gpu, got.planes), (Some(modifier), 3));
            let Err(FbError::Unsupported(text)) = layout(&fb, GpuMode::Off) else {
                panic!("nothing else reads it");
            };
            assert!(text.contains(vendor), "{text}");
            assert!(text.contains(&format!("{modifier:#018x}")), "{text}");
            assert!(text.contains("gpu: 'off'") && text.contains("--source x11"));
        }
        for modifier in [DmaBuf::LINEAR, DmaBuf::IMPLICIT] {
            fb.modifiers[0] = modifier;
            let got = layout(&fb, GpuMode::Auto).expect("linear");
            assert_eq!((got.gpu, got.planes), (None, 1));
            let got = layout(&fb, GpuMode::Always).expect("linear");
            assert_eq!(got.gpu, Some(modifier));
            let FbError::Unsupported(text) = refused(modifier, "it knows no RG16") else {
                panic!("in words");
            };
            assert!(text.contains("it knows no RG16") && text.contains("gpu: 'auto'"));
        }
    }

    #[test]
    fn formats_that_only_a_gpu_reads() {
        let mut fb = fb2(*b"AB48");
        layout(&fb, GpuMode::Auto).expect_err("the CPU does not read it");
        fb.pitches[0] = 8;
        let got = layout(&fb, GpuMode::Always).expect("a GPU does");
        let (format, blend) = (PixelFormat::Bgrx, Blend::Premultiplied);
        assert_eq!((got.format, got.blend), (format, blend));
    }
}
