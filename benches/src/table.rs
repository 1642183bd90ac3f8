//! Tables of stages for people.

use crate::report::{Summaries, Summary};

/// The picture's stages in the order of its way, with what each means.
pub const VIDEO: &[(&str, &str)] = &[
    (
        "convert_ms",
        "captured -> changed tiles converted to I420 (waiting for the encoder included)",
    ),
    ("encode_ms", "-> access unit complete"),
    ("queue_ms", "-> packets sealed"),
    (
        "network_ms",
        "-> last packet read by the client (pacing and both sockets included)",
    ),
    ("decode_ms", "one call of the decoder"),
    (
        "capture_to_decoded_ms",
        "captured (the test card begins to draw) -> decoded, on one clock",
    ),
];

/// The input's stages, likewise.
pub const INPUT: &[(&str, &str)] = &[
    (
        "to_injected_ms",
        "event made in the client -> applied by the server's sink, on one clock",
    ),
    (
        "to_ack_ms",
        "event made in the client -> its acknowledgement read by the client",
    ),
    (
        "to_echo_ms",
        "event made in the client -> decoded picture that shows it",
    ),
];

/// Heading of [`row`]s.
#[must_use]
pub fn heading(first: &str) -> String {
    format!(
        "{first:<24} {:>6} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "count", "p50 ms", "p95 ms", "p99 ms", "p99.9 ms", "max ms"
    )
}

/// One line.
#[must_use]
pub fn row(name: &str, summary: &Summary) -> String {
    let Summary {
        count,
        p50,
        p95,
        p99,
        p999,
        max,
    } = summary;
    format!("{name:<24} {count:>6} {p50:>9.2} {p95:>9.2} {p99:>9.2} {p999:>9.2} {max:>9.2}")
}

/// Lines for the stages of `order` that something was recorded of.
#[must_use]
pub fn rows(order: &[(&str, &str)], summaries: &Summaries) -> Vec<String> {
    order
        .iter()
        .filter_map(|(name, _)| {
            let summary = summaries.get(*name).filter(|summary| summary.count > 0)?;
            Some(row(name.trim_end_matches("_ms"), summary))
        })
        .collect()
}

/// What each stage's clock starts and stops on.
#[must_use]
pub fn legend(order: &[(&str, &str)]) -> Vec<String> {
    order
        .iter()
        .map(|(name, what)| format!("  {:<20} {what}", name.trim_end_matches("_ms")))
        .collect()
}
