//! What the two threads and the rest of the server share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use soft_kvm_core::FrameRate;
use soft_kvm_core::story::{CaptureParams, EncoderDriver, GpuMode, VideoParams};
use soft_kvm_input::echo::EchoState;
use soft_kvm_platform::os::clock;
use soft_kvm_video::frame::Frame;
use soft_kvm_video::slot::NewestSlot;

use crate::clipboard::Clipboards;

/// Frames by stage, since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Frames that a source gave.
    pub captured: AtomicU64,
    /// Frames in which no tile had changed.
    pub unchanged: AtomicU64,
    /// Access units made.
    pub encoded: AtomicU64,
    /// Still pictures encoded again, part of `encoded`.
    pub refreshed: AtomicU64,
    /// Frames that the encoder or the converter failed on.
    pub encoder_errors: AtomicU64,
    /// Times that an encoder was left for a lesser one.
    pub encoder_falls: AtomicU64,
    /// Bytes of pixels that the CPU has read or written, counted once for each stage.
    pub cpu_bytes: AtomicU64,
    /// CPU time of the `capture` thread, in nanoseconds.
    pub capture_cpu: AtomicU64,
    /// CPU time of the `encode` thread and of the threads that encoders have, in nanoseconds.
    pub encode_cpu: AtomicU64,
}

/// Counts the CPU time of one thread.
#[derive(Debug)]
pub(super) struct CpuMeter<'a> {
    into: &'a AtomicU64,
    last: Duration,
}

impl<'a> CpuMeter<'a> {
    /// For the calling thread.
    pub(super) fn new(into: &'a AtomicU64) -> Self {
        Self {
            into,
            last: Duration::ZERO,
        }
    }

    /// What the thread, the same as before, has used since the last time.
    pub(super) fn count(&mut self) {
        let now = clock::thread_cpu();
        add_time(self.into, now.saturating_sub(self.last));
        self.last = now;
    }
}

/// Adds nanoseconds.
pub(super) fn add_time(into: &AtomicU64, time: Duration) {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    into.fetch_add(nanos, Ordering::Relaxed);
}

/// State shared by the pipeline's threads and its owner.
#[derive(Debug)]
pub struct Shared {
    control: Mutex<Control>,
    changed: Condvar,
    key_frame: AtomicBool,
    slot: Mutex<Option<Arc<NewestSlot<Frame>>>>,
    /// What the test card shows of the input.
    pub echo: Arc<Mutex<EchoState>>,
    /// Learns what is captured.
    pub clipboards: Arc<Clipboards>,
    name: Mutex<String>,
    /// Whether the picture is the test card.
    pub echo_shown: Arc<AtomicBool>,
    /// Frames by stage.
    pub counters: Counters,
}

#[derive(Debug)]
struct Control {
    capture: CaptureParams,
    encode: Arc<VideoParams>,
    generation: u64,
    watching: usize,
    source: Option<String>,
    /// What makes its memory readable for others.
    converter: Option<Arc<str>>,
    encoder: Option<(EncoderDriver, Arc<str>)>,
    rate: FrameRate,
    stopped: bool,
}

impl Shared {
    /// A pipeline's state with nobody watching.
    #[must_use]
    pub fn new(
        capture: CaptureParams,
        encode: VideoParams,
        echo: Arc<Mutex<EchoState>>,
        name: String,
    ) -> Self {
        Self {
            control: Mutex::new(Control {
                rate: capture.fps,
                capture,
                encode: Arc::new(encode),
                generation: 0,
                watching: 0,
                source: None,
                converter: None,
                encoder: None,
                stopped: false,
            }),
            changed: Condvar::new(),
            key_frame: AtomicBool::new(false),
            slot: Mutex::new(None),
            echo,
            clipboards: Arc::default(),
            name: Mutex::new(name),
            echo_shown: Arc::new(AtomicBool::new(false)),
            counters: Counters::default(),
        }
    }

    /// One more, or one fewer, watches.
    pub fn watch(&self, more: bool) {
        let mut control = self.lock();
        control.watching = if more {
            control.watching + 1
        } else {
            control.watching.saturating_sub(1)
        };
        self.changed.notify_all();
        drop(control);
        if more {
            self.request_key_frame();
        }
    }

    /// The next access unit shall be an IDR.
    pub fn request_key_frame(&self) {
        self.key_frame.store(true, Ordering::Release);
        self.with_slot(NewestSlot::wake);
    }

    /// Opens the source again with other settings.
    pub fn set_capture(&self, settings: CaptureParams) {
        let mut control = self.lock();
        control.capture = settings;
        control.generation += 1;
        self.changed.notify_all();
    }

    /// The server's name, for the test card.
    pub fn name(&self) -> String {
        self.name_lock().clone()
    }

    /// The server has another name: a test card that is shown is drawn anew.
    pub fn set_name(&self, name: &str) {
        let old = std::mem::replace(&mut *self.name_lock(), name.to_owned());
        if old != name && self.echo_shown.load(Ordering::Relaxed) {
            let capture = self.lock().capture.clone();
            self.set_capture(capture);
        }
    }

    /// Encodes with other settings from the next picture on.
    pub fn set_encode(&self, settings: VideoParams) {
        self.lock().encode = Arc::new(settings);
    }

    /// Frames that were dropped because a newer one came.
    pub fn replaced(&self) -> u64 {
        self.slot_lock().as_ref().map_or(0, |slot| slot.replaced())
    }

    /// What is captured at the moment, e.g. `v4l2 /dev/video0`.
    pub fn source(&self) -> Option<String> {
        self.lock().source.clone()
    }

    /// What encodes at the moment.
    pub fn encoder(&self) -> Option<EncoderDriver> {
        self.lock().encoder.as_ref().map(|(driver, _)| *driver)
    }

    /// What encodes at the moment, and why it and no better one, for people.
    pub(crate) fn encoder_and_why(&self) -> Option<(EncoderDriver, Arc<str>)> {
        self.lock().encoder.clone()
    }

    pub(super) fn set_encoder(&self, encoder: Option<(EncoderDriver, &str)>) {
        self.lock().encoder = encoder.map(|(driver, why)| (driver, why.into()));
    }

    pub(super) fn set_source(&self, source: Option<String>, rate: FrameRate) {
        let mut control = self.lock();
        control.source = source;
        control.converter = None;
        control.rate = rate;
    }

    /// What makes the memory of the source's pictures readable for others, from the next picture on.
    pub(super) fn set_converter(&self, converter: Option<Arc<str>>) {
        self.lock().converter = converter;
    }

    pub(super) fn converter(&self) -> Option<Arc<str>> {
        self.lock().converter.clone()
    }

    pub(super) fn set_rate(&self, rate: FrameRate) {
        self.lock().rate = rate;
    }

    pub(super) fn rate(&self) -> FrameRate {
        self.lock().rate
    }

    pub(super) fn attach(&self, slot: Arc<NewestSlot<Frame>>) {
        *self.slot_lock() = Some(slot);
    }

    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
        self.with_slot(NewestSlot::close);
    }

    /// Blocks until somebody watches; `None` when the pipeline stops.
    pub(super) fn wait_for_viewers(&self) -> Option<(CaptureParams, u64)> {
        let control = self
            .changed
            .wait_while(self.lock(), |control| {
                control.watching == 0 && !control.stopped
            })
            .unwrap_or_else(PoisonError::into_inner);
        (!control.stopped).then(|| (control.capture.clone(), control.generation))
    }

    /// Whether the source opened under `generation` is still wanted.
    pub(super) fn goes_on(&self, generation: u64) -> bool {
        let control = self.lock();
        control.watching > 0 && control.generation == generation && !control.stopped
    }

    /// Sleeps for `time`, less if the source is not wanted any more.
    pub(super) fn pause(&self, time: Duration, generation: u64) {
        let _ = self
            .changed
            .wait_timeout_while(self.lock(), time, |control| {
                control.watching > 0 && control.generation == generation && !control.stopped
            });
    }

    pub(super) fn watched(&self) -> bool {
        self.lock().watching > 0
    }

    pub(super) fn encode_params(&self) -> Arc<VideoParams> {
        Arc::clone(&self.lock().encode)
    }

    /// Whether a GPU may convert for an encoder.
    pub(super) fn gpu(&self) -> GpuMode {
        self.lock().capture.gpu
    }

    pub(super) fn take_key_frame_request(&self) -> bool {
        self.key_frame.swap(false, Ordering::AcqRel)
    }

    // The fields are consistent between any two statements: a panic elsewhere does not spoil them.
    fn lock(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name_lock(&self) -> MutexGuard<'_, String> {
        self.name.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot_lock(&self) -> MutexGuard<'_, Option<Arc<NewestSlot<Frame>>>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_slot(&self, act: impl Fn(&NewestSlot<Frame>)) {
        if let Some(slot) = self.slot_lock().as_ref() {
            act(slot);
        }
    }
}
