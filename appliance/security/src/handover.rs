//! Who has keyboard and mouse: one client at a time, by request, grant and take. Pure: time and sessions come as arguments.
//!
//! A client is its key: two sessions of one (it has just reconnected, or asks from a terminal) stand together. When keyboard
//! and mouse go from one client to another by a [`ControlRequest`], nobody is heard until the caller has lifted what the old
//! one holds and says so ([`Handover::lifted`]). A client is heard from when all its keys are up: none of its keys that went
//! down before gets in.

#[cfg(test)]
mod tests;

use std::time::Duration;

use soft_kvm_core::MonoTime;
use soft_kvm_protocol::handover::{
    ControlAnswer, ControlRequest, ControlState, HandoverRule, MAX_ASKING, Seat, Standing,
};
use soft_kvm_protocol::pairing::PeerName;
use soft_kvm_protocol::roles::Role;

use crate::Fingerprint;
use crate::policy::{self, Act};

/// How long who has just typed has to be still before another may begin ([`HandoverRule::Still`]).
pub const STILL: Duration = Duration::from_secs(1);

/// The same for a client that was given keyboard and mouse, or took them: it wants to keep them.
pub const KEPT: Duration = Duration::from_secs(60);

/// Most requests of one session in [`PER`]: each is told to everyone.
const MAX_REQUESTS: u32 = 20;
const PER: Duration = Duration::from_secs(10);

/// Most changes that are kept until they are asked for.
const MAX_CHANGES: usize = 64;

/// Fewest digits of a fingerprint that name a client.
const MIN_DIGITS: usize = 8;

/// Number of a session, never used again.
pub type SessionId = u64;

/// What happened, for the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whose doing it is, or to whom keyboard and mouse went.
    pub peer: Fingerprint,
    /// Its name for people.
    pub name: String,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// It has keyboard and mouse now.
    Controls(How),
    /// It asks for them.
    Asks,
    /// It was refused them.
    Refused,
    /// It has them no more, and nobody has.
    Released,
}

/// How a client came to have keyboard and mouse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum How {
    /// It typed while nobody else did.
    Typed,
    /// It asked, and nobody used them.
    Asked,
    /// Who had them gave them.
    Granted,
    /// An admin took them.
    Taken,
}

impl How {
    /// As in the audit log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Typed => "typed",
            Self::Asked => "asked",
            Self::Granted => "granted",
            Self::Taken => "taken",
        }
    }
}

/// Whether events count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// They do.
    Granted,
    /// They don't, which the client knows.
    Refused,
    /// They don't since now, because of this client, which has just typed.
    InUse(String),
    /// They don't since now, because of this client, which has to be asked.
    Kept(String),
}

/// The clients of a server, and which of them has keyboard and mouse.
#[derive(Debug, Default)]
pub struct Handover {
    rule: HandoverRule,
    members: Vec<Member>,
    place: Place,
    /// The first first; never who has keyboard and mouse.
    asking: Vec<Fingerprint>,
    /// Goes up with each hand-over.
    turn: u64,
    /// The state differs from what was told last.
    changed: bool,
    changes: Vec<Change>,
}

#[derive(Debug)]
struct Member {
    session: SessionId,
    peer: Fingerprint,
    name: PeerName,
    role: Role,
    /// A key of this session is down, heard or not.
    busy: bool,
    /// The turn since which it is heard.
    heard: Option<u64>,
    /// The turn of another that it was told of.
    told: Option<u64>,
    /// Its requests since a moment.
    requests: (MonoTime, u32),
}

#[derive(Clone, Copy, Debug, Default)]
enum Place {
    #[default]
    Free,
    /// One client is heard.
    Held(Holder),
    /// Nobody is heard until the keys of who had keyboard and mouse are up.
    Lifting { next: Option<(Fingerprint, How)> },
}

#[derive(Clone, Copy, Debug)]
struct Holder {
    peer: Fingerprint,
    /// It wants to keep them.
    kept: bool,
    last: MonoTime,
}

impl Handover {
    /// Changes when keyboard and mouse go over without a word.
    pub fn set_rule(&mut self, rule: HandoverRule) {
        self.changed |= self.rule != rule;
        self.rule = rule;
    }

    /// A session begins.
    pub fn join(&mut self, session: SessionId, peer: Fingerprint, name: PeerName, role: Role) {
        self.members.push(Member {
            session,
            peer,
            name,
            role,
            busy: false,
            heard: None,
            told: None,
            requests: (MonoTime::ZERO, 0),
        });
    }

    /// A session has ended, and its keys are up. The last one of a client frees its place, for who has asked first.
    pub fn leave(&mut self, session: SessionId, now: MonoTime) {
        let Some(at) = self.members.iter().position(|m| m.session == session) else {
            return;
        };
        let left = self.members.remove(at);
        if self.members.iter().any(|m| m.peer == left.peer) {
            return;
        }
        let before = self.asking.len();
        self.asking.retain(|peer| *peer != left.peer);
        self.changed |= self.asking.len() < before;
        match &mut self.place {
            Place::Held(holder) if holder.peer == left.peer => {
                self.note(left.peer, left.name.to_string(), What::Released);
                self.pass_on(now);
            }
            Place::Lifting { next } if next.is_some_and(|(peer, _)| peer == left.peer) => {
                *next = None;
            }
            _ => {}
        }
    }

    /// Asks for events of a session that are to be applied at `now`; `begins`: all its keys were up before, `busy`: one is
    /// down after. Allocates only when keyboard and mouse go over or are refused anew.
    pub fn claim(&mut self, session: SessionId, now: MonoTime, begins: bool, busy: bool) -> Claim {
        let turn = self.turn;
        let Some(member) = self.members.iter_mut().find(|m| m.session == session) else {
            return Claim::Refused;
        };
        member.busy = busy;
        if !policy::may(member.role, Act::Inject) {
            return Claim::Refused;
        }
        let peer = member.peer;
        match &mut self.place {
            Place::Lifting { .. } => Claim::Refused,
            Place::Held(holder) if holder.peer == peer => {
                if member.heard != Some(turn) && !begins {
                    return Claim::Refused;
                }
                member.heard = Some(turn);
                holder.last = now;
                Claim::Granted
            }
            Place::Held(holder) => {
                let holder = *holder;
                if self.rule == HandoverRule::Still && self.is_still(holder, now) {
                    return self.begin(session, peer, now, begins);
                }
                self.turn_away(session, holder)
            }
            Place::Free => self.begin(session, peer, now, begins),
        }
    }

    /// Whatever was down of this session is up: one of its devices is gone.
    pub fn set_busy(&mut self, session: SessionId, busy: bool) {
        if let Some(member) = self.members.iter_mut().find(|m| m.session == session) {
            member.busy = busy;
        }
    }

    /// Answers a request of a session. When a client is given as well, all that it holds has to be lifted now, on every session
    /// of it, and then [`Handover::lifted`] be called.
    pub fn request(
        &mut self,
        session: SessionId,
        now: MonoTime,
        request: &ControlRequest,
    ) -> (ControlAnswer, Option<Fingerprint>) {
        let outcome = self.decide(session, now, request);
        outcome.unwrap_or_else(|refusal| (ControlAnswer::Refused(refusal.to_string()), None))
    }

    /// All keys of who had keyboard and mouse are up.
    pub fn lifted(&mut self, now: MonoTime) {
        let Place::Lifting { next } = self.place else {
            return;
        };
        match next.filter(|(peer, _)| self.name_of(*peer).is_some()) {
            Some((peer, how)) => self.give(peer, how, now),
            None => self.pass_on(now),
        }
    }

    /// The state as a session is told it; nothing for one that is not there, and while keys are being lifted.
    #[must_use]
    pub fn state_for(&self, session: SessionId) -> Option<ControlState> {
        if matches!(self.place, Place::Lifting { .. }) {
            return None;
        }
        let member = self.members.iter().find(|m| m.session == session)?;
        let controller = self.controller();
        let you = if controller == Some(member.peer) {
            Standing::Controls
        } else if !policy::may(member.role, Act::Inject) {
            Standing::Watches
        } else if self.asking.contains(&member.peer) {
            Standing::Asks
        } else {
            Standing::May
        };
        Some(ControlState {
            controller: controller.and_then(|peer| self.seat(peer)),
            asking: self
                .asking
                .iter()
                .filter_map(|peer| self.seat(*peer))
                .collect(),
            you,
            rule: self.rule,
        })
    }

    /// Who has keyboard and mouse.
    #[must_use]
    pub const fn controller(&self) -> Option<Fingerprint> {
        match self.place {
            Place::Held(holder) => Some(holder.peer),
            Place::Free | Place::Lifting { .. } => None,
        }
    }

    /// Whether everyone has to be told the state anew; asked once for each change.
    pub fn take_changed(&mut self) -> bool {
        if matches!(self.place, Place::Lifting { .. }) {
            return false;
        }
        std::mem::take(&mut self.changed)
    }

    /// What happened since the last call, in order.
    #[must_use]
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// The sessions of a client.
    pub fn sessions_of(&self, peer: Fingerprint) -> impl Iterator<Item = SessionId> + '_ {
        let of = move |m: &&Member| m.peer == peer;
        self.members.iter().filter(of).map(|m| m.session)
    }

    /// A client's name for people, while it has a session.
    #[must_use]
    pub fn name_of(&self, peer: Fingerprint) -> Option<String> {
        let member = self.members.iter().find(|m| m.peer == peer)?;
        Some(member.name.to_string())
    }

    fn decide(
        &mut self,
        session: SessionId,
        now: MonoTime,
        request: &ControlRequest,
    ) -> Result<(ControlAnswer, Option<Fingerprint>), Refusal> {
        let member = self.members.iter_mut().find(|m| m.session == session);
        let member = member.ok_or(Refusal::Role)?;
        let (since, count) = &mut member.requests;
        if now.since(*since) >= PER {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        if *count > MAX_REQUESTS {
            return Err(Refusal::Often);
        }
        let (peer, role) = (member.peer, member.role);
        if *request == (ControlRequest::Show {}) {
            return Ok((ControlAnswer::Done, None));
        }
        if !policy::may(role, Act::Inject) {
            return Err(Refusal::Role);
        }
        let has = self.controller() == Some(peer);
        match request {
            ControlRequest::Request {} | ControlRequest::Take {} if has => {
                if let Place::Held(holder) = &mut self.place {
                    holder.kept = true;
                }
                Ok((ControlAnswer::Given, None))
            }
            ControlRequest::Request {} => self.ask(peer, now),
            ControlRequest::Take {} if !policy::may(role, Act::Take) => Err(Refusal::Admin),
            ControlRequest::Take {} => {
                let old = self.hand_to(peer, How::Taken, now);
                Ok((ControlAnswer::Given, old))
            }
            ControlRequest::Grant { client } => {
                if !has {
                    return Err(Refusal::NotYours);
                }
                let to = self.select(client.as_deref())?;
                let old = self.hand_to(to, How::Granted, now);
                Ok((ControlAnswer::Done, old))
            }
            ControlRequest::Refuse { client } => {
                if !has {
                    return Err(Refusal::NotYours);
                }
                let whom = self.select(client.as_deref())?;
                self.asking.retain(|peer| *peer != whom);
                self.changed = true;
                let name = self.name_of(whom).unwrap_or_default();
                self.note(whom, name, What::Refused);
                Ok((ControlAnswer::Done, None))
            }
            ControlRequest::Release {} if has => {
                let name = self.name_of(peer).unwrap_or_default();
                self.note(peer, name, What::Released);
                self.place = Place::Lifting { next: None };
                self.changed = true;
                Ok((ControlAnswer::Done, Some(peer)))
            }
            ControlRequest::Release {} if self.asking.contains(&peer) => {
                self.asking.retain(|other| *other != peer);
                self.changed = true;
                Ok((ControlAnswer::Done, None))
            }
            ControlRequest::Release {} => Err(Refusal::NotYours),
            _ => Err(Refusal::Request),
        }
    }

    fn ask(
        &mut self,
        peer: Fingerprint,
        now: MonoTime,
    ) -> Result<(ControlAnswer, Option<Fingerprint>), Refusal> {
        let free = match self.place {
            Place::Free => true,
            Place::Held(holder) => self.rule == HandoverRule::Still && self.is_still(holder, now),
            Place::Lifting { .. } => false,
        };
        if free {
            let old = self.hand_to(peer, How::Asked, now);
            return Ok((ControlAnswer::Given, old));
        }
        if !self.asking.contains(&peer) {
            if self.asking.len() >= MAX_ASKING {
                return Err(Refusal::Full);
            }
            self.asking.push(peer);
            self.changed = true;
            let name = self.name_of(peer).unwrap_or_default();
            self.note(peer, name, What::Asks);
        }
        Ok((ControlAnswer::Asked, None))
    }

    /// Gives keyboard and mouse to a client, at once or when who has them, who is answered, has let go.
    fn hand_to(&mut self, to: Fingerprint, how: How, now: MonoTime) -> Option<Fingerprint> {
        match self.place {
            Place::Held(holder) => {
                let next = Some((to, how));
                self.place = Place::Lifting { next };
                self.changed = true;
                Some(holder.peer)
            }
            Place::Lifting { .. } => {
                let next = Some((to, how));
                self.place = Place::Lifting { next };
                None
            }
            Place::Free => {
                self.give(to, how, now);
                None
            }
        }
    }

    /// Nobody has keyboard and mouse: the next who has asked gets them.
    fn pass_on(&mut self, now: MonoTime) {
        self.place = Place::Free;
        self.changed = true;
        if let Some(next) = self.asking.first().copied() {
            self.give(next, How::Asked, now);
        }
    }

    fn give(&mut self, peer: Fingerprint, how: How, now: MonoTime) {
        self.turn += 1;
        self.place = Place::Held(Holder {
            peer,
            kept: how != How::Typed,
            last: now,
        });
        self.asking.retain(|other| *other != peer);
        self.changed = true;
        let name = self.name_of(peer).unwrap_or_default();
        self.note(peer, name, What::Controls(how));
    }

    /// A client types while nobody else does: all its keys have to have been up.
    fn begin(
        &mut self,
        session: SessionId,
        peer: Fingerprint,
        now: MonoTime,
        begins: bool,
    ) -> Claim {
        if !begins {
            return Claim::Refused;
        }
        self.give(peer, How::Typed, now);
        let turn = self.turn;
        if let Some(member) = self.members.iter_mut().find(|m| m.session == session) {
            member.heard = Some(turn);
        }
        Claim::Granted
    }

    fn turn_away(&mut self, session: SessionId, holder: Holder) -> Claim {
        let turn = self.turn;
        let member = self.members.iter_mut().find(|m| m.session == session);
        if member.is_none_or(|m| m.told.replace(turn) == Some(turn)) {
            return Claim::Refused;
        }
        let by = self.name_of(holder.peer).unwrap_or_default();
        if holder.kept || self.rule == HandoverRule::Ask {
            Claim::Kept(by)
        } else {
            Claim::InUse(by)
        }
    }

    /// Who has keyboard and mouse does not use them: no key of theirs is down, and they have been still.
    fn is_still(&self, holder: Holder, now: MonoTime) -> bool {
        let heard = |m: &Member| m.peer == holder.peer && m.heard == Some(self.turn);
        let wait = if holder.kept { KEPT } else { STILL };
        !self.members.iter().any(|m| heard(m) && m.busy) && now.since(holder.last) >= wait
    }

    /// Who is meant among those that have asked.
    fn select(&self, text: Option<&str>) -> Result<Fingerprint, Refusal> {
        let Some(text) = text.map(str::trim) else {
            return self.asking.first().copied().ok_or(Refusal::NobodyAsks);
        };
        let digits = text.len() >= MIN_DIGITS && text.bytes().all(|b| b.is_ascii_hexdigit());
        let digits = digits.then(|| text.to_ascii_lowercase());
        let meant = |peer: &&Fingerprint| {
            let named = self.name_of(**peer);
            let named = named.is_some_and(|name| name.eq_ignore_ascii_case(text));
            let begins = |digits: &String| peer.to_string().starts_with(digits.as_str());
            named || digits.as_ref().is_some_and(begins)
        };
        let mut found = self.asking.iter().filter(meant);
        match (found.next(), found.next()) {
            (None, _) => Err(Refusal::NobodyAsks),
            (Some(one), None) => Ok(*one),
            (Some(_), Some(_)) => Err(Refusal::Ambiguous),
        }
    }

    fn seat(&self, peer: Fingerprint) -> Option<Seat> {
        let member = self.members.iter().find(|m| m.peer == peer)?;
        Some(Seat {
            name: member.name.clone(),
            key: peer.short(),
        })
    }

    fn note(&mut self, peer: Fingerprint, name: String, what: What) {
        if self.changes.len() < MAX_CHANGES {
            self.changes.push(Change { peer, name, what });
        }
    }
}

/// Why a request changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("this client may only watch")]
    Role,
    #[error("only admins may take keyboard and mouse from another: ask for them")]
    Admin,
    #[error("this client does not have keyboard and mouse")]
    NotYours,
    #[error("no such client asks for keyboard and mouse")]
    NobodyAsks,
    #[error("several clients that ask are called so: give the first digits of a fingerprint")]
    Ambiguous,
    #[error("too many clients wait already")]
    Full,
    #[error("too many requests in a short time")]
    Often,
    #[error("this request is not understood")]
    Request,
}
