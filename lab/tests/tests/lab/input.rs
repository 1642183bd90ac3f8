//! Keyboards and mice that a test makes in the kernel, and readers of kernel input devices.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, ensure};
use evdevil::event::{EventType, InputEvent, Key, Led, Misc, Rel};
use evdevil::uinput::UinputDevice;
use evdevil::{Bus, Evdev, InputId};
use soft_kvm_lab_tests::guest;

use crate::kvm::SOON;

/// Above the server's threads that keys pass through.
const READER_PRIORITY: &str = "50";

/// How the physical path of the server's virtual devices begins.
const TWIN: &str = "soft-kvm/";

pub(crate) const ESC: u16 = 1;
pub(crate) const LEFT_CTRL: u16 = 29;
pub(crate) const KEY_A: u16 = 30;
pub(crate) const RIGHT_CTRL: u16 = 97;
pub(crate) const LEFT_SHIFT: u16 = 42;
pub(crate) const BTN_LEFT: u16 = 0x110;
pub(crate) const REL_X: u16 = 0;
const REL_Y: u16 = 1;
const REL_WHEEL: u16 = 8;
const REL_WHEEL_HI_RES: u16 = 11;

/// One event without its stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    kind: EventType,
    code: u16,
    value: i32,
}

impl Event {
    const SYN: Self = Self {
        kind: EventType::SYN,
        code: 0,
        value: 0,
    };

    /// Whether the kernel tells that the reader lost events.
    pub(crate) fn is_loss(self) -> bool {
        self.kind == EventType::SYN && self.code == 3
    }

    /// Any event by its numbers.
    pub(crate) const fn new(kind: EventType, code: u16, value: i32) -> Self {
        Self { kind, code, value }
    }

    /// Whether it is the end of a report.
    pub(crate) fn is_end(self) -> bool {
        self.kind == EventType::SYN && self.code == 0
    }

    pub(crate) const fn key(code: u16, down: bool) -> Self {
        Self {
            kind: EventType::KEY,
            code,
            value: if down { 1 } else { 0 },
        }
    }

    /// The key and whether it goes down; none for other events and for auto-repeat.
    pub(crate) fn as_key(self) -> Option<(u16, bool)> {
        (self.kind == EventType::KEY && self.value < 2).then_some((self.code, self.value == 1))
    }

    pub(crate) const fn motion(code: u16, value: i32) -> Self {
        Self {
            kind: EventType::REL,
            code,
            value,
        }
    }

    /// The relative axis and its steps.
    pub(crate) fn as_motion(self) -> Option<(u16, i32)> {
        (self.kind == EventType::REL).then_some((self.code, self.value))
    }

    /// The absolute axis and where it is.
    pub(crate) fn as_position(self) -> Option<(u16, i32)> {
        (self.kind == EventType::ABS).then_some((self.code, self.value))
    }

    /// `MSC_SCAN`: what a keyboard says before each key.
    const fn scan(value: i32) -> Self {
        Self {
            kind: EventType::MSC,
            code: 4,
            value,
        }
    }
}

/// A device as the operator's hand moves it; dropping it unplugs it.
#[derive(Debug)]
pub(crate) struct Hardware {
    device: UinputDevice,
    node: PathBuf,
}

impl Hardware {
    pub(crate) fn keyboard(name: &str) -> anyhow::Result<Self> {
        let device = UinputDevice::builder()?
            .with_input_id(InputId::new(Bus::USB, 0x1234, 0x5678, 0x0111))?
            .with_keys((1..128).map(Key::from_raw))?
            .with_misc([Misc::from_raw(4)])?
            .with_leds([0, 1, 2].map(Led::from_raw))?
            .with_key_repeat()?
            .build(name)?;
        Self::plugged(device, name)
    }

    pub(crate) fn mouse(name: &str) -> anyhow::Result<Self> {
        let device = UinputDevice::builder()?
            .with_input_id(InputId::new(Bus::USB, 0x1234, 0x5679, 0x0111))?
            .with_keys((BTN_LEFT..BTN_LEFT + 5).map(Key::from_raw))?
            .with_rel_axes([REL_X, REL_Y, REL_WHEEL, REL_WHEEL_HI_RES].map(Rel::from_raw))?
            .build(name)?;
        Self::plugged(device, name)
    }

    /// A device that was just made under this name.
    pub(crate) fn plugged(device: UinputDevice, name: &str) -> anyhow::Result<Self> {
        let node = node(name, false)?;
        Ok(Self { device, node })
    }

    /// Its node under `/dev/input`.
    pub(crate) fn node(&self) -> &Path {
        &self.node
    }

    /// Reports these events together, as the hardware does between two `SYN_REPORT`s.
    pub(crate) fn report(&self, events: &[Event]) -> anyhow::Result<()> {
        let raw: Vec<_> = events
            .iter()
            .map(|event| InputEvent::new(event.kind, event.code, event.value))
            .collect();
        self.device
            .write_events(&raw)
            .context("the hardware writes")
    }

    /// Presses a key and lets it go.
    pub(crate) fn tap(&self, code: u16) -> anyhow::Result<()> {
        self.report(&[Event::key(code, true)])?;
        self.report(&[Event::key(code, false)])
    }
}

/// An event, and when.
#[derive(Clone, Copy, Debug)]
struct Read {
    at: Instant,
    /// By the kernel.
    made: SystemTime,
    event: Event,
}

/// Every event of a device from now on.
#[derive(Debug)]
pub(crate) struct Reader {
    events: Arc<Mutex<Vec<Read>>>,
    gone: Arc<AtomicBool>,
}

impl Reader {
    /// Reads on a thread of its own, which ends with the device: the kernel queues only 64 events.
    pub(crate) fn start(node: &Path) -> anyhow::Result<Self> {
        Self::start_with(node, ahead_of_all)
    }

    /// One of ordinary priority, as the programs of a desktop have it.
    pub(crate) fn ordinary(node: &Path) -> anyhow::Result<Self> {
        Self::start_with(node, || {})
    }

    fn start_with(node: &Path, prepare: fn()) -> anyhow::Result<Self> {
        let device = Evdev::open(node).with_context(|| format!("opening {}", node.display()))?;
        let (events, gone) = (
            Arc::<Mutex<Vec<_>>>::default(),
            Arc::new(AtomicBool::new(false)),
        );
        let reader = Self {
            events: Arc::clone(&events),
            gone: Arc::clone(&gone),
        };
        let (ready, started) = mpsc::sync_channel(0);
        std::thread::spawn(move || {
            prepare();
            // It fails when nobody waits any more.
            let _ = ready.send(());
            let mut buffer = [InputEvent::zeroed(); 64];
            while let Ok(count @ 1..) = device.read_events(&mut buffer) {
                let now = Instant::now();
                let read = buffer.iter().take(count).map(|event| Read {
                    at: now,
                    made: event.time(),
                    event: Event {
                        kind: event.event_type(),
                        code: event.raw_code(),
                        value: event.raw_value(),
                    },
                });
                lock(&events).extend(read);
            }
            gone.store(true, Ordering::Release);
        });
        started.recv().context("the reader did not start")?;
        Ok(reader)
    }

    /// What was read so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        lock(&self.events).iter().map(|read| read.event).collect()
    }

    /// The whole reports that were read so far.
    pub(crate) fn reports(&self) -> Vec<Vec<Event>> {
        let events = self.events();
        let mut reports: Vec<_> = events
            .split(|event| event.is_end())
            .map(<[Event]>::to_vec)
            .collect();
        // Behind the last end.
        reports.pop();
        reports
    }

    /// The same with the time of each reading.
    pub(crate) fn stamped(&self) -> Vec<(Instant, Event)> {
        let events = lock(&self.events);
        events.iter().map(|read| (read.at, read.event)).collect()
    }

    /// When the kernel made this event, each time.
    pub(crate) fn made(&self, event: Event) -> Vec<SystemTime> {
        let events = lock(&self.events);
        let same = events.iter().filter(|read| read.event == event);
        same.map(|read| read.made).collect()
    }

    /// Whether the device is there no more.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Waits until these reports have been read, and checks that they are all that was.
    pub(crate) fn expect(&self, reports: &[Vec<Event>]) -> anyhow::Result<()> {
        self.expect_of(reports, || self.events())
    }

    /// The same for a keyboard that may have repeated a held key meanwhile.
    pub(crate) fn expect_without_repeats(&self, reports: &[Vec<Event>]) -> anyhow::Result<()> {
        self.expect_of(reports, || {
            let mut events = self.events();
            // The kernel ends a report with a repetition by SYN_REPORT with value 1.
            let is_repeat = |event: &Event| match event.kind {
                EventType::KEY => event.value == 2,
                EventType::SYN => event.value == 1,
                _ => false,
            };
            events.retain(|event| !is_repeat(event));
            events
        })
    }

    fn expect_of(
        &self,
        reports: &[Vec<Event>],
        read: impl Fn() -> Vec<Event>,
    ) -> anyhow::Result<()> {
        let wanted = flat(reports);
        let enough = guest::wait_for("all events", SOON, || {
            (read().len() >= wanted.len()).then_some(())
        });
        // What is too much would come right behind.
        std::thread::sleep(Duration::from_millis(50));
        let got = read();
        let differs = got
            .iter()
            .zip(&wanted)
            .position(|(got, wanted)| got != wanted)
            .unwrap_or_else(|| got.len().min(wanted.len()));
        ensure!(
            got == wanted,
            "{} events came, {} were made; the first that differs is number {differs}: {:?}, not {:?}",
            got.len(),
            wanted.len(),
            got.get(differs),
            wanted.get(differs),
        );
        enough
    }
}

/// Lets the calling thread read before the server's thread goes on writing, on the only processor of this kernel: what overruns the
/// 64 events that the kernel queues would be this reader's fault, not that of what it looks at.
pub(crate) fn ahead_of_all() {
    let thread = nix::unistd::gettid().to_string();
    let words = ["--fifo", "--pid", READER_PRIORITY, &thread];
    if let Err(error) = guest::run(Command::new("chrt").args(words)) {
        guest::log(format!("a reader of ordinary priority: {error:#}"));
    }
}

fn lock<T>(events: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    events.lock().unwrap_or_else(PoisonError::into_inner)
}

fn flat(reports: &[Vec<Event>]) -> Vec<Event> {
    reports
        .iter()
        .flat_map(|report| report.iter().copied().chain([Event::SYN]))
        .collect()
}

/// Waits for the virtual device that the server makes for the one of this name.
pub(crate) fn twin(name: &str) -> anyhow::Result<PathBuf> {
    node(name, true)
}

/// All virtual devices for the one of this name, on all servers of this kernel.
pub(crate) fn twins(name: &str) -> Vec<PathBuf> {
    nodes()
        .filter(|(_, found, ours)| *ours && found == name)
        .map(|(path, ..)| path)
        .collect()
}

/// Each virtual device of the servers on this kernel, and its keys that are down now.
pub(crate) fn twin_keys() -> impl Iterator<Item = (PathBuf, Vec<u16>)> {
    let twins = nodes().filter(|(_, _, ours)| *ours);
    // A device may go while it is looked at.
    twins.filter_map(|(path, ..)| {
        let keys = Evdev::open(&path).ok()?.key_state().ok()?;
        Some((path, keys.iter().map(Key::raw).collect()))
    })
}

/// The keys that are down after these events.
pub(crate) fn down(events: &[Event]) -> Vec<u16> {
    let mut down = Vec::new();
    for (key, pressed) in events.iter().filter_map(|event| event.as_key()) {
        down.retain(|other| *other != key);
        if pressed {
            down.push(key);
        }
    }
    down
}

/// Whether a virtual device of the server is there.
pub(crate) fn has_twins() -> bool {
    nodes().any(|(_, _, ours)| ours)
}

fn node(name: &str, ours: bool) -> anyhow::Result<PathBuf> {
    guest::wait_for(&format!("{name} (virtual: {ours})"), SOON, || {
        nodes()
            .find(|(_, found, mark)| found == name && *mark == ours)
            .map(|(path, _, _)| path)
    })
}

/// Path and name of each input device, and whether it is one of the server's.
fn nodes() -> impl Iterator<Item = (PathBuf, String, bool)> {
    let entries = std::fs::read_dir("/dev/input").into_iter().flatten();
    entries.filter_map(|entry| {
        let path = entry.ok()?.path();
        let device = Evdev::open(&path).ok()?;
        let phys = device.phys().ok().flatten().unwrap_or_default();
        Some((path, device.name().ok()?, phys.starts_with(TWIN)))
    })
}

/// What the tests type: every key of the main block, with Shift held for half of them.
pub(crate) fn typing() -> Vec<Vec<Event>> {
    let mut reports = Vec::new();
    let mut key = |code: u16, down| {
        let scan = Event::scan(0x7_0000 + i32::from(code));
        reports.push(vec![scan, Event::key(code, down)]);
    };
    for code in (2..LEFT_CTRL).chain(KEY_A..LEFT_SHIFT) {
        let shifted = code % 2 == 0;
        if shifted {
            key(LEFT_SHIFT, true);
        }
        key(code, true);
        key(code, false);
        if shifted {
            key(LEFT_SHIFT, false);
        }
    }
    reports
}

/// How the tests move the mouse: in both axes, with clicks on the way, and with the wheel.
///
/// A sender that is behind adds motion up that follows on motion. With a button between, each report has to arrive
/// as it was made.
pub(crate) fn motion() -> Vec<Vec<Event>> {
    let mut reports = Vec::new();
    for step in 0..80 {
        reports.push(vec![
            Event::motion(REL_X, step % 7 + 1),
            Event::motion(REL_Y, -(step % 5) - 1),
        ]);
        reports.push(vec![Event::key(BTN_LEFT, step % 2 == 0)]);
    }
    reports.push(vec![
        Event::motion(REL_WHEEL, -1),
        Event::motion(REL_WHEEL_HI_RES, -120),
    ]);
    reports
}

/// Types and moves at once, a report of each device every few milliseconds.
pub(crate) fn type_and_move(keyboard: &Hardware, mouse: &Hardware) -> anyhow::Result<()> {
    let (typing, motion) = (typing(), motion());
    for step in 0..typing.len().max(motion.len()) {
        for (device, reports) in [(keyboard, &typing), (mouse, &motion)] {
            if let Some(report) = reports.get(step) {
                device.report(report)?;
            }
        }
        std::thread::sleep(Duration::from_millis(4));
    }
    Ok(())
}
