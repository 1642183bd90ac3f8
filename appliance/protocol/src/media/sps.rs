//! Sequence parameter sets (ITU-T H.264 08/2021, 7.3.2.1.1), as far as the picture's size, layout and colours need it.

use soft_kvm_core::Size;

/// What a sequence parameter set says of the pictures; of the VUI in it only the colours are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceParameterSet {
    /// `profile_idc`: 66 is baseline, 77 main, 100 high.
    pub profile_idc: u8,
    /// `chroma_format_idc`: 1 is 4:2:0.
    pub chroma_format_idc: u8,
    /// Bits of a luma sample.
    pub bit_depth_luma: u8,
    /// Bits of a chroma sample.
    pub bit_depth_chroma: u8,
    /// Whether it brings scaling lists of its own.
    pub scaling_matrix: bool,
    /// `pic_order_cnt_type`, 0 to 2.
    pub pic_order_cnt_type: u8,
    /// `max_num_ref_frames`, at most 16.
    pub max_num_ref_frames: u8,
    /// `gaps_in_frame_num_value_allowed_flag`: whether a missing picture may be on purpose.
    pub gaps_in_frame_num: bool,
    /// `frame_mbs_only_flag`: no interlacing.
    pub frame_mbs_only: bool,
    /// Size of the coded picture in pixels, a multiple of 16 each way.
    pub coded: Size,
    /// What is cropped at each side.
    pub crop: Crop,
    /// `video_full_range_flag`: samples use 0…255.
    pub full_range: bool,
    /// `matrix_coefficients` (table E-5): 1 is BT.709, 2 unspecified, 5 and 6 BT.601, 9 BT.2020.
    pub matrix_coefficients: u8,
}

/// Whether a set describes its colours; else the flag that says that it does not, by the bits before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colours {
    /// `vui_parameters_present_flag`.
    NoVui(usize),
    /// `video_signal_type_present_flag`.
    NoSignalType(usize),
    /// `colour_description_present_flag`.
    NoDescription(usize),
    /// It does.
    Described,
}

/// Pixels of the coded picture that are not shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crop {
    /// Columns at the left.
    pub left: u32,
    /// Columns at the right.
    pub right: u32,
    /// Lines at the top.
    pub top: u32,
    /// Lines at the bottom.
    pub bottom: u32,
}

impl SequenceParameterSet {
    /// Reads one with its NAL unit header, without start code.
    ///
    /// `None` if it is not one, is broken, has a value that H.264 rules out, or crops to a picture of a size that
    /// is not supported ([`Size::is_supported`]).
    #[must_use]
    pub fn parse(nal: &[u8]) -> Option<Self> {
        Self::read(nal).map(|(set, _)| set)
    }

    /// Where a set says what its colours are, or leaves it out.
    pub(super) fn colours(nal: &[u8]) -> Option<Colours> {
        Self::read(nal).map(|(_, colours)| colours)
    }

    fn read(nal: &[u8]) -> Option<(Self, Colours)> {
        let (&header, rbsp) = nal.split_first()?;
        if header & 0x9F != 7 {
            return None;
        }
        let mut bits = Bits::new(rbsp);
        let profile_idc = u8::try_from(bits.bits(8)?).ok()?;
        bits.bits(16)?; // constraint flags, level_idc
        bits.at_most(31)?; // seq_parameter_set_id
        let mut chroma_format_idc = 1;
        let (mut bit_depth_luma, mut bit_depth_chroma) = (8, 8);
        let mut scaling_matrix = false;
        if Self::names_chroma_format(profile_idc) {
            chroma_format_idc = bits.at_most(3)?;
            if chroma_format_idc == 3 {
                bits.flag()?; // separate_colour_plane_flag
            }
            bit_depth_luma = 8 + bits.at_most(6)?;
            bit_depth_chroma = 8 + bits.at_most(6)?;
            bits.flag()?; // qpprime_y_zero_transform_bypass_flag
            scaling_matrix = bits.flag()?;
            if scaling_matrix {
                skip_scaling_lists(&mut bits, chroma_format_idc)?;
            }
        }
        bits.at_most(12)?; // log2_max_frame_num_minus4
        let pic_order_cnt_type = bits.at_most(2)?;
        match pic_order_cnt_type {
            0 => drop(bits.at_most(12)?), // log2_max_pic_order_cnt_lsb_minus4
            1 => {
                bits.flag()?; // delta_pic_order_always_zero_flag
                bits.ue()?; // offset_for_non_ref_pic; se(v) has the same length
                bits.ue()?; // offset_for_top_to_bottom_field
                for _ in 0..bits.at_most(255)? {
                    bits.ue()?; // offset_for_ref_frame
                }
            }
            _ => {}
        }
        let max_num_ref_frames = bits.at_most(16)?;
        let gaps_in_frame_num = bits.flag()?;
        let width_in_mbs = bits.ue()?.checked_add(1)?;
        let height_in_map_units = bits.ue()?.checked_add(1)?;
        let frame_mbs_only = bits.flag()?;
        if !frame_mbs_only {
            bits.flag()?; // mb_adaptive_frame_field_flag
        }
        bits.flag()?; // direct_8x8_inference_flag
        let fields = if frame_mbs_only { 1 } else { 2 };
        let unit = match chroma_format_idc {
            1 => (2, 2 * fields),
            2 => (2, fields),
            _ => (1, fields),
        };
        let crop = if bits.flag()? {
            bits.crop(unit)?
        } else {
            Crop::default()
        };
        let at = bits.taken;
        let (full_range, matrix_coefficients, colours) = if bits.flag()? {
            vui_colours(&mut bits)?
        } else {
            (false, MATRIX_UNSPECIFIED, Colours::NoVui(at))
        };
        let set = Self {
            profile_idc,
            chroma_format_idc,
            bit_depth_luma,
            bit_depth_chroma,
            scaling_matrix,
            pic_order_cnt_type,
            max_num_ref_frames,
            gaps_in_frame_num,
            frame_mbs_only,
            coded: Size::new(
                width_in_mbs.checked_mul(16)?,
                height_in_map_units.checked_mul(16 * fields)?,
            ),
            crop,
            full_range,
            matrix_coefficients,
        };
        set.cropped().filter(|size| size.is_supported())?;
        Some((set, colours))
    }

    /// The picture's size after cropping.
    #[must_use]
    pub fn size(&self) -> Size {
        self.cropped().unwrap_or_default()
    }

    /// Whether sets of this profile name a chroma format and bit depths (7.3.2.1.1).
    #[must_use]
    pub fn names_chroma_format(profile_idc: u8) -> bool {
        matches!(
            profile_idc,
            100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135
        )
    }

    fn cropped(&self) -> Option<Size> {
        let left = |side: u32, before: u32, behind: u32| {
            side.checked_sub(before)
                .and_then(|side| side.checked_sub(behind))
        };
        Some(Size::new(
            left(self.coded.width, self.crop.left, self.crop.right)?,
            left(self.coded.height, self.crop.top, self.crop.bottom)?,
        ))
    }
}

/// `matrix_coefficients` of a stream that does not say.
const MATRIX_UNSPECIFIED: u8 = 2;

/// The VUI up to its colours (E.1.1): `video_full_range_flag` and `matrix_coefficients`.
fn vui_colours(bits: &mut Bits<'_>) -> Option<(bool, u8, Colours)> {
    const EXTENDED_SAR: u32 = 255;
    if bits.flag()? && bits.bits(8)? == EXTENDED_SAR {
        bits.bits(32)?; // sar_width, sar_height
    }
    if bits.flag()? {
        bits.flag()?; // overscan_appropriate_flag
    }
    let at = bits.taken;
    if !bits.flag()? {
        return Some((false, MATRIX_UNSPECIFIED, Colours::NoSignalType(at)));
    }
    bits.bits(3)?; // video_format
    let full_range = bits.flag()?;
    let at = bits.taken;
    if !bits.flag()? {
        return Some((full_range, MATRIX_UNSPECIFIED, Colours::NoDescription(at)));
    }
    bits.bits(16)?; // colour_primaries, transfer_characteristics
    let matrix = u8::try_from(bits.bits(8)?).ok()?;
    Some((full_range, matrix, Colours::Described))
}

fn skip_scaling_lists(bits: &mut Bits<'_>, chroma_format_idc: u8) -> Option<()> {
    for list in 0..if chroma_format_idc == 3 { 12 } else { 8 } {
        if bits.flag()? {
            skip_scaling_list(bits, if list < 6 { 16 } else { 64 })?;
        }
    }
    Some(())
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
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    zeros: u8,
    current: u8,
    left: u8,
    /// Bits that were given out.
    taken: usize,
}

impl<'a> Bits<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            zeros: 0,
            current: 0,
            left: 0,
            taken: 0,
        }
    }

    /// Whether all bytes were read.
    pub(super) const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn flag(&mut self) -> Option<bool> {
        if self.left == 0 {
            self.current = self.byte()?;
            self.left = 8;
        }
        self.left -= 1;
        self.taken += 1;
        Some(self.current >> self.left & 1 == 1)
    }

    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        if self.zeros == 2 && byte == 3 {
            self.zeros = 0;
            // Nothing else may follow (7.4.1), and decoders differ in what they make of it.
            return match rest.first() {
                Some(0..=3) => self.byte(),
                _ => None,
            };
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

    /// ue(v) of 9.1, below 2^32 - 1.
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

    fn at_most(&mut self, most: u8) -> Option<u8> {
        u8::try_from(self.ue()?).ok().filter(|&value| value <= most)
    }

    /// The four offsets, in units of so many columns and lines.
    fn crop(&mut self, (columns, lines): (u32, u32)) -> Option<Crop> {
        Some(Crop {
            left: self.ue()?.checked_mul(columns)?,
            right: self.ue()?.checked_mul(columns)?,
            top: self.ue()?.checked_mul(lines)?,
            bottom: self.ue()?.checked_mul(lines)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A NAL unit from bits written as text; underscores separate.
    fn nal(text: &str) -> Vec<u8> {
        let bits: Vec<u8> = text.bytes().filter(|bit| *bit != b'_').collect();
        let mut nal = vec![0x67];
        for octet in bits.chunks(8) {
            let text: String = octet.iter().map(|&bit| char::from(bit)).collect();
            nal.push(u8::from_str_radix(&format!("{text:0<8}"), 2).expect("binary digits"));
        }
        nal
    }

    // 1920x1080, profile 66: 120 x 68 macroblocks.
    const HEAD: &str =
        "01000010_11100000_00101000__1_1_1_00110__010_0__0000001111000_0000001000100__1_1";

    #[test]
    fn size_of_a_baseline_set_with_cropping() {
        let nal = nal(&format!("{HEAD}_1_1_1_1_00101_0_1"));
        let set = SequenceParameterSet::parse(&nal).expect("well-formed");
        assert_eq!(set.size(), Size::new(1920, 1080));
        assert_eq!(set.coded, Size::new(1920, 1088));
        let crop = Crop {
            bottom: 8,
            ..Crop::default()
        };
        assert_eq!(set.crop, crop);
        assert_eq!(
            (set.profile_idc, set.chroma_format_idc, set.bit_depth_luma),
            (66, 1, 8)
        );
        assert_eq!((set.pic_order_cnt_type, set.max_num_ref_frames), (0, 1));
        assert!(set.frame_mbs_only && !set.gaps_in_frame_num);
        for length in 0..10 {
            assert_eq!(SequenceParameterSet::parse(&nal[..length]), None);
        }
    }

    #[test]
    fn without_cropping_the_coded_size_is_shown() {
        let set = SequenceParameterSet::parse(&nal(&format!("{HEAD}_0_0_1"))).expect("well-formed");
        assert_eq!((set.size(), set.crop), (set.coded, Crop::default()));
    }

    #[test]
    fn crops_beyond_the_picture_are_refused() {
        // ue(v) 2^32 - 2, the largest: minus two where somebody reads it as a signed number.
        let huge = format!("{}1{}", "0".repeat(31), "1".repeat(31));
        // 2^31 - 1: added to itself it wraps to minus two.
        let half = format!("{}1{}", "0".repeat(31), "0".repeat(31));
        for crop in [
            format!("{huge}_1_1_1"),
            format!("1_{huge}_1_1"),
            format!("{huge}_00100_1_1"),
            format!("1_1_{huge}_00100"),
            format!("1_1_1_{huge}"),
            format!("{half}_{half}_1_1"),
            format!("1_1_{half}_{half}"),
            // 480 + 480 units of two columns: nothing is left.
            "00000000111100001_00000000111100001_1_1".to_owned(),
        ] {
            let nal = nal(&format!("{HEAD}_1_{crop}_0_1"));
            assert_eq!(SequenceParameterSet::parse(&nal), None, "{crop}");
        }
    }

    #[test]
    fn colours_are_read_from_the_vui() {
        for (vui, colours) in [
            ("0", (false, 2)),
            ("1_0_0_0", (false, 2)),
            ("1_1_00000001_0_1_101_1_0", (true, 2)),
            ("1_0_1_1_1_101_0_1_00000110_00000110_00000110", (false, 6)),
            (
                "1_1_11111111_0000000000010000_0000000000001011_0_1_101_1_1_00000001_00000001_00000001",
                (true, 1),
            ),
        ] {
            let nal = nal(&format!("{HEAD}_0_{vui}_1"));
            let set = SequenceParameterSet::parse(&nal).expect("well-formed");
            assert_eq!((set.full_range, set.matrix_coefficients), colours, "{vui}");
        }
        let cut = nal(&format!("{HEAD}_0_1_0_0_1_101_0_1"));
        assert_eq!(
            SequenceParameterSet::parse(&cut),
            None,
            "ends within the VUI"
        );
    }

    #[test]
    fn a_misplaced_emulation_prevention_byte_is_refused() {
        let good = nal(&format!("{HEAD}_0_0_1"));
        assert!(SequenceParameterSet::parse(&good).is_some());
        let mut bad = good.clone();
        bad.splice(4..4, [0, 0, 3]);
        assert_eq!(SequenceParameterSet::parse(&bad), None);
        let mut other = good;
        other[0] = 0x68;
        assert_eq!(SequenceParameterSet::parse(&other), None, "not an SPS");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(
            prop_oneof![Just(0_u8), Just(1), Just(3), Just(0x67), any::<u8>()], 0..200)) {
            let mut nal = vec![0x67];
            nal.extend(&bytes);
            for nal in [&nal, &bytes] {
                if let Some(set) = SequenceParameterSet::parse(nal) {
                    prop_assert!(set.size().is_supported());
                }
            }
        }
    }
}
