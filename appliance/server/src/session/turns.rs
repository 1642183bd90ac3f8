//! Whose keyboard and mouse the machine hears when several clients have theirs here: the sessions around
//! [`Handover`], which decides it.
//!
//! Everyone is told of every change. Others' input is dropped meanwhile, and theirs counts again once all their keys were
//! up: no key of one gets into what another types, and none is left down.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_channel::{Sender, TrySendError};
use soft_kvm_core::MonoTime;
use soft_kvm_platform::os::clock;
use soft_kvm_protocol::control::FromServer;
use soft_kvm_protocol::handover::{ControlAnswer, ControlRequest, HandoverRule, Standing};
use soft_kvm_protocol::input::{DeviceId, HeldKeys, InputEvent};
use soft_kvm_protocol::pairing::PeerName;
use soft_kvm_protocol::roles::Role;
use soft_kvm_security::Fingerprint;
use soft_kvm_security::handover::{Change, Claim, Handover, SessionId, What};

use super::Outgoing;

/// Who has keyboard and mouse, for all sessions of a server.
#[derive(Debug, Default)]
pub struct Turns(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    sessions: SessionId,
    handover: Handover,
    /// Where each session is told.
    channels: Vec<(SessionId, Sender<Outgoing>)>,
    /// For the audit log.
    changes: Vec<Change>,
}

impl Turns {
    /// What happened since the last call, in order.
    #[must_use]
    pub fn take_changes(&self) -> Vec<Change> {
        let mut state = self.lock();
        state.collect();
        std::mem::take(&mut state.changes)
    }

    /// Changes when keyboard and mouse go over without a word.
    pub fn set_rule(&self, rule: HandoverRule) {
        let mut state = self.lock();
        state.handover.set_rule(rule);
        state.tell();
    }

    /// Answers a session's request. What `lift` gets the key of is to be lifted before it returns, on all sessions of that
    /// client.
    pub fn request(
        &self,
        session: SessionId,
        request: &ControlRequest,
        lift: impl FnOnce(Fingerprint),
    ) -> ControlAnswer {
        let (answer, old) = {
            let mut state = self.lock();
            let outcome = state.handover.request(session, clock::now(), request);
            state.tell();
            outcome
        };
        if let Some(old) = old {
            // Nobody is heard meanwhile, and no lock is held: a session's thread may be at its input.
            lift(old);
            let mut state = self.lock();
            state.handover.lifted(clock::now());
            state.tell();
        }
        if *request == (ControlRequest::Show {}) {
            self.lock().tell_one(session);
        }
        answer
    }

    /// Whether this session's client has keyboard and mouse now.
    #[must_use]
    pub fn has(&self, session: SessionId) -> bool {
        let state = self.lock().handover.state_for(session);
        state.is_some_and(|state| state.you == Standing::Controls)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves its data consistent: a panic elsewhere is reported where it happened.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Tells everyone, if something has changed; never waits.
    fn tell(&mut self) {
        self.collect();
        if self.handover.take_changed() {
            for (session, channel) in &self.channels {
                self.tell_on(*session, channel);
            }
        }
    }

    fn tell_one(&self, session: SessionId) {
        if let Some((_, channel)) = self.channels.iter().find(|(other, _)| *other == session) {
            self.tell_on(session, channel);
        }
    }

    fn tell_on(&self, session: SessionId, channel: &Sender<Outgoing>) {
        if let Some(state) = self.handover.state_for(session) {
            send(channel, FromServer::Control { state });
        }
    }

    /// Takes what happened over; who was refused is told.
    fn collect(&mut self) {
        let changes = self.handover.take_changes();
        for change in changes.iter().filter(|change| change.what == What::Refused) {
            let by = self.handover.controller();
            let by = by.and_then(|peer| self.handover.name_of(peer));
            let why = format!("{} keeps keyboard and mouse", by.unwrap_or_default());
            for session in self.handover.sessions_of(change.peer) {
                if let Some((_, channel)) = self.channels.iter().find(|(id, _)| *id == session) {
                    let answer = ControlAnswer::Refused(why.clone());
                    send(channel, FromServer::ControlAnswer { answer });
                }
            }
        }
        let room = MAX_CHANGES.saturating_sub(self.changes.len());
        self.changes.extend(changes.into_iter().take(room));
    }
}

/// Most changes that are kept until they are asked for, each second or when a session ends.
const MAX_CHANGES: usize = 256;

/// As [`super::Session::tell`]: a client that does not read is cut off.
fn send(channel: &Sender<Outgoing>, message: FromServer) {
    if let Err(TrySendError::Full(_)) = channel.try_send(Outgoing::Message(message)) {
        channel.close();
    }
}

/// One session's part; dropping it, or [`Turn::leave`], ends it.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    session: SessionId,
    /// What this client holds, heard or not.
    held: HeldKeys,
}

impl Turn {
    /// A session of a client; without a role it may do nothing.
    pub(super) fn new(
        turns: Arc<Turns>,
        peer: Fingerprint,
        name: &PeerName,
        role: Option<Role>,
    ) -> Self {
        let session = {
            let mut state = turns.lock();
            state.sessions += 1;
            let session = state.sessions;
            let role = role.unwrap_or(Role::View);
            state.handover.join(session, peer, name.clone(), role);
            session
        };
        Self {
            turns,
            session,
            held: HeldKeys::new(),
        }
    }

    /// The session is told of changes here; how it is now is the first.
    pub(super) fn attach(&self, channel: Sender<Outgoing>) {
        let mut state = self.turns.lock();
        state.channels.push((self.session, channel));
        state.tell_one(self.session);
    }

    /// The session's number, and where its requests go.
    pub(super) const fn ends(&self) -> (SessionId, &Arc<Turns>) {
        (self.session, &self.turns)
    }

    /// Asks for events that are to be applied at `now`. Allocates only when the turn goes over or is refused anew.
    pub(super) fn claim(
        &mut self,
        now: MonoTime,
        device: DeviceId,
        events: &[InputEvent],
    ) -> Claim {
        let begins = self.held.is_empty();
        for event in events {
            self.held.apply(device, *event);
        }
        let busy = !self.held.is_empty();
        let mut state = self.turns.lock();
        let claim = state.handover.claim(self.session, now, begins, busy);
        state.tell();
        claim
    }

    pub(super) fn remove_device(&mut self, device: DeviceId) {
        self.held.retain(|owner, _| owner != device);
        let mut state = self.turns.lock();
        let busy = !self.held.is_empty();
        state.handover.set_busy(self.session, busy);
    }

    /// The session has ended, its keys are up.
    pub(super) fn leave(&self) {
        let mut state = self.turns.lock();
        state.channels.retain(|(other, _)| *other != self.session);
        state.handover.leave(self.session, clock::now());
        state.tell();
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use soft_kvm_protocol::input::KeyCode;

    use super::*;

    const DEVICE: DeviceId = DeviceId(1);
    const DOWN: [InputEvent; 1] = [InputEvent::key(KeyCode::A, true)];
    const UP: [InputEvent; 1] = [InputEvent::key(KeyCode::A, false)];

    fn at(millis: u64) -> MonoTime {
        MonoTime::ZERO + Duration::from_millis(millis)
    }

    fn turn(turns: &Arc<Turns>, byte: u8, name: &str) -> Turn {
        let peer = Fingerprint::from_bytes([byte; 32]);
        let name = PeerName::new(name).expect("a name");
        Turn::new(Arc::clone(turns), peer, &name, Some(Role::Control))
    }

    #[test]
    fn a_client_that_reconnects_goes_on() {
        let turns = Arc::new(Turns::default());
        let mut before = turn(&turns, 1, "seat");
        assert_eq!(before.claim(at(0), DEVICE, &DOWN), Claim::Granted);
        let mut after = turn(&turns, 1, "seat");
        assert_eq!(after.claim(at(1), DEVICE, &DOWN), Claim::Granted);
        drop(before);
        let mut other = turn(&turns, 2, "other");
        let refused = Claim::InUse("seat".to_owned());
        assert_eq!(other.claim(at(9_000), DEVICE, &DOWN), refused);
    }

    #[test]
    fn who_holds_a_key_keeps_the_turn_and_the_other_begins_afresh() {
        let turns = Arc::new(Turns::default());
        let (mut one, mut other) = (turn(&turns, 1, "one"), turn(&turns, 2, "other"));
        assert_eq!(one.claim(at(0), DEVICE, &DOWN), Claim::Granted);
        let refused = Claim::InUse("one".to_owned());
        assert_eq!(other.claim(at(5_000), DEVICE, &DOWN), refused);
        assert!(turns.has(one.session) && !turns.has(other.session));
        assert_eq!(one.claim(at(5_100), DEVICE, &UP), Claim::Granted);
        assert_eq!(other.claim(at(5_200), DEVICE, &UP), Claim::Refused);
        assert_eq!(other.claim(at(5_300), DEVICE, &DOWN), Claim::Refused);
        // Still enough, but this key went down before.
        assert_eq!(other.claim(at(6_100), DEVICE, &UP), Claim::Refused);
        assert_eq!(other.claim(at(6_101), DEVICE, &DOWN), Claim::Granted);
        let refused = Claim::InUse("other".to_owned());
        assert_eq!(one.claim(at(6_102), DEVICE, &DOWN), refused);
        drop(other);
        assert_eq!(one.claim(at(6_103), DEVICE, &UP), Claim::Refused);
        assert_eq!(one.claim(at(6_104), DEVICE, &DOWN), Claim::Granted);
        let mut other = turn(&turns, 2, "other");
        one.remove_device(DEVICE);
        assert_eq!(other.claim(at(7_104), DEVICE, &DOWN), Claim::Granted);
    }

    #[test]
    fn everyone_is_told_of_every_change() {
        let turns = Arc::new(Turns::default());
        let (mut one, other) = (turn(&turns, 1, "one"), turn(&turns, 2, "other"));
        let (sender, heard) = async_channel::bounded(8);
        other.attach(sender);
        let next = || match heard.try_recv() {
            Ok(Outgoing::Message(FromServer::Control { state })) => {
                Some(state.controller.map(|seat| seat.name.to_string()))
            }
            _ => None,
        };
        assert_eq!(next(), Some(None), "the state at the start");
        assert_eq!(one.claim(at(0), DEVICE, &DOWN), Claim::Granted);
        assert_eq!(next(), Some(Some("one".to_owned())));
        assert_eq!(one.claim(at(1), DEVICE, &UP), Claim::Granted);
        assert_eq!(next(), None, "nothing has changed");
        one.leave();
        assert_eq!(next(), Some(None));
        assert_eq!(turns.take_changes().len(), 2);
    }
}
