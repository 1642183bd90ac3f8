//! One function per ioctl: inputs as arguments, outputs as checked types.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use soft_kvm_core::{FourCc, FrameRate, MonoTime, Size};
use soft_kvm_video::frame::Colorimetry;

use super::abi::{self, Zeroed, request};
use super::color::Fields;
use super::edid::{self, Edid};

type Result<T> = std::result::Result<T, Errno>;

/// Which of the two capture APIs the device speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Api {
    Single,
    Multi,
}

impl Api {
    fn buffer_type(self) -> u32 {
        match self {
            Self::Single => abi::CAPTURE,
            Self::Multi => abi::CAPTURE_MPLANE,
        }
    }
}

/// Planes in memory (`VIDEO_MAX_PLANES`).
pub(super) const PLANES_MAX: usize = 8;

// SAFETY of callers: `argument` is the structure that `request` was made from.
pub(super) unsafe fn call<T>(fd: &impl AsFd, request: u64, argument: &mut T) -> Result<()> {
    loop {
        // SAFETY: the descriptor is open, and by the caller's word the kernel reads and writes at most `T`.
        let done = unsafe {
            libc::ioctl(
                fd.as_fd().as_raw_fd(),
                request as _,
                std::ptr::from_mut(argument),
            )
        };
        match Errno::result(done) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

macro_rules! ioctl {
    ($fd:expr, $request:ident, $argument:expr) => {
        // SAFETY: the request code is made from the size of this very structure (abi::request, with tests).
        unsafe { call($fd, request::$request, $argument) }
    };
}
pub(in crate::v4l2) use ioctl;

/// What a device says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Capabilities {
    pub(super) driver: String,
    pub(super) card: String,
    pub(super) bus: String,
    /// Of this node, not of the whole device.
    pub(super) flags: u32,
}

pub(super) fn query_capabilities(fd: &impl AsFd) -> Result<Capabilities> {
    let mut raw = abi::Capability::zeroed();
    ioctl!(fd, QUERYCAP, &mut raw)?;
    let own = raw.capabilities & abi::CAP_DEVICE_CAPS != 0;
    Ok(Capabilities {
        driver: text(&raw.driver),
        card: text(&raw.card),
        bus: text(&raw.bus_info),
        flags: if own {
            raw.device_caps
        } else {
            raw.capabilities
        },
    })
}

/// The format with this index; `None` behind the last.
pub(super) fn enum_format(fd: &impl AsFd, api: Api, index: u32) -> Result<Option<FourCc>> {
    let mut raw = abi::FmtDesc::zeroed();
    (raw.index, raw.type_) = (index, api.buffer_type());
    Ok(listed(ioctl!(fd, ENUM_FMT, &mut raw))?.map(|()| FourCc(raw.pixelformat)))
}

/// The same among those that a media bus code arrives as; drivers without `V4L2_CAP_IO_MC` give all.
pub(super) fn enum_format_of_code(
    fd: &impl AsFd,
    api: Api,
    code: u32,
    index: u32,
) -> Result<Option<FourCc>> {
    let mut raw = abi::FmtDesc::zeroed();
    (raw.index, raw.type_, raw.mbus_code) = (index, api.buffer_type(), code);
    Ok(listed(ioctl!(fd, ENUM_FMT, &mut raw))?.map(|()| FourCc(raw.pixelformat)))
}

/// Sizes that a format comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sizes {
    One(Size),
    /// Smallest, largest, step.
    Range(Size, Size, Size),
}

/// `None` behind the last, and for drivers that do not list sizes.
pub(super) fn enum_size(fd: &impl AsFd, format: FourCc, index: u32) -> Result<Option<Sizes>> {
    let mut raw = abi::FrmSizeEnum::zeroed();
    (raw.index, raw.pixel_format) = (index, format.0);
    if listed(ioctl!(fd, ENUM_FRAMESIZES, &mut raw))?.is_none() {
        return Ok(None);
    }
    let [a, b, c, d, e, f] = raw.size;
    Ok(Some(if raw.type_ == 1 {
        Sizes::One(Size::new(a, b))
    } else {
        Sizes::Range(Size::new(a, d), Size::new(b, e), Size::new(c, f))
    }))
}

/// The highest rate of the interval with this index; `None` behind the last and where none are listed.
pub(super) fn enum_rate(
    fd: &impl AsFd,
    format: FourCc,
    size: Size,
    index: u32,
) -> Result<Option<FrameRate>> {
    let mut raw = abi::FrmIvalEnum::zeroed();
    (raw.index, raw.pixel_format) = (index, format.0);
    (raw.width, raw.height) = (size.width, size.height);
    if listed(ioctl!(fd, ENUM_FRAMEINTERVALS, &mut raw))?.is_none() {
        return Ok(None);
    }
    // Discrete, or the shortest of a range: both stand first.
    let [numerator, denominator, ..] = raw.interval;
    Ok(Some(rate(numerator, denominator)))
}

/// A format as the driver set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SetFormat {
    pub(super) format: FourCc,
    pub(super) size: Size,
    /// Bytes from one line to the next, of each plane in memory.
    pub(super) strides: [u32; PLANES_MAX],
    /// Planes in memory.
    pub(super) planes: usize,
    /// What the samples mean.
    pub(super) color: Colorimetry,
}

pub(super) fn get_format(fd: &impl AsFd, api: Api) -> Result<SetFormat> {
    let mut raw = abi::Format::zeroed();
    raw.type_ = api.buffer_type();
    ioctl!(fd, G_FMT, &mut raw)?;
    Ok(read_format(&raw, api))
}

/// Sets format and size, or what the driver thinks is nearest: look at what comes back.
pub(super) fn set_format(
    fd: &impl AsFd,
    api: Api,
    format: FourCc,
    size: Size,
) -> Result<SetFormat> {
    let mut raw = abi::Format::zeroed();
    raw.type_ = api.buffer_type();
    match api {
        Api::Single => {
            let mut pix = abi::PixFormat::zeroed();
            (pix.width, pix.height, pix.pixelformat) = (size.width, size.height, format.0);
            pix.field = abi::FIELD_NONE;
            raw.fmt.pix = pix;
        }
        Api::Multi => {
            let mut pix = abi::PixFormatMplane::zeroed();
            (pix.width, pix.height, pix.pixelformat) = (size.width, size.height, format.0);
            pix.field = abi::FIELD_NONE;
            raw.fmt.mplane = pix;
        }
    }
    ioctl!(fd, S_FMT, &mut raw)?;
    Ok(read_format(&raw, api))
}

fn read_format(raw: &abi::Format, api: Api) -> SetFormat {
    let mut strides = [0; PLANES_MAX];
    match api {
        Api::Single => {
            // SAFETY: the union was all zeros at first, and any bits are a value of its numbers.
            let pix = unsafe { raw.fmt.pix };
            strides[0] = pix.bytesperline;
            let (format, size) = (FourCc(pix.pixelformat), Size::new(pix.width, pix.height));
            // Before `V4L2_PIX_FMT_PRIV_MAGIC` the last fields were not there.
            let extended = pix.priv_ == abi::PIX_FMT_PRIV_MAGIC;
            let color = Fields {
                colorspace: pix.colorspace,
                ycbcr_enc: if extended { pix.ycbcr_enc } else { 0 },
                quantization: if extended { pix.quantization } else { 0 },
            };
            SetFormat {
                format,
                size,
                strides,
                planes: 1,
                color: color.colorimetry(format, size),
            }
        }
        Api::Multi => {
            // SAFETY: as above.
            let pix = unsafe { raw.fmt.mplane };
            let planes = pix.plane_fmt;
            for (stride, plane) in strides.iter_mut().zip(planes) {
                *stride = plane.bytesperline;
            }
            let (format, size) = (FourCc(pix.pixelformat), Size::new(pix.width, pix.height));
            let color = Fields {
                colorspace: pix.colorspace,
                ycbcr_enc: pix.ycbcr_enc.into(),
                quantization: pix.quantization.into(),
            };
            SetFormat {
                format,
                size,
                strides,
                planes: usize::from(pix.num_planes).clamp(1, PLANES_MAX),
                color: color.colorimetry(format, size),
            }
        }
    }
}

/// Asks for a rate; `None` when the device has none to set.
pub(super) fn set_rate(fd: &impl AsFd, api: Api, wanted: FrameRate) -> Result<Option<FrameRate>> {
    let mut raw = abi::StreamParm::zeroed();
    raw.type_ = api.buffer_type();
    (raw.numerator, raw.denominator) = (1, wanted.as_hz());
    match ioctl!(fd, S_PARM, &mut raw) {
        Ok(()) if raw.capability & abi::CAP_TIMEPERFRAME != 0 => {
            Ok(Some(rate(raw.numerator, raw.denominator)))
        }
        Ok(()) | Err(Errno::ENOTTY | Errno::EINVAL | Errno::ENODATA) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes buffers, or frees them with a count of zero; the driver may make more or fewer.
pub(super) fn request_buffers(fd: &impl AsFd, api: Api, count: u32) -> Result<u32> {
    let mut raw = abi::RequestBuffers::zeroed();
    (raw.count, raw.type_, raw.memory) = (count, api.buffer_type(), abi::MEMORY_MMAP);
    ioctl!(fd, REQBUFS, &mut raw)?;
    Ok(raw.count)
}

/// Where a buffer's planes are to be mapped from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) offset: u32,
    pub(super) length: u32,
}

pub(super) fn query_buffer(
    fd: &impl AsFd,
    api: Api,
    index: u32,
) -> Result<([Place; PLANES_MAX], usize)> {
    let mut planes = [abi::Plane::zeroed(); PLANES_MAX];
    let mut raw = buffer(api, index, &mut planes);
    ioctl!(fd, QUERYBUF, &mut raw)?;
    let mut places = [Place::default(); PLANES_MAX];
    match api {
        Api::Single => {
            places[0] = Place {
                offset: offset(raw.m),
                length: raw.length,
            };
            Ok((places, 1))
        }
        Api::Multi => {
            for (place, plane) in places.iter_mut().zip(planes) {
                *place = Place {
                    offset: offset(plane.m),
                    length: plane.length,
                };
            }
            let count = usize::try_from(raw.length).unwrap_or(0).min(PLANES_MAX);
            Ok((places, count))
        }
    }
}

/// Makes a DMA-BUF of a buffer's plane in memory, for other devices to read; it stays valid after the buffers are freed.
pub(super) fn export_buffer(fd: &impl AsFd, api: Api, index: u32, plane: u32) -> Result<OwnedFd> {
    let mut raw = abi::ExportBuffer::zeroed();
    (raw.type_, raw.index, raw.plane) = (api.buffer_type(), index, plane);
    raw.flags = (libc::O_CLOEXEC | libc::O_RDONLY).cast_unsigned();
    ioctl!(fd, EXPBUF, &mut raw)?;
    // SAFETY: the kernel made the descriptor for this call; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw.fd) })
}

pub(super) fn queue_buffer(fd: &impl AsFd, api: Api, index: u32) -> Result<()> {
    let mut planes = [abi::Plane::zeroed(); PLANES_MAX];
    let mut raw = buffer(api, index, &mut planes);
    ioctl!(fd, QBUF, &mut raw)
}

/// A filled buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Filled {
    pub(super) index: u32,
    pub(super) sequence: u32,
    /// The kernel's stamp, if it is of `CLOCK_MONOTONIC`.
    pub(super) stamp: Option<MonoTime>,
    /// The data is not to be used (`V4L2_BUF_FLAG_ERROR`).
    pub(super) broken: bool,
    /// Bytes of the first plane, from the start of its memory.
    pub(super) used: u32,
    /// Where each plane's data begins in its memory: behind a header in some devices of the multi-planar API.
    pub(super) data_offsets: [u32; PLANES_MAX],
}

/// What taking a buffer out came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dequeued {
    Filled(Filled),
    /// Nothing yet.
    NotReady,
    /// The queue stopped for a fault of the device (`EIO`), or has not been started: start it again.
    Stopped,
    /// The device has gone.
    Gone,
}

pub(super) fn dequeue_buffer(fd: &impl AsFd, api: Api) -> Result<Dequeued> {
    let mut planes = [abi::Plane::zeroed(); PLANES_MAX];
    let mut raw = buffer(api, 0, &mut planes);
    match ioctl!(fd, DQBUF, &mut raw) {
        Ok(()) => {}
        Err(Errno::EAGAIN) => return Ok(Dequeued::NotReady),
        Err(Errno::EIO | Errno::EINVAL | Errno::EPIPE) => return Ok(Dequeued::Stopped),
        Err(Errno::ENODEV) => return Ok(Dequeued::Gone),
        Err(error) => return Err(error),
    }
    let monotonic = raw.flags & abi::BUF_TIMESTAMP_MASK == abi::BUF_TIMESTAMP_MONOTONIC;
    Ok(Dequeued::Filled(Filled {
        index: raw.index,
        sequence: raw.sequence,
        stamp: monotonic.then(|| {
            MonoTime::from_parts(raw.timestamp_sec, raw.timestamp_usec.saturating_mul(1000))
        }),
        broken: raw.flags & abi::BUF_ERROR != 0,
        used: match api {
            Api::Single => raw.bytesused,
            Api::Multi => planes[0].bytesused,
        },
        data_offsets: match api {
            Api::Single => [0; PLANES_MAX],
            Api::Multi => planes.map(|plane| plane.data_offset),
        },
    }))
}

pub(super) fn stream_on(fd: &impl AsFd, api: Api) -> Result<()> {
    let mut kind = api.buffer_type().cast_signed();
    ioctl!(fd, STREAMON, &mut kind)
}

pub(super) fn stream_off(fd: &impl AsFd, api: Api) -> Result<()> {
    let mut kind = api.buffer_type().cast_signed();
    ioctl!(fd, STREAMOFF, &mut kind)
}

/// Whether the input with this index has DV timings (HDMI, DVI, SDI); `None` behind the last.
pub(super) fn enum_input(fd: &impl AsFd, index: u32) -> Result<Option<(String, bool)>> {
    let mut raw = abi::Input::zeroed();
    raw.index = index;
    Ok(listed(ioctl!(fd, ENUMINPUT, &mut raw))?.map(|()| {
        (
            text(&raw.name),
            raw.capabilities & abi::IN_CAP_DV_TIMINGS != 0,
        )
    }))
}

pub(super) fn get_input(fd: &impl AsFd) -> Result<u32> {
    let mut index = 0_i32;
    ioctl!(fd, G_INPUT, &mut index)?;
    Ok(index.cast_unsigned())
}

pub(super) fn set_input(fd: &impl AsFd, index: u32) -> Result<()> {
    let mut index = index.cast_signed();
    ioctl!(fd, S_INPUT, &mut index)
}

/// What an HDMI input receives.
#[derive(Clone, Copy, Debug)]
pub(super) enum Signal {
    Timings(abi::DvTimings),
    /// `ENOLINK`: no cable or no signal.
    Nothing,
    /// `ENOLCK`: cannot lock on to it.
    NoLock,
    /// `ERANGE`: beyond what the hardware can do.
    OutOfRange,
}

/// `None` when the input has no DV timings.
pub(super) fn query_dv_timings(fd: &impl AsFd) -> Result<Option<Signal>> {
    let mut raw = abi::DvTimings::zeroed();
    match ioctl!(fd, QUERY_DV_TIMINGS, &mut raw) {
        Ok(()) => Ok(Some(Signal::Timings(raw))),
        Err(Errno::ENOLINK) => Ok(Some(Signal::Nothing)),
        Err(Errno::ENOLCK) => Ok(Some(Signal::NoLock)),
        Err(Errno::ERANGE) => Ok(Some(Signal::OutOfRange)),
        Err(Errno::ENOTTY | Errno::ENODATA | Errno::EINVAL) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn set_dv_timings(fd: &impl AsFd, timings: abi::DvTimings) -> Result<()> {
    let mut raw = timings;
    ioctl!(fd, S_DV_TIMINGS, &mut raw)
}

/// Fields in a second; `None` if the timings have none.
pub(super) fn timings_rate(timings: &abi::DvTimings) -> Option<FrameRate> {
    let bt = timings.bt;
    let sum = |parts: [u32; 4]| parts.into_iter().map(u64::from).sum::<u64>();
    let line = sum([bt.width, bt.hfrontporch, bt.hsync, bt.hbackporch]);
    let lines = sum([bt.height, bt.vfrontporch, bt.vsync, bt.vbackporch]);
    let total = line.checked_mul(lines).filter(|total| *total > 0)?;
    let clock = bt.pixelclock;
    let hz = clock.saturating_add(total / 2) / total;
    (hz > 0).then(|| FrameRate::hz(u32::try_from(hz).unwrap_or(u32::MAX)))
}

/// Asks for changes of the source and of its 5 V as events (`POLLPRI`), as far as the driver has them; whether it has
/// any.
pub(super) fn subscribe_source_change(fd: &impl AsFd, input: u32) -> bool {
    let mut has = false;
    for (kind, id) in [
        (abi::EVENT_SOURCE_CHANGE, input),
        (abi::EVENT_CTRL, abi::CID_DV_RX_POWER_PRESENT),
    ] {
        let mut raw = abi::EventSubscription::zeroed();
        (raw.type_, raw.id) = (kind, id);
        // Without events the signal is looked at from time to time.
        has |= ioctl!(fd, SUBSCRIBE_EVENT, &mut raw).is_ok();
    }
    has
}

/// Takes one event out: `Some(true)` for a change of the source or of its 5 V, `None` when there is none.
pub(super) fn dequeue_event(fd: &impl AsFd) -> Option<bool> {
    let mut raw = abi::Event::zeroed();
    ioctl!(fd, DQEVENT, &mut raw).ok()?;
    Some(matches!(
        raw.type_,
        abi::EVENT_SOURCE_CHANGE | abi::EVENT_CTRL
    ))
}

/// Whether a source at the cable's other end has its 5 V on, on any connector of the device; `None` where the driver
/// does not tell.
pub(super) fn power_present(fd: &impl AsFd) -> Option<bool> {
    let mut raw = abi::ControlValue::zeroed();
    raw.id = abi::CID_DV_RX_POWER_PRESENT;
    ioctl!(fd, G_CTRL, &mut raw).ok()?;
    Some(raw.value != 0)
}

/// An input's EDID; empty if it has none, `None` if the device has none to read.
pub(super) fn get_edid(fd: &impl AsFd, input: u32) -> Option<Vec<u8>> {
    let mut bytes = vec![0; edid::BLOCK * edid::BLOCKS_MAX];
    let mut raw = abi::EdidBlocks::zeroed();
    (raw.pad, raw.blocks) = (input, 256);
    raw.edid = bytes.as_mut_ptr().expose_provenance();
    match ioctl!(fd, G_EDID, &mut raw) {
        Ok(()) => bytes.truncate(usize::try_from(raw.blocks).unwrap_or(0) * edid::BLOCK),
        // The documented answer of an input without one.
        Err(Errno::ENODATA) => bytes.clear(),
        Err(_) => return None,
    }
    Some(bytes)
}

/// Writes an input's EDID; the driver takes its hot plug line down and up, and the source looks anew.
pub(super) fn set_edid(fd: &impl AsFd, input: u32, edid: &Edid) -> Result<()> {
    let mut bytes = edid.bytes().to_vec();
    let mut raw = abi::EdidBlocks::zeroed();
    raw.pad = input;
    raw.blocks = u32::try_from(bytes.len() / edid::BLOCK).unwrap_or(0);
    raw.edid = bytes.as_mut_ptr().expose_provenance();
    ioctl!(fd, S_EDID, &mut raw)
}

/// A buffer argument. `planes` has to outlive the call that it is for.
fn buffer(api: Api, index: u32, planes: &mut [abi::Plane; PLANES_MAX]) -> abi::Buffer {
    let mut raw = abi::Buffer::zeroed();
    (raw.index, raw.type_, raw.memory) = (index, api.buffer_type(), abi::MEMORY_MMAP);
    if api == Api::Multi {
        raw.m = planes.as_mut_ptr().expose_provenance();
        raw.length = 8;
    }
    raw
}

/// The 32-bit `offset` in the union `m`: its first four bytes.
fn offset(m: usize) -> u32 {
    let bytes = m.to_ne_bytes();
    bytes
        .first_chunk()
        .map_or(0, |first| u32::from_ne_bytes(*first))
}

fn rate(numerator: u32, denominator: u32) -> FrameRate {
    let numerator = numerator.max(1);
    FrameRate::hz(denominator.saturating_add(numerator / 2) / numerator)
}

/// `EINVAL` ends a list; `ENOTTY` and `ENODATA` say that there is none.
pub(super) fn listed(result: Result<()>) -> Result<Option<()>> {
    match result {
        Ok(()) => Ok(Some(())),
        Err(Errno::EINVAL | Errno::ENOTTY | Errno::ENODATA) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}
