//! What the client measures.

use std::time::Duration;

use serde::Serialize;
use soft_kvm_core::MonoTime;
use soft_kvm_core::time::ClockOffset;
use soft_kvm_monitoring::{Percentiles, Summary};
use soft_kvm_protocol::control::{MAX_AGES, VideoInfo};
use soft_kvm_protocol::input::{AckSummary, InputPath};
use soft_kvm_protocol::media::{CodedFormat, DropReason, ReceivedAccessUnit, ReceiverStats};

/// Figures of one run of the client, over all its connections.
#[derive(Debug)]
pub(crate) struct Stats {
    convert: Percentiles,
    encode: Percentiles,
    queue: Percentiles,
    network: Percentiles,
    decode: Percentiles,
    present: Percentiles,
    capture_to_decoded: Percentiles,
    capture_to_presented: Percentiles,
    direct: u64,
    /// From one decoded picture to the next; its maximum is the longest time that nothing came.
    interval: Percentiles,
    last_decoded: Option<MonoTime>,
    input_to_ack: Percentiles,
    input_to_sent: Percentiles,
    input_wire: Percentiles,
    input_inject: Percentiles,
    input_round_trip: Percentiles,
    input_path: InputPath,
    input_fallbacks: u32,
    input_to_injected: Percentiles,
    input_to_echo: Percentiles,
    connect: Percentiles,
    connecting: Option<MonoTime>,
    /// Frames that decoded.
    pub(crate) decoded: u64,
    /// Frames that did not decode.
    pub(crate) decoder_errors: u64,
    /// Of the receivers of all connections so far.
    total: ReceiverStats,
    current: ReceiverStats,
    /// How the server's clock relates to ours.
    pub(crate) clock: Option<ClockOffset>,
    /// The error of the last alignment of any connection.
    clock_error_ns: Option<u64>,
    /// What the picture is.
    pub(crate) video: Option<VideoInfo>,
    /// What decodes, or did last.
    pub(crate) decoder: Option<&'static str>,
    ages: Vec<u32>,
}

/// A frame's way through the client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decoded {
    /// Before decoding.
    pub(crate) started: MonoTime,
    /// After decoding.
    pub(crate) done: MonoTime,
}

impl Stats {
    pub(crate) fn new() -> Self {
        Self {
            convert: Percentiles::new(),
            encode: Percentiles::new(),
            queue: Percentiles::new(),
            network: Percentiles::new(),
            decode: Percentiles::new(),
            present: Percentiles::new(),
            capture_to_decoded: Percentiles::new(),
            capture_to_presented: Percentiles::new(),
            direct: 0,
            interval: Percentiles::new(),
            last_decoded: None,
            input_to_ack: Percentiles::new(),
            input_to_sent: Percentiles::new(),
            input_wire: Percentiles::new(),
            input_inject: Percentiles::new(),
            input_round_trip: Percentiles::new(),
            input_path: InputPath::Udp,
            input_fallbacks: 0,
            input_to_injected: Percentiles::new(),
            input_to_echo: Percentiles::new(),
            connect: Percentiles::new(),
            connecting: None,
            decoded: 0,
            decoder_errors: 0,
            total: ReceiverStats::default(),
            current: ReceiverStats::default(),
            clock: None,
            clock_error_ns: None,
            video: None,
            decoder: None,
            ages: Vec::with_capacity(MAX_AGES),
        }
    }

    /// A frame was decoded. Latencies count from when the clocks are aligned.
    pub(crate) fn frame(&mut self, unit: &ReceivedAccessUnit<'_>, decoded: Decoded) {
        self.decoded += 1;
        if let Some(started) = self.connecting.take() {
            self.connect.record(decoded.done.since(started));
        }
        if let Some(last) = self.last_decoded.replace(decoded.done) {
            self.interval.record(decoded.done.since(last));
        }
        self.convert.record(unit.stages.convert);
        self.encode.record(unit.stages.encode);
        self.queue.record(unit.stages.queue);
        self.decode.record(decoded.done.since(decoded.started));
        let Some(captured) = self.to_local(unit.captured) else {
            return;
        };
        let sent = captured + unit.stages.convert + unit.stages.encode + unit.stages.queue;
        self.network.record(unit.last_arrival.since(sent));
        let age = decoded.done.since(captured);
        self.capture_to_decoded.record(age);
        if self.ages.len() < MAX_AGES {
            self.ages
                .push(u32::try_from(age.as_micros()).unwrap_or(u32::MAX));
        }
    }

    /// A frame was handed to the window system, or to the monitor in the decoder's own memory (`direct`).
    pub(crate) fn presented(
        &mut self,
        captured: MonoTime,
        decoded: MonoTime,
        at: MonoTime,
        direct: bool,
    ) {
        self.direct += u64::from(direct);
        self.present.record(at.since(decoded));
        self.capture_to_presented.record(at.since(captured));
    }

    /// Reports came back acknowledged; the newest of them counts.
    pub(crate) fn acknowledged(&mut self, summary: &AckSummary, now: MonoTime) {
        let Some(stamp) = summary.newest else {
            return;
        };
        let ack = &summary.ack;
        self.input_to_ack.record(now.since(stamp));
        self.input_to_sent.record(ack.echo.since(stamp));
        self.input_inject.record(ack.applied.since(ack.received));
        self.input_round_trip.record(summary.round_trip);
        if let (Some(received), Some(applied)) =
            (self.to_local(ack.received), self.to_local(ack.applied))
        {
            self.input_wire.record(received.since(ack.echo));
            self.input_to_injected.record(applied.since(stamp));
        }
    }

    /// Input takes another way from now on.
    pub(crate) const fn set_input_path(&mut self, path: InputPath) {
        if matches!(path, InputPath::WebSocket) {
            self.input_fallbacks += 1;
        }
        self.input_path = path;
    }

    /// The test card showed a report.
    pub(crate) fn echoed(&mut self, time: Duration) {
        self.input_to_echo.record(time);
    }

    /// A connection is being made since `started`; its first decoded picture ends the time.
    pub(crate) const fn connecting(&mut self, started: MonoTime) {
        self.connecting = Some(started);
    }

    /// Time on the server's clock, on ours; `None` before the first clock probe came back.
    pub(crate) fn to_local(&self, theirs: MonoTime) -> Option<MonoTime> {
        self.clock.map(|clock| clock.to_local(theirs))
    }

    /// The connection's counters so far.
    pub(crate) const fn set_received(&mut self, stats: ReceiverStats) {
        self.current = stats;
    }

    /// The connection is over.
    pub(crate) fn end_connection(&mut self) {
        self.total += self.current;
        self.current = ReceiverStats::default();
        if let Some(clock) = self.clock.take() {
            self.clock_error_ns = Some(clock.error_ns);
        }
    }

    /// Ages of the frames since the last call, for the server.
    pub(crate) fn take_ages(&mut self) -> Vec<u32> {
        std::mem::replace(&mut self.ages, Vec::with_capacity(MAX_AGES))
    }

    /// Received over all connections.
    pub(crate) fn received(&self) -> ReceiverStats {
        let mut sum = self.total;
        sum += self.current;
        sum
    }

    /// The overlay's lines.
    pub(crate) fn overlay(&self, bitrate_kbps: u64) -> Vec<String> {
        let line = |name: &str, percentiles: &Percentiles| {
            let summary = percentiles.summary();
            format!(
                "{name:<20} p50 {:>7.2}  p95 {:>7.2}  p99 {:>7.2} ms",
                summary.p50, summary.p95, summary.p99
            )
        };
        let mut lines = Vec::new();
        if let Some(video) = &self.video {
            lines.push(format!("{} {} {}", video.source, video.size, video.rate));
            lines.push(format!("encoder {}: {}", video.encoder, video.why));
            lines.push(format!(
                "{}, decoder {}",
                video.codec,
                self.decoder.unwrap_or("none")
            ));
        }
        let received = self.received();
        lines.push(format!(
            "{bitrate_kbps} kbit/s, lost {}, repaired {}, frames dropped {}",
            received.lost,
            received.recovered,
            received.frames_dropped.iter().sum::<u64>()
        ));
        lines.extend([
            line("convert", &self.convert),
            line("encode", &self.encode),
            line("seal and queue", &self.queue),
            line("network", &self.network),
            line("decode", &self.decode),
            line("present", &self.present),
            line("capture to decoded", &self.capture_to_decoded),
            line("capture to presented", &self.capture_to_presented),
            line("input to injected", &self.input_to_injected),
        ]);
        if let Some(clock) = self.clock {
            lines.push(format!(
                "clocks aligned within {:.2} ms",
                millis(clock.error_ns)
            ));
        }
        lines
    }

    /// What `--stats-json` holds.
    pub(crate) fn report(&self, cursor: CursorReport, process: ProcessReport) -> Report {
        let received = self.received();
        let drops = |reason| received.dropped(reason);
        Report {
            frames: Frames {
                received: received.frames,
                decoded: self.decoded,
                direct: self.direct,
            },
            dropped: Dropped {
                incomplete: drops(DropReason::Incomplete),
                no_key_frame: drops(DropReason::NoKeyFrame),
                malformed: drops(DropReason::Malformed),
                decoder: self.decoder_errors,
            },
            packets: Packets {
                received: received.packets,
                lost: received.lost,
                recovered: received.recovered,
                rejected: received.rejected,
                nacks: received.nacks,
                key_frames_asked: received.key_frames_asked,
                bytes: received.bytes,
            },
            video: Video {
                convert_ms: self.convert.summary(),
                encode_ms: self.encode.summary(),
                queue_ms: self.queue.summary(),
                network_ms: self.network.summary(),
                decode_ms: self.decode.summary(),
                present_ms: self.present.summary(),
                capture_to_decoded_ms: self.capture_to_decoded.summary(),
                capture_to_presented_ms: self.capture_to_presented.summary(),
                interval_ms: self.interval.summary(),
            },
            input: Input {
                to_sent_ms: self.input_to_sent.summary(),
                wire_ms: self.input_wire.summary(),
                inject_ms: self.input_inject.summary(),
                round_trip_ms: self.input_round_trip.summary(),
                to_ack_ms: self.input_to_ack.summary(),
                to_injected_ms: self.input_to_injected.summary(),
                to_echo_ms: self.input_to_echo.summary(),
            },
            input_path: InputPathReport {
                path: match self.input_path {
                    InputPath::Udp => "udp",
                    InputPath::WebSocket => "websocket",
                },
                fallbacks: self.input_fallbacks,
            },
            connect_ms: self.connect.summary(),
            clock_error_ms: self
                .clock
                .map(|clock| clock.error_ns)
                .or(self.clock_error_ns)
                .map(millis),
            source: self.video.as_ref().map(|video| video.source.clone()),
            encoder: self.video.as_ref().map(|video| video.encoder.clone()),
            decoder: self.decoder,
            codec: self.video.as_ref().map(|video| video.codec),
            size: self.video.as_ref().map(|video| video.size.to_string()),
            cursor,
            process,
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "clock errors are far below 2^52 ns"
)]
fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

/// The client's figures as JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    frames: Frames,
    dropped: Dropped,
    packets: Packets,
    video: Video,
    input: Input,
    input_path: InputPathReport,
    connect_ms: Summary,
    clock_error_ms: Option<f64>,
    source: Option<String>,
    encoder: Option<String>,
    decoder: Option<&'static str>,
    codec: Option<CodedFormat>,
    size: Option<String>,
    cursor: CursorReport,
    process: ProcessReport,
}

#[derive(Debug, Serialize)]
struct Frames {
    received: u64,
    decoded: u64,
    /// Shown by the monitor from the decoder's own memory.
    direct: u64,
}

#[derive(Debug, Serialize)]
struct Dropped {
    incomplete: u64,
    no_key_frame: u64,
    malformed: u64,
    decoder: u64,
}

#[derive(Debug, Serialize)]
struct Packets {
    received: u64,
    lost: u64,
    recovered: u64,
    rejected: u64,
    nacks: u64,
    key_frames_asked: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
#[expect(
    clippy::struct_field_names,
    reason = "the unit is part of the JSON's names"
)]
struct Video {
    convert_ms: Summary,
    encode_ms: Summary,
    queue_ms: Summary,
    network_ms: Summary,
    decode_ms: Summary,
    present_ms: Summary,
    capture_to_decoded_ms: Summary,
    capture_to_presented_ms: Summary,
    interval_ms: Summary,
}

#[derive(Debug, Serialize)]
#[expect(
    clippy::struct_field_names,
    reason = "the unit is part of the JSON's names"
)]
struct Input {
    to_sent_ms: Summary,
    wire_ms: Summary,
    inject_ms: Summary,
    round_trip_ms: Summary,
    to_ack_ms: Summary,
    to_injected_ms: Summary,
    to_echo_ms: Summary,
}

/// How the input goes.
#[derive(Debug, Serialize)]
struct InputPathReport {
    /// `udp` or `websocket`, at the end.
    path: &'static str,
    /// How often UDP was given up.
    fallbacks: u32,
}

/// The cursor that came beside the video.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct CursorReport {
    /// Pictures of it.
    pub(crate) images: u64,
    /// Places of it, without repeated ones.
    pub(crate) positions: u64,
    /// Size of its picture at the end, e.g. `64x64`; none if no cursor was shown then.
    pub(crate) shown: Option<String>,
    /// Where its upper left corner was.
    pub(crate) x: i32,
    /// As `x`.
    pub(crate) y: i32,
}

/// What the process used.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct ProcessReport {
    /// CPU time over wall time, in percent of one core.
    pub(crate) cpu_percent: f64,
    /// Highest resident memory, in MB of 10^6 bytes.
    pub(crate) rss_peak_mb: f64,
    /// Wall time.
    pub(crate) seconds: f64,
}

#[cfg(test)]
mod tests {
    use soft_kvm_core::{FrameRate, Size};
    use soft_kvm_protocol::media::CodedFormat;

    use super::*;

    /// Whatever the server names: the words are its own.
    #[test]
    fn the_overlay_says_which_encoder_runs_and_why() {
        let mut stats = Stats::new();
        stats.video = Some(VideoInfo {
            size: Size::new(640, 480),
            rate: FrameRate::hz(30),
            source: "v4l2 /dev/video0".to_owned(),
            encoder: "vaapi /dev/dri/renderD128".to_owned(),
            why: "v4l2m2m /dev/video1 failed: v4l2m2m: the device is in use".to_owned(),
            codec: CodedFormat::H264,
        });
        let lines = stats.overlay(4_000);
        let wanted = "encoder vaapi /dev/dri/renderD128: v4l2m2m /dev/video1 failed: v4l2m2m: the device is in use";
        assert!(lines.iter().any(|line| line == wanted), "{lines:#?}");
    }
}
