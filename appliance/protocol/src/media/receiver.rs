//! The client's end of a video stream.

use std::ops::AddAssign;
use std::time::Duration;

use soft_kvm_core::MonoTime;

use super::CodedFormat;
use super::depacketize::{AccessUnitAssembler, announces_idr};
use super::reorder::{Arrived, Missing, ReorderRing};
use super::reports::Reception;
use super::rtcp::{self, COMPOUND_MAX, CompoundWriter, Message, RtcpError};
use super::rtp::{FrameExtensions, Stages};
use super::srtp::{Opener, RTCP_OVERHEAD, Sealer, SrtpError, low_16};

/// Time from one receiver report to the next.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// The stream begins with a key frame; one is asked for when none came after this.
const FIRST_KEY_FRAME: Duration = Duration::from_millis(250);
/// Least time from one request for a key frame to the next.
const KEY_FRAME_RETRY: Duration = Duration::from_millis(110);
/// Least time from one request for a packet to the next.
const NACK_RETRY: Duration = Duration::from_millis(6);
/// Requests for one packet.
const NACKS_MAX: u32 = 10;
/// Packets in front of the first one received that are asked for, when that one is not the first of its access unit.
const FIRST_GAP_MAX: u64 = 16;

/// What a [`VideoReceiver`] needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiverConfig {
    /// How long an incomplete access unit may hold up the complete ones behind it.
    pub deadline: Duration,
    /// How long a missing packet may just be late.
    pub nack_delay: Duration,
    /// Packets that are kept while an earlier one is missing.
    pub reorder_packets: usize,
    /// Largest datagram that is used, in bytes.
    pub datagram_max: usize,
    /// The server's [`Welcome::ntp_minus_mono_ns`](crate::control::Welcome::ntp_minus_mono_ns).
    pub ntp_minus_mono_ns: u64,
}

impl Default for ReceiverConfig {
    fn default() -> Self {
        Self {
            deadline: Duration::from_millis(100),
            nack_delay: Duration::from_millis(2),
            reorder_packets: 2_048,
            datagram_max: 1_500,
            ntp_minus_mono_ns: 0,
        }
    }
}

/// A complete access unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceivedAccessUnit<'a> {
    /// H.264: Annex B form with start codes of four bytes.
    pub data: &'a [u8],
    /// What the access unit is.
    pub format: CodedFormat,
    /// The source's frame number.
    pub frame: u32,
    /// Whether a decoder can start here.
    pub idr: bool,
    /// RTP timestamp, 90 kHz.
    pub timestamp: u32,
    /// When the picture was captured, on the server's monotonic clock.
    pub captured: MonoTime,
    /// How long the stages before the network took.
    pub stages: Stages,
    /// When its first packet in time arrived.
    pub first_arrival: MonoTime,
    /// When its last packet in time arrived.
    pub last_arrival: MonoTime,
    /// Packets that it came in.
    pub packets: u32,
}

/// A packet that was taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceivedRtp<'a> {
    /// The plain RTP packet, for a relay.
    pub packet: &'a [u8],
    /// What it carries.
    pub format: CodedFormat,
    /// Whether it came because it was asked for again.
    pub repaired: bool,
}

/// Why a datagram was not used. Drop it and go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiveError {
    /// Not opened; [`SrtpError::Replayed`] is an ordinary duplicate.
    #[error(transparent)]
    Srtp(#[from] SrtpError),
    /// Opened, but malformed.
    #[error("malformed RTP packet")]
    Rtp,
    /// Opened, but of a payload type that is not for pictures.
    #[error("unknown RTP payload type {0}")]
    PayloadType(u8),
    /// Opened, but malformed.
    #[error(transparent)]
    Rtcp(#[from] RtcpError),
    /// Larger than [`ReceiverConfig::datagram_max`].
    #[error("datagram of {0} bytes is longer than the {1} allowed")]
    TooLong(usize, usize),
}

/// Why an access unit was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// Packets did not come in time.
    Incomplete,
    /// Complete, but it refers to a picture that was lost.
    NoKeyFrame,
    /// Complete, but not made of payloads as `docs/WIRE.md` has them.
    Malformed,
}

impl DropReason {
    /// All reasons.
    pub const ALL: [Self; 3] = [Self::Incomplete, Self::NoKeyFrame, Self::Malformed];

    /// The word for it in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Incomplete => "incomplete",
            Self::NoKeyFrame => "no_key_frame",
            Self::Malformed => "malformed",
        }
    }
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiverStats {
    /// Packets taken in, each once.
    pub packets: u64,
    /// Bytes of those, as plain RTP.
    pub bytes: u64,
    /// Packets that never came in time.
    pub lost: u64,
    /// Packets that came because they were asked for again.
    pub recovered: u64,
    /// Packets that came once more.
    pub duplicate: u64,
    /// Packets that came when their access unit was given up or delivered.
    pub late: u64,
    /// Datagrams that were malformed, too long or not authentic.
    pub rejected: u64,
    /// Access units delivered.
    pub frames: u64,
    /// Access units not delivered, as far as a packet of them was seen, in the order of [`DropReason::ALL`].
    pub frames_dropped: [u64; 3],
    /// Requests for packets.
    pub nacks: u64,
    /// Requests for key frames.
    pub key_frames_asked: u64,
}

impl ReceiverStats {
    /// Access units dropped for `reason`.
    #[must_use]
    pub const fn dropped(&self, reason: DropReason) -> u64 {
        self.frames_dropped[reason as usize]
    }
}

impl AddAssign for ReceiverStats {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.lost += other.lost;
        self.recovered += other.recovered;
        self.duplicate += other.duplicate;
        self.late += other.late;
        self.rejected += other.rejected;
        self.frames += other.frames;
        for (sum, dropped) in self.frames_dropped.iter_mut().zip(other.frames_dropped) {
            *sum += dropped;
        }
        self.nacks += other.nacks;
        self.key_frames_asked += other.key_frames_asked;
    }
}

/// Opens, orders, repairs and assembles one video stream. See the [module](super) for how to drive it.
///
/// Delivery begins with an IDR picture, and again after every access unit that was given up.
#[derive(Debug)]
pub struct VideoReceiver {
    config: ReceiverConfig,
    opener: Opener,
    sealer: Sealer,
    ring: ReorderRing,
    assembler: AccessUnitAssembler,
    reception: Reception,
    stats: ReceiverStats,
    now: MonoTime,
    /// Packets have been taken in.
    started: bool,
    /// Packets have left the ring: nothing before its head is wanted.
    settled: bool,
    /// The next packet to look at for the end of the access unit at the ring's head.
    scan: u64,
    need_idr: bool,
    /// When to ask for a key frame.
    key_frame_at: Option<MonoTime>,
    next_report: Option<MonoTime>,
    round_trip: Duration,
    asking: Vec<u16>,
}

impl VideoReceiver {
    /// A receiver of what `opener` opens (server key, video SSRC), whose RTCP `sealer` seals (client key, receiver SSRC).
    #[must_use]
    pub fn new(config: ReceiverConfig, opener: Opener, sealer: Sealer) -> Self {
        Self {
            ring: ReorderRing::new(config.reorder_packets, config.datagram_max),
            reception: Reception::new(opener.ssrc()),
            config,
            opener,
            sealer,
            assembler: AccessUnitAssembler::with_capacity(256 << 10),
            stats: ReceiverStats::default(),
            now: MonoTime::ZERO,
            started: false,
            settled: false,
            scan: 0,
            need_idr: true,
            key_frame_at: None,
            next_report: None,
            round_trip: Duration::ZERO,
            asking: Vec::with_capacity(256),
        }
    }

    /// Counters since the start.
    #[must_use]
    pub const fn stats(&self) -> ReceiverStats {
        self.stats
    }

    /// Tells the network round trip, as the control channel measured it, for the time between requests.
    pub fn set_round_trip(&mut self, round_trip: Duration) {
        self.round_trip = round_trip;
    }

    /// Takes in a datagram that [`classify`](super::classify) says is RTP. It is opened in place.
    ///
    /// # Errors
    /// [`ReceiveError`]: the datagram is to be dropped.
    pub fn handle_rtp<'a>(
        &mut self,
        now: MonoTime,
        datagram: &'a mut [u8],
    ) -> Result<ReceivedRtp<'a>, ReceiveError> {
        self.now = self.now.max(now);
        let result = self.open_rtp(datagram);
        match &result {
            Ok(_) => {}
            Err(ReceiveError::Srtp(SrtpError::Replayed)) => self.stats.duplicate += 1,
            Err(ReceiveError::Srtp(SrtpError::TooOld)) => self.stats.late += 1,
            Err(_) => self.stats.rejected += 1,
        }
        result
    }

    /// Takes in a datagram that [`classify`](super::classify) says is RTCP. It is opened in place and given back, for a relay.
    ///
    /// # Errors
    /// [`ReceiveError`]: the datagram is to be dropped.
    pub fn handle_rtcp<'a>(
        &mut self,
        now: MonoTime,
        datagram: &'a mut [u8],
    ) -> Result<&'a [u8], ReceiveError> {
        self.now = self.now.max(now);
        let plain = self
            .opener
            .open_rtcp(datagram)
            .inspect_err(|_| self.stats.rejected += 1)?;
        let media = self.opener.ssrc();
        let reception = &mut self.reception;
        rtcp::read(plain, |message| {
            if let Message::SenderReport { ssrc, ntp, .. } = message
                && ssrc == media
            {
                reception.sender_report(now, ntp);
            }
        })?;
        Ok(plain)
    }

    /// Asks for a key frame, because the decoder failed; nothing is delivered until one came.
    pub fn request_key_frame(&mut self, now: MonoTime) {
        self.now = self.now.max(now);
        self.lose_picture();
    }

    /// The next access unit, in order.
    pub fn poll_access_unit(&mut self) -> Option<ReceivedAccessUnit<'_>> {
        let frame = self.next_frame()?;
        Some(ReceivedAccessUnit {
            data: self.assembler.data(),
            ..frame
        })
    }

    /// Writes the next RTCP datagram into `out`; `false` when there is none until [`VideoReceiver::poll_timeout`].
    #[must_use]
    pub fn poll_transmit(&mut self, now: MonoTime, out: &mut Vec<u8>) -> bool {
        self.now = self.now.max(now);
        if self.next_report.is_none() {
            // The first report is what tells the sender where we are.
            self.next_report = Some(now);
            self.key_frame_at.get_or_insert(now + FIRST_KEY_FRAME);
        }
        self.collect_nacks(now);
        let key_frame = self.need_idr && self.key_frame_at.is_some_and(|at| at <= now);
        let report = self.next_report.is_some_and(|at| at <= now);
        if self.asking.is_empty() && !key_frame && !report {
            return false;
        }
        let (ours, media) = (self.sealer.ssrc(), self.opener.ssrc());
        let block = self.reception.report(now, report);
        out.reserve(COMPOUND_MAX + RTCP_OVERHEAD);
        let mut writer = CompoundWriter::new(out);
        writer.receiver_report(ours, block.as_ref());
        writer.source_description(ours);
        if report {
            self.next_report = Some(now + REPORT_INTERVAL);
        }
        if !self.asking.is_empty() {
            self.stats.nacks += writer.nack(ours, media, self.asking.iter().copied()) as u64;
        }
        if key_frame {
            writer.picture_loss(ours, media);
            self.stats.key_frames_asked += 1;
            self.key_frame_at = Some(now + KEY_FRAME_RETRY.max(self.round_trip * 2));
        }
        let len = out.len();
        out.resize(len + RTCP_OVERHEAD, 0);
        self.sealer.seal_rtcp(out, len).is_ok()
    }

    /// When [`VideoReceiver::poll_access_unit`] and [`VideoReceiver::poll_transmit`] have to be called again, at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<MonoTime> {
        let nack = self
            .may_ask()
            .then(|| {
                self.ring
                    .range()
                    .filter_map(|index| self.ask_at(index))
                    .min()
            })
            .flatten();
        let key_frame = self.key_frame_at.filter(|_| self.need_idr);
        let deadline = self.deadline();
        [nack, key_frame, deadline, self.next_report]
            .into_iter()
            .flatten()
            .min()
    }

    fn open_rtp<'a>(&mut self, datagram: &'a mut [u8]) -> Result<ReceivedRtp<'a>, ReceiveError> {
        let now = self.now;
        if datagram.len() > self.config.datagram_max {
            return Err(ReceiveError::TooLong(
                datagram.len(),
                self.config.datagram_max,
            ));
        }
        let (index, packet) = self.opener.open_rtp(datagram)?;
        let rtp = rtp_types::RtpPacket::parse(packet).map_err(|_| ReceiveError::Rtp)?;
        let format = CodedFormat::of_payload_type(rtp.payload_type())
            .ok_or_else(|| ReceiveError::PayloadType(rtp.payload_type()))?;
        self.stats.packets += 1;
        self.stats.bytes += packet.len() as u64;
        let payload = rtp.payload();
        let arrived = Arrived::new(
            now,
            rtp.timestamp(),
            rtp.marker_bit(),
            FrameExtensions::of(&rtp),
            format,
            announces_idr(format, payload),
        );
        let asked = self.store(index, arrived, payload);
        let repaired = asked.is_some_and(|asked| asked > 0);
        if repaired {
            self.stats.recovered += 1;
        }
        self.reception.packet(now, index, rtp.timestamp(), repaired);
        Ok(ReceivedRtp {
            packet,
            format,
            repaired,
        })
    }

    fn store(&mut self, index: u64, arrived: Arrived, payload: &[u8]) -> Option<u32> {
        let ask_at = self.now + self.config.nack_delay;
        if !self.started {
            self.started = true;
            self.ring.restart(index);
            self.scan = index;
        }
        let range = self.ring.range();
        if index < range.start {
            if self.settled || range.end - index > self.ring.capacity() {
                self.stats.late += 1;
                return None;
            }
            self.ring.extend_down_to(index, ask_at);
            self.scan = index;
        } else if index - range.start >= self.ring.capacity() {
            // Far ahead: the sender went on without us. What is in the ring will not be completed.
            self.give_up_before(range.end, DropReason::Incomplete);
            self.ring.restart(index);
            self.scan = index;
            self.lose_picture();
        }
        self.ring.extend_to(index, ask_at);
        self.ring.store(index, arrived, payload)
    }

    /// Assembles the next access unit that can be delivered, and drops those in front of it that can't. The frame's
    /// data is in the assembler.
    fn next_frame(&mut self) -> Option<ReceivedAccessUnit<'static>> {
        loop {
            let range = self.ring.range();
            if range.is_empty() {
                return None;
            }
            let headless = self
                .ring
                .arrived(range.start)
                .is_some_and(|p| p.extensions.is_none());
            if headless {
                if self.extend_to_frame_start(range.start) {
                    continue;
                }
                self.give_up_before(range.start + 1, DropReason::Incomplete);
                self.lose_picture();
                continue;
            }
            if let Some(end) = self.frame_end() {
                match self.take_frame(range.start..end) {
                    Ok(frame) => return Some(frame),
                    Err(reason) => self.give_up_before(end, reason),
                }
            } else if let Some(start) = self.better_start() {
                self.give_up_before(start, DropReason::Incomplete);
            } else if self.deadline().is_some_and(|at| at <= self.now) {
                let next = (range.start + 1..range.end).find(|index| {
                    self.ring
                        .arrived(*index)
                        .is_some_and(|p| p.extensions.is_some())
                });
                self.give_up_before(next.unwrap_or(range.end), DropReason::Incomplete);
                self.lose_picture();
            } else {
                return None;
            }
        }
    }

    /// The stream's first packet was lost or is late: ask for what is before the ring. Whether there is hope.
    fn extend_to_frame_start(&mut self, head: u64) -> bool {
        let gap = self
            .reception
            .first_index()
            .map_or(0, |first| first.saturating_sub(head));
        let hope = !self.settled
            && head > 0
            && gap < FIRST_GAP_MAX
            && self.ring.range().end - head < self.ring.capacity();
        if hope {
            self.ring.extend_down_to(head - 1, self.now);
            self.scan = head - 1;
        }
        hope
    }

    /// One past the last packet of the access unit at the head, if all its packets are there.
    fn frame_end(&mut self) -> Option<u64> {
        let head = self.ring.range().start;
        self.scan = self.scan.max(head);
        loop {
            let packet = self.ring.arrived(self.scan)?;
            // A lost marker can't hide the end: the next access unit tells its start.
            if self.scan > head && packet.extensions.is_some() {
                return Some(self.scan);
            }
            self.scan += 1;
            if packet.marker {
                return Some(self.scan);
            }
        }
    }

    fn take_frame(
        &mut self,
        packets: std::ops::Range<u64>,
    ) -> Result<ReceivedAccessUnit<'static>, DropReason> {
        let first = *self
            .ring
            .arrived(packets.start)
            .ok_or(DropReason::Incomplete)?;
        let extensions = first.extensions.ok_or(DropReason::Incomplete)?;
        let mut idr = false;
        let mut one_format = true;
        let (mut first_arrival, mut last_arrival) = (first.arrival, first.arrival);
        for packet in packets.clone().filter_map(|index| self.ring.arrived(index)) {
            idr |= packet.idr;
            one_format &= packet.format == first.format;
            first_arrival = first_arrival.min(packet.arrival);
            last_arrival = last_arrival.max(packet.arrival);
        }
        if self.need_idr && !idr {
            return Err(DropReason::NoKeyFrame);
        }
        self.assembler.begin(first.format);
        let mut payloads = packets.clone().filter_map(|index| self.ring.payload(index));
        let assembled = payloads.try_for_each(|payload| self.assembler.push(payload));
        let whole = assembled.and_then(|()| self.assembler.finish());
        let Some((_, idr)) = whole.ok().filter(|_| one_format) else {
            self.lose_picture();
            return Err(DropReason::Malformed);
        };
        if self.need_idr && !idr {
            return Err(DropReason::NoKeyFrame);
        }
        self.need_idr = false;
        self.key_frame_at = None;
        self.stats.frames += 1;
        self.ring.advance_to(packets.end);
        self.settled = true;
        Ok(ReceivedAccessUnit {
            data: &[],
            format: first.format,
            frame: extensions.frame,
            idr,
            timestamp: first.timestamp,
            captured: extensions.captured.to_mono(self.config.ntp_minus_mono_ns),
            stages: extensions.stages,
            first_arrival,
            last_arrival,
            packets: u32::try_from(packets.end - packets.start).unwrap_or(u32::MAX),
        })
    }

    /// Where to go on instead of waiting for the incomplete access unit at the head: at a complete key frame behind it,
    /// or, when only a key frame helps, at what has arrived of one.
    fn better_start(&self) -> Option<u64> {
        let range = self.ring.range();
        let head_is_idr = self.frame_at(range.start).any(|packet| packet.idr);
        let mut start = None;
        let mut previous_timestamp = None;
        for index in range.start..range.end {
            let Some(packet) = self.ring.arrived(index) else {
                continue;
            };
            if previous_timestamp.is_some_and(|previous| previous != packet.timestamp) {
                start = Some(index);
            }
            previous_timestamp = Some(packet.timestamp);
            let Some(start) = start.filter(|_| packet.idr) else {
                continue;
            };
            if self.is_complete(start) {
                return Some(start);
            }
            if self.need_idr && !head_is_idr {
                return Some(self.after_previous(start)).filter(|start| *start > range.start);
            }
        }
        None
    }

    /// The packets from `head` on that belong to one access unit, as far as they are there.
    fn frame_at(&self, head: u64) -> impl Iterator<Item = &Arrived> {
        let mut packets =
            (head..self.ring.range().end).filter_map(|index| self.ring.arrived(index));
        let first = packets.next();
        let timestamp = first.map(|packet| packet.timestamp);
        let rest = packets.take_while(move |packet| Some(packet.timestamp) == timestamp);
        first.into_iter().chain(rest)
    }

    fn is_complete(&self, start: u64) -> bool {
        let starts = self
            .ring
            .arrived(start)
            .is_some_and(|p| p.extensions.is_some());
        starts
            && (start..self.ring.range().end)
                .map_while(|index| self.ring.arrived(index))
                .any(|packet| packet.marker)
    }

    /// The index after the last packet that arrived before `start`: those in between may belong to what begins there.
    fn after_previous(&self, start: u64) -> u64 {
        (self.ring.range().start..start)
            .rfind(|index| self.ring.arrived(*index).is_some())
            .map_or(start, |index| index + 1)
    }

    fn give_up_before(&mut self, index: u64, reason: DropReason) {
        let head = self.ring.range().start;
        let mut timestamp = None;
        for packet in (head..index).filter_map(|index| self.ring.arrived(index)) {
            if timestamp.replace(packet.timestamp) != Some(packet.timestamp) {
                self.stats.frames_dropped[reason as usize] += 1;
            }
        }
        self.stats.lost += self.ring.advance_to(index) as u64;
        self.scan = self.scan.max(index);
        self.settled = true;
    }

    fn lose_picture(&mut self) {
        if !self.need_idr || self.key_frame_at.is_none() {
            self.need_idr = true;
            self.key_frame_at = Some(self.now);
        }
    }

    /// When the access unit at the head is given up: the deadline runs from the arrival of the first packet in or behind it.
    fn deadline(&self) -> Option<MonoTime> {
        let mut packets = self
            .ring
            .range()
            .filter_map(|index| self.ring.arrived(index));
        Some(packets.next()?.arrival + self.config.deadline)
    }

    /// Only packets of a key frame are worth asking for when nothing else can be decoded.
    fn may_ask(&self) -> bool {
        let mut packets = self
            .ring
            .range()
            .filter_map(|index| self.ring.arrived(index));
        self.ring.missing() > 0 && (!self.need_idr || packets.any(|packet| packet.idr))
    }

    fn ask_at(&self, index: u64) -> Option<MonoTime> {
        self.ring
            .missing_at(index)
            .filter(|missing| missing.asked < NACKS_MAX)
            .map(|missing| missing.ask_at)
    }

    fn collect_nacks(&mut self, now: MonoTime) {
        self.asking.clear();
        if !self.may_ask() {
            return;
        }
        for index in self.ring.range() {
            let Some(missing) = self.ring.missing_at(index) else {
                continue;
            };
            let due = missing.asked < NACKS_MAX && missing.ask_at <= now;
            if due && self.asking.len() < self.asking.capacity() {
                self.asking.push(low_16(index));
                let wait = NACK_RETRY.max(self.round_trip * 3 / 2);
                // The first repetition soon, the later ones in growing steps.
                let step = 1 + missing.asked / 3;
                self.ring.set_missing(
                    index,
                    Missing {
                        ask_at: now + wait * step,
                        asked: missing.asked + 1,
                    },
                );
            }
        }
    }
}
