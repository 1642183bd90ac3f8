//! The process that faces the network as a user without any right, and the broker that opens its devices.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use soft_kvm_lab_tests::guest;

use crate::input::{self, Hardware, Reader};
use crate::keyboard::await_grabs;
use crate::kvm::{self, Host, SOON, Seat, Server, TARGET};
use crate::ladder::longest_gap;
use crate::{m2m, vivid};

/// Options of a server that leaves root.
pub(crate) const UNPRIVILEGED: &[&str] = &["--user", "nobody", "--no-discovery"];

/// No thread has a capability, nor root's number.
pub(crate) fn check_powerless(server: u32) -> anyhow::Result<()> {
    let tasks = format!("/proc/{server}/task");
    let mut threads = 0;
    for task in fs::read_dir(tasks)? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        for line in [
            "CapPrm:\t0000000000000000",
            "CapEff:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
        ] {
            ensure!(status.contains(line), "{line:?} is not in {status}");
        }
        ensure!(!status.contains("Uid:\t0"), "{status}");
        threads += 1;
    }
    ensure!(threads >= 8, "only {threads} threads");
    // No key of it gets into the swap space.
    let status = fs::read_to_string(format!("/proc/{server}/status"))?;
    ensure!(!status.contains("VmLck:\t       0 kB"), "{status}");
    let open = fs::read_dir(format!("/proc/{server}/fd"))?;
    for descriptor in open {
        let target = fs::read_link(descriptor?.path()).unwrap_or_default();
        ensure!(target != Path::new("/dev/mem"), "{target:?}");
    }
    Ok(())
}

/// How many open files of the process have paths that begin so. Fails when one of them may be written to.
pub(crate) fn opened_to_read(process: u32, path: &str) -> anyhow::Result<usize> {
    let process = Path::new("/proc").join(process.to_string());
    let mut count = 0;
    for file in fs::read_dir(process.join("fd"))? {
        let file = file?;
        // It may have been closed meanwhile.
        let Ok(opened) = fs::read_link(file.path()) else {
            continue;
        };
        if !opened.to_string_lossy().starts_with(path) {
            continue;
        }
        let Ok(info) = fs::read_to_string(process.join("fdinfo").join(file.file_name())) else {
            continue;
        };
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.context("no flags")?.trim();
        // O_RDONLY is 0.
        let access = i32::from_str_radix(flags, 8)? & nix::libc::O_ACCMODE;
        ensure!(access == nix::libc::O_RDONLY, "{opened:?}: {info}");
        count += 1;
    }
    Ok(count)
}

/// Captures vivid and types by uinput as `nobody`; the broker is killed, and the device pulled and plugged in again: picture
/// and keys come back, by another broker. It gives nothing that the story does not name, and ends with the server.
pub(crate) fn video_and_input() -> anyhow::Result<()> {
    vivid::plug_in()?;
    let keyboard = Hardware::keyboard("Lab Keyboard")?;
    let mouse = Hardware::mouse("Lab Mouse")?;
    let (target, near) = kvm::two_hosts()?;
    let source = [
        "--source",
        "v4l2:/dev/video0",
        "--encoder",
        "openh264",
        "--fps",
        "15",
    ];
    let host = Host::Namespace(&target);
    let mut server = Server::start(host, &[UNPRIVILEGED, &source].concat())?;
    check_powerless(server.process.id())?;
    let seat = Seat::new(Host::Namespace(&near))?;
    seat.pair(TARGET, server.code()?)?;
    let other = Seat::named("other", Host::Namespace(&near))?;
    other.pair(TARGET, &server.new_code(host)?)?;
    let mut client = seat.connect(TARGET, &["--grab", "all"])?;
    await_grabs(&mut client, 2)?;
    let keys = Reader::start(&input::twin("Lab Keyboard")?)?;
    let motion = Reader::start(&input::twin("Lab Mouse")?)?;
    input::type_and_move(&keyboard, &mouse)?;
    keys.expect(&input::typing())?;
    motion.expect(&input::motion())?;
    vivid::look(&other, TARGET, "before.png")?.check_bars()?;
    check_powerless(server.process.id())?;

    kill_broker(&mut server)?;
    guest::unbind("vivid", "vivid.0")?;
    guest::wait_for("the reason picture", SOON, || {
        let told = server.process.output();
        told.contains("the reason is shown").then_some(())
    })?;
    guest::bind("vivid", "vivid.0")?;
    guest::wait_for("the picture by the new broker", SOON * 2, || {
        let picture = vivid::look(&other, TARGET, "after.png").ok()?;
        picture.check_bars().ok()
    })?;
    client.stop()?;
    server.stop()?;
    guest::wait_for("the broker's end", SOON, || {
        broker().is_none().then_some(())
    })
}

/// The whole way of pictures by DMA-BUF as `nobody`, with devices that only the broker can open: the broker dies while somebody
/// watches, which the picture outlives, and the next viewer's devices are opened by another one.
pub(crate) fn to_the_hardware_encoder() -> anyhow::Result<()> {
    guest::modprobe("vivid", vivid::WEBCAM)?;
    guest::insmod(m2m::MODULE, &[])?;
    let (target, near) = kvm::two_hosts()?;
    let arguments = [
        "--source",
        "v4l2:/dev/video0",
        "--size",
        "640x480",
        "--fps",
        "15",
        "--encoder",
        "v4l2m2m",
    ];
    let host = Host::Namespace(&target);
    let mut server = Server::start(host, &[UNPRIVILEGED, &arguments].concat())?;
    let seat = Seat::new(Host::Namespace(&near))?;
    seat.pair(TARGET, server.code()?)?;
    let other = Seat::named("other", Host::Namespace(&near))?;
    other.pair(TARGET, &server.new_code(host)?)?;
    let watching = seat.connect(TARGET, &[])?;
    vivid::look(&other, TARGET, "before.png")?.check_bars()?;
    check_powerless(server.process.id())?;

    kill_broker(&mut server)?;
    let imported = m2m::seen("seen_imports")?;
    guest::wait_for("pictures without the broker", SOON, || {
        (m2m::seen("seen_imports").ok()? > imported + 15).then_some(())
    })?;
    let shown = watching.stop()?;
    ensure!(kvm::number(&shown, "/dropped/decoder")? == 0, "{shown}");
    let connections = kvm::number(&shown, "/connect_ms/count")?;
    ensure!(connections == 1, "{connections} connections: {shown}");
    let gap = longest_gap(&shown)?;
    let (decoded, imported) = (
        kvm::number(&shown, "/frames/decoded")?,
        m2m::seen("seen_imports")?,
    );
    // Nobody watches: encoder and source are closed.
    let told = |what: &str| server.process.output().matches(what).count();
    let opened = told("memory=\"the source's\"");
    vivid::look(&other, TARGET, "after.png")?.check_bars()?;
    ensure!(
        told("memory=\"the source's\"") > opened,
        "the encoder stayed open"
    );
    ensure!(m2m::seen("seen_imports")? > imported, "none imported");
    check_powerless(server.process.id())?;
    let served = server.stop()?;
    let copied = kvm::number(&served, "/cpu_pixel_bytes")?;
    ensure!(copied == 0, "{copied} bytes touched by the CPU: {served}");
    guest::tell(format!(
        "as nobody: vivid → virtual H.264 encoder by DMA-BUF, {decoded} pictures decoded on another host, longest gap {gap:.0} ms \
         with the broker killed meanwhile, the next viewer's devices opened by another broker, {copied} bytes of pixels touched \
         by the server's CPU"
    ));
    Ok(())
}

/// Kills the broker that answers, and waits for the next one.
fn kill_broker(server: &mut Server) -> anyhow::Result<()> {
    let before = broker().context("no broker runs")?;
    guest::run(Command::new("kill").args(["-KILL", &before.to_string()]))?;
    server
        .process
        .wait_line("has died: starting it again", SOON)?;
    guest::wait_for("another broker", SOON, || {
        broker().filter(|now| *now != before)
    })
    .map(drop)
}

/// The broker that answers.
fn broker() -> Option<u32> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.find(|number: &u32| {
        let words = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
        words.ends_with(b"\0--worker\0")
    })
}
