//! The front of a box: a real button opens pairing, and the box's own screen shows the code.

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use drm::Device as _;
use evdevil::event::{EventType, Key};
use evdevil::uinput::UinputDevice;
use qrcode::{Color, QrCode};
use serde_json::Value;
use soft_kvm_lab_tests::guest;
use soft_kvm_platform::os::kms::{KmsOptions, KmsSource};
use soft_kvm_video::source::{Captured, VideoSource as _};

use crate::input::{Event, Hardware, KEY_A};
use crate::kvm::{self, Host, PORT, SOON, Seat, Server, TARGET};
use crate::pairing::{self, WRONG};
use crate::privsep::{UNPRIVILEGED, check_powerless, opened_to_read};
use crate::viewer::{CARD, Console};
use crate::{plug, service, system};

const BUTTON: &str = "box-front";
const KEY: u16 = 0x211;
const WHITE: [u8; 3] = [255; 3];
/// What the console says with each code.
const SAID: &str = "Pairing code: ";
/// What the log says when the button is read.
const READ: &str = "the button opens pairing";
const STORY: &str = "(import 'default.jsonnet') + {
  control+: { name: 'rack-7', pair_button: 'box-front', pair_screen: 'Virtual-1' },
  capture+: { driver: 'testcard', size: '320x240', fps: 5 },
  input: null,
}";

pub(crate) fn button_and_screen() -> anyhow::Result<()> {
    paired_at(&["--no-discovery"])
}

/// The same with a server that has no right to either: the broker opens them.
pub(crate) fn by_broker() -> anyhow::Result<()> {
    paired_at(UNPRIVILEGED)
}

/// The service of our package has both, by its broker.
pub(crate) fn by_service() -> anyhow::Result<()> {
    system::unpack_package()?;
    guest::modprobe("vkms", &[])?;
    let console = Console::new()?;
    fs::write(service::STORY, STORY)?;
    let button = plug_in()?;
    system::systemctl(&format!("start {}", service::SERVER))?;
    in_journal(READ, 1)?;
    for (window, name) in [(1, "first"), (2, "second")] {
        // The first window is open from the start.
        if window == 2 {
            button.tap(KEY)?;
        }
        let opened = in_journal(SAID, window)?;
        guest::wait_for("the code on the screen", SOON, || {
            (!console.is_shown().ok()?).then_some(())
        })
        .with_context(|| system::status(service::SERVER))?;
        let (_, code) = opened.rsplit_once(SAID).context("no code")?;
        let code: String = code.chars().take(6).collect();
        let seat = Seat::named(name, Host::Kernel)?;
        seat.pair(plug::HERE, &code)
            .map_err(|error| error.context(system::status(service::SERVER)))?;
        guest::wait_for("the screen's old picture", SOON, || {
            console.is_shown().ok()?.then_some(())
        })
        .with_context(|| system::status(service::SERVER))?;
    }
    let told = Command::new("/usr/bin/soft-kvm-server")
        .args(["doctor", "--json", "--state-dir", "/var/lib/soft-kvm"])
        .output()?;
    let told: Value = serde_json::from_slice(&told.stdout)?;
    let findings = told.get("findings").and_then(Value::as_array);
    let broker = findings
        .into_iter()
        .flatten()
        .find(|finding| finding.get("check") == Some(&"broker".into()))
        .context("nothing about the broker")?;
    ensure!(broker.get("state") == Some(&"ok".into()), "{broker}");
    Ok(())
}

/// Waits until the journal has this text so often; gives all that the server has said.
fn in_journal(text: &str, times: usize) -> anyhow::Result<String> {
    let unit = format!("_SYSTEMD_UNIT={}", service::SERVER);
    guest::wait_for(&format!("{text:?} in the journal"), SOON, || {
        let lines = system::journal(&[&unit]).ok()?;
        let said: Vec<_> = lines
            .iter()
            .map(|line| system::field(line, "MESSAGE"))
            .collect();
        let said = said.join("\n");
        (said.matches(text).count() >= times).then_some(said)
    })
    .with_context(|| system::status(service::SERVER))
}

fn paired_at(options: &[&str]) -> anyhow::Result<()> {
    let console = Console::new()?;
    let (target, near) = kvm::two_hosts()?;
    let story = guest::folder("story")?.join("box.jsonnet");
    fs::write(&story, STORY)?;
    let button = plug_in()?;
    let mut server = Server::start(
        Host::Namespace(&target),
        &[options, &["--story", &story.to_string_lossy()]].concat(),
    )?;
    server.process.wait_line(READ, SOON)?;
    if options == UNPRIVILEGED {
        check_powerless(server.process.id())?;
        let buttons = opened_to_read(server.process.id(), "/dev/input")?;
        ensure!(buttons == 1, "{buttons} input devices are open");
    }

    // The first window is open from the start, and its code on the screen.
    let first = server.code()?.to_owned();
    on_screen(&server, &first)?;
    let seat = Seat::new(Host::Namespace(&near))?;
    seat.pair(TARGET, &first)?;
    given_back(&console, &server)?;

    // What is no press of the button opens nothing, and is read before the press that follows.
    button.tap(KEY_A)?;
    button.report(&[Event::new(EventType::KEY, KEY, 2)])?;
    button.report(&[Event::key(KEY, false)])?;
    std::thread::sleep(Duration::from_secs(1));
    ensure!(codes(&server).len() == 1, "opened by something else");
    button.tap(KEY)?;
    let code = next_code(&server, 1)?;
    on_screen(&server, &code)?;
    ensure!(codes(&server).len() == 2, "opened more than once");
    let second = Seat::named("second", Host::Namespace(&near))?;
    second.pair(TARGET, &code)?;
    given_back(&console, &server)?;

    // Pulled and plugged in again.
    drop(button);
    server.process.wait_line("the button has gone", SOON)?;
    let button = plug_in()?;
    guest::wait_for("the button again", SOON, || {
        let output = server.process.output();
        (output.matches(READ).count() == 2).then_some(())
    })?;
    button.tap(KEY)?;
    let code = next_code(&server, 2)?;
    on_screen(&server, &code)?;

    // Five wrong codes close the window.
    let third = Seat::named("third", Host::Namespace(&near))?;
    for _ in 0..5 {
        pairing::refused(&third, TARGET, &pairing::wrong(&code), WRONG)?;
    }
    given_back(&console, &server)?;

    // Another program has the screen: its picture stays, and the code that the console has pairs all the same.
    let other = Master::new()?;
    button.tap(KEY)?;
    let code = next_code(&server, 3)?;
    server
        .process
        .wait_line("another program has the screen", SOON)?;
    third.pair(TARGET, &code)?;
    ensure!(console.is_shown()?, "taken from another program");
    button.tap(KEY)?;
    let code = next_code(&server, 4)?;
    drop(other);
    on_screen(&server, &code)?;

    // The end of the server gives the screen back, too.
    server.stop()?;
    ensure!(console.is_shown()?, "the screen is not given back");
    Ok(())
}

/// A program that has the card's screens.
struct Master(File);

impl Master {
    fn new() -> anyhow::Result<Self> {
        let card = Self(OpenOptions::new().read(true).write(true).open(CARD)?);
        // It is by its opening, unless somebody else is.
        card.acquire_master_lock()?;
        Ok(card)
    }
}

impl AsFd for Master {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
impl drm::Device for Master {}

fn plug_in() -> anyhow::Result<Hardware> {
    let device = UinputDevice::builder()?
        .with_keys([KEY_A, KEY].map(Key::from_raw))?
        .with_key_repeat()?
        .build(BUTTON)?;
    Hardware::plugged(device, BUTTON)
}

/// The codes that the console has said so far.
fn codes(server: &Server) -> Vec<String> {
    let output = server.process.output();
    let said = output.lines().filter_map(|line| line.split_once(SAID));
    said.map(|(_, code)| code.trim().to_owned()).collect()
}

fn next_code(server: &Server, before: usize) -> anyhow::Result<String> {
    guest::wait_for("the code on the console", SOON, || {
        codes(server).get(before).cloned()
    })
    .with_context(|| server.process.output())
}

fn given_back(console: &Console, server: &Server) -> anyhow::Result<()> {
    guest::wait_for("the screen's old picture", SOON, || {
        console.is_shown().ok()?.then_some(())
    })
    .with_context(|| server.process.output())?;
    // Nor is the card kept open, which would keep its master.
    guest::wait_for("the end of its screen", SOON, || {
        let files = fs::read_dir(format!("/proc/{}/fd", server.process.id())).ok()?;
        let mut opened = files
            .flatten()
            .filter_map(|file| fs::read_link(file.path()).ok());
        (!opened.any(|file| file == Path::new(CARD))).then_some(())
    })
}

/// Waits until the screen shows the QR code of this pairing code.
fn on_screen(server: &Server, code: &str) -> anyhow::Result<()> {
    let key = server.ready("fingerprint").and_then(Value::as_str);
    let key = key.context("no fingerprint")?;
    let uri = format!("soft-kvm:pair?name=rack-7&port={PORT}&code={code}&fp={key}");
    let wanted = QrCode::new(&uri)?;
    guest::wait_for("the QR code on the screen", SOON, || {
        (scan(wanted.width())? == wanted.to_colors()).then_some(())
    })
    .with_context(|| server.process.output())
}

/// The modules of a QR code of this width on the screen, by the colour in the middle of each.
fn scan(width: usize) -> Option<Vec<Color>> {
    let mut source = KmsSource::open(KmsOptions::new(CARD)).ok()?;
    let Captured::Frame(frame) = source.next(Duration::from_millis(200)).ok()? else {
        return None;
    };
    let plane = frame.plane(0)?;
    let size = frame.info().size;
    let colour = |x: usize, y: usize| {
        let start = y * plane.stride + x * 4;
        <[u8; 3]>::try_from(plane.data.get(start..start + 3)?).ok()
    };
    // Nothing else is on the right half: the square's edges are its first and last white pixels.
    let right = size.width as usize / 2;
    let places =
        (0..size.height as usize).flat_map(|y| (right..size.width as usize).map(move |x| (x, y)));
    let white: Vec<_> = places
        .filter(|(x, y)| colour(*x, *y) == Some(WHITE))
        .collect();
    let (left, top) = (white.iter().map(|at| at.0).min()?, white.first()?.1);
    let whole = white.last()?.1 - top + 1;
    // Four light modules are around it.
    let module = whole / (width + 8);
    let middle = |index: usize| (index + 4) * module + module / 2;
    let modules = (0..width * width).map(|index| {
        let (x, y) = (left + middle(index % width), top + middle(index / width));
        match colour(x, y)? {
            WHITE => Some(Color::Light),
            _ => Some(Color::Dark),
        }
    });
    modules.collect()
}
