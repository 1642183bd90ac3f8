//! Colours for sequence parameter sets that say nothing of them (ITU-T H.264 08/2021, E.1.1).

use super::sps::{Bits, Colours, SequenceParameterSet};

/// What the samples mean, in code points of ITU-T H.273.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColourDescription {
    /// Samples use 0…255.
    pub full_range: bool,
    /// `colour_primaries`.
    pub primaries: u8,
    /// `transfer_characteristics`.
    pub transfer: u8,
    /// `matrix_coefficients`.
    pub matrix: u8,
}

impl ColourDescription {
    /// The set with this description (a NAL unit without start code, as the result is); all else that it says stays as it is, the range
    /// too where it is said.
    ///
    /// `None` if the set describes its colours, or is none that [`SequenceParameterSet::parse`] reads.
    #[must_use]
    pub fn add_to(self, nal: &[u8]) -> Option<Vec<u8>> {
        let (&header, rbsp) = nal.split_first()?;
        let mut bits = Bits::new(rbsp);
        let mut out = Writer::new(header);
        let place = SequenceParameterSet::colours(nal)?;
        let (Colours::NoVui(at) | Colours::NoSignalType(at) | Colours::NoDescription(at)) = place
        else {
            return None;
        };
        for _ in 0..at {
            out.bit(bits.flag()?);
        }
        // The flag that says that it is left out.
        bits.flag()?;
        out.bit(true);
        if let Colours::NoVui(_) = place {
            out.bit(false); // aspect_ratio_info_present_flag
            out.bit(false); // overscan_info_present_flag
            out.bit(true); // video_signal_type_present_flag
        }
        if !matches!(place, Colours::NoDescription(_)) {
            out.put(5, 3); // video_format: unspecified
            out.bit(self.full_range);
            out.bit(true); // colour_description_present_flag
        }
        for code in [self.primaries, self.transfer, self.matrix] {
            out.put(code, 8);
        }
        if let Colours::NoVui(_) = place {
            // chroma_loc_info_present_flag, timing_info_present_flag, nal_hrd_parameters_present_flag,
            // vcl_hrd_parameters_present_flag, pic_struct_present_flag, bitstream_restriction_flag
            out.put(0, 6);
        }
        // The last bit that is set ends the set; only padding follows.
        let mut zeros = 0;
        let mut ended = false;
        while let Some(bit) = bits.flag() {
            if bit {
                (0..std::mem::take(&mut zeros)).for_each(|_| out.bit(false));
                out.bit(true);
                ended = true;
            } else {
                zeros += 1;
            }
        }
        (ended && bits.is_empty()).then(|| out.finish())
    }
}

/// Bits of a NAL unit, with emulation prevention (7.4.1.1).
struct Writer {
    bytes: Vec<u8>,
    zeros: u8,
    current: u8,
    used: u8,
}

impl Writer {
    fn new(header: u8) -> Self {
        Self {
            bytes: vec![header],
            zeros: 0,
            current: 0,
            used: 0,
        }
    }

    fn bit(&mut self, bit: bool) {
        self.current = self.current << 1 | u8::from(bit);
        self.used += 1;
        if self.used == 8 {
            self.byte();
        }
    }

    /// The lowest `count` bits.
    fn put(&mut self, value: u8, count: u32) {
        for place in (0..count).rev() {
            self.bit(value >> place & 1 == 1);
        }
    }

    fn byte(&mut self) {
        let byte = std::mem::take(&mut self.current);
        self.used = 0;
        if self.zeros == 2 && byte <= 3 {
            self.bytes.push(3);
            self.zeros = 0;
        }
        self.bytes.push(byte);
        self.zeros = if byte == 0 { self.zeros + 1 } else { 0 };
    }

    fn finish(mut self) -> Vec<u8> {
        while self.used > 0 {
            self.bit(false);
        }
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BT601: ColourDescription = ColourDescription {
        full_range: true,
        primaries: 6,
        transfer: 6,
        matrix: 6,
    };

    /// A NAL unit from bits written as text; underscores separate.
    fn nal(text: &str) -> Vec<u8> {
        let mut out = Writer::new(0x67);
        for bit in text.bytes().filter(|bit| *bit != b'_') {
            out.bit(bit == b'1');
        }
        out.finish()
    }

    /// Its bits up to the last that is set.
    fn text(nal: &[u8]) -> String {
        let mut bits = Bits::new(&nal[1..]);
        let mut text = String::new();
        while let Some(bit) = bits.flag() {
            text.push(if bit { '1' } else { '0' });
        }
        text.trim_end_matches('0').to_owned()
    }

    fn plain(text: &str) -> String {
        text.replace('_', "")
    }

    // 1920x1080, profile 66, up to the flag for cropping: 120 x 68 macroblocks.
    const HEAD: &str = "01000010_11100000_00101000__1_1_1_00110__010_0__0000001111000_0000001000100__1_1__1_1_1_1_00101";
    const CODES: &str = "00000110_00000110_00000110";

    /// VUIs without a colour description, and whether they say the range.
    const TAILS: &[(&str, bool)] = &[
        ("0", false),
        ("1_0_0_0_0_0_0_0_0_0", false),
        ("1_1_00000001_0_0_1_1_010_0_0_0_0_0", false),
        ("1_0_1_1_1_101_1_0_0_0_0_0_0_0", true),
        ("1_0_1_1_1_101_0_0_0_0_0_0_0_0", true),
    ];

    #[test]
    fn colours_stand_where_they_were_left_out() {
        // Aspect ratio and overscan before them, timing and a restriction behind them.
        let before = "1_1_11111111_0000000000000000_0000000000000001_1_0";
        let behind = format!(
            "0_1_{}1_{}1_1_0_0_0_1_1_1_1_1_1_1_010",
            "0".repeat(31),
            "0".repeat(31)
        );
        for (vui, described, full_range) in [
            (
                "0".to_owned(),
                format!("1_0_0_1_101_1_1_{CODES}_000000"),
                true,
            ),
            (
                format!("{before}_0_{behind}"),
                format!("{before}_1_101_1_1_{CODES}_{behind}"),
                true,
            ),
            (
                format!("{before}_1_010_0_0_{behind}"),
                format!("{before}_1_010_0_1_{CODES}_{behind}"),
                false,
            ),
        ] {
            let set = nal(&format!("{HEAD}_{vui}_1"));
            let added = BT601.add_to(&set).expect("it says nothing of colours");
            assert_eq!(
                text(&added),
                plain(&format!("{HEAD}_{described}_1")),
                "{vui}"
            );
            let old = SequenceParameterSet::parse(&set).expect("well-formed");
            let new = SequenceParameterSet::parse(&added);
            let wanted = SequenceParameterSet {
                full_range,
                matrix_coefficients: 6,
                ..old
            };
            assert_eq!(new, Some(wanted));
            assert_eq!(BT601.add_to(&added), None, "once is enough");
        }
    }

    #[test]
    fn what_is_described_or_no_set_stays() {
        let described = nal(&format!(
            "{HEAD}_1_0_0_1_101_0_1_00000001_00000001_00000001_000000_1"
        ));
        assert_eq!(BT601.add_to(&described), None);
        assert_eq!(BT601.add_to(&[]), None);
        assert_eq!(BT601.add_to(&[0x68, 1, 2, 3]), None);
        let unended = nal(&format!("{HEAD}_0"));
        assert_eq!(BT601.add_to(&unended), None);
    }

    proptest! {
        #[test]
        fn all_else_stays_as_it_is(
            level in any::<u8>(),
            id in 0_u8..=31,
            columns in 1_u32..=64,
            lines in 1_u32..=64,
            (tail, says_range) in prop::sample::select(TAILS),
            full_range in any::<bool>(),
            codes in any::<[u8; 3]>(),
        ) {
            let ue = |value: u32| {
                let digits = (value + 1).ilog2() as usize;
                format!("{}{:b}", "0".repeat(digits), value + 1)
            };
            let head = format!(
                "01001101_00000000_{level:08b}_{}_1_011_1_0_{}_{}_1_1_0",
                ue(id.into()), ue(columns), ue(lines),
            );
            let set = nal(&format!("{head}_{tail}_1"));
            let [primaries, transfer, matrix] = codes;
            let colours = ColourDescription { full_range, primaries, transfer, matrix };
            let old = SequenceParameterSet::parse(&set).expect("well-formed");
            let added = colours.add_to(&set).expect("it says nothing of colours");
            prop_assert!(!added.windows(3).any(|three| matches!(three, [0, 0, 0..=2])));
            prop_assert!(text(&added).starts_with(&plain(&head)));
            let new = SequenceParameterSet::parse(&added);
            let wanted = SequenceParameterSet {
                full_range: if says_range { old.full_range } else { full_range },
                matrix_coefficients: matrix,
                ..old
            };
            prop_assert_eq!(new, Some(wanted));
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(
            prop_oneof![Just(0_u8), Just(1), Just(3), Just(0x67), any::<u8>()], 0..200)) {
            let mut nal = vec![0x67];
            nal.extend(&bytes);
            if let Some(added) = BT601.add_to(&nal) {
                let size = |nal: &[u8]| SequenceParameterSet::parse(nal).map(|set| set.size());
                prop_assert_eq!(size(&added), size(&nal));
            }
        }
    }
}
