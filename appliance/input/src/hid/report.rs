//! The reports of the four functions, and the queue of what a host has not fetched yet.

use std::collections::VecDeque;

/// Bytes of the longest report.
pub const REPORT_MAX: usize = 8;

/// Reports of one function that wait for the host; a host that fetches none gets only the newest state.
const WAITING: usize = 128;

/// What a function sends, in the form of its descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    bytes: [u8; REPORT_MAX],
    length: usize,
}

impl Report {
    fn new(content: &[u8]) -> Self {
        let mut bytes = [0; REPORT_MAX];
        let length = content.len().min(REPORT_MAX);
        for (to, from) in bytes.iter_mut().zip(content) {
            *to = *from;
        }
        Self { bytes, length }
    }

    /// The bytes to write.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// One state of a function, with the motion that leads to it.
pub(super) trait Entry: Copy + Default + PartialEq {
    /// Takes a newer state in, if nothing gets lost that way.
    fn merge(&mut self, newer: Self) -> bool;
    /// The report to send next for it.
    fn report(&self) -> Report;
    /// What is left of it after that report.
    fn rest(&self) -> Option<Self>;
    /// The same without motion.
    fn state(self) -> Self;
}

/// What waits for the host, oldest first.
#[derive(Debug)]
pub(super) struct Queue<E> {
    waiting: VecDeque<E>,
    /// What was queued last, without its motion; at first nothing is down.
    last: E,
}

impl<E: Entry> Queue<E> {
    pub(super) fn new() -> Self {
        Self {
            waiting: VecDeque::with_capacity(WAITING + 1),
            last: E::default(),
        }
    }

    /// Queues a new state, unless it says nothing new.
    pub(super) fn push(&mut self, entry: E) {
        if self.last == entry {
            return;
        }
        self.last = entry.state();
        if self
            .waiting
            .back_mut()
            .is_some_and(|back| back.merge(entry))
        {
            return;
        }
        if self.waiting.len() >= WAITING {
            self.waiting.clear();
        }
        self.waiting.push_back(entry);
    }

    /// Forgets what waits: only the state of now counts for a host that comes.
    pub(super) fn restart(&mut self, now: E) {
        self.waiting.clear();
        self.waiting.push_back(now);
        self.last = now;
    }

    pub(super) fn next(&self) -> Option<Report> {
        self.waiting.front().map(Entry::report)
    }

    pub(super) fn sent(&mut self) {
        if let Some(front) = self.waiting.front_mut() {
            match front.rest() {
                Some(rest) => *front = rest,
                None => {
                    self.waiting.pop_front();
                }
            }
        }
    }
}

/// A boot keyboard's report (HID 1.11, appendix B.1): modifiers, a reserved byte, six usages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Keyboard(pub(super) [u8; 8]);

impl Entry for Keyboard {
    fn merge(&mut self, _newer: Self) -> bool {
        false
    }

    fn report(&self) -> Report {
        Report::new(&self.0)
    }

    fn rest(&self) -> Option<Self> {
        None
    }

    fn state(self) -> Self {
        self
    }
}

/// The consumer usage that is down, 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Consumer(pub(super) u16);

impl Entry for Consumer {
    fn merge(&mut self, _newer: Self) -> bool {
        false
    }

    fn report(&self) -> Report {
        Report::new(&self.0.to_le_bytes())
    }

    fn rest(&self) -> Option<Self> {
        None
    }

    fn state(self) -> Self {
        self
    }
}

/// Buttons and motion; the first three bytes are a boot mouse's report (HID 1.11, appendix B.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mouse {
    pub(super) buttons: u8,
    /// Right, down, wheel up, wheel right.
    pub(super) motion: [i32; 4],
}

/// The part of a motion that one report carries.
fn piece(motion: i32) -> i8 {
    i8::try_from(motion.clamp(-127, 127)).unwrap_or_default()
}

impl Entry for Mouse {
    fn merge(&mut self, newer: Self) -> bool {
        let same = self.buttons == newer.buttons;
        if same {
            for (own, newer) in self.motion.iter_mut().zip(newer.motion) {
                *own = own.saturating_add(newer);
            }
        }
        same
    }

    fn report(&self) -> Report {
        let [x, y, wheel, pan] = self.motion.map(|axis| piece(axis).cast_unsigned());
        Report::new(&[self.buttons, x, y, wheel, pan])
    }

    fn rest(&self) -> Option<Self> {
        let motion = self.motion.map(|axis| axis - i32::from(piece(axis)));
        (motion != [0; 4]).then_some(Self { motion, ..*self })
    }

    fn state(self) -> Self {
        Self {
            motion: [0; 4],
            ..self
        }
    }
}

/// Buttons and a position from 0 to 32767.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pointer {
    pub(super) buttons: u8,
    pub(super) position: [u16; 2],
}

impl Entry for Pointer {
    fn merge(&mut self, newer: Self) -> bool {
        let same = self.buttons == newer.buttons;
        if same {
            self.position = newer.position;
        }
        same
    }

    fn report(&self) -> Report {
        let [[x0, x1], [y0, y1]] = self.position.map(u16::to_le_bytes);
        Report::new(&[self.buttons, x0, x1, y0, y1])
    }

    fn rest(&self) -> Option<Self> {
        None
    }

    fn state(self) -> Self {
        self
    }
}
