//! Two clients with a keyboard each on one server.

use std::time::Duration;

use anyhow::ensure;
use soft_kvm_lab_tests::guest::{self, Namespace};

use crate::input::{self, Event, Hardware, KEY_A, Reader};
use crate::keyboard::{SMALL, await_grabs};
use crate::kvm::{self, Host, SOON, Seat, Server, TARGET};

const ONE: &str = "Lab Keyboard One";
const OTHER: &str = "Lab Keyboard Other";
/// A client that has been still for a second gives way.
const STILL: Duration = Duration::from_millis(1_200);
const KEY_B: u16 = 48;

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
