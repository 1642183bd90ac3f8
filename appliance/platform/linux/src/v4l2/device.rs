//! The three states of an opened device, in the kernel's order of calls.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use nix::errno::Errno;
use soft_kvm_core::{FrameRate, Size};
use soft_kvm_video::source::{NoPicture, SourceError};

use crate::broker::{self, Kind};

use super::V4l2Options;
use super::abi;
use super::edid::{self, Edid};
use super::format::{self, Layout, Offer, PlanePlace};
use super::ioctl::{self, Api, SetFormat, Signal};
use super::jpeg::JpegPool;
use super::media::{Output, Pipeline};
use super::pool::BufferPool;

/// One being filled, one filled, one in the hand-over slot, one at the encoder, one to spare.
const BUFFERS: u32 = 5;

/// Opened, its input chosen.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) fd: Arc<OwnedFd>,
    pub(super) name: String,
    api: Api,
    /// The way to the node, where it is set on sub-devices.
    pipeline: Option<Pipeline>,
    /// The receiver of the pipeline tells of changes by itself.
    receiver_has_events: bool,
    /// Buffers of the last run, which frames may still hold.
    old: Weak<BufferPool>,
}

/// What [`Device::configure`] came to.
pub(super) enum Setup {
    Ready(Configured),
    NoPicture(NoPicture),
}

/// Timings, format and rate are set.
pub(super) struct Configured {
    set: SetFormat,
    layout: Layout,
    places: Vec<PlanePlace>,
    pub(super) rate: FrameRate,
    pub(super) timings: Option<TimingsKey>,
}

/// What tells one signal from another: size and pixel clock.
pub(super) type TimingsKey = (u32, u32, u64);

/// Streaming. Dropping it stops the device; buffers that are still lent out stay mapped.
#[derive(Debug)]
pub(super) struct Running {
    fd: Arc<OwnedFd>,
    pub(super) api: Api,
    pub(super) pool: Arc<BufferPool>,
    pub(super) jpeg: Option<Arc<JpegPool>>,
    pub(super) layout: Layout,
    pub(super) set: SetFormat,
    pub(super) timings: Option<TimingsKey>,
}

impl Device {
    pub(super) fn open(options: &V4l2Options) -> Result<Self, SourceError> {
        let name = options.device.display().to_string();
        let fd =
            broker::open(Kind::Video, &options.device).map_err(|error| open_error(&name, error))?;
        let fd = Arc::new(fd);
        let fail = |action| {
            let name = &name;
            move |errno| failed(name, action, errno)
        };
        let caps = ioctl::query_capabilities(&fd).map_err(fail("VIDIOC_QUERYCAP"))?;
        let api = if caps.flags & abi::CAP_CAPTURE != 0 {
            Api::Single
        } else if caps.flags & abi::CAP_CAPTURE_MPLANE != 0 {
            Api::Multi
        } else {
            return Err(unsupported(&name, "is not a video capture device"));
        };
        if caps.flags & abi::CAP_STREAMING == 0 {
            return Err(unsupported(&name, "cannot stream into mapped buffers"));
        }
        if caps.flags & abi::CAP_IO_MC != 0 {
            return Self::open_pipeline(fd, name, api, options);
        }
        let input = match options.input {
            Some(input) => Some(input),
            None => first_timings_input(&fd).map_err(fail("VIDIOC_ENUMINPUT"))?,
        };
        if let Some(input) = input
            && ioctl::get_input(&fd) != Ok(input)
        {
            ioctl::set_input(&fd, input).map_err(fail("VIDIOC_S_INPUT"))?;
        }
        let current = ioctl::get_input(&fd).unwrap_or(0);
        ioctl::subscribe_source_change(&fd, current);
        tell_edid(&fd, &name, current, options.edid.as_ref());
        Ok(Self {
            fd,
            name,
            api,
            pipeline: None,
            receiver_has_events: false,
            old: Weak::new(),
        })
    }

    /// A node without inputs: its receiver, if it has one, is a sub-device.
    fn open_pipeline(
        fd: Arc<OwnedFd>,
        name: String,
        api: Api,
        options: &V4l2Options,
    ) -> Result<Self, SourceError> {
        let pipeline = Pipeline::open(&fd, &name)?;
        let mut receiver_has_events = false;
        if let Some(receiver) = pipeline.receiver() {
            receiver_has_events = ioctl::subscribe_source_change(receiver, 0);
            tell_edid(receiver, &name, 0, options.edid.as_ref());
        }
        Ok(Self {
            fd,
            name,
            api,
            pipeline: Some(pipeline),
            receiver_has_events,
            old: Weak::new(),
        })
    }

    /// What has the signal: its timings, its EDID, its events.
    pub(super) fn signal(&self) -> &OwnedFd {
        let receiver = self.pipeline.as_ref().and_then(Pipeline::receiver);
        receiver.unwrap_or(&self.fd)
    }

    /// What tells of changes of the signal beside the node itself.
    pub(super) fn events(&self) -> Option<&OwnedFd> {
        let receiver = self.pipeline.as_ref().and_then(Pipeline::receiver);
        receiver.filter(|_| self.receiver_has_events)
    }

    /// Takes over what the input receives, and sets the best format.
    pub(super) fn configure(&self, options: &V4l2Options) -> Result<Setup, SourceError> {
        let name = self.name.clone();
        let fail = |action| {
            let name = &name;
            move |errno| failed(name, action, errno)
        };
        let signal =
            ioctl::query_dv_timings(self.signal()).map_err(fail("VIDIOC_QUERY_DV_TIMINGS"))?;
        let timings = match signal {
            None => None,
            Some(Signal::Nothing) => {
                let cable = ioctl::power_present(self.signal()) != Some(false);
                let reason = if cable {
                    NoPicture::NoSignal
                } else {
                    NoPicture::NoCable
                };
                return Ok(Setup::NoPicture(reason));
            }
            Some(Signal::NoLock) => return Ok(Setup::NoPicture(NoPicture::NoLock)),
            Some(Signal::OutOfRange) => return Ok(Setup::NoPicture(NoPicture::OutOfRange)),
            Some(Signal::Timings(timings)) => Some(timings),
        };
        let mut wanted = options.wanted_size();
        if let Some(timings) = timings {
            let bt = timings.bt;
            wanted = Size::new(bt.width, bt.height);
            if !wanted.is_supported() {
                return Ok(Setup::NoPicture(NoPicture::OutOfRange));
            }
            ioctl::set_dv_timings(self.signal(), timings).map_err(fail("VIDIOC_S_DV_TIMINGS"))?;
        }
        let came = self.configure_pipeline(options, wanted)?;
        let offers = match &came {
            Some(came) => self.offers_of(came.code, came.size),
            None => {
                let now = ioctl::get_format(&self.fd, self.api).map_err(fail("VIDIOC_G_FMT"))?;
                let fallback = if timings.is_some() { wanted } else { now.size };
                format::offers(&self.fd, self.api, wanted, fallback)
                    .map_err(fail("VIDIOC_ENUM_FMT"))?
            }
        };
        let chosen = format::choose(&offers, wanted, options.rate, options.format)
            .ok_or_else(|| unsupported(&self.name, &no_format(options)))?;
        let mut set = ioctl::set_format(&self.fd, self.api, chosen.format, chosen.size)
            .map_err(fail("VIDIOC_S_FMT"))?;
        // The node may not know what its samples mean, and the receiver does.
        if let Some(color) = came.and_then(|came| came.color) {
            set.color = color.colorimetry(set.format, set.size);
        }
        let Some(layout) = format::layout(set.format).filter(|_| set.size.is_supported()) else {
            let what = format!("set {} {} instead of what it offered", set.format, set.size);
            return Err(unsupported(&self.name, &what));
        };
        let places = match layout {
            Layout::Jpeg => Vec::new(),
            Layout::Raw(pixels) => format::places(&set, pixels).ok_or_else(|| {
                unsupported(&self.name, "gives lines that are shorter than its picture")
            })?,
        };
        // The request is for the input's rate where the signal has none of its own.
        let rate = match timings.as_ref().and_then(ioctl::timings_rate) {
            Some(rate) => rate,
            None => ioctl::set_rate(&self.fd, self.api, options.rate)
                .map_err(fail("VIDIOC_S_PARM"))?
                .or(chosen.rate)
                .unwrap_or(options.rate),
        };
        Ok(Setup::Ready(Configured {
            set,
            layout,
            places,
            rate,
            timings: timings.as_ref().map(key),
        }))
    }

    /// Sets the sub-devices that lead to the node; `None` where there are none.
    fn configure_pipeline(
        &self,
        options: &V4l2Options,
        size: Size,
    ) -> Result<Option<Output>, SourceError> {
        let Some(pipeline) = &self.pipeline else {
            return Ok(None);
        };
        let mut is_taken = |code| {
            let mut offers = self.offers_of(code, size).into_iter();
            offers.any(|offer| options.format.is_none_or(|only| only == offer.format))
        };
        pipeline
            .configure(&self.name, size, &mut is_taken)
            .map(Some)
    }

    /// The formats that are taken among those that the node makes of a media bus code.
    fn offers_of(&self, code: u32, size: Size) -> Vec<Offer> {
        let formats = (0..256).map_while(|index| {
            ioctl::enum_format_of_code(&self.fd, self.api, code, index)
                .ok()
                .flatten()
        });
        let taken = formats.filter(|format| format::layout(*format).is_some());
        let offer = |format| Offer {
            format,
            size,
            rate: None,
        };
        taken.map(offer).collect()
    }

    /// Whether frames of the last run are still lent out, which keeps some drivers from making new buffers.
    pub(super) fn is_held(&self) -> bool {
        self.old.strong_count() > 0
    }

    /// What the input receives now, in short; `None` without DV timings or without a signal.
    pub(super) fn current_timings(&self) -> Result<Option<TimingsKey>, Errno> {
        Ok(match ioctl::query_dv_timings(self.signal())? {
            Some(Signal::Timings(timings)) => Some(key(&timings)),
            _ => None,
        })
    }

    /// Makes, maps and queues the buffers, and starts.
    pub(super) fn start(&mut self, configured: Configured) -> Result<Running, SourceError> {
        let name = self.name.clone();
        let fail = |action| {
            let name = &name;
            move |errno| failed(name, action, errno)
        };
        let count =
            ioctl::request_buffers(&self.fd, self.api, BUFFERS).map_err(fail("VIDIOC_REQBUFS"))?;
        let fourcc = match configured.layout {
            Layout::Raw(pixels) => format::drm_fourcc(pixels),
            Layout::Jpeg => None,
        };
        let pool = BufferPool::new(&self.fd, self.api, count, configured.places, fourcc).map_err(
            |error| {
                // Unmapped by now: give the kernel's side back too.
                let _ = ioctl::request_buffers(&self.fd, self.api, 0);
                SourceError::Io {
                    device: self.name.clone(),
                    action: "mapping buffers",
                    source: error,
                }
            },
        )?;
        let running = Running {
            fd: Arc::clone(&self.fd),
            api: self.api,
            pool: Arc::new(pool),
            jpeg: (configured.layout == Layout::Jpeg).then(|| JpegPool::new(configured.set.size)),
            layout: configured.layout,
            set: configured.set,
            timings: configured.timings,
        };
        // From here on dropping `running` cleans up.
        ioctl::stream_on(&self.fd, self.api).map_err(fail("VIDIOC_STREAMON"))?;
        self.old = Arc::downgrade(&running.pool);
        Ok(running)
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.pool.stop();
        // Fails when the device has gone, which ends the run as well.
        let _ = ioctl::stream_off(&self.fd, self.api);
        // Fails while frames are lent out in kernels before 5.0; the next start asks again.
        let _ = ioctl::request_buffers(&self.fd, self.api, 0);
    }
}

pub(super) fn open_error(device: &str, error: io::Error) -> SourceError {
    let device = device.to_owned();
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => SourceError::Permission {
            device,
            hint: "add the user to group video or install the udev rule".to_owned(),
        },
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => SourceError::Gone { device },
        _ => SourceError::Io {
            device,
            action: "open",
            source: error,
        },
    }
}

pub(super) fn failed(device: &str, action: &'static str, errno: Errno) -> SourceError {
    let device = device.to_owned();
    match errno {
        Errno::ENODEV | Errno::ENXIO => SourceError::Gone { device },
        Errno::EBUSY => SourceError::Unsupported {
            device,
            what: format!("{action}: the device is in use by another program: close that one"),
        },
        _ => SourceError::Io {
            device,
            action,
            source: errno.into(),
        },
    }
}

fn unsupported(device: &str, what: &str) -> SourceError {
    SourceError::Unsupported {
        device: device.to_owned(),
        what: what.to_owned(),
    }
}

fn no_format(options: &V4l2Options) -> String {
    match options.format {
        Some(format) => format!("does not offer the format {format}: leave the format out"),
        None => "offers no pixel format that can be used".to_owned(),
    }
}

/// Writes the wanted EDID, or a built-in one if the input has none: without one most machines send nothing.
fn tell_edid(fd: &OwnedFd, device: &str, input: u32, wanted: Option<&Edid>) {
    let Some(now) = ioctl::get_edid(fd, input) else {
        if wanted.is_some() {
            tracing::warn!(
                device,
                "takes no EDID: the machine sees what the device says itself"
            );
        }
        return;
    };
    let built_in = now.is_empty().then(|| Edid::built_in("1080p30")).flatten();
    let Some(edid) = wanted.or(built_in.as_ref()) else {
        return;
    };
    // Writing it interrupts the signal.
    if edid.bytes() == now {
        return;
    }
    match ioctl::set_edid(fd, input, edid) {
        Ok(()) => tracing::info!(
            device,
            blocks = edid.bytes().len() / edid::BLOCK,
            "EDID written"
        ),
        Err(error) => tracing::warn!(device, %error, "VIDIOC_S_EDID: the old EDID stays"),
    }
}

fn key(timings: &abi::DvTimings) -> TimingsKey {
    let bt = timings.bt;
    (bt.width, bt.height, bt.pixelclock)
}

fn first_timings_input(fd: &OwnedFd) -> Result<Option<u32>, Errno> {
    for index in 0..64 {
        match ioctl::enum_input(fd, index)? {
            Some((_, true)) => return Ok(Some(index)),
            Some(_) => {}
            None => break,
        }
    }
    Ok(None)
}
