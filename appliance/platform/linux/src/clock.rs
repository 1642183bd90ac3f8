//! The two clocks of the machine.

use nix::time::{ClockId, clock_gettime};
use soft_kvm_core::MonoTime;
use std::time::Duration;

/// Seconds from the NTP epoch (1900-01-01) to the Unix epoch (RFC 5905 §6, figure 4).
const NTP_TO_UNIX_SECONDS: u64 = 2_208_988_800;

/// `CLOCK_MONOTONIC` now: the clock of the kernel's V4L2, DRM and input stamps.
///
/// Returns [`MonoTime::ZERO`] if the kernel refuses, which it cannot for this clock.
#[must_use]
pub fn now() -> MonoTime {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(MonoTime::ZERO, |time| {
        MonoTime::from_parts(time.tv_sec(), time.tv_nsec())
    })
}

/// CPU time of the calling thread so far, user and kernel (`CLOCK_THREAD_CPUTIME_ID`).
#[must_use]
pub fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, |time| {
        Duration::new(
            u64::try_from(time.tv_sec()).unwrap_or(0),
            u32::try_from(time.tv_nsec()).unwrap_or(0),
        )
    })
}

/// The wall clock (`CLOCK_REALTIME`) as time since the Unix epoch; zero when it is set before that.
#[must_use]
pub fn wall() -> Duration {
    clock_gettime(ClockId::CLOCK_REALTIME).map_or(Duration::ZERO, |time| {
        Duration::new(
            u64::try_from(time.tv_sec()).unwrap_or(0),
            u32::try_from(time.tv_nsec()).unwrap_or(0),
        )
    })
}

/// Whether the kernel counts the wall clock as synchronised (`adjtimex(2)`); `None` when it does not tell.
#[must_use]
pub fn synchronised() -> Option<bool> {
    // SAFETY: `timex` is plain numbers, of which zero is one of all; with no modes set the call only reads.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one `timex`, which this is.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    (state >= 0).then_some(timex.status & libc::STA_UNSYNC == 0)
}

/// The wall clock's time at `at` as an NTP timestamp in 32.32 fixed point (RFC 3550 §4).
///
/// The wall clock may step; take the value for one report, never a difference of two.
#[must_use]
pub fn ntp_at(at: MonoTime) -> u64 {
    let (mono, wall) = (now(), wall());
    let wall = if at > mono {
        wall.saturating_add(at.since(mono))
    } else {
        wall.saturating_sub(mono.since(at))
    };
    to_ntp(wall)
}

fn to_ntp(since_unix_epoch: Duration) -> u64 {
    let seconds = since_unix_epoch.as_secs().wrapping_add(NTP_TO_UNIX_SECONDS);
    let fraction = (u64::from(since_unix_epoch.subsec_nanos()) << 32) / 1_000_000_000;
    (seconds << 32) | fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_runs_forward() {
        let first = now();
        assert!(first > MonoTime::ZERO);
        assert!(now() >= first);
    }

    #[test]
    fn work_takes_cpu_time_and_sleep_does_not() {
        let start = thread_cpu();
        std::thread::sleep(Duration::from_millis(50));
        let slept = thread_cpu();
        assert!(slept.saturating_sub(start) < Duration::from_millis(40));
        while thread_cpu() < slept + Duration::from_millis(1) {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn the_kernel_tells_whether_the_clock_is_synchronised() {
        assert!(synchronised().is_some());
    }

    #[test]
    fn ntp_time_of_the_unix_epoch_and_half_a_second() {
        assert_eq!(to_ntp(Duration::ZERO) >> 32, 2_208_988_800);
        assert_eq!(to_ntp(Duration::from_millis(500)) & 0xffff_ffff, 1 << 31);
        let difference = ntp_at(now() + Duration::from_secs(10)).wrapping_sub(ntp_at(now()));
        assert!((9..=11).contains(&(difference >> 32)));
    }
}
