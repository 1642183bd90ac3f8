//! As much of H.264 (ITU-T H.264 08/2021) as a recording needs: its NAL units.

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
        }
    }
}
