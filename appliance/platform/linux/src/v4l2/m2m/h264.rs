//! What is in an encoder's H.264: parameter sets kept for drivers that do not repeat them.

use soft_kvm_protocol::media::nal_units;

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
}
