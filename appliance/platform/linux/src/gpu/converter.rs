//! The GPU between a source and an encoder that takes NV12 only.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use soft_kvm_core::story::GpuMode;
use soft_kvm_core::{MonoTime, Size};
use soft_kvm_video::codec::CodecError;
use soft_kvm_video::compose::Blend;
use soft_kvm_video::frame::{Colorimetry, Frame, FrameInfo, PixelFormat, Rect};

use super::held::Held;
use super::ring::Ring;
use super::software::is_software;
use super::{Gpu, Linear, nv12, probe};
use crate::clock;
use crate::kms::{Exported, Layout};
use crate::v4l2::m2m::Nv12Layout;

/// A format that every GPU draws, of four bytes.
const ARGB8888: u32 = u32::from_le_bytes(*b"AR24");
const NV12: u32 = u32::from_le_bytes(*b"NV12");

/// How long no GPU is asked after one has failed in the middle: a driver that hangs would hang again, and the CPU can do it.
const REST: Duration = Duration::from_secs(30);

/// When the rest is over, by [`clock::now`] in nanoseconds.
static RESTED: AtomicU64 = AtomicU64::new(0);

/// A GPU that converts pictures to NV12 in linear memory.
#[derive(Debug)]
pub struct GpuConverter {
    gpu: Gpu,
    ring: Ring,
    layout: Nv12Layout,
    size: Size,
    /// It has drawn a picture.
    works: bool,
}

fn error(what: impl Into<String>) -> CodecError {
    CodecError {
        codec: "gpu",
        what: what.into(),
    }
}

fn not_with(gpu: &str, why: CodecError) -> CodecError {
    tracing::debug!(gpu, %why, "not with this GPU");
    why
}

impl GpuConverter {
    /// Opens the first GPU of this machine that reads pictures like `first`, and converts that one to NV12 that lies as
    /// `layout` says.
    ///
    /// Software renderers are taken with [`GpuMode::Always`] only, and where there is no GPU.
    ///
    /// # Errors
    /// [`CodecError`]: the story does without, there is no GPU or none that reads such pictures, draws into such memory, or
    /// answers in time.
    pub fn open(
        mode: GpuMode,
        first: &Frame,
        layout: Nv12Layout,
    ) -> Result<(Self, Frame), CodecError> {
        if mode == GpuMode::Off {
            return Err(error("the story has gpu: 'off'"));
        }
        if clock::now() < MonoTime::from_nanos(RESTED.load(Ordering::Relaxed)) {
            return Err(error("one has failed a short while ago"));
        }
        super::library::library().map_err(error)?;
        let mut refused = error("there is no GPU");
        let mut software = Vec::new();
        for card in probe::cards() {
            let tried = match Gpu::of_card(&card) {
                Ok(gpu) if is_software(gpu.renderer()) => {
                    let name = gpu.renderer();
                    let slow = error(format!("{name} renders in software: slower than the CPU"));
                    software.push(gpu);
                    Err(slow)
                }
                Ok(gpu) => Self::with(gpu, first, layout),
                Err(why) => Err(error(why)),
            };
            match tried {
                Ok(found) => return Ok(found),
                Err(why) => refused = not_with(&card.display().to_string(), why),
            }
        }
        if mode == GpuMode::Always {
            for gpu in software {
                let name = gpu.renderer().to_owned();
                match Self::with(gpu, first, layout) {
                    Ok(found) => return Ok(found),
                    Err(why) => refused = not_with(&name, why),
                }
            }
        }
        Err(refused)
    }

    /// With this GPU.
    fn with(gpu: Gpu, first: &Frame, layout: Nv12Layout) -> Result<(Self, Frame), CodecError> {
        let size = first.info().size;
        let memory = first.dma_buf();
        let memory =
            memory.ok_or_else(|| error("the picture is in memory that devices cannot import"))?;
        if !gpu.imports(memory.fourcc, memory.modifier) {
            let (name, format) = (gpu.renderer(), first.info().format);
            let what = format!("{name} does not import {format:?} that lies so");
            return Err(error(what));
        }
        let target = nv12::target(layout, size).map_err(error)?;
        let mut converter = Self {
            ring: Ring::new(target, ARGB8888),
            gpu,
            layout,
            size,
            works: false,
        };
        let frame = converter.convert(first)?;
        converter.works = true;
        tracing::info!(gpu = converter.renderer(), from = ?first.info().format, %size, "converting to NV12");
        Ok((converter, frame))
    }

    /// The GPU's name for people.
    #[must_use]
    pub fn renderer(&self) -> &str {
        self.gpu.renderer()
    }

    /// Converts one frame, which is free again when this returns, to BT.709 in limited range. Size, time and damage stay.
    ///
    /// # Errors
    /// [`CodecError`]: another size, all converted frames still lent out, or the GPU failed or did not answer in time: then
    /// none is opened for half a minute.
    pub fn convert(&mut self, frame: &Frame) -> Result<Frame, CodecError> {
        let info = *frame.info();
        if info.size != self.size {
            return Err(error("the pictures have another size now"));
        }
        let (layout, size) = (self.layout, self.size);
        let export = |memory, number| exported(memory, number, layout, size);
        let free = self.ring.free(&mut self.gpu, export);
        let in_use = || error("all converted pictures are still in use");
        let (number, target) = free.map_err(error)?.ok_or_else(in_use)?;
        let held = Held::of(frame).map_err(error)?;
        let drawn = self.gpu.convert(held, layout, number, self.works);
        drawn.map_err(|why| {
            if self.works {
                let end = clock::now() + REST;
                RESTED.store(end.as_nanos(), Ordering::Relaxed);
            }
            error(why)
        })?;
        let converted = FrameInfo {
            format: PixelFormat::Nv12,
            color: Colorimetry::default(),
            ..info
        };
        target.lend(converted).ok_or_else(in_use)
    }
}

/// A target as others see it.
fn exported(memory: Linear, number: usize, layout: Nv12Layout, size: Size) -> io::Result<Exported> {
    let Linear { fd, offset, stride } = memory;
    if stride != nv12::STRIDE {
        let what = format!("its lines are {stride} bytes apart, not {}", nv12::STRIDE);
        return Err(io::Error::other(what));
    }
    let chroma = layout.stride.saturating_mul(layout.lines);
    let layout = Layout {
        size,
        fourcc: NV12,
        format: PixelFormat::Nv12,
        blend: Blend::Opaque,
        pitches: [layout.stride, layout.stride, 0, 0],
        offsets: [offset, offset.saturating_add(chroma), 0, 0],
        buffers: [0; 4],
        gpu: None,
        planes: 2,
    };
    Exported::new(
        layout,
        [Some(fd), None, None, None],
        Rect::whole(size),
        number,
    )
}
