//! A screen of the kernel's virtual display with a cursor, and one that is off, seen from another host.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use drm::buffer::DrmFourcc;
use soft_kvm_lab_tests::guest;

use crate::input::{self, Event, Hardware, KEY_A, Reader};
use crate::kvm::{self, Host, SOON, Seat, Server, TARGET};
use crate::picture::{Picture, near};
use crate::screen::{self, Display, Fb};

const KMS: &[&str] = &["--no-discovery", "--source", "kms", "--fps", "5"];
pub(crate) const GROUND: [u8; 3] = [40, 90, 60];
pub(crate) const ARROW: [u8; 3] = [250, 20, 30];
/// What reason pictures are written on.
const REASON: [u8; 3] = [24, 28, 36];

fn display() -> anyhow::Result<(Display, Fb)> {
    let node = screen::node("vkms").context("no vkms")?;
    let display = Display::open(&node)?;
    let mut ground = display.fb((640, 480), DrmFourcc::Xrgb8888)?;
    let [red, green, blue] = GROUND;
    display.paint(&mut ground, |_, _| [red, green, blue, 255])?;
    Ok((display, ground))
}

/// A screen with a cursor, a square in the upper left corner of its picture, at 300, 200; what is shown lives as long as it is
/// kept.
pub(crate) fn pointed() -> anyhow::Result<(Display, [Fb; 2])> {
    let (display, ground) = display()?;
    display.show(&ground)?;
    let mut arrow = display.fb((64, 64), DrmFourcc::Argb8888)?;
    let [red, green, blue] = ARROW;
    let opaque = [red, green, blue, 255];
    display.paint(
        &mut arrow,
        |x, y| if x < 20 && y < 20 { opaque } else { [0; 4] },
    )?;
    display.set_cursor(&arrow)?;
    display.move_cursor((300, 200))?;
    Ok((display, [ground, arrow]))
}

/// The cursor plane is not in the video: the client gets it apart, in its places between two pictures too, and draws
/// it into its screenshot.
pub(crate) fn cursor() -> anyhow::Result<()> {
    let (display, _shown) = pointed()?;
    let (target, seat) = kvm::two_hosts()?;
    let server = Server::start(Host::Namespace(&target), KMS)?;
    let seat = Seat::new(Host::Namespace(&seat))?;
    seat.pair(TARGET, server.code()?)?;
    let shot = seat.file("cursor.png");
    let client = seat.connect(TARGET, &["--screenshot", &shot.to_string_lossy()])?;
    guest::wait_for("the screenshot", SOON, || shot.exists().then_some(()))?;
    for step in 1..=50 {
        display.move_cursor((300 + step * 2, 200 - step * 4))?;
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(500));
    let shown = client.stop()?;
    server.stop()?;
    let picture = Picture::read(&shot)?;
    for (place, wanted) in [
        ((310, 210), ARROW),
        ((304, 204), ARROW),
        ((316, 216), ARROW),
        ((294, 210), GROUND),
        ((310, 194), GROUND),
        ((326, 210), GROUND),
        ((310, 226), GROUND),
    ] {
        let got = picture.colour(place, (4, 4))?;
        ensure!(near(got, wanted), "{got:?} at {place:?}, not {wanted:?}");
    }
    let positions = kvm::number(&shown, "/cursor/positions")?;
    let pictures = kvm::number(&shown, "/frames/decoded")?;
    ensure!(kvm::number(&shown, "/cursor/images")? == 1, "{shown}");
    ensure!(positions > 25, "{shown}");
    let corner = (shown.pointer("/cursor/x"), shown.pointer("/cursor/y"));
    let corner = corner
        .0
        .and_then(|x| x.as_i64())
        .zip(corner.1.and_then(|y| y.as_i64()));
    ensure!(corner == Some((400, 0)), "{shown}");
    ensure!(
        shown
            .pointer("/cursor/shown")
            .is_some_and(|size| size == "64x64"),
        "{shown}"
    );
    guest::tell(format!(
        "seen: 1 cursor picture, {positions} positions of 51 beside {pictures} pictures, drawn where it was"
    ));
    Ok(())
}

/// A screen that sleeps says so; a key that the operator presses reaches the target's kernel, where whatever shows the
/// desktop wakes the screen, and the picture comes.
pub(crate) fn wake() -> anyhow::Result<()> {
    let (display, ground) = display()?;
    display.show(&ground)?;
    display.dpms(3)?;
    let keyboard = Hardware::keyboard("Lab Keyboard")?;
    let (target, operator) = kvm::two_hosts()?;
    let server = Server::start(Host::Namespace(&target), KMS)?;
    let seat = Seat::new(Host::Namespace(&operator))?;
    seat.pair(TARGET, server.code()?)?;
    let asleep = seat.file("asleep.png");
    let arguments = ["--grab", "all", "--screenshot", &asleep.to_string_lossy()];
    let client = seat.connect(TARGET, &arguments)?;
    await_reason(&asleep)?;

    let keys = Reader::start(&input::twin("Lab Keyboard")?)?;
    keyboard.tap(KEY_A)?;
    guest::wait_for("the key on the target", SOON, || {
        keys.events()
            .contains(&Event::key(KEY_A, true))
            .then_some(())
    })?;
    display.dpms(0)?;
    let woken = std::time::Instant::now();
    look(&seat)?;
    client.stop()?;
    server.stop()?;
    guest::tell(format!(
        "seen: the reason while off, the key on the target, the picture within {} ms of its waking",
        woken.elapsed().as_millis()
    ));
    Ok(())
}

/// A screen in a format that is not captured says so, once though it is tried again; the picture comes with one that is.
pub(crate) fn unreadable() -> anyhow::Result<()> {
    let (display, ground) = display()?;
    let grey = display.fb((640, 480), DrmFourcc::R8)?;
    display.show(&grey)?;
    let (target, operator) = kvm::two_hosts()?;
    let server = Server::start(Host::Namespace(&target), KMS)?;
    let seat = Seat::new(Host::Namespace(&operator))?;
    seat.pair(TARGET, server.code()?)?;
    let words = seat.file("words.png");
    let client = seat.connect(TARGET, &["--screenshot", &words.to_string_lossy()])?;
    await_reason(&words)?;
    std::thread::sleep(Duration::from_secs(5));
    let told = server.process.output();
    let warned = told.lines().filter(|line| line.contains(" WARN "));
    let warned = warned.filter(|line| line.contains("R8")).count();
    ensure!(warned == 1, "{warned} warnings, not one: {told}");

    display.show(&ground)?;
    let shown = std::time::Instant::now();
    look(&seat)?;
    client.stop()?;
    server.stop()?;
    guest::tell(format!(
        "seen: the reason, told once; the picture within {} ms of the other format",
        shown.elapsed().as_millis()
    ));
    Ok(())
}

/// Waits for the client's screenshot, which is a reason picture.
fn await_reason(screenshot: &Path) -> anyhow::Result<()> {
    guest::wait_for("the reason picture", SOON, || {
        screenshot.exists().then_some(())
    })?;
    let dark = Picture::read(screenshot)?.share(|pixel| near(pixel, REASON));
    ensure!(
        dark > 0.5,
        "{dark} of the picture is a reason picture's ground"
    );
    Ok(())
}

/// A second look by the same operator, who sees the screen.
fn look(seat: &Seat<'_>) -> anyhow::Result<()> {
    let path = seat.file("awake.png");
    let shot = path.to_string_lossy().into_owned();
    let end = std::time::Instant::now() + SOON;
    // The first picture may still be the reason's.
    loop {
        let client = seat.connect(
            TARGET,
            &["--force", "--seconds", "2", "--screenshot", &shot],
        )?;
        client.finish()?;
        let picture = Picture::read(Path::new(&shot))?;
        if picture.share(|pixel| near(pixel, REASON)) < 0.5 || std::time::Instant::now() > end {
            ensure!(
                near(picture.colour((320, 240), (100, 100))?, GROUND),
                "not the screen"
            );
            return Ok(());
        }
    }
}
