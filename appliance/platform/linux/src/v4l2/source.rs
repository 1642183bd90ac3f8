//! A V4L2 device as a [`VideoSource`].

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use soft_kvm_core::MonoTime;
use soft_kvm_video::frame::{Damage, Frame, FrameInfo, FramePool, PixelFormat};
use soft_kvm_video::source::{Captured, NoPicture, SourceError, SourceInfo, VideoSource};

use super::V4l2Options;
use super::device::{Device, Running, Setup, failed};
use super::format::Layout;
use super::ioctl::{self, Dequeued, Filled};
use super::jpeg::Decoded;
use crate::clock;

/// Starts that may fail one after the other before the source gives up.
const STARTS_MAX: u32 = 5;
/// How often a lost signal is looked for, for drivers that do not tell.
const SIGNAL_CHECK: Duration = Duration::from_millis(200);
/// How long frames of the last run may keep the device from starting; then the reason is shown instead of the last of them.
const HELD: Duration = Duration::from_millis(500);
/// How long a running device may be silent before its signal is looked at again.
const SILENCE: Duration = Duration::from_millis(500);

/// What happened to buffers so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaptureCounters {
    /// Pictures handed out.
    pub frames: u64,
    /// Buffers that the driver marked as damaged (`V4L2_BUF_FLAG_ERROR`).
    pub damaged: u64,
    /// JPEG pictures that did not decode.
    pub broken_jpeg: u64,
    /// Good buffers left out because a newer one was there.
    pub superseded: u64,
    /// Pictures left out because all decoded ones were still lent out.
    pub no_room: u64,
    /// Times that streaming was started again after a fault or a change of the signal.
    pub restarts: u64,
}

/// An opened V4L2 device.
#[derive(Debug)]
pub struct V4l2Source {
    options: V4l2Options,
    device: Device,
    running: Option<Running>,
    info: SourceInfo,
    counters: CaptureCounters,
    failed_starts: u32,
    /// Since when starting fails while frames of the last run are lent out.
    held: Option<MonoTime>,
    last_sequence: Option<u32>,
    sequence: u64,
    last_frame: MonoTime,
}

impl V4l2Source {
    /// Opens the device and starts it, if there is a signal.
    ///
    /// # Errors
    /// [`SourceError`]: no such device, no right to it, no usable format, in use by another program.
    pub fn open(options: V4l2Options) -> Result<Self, SourceError> {
        let device = Device::open(&options)?;
        let info = SourceInfo {
            driver: "v4l2",
            device: device.name.clone(),
            size: options.wanted_size(),
            rate: options.rate,
            pixel_format: String::new(),
        };
        let mut source = Self {
            options,
            device,
            running: None,
            info,
            counters: CaptureCounters::default(),
            failed_starts: 0,
            held: None,
            last_sequence: None,
            sequence: 0,
            last_frame: clock::now(),
        };
        source.start()?;
        Ok(source)
    }

    /// What happened to buffers so far.
    #[must_use]
    pub fn counters(&self) -> CaptureCounters {
        self.counters
    }

    /// Starts if there is a signal; else says why there is no picture.
    fn start(&mut self) -> Result<Option<NoPicture>, SourceError> {
        let configured = match self.device.configure(&self.options)? {
            Setup::NoPicture(reason) => return Ok(Some(reason)),
            Setup::Ready(configured) => configured,
        };
        let rate = configured.rate;
        let running = self.device.start(configured)?;
        self.info.size = running.set.size;
        self.info.rate = rate;
        self.info.pixel_format = running.set.format.to_string();
        tracing::info!(device = %self.info.device, format = %self.info.pixel_format,
            size = %self.info.size, %rate, "capturing");
        self.running = Some(running);
        self.last_sequence = None;
        self.last_frame = clock::now();
        Ok(None)
    }

    fn stop(&mut self) {
        if self.running.take().is_some() {
            self.counters.restarts += 1;
        }
    }

    /// One step while nothing runs: waits for a signal, at most `left`.
    fn next_stopped(&mut self, left: Duration) -> Result<Option<Captured>, SourceError> {
        match self.start() {
            Ok(None) => {
                (self.failed_starts, self.held) = (0, None);
                Ok(None)
            }
            Ok(Some(reason)) => {
                let events = self.poll(PollFlags::POLLPRI, left.min(SIGNAL_CHECK))?;
                if events.contains(PollFlags::POLLPRI) {
                    while ioctl::dequeue_event(self.device.signal()).is_some() {}
                }
                Ok(Some(Captured::NoPicture(reason)))
            }
            Err(gone @ SourceError::Gone { .. }) => Err(gone),
            Err(_) if self.is_held() => {
                // A driver that makes no new buffers before the last old frame has come back.
                self.poll(PollFlags::POLLPRI, left.min(Duration::from_millis(10)))?;
                Ok(Some(Captured::Nothing))
            }
            Err(error) => {
                self.failed_starts += 1;
                if self.failed_starts >= STARTS_MAX {
                    return Err(error);
                }
                tracing::warn!(%error, "starting again");
                self.poll(PollFlags::POLLPRI, left.min(Duration::from_millis(50)))?;
                Ok(Some(Captured::Nothing))
            }
        }
    }

    /// Whether frames that are lent out may be what keeps the device from starting.
    fn is_held(&mut self) -> bool {
        let now = clock::now();
        self.device.is_held() && now.since(*self.held.get_or_insert(now)) < HELD
    }

    /// One step while the device runs; `None` means: look again.
    fn next_running(&mut self, left: Duration) -> Result<Option<Captured>, SourceError> {
        let events = self.poll(PollFlags::POLLIN | PollFlags::POLLPRI, left.min(SILENCE))?;
        if events.contains(PollFlags::POLLPRI) {
            let mut changed = false;
            while let Some(source_change) = ioctl::dequeue_event(self.device.signal()) {
                changed |= source_change;
            }
            if changed {
                self.stop();
                return Ok(None);
            }
        }
        if events.intersects(PollFlags::POLLERR | PollFlags::POLLHUP) {
            self.check_present()?;
            if !events.contains(PollFlags::POLLIN) {
                self.stop();
                return Ok(None);
            }
        }
        if events.contains(PollFlags::POLLIN) {
            return Ok(self.take_newest()?.map(Captured::Frame));
        }
        if let Some(running) = &self.running {
            running.pool.retry();
        }
        // Silence: some drivers do not tell that their signal has gone.
        let silent = clock::now().since(self.last_frame) >= SILENCE;
        let timings = self.running.as_ref().and_then(|running| running.timings);
        if silent && timings.is_some() {
            let now = self
                .device
                .current_timings()
                .map_err(|errno| failed(&self.info.device, "VIDIOC_QUERY_DV_TIMINGS", errno))?;
            if now != timings {
                self.stop();
            }
            self.last_frame = clock::now();
        }
        Ok(None)
    }

    /// Empties the queue and keeps the newest good buffer.
    fn take_newest(&mut self) -> Result<Option<Frame>, SourceError> {
        let Some(running) = self.running.as_ref() else {
            return Ok(None);
        };
        let mut newest: Option<Filled> = None;
        let mut stopped = false;
        loop {
            match ioctl::dequeue_buffer(&self.device, running.api) {
                Ok(Dequeued::Filled(filled)) if filled.broken => {
                    self.counters.damaged += 1;
                    running.pool.release(filled.index);
                }
                Ok(Dequeued::Filled(filled)) => {
                    if let Some(older) = newest.replace(filled) {
                        self.counters.superseded += 1;
                        running.pool.release(older.index);
                    }
                }
                Ok(Dequeued::NotReady) => break,
                Ok(Dequeued::Stopped) => {
                    stopped = true;
                    break;
                }
                Ok(Dequeued::Gone) => return Err(self.gone()),
                Err(errno) => return Err(failed(&self.info.device, "VIDIOC_DQBUF", errno)),
            }
        }
        let frame = newest.and_then(|filled| self.frame(filled));
        if stopped {
            self.stop();
        }
        Ok(frame)
    }

    fn frame(&mut self, filled: Filled) -> Option<Frame> {
        let running = self.running.as_ref()?;
        let now = clock::now();
        self.last_frame = now;
        // The kernel counts in 32 bits and from zero at each start.
        let step = self
            .last_sequence
            .map_or(1, |last| filled.sequence.wrapping_sub(last).max(1));
        // A count that jumps back is a driver's restart, not four thousand million lost frames.
        self.sequence += u64::from(if step > u32::MAX / 2 { 1 } else { step });
        self.last_sequence = Some(filled.sequence);
        let info = |format| FrameInfo {
            format,
            size: running.set.size,
            sequence: self.sequence,
            // A stamp of the future would make latencies negative.
            captured: filled.stamp.map_or(now, |stamp| stamp.min(now)),
            damage: Damage::Unknown,
            cpu_bytes: 0,
            color: running.set.color,
        };
        if !running.pool.filled(filled.index, &filled.data_offsets) {
            self.counters.damaged += 1;
            running.pool.release(filled.index);
            return None;
        }
        let lent: Arc<dyn FramePool> = running.pool.clone();
        let raw = match (running.layout, &running.jpeg) {
            (Layout::Raw(format), _) => Frame::new(info(format), lent, filled.index),
            (Layout::Jpeg, Some(pictures)) => {
                let used = usize::try_from(filled.used).unwrap_or(usize::MAX);
                let bytes = running.pool.bytes(filled.index, used);
                let decoded = pictures.decode(bytes.unwrap_or_default());
                running.pool.release(filled.index);
                match decoded {
                    Decoded::Picture(index) => {
                        let size = running.set.size;
                        let info = FrameInfo {
                            cpu_bytes: u64::from(size.width) * u64::from(size.height) * 4,
                            ..info(PixelFormat::Bgrx)
                        };
                        Frame::new(info, pictures.clone(), index)
                    }
                    Decoded::Broken => {
                        self.counters.broken_jpeg += 1;
                        return None;
                    }
                    Decoded::Full => {
                        self.counters.no_room += 1;
                        return None;
                    }
                }
            }
            (Layout::Jpeg, None) => return None,
        };
        self.counters.frames += 1;
        Some(raw)
    }

    fn check_present(&self) -> Result<(), SourceError> {
        match ioctl::query_capabilities(&self.device) {
            Err(Errno::ENODEV) => Err(self.gone()),
            _ => Ok(()),
        }
    }

    fn gone(&self) -> SourceError {
        SourceError::Gone {
            device: self.info.device.clone(),
        }
    }

    fn poll(&self, interest: PollFlags, timeout: Duration) -> Result<PollFlags, SourceError> {
        let device = self.device.as_fd();
        let receiver = self.device.events();
        let mut fds = [
            PollFd::new(device, interest),
            PollFd::new(receiver.map_or(device, AsFd::as_fd), PollFlags::POLLPRI),
        ];
        let watched = if receiver.is_some() { 2 } else { 1 };
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds[..watched], timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(failed(&self.info.device, "poll", errno)),
        }
        let [node, receiver] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        let events = node | (receiver & PollFlags::POLLPRI);
        if events.contains(PollFlags::POLLHUP) {
            self.check_present()?;
        }
        Ok(events)
    }
}

impl VideoSource for V4l2Source {
    fn info(&self) -> SourceInfo {
        self.info.clone()
    }

    fn next(&mut self, timeout: Duration) -> Result<Captured, SourceError> {
        let deadline = clock::now() + timeout;
        loop {
            let left = deadline.since(clock::now());
            let step = if self.running.is_some() {
                self.next_running(left)?
            } else {
                self.next_stopped(left)?
            };
            if let Some(captured) = step {
                return Ok(captured);
            }
            if clock::now() >= deadline {
                return Ok(Captured::Nothing);
            }
        }
    }
}
