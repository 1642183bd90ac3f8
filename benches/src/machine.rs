//! On what was measured: a figure without its machine is worth nothing.

use std::fmt;
use std::fs;

use serde::Serialize;

/// Facts about this machine at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Model of the first CPU, as the kernel names it.
    pub cpu: String,
    /// CPUs that we may use.
    pub cores: usize,
    /// Memory in MB of 10^6 bytes.
    pub memory_mb: u64,
    /// Version of the kernel.
    pub kernel: String,
    /// Load averages over 1, 5 and 15 minutes: more than a little means that others disturb.
    pub load: String,
}

impl Machine {
    /// Reads `/proc`; what cannot be read is empty.
    #[must_use]
    pub fn read() -> Self {
        let file = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        let memory = field(&file("/proc/meminfo"), "MemTotal");
        let kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
        Self {
            cpu: field(&file("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mb: kib * 1024 / 1_000_000,
            kernel: file("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: load(),
        }
    }
}

/// Load averages over 1, 5 and 15 minutes.
#[must_use]
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace()
        .take(3)
        .collect::<Vec<_>>()
        .join(" ")
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cpu,
            cores,
            memory_mb,
            kernel,
            load,
        } = self;
        write!(
            f,
            "{cpu}, {cores} cores, {memory_mb} MB, Linux {kernel}, load average {load}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_something() {
        let machine = Machine::read();
        assert!(machine.cores > 0 && machine.memory_mb > 0, "{machine}");
        assert_eq!(machine.load.split(' ').count(), 3);
    }
}
