//! Sealed packets, waiting to be sent and kept for retransmission, in one ring of fixed slots.

use std::collections::VecDeque;
use std::time::Duration;

use soft_kvm_core::MonoTime;

use super::srtp::{estimate_index, low_16};

/// Times that one packet is sent again.
const REPAIRS_MAX: u8 = 6;
/// A receiver gives a frame up long before this.
const AGE_MAX: Duration = Duration::from_millis(500);
/// Repairs that wait to be sent; a receiver that asks for more asks again.
const QUEUE_MAX: usize = 512;

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    index: u64,
    len: usize,
    sent: Option<MonoTime>,
    repaired: Option<MonoTime>,
    repairs: u8,
    queued: bool,
}

/// The packets from `oldest` to `next`, by packet index (sequence number with its cycles).
#[derive(Debug)]
pub(crate) struct History {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
    mtu: usize,
    next: u64,
    unsent: u64,
    unsent_bytes: usize,
    repairs: VecDeque<u64>,
}

impl History {
    /// Room for about `bytes` bytes in packets of at most `mtu`, the first of which has index `first`.
    pub(crate) fn new(bytes: usize, mtu: usize, first: u64) -> Self {
        // A larger ring could not tell its packets apart by 16 bits.
        let slots = (bytes / mtu).clamp(64, 0x4000);
        Self {
            bytes: vec![0; slots * mtu],
            slots: vec![Slot::default(); slots],
            mtu,
            next: first,
            unsent: first,
            unsent_bytes: 0,
            repairs: VecDeque::with_capacity(QUEUE_MAX),
        }
    }

    /// The sequence number of the next packet.
    pub(crate) fn next_sequence(&self) -> u16 {
        low_16(self.next)
    }

    /// Slots that hold no unsent packet.
    pub(crate) fn room(&self) -> usize {
        let waiting = usize::try_from(self.next - self.unsent).unwrap_or(usize::MAX);
        self.slots.len().saturating_sub(waiting)
    }

    /// Bytes that wait for their first transmission.
    pub(crate) const fn unsent_bytes(&self) -> usize {
        self.unsent_bytes
    }

    /// Whether packets wait for their first transmission.
    pub(crate) const fn is_waiting(&self) -> bool {
        self.unsent < self.next
    }

    /// Fills the next slot: `write` gets `mtu` bytes and returns how many it used. Nothing is kept on an error.
    pub(crate) fn push<E>(
        &mut self,
        write: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let at = self.slot_number(self.next);
        let bytes = self.bytes.get_mut(at * self.mtu..(at + 1) * self.mtu);
        let len = write(bytes.unwrap_or_default())?;
        if let Some(slot) = self.slots.get_mut(at) {
            *slot = Slot {
                index: self.next,
                len,
                ..Slot::default()
            };
        }
        self.next += 1;
        self.unsent_bytes += len;
        Ok(len)
    }

    /// Length of the oldest packet that was never sent.
    pub(crate) fn unsent_len(&self) -> Option<usize> {
        self.is_waiting()
            .then(|| self.packet(self.unsent).map(<[u8]>::len))?
    }

    /// The oldest packet that was never sent; it counts as sent from now on.
    pub(crate) fn take_unsent(&mut self, now: MonoTime) -> Option<&[u8]> {
        if !self.is_waiting() {
            return None;
        }
        let index = self.unsent;
        self.unsent += 1;
        let slot = self.slot_mut(index)?;
        slot.sent = Some(now);
        let len = slot.len;
        self.unsent_bytes -= len.min(self.unsent_bytes);
        self.packet(index)
    }

    /// The packet that was sent last.
    pub(crate) fn last_sent(&self) -> Option<&[u8]> {
        self.packet(self.unsent.checked_sub(1)?)
    }

    /// Queues a packet that the receiver misses, unless it is too old, was repaired too often, or less than
    /// `hold_off` ago. Whether it will be sent.
    pub(crate) fn request(&mut self, now: MonoTime, sequence: u16, hold_off: Duration) -> bool {
        let newest = self.unsent.checked_sub(1);
        let Some(index) = estimate_index(newest, sequence) else {
            return false;
        };
        if index >= self.unsent || self.repairs.len() >= QUEUE_MAX {
            return false;
        }
        let Some(slot) = self.slot_mut(index) else {
            return false;
        };
        let young = slot.sent.is_some_and(|sent| now.since(sent) <= AGE_MAX);
        let rested = slot.repaired.is_none_or(|last| now.since(last) >= hold_off);
        let wanted = young && rested && !slot.queued && slot.repairs < REPAIRS_MAX;
        if wanted {
            slot.queued = true;
            self.repairs.push_back(index);
        }
        wanted
    }

    /// Whether repairs wait.
    pub(crate) fn has_repairs(&self) -> bool {
        !self.repairs.is_empty()
    }

    /// Length of the next repair; repairs whose packet was overwritten meanwhile are forgotten.
    pub(crate) fn repair_len(&mut self) -> Option<usize> {
        loop {
            let &index = self.repairs.front()?;
            if let Some(packet) = self.packet(index) {
                return Some(packet.len());
            }
            self.repairs.pop_front();
        }
    }

    /// The next repair; it counts as sent from now on.
    pub(crate) fn take_repair(&mut self, now: MonoTime) -> Option<&[u8]> {
        let index = self.repairs.pop_front()?;
        let slot = self.slot_mut(index)?;
        slot.queued = false;
        slot.repaired = Some(now);
        slot.repairs += 1;
        self.packet(index)
    }

    fn packet(&self, index: u64) -> Option<&[u8]> {
        let at = self.slot_number(index);
        let slot = self.slots.get(at).filter(|slot| slot.index == index)?;
        self.bytes
            .get(at * self.mtu..at * self.mtu + slot.len)
            .filter(|packet| !packet.is_empty())
    }

    fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        let at = self.slot_number(index);
        self.slots
            .get_mut(at)
            .filter(|slot| slot.index == index && slot.len > 0)
    }

    fn slot_number(&self, index: u64) -> usize {
        usize::try_from(index % self.slots.len() as u64).unwrap_or(0)
    }
}
