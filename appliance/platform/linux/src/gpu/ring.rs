//! Targets of the GPU that are used in turn.

use std::io;
use std::sync::Arc;

use soft_kvm_core::Size;

use super::{Gpu, Linear};
use crate::kms::Exported;

/// Drawn pictures that may be out at once: at the encoder, kept there for a refresh, in the slot, and the next one.
const TARGETS: usize = 4;

/// Memory for pictures of one size and format.
#[derive(Debug)]
pub(crate) struct Ring {
    size: Size,
    fourcc: u32,
    /// With the GPU's numbers.
    targets: Vec<(usize, Arc<Exported>)>,
}

impl Ring {
    /// Without memory yet.
    pub(crate) fn new(size: Size, fourcc: u32) -> Self {
        Self {
            size,
            fourcc,
            targets: Vec::with_capacity(TARGETS),
        }
    }

    /// Whether it is for pictures of this size and format.
    pub(crate) fn is_for(&self, size: Size, fourcc: u32) -> bool {
        (self.size, self.fourcc) == (size, fourcc)
    }

    /// Memory that nobody reads, `None` while all of it is; `export` makes it what others see, by the GPU's number for it.
    pub(crate) fn free(
        &mut self,
        gpu: &mut Gpu,
        export: impl FnOnce(Linear, usize) -> io::Result<Exported>,
    ) -> Result<Option<(usize, Arc<Exported>)>, String> {
        // Each frame that is out keeps it.
        let unread = |(_, target): &&(usize, Arc<Exported>)| Arc::strong_count(target) == 1;
        if let Some(found) = self.targets.iter().find(unread) {
            return Ok(Some(found.clone()));
        }
        if self.targets.len() >= TARGETS {
            return Ok(None);
        }
        let (number, memory) = gpu.target(self.size, self.fourcc)?;
        let target = export(memory, number);
        let target = target.map_err(|error| format!("the GPU's linear memory: {error}"))?;
        self.targets.push((number, Arc::new(target)));
        Ok(self.targets.last().cloned())
    }

    /// Lets go of it; frames that are out keep theirs.
    pub(crate) fn give_up(self, gpu: &mut Gpu) {
        for (number, _) in self.targets {
            gpu.drop_target(number);
        }
    }
}
