//! A UVC capture dongle at the kernel's own `uvcvideo`: a virtual one (`lab/uvc-virtual`) on a virtual bus.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use soft_kvm_lab_tests::guest::{self, Namespace, Process};
use soft_kvm_platform::os::v4l2::{DeviceFacts, inspect};

use crate::kvm::{self, Host, SOON, Seat, Server, TARGET};
use crate::picture::{COLOUR_BARS, Picture};

/// Builds the device.
fn build(folder: &Path) -> anyhow::Result<PathBuf> {
    let program = folder.join("dongle");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../uvc-virtual/dongle.c");
    let mut command = Command::new("gcc");
    command.args(["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-o"]);
    guest::run(command.arg(&program).arg(source).arg("-lpthread"))?;
    Ok(program)
}

/// Colour bars in the lower half; the upper half is `grey`, so that pictures differ.
fn bars(width: usize, height: usize, grey: u8) -> Vec<u8> {
    let mut pixels = format!("P6 {width} {height} 255\n").into_bytes();
    for y in 0..height {
        for x in 0..width {
            let bar = COLOUR_BARS.get(x * COLOUR_BARS.len() / width);
            pixels.extend(match bar {
                Some(bar) if y >= height / 2 => *bar,
                _ => [grey; 3],
            });
        }
    }
    pixels
}

/// Two pictures as files of that format, as an argument of the device has them.
fn pictures(
    folder: &Path,
    format: &str,
    (width, height): (usize, usize),
) -> anyhow::Result<String> {
    let mut files = Vec::new();
    for (number, grey) in [40, 200].into_iter().enumerate() {
        let from = folder.join("picture.ppm");
        let to = folder.join(format!("{format}-{width}-{number}"));
        fs::write(&from, bars(width, height, grey))?;
        let mut command = Command::new("ffmpeg");
        command.args(["-v", "error", "-y", "-i"]).arg(&from);
        match format {
            "mjpg" => command.args([
                "-pix_fmt", "yuvj422p", "-huffman", "default", "-q:v", "3", "-f", "mjpeg",
            ]),
            _ => command
                .args(["-vf", "scale=out_color_matrix=smpte170m:out_range=tv"])
                .args(["-pix_fmt", "yuyv422", "-f", "rawvideo"]),
        };
        guest::run(command.arg(&to))?;
        if format == "mjpg" {
            let bare = without_tables(&fs::read(&to)?);
            fs::write(&to, bare)?;
        }
        files.push(to.to_string_lossy().into_owned());
    }
    Ok(files.join(","))
}

/// Without its Huffman tables, as many dongles send pictures.
fn without_tables(jpeg: &[u8]) -> Vec<u8> {
    let (mut bare, mut rest) = (Vec::new(), jpeg);
    if let Some((start, behind)) = rest.split_at_checked(2) {
        bare.extend_from_slice(start);
        rest = behind;
    }
    while let Some([0xff, marker, high, low]) = rest.first_chunk() {
        let length = 2 + usize::from(u16::from_be_bytes([*high, *low]));
        let (marker, part) = (*marker, rest.get(..length).unwrap_or(rest));
        if marker == 0xda {
            break;
        }
        if marker != 0xc4 {
            bare.extend_from_slice(part);
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    bare.extend_from_slice(rest);
    bare
}

/// The node that pictures come from; the driver makes another one for metadata.
fn node() -> anyhow::Result<DeviceFacts> {
    guest::wait_for("uvcvideo's node", SOON, || {
        let mut nodes = (0..16).map(|number| PathBuf::from(format!("/dev/video{number}")));
        nodes.find_map(|path| {
            let facts = inspect(&path).ok()?;
            (facts.driver == "uvcvideo" && !facts.formats.is_empty()).then_some(facts)
        })
    })
}

struct Seen {
    shown: Value,
    log: String,
}

fn watch(
    name: &str,
    (target, near): &(Namespace, Namespace),
    source: &str,
    size: &str,
) -> anyhow::Result<Seen> {
    let arguments = ["--no-discovery", "--source", source, "--size", size];
    let encoder = ["--encoder", "openh264"];
    let server = Server::start_named(
        &format!("server-{name}"),
        Host::Namespace(target),
        &[&arguments[..], &encoder].concat(),
    )?;
    let seat = Seat::named(&format!("client-{name}"), Host::Namespace(near))?;
    seat.pair(TARGET, server.code()?)?;
    let screenshot = seat.file("picture.png");
    let path = screenshot.to_string_lossy();
    let client = seat.connect(TARGET, &["--seconds", "4", "--screenshot", &path])?;
    let shown = client.finish();
    let log = server.process.output();
    let shown = shown.with_context(|| log.clone())?;
    server.stop()?;
    let picture = Picture::read(&screenshot).with_context(|| log.clone())?;
    picture.check_bars().with_context(|| log.clone())?;
    let (width, height) = picture.size();
    ensure!(
        format!("{width}x{height}") == size,
        "{width}x{height}\n{log}"
    );
    Ok(Seen { shown, log })
}

/// Both formats reach the client with their colours; pulled and plugged in again while a client watches, it is back.
pub(crate) fn uvc() -> anyhow::Result<()> {
    let folder = guest::folder("dongle")?;
    let program = build(&folder)?;
    let (large, small) = ((640, 480), (320, 240));
    let modes = [
        format!("mjpg:640x480@30:{}", pictures(&folder, "mjpg", large)?),
        format!("yuyv:640x480@5:{}", pictures(&folder, "yuyv", large)?),
        format!("yuyv:320x240@20:{}", pictures(&folder, "yuyv", small)?),
    ];
    let plug = || Process::start("dongle", Command::new(&program).args(&modes));
    let dongle = plug()?;
    let facts = node().with_context(|| dongle.output())?;
    ensure!(facts.formats == ["MJPG", "YUYV"], "{facts:?}");
    ensure!(facts.usb == Some((0x1209, 0x0001)), "{facts:?}");
    let source = format!("v4l2:{}", facts.path);

    let hosts = kvm::two_hosts()?;
    let mut decoded = Vec::new();
    for (format, size) in [("MJPG", "640x480"), ("YUYV", "320x240")] {
        let seen = watch(&format.to_lowercase(), &hosts, &source, size)
            .with_context(|| format!("{format}\n{}", dongle.output()))?;
        let Seen { shown, log } = &seen;
        ensure!(
            log.contains(&format!("format={format}"))
                || log.contains(&format!("format=\"{format}\"")),
            "{log}"
        );
        let frames = kvm::number(shown, "/frames/decoded")?;
        ensure!(frames >= 10, "only {frames} decoded: {shown}\n{log}");
        let asked = format!("streams {format} {size}");
        ensure!(dongle.output().contains(&asked), "{}", dongle.output());
        decoded.push(frames);
    }

    let (target, near) = &hosts;
    let server = Server::start_named(
        "server-plug",
        Host::Namespace(target),
        &[
            "--no-discovery",
            "--source",
            &source,
            "--size",
            "640x480",
            "--encoder",
            "openh264",
        ],
    )?;
    let seat = Seat::named("client-plug", Host::Namespace(near))?;
    seat.pair(TARGET, server.code()?)?;
    let client = seat.connect(TARGET, &[])?;
    let encoded = || captured(&server);
    let waiting = |before: u64| {
        guest::wait_for("pictures", SOON, || {
            (encoded().ok()? > before + 5).then_some(())
        })
        .with_context(|| server.process.output())
    };
    waiting(0)?;
    drop(dongle);
    guest::wait_for("the reason", SOON, || {
        server.process.output().contains("NoDevice").then_some(())
    })
    .with_context(|| server.process.output())?;
    let before = encoded()?;
    let _dongle = plug()?;
    waiting(before)?;
    client.stop()?;
    server.stop()?;
    guest::tell(format!(
        "a UVC dongle at uvcvideo (bulk): {} frames of MJPEG without Huffman tables, {} of YUYV, pulled and plugged in \
         again while it streamed",
        decoded.first().unwrap_or(&0),
        decoded.last().unwrap_or(&0)
    ));
    Ok(())
}

/// Frames captured, as the server's page counts them.
fn captured(server: &Server) -> anyhow::Result<u64> {
    let page = server.metrics()?;
    let mut lines = page.lines();
    let number =
        lines.find_map(|line| line.strip_prefix("soft_kvm_frames_total{stage=\"captured\"} "));
    Ok(number.context("no counter")?.trim().parse()?)
}

/// How long both may take: the device is built, and six programs start.
pub(crate) const LIMIT: Duration = Duration::from_secs(150);
