//! The shipped unit under a real systemd: it starts, is watched, reads its story again, stops, and logs to the journal.

use std::fs;
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use soft_kvm_lab_tests::guest;

use crate::kvm::{Host, Seat};
use crate::plug;
use crate::privsep::check_powerless;
use crate::system::{self, SOON, becomes, field, property, status, systemctl};

/// The server's unit.
pub(crate) const SERVER: &str = "soft-kvm.service";
/// The unit that opens the devices.
pub(crate) const BROKER: &str = "soft-kvm-broker.service";
/// Where an administrator has the story.
pub(crate) const STORY: &str = "/etc/soft-kvm/story.jsonnet";

/// The whole life of the service.
pub(crate) fn lives() -> anyhow::Result<()> {
    system::unpack_package()?;
    let before = processes()?;
    write_story(9090)?;
    system::drop_in(SERVER, "[Service]\nWatchdogSec=3\n")?;
    let start = Instant::now();
    // Comes back when the server has said that it serves.
    systemctl(&format!("start {SERVER}")).map_err(|error| error.context(status(SERVER)))?;
    guest::tell(format!("service: up in {} ms", start.elapsed().as_millis()));
    ensure!(
        property(SERVER, "StatusText")? == "serving",
        "{}",
        status(SERVER)
    );
    serves_metrics(9090)?;
    check_powerless(property(SERVER, "MainPID")?.parse()?)?;
    // It has asked for uinput.
    ensure!(
        property(BROKER, "ActiveState")? == "active",
        "{}",
        status(BROKER)
    );
    may_wake_usb_hosts()?;

    write_story(9191)?;
    systemctl(&format!("reload {SERVER}"))?;
    serves_metrics(9191)?;
    becomes(SERVER, "ActiveState", "active", SOON)?;

    hung_is_restarted()?;
    in_the_journal()?;

    // A busy machine may hold a stop up; the quickest of three is the program's own.
    let mut quickest = Duration::MAX;
    for _ in 0..3 {
        let stop = Instant::now();
        systemctl(&format!("stop {SERVER}"))?;
        quickest = quickest.min(stop.elapsed());
        ensure!(
            property(SERVER, "Result")? == "success",
            "{}",
            status(SERVER)
        );
        if quickest < Duration::from_secs(2) {
            break;
        }
        systemctl(&format!("start {SERVER}"))?;
    }
    guest::tell(format!("service: stopped in {} ms", quickest.as_millis()));
    ensure!(
        quickest < Duration::from_secs(2),
        "it takes {} ms to stop",
        quickest.as_millis()
    );
    started_by_a_connection()?;
    let waited = guest::wait_for("the end of our processes", SOON, || {
        processes().is_ok_and(|left| left == before).then_some(())
    });
    waited.with_context(|| format!("{:?}\n{}", processes(), status(BROKER)))?;
    becomes("soft-kvm-broker.socket", "ActiveState", "inactive", SOON)?;
    ensure!(
        fs::metadata("/sys/fs/cgroup/system.slice/soft-kvm.service").is_err(),
        "its control group is left"
    );
    Ok(())
}

/// Of sysfs the broker may write what wakes the host of a USB gadget.
fn may_wake_usb_hosts() -> anyhow::Result<()> {
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", property(BROKER, "MainPID")?))?;
    // proc_pid_mountinfo(5): the fifth word is where, the sixth how.
    let options = |place: &str| {
        let mut lines = mounts.lines().rev();
        let mut words = lines.find_map(|line| {
            let mut words = line.split(' ').skip(4);
            (words.next() == Some(place)).then_some(words)
        })?;
        words.next().map(|options| options.starts_with("rw"))
    };
    ensure!(options("/sys") == Some(false), "{mounts}");
    ensure!(options("/sys/devices/platform") == Some(true), "{mounts}");
    Ok(())
}

/// Systemd listens, and hands its socket to the server when somebody connects.
fn started_by_a_connection() -> anyhow::Result<()> {
    systemctl("start soft-kvm.socket")?;
    ensure!(
        property(SERVER, "ActiveState")? == "inactive",
        "{}",
        status(SERVER)
    );
    let first = TcpStream::connect(plug::HERE)?;
    becomes(SERVER, "ActiveState", "active", SOON)?;
    drop(first);
    let seat = Seat::new(Host::Kernel)?;
    plug::pair(|code| seat.pair(plug::HERE, code))
        .map_err(|error| error.context(status(SERVER)))?;
    systemctl(&format!("stop soft-kvm.socket {SERVER}"))?;
    ensure!(
        TcpStream::connect(plug::HERE).is_err(),
        "somebody still listens"
    );
    Ok(())
}

fn write_story(metrics: u16) -> anyhow::Result<()> {
    let text = format!(
        "(import 'default.jsonnet') + {{ capture+: {{ driver: 'testcard' }}, metrics+: {{ port: {metrics} }} }}"
    );
    Ok(fs::write(STORY, text)?)
}

fn serves_metrics(port: u16) -> anyhow::Result<()> {
    let waited = guest::wait_for("the page of figures", SOON, || {
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
    waited
        .map(drop)
        .map_err(|error| error.context(status(SERVER)))
}

/// Our programs that run.
fn processes() -> anyhow::Result<String> {
    let output = Command::new("pgrep").args(["-a", "soft-kvm"]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A server whose threads all stand still is killed by the watchdog and started anew.
fn hung_is_restarted() -> anyhow::Result<()> {
    let hung = property(SERVER, "MainPID")?;
    ensure!(property(SERVER, "NRestarts")? == "0", "{}", status(SERVER));
    let start = Instant::now();
    guest::run(Command::new("kill").args(["-s", "STOP", &hung]))?;
    becomes(SERVER, "NRestarts", "1", SOON)?;
    becomes(SERVER, "ActiveState", "active", SOON)?;
    guest::tell(format!(
        "service: hung, killed and up again in {} ms",
        start.elapsed().as_millis()
    ));
    ensure!(property(SERVER, "MainPID")? != hung, "{}", status(SERVER));
    let words = format!("UNIT={SERVER}");
    let told = system::journal(&[&words])?;
    ensure!(
        told.iter()
            .any(|line| field(line, "MESSAGE").contains("Watchdog timeout")),
        "{}",
        status(SERVER)
    );
    Ok(())
}

/// What the server says is in the journal under its unit, with fields to look for.
fn in_the_journal() -> anyhow::Result<()> {
    let words = format!("_SYSTEMD_UNIT={SERVER}");
    let lines = system::journal(&[&words])?;
    ensure!(!lines.is_empty(), "{}", status(SERVER));
    for line in &lines {
        ensure!(
            field(line, "SYSLOG_IDENTIFIER") == "soft-kvm-server",
            "{line}"
        );
    }
    let started = system::journal(&[&words, "SOFT_KVM_TARGET=audit", "PRIORITY=6"])?;
    ensure!(
        started
            .iter()
            .any(|line| field(line, "MESSAGE").contains("started")
                && !field(line, "SOFT_KVM_HASH").is_empty()),
        "no line of the audit log with its fields: {started:?}"
    );
    Ok(())
}
