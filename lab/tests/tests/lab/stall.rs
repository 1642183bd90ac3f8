//! What was typed while the network stood still reaches programs that read as desktops do, not with real-time priority.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use soft_kvm_lab_tests::guest;

use crate::input::{self, Event, Hardware, REL_X, Reader};
use crate::keyboard::{SMALL, await_grabs};
use crate::kvm::{self, Host, SOON, Seat, Server, TARGET};

const KEYBOARD: &str = "Lab Keyboard";
const MOUSE: &str = "Lab Mouse";
const STRAIGHT: &str = "Straight Keyboard";
/// Between two reports of the operator's hands.
const STEP: Duration = Duration::from_micros(1_500);
const ROUNDS: usize = 2;
const MOST_ROUNDS: usize = 8;
/// A client gives up what waits for 2 s.
const LONGEST: Duration = Duration::from_millis(1_500);

/// 350 events are typed in a stall: a reader of ordinary priority gets every one, in order, in two of eight rounds at least. Beside
/// it: the same written at once, by a thread of the server's priority, of which such a reader loses most.
pub(crate) fn backlog() -> anyhow::Result<()> {
    let (keyboard, mouse) = (Hardware::keyboard(KEYBOARD)?, Hardware::mouse(MOUSE)?);
    let (target, near) = kvm::two_hosts()?;
    let server = Server::start(Host::Namespace(&target), SMALL)?;
    let seat = Seat::new(Host::Namespace(&near))?;
    seat.pair(TARGET, server.code()?)?;
    let mut client = seat.connect(TARGET, &["--grab", "all"])?;
    await_grabs(&mut client, 2)?;
    // The quickest way is known.
    let quick = Reader::ordinary(&input::twin(KEYBOARD)?)?;
    keyboard.tap(input::KEY_A)?;
    quick.expect(&[
        vec![Event::key(input::KEY_A, true)],
        vec![Event::key(input::KEY_A, false)],
    ])?;

    let typed = input::typing();
    let (mut judged, mut rounds) = (0, 0);
    while judged < ROUNDS {
        rounds += 1;
        ensure!(rounds <= MOST_ROUNDS, "the machine is too busy to type");
        let keys =
            Reader::ordinary(&input::twin(KEYBOARD)?).with_context(|| server.process.output())?;
        let motion = Reader::ordinary(&input::twin(MOUSE)?)?;
        let stalled = Instant::now();
        near.disturb(&target, &["loss", "100%"])?;
        let mut moved = 0;
        for (step, report) in typed.iter().enumerate() {
            keyboard.report(report)?;
            if step % 4 == 0 {
                mouse.report(&[Event::motion(REL_X, 3)])?;
                moved += 3;
            }
            std::thread::sleep(STEP);
        }
        near.disturb(&target, &[])?;
        let start = Instant::now();
        if start.duration_since(stalled) > LONGEST {
            // What is too old is not played, on purpose.
            guest::log("the stall became too long: once more");
            std::thread::sleep(Duration::from_secs(3));
            continue;
        }
        // The client gives up all of it, or nothing.
        let come = guest::wait_for("a key", Duration::from_secs(3), || {
            (!keys.events().is_empty()).then_some(())
        });
        if come.is_err() {
            guest::log("it became too old on its way: once more");
            continue;
        }
        // Every reader loses events that does not run for a tenth of a second: this kernel may not have run itself.
        let lost = || keys.events().iter().any(|event| event.is_loss());
        let made = count(&typed);
        let all = guest::wait_for("all keys", SOON, || {
            (lost() || keys.events().len() >= made).then_some(())
        });
        if all.is_ok() && lost() {
            guest::log("the reader was not run in time: once more");
            std::thread::sleep(Duration::from_secs(1));
            continue;
        }
        keys.expect(&typed)
            .with_context(|| format!("round {rounds}"))?;
        guest::wait_for("the mouse's way", SOON, || {
            (path_of(&motion) >= moved).then_some(())
        })?;
        ensure!(path_of(&motion) == moved, "the mouse went another way");
        let stamped = keys.stamped();
        if let (Some((first, _)), Some((last, _))) = (stamped.first(), stamped.last()) {
            guest::log(format!(
                "paced: {} events within {:?}, {:?} after the stall; 0 lost",
                stamped.len(),
                last.duration_since(*first),
                last.duration_since(start),
            ));
        }
        judged += 1;
    }
    client.stop()?;
    server.stop()?;

    let straight = Hardware::keyboard(STRAIGHT)?;
    let (got, made) = at_once(straight, &typed)?;
    guest::log(format!("at once: {} of {made} events lost", made - got));
    // Else this reader could not have lost anything before.
    ensure!(got < made, "the kernel's queue did not overrun");
    Ok(())
}

/// Writes all reports without a pause and with real-time priority; how many events an ordinary reader got, and of how many.
fn at_once(device: Hardware, reports: &[Vec<Event>]) -> anyhow::Result<(usize, usize)> {
    let node = device.node().to_owned();
    let reader = Reader::ordinary(Path::new(&node))?;
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            input::ahead_of_all();
            reports.iter().try_for_each(|report| device.report(report))
        });
        let written = writer.join();
        written.map_err(|_| anyhow::anyhow!("the writer panicked"))?
    })?;
    drop(device);
    guest::wait_for("the reader's end", SOON, || reader.is_gone().then_some(()))?;
    let got = reader.events();
    let read = got.iter().filter(|event| !event.is_loss()).count();
    Ok((read, count(reports)))
}

/// Events, each report with its end.
fn count(reports: &[Vec<Event>]) -> usize {
    reports.iter().map(|report| report.len() + 1).sum()
}

fn path_of(reader: &Reader) -> i32 {
    let events = reader.events();
    let steps = events.iter().filter_map(|event| event.as_motion());
    steps.map(|(_, step)| step).sum()
}
