//! Fingers on the client's window are a touch screen of the target.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context as _, ensure};
use soft_kvm_lab_tests::guest::{self, Process};

use crate::compositor::{Compositor, WINDOW};
use crate::input::{self, Event, Reader};
use crate::keyboard::SMALL;
use crate::kvm::{self, Host, SOON, Seat, Server, TARGET};

const KEYBOARD: &str = "Soft KVM window keyboard";
const SCREEN: &str = "Soft KVM window touch screen";
/// The picture of 320x240 in the window of 800x480: twice as large, black beside it.
const PICTURE: ((i32, i32), (i32, i32)) = ((80, 0), (640, 480));
const BTN_TOUCH: u16 = 0x14a;
const SLOT: u16 = 0x2f;
const X: u16 = 0x35;
const Y: u16 = 0x36;
const TRACKING_ID: u16 = 0x39;

/// The fingers that a program sees: by slot, where. A slot keeps its place when the finger goes: the kernel tells what changes.
fn fingers(reader: &Reader) -> BTreeMap<i32, (i32, i32)> {
    let (mut slot, mut down) = (0, BTreeSet::new());
    let mut places = BTreeMap::<i32, (i32, i32)>::new();
    for (code, value) in reader.events().into_iter().filter_map(Event::as_position) {
        match code {
            SLOT => slot = value,
            TRACKING_ID if value < 0 => {
                down.remove(&slot);
            }
            TRACKING_ID => {
                down.insert(slot);
            }
            X => places.entry(slot).or_default().0 = value,
            Y => places.entry(slot).or_default().1 = value,
            _ => {}
        }
    }
    places.retain(|slot, _| down.contains(slot));
    places
}

/// Where a place of the window is on the target, 0..=65535.
fn on_target((x, y): (i32, i32)) -> (i32, i32) {
    let ((left, top), (width, height)) = PICTURE;
    // Rounded, from the first pixel to the last.
    let axis = |at: i32, start: i32, length: i32| {
        let last = length - 1;
        ((at - start) * 65_535 + last / 2) / last
    };
    (axis(x, left, width), axis(y, top, height))
}

fn await_fingers(reader: &Reader, wanted: &[(i32, i32)]) -> anyhow::Result<()> {
    let wanted: BTreeMap<_, _> = (0..).zip(wanted.iter().copied().map(on_target)).collect();
    let waited = guest::wait_for("the fingers on the target", SOON, || {
        (fingers(reader) == wanted).then_some(())
    });
    waited.with_context(|| format!("{:?}, not {wanted:?}", fingers(reader)))
}

/// A window under a Wayland compositor with a touch screen: five fingers are where they are on the picture, for the target's
/// kernel and for libinput; the device is there from the first touch on. They are lifted when the compositor cancels them, and
/// when the client is killed.
pub(crate) fn window() -> anyhow::Result<()> {
    ensure!(WINDOW == (800, 480), "PICTURE is for another window");
    let compositor = Compositor::start()?;
    let hosts = kvm::two_hosts()?;
    let server = Server::start(Host::Namespace(&hosts.0), SMALL)?;
    let seat = Seat::new(Host::Namespace(&hosts.1))?;
    seat.pair(TARGET, server.code()?)?;
    let display = compositor.socket().to_string_lossy().into_owned();
    let variables = [("WAYLAND_DISPLAY", display.as_str()), ("DISPLAY", "")];
    let mut client = seat.window(TARGET, &variables)?;
    let shown = compositor.await_pictures();
    shown.with_context(|| client.process.output())?;
    input::twin(KEYBOARD)?;
    ensure!(input::twins(SCREEN).is_empty(), "before any touch");

    // Beside the picture: nobody's.
    compositor.down(&[(9, (20, 20))])?;
    compositor.up(&[9])?;
    compositor.down(&[(1, (400, 240))])?;
    compositor.up(&[1])?;
    let twin = input::twin(SCREEN)?;
    guest::run(Command::new("udevadm").arg("settle"))?;
    let listed = guest::run(Command::new("libinput").arg("list-devices"))?;
    let node = twin.to_string_lossy().into_owned();
    let about = listed.split("\n\n").find(|about| about.contains(&node));
    let about = about.with_context(|| format!("{node} is not in\n{listed}"))?;
    let kind = about
        .lines()
        .find_map(|line| line.strip_prefix("Capabilities:"));
    ensure!(kind.map(str::trim) == Some("touch"), "{about}");
    let mut watcher = Process::start("libinput", Command::new("libinput").arg("debug-events"))?;
    let name = twin
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    watcher.wait_line(&name, SOON)?;
    let reader = Reader::start(&twin)?;

    let mut places = [(80, 0), (719, 479), (240, 120), (400, 240), (560, 360)];
    let numbered = |places: &[(i32, i32)]| (1..).zip(places.iter().copied()).collect::<Vec<_>>();
    compositor.down(&numbered(&places))?;
    await_fingers(&reader, &places)?;
    for place in &mut places {
        *place = (place.0.midpoint(400), place.1.midpoint(240));
    }
    compositor.motion(&numbered(&places))?;
    await_fingers(&reader, &places)?;
    compositor.up(&[1, 2, 3, 4, 5])?;
    await_fingers(&reader, &[])?;
    ensure!(input::down(&reader.events()).is_empty(), "a button stays");
    for kind in ["TOUCH_DOWN", "TOUCH_MOTION", "TOUCH_UP"] {
        watcher.wait_line(kind, SOON)?;
    }
    watcher.send_signal("INT")?;
    watcher.wait(SOON)?;
    let seen = watcher.output();
    let begun = seen.lines().filter(|line| line.contains("TOUCH_DOWN"));
    ensure!(begun.count() == 5, "not five fingers in\n{seen}");

    compositor.down(&numbered(&places[..2]))?;
    await_fingers(&reader, &places[..2])?;
    compositor.cancel()?;
    await_fingers(&reader, &[])?;

    compositor.down(&numbered(&places[..3]))?;
    await_fingers(&reader, &places[..3])?;
    ensure!(input::down(&reader.events()) == [BTN_TOUCH], "no touch");
    client.process.kill()?;
    await_fingers(&reader, &[])?;
    guest::wait_for("the button of the touch", SOON, || {
        input::down(&reader.events()).is_empty().then_some(())
    })?;
    guest::wait_for("the end of the touch screen", SOON, || {
        input::twins(SCREEN).is_empty().then_some(())
    })?;
    server.stop().map(drop)
}
