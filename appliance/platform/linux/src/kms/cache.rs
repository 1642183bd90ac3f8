//! Exported framebuffers by their ids.

use std::sync::Arc;
use std::time::Duration;

use soft_kvm_core::MonoTime;
use soft_kvm_core::story::GpuMode;
use soft_kvm_video::frame::Rect;

use super::card::Card;
use super::framebuffer::{self, FbError};
use super::mapping::Exported;

/// Framebuffers kept: three of a triple-buffered screen, and those of its overlays.
pub(super) const SLOTS: usize = 8;
/// How long an entry is trusted without looking whether its id names another framebuffer by now.
pub(super) const TRUST: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct Entry {
    id: u32,
    checked: MonoTime,
    used: MonoTime,
    exported: Arc<Exported>,
}

/// A slot's number is a part of its frames' buffer numbers.
#[derive(Debug, Default)]
pub(super) struct Cache {
    slots: [Option<Entry>; SLOTS],
}

impl Cache {
    /// A framebuffer's memory, of the part given by `part` from the framebuffer's whole.
    pub(super) fn get(
        &mut self,
        card: &Card,
        id: u32,
        part: Option<Rect>,
        gpu: GpuMode,
        now: MonoTime,
    ) -> Result<Arc<Exported>, FbError> {
        let wanted = |exported: &Exported| {
            part.unwrap_or(Rect::whole(exported.layout().size)) == exported.part()
        };
        let found = self.slots.iter().position(|slot| {
            slot.as_ref()
                .is_some_and(|entry| entry.id == id && wanted(&entry.exported))
        });
        if let Some(entry) = found.and_then(|slot| self.slots.get_mut(slot)?.as_mut())
            && now.since(entry.checked) < TRUST
        {
            entry.used = now;
            return Ok(Arc::clone(&entry.exported));
        }
        let slot = found.unwrap_or_else(|| self.oldest());
        let (layout, fds) = framebuffer::export(card, id, gpu).inspect_err(|_| {
            // Whatever the id named, it is not what is kept.
            if let Some(found) = found.and_then(|slot| self.slots.get_mut(slot)) {
                *found = None;
            }
        })?;
        let whole = Rect::whole(layout.size);
        let part = part.unwrap_or(whole);
        if part.is_empty() || whole.union(part) != whole {
            return Err(FbError::Gone);
        }
        let exported = Exported::new(layout, fds, part, slot).map_err(|error| {
            let errno = nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
            FbError::Failed("taking the framebuffer over", errno)
        })?;
        let kept = found.and_then(|slot| self.slots.get(slot)?.as_ref());
        let exported = match kept {
            // The same memory: its mapping stays, whose first use costs most.
            Some(entry) if entry.exported.is_same(&exported) => Arc::clone(&entry.exported),
            _ => Arc::new(exported),
        };
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(Entry {
                id,
                checked: now,
                used: now,
                exported: Arc::clone(&exported),
            });
        }
        Ok(exported)
    }

    /// Lets go of everything: the memory stays as long as frames use it.
    pub(super) fn clear(&mut self) {
        self.slots = Default::default();
    }

    /// Lets go of what was not used for long.
    pub(super) fn tidy(&mut self, now: MonoTime) {
        for slot in &mut self.slots {
            if slot
                .as_ref()
                .is_some_and(|entry| now.since(entry.used) >= 2 * TRUST)
            {
                *slot = None;
            }
        }
    }

    fn oldest(&self) -> usize {
        let used = |slot: &Option<Entry>| slot.as_ref().map(|entry| entry.used);
        let oldest = (0..SLOTS).min_by_key(|&index| self.slots.get(index).and_then(used));
        oldest.unwrap_or(0)
    }
}
