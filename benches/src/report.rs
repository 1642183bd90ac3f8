//! What the programs measured, and the demo's JSON (`docs/schema/demo.schema.json`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A distribution of times in milliseconds; all zero when nothing was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many were recorded.
    pub count: u64,
    /// Half are at or below.
    pub p50: f64,
    /// 95 % are at or below.
    pub p95: f64,
    /// 99 % are at or below.
    pub p99: f64,
    /// 99.9 % are at or below.
    pub p999: f64,
    /// The largest.
    pub max: f64,
}

/// Distributions by name: `encode_ms`, `capture_to_decoded_ms`, …
pub type Summaries = BTreeMap<String, Summary>;

/// Counters by name.
pub type Counts = BTreeMap<String, u64>;

/// What `soft-kvm-server --stats-json` holds, as far as we need it.
#[derive(Clone, Debug, Deserialize)]
pub struct ServerFigures {
    /// `captured`, `unchanged`, `encoded`, `sent`, …
    pub frames: Counts,
    /// Frames by the reason that they were dropped for.
    pub dropped: Counts,
    /// What its process used.
    #[serde(flatten)]
    pub process: Process,
}

/// What `soft-kvm-client --stats-json` holds, as far as we need it.
#[derive(Clone, Debug, Deserialize)]
pub struct ClientFigures {
    /// `received`, `decoded`.
    pub frames: Counts,
    /// Frames by the reason that they were dropped for.
    pub dropped: Counts,
    /// The picture's stages.
    pub video: Summaries,
    /// The input's.
    pub input: Summaries,
    /// Start of the connection to first decoded frame.
    pub connect_ms: Summary,
    /// How well the clocks are known to be aligned; none when no clock probe came back.
    pub clock_error_ms: Option<f64>,
    /// What its process used.
    pub process: Process,
}

/// What a process used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// CPU time over wall time, in percent of one core.
    pub cpu_percent: f64,
    /// Highest resident memory in MB of 10^6 bytes.
    pub rss_peak_mb: f64,
}

/// The demo's figures.
#[derive(Clone, Debug, Serialize)]
pub struct DemoReport {
    /// Frames by stage, and those that were dropped.
    pub frames: Frames,
    /// The picture's stages.
    pub video: Summaries,
    /// The input's.
    pub input: Summaries,
    /// The server's process.
    pub server: Process,
    /// The client's process.
    pub client: Process,
    /// Start of the connection to first decoded frame.
    pub connect_ms: Summary,
    /// How well the clocks are known to be aligned.
    pub clock_error_ms: Option<f64>,
}

/// Frames by stage.
#[derive(Clone, Debug, Serialize)]
pub struct Frames {
    /// Given by the source.
    pub captured: u64,
    /// The same as the one before: not encoded.
    pub unchanged: u64,
    /// Encoded, refreshes of a still picture included.
    pub encoded: u64,
    /// Handed to the network.
    pub sent: u64,
    /// Put together from packets.
    pub received: u64,
    /// Decoded.
    pub decoded: u64,
    /// By reason, of both sides.
    pub dropped: Counts,
}

impl DemoReport {
    /// Puts both sides together.
    #[must_use]
    pub fn merge(server: &ServerFigures, client: &ClientFigures) -> Self {
        let frames = |side: &Counts, name: &str| side.get(name).copied().unwrap_or_default();
        let mut dropped = server.dropped.clone();
        for (reason, count) in &client.dropped {
            *dropped.entry(reason.clone()).or_default() += count;
        }
        Self {
            frames: Frames {
                captured: frames(&server.frames, "captured"),
                unchanged: frames(&server.frames, "unchanged"),
                encoded: frames(&server.frames, "encoded"),
                sent: frames(&server.frames, "sent"),
                received: frames(&client.frames, "received"),
                decoded: frames(&client.frames, "decoded"),
                dropped,
            },
            video: client.video.clone(),
            input: client.input.clone(),
            server: server.process,
            client: client.process,
            connect_ms: client.connect_ms,
            clock_error_ms: client.clock_error_ms,
        }
    }
}
