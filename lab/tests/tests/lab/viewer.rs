//! A monitor without a window system shows what another host captures.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use drm::Device as DrmDevice;
use drm::buffer::DrmFourcc;
use drm::control::{Device as ControlDevice, crtc, framebuffer};
use soft_kvm_lab_tests::guest;
use soft_kvm_platform::os::kms::{KmsOptions, KmsSource};
use soft_kvm_platform::os::m2m::M2mKind;
use soft_kvm_video::convert::{Converter, to_rgb};
use soft_kvm_video::frame::PixelFormat;
use soft_kvm_video::source::{Captured, VideoSource as _};

use crate::kms::{ARROW, GROUND, pointed};
use crate::kvm::{self, Host, SOON, Seat, Server, TARGET};
use crate::picture::{COLOUR_BARS, near};
use crate::routes;
use crate::screen::{self, Display};
use crate::vivid;

pub(crate) const CARD: &str = "/dev/dri/card0";
/// The mode that the monitor has before: not the stream's.
const BEFORE: (u16, u16) = (1024, 768);
const STREAM: (u32, u32) = (640, 480);

#[derive(Debug)]
struct Card(File);

impl AsFd for Card {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
impl DrmDevice for Card {}
impl ControlDevice for Card {}

/// What another program, such as the text console, had set before.
pub(crate) struct Console {
    card: Card,
    crtc: crtc::Handle,
    framebuffer: framebuffer::Handle,
}

impl Console {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(CARD);
        let card = Card(file.context(CARD)?);
        let resources = card.resource_handles()?;
        let connector = *resources.connectors().first().context("no connector")?;
        let crtc = *resources.crtcs().first().context("no CRTC")?;
        let info = card.get_connector(connector, true)?;
        let mode = info.modes().iter().find(|mode| mode.size() == BEFORE);
        let mode = *mode.context("no mode of 1024x768")?;
        let size = (BEFORE.0.into(), BEFORE.1.into());
        let buffer = card.create_dumb_buffer(size, DrmFourcc::Xrgb8888, 32)?;
        let framebuffer = card.add_framebuffer(&buffer, 24, 32)?;
        card.set_crtc(crtc, Some(framebuffer), (0, 0), &[connector], Some(mode))?;
        card.release_master_lock()?;
        Ok(Self {
            card,
            crtc,
            framebuffer,
        })
    }

    /// Whether its picture is on the screen, in its mode.
    pub(crate) fn is_shown(&self) -> anyhow::Result<bool> {
        let info = self.card.get_crtc(self.crtc)?;
        let mode = info.mode().map(|mode| mode.size());
        Ok(info.framebuffer() == Some(self.framebuffer) && mode == Some(BEFORE))
    }
}

/// What the monitor shows.
#[derive(Debug)]
struct Seen {
    size: (u32, u32),
    format: PixelFormat,
    /// In the middle of each eighth.
    colours: Vec<[u8; 3]>,
}

fn look() -> anyhow::Result<Seen> {
    let mut source = KmsSource::open(KmsOptions::new(CARD))?;
    let frame = guest::wait_for("a picture on the monitor", SOON, || {
        match source.next(Duration::from_millis(100)) {
            Ok(Captured::Frame(frame)) => Some(frame),
            _ => None,
        }
    })?;
    let (size, format) = (frame.info().size, frame.info().format);
    let mut converter = Converter::new();
    converter.update(&frame)?;
    let stride = size.width as usize * 3;
    let mut pixels = vec![0; stride * size.height as usize];
    ensure!(to_rgb(converter.picture(), &mut pixels, stride), "{size}");
    // Below the text that the generator writes over its bars.
    let y = size.height as usize * 3 / 4;
    let colours = (0..8).map(|bar| {
        let x = (2 * bar + 1) * size.width as usize / 16;
        let start = y * stride + x * 3;
        pixels.get(start..start + 3)?.try_into().ok()
    });
    let colours: Option<Vec<_>> = colours.collect();
    Ok(Seen {
        size: (size.width, size.height),
        format,
        colours: colours.context("a short line")?,
    })
}

fn are_bars(colours: &[[u8; 3]]) -> bool {
    let pairs = colours.iter().zip(COLOUR_BARS);
    pairs.filter(|(got, want)| near(**got, *want)).count() == COLOUR_BARS.len()
}

/// Whether a client has the card open.
fn has_client() -> bool {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let clients = processes.filter(|process| {
        let name = std::fs::read_to_string(process.path().join("comm"));
        name.is_ok_and(|name| name.trim_end() == "soft-kvm-client")
    });
    let files = clients.filter_map(|process| std::fs::read_dir(process.path().join("fd")).ok());
    let mut links = files
        .flatten()
        .flatten()
        .filter_map(|file| std::fs::read_link(file.path()).ok());
    links.any(|link| link == Path::new(CARD))
}

/// The monitor takes the stream's mode and shows its pixels; when the client ends or is killed, the old mode and picture are
/// back, and the next one can take the monitor.
pub(crate) fn on_the_metal() -> anyhow::Result<()> {
    let hdmi = [
        "n_devs=1",
        "node_types=0x1",
        "num_inputs=1",
        "input_types=0x3",
    ];
    guest::modprobe("vivid", &hdmi)?;
    guest::run(std::process::Command::new("v4l2-ctl").args([
        "-d",
        "/dev/video0",
        "--set-dv-bt-timings",
        "index=0",
    ]))?;
    let console = Console::new()?;
    let (target, near_seat) = kvm::two_hosts()?;
    let server = Server::start(
        Host::Namespace(&target),
        &["--no-discovery", "--source", "v4l2:/dev/video0"],
    )?;
    let seat = Seat::new(Host::Namespace(&near_seat))?;
    seat.pair(TARGET, server.code()?)?;
    for signal in ["INT", "KILL", "INT"] {
        // The first to open a card is its master until it says otherwise: so is who only looks, for a moment.
        let looking = OpenOptions::new().read(true).write(true).open(CARD)?;
        let mut client = seat.view("kms", TARGET, &[])?;
        guest::wait_for("the client at the monitor", SOON, || {
            has_client().then_some(())
        })?;
        std::thread::sleep(Duration::from_millis(50));
        drop(looking);
        let shown = guest::wait_for("the stream on the monitor", SOON, || {
            let seen = look().ok()?;
            (seen.size == STREAM && are_bars(&seen.colours)).then_some(())
        });
        if shown.is_err() {
            let seen = look();
            client.process.send_signal("KILL")?;
            bail!("{seen:?}\n{}", client.process.output());
        }
        if signal == "KILL" {
            client.process.send_signal(signal)?;
            guest::wait_for("the end of the client", SOON, || {
                client.process.has_ended().then_some(())
            })?;
        } else {
            let figures = client.stop()?;
            let presented = kvm::number(&figures, "/video/capture_to_presented_ms/count")?;
            ensure!(presented > 0, "{figures}");
            guest::tell(format!("{presented} pictures presented on the monitor"));
        }
        guest::wait_for("the console's picture", SOON, || {
            console.is_shown().ok()?.then_some(())
        })
        .with_context(|| format!("after {signal}: {:?}", console.card.get_crtc(console.crtc)))?;
    }
    server.stop()?;
    Ok(())
}

/// What a hardware decoder makes is on the monitor as it lies in its memory; what has an overlay over it is drawn.
pub(crate) fn from_the_decoder() -> anyhow::Result<()> {
    guest::modprobe("vivid", vivid::WEBCAM)?;
    guest::modprobe("vicodec", &[])?;
    let encoder = routes::device("vicodec", M2mKind::Encoder)?;
    let console = Console::new()?;
    let (target, near_seat) = kvm::two_hosts()?;
    let source = ["--source", "v4l2:/dev/video0", "--size", "640x480"];
    let server = Server::start(
        Host::Namespace(&target),
        &[&["--no-discovery", "--encoder", &encoder], &source[..]].concat(),
    )?;
    let seat = Seat::new(Host::Namespace(&near_seat))?;
    seat.pair(TARGET, server.code()?)?;
    for options in [&[][..], &["--overlay"]] {
        let client = seat.view("kms", TARGET, options)?;
        let direct = options.is_empty();
        let mut seen = None;
        let shown = guest::wait_for("the stream on the monitor", SOON, || {
            seen = Some(look());
            let seen = seen.as_ref()?.as_ref().ok()?;
            let right = seen.size == STREAM && are_bars(&seen.colours);
            (right && seen.format.is_ycbcr() == direct).then_some(())
        });
        shown.with_context(|| format!("{seen:?}\n{}", client.process.output()))?;
        std::thread::sleep(Duration::from_secs(1));
        let log = client.process.output();
        let figures = client.stop()?;
        let presented = kvm::number(&figures, "/video/capture_to_presented_ms/count")?;
        let from_memory = kvm::number(&figures, "/frames/direct")?;
        if direct {
            // Until the first picture there are words on the screen.
            ensure!(
                from_memory > 10 && presented - from_memory < 5,
                "{from_memory} of {presented}: {figures}\n{log}"
            );
            guest::tell(format!(
                "{from_memory} of {presented} pictures shown as they lie in the decoder's memory"
            ));
        } else {
            ensure!(from_memory == 0 && presented > 10, "{figures}\n{log}");
        }
        guest::wait_for("the console's picture", SOON, || {
            console.is_shown().ok()?.then_some(())
        })?;
    }
    server.stop()?;
    Ok(())
}

/// The target's cursor is the monitor's own: it has its picture and place, moves without a new picture, and is not in what the
/// monitor shows below it.
pub(crate) fn cursor() -> anyhow::Result<()> {
    let (target_screen, _shown) = pointed()?;
    let monitor = screen::add_card(1)?;
    let name = {
        let display = Display::open(&monitor)?;
        let connector = display.card.get_connector(display.connector, true)?;
        connector.to_string()
    };
    let (target, near_seat) = kvm::two_hosts()?;
    let source = format!("kms:{CARD}");
    let arguments = ["--no-discovery", "--source", &source, "--fps", "5"];
    let server = Server::start(Host::Namespace(&target), &arguments)?;
    let seat = Seat::new(Host::Namespace(&near_seat))?;
    seat.pair(TARGET, server.code()?)?;
    let client = seat.view("kms", TARGET, &["--screen", &name])?;
    let mut seen = None;
    let mut source = guest::wait_for("the client at the monitor", SOON, || {
        let mut source = KmsSource::open(KmsOptions::new(&monitor)).ok()?;
        match source.next(Duration::from_millis(500)).ok()? {
            Captured::Frame(_) => {}
            Captured::Cursor(cursor) => seen = Some(cursor),
            _ => return None,
        }
        Some(source)
    })
    .with_context(|| client.process.output())?;
    let mut points_at = |at: (i32, i32)| {
        let pointed = guest::wait_for("the monitor's cursor", SOON, || {
            while let Ok(shown) = source.next(Duration::from_millis(50)) {
                match shown {
                    Captured::Cursor(cursor) => seen = Some(cursor),
                    Captured::Frame(_) => {}
                    _ => break,
                }
            }
            seen.as_ref()?.position.eq(&at).then_some(())
        });
        pointed.with_context(|| format!("{seen:?}\n{}", client.process.output()))?;
        seen.clone()
            .and_then(|cursor| cursor.image)
            .context("a cursor without a picture")
    };
    let image = points_at((300, 200))?;
    let [red, green, blue] = ARROW;
    let pixel = |x: usize, y: usize| {
        let at = (y * image.size.width as usize + x) * 4;
        image.pixels.get(at..at + 4)
    };
    ensure!(
        pixel(19, 19) == Some(&[blue, green, red, 255]),
        "{:?}",
        pixel(19, 19)
    );
    ensure!(pixel(20, 20) == Some(&[0; 4]), "{:?}", pixel(20, 20));
    target_screen.move_cursor((400, -10))?;
    points_at((400, -10))?;
    let mut below = KmsSource::open(KmsOptions::new(&monitor))?;
    let frame = guest::wait_for("what is below", SOON, || {
        match below.next(Duration::from_millis(100)) {
            Ok(Captured::Frame(frame)) => Some(frame),
            _ => None,
        }
    })?;
    let plane = frame.plane(0).context("no memory")?;
    for (x, y) in [(310, 210), (410, 5)] {
        let at = y * plane.stride + x * 4;
        let pixel = plane.data.get(at..at + 3).context("a short line")?;
        let got = [pixel[2], pixel[1], pixel[0]];
        ensure!(
            near(got, GROUND),
            "{got:?} at {x}, {y}: the cursor is drawn into the picture"
        );
    }
    client.stop()?;
    server.stop()?;
    Ok(())
}
