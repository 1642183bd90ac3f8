//! The wall clock. Keys and pictures do not need it; dates in logs and recordings do.

use std::time::Duration;

use super::{Finding, Machine, Reader, State};
use crate::console;

/// 2025-01-01: this program is younger.
const OLDEST: Duration = Duration::from_secs(1_735_689_600);
/// 2100-01-01.
const NEWEST: Duration = Duration::from_secs(4_102_444_800);

/// What is known of the clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Since the Unix epoch.
    pub now: Duration,
    /// Whether the kernel counts it as synchronised; `None` when it does not tell.
    pub synchronised: Option<bool>,
    /// A program that sets it is installed.
    pub keeper: Option<&'static str>,
}

/// Services that set the clock, and a file of each.
const KEEPERS: &[(&str, &str)] = &[
    (
        "systemd-timesyncd",
        "/lib/systemd/system/systemd-timesyncd.service",
    ),
    (
        "systemd-timesyncd",
        "/usr/lib/systemd/system/systemd-timesyncd.service",
    ),
    ("chrony", "/usr/sbin/chronyd"),
    ("ntpsec", "/usr/sbin/ntpd"),
];

impl Clock {
    /// Looks for a keeper; the times come from the kernel.
    #[must_use]
    pub fn read(machine: &Machine, now: Duration, synchronised: Option<bool>) -> Self {
        let keeper = KEEPERS.iter().find(|(_, file)| machine.exists(file));
        Self {
            now,
            synchronised,
            keeper: keeper.map(|(name, _)| *name),
        }
    }
}

/// Whether the date can be right, and stays so.
#[must_use]
pub fn check(clock: &Clock, reader: &Reader) -> Finding {
    const CHECK: &str = "clock";
    let date = console::today(clock.now);
    let start = match clock.keeper {
        None => "sudo apt install systemd-timesyncd".to_owned(),
        Some("systemd-timesyncd") => "sudo timedatectl set-ntp true".to_owned(),
        Some(service) => format!("sudo systemctl enable --now {service}"),
    };
    if !(OLDEST..NEWEST).contains(&clock.now) {
        let message = reader.say(
            format!("the date is {date}: logs and recordings get wrong dates (keys and pairing do not mind)"),
            format!("日付が {date} です。ログと録画の日付が狂います（鍵とペアリングには影響しません）"),
        );
        return Finding::new(CHECK, State::Wrong, message).mend(reader.command(&start));
    }
    match clock.synchronised {
        Some(true) => Finding::new(
            CHECK,
            State::Ok,
            reader.say(
                format!("{date}, synchronised"),
                format!("{date}、時刻同期済み"),
            ),
        ),
        Some(false) => Finding::new(
            CHECK,
            State::Warning,
            reader.say(
                format!("{date}, not synchronised: dates in logs may drift"),
                format!("{date}、時刻同期されていません。ログの日付がずれることがあります"),
            ),
        )
        .mend(reader.command(&start)),
        None => Finding::new(
            CHECK,
            State::NotCheckable,
            reader.say(
                format!("{date}; the kernel does not tell whether it is synchronised"),
                format!("{date}。同期の状態をカーネルから読めません"),
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::machine::tests::tree;
    use super::super::tests::in_both;
    use super::*;

    fn ask(files: &[(&str, &str)], now: u64, synchronised: Option<bool>) -> Finding {
        let (_folder, machine) = tree(files);
        let clock = Clock::read(&machine, Duration::from_secs(now), synchronised);
        in_both(|reader| vec![check(&clock, reader)]).remove(0)
    }

    #[test]
    fn a_box_without_a_battery_starts_in_1970() {
        let timesyncd = [("lib/systemd/system/systemd-timesyncd.service", "")];
        let found = ask(&timesyncd, 60, Some(true));
        assert_eq!(found.state, State::Wrong);
        assert!(found.message.contains("1970-01-01"), "{}", found.message);
        assert_eq!(found.mend.as_deref(), Some("sudo timedatectl set-ntp true"));
        assert_eq!(ask(&[], 5_000_000_000, Some(true)).state, State::Wrong);
    }

    #[test]
    fn whether_it_is_synchronised() {
        let now = OLDEST.as_secs() + 1;
        assert_eq!(ask(&[], now, Some(true)).state, State::Ok);
        assert_eq!(ask(&[], now, None).state, State::NotCheckable);
        let found = ask(&[], now, Some(false));
        assert_eq!(found.state, State::Warning);
        assert!(
            found
                .mend
                .is_some_and(|mend| mend.contains("apt install systemd-timesyncd"))
        );
        let found = ask(&[("usr/sbin/chronyd", "")], now, Some(false));
        assert_eq!(
            found.mend.as_deref(),
            Some("sudo systemctl enable --now chrony")
        );
    }
}
