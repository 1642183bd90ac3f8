//! How many strangers may be at the door at once: a pure account of unfinished connections by source.
//!
//! A connection is *unfinished* until it has shown a paired key. Each source (an IPv4 address, an IPv6 /64) has a small
//! number of them and a rate; all together have a larger number, of which the last part is kept for sources that have
//! shown a paired key before. When the others are all taken, a newcomer displaces the oldest connection of the source
//! that has most, if that is more than its own. So hosts that flood the port shut out each other, and not an operator who
//! comes for the first time.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use soft_kvm_core::MonoTime;

/// How much is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Unfinished connections of all sources.
    pub total: usize,
    /// Of these, how many only known sources get.
    pub reserved: usize,
    /// Unfinished connections of one source.
    pub per_source: usize,
    /// Connections that one source may open at once after a pause.
    pub burst: u32,
    /// Time after which a source may open one more.
    pub refill: Duration,
    /// Sources that are remembered; the one that was quiet for longest is forgotten first.
    pub sources: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            total: 64,
            reserved: 16,
            per_source: 8,
            burst: 40,
            refill: Duration::from_millis(100),
            sources: 1_024,
        }
    }
}

/// Why a connection is closed before anything is read from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// All places are taken, none by a source that has more of them.
    Total,
    /// This source's places are taken.
    Source,
    /// This source comes too often.
    Rate,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Total => "too many unfinished connections",
            Self::Source => "too many unfinished connections from this host",
            Self::Rate => "this host connects too often",
        })
    }
}

impl std::error::Error for Full {}

/// Whom a connection counts for: an IPv4 address, or the /64 of an IPv6 address, all of which one host may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source(IpAddr);

impl Source {
    /// The source of an address; IPv4-mapped addresses count as IPv4.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            v4 @ IpAddr::V4(_) => v4,
            IpAddr::V6(v6) => {
                let prefix = u128::from(v6) & !u128::from(u64::MAX);
                // All of fe80::/64 is one link, not one host.
                let whole = v6.is_unicast_link_local();
                IpAddr::V6(if whole { v6 } else { Ipv6Addr::from(prefix) })
            }
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct Account {
    unfinished: usize,
    /// Time at which a full burst is there again.
    full_at: MonoTime,
    last: MonoTime,
    known: bool,
}

/// A connection at the door; later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// A connection is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entered {
    /// To be given back by [`Admission::leave`].
    pub ticket: Ticket,
    /// Who lost the place to it: close that connection now.
    pub displaced: Option<Ticket>,
}

/// The account of everybody at the door.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    /// Unfinished connections, oldest first: at most `limits.total`.
    inside: BTreeMap<Ticket, Source>,
    next: Ticket,
    accounts: HashMap<Source, Account>,
    refused: u64,
}

impl Admission {
    /// Nobody is there.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            inside: BTreeMap::new(),
            next: Ticket(0),
            accounts: HashMap::new(),
            refused: 0,
        }
    }

    /// A connection comes. Every one that is let in has to be given back by [`Self::leave`].
    ///
    /// # Errors
    /// [`Full`]: close it.
    pub fn enter(&mut self, now: MonoTime, source: Source) -> Result<Entered, Full> {
        let outcome = self.judge(now, source);
        if outcome.is_err() {
            self.refused = self.refused.saturating_add(1);
        }
        outcome
    }

    fn judge(&mut self, now: MonoTime, source: Source) -> Result<Entered, Full> {
        let Limits {
            total,
            reserved,
            per_source,
            burst,
            refill,
            ..
        } = self.limits;
        self.make_room(source);
        let account = self.accounts.entry(source).or_insert(Account {
            unfinished: 0,
            full_at: now,
            last: now,
            known: false,
        });
        account.last = now;
        let open = if account.known {
            total
        } else {
            total.saturating_sub(reserved)
        };
        // A bucket of `burst` tokens as the time at which it is full again: one number, and no clock that ticks. Whoever comes
        // takes a token, also when no place is left.
        let owed = account.full_at.since(now);
        if !account.known && owed + refill > refill * burst {
            return Err(Full::Rate);
        }
        account.full_at = now + owed + refill;
        let own = account.unfinished;
        if own >= per_source {
            return Err(Full::Source);
        }
        let mut displaced = None;
        if self.inside.len() >= open {
            let greedy = self.greediest(own).ok_or(Full::Total)?;
            self.leave(greedy);
            displaced = Some(greedy);
        }
        let ticket = self.next;
        self.next = Ticket(ticket.0.wrapping_add(1));
        self.inside.insert(ticket, source);
        if let Some(account) = self.accounts.get_mut(&source) {
            account.unfinished += 1;
        }
        Ok(Entered { ticket, displaced })
    }

    /// The oldest connection of the unknown source that has most of them, if it has more than `own`.
    fn greediest(&self, own: usize) -> Option<Ticket> {
        let mut most = (own, None);
        for (ticket, source) in &self.inside {
            let account = self.accounts.get(source);
            let has = account.filter(|a| !a.known).map_or(0, |a| a.unfinished);
            if has > most.0 {
                most = (has, Some(*ticket));
            }
        }
        most.1
    }

    /// A connection has shown a paired key: its source gets the reserved places from now on, at any rate, and is not
    /// displaced.
    pub fn knows(&mut self, ticket: Ticket) {
        let account = self
            .inside
            .get(&ticket)
            .and_then(|source| self.accounts.get_mut(source));
        if let Some(account) = account {
            account.known = true;
        }
    }

    /// A connection that was let in is finished, or gone. One that has been displaced has left already.
    pub fn leave(&mut self, ticket: Ticket) {
        if let Some(source) = self.inside.remove(&ticket)
            && let Some(account) = self.accounts.get_mut(&source)
        {
            account.unfinished = account.unfinished.saturating_sub(1);
        }
    }

    /// Connections that are at the door now.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.inside.len()
    }

    /// Connections that were refused so far.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Forgets the quietest source without a connection when a new one would be one too many. Those with connections are at
    /// most `total`, so there is one. Known sources go last.
    fn make_room(&mut self, newcomer: Source) {
        if self.accounts.len() < self.limits.sources || self.accounts.contains_key(&newcomer) {
            return;
        }
        let idle = self.accounts.iter().filter(|(_, a)| a.unfinished == 0);
        let quietest = idle.min_by_key(|(_, a)| (a.known, a.last)).map(|(s, _)| *s);
        if let Some(quietest) = quietest {
            self.accounts.remove(&quietest);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        total: 8,
        reserved: 2,
        per_source: 3,
        burst: 4,
        refill: Duration::from_millis(100),
        sources: 16,
    };

    fn host(number: u8) -> Source {
        Source::of(IpAddr::from([10, 0, 0, number]))
    }

    fn at(millis: u64) -> MonoTime {
        MonoTime::from_nanos(1_000_000_000) + Duration::from_millis(millis)
    }

    /// Enters; gives the ticket of a connection that displaced nobody.
    fn enters(door: &mut Admission, millis: u64, number: u8) -> Ticket {
        let entered = door.enter(at(millis), host(number)).expect("a place");
        assert_eq!(entered.displaced, None);
        entered.ticket
    }

    #[test]
    fn a_host_that_floods_shuts_out_itself_only() {
        let mut door = Admission::new(LIMITS);
        for _ in 0..3 {
            enters(&mut door, 0, 1);
        }
        assert_eq!(door.enter(at(0), host(1)), Err(Full::Source));
        enters(&mut door, 0, 2);
        assert_eq!(door.unfinished(), 4);
        assert_eq!(door.refused(), 1);
    }

    #[test]
    fn a_host_that_connects_and_leaves_without_end_is_slowed_down() {
        let mut door = Admission::new(LIMITS);
        let entered = (0..1_000_u64).filter(|turn| {
            let entered = door.enter(at(*turn), host(1));
            if let Ok(entered) = entered {
                door.leave(entered.ticket);
            }
            entered.is_ok()
        });
        // The burst, and one for each 100 ms of the second.
        assert!((13..=14).contains(&entered.count()));
        enters(&mut door, 1_000, 2);
    }

    #[test]
    fn a_known_host_has_places_when_all_others_are_taken() {
        let mut door = Admission::new(LIMITS);
        let ticket = enters(&mut door, 0, 9);
        door.knows(ticket);
        door.leave(ticket);
        let first = enters(&mut door, 1, 1);
        for number in 2..=6 {
            enters(&mut door, 1, number);
        }
        enters(&mut door, 1, 9);
        enters(&mut door, 1, 9);
        assert_eq!(door.enter(at(1), host(9)), Err(Full::Total));
        assert_eq!(door.unfinished(), 8);
        // A stranger gets none of the reserved places, and takes none from a known host.
        let entered = door.enter(at(1), host(7)).expect("a place");
        assert_eq!(entered.displaced, Some(first));
        assert_eq!(door.unfinished(), 8);
    }

    #[test]
    fn a_newcomer_displaces_the_oldest_connection_of_the_host_with_most() {
        let mut door = Admission::new(LIMITS);
        enters(&mut door, 0, 1);
        let second = enters(&mut door, 1, 2);
        enters(&mut door, 2, 3);
        let third = enters(&mut door, 3, 2);
        enters(&mut door, 4, 2);
        enters(&mut door, 5, 3);
        let entered = door.enter(at(6), host(9)).expect("a place");
        assert_eq!(entered.displaced, Some(second));
        // It had to go already: leaving again changes nothing.
        door.knows(second);
        door.leave(second);
        assert_eq!(door.unfinished(), 6);
        // Nobody takes a place from a host that has no more than itself: 1, 9 have one, 2 and 3 two.
        assert_eq!(door.enter(at(7), host(2)), Err(Full::Total));
        let entered = door.enter(at(7), host(1)).expect("a place");
        assert_eq!(entered.displaced, Some(Ticket(2)));
        assert!(door.inside.contains_key(&third));
    }

    /// However many places strangers hold, and whatever they try: who comes once gets in, and stays.
    #[test]
    fn an_operator_who_comes_for_the_first_time_gets_in_during_a_flood() {
        let mut door = Admission::new(Limits::default());
        let mut operator = None;
        for turn in 0..10_000_u64 {
            // 20 hosts that hold what they get.
            let host_number = 100 + u8::try_from(turn % 20).unwrap_or(0);
            if let Ok(entered) = door.enter(at(turn / 10), host(host_number)) {
                let displaced = operator.is_some() && entered.displaced == operator;
                assert!(!displaced, "the operator is displaced");
            }
            if turn == 500 {
                let entered = door.enter(at(turn / 10), host(1)).expect("a place");
                assert_ne!(entered.displaced, None, "there was no flood");
                operator = Some(entered.ticket);
            }
        }
        assert!(door.inside.contains_key(&operator.expect("it entered")));
    }

    #[test]
    fn one_host_has_one_account_whatever_its_address() {
        let source = |text: &str| Source::of(text.parse().expect("an address"));
        assert_eq!(source("fd00::1:2:3:4"), source("fd00::9"));
        assert_ne!(source("fd00::1"), source("fd00:0:0:1::1"));
        assert_eq!(source("::ffff:10.0.0.1"), source("10.0.0.1"));
        assert_ne!(source("10.0.0.1"), source("10.0.0.2"));
        assert_ne!(source("fe80::1"), source("fe80::2"));
    }

    proptest! {
        #[test]
        fn the_account_adds_up_and_is_bounded(
            steps in proptest::collection::vec((0_u8..40, 0_u64..400, any::<bool>(), any::<bool>()), 0..400),
        ) {
            let mut door = Admission::new(LIMITS);
            let mut inside: Vec<(Ticket, Source)> = Vec::new();
            let mut now = 0;
            for (number, later, leaves, known) in steps {
                now += later;
                if leaves && !inside.is_empty() {
                    let (ticket, _) = inside.swap_remove(usize::from(number) % inside.len());
                    if known {
                        door.knows(ticket);
                    }
                    door.leave(ticket);
                } else if let Ok(entered) = door.enter(at(now), host(number)) {
                    inside.retain(|(ticket, _)| Some(*ticket) != entered.displaced);
                    inside.push((entered.ticket, host(number)));
                }
                prop_assert_eq!(door.unfinished(), inside.len());
                prop_assert!(inside.len() <= LIMITS.total);
                prop_assert!(door.accounts.len() <= LIMITS.sources);
                for (_, source) in &inside {
                    let own = inside.iter().filter(|(_, other)| other == source).count();
                    prop_assert_eq!(door.accounts.get(source).map(|a| a.unfinished), Some(own));
                    prop_assert!(own <= LIMITS.per_source);
                }
            }
        }
    }
}
