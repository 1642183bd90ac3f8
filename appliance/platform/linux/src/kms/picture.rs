//! One frame from what the planes show: the framebuffer itself, or several put together.

use std::path::Path;

use soft_kvm_core::story::GpuMode;
use soft_kvm_core::{MonoTime, Size};
use soft_kvm_video::compose::{Blend, Layer, Source, compose};
use soft_kvm_video::frame::{Colorimetry, Damage, Frame, FrameInfo, PixelFormat, Rect};
use soft_kvm_video::memory::MemoryPool;
use soft_kvm_video::source::{SourceError, SourceInfo};

use super::cache::Cache;
use super::card::{Card, failed};
use super::framebuffer::{self, FbError, Layout};
use super::linear::Linear;
use super::mapping::part_size;
use super::planes::{self, PlaneState};

/// Composed pictures that may be out at once: at the encoder, in the slot, and the next one.
const COMPOSED: usize = 3;

/// What came of it.
#[derive(Debug)]
pub(super) enum Taken {
    Frame(Frame),
    /// The framebuffer was removed meanwhile: look again.
    Gone,
    /// Too many pictures are out.
    Nothing,
}

/// Makes frames.
#[derive(Debug)]
pub(super) struct Picture {
    cache: Cache,
    linear: Linear,
    /// Where pictures of several planes are put together.
    composed: Option<(Size, MemoryPool)>,
    line: Vec<[u8; 4]>,
    /// Frames of the planes while they are put together; empty between.
    parts: Vec<(Frame, Blend)>,
    size: Option<Size>,
    fourcc: u32,
    sequence: u64,
}

impl Picture {
    /// Of screens of `card`.
    pub(super) fn new(card: &Path, gpu: GpuMode) -> Self {
        Self {
            cache: Cache::default(),
            linear: Linear::new(card, gpu),
            composed: None,
            line: Vec::new(),
            parts: Vec::new(),
            size: None,
            fourcc: 0,
            sequence: 0,
        }
    }

    /// The GPU that the last picture went through.
    pub(super) fn gpu(&self) -> Option<&str> {
        self.linear.used()
    }

    /// The last picture's size.
    pub(super) fn size_or(&self, screen: Size) -> Size {
        self.size.unwrap_or(screen)
    }

    /// Lets go of the framebuffers.
    pub(super) fn clear(&mut self) {
        self.cache.clear();
        self.linear.clear();
        self.composed = None;
        self.size = None;
    }

    /// A frame of `shown`, lowest first, on a screen of `screen` pixels.
    pub(super) fn take(
        &mut self,
        card: &Card,
        shown: &[PlaneState],
        screen: Size,
        captured: MonoTime,
        info: &mut SourceInfo,
    ) -> Result<Taken, SourceError> {
        self.cache.tidy(captured);
        self.linear.begin(captured);
        let taken = match shown {
            [only] if only.covers(screen) => self.alone(card, only, captured),
            _ => self.together(card, shown, screen, captured),
        };
        match taken {
            Ok(Some((frame, fourcc))) => {
                let size = frame.info().size;
                if !size.is_supported() {
                    let what = format!("a picture of {size}");
                    return Err(unsupported(info, what));
                }
                self.sequence += 1;
                self.size = Some(size);
                info.size = size;
                if self.fourcc != fourcc {
                    self.fourcc = fourcc;
                    info.pixel_format = framebuffer::name(fourcc);
                }
                Ok(Taken::Frame(frame))
            }
            Ok(None) => Ok(Taken::Nothing),
            Err(FbError::Gone) => Ok(Taken::Gone),
            Err(FbError::Hidden) => Err(SourceError::Permission {
                device: info.device.clone(),
                hint: "reading the screen needs CAP_SYS_ADMIN: run the server as root, or give \
                       its unit AmbientCapabilities=CAP_SYS_ADMIN"
                    .to_owned(),
            }),
            Err(FbError::Unsupported(what)) => Err(unsupported(info, what)),
            Err(FbError::Failed(action, error)) => Err(failed(&info.device, action, error.into())),
        }
    }

    /// The framebuffer's own memory.
    fn alone(
        &mut self,
        card: &Card,
        plane: &PlaneState,
        captured: MonoTime,
    ) -> Result<Option<(Frame, u32)>, FbError> {
        let part = plane.place.map(|(source, _)| Rect {
            x: source.x >> 16,
            y: source.y >> 16,
            width: source.width >> 16,
            height: source.height >> 16,
        });
        let sequence = self.sequence + 1;
        let taken = self.frame(card, plane, part, sequence, captured)?;
        Ok(taken.map(|(frame, layout)| (frame, layout.fourcc)))
    }

    /// A frame of a plane's framebuffer, or of a part of it: its own memory, or what the GPU has drawn of it.
    fn frame(
        &mut self,
        card: &Card,
        plane: &PlaneState,
        part: Option<Rect>,
        sequence: u64,
        captured: MonoTime,
    ) -> Result<Option<(Frame, Layout)>, FbError> {
        let gpu = self.linear.mode();
        let exported = self.cache.get(card, plane.fb, part, gpu, captured)?;
        let layout = *exported.layout();
        let info = FrameInfo {
            format: layout.format,
            color: color(layout.format, plane),
            size: part_size(exported.part()),
            sequence,
            captured,
            damage: Damage::Unknown,
            cpu_bytes: 0,
        };
        let frame = match layout.gpu {
            None => exported.lend(info),
            Some(modifier) => self.linear.draw(&exported, modifier, info)?,
        };
        Ok(frame.map(|frame| (frame, layout)))
    }

    /// All planes, by the CPU.
    fn together(
        &mut self,
        card: &Card,
        shown: &[PlaneState],
        screen: Size,
        captured: MonoTime,
    ) -> Result<Option<(Frame, u32)>, FbError> {
        if !screen.is_supported() {
            return Err(FbError::Unsupported(format!("a screen of {screen}")));
        }
        if !matches!(&self.composed, Some((size, _)) if *size == screen) {
            tracing::info!(
                planes = shown.len(),
                "the CPU puts the screen's planes together"
            );
            let pool = MemoryPool::new(PixelFormat::Bgrx, screen, COMPOSED);
            self.composed = Some((screen, pool));
        }
        self.parts.clear();
        for plane in shown {
            if plane.rotated {
                return Err(FbError::Unsupported(
                    "a plane that the hardware turns or mirrors: set the screen upright".to_owned(),
                ));
            }
            let Some((lent, layout)) = self.frame(card, plane, None, 0, captured)? else {
                return Ok(None);
            };
            let blend = match layout.blend {
                Blend::Opaque => Blend::Opaque,
                own => plane.blend.unwrap_or(own),
            };
            self.parts.push((lent, blend));
        }
        let Some((_, pool)) = self.composed.as_mut() else {
            return Ok(None);
        };
        let Some(buffer) = pool.free() else {
            return Ok(None);
        };
        let layers = self.parts.iter().zip(shown).map(|((part, blend), plane)| {
            let info = part.info();
            let (source, target) = plane
                .place
                .unwrap_or((Source::whole(info.size), planes::whole(screen)));
            Layer {
                format: info.format,
                color: info.color,
                planes: std::array::from_fn(|plane| part.plane(plane)),
                source,
                target,
                alpha: plane.alpha,
                blend: *blend,
            }
        });
        let mut cpu_bytes = 0;
        if let Some((canvas, _)) = pool.plane_mut(buffer, 0) {
            cpu_bytes = compose(layers, screen, canvas, &mut self.line);
        }
        let info = FrameInfo {
            format: PixelFormat::Bgrx,
            color: Colorimetry::RGB,
            size: screen,
            sequence: self.sequence + 1,
            captured,
            damage: Damage::Unknown,
            cpu_bytes,
        };
        let frame = pool.lend(buffer, info);
        self.parts.clear();
        Ok(frame.map(|frame| (frame, u32::from_le_bytes(*b"XR24"))))
    }
}

fn color(format: PixelFormat, plane: &PlaneState) -> Colorimetry {
    if format.is_ycbcr() {
        plane.color
    } else {
        Colorimetry::RGB
    }
}

fn unsupported(info: &SourceInfo, what: String) -> SourceError {
    SourceError::Unsupported {
        device: info.device.clone(),
        what,
    }
}
