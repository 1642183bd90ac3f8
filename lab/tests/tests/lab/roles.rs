//! What a client may do, as far as the target's kernel: its keys are there or they are not.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use soft_kvm_lab_tests::guest::{self, Namespace};

use crate::input::{self, Event, Hardware, KEY_A, Reader};
use crate::keyboard::{SMALL, await_grabs};
use crate::kvm::{self, Host, SOON, Seat, Server, TARGET};

const ADMIN: &str = "Lab Keyboard Admin";
const OTHER: &str = "Lab Keyboard Other";
const DESK: &str = "10.3.0.1:7755";

/// One that may control types in the target's kernel. Told to watch only, it types no more, while an admin does. Revoked
/// with a key down, it is cut: the key goes up, its devices go, and it does not come in again.
pub(crate) fn reach_the_kernel() -> anyhow::Result<()> {
    let (own, other) = (Hardware::keyboard(ADMIN)?, Hardware::keyboard(OTHER)?);
    let (target, near) = kvm::two_hosts()?;
    let host = Host::Namespace(&target);
    let far = Namespace::new("desk")?;
    Namespace::cable((&target, "10.3.0.1/24"), (&far, "10.3.0.2/24"))?;
    let server = Server::start(host, SMALL)?;
    let seat = Seat::new(Host::Namespace(&near))?;
    seat.pair(TARGET, server.code()?)?;
    let desk = Seat::named("desk", Host::Namespace(&far))?;
    desk.pair(DESK, &server.new_code(host)?)?;
    // Both have this machine's name: the key says which is meant.
    let listed: Value = serde_json::from_str(&server.clients(host, &["list", "--json"])?)?;
    let clients = listed.as_array().context("no list of clients")?;
    let found = clients.iter().find(|client| client["role"] == "control");
    let key = found.and_then(|client| client["fingerprint"].as_str());
    let key = key.with_context(|| format!("nobody may control: {listed}"))?;

    let mut controls = desk.connect(DESK, &["--grab", OTHER])?;
    await_grabs(&mut controls, 1)?;
    let heard = Reader::start(&input::twin(OTHER)?)?;
    other.tap(KEY_A)?;
    heard.expect(&tap())?;

    server.clients(host, &["role", key, "view"])?;
    controls.process.wait_line("only watch", SOON)?;
    guest::wait_for("its virtual keyboard to go", SOON, || {
        input::twins(OTHER).is_empty().then_some(())
    })?;
    other.tap(KEY_A)?;
    let mut admin = seat.connect(TARGET, &["--grab", ADMIN])?;
    await_grabs(&mut admin, 1)?;
    let heard_admin = Reader::start(&input::twin(ADMIN)?)?;
    own.tap(KEY_A)?;
    other.tap(KEY_A)?;
    heard_admin.expect(&tap())?;
    ensure!(
        input::twins(OTHER).is_empty(),
        "who may only watch has a keyboard in the target's kernel"
    );
    heard.expect(&tap())?;
    admin.stop()?;
    controls.process.kill()?;

    server.clients(host, &["role", key, "control"])?;
    let mut controls = desk.connect(DESK, &["--grab", OTHER])?;
    await_grabs(&mut controls, 1)?;
    let heard = Reader::start(&input::twin(OTHER)?)?;
    // The other one had the turn a moment ago.
    guest::wait_for("a key of who may control again", SOON, || {
        other.tap(KEY_A).ok()?;
        std::thread::sleep(Duration::from_millis(50));
        heard
            .events()
            .contains(&Event::key(KEY_A, false))
            .then_some(())
    })?;
    other.report(&[Event::key(KEY_A, true)])?;
    guest::wait_for("the held key", SOON, || {
        input::twin_keys()
            .any(|(_, keys)| keys == [KEY_A])
            .then_some(())
    })?;
    let start = Instant::now();
    server.clients(host, &["revoke", key])?;
    guest::wait_for("the revoked one's devices to go", SOON, || {
        (!input::has_twins()).then_some(())
    })?;
    guest::tell(format!(
        "roles: revoked, cut and unplugged within {} ms, with the command's own time",
        start.elapsed().as_millis()
    ));
    ensure!(
        input::down(&heard.events()).is_empty() || heard.is_gone(),
        "the revoked one's key stays down: {:?}",
        heard.events()
    );
    controls.process.wait_line("no longer paired", SOON)?;
    controls.process.kill()?;
    let refused = desk.run(&["clients", "--server", DESK, "list"]);
    ensure!(refused.is_err(), "a revoked client is let in: {refused:?}");
    server.stop().map(drop)
}

fn tap() -> [Vec<Event>; 2] {
    [true, false].map(|down| vec![Event::key(KEY_A, down)])
}
