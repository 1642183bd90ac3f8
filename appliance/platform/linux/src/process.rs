//! What a process uses, for the metrics; and the machine's name.

use std::fs;
use std::io;
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::capability;

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

/// Keeps what this process knows to itself, whatever happens to it: no core dumps, no other process of the same user looks into
/// its memory (`PR_SET_DUMPABLE`), and no program that it starts gains privileges (`PR_SET_NO_NEW_PRIVS`; prctl(2)).
///
/// # Errors
/// The kernel refuses one of them; the others are in force all the same.
pub fn keep_secrets() -> io::Result<()> {
    let cores = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    let dumps = prctl::set_dumpable(false);
    let privileges = prctl::set_no_new_privs();
    cores.and(dumps).and(privileges)?;
    Ok(())
}

/// Gives a folder and the files in it to `user`.
///
/// # Errors
/// There is no such user, or this process may not give them away.
pub fn hand_over(folder: &std::path::Path, user: &str) -> io::Result<()> {
    let user = account(user)?;
    let give = |path: &std::path::Path| {
        // Links are given away themselves, never what they lead to.
        std::os::unix::fs::lchown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
    };
    for entry in fs::read_dir(folder)? {
        give(&entry?.path())?;
    }
    give(folder)
}

/// Becomes `user` for good, with its own group and no capability. To be called before there are other threads.
///
/// # Errors
/// There is no such user, or this process may not become another one.
pub fn become_user(user: &str) -> io::Result<()> {
    let user = account(user)?;
    // The thread that keys pass through may still run ahead of others.
    if let Err(error) = setrlimit(Resource::RLIMIT_RTPRIO, 20, 20) {
        tracing::debug!(%error, "RLIMIT_RTPRIO");
    }
    // For `keep_all_in_memory`.
    if let Err(error) = unlimit_locked_memory() {
        tracing::debug!(%error, "RLIMIT_MEMLOCK");
    }
    nix::unistd::setgroups(&[user.gid])?;
    nix::unistd::setresgid(user.gid, user.gid, user.gid)?;
    nix::unistd::setresuid(user.uid, user.uid, user.uid)?;
    Ok(())
}

fn account(user: &str) -> io::Result<nix::unistd::User> {
    nix::unistd::User::from_name(user)?.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("there is no user {user:?} here"),
        )
    })
}

/// Keeps the memory of `secret` out of the swap space (mlock(2)) and out of dumps (`MADV_DONTDUMP`); whole pages, so also what
/// lies beside it.
///
/// # Errors
/// More than `RLIMIT_MEMLOCK` lets the process lock.
pub fn keep_in_memory(secret: &[u8]) -> io::Result<()> {
    let page = usize::try_from(page_size()).unwrap_or(4096);
    let start = secret.as_ptr().cast::<libc::c_void>().cast_mut();
    let inside = start.addr() % page;
    let first = start.wrapping_byte_sub(inside);
    let length = (inside + secret.len()).next_multiple_of(page);
    // SAFETY: locking changes nothing that a program sees; the pages are mapped, for `secret` is in them.
    if unsafe { libc::mlock(first, length) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above; the advice is about dumps only.
    if unsafe { libc::madvise(first, length, libc::MADV_DONTDUMP) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Keeps all that this process has in memory, and will have, out of the swap space: also the copies of keys and pictures that
/// libraries make. Memory that is never used takes none by it (`MCL_ONFAULT`; mlockall(2)). Programs that it starts begin without.
///
/// # Errors
/// `RLIMIT_MEMLOCK` holds for this process, and it may not lift it: below a limit allocations would fail later.
pub fn keep_all_in_memory() -> io::Result<()> {
    if !capability::locks_memory()? {
        unlimit_locked_memory()?;
    }
    // SAFETY: locking changes nothing that a program sees.
    if unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn unlimit_locked_memory() -> io::Result<()> {
    if getrlimit(Resource::RLIMIT_MEMLOCK)?.0 != RLIM_INFINITY {
        setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY)?;
    }
    Ok(())
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
    fn secrets_stay_in_the_process() -> io::Result<()> {
        keep_secrets()?;
        assert!(!prctl::get_dumpable()? && prctl::get_no_new_privs()?);
        let cores = getrlimit(Resource::RLIMIT_CORE)?;
        assert_eq!(cores, (0, 0));
        Ok(())
    }

    #[test]
    fn a_key_is_never_swapped() -> io::Result<()> {
        let locked = || -> io::Result<u64> {
            let status = fs::read_to_string("/proc/self/status")?;
            Ok(status_number(&status, "VmLck:"))
        };
        let key = vec![7; 10_000];
        let before = locked()?;
        keep_in_memory(&key)?;
        assert!(locked()? >= before + 8, "two whole pages at least");
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
