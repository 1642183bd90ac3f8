//! The pointer on the client's window is an absolute pointer of the target.

use anyhow::{Context as _, ensure};
use soft_kvm_lab_tests::guest;

use crate::input::{self, BTN_LEFT, Event, Reader};
use crate::keyboard::SMALL;
use crate::kvm::{self, Host, SOON, Seat, Server, TARGET};
use crate::xvfb::{VARIABLES, Xvfb};

const POINTER: &str = "Soft KVM window pointer";
const X: u16 = 0;
const Y: u16 = 1;
const WHEEL: u16 = 8;
const WHEEL_HI_RES: u16 = 11;
/// How exactly a place on the window is told, of 65535: about two pixels of the picture of 320x240.
const NEAR: i32 = 500;

/// Where the pointer is on the target, as a program sees it.
fn place(reader: &Reader) -> (i32, i32) {
    let mut place = (-1, -1);
    for (code, value) in reader.events().into_iter().filter_map(Event::as_position) {
        match code {
            X => place.0 = value,
            Y => place.1 = value,
            _ => {}
        }
    }
    place
}

/// A pointer that moves over the window, clicks and scrolls does so at the same place of the target's screen, through the
/// kernel's own device; the device goes with the client.
pub(crate) fn window() -> anyhow::Result<()> {
    let (target, seat) = kvm::two_hosts()?;
    let server = Server::start(Host::Namespace(&target), SMALL)?;
    let seat = Seat::new(Host::Namespace(&seat))?;
    seat.pair(TARGET, server.code()?)?;
    let screen = Xvfb::start()?;
    let client = seat.window(TARGET, VARIABLES)?;
    let reader = Reader::start(&input::twin(POINTER)?)?;
    let window = screen.focus_window()?;
    // Without a window manager it has the size of the picture, or a multiple of it.
    let geometry = screen.xdotool(&["getwindowgeometry", "--shell", &window])?;
    let number = |key: &str| -> anyhow::Result<i32> {
        let value = geometry.lines().find_map(|line| line.strip_prefix(key));
        let value = value.with_context(|| format!("no {key} in {geometry}"))?;
        Ok(value.parse()?)
    };
    let (width, height) = (number("WIDTH=")?, number("HEIGHT=")?);
    ensure!(
        width * 3 == height * 4,
        "the picture does not fill {width}x{height}"
    );
    for (across, down) in [(1, 1), (3, 2), (2, 3)] {
        let at = [
            (width * across / 4).to_string(),
            (height * down / 4).to_string(),
        ];
        screen.xdotool(&["mousemove", "--window", &window, &at[0], &at[1]])?;
        let wanted = (65_535 * across / 4, 65_535 * down / 4);
        guest::wait_for("the pointer on the target", SOON, || {
            let (x, y) = place(&reader);
            let near = (x - wanted.0).abs() < NEAR && (y - wanted.1).abs() < NEAR;
            near.then_some(())
        })
        .with_context(|| format!("it is at {:?}, not {wanted:?}", place(&reader)))?;
    }
    let before = reader.events().len();
    screen.xdotool(&["click", "--repeat", "2", "1"])?;
    let click = [Event::key(BTN_LEFT, true), Event::key(BTN_LEFT, false)];
    guest::wait_for("the button on the target", SOON, || {
        let mut events = reader.events().split_off(before);
        events.retain(|event| click.contains(event));
        (events == click.repeat(2)).then_some(())
    })
    .with_context(|| format!("{:?}", reader.events()))?;
    // A wheel that a program plays, not a mouse: winit 0.30 tells it once for each press and once for each release.
    screen.xdotool(&["click", "4"])?;
    let wheel = [Event::motion(WHEEL, 1), Event::motion(WHEEL_HI_RES, 120)];
    guest::wait_for("the wheel on the target", SOON, || {
        let mut events = reader.events();
        events.retain(|event| event.as_motion().is_some());
        (events == wheel.repeat(2)).then_some(())
    })
    .with_context(|| format!("{:?}", reader.events()))?;
    ensure!(input::down(&reader.events()).is_empty(), "a button is down");
    client.stop()?;
    guest::wait_for("the end of the pointer", SOON, || {
        input::twins(POINTER).is_empty().then_some(())
    })?;
    server.stop().map(drop)
}
