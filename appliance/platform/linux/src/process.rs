//! What a process uses, for the metrics; and the machine's name.

use std::fs;
use std::io;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time of all its threads, user and kernel, to the nanosecond.
    pub cpu: Duration,
    /// Resident memory now, in bytes (`/proc/PID/statm`).
    pub resident: u64,
    /// Highest resident memory so far, in bytes (`VmHWM` of `/proc/PID/status`).
    pub resident_peak: u64,
    /// Threads.
    pub threads: u32,
    /// Open file descriptors; zero for processes of other users.
    pub open_files: u32,
}

/// What the process `pid` has used; `None` for this process.
///
/// # Errors
/// When there is no such process, or `/proc` is not mounted.
pub fn usage(pid: Option<u32>) -> io::Result<Usage> {
    let id = pid.unwrap_or_else(std::process::id);
    let raw = i32::try_from(id).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let cpu = clock_gettime(ClockId::pid_cpu_clock_id(Pid::from_raw(raw))?)?;
    let statm = fs::read_to_string(format!("/proc/{id}/statm"))?;
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    Ok(Usage {
        cpu: Duration::new(
            u64::try_from(cpu.tv_sec()).unwrap_or(0),
            u32::try_from(cpu.tv_nsec()).unwrap_or(0),
        ),
        resident: resident_pages(&statm).saturating_mul(page_size()),
        resident_peak: status_number(&status, "VmHWM:").saturating_mul(1024),
        threads: u32::try_from(status_number(&status, "Threads:")).unwrap_or(u32::MAX),
        open_files: fs::read_dir(format!("/proc/{id}/fd")).map_or(0, |entries| {
            u32::try_from(entries.count()).unwrap_or(u32::MAX)
        }),
    })
}

/// The machine's host name without its domain; `soft-kvm` if it has none.
#[must_use]
pub fn host_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .and_then(|name| name.split('.').next().map(str::to_owned))
        // The kernel's own answer when nobody has named the machine.
        .filter(|name| !name.is_empty() && name != "(none)")
        .unwrap_or_else(|| "soft-kvm".to_owned())
}

fn page_size() -> u64 {
    sysconf(SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|size| u64::try_from(size).ok())
        .unwrap_or(4096)
}

/// The second number of `statm` (proc(5)).
fn resident_pages(statm: &str) -> u64 {
    statm
        .split_ascii_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .unwrap_or(0)
}

fn status_number(status: &str, key: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|rest| rest.split_ascii_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() -> io::Result<()> {
        let used = usage(None)?;
        assert!(used.cpu > Duration::ZERO);
        assert!(used.resident > 0 && used.resident_peak > 0);
        assert!(used.threads > 0 && used.open_files > 0);
        Ok(())
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert!(usage(Some(u32::MAX)).is_err());
        assert!(usage(Some(0x7fff_fff0)).is_err());
    }

    #[test]
    fn proc_files_parse() {
        assert_eq!(resident_pages("100 42 3 4 5 6 7\n"), 42);
        assert_eq!(resident_pages("x"), 0);
        assert_eq!(status_number("Name:\ta\nVmHWM:\t  123 kB\n", "VmHWM:"), 123);
        assert!(!host_name().is_empty());
    }
}
