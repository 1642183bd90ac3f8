//! Numbers of a running Soft KVM: the Prometheus registry behind `/metrics`, and exact percentiles for people.
//!
//! The registry ([`Metrics`]) counts for ever and is read from outside; [`Percentiles`] answers p50/p95/p99 on the
//! spot for the overlay, the demo and the benchmarks. Recording in either allocates nothing once the handles of a
//! session are made.
#![forbid(unsafe_code)]

mod labels;
mod metrics;
mod percentiles;

pub use labels::{
    ConnectStage, CpuPart, DropReason, Feedback, FrameStage, InputStage, Packets,
    RefusedConnection, VideoStage,
};
pub use metrics::{Latency, Metrics, MetricsError};
pub use percentiles::{Percentiles, Summary};
