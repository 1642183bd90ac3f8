//! Sessions of a real systemd-logind: the devices are taken only while the operator's session is the one that is shown.
//!
//! The seat is one without virtual terminals, which the lab's kernel does not have: logind itself changes its sessions.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use soft_kvm_lab_tests::guest;

use crate::input::{self, Event, Hardware, KEY_A, Reader};
use crate::keyboard::{SMALL, await_grabs};
use crate::kvm::{self, Host, SOON, Seat, Server, TARGET};
use crate::system::{property, systemctl};

const KEYBOARD: &str = "Lab Keyboard";
/// A key that only the end of the test uses.
const KEY_Z: u16 = 44;
const SEAT: &str = "seat1";
/// A screen makes the seat.
const RULE: &str = r#"SUBSYSTEM=="drm", KERNEL=="card*", TAG+="seat", TAG+="master-of-seat", ENV{ID_SEAT}="seat1"
"#;
/// Anybody may log in.
const PAM: &str = "auth required pam_permit.so
account required pam_permit.so
session required pam_systemd.so
";

/// Starts logind with the seat.
fn make_seat() -> anyhow::Result<()> {
    fs::create_dir_all("/etc/udev/rules.d")?;
    fs::write("/etc/udev/rules.d/72-lab-seat.rules", RULE)?;
    fs::write("/etc/pam.d/lab", PAM)?;
    guest::run(Command::new("udevadm").args(["control", "--reload"]))?;
    guest::modprobe("vkms", &[])?;
    guest::run(Command::new("udevadm").arg("settle"))?;
    systemctl("start systemd-logind").map(drop)
}

/// Somebody logs in at the seat, which brings the new session to the front; gives its number.
fn log_in(who: &str) -> anyhow::Result<String> {
    guest::run(
        Command::new("systemd-run")
            .arg(format!("--unit={who}"))
            .args(["--property=PAMName=lab", "--property=User=root"])
            .arg(format!("--property=Environment=XDG_SEAT={SEAT}"))
            .args(["--property=Environment=XDG_SESSION_TYPE=wayland"])
            .args(["sleep", "infinity"]),
    )?;
    let leader = property(&format!("{who}.service"), "MainPID")?;
    guest::wait_for("the session", SOON, || {
        let told = guest::run(Command::new("loginctl").args(["list-sessions", "--no-legend"]));
        told.ok()?
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .find(|session| {
                let leads = show(session, "Leader").is_ok_and(|found| found == leader);
                leads && show(session, "Active").is_ok_and(|active| active == "yes")
            })
            .map(str::to_owned)
    })
}

/// A property of a session.
fn show(session: &str, name: &str) -> anyhow::Result<String> {
    let mut command = Command::new("loginctl");
    command.args(["show-session", "--value", "--property", name, session]);
    Ok(guest::run(&mut command)?.trim().to_owned())
}

fn activate(session: &str) -> anyhow::Result<()> {
    guest::run(Command::new("loginctl").args(["activate", session])).map(drop)
}

/// Another's session comes to the front while a key is down: the key goes up on the target, and the keyboard is that
/// other's. The first comes back: so does the keyboard. It ends: the keyboard is free.
pub(crate) fn only_while_shown() -> anyhow::Result<()> {
    make_seat()?;
    let own = log_in("operator")?;
    let keyboard = Hardware::keyboard(KEYBOARD)?;
    let local = Reader::start(keyboard.node())?;
    let (target, seat) = kvm::two_hosts()?;
    let server = Server::start(Host::Namespace(&target), SMALL)?;
    let seat = Seat::new(Host::Namespace(&seat))?;
    seat.pair(TARGET, server.code()?)?;
    let session = [("XDG_SESSION_ID", own.as_str())];
    let mut client = seat.connect_as(TARGET, &["--grab", "all"], &session)?;
    await_grabs(&mut client, 1)?;
    let keys = Reader::start(&input::twin(KEYBOARD)?)?;
    keyboard.report(&[Event::key(KEY_A, true)])?;
    keys.expect_without_repeats(&[vec![Event::key(KEY_A, true)]])?;
    ensure!(
        local.events().is_empty(),
        "the local system hears the keyboard"
    );

    let other = log_in("another")?;
    ensure!(show(&own, "Active")? == "no", "both sessions are shown");
    guest::wait_for("the key to go up on the target", SOON, || {
        input::down(&keys.events()).is_empty().then_some(())
    })?;
    let before = keys.events().len();
    keyboard.report(&[Event::key(KEY_A, false)])?;
    heard(&local, &keyboard).context("another session is shown")?;

    activate(&own)?;
    await_grabs(&mut client, 2)?;
    let local_before = local.events().len();
    keyboard.tap(KEY_Z)?;
    guest::wait_for("the keyboard on the target again", SOON, || {
        let events = keys.events();
        let events = events.get(before..)?.iter();
        // What was typed in the other session is not among it.
        let strokes: Vec<_> = events.filter_map(|event| event.as_key()).collect();
        (strokes == [(KEY_Z, true), (KEY_Z, false)]).then_some(())
    })
    .with_context(|| format!("the target heard {:?}", keys.events()))?;
    ensure!(
        local.events().len() == local_before,
        "the local system hears it too"
    );

    // The operator logs out.
    systemctl("stop operator")?;
    activate(&other)?;
    heard(&local, &keyboard).context("the operator has logged out")?;
    client.stop()?;
    server.stop()?;
    Ok(())
}

/// Types until the local system hears it.
fn heard(local: &Reader, keyboard: &Hardware) -> anyhow::Result<()> {
    let before = local.events().len();
    guest::wait_for("the local system to hear the keyboard", SOON, || {
        keyboard.tap(KEY_A).ok()?;
        std::thread::sleep(Duration::from_millis(100));
        let events = local.events();
        events
            .get(before..)?
            .contains(&Event::key(KEY_A, true))
            .then_some(())
    })
}
