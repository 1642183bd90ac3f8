//! Converters (Pi ISP, vim2m): one DMA-BUF in, another out, for encoders that do not take what a source gives.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use soft_kvm_core::FourCc;
use soft_kvm_video::codec::CodecError;
use soft_kvm_video::frame::{DmaBuf, Frame, FrameInfo, FramePool, PixelFormat, Plane};

use super::abi;
use super::device::{DEADLINE, Running, error, open_for};
use super::exports::Exports;
use super::ioctl::{Format, Memory, Stamp, Wanted};
use super::layout;
use crate::clock;

/// Slots for imported pictures, see the encoder's.
const IMPORTS: u32 = 8;

/// Converted pictures: one being made, one at the encoder, one waiting for it.
const RESULTS: u32 = 3;

/// A hardware converter of pixel formats.
#[derive(Debug)]
pub struct M2mConverter {
    pool: Arc<Converted>,
    /// What the output queue was set to.
    set: Format,
    from: PixelFormat,
    stamp: Stamp,
}

/// The device and its buffers; frames of it keep it open.
#[derive(Debug)]
struct Converted {
    run: Running,
    exports: Exports,
    /// Buffers that are not lent out.
    free: AtomicU32,
}

impl M2mConverter {
    /// Opens `node` for pictures that lie in memory like `first`, to convert them to the first of `wanted` that the
    /// device makes. Size and colours stay.
    ///
    /// # Errors
    /// [`CodecError`]: no such device, no permission, in use; frames of a layout that it does not read as it lies;
    /// it makes none of the formats; no memory.
    pub fn open(node: &Path, first: &Frame, wanted: &[PixelFormat]) -> Result<Self, CodecError> {
        let info = *first.info();
        let dma = first
            .dma_buf()
            .ok_or_else(|| error("the picture is in memory that devices cannot import"))?;
        let (device, raw) = open_for(node, &[info.format])?;
        let ask = |format: FourCc, stride| Wanted {
            format,
            size: info.size,
            stride,
            image: 0,
            color: Some(info.color),
        };
        let stride = dma.planes[0].map_or(0, |plane| plane.stride);
        let input = device.set_format(device.output(), ask(raw, stride))?;
        if input.format != raw {
            return Err(error(format!("{} does not take {raw}", device.name)));
        }
        layout::check(&dma, &input, info.size)
            .map_err(|why| error(format!("{} and {raw}: {why}", device.name)))?;
        let offered = device.formats(device.capture())?;
        let made = wanted
            .iter()
            .flat_map(|pixels| layout::fourccs(*pixels))
            .find(|code| offered.iter().any(|(offer, _)| offer == *code))
            .ok_or_else(|| error(format!("{} makes none of {wanted:?}", device.name)))?;
        let set = device.set_format(device.capture(), ask(*made, 0))?;
        let unlike = |device: &str| {
            let what = format!("{} of {} for {}", set.format, set.size, info.size);
            error(format!("{device} set {what}"))
        };
        if set.format != *made || set.size != info.size {
            return Err(unlike(&device.name));
        }
        let run = device.start(Memory::DmaBuf, IMPORTS, RESULTS)?;
        let exports = Exports::of(&run, &set)?.ok_or_else(|| unlike(&run.device.name))?;
        tracing::info!(device = %run.device.name, driver = %run.device.driver, %raw, to = %set.format,
            size = %info.size, "converting");
        let free = AtomicU32::new(u32::try_from(run.result.len()).unwrap_or(0));
        Ok(Self {
            pool: Arc::new(Converted { run, exports, free }),
            set: input,
            from: info.format,
            stamp: Stamp::default(),
        })
    }

    /// Whether it has missed a deadline: no other format will help.
    #[must_use]
    pub fn is_hung(&self) -> bool {
        self.pool.run.is_hung()
    }

    /// Converts one frame, which is free again when this returns.
    ///
    /// # Errors
    /// [`CodecError`]: another size or layout, all converted frames still lent out, or the device failed: it has to
    /// be opened again.
    pub fn convert(&mut self, frame: &Frame) -> Result<Frame, CodecError> {
        let info = *frame.info();
        let run = &self.pool.run;
        let dma = frame.dma_buf().filter(|dma| {
            info.format == self.from && layout::check(dma, &self.set, info.size).is_ok()
        });
        let dma = dma
            .filter(|_| info.size == self.set.size)
            .ok_or_else(|| error("the pictures have another size or layout now"))?;
        if self.pool.free.load(Ordering::Acquire) == 0 {
            let what = "all converted pictures are still in use";
            return Err(error(format!("{}: {what}", run.device.name)));
        }
        let slots = u32::try_from(run.input.len()).unwrap_or(1);
        self.stamp = Stamp(self.stamp.0.wrapping_add(1));
        let (fill, count) =
            layout::fill(&dma, &self.set).ok_or_else(|| error("a plane is missing"))?;
        let fill = fill.get(..count).unwrap_or_default();
        run.queue(frame.buffer() % slots.max(1), fill, self.stamp)
            .map_err(|errno| run.device.failed("VIDIOC_QBUF (output)", errno))?;
        let end = clock::now() + DEADLINE;
        let (mut read, mut made) = (false, None);
        let (mut broken, failed) = (false, |errno| run.device.failed("VIDIOC_DQBUF", errno));
        while !read || made.is_none() {
            let ready = run.wait(end)?;
            if ready.input
                && !read
                && let Some(done) = run.take_input().map_err(failed)?
            {
                (read, broken) = (true, broken || done.has(abi::BUF_ERROR));
            }
            if ready.result
                && made.is_none()
                && let Some(done) = run.take_result().map_err(failed)?
            {
                broken |= done.has(abi::BUF_ERROR);
                self.pool.free.fetch_sub(1, Ordering::AcqRel);
                let converted = FrameInfo {
                    format: self.pool.exports.pixels,
                    ..info
                };
                // A frame from here on, so that whatever happens it goes back.
                made = Some(Frame::new(converted, self.pool.clone(), done.index));
            }
        }
        made.filter(|_| !broken).ok_or_else(|| {
            error(format!(
                "{}: it could not convert a picture",
                run.device.name
            ))
        })
    }
}

impl FramePool for Converted {
    fn plane(&self, buffer: u32, plane: usize) -> Option<Plane<'_>> {
        self.exports.plane(&self.run.result, buffer, plane)
    }

    fn dma_buf(&self, buffer: u32) -> Option<DmaBuf<'_>> {
        self.exports.dma_buf(&self.run.result, buffer)
    }

    fn release(&self, buffer: u32) {
        // The device may have gone; the next conversion tells it.
        if self.run.give_back(buffer).is_ok() {
            self.free.fetch_add(1, Ordering::AcqRel);
        }
    }
}
