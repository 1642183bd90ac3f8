//! The USB gadget: what the operator types arrives at the machine that our USB device port is plugged into, which here
//! is the same kernel (`dummy_hcd`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use evdevil::Evdev;
use evdevil::event::{Key, Led};
use soft_kvm_lab_tests::guest;

use crate::input::{self, BTN_LEFT, Event, Hardware, KEY_A, REL_X, Reader};
use crate::keyboard::{SMALL, await_grabs};
use crate::kvm::{Host, SOON, Seat, Server};
use crate::privsep::check_powerless;

const KEYBOARD: &str = "Lab Keyboard";
const MOUSE: &str = "Lab Mouse";
const VOLUME_UP: u16 = 115;
const CONTROLLER: &str = "/sys/class/udc/dummy_udc.0";
/// Another network namespace would not see configfs.
const HERE: &str = "127.0.0.1:7755";
const GADGETS: &str = "/sys/kernel/config/usb_gadget";

/// The host's side of one of our four interfaces.
fn interface(number: u8) -> anyhow::Result<PathBuf> {
    guest::wait_for(&format!("USB interface {number}"), SOON, || {
        let entries = std::fs::read_dir("/dev/input").ok()?;
        entries.flatten().map(|entry| entry.path()).find(|path| {
            let phys = Evdev::open(path).ok().and_then(|device| device.phys().ok());
            let phys = phys.flatten().unwrap_or_default();
            phys.starts_with("usb-dummy_hcd") && phys.ends_with(&format!("input{number}"))
        })
    })
}

/// The keys of these events, without repetitions.
fn keys(events: impl IntoIterator<Item = Event>) -> Vec<(u16, bool)> {
    events.into_iter().filter_map(Event::as_key).collect()
}

/// Steps to the right, down and of the wheel.
fn ways(events: impl IntoIterator<Item = Event>) -> [i32; 3] {
    let mut ways = [0; 3];
    for (axis, steps) in events.into_iter().filter_map(Event::as_motion) {
        match axis {
            REL_X => ways[0] += steps,
            1 => ways[1] += steps,
            8 => ways[2] += steps,
            _ => {}
        }
    }
    ways
}

fn await_keys(reader: &Reader, wanted: &[(u16, bool)]) -> anyhow::Result<()> {
    let waited = guest::wait_for("keys at the USB host", SOON, || {
        (keys(reader.events()).len() >= wanted.len()).then_some(())
    });
    let got = keys(reader.events());
    ensure!(got == wanted, "{got:?} came, not {wanted:?}");
    waited
}

/// A server that was killed left its gadget: the next one removes it.
pub(crate) fn through_usb() -> anyhow::Result<()> {
    let story = story()?;
    let arguments = [SMALL, &[&story]].concat();
    let mut killed = Server::start_named("killed", Host::Kernel, &arguments)?;
    ensure!(made().is_dir(), "no gadget");
    killed.process.kill()?;
    ensure!(
        made().is_dir(),
        "the killed server's gadget is gone by itself"
    );
    used(Server::start(Host::Kernel, &arguments)?)
}

/// The server has no right to anything: its broker makes the gadget, and removes it when the server is killed.
pub(crate) fn by_broker() -> anyhow::Result<()> {
    let story = story()?;
    let arguments = [SMALL, &["--user", "nobody", &story]].concat();
    let mut killed = Server::start_named("killed", Host::Kernel, &arguments)?;
    ensure!(made().is_dir(), "no gadget");
    killed.process.kill()?;
    guest::wait_for("the end of the killed server's gadget", SOON, || {
        (!made().exists()).then_some(())
    })?;
    let server = Server::start(Host::Kernel, &arguments)?;
    check_powerless(server.process.id())?;
    used(server)
}

fn made() -> PathBuf {
    Path::new(GADGETS).join("soft-kvm.dummy_udc.0")
}

/// Writes the story, and names it; as options of a server.
fn story() -> anyhow::Result<String> {
    let story = guest::folder("story")?.join("gadget.jsonnet");
    std::fs::write(
        &story,
        "(import 'default.jsonnet') + { input+: { driver: 'gadget', device: 'dummy_udc.0' } }",
    )?;
    Ok(format!("--story={}", story.display()))
}

/// Keys, motion, media keys and lamps pass, through hosts and controllers that go and come back, and nothing is left at the
/// end.
fn used(server: Server) -> anyhow::Result<()> {
    let program = guest::program("soft-kvm-server")?;
    let listed = guest::run(std::process::Command::new(program).arg("devices"))?;
    ensure!(listed.contains("dummy_udc.0 is in use"), "{listed}");

    let (keyboard, mouse) = (Hardware::keyboard(KEYBOARD)?, Hardware::mouse(MOUSE)?);
    let nodes = [keyboard.node(), mouse.node()].map(|node| node.to_string_lossy().into_owned());
    let seat = Seat::new(Host::Kernel)?;
    seat.pair(HERE, server.code()?)?;
    let mut client = seat.connect(HERE, &["--grab", &nodes[0], "--grab", &nodes[1]])?;
    await_grabs(&mut client, 2)?;
    let (far_keyboard, far_mouse) = (interface(0)?, interface(1)?);
    let typed = Reader::start(&far_keyboard)?;
    let moved = Reader::start(&far_mouse)?;
    let media = Reader::start(&interface(3)?)?;
    input::type_and_move(&keyboard, &mouse)?;
    await_keys(&typed, &keys(input::typing().concat()))?;
    await_keys(&moved, &keys(input::motion().concat()))?;
    let wanted = ways(input::motion().concat());
    guest::wait_for("all motion at the USB host", SOON, || {
        (ways(moved.events()) == wanted).then_some(())
    })
    .with_context(|| format!("{:?}, not {wanted:?}", ways(moved.events())))?;
    keyboard.tap(VOLUME_UP)?;
    await_keys(&media, &[(VOLUME_UP, true), (VOLUME_UP, false)])?;

    let lamp = Led::from_raw(1);
    let hardware = Evdev::open(keyboard.node())?;
    let far = Evdev::open(&far_keyboard)?;
    for lit in [true, false] {
        far.set_led(lamp, lit)?;
        guest::wait_for(&format!("lamp {lit}"), SOON, || {
            (hardware.led_state().ok()?.contains(lamp) == lit).then_some(())
        })?;
    }
    drop(far);

    // The host gives the device up and takes it again (`soft_connect` of dummy_hcd connects once only): what is held then is down for the host; what was let go meanwhile is not.
    let plug = |taken| std::fs::write("/sys/bus/usb/devices/1-1/authorized", taken);
    mouse.report(&[Event::key(BTN_LEFT, true)])?;
    plug("0")?;
    guest::wait_for("the USB keyboard to go", SOON, || {
        typed.is_gone().then_some(())
    })?;
    keyboard.report(&[Event::key(KEY_A, true)])?;
    mouse.report(&[Event::key(BTN_LEFT, false)])?;
    plug("1")?;
    let far_keyboard = interface(0)?;
    let host = Evdev::open(&far_keyboard)?;
    guest::wait_for("the held key", SOON, || {
        let held = host.key_state().ok()?;
        held.contains(Key::from_raw(KEY_A)).then_some(())
    })?;
    let host_mouse = Evdev::open(interface(1)?)?;
    ensure!(
        !host_mouse.key_state()?.contains(Key::from_raw(BTN_LEFT)),
        "a button that was let go is down"
    );
    let typed = Reader::start(&far_keyboard)?;
    keyboard.report(&[Event::key(KEY_A, false)])?;
    await_keys(&typed, &[(KEY_A, false)])?;

    // The controller itself goes and comes back: slowly, and before the server has seen that it was gone.
    let mut typed = typed;
    for unseen in [false, true] {
        if unseen {
            server.process.send_signal("STOP")?;
        }
        guest::unbind("dummy_udc", "dummy_udc.0")?;
        guest::wait_for("the USB keyboard to go", SOON, || {
            typed.is_gone().then_some(())
        })?;
        guest::bind("dummy_udc", "dummy_udc.0")?;
        if unseen {
            server.process.send_signal("CONT")?;
        }
        let far_keyboard = interface(0)?;
        typed = Reader::start(&far_keyboard)?;
        // What is typed before the new host has taken the device is lost, as with any keyboard.
        let waited = guest::wait_for("a key at the new host", SOON, || {
            keyboard.tap(KEY_A).ok()?;
            std::thread::sleep(Duration::from_millis(100));
            typed
                .events()
                .contains(&Event::key(KEY_A, false))
                .then_some(())
        });
        waited.with_context(|| format!("unseen: {unseen}\n{}", server.process.output()))?;
    }

    client.stop()?;
    server.stop()?;
    guest::wait_for("the end of the gadget", SOON, || {
        (!made().exists()).then_some(())
    })?;
    let user = std::fs::read_to_string(Path::new(CONTROLLER).join("function"))?;
    ensure!(user.trim().is_empty(), "{user} has the controller");
    Ok(())
}
