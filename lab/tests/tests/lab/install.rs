//! Our Debian package under dpkg and a running systemd: what is enabled and runs, what an upgrade keeps, what purging leaves.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use soft_kvm_lab_tests::guest;

use crate::kvm::{Host, Seat};
use crate::plug;
use crate::service::{SERVER, STORY};
use crate::system::{self, SOON, becomes, property, status, systemctl};

const KEY: &str = "/var/lib/soft-kvm/identity.pem";

/// Installed, it is enabled and serves. An upgrade starts the new program and keeps key, story and that it was disabled.
/// Purged, nothing is left but what was there before.
pub(crate) fn package() -> anyhow::Result<()> {
    system::forget_hwdb()?;
    // There are always others.
    fs::write(
        "/usr/lib/udev/hwdb.d/20-others.hwdb",
        "lab:others\n LAB=1\n",
    )?;
    // A container's word against starting services, and the manual's index.
    for path in ["/usr/sbin/policy-rc.d", "/var/lib/man-db/auto-update"] {
        if Path::new(path).exists() {
            fs::remove_file(path)?;
        }
    }
    let before = ours()?;
    dpkg(&["--install", &guest::package("old")?.to_string_lossy()])?;
    ensure!(is_enabled() == "enabled", "{}", status(SERVER));
    becomes(SERVER, "ActiveState", "active", SOON)?;
    ensure!(
        property(SERVER, "StatusText")? == "serving",
        "{}",
        status(SERVER)
    );
    ensure!(dongle()? == "SOFT_KVM_CAPTURE=1", "{}", dongle()?);
    // The unit by the program's name.
    let told = systemctl("cat soft-kvm-server.service")?;
    ensure!(told.contains("Description=Soft KVM server"), "{told}");
    let first = property(SERVER, "MainPID")?;
    ensure!(property("soft-kvm-server.service", "MainPID")? == first);
    let key = fs::read(KEY)?;
    fs::write(STORY, "import 'default.jsonnet'")?;

    let old = version()?;
    systemctl(&format!("disable {SERVER}"))?;
    dpkg(&["--install", &guest::package("new")?.to_string_lossy()])?;
    ensure!(version()? != old, "still {old}");
    ensure!(
        is_enabled() == "disabled",
        "enabled again: {}",
        status(SERVER)
    );
    becomes(SERVER, "ActiveState", "active", SOON)?;
    ensure!(
        property(SERVER, "MainPID")? != first,
        "the old program still runs"
    );
    ensure!(fs::read(KEY)? == key, "another key");
    ensure!(Path::new(STORY).exists(), "the story is gone");

    dpkg(&["--remove", "soft-kvm"])?;
    ensure!(
        property(SERVER, "ActiveState")? == "inactive",
        "{}",
        status(SERVER)
    );
    ensure!(fs::read(KEY)? == key, "another key");
    ensure!(dongle()?.is_empty(), "udev still knows: {}", dongle()?);
    fs::remove_file(STORY)?;
    dpkg(&["--purge", "soft-kvm"])?;
    let left = ours()?;
    ensure!(left == before, "left over:\n{left}");
    Ok(())
}

/// A plain binary becomes a service by what it says is to be run next, serves a client, and leaves nothing but its state when
/// it is taken away again, in the same way.
pub(crate) fn plain_binary() -> anyhow::Result<()> {
    system::forget_hwdb()?;
    let before = ours()?;
    let run = |option: &str| -> anyhow::Result<()> {
        let mut command = Command::new(guest::program("soft-kvm-server")?);
        let told = guest::run(command.arg(option).env("LANG", "C"))?;
        let next = told.lines().filter_map(|line| line.strip_prefix("  "));
        let next: Vec<_> = next.filter(|line| line.starts_with("system")).collect();
        ensure!(!next.is_empty(), "nothing is to be run next:\n{told}");
        for command in next {
            let run = guest::run(Command::new("sh").args(["-ec", command]));
            run.map_err(|error| error.context(status(SERVER)))?;
        }
        Ok(())
    };
    run("--install-service")?;
    ensure!(is_enabled() == "enabled", "{}", status(SERVER));
    becomes(SERVER, "ActiveState", "active", SOON)?;
    let program = fs::read_link(format!("/proc/{}/exe", property(SERVER, "MainPID")?))?;
    ensure!(
        program == Path::new("/usr/local/bin/soft-kvm-server"),
        "{} runs",
        program.display()
    );
    let seat = Seat::new(Host::Kernel)?;
    let told =
        guest::run(Command::new(&program).args(["pair", "--state-dir", "/var/lib/soft-kvm"]))?;
    let code = told.split_whitespace().last().context("no code")?;
    seat.pair(plug::HERE, code)
        .map_err(|error| error.context(status(SERVER)))?;
    ensure!(Path::new(KEY).exists(), "no key in {KEY}");
    run("--uninstall-service")?;
    ensure!(
        property(SERVER, "ActiveState")? != "active",
        "{}",
        status(SERVER)
    );
    ensure!(Path::new(KEY).exists(), "its key is gone");
    for left in ours()?.lines() {
        let known = before.lines().any(|line| line == left);
        let state = ["/var/lib/soft-kvm", "/etc/soft-kvm", "/run/soft-kvm"];
        let state = state.iter().any(|folder| left.starts_with(folder));
        ensure!(known || state, "left over: {left}");
    }
    Ok(())
}

/// What udev knows of a capture dongle.
fn dongle() -> anyhow::Result<String> {
    let asked = "soft-kvm:video:v534dp2109:USB Video: USB Video";
    let told = guest::run(Command::new("systemd-hwdb").args(["query", asked]))?;
    Ok(told.trim().to_owned())
}

fn dpkg(words: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("dpkg");
    command.arg("--force-unsafe-io").args(words);
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C");
    let told = guest::run(&mut command).map_err(|error| error.context(status(SERVER)))?;
    guest::log(told);
    Ok(())
}

fn is_enabled() -> String {
    // Its status says the same as its word.
    let output = Command::new("systemctl")
        .args(["is-enabled", SERVER])
        .output();
    let told = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&told).trim().to_owned()
}

fn version() -> anyhow::Result<String> {
    guest::run(Command::new("dpkg-query").args(["--show", "--showformat=${Version}", "soft-kvm"]))
}

/// Where files with our name may be.
const PLACES: &[&str] = &[
    "/etc",
    "/run",
    "/usr/bin",
    "/usr/lib/systemd",
    "/usr/lib/sysusers.d",
    "/usr/lib/tmpfiles.d",
    "/usr/lib/udev",
    "/usr/share/bash-completion",
    "/usr/share/doc",
    "/usr/share/fish",
    "/usr/share/lintian",
    "/usr/share/man/man1",
    "/usr/share/zsh",
    "/var/lib",
];

/// Files with our name, and our processes.
fn ours() -> anyhow::Result<String> {
    let places = PLACES.iter().filter(|place| Path::new(place).is_dir());
    let mut find = Command::new("find");
    find.args(places)
        .args(["-maxdepth", "4", "-name", "*soft-kvm*"]);
    let files = guest::run(&mut find)?;
    let output = Command::new("pgrep").args(["-a", "soft-kvm"]).output()?;
    Ok(files + &String::from_utf8_lossy(&output.stdout))
}
