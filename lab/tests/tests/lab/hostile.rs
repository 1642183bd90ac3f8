//! A hostile host on a cable of its own while the paired operator types.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use soft_kvm_lab_tests::guest::{self, Namespace};
use soft_kvm_testkit::attack::Attack;

use crate::input::{self, Event, Hardware, KEY_A, Reader};
use crate::keyboard::{SMALL, await_grabs};
use crate::kvm::{self, Host, PORT, SOON, Seat, Server, TARGET};

const KEYBOARD: &str = "Lab Keyboard";
/// The server's address on the stranger's cable.
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 3, 0, 1);
/// Addresses that the stranger attacks from.
const HOSTS: u8 = 20;
/// Strokes of each measurement, and the time between their events.
const STROKES: usize = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// Every attack at once, over a cable that delays and loses: each of the operator's keys arrives, in order, and nothing stays
/// down. The times are printed, not judged: attackers and server share this kernel's one processor.
pub(crate) fn flood() -> anyhow::Result<()> {
    let keyboard = Hardware::keyboard(KEYBOARD)?;
    let (target, near) = kvm::two_hosts()?;
    let stranger = Namespace::new("stranger")?;
    Namespace::cable((&target, "10.3.0.1/24"), (&stranger, "10.3.0.2/24"))?;
    let hosts: Vec<Ipv4Addr> = (0..HOSTS)
        .map(|host| Ipv4Addr::new(10, 3, 0, 100 + host))
        .collect();
    for host in &hosts {
        let mut add = stranger.command("ip");
        add.args(["address", "add", &format!("{host}/24"), "dev", "target"]);
        guest::run(&mut add)?;
    }
    stranger.disturb(&target, &["delay", "1ms", "500us", "loss", "1%"])?;
    let mut server = Server::start(Host::Namespace(&target), SMALL)?;
    let seat = Seat::new(Host::Namespace(&near))?;
    seat.pair(TARGET, server.code()?)?;
    let mut client = seat.connect(TARGET, &["--grab", "all"])?;
    await_grabs(&mut client, 1)?;
    let heard = Reader::start(&input::twin(KEYBOARD)?)?;
    let quiet = strokes(&keyboard, &heard)?;

    let (stop, place) = (AtomicBool::new(false), stranger.path());
    let server_address = SocketAddrV4::new(SERVER, PORT);
    let (attacked, made) = std::thread::scope(|scope| {
        let attacks = Attack::ALL.map(|attack| {
            let (stop, place, hosts) = (&stop, &place, &hosts);
            scope.spawn(move || -> anyhow::Result<u64> {
                // A namespace is a thread's.
                let file = std::fs::File::open(place)?;
                nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?;
                // Its processor time is its own on a network: here it takes what the others leave.
                let thread = nix::unistd::gettid().to_string();
                guest::run(Command::new("renice").args(["-n", "19", "-p", &thread]))?;
                Ok(attack.run_from(hosts, server_address, u64::MAX, stop))
            })
        });
        let attacked = guest::wait_for("the attack", SOON, || {
            let told = server.process.output();
            told.contains("connection closed").then_some(())
        })
        .and_then(|()| strokes(&keyboard, &heard));
        stop.store(true, Ordering::Relaxed);
        let made = attacks.map(|attack| attack.join().unwrap_or(Ok(0)));
        (attacked, made)
    });
    let attacked = attacked.with_context(|| server.process.output())?;
    let mut told = String::new();
    for (attack, made) in Attack::ALL.iter().zip(made) {
        let made = made?;
        ensure!(made > 0, "no {}", attack.as_str());
        told.push_str(&format!(" {made} {}", attack.as_str()));
    }
    guest::tell(format!(
        "hostile: a key takes {} µs at p50 and {} at p99 on a quiet link, {} and {} under attack ({} strokes each;{told})",
        quiet[STROKES / 2],
        quiet[STROKES * 99 / 100],
        attacked[STROKES / 2],
        attacked[STROKES * 99 / 100],
        STROKES
    ));
    ensure!(!server.process.has_ended(), "{}", server.process.output());
    let shown = client.stop()?;
    let connections = kvm::number(&shown, "/connect_ms/count")?;
    ensure!(connections == 1, "{connections} connections: {shown}");
    ensure!(
        !server.process.output().contains("panicked"),
        "{}",
        server.process.output()
    );
    server.stop().map(drop)
}

/// Presses and lets go keys in turn; gives the times of the presses until they were read on the target, sorted, in µs.
fn strokes(keyboard: &Hardware, heard: &Reader) -> anyhow::Result<Vec<u128>> {
    let before = heard.events().len();
    let mut pressed = Vec::new();
    let mut wanted = Vec::new();
    for stroke in 0..STROKES {
        let code = KEY_A + u16::try_from(stroke % 8)?;
        for down in [true, false] {
            if down {
                pressed.push(Instant::now());
            }
            keyboard.report(&[Event::key(code, down)])?;
            wanted.push((code, down));
            std::thread::sleep(PAUSE);
        }
    }
    let keys = || -> Vec<(Instant, (u16, bool))> {
        let events = heard.stamped();
        let new = events.into_iter().skip(before);
        new.filter_map(|(at, event)| Some((at, event.as_key()?)))
            .collect()
    };
    let waited = guest::wait_for("all keys on the target", SOON, || {
        (keys().len() >= wanted.len()).then_some(())
    });
    let got = keys();
    let codes: Vec<_> = got.iter().map(|(_, key)| *key).collect();
    ensure!(codes == wanted, "{codes:?} came, not {wanted:?}");
    waited?;
    let presses = got.iter().filter(|(_, (_, down))| *down);
    let mut times: Vec<u128> = presses
        .zip(pressed)
        .map(|((at, _), pressed)| at.saturating_duration_since(pressed).as_micros())
        .collect();
    times.sort_unstable();
    Ok(times)
}
