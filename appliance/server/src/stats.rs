//! Figures of the running server: into the metrics each second, and as JSON at the end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use soft_kvm_core::story::EncoderDriver;
use soft_kvm_monitoring::{CpuPart, DropReason, FrameStage, Metrics, Packets};
use soft_kvm_platform::os::process;

use crate::pipeline::Shared;
use crate::session::Sessions;

/// Takes differences between two looks at counters that only go up.
#[derive(Debug)]
pub(crate) struct Sampler {
    started: Instant,
    at: Instant,
    cpu: Duration,
    cpu_start: Duration,
    /// CPU and wall time of the intervals at whose both ends somebody was connected.
    connected: (Duration, Duration),
    was_connected: bool,
    seen: Seen,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    captured: u64,
    unchanged: u64,
    encoded: u64,
    newer: u64,
    encoder_errors: u64,
    sent: u64,
    send_drops: u64,
    packets: u64,
    repairs: u64,
    bytes: u64,
    encoder_falls: u64,
    cpu_bytes: u64,
    cpu: Cpu,
}

/// CPU time of the process by part.
#[derive(Clone, Copy, Debug, Default)]
struct Cpu {
    capture: Duration,
    encode: Duration,
    other: Duration,
}

impl Cpu {
    /// `whole` is the time of the process; threads count their part a little later.
    fn new(whole: Duration, capture: Duration, encode: Duration) -> Self {
        Self {
            capture,
            encode,
            other: whole.saturating_sub(capture + encode),
        }
    }

    fn parts(self) -> [(CpuPart, Duration); 3] {
        [
            (CpuPart::Capture, self.capture),
            (CpuPart::Encode, self.encode),
            (CpuPart::Other, self.other),
        ]
    }
}

/// What `--stats-json` holds.
#[derive(Debug, Serialize)]
pub(crate) struct ServerStats {
    frames: Frames,
    dropped: Dropped,
    packets: u64,
    retransmitted: u64,
    bytes: u64,
    /// Of one core, while somebody was connected; over the whole time if nobody was for two seconds.
    cpu_percent: f64,
    cpu: CpuStats,
    rss_peak_mb: f64,
    seconds: f64,
    source: Option<String>,
    /// What encodes; `null` while nobody watches.
    encoder: Option<&'static str>,
    /// Times that an encoder was left for a lesser one.
    encoder_falls: u64,
    /// Bytes of pixels that the CPU has read or written, counted once for each stage.
    cpu_pixel_bytes: u64,
    story: String,
}

#[derive(Debug, Serialize)]
struct Frames {
    captured: u64,
    unchanged: u64,
    encoded: u64,
    refreshed: u64,
    sent: u64,
}

/// CPU seconds since the start.
#[derive(Debug, Serialize)]
struct CpuStats {
    capture_s: f64,
    /// Converting and encoding, threads of drivers' libraries included.
    encode_s: f64,
    other_s: f64,
    /// Milliseconds of `capture` and `encode` for each encoded frame; `null` without one.
    ms_per_frame: Option<f64>,
}

impl CpuStats {
    #[expect(
        clippy::cast_precision_loss,
        reason = "fewer than 2^52 frames are encoded"
    )]
    fn new(cpu: Cpu, frames: u64) -> Self {
        let pipeline = (cpu.capture + cpu.encode).as_secs_f64() * 1e3;
        Self {
            capture_s: cpu.capture.as_secs_f64(),
            encode_s: cpu.encode.as_secs_f64(),
            other_s: cpu.other.as_secs_f64(),
            ms_per_frame: (frames > 0).then(|| pipeline / frames as f64),
        }
    }
}

#[derive(Debug, Serialize)]
struct Dropped {
    newer: u64,
    encoder: u64,
    send: u64,
}

impl Sampler {
    /// Starts counting CPU time.
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        let cpu = cpu_time();
        Self {
            started: now,
            at: now,
            cpu,
            cpu_start: cpu,
            connected: (Duration::ZERO, Duration::ZERO),
            was_connected: false,
            seen: Seen::default(),
        }
    }

    /// Adds what happened since the last call to the metrics.
    pub(crate) fn sample(&mut self, metrics: &Metrics, pipeline: &Shared, sessions: &Sessions) {
        let (now, cpu) = (Instant::now(), cpu_time());
        let spent = (cpu.saturating_sub(self.cpu), now.duration_since(self.at));
        if !spent.1.is_zero() {
            metrics.sample_process(percent(spent), resident().0);
        }
        (self.at, self.cpu) = (now, cpu);
        let connected = !sessions.all().is_empty();
        if connected && self.was_connected {
            self.connected.0 += spent.0;
            self.connected.1 += spent.1;
        }
        self.was_connected = connected;
        let seen = look(pipeline, sessions);
        let old = std::mem::replace(&mut self.seen, seen);
        metrics.count_frames(
            FrameStage::Captured,
            seen.captured.saturating_sub(old.captured),
        );
        metrics.count_frames(
            FrameStage::Unchanged,
            seen.unchanged.saturating_sub(old.unchanged),
        );
        metrics.count_frames(
            FrameStage::Encoded,
            seen.encoded.saturating_sub(old.encoded),
        );
        metrics.count_frames(FrameStage::Sent, seen.sent.saturating_sub(old.sent));
        metrics.count_drops(DropReason::Newer, seen.newer.saturating_sub(old.newer));
        metrics.count_drops(
            DropReason::Encoder,
            seen.encoder_errors.saturating_sub(old.encoder_errors),
        );
        metrics.count_drops(
            DropReason::Send,
            seen.send_drops.saturating_sub(old.send_drops),
        );
        metrics.count_packets(Packets::Sent, seen.packets.saturating_sub(old.packets));
        metrics.count_packets(
            Packets::Retransmitted,
            seen.repairs.saturating_sub(old.repairs),
        );
        metrics.count_video_bytes(seen.bytes.saturating_sub(old.bytes));
        metrics.count_encoder_falls(seen.encoder_falls.saturating_sub(old.encoder_falls));
        metrics.count_pixel_bytes(seen.cpu_bytes.saturating_sub(old.cpu_bytes));
        for ((part, time), (_, before)) in seen.cpu.parts().into_iter().zip(old.cpu.parts()) {
            metrics.count_cpu(part, time.saturating_sub(before));
        }
        let encoder = pipeline.encoder_and_why();
        let encoder = encoder
            .as_ref()
            .map(|(driver, why)| (driver.as_str(), &**why));
        metrics.set_encoder(encoder);
        metrics.set_sessions(sessions.all().len());
    }

    /// Everything since the start.
    pub(crate) fn report(
        &self,
        pipeline: &Shared,
        sessions: &Sessions,
        story: String,
    ) -> ServerStats {
        let seen = look(pipeline, sessions);
        let elapsed = self.started.elapsed();
        let whole = (cpu_time().saturating_sub(self.cpu_start), elapsed);
        ServerStats {
            frames: Frames {
                captured: seen.captured,
                unchanged: seen.unchanged,
                encoded: seen.encoded,
                refreshed: pipeline.counters.refreshed.load(Ordering::Relaxed),
                sent: seen.sent,
            },
            dropped: Dropped {
                newer: seen.newer,
                encoder: seen.encoder_errors,
                send: seen.send_drops,
            },
            packets: seen.packets,
            retransmitted: seen.repairs,
            bytes: seen.bytes,
            cpu_percent: if self.connected.1.is_zero() {
                percent(whole)
            } else {
                percent(self.connected)
            },
            cpu: CpuStats::new(seen.cpu, seen.encoded),
            rss_peak_mb: resident().1,
            seconds: elapsed.as_secs_f64(),
            source: pipeline.source(),
            encoder: pipeline.encoder().map(EncoderDriver::as_str),
            encoder_falls: seen.encoder_falls,
            cpu_pixel_bytes: seen.cpu_bytes,
            story,
        }
    }
}

fn look(pipeline: &Shared, sessions: &Sessions) -> Seen {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let counters = &pipeline.counters;
    let time = |counter: &AtomicU64| Duration::from_nanos(read(counter));
    let video = sessions.video_totals();
    Seen {
        captured: read(&counters.captured),
        unchanged: read(&counters.unchanged),
        encoded: read(&counters.encoded),
        newer: pipeline.replaced(),
        encoder_errors: read(&counters.encoder_errors),
        sent: video.frames,
        send_drops: video.frames_dropped,
        packets: video.packets,
        repairs: video.repairs,
        bytes: video.bytes,
        encoder_falls: read(&counters.encoder_falls),
        cpu_bytes: read(&counters.cpu_bytes),
        cpu: Cpu::new(
            cpu_time(),
            time(&counters.capture_cpu),
            time(&counters.encode_cpu),
        ),
    }
}

/// CPU over wall time, of one core.
fn percent((cpu, wall): (Duration, Duration)) -> f64 {
    cpu.as_secs_f64() / wall.as_secs_f64().max(1e-9) * 100.0
}

fn cpu_time() -> Duration {
    process::usage(None).map_or(Duration::ZERO, |usage| usage.cpu)
}

/// Resident memory now and at its peak, in MB of 10^6 bytes.
#[expect(
    clippy::cast_precision_loss,
    reason = "memory sizes are far below 2^52 bytes"
)]
fn resident() -> (f64, f64) {
    process::usage(None).map_or((0.0, 0.0), |usage| {
        (
            usage.resident as f64 / 1e6,
            usage.resident_peak as f64 / 1e6,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_for_a_frame_is_that_of_capture_and_encode() {
        let ms = Duration::from_millis;
        let cpu = Cpu::new(ms(100), ms(10), ms(50));
        assert_eq!(cpu.other, ms(40));
        let stats = CpuStats::new(cpu, 20);
        assert_eq!(stats.ms_per_frame, Some(3.0));
        assert_eq!(CpuStats::new(cpu, 0).ms_per_frame, None);
        // The process was asked first.
        assert_eq!(Cpu::new(ms(50), ms(10), ms(50)).other, Duration::ZERO);
    }
}
