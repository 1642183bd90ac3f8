//! What is plugged starts what it is for, under a real udev and systemd.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use soft_kvm_lab_tests::guest::{self, Process};
use soft_kvm_platform::os::clock;

use crate::input::{self, Event, KEY_A, Reader};
use crate::kvm::{self, Host, Seat};
use crate::picture::Picture;
use crate::service::{BROKER, SERVER, STORY};
use crate::system::{self, SOON, becomes, property, status, systemctl};
use crate::vivid::{self, HDMI};

/// Where the server is, for clients on the same kernel.
pub(crate) const HERE: &str = "127.0.0.1:7755";
const CLIENT: &str = "soft-kvm-client@127.0.0.1:7755.service";
const SEAT_STATE: &str = "/var/lib/soft-kvm-seat";
const GADGET: &str = "/sys/kernel/config/usb_gadget/keyboard";
/// What an administrator adds: the lab's capture device starts the server, its USB keyboard a client.
const LOCAL: &str = "soft-kvm:video:vp:vivid*\n SOFT_KVM_CAPTURE=1\n\n\
                     soft-kvm:input:v1d6bp0104:*\n SOFT_KVM_OPERATOR=127.0.0.1:7755\n";
/// A keyboard of the boot protocol (HID 1.11, appendix B.1).
const DESCRIPTOR: &[u8] = &[
    0x05, 0x01, 0x09, 0x06, 0xa1, 0x01, 0x05, 0x07, 0x19, 0xe0, 0x29, 0xe7, 0x15, 0x00, 0x25, 0x01,
    0x75, 0x01, 0x95, 0x08, 0x81, 0x02, 0x95, 0x01, 0x75, 0x08, 0x81, 0x03, 0x95, 0x05, 0x75, 0x01,
    0x05, 0x08, 0x19, 0x01, 0x29, 0x05, 0x91, 0x02, 0x95, 0x01, 0x75, 0x03, 0x91, 0x03, 0x95, 0x06,
    0x75, 0x08, 0x15, 0x00, 0x25, 0x65, 0x05, 0x07, 0x19, 0x00, 0x29, 0x65, 0x81, 0x00, 0xc0,
];
/// How often the capture device is pulled and plugged again.
const ROUNDS: usize = 10;
/// Until then the picture is to be with a client after the capture device came.
const STREAMING: Duration = Duration::from_secs(2);
/// The usage of the key A.
const USAGE_A: u8 = 4;

/// A capture device and a keyboard are plugged, pulled and plugged again.
pub(crate) fn starts() -> anyhow::Result<()> {
    local_hwdb()?;
    permissions()?;
    fs::write(
        STORY,
        "(import 'default.jsonnet') + { capture+: { driver: 'v4l2', fps: 15 }, video+: { driver: 'openh264' } }",
    )?;
    ensure!(
        property(SERVER, "ActiveState")? == "inactive",
        "it runs before anything is plugged: {}",
        status(SERVER)
    );
    guest::modprobe("vivid", HDMI)?;
    becomes(SERVER, "ActiveState", "active", SOON)?;
    belongs("/dev/video0", "video 660", true)?;
    let seat = Seat::new(Host::Kernel)?;
    pair(|code| seat.pair(HERE, code))?;

    capture_device(&seat)?;
    keyboard()
}

/// Our package, and a hardware database of what it has and what an administrator adds.
fn local_hwdb() -> anyhow::Result<()> {
    system::forget_hwdb()?;
    system::unpack_package()?;
    fs::create_dir_all("/etc/udev/hwdb.d")?;
    fs::write("/etc/udev/hwdb.d/71-soft-kvm-local.hwdb", LOCAL)?;
    guest::run(Command::new("systemd-hwdb").arg("update"))?;
    // The device of an enabled dongle as shipped, which this kernel has none of.
    let asked = "soft-kvm:video:v534dp2109:USB Video: USB Video";
    let told = guest::run(Command::new("systemd-hwdb").args(["query", asked]))?;
    ensure!(told.trim() == "SOFT_KVM_CAPTURE=1", "{told}");
    guest::run(Command::new("udevadm").args(["control", "--reload"])).map(drop)
}

/// `/dev/uinput` belongs to the group that the rule names.
fn permissions() -> anyhow::Result<()> {
    guest::run(Command::new("udevadm").args(["trigger", "--settle", "--subsystem-match=misc"]))?;
    belongs("/dev/uinput", "input 660", true)
}

/// Waits until the node has this group and mode, and is or is not for programs of the local session.
fn belongs(node: &str, access: &str, session: bool) -> anyhow::Result<()> {
    let told = || -> anyhow::Result<(String, String)> {
        let access = guest::run(Command::new("stat").args(["--format=%G %a", node]))?;
        let known = guest::run(Command::new("udevadm").args(["info", "--query=property", node]))?;
        Ok((access.trim().to_owned(), known))
    };
    guest::wait_for(&format!("access to {node}"), SOON, || {
        let (now, known) = told().ok()?;
        (now == access && known.contains(":uaccess:") == session).then_some(())
    })
    .with_context(|| format!("{node} is not {access}: {:?}", told()))
}

/// The nodes of keyboards and mice that udev knows to be the operator's, and the others.
fn operators() -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let (mut named, mut others) = (Vec::new(), Vec::new());
    for entry in fs::read_dir("/dev/input")? {
        let node = entry?.path().to_string_lossy().into_owned();
        if !node.contains("/event") {
            continue;
        }
        let known = guest::run(Command::new("udevadm").args(["info", "--query=property", &node]))?;
        let list = if known.contains("SOFT_KVM_OPERATOR=") {
            &mut named
        } else {
            &mut others
        };
        list.push(node);
    }
    Ok((named, others))
}

/// Opens a pairing window on the server's console and hands the code on.
pub(crate) fn pair(pair: impl FnOnce(&str) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let told = guest::run(Command::new("/usr/bin/soft-kvm-server").args([
        "pair",
        "--state-dir",
        "/var/lib/soft-kvm",
    ]))?;
    let code = told.split_whitespace().last().context("no code")?;
    pair(code)
}

fn unplug_capture() -> anyhow::Result<()> {
    guest::unbind("vivid", "vivid.0")
}

fn plug_capture() -> anyhow::Result<()> {
    guest::bind("vivid", "vivid.0")
}

/// Plugged: the server starts and streams. Ten times gone and back: the reason is shown, then the picture, by the same
/// server over the same connection.
fn capture_device(seat: &Seat<'_>) -> anyhow::Result<()> {
    // A busy machine may hold it up; the quickest of three is the programs' own.
    let mut quickest = (Duration::MAX, Duration::MAX);
    for _ in 0..3 {
        quickest = quickest.min(streams_when_plugged(seat)?);
        if quickest.0 < STREAMING {
            break;
        }
    }
    let (streaming, up) = quickest;
    guest::tell(format!(
        "plug: the server is up {} ms after the device came, and its picture is with the client after {} ms",
        up.as_millis(),
        streaming.as_millis()
    ));
    ensure!(
        streaming < STREAMING,
        "the picture is with the client {} ms after the device came",
        streaming.as_millis()
    );
    let mut client = seat.connect(HERE, &[])?;
    client.process.wait_line("connected", SOON)?;
    let main = property(SERVER, "MainPID")?;
    let other = Seat::named("other", Host::Kernel)?;
    pair(|code| other.pair(HERE, code))?;
    vivid::look(&other, HERE, "first.png")?.check_bars()?;
    let journal = Process::start(
        "journal",
        Command::new("journalctl").args([
            "--follow",
            "--lines=all",
            "--output=cat",
            "--unit",
            SERVER,
        ]),
    )?;
    let mut slowest = Duration::ZERO;
    for round in 1..=ROUNDS {
        unplug_capture()?;
        guest::wait_for("the reason", SOON, || {
            let told = journal.output();
            (told.matches("the reason is shown").count() >= round).then_some(())
        })
        .with_context(|| status(SERVER))?;
        if round == 1 {
            vivid::check_reason(&vivid::look(&other, HERE, "reason.png")?)?;
        }
        let killed = if round == 2 {
            kill_broker()?
        } else {
            String::new()
        };
        let (before, start) = (frames("captured")?, Instant::now());
        plug_capture()?;
        await_pictures(before).with_context(|| format!("round {round}"))?;
        slowest = slowest.max(start.elapsed());
        // The next one has opened the device.
        ensure!(property(BROKER, "MainPID")? != killed, "{}", status(BROKER));
        if round == ROUNDS {
            vivid::look(&other, HERE, "back.png")?.check_bars()?;
        }
    }
    guest::tell(format!(
        "plug: {ROUNDS} times pulled, the picture is back after {} ms at most",
        slowest.as_millis()
    ));
    ensure!(property(SERVER, "MainPID")? == main, "{}", status(SERVER));
    let shown = client.stop()?;
    let connections = kvm::number(&shown, "/connect_ms/count")?;
    ensure!(connections == 1, "{connections} connections: {shown}");
    ensure!(kvm::number(&shown, "/dropped/decoder")? == 0, "{shown}");
    // Three at least each time, and the reason between.
    let decoded = kvm::number(&shown, "/frames/decoded")?;
    ensure!(
        decoded >= 4 * ROUNDS as u64,
        "only {decoded} pictures decoded: {shown}"
    );
    Ok(())
}

/// How long after the device came a client that waits for the server has decoded its picture, and the server is up.
fn streams_when_plugged(seat: &Seat<'_>) -> anyhow::Result<(Duration, Duration)> {
    unplug_capture()?;
    systemctl(&format!("stop {SERVER}"))?;
    let shot = seat.file("plugged.png");
    let _ = fs::remove_file(&shot);
    let mut client = seat.connect(HERE, &["--screenshot", &shot.to_string_lossy()])?;
    let plugged = clock::now();
    plug_capture()?;
    // Nothing else is asked for meanwhile: programs start slowly here, and there is one processor.
    let process = &mut client.process;
    let waited = process.wait_line("the first picture", SOON);
    waited.with_context(|| status(SERVER))?;
    let streaming = clock::now().since(plugged);
    guest::wait_for("the screenshot", SOON, || shot.exists().then_some(()))?;
    let up = property(SERVER, "ActiveEnterTimestampMonotonic")?.parse()?;
    let up = Duration::from_micros(up).saturating_sub(Duration::from_nanos(plugged.as_nanos()));
    client.stop()?;
    Picture::read(&shot)?.check_bars()?;
    Ok((streaming, up))
}

/// Gives the number of the process that was killed.
fn kill_broker() -> anyhow::Result<String> {
    let killed = property(BROKER, "MainPID")?;
    ensure!(killed != "0", "{}", status(BROKER));
    guest::run(Command::new("kill").args(["-s", "KILL", &killed]))?;
    becomes(BROKER, "MainPID", "0", SOON)?;
    Ok(killed)
}

/// Waits until the server has captured some pictures more than before, and sent some.
fn await_pictures(before: u64) -> anyhow::Result<()> {
    let sent = frames("sent")?;
    let waited = guest::wait_for("pictures", SOON, || {
        let more = frames("captured").ok()? > before + 3 && frames("sent").ok()? > sent;
        more.then_some(())
    });
    waited.with_context(|| status(SERVER))
}

/// How many pictures the server counts at this stage.
fn frames(stage: &str) -> anyhow::Result<u64> {
    let mut page = TcpStream::connect(("127.0.0.1", 9090))?;
    page.set_read_timeout(Some(SOON))?;
    page.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    page.read_to_string(&mut text)?;
    let name = format!("soft_kvm_frames_total{{stage=\"{stage}\"}} ");
    let number = text.lines().find_map(|line| line.strip_prefix(&name));
    let number = number.with_context(|| format!("no {name}in {text}"))?;
    Ok(number.trim().parse()?)
}

/// A USB keyboard that is named as the operator's starts the client, which types on the server; unplugged, the client
/// stops and leaves nothing behind.
fn keyboard() -> anyhow::Result<()> {
    fs::create_dir_all(SEAT_STATE)?;
    pair(|code| {
        let mut command = Command::new("/usr/bin/soft-kvm-client");
        command.args(["pair", HERE, "--code", code, "--state-dir", SEAT_STATE]);
        guest::run(&mut command).map(drop)
    })?;
    // No monitor here.
    system::drop_in(
        CLIENT,
        "[Service]\nEnvironment=\"SOFT_KVM_SEAT=--view none --grab all\"\n",
    )?;
    guest::modprobe("dummy_hcd", &[])?;
    let hardware = make_keyboard()?;
    ensure!(
        property(CLIENT, "ActiveState")? == "inactive",
        "{}",
        status(CLIENT)
    );
    let start = Instant::now();
    fs::write(Path::new(GADGET).join("UDC"), "dummy_udc.0")?;
    becomes(CLIENT, "ActiveState", "active", SOON)?;
    let twin = guest::wait_for("the keyboard on the server", SOON, || {
        input::twin_keys().next().map(|(path, _)| path)
    })
    .with_context(|| status(CLIENT))?;
    guest::tell(format!(
        "plug: the keyboard types on the server {} ms after it came",
        start.elapsed().as_millis()
    ));
    belongs("/dev/hidg0", "input 660", true)?;
    // Programs of the session read the operator's keyboard, and no other.
    let (named, others) = operators()?;
    ensure!(!named.is_empty() && others.contains(&twin.to_string_lossy().into_owned()));
    for (nodes, session) in [(named, true), (others, false)] {
        for node in nodes {
            belongs(&node, "input 660", session)?;
        }
    }
    let keys = Reader::start(&twin)?;
    for usage in [USAGE_A, 0] {
        fs::write(&hardware, [0, 0, usage, 0, 0, 0, 0, 0])?;
    }
    guest::wait_for("the key on the server", SOON, || {
        keys.events()
            .contains(&Event::key(KEY_A, false))
            .then_some(())
    })
    .with_context(|| status(CLIENT))?;
    ensure!(
        keys.events().contains(&Event::key(KEY_A, true)),
        "{:?}",
        keys.events()
    );

    fs::write(Path::new(GADGET).join("UDC"), "\n")?;
    becomes(CLIENT, "ActiveState", "inactive", SOON)?;
    ensure!(
        property(CLIENT, "Result")? == "success",
        "{}",
        status(CLIENT)
    );
    guest::wait_for("the virtual devices to go", SOON, || {
        (!input::has_twins()).then_some(())
    })?;
    ensure!(
        property(SERVER, "ActiveState")? == "active",
        "{}",
        status(SERVER)
    );
    Ok(())
}

/// Makes a USB keyboard that is not plugged yet; gives the node to which its reports are written.
fn make_keyboard() -> anyhow::Result<PathBuf> {
    let at = |name: &str| Path::new(GADGET).join(name);
    for folder in ["", "strings/0x409", "functions/hid.0", "configs/c.1"] {
        fs::create_dir(at(folder)).with_context(|| format!("making {folder} of the gadget"))?;
    }
    let values: [(&str, &[u8]); 7] = [
        ("idVendor", b"0x1d6b"),
        ("idProduct", b"0x0104"),
        ("strings/0x409/product", b"Operator's keyboard"),
        ("functions/hid.0/protocol", b"1"),
        ("functions/hid.0/subclass", b"1"),
        ("functions/hid.0/report_length", b"8"),
        ("functions/hid.0/report_desc", DESCRIPTOR),
    ];
    for (name, value) in values {
        fs::write(at(name), value).with_context(|| format!("writing {name} of the gadget"))?;
    }
    symlink(at("functions/hid.0"), at("configs/c.1/hid.0"))?;
    Ok("/dev/hidg0".into())
}
