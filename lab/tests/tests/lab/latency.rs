//! From the operator's device to the target's, through both kernels: nothing lost, order kept, nothing stuck, on a quiet
//! wire and on one that loses and delays. The times are printed, not judged.
//!
//! `SOFT_KVM_LAB_EVENTS` says how many milliseconds of 1000 Hz motion there are (2000); the benchmark takes 20000.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use soft_kvm_lab_tests::guest;

use crate::input::{self, BTN_LEFT, Event, Hardware, KEY_A, REL_X};
use crate::kvm::{self, Client, Host, SOON, Seat, Server, TARGET};
use crate::probe::{self, Prober, Wire};

const KEYBOARD: &str = "Lab Keyboard";
const MOUSE: &str = "Lab Mouse";
const TARGET_KERNEL: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const SEAT_KERNEL: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// A picture that costs nothing: input is what is measured.
const STILL: &[&str] = &[
    "--no-discovery",
    "--source",
    "testcard",
    "--size",
    "320x240",
    "--fps",
    "1",
    "--content",
    "static",
];
/// What the wire does to each direction, for `tc … netem`.
const PHASES: &[(&str, &[&str])] = &[
    ("quiet wire", &[]),
    (
        "2 % loss, 1±0.5 ms each way",
        &["loss", "2%", "delay", "1ms", "500us"],
    ),
];
/// A key goes down or up each so many milliseconds, a button each so many.
const KEY_EVERY: u32 = 25;
const BUTTON_EVERY: u32 = 100;

/// One event and when it was written or read, in nanoseconds of its machine's clock.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Stamped {
    at: u64,
    motion: bool,
    code: u16,
    value: i32,
}

/// Asks for more, and for figures as JSON.
const EVENTS: &str = "SOFT_KVM_LAB_EVENTS";

/// How many milliseconds are played.
fn events() -> u32 {
    std::env::var(EVENTS)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(2_000)
}

/// Moves the mouse a thousand times in a second and types meanwhile.
fn play(
    epoch: Instant,
    keyboard: &Hardware,
    mouse: &Hardware,
) -> anyhow::Result<(Vec<Stamped>, Vec<Stamped>)> {
    let (mut keys, mut moves) = (Vec::new(), Vec::new());
    let start = Instant::now();
    let write = |device: &Hardware, log: &mut Vec<Stamped>, motion, code, value| {
        let event = if motion {
            Event::motion(code, value)
        } else {
            Event::key(code, value == 1)
        };
        log.push(Stamped {
            at: probe::nanos(epoch),
            motion,
            code,
            value,
        });
        device.report(&[event])
    };
    for step in 1..=events() {
        let due = start + Duration::from_millis(u64::from(step));
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        write(mouse, &mut moves, true, REL_X, 1)?;
        if step % KEY_EVERY == 0 {
            let stroke = step / KEY_EVERY;
            let code = KEY_A + u16::try_from((stroke - 1) / 2 % 8)?;
            write(keyboard, &mut keys, false, code, i32::from(stroke % 2 == 1))?;
        }
        if step % BUTTON_EVERY == 0 {
            let down = step / BUTTON_EVERY % 2 == 1;
            write(mouse, &mut moves, false, BTN_LEFT, i32::from(down))?;
        }
    }
    for (device, log, code) in [(keyboard, &mut keys, KEY_A), (mouse, &mut moves, BTN_LEFT)] {
        // What is down at the end goes up.
        if let Some(last) = log.iter().rev().find(|event| !event.motion).copied()
            && last.value == 1
        {
            let code = if code == BTN_LEFT { code } else { last.code };
            write(device, log, false, code, 0)?;
        }
    }
    Ok((keys, moves))
}

/// What the target's device said, without the ends of reports.
fn seen(read: &[(Instant, Event)], epoch: Instant) -> Vec<Stamped> {
    read.iter()
        .filter_map(|(at, event)| {
            let (motion, code, value) = match (event.as_key(), event.as_motion()) {
                (Some((code, down)), _) => (false, code, i32::from(down)),
                (None, Some((code, value))) => (true, code, value),
                _ => return None,
            };
            let at = at.saturating_duration_since(epoch).as_nanos();
            Some(Stamped {
                at: u64::try_from(at).unwrap_or(u64::MAX),
                motion,
                code,
                value,
            })
        })
        .collect()
}

/// Checks that everything came once and in order, and gives the times in milliseconds: motion, then keys and buttons.
///
/// A sender that is behind adds motion up; it never moves it across a button. So a step of the mouse has come when
/// the sum of what was read reaches it.
fn compare(sent: &[Stamped], seen: &[Stamped], ahead: i64) -> anyhow::Result<[Vec<f64>; 2]> {
    let (mut motion, mut keys) = (Vec::new(), Vec::new());
    let mut sent = sent.iter();
    let millis = |from: u64, to: u64| {
        #[expect(clippy::cast_precision_loss, reason = "times of a test are short")]
        let nanos = (to.cast_signed() - ahead - from.cast_signed()) as f64;
        nanos / 1e6
    };
    for event in seen {
        let steps = if event.motion { event.value } else { 1 };
        ensure!(steps > 0, "motion backwards: {event:?}");
        for _ in 0..steps {
            let made = sent.next().context("more came than was made")?;
            ensure!(
                made.motion == event.motion && made.code == event.code,
                "{event:?} came in place of {made:?}"
            );
            ensure!(
                made.motion || made.value == event.value,
                "{made:?}: {event:?}"
            );
            let times = if made.motion { &mut motion } else { &mut keys };
            times.push(millis(made.at, event.at));
        }
    }
    ensure!(sent.len() == 0, "{} events were lost", sent.len());
    Ok([motion, keys])
}

/// A summary as the benchmark reads it.
fn summary(times: &mut [f64]) -> Value {
    times.sort_by(f64::total_cmp);
    let at = |permille: usize| {
        let last = times.len().saturating_sub(1);
        times
            .get((times.len() * permille / 1_000).min(last))
            .copied()
    };
    json!({
        "count": times.len(),
        "p50": at(500).unwrap_or(0.0),
        "p95": at(950).unwrap_or(0.0),
        "p99": at(990).unwrap_or(0.0),
        "p999": at(999).unwrap_or(0.0),
        "max": times.last().copied().unwrap_or(0.0),
    })
}

fn line(name: &str, summary: &Value) {
    let number = |key: &str| summary.get(key).and_then(Value::as_f64).unwrap_or(0.0);
    guest::tell(format!(
        "  {name:<34} {:>6} {:>8.3} {:>8.3} {:>8.3} {:>8.3}",
        number("count"),
        number("p50"),
        number("p99"),
        number("p999"),
        number("max")
    ));
}

/// CPU time of a process so far, over all its threads, in steps of 10 ms.
fn cpu(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // proc_pid_stat(5): utime and stime, 14 and 15, the name in brackets being 2.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let ticks = fields.split(' ').skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(10 * ticks)
}

/// The target's side of a phase.
struct Watching<'a> {
    server: &'a Server,
    readers: [input::Reader; 2],
    cpu: Duration,
    since: Instant,
}

/// What it saw.
#[derive(Debug, Serialize, Deserialize)]
struct Seen {
    keys: Vec<Stamped>,
    moves: Vec<Stamped>,
    /// In percent of a core.
    server_cpu: f64,
}

impl<'a> Watching<'a> {
    fn start(server: &'a Server) -> anyhow::Result<Self> {
        let reader = |name| input::Reader::start(&input::twin(name)?);
        Ok(Self {
            readers: [reader(KEYBOARD)?, reader(MOUSE)?],
            cpu: cpu(server.process.id()),
            since: Instant::now(),
            server,
        })
    }

    fn finish(self, epoch: Instant) -> anyhow::Result<Seen> {
        let used = cpu(self.server.process.id()).saturating_sub(self.cpu);
        let server_cpu = share(used, self.since.elapsed());
        let mut before = usize::MAX;
        guest::wait_for("the last event", SOON, || {
            std::thread::sleep(Duration::from_millis(300));
            let now = self.readers.iter().map(|reader| reader.events().len());
            let now = now.sum();
            (std::mem::replace(&mut before, now) == now).then_some(())
        })?;
        let [keys, moves] = self.readers.map(|reader| seen(&reader.stamped(), epoch));
        Ok(Seen {
            keys,
            moves,
            server_cpu,
        })
    }
}

/// Why a run shows nothing.
const BUSY: &str = "in no phase were the devices read in time: nothing was compared";

struct Measured {
    phase: &'static str,
    keys: Vec<Stamped>,
    moves: Vec<Stamped>,
    seen: Seen,
    wire: Wire,
    client: Value,
    /// Events were lost between the operator's kernel and the client, before anything of ours saw them.
    overrun: bool,
    /// In percent of a core.
    client_cpu: f64,
}

/// The operator's side.
struct Operator<'a> {
    epoch: Instant,
    seat: &'a Seat<'a>,
    address: &'a str,
    keyboard: &'a Hardware,
    mouse: &'a Hardware,
    prober: &'a Prober,
}

impl Operator<'_> {
    /// Connects, plays and leaves; the target watches from `watch` to `read`.
    fn phase<W>(
        &self,
        phase: &'static str,
        watch: impl FnOnce() -> anyhow::Result<W>,
        read: impl FnOnce(W) -> anyhow::Result<Seen>,
    ) -> anyhow::Result<Measured> {
        let mut client: Client = self.seat.connect(self.address, &["--grab", "all"])?;
        crate::keyboard::await_grabs(&mut client, 2)?;
        let watched = watch()?;
        // Warm, and past the clock probes of the start.
        std::thread::sleep(Duration::from_millis(500));
        let process = client.process.id();
        let (before, started) = (cpu(process), Instant::now());
        let (played, wire) = std::thread::scope(|scope| {
            let time = Duration::from_millis(events().into());
            let probing = scope.spawn(move || self.prober.run(self.epoch, time));
            (play(self.epoch, self.keyboard, self.mouse), probing.join())
        });
        let used = cpu(process).saturating_sub(before);
        let client_cpu = share(used, started.elapsed());
        let (keys, moves) = played?;
        let wire = wire.map_err(|_| anyhow::anyhow!("the prober panicked"))??;
        Ok(Measured {
            phase,
            keys,
            moves,
            wire,
            seen: read(watched)?,
            overrun: client.process.output().contains("dropped input events"),
            client: client.stop()?,
            client_cpu,
        })
    }
}

/// Says which goal of the design a phase meets; a machine that is shared proves no failure, so nothing depends on it.
fn judge(phase: &str, rows: &serde_json::Map<String, Value>) {
    let p99 = |row: &str| {
        let row = rows.get(row).and_then(|row| row.get("p99"));
        row.and_then(Value::as_f64).unwrap_or(f64::INFINITY)
    };
    let worst = p99("motion_ms").max(p99("keys_ms"));
    let (what, measured, goal) = if phase == PHASES[0].0 {
        let above = worst - p99("wire_one_way_ms");
        ("p99 above the wire's own", above, 1.0)
    } else {
        ("p99", worst, 10.0)
    };
    let verdict = if measured < goal { "met" } else { "missed" };
    guest::tell(format!(
        "  goal: {what} < {goal} ms: {measured:.3} ms, {verdict}"
    ));
}

fn share(cpu: Duration, wall: Duration) -> f64 {
    cpu.as_secs_f64() / wall.as_secs_f64() * 100.0
}

/// Compares, prints a table for people and a line for the benchmark. `ahead`: the target's clock before the operator's.
/// False when there was nothing to compare.
fn report(hosts: &str, measured: &Measured, ahead: i64) -> anyhow::Result<bool> {
    let (seen, server_cpu) = (&measured.seen, measured.seen.server_cpu);
    if measured.overrun {
        let phase = measured.phase;
        guest::tell(format!(
            "{hosts}, {phase}: nothing to compare: this machine was too busy to read the devices in time"
        ));
        return Ok(false);
    }
    let [_, mut keys] = compare(&measured.keys, &seen.keys, ahead).context("keyboard")?;
    let [mut motion, buttons] = compare(&measured.moves, &seen.moves, ahead).context("mouse")?;
    keys.extend(buttons);
    let mut rows = serde_json::Map::new();
    let mut wire = measured.wire.one_way(ahead);
    rows.insert("wire_one_way_ms".to_owned(), summary(&mut wire));
    rows.insert(
        "wire_round_trip_ms".to_owned(),
        summary(&mut measured.wire.round_trips()),
    );
    rows.insert("motion_ms".to_owned(), summary(&mut motion));
    rows.insert("keys_ms".to_owned(), summary(&mut keys));
    guest::tell(format!("{hosts}, {}", measured.phase));
    guest::tell(format!(
        "  {:<34} {:>6} {:>8} {:>8} {:>8} {:>8}",
        "ms", "count", "p50", "p99", "p99.9", "max"
    ));
    for (key, name) in [
        ("wire_one_way_ms", "the wire's own, one way"),
        ("wire_round_trip_ms", "the wire's own, there and back"),
        ("motion_ms", "device to device, motion"),
        ("keys_ms", "device to device, keys and buttons"),
    ] {
        line(name, rows.get(key).unwrap_or(&Value::Null));
    }
    let stages = measured.client.get("input").cloned().unwrap_or_default();
    for (key, name) in [
        ("to_sent_ms", "stage: kernel's stamp -> sent"),
        ("wire_ms", "stage: sent -> arrived"),
        ("inject_ms", "stage: arrived -> injected"),
        ("to_ack_ms", "kernel's stamp -> acknowledged"),
    ] {
        line(name, stages.get(key).unwrap_or(&Value::Null));
    }
    judge(measured.phase, &rows);
    let client_cpu = measured.client_cpu;
    guest::tell(format!(
        "  CPU: client {client_cpu:.1} %, server {server_cpu:.1} % of this kernel's one core"
    ));
    let all = json!({
        "hosts": hosts, "phase": measured.phase, "times": rows, "stages": stages,
        "client_cpu_percent": client_cpu, "server_cpu_percent": server_cpu,
    });
    if std::env::var_os(EVENTS).is_some() {
        guest::tell(format!("measured {all}"));
    }
    Ok(true)
}

/// Two hosts on one kernel, so one clock.
pub(crate) fn on_one_kernel() -> anyhow::Result<()> {
    let epoch = Instant::now();
    let (keyboard, mouse) = (Hardware::keyboard(KEYBOARD)?, Hardware::mouse(MOUSE)?);
    let (target, near) = kvm::two_hosts()?;
    let server = Server::start(Host::Namespace(&target), STILL)?;
    probe::echo(Host::Namespace(&target), epoch)?;
    let prober = Prober::new(Host::Namespace(&near), [10, 1, 0, 1])?;
    let seat = Seat::new(Host::Namespace(&near))?;
    seat.pair(TARGET, server.code()?)?;
    let operator = Operator {
        epoch,
        seat: &seat,
        address: TARGET,
        keyboard: &keyboard,
        mouse: &mouse,
        prober: &prober,
    };
    let mut compared = 0;
    for (phase, netem) in PHASES {
        if !netem.is_empty() {
            target.disturb(&near, netem)?;
            near.disturb(&target, netem)?;
        }
        let watch = || Watching::start(&server);
        let measured = operator.phase(phase, watch, |watching| watching.finish(epoch))?;
        compared += u32::from(report("one kernel", &measured, 0)?);
    }
    ensure!(compared > 0, "{BUSY}");
    server.stop().map(drop)
}

/// The controlled machine of two.
pub(crate) fn target_kernel() -> anyhow::Result<()> {
    let epoch = Instant::now();
    guest::wire_up(&format!("{TARGET_KERNEL}/24"))?;
    let server = Server::start(Host::Kernel, STILL)?;
    probe::echo(Host::Kernel, epoch)?;
    std::fs::write(guest::shared()?.join("code"), server.code()?)?;
    guest::signal("serving")?;
    let long = SOON + Duration::from_millis(u64::from(events()) * 2);
    for (number, (_, netem)) in PHASES.iter().enumerate() {
        disturb_wire(netem)?;
        guest::await_signal(&format!("taken {number}"), SOON)?;
        let watching = Watching::start(&server)?;
        guest::signal(&format!("watching {number}"))?;
        guest::await_signal(&format!("played {number}"), long)?;
        let seen = serde_json::to_vec(&watching.finish(epoch)?)?;
        std::fs::write(guest::shared()?.join(format!("seen {number}.json")), seen)?;
        guest::signal(&format!("told {number}"))?;
    }
    guest::await_signal("left", SOON)?;
    server.stop().map(drop)
}

/// The operator's machine of two.
pub(crate) fn seat_kernel() -> anyhow::Result<()> {
    let epoch = Instant::now();
    guest::wire_up(&format!("{SEAT_KERNEL}/24"))?;
    let (keyboard, mouse) = (Hardware::keyboard(KEYBOARD)?, Hardware::mouse(MOUSE)?);
    let address = format!("{TARGET_KERNEL}:{}", kvm::PORT);
    guest::await_signal("serving", SOON)?;
    let code = std::fs::read_to_string(guest::shared()?.join("code"))?;
    let seat = Seat::new(Host::Kernel)?;
    seat.pair(&address, &code)?;
    let prober = Prober::new(Host::Kernel, TARGET_KERNEL.octets())?;
    let operator = Operator {
        epoch,
        seat: &seat,
        address: &address,
        keyboard: &keyboard,
        mouse: &mouse,
        prober: &prober,
    };
    // Seen over the quiet wire; the two clocks are one host's.
    let (mut ahead, mut compared) = (None, 0);
    for (number, (phase, netem)) in PHASES.iter().enumerate() {
        disturb_wire(netem)?;
        let watch = || {
            guest::signal(&format!("taken {number}"))?;
            guest::await_signal(&format!("watching {number}"), SOON)
        };
        let measured = operator.phase(phase, watch, |()| {
            guest::signal(&format!("played {number}"))?;
            guest::await_signal(&format!("told {number}"), SOON)?;
            let seen = std::fs::read(guest::shared()?.join(format!("seen {number}.json")))?;
            Ok(serde_json::from_slice(&seen)?)
        })?;
        let ahead = *ahead.get_or_insert(measured.wire.ahead());
        compared += u32::from(report("two kernels", &measured, ahead)?);
    }
    ensure!(compared > 0, "{BUSY}");
    guest::signal("left")
}

fn disturb_wire(netem: &[&str]) -> anyhow::Result<()> {
    if netem.is_empty() {
        return Ok(());
    }
    let add = ["qdisc", "replace", "dev", "vec0", "root", "netem"];
    guest::run(Command::new("tc").args(add).args(netem)).map(drop)
}
