//! Capture through sub-devices (media controller): the kernel's virtual media device `vimc`.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, ensure};
use soft_kvm_lab_tests::guest::{self, Namespace};

use crate::kvm::{self, Host, Seat, Server, TARGET};
use crate::picture::Picture;

/// The only media device.
const MEDIA: &str = "/dev/media0";

/// The node behind the scaler.
fn node(name: &str) -> anyhow::Result<String> {
    let folder = "/sys/class/video4linux";
    for entry in fs::read_dir(folder)?.flatten() {
        let found = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        let node = entry.file_name().to_string_lossy().into_owned();
        if found.trim() == name && node.starts_with("video") {
            return Ok(format!("/dev/{node}"));
        }
    }
    anyhow::bail!("no node {name} in {folder}")
}

fn media_ctl(arguments: &[&str]) -> anyhow::Result<String> {
    guest::run(
        Command::new("media-ctl")
            .args(["-d", MEDIA])
            .args(arguments),
    )
}

/// Whether the node streams as it is set up.
fn streams(node: &str) -> anyhow::Result<bool> {
    let mut command = Command::new("timeout");
    command.args([
        "10",
        "v4l2-ctl",
        "-d",
        node,
        "--stream-mmap",
        "--stream-count=1",
    ]);
    let output = command.output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    Ok(output.status.success() && !told.contains("VIDIOC_STREAMON returned -1"))
}

/// A server that captures from the node, and a client on another host: how many frames it decoded.
fn watch(
    round: usize,
    (target, near): &(Namespace, Namespace),
    node: &str,
) -> anyhow::Result<(u64, String)> {
    let source = format!("v4l2:{node}");
    let arguments = [
        "--no-discovery",
        "--source",
        &source,
        "--size",
        "640x480",
        "--encoder",
        "openh264",
    ];
    let name = format!("server{round}");
    let server = Server::start_named(&name, Host::Namespace(target), &arguments)?;
    let seat = Seat::named(&format!("client{round}"), Host::Namespace(near))?;
    seat.pair(TARGET, server.code()?)?;
    let screenshot = seat.file("picture.png");
    let path = screenshot.to_string_lossy();
    let client = seat.connect(TARGET, &["--seconds", "4", "--screenshot", &path])?;
    let shown = client.finish();
    let log = server.process.output();
    let shown = shown.with_context(|| log.clone())?;
    server.stop()?;
    let picture = Picture::read(&screenshot).with_context(|| log.clone())?;
    ensure!(picture.size() == (640, 480), "{:?}\n{log}", picture.size());
    picture.check_bars().with_context(|| log.clone())?;
    let decoded = kvm::number(&shown, "/frames/decoded")?;
    ensure!(decoded > 0, "nothing decoded: {shown}\n{log}");
    Ok((decoded, log))
}

/// Links that are off, formats that do not fit: the server finds the way and sets it.
pub(crate) fn pipeline() -> anyhow::Result<()> {
    let hosts = kvm::two_hosts()?;
    let node = node("RGB/YUV Capture")?;
    // No link leads to the scaler.
    media_ctl(&["-l", r#""Debayer A":1 -> "Scaler":0 [0]"#])?;
    ensure!(!streams(&node)?, "it streams without a link");
    let (unlinked, log) = watch(0, &hosts, &node)?;
    ensure!(log.contains("RGB/YUV Input → Scaler"), "{log}");

    // The way over the debayer is on, and its pads have sizes that differ.
    media_ctl(&["-l", r#""RGB/YUV Input":0 -> "Scaler":0 [0]"#])?;
    media_ctl(&["-l", r#""Debayer A":1 -> "Scaler":0 [1]"#])?;
    media_ctl(&["-V", r#""Sensor A":0 [fmt:SRGGB8_1X8/320x240]"#])?;
    media_ctl(&["-V", r#""Debayer A":0 [fmt:SBGGR8_1X8/800x600]"#])?;
    // The sensor feeds another node for good, and the kernel wants that one to fit as well.
    let beside = self::node("Raw Capture 0")?;
    let mut command = Command::new("v4l2-ctl");
    command.args(["-d", &beside, "-v", "width=640,height=480,pixelformat=RGGB"]);
    guest::run(&mut command)?;
    ensure!(!streams(&node)?, "it streams with formats that do not fit");
    let (unfit, log) = watch(1, &hosts, &node)?;
    ensure!(log.contains("Sensor A → Debayer A → Scaler"), "{log}");

    guest::tell(format!(
        "vimc: {unlinked} frames with a link that was off, {unfit} over a debayer whose pads did not fit"
    ));
    Ok(())
}
