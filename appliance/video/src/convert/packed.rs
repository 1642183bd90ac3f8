//! A packed picture, as some decoders make them, as I420.

use soft_kvm_core::Size;
use yuv::{
    BufferStoreMut, YuvConversionMode, YuvPackedImage, YuvPlanarImageMut, YuvRange,
    YuvStandardMatrix,
};

use super::as_u32;
use crate::frame::PixelFormat;

/// Converts a picture in one plane to tight planes Y, Cb, Cr: RGB to BT.709 limited range; Y'CbCr keeps its colours.
///
/// Returns whether it did: not for other formats, sizes that are not even, or memory shorter than size and stride say.
#[must_use]
pub fn to_i420(
    format: PixelFormat,
    data: &[u8],
    stride: usize,
    size: Size,
    out: &mut [Vec<u8>; 3],
) -> bool {
    let (width, height) = (size.width as usize, size.height as usize);
    let bytes_per_pixel = match format {
        PixelFormat::Yuyv | PixelFormat::Uyvy => 2,
        PixelFormat::Rgb24 | PixelFormat::Bgr24 => 3,
        PixelFormat::Bgrx | PixelFormat::Rgbx => 4,
        _ => return false,
    };
    let Some(data) = data.get(..stride.saturating_mul(height)) else {
        return false;
    };
    if stride < width * bytes_per_pixel || size != size.even() || size.pixels() == 0 {
        return false;
    }
    let [y, cb, cr] = out;
    y.resize(width * height, 0);
    cb.resize(width / 2 * (height / 2), 0);
    cr.resize(width / 2 * (height / 2), 0);
    let mut planar = YuvPlanarImageMut {
        y_plane: BufferStoreMut::Borrowed(y),
        y_stride: as_u32(width),
        u_plane: BufferStoreMut::Borrowed(cb),
        u_stride: as_u32(width / 2),
        v_plane: BufferStoreMut::Borrowed(cr),
        v_stride: as_u32(width / 2),
        width: as_u32(width),
        height: as_u32(height),
    };
    let packed = YuvPackedImage {
        yuy: data,
        yuy_stride: as_u32(stride),
        width: as_u32(width),
        height: as_u32(height),
    };
    let from_rgb = match format {
        PixelFormat::Yuyv => return yuv::yuyv422_to_yuv420(&mut planar, &packed).is_ok(),
        PixelFormat::Uyvy => return yuv::uyvy422_to_yuv420(&mut planar, &packed).is_ok(),
        PixelFormat::Rgb24 => yuv::rgb_to_yuv420,
        PixelFormat::Bgr24 => yuv::bgr_to_yuv420,
        PixelFormat::Rgbx => yuv::rgba_to_yuv420,
        _ => yuv::bgra_to_yuv420,
    };
    from_rgb(
        &mut planar,
        data,
        as_u32(stride),
        YuvRange::Limited,
        YuvStandardMatrix::Bt709,
        YuvConversionMode::Balanced,
    )
    .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(format: PixelFormat, pair: &[u8]) -> Option<[u8; 3]> {
        let size = Size::new(64, 4);
        let mut data = Vec::new();
        for _ in 0..4 {
            data.extend(pair.repeat(32));
            data.extend([99; 8]);
        }
        let mut planes = [Vec::new(), Vec::new(), Vec::new()];
        let stride = pair.len() * 32 + 8;
        if !to_i420(format, &data, stride, size, &mut planes) {
            return None;
        }
        assert!(!to_i420(format, &data[1..], stride, size, &mut planes));
        assert!(!to_i420(format, &data, stride - 9, size, &mut planes));
        let flat = planes.map(|plane| {
            assert!(plane.iter().all(|sample| *sample == plane[0]), "{plane:?}");
            plane[0]
        });
        Some(flat)
    }

    #[test]
    fn every_format_gives_the_same_blue() {
        // BT.709 limited range.
        let blue = [32, 240, 118];
        let near = |got: Option<[u8; 3]>| {
            let got = got.expect("the format is converted");
            let close = got
                .iter()
                .zip(blue)
                .all(|(got, want)| got.abs_diff(want) <= 1);
            assert!(close, "{got:?}");
        };
        near(converted(PixelFormat::Rgb24, &[0, 0, 255, 0, 0, 255]));
        near(converted(PixelFormat::Bgr24, &[255, 0, 0, 255, 0, 0]));
        let bgrx = [255, 0, 0, 9, 255, 0, 0, 9];
        near(converted(PixelFormat::Bgrx, &bgrx));
        let rgbx = [0, 0, 255, 9, 0, 0, 255, 9];
        near(converted(PixelFormat::Rgbx, &rgbx));
        near(converted(PixelFormat::Yuyv, &[32, 240, 32, 118]));
        near(converted(PixelFormat::Uyvy, &[240, 32, 118, 32]));
        assert_eq!(converted(PixelFormat::Nv12, &[0; 4]), None);
    }
}
