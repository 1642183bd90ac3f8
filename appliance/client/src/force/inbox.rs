//! What the `force` thread has still to do.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use soft_kvm_core::MonoTime;
use soft_kvm_input::force::Pending;
use soft_kvm_platform::os::clock;
use soft_kvm_platform::os::evdev::STALL;
use soft_kvm_platform::os::force::Hardware;
use soft_kvm_protocol::input::{DeviceId, ForceAbilities, ForceChange, Record};

use crate::session::outputs::lock;

/// How often the thread looks whether the `input` thread still runs.
const LOOK: Duration = Duration::from_millis(500);

/// One thing to do.
#[derive(Debug)]
pub(super) enum Work {
    Arrived(DeviceId, ForceAbilities, Hardware),
    Gone(DeviceId),
    Lost(usize),
    Place(Option<usize>),
    Change(usize, DeviceId, ForceChange),
}

/// What is to be done, the newest state of each effect: it never grows beyond what devices and servers there are.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Debug)]
struct State {
    /// Devices with force feedback that are there.
    known: Vec<DeviceId>,
    arrived: Vec<(DeviceId, ForceAbilities, Hardware)>,
    gone: Vec<DeviceId>,
    /// Servers whose connections have ended.
    lost: Vec<usize>,
    /// The server that has the input, as the `input` thread told it.
    place: Option<usize>,
    /// When it told that.
    seen: MonoTime,
    /// The place that the player was told.
    told: Option<usize>,
    pending: Vec<(usize, DeviceId, Pending)>,
    stopped: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            known: Vec::new(),
            arrived: Vec::new(),
            gone: Vec::new(),
            lost: Vec::new(),
            place: None,
            seen: MonoTime::ZERO,
            told: None,
            pending: Vec::new(),
            stopped: false,
        }
    }
}

impl Inbox {
    /// A device with force feedback is there.
    pub(crate) fn arrived(&self, id: DeviceId, abilities: ForceAbilities, device: Hardware) {
        let mut state = lock(&self.state);
        state.known.push(id);
        state.arrived.push((id, abilities, device));
        drop(state);
        self.news.notify_one();
    }

    /// A device is gone.
    pub(crate) fn gone(&self, id: DeviceId) {
        let mut state = lock(&self.state);
        if !state.known.contains(&id) {
            return;
        }
        state.known.retain(|known| *known != id);
        state.pending.retain(|(_, known, _)| *known != id);
        let before = state.arrived.len();
        state.arrived.retain(|(known, ..)| *known != id);
        if state.arrived.len() == before {
            state.gone.push(id);
        }
        drop(state);
        self.news.notify_one();
    }

    /// The server that has the input at this moment, none when the devices are the operator's own. To be called at every
    /// change and more often than each [`STALL`]: else nothing is played any more.
    pub(crate) fn set_place(&self, place: Option<usize>) {
        let mut state = lock(&self.state);
        state.seen = clock::now();
        if std::mem::replace(&mut state.place, place) != place {
            drop(state);
            self.news.notify_one();
        }
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        lock(&self.state).stopped = true;
        self.news.notify_one();
    }

    /// Waits for the next thing to do; none at the end.
    pub(super) fn next(&self) -> Option<Work> {
        let mut state = lock(&self.state);
        loop {
            if state.stopped {
                return None;
            }
            if let Some(work) = state.take(clock::now()) {
                return Some(work);
            }
            let waited = self.news.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl State {
    fn take(&mut self, now: MonoTime) -> Option<Work> {
        let place = self.place.filter(|_| now.since(self.seen) < STALL);
        if place != self.told {
            self.told = place;
            return Some(Work::Place(place));
        }
        if let Some(server) = self.lost.pop() {
            return Some(Work::Lost(server));
        }
        if let Some(id) = self.gone.pop() {
            return Some(Work::Gone(id));
        }
        if let Some((id, abilities, device)) = self.arrived.pop() {
            return Some(Work::Arrived(id, abilities, device));
        }
        for index in 0..self.pending.len() {
            if let Some((server, id, pending)) = self.pending.get_mut(index)
                && let Some(change) = pending.pop()
            {
                let work = Work::Change(*server, *id, change);
                // The others come before this one's next.
                self.pending.rotate_left(index + 1);
                return Some(work);
            }
        }
        None
    }
}

/// One server's way to the inbox.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    inbox: Arc<Inbox>,
    number: usize,
}

impl Server {
    /// The server with this place among the client's.
    pub(crate) const fn new(inbox: Arc<Inbox>, number: usize) -> Self {
        Self { inbox, number }
    }

    /// Takes a record of the server; one that is no such record, or of a device without force feedback, changes nothing.
    pub(crate) fn handle_record(&self, message: &[u8]) {
        match Record::parse(message) {
            Ok(Record::Force(id, change)) => self.push(id, change),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "force feedback of the server is not understood"),
        }
    }

    fn push(&self, id: DeviceId, change: ForceChange) {
        let mut state = lock(&self.inbox.state);
        if !state.known.contains(&id) {
            return;
        }
        let mut known = state.pending.iter_mut();
        let known = known.find(|(server, device, _)| (*server, *device) == (self.number, id));
        match known {
            Some((.., pending)) => pending.push(change),
            None => {
                let mut pending = Pending::default();
                pending.push(change);
                state.pending.push((self.number, id, pending));
            }
        }
        drop(state);
        self.inbox.news.notify_one();
    }

    /// The connection has ended: nothing that the server wanted counts any more.
    pub(crate) fn lost(&self) {
        let mut state = lock(&self.inbox.state);
        state.pending.retain(|(server, ..)| *server != self.number);
        if !state.lost.contains(&self.number) {
            state.lost.push(self.number);
        }
        drop(state);
        self.inbox.news.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use soft_kvm_protocol::input::{Effect, EffectId, EffectKind};

    use super::*;

    #[test]
    fn nothing_is_played_for_a_client_whose_input_thread_hangs() {
        let mut state = State {
            place: Some(1),
            seen: MonoTime::from_nanos(5),
            ..State::default()
        };
        let soon = state.seen + STALL / 2;
        assert!(matches!(state.take(soon), Some(Work::Place(Some(1)))));
        assert!(state.take(soon).is_none());
        let late = state.seen + STALL;
        assert!(matches!(state.take(late), Some(Work::Place(None))));
        state.seen = late;
        assert!(matches!(state.take(late), Some(Work::Place(Some(1)))));
    }

    #[test]
    fn a_flood_of_plays_takes_no_room_and_a_lost_server_leaves_nothing() {
        let inbox = Arc::new(Inbox::default());
        lock(&inbox.state).known.push(DeviceId(4));
        let (first, second) = (
            Server::new(Arc::clone(&inbox), 0),
            Server::new(Arc::clone(&inbox), 1),
        );
        let id = EffectId::new(0).expect("below 16");
        let effect = Effect {
            id,
            direction: 0,
            trigger_button: 0,
            trigger_interval: 0,
            length: 0,
            delay: 0,
            kind: EffectKind::Rumble { strong: 1, weak: 1 },
        };
        let say = |server: &Server, device, change| {
            let mut message = Vec::new();
            Record::Force(DeviceId(device), change).encode(&mut message);
            server.handle_record(&message);
        };
        for server in [&first, &second] {
            say(server, 4, ForceChange::Upload(effect));
            (0..1_000).for_each(|count| say(server, 4, ForceChange::Play(id, count)));
            say(server, 5, ForceChange::Upload(effect));
        }
        first.lost();
        first.lost();
        let mut state = lock(&inbox.state);
        let mut work = std::iter::from_fn(|| state.take(MonoTime::ZERO));
        assert!(matches!(work.next(), Some(Work::Lost(0))));
        let same = |change| matches!(change, Some(Work::Change(1, DeviceId(4), _)));
        assert!(
            same(work.next()) && same(work.next()),
            "upload and newest play"
        );
        assert!(work.next().is_none());
    }
}
