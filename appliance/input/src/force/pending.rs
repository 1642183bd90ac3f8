//! What is still to be told to one device.

use soft_kvm_protocol::input::{Effect, EffectId, ForceChange, MAX_EFFECTS};

/// What is still to be told to one device: of each effect the newest state, so that it never grows.
///
/// States between are left out. That an effect stops or is gone is told before anything else, and never left out.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    slots: [Slot; MAX_EFFECTS as usize],
    gain: Option<u16>,
    auto_centre: Option<u16>,
    /// The slot that is looked at first, so that none starves.
    turn: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// The other side has it.
    known: bool,
    erase: bool,
    upload: Option<Effect>,
    play: Option<u32>,
}

impl Slot {
    /// What of it comes before everything else.
    fn pop_end(&mut self, id: EffectId) -> Option<ForceChange> {
        if std::mem::take(&mut self.erase) {
            self.known = false;
            return Some(ForceChange::Erase(id));
        }
        if self.play == Some(0) {
            self.play = None;
            return self.known.then_some(ForceChange::Play(id, 0));
        }
        None
    }

    fn pop(&mut self, id: EffectId) -> Option<ForceChange> {
        if let Some(effect) = self.upload.take() {
            self.known = true;
            return Some(ForceChange::Upload(effect));
        }
        let count = self.play.take()?;
        Some(ForceChange::Play(id, count))
    }
}

impl Pending {
    /// Something was done.
    pub fn push(&mut self, change: ForceChange) {
        match change {
            ForceChange::Gain(value) => self.gain = Some(value),
            ForceChange::AutoCentre(value) => self.auto_centre = Some(value),
            ForceChange::Upload(effect) => {
                if let Some(slot) = self.slots.get_mut(effect.id.index()) {
                    slot.upload = Some(effect);
                }
            }
            ForceChange::Erase(id) => {
                if let Some(slot) = self.slots.get_mut(id.index()) {
                    *slot = Slot {
                        known: slot.known,
                        erase: slot.known,
                        upload: None,
                        play: None,
                    };
                }
            }
            ForceChange::Play(id, count) => {
                // What is not there cannot be played.
                if let Some(slot) = self.slots.get_mut(id.index())
                    && (slot.upload.is_some() || slot.known && !slot.erase)
                {
                    slot.play = Some(count);
                }
            }
        }
    }

    /// What is to be told next; none when all was.
    pub fn pop(&mut self) -> Option<ForceChange> {
        let mut ends = self.slots.iter_mut().zip(EffectId::all());
        if let Some(end) = ends.find_map(|(slot, id)| slot.pop_end(id)) {
            return Some(end);
        }
        if let Some(value) = self.auto_centre.take() {
            return Some(ForceChange::AutoCentre(value));
        }
        if let Some(value) = self.gain.take() {
            return Some(ForceChange::Gain(value));
        }
        for _ in 0..self.slots.len() {
            let index = self.turn % self.slots.len();
            let (slot, id) = self.slots.iter_mut().zip(EffectId::all()).nth(index)?;
            if let Some(change) = slot.pop(id) {
                return Some(change);
            }
            self.turn = index + 1;
        }
        None
    }

    /// Whether all was told.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let quiet = |slot: &Slot| !slot.erase && slot.upload.is_none() && slot.play.is_none();
        self.gain.is_none() && self.auto_centre.is_none() && self.slots.iter().all(quiet)
    }
}
