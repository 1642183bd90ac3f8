//! Other colours into BT.709 limited range, on I420 planes in place.

use yuv::{YuvRange, YuvStandardMatrix};

use super::{Block, Buffer};
use crate::frame::{Colorimetry, Matrix, PixelFormat, Range};

/// A picture's colours in the words of the `yuv` crate.
#[must_use]
pub fn standard(color: Colorimetry) -> (YuvRange, YuvStandardMatrix) {
    let range = match color.range {
        Range::Limited => YuvRange::Limited,
        Range::Full => YuvRange::Full,
    };
    let matrix = match color.matrix {
        Matrix::Bt601 => YuvStandardMatrix::Bt601,
        Matrix::Bt709 => YuvStandardMatrix::Bt709,
        Matrix::Bt2020 => YuvStandardMatrix::Bt2020,
    };
    (range, matrix)
}

/// Binary digits behind the point of the factors.
const FRACTION: u32 = 16;

/// The linear map from one kind of Y'CbCr to BT.709 limited range.
///
/// Grey has no chroma in any of them, so luma does not change chroma: six factors of the nine are left, and
/// subsampled chroma needs no luma.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Recode {
    black: i32,
    luma: i32,
    luma_cb: i32,
    luma_cr: i32,
    cb_cb: i32,
    cb_cr: i32,
    cr_cb: i32,
    cr_cr: i32,
}

impl Recode {
    /// What has to be done to pictures after they have become I420 by [`Recode::rgb_range`]; `None` if nothing.
    pub(super) fn new(format: PixelFormat, color: Colorimetry) -> Option<Self> {
        match (format.is_ycbcr(), color.range) {
            (false, Range::Full) => None,
            // Limited RGB through the full-range map: luma is right, chroma has the amplitude of luma (219 steps).
            (false, Range::Limited) => Some(Self::from_scales(Matrix::Bt709, 16, 219, 219)),
            (true, Range::Limited) if color.matrix == Matrix::Bt709 => None,
            (true, Range::Limited) => Some(Self::from_scales(color.matrix, 16, 219, 224)),
            (true, Range::Full) => Some(Self::from_scales(color.matrix, 0, 255, 255)),
        }
    }

    /// How RGB is to be read before `recode` (what [`Recode::new`] gave) is applied.
    pub(super) fn rgb_range(recode: Option<&Self>) -> YuvRange {
        match recode {
            None => YuvRange::Limited,
            Some(_) => YuvRange::Full,
        }
    }

    /// From black and the steps of luma and of chroma. With Kr, Kb of the source's matrix and Kr', Kb' of BT.709
    /// (ITU-T H.273, 8.3): R = Y + 2(1 - Kr) Cr, B = Y + 2(1 - Kb) Cb, Y = Kr R + Kg G + Kb B.
    fn from_scales(matrix: Matrix, black: i32, luma_steps: i128, chroma_steps: i128) -> Self {
        const UNIT: i128 = 10_000;
        let [kr, kb] = weights(matrix);
        let kg = UNIT - kr - kb;
        let [new_kr, new_kb] = weights(Matrix::Bt709);
        let new_kg = UNIT - new_kr - new_kb;
        // Y' = Y + (luma_cb Cb + luma_cr Cr) / scale; B - Y and R - Y with the same scale.
        let scale = UNIT * UNIT * kg;
        let luma_cb = 2 * (UNIT - kb) * (new_kb * kg - new_kg * kb);
        let luma_cr = 2 * (UNIT - kr) * (new_kr * kg - new_kg * kr);
        let (blue, red) = (2 * (UNIT - kb) * UNIT * kg, 2 * (UNIT - kr) * UNIT * kg);
        let to_luma = |value| fixed(value * 219, scale * chroma_steps);
        let to_chroma = |value: i128, new: i128| {
            fixed(value * 224 * UNIT, scale * chroma_steps * 2 * (UNIT - new))
        };
        Self {
            black,
            luma: fixed(219, luma_steps),
            luma_cb: to_luma(luma_cb),
            luma_cr: to_luma(luma_cr),
            cb_cb: to_chroma(blue - luma_cb, new_kb),
            cb_cr: to_chroma(-luma_cr, new_kb),
            cr_cb: to_chroma(-luma_cb, new_kr),
            cr_cr: to_chroma(red - luma_cr, new_kr),
        }
    }

    /// Changes a block in place.
    pub(super) fn apply(&self, [y, cb, cr]: &mut [Buffer; 3], block: Block) {
        let (x, width) = (block.x / 2, block.width / 2);
        for line in block.y / 2..(block.y + block.lines) / 2 {
            let (cb, cr) = (cb.line_mut(line, x, width), cr.line_mut(line, x, width));
            for row in [line * 2, line * 2 + 1] {
                let (pairs, _) = y.line_mut(row, block.x, block.width).as_chunks_mut::<2>();
                for (pair, (cb, cr)) in pairs.iter_mut().zip(cb.iter().zip(cr.iter())) {
                    let shift = self.luma_cb * centred(*cb) + self.luma_cr * centred(*cr);
                    for luma in pair {
                        let value = self.luma * (i32::from(*luma) - self.black);
                        *luma = rounded(value + shift, 16);
                    }
                }
            }
            for (cb, cr) in cb.iter_mut().zip(cr) {
                let (b, r) = (centred(*cb), centred(*cr));
                *cb = rounded(self.cb_cb * b + self.cb_cr * r, 128);
                *cr = rounded(self.cr_cb * b + self.cr_cr * r, 128);
            }
        }
    }
}

/// Kr and Kb in 1/10000 (ITU-T H.273, table 4).
const fn weights(matrix: Matrix) -> [i128; 2] {
    match matrix {
        Matrix::Bt601 => [2_990, 1_140],
        Matrix::Bt709 => [2_126, 722],
        Matrix::Bt2020 => [2_627, 593],
    }
}

/// A fraction, rounded; all that are made here are below 2.
fn fixed(numerator: i128, denominator: i128) -> i32 {
    let value = (numerator << (FRACTION + 1)).div_euclid(denominator);
    i32::try_from((value + 1) >> 1).unwrap_or(0)
}

fn centred(sample: u8) -> i32 {
    i32::from(sample) - 128
}

fn rounded(value: i32, offset: i32) -> u8 {
    let sample = ((value + (1 << (FRACTION - 1))) >> FRACTION) + offset;
    u8::try_from(sample.clamp(0, 255)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use soft_kvm_core::{MonoTime, Size};

    use super::*;
    use crate::convert::{Converter, Update};
    use crate::frame::{Damage, Frame, FrameInfo};
    use crate::memory::MemoryPool;

    fn real_weights(matrix: Matrix) -> [f64; 3] {
        let [kr, kb] = match matrix {
            Matrix::Bt601 => [0.299, 0.114],
            Matrix::Bt709 => [0.2126, 0.0722],
            Matrix::Bt2020 => [0.2627, 0.0593],
        };
        [kr, 1.0 - kr - kb, kb]
    }

    /// Black, steps of luma and RGB, steps of chroma.
    fn scales(range: Range) -> [f64; 3] {
        match range {
            Range::Limited => [16.0, 219.0, 224.0],
            Range::Full => [0.0, 255.0, 255.0],
        }
    }

    fn rgb_of([y, cb, cr]: [u8; 3], color: Colorimetry) -> [f64; 3] {
        let [kr, kg, kb] = real_weights(color.matrix);
        let [black, luma, chroma] = scales(color.range);
        let y = (f64::from(y) - black) / luma;
        let [cb, cr] = [cb, cr].map(|sample| (f64::from(sample) - 128.0) / chroma);
        let (red, blue) = (y + 2.0 * (1.0 - kr) * cr, y + 2.0 * (1.0 - kb) * cb);
        [red, (y - kr * red - kb * blue) / kg, blue]
    }

    fn bt709_of([red, green, blue]: [f64; 3]) -> [f64; 3] {
        let [kr, kg, kb] = real_weights(Matrix::Bt709);
        let y = kr * red + kg * green + kb * blue;
        [
            16.0 + 219.0 * y,
            128.0 + 224.0 * (blue - y) / (2.0 * (1.0 - kb)),
            128.0 + 224.0 * (red - y) / (2.0 * (1.0 - kr)),
        ]
    }

    fn flat(format: PixelFormat, color: Colorimetry, [a, b, c]: [u8; 3]) -> Frame {
        let size = Size::new(68, 36);
        let patterns: [&[u8]; 3] = match format {
            PixelFormat::Nv12 => [&[a], &[b, c], &[]],
            PixelFormat::I420 => [&[a], &[b], &[c]],
            PixelFormat::Yuyv => [&[a, b, a, c], &[], &[]],
            PixelFormat::Uyvy => [&[b, a, c, a], &[], &[]],
            PixelFormat::Bgrx => [&[c, b, a, 0], &[], &[]],
            _ => [&[a, b, c], &[], &[]],
        };
        let mut pool = MemoryPool::new(format, size, 1);
        for (plane, pattern) in patterns.iter().enumerate() {
            if let Some((data, _)) = pool.plane_mut(0, plane) {
                for (byte, value) in data.iter_mut().zip(pattern.iter().cycle()) {
                    *byte = *value;
                }
            }
        }
        let info = FrameInfo {
            format,
            color,
            size,
            sequence: 0,
            captured: MonoTime::ZERO,
            damage: Damage::Unknown,
            cpu_bytes: 0,
        };
        pool.lend(0, info).expect("one buffer")
    }

    /// Every sample of the picture is as near to `expected` as `tolerance`.
    fn check(frame: &Frame, expected: [f64; 3], tolerance: f64) {
        let mut converter = Converter::new();
        converter.update(frame).expect("whole");
        for (plane, expected) in converter.picture().planes.iter().zip(expected) {
            let expected = expected.clamp(0.0, 255.0);
            for &sample in *plane {
                let off = (f64::from(sample) - expected).abs();
                assert!(off <= tolerance, "{sample} is not {expected}: {frame:?}");
            }
        }
        // The same bytes again are no change, whatever their colours are.
        assert_eq!(converter.update(frame), Ok(Update::Unchanged));
    }

    const YCBCR: [PixelFormat; 4] = [
        PixelFormat::Nv12,
        PixelFormat::I420,
        PixelFormat::Yuyv,
        PixelFormat::Uyvy,
    ];
    const MATRICES: [Matrix; 3] = [Matrix::Bt601, Matrix::Bt709, Matrix::Bt2020];
    const RANGES: [Range; 2] = [Range::Limited, Range::Full];

    proptest! {
        #[test]
        fn ycbcr_is_what_exact_math_says(
            format in prop::sample::select(&YCBCR[..]),
            matrix in prop::sample::select(&MATRICES[..]),
            range in prop::sample::select(&RANGES[..]),
            sample in any::<[u8; 3]>(),
        ) {
            let color = Colorimetry { matrix, range };
            check(&flat(format, color, sample), bt709_of(rgb_of(sample, color)), 0.51);
        }

        #[test]
        fn rgb_is_what_exact_math_says(
            format in prop::sample::select(&[PixelFormat::Rgb24, PixelFormat::Bgrx][..]),
            range in prop::sample::select(&RANGES[..]),
            sample in any::<[u8; 3]>(),
        ) {
            let [black, steps, _] = scales(range);
            let sample = match range {
                Range::Full => sample,
                Range::Limited => sample.map(|value| 16 + value % 220),
            };
            let rgb = sample.map(|value| (f64::from(value) - black) / steps);
            let color = Colorimetry { matrix: Matrix::Bt709, range };
            // The `yuv` crate's own rounding comes before ours.
            check(&flat(format, color, sample), bt709_of(rgb), 2.0);
        }
    }

    #[test]
    fn what_is_right_already_is_left_alone() {
        for format in YCBCR {
            assert_eq!(Recode::new(format, Colorimetry::default()), None);
        }
        assert_eq!(Recode::new(PixelFormat::Rgbx, Colorimetry::RGB), None);
    }

    #[test]
    fn other_colours_in_the_same_bytes_are_another_picture() {
        let sample = [120, 90, 200];
        let mut converter = Converter::new();
        let mut seen = Vec::new();
        for matrix in MATRICES {
            for range in RANGES {
                let color = Colorimetry { matrix, range };
                let update = converter.update(&flat(PixelFormat::Nv12, color, sample));
                assert!(
                    matches!(update, Ok(Update::Changed { tiles: 6, .. })),
                    "{update:?}"
                );
                seen.push(
                    converter
                        .picture()
                        .planes
                        .map(|plane| plane.first().copied()),
                );
            }
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 6, "{seen:?}");
    }
}
