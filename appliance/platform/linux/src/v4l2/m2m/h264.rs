//! What is in an encoder's H.264: parameter sets kept for drivers that do not repeat them.

use soft_kvm_protocol::media::{ColourDescription, nal_units};
use soft_kvm_video::frame::{Colorimetry, Range};

/// Types of NAL units (ITU-T H.264 table 7-1).
const SLICE: u8 = 1;
const IDR: u8 = 5;
const SPS: u8 = 7;
const PPS: u8 = 8;

/// What a buffer of the encoder holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// A slice of any kind: a picture, or a part of one.
    pub(crate) picture: bool,
    /// A slice of an IDR picture.
    pub(crate) idr: bool,
    /// A sequence parameter set.
    pub(crate) sps: bool,
}

pub(crate) fn contents(access_unit: &[u8]) -> Contents {
    let mut contents = Contents::default();
    for nal in nal_units(access_unit) {
        match nal.first().map_or(0, |header| header & 0x1f) {
            IDR => (contents.picture, contents.idr) = (true, true),
            SLICE => contents.picture = true,
            SPS => contents.sps = true,
            _ => {}
        }
        // Slices are long, and nothing that matters stands behind the first.
        if contents.picture {
            break;
        }
    }
    contents
}

/// The access unit with a description of its colours in each SPS that has none; `None` if there is nothing to add.
pub(super) fn with_colours(access_unit: &[u8], color: Colorimetry) -> Option<Vec<u8>> {
    let [primaries, transfer, matrix] = color.h273();
    let colours = ColourDescription {
        full_range: color.range == Range::Full,
        primaries,
        transfer,
        matrix,
    };
    let is_set = |nal: &&[u8]| nal.first().is_some_and(|header| header & 0x1f == SPS);
    nal_units(access_unit)
        .filter(is_set)
        .find_map(|nal| colours.add_to(nal))?;
    let mut out = Vec::with_capacity(access_unit.len() + 64);
    for nal in nal_units(access_unit) {
        out.extend_from_slice(&[0, 0, 0, 1]);
        let added = Some(nal).filter(is_set).and_then(|nal| colours.add_to(nal));
        out.extend_from_slice(added.as_deref().unwrap_or(nal));
    }
    Some(out)
}

/// The encoder's last SPS and PPS in byte stream form.
#[derive(Debug, Default)]
pub(super) struct Headers(Vec<u8>);

impl Headers {
    /// Keeps the parameter sets of an access unit that has some.
    pub(super) fn keep(&mut self, access_unit: &[u8]) {
        let mut fresh = true;
        for nal in nal_units(access_unit) {
            match nal.first().map_or(0, |header| header & 0x1f) {
                SPS | PPS => {
                    if std::mem::take(&mut fresh) {
                        self.0.clear();
                    }
                    self.0.extend_from_slice(&[0, 0, 0, 1]);
                    self.0.extend_from_slice(nal);
                }
                SLICE | IDR => break,
                _ => {}
            }
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use soft_kvm_protocol::media::SequenceParameterSet;
    use soft_kvm_video::frame::Matrix;

    use super::*;

    const SETS: [u8; 16] = [0, 0, 0, 1, 0x67, 66, 1, 2, 0, 0, 0, 1, 0x68, 9, 9, 9];

    #[test]
    fn parameter_sets_are_kept_and_replaced() {
        let mut headers = Headers::default();
        headers.keep(&[0, 0, 1, 0x41, 1, 2]);
        assert!(headers.bytes().is_empty());
        let unit = [&SETS[..], &[0, 0, 1, 0x65, 0x88, 0, 0, 1, 0x67, 1]].concat();
        headers.keep(&unit);
        assert_eq!(headers.bytes(), SETS);
        headers.keep(&[0, 0, 1, 0x67, 42]);
        assert_eq!(headers.bytes(), [0, 0, 0, 1, 0x67, 42]);
    }

    #[test]
    fn the_first_slice_decides() {
        let unit = |tail: &[u8]| contents(&[&SETS[..], tail].concat());
        assert!(!unit(&[]).picture && unit(&[]).sps);
        assert!(unit(&[0, 0, 1, 0x65, 1]).idr);
        assert!(unit(&[0, 0, 1, 0x41, 1]).picture);
        assert_eq!(contents(&[]), Contents::default());
    }

    #[test]
    fn colours_are_added_to_sets_without() {
        // 1920x1080, constrained baseline, no VUI.
        let set = [
            0x67, 0x42, 0xe0, 0x28, 0xe6, 0x40, 0x3c, 0x01, 0x13, 0xf2, 0xa0,
        ];
        let pps = [0, 0, 0, 1, 0x68, 9, 9, 9];
        let slice = [0, 0, 0, 1, 0x65, 0x88, 0x84];
        let unit = [&[0, 0, 1][..], &set, &pps, &slice].concat();
        let color = Colorimetry {
            matrix: Matrix::Bt601,
            range: Range::Limited,
        };
        let added = with_colours(&unit, color).expect("the set has none");
        let sets: Vec<_> = nal_units(&added).collect();
        let described = SequenceParameterSet::parse(sets[0]).expect("well-formed");
        assert_eq!(
            (described.matrix_coefficients, described.full_range),
            (6, false)
        );
        assert!(added.ends_with(&[&pps[..], &slice].concat()));
        assert_eq!(with_colours(&added, color), None);
        assert_eq!(with_colours(&slice, color), None);
    }
}
