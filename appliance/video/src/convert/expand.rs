//! Single pixels and lines of any screen format as bytes B G R A.

use crate::frame::{Colorimetry, Matrix, PixelFormat, Plane, Range};

/// A 16-bit pixel; the low bits repeat the high ones, so that full is full.
pub(crate) const fn rgb565(pixel: u16) -> [u8; 4] {
    let [high, low] = pixel.to_be_bytes();
    let (red, blue) = (high >> 3, low & 0x1f);
    let green = (high & 7) << 3 | low >> 5;
    [
        blue << 3 | blue >> 2,
        green << 2 | green >> 4,
        red << 3 | red >> 2,
        255,
    ]
}

/// A 30-bit pixel without its two low bits for each colour.
pub(crate) const fn xrgb2101010(pixel: u32) -> [u8; 4] {
    let [_, _, _, blue] = (pixel >> 2).to_be_bytes();
    let [_, _, _, green] = (pixel >> 12).to_be_bytes();
    let [_, _, _, red] = (pixel >> 22).to_be_bytes();
    [blue, green, red, 255]
}

/// Fills `out` with the pixels of `line` from column `first` on. The fourth byte is the memory's own for the formats
/// that have one, 255 for the others. False where the planes are too short or the format is no screen's.
#[must_use]
pub fn line(
    format: PixelFormat,
    color: Colorimetry,
    planes: &[Option<Plane<'_>>; 3],
    line: usize,
    first: usize,
    out: &mut [[u8; 4]],
) -> bool {
    let bytes = |plane: usize, line: usize, start: usize, count: usize| -> Option<&[u8]> {
        let plane = planes.get(plane)?.as_ref()?;
        plane.data.get(line * plane.stride + start..)?.get(..count)
    };
    match format {
        PixelFormat::Bgrx | PixelFormat::Rgbx | PixelFormat::Xrgb2101010 => {
            let Some(source) = bytes(0, line, first * 4, out.len() * 4) else {
                return false;
            };
            let (source, _) = source.as_chunks::<4>();
            match format {
                PixelFormat::Bgrx => out.copy_from_slice(source),
                PixelFormat::Rgbx => {
                    for (out, &[red, green, blue, alpha]) in out.iter_mut().zip(source) {
                        *out = [blue, green, red, alpha];
                    }
                }
                _ => {
                    for (out, pixel) in out.iter_mut().zip(source) {
                        *out = xrgb2101010(u32::from_le_bytes(*pixel));
                    }
                }
            }
        }
        PixelFormat::Rgb565 => {
            let Some(source) = bytes(0, line, first * 2, out.len() * 2) else {
                return false;
            };
            let (source, _) = source.as_chunks::<2>();
            for (out, pixel) in out.iter_mut().zip(source) {
                *out = rgb565(u16::from_le_bytes(*pixel));
            }
        }
        PixelFormat::Nv12 => {
            let pairs = (first % 2 + out.len()).div_ceil(2);
            let (Some(luma), Some(chroma)) = (
                bytes(0, line, first, out.len()),
                bytes(1, line / 2, first / 2 * 2, pairs * 2),
            ) else {
                return false;
            };
            let (chroma, _) = chroma.as_chunks::<2>();
            let factors = Factors::of(color);
            for (column, (out, &y)) in (first % 2..).zip(out.iter_mut().zip(luma)) {
                let [cb, cr] = chroma.get(column / 2).copied().unwrap_or([128; 2]);
                *out = factors.apply(y, cb, cr);
            }
        }
        PixelFormat::I420 => {
            let count = (first % 2 + out.len()).div_ceil(2);
            let chroma = |plane| bytes(plane, line / 2, first / 2, count);
            let (Some(luma), Some(cb), Some(cr)) =
                (bytes(0, line, first, out.len()), chroma(1), chroma(2))
            else {
                return false;
            };
            let factors = Factors::of(color);
            for (column, (out, &y)) in (first % 2..).zip(out.iter_mut().zip(luma)) {
                let sample = |plane: &[u8]| plane.get(column / 2).copied().unwrap_or(128);
                *out = factors.apply(y, sample(cb), sample(cr));
            }
        }
        _ => return false,
    }
    true
}

/// Y'CbCr to R'G'B' in 1/65536, from the luma coefficients of ITU-R BT.601, BT.709 and BT.2020.
#[derive(Clone, Copy, Debug)]
struct Factors {
    black: i32,
    y: i32,
    red_cr: i32,
    green_cb: i32,
    green_cr: i32,
    blue_cb: i32,
}

impl Factors {
    const fn of(color: Colorimetry) -> Self {
        let [red_cr, green_cb, green_cr, blue_cb] = match color.matrix {
            Matrix::Bt601 => [91_881, 22_554, 46_802, 116_130],
            Matrix::Bt709 => [103_206, 12_276, 30_679, 121_609],
            Matrix::Bt2020 => [96_640, 10_784, 37_444, 123_299],
        };
        match color.range {
            Range::Full => Self {
                black: 0,
                y: 65_536,
                red_cr,
                green_cb,
                green_cr,
                blue_cb,
            },
            Range::Limited => Self {
                black: 16,
                y: 65_536 * 255 / 219,
                red_cr: red_cr * 255 / 224,
                green_cb: green_cb * 255 / 224,
                green_cr: green_cr * 255 / 224,
                blue_cb: blue_cb * 255 / 224,
            },
        }
    }

    fn apply(self, y: u8, cb: u8, cr: u8) -> [u8; 4] {
        let y = (i32::from(y) - self.black) * self.y + 32_768;
        let (cb, cr) = (i32::from(cb) - 128, i32::from(cr) - 128);
        let byte = |value: i32| u8::try_from((value >> 16).clamp(0, 255)).unwrap_or(255);
        [
            byte(y + self.blue_cb * cb),
            byte(y - self.green_cb * cb - self.green_cr * cr),
            byte(y + self.red_cr * cr),
            255,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_pixels_reach_black_and_white() {
        for (pixel, colour) in [
            (0, [0, 0, 0]),
            (0xffff, [255; 3]),
            (0xf800, [0, 0, 255]),
            (0x07e0, [0, 255, 0]),
            (0x001f, [255, 0, 0]),
        ] {
            assert_eq!(rgb565(pixel)[..3], colour, "{pixel:04x}");
        }
        for (pixel, colour) in [
            (0xc000_0000, [0, 0, 0]),
            (0x3fff_ffff, [255; 3]),
            (0x3ff0_0000, [0, 0, 255]),
            (0x000f_fc00, [0, 255, 0]),
            (0x0000_03ff, [255, 0, 0]),
        ] {
            assert_eq!(xrgb2101010(pixel)[..3], colour, "{pixel:08x}");
        }
    }

    #[test]
    fn the_same_red_in_every_matrix_and_range() {
        // Red of ITU-R BT.601, BT.709, BT.2020: limited, then full.
        for (matrix, range, red) in [
            (Matrix::Bt601, Range::Limited, [81, 90, 240]),
            (Matrix::Bt709, Range::Limited, [63, 102, 240]),
            (Matrix::Bt2020, Range::Limited, [74, 97, 240]),
            (Matrix::Bt601, Range::Full, [76, 85, 255]),
            (Matrix::Bt709, Range::Full, [54, 99, 255]),
        ] {
            let [y, cb, cr] = red;
            let luma = [16, y, y];
            let chroma = [128, 128, cb, cr];
            let planes = [
                Some(Plane {
                    data: &luma,
                    stride: 3,
                }),
                Some(Plane {
                    data: &chroma,
                    stride: 4,
                }),
                None,
            ];
            let mut out = [[0; 4]];
            let color = Colorimetry { matrix, range };
            assert!(line(PixelFormat::Nv12, color, &planes, 0, 2, &mut out));
            let [blue, green, red, alpha] = out[0];
            assert!(
                blue <= 3 && green <= 3 && red >= 252 && alpha == 255,
                "{color:?}: {out:?}"
            );
            let apart = [[128, cb], [128, cr]];
            let [first, second] = apart.each_ref().map(|data| Some(Plane { data, stride: 2 }));
            let mut same = [[0; 4]];
            let planes_apart = [planes[0], first, second];
            assert!(line(
                PixelFormat::I420,
                color,
                &planes_apart,
                0,
                2,
                &mut same
            ));
            assert_eq!(same, out);
            let mut long = [[0; 4]; 4];
            assert!(!line(PixelFormat::Nv12, color, &planes, 0, 0, &mut long));
        }
    }
}
