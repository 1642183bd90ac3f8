//! The real systemd that is PID 1 of a test's kernel, and our package on it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use soft_kvm_lab_tests::guest;

/// How long systemd may take for what it does at once: it starts programs slowly here.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Removes what the machine's hardware database is made of: it takes long to compile.
pub(crate) fn forget_hwdb() -> anyhow::Result<()> {
    for entry in fs::read_dir("/usr/lib/udev/hwdb.d")? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}

/// Puts the package's files where dpkg would, and tells systemd and udev; nothing is enabled or started.
pub(crate) fn unpack_package() -> anyhow::Result<()> {
    let package = guest::package("new")?;
    guest::run(
        Command::new("dpkg-deb")
            .arg("-x")
            .args([&package, Path::new("/")]),
    )?;
    guest::run(Command::new("systemd-sysusers").arg("soft-kvm.conf"))?;
    guest::run(Command::new("systemd-tmpfiles").args(["--create", "soft-kvm.conf"]))?;
    guest::run(Command::new("udevadm").args(["control", "--reload"]))?;
    systemctl("daemon-reload")?;
    Ok(())
}

/// `systemctl WORDS…`; gives what it prints.
pub(crate) fn systemctl(words: &str) -> anyhow::Result<String> {
    guest::run(Command::new("systemctl").args(words.split_whitespace()))
}

/// Adds lines to a unit, as `systemctl edit` does.
pub(crate) fn drop_in(unit: &str, lines: &str) -> anyhow::Result<()> {
    let folder = format!("/etc/systemd/system/{unit}.d");
    fs::create_dir_all(&folder)?;
    fs::write(format!("{folder}/lab.conf"), lines)?;
    systemctl("daemon-reload").map(drop)
}

/// A property of a unit, as `systemctl show` names it.
pub(crate) fn property(unit: &str, name: &str) -> anyhow::Result<String> {
    let told = systemctl(&format!("show --property={name} --value -- {unit}"))?;
    Ok(told.trim().to_owned())
}

/// Waits until a property has a value.
pub(crate) fn becomes(unit: &str, name: &str, value: &str, limit: Duration) -> anyhow::Result<()> {
    let what = format!("{name}={value} of {unit}");
    let waited = guest::wait_for(&what, limit, || {
        property(unit, name)
            .is_ok_and(|found| found == value)
            .then_some(())
    });
    waited.with_context(|| status(unit))
}

/// What `systemctl status` and the journal say of a unit, for the report.
pub(crate) fn status(unit: &str) -> String {
    let mut status = Command::new("systemctl");
    // Its status says what the unit's is.
    let status = status
        .args(["status", "--no-pager", "--lines=0", "--", unit])
        .output();
    let mut journal = Command::new("journalctl");
    let journal = journal
        .args(["--no-pager", "--lines=60", "--output=short-monotonic"])
        .output();
    [status, journal]
        .into_iter()
        .flatten()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .collect()
}

/// The journal's lines that match `NAME=VALUE…`, with all their fields.
pub(crate) fn journal(matches: &[&str]) -> anyhow::Result<Vec<Value>> {
    // What has been written before is in it.
    guest::run(Command::new("journalctl").arg("--sync"))?;
    let told = guest::run(
        Command::new("journalctl")
            .args(["--output=json", "--all"])
            .args(matches),
    )?;
    let lines = told.lines().map(|line| {
        serde_json::from_str(line).with_context(|| format!("reading the journal's {line}"))
    });
    lines.collect()
}

/// A field of a line of the journal.
pub(crate) fn field<'a>(line: &'a Value, name: &str) -> &'a str {
    line.get(name).and_then(Value::as_str).unwrap_or_default()
}
