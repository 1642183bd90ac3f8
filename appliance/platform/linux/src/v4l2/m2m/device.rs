//! The states of an opened memory-to-memory device, in the kernel's order of calls.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use soft_kvm_core::{FourCc, MonoTime};
use soft_kvm_video::codec::CodecError;
use soft_kvm_video::frame::PixelFormat;

use super::abi;
use super::ioctl::{self, Done, Fill, Format, Memory, PLANES_MAX, Queue, Stamp, Wanted};
use super::layout;
use crate::broker::{self, Kind};
use crate::clock;
use crate::dmabuf::{Access, Mapping};

/// How long a device may take for one picture. One that hangs is opened once more and may hang again: the next
/// encoder has to take over within a second.
pub(super) const DEADLINE: Duration = Duration::from_millis(400);

/// How long it may take to finish when it is told to stop.
const DRAIN: Duration = Duration::from_millis(100);

/// Name of the codecs in the story and the metrics.
pub(super) const NAME: &str = "v4l2m2m";

pub(super) fn error(what: impl Into<String>) -> CodecError {
    CodecError {
        codec: NAME,
        what: what.into(),
    }
}

/// Opened.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) fd: OwnedFd,
    /// Its node.
    pub(super) name: String,
    pub(super) driver: String,
    pub(super) card: String,
    multi: bool,
}

impl Device {
    pub(super) fn open(node: &Path) -> Result<Self, CodecError> {
        let name = node.display().to_string();
        let fd = broker::open(Kind::Video, node).map_err(|why| error(open_message(&name, &why)))?;
        let caps = crate::v4l2::ioctl::query_capabilities(&fd)
            .map_err(|errno| error(format!("{name}: VIDIOC_QUERYCAP: {errno}")))?;
        if caps.flags & abi::CAP_M2M == 0 || caps.flags & abi::CAP_STREAMING == 0 {
            return Err(error(format!("{name} is not a memory-to-memory device")));
        }
        Ok(Self {
            fd,
            name,
            driver: caps.driver,
            card: caps.card,
            multi: caps.flags & abi::CAP_M2M_MPLANE != 0,
        })
    }

    pub(super) fn output(&self) -> Queue {
        Queue {
            output: true,
            multi: self.multi,
        }
    }

    pub(super) fn capture(&self) -> Queue {
        Queue {
            output: false,
            multi: self.multi,
        }
    }

    /// The formats of a queue and whether each is compressed.
    pub(super) fn formats(&self, queue: Queue) -> Result<Vec<(FourCc, bool)>, CodecError> {
        let mut formats = Vec::new();
        // Drivers end the list; the limit is for those that do not.
        for index in 0..256 {
            match ioctl::enum_format(&self.fd, queue, index) {
                Ok(Some(format)) => formats.push(format),
                Ok(None) => break,
                Err(errno) => return Err(self.failed("VIDIOC_ENUM_FMT", errno)),
            }
        }
        Ok(formats)
    }

    pub(super) fn set_format(&self, queue: Queue, wanted: Wanted) -> Result<Format, CodecError> {
        ioctl::set_format(&self.fd, queue, wanted)
            .map_err(|errno| self.failed("VIDIOC_S_FMT", errno))
    }

    /// Sets a control that the device has; what it thinks of the value is logged.
    pub(super) fn try_control(&self, id: u32, value: i32) -> bool {
        let Some((least, most)) = ioctl::query_control(&self.fd, id) else {
            return false;
        };
        let set = ioctl::set_control(&self.fd, id, value.clamp(least, most));
        if let Err(errno) = set {
            tracing::debug!(device = %self.name, control = format!("{id:#x}"), value, %errno, "VIDIOC_S_CTRL");
        }
        set.is_ok()
    }

    pub(super) fn failed(&self, action: &str, errno: Errno) -> CodecError {
        let hint = match errno {
            Errno::EBUSY => ": another program uses it, or it can run no more codecs at a time",
            Errno::ENOMEM | Errno::ENOSPC => ": no memory for its buffers (is CMA large enough?)",
            Errno::ENODEV | Errno::ENXIO => ": it has gone",
            _ => "",
        };
        error(format!("{}: {action}: {errno}{hint}", self.name))
    }

    /// Without buffers yet. From here on dropping cleans up.
    pub(super) fn idle(self) -> Running {
        Running {
            device: self,
            memory: Memory::Mmap,
            input: Vec::new(),
            result: Arc::default(),
            hung: AtomicBool::new(false),
        }
    }

    /// Makes and maps the buffers of the output queue and starts it: decoders tell what they make of the first access
    /// unit before there can be buffers for it.
    pub(super) fn start_input(self, outputs: u32) -> Result<Running, CodecError> {
        let mut running = self.idle();
        running.make_input(outputs)?;
        running.on_queue(running.device.output())?;
        Ok(running)
    }

    /// Makes the buffers of both queues, maps those of the driver, hands the capture queue's over and starts.
    pub(super) fn start(
        self,
        memory: Memory,
        outputs: u32,
        captures: u32,
    ) -> Result<Running, CodecError> {
        let mut running = self.idle();
        running.memory = memory;
        running.input = running.buffers(running.device.output(), memory, outputs)?;
        running.begin(captures)?;
        Ok(running)
    }
}

/// Opens a device with the first V4L2 format of `pixels` that it takes.
pub(super) fn open_for(
    node: &Path,
    pixels: &[PixelFormat],
) -> Result<(Device, FourCc), CodecError> {
    let device = Device::open(node)?;
    let formats = device.formats(device.output())?;
    let wanted = || pixels.iter().flat_map(|pixels| layout::fourccs(*pixels));
    let raw = wanted().find(|raw| formats.iter().any(|(offer, _)| offer == *raw));
    match raw {
        Some(raw) => Ok((device, *raw)),
        None => {
            let names: Vec<String> = wanted().map(ToString::to_string).collect();
            let names = names.join(" or ");
            Err(error(format!("{} does not take {names}", device.name)))
        }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The memories of one of the driver's buffers; none for buffers that are imported.
pub(super) type Maps = Vec<Mapping>;

/// Both queues have buffers and run.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) device: Device,
    memory: Memory,
    /// Buffers of the output queue.
    pub(super) input: Vec<Maps>,
    /// Buffers of the capture queue; pictures that are lent out keep them mapped.
    pub(super) result: Arc<Vec<Maps>>,
    /// The device did not answer: closing it may take for ever.
    hung: AtomicBool,
}

/// What [`Running::wait`] saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ready {
    /// A buffer of the capture queue is filled.
    pub(super) result: bool,
    /// A buffer of the output queue has been read.
    pub(super) input: bool,
    /// There is an event.
    pub(super) event: bool,
}

impl Running {
    fn buffers(&self, queue: Queue, memory: Memory, count: u32) -> Result<Vec<Maps>, CodecError> {
        let device = &self.device;
        let count = ioctl::request_buffers(device, queue, memory, count)
            .map_err(|errno| device.failed(request_action(queue, memory), errno))?;
        if count == 0 {
            return Err(device.failed(request_action(queue, memory), Errno::ENOMEM));
        }
        let mut buffers = Vec::new();
        for index in 0..count {
            let mut maps = Vec::new();
            if memory == Memory::Mmap {
                let (places, planes) = ioctl::query_buffer(device, queue, index)
                    .map_err(|errno| device.failed("VIDIOC_QUERYBUF", errno))?;
                let access = if queue.output {
                    Access::Write
                } else {
                    Access::Read
                };
                for (offset, length) in places.into_iter().take(planes) {
                    let map = Mapping::new(device, offset.into(), length as usize, access);
                    let map = map.map_err(|why| {
                        error(format!("{}: mapping a buffer: {why}", device.name))
                    })?;
                    maps.push(map);
                }
            }
            buffers.push(maps);
        }
        Ok(buffers)
    }

    /// Makes and maps the driver's own buffers of the output queue.
    pub(super) fn make_input(&mut self, outputs: u32) -> Result<(), CodecError> {
        self.memory = Memory::Mmap;
        self.input = self.buffers(self.device.output(), Memory::Mmap, outputs)?;
        Ok(())
    }

    /// Makes slots for these pictures in the output queue and shows them to the driver: some refuse memory only when they
    /// see it, as those that need it in one piece. After an error there are no slots.
    pub(super) fn offer(
        &mut self,
        pictures: &[[Fill<'_>; PLANES_MAX]],
        planes: usize,
    ) -> Result<(), CodecError> {
        let queue = self.device.output();
        let count = u32::try_from(pictures.len()).unwrap_or(u32::MAX);
        self.memory = Memory::DmaBuf;
        let outcome = self
            .buffers(queue, Memory::DmaBuf, count)
            .and_then(|slots| {
                self.input = slots;
                let shown = (0..).zip(pictures).try_for_each(|(index, picture)| {
                    let fill = picture.get(..planes).unwrap_or_default();
                    self.queue(index, fill, Stamp::default())
                });
                // What is queued comes back also from a queue that does not run (kernel doc "VIDIOC_STREAMON").
                let back = ioctl::stream_off(&self.device, queue);
                shown
                    .and(back)
                    .map_err(|errno| self.device.failed("VIDIOC_QBUF (output, import)", errno))
            });
        if outcome.is_err() {
            self.input.clear();
            // Fails on a driver that has just refused to make some.
            let _ = ioctl::request_buffers(&self.device, queue, Memory::DmaBuf, 0);
        }
        outcome
    }

    /// Makes and maps the buffers of the capture queue, hands them over and starts both queues.
    pub(super) fn begin(&mut self, captures: u32) -> Result<(), CodecError> {
        self.result = Arc::new(self.buffers(self.device.capture(), Memory::Mmap, captures)?);
        self.on()
    }

    fn on(&self) -> Result<(), CodecError> {
        for index in 0..self.result.len() {
            self.give_back(u32::try_from(index).unwrap_or(u32::MAX))?;
        }
        self.on_queue(self.device.output())?;
        self.on_queue(self.device.capture())
    }

    fn on_queue(&self, queue: Queue) -> Result<(), CodecError> {
        ioctl::stream_on(&self.device, queue)
            .map_err(|errno| self.device.failed("VIDIOC_STREAMON", errno))
    }

    /// Makes and maps the buffers of the capture queue, hands them over and starts it.
    pub(super) fn start_results(&mut self, captures: u32) -> Result<(), CodecError> {
        let capture = self.device.capture();
        self.result = Arc::new(self.buffers(capture, Memory::Mmap, captures)?);
        for index in 0..self.result.len() {
            self.give_back(u32::try_from(index).unwrap_or(u32::MAX))?;
        }
        self.on_queue(capture)
    }

    /// Stops the capture queue and frees its buffers, for others of another size.
    pub(super) fn stop_results(&mut self) -> Result<(), CodecError> {
        let capture = self.device.capture();
        ioctl::stream_off(&self.device, capture)
            .map_err(|errno| self.device.failed("VIDIOC_STREAMOFF", errno))?;
        self.result = Arc::default();
        ioctl::request_buffers(&self.device, capture, Memory::Mmap, 0)
            .map_err(|errno| self.device.failed("VIDIOC_REQBUFS (capture, none)", errno))?;
        Ok(())
    }

    /// Stops both queues and starts them again: codecs begin anew, with a key frame.
    pub(super) fn restart(&self) -> Result<(), CodecError> {
        for queue in [self.device.output(), self.device.capture()] {
            ioctl::stream_off(&self.device, queue)
                .map_err(|errno| self.device.failed("VIDIOC_STREAMOFF", errno))?;
        }
        self.on()
    }

    /// Queues a picture on the output queue.
    pub(super) fn queue(&self, index: u32, fill: &[Fill<'_>], stamp: Stamp) -> Result<(), Errno> {
        let queue = self.device.output();
        ioctl::queue_buffer(&self.device, queue, self.memory, index, fill, stamp)
    }

    /// Queues a buffer of the capture queue again.
    pub(super) fn give_back(&self, index: u32) -> Result<(), CodecError> {
        let queue = self.device.capture();
        let fill = [Fill::Used(0); PLANES_MAX];
        let planes = self.result.get(index as usize).map_or(0, Vec::len);
        let fill = fill.get(..planes).unwrap_or_default();
        let stamp = Stamp::default();
        ioctl::queue_buffer(&self.device, queue, Memory::Mmap, index, fill, stamp)
            .map_err(|errno| self.device.failed("VIDIOC_QBUF (capture)", errno))
    }

    /// Takes a filled buffer from the capture queue; `None` if there is none.
    pub(super) fn take_result(&self) -> Result<Option<Done>, Errno> {
        ioctl::dequeue_buffer(&self.device, self.device.capture(), Memory::Mmap)
    }

    /// Takes a buffer that has been read from the output queue; `None` if there is none.
    pub(super) fn take_input(&self) -> Result<Option<Done>, Errno> {
        ioctl::dequeue_buffer(&self.device, self.device.output(), self.memory)
    }

    /// The data of a filled buffer's first memory.
    pub(super) fn data(&self, done: Done) -> Option<&[u8]> {
        let map = self.result.get(done.index as usize)?.first()?;
        let (begin, end) = done.data;
        map.bytes().get(begin as usize..end as usize)
    }

    /// Waits until either queue has something, at most until `end`: a device that takes longer has failed.
    pub(super) fn wait(&self, end: MonoTime) -> Result<Ready, CodecError> {
        if let Some(ready) = self.wait_until(end)? {
            return Ok(ready);
        }
        self.hung.store(true, Ordering::Relaxed);
        let what = format!("{} did not answer for {DEADLINE:?}", self.device.name);
        Err(error(what))
    }

    /// Whether it has missed a deadline.
    pub(super) fn is_hung(&self) -> bool {
        self.hung.load(Ordering::Relaxed)
    }

    /// Waits until either queue has something, or until `end`.
    pub(super) fn wait_until(&self, end: MonoTime) -> Result<Option<Ready>, CodecError> {
        loop {
            let left = end.since(clock::now());
            if left.is_zero() {
                return Ok(None);
            }
            let events =
                poll_once(&self.device, left).map_err(|errno| self.device.failed("poll", errno))?;
            if events.is_empty() {
                continue;
            }
            let ready = Ready {
                result: events.intersects(PollFlags::POLLIN | PollFlags::POLLRDNORM),
                input: events.intersects(PollFlags::POLLOUT | PollFlags::POLLWRNORM),
                event: events.contains(PollFlags::POLLPRI),
            };
            if !ready.result && !ready.input && !ready.event {
                let what = format!("{}: the driver stopped its queues", self.device.name);
                return Err(error(what));
            }
            return Ok(Some(ready));
        }
    }

    /// Finishes what is queued (kernel doc "Drain", stateful encoders).
    fn drain(&self) {
        if ioctl::encoder_stop(&self.device).is_err() {
            return;
        }
        let end = clock::now() + DRAIN;
        loop {
            match self.take_result() {
                Ok(Some(done)) if done.has(abi::BUF_LAST) => return,
                Ok(Some(done)) => drop(self.give_back(done.index)),
                Ok(None) => {
                    let left = end.since(clock::now());
                    let events = poll_once(&self.device, left);
                    if left.is_zero() || !events.is_ok_and(|got| got.contains(PollFlags::POLLIN)) {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }
}

fn poll_once(device: &Device, timeout: Duration) -> Result<PollFlags, Errno> {
    let interest = PollFlags::POLLIN | PollFlags::POLLOUT | PollFlags::POLLPRI;
    let mut fds = [PollFd::new(device.as_fd(), interest)];
    // A millisecond more, or the last fraction of one would be spent in turning round.
    let timeout = timeout.saturating_add(Duration::from_millis(1));
    match poll(
        &mut fds,
        PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX),
    ) {
        Ok(_) => Ok(fds[0].revents().unwrap_or(PollFlags::empty())),
        Err(Errno::EINTR) => Ok(PollFlags::empty()),
        Err(errno) => Err(errno),
    }
}

fn request_action(queue: Queue, memory: Memory) -> &'static str {
    match (queue.output, memory) {
        (true, Memory::DmaBuf) => "VIDIOC_REQBUFS (output, import of DMA-BUFs)",
        (true, Memory::Mmap) => "VIDIOC_REQBUFS (output)",
        (false, _) => "VIDIOC_REQBUFS (capture)",
    }
}

fn open_message(name: &str, why: &io::Error) -> String {
    match why.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => {
            format!("{name}: no permission: add the user to group video or install the udev rule")
        }
        Some(libc::EBUSY) => format!("{name}: it is in use and takes no second user"),
        _ => format!("{name}: {why}"),
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let finish = |running: &Self| {
            for queue in [running.device.output(), running.device.capture()] {
                // Fails when the device has gone, which ends the run as well.
                let _ = ioctl::stream_off(&running.device, queue);
            }
        };
        if !self.is_hung() {
            self.drain();
            finish(self);
            return;
        }
        // A driver whose hardware hangs waits for it in STREAMOFF and in close: that may not hold up the picture.
        let Ok(fd) = self.device.fd.try_clone() else {
            return;
        };
        let (output, capture) = (self.device.output(), self.device.capture());
        let closer = move || {
            for queue in [output, capture] {
                let _ = ioctl::stream_off(&fd, queue);
            }
        };
        // Without a thread the descriptor closes here, with the risk of waiting.
        let _ = thread::Builder::new()
            .name("m2m-close".to_owned())
            .spawn(closer);
    }
}
