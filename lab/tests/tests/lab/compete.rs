//! Two clients with a keyboard each on one server.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use soft_kvm_lab_tests::guest::{self, Namespace};

use crate::input::{self, Event, Hardware, KEY_A, Reader};
use crate::keyboard::{SMALL, await_grabs};
use crate::kvm::{self, Host, SOON, Seat, Server, TARGET};

const ONE: &str = "Lab Keyboard One";
const OTHER: &str = "Lab Keyboard Other";
/// A client that has been still for a second gives way.
const STILL: Duration = Duration::from_millis(1_200);
const KEY_B: u16 = 48;
const KEY_C: u16 = 46;
/// Keyboard and mouse go over only when they are asked for.
const ASK: &str = "(import 'default.jsonnet') + { control+: { handover: 'ask' } }";

/// Who is at it has the turn; the other's keys do not get in between, the other is told so, and nothing stays down, also
/// when the one with the turn is killed.
pub(crate) fn two_clients() -> anyhow::Result<()> {
    let (one, other) = (Hardware::keyboard(ONE)?, Hardware::keyboard(OTHER)?);
    let (target, seat) = kvm::two_hosts()?;
    let desk = Namespace::new("desk")?;
    Namespace::cable((&target, "10.3.0.1/24"), (&desk, "10.3.0.2/24"))?;
    let server = Server::start(Host::Namespace(&target), SMALL)?;
    let seat = Seat::new(Host::Namespace(&seat))?;
    seat.pair(TARGET, server.code()?)?;
    let desk = Seat::named("desk", Host::Namespace(&desk))?;
    let address = "10.3.0.1:7755";
    desk.pair(address, &server.new_code(Host::Namespace(&target))?)?;
    let mut first = seat.connect(TARGET, &["--grab", ONE])?;
    await_grabs(&mut first, 1)?;
    let heard_one = Reader::start(&input::twin(ONE)?)?;
    let mut second = desk.connect(address, &["--grab", OTHER])?;
    await_grabs(&mut second, 1)?;
    let heard_other = Reader::start(&input::twin(OTHER)?)?;

    one.report(&[Event::key(KEY_A, true)])?;
    heard_one.expect_without_repeats(&[vec![Event::key(KEY_A, true)]])?;
    std::thread::sleep(STILL);
    other.tap(KEY_B)?;
    second.process.wait_line("in-use", SOON)?;
    other.report(&[Event::key(KEY_B, true)])?;
    one.report(&[Event::key(KEY_A, false)])?;
    std::thread::sleep(STILL);
    ensure!(heard_other.events().is_empty(), "typed in between");
    // This one went down while it was not its turn.
    other.report(&[Event::key(KEY_B, false)])?;
    other.report(&[Event::key(KEY_B, true)])?;
    heard_other.expect_without_repeats(&[vec![Event::key(KEY_B, true)]])?;
    one.tap(KEY_A)?;
    first.process.wait_line("in-use", SOON)?;
    second.process.kill()?;
    guest::wait_for("the killed client's key to go up", SOON, || {
        input::twin_keys()
            .all(|(_, keys)| keys.is_empty())
            .then_some(())
    })?;
    guest::wait_for("the first client's turn", SOON, || {
        one.tap(KEY_A).ok()?;
        std::thread::sleep(Duration::from_millis(20));
        let heard = heard_one.events();
        let presses = heard
            .iter()
            .filter(|event| **event == Event::key(KEY_A, true));
        (presses.count() > 1).then_some(())
    })?;
    first.stop()?;
    server.stop().map(drop)
}

/// Asked for and granted, and taken by the admin: what was held by the one is up on the target before a key of the other is
/// heard, however much both type meanwhile.
pub(crate) fn handed_over() -> anyhow::Result<()> {
    let (one, other) = (Hardware::keyboard(ONE)?, Hardware::keyboard(OTHER)?);
    let (target, seat) = kvm::two_hosts()?;
    let desk = Namespace::new("desk")?;
    Namespace::cable((&target, "10.3.0.1/24"), (&desk, "10.3.0.2/24"))?;
    let story = guest::folder("story")?.join("ask.jsonnet");
    std::fs::write(&story, ASK)?;
    let story = story.to_string_lossy();
    let server = Server::start(
        Host::Namespace(&target),
        &[SMALL, &["--story", &story]].concat(),
    )?;
    let seat = Seat::new(Host::Namespace(&seat))?;
    seat.pair(TARGET, server.code()?)?;
    let desk = Seat::named("desk", Host::Namespace(&desk))?;
    let address = "10.3.0.1:7755";
    desk.pair(address, &server.new_code(Host::Namespace(&target))?)?;
    let mut first = seat.connect(TARGET, &["--grab", ONE])?;
    await_grabs(&mut first, 1)?;
    let heard_one = Reader::start(&input::twin(ONE)?)?;
    let mut second = desk.connect(address, &["--grab", OTHER])?;
    await_grabs(&mut second, 1)?;
    let heard_other = Reader::start(&input::twin(OTHER)?)?;

    // A free place is for who types first, and stays theirs, however long they are still.
    one.report(&[Event::key(KEY_A, true)])?;
    heard_one.expect_without_repeats(&[vec![Event::key(KEY_A, true)]])?;
    std::thread::sleep(STILL);
    other.tap(KEY_B)?;
    second.process.wait_line("in-use", SOON)?;
    let mut asking = desk.start("asking", &["control", "--server", address, "request"])?;
    asking.wait_line("asked", SOON)?;
    ensure!(heard_other.events().is_empty(), "typed without a grant");
    let pressed = Event::key(KEY_B, true);
    while_typing(&other, KEY_B, || {
        seat.run(&["control", "--server", TARGET, "grant"])?;
        asking.succeed(SOON)?;
        hears(&heard_other, pressed)
    })?;
    up_before(&heard_one, KEY_A, &heard_other, pressed)?;
    let before = heard_one.events().len();
    one.report(&[Event::key(KEY_A, false)])?;
    one.tap(KEY_C)?;
    first.process.wait_line("in-use", SOON)?;
    ensure!(heard_one.events().len() == before, "typed after the grant");

    other.report(&[Event::key(KEY_B, true)])?;
    guest::wait_for("the held key", SOON, || {
        (input::down(&heard_other.events()) == [KEY_B]).then_some(())
    })?;
    let pressed = Event::key(KEY_C, true);
    while_typing(&one, KEY_C, || {
        seat.run(&["control", "--server", TARGET, "take"])?;
        hears(&heard_one, pressed)
    })?;
    up_before(&heard_other, KEY_B, &heard_one, pressed)?;
    other.report(&[Event::key(KEY_B, false)])?;
    guest::wait_for("all keys to be up", SOON, || {
        input::twin_keys()
            .all(|(_, keys)| keys.is_empty())
            .then_some(())
    })?;
    second.stop()?;
    first.stop()?;
    server.stop().map(drop)
}

/// Taps a key all the time that the work takes.
fn while_typing(
    keyboard: &Hardware,
    key: u16,
    work: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let typing = scope.spawn(|| {
            while !ends.load(Ordering::Acquire) {
                keyboard.tap(key)?;
                std::thread::sleep(Duration::from_millis(10));
            }
            anyhow::Ok(())
        });
        let done = work();
        ends.store(true, Ordering::Release);
        let typed = typing.join();
        done?;
        typed.map_err(|_| anyhow::anyhow!("the typing thread panicked"))?
    })
}

fn hears(reader: &Reader, event: Event) -> anyhow::Result<()> {
    guest::wait_for("a key of the next one", SOON, || {
        (!reader.made(event).is_empty()).then_some(())
    })
}

/// Every key of the one device was let go, the last one no later than the first of the other went down, by the kernel's clock.
fn up_before(old: &Reader, key: u16, new: &Reader, pressed: Event) -> anyhow::Result<()> {
    let up = old.made(Event::key(key, false));
    let up = *up.last().context("the held key did not go up")?;
    let down = new.made(pressed);
    let down = *down.first().context("nothing was pressed")?;
    ensure!(up <= down, "{up:?} is after {down:?}");
    let held = input::down(&old.events());
    ensure!(held.is_empty(), "{held:?} stay down");
    Ok(())
}
