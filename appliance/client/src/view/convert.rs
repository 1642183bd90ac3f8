//! Decoded pictures to what a window or a file takes.

use bytemuck::cast_slice_mut;
use soft_kvm_core::Size;
use soft_kvm_video::codec::I420Ref;
use soft_kvm_video::convert::standard;
use yuv::{YuvError, YuvPlanarImage};

/// A picture whose planes do not fit its size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{size}: {what}")]
pub struct BadPicture {
    size: Size,
    what: String,
}

impl BadPicture {
    pub(crate) fn new(size: Size, error: &YuvError) -> Self {
        Self {
            size,
            what: error.to_string(),
        }
    }
}

/// Checks the planes' lengths and strides.
pub(crate) fn planar_image(picture: I420Ref<'_>) -> Result<YuvPlanarImage<'_, u8>, BadPicture> {
    let bad = |what: &str| BadPicture {
        size: picture.size,
        what: what.to_owned(),
    };
    if !picture.size.is_supported() {
        return Err(bad("the size is out of range"));
    }
    let [y_stride, u_stride, v_stride] = picture
        .strides
        .map(|stride| u32::try_from(stride).unwrap_or(u32::MAX));
    let [y_plane, u_plane, v_plane] = picture.planes;
    let (width, height) = (picture.size.width, picture.size.height);
    let shapes = [
        (y_plane, y_stride, width, height),
        (u_plane, u_stride, width.div_ceil(2), height.div_ceil(2)),
        (v_plane, v_stride, width.div_ceil(2), height.div_ceil(2)),
    ];
    for (plane, stride, columns, lines) in shapes {
        let needed = u64::from(stride) * u64::from(lines - 1) + u64::from(columns);
        if stride < columns || u64::try_from(plane.len()).unwrap_or(u64::MAX) < needed {
            return Err(bad("a plane is shorter than the picture"));
        }
    }
    Ok(YuvPlanarImage {
        y_plane,
        y_stride,
        u_plane,
        u_stride,
        v_plane,
        v_stride,
        width,
        height,
    })
}

/// Converts to 0x00RRGGBB pixels without padding between lines (as windows want them; the top
/// byte is not defined). `pixels` grows to the picture's size and is reused as long as that stays the same.
pub(crate) fn to_pixels(picture: I420Ref<'_>, pixels: &mut Vec<u32>) -> Result<(), BadPicture> {
    let image = planar_image(picture)?;
    pixels.resize(picture.size.pixels(), 0);
    let bytes = cast_slice_mut(pixels.as_mut_slice());
    let stride = picture.size.width * 4;
    let (range, matrix) = standard(picture.color);
    yuv::yuv420_to_bgra(&image, bytes, stride, range, matrix)
        .map_err(|error| BadPicture::new(picture.size, &error))?;
    // Bytes B, G, R, x are that number on a little-endian machine.
    if cfg!(target_endian = "big") {
        pixels
            .iter_mut()
            .for_each(|pixel| *pixel = pixel.swap_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use soft_kvm_video::frame::Colorimetry;

    use super::*;

    #[test]
    fn white_is_white_and_short_planes_are_refused() {
        let (luma, chroma) = (vec![235; 16 * 16], vec![128; 8 * 8]);
        let picture = |luma: &'static [u8], chroma: &'static [u8]| I420Ref {
            size: Size::new(16, 16),
            planes: [luma, chroma, chroma],
            strides: [16, 8, 8],
            color: Colorimetry::default(),
        };
        let (luma, chroma): (&'static [u8], &'static [u8]) = (luma.leak(), chroma.leak());
        let mut pixels = Vec::new();
        to_pixels(picture(luma, chroma), &mut pixels).expect("a picture that fits");
        assert_eq!(pixels.len(), 256);
        assert!(pixels.iter().all(|pixel| pixel & 0xff_ffff == 0xff_ffff));
        for (luma, chroma) in [(&luma[1..], chroma), (luma, &chroma[1..]), (&[], &[])] {
            to_pixels(picture(luma, chroma), &mut pixels).expect_err("a plane is short");
        }
    }

    #[test]
    fn red_green_blue_are_in_their_places() {
        let color = |matrix_coefficients, full| Colorimetry::from_h273(matrix_coefficients, full);
        for (ycc, color, expected) in [
            ([63u8, 102, 240], color(1, false), 0xff_0000u32),
            ([173, 42, 26], color(2, false), 0x00_ff00),
            ([32, 240, 118], color(1, false), 0x00_00ff),
            ([81, 90, 240], color(6, false), 0xff_0000),
            ([76, 85, 255], color(5, true), 0xff_0000),
            ([54, 99, 255], color(1, true), 0xff_0000),
            ([74, 97, 240], color(9, false), 0xff_0000),
        ] {
            let planes = [vec![ycc[0]; 256], vec![ycc[1]; 64], vec![ycc[2]; 64]];
            let mut pixels = Vec::new();
            let picture = I420Ref {
                size: Size::new(16, 16),
                planes: [&planes[0], &planes[1], &planes[2]],
                strides: [16, 8, 8],
                color,
            };
            to_pixels(picture, &mut pixels).expect("a picture that fits");
            for shift in [0, 8, 16] {
                let (got, want) = (pixels[0] >> shift & 0xff, expected >> shift & 0xff);
                assert!(
                    got.abs_diff(want) <= 3,
                    "{:08x} is not {expected:06x}",
                    pixels[0]
                );
            }
        }
    }
}
