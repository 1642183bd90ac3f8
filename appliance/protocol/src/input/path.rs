//! Which way the operator's datagrams take: UDP, or the control channel where UDP does not get through.

use std::time::Duration;

use soft_kvm_core::MonoTime;

/// After so long without an answer by UDP, datagrams go both ways: well before the lease ends, so that no held key is
/// lifted when UDP dies.
const DOUBT: Duration = Duration::from_millis(120);
/// After so long, and when the control channel does answer, UDP is given up.
const GIVE_UP: Duration = Duration::from_secs(1);
/// Pause between two tries of UDP while an answer is missing.
const RETRY: Duration = Duration::from_millis(60);
/// Pause between two tries of UDP after it was given up.
const PROBE: Duration = Duration::from_millis(500);
/// So many tries in a row have to be answered before UDP is trusted again.
const PROVEN: u32 = 3;

/// A way for input datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InputPath {
    /// SRTP over UDP.
    #[default]
    Udp,
    /// Binary messages of the control channel.
    WebSocket,
}

/// Where a datagram has to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ways {
    /// As an SRTP packet.
    pub udp: bool,
    /// As a message of the control channel.
    pub websocket: bool,
}

/// Finds out by the answers whether UDP gets through, falls back to the control channel and returns.
///
/// The datagrams are the same on both ways, with the same sequence numbers, so whatever arrives twice or late is
/// applied once and in order.
///
/// > Ask [`ways`](Self::ways) for each datagram; tell [`answered`](Self::answered) for each acknowledgement; when
/// > [`poll_timeout`](Self::poll_timeout) has passed, make the sender send
/// > ([`InputSender::send_now`](super::InputSender::send_now)).
#[derive(Clone, Debug, Default)]
pub struct PathChooser {
    path: InputPath,
    /// The first datagram that went by UDP since its last answer.
    unanswered: Option<MonoTime>,
    last_udp: Option<MonoTime>,
    /// The control channel has answered since `unanswered`.
    websocket_lives: bool,
    /// Answers by UDP in a row, while it is given up.
    proofs: u32,
    changed: bool,
    fallbacks: u32,
}

impl PathChooser {
    /// A session that begins with UDP.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Where the datagram that leaves at `now` has to go.
    #[must_use]
    pub fn ways(&mut self, now: MonoTime) -> Ways {
        match self.path {
            InputPath::Udp => {
                let since = *self.unanswered.get_or_insert(now);
                let waited = now.since(since);
                if waited >= GIVE_UP && self.websocket_lives {
                    self.path = InputPath::WebSocket;
                    self.proofs = 0;
                    self.changed = true;
                    self.fallbacks = self.fallbacks.saturating_add(1);
                }
                self.last_udp = Some(now);
                Ways {
                    udp: true,
                    websocket: waited >= DOUBT,
                }
            }
            InputPath::WebSocket => {
                let udp = self.last_udp.is_none_or(|last| now >= last + PROBE);
                if udp {
                    if self.unanswered.is_some() {
                        self.proofs = 0;
                    }
                    self.unanswered = Some(now);
                    self.last_udp = Some(now);
                }
                Ways {
                    udp,
                    websocket: true,
                }
            }
        }
    }

    /// An acknowledgement came this way.
    pub fn answered(&mut self, path: InputPath) {
        match (path, self.path) {
            (InputPath::WebSocket, _) => self.websocket_lives = true,
            (InputPath::Udp, InputPath::Udp) => {
                self.unanswered = None;
                self.websocket_lives = false;
            }
            (InputPath::Udp, InputPath::WebSocket) => {
                if self.unanswered.take().is_some() {
                    self.proofs += 1;
                }
                if self.proofs >= PROVEN {
                    self.path = InputPath::Udp;
                    self.websocket_lives = false;
                    self.changed = true;
                }
            }
        }
    }

    /// When a datagram is wanted to find out more.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<MonoTime> {
        let last = self.last_udp?;
        match self.path {
            InputPath::Udp => self.unanswered.map(|_| last + RETRY),
            InputPath::WebSocket => Some(last + PROBE),
        }
    }

    /// The way in use.
    #[must_use]
    pub const fn path(&self) -> InputPath {
        self.path
    }

    /// How often UDP was given up.
    #[must_use]
    pub const fn fallbacks(&self) -> u32 {
        self.fallbacks
    }

    /// The new way, once after each change.
    #[must_use]
    pub fn take_change(&mut self) -> Option<InputPath> {
        std::mem::take(&mut self.changed).then_some(self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> MonoTime {
        MonoTime::from_nanos(1_000_000_000 + millis * 1_000_000)
    }

    /// Sends whenever the chooser wants it; `udp` and `websocket` say which ways get through, at once.
    fn run(chooser: &mut PathChooser, millis: std::ops::Range<u64>, udp: bool, websocket: bool) {
        for milli in millis {
            let now = at(milli);
            if chooser.poll_timeout().is_some_and(|due| due > now) {
                continue;
            }
            if chooser.poll_timeout().is_none() && milli % 1_000 != 0 {
                continue;
            }
            let ways = chooser.ways(now);
            if ways.udp && udp {
                chooser.answered(InputPath::Udp);
            }
            if ways.websocket && websocket {
                chooser.answered(InputPath::WebSocket);
            }
        }
    }

    #[test]
    fn udp_that_answers_is_all_that_is_used() {
        let mut chooser = PathChooser::new();
        for milli in 0..5_000 {
            let ways = chooser.ways(at(milli));
            assert!(ways.udp && !ways.websocket);
            chooser.answered(InputPath::Udp);
        }
        assert_eq!(chooser.take_change(), None);
    }

    #[test]
    fn udp_that_never_answers_is_left_within_little_more_than_a_second() {
        let mut chooser = PathChooser::new();
        run(&mut chooser, 0..1_100, false, true);
        assert_eq!(chooser.take_change(), Some(InputPath::WebSocket));
        assert_eq!(chooser.take_change(), None);
        assert!(chooser.ways(at(1_100)).websocket);
    }

    #[test]
    fn datagrams_go_both_ways_before_the_lease_ends() {
        let mut chooser = PathChooser::new();
        assert!(!chooser.ways(at(0)).websocket);
        let ways = chooser.ways(at(130));
        assert!(ways.udp && ways.websocket);
        chooser.answered(InputPath::Udp);
        assert!(!chooser.ways(at(131)).websocket, "one answer is enough");
    }

    #[test]
    fn a_server_that_is_gone_is_no_reason() {
        let mut chooser = PathChooser::new();
        run(&mut chooser, 0..10_000, false, false);
        assert_eq!(chooser.take_change(), None);
    }

    #[test]
    fn back_when_three_tries_in_a_row_are_answered() {
        let mut chooser = PathChooser::new();
        run(&mut chooser, 0..2_000, false, true);
        assert_eq!(chooser.take_change(), Some(InputPath::WebSocket));
        run(&mut chooser, 2_000..2_900, true, true);
        assert_eq!(chooser.take_change(), None);
        run(&mut chooser, 2_900..4_000, false, true);
        run(&mut chooser, 4_000..6_000, true, true);
        assert_eq!(chooser.take_change(), Some(InputPath::Udp));
        assert_eq!(chooser.fallbacks(), 1);
        assert!(!chooser.ways(at(6_100)).websocket);
    }
}
