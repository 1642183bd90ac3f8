//! Framebuffers that only a GPU reads, drawn into linear memory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use soft_kvm_core::story::GpuMode;
use soft_kvm_core::{MonoTime, Size};
use soft_kvm_video::compose::Blend;
use soft_kvm_video::frame::{Colorimetry, Frame, FrameInfo, PixelFormat, Rect};

use super::cache::{SLOTS, TRUST};
use super::framebuffer::{self, FbError, Layout};
use super::mapping::Exported;
use crate::gpu::{self, Gpu, Ring};

/// The card's GPU, which is opened when the first framebuffer takes it.
#[derive(Debug)]
pub(super) struct Linear {
    card: PathBuf,
    mode: GpuMode,
    gpu: Option<Result<Gpu, String>>,
    /// Memory by size and format, and when it was last used.
    rings: Vec<(Ring, MonoTime)>,
    /// When the picture is taken that is put together now.
    now: MonoTime,
    /// Whether a framebuffer of this picture was drawn.
    used: bool,
    /// Whether the GPU may have memory of framebuffers, and since when it is not used.
    idle: Option<MonoTime>,
    /// The modifier of the last one, for the log.
    modifier: Option<u64>,
}

impl Linear {
    pub(super) fn new(card: &Path, mode: GpuMode) -> Self {
        Self {
            card: card.to_owned(),
            mode,
            gpu: None,
            rings: Vec::new(),
            now: MonoTime::ZERO,
            used: false,
            idle: None,
            modifier: None,
        }
    }

    /// Which framebuffers go through the GPU: those that can be read without it do not where it cannot be opened.
    pub(super) fn mode(&mut self) -> GpuMode {
        if self.mode == GpuMode::Always
            && let Err(why) = self.gpu()
        {
            tracing::warn!(
                why,
                "no GPU, though the story wants one always: linear framebuffers are read as they are"
            );
            self.mode = GpuMode::Auto;
        }
        self.mode
    }

    /// A picture begins: lets go of memory that was not used for long.
    pub(super) fn begin(&mut self, now: MonoTime) {
        self.now = now;
        self.used = false;
        while let Some(unused) = self
            .rings
            .iter()
            .position(|(_, used)| now.since(*used) >= 2 * TRUST)
        {
            let (ring, _) = self.rings.swap_remove(unused);
            self.give_up(ring);
        }
        if self.idle.is_some_and(|since| now.since(since) >= 2 * TRUST) {
            self.forget();
        }
    }

    fn forget(&mut self) {
        if let (Some(_), Some(Ok(gpu))) = (self.idle.take(), &mut self.gpu) {
            gpu.forget();
        }
    }

    /// Lets go of all memory.
    pub(super) fn clear(&mut self) {
        for (ring, _) in std::mem::take(&mut self.rings) {
            self.give_up(ring);
        }
        self.forget();
    }

    fn give_up(&mut self, ring: Ring) {
        if let Some(Ok(gpu)) = &mut self.gpu {
            ring.give_up(gpu);
        }
    }

    /// The GPU's name, if the last picture went through it.
    pub(super) fn used(&self) -> Option<&str> {
        let gpu = self.gpu.as_ref()?.as_ref().ok()?;
        self.used.then(|| gpu.renderer())
    }

    fn gpu(&mut self) -> Result<&mut Gpu, String> {
        let card = &self.card;
        let gpu = self.gpu.get_or_insert_with(|| Gpu::of_card(card));
        gpu.as_mut().map_err(|why| why.clone())
    }

    /// Draws what `from` shows; `info` is of its part. `None` while too many pictures are out.
    pub(super) fn draw(
        &mut self,
        from: &Arc<Exported>,
        modifier: u64,
        info: FrameInfo,
    ) -> Result<Option<Frame>, FbError> {
        let now = self.now;
        let layout = from.layout();
        let gpu = self
            .gpu()
            .map_err(|why| framebuffer::refused(modifier, &why))?;
        if !gpu.imports(layout.fourcc, modifier) {
            let (name, format) = (gpu.renderer(), framebuffer::name(layout.fourcc));
            let why = format!("{name} does not import {format} that lies so");
            return Err(framebuffer::refused(modifier, &why));
        }
        if self.modifier.replace(modifier) != Some(modifier) {
            let (gpu, format) = (self.used_name(), framebuffer::name(layout.fourcc));
            tracing::info!(
                gpu,
                format,
                modifier = format!("{modifier:#018x}"),
                "the GPU makes framebuffers linear"
            );
        }
        let Some(Ok(gpu)) = &mut self.gpu else {
            return Ok(None);
        };
        let fourcc = match layout.blend {
            Blend::Opaque => u32::from_le_bytes(*b"XR24"),
            _ => u32::from_le_bytes(*b"AR24"),
        };
        let (ring, used) = ring_for(&mut self.rings, info.size, fourcc);
        *used = now;
        let (size, blend) = (info.size, layout.blend);
        let export = |memory, number| exported(memory, size, fourcc, blend, SLOTS + number);
        let free = ring.free(gpu, export).map_err(|why| failed(&why))?;
        let Some((number, target)) = free else {
            return Ok(None);
        };
        let whole = FrameInfo {
            size: layout.size,
            ..info
        };
        let Some(frame) = from.lend(whole) else {
            return Ok(None);
        };
        self.idle = Some(now);
        gpu.draw(frame, from.part(), number)
            .map_err(|why| failed(&why))?;
        self.used = true;
        Ok(target.lend(FrameInfo {
            format: PixelFormat::Bgrx,
            color: Colorimetry::RGB,
            ..info
        }))
    }

    fn used_name(&self) -> &str {
        let gpu = self.gpu.as_ref().and_then(|gpu| gpu.as_ref().ok());
        gpu.map_or("", Gpu::renderer)
    }
}

/// The one for pictures of this size and format.
fn ring_for(rings: &mut Vec<(Ring, MonoTime)>, size: Size, fourcc: u32) -> &mut (Ring, MonoTime) {
    let fits = |(ring, _): &(Ring, MonoTime)| ring.is_for(size, fourcc);
    let place = rings.iter().position(fits).unwrap_or_else(|| {
        rings.push((Ring::new(size, fourcc), MonoTime::ZERO));
        rings.len() - 1
    });
    &mut rings[place]
}

/// A target as others see it.
fn exported(
    memory: gpu::Linear,
    size: Size,
    fourcc: u32,
    blend: Blend,
    slot: usize,
) -> std::io::Result<Exported> {
    let layout = Layout {
        size,
        fourcc,
        format: PixelFormat::Bgrx,
        blend,
        pitches: [memory.stride, 0, 0, 0],
        offsets: [memory.offset, 0, 0, 0],
        buffers: [0; 4],
        gpu: None,
        planes: 1,
    };
    let fds = [Some(memory.fd), None, None, None];
    Exported::new(layout, fds, Rect::whole(size), slot)
}

fn failed(why: &str) -> FbError {
    FbError::Unsupported(format!("the GPU did not make it linear: {why}"))
}
