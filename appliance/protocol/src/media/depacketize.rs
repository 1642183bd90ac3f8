//! From RTP payloads in order (RFC 6184 single NAL units, STAP-A, FU-A; FWHT parts) back to an access unit: H.264 in
//! Annex B form.

use super::CodedFormat;
use super::fwht::{self, Progress};
use super::h264::{
    F_NRI_MASK, FU_A, FU_END, FU_START, NAL_IDR, NAL_SPS, NAL_TYPE_MAX, STAP_A, TYPE_MASK, nal_type,
};

const START_CODE: [u8; 4] = [0, 0, 0, 1];

/// Why a payload does not continue the access unit. The unit is lost then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DepacketizeError {
    /// A payload or a NAL unit in it without bytes.
    #[error("empty payload or NAL unit")]
    Empty,
    /// Not allowed in packetization-mode 1, or reserved.
    #[error("payload header {0:#04x} is reserved or not for packetization-mode 1")]
    Type(u8),
    /// An aggregation packet that is shorter than its NAL units.
    #[error("truncated aggregation packet")]
    Truncated,
    /// A fragment without a start, or a start inside a fragmented NAL unit.
    #[error("fragments are out of order")]
    Fragments,
}

/// Collects one access unit after the other in a buffer that is reused.
#[derive(Debug, Default)]
pub struct AccessUnitAssembler {
    format: CodedFormat,
    data: Vec<u8>,
    idr: bool,
    /// Inside a fragmented NAL unit.
    fragment: bool,
    /// Of an FWHT access unit.
    progress: Progress,
}

impl AccessUnitAssembler {
    /// An assembler for access units of up to `capacity` bytes without allocation.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            data: Vec::with_capacity(capacity),
            ..Self::default()
        }
    }

    /// Begins an access unit of this format.
    pub fn begin(&mut self, format: CodedFormat) {
        self.format = format;
        self.clear();
    }

    /// Begins the next access unit, of the format of the one before.
    pub fn clear(&mut self) {
        self.data.clear();
        self.idr = false;
        self.fragment = false;
        self.progress = Progress::Nothing;
    }

    /// Appends the payload of the next packet.
    ///
    /// # Errors
    /// [`DepacketizeError`]; clear before going on.
    pub fn push(&mut self, payload: &[u8]) -> Result<(), DepacketizeError> {
        if self.format == CodedFormat::Fwht {
            let (progress, key) = fwht::push(&mut self.data, self.progress, payload)?;
            self.progress = progress;
            self.idr |= key;
            return Ok(());
        }
        match nal_type(payload) {
            FU_A => self.push_fragment(payload),
            _ if self.fragment => Err(DepacketizeError::Fragments),
            STAP_A => {
                let mut rest = payload.get(1..).filter(|rest| !rest.is_empty());
                if rest.is_none() {
                    return Err(DepacketizeError::Truncated);
                }
                while let Some((len, tail)) = rest.and_then(|rest| rest.split_first_chunk::<2>()) {
                    let len = usize::from(u16::from_be_bytes(*len));
                    let (nal, tail) = tail
                        .split_at_checked(len)
                        .ok_or(DepacketizeError::Truncated)?;
                    self.push_nal(nal)?;
                    rest = Some(tail);
                }
                match rest {
                    Some([]) => Ok(()),
                    _ => Err(DepacketizeError::Truncated),
                }
            }
            _ => self.push_nal(payload),
        }
    }

    /// The access unit and whether it holds an IDR picture (FWHT: is a key frame).
    ///
    /// # Errors
    /// [`DepacketizeError::Fragments`] inside a fragmented NAL unit or FWHT access unit, [`DepacketizeError::Empty`] without any.
    pub fn finish(&self) -> Result<(&[u8], bool), DepacketizeError> {
        if self.fragment || self.progress == Progress::Begun {
            return Err(DepacketizeError::Fragments);
        }
        if self.data.is_empty() {
            return Err(DepacketizeError::Empty);
        }
        Ok((&self.data, self.idr))
    }

    /// The bytes so far.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    fn push_nal(&mut self, nal: &[u8]) -> Result<(), DepacketizeError> {
        let &header = nal.first().ok_or(DepacketizeError::Empty)?;
        self.start_nal(header)?;
        self.data
            .extend_from_slice(nal.get(1..).unwrap_or_default());
        Ok(())
    }

    fn push_fragment(&mut self, payload: &[u8]) -> Result<(), DepacketizeError> {
        let (&[indicator, header], part) = payload
            .split_first_chunk()
            .ok_or(DepacketizeError::Truncated)?;
        let (start, end) = (header & FU_START != 0, header & FU_END != 0);
        if start == self.fragment || (start && end) {
            return Err(DepacketizeError::Fragments);
        }
        if start {
            self.start_nal((indicator & F_NRI_MASK) | (header & TYPE_MASK))?;
        }
        self.data.extend_from_slice(part);
        self.fragment = !end;
        Ok(())
    }

    fn start_nal(&mut self, header: u8) -> Result<(), DepacketizeError> {
        let nal_type = header & TYPE_MASK;
        if !(1..=NAL_TYPE_MAX).contains(&nal_type) {
            return Err(DepacketizeError::Type(nal_type));
        }
        self.idr |= nal_type == NAL_IDR;
        self.data.extend_from_slice(&START_CODE);
        self.data.push(header);
        Ok(())
    }
}

/// Whether a payload belongs to an access unit with an IDR picture (H.264: it holds a part of one, or a sequence
/// parameter set; FWHT: it says so).
#[must_use]
pub fn announces_idr(format: CodedFormat, payload: &[u8]) -> bool {
    if format == CodedFormat::Fwht {
        return fwht::is_key(payload);
    }
    let is_key = |nal_type| nal_type == NAL_IDR || nal_type == NAL_SPS;
    match nal_type(payload) {
        FU_A => payload
            .get(1)
            .is_some_and(|header| is_key(header & TYPE_MASK)),
        // The sequence parameter set comes first.
        STAP_A => payload
            .get(3)
            .is_some_and(|header| is_key(header & TYPE_MASK)),
        nal_type => is_key(nal_type),
    }
}

#[cfg(test)]
mod tests {
    use super::super::h264::{Packetizer, nal_units};
    use super::*;
    use proptest::prelude::*;

    fn nal() -> impl Strategy<Value = Vec<u8>> {
        let size = prop_oneof![1usize..40, 1_100usize..1_300, 1usize..9_000];
        (1u8..=12, 0u8..4, size).prop_map(|(nal_type, importance, size)| {
            let mut nal = vec![(importance << 5) | nal_type];
            // No byte is zero or one, so that no start code appears inside.
            nal.extend((1..size).map(|i| u8::try_from(i % 250 + 2).unwrap()));
            nal
        })
    }

    fn payloads(annex_b: &[u8], first: usize, limit: usize) -> Vec<Vec<u8>> {
        Packetizer::new(annex_b, first, limit)
            .map(|payload| {
                let mut bytes = vec![0; payload.len()];
                payload.write(&mut bytes);
                bytes
            })
            .collect()
    }

    proptest! {
        #[test]
        fn access_units_survive_the_packets(
            nals in proptest::collection::vec(nal(), 1..12),
            first in 64usize..1_200, limit in 64usize..1_500,
        ) {
            let mut stream = Vec::new();
            for nal in &nals {
                stream.extend(START_CODE);
                stream.extend(nal);
            }
            let mut assembler = AccessUnitAssembler::default();
            for (i, payload) in payloads(&stream, first, limit).iter().enumerate() {
                let most = if i == 0 { first } else { limit };
                prop_assert!(payload.len() <= most);
                assembler.push(payload).unwrap();
            }
            let (data, idr) = assembler.finish().unwrap();
            prop_assert_eq!(data, &stream[..]);
            prop_assert_eq!(idr, nals.iter().any(|nal| nal_type(nal) == NAL_IDR));
            prop_assert_eq!(nal_units(data).count(), nals.len());
        }

        #[test]
        fn any_bytes_are_read_without_panic(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8),
        ) {
            let mut assembler = AccessUnitAssembler::default();
            for payload in &payloads {
                let _ = announces_idr(CodedFormat::H264, payload);
                if assembler.push(payload).is_err() {
                    assembler.clear();
                }
            }
            let _ = assembler.finish();
        }
    }

    #[test]
    fn broken_sequences_are_errors() {
        let mut assembler = AccessUnitAssembler::default();
        assert_eq!(assembler.finish(), Err(DepacketizeError::Empty));
        assert_eq!(assembler.push(&[]), Err(DepacketizeError::Empty));
        assert_eq!(
            assembler.push(&[0x7c, 0x05, 1]),
            Err(DepacketizeError::Fragments)
        );
        assert_eq!(
            assembler.push(&[0x7c, 0xc5, 1]),
            Err(DepacketizeError::Fragments)
        );
        assert_eq!(assembler.push(&[0x7c]), Err(DepacketizeError::Truncated));
        assert_eq!(
            assembler.push(&[0x78, 0, 9, 1]),
            Err(DepacketizeError::Truncated)
        );
        assert_eq!(assembler.push(&[0x78]), Err(DepacketizeError::Truncated));
        assert_eq!(assembler.push(&[0x79, 1]), Err(DepacketizeError::Type(25)));
        assert_eq!(assembler.push(&[0x7c, 0x85, 1]), Ok(()));
        assert_eq!(assembler.push(&[0x65, 1]), Err(DepacketizeError::Fragments));
        assert_eq!(assembler.finish(), Err(DepacketizeError::Fragments));
    }
}
