//! A screen of the kernel's virtual display, decoded on another host.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use anyhow::{Context as _, ensure};
use drm::Device as DrmDevice;
use drm::buffer::{Buffer as _, DrmFourcc};
use drm::control::dumbbuffer::DumbBuffer;
use drm::control::{Device as ControlDevice, framebuffer};
use soft_kvm_lab_tests::guest;

use crate::kvm::{self, Host, SOON, Seat, Server, TARGET};
use crate::picture::{COLOUR_BARS, Picture, near};
use crate::privsep::{UNPRIVILEGED, check_powerless, opened_to_read};

const BLUE: [u8; 3] = [0, 0, 191];

/// What a text console's framebuffer shows is what the client decodes, also after it has changed.
pub(crate) fn console() -> anyhow::Result<()> {
    shown(&["--no-discovery"])
}

/// The same by a server without any capability: the broker hands it the framebuffers' memory, to read only.
pub(crate) fn console_by_broker() -> anyhow::Result<()> {
    shown(UNPRIVILEGED)
}

/// The same on a machine whose first card has no screen at all: the second one is taken.
pub(crate) fn console_on_second_card() -> anyhow::Result<()> {
    // Made in this order, so that the numbers are these.
    guest::modprobe("vgem", &[])?;
    guest::modprobe("vkms", &[])?;
    shown(&["--no-discovery"])
}

fn shown(options: &[&str]) -> anyhow::Result<()> {
    let mut screen = Screen::new()?;
    let bar = screen.width.div_ceil(COLOUR_BARS.len());
    screen.paint(|x, _| COLOUR_BARS.get(x / bar).copied().unwrap_or_default())?;
    let (target, seat) = kvm::two_hosts()?;
    let server = Server::start(
        Host::Namespace(&target),
        &[options, &["--source", "kms", "--fps", "10"]].concat(),
    )?;
    if options == UNPRIVILEGED {
        check_powerless(server.process.id())?;
    }
    let seat = Seat::new(Host::Namespace(&seat))?;
    seat.pair(TARGET, server.code()?)?;
    let picture = look(&seat, "bars.png")?;
    ensure!(picture.size() == (screen.width, screen.height));
    picture.check_bars()?;
    if options == UNPRIVILEGED {
        read_only(&server, &seat)?;
    }
    screen.paint(|_, _| BLUE)?;
    let middle = (screen.width / 2, screen.height / 2);
    let mut got = None;
    // While the one before was still watching, the encoder goes on, and the first picture of so large a change is coarse.
    guest::wait_for("blue", SOON, || {
        let picture = look(&seat, "blue.png").ok()?;
        got = picture.colour(middle, middle).ok();
        got.is_some_and(|got| near(got, BLUE)).then_some(())
    })
    .with_context(|| format!("{got:?}, not {BLUE:?}"))?;
    let served = server.stop()?;
    guest::tell(format!(
        "{}x{}: bars, then blue, {} frames encoded, {} bytes of pixels touched by the server's CPU",
        screen.width,
        screen.height,
        kvm::number(&served, "/frames/encoded")?,
        kvm::number(&served, "/cpu_pixel_bytes")?
    ));
    Ok(())
}

/// While somebody watches, the server has framebuffers' memory, and cannot write to it.
fn read_only(server: &Server, seat: &Seat<'_>) -> anyhow::Result<()> {
    let mut watching = seat.connect(TARGET, &["--seconds", "60"])?;
    // The one before it may have left memory open for a moment.
    watching.process.wait_line("connected", SOON)?;
    let mut framebuffers = Ok(0);
    guest::wait_for("the framebuffer's memory", SOON, || {
        framebuffers = opened_to_read(server.process.id(), "/dmabuf:");
        (!matches!(framebuffers, Ok(0))).then_some(())
    })?;
    guest::tell(format!("{} DMA-BUFs, to read only", framebuffers?));
    watching.stop()?;
    Ok(())
}

fn look(seat: &Seat<'_>, name: &str) -> anyhow::Result<Picture> {
    let screenshot = seat.file(name);
    let client = seat.connect(
        TARGET,
        &[
            "--force",
            "--seconds",
            "2",
            "--screenshot",
            &screenshot.to_string_lossy(),
        ],
    )?;
    let shown = client.finish()?;
    ensure!(kvm::number(&shown, "/dropped/decoder")? == 0, "{shown}");
    Picture::read(&screenshot)
}

#[derive(Debug)]
struct Card(File);

impl AsFd for Card {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
impl DrmDevice for Card {}
impl ControlDevice for Card {}

/// A mode with a linear framebuffer, as a text console has.
#[derive(Debug)]
struct Screen {
    card: Card,
    buffer: DumbBuffer,
    _framebuffer: framebuffer::Handle,
    width: usize,
    height: usize,
}

impl Screen {
    fn new() -> anyhow::Result<Self> {
        // The last one: vkms.
        let node = ["/dev/dri/card1", "/dev/dri/card0"]
            .into_iter()
            .find(|node| Path::new(node).exists())
            .context("no card")?;
        let file = OpenOptions::new().read(true).write(true).open(node);
        let card = Card(file.context(node)?);
        let resources = card.resource_handles()?;
        let connector = *resources.connectors().first().context("no connector")?;
        let info = card.get_connector(connector, true)?;
        let mode = *info.modes().first().context("no mode")?;
        let (width, height) = mode.size();
        let buffer =
            card.create_dumb_buffer((width.into(), height.into()), DrmFourcc::Xrgb8888, 32)?;
        let framebuffer = card.add_framebuffer(&buffer, 24, 32)?;
        let crtc = *resources.crtcs().first().context("no CRTC")?;
        card.set_crtc(crtc, Some(framebuffer), (0, 0), &[connector], Some(mode))?;
        Ok(Self {
            card,
            buffer,
            _framebuffer: framebuffer,
            width: width.into(),
            height: height.into(),
        })
    }

    fn paint(&mut self, colour: impl Fn(usize, usize) -> [u8; 3]) -> anyhow::Result<()> {
        let pitch = usize::try_from(self.buffer.pitch())?;
        let mut map = self.card.map_dumb_buffer(&mut self.buffer)?;
        for (y, line) in map.chunks_exact_mut(pitch).enumerate() {
            for (x, pixel) in line.chunks_exact_mut(4).take(self.width).enumerate() {
                let [red, green, blue] = colour(x, y);
                pixel.copy_from_slice(&[blue, green, red, 0]);
            }
        }
        Ok(())
    }
}
