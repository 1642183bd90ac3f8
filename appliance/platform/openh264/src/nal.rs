//! What an access unit holds, as far as its NAL unit headers tell (ITU-T H.264 7.4.1, Annex B).

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

/// Looks for the first slice's NAL unit header.
pub(crate) fn contents(access_unit: &[u8]) -> Contents {
    let units = access_unit.windows(4).filter_map(|window| match window {
        [0, 0, 1, header] => Some(header & 0x1F),
        _ => None,
    });
    for unit in units {
        match unit {
            5 => return Contents::Idr,
            1..=4 => return Contents::Predicted,
            _ => {}
        }
    }
    Contents::NoPicture
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_slice_decides() {
        assert_eq!(contents(&[]), Contents::NoPicture);
        assert_eq!(contents(&[0, 0, 0, 1, 0x67, 1, 2]), Contents::NoPicture);
        assert_eq!(
            contents(&[0, 0, 0, 1, 0x67, 9, 0, 0, 1, 0x65, 0x88]),
            Contents::Idr
        );
        assert_eq!(
            contents(&[0, 0, 1, 0x09, 0xF0, 0, 0, 1, 0x41, 0x9A]),
            Contents::Predicted
        );
        assert_eq!(contents(&[0, 0, 1]), Contents::NoPicture);
    }
}
