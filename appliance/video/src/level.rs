//! The H.264 level that a picture size, rate and bitrate need.

use soft_kvm_core::{Bitrate, FrameRate, Size};

/// `level_idc`, most macroblocks in a second, in a picture, and most kbit/s in baseline (ITU-T H.264 table A-1).
const LEVELS: [(u8, u64, u64, u64); 14] = [
    (10, 1_485, 99, 64),
    (11, 3_000, 396, 192),
    (12, 6_000, 396, 384),
    (13, 11_880, 396, 768),
    (20, 11_880, 396, 2_000),
    (21, 19_800, 792, 4_000),
    (22, 20_250, 1_620, 4_000),
    (30, 40_500, 1_620, 10_000),
    (31, 108_000, 3_600, 14_000),
    (32, 216_000, 5_120, 20_000),
    (40, 245_760, 8_192, 20_000),
    (41, 245_760, 8_192, 50_000),
    (42, 522_240, 8_704, 50_000),
    (50, 589_824, 22_080, 135_000),
];

/// The lowest level that allows all three, as `level_idc` (31 is level 3.1); beyond the table 5.1 up to its rate, else 5.2.
#[must_use]
pub fn h264_level(size: Size, rate: FrameRate, bitrate: Bitrate) -> u8 {
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
                if second <= 983_040 { 51 } else { 52 }
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
            ((640, 480, 30), 30),
            ((1280, 720, 30), 31),
            ((1280, 720, 60), 32),
            ((1920, 1080, 30), 40),
            ((1920, 1080, 60), 42),
            ((3840, 2160, 30), 51),
            ((3840, 2160, 60), 52),
        ];
        for ((width, height, hz), expected) in cases {
            let got = h264_level(
                Size::new(width, height),
                FrameRate::hz(hz),
                Bitrate::kbps(8_000),
            );
            assert_eq!(got, expected, "{width}x{height} at {hz}");
        }
        let fast = h264_level(
            Size::new(640, 480),
            FrameRate::hz(30),
            Bitrate::kbps(30_000),
        );
        assert_eq!(fast, 41);
    }
}
