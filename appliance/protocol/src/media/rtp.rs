//! The RTP header (RFC 3550 §5.1) with our two header extensions (RFC 8285 §4.2, one-byte form).

use std::fmt;
use std::time::Duration;

use soft_kvm_core::MonoTime;

/// Payload type of H.264 (RFC 6184), 90 kHz.
pub const H264_PAYLOAD_TYPE: u8 = 96;
/// Payload type of the input protocol.
pub const INPUT_PAYLOAD_TYPE: u8 = 97;
/// Payload type of FWHT (see `docs/WIRE.md`), 90 kHz.
pub const FWHT_PAYLOAD_TYPE: u8 = 98;
/// Ticks of the video's RTP clock in a second.
pub const VIDEO_CLOCK_HZ: u32 = 90_000;
/// Bytes of an RTP header without extensions.
pub const HEADER_LEN: usize = 12;
/// Bytes that [`FrameExtensions`] add to a header.
pub const EXTENSIONS_LEN: usize = 28;

const PROFILE_ONE_BYTE: u16 = 0xbede;
/// Extension id of the absolute capture time.
const ID_CAPTURE_TIME: u8 = 1;
/// Extension id of the stage times.
const ID_STAGES: u8 = 2;
const U24_MAX: u32 = 0x00ff_ffff;

/// A synchronization source identifier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ssrc(pub u32);

impl fmt::Display for Ssrc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// What a datagram on the session's UDP port is, by its clear bytes (RFC 5761 §4). Nothing is authentic yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramKind {
    /// An RTP packet.
    Rtp {
        /// Its stream.
        ssrc: Ssrc,
        /// [`H264_PAYLOAD_TYPE`], [`FWHT_PAYLOAD_TYPE`] or [`INPUT_PAYLOAD_TYPE`], or something unknown.
        payload_type: u8,
    },
    /// A compound RTCP packet.
    Rtcp {
        /// Its sender.
        ssrc: Ssrc,
    },
}

/// Tells RTP from RTCP; `None` for anything else.
#[must_use]
pub fn classify(datagram: &[u8]) -> Option<DatagramKind> {
    let [first, second, _, _, word @ ..] = *datagram.first_chunk::<8>()?;
    if first >> 6 != 2 {
        return None;
    }
    if (192..=223).contains(&second) {
        return Some(DatagramKind::Rtcp {
            ssrc: Ssrc(u32::from_be_bytes(word)),
        });
    }
    let (_, ssrc) = sequence_and_ssrc(datagram)?;
    Some(DatagramKind::Rtp {
        ssrc,
        payload_type: second & 0x7f,
    })
}

/// Wall clock time as RTP and RTCP write it: seconds since 1900 with 32 binary digits after the point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NtpTime(pub u64);

impl NtpTime {
    /// The wall clock at `time` on a machine with this difference (see
    /// [`Welcome::ntp_minus_mono_ns`](crate::control::Welcome::ntp_minus_mono_ns)).
    #[must_use]
    pub fn from_mono(time: MonoTime, ntp_minus_mono_ns: u64) -> Self {
        let nanos = u128::from(time.as_nanos()) + u128::from(ntp_minus_mono_ns);
        let fixed = ((nanos << 32) + 500_000_000) / 1_000_000_000;
        Self(u64::try_from(fixed).unwrap_or(u64::MAX))
    }

    /// The inverse of [`NtpTime::from_mono`], exact to the nanosecond; times before the clock's start are its start.
    #[must_use]
    pub fn to_mono(self, ntp_minus_mono_ns: u64) -> MonoTime {
        let nanos = (u128::from(self.0) * 1_000_000_000 + (1 << 31)) >> 32;
        let mono = nanos.saturating_sub(u128::from(ntp_minus_mono_ns));
        MonoTime::from_nanos(u64::try_from(mono).unwrap_or(u64::MAX))
    }

    /// The middle 32 bits, as report blocks carry them (RFC 3550 §4).
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the middle bits are meant")]
    pub const fn middle(self) -> u32 {
        (self.0 >> 16) as u32
    }
}

/// How long the stages before the network took; each at most 16.7 s, longer times count as that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// From the capture to the converted picture.
    pub convert: Duration,
    /// From the converted picture to the access unit.
    pub encode: Duration,
    /// From the access unit to its packets.
    pub queue: Duration,
}

/// What the first packet of an access unit says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameExtensions {
    /// When the picture was captured, on the sender's wall clock.
    pub captured: NtpTime,
    /// The time in each stage.
    pub stages: Stages,
    /// The source's frame number.
    pub frame: u32,
}

impl FrameExtensions {
    /// The extension block with its four-byte head, padded to whole words.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; EXTENSIONS_LEN] {
        let mut bytes = [0; EXTENSIONS_LEN];
        let mut rest = &mut bytes[..];
        put(&mut rest, &PROFILE_ONE_BYTE.to_be_bytes());
        put(&mut rest, &6u16.to_be_bytes());
        put(&mut rest, &[(ID_CAPTURE_TIME << 4) | 7]);
        put(&mut rest, &self.captured.0.to_be_bytes());
        put(&mut rest, &[(ID_STAGES << 4) | 12]);
        for stage in [self.stages.convert, self.stages.encode, self.stages.queue] {
            let micros = u32::try_from(stage.as_micros()).map_or(U24_MAX, |us| us.min(U24_MAX));
            let [_, low @ ..] = micros.to_be_bytes();
            put(&mut rest, &low);
        }
        put(&mut rest, &self.frame.to_be_bytes());
        bytes
    }

    /// Reads the body of a one-byte extension block; unknown ids are skipped. `None` unless both of ours are there.
    #[must_use]
    pub fn parse(mut body: &[u8]) -> Option<Self> {
        let (mut captured, mut stages) = (None, None);
        while let Some((&head, rest)) = body.split_first() {
            body = rest;
            // RFC 8285 §4.2: a zero byte is padding, id 15 ends the block.
            match head >> 4 {
                0 if head == 0 => continue,
                15 => break,
                id => {
                    let (data, rest) = body.split_at_checked(usize::from(head & 0x0f) + 1)?;
                    body = rest;
                    match id {
                        ID_CAPTURE_TIME => {
                            // Sixteen bytes would carry a clock offset too, which we don't use.
                            captured = data.first_chunk().map(|time| u64::from_be_bytes(*time));
                        }
                        ID_STAGES => stages = <[u8; 13]>::try_from(data).ok(),
                        _ => {}
                    }
                }
            }
        }
        let [a, b, c, d, e, f, g, h, i, frame @ ..] = stages?;
        let micros = |high, mid, low| {
            Duration::from_micros(u64::from(u32::from_be_bytes([0, high, mid, low])))
        };
        Some(Self {
            captured: NtpTime(captured?),
            stages: Stages {
                convert: micros(a, b, c),
                encode: micros(d, e, f),
                queue: micros(g, h, i),
            },
            frame: u32::from_be_bytes(frame),
        })
    }

    /// Reads the extensions of a plain RTP packet, as they stand on the first packet of an access unit.
    #[must_use]
    pub fn of(packet: &rtp_types::RtpPacket<'_>) -> Option<Self> {
        match packet.extension() {
            Some((PROFILE_ONE_BYTE, body)) => Self::parse(body),
            _ => None,
        }
    }
}

/// The fixed part of an RTP header without CSRCs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether this is the last packet of an access unit.
    pub marker: bool,
    /// Payload type, 7 bits.
    pub payload_type: u8,
    /// Sequence number.
    pub sequence: u16,
    /// Media time.
    pub timestamp: u32,
    /// Stream.
    pub ssrc: Ssrc,
}

impl Header {
    /// Writes the header; `extension` tells that an extension block follows.
    #[must_use]
    pub fn to_bytes(&self, extension: bool) -> [u8; HEADER_LEN] {
        let [s0, s1] = self.sequence.to_be_bytes();
        let [t0, t1, t2, t3] = self.timestamp.to_be_bytes();
        let [i0, i1, i2, i3] = self.ssrc.0.to_be_bytes();
        let first = 0x80 | (u8::from(extension) << 4);
        let second = (u8::from(self.marker) << 7) | (self.payload_type & 0x7f);
        [first, second, s0, s1, t0, t1, t2, t3, i0, i1, i2, i3]
    }
}

/// Bytes of the header with CSRCs and extension block: what SRTP authenticates but leaves readable. `None` if the
/// packet is not of version 2 or shorter than its header. The padding is not looked at, it may be encrypted.
#[must_use]
pub fn header_len(packet: &[u8]) -> Option<usize> {
    let &first = packet.first()?;
    if first >> 6 != 2 {
        return None;
    }
    let mut len = HEADER_LEN + 4 * usize::from(first & 0x0f);
    if first & 0x10 != 0 {
        let [_, _, words @ ..] = *packet.get(len..)?.first_chunk::<4>()?;
        len += 4 + 4 * usize::from(u16::from_be_bytes(words));
    }
    (packet.len() >= len).then_some(len)
}

/// The sequence number and stream of a packet with a whole fixed header.
pub(crate) fn sequence_and_ssrc(packet: &[u8]) -> Option<(u16, Ssrc)> {
    let [_, _, s0, s1, _, _, _, _, ssrc @ ..] = *packet.first_chunk::<HEADER_LEN>()?;
    Some((u16::from_be_bytes([s0, s1]), Ssrc(u32::from_be_bytes(ssrc))))
}

/// Copies `bytes` to the front of `rest` and moves `rest` behind them; what does not fit is left out.
pub(crate) fn put(rest: &mut &mut [u8], bytes: &[u8]) {
    let taken = std::mem::take(rest);
    let len = bytes.len().min(taken.len());
    let (to, left) = taken.split_at_mut(len);
    for (to, from) in to.iter_mut().zip(bytes) {
        *to = *from;
    }
    *rest = left;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn extensions() -> FrameExtensions {
        FrameExtensions {
            captured: NtpTime(0x0102_0304_0506_0708),
            stages: Stages {
                convert: Duration::from_micros(1),
                encode: Duration::from_micros(0x00ab_cdef),
                queue: Duration::from_secs(60),
            },
            frame: 0xdead_beef,
        }
    }

    #[test]
    fn the_extension_block_has_the_documented_bytes() {
        let bytes = extensions().to_bytes();
        let expected = [
            0xbe, 0xde, 0, 6, 0x17, 1, 2, 3, 4, 5, 6, 7, 8, 0x2c, 0, 0, 1, 0xab, 0xcd, 0xef, 0xff,
            0xff, 0xff, 0xde, 0xad, 0xbe, 0xef, 0,
        ];
        assert_eq!(bytes, expected);
        let read = FrameExtensions::parse(&bytes[4..]).unwrap();
        assert_eq!(read.frame, 0xdead_beef);
        assert_eq!(read.stages.queue, Duration::from_micros(0x00ff_ffff));
        assert_eq!(FrameExtensions::parse(&bytes[4..20]), None);
    }

    #[test]
    fn rtp_types_reads_what_we_write() {
        let header = Header {
            marker: true,
            payload_type: H264_PAYLOAD_TYPE,
            sequence: 0xfffe,
            timestamp: 0x1234_5678,
            ssrc: Ssrc(0x9abc_def0),
        };
        let mut packet = header.to_bytes(true).to_vec();
        packet.extend(extensions().to_bytes());
        packet.extend(b"payload");
        let read = rtp_types::RtpPacket::parse(&packet).unwrap();
        assert!(read.marker_bit());
        assert_eq!(read.payload_type(), 96);
        assert_eq!(read.sequence_number(), 0xfffe);
        assert_eq!(read.timestamp(), 0x1234_5678);
        assert_eq!(read.ssrc(), 0x9abc_def0);
        assert_eq!(read.payload(), b"payload");
        assert_eq!(FrameExtensions::of(&read).unwrap().frame, 0xdead_beef);
        assert_eq!(header_len(&packet), Some(40));
        assert_eq!(
            classify(&packet),
            Some(DatagramKind::Rtp {
                ssrc: Ssrc(0x9abc_def0),
                payload_type: 96
            })
        );
    }

    proptest! {
        #[test]
        fn ntp_times_come_back_to_the_nanosecond(mono in 0u64..1 << 57, offset in 0u64..4_100_000_000_000_000_000) {
            let time = MonoTime::from_nanos(mono);
            prop_assert_eq!(NtpTime::from_mono(time, offset).to_mono(offset), time);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = classify(&bytes);
            let _ = header_len(&bytes);
            let _ = FrameExtensions::parse(&bytes);
        }
    }
}
