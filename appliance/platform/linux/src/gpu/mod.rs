//! A GPU through GBM, EGL and OpenGL ES, which are loaded when they are asked for: it reads pictures in tiled and
//! compressed memory, and draws them into linear memory that everything else reads, as they are or as NV12 for an encoder.
//!
//! A `session` is one open device, on a thread of its own (`crate::driver`), because a context belongs to a thread and
//! drivers wait for their hardware. `docs/decisions/gpu-by-egl.md` says why this is no crate of others.

mod abi;
mod converter;
mod device;
mod held;
mod library;
mod nv12;
mod pass;
mod probe;
mod ring;
mod session;
mod software;

use std::os::fd::OwnedFd;
use std::time::Duration;

use soft_kvm_core::Size;
use soft_kvm_video::frame::{Frame, Rect};

use crate::driver::{Driver, Kind};
use crate::v4l2::m2m::Nv12Layout;
use held::Held;
use session::{Done, Facts, Job, Session};

pub use converter::GpuConverter;
pub(crate) use device::Linear;
pub use probe::{GpuNode, probe};
pub(crate) use ring::Ring;

/// How long a driver may take to open: software renderers start a compiler.
const OPENING: Duration = Duration::from_secs(10);

/// How long a picture may take: longer than the session waits for the GPU.
const DRAWING: Duration = Duration::from_secs(3);

/// The same for one that the CPU would convert meanwhile.
const CONVERTING: Duration = Duration::from_millis(600);

static DRIVERS: Kind = Kind::new("gpu", "OpenGL ES");

/// An open GPU.
#[derive(Debug)]
pub(crate) struct Gpu {
    driver: Driver<Job, Done>,
    facts: Facts,
}

impl Gpu {
    /// Opens the device behind `file`, which messages call `node`.
    ///
    /// # Errors
    /// A library that is missing, no driver for the device, one that lacks something or takes too long; in words.
    pub(crate) fn open(node: &str, file: OwnedFd) -> Result<Self, String> {
        library::library()?;
        let name = node.to_owned();
        let open = move || Session::open(&name, file);
        let (driver, facts) =
            Driver::open(&DRIVERS, node.to_owned(), OPENING, open, Session::work)?;
        Ok(Self { driver, facts })
    }

    /// Its name for people.
    pub(crate) fn renderer(&self) -> &str {
        &self.facts.renderer
    }

    /// Whether it reads pictures of this format in memory of this modifier (`<drm/drm_fourcc.h>`).
    pub(crate) fn imports(&self, fourcc: u32, modifier: u64) -> bool {
        let mut formats = self.facts.formats.iter();
        formats.any(|format| format.fourcc == fourcc && format.takes(modifier))
    }

    /// Takes linear memory for pictures of `size` in the format `fourcc`; gives its number.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn target(&mut self, size: Size, fourcc: u32) -> Result<(usize, Linear), String> {
        match self.ask(Job::Target(size, fourcc), "memory for a picture", DRAWING)? {
            Done::Target(number, memory) => Ok((number, memory)),
            other => Err(format!("{other:?} instead of memory")),
        }
    }

    /// Gives a target's number up; its memory stays as long as others have it.
    pub(crate) fn drop_target(&mut self, number: usize) {
        if let Err(error) = self.ask(Job::Drop(number), "giving memory up", DRAWING) {
            tracing::debug!(error, "a target of the GPU");
        }
    }

    /// Gives up the memory of the pictures that were drawn last.
    pub(crate) fn forget(&mut self) {
        if let Err(error) = self.ask(Job::Forget, "giving memory up", DRAWING) {
            tracing::debug!(error, "imports of the GPU");
        }
    }

    /// Draws `part` of `frame` into the target of this number, which has the part's size, and waits for it.
    ///
    /// # Errors
    /// What the driver says, or that it takes too long.
    pub(crate) fn draw(&mut self, frame: Frame, part: Rect, target: usize) -> Result<(), String> {
        self.ask(Job::Draw(frame, part, target), "a picture", DRAWING)
            .map(drop)
    }

    /// Draws all of `held` as NV12 that lies so into the target of this number, which was made for it, and waits for it: for
    /// less time once it is `warm`.
    ///
    /// # Errors
    /// What the driver says, or that it takes too long.
    fn convert(
        &mut self,
        held: Held,
        layout: Nv12Layout,
        target: usize,
        warm: bool,
    ) -> Result<(), String> {
        let limit = if warm { CONVERTING } else { DRAWING };
        self.ask(Job::Convert(held, layout, target), "a picture", limit)
            .map(drop)
    }

    fn ask(&mut self, job: Job, what: &str, limit: Duration) -> Result<Done, String> {
        self.driver.work(job, what, limit)
    }
}
