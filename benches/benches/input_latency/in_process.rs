//! One process, two threads, two sockets: `InputSender` → SRTP → UDP → SRTP → `InputReceiver`, and what it costs beside
//! plain datagrams.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::ensure;
use serde::Serialize;
use soft_kvm_benches::report::Summary;
use soft_kvm_benches::table;
use soft_kvm_core::MonoTime;
use soft_kvm_monitoring::Percentiles;
use soft_kvm_platform::os::clock;
use soft_kvm_platform::os::net::{Batch, UdpOptions, UdpSocket};
use soft_kvm_protocol::input::carrier::{self, InputSealer};
use soft_kvm_protocol::input::{
    DeviceId, EventReport, EventType, HeldKeys, InputEvent, InputHandler, InputReceiver,
    InputSender, KeyCode,
};
use soft_kvm_protocol::media::{MasterKey, Opener, Sealer, Ssrc};

use super::RATE;

/// Every so many reports a key goes down or up as well: fast typing.
const TYPING: u32 = 50;
const SENDER: Ssrc = Ssrc(1);
const RECEIVER: Ssrc = Ssrc(2);
const KEYS: DeviceId = DeviceId(1);
const POINTER: DeviceId = DeviceId(2);
/// `linux/input-event-codes.h`.
const REL_X: u16 = 0;
/// Plain datagrams beside: about as long as ours with one report.
const PLAIN: usize = 80;
/// And answered about as often as motion is acknowledged.
const PLAIN_ANSWERED: u32 = 5;

/// What came out.
#[derive(Debug, Serialize)]
pub(crate) struct InProcess {
    events: u64,
    keys: u64,
    sent_ms: Summary,
    wire_ms: Summary,
    motion_applied_ms: Summary,
    keys_applied_ms: Summary,
    acknowledged_ms: Summary,
    cpu: Cpu,
    /// The same number of plain datagrams at the same rate, by the same calls of the kernel: what this machine takes for
    /// waking, sending and receiving alone.
    plain_cpu: Cpu,
}

/// CPU time of each end's thread, in percent of one core.
#[derive(Clone, Copy, Debug, Serialize)]
struct Cpu {
    operator: f64,
    target: f64,
}

impl Cpu {
    fn of(operator: Duration, target: Duration, took: Duration) -> Self {
        let share = |cpu: Duration| cpu.as_secs_f64() / took.as_secs_f64() * 100.0;
        Self {
            operator: share(operator),
            target: share(target),
        }
    }
}

/// Two sockets, and the address of each.
struct Ends {
    operator: (UdpSocket, SocketAddr),
    target: (UdpSocket, SocketAddr),
}

impl Ends {
    fn new() -> anyhow::Result<Self> {
        let bind = || {
            let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let socket = UdpSocket::bind(any, &UdpOptions::default())?;
            let address = socket.local_address()?;
            anyhow::Ok((socket, address))
        };
        Ok(Self {
            operator: bind()?,
            target: bind()?,
        })
    }
}

/// Runs both ends, the target's on a thread of its own until the operator's has ended.
fn both<S, A: Send>(
    operator: impl FnOnce() -> anyhow::Result<S>,
    target: impl FnOnce(&AtomicBool) -> anyhow::Result<A> + Send,
) -> anyhow::Result<(S, A)> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let target = scope.spawn(|| target(&done));
        let sent = operator();
        done.store(true, Ordering::Release);
        let applied = target
            .join()
            .map_err(|_| anyhow::anyhow!("the receiving thread panicked"))?;
        Ok((sent?, applied?))
    })
}

impl InProcess {
    /// Plays so many motion reports, and keys between them.
    ///
    /// # Errors
    /// Not everything arrived, or a socket failed.
    pub(crate) fn measure(events: u32) -> anyhow::Result<Self> {
        let ends = Ends::new()?;
        // Both directions of a session have keys of their own; these are nobody's secret.
        let (client, server) = (
            MasterKey::new([1; 16], [2; 12]),
            MasterKey::new([3; 16], [4; 12]),
        );
        let (handed, given) = mpsc::channel();
        let began = clock::now();
        let (sent, applied) = both(
            || {
                let keys = (Sealer::new(&client, SENDER), Opener::new(&server, RECEIVER));
                send(&ends.operator.0, ends.target.1, keys, events, &handed)
            },
            |done| {
                let keys = (Opener::new(&client, SENDER), Sealer::new(&server, RECEIVER));
                receive(&ends.target.0, ends.operator.1, keys, (given, done))
            },
        )?;
        let took = clock::now().since(began);
        let keys = u64::from(events / TYPING);
        ensure!(
            applied.keys.count() == keys && applied.steps == i64::from(events),
            "{} of {keys} keys and {} of {events} steps arrived",
            applied.keys.count(),
            applied.steps
        );
        Ok(Self {
            events: u64::from(events),
            keys,
            sent_ms: summary(&sent.sent),
            wire_ms: summary(&applied.wire),
            motion_applied_ms: summary(&applied.motion),
            keys_applied_ms: summary(&applied.keys),
            acknowledged_ms: summary(&sent.acknowledged),
            cpu: Cpu::of(sent.cpu, applied.cpu, took),
            plain_cpu: plain(events)?,
        })
    }

    /// Prints it with what each figure means.
    pub(crate) fn print(&self) {
        println!(
            "one process, {} motion reports at {RATE}/s and {} keys: InputSender -> SRTP -> UDP on 127.0.0.1 -> SRTP -> InputReceiver",
            self.events, self.keys
        );
        let stages = [
            (
                "sent",
                "event handed to the sender -> sealed and given to the socket",
                &[("sent", &self.sent_ms)][..],
            ),
            (
                "wire",
                "given to the socket -> read by the receiver, another thread, which it wakes",
                &[("wire", &self.wire_ms)],
            ),
            (
                "motion, keys applied",
                "event handed to the sender -> opened and handed to the receiver's sink",
                &[
                    ("motion applied", &self.motion_applied_ms),
                    ("keys applied", &self.keys_applied_ms),
                ],
            ),
            (
                "acknowledged",
                "event handed to the sender -> its acknowledgement read by the sender's thread",
                &[("acknowledged", &self.acknowledged_ms)],
            ),
        ];
        for (stage, what, _) in stages {
            println!("  {stage:<20} {what}");
        }
        println!("{}", table::heading("stage"));
        for (stage, summary) in stages.iter().flat_map(|(_, _, rows)| *rows) {
            println!("{}", table::row(stage, summary));
        }
        println!(
            "CPU in percent of one core: {:>25} {:>9}",
            "operator", "target"
        );
        for (what, cpu) in [
            ("this", self.cpu),
            (
                "as many plain datagrams, by the same system calls",
                self.plain_cpu,
            ),
        ] {
            println!("  {what:<50} {:>9.2} {:>9.2}", cpu.operator, cpu.target);
        }
        println!(
            "  {:<50} {:>9.2} {:>9.2}",
            "above those",
            self.cpu.operator - self.plain_cpu.operator,
            self.cpu.target - self.plain_cpu.target
        );
    }
}

/// Datagrams that say nothing, at the same rate.
fn plain(events: u32) -> anyhow::Result<Cpu> {
    let ends = Ends::new()?;
    let (operator, target) = (&ends.operator, &ends.target);
    let began = clock::now();
    let (sent, answered) = both(
        || {
            let before = clock::thread_cpu();
            let mut batch = Batch::new(2_048);
            let interval = Duration::from_secs(1) / RATE;
            let mut next = clock::now();
            for _ in 0..events {
                next = next + interval;
                while clock::now() < next {
                    operator.0.wait(next.since(clock::now()), false, None)?;
                    operator.0.receive(&mut batch)?;
                }
                operator.0.send(target.1, &[0; PLAIN])?;
            }
            anyhow::Ok(clock::thread_cpu().saturating_sub(before))
        },
        |done| {
            let before = clock::thread_cpu();
            let (mut batch, mut count) = (Batch::new(2_048), 0);
            while !done.load(Ordering::Acquire) {
                target.0.wait(Duration::from_millis(20), false, None)?;
                if target.0.receive(&mut batch)? > 0 {
                    count += 1;
                    if count % PLAIN_ANSWERED == 0 {
                        target.0.send(operator.1, &[0; PLAIN])?;
                    }
                }
            }
            anyhow::Ok(clock::thread_cpu().saturating_sub(before))
        },
    )?;
    Ok(Cpu::of(sent, answered, clock::now().since(began)))
}

/// What the operator's thread sees.
#[derive(Default)]
struct Sent {
    sent: Percentiles,
    acknowledged: Percentiles,
    cpu: Duration,
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
    let before = clock::thread_cpu();
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
    times.cpu = clock::thread_cpu().saturating_sub(before);
    Ok(times)
}

/// What the target's thread sees.
#[derive(Default)]
struct Applied {
    cpu: Duration,
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
    (given, done): (mpsc::Receiver<MonoTime>, &AtomicBool),
) -> anyhow::Result<Applied> {
    let (mut receiver, mut sealer) = (InputReceiver::new(), InputSealer::new(sealer));
    let mut sink = Applied::default();
    let before = clock::thread_cpu();
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
    sink.cpu = clock::thread_cpu().saturating_sub(before);
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
