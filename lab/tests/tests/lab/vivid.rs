//! A kernel video device on one host, its picture decoded on another.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use soft_kvm_lab_tests::guest;

use crate::kvm::{self, Host, SOON, Seat, Server, TARGET};
use crate::ladder::longest_gap;
use crate::picture::{Picture, near};

/// An HDMI input, whose signal says the size.
pub(crate) const HDMI: &[&str] = &[
    "n_devs=1",
    "node_types=0x1",
    "num_inputs=1",
    "input_types=0x3",
];
/// An input without timings, as of a webcam or a USB dongle: the size is asked for.
pub(crate) const WEBCAM: &[&str] = &[
    "n_devs=1",
    "node_types=0x1",
    "num_inputs=1",
    "input_types=0x0",
];

pub(crate) fn hdmi_640x480() -> anyhow::Result<()> {
    guest::modprobe("vivid", HDMI)?;
    // The first of the driver's timings: 640x480 at 59.94 Hz.
    v4l2_ctl(&["--set-dv-bt-timings", "index=0"])?;
    decoded_elsewhere(&[], (640, 480))
}

pub(crate) fn hdmi_1280x720() -> anyhow::Result<()> {
    guest::modprobe("vivid", HDMI)?;
    decoded_elsewhere(&[], (1280, 720))
}

pub(crate) fn dongle_640x480() -> anyhow::Result<()> {
    guest::modprobe("vivid", WEBCAM)?;
    decoded_elsewhere(&["--size", "640x480"], (640, 480))
}

/// An HDMI input of 720p.
pub(crate) fn plug_in() -> anyhow::Result<()> {
    guest::modprobe("vivid", HDMI).map(drop)
}

fn v4l2_ctl(arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("v4l2-ctl");
    guest::run(command.args(["-d", "/dev/video0"]).args(arguments)).map(drop)
}

fn decoded_elsewhere(arguments: &[&str], size: (usize, usize)) -> anyhow::Result<()> {
    let (target, seat) = kvm::two_hosts()?;
    let source = ["--no-discovery", "--source", "v4l2:/dev/video0"];
    let server = Server::start(
        Host::Namespace(&target),
        &[source.as_slice(), arguments].concat(),
    )?;
    let seat = Seat::new(Host::Namespace(&seat))?;
    seat.pair(TARGET, server.code()?)?;
    let screenshot = seat.file("picture.png");
    let client = seat.connect(
        TARGET,
        &[
            "--seconds",
            "3",
            "--screenshot",
            &screenshot.to_string_lossy(),
        ],
    )?;
    let shown = client.finish()?;
    let served = server.stop()?;
    let picture = Picture::read(&screenshot)?;
    ensure!(
        picture.size() == size,
        "the picture is {:?}",
        picture.size()
    );
    picture.check_bars().with_context(|| format!("{shown}"))?;
    let decoded = kvm::number(&shown, "/frames/decoded")?;
    // vivid draws a running clock: each of its pictures is new.
    ensure!(
        decoded >= 20,
        "only {decoded} pictures decoded: {shown}\n{served}"
    );
    let undecodable = kvm::number(&shown, "/dropped/decoder")?;
    ensure!(undecodable == 0, "{undecodable} pictures did not decode");
    Ok(())
}

/// The device is pulled while somebody watches: a picture with the reason stands in for it, the client goes on decoding
/// over the same connection, and the device's picture comes back with it.
pub(crate) fn unplugged() -> anyhow::Result<()> {
    guest::modprobe("vivid", HDMI)?;
    let (target, near) = kvm::two_hosts()?;
    let host = Host::Namespace(&target);
    let server = Server::start(
        host,
        &[
            "--no-discovery",
            "--source",
            "v4l2:/dev/video0",
            "--fps",
            "15",
        ],
    )?;
    let seat = Seat::new(Host::Namespace(&near))?;
    seat.pair(TARGET, server.code()?)?;
    let other = Seat::named("other", Host::Namespace(&near))?;
    other.pair(TARGET, &server.new_code(host)?)?;
    let watching = seat.connect(TARGET, &[])?;
    look(&other, TARGET, "before.png")?.check_bars()?;

    guest::unbind("vivid", "vivid.0")?;
    guest::wait_for("the reason picture", SOON, || {
        let told = server.process.output();
        told.contains("the reason is shown").then_some(())
    })?;
    let picture = look(&other, TARGET, "meanwhile.png")?;
    ensure!(
        picture.size() == (1280, 720),
        "the picture is {:?}",
        picture.size()
    );
    ensure!(picture.check_bars().is_err(), "a frozen picture");
    check_reason(&picture)?;

    guest::bind("vivid", "vivid.0")?;
    let mut after = Ok(());
    for _ in 0..5 {
        after = look(&other, TARGET, "after.png")?.check_bars();
        if after.is_ok() {
            break;
        }
    }
    after.context("the picture does not come back")?;
    let shown = watching.stop()?;
    let served = server.stop()?;
    let connections = kvm::number(&shown, "/connect_ms/count")?;
    ensure!(connections == 1, "{connections} connections: {shown}");
    // Bars, the reason with its refresh each second, bars.
    let decoded = kvm::number(&shown, "/frames/decoded")?;
    ensure!(
        decoded >= 30,
        "only {decoded} pictures decoded: {shown}\n{served}"
    );
    ensure!(kvm::number(&shown, "/dropped/decoder")? == 0, "{shown}");
    let touched = kvm::number(&served, "/cpu_pixel_bytes")?;
    let gap = longest_gap(&shown)?;
    guest::tell(format!(
        "pulled and back: {decoded} pictures over one connection, the reason meanwhile, longest gap {gap:.0} ms, {touched} \
         bytes of pixels touched by the server's CPU"
    ));
    Ok(())
}

/// Each state of an HDMI input is a picture with its own words on a client that stays connected.
pub(crate) fn states() -> anyhow::Result<()> {
    guest::modprobe("vivid", HDMI)?;
    let (target, near) = kvm::two_hosts()?;
    let host = Host::Namespace(&target);
    let server = Server::start(
        host,
        &[
            "--no-discovery",
            "--source",
            "v4l2:/dev/video0",
            "--fps",
            "15",
        ],
    )?;
    let seat = Seat::new(Host::Namespace(&near))?;
    seat.pair(TARGET, server.code()?)?;
    let other = Seat::named("other", Host::Namespace(&near))?;
    other.pair(TARGET, &server.new_code(host)?)?;
    let watching = seat.connect(TARGET, &[])?;
    look(&other, TARGET, "before.png")?.check_bars()?;
    let mode = |mode: &str| v4l2_ctl(&["-c", &format!("dv_timings_signal_mode={mode}")]);
    let mut pictures: Vec<(&str, Picture)> = Vec::new();
    for state in ["NoCable", "NoLock", "OutOfRange", "NoSignal", "NoDevice"] {
        match state {
            "NoCable" => mode("1")?,
            "NoLock" => mode("2")?,
            "OutOfRange" => mode("3")?,
            // A source without an EDID to go by has its 5 V on and sends nothing.
            "NoSignal" => {
                v4l2_ctl(&["--clear-edid", "0"])?;
                mode("0")?;
            }
            _ => guest::unbind("vivid", "vivid.0")?,
        }
        guest::wait_for(state, SOON, || {
            let told = server.process.output();
            told.contains(&format!("state={state}")).then_some(())
        })?;
        let picture = look(&other, TARGET, &format!("{state}.png"))?;
        check_reason(&picture).context(state)?;
        for (before, shown) in &pictures {
            let pixels = picture.differing(shown);
            ensure!(
                pixels > 500,
                "{state} looks like {before}: {pixels} pixels differ"
            );
        }
        pictures.push((state, picture));
    }
    guest::bind("vivid", "vivid.0")?;
    guest::wait_for("the picture again", SOON, || {
        look(&other, TARGET, "after.png")
            .and_then(|picture| picture.check_bars())
            .ok()
    })?;
    let shown = watching.stop()?;
    server.stop()?;
    let connections = kvm::number(&shown, "/connect_ms/count")?;
    ensure!(connections == 1, "{connections} connections: {shown}");
    let decoded = kvm::number(&shown, "/frames/decoded")?;
    guest::tell(format!(
        "seen: {} states as pictures of their own, {decoded} pictures decoded over one connection",
        pictures.len()
    ));
    Ok(())
}

/// The machine changes its mode while somebody watches: each size arrives through the hardware encoder, over the same
/// connection.
pub(crate) fn modes() -> anyhow::Result<()> {
    guest::modprobe("vivid", HDMI)?;
    guest::insmod("virtual-h264", &[])?;
    let (target, near) = kvm::two_hosts()?;
    let host = Host::Namespace(&target);
    let arguments = [
        "--no-discovery",
        "--source",
        "v4l2:/dev/video0",
        "--encoder",
        "v4l2m2m",
        "--fps",
        "15",
    ];
    let server = Server::start(host, &arguments)?;
    let seat = Seat::new(Host::Namespace(&near))?;
    seat.pair(TARGET, server.code()?)?;
    let other = Seat::named("other", Host::Namespace(&near))?;
    other.pair(TARGET, &server.new_code(host)?)?;
    let watching = seat.connect(TARGET, &[])?;
    let (began, mut longest) = (Instant::now(), Duration::ZERO);
    for (mode, size) in [
        ("720x480p59", (720, 480)),
        ("720x576p50", (720, 576)),
        ("640x480p59", (640, 480)),
        ("720x480p59", (720, 480)),
    ] {
        let start = Instant::now();
        select_mode(mode)?;
        guest::wait_for(mode, SOON, || {
            let picture = look(&other, TARGET, "mode.png").ok()?;
            (picture.size() == size && picture.check_bars().is_ok()).then_some(())
        })
        .with_context(|| server.process.output())?;
        longest = longest.max(start.elapsed());
    }
    let told = server.process.output();
    ensure!(told.contains("size=720x576 rate=50 fps"), "{told}");
    // The story's rate is the most.
    ensure!(told.contains("size=720x576 rate=15 fps bitrate"), "{told}");
    let shown = watching.stop()?;
    let served = server.stop()?;
    let connections = kvm::number(&shown, "/connect_ms/count")?;
    ensure!(connections == 1, "{connections} connections: {shown}");
    ensure!(kvm::number(&shown, "/dropped/decoder")? == 0, "{shown}");
    let copied = kvm::number(&served, "/cpu_pixel_bytes")?;
    ensure!(copied == 0, "{copied} bytes touched by the CPU: {served}");
    let captured = kvm::number(&served, "/frames/captured")?;
    let most = 15 * (began.elapsed().as_secs() + 2);
    ensure!(captured <= most, "{captured} frames: {served}");
    let decoded = kvm::number(&shown, "/frames/decoded")?;
    guest::tell(format!(
        "4 modes over one connection, {decoded} pictures decoded, each mode seen by a new viewer within {} ms, {copied} \
         bytes of pixels touched by the server's CPU",
        longest.as_millis()
    ));
    Ok(())
}

/// The signal has these timings from now on, by the driver's name for them.
fn select_mode(mode: &str) -> anyhow::Result<()> {
    let mut list = Command::new("v4l2-ctl");
    let list = guest::run(list.args(["-d", "/dev/video0", "--list-ctrls-menus"]))?;
    let menu = list
        .lines()
        .skip_while(|line| !line.contains(" dv_timings "));
    let number = menu.skip(1).find_map(|line| {
        let (number, name) = line.trim().split_once(": ")?;
        (name == mode).then_some(number)
    });
    let number = number.with_context(|| format!("no {mode} in {list}"))?;
    // 4: "Selected DV Timings".
    let controls = format!("dv_timings={number},dv_timings_signal_mode=4");
    v4l2_ctl(&["-c", &controls])
}

/// The first picture that a new viewer gets.
pub(crate) fn look(seat: &Seat<'_>, server: &str, name: &str) -> anyhow::Result<Picture> {
    let screenshot = seat.file(name);
    let arguments = [
        "--force",
        "--seconds",
        "2",
        "--screenshot",
        &screenshot.to_string_lossy(),
    ];
    seat.connect(server, &arguments)?.finish()?;
    Picture::read(&screenshot)
}

/// Light words on a dark ground: neither black nor frozen.
pub(crate) fn check_reason(picture: &Picture) -> anyhow::Result<()> {
    let (width, height) = picture.size();
    let ground = picture.colour((width / 2, height / 8), (width / 2, height / 8))?;
    ensure!(near(ground, [24, 28, 36]), "the ground is {ground:?}");
    let light = picture.share(|pixel| pixel.iter().all(|part| *part > 150));
    ensure!((0.002..0.2).contains(&light), "a share of {light} is text");
    Ok(())
}
