//! The USB gadget: what the operator types arrives at the machine that our USB device port is plugged into, which here
//! is the same kernel (`dummy_hcd`). It has two such ports, and the story names the second.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use evdevil::event::{Abs, EventType, Key, Led};
use evdevil::uinput::{AbsSetup, UinputDevice};
use evdevil::{AbsInfo, Evdev};
use soft_kvm_lab_tests::guest;

use crate::input::{self, BTN_LEFT, Event, Hardware, KEY_A, REL_X, Reader};
use crate::keyboard::{SMALL, await_grabs};
use crate::kvm::{Host, SOON, Seat, Server};
use crate::privsep::check_powerless;

const KEYBOARD: &str = "Lab Keyboard";
const MOUSE: &str = "Lab Mouse";
const TABLET: &str = "Lab Tablet";
const VOLUME_UP: u16 = 115;
const CONTROLLER: &str = "/sys/class/udc/dummy_udc.1";
/// The composite as the host sees it.
const COMPOSITE: &str = "/sys/bus/usb/devices/2-1";
/// No key stays down longer when a program dies.
const LIFTED: Duration = Duration::from_millis(300);
/// Another network namespace would not see configfs.
const HERE: &str = "127.0.0.1:7755";
const GADGETS: &str = "/sys/kernel/config/usb_gadget";

/// The host's side of one of our four interfaces.
fn interface(number: u8) -> anyhow::Result<PathBuf> {
    guest::wait_for(&format!("USB interface {number}"), SOON, || {
        let entries = fs::read_dir("/dev/input").ok()?;
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

/// A server that makes its gadget itself: its keeper removes it when it is killed, and the next server when the keeper was
/// killed, too.
pub(crate) fn through_usb() -> anyhow::Result<()> {
    let story = plug_port()?;
    let arguments = [SMALL, &[&story]].concat();
    killed(&arguments)?;

    let mut alone = Server::start_named("alone", Host::Kernel, &arguments)?;
    let keepers = children(alone.process.id(), "gadget-keeper")?;
    ensure!(keepers.len() == 1, "keepers: {keepers:?}");
    guest::run(Command::new("kill").arg("-KILL").args(&keepers))?;
    alone.process.kill()?;
    ensure!(made().is_dir(), "the gadget is gone without its keeper");
    used(Server::start(Host::Kernel, &arguments)?)
}

/// The server has no right to anything: its broker makes the gadget, and removes it when the server is killed.
pub(crate) fn by_broker() -> anyhow::Result<()> {
    let story = plug_port()?;
    let arguments = [SMALL, &["--user", "nobody", &story]].concat();
    killed(&arguments)?;
    let server = Server::start(Host::Kernel, &arguments)?;
    check_powerless(server.process.id())?;
    used(server)
}

/// The children of a process whose command lines have this word, by their numbers.
fn children(process: u32, word: &str) -> anyhow::Result<Vec<String>> {
    let parent = format!("PPid:\t{process}\n");
    let all = fs::read_dir("/proc")?.flatten().filter(|entry| {
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        status.contains(&parent) && words.any(|one| one == word.as_bytes())
    });
    let names = all.map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.collect())
}

/// A key is down when the client is killed, and again when the server is: the host sees it go up, and no gadget stays.
fn killed(arguments: &[&str]) -> anyhow::Result<()> {
    let keyboard = Hardware::keyboard(KEYBOARD)?;
    let node = keyboard.node().to_string_lossy().into_owned();
    let mut server = Server::start_named("killed", Host::Kernel, arguments)?;
    ensure!(made().is_dir(), "no gadget");
    let seat = Seat::new(Host::Kernel)?;
    seat.pair(HERE, server.code()?)?;
    for dies in ["client", "server"] {
        let mut client = seat.connect(HERE, &["--grab", &node])?;
        await_grabs(&mut client, 1)?;
        let host = Reader::start(&interface(0)?)?;
        keyboard.report(&[Event::key(KEY_A, true)])?;
        await_keys(&host, &[(KEY_A, true)])?;
        let start = Instant::now();
        if dies == "client" {
            client.process.kill()?;
        } else {
            server.process.kill()?;
        }
        guest::wait_for("the key to go up", SOON, || {
            input::down(&host.events()).is_empty().then_some(())
        })?;
        let lifted = start.elapsed();
        guest::log(format!("the {dies} is killed: up after {lifted:?}"));
        ensure!(lifted <= LIFTED, "up after {lifted:?}");
        keyboard.report(&[Event::key(KEY_A, false)])?;
        if dies == "server" {
            client.process.kill()?;
        }
    }
    guest::wait_for("the end of the killed server's gadget", SOON, || {
        (!made().exists()).then_some(())
    })
}

/// A host that sleeps and lets itself be woken: the first key wakes it, and arrives.
fn wakes_its_host(keyboard: &Hardware, typed: &Reader) -> anyhow::Result<()> {
    let power = |file: &str| Path::new(COMPOSITE).join("power").join(file);
    let is = |state: &str| {
        fs::read_to_string(power("runtime_status")).is_ok_and(|status| status.trim() == state)
    };
    let set = |file: &str, value: &str| {
        fs::write(power(file), value).with_context(|| format!("{file} of {COMPOSITE}"))
    };
    set("autosuspend_delay_ms", "0")?;
    set("control", "auto")?;
    guest::wait_for("the host to sleep", SOON, || is("suspended").then_some(()))?;
    // A host is not looked at while it has just taken a report.
    std::thread::sleep(Duration::from_millis(100));
    let before = typed.events().len();
    keyboard.tap(KEY_A)?;
    guest::wait_for("the key that wakes", SOON, || {
        let came = keys(typed.events().into_iter().skip(before));
        (came == [(KEY_A, true), (KEY_A, false)]).then_some(())
    })
    .with_context(|| format!("{:?}", typed.events().get(before..)))?;
    set("control", "on")
}

/// What firmware looks at: the keyboard and the mouse speak the boot protocol (HID 1.11, §4.2 and §4.3).
fn speaks_the_boot_protocol() -> anyhow::Result<()> {
    for (number, protocol) in [(0, "01"), (1, "02")] {
        let interface = PathBuf::from(format!("{COMPOSITE}:1.{number}"));
        for (file, wanted) in [
            ("bInterfaceSubClass", "01"),
            ("bInterfaceProtocol", protocol),
        ] {
            let value = fs::read_to_string(interface.join(file))?;
            ensure!(
                value.trim() == wanted,
                "{file} of interface {number}: {value}"
            );
        }
    }
    Ok(())
}

/// Where a tablet points is where the host's pointer is.
fn points(tablet: &Hardware) -> anyhow::Result<()> {
    let host = Evdev::open(interface(2)?)?;
    for (place, [x, y]) in [([1_000, 0], [32_767, 0]), ([250, 500], [8_192, 32_767])] {
        let at = |code, value| Event::new(EventType::ABS, code, value);
        tablet.report(&[at(0, place[0]), at(1, place[1])])?;
        tablet.report(&[Event::key(BTN_LEFT, true)])?;
        let axis = |code| Some(host.abs_info(Abs::from_raw(code)).ok()?.value());
        let waited = guest::wait_for("the pointer of the USB host", SOON, || {
            let pressed = host.key_state().ok()?.contains(Key::from_raw(BTN_LEFT));
            (pressed && axis(0) == Some(x) && axis(1) == Some(y)).then_some(())
        });
        waited.with_context(|| format!("{:?}, not {x} {y}", (axis(0), axis(1))))?;
        tablet.report(&[Event::key(BTN_LEFT, false)])?;
    }
    Ok(())
}

fn made() -> PathBuf {
    Path::new(GADGETS).join("soft-kvm.dummy_udc.1")
}

/// Plugs two ports in, and writes the story of the second; as option of a server.
fn plug_port() -> anyhow::Result<String> {
    guest::modprobe("dummy_hcd", &["num=2"])?;
    let story = guest::folder("story")?.join("gadget.jsonnet");
    fs::write(
        &story,
        "(import 'default.jsonnet') + { input+: { driver: 'gadget', device: 'dummy_udc.1' } }",
    )?;
    Ok(format!("--story={}", story.display()))
}

/// Keys, motion, media keys and lamps pass, through hosts and controllers that go and come back, and nothing is left at the
/// end.
fn used(server: Server) -> anyhow::Result<()> {
    let program = guest::program("soft-kvm-server")?;
    let listed = guest::run(Command::new(program).arg("devices"))?;
    ensure!(listed.contains("dummy_udc.1 is in use"), "{listed}");

    let (keyboard, mouse) = (Hardware::keyboard(KEYBOARD)?, Hardware::mouse(MOUSE)?);
    let axis = |code, most| AbsSetup::new(Abs::from_raw(code), AbsInfo::new(0, most));
    let tablet = UinputDevice::builder()?
        .with_keys([Key::from_raw(BTN_LEFT)])?
        .with_abs_axes([axis(0, 1_000), axis(1, 500)])?
        .build(TABLET)?;
    let tablet = Hardware::plugged(tablet, TABLET)?;
    let nodes = [&keyboard, &mouse, &tablet].map(|one| one.node().to_string_lossy().into_owned());
    let seat = Seat::new(Host::Kernel)?;
    seat.pair(HERE, server.code()?)?;
    let grabs: Vec<&str> = nodes.iter().flat_map(|node| ["--grab", node]).collect();
    let mut client = seat.connect(HERE, &grabs)?;
    await_grabs(&mut client, 3)?;
    let (far_keyboard, far_mouse) = (interface(0)?, interface(1)?);
    speaks_the_boot_protocol()?;
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
    points(&tablet)?;
    wakes_its_host(&keyboard, &typed).with_context(|| server.process.output())?;

    // The host gives the device up and takes it again (`soft_connect` of dummy_hcd connects once only): what is held then is down for the host; what was let go meanwhile is not.
    let plug = |taken| fs::write(format!("{COMPOSITE}/authorized"), taken);
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
        guest::unbind("dummy_udc", "dummy_udc.1")?;
        guest::wait_for("the USB keyboard to go", SOON, || {
            typed.is_gone().then_some(())
        })?;
        guest::bind("dummy_udc", "dummy_udc.1")?;
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
    let user = fs::read_to_string(Path::new(CONTROLLER).join("function"))?;
    ensure!(user.trim().is_empty(), "{user} has the controller");
    Ok(())
}
