//! Stateful encoders (kernel doc "Memory-to-Memory Stateful Video Encoder Interface"): one picture in flight.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use soft_kvm_core::{Bitrate, FourCc, Size};
use soft_kvm_video::codec::{CodecError, CodedFormat, Encoded, EncoderConfig, FrameEncoder};
use soft_kvm_video::frame::{Colorimetry, Frame, PixelFormat};

use super::abi::{self, control};
use super::copy::M2mCopyEncoder;
use super::device::{DEADLINE, Device, NAME, Running, error, open_for};
use super::fwht::is_key_frame;
use super::h264::{Headers, contents, with_colours};
use super::ioctl::{self, Format, Memory, Stamp, Wanted};
use super::layout::{self, Nv12Layout};
use super::quirks::Quirks;
use super::setup;
use crate::clock;
use crate::dmabuf::Pool;

/// Slots for imported pictures: as many as sources have buffers, so that each stays mapped in its own.
const IMPORTS: u32 = 8;

/// Buffers for what is made: one being filled, one to spare.
pub(super) const RESULTS: u32 = 2;

/// Pictures after which a key frame that was asked for has to be there; else the stream starts anew.
const KEY_FRAME_PATIENCE: u32 = 3;

/// Whether an encoder of a driver that takes only one is open.
static ALONE: AtomicBool = AtomicBool::new(false);

/// The right to run a driver's only encoder.
#[derive(Debug)]
struct Alone;

impl Alone {
    fn claim(device: &Device, quirks: &Quirks) -> Result<Option<Self>, CodecError> {
        if !quirks.alone {
            return Ok(None);
        }
        if ALONE.swap(true, Ordering::AcqRel) {
            let what = "two encoders of this driver at a time make the kernel crash";
            return Err(error(format!("{}: {what}", device.name)));
        }
        Ok(Some(Self))
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        ALONE.store(false, Ordering::Release);
    }
}

/// An encoder whose formats are set.
#[derive(Debug)]
pub(super) struct Ready {
    device: Device,
    quirks: Quirks,
    code: FourCc,
    coded: CodedFormat,
    /// Of the output queue.
    set: Format,
    /// Of the pictures.
    color: Colorimetry,
    alone: Option<Alone>,
}

impl Ready {
    /// Sets the device up for pictures of one raw format.
    pub(super) fn new(
        device: Device,
        config: &EncoderConfig,
        raw: FourCc,
        stride: u32,
        color: Colorimetry,
    ) -> Result<Self, CodecError> {
        let quirks = Quirks::of(&device.driver);
        let alone = Alone::claim(&device, &quirks)?;
        if !config.size.width.is_multiple_of(quirks.width) {
            return Err(error(format!(
                "{}: its pictures are corrupt when their width is no multiple of {}, as {}",
                device.name, quirks.width, config.size
            )));
        }
        let (code, coded) = setup::coded(&device)?;
        setup::set_coded(&device, code, config)?;
        let wanted = Wanted {
            format: raw,
            size: config.size,
            stride,
            image: 0,
            color: Some(color),
        };
        let mut set = device.set_format(device.output(), wanted)?;
        if set.format != raw {
            return Err(error(format!("{} does not take {raw}", device.name)));
        }
        set.size.height = set.size.height.next_multiple_of(quirks.lines);
        Ok(Self {
            device,
            quirks,
            code,
            coded,
            set,
            color,
            alone,
        })
    }

    /// Starts it; `check` says whether the layout fits, and `start` makes the buffers and says whose memory the pictures are in.
    pub(super) fn start(
        self,
        config: &EncoderConfig,
        check: impl FnOnce(&Format) -> Result<(), String>,
        start: impl FnOnce(Device, &Format) -> Result<(Running, &'static str), CodecError>,
    ) -> Result<Core, CodecError> {
        let Self { device, set, .. } = self;
        let raw = set.format;
        check(&set).map_err(|why| error(format!("{} and {raw}: {why}", device.name)))?;
        setup::set_parameters(&device, config, self.coded, &self.quirks)?;
        let can_force = ioctl::query_control(&device, control::FORCE_KEY_FRAME).is_some();
        let card = device.card.clone();
        let (run, memory) = start(device, &set)?;
        tracing::info!(device = %run.device.name, driver = %run.device.driver, card, raw = %raw,
            coded = %self.code, size = %config.size, memory, "encoding");
        Ok(Core {
            run,
            set,
            coded: self.coded,
            headers: Headers::default(),
            color: (!layout::is_rgb(raw)).then_some(self.color),
            stamp: Stamp::default(),
            waiting: None,
            can_force,
            size: config.size,
            _alone: self.alone,
        })
    }
}

/// A running encoder, wherever its pictures come from.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) run: Running,
    /// What the output queue was set to.
    set: Format,
    pub(super) coded: CodedFormat,
    headers: Headers,
    /// Of the coded pictures; `None` if the device makes them from RGB, by a matrix that it does not tell.
    color: Option<Colorimetry>,
    stamp: Stamp,
    /// Pictures since a key frame was asked for in vain.
    waiting: Option<u32>,
    /// Whether key frames can be asked for; else the stream starts anew.
    can_force: bool,
    pub(super) size: Size,
    _alone: Option<Alone>,
}

impl Core {
    fn force_key_frame(&mut self) -> Result<(), CodecError> {
        let late = self
            .waiting
            .is_some_and(|since| since >= KEY_FRAME_PATIENCE);
        self.waiting = self.waiting.filter(|_| !late).or(Some(0));
        if self.can_force && !late {
            let device = &self.run.device;
            return ioctl::set_control(device, control::FORCE_KEY_FRAME, 1)
                .map_err(|errno| device.failed("forcing a key frame", errno));
        }
        // A stream begins with a key frame; at the very start it is there already.
        if self.stamp == Stamp::default() {
            return Ok(());
        }
        self.run.restart()
    }

    /// Encodes what `queue` puts into the output queue, and waits for it.
    pub(super) fn encode(
        &mut self,
        idr: bool,
        out: &mut Vec<u8>,
        queue: impl FnOnce(&Running, &Format, Stamp) -> Result<(), Errno>,
    ) -> Result<Encoded, CodecError> {
        out.clear();
        if idr {
            self.force_key_frame()?;
        }
        self.stamp = Stamp(self.stamp.0.wrapping_add(1));
        queue(&self.run, &self.set, self.stamp)
            .map_err(|errno| self.run.device.failed("VIDIOC_QBUF (output)", errno))?;
        let end = clock::now() + DEADLINE;
        let (mut read, mut made) = (false, None);
        while !read || made.is_none() {
            let ready = self.run.wait(end)?;
            if ready.input && !read {
                read = self.take_input()?;
            }
            if ready.result {
                made = self.take_result(out)?.or(made);
            }
        }
        let idr = made.unwrap_or(false);
        self.waiting = match self.waiting {
            Some(pictures) if !idr => Some(pictures + 1),
            _ => None,
        };
        Ok(Encoded { idr })
    }

    fn take_input(&mut self) -> Result<bool, CodecError> {
        let device = &self.run.device;
        match self.run.take_input() {
            Ok(Some(done)) if done.has(abi::BUF_ERROR) => Err(error(format!(
                "{}: it could not read a picture",
                device.name
            ))),
            Ok(done) => Ok(done.is_some()),
            Err(errno) => Err(device.failed("VIDIOC_DQBUF (output)", errno)),
        }
    }

    /// Appends what the device made; whether it is a key frame, once it is of the picture that was queued.
    fn take_result(&mut self, out: &mut Vec<u8>) -> Result<Option<bool>, CodecError> {
        let failed = |what| self.run.device.failed("VIDIOC_DQBUF (capture)", what);
        let Some(done) = self.run.take_result().map_err(failed)? else {
            return Ok(None);
        };
        if done.has(abi::BUF_ERROR) {
            let what = format!("{}: it could not encode a picture", self.run.device.name);
            return Err(error(what));
        }
        let data = self.run.data(done).ok_or_else(|| {
            error(format!(
                "{}: it says that it wrote more than a buffer holds",
                self.run.device.name
            ))
        })?;
        let mut result = None;
        if self.coded == CodedFormat::H264 {
            let holds = contents(data);
            let described = self.color.filter(|_| holds.sps);
            let described = described.and_then(|color| with_colours(data, color));
            let data = described.as_deref().unwrap_or(data);
            self.headers.keep(data);
            // Drivers give parameter sets in a buffer of their own, or garbage before the first picture.
            if holds.picture && done.stamp == self.stamp {
                if holds.idr && !holds.sps {
                    out.extend_from_slice(self.headers.bytes());
                }
                out.extend_from_slice(data);
                result = Some(holds.idr);
            } else if data.is_empty() && done.stamp == self.stamp {
                result = Some(false);
            }
        } else if done.stamp == self.stamp {
            out.extend_from_slice(data);
            result = Some(done.has(abi::BUF_KEYFRAME) || is_key_frame(data));
        }
        self.run.give_back(done.index)?;
        Ok(result)
    }

    pub(super) fn set_bitrate(&self, bitrate: Bitrate) {
        if !setup::set_bitrate(&self.run.device, bitrate) {
            tracing::debug!(device = %self.run.device.name, %bitrate, "no control for the bitrate");
        }
    }
}

/// A hardware encoder that reads pictures where they are: it imports the DMA-BUFs of frames.
#[derive(Debug)]
pub struct M2mEncoder {
    core: Core,
    format: PixelFormat,
}

impl M2mEncoder {
    /// Opens `node` for pictures that lie in memory like `first`.
    ///
    /// # Errors
    /// [`CodecError`]: no such device, no permission, in use; no coded format that is carried; frames of a layout that
    /// the device does not read as it lies (then a converter has to come first); no memory.
    pub fn open(node: &Path, config: &EncoderConfig, first: &Frame) -> Result<Self, CodecError> {
        let info = *first.info();
        let dma = first
            .dma_buf()
            .ok_or_else(|| error("the picture is in memory that devices cannot import"))?;
        let stride = dma.planes[0].map_or(0, |plane| plane.stride);
        let (device, raw) = open_for(node, &[info.format])?;
        let check = |set: &Format| layout::check(&dma, set, info.size);
        let start = |device: Device, _: &Format| {
            let run = device.start(Memory::DmaBuf, IMPORTS, RESULTS)?;
            Ok((run, "the source's"))
        };
        Ok(Self {
            core: Ready::new(device, config, raw, stride, info.color)?
                .start(config, check, start)?,
            format: info.format,
        })
    }

    /// How the encoder at `node` wants pictures of NV12 to lie, with lines of `stride` bytes or the next length that it takes.
    /// Nothing stays open.
    ///
    /// # Errors
    /// [`CodecError`]: no such device, no permission, in use; it does not take NV12 in one memory.
    pub fn nv12_layout(
        node: &Path,
        config: &EncoderConfig,
        stride: u32,
    ) -> Result<Nv12Layout, CodecError> {
        let (device, raw) = open_for(node, &[PixelFormat::Nv12])?;
        let ready = Ready::new(device, config, raw, stride, Colorimetry::default())?;
        Nv12Layout::of(&ready.set).map_err(|why| error(format!("{}: {why}", ready.device.name)))
    }

    /// Opens `node` for pictures in memory of the CPU, which are copied into memory that the device reads: some that it
    /// imports, else its own.
    ///
    /// # Errors
    /// As [`M2mEncoder::open`].
    pub fn open_cpu(node: &Path, config: &EncoderConfig) -> Result<M2mCopyEncoder, CodecError> {
        Self::open_cpu_with(node, config, &Pool::ALL)
    }

    /// The same with memory of the first of these pools that the device imports, and its own if it imports none.
    ///
    /// # Errors
    /// As [`M2mEncoder::open`].
    pub fn open_cpu_with(
        node: &Path,
        config: &EncoderConfig,
        pools: &[Pool],
    ) -> Result<M2mCopyEncoder, CodecError> {
        M2mCopyEncoder::open(node, config, pools)
    }
}

impl FrameEncoder for M2mEncoder {
    fn name(&self) -> &'static str {
        NAME
    }

    fn format(&self) -> CodedFormat {
        self.core.coded
    }

    fn encode(
        &mut self,
        frame: &Frame,
        idr: bool,
        out: &mut Vec<u8>,
    ) -> Result<Encoded, CodecError> {
        let info = frame.info();
        let dma = frame.dma_buf();
        let fits = dma.as_ref().is_some_and(|dma| {
            info.format == self.format && layout::check(dma, &self.core.set, info.size).is_ok()
        });
        let dma = dma
            .filter(|_| fits && info.size == self.core.size)
            .ok_or_else(|| error("the pictures have another size or layout now"))?;
        let slots = u32::try_from(self.core.run.input.len()).unwrap_or(1);
        let slot = frame.buffer() % slots.max(1);
        self.core.encode(idr, out, |run, set, stamp| {
            let (fill, count) = layout::fill(&dma, set).ok_or(Errno::EINVAL)?;
            run.queue(slot, fill.get(..count).unwrap_or_default(), stamp)
        })
    }

    fn set_bitrate(&mut self, bitrate: Bitrate) -> Result<(), CodecError> {
        self.core.set_bitrate(bitrate);
        Ok(())
    }
}
