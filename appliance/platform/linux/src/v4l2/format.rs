//! Which formats are taken, and which is chosen.

use std::os::fd::AsFd;

use drm::buffer::DrmFourcc;
use nix::errno::Errno;
use soft_kvm_core::{FourCc, FrameRate, Size};
use soft_kvm_video::frame::PixelFormat;

use super::ioctl::{self, Api, SetFormat, Sizes};

/// How the bytes of a buffer become a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// As they are.
    Raw(PixelFormat),
    /// By a JPEG decoder.
    Jpeg,
}

/// The formats that are taken, the cheapest to encode first.
const FORMATS: [(FourCc, Layout); 13] = [
    (FourCc::new(b"NV12"), Layout::Raw(PixelFormat::Nv12)),
    (FourCc::new(b"NM12"), Layout::Raw(PixelFormat::Nv12)),
    (FourCc::new(b"YU12"), Layout::Raw(PixelFormat::I420)),
    (FourCc::new(b"YM12"), Layout::Raw(PixelFormat::I420)),
    (FourCc::new(b"YUYV"), Layout::Raw(PixelFormat::Yuyv)),
    (FourCc::new(b"UYVY"), Layout::Raw(PixelFormat::Uyvy)),
    (FourCc::new(b"XR24"), Layout::Raw(PixelFormat::Bgrx)),
    (FourCc::new(b"AR24"), Layout::Raw(PixelFormat::Bgrx)),
    (FourCc::new(b"BGR4"), Layout::Raw(PixelFormat::Bgrx)),
    (FourCc::new(b"BGR3"), Layout::Raw(PixelFormat::Bgr24)),
    (FourCc::new(b"RGB3"), Layout::Raw(PixelFormat::Rgb24)),
    (FourCc::new(b"MJPG"), Layout::Jpeg),
    (FourCc::new(b"JPEG"), Layout::Jpeg),
];

/// What a format is; `None` for one that is not taken.
pub(super) fn layout(format: FourCc) -> Option<Layout> {
    FORMATS
        .iter()
        .find_map(|(code, layout)| (*code == format).then_some(*layout))
}

/// The DRM format (`<drm/drm_fourcc.h>`) with the same bytes in memory; DRM names RGB from the highest bit of a
/// little-endian number, V4L2 from the first byte.
pub(super) fn drm_fourcc(format: PixelFormat) -> Option<u32> {
    let fourcc = match format {
        PixelFormat::Nv12 => DrmFourcc::Nv12,
        PixelFormat::I420 => DrmFourcc::Yuv420,
        PixelFormat::Yuyv => DrmFourcc::Yuyv,
        PixelFormat::Uyvy => DrmFourcc::Uyvy,
        PixelFormat::Rgb24 => DrmFourcc::Bgr888,
        PixelFormat::Bgr24 => DrmFourcc::Rgb888,
        PixelFormat::Bgrx => DrmFourcc::Xrgb8888,
        PixelFormat::Rgbx => DrmFourcc::Xbgr8888,
        PixelFormat::Rgb565 => DrmFourcc::Rgb565,
        _ => return None,
    };
    Some(fourcc as u32)
}

/// One way to run the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) format: FourCc,
    pub(super) size: Size,
    /// The highest rate; `None` where the device lists none.
    pub(super) rate: Option<FrameRate>,
}

/// All that the device offers in formats that are taken. Where it lists no sizes, `fallback` stands.
pub(super) fn offers(
    fd: &impl AsFd,
    api: Api,
    wanted: Size,
    fallback: Size,
) -> Result<Vec<Offer>, Errno> {
    let mut offers = Vec::new();
    // Drivers end the lists; the limits are for those that do not.
    for index in 0..256 {
        let Some(format) = ioctl::enum_format(fd, api, index)? else {
            break;
        };
        if layout(format).is_none() {
            continue;
        }
        let mut sizes = Vec::new();
        for index in 0..256 {
            match ioctl::enum_size(fd, format, index)? {
                Some(Sizes::One(size)) => sizes.push(size),
                Some(Sizes::Range(least, most, step)) => {
                    sizes.push(fit(wanted, least, most, step));
                    break;
                }
                None => break,
            }
        }
        if sizes.is_empty() {
            sizes.push(fallback);
        }
        for size in sizes {
            let mut rate = None;
            for index in 0..256 {
                match ioctl::enum_rate(fd, format, size, index)? {
                    Some(found) => rate = rate.max(Some(found)),
                    None => break,
                }
            }
            offers.push(Offer { format, size, rate });
        }
    }
    Ok(offers)
}

/// The best offer: the size nearest to `size`, then the rate up to `rate`, then the cheapest format.
pub(super) fn choose(
    offers: &[Offer],
    size: Size,
    rate: FrameRate,
    only: Option<FourCc>,
) -> Option<Offer> {
    let cost = |offer: &Offer| FORMATS.iter().position(|(code, _)| *code == offer.format);
    let key = |offer: &Offer| {
        let width = u64::from(offer.size.width.abs_diff(size.width));
        let height = u64::from(offer.size.height.abs_diff(size.height));
        let shortfall = offer
            .rate
            .map_or(0, |offered| rate.as_hz().saturating_sub(offered.as_hz()));
        (width + height, shortfall, cost(offer))
    };
    offers
        .iter()
        .filter(|offer| offer.size.is_supported())
        .filter(|offer| only.is_none_or(|format| format == offer.format))
        .min_by_key(|offer| key(offer))
        .copied()
}

fn fit(wanted: Size, least: Size, most: Size, step: Size) -> Size {
    let one = |wanted: u32, least: u32, most: u32, step: u32| {
        let inside = wanted.clamp(least, most.max(least));
        inside - (inside - least) % step.max(1)
    };
    Size::new(
        one(wanted.width, least.width, most.width, step.width),
        one(wanted.height, least.height, most.height, step.height),
    )
}

/// Where a picture's plane lies: plane in memory, byte offset in it, stride, bytes that it has to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PlanePlace {
    pub(super) memory: usize,
    pub(super) offset: usize,
    pub(super) stride: usize,
    pub(super) len: usize,
}

/// The places of a raw picture's planes; `None` when the driver's strides are too short for its size.
pub(super) fn places(set: &SetFormat, format: PixelFormat) -> Option<Vec<PlanePlace>> {
    let (width, height) = (set.size.width as usize, set.size.height as usize);
    let chroma = (width.div_ceil(2), height.div_ceil(2));
    // Bytes of a line and lines, of each plane; chroma strides relative to luma's in contiguous formats.
    let shapes: Vec<(usize, usize, usize)> = match format {
        PixelFormat::Nv12 => vec![(width, height, 1), (chroma.0 * 2, chroma.1, 1)],
        PixelFormat::I420 => vec![
            (width, height, 1),
            (chroma.0, chroma.1, 2),
            (chroma.0, chroma.1, 2),
        ],
        PixelFormat::Yuyv | PixelFormat::Uyvy => vec![(chroma.0 * 4, height, 1)],
        PixelFormat::Rgb24 | PixelFormat::Bgr24 => vec![(width * 3, height, 1)],
        _ => vec![(width * 4, height, 1)],
    };
    let separate = set.planes == shapes.len() && set.planes > 1;
    let luma = set.strides[0] as usize;
    let mut offset = 0;
    let mut places = Vec::new();
    for (plane, (line, lines, divisor)) in shapes.into_iter().enumerate() {
        let stride = if separate {
            *set.strides.get(plane)? as usize
        } else {
            luma / divisor
        };
        if stride < line || lines == 0 {
            return None;
        }
        places.push(PlanePlace {
            memory: if separate { plane } else { 0 },
            offset: if separate { 0 } else { offset },
            stride,
            len: stride * (lines - 1) + line,
        });
        offset += stride * lines;
    }
    Some(places)
}

#[cfg(test)]
mod tests {
    use soft_kvm_video::frame::Colorimetry;

    use super::*;

    const HD: Size = Size::new(1920, 1080);

    fn offer(format: &[u8; 4], size: Size, hz: u32) -> Offer {
        Offer {
            format: FourCc::new(format),
            size,
            rate: Some(FrameRate::hz(hz)),
        }
    }

    #[test]
    fn a_slow_raw_format_loses_against_jpeg_at_the_wanted_rate() {
        // What an MS2109 on USB 2 offers.
        let small = Size::new(640, 480);
        let dongle = [
            offer(b"MJPG", HD, 30),
            offer(b"YUYV", HD, 5),
            offer(b"YUYV", small, 30),
        ];
        let rate = FrameRate::hz(30);
        assert_eq!(choose(&dongle, HD, rate, None), Some(dongle[0]));
        assert_eq!(choose(&dongle, small, rate, None), Some(dongle[2]));
        assert_eq!(choose(&dongle, HD, FrameRate::hz(5), None), Some(dongle[1]));
        let yuyv = Some(FourCc::new(b"YUYV"));
        assert_eq!(choose(&dongle, HD, rate, yuyv), Some(dongle[1]));
        assert_eq!(choose(&dongle, HD, rate, Some(FourCc::new(b"H264"))), None);
    }

    /// `DRM_FORMAT_*` of `<drm/drm_fourcc.h>`; the byte orders stand in its comments.
    #[test]
    fn drm_formats_have_the_same_bytes() {
        let cases = [
            (PixelFormat::Nv12, b"NV12"),
            (PixelFormat::I420, b"YU12"),
            (PixelFormat::Yuyv, b"YUYV"),
            (PixelFormat::Uyvy, b"UYVY"),
            (PixelFormat::Rgb24, b"BG24"),
            (PixelFormat::Bgr24, b"RG24"),
            (PixelFormat::Bgrx, b"XR24"),
            (PixelFormat::Rgbx, b"XB24"),
        ];
        for (format, code) in cases {
            assert_eq!(
                drm_fourcc(format),
                Some(u32::from_le_bytes(*code)),
                "{format:?}"
            );
        }
    }

    #[test]
    fn ranges_are_stepped() {
        let (least, most) = (Size::new(48, 48), Size::new(1280, 720));
        assert_eq!(fit(HD, least, most, Size::new(2, 2)), most);
        let odd = Size::new(101, 101);
        assert_eq!(fit(odd, least, most, Size::new(2, 2)), Size::new(100, 100));
        assert_eq!(fit(odd, least, most, Size::default()), odd);
    }

    #[test]
    fn planes_of_contiguous_and_separate_nv12() {
        let mut set = SetFormat {
            format: FourCc::new(b"NV12"),
            size: Size::new(640, 480),
            strides: [0; 8],
            planes: 1,
            color: Colorimetry::default(),
        };
        set.strides[0] = 704;
        let found = places(&set, PixelFormat::Nv12).unwrap_or_default();
        assert_eq!(found[1].offset, 704 * 480);
        assert_eq!((found[1].memory, found[1].stride), (0, 704));
        (set.planes, set.strides[1]) = (2, 640);
        let found = places(&set, PixelFormat::Nv12).unwrap_or_default();
        assert_eq!(
            (found[1].memory, found[1].offset, found[1].stride),
            (1, 0, 640)
        );
        set.strides[1] = 600;
        assert_eq!(places(&set, PixelFormat::Nv12), None);
    }
}
