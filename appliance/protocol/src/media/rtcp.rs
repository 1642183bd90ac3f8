//! RTCP (RFC 3550 §6, RFC 4585, RFC 5104): compound packets out, messages in.

use rtcp_types::{
    Bye, Compound, Fir, Nack, Packet, PayloadFeedback, Pli, ReceiverReport, SenderReport,
    TransportFeedback,
};

use super::rtp::{NtpTime, Ssrc};

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const GOODBYE: u8 = 203;
const TRANSPORT_FEEDBACK: u8 = 205;
const PAYLOAD_FEEDBACK: u8 = 206;

/// NACK entries in one packet; each names up to 17 packets.
pub const NACK_ENTRIES_MAX: usize = 64;
/// Room for the largest compound packet that [`CompoundWriter`] makes here, before SRTCP.
pub const COMPOUND_MAX: usize = 512;

/// What a receiver says about a stream (RFC 3550 §6.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportBlock {
    /// The stream.
    pub ssrc: Ssrc,
    /// Packets lost since the last report, in 256ths of those expected. Packets that came only as a repair count as lost.
    pub fraction_lost: u8,
    /// Packets lost since the start, 24 bits.
    pub cumulative_lost: u32,
    /// Highest sequence number with its cycles above.
    pub highest_sequence: u32,
    /// Interarrival jitter in RTP ticks.
    pub jitter: u32,
    /// Middle 32 bits of the last sender report's NTP time; zero without one.
    pub last_sender_report: u32,
    /// Since then, in 1/65536 s.
    pub delay_since_last: u32,
}

/// One statement of a compound packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// A sender report's head.
    SenderReport {
        /// The stream.
        ssrc: Ssrc,
        /// The sender's wall clock.
        ntp: NtpTime,
        /// The same time on the stream's clock.
        rtp_timestamp: u32,
    },
    /// A report block of a sender or receiver report.
    Report(ReportBlock),
    /// One packet is missing (RFC 4585 §6.2.1).
    Nack {
        /// The stream.
        media: Ssrc,
        /// The packet's sequence number.
        sequence: u16,
    },
    /// A picture was lost (RFC 4585 §6.3.1).
    PictureLoss {
        /// The stream.
        media: Ssrc,
    },
    /// A key frame is wanted (RFC 5104 §4.3.1).
    FullIntraRequest {
        /// The stream.
        media: Ssrc,
        /// Changes with each new request; repetitions keep it.
        command: u8,
    },
    /// The sender leaves.
    Goodbye {
        /// Its stream.
        ssrc: Ssrc,
    },
}

/// Bytes that are not a compound RTCP packet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed RTCP: {0}")]
pub struct RtcpError(String);

/// Reads a plain compound packet and hands out its messages in order; unknown packet types are skipped.
///
/// # Errors
/// [`RtcpError`] at the first malformed packet; the messages before it have been handed out.
pub fn read(packet: &[u8], mut each: impl FnMut(Message)) -> Result<(), RtcpError> {
    let error = |error: rtcp_types::RtcpParseError| RtcpError(error.to_string());
    for packet in Compound::parse(packet).map_err(error)? {
        match packet.map_err(error)? {
            Packet::Sr(report) => read_sender_report(&report, &mut each),
            Packet::Rr(report) => read_receiver_report(&report, &mut each),
            Packet::Bye(bye) => read_goodbye(&bye, &mut each),
            Packet::TransportFeedback(feedback) => read_nack(&feedback, &mut each),
            Packet::PayloadFeedback(feedback) => read_picture_feedback(&feedback, &mut each),
            _ => {}
        }
    }
    Ok(())
}

fn read_sender_report(report: &SenderReport<'_>, each: &mut impl FnMut(Message)) {
    each(Message::SenderReport {
        ssrc: Ssrc(report.ssrc()),
        ntp: NtpTime(report.ntp_timestamp()),
        rtp_timestamp: report.rtp_timestamp(),
    });
    report
        .report_blocks()
        .for_each(|block| each(Message::Report(block.into())));
}

fn read_receiver_report(report: &ReceiverReport<'_>, each: &mut impl FnMut(Message)) {
    report
        .report_blocks()
        .for_each(|block| each(Message::Report(block.into())));
}

fn read_goodbye(bye: &Bye<'_>, each: &mut impl FnMut(Message)) {
    bye.ssrcs()
        .for_each(|ssrc| each(Message::Goodbye { ssrc: Ssrc(ssrc) }));
}

fn read_nack(feedback: &TransportFeedback<'_>, each: &mut impl FnMut(Message)) {
    let media = Ssrc(feedback.media_ssrc());
    if let Ok(nack) = feedback.parse_fci::<Nack<'_>>() {
        nack.entries()
            .for_each(|sequence| each(Message::Nack { media, sequence }));
    }
}

fn read_picture_feedback(feedback: &PayloadFeedback<'_>, each: &mut impl FnMut(Message)) {
    if feedback.parse_fci::<Pli<'_>>().is_ok() {
        let media = Ssrc(feedback.media_ssrc());
        each(Message::PictureLoss { media });
    } else if let Ok(fir) = feedback.parse_fci::<Fir<'_>>() {
        fir.entries().for_each(|entry| {
            each(Message::FullIntraRequest {
                media: Ssrc(entry.ssrc()),
                command: entry.sequence(),
            });
        });
    }
}

impl From<rtcp_types::ReportBlock<'_>> for ReportBlock {
    fn from(block: rtcp_types::ReportBlock<'_>) -> Self {
        Self {
            ssrc: Ssrc(block.ssrc()),
            fraction_lost: block.fraction_lost(),
            cumulative_lost: block.cumulative_lost(),
            highest_sequence: block.extended_sequence_number(),
            jitter: block.interarrival_jitter(),
            last_sender_report: block.last_sender_report_timestamp(),
            delay_since_last: block.delay_since_last_sender_report_timestamp(),
        }
    }
}

/// Appends packets to a compound packet in a reused buffer. A report has to come first, then the source description
/// (RFC 3550 §6.1).
#[derive(Debug)]
pub struct CompoundWriter<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> CompoundWriter<'a> {
    /// Replaces what is in `out`.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        out.clear();
        Self { out }
    }

    /// A sender report without report blocks.
    pub fn sender_report(&mut self, ssrc: Ssrc, ntp: NtpTime, rtp: u32, packets: u32, octets: u32) {
        let start = self.begin(SENDER_REPORT, 0);
        self.word(ssrc.0);
        self.out.extend_from_slice(&ntp.0.to_be_bytes());
        self.word(rtp);
        self.word(packets);
        self.word(octets);
        self.end(start);
    }

    /// A receiver report with at most one report block.
    pub fn receiver_report(&mut self, ssrc: Ssrc, block: Option<&ReportBlock>) {
        let start = self.begin(RECEIVER_REPORT, u8::from(block.is_some()));
        self.word(ssrc.0);
        if let Some(block) = block {
            self.word(block.ssrc.0);
            let lost = block.cumulative_lost & 0x00ff_ffff;
            self.word((u32::from(block.fraction_lost) << 24) | lost);
            self.word(block.highest_sequence);
            self.word(block.jitter);
            self.word(block.last_sender_report);
            self.word(block.delay_since_last);
        }
        self.end(start);
    }

    /// A source description with a canonical name made of the SSRC: it only has to be unique in the session, and a
    /// lasting one would let listeners on the link tell who it is (RFC 7022).
    pub fn source_description(&mut self, ssrc: Ssrc) {
        let start = self.begin(SOURCE_DESCRIPTION, 1);
        self.word(ssrc.0);
        self.out.extend_from_slice(&[1, 8]);
        for shift in (0..8).rev() {
            let digit = (ssrc.0 >> (4 * shift)) & 0x0f;
            let digit = char::from_digit(digit, 16).unwrap_or('0');
            self.out.push(u8::try_from(digit).unwrap_or(b'0'));
        }
        // At least one zero byte ends the chunk.
        self.out.push(0);
        self.end(start);
    }

    /// A generic NACK for `sequences`, which go up; at most [`NACK_ENTRIES_MAX`] entries. How many were taken.
    pub fn nack(
        &mut self,
        sender: Ssrc,
        media: Ssrc,
        sequences: impl IntoIterator<Item = u16>,
    ) -> usize {
        let start = self.begin(TRANSPORT_FEEDBACK, 1);
        self.word(sender.0);
        self.word(media.0);
        let (mut taken, mut entries) = (0, 0);
        let mut entry: Option<(u16, u16)> = None;
        for sequence in sequences {
            match &mut entry {
                Some((base, mask)) if (1..=16).contains(&sequence.wrapping_sub(*base)) => {
                    *mask |= 1 << (sequence.wrapping_sub(*base) - 1);
                }
                _ => {
                    if entries == NACK_ENTRIES_MAX {
                        break;
                    }
                    entries += 1;
                    self.nack_entry(entry.replace((sequence, 0)));
                }
            }
            taken += 1;
        }
        self.nack_entry(entry);
        if entries == 0 {
            self.out.truncate(start);
        } else {
            self.end(start);
        }
        taken
    }

    fn nack_entry(&mut self, entry: Option<(u16, u16)>) {
        if let Some((base, mask)) = entry {
            self.word((u32::from(base) << 16) | u32::from(mask));
        }
    }

    /// A picture loss indication.
    pub fn picture_loss(&mut self, sender: Ssrc, media: Ssrc) {
        let start = self.begin(PAYLOAD_FEEDBACK, 1);
        self.word(sender.0);
        self.word(media.0);
        self.end(start);
    }

    /// A goodbye.
    pub fn goodbye(&mut self, ssrc: Ssrc) {
        let start = self.begin(GOODBYE, 1);
        self.word(ssrc.0);
        self.end(start);
    }

    fn begin(&mut self, packet_type: u8, count: u8) -> usize {
        let start = self.out.len();
        self.out
            .extend_from_slice(&[0x80 | count, packet_type, 0, 0]);
        start
    }

    fn word(&mut self, word: u32) {
        self.out.extend_from_slice(&word.to_be_bytes());
    }

    /// Pads to whole words and fills in the length: words less one.
    fn end(&mut self, start: usize) {
        while !self.out.len().is_multiple_of(4) {
            self.out.push(0);
        }
        let words = u16::try_from((self.out.len() - start) / 4 - 1).unwrap_or(u16::MAX);
        if let Some(length) = self.out.get_mut(start + 2..start + 4) {
            length.copy_from_slice(&words.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn messages(packet: &[u8]) -> Vec<Message> {
        let mut messages = Vec::new();
        read(packet, |message| messages.push(message)).unwrap();
        messages
    }

    #[test]
    fn rtcp_types_reads_what_we_write() {
        let (ours, media) = (Ssrc(0xabcd_ef01), Ssrc(7));
        let block = ReportBlock {
            ssrc: media,
            fraction_lost: 26,
            cumulative_lost: 0x00fe_dcba,
            highest_sequence: 0x0001_0002,
            jitter: 3,
            last_sender_report: 4,
            delay_since_last: 5,
        };
        let mut out = Vec::new();
        let mut writer = CompoundWriter::new(&mut out);
        writer.receiver_report(ours, Some(&block));
        writer.source_description(ours);
        assert_eq!(writer.nack(ours, media, [65_534, 65_535, 3, 14, 15]), 5);
        writer.picture_loss(ours, media);
        writer.goodbye(ours);
        assert!(out.windows(8).any(|text| text == b"abcdef01"));
        let nack = |sequence| Message::Nack { media, sequence };
        let expected = [
            Message::Report(block),
            nack(65_534),
            nack(65_535),
            nack(3),
            nack(14),
            nack(15),
            Message::PictureLoss { media },
            Message::Goodbye { ssrc: ours },
        ];
        assert_eq!(messages(&out), expected);

        let mut writer = CompoundWriter::new(&mut out);
        writer.sender_report(ours, NtpTime(0x0102_0304_0506_0708), 9, 10, 11);
        writer.source_description(ours);
        assert_eq!(writer.nack(ours, media, []), 0);
        let expected = Message::SenderReport {
            ssrc: ours,
            ntp: NtpTime(0x0102_0304_0506_0708),
            rtp_timestamp: 9,
        };
        assert_eq!(messages(&out), [expected]);
    }

    #[test]
    fn the_largest_compound_packet_has_room() {
        let mut out = Vec::new();
        let mut writer = CompoundWriter::new(&mut out);
        writer.receiver_report(Ssrc(1), Some(&ReportBlock::default()));
        writer.source_description(Ssrc(1));
        assert_eq!(
            writer.nack(Ssrc(1), Ssrc(2), (0..2_000).step_by(20)),
            NACK_ENTRIES_MAX
        );
        writer.picture_loss(Ssrc(1), Ssrc(2));
        assert!(out.len() <= COMPOUND_MAX, "{}", out.len());
        assert_eq!(messages(&out).len(), NACK_ENTRIES_MAX + 2);
    }

    #[test]
    fn full_intra_requests_are_read() {
        let packet = [
            0x80, 201, 0, 1, 0, 0, 0, 1, 0x84, 206, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 5, 0,
            0, 0,
        ];
        let expected = Message::FullIntraRequest {
            media: Ssrc(9),
            command: 5,
        };
        assert_eq!(messages(&packet), [expected]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = read(&bytes, |_| {});
        }

        #[test]
        fn plausible_bytes_are_read_without_panic(
            packets in proptest::collection::vec(
                (0u8..32, 200u8..208, any::<bool>(), proptest::collection::vec(any::<u8>(), 0..60)), 1..4),
        ) {
            let mut bytes = Vec::new();
            for (count, packet_type, padding, mut body) in packets {
                body.resize(body.len() / 4 * 4, 0);
                let words = u8::try_from(body.len() / 4).unwrap();
                bytes.extend([0x80 | u8::from(padding) << 5 | count, packet_type, 0, words]);
                bytes.extend(body);
            }
            let _ = read(&bytes, |_| {});
        }
    }
}
