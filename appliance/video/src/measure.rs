//! Numbers about pictures, for tests and benchmarks.

use crate::codec::I420Ref;
use crate::frame::Rect;

/// Mean Y, Cb and Cr of a rectangle, each rounded; `None` if the rectangle holds no pixel of the picture.
///
/// Chroma samples count when their 2x2 pixels touch the rectangle.
#[must_use]
pub fn mean_color(picture: I420Ref<'_>, rect: Rect) -> Option<[u8; 3]> {
    let rect = rect.intersection(Rect::whole(picture.size));
    if rect.is_empty() {
        return None;
    }
    let [y, cb, cr] = picture.planes;
    let [y_stride, cb_stride, cr_stride] = picture.strides;
    let chroma = Rect {
        x: rect.x / 2,
        y: rect.y / 2,
        width: rect.right().div_ceil(2) - rect.x / 2,
        height: rect.bottom().div_ceil(2) - rect.y / 2,
    };
    Some([
        mean(y, y_stride, rect)?,
        mean(cb, cb_stride, chroma)?,
        mean(cr, cr_stride, chroma)?,
    ])
}

fn mean(plane: &[u8], stride: usize, rect: Rect) -> Option<u8> {
    let (mut sum, mut count) = (0_u64, 0_u64);
    for y in rect.y..rect.bottom() {
        let start = y as usize * stride + rect.x as usize;
        let line = plane.get(start..start + rect.width as usize)?;
        sum += line.iter().map(|&byte| u64::from(byte)).sum::<u64>();
        count += u64::from(rect.width);
    }
    u8::try_from((sum + count / 2).checked_div(count)?).ok()
}

/// Peak signal-to-noise ratio of each plane in dB, infinite where equal; `None` if the sizes differ or
/// a plane is too short.
#[must_use]
pub fn psnr(a: I420Ref<'_>, b: I420Ref<'_>) -> Option<[f64; 3]> {
    if a.size != b.size {
        return None;
    }
    let (width, height) = (a.size.width as usize, a.size.height as usize);
    let plane = |index: usize, width: usize, height: usize| {
        let (left, right) = (a.planes.get(index)?, b.planes.get(index)?);
        let (left_stride, right_stride) = (*a.strides.get(index)?, *b.strides.get(index)?);
        let mut squares = 0_u64;
        for y in 0..height {
            let left = left.get(y * left_stride..)?.get(..width)?;
            let right = right.get(y * right_stride..)?.get(..width)?;
            let pairs = left.iter().zip(right);
            squares += pairs
                .map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2))
                .sum::<u64>();
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let mean = squares as f64 / (width * height) as f64;
        Some(10.0 * (255.0 * 255.0 / mean).log10())
    };
    Some([
        plane(0, width, height)?,
        plane(1, width / 2, height / 2)?,
        plane(2, width / 2, height / 2)?,
    ])
}

/// The eight bars of vivid's and other generators' 75 % colour bar, left to right, as Y, Cb, Cr in BT.709
/// limited range: white, yellow, cyan, green, magenta, red, blue, black (ITU-R BT.1729 / SMPTE RP 219 order).
pub const COLOR_BARS_75: [[u8; 3]; 8] = [
    [180, 128, 128],
    [168, 44, 136],
    [145, 147, 44],
    [133, 63, 52],
    [63, 193, 204],
    [51, 109, 212],
    [28, 212, 120],
    [16, 128, 128],
];

/// Whether the picture's `lines` (first, count) are the 75 % colour bar, each sample within `tolerance`.
#[must_use]
pub fn is_color_bars_75(picture: I420Ref<'_>, lines: (u32, u32), tolerance: u8) -> bool {
    let width = picture.size.width / 8;
    (0..8).zip(COLOR_BARS_75).all(|(bar, expected)| {
        // The middle half of each bar: edges are filtered.
        let rect = Rect {
            x: bar * width + width / 4,
            y: lines.0,
            width: width / 2,
            height: lines.1,
        };
        mean_color(picture, rect).is_some_and(|mean| {
            mean.iter()
                .zip(expected)
                .all(|(got, want)| got.abs_diff(want) <= tolerance)
        })
    })
}

#[cfg(test)]
mod tests {
    use soft_kvm_core::Size;

    use super::*;
    use crate::frame::Colorimetry;

    fn picture<'a>(y: &'a [u8], c: &'a [u8]) -> I420Ref<'a> {
        I420Ref {
            size: Size::new(4, 2),
            planes: [y, c, c],
            strides: [5, 3, 3],
            color: Colorimetry::default(),
        }
    }

    #[test]
    fn means_leave_out_the_padding() {
        let y = [10, 10, 20, 20, 99, 10, 10, 20, 20];
        let c = [100, 200];
        let picture = picture(&y, &c);
        assert_eq!(
            mean_color(picture, Rect::whole(picture.size)),
            Some([15, 150, 150])
        );
        let right = Rect {
            x: 2,
            y: 0,
            width: 9,
            height: 9,
        };
        assert_eq!(mean_color(picture, right), Some([20, 200, 200]));
        let outside = Rect {
            x: 4,
            y: 0,
            width: 9,
            height: 9,
        };
        assert_eq!(mean_color(picture, outside), None);
    }

    #[test]
    fn psnr_of_a_known_error() {
        let (a, b, c) = ([10; 10], [15; 10], [128; 3]);
        let same = psnr(picture(&a, &c), picture(&a, &c)).expect("same size");
        assert!(same.iter().all(|value| value.is_infinite()));
        let [y, cb, _] = psnr(picture(&a, &c), picture(&b, &c)).expect("same size");
        assert!((y - 34.151).abs() < 0.001, "{y}");
        assert!(cb.is_infinite());
    }

    #[test]
    fn bars_are_recognised() {
        let size = Size::new(160, 16);
        let line = |sample: usize, width: usize| {
            COLOR_BARS_75
                .iter()
                .flat_map(move |bar| vec![bar[sample]; width])
        };
        let plane = |sample, width, lines| -> Vec<u8> {
            (0..lines).flat_map(|_| line(sample, width)).collect()
        };
        let (y, cb, cr) = (plane(0, 20, 16), plane(1, 10, 8), plane(2, 10, 8));
        let bars = I420Ref {
            size,
            planes: [&y, &cb, &cr],
            strides: [160, 80, 80],
            color: Colorimetry::default(),
        };
        assert!(is_color_bars_75(bars, (0, 16), 0));
        let swapped = I420Ref {
            planes: [&y, &cr, &cb],
            ..bars
        };
        assert!(!is_color_bars_75(swapped, (0, 16), 20));
    }
}
