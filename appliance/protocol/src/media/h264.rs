//! H.264 byte streams (ITU-T H.264 Annex B) and their RTP payloads (RFC 6184, packetization-mode 1).

/// Largest NAL unit type that may stand alone in a packet; the types above are RTP's own.
pub(crate) const NAL_TYPE_MAX: u8 = 23;
pub(crate) const NAL_IDR: u8 = 5;
pub(crate) const NAL_SPS: u8 = 7;
pub(crate) const NAL_PPS: u8 = 8;
pub(crate) const STAP_A: u8 = 24;
pub(crate) const FU_A: u8 = 28;
pub(crate) const FU_START: u8 = 0x80;
pub(crate) const FU_END: u8 = 0x40;
pub(crate) const TYPE_MASK: u8 = 0x1f;
/// The forbidden bit and the reference importance.
pub(crate) const F_NRI_MASK: u8 = 0xe0;

const START_CODE: [u8; 3] = [0, 0, 1];
/// NAL units in one aggregation packet; an access unit of ours begins with SPS, PPS and perhaps SEI.
const AGGREGATE_MAX: usize = 8;

/// The NAL units of a byte stream with start codes of three or four bytes.
#[must_use]
pub fn nal_units(annex_b: &[u8]) -> NalUnits<'_> {
    let rest = find_start_code(annex_b).and_then(|at| annex_b.get(at + START_CODE.len()..));
    NalUnits { rest }
}

/// Iterator of [`nal_units`]; the items begin with the NAL unit header and are never empty.
#[derive(Clone, Debug)]
pub struct NalUnits<'a> {
    /// Behind a start code.
    rest: Option<&'a [u8]>,
}

impl<'a> Iterator for NalUnits<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let rest = self.rest?;
            let nal = match find_start_code(rest) {
                Some(at) => {
                    self.rest = rest.get(at + START_CODE.len()..);
                    rest.get(..at)?
                }
                None => {
                    self.rest = None;
                    rest
                }
            };
            // trailing_zero_8bits, and the first byte of a four-byte start code; a NAL unit never ends with zero.
            let len = nal
                .iter()
                .rposition(|&byte| byte != 0)
                .map_or(0, |at| at + 1);
            match nal.get(..len) {
                Some(nal) if !nal.is_empty() => return Some(nal),
                _ => {}
            }
        }
    }
}

fn find_start_code(bytes: &[u8]) -> Option<usize> {
    bytes.windows(3).position(|window| window == START_CODE)
}

/// SPS and PPS as they stand in an access unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterSets {
    /// Sequence parameter set, a NAL unit without start code.
    pub sps: Vec<u8>,
    /// Picture parameter set, a NAL unit without start code.
    pub pps: Vec<u8>,
}

impl ParameterSets {
    /// The first of each in an access unit in Annex B form; `None` unless both are there.
    #[must_use]
    pub fn find(annex_b: &[u8]) -> Option<Self> {
        let of_type = |wanted| {
            nal_units(annex_b)
                .find(|nal| nal_type(nal) == wanted && nal.len() >= 4)
                .map(<[u8]>::to_vec)
        };
        Some(Self {
            sps: of_type(NAL_SPS)?,
            pps: of_type(NAL_PPS)?,
        })
    }
}

/// The type in the header of a NAL unit; zero (unspecified) for no bytes.
pub(crate) fn nal_type(nal: &[u8]) -> u8 {
    nal.first().map_or(0, |header| header & TYPE_MASK)
}

/// One RTP payload of an access unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// A single NAL unit packet (§5.6).
    Single(&'a [u8]),
    /// STAP-A (§5.7.1): the first `count` NAL units.
    Aggregate {
        /// NAL units; those from `count` on are empty.
        nals: [&'a [u8]; AGGREGATE_MAX],
        /// How many there are.
        count: usize,
    },
    /// FU-A (§5.8).
    Fragment {
        /// FU indicator and FU header.
        header: [u8; 2],
        /// The part of the NAL unit, without its header.
        part: &'a [u8],
    },
    /// A part of an FWHT access unit.
    Fwht {
        /// Start, end, key.
        flags: u8,
        /// What follows them.
        part: &'a [u8],
    },
}

impl Payload<'_> {
    /// Bytes on the wire. (There is always at least one.)
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a payload is never empty")]
    pub fn len(&self) -> usize {
        match self {
            Self::Single(nal) => nal.len(),
            Self::Aggregate { nals, count } => {
                1 + nals
                    .iter()
                    .take(*count)
                    .map(|nal| 2 + nal.len())
                    .sum::<usize>()
            }
            Self::Fragment { part, .. } => 2 + part.len(),
            Self::Fwht { part, .. } => 1 + part.len(),
        }
    }

    /// Writes the payload to the front of `out`, which has to have [`Payload::len`] bytes.
    pub fn write(&self, mut out: &mut [u8]) {
        match self {
            Self::Single(nal) => copy(&mut out, nal),
            Self::Aggregate { nals, count } => {
                let nals = || nals.iter().take(*count);
                let forbidden = nals().fold(0, |f, nal| f | (first(nal) & 0x80));
                let importance = nals().map(|nal| first(nal) & 0x60).max().unwrap_or(0);
                copy(&mut out, &[forbidden | importance | STAP_A]);
                for nal in nals() {
                    let len = u16::try_from(nal.len()).unwrap_or(u16::MAX);
                    copy(&mut out, &len.to_be_bytes());
                    copy(&mut out, nal);
                }
            }
            Self::Fragment { header, part } => {
                copy(&mut out, header);
                copy(&mut out, part);
            }
            Self::Fwht { flags, part } => {
                copy(&mut out, &[*flags]);
                copy(&mut out, part);
            }
        }
    }
}

fn first(nal: &[u8]) -> u8 {
    nal.first().copied().unwrap_or(0)
}

fn copy(out: &mut &mut [u8], bytes: &[u8]) {
    let taken = std::mem::take(out);
    if let Some((to, rest)) = taken.split_at_mut_checked(bytes.len()) {
        to.copy_from_slice(bytes);
        *out = rest;
    }
}

/// Cuts an access unit into payloads. NAL units of types that RTP uses itself (0, 24 to 31) are left out.
#[derive(Clone, Debug)]
pub struct Packetizer<'a> {
    nals: NalUnits<'a>,
    next: Option<&'a [u8]>,
    /// What is left of a NAL unit that is being fragmented, with its header.
    fragment: Option<(u8, &'a [u8])>,
    /// Largest payload of the next packet.
    limit: usize,
    /// Largest payload of those after it.
    rest_limit: usize,
}

impl<'a> Packetizer<'a> {
    /// Payloads of at most `first_limit` bytes for the first packet and `limit` for the others; at least 16 each.
    #[must_use]
    pub fn new(annex_b: &'a [u8], first_limit: usize, limit: usize) -> Self {
        let mut packetizer = Self {
            nals: nal_units(annex_b),
            next: None,
            fragment: None,
            limit: first_limit.max(16),
            rest_limit: limit.max(16),
        };
        packetizer.read_next();
        packetizer
    }

    /// Whether all payloads are out.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.next.is_none() && self.fragment.is_none()
    }

    fn read_next(&mut self) {
        let sendable = |nal: &&[u8]| (1..=NAL_TYPE_MAX).contains(&nal_type(nal));
        self.next = self.nals.find(sendable);
    }

    fn aggregate(&mut self, nal: &'a [u8]) -> Payload<'a> {
        let mut nals = [&[][..]; AGGREGATE_MAX];
        let mut count = 0;
        let mut size = 1;
        let mut candidate = Some(nal);
        for slot in &mut nals {
            let Some(nal) = candidate.filter(|nal| size + 2 + nal.len() <= self.limit) else {
                break;
            };
            *slot = nal;
            size += 2 + nal.len();
            count += 1;
            if count > 1 {
                self.read_next();
            }
            candidate = self.next;
        }
        if count > 1 {
            Payload::Aggregate { nals, count }
        } else {
            Payload::Single(nal)
        }
    }

    fn fragment(&mut self, header: u8, rest: &'a [u8], start: bool) -> Payload<'a> {
        let (part, rest) = rest.split_at(rest.len().min(self.limit - 2));
        self.fragment = (!rest.is_empty()).then_some((header, rest));
        let mut flags = if start { FU_START } else { 0 };
        if rest.is_empty() {
            flags |= FU_END;
        }
        Payload::Fragment {
            header: [(header & F_NRI_MASK) | FU_A, flags | (header & TYPE_MASK)],
            part,
        }
    }
}

impl<'a> Iterator for Packetizer<'a> {
    type Item = Payload<'a>;

    fn next(&mut self) -> Option<Payload<'a>> {
        let payload = if let Some((header, rest)) = self.fragment.take() {
            self.fragment(header, rest, false)
        } else {
            let nal = self.next?;
            self.read_next();
            match nal.split_first() {
                Some((&header, rest)) if nal.len() > self.limit => {
                    self.fragment(header, rest, true)
                }
                _ => self.aggregate(nal),
            }
        };
        self.limit = self.rest_limit;
        Some(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_streams_are_split_at_both_start_codes() {
        let stream = [
            9, 9, 0, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x68, 2, 0, 0, 0, 0, 1, 0x65, 0, 0, 3, 1, 0, 0, 1,
        ];
        let nals: Vec<_> = nal_units(&stream).collect();
        assert_eq!(nals, [&[0x67, 1][..], &[0x68, 2], &[0x65, 0, 0, 3, 1]]);
        assert_eq!(nal_units(&[1, 2, 3]).count(), 0);
        assert_eq!(nal_units(&[]).count(), 0);
    }

    #[test]
    fn parameter_sets_share_a_packet_and_the_picture_is_fragmented() {
        let mut stream = vec![
            0, 0, 0, 1, 0x67, 1, 2, 3, 0, 0, 0, 1, 0x28, 4, 5, 6, 0, 0, 1,
        ];
        stream.push(0x65);
        stream.extend([7; 40]);
        let payloads: Vec<_> = Packetizer::new(&stream, 20, 22).collect();
        let [
            Payload::Aggregate { count: 2, .. },
            Payload::Fragment { .. },
            Payload::Fragment { .. },
        ] = payloads[..]
        else {
            panic!("{payloads:?}");
        };
        let mut bytes = [0; 13];
        assert_eq!(payloads[0].len(), bytes.len());
        payloads[0].write(&mut bytes);
        assert_eq!(bytes, [0x78, 0, 4, 0x67, 1, 2, 3, 0, 4, 0x28, 4, 5, 6]);
        let headers: Vec<_> = payloads[1..]
            .iter()
            .map(|p| match p {
                Payload::Fragment { header, part } => (*header, part.len()),
                _ => panic!("{p:?}"),
            })
            .collect();
        assert_eq!(headers, [([0x7c, 0x85], 20), ([0x7c, 0x45], 20)]);
    }

    #[test]
    fn parameter_sets_are_found() {
        let stream = [
            0, 0, 1, 0x67, 1, 2, 3, 0, 0, 1, 0x68, 4, 5, 6, 0, 0, 1, 0x65, 1,
        ];
        let sets = ParameterSets::find(&stream).unwrap();
        assert_eq!(
            (sets.sps, sets.pps),
            (vec![0x67, 1, 2, 3], vec![0x68, 4, 5, 6])
        );
        assert_eq!(ParameterSets::find(&stream[..8]), None);
    }
}
