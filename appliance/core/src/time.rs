//! Time as an argument.
//!
//! Pure crates never read a clock. Drivers read `CLOCK_MONOTONIC` once and pass a [`MonoTime`] in.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point on one machine's `CLOCK_MONOTONIC`, in nanoseconds since its arbitrary start.
///
/// Two machines' values are related only by a measured [`ClockOffset`].
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct MonoTime(u64);

impl MonoTime {
    /// The clock's start; for tests and "never".
    pub const ZERO: Self = Self(0);

    /// From nanoseconds since the clock's start.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// From a kernel `timeval`/`timespec` split in seconds and nanoseconds; negative values count as zero.
    #[must_use]
    pub fn from_parts(seconds: i64, nanos: i64) -> Self {
        let seconds = u64::try_from(seconds).unwrap_or(0);
        let nanos = u64::try_from(nanos).unwrap_or(0);
        Self(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
    }

    /// Nanoseconds since the clock's start.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Microseconds since the clock's start, rounded down.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0 / 1_000
    }

    /// Time from `earlier` to `self`; zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Signed nanoseconds from `earlier` to `self`, saturating.
    #[must_use]
    pub fn signed_since(self, earlier: Self) -> i64 {
        let difference = i128::from(self.0) - i128::from(earlier.0);
        i64::try_from(difference).unwrap_or(if difference < 0 { i64::MIN } else { i64::MAX })
    }
}

impl Add<Duration> for MonoTime {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        let nanos = u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

impl Sub<Duration> for MonoTime {
    type Output = Self;

    fn sub(self, rhs: Duration) -> Self {
        let nanos = u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(nanos))
    }
}

impl fmt::Display for MonoTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:06}s",
            self.0 / 1_000_000_000,
            self.0 / 1_000 % 1_000_000
        )
    }
}

/// How a remote machine's monotonic clock relates to the local one, and how sure we are.
///
/// `local = remote - offset`, true within `± error`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockOffset {
    /// Remote minus local, in nanoseconds.
    pub offset_ns: i64,
    /// Half of the round trip that the offset was read from, in nanoseconds: the largest possible error.
    pub error_ns: u64,
}

impl ClockOffset {
    /// The local time at which the remote clock showed `remote`.
    #[must_use]
    pub fn to_local(self, remote: MonoTime) -> MonoTime {
        MonoTime(shift(remote.0, self.offset_ns.saturating_neg()))
    }

    /// What the remote clock showed at local time `local`.
    #[must_use]
    pub fn to_remote(self, local: MonoTime) -> MonoTime {
        MonoTime(shift(local.0, self.offset_ns))
    }
}

fn shift(nanos: u64, by: i64) -> u64 {
    nanos.saturating_add_signed(by)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_map_both_ways() {
        let clock = ClockOffset {
            offset_ns: -250,
            error_ns: 10,
        };
        let local = MonoTime::from_nanos(1_000);
        assert_eq!(clock.to_remote(local), MonoTime::from_nanos(750));
        assert_eq!(clock.to_local(clock.to_remote(local)), local);
    }

    #[test]
    fn differences_never_wrap() {
        let (early, late) = (MonoTime::from_nanos(5), MonoTime::from_nanos(9));
        assert_eq!(late.since(early), Duration::from_nanos(4));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(early.signed_since(late), -4);
        assert_eq!(
            MonoTime::ZERO.signed_since(MonoTime::from_nanos(u64::MAX)),
            i64::MIN
        );
        assert_eq!(MonoTime::ZERO - Duration::from_secs(1), MonoTime::ZERO);
    }

    #[test]
    fn kernel_stamps_below_zero_count_as_zero() {
        assert_eq!(MonoTime::from_parts(-1, 5), MonoTime::from_nanos(5));
        assert_eq!(
            MonoTime::from_parts(2, 5),
            MonoTime::from_nanos(2_000_000_005)
        );
    }
}
