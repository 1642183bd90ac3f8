//! As much of H.264 (ITU-T H.264 08/2021) as a recording needs: NAL units, and the picture's size.

use soft_kvm_core::Size;

/// Coded slice of an IDR picture (table 7-1).
pub(super) const IDR: u8 = 5;
/// Sequence parameter set.
pub(super) const SPS: u8 = 7;
/// Picture parameter set.
pub(super) const PPS: u8 = 8;
/// Access unit delimiter; not stored in MP4 files.
pub(super) const AUD: u8 = 9;

/// `nal_unit_type` of a NAL unit without its start code.
pub(super) fn nal_type(nal: &[u8]) -> u8 {
    nal.first().map_or(0, |header| header & 0x1f)
}

/// The NAL units of an Annex B byte stream, without start codes and trailing zero bytes; bytes before the first
/// start code are left out.
pub(super) fn nal_units(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = after_start_code(stream);
    std::iter::from_fn(move || {
        let here = rest?;
        rest = after_start_code(here);
        let end = rest.map_or(here.len(), |next| here.len() - next.len() - 3);
        Some(trim_zeros(here.get(..end)?))
    })
    .filter(|nal| !nal.is_empty())
}

fn after_start_code(bytes: &[u8]) -> Option<&[u8]> {
    let place = find_start_code(bytes)?;
    bytes.get(place + 3..)
}

// Looks at every third byte until one can be the end of a start code: slices hold few zero bytes.
fn find_start_code(bytes: &[u8]) -> Option<usize> {
    let mut at = 2;
    loop {
        match *bytes.get(at)? {
            0 => at += 1,
            1 if bytes.get(at - 2..at) == Some(&[0, 0]) => return Some(at - 2),
            _ => at += 3,
        }
    }
}

fn trim_zeros(mut nal: &[u8]) -> &[u8] {
    while let [before @ .., 0] = nal {
        nal = before;
    }
    nal
}

/// What a recording takes from a sequence parameter set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SpsInfo {
    /// The picture's size after cropping.
    pub(super) size: Size,
    /// `chroma_format_idc`.
    pub(super) chroma_format: u8,
    /// Bits of a luma sample.
    pub(super) bit_depth_luma: u8,
    /// Bits of a chroma sample.
    pub(super) bit_depth_chroma: u8,
}

/// Profiles whose SPS names a chroma format and bit depths (7.3.2.1.1).
pub(super) fn is_high_profile(profile_idc: u8) -> bool {
    matches!(
        profile_idc,
        100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135
    )
}

/// Reads a sequence parameter set with its NAL header (7.3.2.1.1); `None` if it is broken or the picture is larger
/// than the program handles.
pub(super) fn parse_sps(nal: &[u8]) -> Option<SpsInfo> {
    let mut bits = Bits::new(nal.get(1..)?);
    let profile_idc = u8::try_from(bits.bits(8)?).ok()?;
    bits.bits(16)?; // constraint flags, level_idc
    bits.ue()?; // seq_parameter_set_id
    let (mut chroma_format, mut separate_planes) = (1, false);
    let (mut bit_depth_luma, mut bit_depth_chroma) = (8, 8);
    if is_high_profile(profile_idc) {
        chroma_format = u8::try_from(bits.ue()?).ok().filter(|&idc| idc <= 3)?;
        separate_planes = chroma_format == 3 && bits.flag()?;
        bit_depth_luma = 8 + u8::try_from(bits.ue()?).ok().filter(|&more| more <= 6)?;
        bit_depth_chroma = 8 + u8::try_from(bits.ue()?).ok().filter(|&more| more <= 6)?;
        bits.flag()?; // qpprime_y_zero_transform_bypass_flag
        if bits.flag()? {
            for list in 0..if chroma_format == 3 { 12 } else { 8 } {
                if bits.flag()? {
                    skip_scaling_list(&mut bits, if list < 6 { 16 } else { 64 })?;
                }
            }
        }
    }
    bits.ue()?; // log2_max_frame_num_minus4
    match bits.ue()? {
        0 => drop(bits.ue()?), // log2_max_pic_order_cnt_lsb_minus4
        1 => {
            bits.flag()?; // delta_pic_order_always_zero_flag
            bits.ue()?; // offset_for_non_ref_pic, se(v) has the same length
            bits.ue()?; // offset_for_top_to_bottom_field
            let cycle = bits.ue().filter(|&cycle| cycle <= 255)?;
            for _ in 0..cycle {
                bits.ue()?;
            }
        }
        _ => {}
    }
    bits.ue()?; // max_num_ref_frames
    bits.flag()?; // gaps_in_frame_num_value_allowed_flag
    let width_in_mbs = bits.ue()?.checked_add(1)?;
    let height_in_map_units = bits.ue()?.checked_add(1)?;
    let frame_mbs_only = bits.flag()?;
    if !frame_mbs_only {
        bits.flag()?; // mb_adaptive_frame_field_flag
    }
    bits.flag()?; // direct_8x8_inference_flag
    let fields = if frame_mbs_only { 1 } else { 2 };
    let (unit_x, unit_y) = match chroma_format {
        1 if !separate_planes => (2, 2 * fields),
        2 => (2, fields),
        _ => (1, fields),
    };
    let (mut crop_x, mut crop_y) = (0u32, 0u32);
    if bits.flag()? {
        crop_x = bits.ue()?.checked_add(bits.ue()?)?.checked_mul(unit_x)?;
        crop_y = bits.ue()?.checked_add(bits.ue()?)?.checked_mul(unit_y)?;
    }
    let width = width_in_mbs.checked_mul(16)?.checked_sub(crop_x)?;
    let height = height_in_map_units
        .checked_mul(16 * fields)?
        .checked_sub(crop_y)?;
    let size = Size::new(width, height);
    size.is_supported().then_some(SpsInfo {
        size,
        chroma_format,
        bit_depth_luma,
        bit_depth_chroma,
    })
}

/// 7.3.2.1.1.1; the deltas are signed Exp-Golomb codes.
fn skip_scaling_list(bits: &mut Bits<'_>, length: u32) -> Option<()> {
    let (mut last, mut next) = (8i64, 8i64);
    for _ in 0..length {
        if next != 0 {
            let code = i64::from(bits.ue()?);
            let delta = if code % 2 == 1 {
                (code + 1) / 2
            } else {
                -code / 2
            };
            next = (last + delta).rem_euclid(256);
        }
        if next != 0 {
            last = next;
        }
    }
    Some(())
}

/// Bits of an RBSP, most significant first; leaves out the emulation prevention bytes (7.4.1.1).
struct Bits<'a> {
    bytes: &'a [u8],
    zeros: u8,
    current: u8,
    left: u8,
}

impl<'a> Bits<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            zeros: 0,
            current: 0,
            left: 0,
        }
    }

    fn flag(&mut self) -> Option<bool> {
        if self.left == 0 {
            self.current = self.byte()?;
            self.left = 8;
        }
        self.left -= 1;
        Some(self.current >> self.left & 1 == 1)
    }

    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        if self.zeros == 2 && byte == 3 {
            self.zeros = 0;
            return self.byte();
        }
        self.zeros = if byte == 0 {
            (self.zeros + 1).min(2)
        } else {
            0
        };
        Some(byte)
    }

    /// At most 32 bits.
    fn bits(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            value = value << 1 | u32::from(self.flag()?);
        }
        Some(value)
    }

    /// ue(v) of 9.1.
    fn ue(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        Some((1 << zeros) - 1 + self.bits(zeros)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nal_units_are_found_after_both_start_codes() {
        let stream = [
            9, 9, 0, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x68, 0, 0, 0, 0, 1, 0, 0, 1, 0x65, 2,
        ];
        let found: Vec<&[u8]> = nal_units(&stream).collect();
        assert_eq!(found, [&[0x67, 1][..], &[0x68], &[0x65, 2]]);
        assert_eq!(nal_units(&[]).count(), 0);
        assert_eq!(nal_units(&[0, 0, 1]).count(), 0);
    }

    #[test]
    fn size_of_a_baseline_sps_with_cropping() {
        // 1920x1080, profile 66, written by hand: 120 x 68 macroblocks, 4 units of 2 lines cropped at the bottom.
        let mut writer = String::new();
        writer += "01000010_11100000_00101000"; // profile 66, constraints, level 4.0
        writer += "1_1_1_00110"; // sps id 0, frame_num 4 bits, poc type 0, poc lsb: ue 5
        writer += "010_0"; // one reference frame, no gaps
        writer += "0000001111000"; // 119
        writer += "0000001000100"; // 67
        writer += "1_1"; // frames only, direct 8x8
        writer += "1_1_1_1_00101"; // cropping 0 0 0 4
        writer += "0_1"; // no VUI, stop bit
        let bits: Vec<u8> = writer.bytes().filter(|b| *b != b'_').collect();
        let mut nal = vec![0x67];
        for octet in bits.chunks(8) {
            let text: String = octet.iter().map(|&b| char::from(b)).collect();
            nal.push(u8::from_str_radix(&format!("{text:0<8}"), 2).expect("binary digits"));
        }
        let info = parse_sps(&nal).expect("a well-formed SPS");
        assert_eq!(info.size, Size::new(1920, 1080));
        assert_eq!((info.chroma_format, info.bit_depth_luma), (1, 8));
        for length in 0..10 {
            assert_eq!(parse_sps(&nal[..length]), None);
        }
    }

    proptest! {
        #[test]
        fn units_put_together_come_apart(units in prop::collection::vec(
            prop::collection::vec(1u8.., 1..20), 0..8), long in any::<bool>()) {
            let mut stream = Vec::new();
            for unit in &units {
                stream.extend_from_slice(if long { &[0, 0, 0, 1] } else { &[0, 0, 1] });
                stream.extend_from_slice(unit);
            }
            let found: Vec<Vec<u8>> = nal_units(&stream).map(<[u8]>::to_vec).collect();
            prop_assert_eq!(found, units);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(
            prop_oneof![Just(0u8), Just(1), Just(3), Just(0x67), any::<u8>()], 0..200)) {
            let total: usize = nal_units(&bytes).map(<[u8]>::len).sum();
            prop_assert!(total <= bytes.len());
            let _ = parse_sps(&bytes);
        }
    }
}
