//! What the GPU does, on its thread: pictures in any memory that it imports are drawn into linear memory, as they are or as
//! NV12.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use nix::sys::stat::fstat;
use soft_kvm_core::{MonoTime, Size};
use soft_kvm_video::frame::{Colorimetry, DmaBuf, Frame, FrameInfo, Rect};

use super::device::{Device, Format, Linear, Target, Texture};
use super::held::Held;
use super::nv12::Nv12;
use super::pass::Pass;
use super::software;
use crate::clock;
use crate::v4l2::m2m::Nv12Layout;

/// How long the GPU may take for a picture. Nothing else could show it meanwhile, and kernels give a GPU that hangs up
/// after some seconds themselves.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// How long it may take to convert one: the CPU would do it meanwhile.
const CONVERTED: Duration = Duration::from_millis(400);

/// Imported pictures that are kept: as many as the cache of framebuffers has.
const KEPT: usize = 8;

/// Imports that were not used for so long are given up: they keep the memory of framebuffers that may be gone.
const UNUSED: Duration = Duration::from_secs(1);

/// A format that every GPU draws.
const XRGB8888: u32 = u32::from_le_bytes(*b"XR24");

/// What is known of an open device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) renderer: String,
    pub(super) formats: Vec<Format>,
}

/// What it is asked.
#[derive(Debug)]
pub(super) enum Job {
    /// Takes memory for a picture of this size and format.
    Target(Size, u32),
    /// Gives a target up.
    Drop(usize),
    /// Gives up what was imported.
    Forget,
    /// Draws a part of the picture into a target of the part's size.
    Draw(Frame, Rect, usize),
    /// Draws the picture as NV12 that lies so into a target made for it.
    Convert(Held, Nv12Layout, usize),
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Done {
    /// The target's number and memory.
    Target(usize, Linear),
    Forgotten,
    /// It is in the target's memory.
    Drawn,
}

/// Which memory an import is. Inode numbers of DMA-BUFs are unique while they exist, and an import keeps its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    fourcc: u32,
    modifier: u64,
    size: Size,
    color: Colorimetry,
    /// Inode, offset and stride.
    planes: [Option<(u64, u32, u32)>; 4],
}

impl Key {
    fn of(memory: &DmaBuf<'_>, size: Size, color: Colorimetry) -> Result<Self, String> {
        let mut planes = [None; 4];
        for (place, plane) in planes.iter_mut().zip(&memory.planes) {
            if let Some(plane) = plane {
                let inode = fstat(plane.fd).map_err(|errno| format!("fstat: {errno}"))?;
                *place = Some((inode.st_ino, plane.offset, plane.stride));
            }
        }
        Ok(Self {
            fourcc: memory.fourcc,
            modifier: memory.modifier,
            size,
            color,
            planes,
        })
    }
}

/// An open device. The fields are dropped in this order: the device last.
#[derive(Debug)]
pub(super) struct Session {
    imports: Vec<(Key, Texture, MonoTime)>,
    /// It is the CPU that draws.
    software: bool,
    targets: Vec<Option<Target>>,
    pass: Pass,
    /// Compiled for the first picture that is converted.
    nv12: Option<Nv12>,
    device: Rc<Device>,
}

impl Session {
    /// Opens the device, and tries whether it draws into linear memory at all.
    pub(super) fn open(node: &str, file: OwnedFd) -> Result<(Self, Facts), String> {
        let device = Device::open(node, file)?;
        drop(Target::new(&device, Size::new(64, 64), XRGB8888)?);
        let facts = Facts {
            renderer: device.renderer(),
            formats: device.formats()?,
        };
        let session = Self {
            software: software::is_software(&facts.renderer),
            imports: Vec::with_capacity(KEPT),
            targets: Vec::new(),
            pass: Pass::new(&device)?,
            nv12: None,
            device,
        };
        Ok((session, facts))
    }

    pub(super) fn work(&mut self, job: Job) -> Result<Done, String> {
        match job {
            Job::Target(size, fourcc) => {
                let (target, linear) = Target::new(&self.device, size, fourcc)?;
                let free = self.targets.iter().position(Option::is_none);
                let number = free.unwrap_or(self.targets.len());
                match self.targets.get_mut(number) {
                    Some(place) => *place = Some(target),
                    None => self.targets.push(Some(target)),
                }
                Ok(Done::Target(number, linear))
            }
            Job::Drop(number) => {
                if let Some(place) = self.targets.get_mut(number) {
                    *place = None;
                }
                Ok(Done::Forgotten)
            }
            Job::Forget => {
                self.imports.clear();
                Ok(Done::Forgotten)
            }
            Job::Draw(frame, part, target) => self.draw(&frame, part, target),
            Job::Convert(held, layout, target) => self.convert(&held, layout, target),
        }
    }

    fn draw(&mut self, frame: &Frame, part: Rect, target: usize) -> Result<Done, String> {
        let memory = frame.dma_buf();
        let memory = memory.ok_or("the picture is in memory that devices cannot import")?;
        let picture = self.import(&memory, frame.info(), clock::now())?;
        let (picture, target) = (self.picture(picture)?, self.target(target)?);
        self.pass.draw(picture, frame.info().size, part, target)?;
        self.device.wait(PATIENCE)?;
        Ok(Done::Drawn)
    }

    fn convert(&mut self, held: &Held, layout: Nv12Layout, target: usize) -> Result<Done, String> {
        let picture = self.import(&held.memory(), &held.info, clock::now())?;
        let limit = match self.nv12 {
            Some(_) => CONVERTED,
            None => {
                self.nv12 = Some(Nv12::new(&self.device)?);
                // Drivers compile when they draw first.
                PATIENCE
            }
        };
        let (picture, target) = (self.picture(picture)?, self.target(target)?);
        let nv12 = self.nv12.as_ref().ok_or("no program")?;
        nv12.draw(picture, &held.info, layout, target)?;
        self.device.wait(limit)?;
        Ok(Done::Drawn)
    }

    fn picture(&self, place: usize) -> Result<&Texture, String> {
        let import = self.imports.get(place);
        Ok(import.map(|(_, texture, _)| texture).ok_or("no picture")?)
    }

    fn target(&self, number: usize) -> Result<&Target, String> {
        let target = self.targets.get(number).and_then(Option::as_ref);
        Ok(target.ok_or("nothing to draw into")?)
    }

    /// The place of the picture among the imports.
    fn import(
        &mut self,
        memory: &DmaBuf<'_>,
        info: &FrameInfo,
        now: MonoTime,
    ) -> Result<usize, String> {
        let key = Key::of(memory, info.size, info.color)?;
        self.imports
            .retain(|(known, _, used)| *known == key || now.since(*used) < UNUSED);
        if let Some(place) = self.imports.iter().position(|(known, ..)| *known == key) {
            if let Some((_, _, used)) = self.imports.get_mut(place) {
                *used = now;
            }
            return Ok(place);
        }
        if self.imports.len() >= KEPT {
            let used = |place: &usize| self.imports.get(*place).map(|(_, _, used)| *used);
            if let Some(oldest) = (0..self.imports.len()).min_by_key(used) {
                self.imports.swap_remove(oldest);
            }
        }
        if self.software {
            software::maps(self.device.file(), memory)?;
        }
        let yuv = info.format.is_ycbcr().then_some(info.color);
        let texture = Texture::import(&self.device, memory, info.size, yuv)?;
        self.imports.push((key, texture, now));
        Ok(self.imports.len() - 1)
    }
}
