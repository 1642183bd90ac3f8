//! Which V4L2 formats a picture's memory is in, and whether a device reads it there as it lies.

use soft_kvm_core::{FourCc, Size};
use soft_kvm_video::frame::{DmaBuf, PixelFormat};

use super::ioctl::{Fill, Format};

/// The V4L2 formats with a layout: with all planes in one memory first, then with a memory for each.
const FORMATS: [(PixelFormat, &[FourCc]); 9] = [
    (
        PixelFormat::Nv12,
        &[FourCc::new(b"NV12"), FourCc::new(b"NM12")],
    ),
    (
        PixelFormat::I420,
        &[FourCc::new(b"YU12"), FourCc::new(b"YM12")],
    ),
    (PixelFormat::Yuyv, &[FourCc::new(b"YUYV")]),
    (PixelFormat::Uyvy, &[FourCc::new(b"UYVY")]),
    (PixelFormat::Rgb24, &[FourCc::new(b"RGB3")]),
    (PixelFormat::Bgr24, &[FourCc::new(b"BGR3")]),
    (
        PixelFormat::Bgrx,
        &[FourCc::new(b"XR24"), FourCc::new(b"BGR4")],
    ),
    (PixelFormat::Rgbx, &[FourCc::new(b"XB24")]),
    (PixelFormat::Rgb565, &[FourCc::new(b"RGBP")]),
];

/// See [`FORMATS`].
pub(super) fn fourccs(format: PixelFormat) -> &'static [FourCc] {
    FORMATS
        .iter()
        .find_map(|(pixels, codes)| (*pixels == format).then_some(*codes))
        .unwrap_or_default()
}

/// The layout of a V4L2 format; `None` for one that is not used.
pub(super) fn pixels(format: FourCc) -> Option<PixelFormat> {
    FORMATS
        .iter()
        .find_map(|(pixels, codes)| codes.contains(&format).then_some(*pixels))
}

/// Whether a format's samples are R, G and B.
pub(super) fn is_rgb(format: FourCc) -> bool {
    pixels(format).is_some_and(|pixels| !pixels.is_ycbcr())
}

/// A plane of a picture in a V4L2 buffer: the memory that it is in, where it begins there, bytes from line to line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) memory: usize,
    pub(super) offset: u32,
    pub(super) stride: u32,
}

/// How an encoder wants pictures of NV12 in one memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nv12Layout {
    /// Bytes from one line to the next, of luma and of chroma.
    pub stride: u32,
    /// Lines of luma before chroma begins; no fewer than the picture has.
    pub lines: u32,
    /// Bytes of the whole memory.
    pub bytes: u32,
}

impl Nv12Layout {
    /// Of a device that is set to `set`.
    ///
    /// # Errors
    /// It is another format, or has a memory for each plane; in words.
    pub(super) fn of(set: &Format) -> Result<Self, String> {
        if set.planes != 1 || pixels(set.format) != Some(PixelFormat::Nv12) {
            let (format, planes) = (set.format, set.planes);
            return Err(format!(
                "the device takes {format} in {planes} memories, not NV12 in one"
            ));
        }
        Ok(Self {
            stride: set.strides[0],
            lines: set.size.height,
            bytes: set.images[0],
        })
    }
}

/// Where a format's planes lie in buffers of `set` (kernel doc "Planar YUV formats": in one memory, chroma follows
/// the last line of luma, with lines as long as luma's for `NV12` and half as long for `YU12`).
pub(super) fn places(set: &Format) -> Option<([Place; 3], usize)> {
    let format = pixels(set.format)?;
    let rows = set.size.height;
    let mut places = [Place::default(); 3];
    let mut count = 0;
    let mut end = 0_u32;
    for (plane, (place, (_, lines))) in places.iter_mut().zip(format.planes(set.size)).enumerate() {
        let half = format == PixelFormat::I420 && plane > 0;
        *place = if set.planes > 1 {
            Place {
                memory: plane,
                offset: 0,
                stride: *set.strides.get(plane)?,
            }
        } else {
            let stride = set.strides[0].checked_div(if half { 2 } else { 1 })?;
            Place {
                memory: 0,
                offset: end,
                stride,
            }
        };
        end = end.checked_add(place.stride.checked_mul(u32::try_from(lines).ok()?)?)?;
        count += 1;
    }
    (rows > 0 && (set.planes == 1 || set.planes == count)).then_some((places, count))
}

/// Whether a device set to `set` reads the picture as it lies.
///
/// # Errors
/// What differs, in words.
pub(super) fn check(dma: &DmaBuf<'_>, set: &Format, size: Size) -> Result<(), String> {
    if dma.modifier != DmaBuf::LINEAR {
        return Err(format!(
            "the picture is tiled or compressed in memory (modifier {:#x})",
            dma.modifier
        ));
    }
    if set.size.width < size.width || set.size.height < size.height {
        return Err(format!("the device takes at most {}", set.size));
    }
    let (places, count) =
        places(set).ok_or_else(|| format!("the device set {} instead", set.format))?;
    for (index, place) in places.iter().take(count).enumerate() {
        let plane = dma.planes.get(index).copied().flatten();
        let plane = plane.ok_or_else(|| format!("the picture has no plane {index}"))?;
        if plane.stride != place.stride {
            return Err(format!(
                "lines of plane {index} are {} bytes apart, the device wants {}",
                plane.stride, place.stride
            ));
        }
        if plane.offset != place.offset {
            return Err(format!(
                "plane {index} begins at byte {}, the device wants it at {} (pictures of {})",
                plane.offset, place.offset, set.size
            ));
        }
        let needed = set.images.get(place.memory).copied().unwrap_or(u32::MAX);
        if plane.length < needed {
            return Err(format!(
                "the buffer has {} bytes, the device wants {needed} (pictures of {})",
                plane.length, set.size
            ));
        }
        if place.memory == 0 && index > 0 && !same_memory(dma, index) {
            return Err("the planes are in buffers of their own".to_owned());
        }
    }
    Ok(())
}

fn same_memory(dma: &DmaBuf<'_>, index: usize) -> bool {
    use std::os::fd::AsRawFd as _;
    let number = |plane: usize| {
        let plane = dma.planes.get(plane).copied().flatten()?;
        Some(plane.fd.as_raw_fd())
    };
    number(0) == number(index)
}

/// The memories to queue for a picture that [`check`] has passed, and how many.
pub(super) fn fill<'a>(dma: &DmaBuf<'a>, set: &Format) -> Option<([Fill<'a>; 3], usize)> {
    let mut fill = [Fill::Used(0); 3];
    for (index, fill) in fill.iter_mut().take(set.planes).enumerate() {
        let plane = dma.planes.get(index).copied().flatten()?;
        let image = *set.images.get(index)?;
        *fill = Fill::DmaBuf(plane.fd, image, plane.length);
    }
    Some((fill, set.planes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    use soft_kvm_video::frame::{Colorimetry, DmaPlane};

    fn set(format: &[u8; 4], size: Size, strides: &[u32], images: &[u32]) -> Format {
        let mut set = Format {
            format: FourCc::new(format),
            size,
            strides: [0; 8],
            images: [0; 8],
            planes: strides.len(),
            color: Colorimetry::default(),
        };
        set.strides[..strides.len()].copy_from_slice(strides);
        set.images[..images.len()].copy_from_slice(images);
        set
    }

    #[test]
    fn planes_follow_each_other_in_one_memory() {
        let size = Size::new(640, 480);
        let nv12 = places(&set(b"NV12", size, &[640], &[460_800])).expect("NV12 has a layout");
        let place = |memory, offset, stride| Place {
            memory,
            offset,
            stride,
        };
        assert_eq!(nv12.0[..nv12.1], [place(0, 0, 640), place(0, 307_200, 640)]);
        let yu12 = places(&set(b"YU12", size, &[672], &[500_000])).expect("YU12 has a layout");
        let chroma = 672 * 480;
        assert_eq!(
            yu12.0[..yu12.1],
            [
                place(0, 0, 672),
                place(0, chroma, 336),
                place(0, chroma + 336 * 240, 336)
            ]
        );
        let nm12 = places(&set(b"NM12", size, &[640, 640], &[307_200, 153_600]));
        let nm12 = nm12.expect("NM12 has a layout");
        assert_eq!(nm12.0[..nm12.1], [place(0, 0, 640), place(1, 0, 640)]);
        assert!(places(&set(b"H264", size, &[0], &[1])).is_none());
        assert!(places(&set(b"NM12", size, &[1, 1, 1], &[1])).is_none());
    }

    #[test]
    fn nv12_in_one_memory() {
        let size = Size::new(1920, 1088);
        let one = set(b"NV12", size, &[2048], &[3_342_336]);
        let layout = Nv12Layout {
            stride: 2048,
            lines: 1088,
            bytes: 3_342_336,
        };
        assert_eq!(Nv12Layout::of(&one), Ok(layout));
        let two = set(b"NM12", size, &[1920, 1920], &[1, 1]);
        let why = Nv12Layout::of(&two).expect_err("it is in two");
        assert!(why.contains("NM12 in 2 memories"), "{why}");
        Nv12Layout::of(&set(b"YUYV", size, &[3840], &[1])).expect_err("it is another format");
    }

    #[test]
    fn what_differs_is_told() {
        let file = std::fs::File::open("/dev/null").expect("/dev/null is there");
        let size = Size::new(1920, 1080);
        let plane = |offset, stride, length| {
            Some(DmaPlane {
                fd: file.as_fd(),
                offset,
                stride,
                length,
            })
        };
        let mut dma = DmaBuf {
            fourcc: FourCc::new(b"NV12").0,
            modifier: DmaBuf::LINEAR,
            planes: [
                plane(0, 1920, 3_110_400),
                plane(2_073_600, 1920, 3_110_400),
                None,
                None,
            ],
        };
        let same = set(b"NV12", size, &[1920], &[3_110_400]);
        assert_eq!(check(&dma, &same, size), Ok(()));
        // A codec of whole macroblocks expects chroma eight lines further down.
        let blocks = set(b"NV12", Size::new(1920, 1088), &[1920], &[3_133_440]);
        for (set, word) in [
            (blocks, "3133440"),
            (set(b"NV12", size, &[2048], &[3_317_760]), "2048"),
            (
                set(b"NV12", Size::new(1280, 720), &[1280], &[1]),
                "at most 1280x720",
            ),
            (set(b"YUYV", size, &[3840], &[1]), "3840"),
        ] {
            let why = check(&dma, &set, size).expect_err("it differs");
            assert!(why.contains(word), "{why}");
        }
        dma.modifier = 1;
        assert!(check(&dma, &same, size).is_err_and(|why| why.contains("tiled")));
    }
}
