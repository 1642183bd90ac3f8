//! Whether the operator sits at this session: virtual terminal, login session, suspend.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The terminal that is shown, e.g. `tty2` (`Documentation/ABI/testing/sysfs-tty`).
const ACTIVE_TERMINAL: &str = "/sys/class/tty/tty0/active";
/// Where systemd-logind keeps its sessions, as `sd-login(3)` reads them.
const SESSIONS: &str = "/run/systemd/sessions";
/// Less than this between two looks is how differently the two clocks are read.
const SLEPT: Duration = Duration::from_millis(500);

/// What tells whether the operator sits at this program's session; see [`Seat::is_active`].
#[derive(Clone, Debug)]
enum Place {
    /// A session of systemd-logind: its file.
    Session(PathBuf),
    /// A virtual terminal, without logind: its name, and the file that names the one shown.
    Terminal(String, PathBuf),
    /// Neither, as for a service or a container: always active.
    Nowhere,
}

/// Follows whether this program's session is the one that the operator sees, and whether the machine slept.
#[derive(Debug)]
pub struct Seat {
    place: Place,
    asleep: Option<Duration>,
}

impl Seat {
    /// The session that this program was started in: that of `XDG_SESSION_ID` if it has a seat, else the virtual
    /// terminal that controls the program.
    #[must_use]
    pub fn of_this_process() -> Self {
        let session = std::env::var("XDG_SESSION_ID").ok();
        let place = session
            .filter(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric()))
            .map(|id| PathBuf::from(SESSIONS).join(id))
            // A session without a seat (ssh) has devices of its own right: it is never switched to or from.
            .filter(|file| value(file, "SEAT").is_some())
            .map(Place::Session)
            .or_else(|| Some(Place::Terminal(own_terminal()?, ACTIVE_TERMINAL.into())))
            .unwrap_or(Place::Nowhere);
        Self {
            place,
            asleep: asleep(),
        }
    }

    /// Whether the operator sees this session: `false` while another virtual terminal or another user's session is
    /// shown.
    #[must_use]
    pub fn is_active(&self) -> bool {
        match &self.place {
            // A session that has ended is not there any more.
            Place::Session(file) => value(file, "ACTIVE").is_some_and(|value| value == "1"),
            Place::Terminal(own, file) => {
                fs::read_to_string(file).map_or(true, |active| active.trim() == own)
            }
            Place::Nowhere => true,
        }
    }

    /// Whether the machine was suspended since the last call: `CLOCK_BOOTTIME` counts that time, `CLOCK_MONOTONIC`
    /// does not (`clock_gettime(2)`).
    pub fn take_slept(&mut self) -> bool {
        let now = asleep();
        let before = std::mem::replace(&mut self.asleep, now);
        matches!((before, now), (Some(before), Some(now)) if slept(before, now))
    }
}

fn slept(before: Duration, now: Duration) -> bool {
    now.saturating_sub(before) > SLEPT
}

/// Time that the machine has spent suspended.
fn asleep() -> Option<Duration> {
    let boot = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?);
    let monotonic = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?);
    Some(boot.saturating_sub(monotonic))
}

/// The value of a `KEY=VALUE` line.
fn value(file: &PathBuf, key: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(value.to_owned())
}

/// The virtual terminal that controls this process, e.g. `tty2`.
fn own_terminal() -> Option<String> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // Field 7 of proc_pid_stat(5); the fields after the name begin with number 3.
    let device: u64 = stat.rsplit_once(") ")?.1.split(' ').nth(4)?.parse().ok()?;
    terminal(device)
}

/// The name of a virtual terminal by its device number: major 4, minor 1 to 63 (`Documentation/admin-guide/devices.txt`).
fn terminal(device: u64) -> Option<String> {
    let (major, minor) = (libc::major(device), libc::minor(device));
    (major == 4 && (1..64).contains(&minor)).then(|| format!("tty{minor}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_virtual_terminals_have_a_name() {
        assert_eq!(terminal(libc::makedev(4, 2)), Some("tty2".to_owned()));
        assert_eq!(terminal(libc::makedev(4, 64)), None, "a serial line");
        assert_eq!(terminal(libc::makedev(136, 2)), None, "a pseudo-terminal");
        assert_eq!(terminal(0), None, "no terminal");
    }

    #[test]
    fn sessions_and_terminals_become_active_and_inactive() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("7");
        let seat = |place| Seat {
            place,
            asleep: None,
        };
        let session = seat(Place::Session(file.clone()));
        for (text, active) in [
            ("# private\nUID=0\nACTIVE=1\nSEAT=seat0\n", true),
            ("ACTIVE=0\nSEAT=seat0\n", false),
            ("", false),
        ] {
            fs::write(&file, text).expect("written");
            assert_eq!(session.is_active(), active, "{text:?}");
        }
        let terminal = seat(Place::Terminal("tty2".into(), file.clone()));
        fs::write(&file, "tty2\n").expect("written");
        assert!(terminal.is_active());
        fs::write(&file, "tty3\n").expect("written");
        assert!(!terminal.is_active());
        fs::remove_file(&file).expect("removed");
        assert!(terminal.is_active(), "a kernel without terminals");
        assert!(!session.is_active(), "logged out");
        assert!(seat(Place::Nowhere).is_active());
    }

    #[test]
    fn a_machine_that_is_awake_did_not_sleep() {
        let mut seat = Seat::of_this_process();
        assert!(!seat.take_slept());
        let hour = Duration::from_secs(3_600);
        assert!(!slept(hour, hour + SLEPT / 2));
        assert!(slept(hour, hour + Duration::from_secs(1)));
    }
}
