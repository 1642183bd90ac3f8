//! One measurement: a server, a client, a while.

use std::time::Duration;

use serde::Serialize;

use crate::programs::Programs;
use crate::report::{ClientFigures, DemoReport, Summary};
use crate::rig::{Picture, Rig};
use crate::sampler::{Sample, Sampler, mean_cpu, percentile};

/// Time between two looks at the server's process.
pub const SAMPLE: Duration = Duration::from_millis(200);
/// Samples at the start that belong to opening the source and to the first key frame.
const WARM_UP: usize = 5;

/// What came out of one measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// Size of the picture.
    pub size: String,
    /// Frames in a second.
    pub fps: u32,
    /// What the picture shows.
    pub content: String,
    /// What both programs measured.
    pub report: DemoReport,
    /// The server's process, without its first second.
    pub server: Cost,
    /// Load averages after it.
    pub load: String,
}

/// What a process cost, by samples of [`SAMPLE`].
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Cost {
    /// How many samples.
    pub samples: usize,
    /// CPU in percent of one core.
    pub cpu_mean: f64,
    /// Likewise.
    pub cpu_p99: f64,
    /// Resident memory in MB of 10^6 bytes.
    pub memory_p99: f64,
}

impl Cost {
    /// Sums samples up.
    #[must_use]
    pub fn of(samples: &[Sample]) -> Self {
        Self {
            samples: samples.len(),
            cpu_mean: mean_cpu(samples),
            cpu_p99: percentile(samples.iter().map(|sample| sample.cpu_percent), 990),
            memory_p99: percentile(samples.iter().map(|sample| sample.rss_mb), 990),
        }
    }
}

/// Runs a server and one client for some seconds; `probe` types so many times in a second.
///
/// # Errors
/// One of the programs fails.
pub fn measure(
    programs: &Programs,
    picture: &Picture,
    seconds: u32,
    probe: Option<u32>,
) -> anyhow::Result<Run> {
    measure_beside(programs, picture, seconds, probe, |_| Ok(()))
}

/// The same with something beside it: `beside` gets the server's port before the client connects, and what it gives lives
/// until the client has ended.
///
/// # Errors
/// One of the programs or `beside` fails.
pub fn measure_beside<T>(
    programs: &Programs,
    picture: &Picture,
    seconds: u32,
    probe: Option<u32>,
    beside: impl FnOnce(u16) -> anyhow::Result<T>,
) -> anyhow::Result<Run> {
    let mut rig = Rig::start(programs, picture, false)?;
    rig.pair()?;
    let company = beside(rig.ready().port)?;
    let sampler;
    let client = {
        let (seconds, probe) = (seconds.to_string(), probe.map(|hz| hz.to_string()));
        let mut options = vec!["--view", "none", "--once", "--seconds", &seconds];
        if let Some(hz) = &probe {
            options.extend(["--probe-input", hz]);
        }
        let client = rig.connect(&options)?;
        sampler = Sampler::start(rig.server_pid(), SAMPLE)?;
        client.finish()?
    };
    drop(company);
    let samples = sampler.samples();
    let samples = samples.get(WARM_UP..).unwrap_or(&samples);
    // The last sample may reach beyond the client's end.
    let samples = samples.split_last().map_or(samples, |(_, rest)| rest);
    Ok(Run {
        size: picture.size.clone(),
        fps: picture.fps,
        content: picture.content.clone(),
        report: DemoReport::merge(&rig.finish()?, &client),
        server: Cost::of(samples),
        load: crate::machine::load(),
    })
}

/// Connects a paired client so many times, one after the other, to a server that nobody watches meanwhile:
/// each connection opens source and encoder anew.
///
/// # Errors
/// One of the programs fails.
pub fn connections(
    programs: &Programs,
    picture: &Picture,
    times: usize,
    mut each: impl FnMut(usize),
) -> anyhow::Result<Summary> {
    let mut rig = Rig::start(programs, picture, false)?;
    rig.pair()?;
    let mut taken = Vec::with_capacity(times);
    for index in 0..times {
        let client = rig.connect(&["--view", "none", "--once", "--seconds", "1"])?;
        taken.extend(first(&client.finish()?));
        each(index + 1);
    }
    rig.finish()?;
    let at = |permille| percentile(taken.iter().copied(), permille);
    Ok(Summary {
        count: u64::try_from(taken.len()).unwrap_or(u64::MAX),
        p50: at(500),
        p95: at(950),
        p99: at(990),
        p999: at(999),
        max: at(1000),
    })
}

/// None when the second was over before the first picture came.
fn first(figures: &ClientFigures) -> Option<f64> {
    (figures.connect_ms.count > 0).then_some(figures.connect_ms.max)
}
