//! What an access unit holds (ITU-T H.264 7.4.1, Annex B), and whether the library may see it.
//!
//! OpenH264 checks cropping offsets by their sum as signed numbers only (au_parser.cpp, ParseSps), so a crafted SPS
//! would move the picture's pointer outside of its memory.

use soft_kvm_core::Size;
use soft_kvm_protocol::media::{SequenceParameterSet, nal_units};
use soft_kvm_video::frame::Colorimetry;

/// Longest access unit that the decoder takes, in bytes. An IDR of 3840x2160 pixels of text has less than 1 MB.
pub const MAX_ACCESS_UNIT: usize = 4 << 20;

/// Most NAL units in one: the library keeps a structure of some kilobytes for each.
const MAX_UNITS: usize = 1_024;
/// Most macroblocks in all reference pictures together: level 5.2 (table A-1, `MaxDpbMbs`).
const MAX_REFERENCE_BLOCKS: u32 = 184_320;

/// What a decoder can do with an access unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    /// No slice.
    NoPicture,
    /// Slices of an IDR picture: decoding can start here.
    Idr,
    /// Slices that need pictures before.
    Predicted,
}

/// Looks at every NAL unit; the first slice says what the picture is. `color` changes to what an SPS says.
///
/// # Errors
/// What must not reach the library, in words.
pub(crate) fn inspect(
    access_unit: &[u8],
    color: &mut Colorimetry,
) -> Result<Contents, &'static str> {
    if access_unit.len() > MAX_ACCESS_UNIT {
        return Err("an access unit of more than 4 MiB");
    }
    let mut contents = Contents::NoPicture;
    for (index, nal) in nal_units(access_unit).enumerate() {
        if index == MAX_UNITS {
            return Err("an access unit of more than 1024 NAL units");
        }
        let slice = match nal.first().map_or(0, |header| header & 0x1F) {
            1 => Contents::Predicted,
            5 => Contents::Idr,
            7 => {
                *color = check_sps(nal)?;
                continue;
            }
            // SEI, PPS, delimiter, end of sequence, end of stream, filler.
            6 | 8..=12 => continue,
            // Data partitions, and all of the scalable and multiview extensions with their own parameter sets.
            _ => return Err("a NAL unit of a type that is not supported"),
        };
        if contents == Contents::NoPicture {
            contents = slice;
        }
    }
    Ok(contents)
}

fn check_sps(nal: &[u8]) -> Result<Colorimetry, &'static str> {
    let Some(set) = SequenceParameterSet::parse(nal) else {
        return Err(
            "a sequence parameter set that is broken, or of a size other than 16x16 to 3840x2160",
        );
    };
    if !matches!(set.profile_idc, 66 | 77 | 100) {
        return Err("a profile other than baseline, main and high");
    }
    let layout = (
        set.chroma_format_idc,
        set.bit_depth_luma,
        set.bit_depth_chroma,
    );
    if layout != (1, 8, 8) || !set.frame_mbs_only {
        return Err("pictures other than frames of 8 bits in 4:2:0");
    }
    // Rare, and long to read: what is not read by both in the same way is not let through.
    if set.scaling_matrix || set.pic_order_cnt_type == 1 {
        return Err("a sequence parameter set with scaling lists or picture order count type 1");
    }
    if set.crop.left != 0 || set.crop.top != 0 {
        return Err("pictures cropped at the left or the top");
    }
    let Size { width, height } = set.coded;
    if !set.coded.is_supported() {
        return Err("a coded size above 3840x2160");
    }
    if u32::from(set.max_num_ref_frames) * (width / 16) * (height / 16) > MAX_REFERENCE_BLOCKS {
        return Err("more reference pictures than level 5.2 allows");
    }
    Ok(Colorimetry::from_h273(
        set.matrix_coefficients,
        set.full_range,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspect(access_unit: &[u8]) -> Result<Contents, &'static str> {
        super::inspect(access_unit, &mut Colorimetry::default())
    }

    /// An SPS in a byte stream; the arguments are bits as text.
    fn sps(profile: u8, format: &str, order: &str, references: &str, place: &str) -> Vec<u8> {
        let text =
            format!("{profile:08b}1100000000110011_1{format}1{order}{references}0{place}_0_1");
        let bits: Vec<u8> = text.bytes().filter(|bit| *bit != b'_').collect();
        let mut unit = vec![0, 0, 0, 1, 0x67];
        for octet in bits.chunks(8) {
            let octet = octet.iter().chain([&b'0'; 8]).take(8);
            unit.push(octet.fold(0, |byte, bit| byte << 1 | (bit - b'0')));
        }
        unit
    }

    /// ue(v).
    fn ue(value: u32) -> String {
        let code = u64::from(value) + 1;
        let digits = format!("{code:b}");
        format!("{}{digits}", "0".repeat(digits.len() - 1))
    }

    /// Macroblocks each way, frames only, and the cropping offsets.
    fn place(width: u32, height: u32, crop: Option<[u32; 4]>) -> String {
        let crop = crop.map_or_else(
            || "0".to_owned(),
            |crop| format!("1{}", crop.map(ue).concat()),
        );
        format!("{}{}11{crop}", ue(width - 1), ue(height - 1))
    }

    fn plain(place: &str) -> Vec<u8> {
        sps(66, "", "011", "010", place)
    }

    #[test]
    fn the_first_slice_decides() {
        assert_eq!(inspect(&[]), Ok(Contents::NoPicture));
        assert_eq!(
            inspect(&[0, 0, 0, 1, 0x68, 9, 0, 0, 1, 0x65, 0x88]),
            Ok(Contents::Idr)
        );
        assert_eq!(
            inspect(&[0, 0, 1, 0x09, 0xF0, 0, 0, 1, 0x41, 0x9A]),
            Ok(Contents::Predicted)
        );
        assert_eq!(inspect(&[0, 0, 1]), Ok(Contents::NoPicture));
    }

    #[test]
    fn ordinary_parameter_sets_pass() {
        for place in [
            place(120, 68, Some([0, 0, 0, 4])),
            place(240, 135, None),
            place(1, 1, None),
            place(41, 31, Some([0, 7, 0, 7])),
        ] {
            assert_eq!(inspect(&plain(&place)), Ok(Contents::NoPicture), "{place}");
        }
        let place = place(120, 68, None);
        // High: 4:2:0, 8 bits, no bypass, no scaling lists.
        let high = sps(100, "0101100", "1010", "010", &place);
        assert_eq!(inspect(&high), Ok(Contents::NoPicture));
    }

    #[test]
    fn crafted_cropping_does_not_reach_the_library() {
        // What is -2, -15 and the smallest number of all where it is read as signed.
        for offset in [u32::MAX - 1, u32::MAX - 15, 1 << 31, 1 << 15, 1] {
            for crop in [
                [offset, 0, 0, 0],
                [0, 0, offset, 0],
                [offset, 8, 0, 0],
                [0, 0, offset, 8],
            ] {
                let unit = plain(&place(120, 68, Some(crop)));
                assert!(inspect(&unit).is_err(), "{crop:?}");
            }
            if offset > 1 {
                for crop in [[0, offset, 0, 0], [0, 0, 0, offset]] {
                    let unit = plain(&place(120, 68, Some(crop)));
                    assert!(inspect(&unit).is_err(), "{crop:?}");
                }
            }
        }
    }

    #[test]
    fn sizes_and_layouts_that_are_not_shown_are_refused() {
        let small = place(1, 1, Some([0, 1, 0, 0]));
        for place in [small, place(241, 135, None), place(240, 136, None)] {
            assert!(inspect(&plain(&place)).is_err(), "{place}");
        }
        let place = place(120, 68, None);
        let refused = [
            sps(88, "", "011", "010", &place),
            sps(110, "0101100", "011", "010", &place),
            // Monochrome, 4:2:2, ten bits, scaling lists.
            sps(100, "11100", "011", "010", &place),
            sps(100, "0111100", "011", "010", &place),
            sps(100, "010011100", "011", "010", &place),
            sps(100, "0101101_00000000", "011", "010", &place),
            // Picture order count type 1 with an empty cycle.
            sps(66, "", "010_0_1_1_1", "010", &place),
        ];
        for (index, unit) in refused.iter().enumerate() {
            assert!(
                SequenceParameterSet::parse(&unit[4..]).is_some(),
                "{index} is sound"
            );
            assert!(inspect(unit).is_err(), "{index}");
        }
        assert!(inspect(&sps(66, "", "011", &ue(17), &place)).is_err());
        let interlaced = format!("{}{}0_0_1_0", ue(119), ue(33));
        assert!(inspect(&plain(&interlaced)).is_err());
        let many = sps(66, "", "011", &ue(6), &self::place(240, 135, None));
        assert!(inspect(&many).is_err(), "references of 4K");
    }

    #[test]
    fn extensions_and_floods_are_refused() {
        for kind in [0, 2, 3, 4, 13, 14, 15, 19, 20, 21, 24, 28, 31] {
            assert!(inspect(&[0, 0, 1, 0x60 | kind, 1]).is_err(), "type {kind}");
        }
        // The library leaves these three bytes out, and sees an SPS behind them.
        assert!(inspect(&[0, 0, 1, 0, 0, 3, 0x67, 66, 1]).is_err());
        let flood = [0, 0, 1, 0x41, 1].repeat(MAX_UNITS);
        assert!(inspect(&flood).is_ok());
        assert!(inspect(&[&flood[..], &[0, 0, 1, 0x41, 1]].concat()).is_err());
        let mut long = vec![0, 0, 1, 0x41];
        long.resize(MAX_ACCESS_UNIT, 9);
        assert!(inspect(&long).is_ok());
        long.push(9);
        assert!(inspect(&long).is_err());
    }
}
