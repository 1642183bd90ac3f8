//! How long a keystroke takes: inside one process over real sockets and SRTP, and between two processes.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Parser;
use serde::Serialize;
use soft_kvm_benches::ending::Ending;
use soft_kvm_benches::goals::{Goal, Outcome};
use soft_kvm_benches::machine::{self, Machine};
use soft_kvm_benches::programs::{Profile, Programs};
use soft_kvm_benches::report::Summary;
use soft_kvm_benches::rig::Picture;
use soft_kvm_benches::run::{Run, measure};
use soft_kvm_benches::table;
use soft_kvm_core::MonoTime;
use soft_kvm_monitoring::Percentiles;
use soft_kvm_platform::os::clock;
use soft_kvm_platform::os::net::{Batch, UdpOptions, UdpSocket};
use soft_kvm_platform::os::process;
use soft_kvm_protocol::input::carrier::{self, InputSealer};
use soft_kvm_protocol::input::{
    DeviceId, EventReport, EventType, HeldKeys, InputEvent, InputHandler, InputReceiver,
    InputSender, KeyCode,
};
use soft_kvm_protocol::media::{MasterKey, Opener, Sealer, Ssrc};

/// Motion reports in a second in one process: an eager gaming mouse.
const RATE: u32 = 1_000;
/// Every so many reports a key goes down or up as well: fast typing.
const TYPING: u32 = 50;
/// Keystrokes in a second between two processes.
const PROBES: u32 = 100;
const SENDER: Ssrc = Ssrc(1);
const RECEIVER: Ssrc = Ssrc(2);
const KEYS: DeviceId = DeviceId(1);
const POINTER: DeviceId = DeviceId(2);
/// `linux/input-event-codes.h`.
const REL_X: u16 = 0;

/// Time of a keystroke from the operator's side to the target's.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    ending: Ending,
    /// Shorter: shows that it works, the figures are of little use.
    #[arg(long)]
    quick: bool,
    /// Events in one process.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    events: u32,
    /// Seconds of typing between two processes.
    #[arg(long, value_name = "N", default_value_t = 20)]
    seconds: u32,
}

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    in_process: InProcess,
    processes: Run,
    outcomes: Vec<Outcome>,
}

/// One process, two threads, two sockets.
#[derive(Debug, Serialize)]
struct InProcess {
    events: u64,
    keys: u64,
    sent_ms: Summary,
    wire_ms: Summary,
    motion_applied_ms: Summary,
    keys_applied_ms: Summary,
    acknowledged_ms: Summary,
    /// Of both ends together, in percent of one core.
    cpu_percent: f64,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let events = if arguments.quick {
        2_000
    } else {
        arguments.events
    };
    let seconds = if arguments.quick {
        3
    } else {
        arguments.seconds
    };
    let programs = Programs::build(Profile::Release)?;
    let machine = Machine::read();
    println!("{machine}");
    println!();
    println!(
        "one process, {events} motion reports at {RATE}/s and {} keys: InputSender -> SRTP -> UDP on 127.0.0.1 -> SRTP -> InputReceiver",
        events / TYPING
    );
    for (stage, what) in [
        (
            "sent",
            "event handed to the sender -> sealed and given to the socket",
        ),
        (
            "wire",
            "given to the socket -> read by the receiver, another thread, which it wakes",
        ),
        (
            "motion, keys applied",
            "event handed to the sender -> opened and handed to the receiver's sink",
        ),
        (
            "acknowledged",
            "event handed to the sender -> its acknowledgement read by the sender's thread",
        ),
    ] {
        println!("  {stage:<20} {what}");
    }
    let in_process = in_process(events)?;
    println!("{}", table::heading("stage"));
    for (stage, summary) in [
        ("sent", &in_process.sent_ms),
        ("wire", &in_process.wire_ms),
        ("motion applied", &in_process.motion_applied_ms),
        ("keys applied", &in_process.keys_applied_ms),
        ("acknowledged", &in_process.acknowledged_ms),
    ] {
        println!("{}", table::row(stage, summary));
    }
    println!(
        "CPU of both ends together: {:.2} % of one core",
        in_process.cpu_percent
    );
    println!("load {}", machine::load());
    let picture = Picture::default();
    println!();
    println!(
        "two processes over 127.0.0.1, {PROBES} keystrokes/s for {seconds} s, with video at {} {}/s beside them",
        picture.size, picture.fps
    );
    for line in table::legend(table::INPUT) {
        println!("{line}");
    }
    println!(
        "The sink is the test card's echo. From the operator's device to the target's, through both kernels, it is measured in the device lab: cargo xtask lab test"
    );
    let processes = measure(&programs, &picture, seconds, Some(PROBES))?;
    println!("{}", table::heading("stage"));
    for line in table::rows(table::INPUT, &processes.report.input) {
        println!("{line}");
    }
    println!("load {}", processes.load);
    let injected = processes.report.input.get("to_injected_ms");
    let injected = injected.filter(|summary| summary.count > 0);
    let outcomes =
        vec![Goal::Input.measured(injected.context("no keystroke was acknowledged")?.p99)];
    arguments.ending.print("", &outcomes);
    arguments.ending.write(&Report {
        machine,
        in_process,
        processes,
        outcomes,
    })
}

fn in_process(events: u32) -> anyhow::Result<InProcess> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let options = UdpOptions::default();
    let (operator, target) = (
        UdpSocket::bind(any, &options)?,
        UdpSocket::bind(any, &options)?,
    );
    let (to_operator, to_target) = (operator.local_address()?, target.local_address()?);
    // Both directions of a session have keys of their own; these are nobody's secret.
    let (client, server) = (
        MasterKey::new([1; 16], [2; 12]),
        MasterKey::new([3; 16], [4; 12]),
    );
    let done = AtomicBool::new(false);
    let (handed, given) = mpsc::channel();
    let (before, began) = (process::usage(None)?.cpu, clock::now());
    let (sent, applied) = std::thread::scope(|scope| {
        let (target, done, client, server) = (&target, &done, &client, &server);
        let applied = scope.spawn(move || {
            let ends = (Opener::new(client, SENDER), Sealer::new(server, RECEIVER));
            receive(target, to_operator, ends, (&given, done))
        });
        let ends = (Sealer::new(client, SENDER), Opener::new(server, RECEIVER));
        let sent = send(&operator, to_target, ends, events, &handed);
        done.store(true, Ordering::Release);
        let applied = applied
            .join()
            .map_err(|_| anyhow::anyhow!("the receiving thread panicked"))?;
        anyhow::Ok((sent?, applied?))
    })?;
    let used = process::usage(None)?.cpu.saturating_sub(before);
    let cpu_percent = used.as_secs_f64() / clock::now().since(began).as_secs_f64() * 100.0;
    let keys = u64::from(events / TYPING);
    ensure!(
        applied.keys.count() == keys && applied.steps == i64::from(events),
        "{} of {keys} keys and {} of {events} steps arrived",
        applied.keys.count(),
        applied.steps
    );
    Ok(InProcess {
        events: u64::from(events),
        keys,
        sent_ms: summary(&sent.sent),
        wire_ms: summary(&applied.wire),
        motion_applied_ms: summary(&applied.motion),
        keys_applied_ms: summary(&applied.keys),
        acknowledged_ms: summary(&sent.acknowledged),
        cpu_percent,
    })
}

/// What the operator's thread sees.
#[derive(Default)]
struct Sent {
    sent: Percentiles,
    acknowledged: Percentiles,
}

/// The operator's thread: an event at its time, acknowledgements between.
fn send(
    socket: &UdpSocket,
    to: SocketAddr,
    (sealer, mut opener): (Sealer, Opener),
    events: u32,
    handed: &mpsc::Sender<MonoTime>,
) -> anyhow::Result<Sent> {
    let (mut sender, mut sealer) = (InputSender::new(), InputSealer::new(sealer));
    let (mut payload, mut batch) = (Vec::new(), Batch::new(2_048));
    let mut times = Sent::default();
    let interval = Duration::from_secs(1) / RATE;
    let start = clock::now();
    let (mut next, mut pushed) = (start, 0);
    let deadline = start + interval * events + Duration::from_secs(10);
    while pushed < events || sender.unconfirmed() > 0 {
        let now = clock::now();
        ensure!(now < deadline, "events are not acknowledged");
        if pushed < events && now >= next {
            pushed += 1;
            next = next + interval;
            let mut push = |device, event| {
                let report = EventReport {
                    device,
                    time: now,
                    unfinished: false,
                    events: &[event, InputEvent::SYN_REPORT],
                };
                sender.push(now, report);
            };
            push(POINTER, InputEvent::new(EventType::REL, REL_X, 1));
            if pushed % TYPING == 0 {
                push(KEYS, InputEvent::key(KeyCode::A, pushed / TYPING % 2 == 1));
            }
        }
        while sender.poll_transmit(now, &mut payload) {
            let sealed = sealer.seal(now, &payload)?;
            // The other thread has ended only if it failed, which its result tells.
            let _ = handed.send(clock::now());
            socket.send(to, sealed)?;
            times.sent.record(clock::now().since(now));
        }
        let due = if pushed < events {
            next.min(sender.poll_timeout())
        } else {
            sender.poll_timeout()
        };
        socket.wait(due.since(clock::now()), false, None)?;
        while socket.receive(&mut batch)? > 0 {
            let now = clock::now();
            batch.for_each_mut(|_, data| {
                let summary = carrier::open(&mut opener, data)
                    .ok()
                    .and_then(|payload| sender.handle_ack(now, payload).ok());
                if let Some(stamp) = summary.and_then(|summary| summary.oldest) {
                    times.acknowledged.record(now.since(stamp));
                }
            });
        }
    }
    Ok(times)
}

/// What the target's thread sees.
#[derive(Default)]
struct Applied {
    wire: Percentiles,
    motion: Percentiles,
    keys: Percentiles,
    /// How far the pointer has come.
    steps: i64,
}

impl InputHandler for Applied {
    fn accepts(&mut self, device: DeviceId) -> bool {
        [KEYS, POINTER].contains(&device)
    }

    fn reconcile(&mut self, _: &HeldKeys) {}

    fn report(&mut self, report: EventReport<'_>) {
        let age = clock::now().since(report.time);
        if report.device == KEYS {
            return self.keys.record(age);
        }
        self.motion.record(age);
        let steps = report
            .events
            .iter()
            .filter(|event| event.kind == EventType::REL);
        self.steps += steps.map(|event| i64::from(event.value)).sum::<i64>();
    }
}

/// The target's thread.
fn receive(
    socket: &UdpSocket,
    to: SocketAddr,
    (mut opener, sealer): (Opener, Sealer),
    (given, done): (&mpsc::Receiver<MonoTime>, &AtomicBool),
) -> anyhow::Result<Applied> {
    let (mut receiver, mut sealer) = (InputReceiver::new(), InputSealer::new(sealer));
    let mut sink = Applied::default();
    let (mut batch, mut payload) = (Batch::new(2_048), Vec::new());
    while !done.load(Ordering::Acquire) {
        socket.wait(Duration::from_millis(20), false, None)?;
        while socket.receive(&mut batch)? > 0 {
            let now = clock::now();
            batch.for_each_mut(|_, data| {
                // Loopback keeps the order and loses nothing; the count at the end would tell.
                if let Ok(given) = given.try_recv() {
                    sink.wire.record(now.since(given));
                }
                if let Ok(payload) = carrier::open(&mut opener, data) {
                    // What is malformed is not counted, so the count at the end tells.
                    let _ = receiver.handle_datagram(now, payload, &mut sink);
                }
            });
            let now: MonoTime = clock::now();
            while receiver.poll_transmit(now, &mut payload) {
                socket.send(to, sealer.seal(now, &payload)?)?;
            }
        }
    }
    Ok(sink)
}

fn summary(times: &Percentiles) -> Summary {
    let soft_kvm_monitoring::Summary {
        count,
        p50,
        p95,
        p99,
        p999,
        max,
    } = times.summary();
    Summary {
        count,
        p50,
        p95,
        p99,
        p999,
        max,
    }
}
