//! One function per ioctl, for both queues of a memory-to-memory device.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use soft_kvm_core::{FourCc, FrameRate, Size};
use soft_kvm_video::frame::Colorimetry;

use super::abi::{self, Zeroed, request};
use super::layout;
use crate::v4l2::color::Fields;
pub(super) use crate::v4l2::ioctl::PLANES_MAX;
use crate::v4l2::ioctl::{call, ioctl, listed};

type Result<T> = std::result::Result<T, Errno>;

/// One of the two queues, named as the kernel does: `Output` takes what is to be encoded, decoded or
/// converted, `Capture` gives what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queue {
    pub(super) output: bool,
    /// Whether the device speaks the multi-planar API.
    pub(super) multi: bool,
}

impl Queue {
    fn buffer_type(self) -> u32 {
        match (self.output, self.multi) {
            (true, false) => abi::OUTPUT,
            (true, true) => abi::OUTPUT_MPLANE,
            (false, false) => abi::CAPTURE,
            (false, true) => abi::CAPTURE_MPLANE,
        }
    }
}

/// Whose memory a queue's buffers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    /// The driver's, mapped.
    Mmap,
    /// DMA-BUFs that are imported.
    DmaBuf,
}

impl Memory {
    fn code(self) -> u32 {
        match self {
            Self::Mmap => abi::MEMORY_MMAP,
            Self::DmaBuf => abi::MEMORY_DMABUF,
        }
    }
}

/// The format with this index and whether it is a compressed one; `None` behind the last.
pub(super) fn enum_format(
    fd: &impl AsFd,
    queue: Queue,
    index: u32,
) -> Result<Option<(FourCc, bool)>> {
    let mut raw = abi::FmtDesc::zeroed();
    (raw.index, raw.type_) = (index, queue.buffer_type());
    let found = listed(ioctl!(fd, ENUM_FMT, &mut raw))?;
    Ok(found.map(|()| {
        (
            FourCc(raw.pixelformat),
            raw.flags & abi::FMT_COMPRESSED != 0,
        )
    }))
}

/// What is asked of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) format: FourCc,
    pub(super) size: Size,
    /// Bytes from one line to the next of the first plane; 0 leaves it to the driver.
    pub(super) stride: u32,
    /// Bytes of a buffer; 0 leaves it to the driver.
    pub(super) image: u32,
    /// Of raw pictures on the output queue.
    pub(super) color: Option<Colorimetry>,
}

/// A format as the driver set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    pub(super) format: FourCc,
    /// May be larger than asked for, to whole blocks of the codec.
    pub(super) size: Size,
    /// Bytes from one line to the next, of each plane in memory.
    pub(super) strides: [u32; PLANES_MAX],
    /// Bytes of each plane in memory.
    pub(super) images: [u32; PLANES_MAX],
    /// Planes in memory.
    pub(super) planes: usize,
    pub(super) color: Colorimetry,
}

pub(super) fn get_format(fd: &impl AsFd, queue: Queue) -> Result<Format> {
    let mut raw = abi::Format::zeroed();
    raw.type_ = queue.buffer_type();
    ioctl!(fd, G_FMT, &mut raw)?;
    Ok(read_format(&raw, queue))
}

/// Sets a format, or what the driver thinks is nearest: look at what comes back.
pub(super) fn set_format(fd: &impl AsFd, queue: Queue, wanted: Wanted) -> Result<Format> {
    let mut raw = abi::Format::zeroed();
    raw.type_ = queue.buffer_type();
    let color = wanted.color.map_or_else(Fields::default, |color| {
        Fields::of(color, layout::is_rgb(wanted.format))
    });
    let Size { width, height } = wanted.size;
    if queue.multi {
        let mut pix = abi::PixFormatMplane::zeroed();
        (pix.width, pix.height, pix.pixelformat) = (width, height, wanted.format.0);
        pix.field = abi::FIELD_NONE;
        // The numbers of both fields fit: they are below 10.
        let short = |code: u32| u8::try_from(code).unwrap_or(0);
        pix.colorspace = color.colorspace;
        (pix.ycbcr_enc, pix.quantization) = (short(color.ycbcr_enc), short(color.quantization));
        let mut planes = pix.plane_fmt;
        for plane in planes
            .iter_mut()
            .take(usize::from(planes_of(wanted.format)))
        {
            (plane.bytesperline, plane.sizeimage) = (wanted.stride, wanted.image);
        }
        pix.plane_fmt = planes;
        pix.num_planes = planes_of(wanted.format);
        raw.fmt.mplane = pix;
    } else {
        let mut pix = abi::PixFormat::zeroed();
        (pix.width, pix.height, pix.pixelformat) = (width, height, wanted.format.0);
        pix.field = abi::FIELD_NONE;
        (pix.bytesperline, pix.sizeimage) = (wanted.stride, wanted.image);
        // Else the kernel clears the two after it.
        pix.priv_ = abi::PIX_FMT_PRIV_MAGIC;
        pix.colorspace = color.colorspace;
        (pix.ycbcr_enc, pix.quantization) = (color.ycbcr_enc, color.quantization);
        raw.fmt.pix = pix;
    }
    ioctl!(fd, S_FMT, &mut raw)?;
    Ok(read_format(&raw, queue))
}

/// Memory planes of the formats that are used: `NM12` has two, `YM12` three.
fn planes_of(format: FourCc) -> u8 {
    if format == FourCc::new(b"NM12") {
        2
    } else if format == FourCc::new(b"YM12") {
        3
    } else {
        1
    }
}

fn read_format(raw: &abi::Format, queue: Queue) -> Format {
    let (mut strides, mut images) = ([0; PLANES_MAX], [0; PLANES_MAX]);
    if queue.multi {
        // SAFETY: the union was all zeros at first, and any bits are a value of its numbers.
        let pix = unsafe { raw.fmt.mplane };
        let planes = pix.plane_fmt;
        for ((stride, image), plane) in strides.iter_mut().zip(&mut images).zip(planes) {
            (*stride, *image) = (plane.bytesperline, plane.sizeimage);
        }
        let (format, size) = (FourCc(pix.pixelformat), Size::new(pix.width, pix.height));
        let color = Fields {
            colorspace: pix.colorspace,
            ycbcr_enc: pix.ycbcr_enc.into(),
            quantization: pix.quantization.into(),
        };
        Format {
            format,
            size,
            strides,
            images,
            planes: usize::from(pix.num_planes).clamp(1, PLANES_MAX),
            color: color.or_bt709().colorimetry(format, size),
        }
    } else {
        // SAFETY: as above.
        let pix = unsafe { raw.fmt.pix };
        (strides[0], images[0]) = (pix.bytesperline, pix.sizeimage);
        let (format, size) = (FourCc(pix.pixelformat), Size::new(pix.width, pix.height));
        // Before `V4L2_PIX_FMT_PRIV_MAGIC` the last fields were not there.
        let extended = pix.priv_ == abi::PIX_FMT_PRIV_MAGIC;
        let color = Fields {
            colorspace: pix.colorspace,
            ycbcr_enc: if extended { pix.ycbcr_enc } else { 0 },
            quantization: if extended { pix.quantization } else { 0 },
        };
        Format {
            format,
            size,
            strides,
            images,
            planes: 1,
            color: color.or_bt709().colorimetry(format, size),
        }
    }
}

/// What is to be seen of the coded size; drivers without cropping show all of it.
pub(super) fn set_crop(fd: &impl AsFd, size: Size) -> Result<Option<Size>> {
    let mut raw = abi::Selection::zeroed();
    // The single-planar type stands for both (kernel doc "VIDIOC_G_SELECTION").
    (raw.type_, raw.target) = (abi::OUTPUT, abi::SEL_CROP);
    (raw.width, raw.height) = (size.width, size.height);
    Ok(listed(ioctl!(fd, S_SELECTION, &mut raw))?.map(|()| Size::new(raw.width, raw.height)))
}

/// What of a decoded picture is to be seen; `None` for drivers that do not tell.
pub(super) fn get_compose(fd: &impl AsFd) -> Result<Option<Size>> {
    let mut raw = abi::Selection::zeroed();
    (raw.type_, raw.target) = (abi::CAPTURE, abi::SEL_COMPOSE);
    Ok(listed(ioctl!(fd, G_SELECTION, &mut raw))?.map(|()| Size::new(raw.width, raw.height)))
}

/// Asks for changes of a decoded stream's size as events.
pub(super) fn subscribe_source_change(fd: &impl AsFd) -> Result<()> {
    let mut raw = abi::EventSubscription::zeroed();
    raw.type_ = abi::EVENT_SOURCE_CHANGE;
    ioctl!(fd, SUBSCRIBE_EVENT, &mut raw)
}

/// Tells the rate on the output queue; false when the device has none to set.
pub(super) fn set_rate(fd: &impl AsFd, multi: bool, rate: FrameRate) -> Result<bool> {
    let mut raw = abi::StreamParm::zeroed();
    raw.type_ = Queue {
        output: true,
        multi,
    }
    .buffer_type();
    (raw.numerator, raw.denominator) = (1, rate.as_hz());
    Ok(listed(ioctl!(fd, S_PARM, &mut raw))?.is_some())
}

/// Makes buffers, or frees them with a count of zero; the driver may make more or fewer.
pub(super) fn request_buffers(
    fd: &impl AsFd,
    queue: Queue,
    memory: Memory,
    count: u32,
) -> Result<u32> {
    let mut raw = abi::RequestBuffers::zeroed();
    (raw.count, raw.type_, raw.memory) = (count, queue.buffer_type(), memory.code());
    ioctl!(fd, REQBUFS, &mut raw)?;
    Ok(raw.count)
}

/// Where a mapped buffer's planes are: offset and length of each.
pub(super) fn query_buffer(
    fd: &impl AsFd,
    queue: Queue,
    index: u32,
) -> Result<([(u32, u32); PLANES_MAX], usize)> {
    let mut planes = [abi::Plane::zeroed(); PLANES_MAX];
    let mut raw = buffer(queue, Memory::Mmap, index, &mut planes);
    ioctl!(fd, QUERYBUF, &mut raw)?;
    let mut places = [(0, 0); PLANES_MAX];
    if !queue.multi {
        places[0] = (low(raw.m), raw.length);
        return Ok((places, 1));
    }
    for (place, plane) in places.iter_mut().zip(planes) {
        *place = (low(plane.m), plane.length);
    }
    let count = usize::try_from(raw.length).unwrap_or(0).min(PLANES_MAX);
    Ok((places, count))
}

/// Makes a DMA-BUF of a mapped buffer's plane; it stays valid after the buffers are freed.
pub(super) fn export_buffer(
    fd: &impl AsFd,
    queue: Queue,
    index: u32,
    plane: u32,
) -> Result<OwnedFd> {
    let mut raw = abi::ExportBuffer::zeroed();
    (raw.type_, raw.index, raw.plane) = (queue.buffer_type(), index, plane);
    raw.flags = (libc::O_CLOEXEC | libc::O_RDONLY).cast_unsigned();
    ioctl!(fd, EXPBUF, &mut raw)?;
    // SAFETY: the kernel made the descriptor for this call; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw.fd) })
}

/// One plane of a buffer that is queued.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fill<'a> {
    /// Of a mapped buffer: bytes that hold data (0 on the capture queue).
    Used(u32),
    /// A DMA-BUF, bytes of it that hold data, and its length.
    DmaBuf(BorrowedFd<'a>, u32, u32),
}

/// A number that an encoder copies from a picture to what it makes of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp(pub(super) u32);

/// Queues a buffer of `memory` with its planes.
pub(super) fn queue_buffer(
    fd: &impl AsFd,
    queue: Queue,
    memory: Memory,
    index: u32,
    fill: &[Fill<'_>],
    stamp: Stamp,
) -> Result<()> {
    let mut planes = [abi::Plane::zeroed(); PLANES_MAX];
    for (plane, fill) in planes.iter_mut().zip(fill) {
        match fill {
            Fill::Used(used) => plane.bytesused = *used,
            Fill::DmaBuf(fd, used, length) => {
                (plane.bytesused, plane.length) = (*used, *length);
                plane.m = descriptor(*fd);
            }
        }
    }
    let first = planes[0];
    let mut raw = buffer(queue, memory, index, &mut planes);
    if queue.multi {
        raw.length = u32::try_from(fill.len()).unwrap_or(0);
    } else {
        (raw.bytesused, raw.length) = (first.bytesused, first.length);
        if memory == Memory::DmaBuf {
            raw.m = first.m;
        }
    }
    raw.field = abi::FIELD_NONE;
    // Whole seconds, so that no driver's rounding changes them.
    raw.timestamp_sec = stamp.0.into();
    ioctl!(fd, QBUF, &mut raw)
}

/// A buffer that the driver is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) index: u32,
    /// Where the data of the first plane begins, and behind its last byte.
    pub(super) data: (u32, u32),
    pub(super) stamp: Stamp,
    /// `V4L2_BUF_FLAG_*`.
    pub(super) flags: u32,
}

impl Done {
    pub(super) fn has(self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// Takes a buffer out; `None` when there is none yet. `EPIPE` comes behind the last buffer of a drained queue.
pub(super) fn dequeue_buffer(fd: &impl AsFd, queue: Queue, memory: Memory) -> Result<Option<Done>> {
    let mut planes = [abi::Plane::zeroed(); PLANES_MAX];
    let mut raw = buffer(queue, memory, 0, &mut planes);
    match ioctl!(fd, DQBUF, &mut raw) {
        Ok(()) => {}
        Err(Errno::EAGAIN) => return Ok(None),
        Err(error) => return Err(error),
    }
    let data = if queue.multi {
        (planes[0].data_offset, planes[0].bytesused)
    } else {
        (0, raw.bytesused)
    };
    Ok(Some(Done {
        index: raw.index,
        data,
        stamp: Stamp(u32::try_from(raw.timestamp_sec).unwrap_or(u32::MAX)),
        flags: raw.flags,
    }))
}

pub(super) fn stream_on(fd: &impl AsFd, queue: Queue) -> Result<()> {
    let mut kind = queue.buffer_type().cast_signed();
    ioctl!(fd, STREAMON, &mut kind)
}

pub(super) fn stream_off(fd: &impl AsFd, queue: Queue) -> Result<()> {
    let mut kind = queue.buffer_type().cast_signed();
    ioctl!(fd, STREAMOFF, &mut kind)
}

/// Whether the device has a control, and the values that it takes.
pub(super) fn query_control(fd: &impl AsFd, id: u32) -> Option<(i32, i32)> {
    let mut raw = abi::QueryControl::zeroed();
    raw.id = id;
    ioctl!(fd, QUERYCTRL, &mut raw).ok()?;
    (raw.flags & abi::CTRL_DISABLED == 0).then_some((raw.minimum, raw.maximum))
}

pub(super) fn set_control(fd: &impl AsFd, id: u32, value: i32) -> Result<()> {
    let mut raw = abi::Control { id, value };
    ioctl!(fd, S_CTRL, &mut raw)
}

/// Starts draining: what is queued is finished, and the last buffer marked.
pub(super) fn encoder_stop(fd: &impl AsFd) -> Result<()> {
    let mut raw = abi::EncoderCommand::zeroed();
    raw.command = abi::ENC_CMD_STOP;
    ioctl!(fd, ENCODER_CMD, &mut raw)
}

/// A buffer argument. `planes` has to outlive the call that it is for.
fn buffer(
    queue: Queue,
    memory: Memory,
    index: u32,
    planes: &mut [abi::Plane; PLANES_MAX],
) -> abi::Buffer {
    let mut raw = abi::Buffer::zeroed();
    (raw.index, raw.type_, raw.memory) = (index, queue.buffer_type(), memory.code());
    if queue.multi {
        raw.m = planes.as_mut_ptr().expose_provenance();
        raw.length = 8;
    }
    raw
}

/// The 32-bit `offset` in the union `m`: its first four bytes.
fn low(m: usize) -> u32 {
    let bytes = m.to_ne_bytes();
    bytes
        .first_chunk()
        .map_or(0, |first| u32::from_ne_bytes(*first))
}

/// The 32-bit `fd` in the union `m`.
fn descriptor(fd: BorrowedFd<'_>) -> usize {
    let mut bytes = 0_usize.to_ne_bytes();
    if let Some(first) = bytes.first_chunk_mut() {
        *first = fd.as_raw_fd().to_ne_bytes();
    }
    usize::from_ne_bytes(bytes)
}
