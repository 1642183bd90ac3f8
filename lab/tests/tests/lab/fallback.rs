//! Input where UDP does not get through: over the control channel, and back.

use std::time::{Duration, Instant};

use anyhow::ensure;
use soft_kvm_lab_tests::guest::{self, Protocol};

use crate::input::{self, Event, Hardware, KEY_A, Reader};
use crate::keyboard::await_grabs;
use crate::kvm::{self, Client, Host, SOON, Seat, Server, TARGET};

const KEYBOARD: &str = "Lab Keyboard";
const MOUSE: &str = "Lab Mouse";
const SERVER: &[&str] = &[
    "--no-discovery",
    "--source",
    "testcard",
    "--size",
    "320x240",
    "--fps",
    "1",
];

/// Both sides end a session after 5 s of silence at most.
const OUTAGE: Duration = Duration::from_secs(6);

/// UDP is dropped from the start, comes through, and dies again with a key down: no event is lost, doubled or reordered,
/// the held key stays down, and the client says what it does.
pub(crate) fn over_the_control_channel() -> anyhow::Result<()> {
    let (keyboard, mouse) = (Hardware::keyboard(KEYBOARD)?, Hardware::mouse(MOUSE)?);
    let (target, near) = kvm::two_hosts()?;
    let block = |block| {
        target.block(&near, Protocol::Udp, block)?;
        near.block(&target, Protocol::Udp, block)
    };
    block(true)?;
    let server = Server::start(Host::Namespace(&target), SERVER)?;
    let seat = Seat::new(Host::Namespace(&near))?;
    seat.pair(TARGET, server.code()?)?;
    let mut client = seat.connect(TARGET, &["--grab", "all"])?;
    await_grabs(&mut client, 2)?;
    let keys = Reader::start(&input::twin(KEYBOARD)?)?;
    let motion = Reader::start(&input::twin(MOUSE)?)?;

    // Before the client has given UDP up, and after.
    let mut typed = input::typing();
    let mut moved = input::motion();
    input::type_and_move(&keyboard, &mouse)?;
    await_lines(&mut client, "UDP does not get through", 1)?;
    typed.extend(input::typing());
    moved.extend(input::motion());
    input::type_and_move(&keyboard, &mouse)?;
    keys.expect(&typed)?;
    motion.expect(&moved)?;

    block(false)?;
    await_lines(&mut client, "UDP gets through again", 1)?;
    typed.extend(input::typing());
    moved.extend(input::motion());
    input::type_and_move(&keyboard, &mouse)?;
    keys.expect(&typed)?;
    motion.expect(&moved)?;

    typed.push(vec![Event::key(KEY_A, true)]);
    keyboard.report(&[Event::key(KEY_A, true)])?;
    keys.expect_without_repeats(&typed)?;
    block(true)?;
    await_lines(&mut client, "UDP does not get through", 2)?;
    std::thread::sleep(Duration::from_millis(500));
    keys.expect_without_repeats(&typed)?;
    typed.push(vec![Event::key(KEY_A, false)]);
    keyboard.report(&[Event::key(KEY_A, false)])?;
    keys.expect_without_repeats(&typed)?;

    let shown = client.stop()?;
    let path = shown.pointer("/input_path/path");
    ensure!(
        path.is_some_and(|path| path == "websocket"),
        "the way is {path:?}: {shown}"
    );
    ensure!(
        kvm::number(&shown, "/input_path/fallbacks")? == 2,
        "{shown}"
    );
    server.stop().map(drop)
}

/// TCP is dropped for longer than the silence that ends a session, UDP is not: the session and its devices stay, no key is lost.
pub(crate) fn without_the_control_channel() -> anyhow::Result<()> {
    let keyboard = Hardware::keyboard(KEYBOARD)?;
    let (target, near) = kvm::two_hosts()?;
    let server = Server::start(Host::Namespace(&target), SERVER)?;
    let seat = Seat::new(Host::Namespace(&near))?;
    seat.pair(TARGET, server.code()?)?;
    let mut client = seat.connect(TARGET, &["--grab", "all"])?;
    await_grabs(&mut client, 1)?;
    let keys = Reader::start(&input::twin(KEYBOARD)?)?;
    near.block(&target, Protocol::Tcp, true)?;
    target.block(&near, Protocol::Tcp, true)?;
    let mut typed = Vec::new();
    let start = Instant::now();
    while start.elapsed() < OUTAGE {
        typed.extend(input::typing());
        type_slowly(&keyboard)?;
    }
    target.block(&near, Protocol::Tcp, false)?;
    near.block(&target, Protocol::Tcp, false)?;
    // Until TCP has tried again.
    std::thread::sleep(Duration::from_secs(1));
    typed.extend(input::typing());
    type_slowly(&keyboard)?;
    keys.expect(&typed)?;
    client.stop()?;
    server.stop().map(drop)
}

fn type_slowly(keyboard: &Hardware) -> anyhow::Result<()> {
    for report in input::typing() {
        keyboard.report(&report)?;
        std::thread::sleep(Duration::from_millis(8));
    }
    Ok(())
}

fn await_lines(client: &mut Client, text: &str, count: usize) -> anyhow::Result<()> {
    let waited = guest::wait_for(&format!("{count} times: {text}"), SOON, || {
        let output = client.process.output();
        let told = output
            .lines()
            .filter(|line| line.starts_with("soft-kvm-client:") && line.contains(text));
        (told.count() >= count).then_some(())
    });
    waited.map_err(|error| error.context(client.process.output()))
}
