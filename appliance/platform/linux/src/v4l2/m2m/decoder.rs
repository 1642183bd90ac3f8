//! Stateful decoders (kernel doc "Memory-to-Memory Stateful Video Decoder Interface"): one access unit in flight.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use soft_kvm_core::{FourCc, Size};
use soft_kvm_video::codec::{CodecError, CodedFormat, Decoded, I420Ref, VideoDecoder};
use soft_kvm_video::convert::to_i420;
use soft_kvm_video::frame::{
    Colorimetry, Damage, DmaBuf, Frame, FrameInfo, FramePool, PixelFormat, Plane,
};

use super::abi;
use super::device::{DEADLINE, Device, Maps, NAME, Running, error};
use super::exports::Exports;
use super::h264::contents;
use super::ioctl::{self, Fill, Format, Stamp, Wanted};
use super::layout::{self, Place};
use super::setup;
use crate::clock;
use crate::v4l2::ioctl::dequeue_event;

/// Pictures that the decoder may hold as references, one that is shown, one being filled.
const RESULTS: u32 = 6;

/// More where pictures are lent out: one waits for the monitor, one for its next refresh.
const LENT: u32 = 3;

/// How long a driver may take to tell the size of a stream. Some tell it only once the capture queue runs (v4l2r#7:
/// bcm2835-codec), so then it starts as it is.
const SIZE_PATIENCE: Duration = Duration::from_millis(100);

/// What is decoded into: the format and what of it is to be seen.
#[derive(Clone, Copy, Debug)]
struct Output {
    set: Format,
    pixels: PixelFormat,
    places: [Place; 3],
    visible: Size,
}

/// The buffers of one run of the capture queue, and which of them have come back.
#[derive(Debug)]
struct Lent {
    exports: Exports,
    maps: Arc<Vec<Maps>>,
    /// A bit for each; queued again with the next access unit, which is the first to need them.
    back: AtomicU64,
}

impl FramePool for Lent {
    fn plane(&self, buffer: u32, plane: usize) -> Option<Plane<'_>> {
        self.exports.plane(&self.maps, buffer, plane)
    }

    fn dma_buf(&self, buffer: u32) -> Option<DmaBuf<'_>> {
        self.exports.dma_buf(&self.maps, buffer)
    }

    fn release(&self, buffer: u32) {
        let bit = 1_u64.checked_shl(buffer).unwrap_or(0);
        self.back.fetch_or(bit, Ordering::AcqRel);
    }
}

/// A hardware decoder.
#[derive(Debug)]
pub struct M2mDecoder {
    run: Running,
    coded: CodedFormat,
    output: Option<Output>,
    /// The buffer whose memory was given as a picture.
    held: Option<u32>,
    /// Buffers that are given as frames, once one was asked for.
    lent: Option<Arc<Lent>>,
    /// Whether frames may be asked for.
    lends: bool,
    stamp: Stamp,
    /// Y, Cb and Cr apart, for decoders that interleave them.
    apart: [Vec<u8>; 3],
}

impl M2mDecoder {
    /// Opens `node` for streams of `coded`; sizes come with the stream. Where it `lends`, pictures can be had as frames.
    ///
    /// # Errors
    /// [`CodecError`]: no such device, no permission, in use; it does not take the format; no memory.
    pub fn open(node: &Path, coded: CodedFormat, lends: bool) -> Result<Self, CodecError> {
        let device = Device::open(node)?;
        let code = setup::CODED
            .iter()
            .find_map(|(code, format)| (*format == coded).then_some(*code));
        let offered = device.formats(device.output())?;
        let code = code
            .filter(|code| offered.iter().any(|(offer, _)| offer == code))
            .ok_or_else(|| error(format!("{} does not decode {coded:?}", device.name)))?;
        let wanted = Wanted {
            format: code,
            // The stream tells; until then the largest, for the size of the buffers.
            size: Size::new(1920, 1088),
            stride: 0,
            image: 4 << 20,
            color: None,
        };
        let set = device.set_format(device.output(), wanted)?;
        if set.format != code {
            return Err(error(format!("{} set {}", device.name, set.format)));
        }
        // Some drivers have no events, and take the size from the format.
        let _ = ioctl::subscribe_source_change(&device);
        tracing::info!(device = %device.name, driver = %device.driver, coded = %code, "decoding");
        Ok(Self {
            run: device.start_input(1)?,
            coded,
            output: None,
            held: None,
            lent: None,
            lends,
            stamp: Stamp::default(),
            apart: [Vec::new(), Vec::new(), Vec::new()],
        })
    }

    /// Copies the access unit into the device's memory and hands it over.
    fn queue(&mut self, access_unit: &[u8]) -> Result<(), CodecError> {
        let name = &self.run.device.name;
        let length = access_unit.len();
        let used = u32::try_from(length).unwrap_or(u32::MAX);
        let map = self.run.input.first_mut().and_then(|maps| maps.first_mut());
        map.and_then(|map| map.bytes_mut().get_mut(..length))
            .ok_or_else(|| {
                error(format!(
                    "{name}: an access unit of {length} bytes is too long"
                ))
            })?
            .copy_from_slice(access_unit);
        self.stamp = Stamp(self.stamp.0.wrapping_add(1));
        self.run
            .queue(0, &[Fill::Used(used)], self.stamp)
            .map_err(|errno| self.run.device.failed("VIDIOC_QBUF (output)", errno))
    }

    /// Takes over the stream's size and starts the capture queue (kernel doc "Capture Setup").
    fn set_output(&mut self) -> Result<(), CodecError> {
        if self.output.take().is_some() {
            self.lent = None;
            self.run.stop_results()?;
        }
        let device = &self.run.device;
        let queue = device.capture();
        let now = ioctl::get_format(device, queue)
            .map_err(|errno| device.failed("VIDIOC_G_FMT", errno))?;
        let offered = device.formats(queue)?;
        // FWHT decoders do not convert: what they propose is what was encoded.
        let wanted: &[PixelFormat] = match (self.coded, layout::pixels(now.format)) {
            (CodedFormat::Fwht, Some(pixels)) => &[pixels],
            (CodedFormat::Fwht, None) if now.format == FourCc::new(b"422P") => {
                &[PixelFormat::Yuyv, PixelFormat::Uyvy]
            }
            _ => &[PixelFormat::I420, PixelFormat::Nv12],
        };
        let (pixels, format) = wanted
            .iter()
            .flat_map(|pixels| {
                layout::fourccs(*pixels)
                    .iter()
                    .map(move |code| (*pixels, *code))
            })
            .find(|(_, code)| offered.iter().any(|(offer, _)| offer == code))
            .ok_or_else(|| {
                let names: Vec<String> = offered.iter().map(|(code, _)| code.to_string()).collect();
                error(format!(
                    "{} decodes this stream to {} only",
                    device.name,
                    names.join(", ")
                ))
            })?;
        let set = device.set_format(
            queue,
            Wanted {
                format,
                size: now.size,
                stride: 0,
                image: 0,
                color: None,
            },
        )?;
        let visible = ioctl::get_compose(device)
            .map_err(|errno| device.failed("VIDIOC_G_SELECTION", errno))?
            .unwrap_or(set.size)
            .even();
        let shown = visible.is_supported()
            && visible.width <= set.size.width
            && visible.height <= set.size.height;
        let places = layout::places(&set)
            .filter(|_| shown && set.format == format)
            .ok_or_else(|| {
                let what = format!("pictures of {visible} in {} of {}", set.format, set.size);
                error(format!("{} decodes to {what}", device.name))
            })?
            .0;
        tracing::info!(device = %device.name, raw = %format, size = %visible, "decoded size");
        self.output = Some(Output {
            set,
            pixels,
            places,
            visible,
        });
        let lent = if self.lends { LENT } else { 0 };
        self.run.start_results(RESULTS + lent)
    }

    /// Waits until the access unit has been read and, if it holds one, its picture is there.
    fn finish(&mut self, holds_picture: bool) -> Result<Option<u32>, CodecError> {
        let end = clock::now() + DEADLINE;
        let (mut read, mut made, mut broken) = (false, None, false);
        while !read || (holds_picture && made.is_none() && !broken) {
            if self.output.is_none() {
                let patience = (clock::now() + SIZE_PATIENCE).min(end);
                let told = loop {
                    match self.run.wait_until(patience)? {
                        Some(ready) if ready.event => break true,
                        Some(ready) if ready.input && !read => {
                            (read, broken) = self.take_input()?;
                            if broken || !holds_picture {
                                break false;
                            }
                        }
                        Some(_) => break true,
                        None => break true,
                    }
                };
                if !told {
                    break;
                }
                while dequeue_event(&self.run.device).is_some() {}
                self.set_output()?;
                continue;
            }
            let ready = self.run.wait(end)?;
            // What changes comes behind the last picture of the old size, which is marked.
            if ready.event {
                while dequeue_event(&self.run.device).is_some() {}
            }
            if ready.input && !read {
                (read, broken) = self.take_input()?;
            }
            if ready.result {
                match self.run.take_result() {
                    Ok(None) => {}
                    Ok(Some(done)) if done.has(abi::BUF_LAST) => self.set_output()?,
                    Ok(Some(done)) if done.has(abi::BUF_ERROR) => {
                        self.run.give_back(done.index)?;
                        broken = true;
                    }
                    // Pictures of before that were late.
                    Ok(Some(done)) if done.stamp != self.stamp => self.run.give_back(done.index)?,
                    Ok(Some(done)) => made = Some(done.index),
                    Err(Errno::EPIPE) => self.set_output()?,
                    Err(errno) => {
                        return Err(self.run.device.failed("VIDIOC_DQBUF (capture)", errno));
                    }
                }
            }
        }
        if broken {
            self.held = made;
            let what = format!(
                "{} cannot decode this: an IDR is needed",
                self.run.device.name
            );
            return Err(error(what));
        }
        Ok(made)
    }

    /// Whether the access unit has been read, and whether it was broken.
    fn take_input(&self) -> Result<(bool, bool), CodecError> {
        match self.run.take_input() {
            Ok(done) => Ok((
                done.is_some(),
                done.is_some_and(|done| done.has(abi::BUF_ERROR)),
            )),
            Err(errno) => Err(self.run.device.failed("VIDIOC_DQBUF (output)", errno)),
        }
    }

    /// A filled buffer as a picture.
    fn picture(&mut self, index: u32) -> Option<I420Ref<'_>> {
        let output = self.output?;
        let maps = self.run.result.get(index as usize)?;
        let plane = |place: Place| maps.get(place.memory)?.bytes().get(place.offset as usize..);
        let [luma, cb, cr] = output.places;
        let size = output.visible;
        let (half, lines) = (size.width as usize / 2, size.height as usize / 2);
        let stride = |place: Place| place.stride as usize;
        if output.pixels == PixelFormat::I420 {
            return Some(I420Ref {
                size,
                planes: [plane(luma)?, plane(cb)?, plane(cr)?],
                strides: [stride(luma), stride(cb), stride(cr)],
                color: output.set.color,
            });
        }
        if output.pixels != PixelFormat::Nv12 {
            let done = to_i420(
                output.pixels,
                plane(luma)?,
                stride(luma),
                size,
                &mut self.apart,
            );
            let [y, cb, cr] = &self.apart;
            return done.then_some(I420Ref {
                size,
                planes: [y, cb, cr],
                strides: [size.width as usize, half, half],
                color: match output.pixels {
                    PixelFormat::Yuyv | PixelFormat::Uyvy => output.set.color,
                    _ => Colorimetry::default(),
                },
            });
        }
        let both = plane(cb)?;
        let [_, first, second] = &mut self.apart;
        first.clear();
        second.clear();
        for line in both.chunks(stride(cb)).take(lines) {
            let pairs = line.as_chunks::<2>().0.get(..half)?;
            first.extend(pairs.iter().map(|[cb, _]| *cb));
            second.extend(pairs.iter().map(|[_, cr]| *cr));
        }
        Some(I420Ref {
            size,
            planes: [plane(luma)?, first, second],
            strides: [stride(luma), half, half],
            color: output.set.color,
        })
    }
}

impl M2mDecoder {
    /// Decodes an access unit into a buffer, which stays out of the queue.
    fn next(&mut self, access_unit: &[u8]) -> Result<Option<u32>, CodecError> {
        if access_unit.is_empty() {
            return Ok(None);
        }
        if let Some(index) = self.held.take() {
            self.run.give_back(index)?;
        }
        let back = self.lent.as_ref();
        let mut back = back.map_or(0, |lent| lent.back.swap(0, Ordering::AcqRel));
        while back != 0 {
            self.run.give_back(back.trailing_zeros())?;
            back &= back - 1;
        }
        let holds_picture = match self.coded {
            CodedFormat::H264 => contents(access_unit).picture,
            CodedFormat::Fwht => true,
        };
        self.queue(access_unit)?;
        self.finish(holds_picture)
    }

    /// A filled buffer as a frame; `None` where the driver does not export its buffers, or makes what no frame is of.
    fn frame(&mut self, index: u32) -> Option<Frame> {
        let output = self.output?;
        if self.lent.is_none() && self.lends {
            let exports = Exports::of(&self.run, &output.set).unwrap_or_else(|error| {
                tracing::info!("{error}: pictures are copied to the screen");
                None
            });
            self.lends = exports.is_some();
            self.lent = exports.map(|exports| {
                Arc::new(Lent {
                    exports,
                    maps: Arc::clone(&self.run.result),
                    back: AtomicU64::new(0),
                })
            });
        }
        let lent = self.lent.clone()?;
        let rgb = layout::is_rgb(output.set.format);
        let info = FrameInfo {
            format: output.pixels,
            color: if rgb {
                Colorimetry::RGB
            } else {
                output.set.color
            },
            size: output.visible,
            sequence: self.stamp.0.into(),
            captured: clock::now(),
            damage: Damage::Unknown,
            cpu_bytes: 0,
        };
        Some(Frame::new(info, lent, index))
    }

    /// The memory of a filled buffer, until the next access unit.
    fn hold(&mut self, index: u32) -> Result<I420Ref<'_>, CodecError> {
        self.held = Some(index);
        let fault = || error("a decoded picture is larger than its buffer");
        self.picture(index).ok_or_else(fault)
    }
}

impl VideoDecoder for M2mDecoder {
    fn name(&self) -> &'static str {
        NAME
    }

    fn decode(&mut self, access_unit: &[u8]) -> Result<Option<I420Ref<'_>>, CodecError> {
        match self.next(access_unit)? {
            None => Ok(None),
            Some(index) => self.hold(index).map(Some),
        }
    }

    fn decode_frame(&mut self, access_unit: &[u8]) -> Result<Option<Decoded<'_>>, CodecError> {
        let Some(index) = self.next(access_unit)? else {
            return Ok(None);
        };
        match self.frame(index) {
            Some(frame) => Ok(Some(Decoded::Frame(frame))),
            None => self.hold(index).map(Decoded::Memory).map(Some),
        }
    }
}
