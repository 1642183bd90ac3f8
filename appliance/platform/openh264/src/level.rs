//! The H.264 level that a picture size, rate and bitrate need.

use openh264_sys2 as sys;
use soft_kvm_core::{Bitrate, FrameRate, Size};

/// Level, most macroblocks in a second, in a picture, and most kbit/s in baseline (ITU-T H.264 table A-1).
const LEVELS: [(sys::ELevelIdc, u64, u64, u64); 14] = [
    (sys::LEVEL_1_0, 1_485, 99, 64),
    (sys::LEVEL_1_1, 3_000, 396, 192),
    (sys::LEVEL_1_2, 6_000, 396, 384),
    (sys::LEVEL_1_3, 11_880, 396, 768),
    (sys::LEVEL_2_0, 11_880, 396, 2_000),
    (sys::LEVEL_2_1, 19_800, 792, 4_000),
    (sys::LEVEL_2_2, 20_250, 1_620, 4_000),
    (sys::LEVEL_3_0, 40_500, 1_620, 10_000),
    (sys::LEVEL_3_1, 108_000, 3_600, 14_000),
    (sys::LEVEL_3_2, 216_000, 5_120, 20_000),
    (sys::LEVEL_4_0, 245_760, 8_192, 20_000),
    (sys::LEVEL_4_1, 245_760, 8_192, 50_000),
    (sys::LEVEL_4_2, 522_240, 8_704, 50_000),
    (sys::LEVEL_5_0, 589_824, 22_080, 135_000),
];

/// The lowest level that allows all three; beyond the table 5.1 up to its rate, else 5.2.
pub(crate) fn level(size: Size, rate: FrameRate, bitrate: Bitrate) -> sys::ELevelIdc {
    let blocks = |pixels: u32| u64::from(pixels.div_ceil(16));
    let (width, height) = (blocks(size.width), blocks(size.height));
    let picture = width * height;
    let second = picture * u64::from(rate.as_hz());
    let kbps = bitrate.as_bps().div_ceil(1_000);
    LEVELS
        .iter()
        .find(|(_, most_second, most_picture, most_kbps)| {
            // A.3.1: neither side longer than the square root of eight times the area.
            let longest = width.max(height).pow(2);
            second <= *most_second
                && picture <= *most_picture
                && longest <= most_picture * 8
                && kbps <= *most_kbps
        })
        .map_or_else(
            || {
                if second <= 983_040 {
                    sys::LEVEL_5_1
                } else {
                    sys::LEVEL_5_2
                }
            },
            |(level, ..)| *level,
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_common_modes() {
        let cases = [
            ((640, 480, 30), sys::LEVEL_3_0),
            ((1280, 720, 30), sys::LEVEL_3_1),
            ((1280, 720, 60), sys::LEVEL_3_2),
            ((1920, 1080, 30), sys::LEVEL_4_0),
            ((1920, 1080, 60), sys::LEVEL_4_2),
            ((3840, 2160, 30), sys::LEVEL_5_1),
            ((3840, 2160, 60), sys::LEVEL_5_2),
        ];
        for ((width, height, hz), expected) in cases {
            let got = level(
                Size::new(width, height),
                FrameRate::hz(hz),
                Bitrate::kbps(8_000),
            );
            assert_eq!(got, expected, "{width}x{height} at {hz}");
        }
        let fast = level(
            Size::new(640, 480),
            FrameRate::hz(30),
            Bitrate::kbps(30_000),
        );
        assert_eq!(fast, sys::LEVEL_4_1);
    }
}
