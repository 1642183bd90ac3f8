//! The target's end of the datagrams.

use soft_kvm_core::MonoTime;

use super::codes::EventType;
use super::datagram::{Ack, InputDatagram};
use super::event::{DeviceId, EventReport, InputEvent};
use super::held::HeldKeys;
use super::record::LedState;
use super::wire::DecodeError;
use super::{ACK_DELAY, MAX_EVENTS};

/// So many reports are acknowledged without delay: the operator repeats them all in each datagram until then.
const MOST_UNACKNOWLEDGED: u64 = 8;

/// Where received reports go: the key ledger.
pub trait InputHandler {
    /// Whether reports of this device can be taken now. `false` when the device has been announced on the other
    /// carrier but not made yet: the sender then sends them again. Reports of a refused or removed device are taken
    /// and dropped.
    fn accepts(&mut self, device: DeviceId) -> bool;

    /// Makes the keys down on the target equal to `held`: at the start of an epoch and after the lease ran out.
    fn reconcile(&mut self, held: &HeldKeys);

    /// The next report; each comes once and in order.
    fn report(&mut self, report: EventReport<'_>);
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// It is newer than all before: a sign of life, from which the lease counts.
    pub alive: bool,
    /// Reports that were handed on.
    pub applied: u32,
    /// It opened a new epoch.
    pub restarted: bool,
    /// Reports wait for this device to be added.
    pub waits_for: Option<DeviceId>,
}

/// Hands on each report once and in order, and acknowledges.
///
/// > After [`handle_datagram`](Self::handle_datagram), [`set_leds`](Self::set_leds) and when
/// > [`poll_timeout`](Self::poll_timeout) has passed: send what [`poll_transmit`](Self::poll_transmit) writes, until it
/// > returns `false`. The lease is the ledger's, which calls [`expire`](Self::expire) when it has lifted all keys.
///
/// Keys and buttons are acknowledged at once, motion together with what follows within [`ACK_DELAY`].
///
/// No call allocates.
#[derive(Debug)]
pub struct InputReceiver {
    epoch: Option<u32>,
    next: u64,
    /// The target's keys may differ from what `next` stands for, until a snapshot was taken.
    unsure: bool,
    newest: Option<(MonoTime, MonoTime)>,
    /// When an acknowledgement has to leave at the latest.
    ack_due: Option<MonoTime>,
    /// When the events of the newest datagram had been applied, while its acknowledgement waits.
    applied: Option<MonoTime>,
    /// What the last acknowledgement told.
    acknowledged: u64,
    leds: LedState,
    held: HeldKeys,
    held_after: HeldKeys,
    events: Vec<InputEvent>,
}

impl Default for InputReceiver {
    fn default() -> Self {
        Self::new()
    }
}

impl InputReceiver {
    /// A receiver for a new session.
    #[must_use]
    pub fn new() -> Self {
        Self {
            epoch: None,
            next: 0,
            unsure: true,
            newest: None,
            ack_due: None,
            applied: None,
            acknowledged: 0,
            leds: LedState::default(),
            held: HeldKeys::new(),
            held_after: HeldKeys::new(),
            events: Vec::with_capacity(MAX_EVENTS),
        }
    }

    /// Takes a datagram's payload that arrived at `now`.
    ///
    /// # Errors
    /// On bytes that are no input datagram; nothing has been applied then.
    pub fn handle_datagram(
        &mut self,
        now: MonoTime,
        payload: &[u8],
        handler: &mut impl InputHandler,
    ) -> Result<Received, DecodeError> {
        let datagram = InputDatagram::parse(payload)?;
        let mut received = Received::default();
        if self.epoch != Some(datagram.epoch) {
            if !self.opens(&datagram) {
                return Ok(received);
            }
            self.epoch = Some(datagram.epoch);
            self.next = 0;
            self.acknowledged = 0;
            self.unsure = true;
            received.restarted = true;
        }
        if self.newest.is_none_or(|(sent, _)| datagram.sent > sent) {
            self.newest = Some((datagram.sent, now));
            self.applied = None;
            received.alive = true;
        }
        let waiting = self.ack_due.replace(now);
        if datagram.first > self.next || datagram.end() < self.next {
            return Ok(received);
        }
        // A late datagram of a session without life must not press keys again.
        if self.unsure && !(received.alive && self.reconcile(&datagram, handler)) {
            return Ok(received);
        }
        let (mut next, mut urgent) = (self.next, received.restarted);
        datagram.for_each_report(&mut self.events, |sequence, report| {
            if sequence != next || received.waits_for.is_some() {
                return;
            }
            urgent |= report
                .events
                .iter()
                .any(|event| event.kind == EventType::KEY);
            if !handler.accepts(report.device) {
                received.waits_for = Some(report.device);
                return;
            }
            handler.report(report);
            next += 1;
            received.applied += 1;
        });
        self.next = next;
        let few = next - self.acknowledged < MOST_UNACKNOWLEDGED;
        if received.applied > 0 && !urgent && few {
            self.ack_due = waiting.or(Some(now + ACK_DELAY));
        }
        Ok(received)
    }

    /// Whether a datagram of another epoch begins that epoch here: a later one, from its start.
    fn opens(&self, datagram: &InputDatagram<'_>) -> bool {
        // Serial number arithmetic, RFC 1982.
        let later = self
            .epoch
            .is_none_or(|epoch| datagram.epoch.wrapping_sub(epoch) < u32::MAX / 2);
        later && datagram.first == 0 && datagram.has_snapshot()
    }

    /// Brings the target's keys to what they have to be before report `next`.
    ///
    /// A key that the lease lifted is pressed again when it is a modifier, which the following reports may need, or
    /// when it is still down after them; a key that was let go in the meantime is not typed a second time.
    fn reconcile(&mut self, datagram: &InputDatagram<'_>, handler: &mut impl InputHandler) -> bool {
        if !datagram.snapshot(&mut self.held) {
            return false;
        }
        self.held_after.copy_from(&self.held);
        let (next, held, held_after) = (self.next, &mut self.held, &mut self.held_after);
        datagram.for_each_report(&mut self.events, |sequence, report| {
            for event in report.events {
                held_after.apply(report.device, *event);
                if sequence < next {
                    held.apply(report.device, *event);
                }
            }
        });
        let stays = &self.held_after;
        self.held
            .retain(|device, key| key.is_modifier() || stays.contains(device, key));
        handler.reconcile(&self.held);
        self.unsure = false;
        true
    }

    /// The ledger has lifted all keys: the next snapshot has to be compared with it.
    pub const fn expire(&mut self) {
        self.unsure = true;
    }

    /// The target's LEDs, over all devices; a change is sent at once.
    pub fn set_leds(&mut self, leds: LedState) {
        if self.leds != leds {
            self.leds = leds;
            self.ack_due = self.newest.map(|_| MonoTime::ZERO);
        }
    }

    /// Writes an acknowledgement, if one is due. `now` is when the events had been applied.
    #[must_use]
    pub fn poll_transmit(&mut self, now: MonoTime, out: &mut Vec<u8>) -> bool {
        let (Some(epoch), Some((echo, received)), Some(due)) =
            (self.epoch, self.newest, self.ack_due)
        else {
            return false;
        };
        let applied = *self.applied.get_or_insert(now);
        if now < due {
            return false;
        }
        self.ack_due = None;
        self.acknowledged = self.next;
        let ack = Ack {
            epoch,
            next: self.next,
            echo,
            received,
            applied,
            held: now.since(received),
            leds_known: self.leds.known,
            leds_lit: self.leds.lit,
        };
        ack.encode(out);
        true
    }

    /// When [`poll_transmit`](Self::poll_transmit) has something to write, if nothing arrives before.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<MonoTime> {
        self.ack_due
    }

    /// The operator's clock and ours at the newest datagram, once one arrived.
    #[must_use]
    pub const fn newest(&self) -> Option<(MonoTime, MonoTime)> {
        self.newest
    }

    /// Sequence number of the report that comes next.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }
}
