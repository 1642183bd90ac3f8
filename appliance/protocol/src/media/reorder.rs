//! Received packets by packet index, with a note for each missing one, in one ring of fixed slots.

use std::ops::Range;

use soft_kvm_core::MonoTime;

use super::CodedFormat;
use super::rtp::FrameExtensions;

/// What is known of a packet that has arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    pub(crate) arrival: MonoTime,
    pub(crate) timestamp: u32,
    /// Last packet of its access unit.
    pub(crate) marker: bool,
    /// There on the first packet of an access unit.
    pub(crate) extensions: Option<FrameExtensions>,
    pub(crate) format: CodedFormat,
    /// Belongs to an access unit with an IDR picture.
    pub(crate) idr: bool,
    len: usize,
}

impl Arrived {
    pub(crate) const fn new(
        arrival: MonoTime,
        timestamp: u32,
        marker: bool,
        extensions: Option<FrameExtensions>,
        format: CodedFormat,
        idr: bool,
    ) -> Self {
        Self {
            arrival,
            timestamp,
            marker,
            extensions,
            format,
            idr,
            len: 0,
        }
    }
}

/// What is known of a packet that has not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Missing {
    /// When to ask for it next.
    pub(crate) ask_at: MonoTime,
    pub(crate) asked: u32,
}

#[derive(Clone, Copy, Debug, Default)]
enum Slot {
    #[default]
    Empty,
    Missing(Missing),
    Arrived(Arrived),
}

/// The packets from `head` up to `end`: each has arrived or is missing.
#[derive(Debug)]
pub(crate) struct ReorderRing {
    slots: Vec<Slot>,
    bytes: Vec<u8>,
    payload_max: usize,
    head: u64,
    end: u64,
    missing: usize,
}

impl ReorderRing {
    pub(crate) fn new(packets: usize, payload_max: usize) -> Self {
        let packets = packets.clamp(64, 0x4000);
        Self {
            slots: vec![Slot::Empty; packets],
            bytes: vec![0; packets * payload_max],
            payload_max,
            head: 0,
            end: 0,
            missing: 0,
        }
    }

    /// The indices in the ring.
    pub(crate) const fn range(&self) -> Range<u64> {
        self.head..self.end
    }

    /// How many of them are missing.
    pub(crate) const fn missing(&self) -> usize {
        self.missing
    }

    /// Packets that the ring can hold.
    pub(crate) const fn capacity(&self) -> u64 {
        self.slots.len() as u64
    }

    /// Forgets everything; the next packet is expected at `index`.
    pub(crate) fn restart(&mut self, index: u64) {
        self.slots.fill(Slot::Empty);
        self.missing = 0;
        self.head = index;
        self.end = index;
    }

    /// Makes room up to `index`, which has to be within the capacity from the head. Those in between are missing.
    pub(crate) fn extend_to(&mut self, index: u64, ask_at: MonoTime) {
        while self.end <= index {
            self.set(self.end, Slot::Missing(Missing { ask_at, asked: 0 }));
            self.missing += 1;
            self.end += 1;
        }
    }

    /// Makes room down to `index`; the end has to stay within the capacity. Those in between are missing.
    pub(crate) fn extend_down_to(&mut self, index: u64, ask_at: MonoTime) {
        while self.head > index {
            self.head -= 1;
            self.set(self.head, Slot::Missing(Missing { ask_at, asked: 0 }));
            self.missing += 1;
        }
    }

    /// Stores a packet that is missing in the ring. How often it was asked for; `None` if it is not missing or too long.
    pub(crate) fn store(
        &mut self,
        index: u64,
        mut arrived: Arrived,
        payload: &[u8],
    ) -> Option<u32> {
        let asked = self.missing_at(index)?.asked;
        let at = self.position(index) * self.payload_max;
        let room = self.bytes.get_mut(at..at + self.payload_max)?;
        room.get_mut(..payload.len())?.copy_from_slice(payload);
        arrived.len = payload.len();
        self.set(index, Slot::Arrived(arrived));
        self.missing -= 1;
        Some(asked)
    }

    pub(crate) fn arrived(&self, index: u64) -> Option<&Arrived> {
        match self.slot(index)? {
            Slot::Arrived(arrived) => Some(arrived),
            _ => None,
        }
    }

    pub(crate) fn missing_at(&self, index: u64) -> Option<Missing> {
        match self.slot(index)? {
            Slot::Missing(missing) => Some(*missing),
            _ => None,
        }
    }

    pub(crate) fn set_missing(&mut self, index: u64, missing: Missing) {
        if self.missing_at(index).is_some() {
            self.set(index, Slot::Missing(missing));
        }
    }

    pub(crate) fn payload(&self, index: u64) -> Option<&[u8]> {
        let len = self.arrived(index)?.len;
        let at = self.position(index) * self.payload_max;
        self.bytes.get(at..at + len)
    }

    /// Drops everything before `index`. How many of those were missing.
    pub(crate) fn advance_to(&mut self, index: u64) -> usize {
        let mut lost = 0;
        while self.head < index.min(self.end) {
            lost += usize::from(self.missing_at(self.head).is_some());
            self.set(self.head, Slot::Empty);
            self.head += 1;
        }
        self.missing -= lost;
        lost
    }

    fn slot(&self, index: u64) -> Option<&Slot> {
        if !self.range().contains(&index) {
            return None;
        }
        self.slots.get(self.position(index))
    }

    fn set(&mut self, index: u64, value: Slot) {
        let at = self.position(index);
        if let Some(slot) = self.slots.get_mut(at) {
            *slot = value;
        }
    }

    fn position(&self, index: u64) -> usize {
        usize::try_from(index % self.slots.len() as u64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet() -> Arrived {
        Arrived::new(MonoTime::ZERO, 0, false, None, CodedFormat::H264, false)
    }

    #[test]
    fn gaps_are_missing_until_they_are_stored_or_left_behind() {
        let mut ring = ReorderRing::new(64, 10);
        ring.restart(100);
        ring.extend_to(103, MonoTime::ZERO);
        assert_eq!((ring.range(), ring.missing()), (100..104, 4));
        assert_eq!(ring.store(103, packet(), b"abc"), Some(0));
        assert_eq!(ring.store(103, packet(), b"abc"), None);
        assert_eq!(ring.store(104, packet(), b"abc"), None);
        assert_eq!(ring.store(101, packet(), &[0; 11]), None);
        ring.extend_down_to(98, MonoTime::ZERO);
        assert_eq!((ring.range(), ring.missing()), (98..104, 5));
        assert_eq!(ring.payload(103), Some(&b"abc"[..]));
        assert_eq!(ring.advance_to(103), 5);
        assert_eq!((ring.range(), ring.missing()), (103..104, 0));
        assert_eq!(ring.advance_to(1_000), 0);
        assert_eq!(ring.range(), 104..104);
    }
}
