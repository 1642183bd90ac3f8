//! The server's end of one viewer's video stream.

use std::ops::AddAssign;
use std::time::Duration;

use soft_kvm_core::{Bitrate, MonoTime};

use super::CodedFormat;
use super::batch::Batch;
use super::fwht::FwhtPacketizer;
use super::h264::{Packetizer, Payload};
use super::history::History;
use super::pacing::Pacer;
use super::rtcp::{self, COMPOUND_MAX, CompoundWriter, Message, ReportBlock, RtcpError};
use super::rtp::{EXTENSIONS_LEN, FrameExtensions, HEADER_LEN, Header, NtpTime, Stages, put};
use super::srtp::{Opener, RTCP_OVERHEAD, RTP_OVERHEAD, Sealer, SrtpError};

/// Time from one sender report to the next.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// A key frame answers all requests that come this soon after it; a receiver that lost it asks again.
const KEY_FRAME_HOLD_OFF: Duration = Duration::from_millis(100);
/// A request that no key frame has answered is passed on again after this.
const KEY_FRAME_RETRY: Duration = Duration::from_millis(500);
/// The last packet is repeated this long after it when nothing follows: a receiver cannot miss what it does not know of.
const TAIL_PROBES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(30)];

/// What a [`VideoSender`] needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderConfig {
    /// Largest UDP payload in bytes, 256 to 9000.
    pub mtu: usize,
    /// Rate inside a frame at least; it goes up when a frame would take longer than half a `frame_interval`.
    pub pacing_rate: Bitrate,
    /// Time from frame to frame.
    pub frame_interval: Duration,
    /// Packets that leave at once.
    pub burst_packets: usize,
    /// Bytes of packets kept for sending and repair.
    pub history_bytes: usize,
    /// Sequence number of the first packet: random; its top bit is not used (RFC 3711 §3.3.1).
    pub first_sequence: u16,
    /// Added to the RTP timestamps: random.
    pub timestamp_offset: u32,
    /// See [`Welcome::ntp_minus_mono_ns`](crate::control::Welcome::ntp_minus_mono_ns).
    pub ntp_minus_mono_ns: u64,
}

impl Default for SenderConfig {
    /// For a 1 Gbit/s link and 30 frames in a second; the two random numbers are zero.
    fn default() -> Self {
        Self {
            mtu: 1_200,
            pacing_rate: Bitrate::kbps(400_000),
            frame_interval: Duration::from_millis(33),
            burst_packets: 16,
            history_bytes: 2 << 20,
            first_sequence: 0,
            timestamp_offset: 0,
            ntp_minus_mono_ns: 0,
        }
    }
}

/// An encoded picture.
#[derive(Clone, Copy, Debug)]
pub struct AccessUnit<'a> {
    /// H.264: Annex B form.
    pub data: &'a [u8],
    /// About it.
    pub info: AccessUnitInfo,
}

/// Where an encoded picture comes from; times on the server's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessUnitInfo {
    /// What the access unit is.
    pub format: CodedFormat,
    /// The source's frame number.
    pub frame: u32,
    /// When the picture was captured.
    pub captured: MonoTime,
    /// When its conversion was done.
    pub converted: MonoTime,
    /// When it was encoded.
    pub encoded: MonoTime,
    /// Whether a decoder can start here.
    pub idr: bool,
}

/// What became of an access unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It waits as this many packets.
    Queued(usize),
    /// Earlier frames still fill the history, or it holds nothing to send. The decoder misses it: encode a key frame.
    Dropped,
}

/// What one RTCP packet of the viewer said.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Feedback {
    /// Encode a key frame. Said once for any number of requests until one was pushed.
    pub key_frame: bool,
    /// The viewer's report on the stream.
    pub report: Option<Report>,
    /// Packets that the viewer misses.
    pub missing: u32,
    /// Those of them that are sent again.
    pub repaired: u32,
    /// The viewer leaves.
    pub goodbye: bool,
}

/// A receiver report in usable units.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// Lost packets since the last report, 0 to 1; those repaired later count as lost.
    pub loss: f32,
    /// Network round trip, once a sender report came back.
    pub round_trip: Option<Duration>,
    /// Interarrival jitter.
    pub jitter: Duration,
}

/// Why an RTCP packet was not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeedbackError {
    /// Not opened.
    #[error(transparent)]
    Srtp(#[from] SrtpError),
    /// Opened, but malformed.
    #[error(transparent)]
    Rtcp(#[from] RtcpError),
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenderStats {
    /// Access units pushed and queued.
    pub frames: u64,
    /// Access units that [`Pushed::Dropped`] was said of.
    pub frames_dropped: u64,
    /// Packets sent for the first time.
    pub packets: u64,
    /// Bytes of those, as UDP payload.
    pub bytes: u64,
    /// Payload bytes as RTCP counts them: without headers and tags.
    pub payload_bytes: u64,
    /// Packets sent again because the viewer missed them.
    pub repairs: u64,
    /// Last packets sent again because nothing followed them.
    pub tail_probes: u64,
    /// Requests for key frames that were passed on.
    pub key_frames_asked: u64,
}

impl AddAssign for SenderStats {
    fn add_assign(&mut self, other: Self) {
        self.frames += other.frames;
        self.frames_dropped += other.frames_dropped;
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.payload_bytes += other.payload_bytes;
        self.repairs += other.repairs;
        self.tail_probes += other.tail_probes;
        self.key_frames_asked += other.key_frames_asked;
    }
}

/// Packetises, seals, paces, repairs and reports one video stream. See the [module](super) for how to drive it.
#[derive(Debug)]
pub struct VideoSender {
    config: SenderConfig,
    sealer: Sealer,
    opener: Opener,
    history: History,
    pacer: Pacer,
    rate: Bitrate,
    stats: SenderStats,
    compound: Vec<u8>,
    last_ticks: Option<u64>,
    next_report: Option<MonoTime>,
    /// When the last packet left, and how often it was repeated since.
    tail: Option<(MonoTime, usize)>,
    round_trip: Duration,
    key_frame_pushed: Option<MonoTime>,
    key_frame_asked: Option<MonoTime>,
    last_fir: Option<u8>,
}

impl VideoSender {
    /// A sender whose packets `sealer` seals (server key, video SSRC) and whose viewer's RTCP `opener` opens
    /// (client key, receiver SSRC).
    #[must_use]
    pub fn new(config: SenderConfig, sealer: Sealer, opener: Opener) -> Self {
        let mtu = config.mtu.clamp(256, 9_000);
        let first = u64::from(config.first_sequence & 0x7fff);
        Self {
            config: SenderConfig { mtu, ..config },
            sealer,
            opener,
            history: History::new(config.history_bytes, mtu, first),
            pacer: Pacer::new(config.burst_packets.max(1) * mtu, 64 * mtu),
            rate: config.pacing_rate,
            stats: SenderStats::default(),
            compound: Vec::with_capacity(COMPOUND_MAX + RTCP_OVERHEAD),
            last_ticks: None,
            next_report: None,
            tail: None,
            round_trip: Duration::ZERO,
            key_frame_pushed: None,
            key_frame_asked: None,
            last_fir: None,
        }
    }

    /// Counters since the start.
    #[must_use]
    pub const fn stats(&self) -> SenderStats {
        self.stats
    }

    /// Network round trip by the last report; zero before the first.
    #[must_use]
    pub const fn round_trip(&self) -> Duration {
        self.round_trip
    }

    /// Packetises and seals an access unit; it leaves through [`VideoSender::poll_transmit`].
    pub fn push(&mut self, now: MonoTime, unit: &AccessUnit<'_>) -> Pushed {
        let limit = self.config.mtu - HEADER_LEN - RTP_OVERHEAD;
        let first_limit = limit - EXTENSIONS_LEN;
        let mut payloads = Payloads::new(unit, first_limit, limit);
        // Cutting is cheap, and a unit that is queued only in part would be lost anyway.
        let packets = payloads.clone().count();
        if packets == 0 || packets > self.history.room() {
            self.stats.frames_dropped += 1;
            return Pushed::Dropped;
        }
        let info = &unit.info;
        let extensions = FrameExtensions {
            captured: NtpTime::from_mono(info.captured, self.config.ntp_minus_mono_ns),
            stages: Stages {
                convert: info.converted.since(info.captured),
                encode: info.encoded.since(info.converted),
                queue: now.since(info.encoded),
            },
            frame: info.frame,
        };
        let timestamp = self.timestamp(info.captured);
        let was_waiting = self.history.is_waiting();
        let mut first = true;
        while let Some(payload) = payloads.next() {
            let header = Header {
                marker: payloads.is_done(),
                payload_type: unit.info.format.payload_type(),
                sequence: self.history.next_sequence(),
                timestamp,
                ssrc: self.sealer.ssrc(),
            };
            let sealer = &mut self.sealer;
            let pushed = self.history.push(|slot| {
                let mut rest = &mut *slot;
                put(&mut rest, &header.to_bytes(first));
                let mut len = HEADER_LEN;
                if first {
                    put(&mut rest, &extensions.to_bytes());
                    len += EXTENSIONS_LEN;
                }
                payload.write(rest);
                sealer.seal_rtp(slot, len + payload.len())
            });
            // Sealing fails only when the key is used up after 2^48 packets: the stream ends.
            if pushed.is_err() {
                self.stats.frames_dropped += 1;
                return Pushed::Dropped;
            }
            self.stats.payload_bytes += payload.len() as u64;
            first = false;
        }
        self.stats.frames += 1;
        if info.idr {
            self.key_frame_pushed = Some(now);
            self.key_frame_asked = None;
        }
        self.next_report.get_or_insert(now);
        self.tail = None;
        self.pacer.refill(now, self.rate, was_waiting);
        self.rate = self.rate_for(self.history.unsent_bytes());
        Pushed::Queued(packets)
    }

    /// Fills `batch` with what may leave now; `false` when there is nothing until [`VideoSender::poll_timeout`].
    #[must_use]
    pub fn poll_transmit(&mut self, now: MonoTime, batch: &mut Batch) -> bool {
        batch.clear();
        if self.next_report.is_some_and(|due| due <= now) {
            self.next_report = Some(now + REPORT_INTERVAL);
            self.report(now, batch);
            if !batch.is_empty() {
                return true;
            }
        }
        // Repairs don't wait, the frames behind them do.
        while let Some(len) = self.history.repair_len().filter(|len| batch.fits(*len)) {
            if let Some(packet) = self.history.take_repair(now) {
                batch.push(packet);
                self.pacer.spend(len);
                self.stats.repairs += 1;
            }
        }
        if !batch.is_empty() {
            return true;
        }
        self.pacer.refill(now, self.rate, self.history.is_waiting());
        while let Some(len) = self.history.unsent_len() {
            if !batch.fits(len) || !self.pacer.allows(len) {
                break;
            }
            if let Some(packet) = self.history.take_unsent(now) {
                batch.push(packet);
            }
            self.pacer.spend(len);
            self.stats.packets += 1;
            self.stats.bytes += len as u64;
            self.tail = Some((now, 0));
        }
        if batch.is_empty() && self.tail_probe_at().is_some_and(|due| due <= now) {
            let sent = self.tail.map_or(0, |(_, sent)| sent);
            self.tail = Some((now, sent + 1));
            if let Some(packet) = self.history.last_sent() {
                batch.push(packet);
                self.stats.tail_probes += 1;
            }
        }
        !batch.is_empty()
    }

    /// When [`VideoSender::poll_transmit`] has something again; a time in the past means at once.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<MonoTime> {
        if self.history.has_repairs() {
            return Some(MonoTime::ZERO);
        }
        let packets = self.history.unsent_len().map(|next| {
            // Half a burst at a time: few wake-ups, and still room for a late one.
            let half_burst = self.config.burst_packets * self.config.mtu / 2;
            let wanted = self.history.unsent_bytes().min(half_burst).max(next);
            self.pacer.ready_at(wanted, self.rate)
        });
        [packets, self.next_report, self.tail_probe_at()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Takes in a datagram of the viewer that [`classify`](super::classify) says is RTCP. It is opened in place.
    ///
    /// # Errors
    /// [`FeedbackError`]: the datagram is to be dropped; what a malformed one said before the fault has been done.
    pub fn handle_rtcp(
        &mut self,
        now: MonoTime,
        datagram: &mut [u8],
    ) -> Result<Feedback, FeedbackError> {
        let plain = self.opener.open_rtcp(datagram)?;
        let ours = self.sealer.ssrc();
        let hold_off =
            (self.round_trip / 2).clamp(Duration::from_millis(2), Duration::from_millis(50));
        let ntp = NtpTime::from_mono(now, self.config.ntp_minus_mono_ns);
        let mut feedback = Feedback::default();
        let mut picture_lost = false;
        let history = &mut self.history;
        let last_fir = &mut self.last_fir;
        rtcp::read(plain, |message| match message {
            Message::Nack { media, sequence } if media == ours => {
                feedback.missing += 1;
                feedback.repaired += u32::from(history.request(now, sequence, hold_off));
            }
            Message::PictureLoss { media } if media == ours => picture_lost = true,
            Message::FullIntraRequest { media, command } if media == ours => {
                picture_lost |= last_fir.replace(command) != Some(command);
            }
            Message::Report(block) if block.ssrc == ours => {
                feedback.report = Some(usable(&block, ntp));
            }
            Message::Goodbye { .. } => feedback.goodbye = true,
            _ => {}
        })?;
        if let Some(round_trip) = feedback.report.and_then(|report| report.round_trip) {
            self.round_trip = round_trip;
        }
        feedback.key_frame = picture_lost && self.pass_key_frame_request(now);
        Ok(feedback)
    }

    fn pass_key_frame_request(&mut self, now: MonoTime) -> bool {
        let hold_off = KEY_FRAME_HOLD_OFF.max(self.round_trip * 2);
        let answered = self
            .key_frame_pushed
            .is_some_and(|at| now.since(at) < hold_off);
        let asked = self
            .key_frame_asked
            .is_some_and(|at| now.since(at) < KEY_FRAME_RETRY);
        let pass = !answered && !asked;
        if pass {
            self.key_frame_asked = Some(now);
            self.stats.key_frames_asked += 1;
        }
        pass
    }

    fn rate_for(&self, bytes: usize) -> Bitrate {
        let interval = self.config.frame_interval.as_micros().max(1);
        let bps = bytes as u128 * 8 * 2 * 1_000_000 / interval;
        let bps = u64::try_from(bps).unwrap_or(u64::MAX);
        Bitrate::bps(bps.max(self.config.pacing_rate.as_bps()))
    }

    /// 90 kHz ticks of the capture time, but never the last frame's: receivers tell frames apart by it.
    fn timestamp(&mut self, captured: MonoTime) -> u32 {
        let ticks = ticks(captured);
        let ticks = self.last_ticks.map_or(ticks, |last| ticks.max(last + 1));
        self.last_ticks = Some(ticks);
        low_32(ticks).wrapping_add(self.config.timestamp_offset)
    }

    fn report(&mut self, now: MonoTime, batch: &mut Batch) {
        let ssrc = self.sealer.ssrc();
        let ntp = NtpTime::from_mono(now, self.config.ntp_minus_mono_ns);
        let rtp = low_32(ticks(now)).wrapping_add(self.config.timestamp_offset);
        let mut writer = CompoundWriter::new(&mut self.compound);
        let (packets, octets) = (self.stats.packets, self.stats.payload_bytes);
        writer.sender_report(ssrc, ntp, rtp, low_32(packets), low_32(octets));
        writer.source_description(ssrc);
        let len = self.compound.len();
        self.compound.resize(len + RTCP_OVERHEAD, 0);
        if self.sealer.seal_rtcp(&mut self.compound, len).is_ok() {
            batch.push(&self.compound);
        }
    }

    fn tail_probe_at(&self) -> Option<MonoTime> {
        let (last, sent) = self.tail.filter(|_| !self.history.is_waiting())?;
        Some(last + *TAIL_PROBES.get(sent)?)
    }
}

/// The payloads of an access unit of either format.
#[derive(Clone, Debug)]
enum Payloads<'a> {
    H264(Packetizer<'a>),
    Fwht(FwhtPacketizer<'a>),
}

impl<'a> Payloads<'a> {
    fn new(unit: &AccessUnit<'a>, first: usize, limit: usize) -> Self {
        match unit.info.format {
            CodedFormat::H264 => Self::H264(Packetizer::new(unit.data, first, limit)),
            CodedFormat::Fwht => {
                Self::Fwht(FwhtPacketizer::new(unit.data, unit.info.idr, first, limit))
            }
        }
    }

    const fn is_done(&self) -> bool {
        match self {
            Self::H264(payloads) => payloads.is_done(),
            Self::Fwht(payloads) => payloads.is_done(),
        }
    }
}

impl<'a> Iterator for Payloads<'a> {
    type Item = Payload<'a>;

    fn next(&mut self) -> Option<Payload<'a>> {
        match self {
            Self::H264(payloads) => payloads.next(),
            Self::Fwht(payloads) => payloads
                .next()
                .map(|(flags, part)| Payload::Fwht { flags, part }),
        }
    }
}

fn ticks(time: MonoTime) -> u64 {
    let ticks = u128::from(time.as_nanos()) * 9 / 100_000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the wire counts modulo 2^32"
)]
const fn low_32(value: u64) -> u32 {
    value as u32
}

fn usable(block: &ReportBlock, now: NtpTime) -> Report {
    // RFC 3550 §6.4.1: A - LSR - DLSR, modulo 2^32; a clock that was set meanwhile makes it "negative".
    let round_trip = (block.last_sender_report != 0)
        .then(|| {
            let units = now
                .middle()
                .wrapping_sub(block.last_sender_report)
                .wrapping_sub(block.delay_since_last);
            (units < 1 << 31)
                .then(|| Duration::from_nanos((u64::from(units) * 1_000_000_000) >> 16))
        })
        .flatten();
    Report {
        loss: f32::from(block.fraction_lost) / 256.0,
        round_trip,
        jitter: Duration::from_nanos(u64::from(block.jitter) * 100_000 / 9),
    }
}
