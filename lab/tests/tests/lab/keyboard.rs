//! Keyboard and mouse of one host, read back from the kernel of another.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::ensure;
use soft_kvm_lab_tests::guest;

use crate::input::{self, ESC, Event, Hardware, KEY_A, LEFT_CTRL, RIGHT_CTRL, Reader};
use crate::kvm::{self, Client, Host, SOON, Seat, Server, TARGET};
use crate::picture::Picture;

const KEYBOARD: &str = "Lab Keyboard";
const MOUSE: &str = "Lab Mouse";
/// A picture that costs next to nothing.
pub(crate) const SMALL: &[&str] = &[
    "--no-discovery",
    "--source",
    "testcard",
    "--size",
    "320x240",
    "--fps",
    "5",
];

/// The client takes both devices: the target reads event for event what was made, the local system nothing. The panic
/// chord gives them back, and nothing stays down on the target.
pub(crate) fn on_one_kernel() -> anyhow::Result<()> {
    let (keyboard, mouse) = (Hardware::keyboard(KEYBOARD)?, Hardware::mouse(MOUSE)?);
    let (local_keys, local_motion) = (
        Reader::start(keyboard.node())?,
        Reader::start(mouse.node())?,
    );
    keyboard.tap(KEY_A)?;
    let tap = [
        vec![Event::key(KEY_A, true)],
        vec![Event::key(KEY_A, false)],
    ];
    local_keys.expect(&tap)?;

    let (target, seat) = kvm::two_hosts()?;
    let server = Server::start(Host::Namespace(&target), SMALL)?;
    let seat = Seat::new(Host::Namespace(&seat))?;
    seat.pair(TARGET, server.code()?)?;
    let mut client = seat.connect(TARGET, &["--grab", "all"])?;
    await_grabs(&mut client, 2)?;
    let keys = Reader::start(&input::twin(KEYBOARD)?)?;
    let motion = Reader::start(&input::twin(MOUSE)?)?;
    input::type_and_move(&keyboard, &mouse)?;
    keys.expect(&input::typing())?;
    motion.expect(&input::motion())?;
    local_keys.expect(&tap)?;
    local_motion.expect(&[])?;

    for key in [LEFT_CTRL, RIGHT_CTRL, ESC] {
        keyboard.report(&[Event::key(key, true)])?;
    }
    client.process.wait_line("yours again", SOON)?;
    guest::wait_for("all keys to go up on the target", SOON, || {
        input::down(&keys.events()).is_empty().then_some(())
    })?;
    let before = local_keys.events().len();
    keyboard.report(&[Event::key(ESC, false)])?;
    keyboard.tap(KEY_A)?;
    guest::wait_for("the local system to hear the keyboard", SOON, || {
        let events = local_keys.events();
        events[before.min(events.len())..]
            .contains(&Event::key(KEY_A, true))
            .then_some(())
    })?;

    client.stop()?;
    guest::wait_for("the virtual devices to go", SOON, || {
        (!input::has_twins()).then_some(())
    })?;
    server.stop()?;
    Ok(())
}

/// A keyboard that is unplugged while a key is down leaves no key down on the target, and works when it is back.
pub(crate) fn unplugged() -> anyhow::Result<()> {
    let keyboard = Hardware::keyboard(KEYBOARD)?;
    let (target, seat) = kvm::two_hosts()?;
    let server = Server::start(Host::Namespace(&target), SMALL)?;
    let seat = Seat::new(Host::Namespace(&seat))?;
    seat.pair(TARGET, server.code()?)?;
    let mut client = seat.connect(TARGET, &["--grab", "all"])?;
    await_grabs(&mut client, 1)?;
    let keys = Reader::start(&input::twin(KEYBOARD)?)?;
    keyboard.report(&[Event::key(KEY_A, true)])?;
    let held = [vec![Event::key(KEY_A, true)]];
    keys.expect(&held)?;
    drop(keyboard);
    // The kernel lifts the keys of a device that goes; a reader may be told of its end first.
    guest::wait_for("the held key to go up on the target", SOON, || {
        let up = keys.events().contains(&Event::key(KEY_A, false));
        (up || keys.is_gone()).then_some(())
    })?;
    guest::wait_for("the virtual keyboard to go", SOON, || {
        (!input::has_twins()).then_some(())
    })?;

    let keyboard = Hardware::keyboard(KEYBOARD)?;
    await_grabs(&mut client, 2)?;
    let keys = Reader::start(&input::twin(KEYBOARD)?)?;
    for report in input::typing() {
        keyboard.report(&report)?;
        std::thread::sleep(Duration::from_millis(2));
    }
    keys.expect(&input::typing())?;
    client.stop()?;
    server.stop()?;
    Ok(())
}

const TARGET_KERNEL: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const SEAT_KERNEL: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);

/// The controlled machine: a video device, and a kernel that has none of the operator's devices.
pub(crate) fn target_kernel() -> anyhow::Result<()> {
    guest::wire_up(&format!("{TARGET_KERNEL}/24"))?;
    let mut arguments = vec!["--no-discovery", "--source", "v4l2:/dev/video0"];
    arguments.extend(["--fps", "15"]);
    guest::modprobe(
        "vivid",
        &[
            "n_devs=1",
            "node_types=0x1",
            "num_inputs=1",
            "input_types=0x3",
        ],
    )?;
    let server = Server::start(Host::Kernel, &arguments)?;
    std::fs::write(guest::shared()?.join("code"), server.code()?)?;
    guest::signal("serving")?;
    let keys = Reader::start(&input::twin(KEYBOARD)?)?;
    let motion = Reader::start(&input::twin(MOUSE)?)?;
    guest::signal("reading")?;
    guest::await_signal("typed", SOON)?;
    keys.expect(&input::typing())?;
    motion.expect(&input::motion())?;
    guest::signal("read")?;
    guest::await_signal("left", SOON)?;
    guest::wait_for("the virtual devices to go", SOON, || {
        (!input::has_twins()).then_some(())
    })?;
    server.stop()?;
    Ok(())
}

/// The operator's machine.
pub(crate) fn seat_kernel() -> anyhow::Result<()> {
    guest::wire_up(&format!("{SEAT_KERNEL}/24"))?;
    let (keyboard, mouse) = (Hardware::keyboard(KEYBOARD)?, Hardware::mouse(MOUSE)?);
    let address = format!("{TARGET_KERNEL}:{}", kvm::PORT);
    guest::await_signal("serving", SOON)?;
    let code = std::fs::read_to_string(guest::shared()?.join("code"))?;
    let seat = Seat::new(Host::Kernel)?;
    seat.pair(&address, &code)?;
    let screenshot = seat.file("picture.png");
    let mut client = seat.connect(
        &address,
        &[
            "--grab",
            "all",
            "--screenshot",
            &screenshot.to_string_lossy(),
        ],
    )?;
    await_grabs(&mut client, 2)?;
    guest::await_signal("reading", SOON)?;
    input::type_and_move(&keyboard, &mouse)?;
    guest::signal("typed")?;
    guest::await_signal("read", SOON)?;
    let shown = client.stop()?;
    guest::signal("left")?;
    Picture::read(&screenshot)?.check_bars()?;
    let decoded = kvm::number(&shown, "/frames/decoded")?;
    ensure!(decoded >= 5, "only {decoded} pictures decoded: {shown}");
    ensure!(kvm::number(&shown, "/dropped/decoder")? == 0, "{shown}");
    Ok(())
}

/// Waits until the client has taken this many devices since its start.
pub(crate) fn await_grabs(client: &mut Client, count: usize) -> anyhow::Result<()> {
    guest::wait_for(&format!("{count} grabbed devices"), SOON, || {
        let output = client.process.output();
        let taken = output
            .lines()
            .filter(|line| line.contains("taken device="))
            .count();
        (taken >= count || client.process.has_ended()).then_some(())
    })?;
    ensure!(
        !client.process.has_ended(),
        "the client ended:\n{}",
        client.process.output()
    );
    Ok(())
}
