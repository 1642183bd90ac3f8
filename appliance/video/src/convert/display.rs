//! A decoded picture for a screen or a file.

use yuv::{YuvError, YuvPlanarImage, YuvRange, YuvStandardMatrix};

use super::{as_u32, standard};
use crate::codec::I420Ref;

/// Converts a picture to bytes B G R 255, `stride` bytes from one line to the next.
///
/// Returns whether it did: not when `out` or a plane is shorter than size and stride say.
#[must_use]
pub fn to_bgrx(picture: I420Ref<'_>, out: &mut [u8], stride: usize) -> bool {
    convert(yuv::yuv420_to_bgra, picture, out, stride, 4)
}

/// Converts a picture to bytes R G B, `stride` bytes from one line to the next.
///
/// Returns whether it did: not when `out` or a plane is shorter than size and stride say.
#[must_use]
pub fn to_rgb(picture: I420Ref<'_>, out: &mut [u8], stride: usize) -> bool {
    convert(yuv::yuv420_to_rgb, picture, out, stride, 3)
}

type ToRgb = fn(
    &YuvPlanarImage<'_, u8>,
    &mut [u8],
    u32,
    YuvRange,
    YuvStandardMatrix,
) -> Result<(), YuvError>;

/// Gives the `yuv` crate exactly the lines to convert: it goes by the slices' lengths, and leaves out a
/// last line that is shorter than its stride.
fn convert(
    convert: ToRgb,
    picture: I420Ref<'_>,
    out: &mut [u8],
    stride: usize,
    bytes_per_pixel: usize,
) -> bool {
    let (width, height) = (picture.size.width as usize, picture.size.height as usize);
    let [y, cb, cr] = picture.planes;
    let [y_stride, cb_stride, cr_stride] = picture.strides;
    let (Some(y), Some(cb), Some(cr), Some(out)) = (
        y.get(..y_stride * height),
        cb.get(..cb_stride * (height / 2)),
        cr.get(..cr_stride * (height / 2)),
        out.get_mut(..stride * height),
    ) else {
        return false;
    };
    if stride < width * bytes_per_pixel || y_stride < width {
        return false;
    }
    let (range, matrix) = standard(picture.color);
    let picture = YuvPlanarImage {
        y_plane: y,
        y_stride: as_u32(y_stride),
        u_plane: cb,
        u_stride: as_u32(cb_stride),
        v_plane: cr,
        v_stride: as_u32(cr_stride),
        width: picture.size.width,
        height: picture.size.height,
    };
    convert(&picture, out, as_u32(stride), range, matrix).is_ok()
}
