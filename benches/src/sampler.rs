//! What a process costs, sampled from `/proc`.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;

/// One look at a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Sample {
    /// CPU time over wall time since the sample before, in percent of one core.
    pub cpu_percent: f64,
    /// Resident memory in MB of 10^6 bytes.
    pub rss_mb: f64,
}

/// Samples a process until it is dropped or the process ends.
#[derive(Debug)]
pub struct Sampler {
    samples: Arc<Mutex<Vec<Sample>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    /// Samples the process `pid` every `interval`.
    ///
    /// # Errors
    /// The operating system gives no more threads.
    pub fn start(pid: u32, interval: Duration) -> std::io::Result<Self> {
        let samples = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (out, stopped) = (Arc::clone(&samples), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("sampler".into())
            .spawn(move || {
                let Some(mut before) = Look::at(pid) else {
                    return;
                };
                while !stopped.load(Ordering::Acquire) {
                    std::thread::sleep(interval);
                    let Some(now) = Look::at(pid) else { return };
                    let sample = now.since(&before);
                    out.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(sample);
                    before = now;
                }
            })?;
        Ok(Self {
            samples,
            stop,
            thread: Some(thread),
        })
    }

    /// The samples so far.
    #[must_use]
    pub fn samples(&self) -> Vec<Sample> {
        self.samples
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The newest sample.
    #[must_use]
    pub fn last(&self) -> Option<Sample> {
        self.samples
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .last()
            .copied()
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed; the samples until then stand.
            let _ = thread.join();
        }
    }
}

struct Look {
    at: Instant,
    /// Nanoseconds on a CPU by thread.
    threads: HashMap<String, u64>,
    rss_mb: f64,
}

impl Look {
    /// `None` when the process is gone.
    fn at(pid: u32) -> Option<Self> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let status = fs::read_to_string(folder.join("status")).ok()?;
        let mut threads = HashMap::new();
        for entry in fs::read_dir(folder.join("task")).ok()?.flatten() {
            // Nanoseconds, where `stat` counts in ticks of 10 ms; a thread may end meanwhile.
            if let Ok(text) = fs::read_to_string(entry.path().join("schedstat"))
                && let Some(Ok(nanos)) = text.split_whitespace().next().map(str::parse)
            {
                threads.insert(entry.file_name().to_string_lossy().into_owned(), nanos);
            }
        }
        Some(Self {
            at: Instant::now(),
            threads,
            rss_mb: rss_mb(&status)?,
        })
    }

    fn since(&self, before: &Self) -> Sample {
        let nanos: u64 = self
            .threads
            .iter()
            .map(|(thread, nanos)| {
                nanos.saturating_sub(before.threads.get(thread).copied().unwrap_or(0))
            })
            .sum();
        let wall = self.at.duration_since(before.at).as_secs_f64().max(1e-9);
        Sample {
            cpu_percent: Duration::from_nanos(nanos).as_secs_f64() / wall * 100.0,
            rss_mb: self.rss_mb,
        }
    }
}

/// `VmRSS:     1234 kB`; absent for a process that has ended but was not waited for.
fn rss_mb(status: &str) -> Option<f64> {
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u32 = value.trim().trim_end_matches(" kB").parse().ok()?;
    Some(f64::from(kib) * 1024.0 / 1e6)
}

/// The value that `percent` of `values` are at or below (nearest rank); zero without values.
#[must_use]
pub fn percentile(values: impl IntoIterator<Item = f64>, permille: usize) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let rank = (values.len() * permille).div_ceil(1000).saturating_sub(1);
    values.get(rank).copied().unwrap_or(0.0)
}

/// Mean CPU in percent of one core; zero without samples.
#[must_use]
pub fn mean_cpu(samples: &[Sample]) -> f64 {
    let count = u32::try_from(samples.len()).unwrap_or(u32::MAX).max(1);
    samples.iter().map(|sample| sample.cpu_percent).sum::<f64>() / f64::from(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_rank() {
        assert_eq!(percentile([], 990), 0.0);
        assert_eq!(percentile([3.0, 1.0, 2.0], 500), 2.0);
        assert_eq!(percentile((1..=200).map(f64::from), 990), 198.0);
        assert_eq!(percentile((1..=2000).map(f64::from), 999), 1998.0);
    }

    #[test]
    fn reads_the_status_of_a_process() {
        assert_eq!(rss_mb("Name:\tx\nVmRSS:\t    1000 kB\n"), Some(1.024));
        assert_eq!(rss_mb("Name:\tx\nState:\tZ (zombie)\n"), None);
        let look = Look::at(std::process::id()).expect("we are a process");
        assert!(!look.threads.is_empty() && look.rss_mb > 0.1);
    }

    #[test]
    fn only_what_was_used_since_counts() {
        let at = Instant::now();
        let look = |after: u64, threads: &[(&str, u64)]| Look {
            at: at + Duration::from_millis(after),
            threads: threads
                .iter()
                .map(|(name, nanos)| ((*name).to_owned(), *nanos))
                .collect(),
            rss_mb: 1.0,
        };
        let before = look(0, &[("1", 5_000_000), ("2", 900_000_000)]);
        let now = look(100, &[("1", 15_000_000), ("3", 20_000_000)]);
        let percent = now.since(&before).cpu_percent;
        assert!((percent - 30.0).abs() < 1e-6, "{percent}");
    }
}
