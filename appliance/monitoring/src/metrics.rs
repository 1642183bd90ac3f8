//! The Prometheus registry.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::{
    Counter, CounterVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::labels::{
    Bounded, ConnectStage, CpuPart, DropReason, Feedback, FrameStage, InputStage, Packets,
    RefusedConnection, VideoStage,
};

/// Upper bounds in ms: dense from 5 to 60, where the goals of 25, 40 and 50 ms lie.
const VIDEO_MS: &[f64] = &[
    0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.5, 15.0, 17.5, 20.0, 22.5, 25.0,
    27.5, 30.0, 35.0, 40.0, 45.0, 50.0, 55.0, 60.0, 75.0, 100.0, 150.0, 250.0, 500.0, 1000.0,
    2500.0,
];

/// Upper bounds in ms: dense around the goals of 1 and 10 ms.
const INPUT_MS: &[f64] = &[
    0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0,
    6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.5, 15.0, 20.0, 30.0, 50.0, 100.0, 250.0, 1000.0,
];

/// Upper bounds in percent of one core; the goal is 15.
const CPU_PERCENT: &[f64] = &[
    0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0,
    16.0, 18.0, 20.0, 25.0, 30.0, 40.0, 50.0, 75.0, 100.0, 150.0, 200.0, 400.0,
];

/// Upper bounds in MB; the goals are 64, 96 and 256.
const MEMORY_MB: &[f64] = &[
    8.0, 16.0, 24.0, 32.0, 40.0, 48.0, 56.0, 64.0, 72.0, 80.0, 88.0, 96.0, 104.0, 112.0, 128.0,
    144.0, 160.0, 192.0, 224.0, 240.0, 256.0, 272.0, 288.0, 320.0, 384.0, 512.0, 1024.0,
];

/// Upper bounds in ms; the goals are 150, 250 and 1000.
const CONNECTION_MS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 75.0, 100.0, 125.0, 150.0, 175.0, 200.0, 225.0,
    250.0, 275.0, 300.0, 400.0, 500.0, 750.0, 900.0, 1000.0, 1100.0, 1250.0, 1500.0, 2000.0,
    3000.0, 5000.0, 10000.0,
];

/// Most nodes of a story, and most peers, that have time series of their own.
const MAX_NODES: usize = 16;
const MAX_PEERS: usize = 16;
/// Most reasons of encoders, and the longest one: two failed encoders in a driver's words.
const MAX_REASONS: usize = 32;
const MAX_REASON_CHARS: usize = 300;

/// The registry could not be made; a mistake in a metric's name.
#[derive(Debug, thiserror::Error)]
#[error("metrics: {0}")]
pub struct MetricsError(#[from] prometheus::Error);

/// A place where one kind of latency is recorded; cheap to clone, made once for a session.
#[derive(Clone, Debug)]
pub struct Latency(Histogram);

impl Latency {
    /// Records one latency; allocates nothing.
    pub fn observe(&self, latency: Duration) {
        self.0.observe(latency.as_secs_f64() * 1e3);
    }
}

/// A metric that is 1 for the value that counts at the moment.
#[derive(Debug)]
struct Info {
    gauges: IntGaugeVec,
    current: Mutex<Option<Vec<String>>>,
}

impl Info {
    /// The values before disappear.
    fn set(&self, values: Option<&[&str]>) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let same = match (current.as_deref(), values) {
            (Some(current), Some(values)) => current.iter().eq(values),
            (current, values) => current.is_none() && values.is_none(),
        };
        if !same {
            self.gauges.reset();
            *current = values.map(|values| values.iter().map(ToString::to_string).collect());
            if let Some(values) = values {
                self.gauges.with_label_values(values).set(1);
            }
        }
    }
}

/// All metrics of one program.
///
/// Names and units are those of the user's page. Counters of fixed labels start at zero, so that a rate exists from
/// the first scrape on.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    video: HistogramVec,
    input: HistogramVec,
    connection: HistogramVec,
    cpu: Histogram,
    memory: Histogram,
    frames: Vec<IntCounter>,
    drops: Vec<IntCounter>,
    packets: Vec<IntCounter>,
    feedback: Vec<IntCounter>,
    refused: Vec<IntCounter>,
    video_bytes: IntCounter,
    input_events: IntCounter,
    cpu_seconds: Vec<Counter>,
    encoder_falls: IntCounter,
    pixel_bytes: IntCounter,
    encoder: Info,
    sessions: IntGauge,
    story: Info,
    nodes: Bounded,
    peers: Bounded,
    reasons: Bounded,
}

impl Metrics {
    /// A registry with every metric in it. `version` is the program's.
    ///
    /// # Errors
    ///
    /// Two metrics have one name, which the tests exclude.
    pub fn new(version: &str) -> Result<Self, MetricsError> {
        let new = Builder(Registry::new());
        let build = new.gauges(
            "build_info",
            "Version of the running program; always 1.",
            &["version"],
        )?;
        build.with_label_values(&[version]).set(1);
        Ok(Self {
            video: new.histograms(
                "video_latency_ms",
                "Video latency by stage, in milliseconds.",
                VIDEO_MS,
                &["stage", "node", "peer"],
            )?,
            input: new.histograms(
                "input_latency_ms",
                "Input latency by stage, in milliseconds.",
                INPUT_MS,
                &["stage", "node", "peer"],
            )?,
            connection: new.histograms(
                "connection_time_ms",
                "Time to set up a connection by stage, in milliseconds.",
                CONNECTION_MS,
                &["stage"],
            )?,
            cpu: new.histogram(
                "cpu_usage_percent",
                "CPU time of this process, sampled, in percent of one core.",
                CPU_PERCENT,
            )?,
            memory: new.histogram(
                "memory_usage_mb",
                "Resident memory of this process, sampled, in megabytes.",
                MEMORY_MB,
            )?,
            frames: new.counters(
                "frames_total",
                "Frames that reached a stage.",
                "stage",
                &FrameStage::ALL.map(FrameStage::as_str),
            )?,
            drops: new.counters(
                "frames_dropped_total",
                "Frames dropped, by reason.",
                "reason",
                &DropReason::ALL.map(DropReason::as_str),
            )?,
            packets: new.counters(
                "packets_total",
                "Media packets, by what happened to them.",
                "event",
                &Packets::ALL.map(Packets::as_str),
            )?,
            feedback: new.counters(
                "feedback_total",
                "Requests for repair, sent and received, by kind.",
                "kind",
                &Feedback::ALL.map(Feedback::as_str),
            )?,
            refused: new.counters(
                "connections_refused_total",
                "Connections that were closed, by reason.",
                "reason",
                &RefusedConnection::ALL.map(RefusedConnection::as_str),
            )?,
            video_bytes: new.counter(
                "video_bytes_total",
                "Bytes of encoded video, sent by a server or received by a client.",
            )?,
            input_events: new.counter(
                "input_events_total",
                "Input events sent by a client or injected by a server.",
            )?,
            cpu_seconds: new.times(
                "cpu_seconds_total",
                "CPU time of this process by part, in seconds; by frames_total it is the time for a frame.",
                "part",
                &CpuPart::ALL.map(CpuPart::as_str),
            )?,
            encoder_falls: new.counter(
                "encoder_falls_total",
                "Times that an encoder failed and was left for the next one.",
            )?,
            pixel_bytes: new.counter(
                "cpu_pixel_bytes_total",
                "Bytes of pixels that the CPU has read or written, counted once for each stage; 0 with zero copy.",
            )?,
            encoder: new.info(
                "encoder_info",
                "What encodes at this moment, and why it and no better one; 1 while somebody watches.",
                &["encoder", "why"],
            )?,
            sessions: new.gauge("sessions", "Sessions with paired peers at this moment.")?,
            story: new.info(
                "story_info",
                "Root id of the running story; always 1.",
                &["root"],
            )?,
            nodes: Bounded::new(MAX_NODES),
            peers: Bounded::new(MAX_PEERS),
            reasons: Bounded::new(MAX_REASONS).chars(MAX_REASON_CHARS),
            registry: new.0,
        })
    }

    /// Where the video latency of a stage is recorded. `node` is the story's node, `peer` the other end's name;
    /// names above a limit share the label `other`.
    #[must_use]
    pub fn video_latency(&self, stage: VideoStage, node: &str, peer: &str) -> Latency {
        self.by_peer(&self.video, stage.as_str(), node, peer)
    }

    /// Where the input latency of a stage is recorded; labels as in [`Self::video_latency`].
    #[must_use]
    pub fn input_latency(&self, stage: InputStage, node: &str, peer: &str) -> Latency {
        self.by_peer(&self.input, stage.as_str(), node, peer)
    }

    /// Where the time of a stage of connecting is recorded.
    #[must_use]
    pub fn connection_time(&self, stage: ConnectStage) -> Latency {
        Latency(self.connection.with_label_values(&[stage.as_str()]))
    }

    /// Records a sample of this process: CPU in percent of one core since the last sample, resident memory in
    /// megabytes (10^6 bytes).
    pub fn sample_process(&self, cpu_percent: f64, memory_mb: f64) {
        self.cpu.observe(cpu_percent);
        self.memory.observe(memory_mb);
    }

    /// Counts frames that reached a stage.
    pub fn count_frames(&self, stage: FrameStage, frames: u64) {
        count(&self.frames, stage as usize, frames);
    }

    /// Counts dropped frames.
    pub fn count_drops(&self, reason: DropReason, frames: u64) {
        count(&self.drops, reason as usize, frames);
    }

    /// Counts media packets.
    pub fn count_packets(&self, event: Packets, packets: u64) {
        count(&self.packets, event as usize, packets);
    }

    /// Counts requests for repair.
    pub fn count_feedback(&self, kind: Feedback, requests: u64) {
        count(&self.feedback, kind as usize, requests);
    }

    /// Counts a connection that was closed.
    pub fn count_refused_connection(&self, reason: RefusedConnection) {
        count(&self.refused, reason as usize, 1);
    }

    /// Counts bytes of encoded video.
    pub fn count_video_bytes(&self, bytes: u64) {
        self.video_bytes.inc_by(bytes);
    }

    /// Counts input events.
    pub fn count_input_events(&self, events: u64) {
        self.input_events.inc_by(events);
    }

    /// Counts CPU time that a part of the program has used.
    pub fn count_cpu(&self, part: CpuPart, time: Duration) {
        if let Some(counter) = self.cpu_seconds.get(part as usize) {
            counter.inc_by(time.as_secs_f64());
        }
    }

    /// Counts encoders left for the next one.
    pub fn count_encoder_falls(&self, falls: u64) {
        self.encoder_falls.inc_by(falls);
    }

    /// Counts bytes of pixels that the CPU has read or written.
    pub fn count_pixel_bytes(&self, bytes: u64) {
        self.pixel_bytes.inc_by(bytes);
    }

    /// Sets what encodes, and why for people; `None` while nothing does. More different reasons than a limit share the
    /// label `other`: drivers word them.
    pub fn set_encoder(&self, encoder: Option<(&str, &str)>) {
        match encoder {
            Some((encoder, why)) => self.encoder.set(Some(&[encoder, &self.reasons.admit(why)])),
            None => self.encoder.set(None),
        }
    }

    /// Sets how many sessions there are.
    pub fn set_sessions(&self, sessions: usize) {
        self.sessions
            .set(i64::try_from(sessions).unwrap_or(i64::MAX));
    }

    /// Sets the root id of the running story; the one before disappears.
    pub fn set_story(&self, root: &str) {
        self.story.set(Some(&[root]));
    }

    /// The text of `/metrics`; its content type is [`Self::CONTENT_TYPE`].
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Fails only for a metric without a value, and `gather` leaves those out.
        let _ = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text);
        text
    }

    /// The content type of [`Self::render`].
    pub const CONTENT_TYPE: &'static str = prometheus::TEXT_FORMAT;

    fn by_peer(&self, histograms: &HistogramVec, stage: &str, node: &str, peer: &str) -> Latency {
        let (node, peer) = (self.nodes.admit(node), self.peers.admit(peer));
        Latency(histograms.with_label_values(&[stage, &node, &peer]))
    }
}

/// The counters stand in the order of their labels' enum.
fn count(counters: &[IntCounter], index: usize, by: u64) {
    if let Some(counter) = counters.get(index) {
        counter.inc_by(by);
    }
}

/// Makes metrics and registers them.
struct Builder(Registry);

impl Builder {
    fn opts(name: &str, help: &str) -> Opts {
        Opts::new(name, help).namespace("soft_kvm")
    }

    fn histogram_opts(name: &str, help: &str, bounds: &[f64]) -> HistogramOpts {
        HistogramOpts::new(name, help)
            .namespace("soft_kvm")
            .buckets(bounds.to_vec())
    }

    fn histogram(&self, name: &str, help: &str, bounds: &[f64]) -> Result<Histogram, MetricsError> {
        let metric = Histogram::with_opts(Self::histogram_opts(name, help, bounds))?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        bounds: &[f64],
        labels: &[&str],
    ) -> Result<HistogramVec, MetricsError> {
        let metric = HistogramVec::new(Self::histogram_opts(name, help, bounds), labels)?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, MetricsError> {
        let metric = IntCounter::with_opts(Self::opts(name, help))?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: &[&str],
    ) -> Result<Vec<IntCounter>, MetricsError> {
        let metric = IntCounterVec::new(Self::opts(name, help), &[label])?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(values
            .iter()
            .map(|value| metric.with_label_values(&[value]))
            .collect())
    }

    fn times(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: &[&str],
    ) -> Result<Vec<Counter>, MetricsError> {
        let metric = CounterVec::new(Self::opts(name, help), &[label])?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(values
            .iter()
            .map(|value| metric.with_label_values(&[value]))
            .collect())
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, MetricsError> {
        let metric = IntGauge::with_opts(Self::opts(name, help))?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, MetricsError> {
        let metric = IntGaugeVec::new(Self::opts(name, help), labels)?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn info(&self, name: &str, help: &str, labels: &[&str]) -> Result<Info, MetricsError> {
        Ok(Info {
            gauges: self.gauges(name, help, labels)?,
            current: Mutex::new(None),
        })
    }
}

#[cfg(test)]
mod tests;
