//! Keyboards and mice that a test makes in the kernel, and readers of kernel input devices.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use evdevil::event::{EventType, InputEvent, Key, Led, Misc, Rel};
use evdevil::uinput::UinputDevice;
use evdevil::{Bus, Evdev, InputId};
use soft_kvm_lab_tests::guest;

use crate::kvm::SOON;

/// How the physical path of the server's virtual devices begins.
const TWIN: &str = "soft-kvm/";

pub(crate) const ESC: u16 = 1;
pub(crate) const LEFT_CTRL: u16 = 29;
pub(crate) const KEY_A: u16 = 30;
pub(crate) const RIGHT_CTRL: u16 = 97;
const LEFT_SHIFT: u16 = 42;
const BTN_LEFT: u16 = 0x110;
const REL_X: u16 = 0;
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

    const fn motion(code: u16, value: i32) -> Self {
        Self {
            kind: EventType::REL,
            code,
            value,
        }
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

    fn plugged(device: UinputDevice, name: &str) -> anyhow::Result<Self> {
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

/// Every event of a device from now on.
#[derive(Debug)]
pub(crate) struct Reader {
    events: Arc<Mutex<Vec<Event>>>,
    gone: Arc<AtomicBool>,
}

impl Reader {
    /// Reads on a thread of its own, which ends with the device: the kernel queues only 64 events.
    pub(crate) fn start(node: &Path) -> anyhow::Result<Self> {
        let device = Evdev::open(node).with_context(|| format!("opening {}", node.display()))?;
        let (events, gone) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let reader = Self {
            events: Arc::clone(&events),
            gone: Arc::clone(&gone),
        };
        std::thread::spawn(move || {
            let mut buffer = [InputEvent::zeroed(); 64];
            while let Ok(count @ 1..) = device.read_events(&mut buffer) {
                let read = buffer.iter().take(count).map(|event| Event {
                    kind: event.event_type(),
                    code: event.raw_code(),
                    value: event.raw_value(),
                });
                lock(&events).extend(read);
            }
            gone.store(true, Ordering::Release);
        });
        Ok(reader)
    }

    /// What was read so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        lock(&self.events).clone()
    }

    /// Whether the device is there no more.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Waits until these reports have been read, and checks that they are all that was.
    pub(crate) fn expect(&self, reports: &[Vec<Event>]) -> anyhow::Result<()> {
        let wanted = flat(reports);
        let enough = guest::wait_for("all events", SOON, || {
            (self.events().len() >= wanted.len()).then_some(())
        });
        // What is too much would come right behind.
        std::thread::sleep(Duration::from_millis(50));
        let got = self.events();
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

fn lock(events: &Mutex<Vec<Event>>) -> std::sync::MutexGuard<'_, Vec<Event>> {
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
