//! Several servers with one keyboard and mouse.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use evdevil::event::{Abs, EventType, Key, Led};
use evdevil::uinput::{AbsSetup, UinputDevice};
use evdevil::{AbsInfo, Evdev};
use soft_kvm_lab_tests::guest::{self, Namespace};

use crate::input::{self, Event, Hardware, KEY_A, LEFT_CTRL, LEFT_SHIFT, RIGHT_CTRL, Reader};
use crate::keyboard::{SMALL, await_grabs};
use crate::kvm::{self, Host, SOON, Seat, Server, TARGET};

const KEYBOARD: &str = "Lab Keyboard";
const MOUSE: &str = "Lab Mouse";
pub(crate) const SECOND: &str = "10.2.0.1:7755";
pub(crate) const TAB: u16 = 15;
const BACKSPACE: u16 = 14;
const KEY_0: u16 = 11;
const KEY_2: u16 = 3;
const KEY_N: u16 = 49;
/// What the design promises.
const PROMISED: Duration = Duration::from_millis(50);

/// Two servers, and a seat that is paired with both.
pub(crate) struct Scene {
    /// The servers' hosts, the seat.
    pub(crate) hosts: [Namespace; 3],
}

impl Scene {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let (first, seat) = kvm::two_hosts()?;
        let second = Namespace::new("second")?;
        Namespace::cable((&second, "10.2.0.1/24"), (&seat, "10.2.0.2/24"))?;
        Ok(Self {
            hosts: [first, second, seat],
        })
    }

    pub(crate) fn servers(&self) -> anyhow::Result<([Server; 2], Seat<'_>)> {
        let [first, second, seat] = &self.hosts;
        let first = Server::start(Host::Namespace(first), SMALL)?;
        let second = Server::start_named("second", Host::Namespace(second), SMALL)?;
        let seat = Seat::new(Host::Namespace(seat))?;
        seat.pair(TARGET, first.code()?)?;
        seat.pair(SECOND, second.code()?)?;
        Ok(([first, second], seat))
    }
}

/// The virtual devices of a name on both servers: the first is the one that hears `probe`.
fn twins(name: &str, probe: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<[PathBuf; 2]> {
    let nodes = guest::wait_for("a virtual device on each server", SOON, || {
        let nodes = input::twins(name);
        <[PathBuf; 2]>::try_from(nodes).ok()
    })?;
    let [one, other] = nodes;
    let (first, second) = (Reader::start(&one)?, Reader::start(&other)?);
    probe()?;
    guest::wait_for("a key on one server", SOON, || {
        (first.events().len() + second.events().len() >= 4).then_some(())
    })?;
    ensure!(
        first.events().is_empty() != second.events().is_empty(),
        "both heard it"
    );
    Ok(if second.events().is_empty() {
        [one, other]
    } else {
        [other, one]
    })
}

/// A stick that is pushed while the input goes elsewhere rests on the server that it leaves, and is pushed on the other.
/// A throttle stays where it was left.
pub(crate) fn joystick() -> anyhow::Result<()> {
    const JOYSTICK: &str = "Lab Joystick";
    const TRIGGER: u16 = 0x120;
    const X: u16 = 0;
    const THROTTLE: u16 = 6;
    let keyboard = Hardware::keyboard(KEYBOARD)?;
    let axis = |code| AbsSetup::new(Abs::from_raw(code), AbsInfo::new(-100, 100));
    let device = UinputDevice::builder()?
        .with_keys([Key::from_raw(TRIGGER)])?
        .with_abs_axes([axis(X), axis(THROTTLE)])?
        .build(JOYSTICK)?;
    let joystick = Hardware::plugged(device, JOYSTICK)?;
    let scene = Scene::new()?;
    let (servers, seat) = scene.servers()?;
    let mut client = seat.connect(TARGET, &["--server", SECOND, "--grab", "all"])?;
    await_grabs(&mut client, 2)?;
    let nodes = twins(JOYSTICK, || joystick.tap(TRIGGER))?;
    let [first, second] = [Evdev::open(&nodes[0])?, Evdev::open(&nodes[1])?];
    let await_axes = |device: &Evdev, wanted: [i32; 2]| {
        let axes = || -> anyhow::Result<[i32; 2]> {
            let value =
                |code| Ok::<_, std::io::Error>(device.abs_info(Abs::from_raw(code))?.value());
            Ok([value(X)?, value(THROTTLE)?])
        };
        let waited = guest::wait_for(&format!("axes at {wanted:?}"), SOON, || {
            (axes().ok()? == wanted).then_some(())
        });
        waited.with_context(|| format!("{:?}", axes()))
    };
    let push = |code, value| joystick.report(&[Event::new(EventType::ABS, code, value)]);
    push(X, 80)?;
    push(THROTTLE, 70)?;
    await_axes(&first, [80, 70])?;
    for key in [LEFT_CTRL, RIGHT_CTRL, TAB] {
        keyboard.report(&[Event::key(key, true)])?;
    }
    await_axes(&first, [0, 70])?;
    await_axes(&second, [80, 70])?;
    for key in [TAB, RIGHT_CTRL, LEFT_CTRL] {
        keyboard.report(&[Event::key(key, false)])?;
    }
    push(X, -60)?;
    await_axes(&second, [-60, 70])?;
    await_axes(&first, [0, 70])?;

    client.stop()?;
    for server in servers {
        server.stop()?;
    }
    Ok(())
}

fn await_event(reader: &Reader, event: Event) -> anyhow::Result<Duration> {
    let start = Instant::now();
    while !reader.events().contains(&event) {
        ensure!(start.elapsed() < SOON, "{event:?} did not come");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(start.elapsed())
}

/// Chords move the keyboard between two servers and home: nothing stays down behind, what is held goes along, lock
/// lamps follow.
pub(crate) fn chords() -> anyhow::Result<()> {
    let keyboard = Hardware::keyboard(KEYBOARD)?;
    let local = Reader::start(keyboard.node())?;
    let scene = Scene::new()?;
    let (servers, seat) = scene.servers()?;
    let arguments = ["--server", SECOND, "--grab", "all"];
    let mut client = seat.connect(
        TARGET,
        &[&arguments[..], &["--chord", "2=LeftCtrl+RightCtrl+N"]].concat(),
    )?;
    await_grabs(&mut client, 1)?;
    let nodes = twins(KEYBOARD, || keyboard.tap(KEY_A))?;
    let chord = |key: u16| -> anyhow::Result<()> {
        for key in [LEFT_CTRL, RIGHT_CTRL, key] {
            keyboard.report(&[Event::key(key, true)])?;
        }
        for key in [key, RIGHT_CTRL, LEFT_CTRL] {
            keyboard.report(&[Event::key(key, false)])?;
        }
        Ok(())
    };
    let lamp = Led::from_raw(1);
    let hardware = Evdev::open(keyboard.node())?;
    let lit = |wanted: bool| {
        guest::wait_for(&format!("lamp {wanted}"), SOON, || {
            (hardware.led_state().ok()?.contains(lamp) == wanted).then_some(())
        })
    };
    Evdev::open(&nodes[1])?.set_led(lamp, true)?;

    // Back and forth, with Shift held.
    let mut times = Vec::new();
    let mut here = 0;
    for (key, there) in [(TAB, 1), (BACKSPACE, 0), (KEY_N, 1), (TAB, 0)].repeat(3) {
        let (from, to) = (Reader::start(&nodes[here])?, Reader::start(&nodes[there])?);
        keyboard.report(&[Event::key(LEFT_SHIFT, true)])?;
        await_event(&from, Event::key(LEFT_SHIFT, true))?;
        chord(key)?;
        times.push(await_event(&to, Event::key(LEFT_SHIFT, true))?);
        await_event(&from, Event::key(LEFT_SHIFT, false))?;
        keyboard.report(&[Event::key(LEFT_SHIFT, false)])?;
        await_event(&to, Event::key(LEFT_SHIFT, false))?;
        keyboard.tap(KEY_A)?;
        await_event(&to, Event::key(KEY_A, false))?;
        ensure!(input::down(&from.events()).is_empty(), "left down behind");
        ensure!(input::down(&to.events()).is_empty(), "down where it went");
        for (reader, key) in [(&from, KEY_A), (&to, LEFT_CTRL), (&to, key)] {
            ensure!(
                !reader.events().contains(&Event::key(key, true)),
                "{key} where it does not belong"
            );
        }
        lit(there == 1)?;
        here = there;
    }
    times.sort_unstable();
    let median = times.get(times.len() / 2).context("switches")?;
    ensure!(*median < PROMISED, "switching took {times:?}");

    // A number that another chord has replaced does nothing; home, where the devices are the operator's own.
    chord(KEY_2)?;
    chord(KEY_0)?;
    client.process.wait_line("yours again", SOON)?;
    guest::wait_for("the local system to hear the keyboard", SOON, || {
        let before = local.events().len();
        keyboard.tap(KEY_A).ok()?;
        std::thread::sleep(Duration::from_millis(10));
        (local.events().len() > before).then_some(())
    })?;
    lit(false)?;
    chord(TAB)?;
    await_grabs(&mut client, 2)?;
    let first = Reader::start(&nodes[0])?;
    keyboard.tap(KEY_A)?;
    await_event(&first, Event::key(KEY_A, false))?;
    client.stop()?;
    for server in servers {
        server.stop()?;
    }
    Ok(())
}

/// A mouse that is pushed against an edge goes to the other server, and one that just arrives there does not.
pub(crate) fn edges() -> anyhow::Result<()> {
    let mouse = Hardware::mouse(MOUSE)?;
    let scene = Scene::new()?;
    let (servers, seat) = scene.servers()?;
    let mut arguments = vec!["--server", SECOND, "--grab", "all"];
    arguments.extend(["--edge", "right=next", "--edge", "left=previous"]);
    let mut client = seat.connect(TARGET, &arguments)?;
    await_grabs(&mut client, 1)?;
    let click = |down| mouse.report(&[Event::key(input::BTN_LEFT, down)]);
    let nodes = twins(MOUSE, || click(true).and_then(|()| click(false)))?;
    let (first, second) = (Reader::start(&nodes[0])?, Reader::start(&nodes[1])?);
    let push = |by: i32| -> anyhow::Result<()> {
        for _ in 0..30 {
            mouse.report(&[Event::motion(input::REL_X, by)])?;
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    };
    // The picture is 320 pixels wide.
    guest::wait_for("the client to know that", SOON, || {
        client.process.output().contains("320x240").then_some(())
    })?;
    std::thread::sleep(Duration::from_millis(600));
    push(5)?;
    push(-5)?;
    click(true)?;
    await_event(&first, Event::key(input::BTN_LEFT, true))?;
    // Dragged: stays.
    push(100)?;
    click(false)?;
    await_event(&first, Event::key(input::BTN_LEFT, false))?;
    push(-2)?;
    push(16)?;
    click(true)?;
    click(false)?;
    await_event(&second, Event::key(input::BTN_LEFT, false))?;
    push(-16)?;
    let first = Reader::start(&nodes[0])?;
    click(true)?;
    click(false)?;
    await_event(&first, Event::key(input::BTN_LEFT, false))?;
    client.stop()?;
    for server in servers {
        server.stop()?;
    }
    Ok(())
}
