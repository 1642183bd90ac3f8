//! FWHT access units (kernel doc "V4L2_PIX_FMT_FWHT", the format of the virtual codec `vicodec`) as RTP payloads.
//!
//! There is no payload format for it but this one: a byte of flags, then a part of the access unit. The first part has
//! the start flag, the last one the end flag, all parts of a key frame have the key flag.

use super::depacketize::DepacketizeError;

pub(crate) const START: u8 = 0x80;
pub(crate) const END: u8 = 0x40;
pub(crate) const KEY: u8 = 0x20;

/// Cuts an access unit into parts, each with its flags.
#[derive(Clone, Debug)]
pub struct FwhtPacketizer<'a> {
    rest: &'a [u8],
    flags: u8,
    /// Largest payload of the next packet.
    limit: usize,
    /// Largest payload of those after it.
    rest_limit: usize,
}

impl<'a> FwhtPacketizer<'a> {
    /// Payloads of at most `first_limit` bytes for the first packet and `limit` for the others; at least 16 each.
    #[must_use]
    pub fn new(access_unit: &'a [u8], key: bool, first_limit: usize, limit: usize) -> Self {
        Self {
            rest: access_unit,
            flags: if key { START | KEY } else { START },
            limit: first_limit.max(16),
            rest_limit: limit.max(16),
        }
    }

    /// Whether all parts are out.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.rest.is_empty()
    }
}

impl<'a> Iterator for FwhtPacketizer<'a> {
    /// The flags and what follows them in the payload.
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        if self.rest.is_empty() {
            return None;
        }
        let (part, rest) = self.rest.split_at(self.rest.len().min(self.limit - 1));
        let end = if rest.is_empty() { END } else { 0 };
        let flags = self.flags | end;
        self.flags &= !START;
        self.rest = rest;
        self.limit = self.rest_limit;
        Some((flags, part))
    }
}

/// Whether a payload belongs to a key frame.
pub(super) fn is_key(payload: &[u8]) -> bool {
    payload.first().is_some_and(|flags| flags & KEY != 0)
}

/// How far an access unit has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Progress {
    #[default]
    Nothing,
    Begun,
    Whole,
}

/// Appends the part in `payload` to `unit`; how far that brings it, and whether it is of a key frame.
pub(super) fn push(
    unit: &mut Vec<u8>,
    progress: Progress,
    payload: &[u8],
) -> Result<(Progress, bool), DepacketizeError> {
    let (&flags, part) = payload.split_first().ok_or(DepacketizeError::Empty)?;
    if flags & !(START | END | KEY) != 0 {
        return Err(DepacketizeError::Type(flags));
    }
    if part.is_empty() {
        return Err(DepacketizeError::Empty);
    }
    let expected = if flags & START == 0 {
        Progress::Begun
    } else {
        Progress::Nothing
    };
    if progress != expected {
        return Err(DepacketizeError::Fragments);
    }
    unit.extend_from_slice(part);
    let progress = if flags & END == 0 {
        Progress::Begun
    } else {
        Progress::Whole
    };
    Ok((progress, flags & KEY != 0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{AccessUnitAssembler, CodedFormat};
    use super::*;

    fn payloads(unit: &[u8], key: bool, first: usize, limit: usize) -> Vec<Vec<u8>> {
        FwhtPacketizer::new(unit, key, first, limit)
            .map(|(flags, part)| [&[flags], part].concat())
            .collect()
    }

    fn assembler() -> AccessUnitAssembler {
        let mut assembler = AccessUnitAssembler::default();
        assembler.begin(CodedFormat::Fwht);
        assembler
    }

    proptest! {
        #[test]
        fn access_units_survive_the_packets(
            unit in proptest::collection::vec(any::<u8>(), 1..9_000), key: bool,
            first in 16_usize..1_200, limit in 16_usize..1_500,
        ) {
            let mut assembler = assembler();
            for (i, payload) in payloads(&unit, key, first, limit).iter().enumerate() {
                let most = if i == 0 { first } else { limit };
                prop_assert!(payload.len() <= most);
                prop_assert_eq!(is_key(payload), key);
                prop_assert!(i == 0 || assembler.finish().is_err());
                assembler.push(payload).expect("our own payloads");
            }
            prop_assert_eq!(assembler.finish(), Ok((&unit[..], key)));
        }

        #[test]
        fn any_bytes_are_read_without_panic(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8),
        ) {
            let mut assembler = assembler();
            let mut most = 0;
            for payload in &payloads {
                most += payload.len();
                if assembler.push(payload).is_err() {
                    assembler.begin(CodedFormat::Fwht);
                }
                prop_assert!(assembler.data().len() <= most);
            }
            let _ = assembler.finish();
        }
    }

    #[test]
    fn the_flags_are_as_documented() {
        let sent = payloads(&[7; 40], true, 16, 20);
        let heads: Vec<_> = sent.iter().map(|p| (p[0], p.len())).collect();
        assert_eq!(heads, [(0xa0, 16), (0x20, 20), (0x60, 7)]);
        assert_eq!(payloads(&[7], false, 16, 16), [[0xc0, 7]]);
        assert_eq!(payloads(&[], true, 16, 16).len(), 0);
    }

    #[test]
    fn broken_sequences_are_errors() {
        let mut assembler = assembler();
        assert_eq!(assembler.finish(), Err(DepacketizeError::Empty));
        assert_eq!(assembler.push(&[]), Err(DepacketizeError::Empty));
        assert_eq!(assembler.push(&[0x80]), Err(DepacketizeError::Empty));
        assert_eq!(
            assembler.push(&[0x81, 1]),
            Err(DepacketizeError::Type(0x81))
        );
        assert_eq!(assembler.push(&[0x40, 1]), Err(DepacketizeError::Fragments));
        assert_eq!(assembler.push(&[0x80, 1]), Ok(()));
        assert_eq!(assembler.push(&[0x80, 1]), Err(DepacketizeError::Fragments));
        assert_eq!(assembler.finish(), Err(DepacketizeError::Fragments));
        assert_eq!(assembler.push(&[0x40, 2]), Ok(()));
        assert_eq!(assembler.finish(), Ok((&[1, 2][..], false)));
        assert_eq!(assembler.push(&[0x40, 3]), Err(DepacketizeError::Fragments));
    }
}
