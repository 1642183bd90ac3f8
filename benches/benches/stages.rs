//! What each stage of the picture costs by itself, on one thread, without a network.
//!
//! One thread, no network, frames back to back. Each clock runs around one call of the stage, in the order of the real path
//! (so caches are as cold as the stage before leaves them). Frames without a change are not encoded and do not count.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use serde::Serialize;
use soft_kvm_core::{Bitrate, FrameRate, MonoTime, Size};
use soft_kvm_platform::openh264::{Decoder, Encoder};
use soft_kvm_protocol::input::echo::EchoSnapshot;
use soft_kvm_video::codec::{EncoderConfig, VideoDecoder, VideoEncoder};
use soft_kvm_video::convert::{Converter, Update};
use soft_kvm_video::source::Content;
use soft_kvm_video::testcard::{TestCard, TestCardConfig};

const SIZE: Size = Size::new(1920, 1080);
const RATE_HZ: u32 = 30;
/// The first pictures warm caches and rate control up; the IDR among them is told apart.
const WARM_UP: u64 = 10;

/// Costs of the video path's stages on one thread.
#[derive(Debug, Parser)]
struct Arguments {
    /// Seconds for each content.
    #[arg(long, default_value_t = 2.5)]
    seconds: f64,
    /// Target of the encoder.
    #[arg(long, default_value_t = 8_000)]
    bitrate_kbps: u32,
    /// Write the numbers to a file as well.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    content: String,
    stage: &'static str,
    count: usize,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    size: String,
    rate_hz: u32,
    bitrate_kbps: u32,
    stages: Vec<Row>,
    /// Content, milliseconds and bytes.
    first_idr: Vec<(String, f64, usize)>,
    /// Content and the mean of the pictures after the first ones.
    bytes_per_frame: Vec<(String, u64)>,
}

/// What one content took.
#[derive(Debug, Default)]
struct Samples {
    stages: [Vec<Duration>; 4],
    bytes: u64,
    first_idr: Option<(Duration, usize)>,
}

const STAGES: [&str; 4] = ["draw", "convert", "encode", "decode"];

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut report = Report {
        size: SIZE.to_string(),
        rate_hz: RATE_HZ,
        bitrate_kbps: arguments.bitrate_kbps,
        stages: Vec::new(),
        first_idr: Vec::new(),
        bytes_per_frame: Vec::new(),
    };
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{SIZE}, {} kbit/s, frames back to back on one thread",
        arguments.bitrate_kbps
    )?;
    writeln!(
        out,
        "{:<8} {:<8} {:>6} {:>8} {:>8} {:>8}",
        "content", "stage", "count", "p50 ms", "p99 ms", "max ms"
    )?;
    for (_, content) in Content::ALL {
        let name = content.to_string();
        let mut samples = run(content, &arguments)?;
        for (stage, times) in STAGES.into_iter().zip(&mut samples.stages) {
            let row = row(&name, stage, times);
            writeln!(
                out,
                "{:<8} {:<8} {:>6} {:>8.2} {:>8.2} {:>8.2}",
                row.content, row.stage, row.count, row.p50_ms, row.p99_ms, row.max_ms
            )?;
            report.stages.push(row);
        }
        let frames = samples.stages.last().map_or(0, Vec::len);
        let mean = samples
            .bytes
            .checked_div(u64::try_from(frames)?)
            .unwrap_or(0);
        let (idr, bytes) = samples.first_idr.unwrap_or_default();
        writeln!(
            out,
            "{name:<8} first IDR {:.2} ms, {bytes} bytes; then {mean} bytes in a frame",
            milliseconds(idr)
        )?;
        report
            .first_idr
            .push((name.clone(), milliseconds(idr), bytes));
        report.bytes_per_frame.push((name, mean));
    }
    if let Some(path) = &arguments.json {
        let file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        serde_json::to_writer_pretty(file, &report)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn run(content: Content, arguments: &Arguments) -> anyhow::Result<Samples> {
    let mut card = TestCard::new(TestCardConfig {
        size: SIZE,
        rate: FrameRate::hz(RATE_HZ),
        content,
        name: "stages".to_owned(),
        still: false,
    });
    let mut converter = Converter::new();
    let mut encoder = Encoder::open(EncoderConfig {
        size: SIZE,
        rate: FrameRate::hz(RATE_HZ),
        bitrate: Bitrate::kbps(arguments.bitrate_kbps),
        intra_refresh: 0,
    })?;
    let mut decoder = Decoder::open()?;
    let echo = EchoSnapshot::default();
    let mut unit = Vec::with_capacity(1 << 20);
    let mut samples = Samples::default();
    let start = Instant::now();
    for index in 0.. {
        if index > WARM_UP && start.elapsed().as_secs_f64() > arguments.seconds {
            break;
        }
        let now = MonoTime::from_nanos(index * 1_000_000_000 / u64::from(RATE_HZ));
        let started = Instant::now();
        let frame = card.draw_frame(now, &echo).context("no buffer is free")?;
        let drawn = Instant::now();
        let update = converter.update(&frame)?;
        let converted = Instant::now();
        drop(frame);
        if update == Update::Unchanged {
            continue;
        }
        let encode = Instant::now();
        encoder.encode(converter.picture(), false, &mut unit)?;
        let encoded = Instant::now();
        decoder.decode(&unit)?.context("no picture")?;
        let decoded = Instant::now();
        if index == 0 {
            samples.first_idr = Some((encoded - encode, unit.len()));
        }
        if index < WARM_UP {
            continue;
        }
        samples.bytes += u64::try_from(unit.len())?;
        let times = [
            drawn - started,
            converted - drawn,
            encoded - encode,
            decoded - encoded,
        ];
        for (stage, time) in samples.stages.iter_mut().zip(times) {
            stage.push(time);
        }
    }
    Ok(samples)
}

fn row(content: &str, stage: &'static str, times: &mut [Duration]) -> Row {
    times.sort_unstable();
    // Nearest rank.
    let percentile = |percent: usize| {
        let rank = (times.len() * percent).div_ceil(100).saturating_sub(1);
        milliseconds(times.get(rank).copied().unwrap_or_default())
    };
    Row {
        content: content.to_owned(),
        stage,
        count: times.len(),
        p50_ms: percentile(50),
        p99_ms: percentile(99),
        max_ms: percentile(100),
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
