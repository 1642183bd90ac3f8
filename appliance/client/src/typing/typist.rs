//! Sends planned keys at a steady rate over a connection, as a keyboard of its own.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use async_io::Timer;
use futures_lite::FutureExt;
use soft_kvm_core::{Lang, MonoTime};
use soft_kvm_input::text::Plan;
use soft_kvm_platform::os::clock;
use soft_kvm_protocol::input::{DeviceDescriptor, DeviceId, EventReport, InputEvent, KeyCode};

use super::Lamps;
use crate::session::link::InputLink;
use crate::session::outputs::lock;
use crate::view::window_keyboard;

/// The keyboard that types; far from the ids that grabbed devices get.
pub(crate) const KEYBOARD: DeviceId = DeviceId(0xff02);
/// Reports in flight: more would be lost when the connection breaks, fewer would be slow over a long wire.
const IN_FLIGHT: usize = 8;
/// How long the server may be silent before nothing more is typed; the sender gives reports up after 2 s.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// How often to look whether reports have arrived.
const LOOK: Duration = Duration::from_millis(2);
/// Longest that a key is down: no target repeats it so early.
const DOWN: Duration = Duration::from_millis(40);
/// How long the server may think about the keyboard.
const ANSWER: Duration = Duration::from_secs(5);
/// How long the target may take to put its Caps Lock lamp out.
const LAMP: Duration = Duration::from_secs(1);
/// How often to say how far it is.
const TELL: Duration = Duration::from_secs(2);
/// How long the last releases may take when the typing is cancelled.
const GOODBYE: Duration = Duration::from_millis(200);

/// How the typing ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// All keys have arrived.
    Done,
    /// The server did not take the keyboard, or somebody else is using it.
    Refused(String),
    /// The server stopped answering.
    Stalled,
    /// The operator did not want more of it.
    Cancelled,
    /// The target's Caps Lock is on and does not go off by its key.
    CapsLock,
}

/// Whether the server took the keyboard, or why not.
type Taken = Result<(), String>;

/// One text on its way.
#[derive(Debug)]
pub(crate) struct Typist {
    device: DeviceId,
    plan: Plan,
    /// Keys in a second.
    rate: u32,
    /// For the target's programs to open the keyboard.
    wait: Duration,
    /// Steps that have left.
    sent: AtomicUsize,
    /// Steps that the server has confirmed.
    arrived: AtomicUsize,
    /// Whether the server took the keyboard.
    taken: (Sender<Taken>, Receiver<Taken>),
    refused: Mutex<Option<String>>,
    /// The target's Caps Lock was switched off for the text.
    caps_lock: AtomicBool,
    /// Somebody wants no more of it.
    cancelled: Arc<AtomicBool>,
    end: OnceLock<End>,
}

impl End {
    /// Why nothing was typed with the target's Caps Lock on.
    pub(crate) fn caps_lock(lang: Lang) -> &'static str {
        lang.pick(
            "Caps Lock is on at the server and does not go off by its key: nothing was typed",
            "サーバーの Caps Lock がオンで、キーでは解除できません。何も入力していません",
        )
    }
}

impl Typist {
    /// A plan that has not begun.
    pub(crate) fn new(plan: Plan, rate: u32, wait: Duration) -> Self {
        Self {
            device: KEYBOARD,
            plan,
            rate: rate.max(1),
            wait,
            sent: AtomicUsize::new(0),
            arrived: AtomicUsize::new(0),
            taken: async_channel::bounded(1),
            refused: Mutex::new(None),
            caps_lock: AtomicBool::new(false),
            cancelled: Arc::default(),
            end: OnceLock::new(),
        }
    }

    /// A plan for a keyboard that the server has already; `cancelled` stops it, with all keys up.
    pub(crate) fn on(device: DeviceId, plan: Plan, rate: u32, cancelled: Arc<AtomicBool>) -> Self {
        let typist = Self {
            device,
            cancelled,
            ..Self::new(plan, rate, Duration::ZERO)
        };
        typist.answered(KEYBOARD.0, Ok(()));
        typist
    }

    /// The keyboard that types. It has no auto-repeat: no key is meant to be held.
    pub(crate) fn keyboard() -> DeviceDescriptor {
        DeviceDescriptor {
            name: "Soft KVM typing keyboard".to_owned(),
            repeat: None,
            ..window_keyboard(KEYBOARD)
        }
    }

    /// The server has answered to the keyboard.
    pub(crate) fn answered(&self, id: u16, result: Result<(), String>) {
        if id == KEYBOARD.0 {
            // Only the first answer counts.
            let _ = self.taken.0.try_send(result);
        }
    }

    /// The server has refused something.
    pub(crate) fn refused(&self, reason: String) {
        *lock(&self.refused) = Some(reason);
    }

    /// How it ended; nothing while it goes on, or when it was cut off.
    pub(crate) fn end(&self) -> Option<&End> {
        self.end.get()
    }

    /// Characters that have arrived, of how many.
    pub(crate) fn progress(&self) -> (u32, u32) {
        let arrived = self.arrived.load(Ordering::Acquire);
        let last = arrived.checked_sub(1);
        let step = last.and_then(|last| self.plan.steps.get(last));
        (step.map_or(0, |step| step.typed), self.plan.characters)
    }

    /// How long it takes at this rate, at least.
    pub(crate) fn duration(&self) -> Duration {
        let steps = u32::try_from(self.plan.steps.len()).unwrap_or(u32::MAX);
        Duration::from_secs(1) / (2 * self.rate) * steps
    }

    /// Types everything, and tells the characters typed now and then.
    pub(crate) async fn run(&self, link: &InputLink, lamps: &Lamps, tell: impl Fn(u32, u32)) {
        let end = match self.begin(link, lamps).await {
            Ok(()) => self.type_all(link, tell).await,
            Err(end) => end,
        };
        if end == End::Done {
            self.restore_caps_lock(link);
            // Its arrival is no part of the text.
            let _ = self.make_room(link, 1).await;
        } else {
            link.release_all(clock::now());
        }
        self.end.get_or_init(|| end);
    }

    async fn begin(&self, link: &InputLink, lamps: &Lamps) -> Result<(), End> {
        let limit = async {
            Timer::after(ANSWER).await;
            Err(async_channel::RecvError)
        };
        match self.taken.1.recv().or(limit).await {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => return Err(End::Refused(reason)),
            Err(_) => return Err(End::Stalled),
        }
        Timer::after(self.wait).await;
        if lamps.caps_lock() != Some(true) {
            return Ok(());
        }
        // It would exchange capital and small letters.
        tap(link, self.device, KeyCode::CAPSLOCK);
        self.caps_lock.store(true, Ordering::Release);
        let begin = clock::now();
        while lamps.caps_lock() != Some(false) {
            if clock::now().since(begin) > LAMP {
                return Err(End::CapsLock);
            }
            Timer::after(LOOK).await;
        }
        Ok(())
    }

    fn restore_caps_lock(&self, link: &InputLink) {
        if self.caps_lock.swap(false, Ordering::AcqRel) {
            tap(link, self.device, KeyCode::CAPSLOCK);
        }
    }

    async fn type_all(&self, link: &InputLink, tell: impl Fn(u32, u32)) -> End {
        let slot = Duration::from_secs(1) / (2 * self.rate);
        let mut told = clock::now();
        for (index, step) in self.plan.steps.iter().enumerate() {
            if let Some(end) = self.make_room(link, IN_FLIGHT).await {
                return end;
            }
            press(link, self.device, step.key, step.down);
            self.sent.store(index + 1, Ordering::Release);
            if clock::now().since(told) >= TELL {
                told = clock::now();
                let (typed, all) = self.progress();
                tell(typed, all);
            }
            let pause = if step.down {
                slot.min(DOWN)
            } else {
                2 * slot - slot.min(DOWN)
            };
            Timer::after(pause).await;
        }
        self.make_room(link, 1).await.unwrap_or(End::Done)
    }

    /// Waits until fewer than `limit` reports are on their way.
    async fn make_room(&self, link: &InputLink, limit: usize) -> Option<End> {
        let begin = clock::now();
        loop {
            let waiting = self.note(link);
            if self.cancelled.load(Ordering::Acquire) {
                return Some(End::Cancelled);
            }
            if let Some(reason) = lock(&self.refused).take() {
                return Some(End::Refused(reason));
            }
            if waiting < limit {
                return None;
            }
            if clock::now().since(begin) > PATIENCE {
                return Some(End::Stalled);
            }
            Timer::after(LOOK).await;
        }
    }

    /// Counts what has arrived; answers what has not.
    fn note(&self, link: &InputLink) -> usize {
        let waiting = link.unconfirmed();
        let sent = self.sent.load(Ordering::Acquire);
        let arrived = sent.saturating_sub(waiting);
        self.arrived.fetch_max(arrived, Ordering::AcqRel);
        waiting
    }

    /// Lets all keys go when the typing is cut off, and counts what had arrived.
    pub(crate) async fn cut_off(&self, link: &InputLink) {
        if self.end().is_some() {
            return;
        }
        let begin: MonoTime = clock::now();
        while self.note(link) > 0 && clock::now().since(begin) < GOODBYE {
            Timer::after(LOOK).await;
        }
        link.release_all(clock::now());
        self.restore_caps_lock(link);
        while link.unconfirmed() > 0 && clock::now().since(begin) < 2 * GOODBYE {
            Timer::after(LOOK).await;
        }
    }
}

fn tap(link: &InputLink, device: DeviceId, key: KeyCode) {
    press(link, device, key, true);
    press(link, device, key, false);
}

fn press(link: &InputLink, device: DeviceId, key: KeyCode, down: bool) {
    let now = clock::now();
    let report = EventReport {
        device,
        time: now,
        unfinished: false,
        events: &[InputEvent::key(key, down)],
    };
    link.push(now, report);
}
