//! The `capture` thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use soft_kvm_core::story::CaptureParams;
use soft_kvm_core::{FrameRate, Size};
use soft_kvm_platform::os::clock;
use soft_kvm_video::cursor::Cursor;
use soft_kvm_video::frame::Frame;
use soft_kvm_video::pace::Pace;
use soft_kvm_video::reason::Reason;
use soft_kvm_video::slot::NewestSlot;
use soft_kvm_video::source::{Captured, NoPicture, SourceError, VideoSource};

use super::state::CpuMeter;
use super::{Shared, Viewers, open};

/// How long a source may be waited for before the thread looks whether it is still wanted.
const WAIT: Duration = Duration::from_millis(250);
/// Time between two tries to open a source that failed.
const RETRY: Duration = Duration::from_millis(500);
/// The same for a source that is there and cannot be captured as it is: somebody has to change that, and opening a GPU each time is
/// work.
const RETRY_UNSUPPORTED: Duration = Duration::from_secs(2);
/// Size of a reason picture when no source has given a picture yet.
const REASON_SIZE: Size = Size::new(1280, 720);

/// Runs until the pipeline stops: captures while somebody watches, sleeps otherwise.
pub(super) fn run(shared: &Shared, slot: &Arc<NewestSlot<Frame>>, viewers: &dyn Viewers) {
    let mut reasons = Reasons::default();
    let mut cpu = CpuMeter::new(&shared.counters.capture_cpu);
    while let Some((params, generation)) = shared.wait_for_viewers() {
        match open::source(&params, shared) {
            Ok(mut source) => {
                let info = source.info();
                tracing::info!(
                    source = info.driver,
                    device = info.device,
                    size = %info.size,
                    rate = %info.rate,
                    format = info.pixel_format,
                    "capturing"
                );
                let rate = info.rate.min(params.fps);
                shared.set_source(Some(format!("{} {}", info.driver, info.device)), rate);
                reasons.size = info.size;
                let outcome = capture(
                    shared,
                    slot,
                    viewers,
                    source.as_mut(),
                    (params.fps, generation),
                    &mut reasons,
                    &mut cpu,
                );
                drop(source);
                viewers.cursor(&Cursor::default());
                if let Err(error) = outcome {
                    reasons.log(&error);
                    reasons.show(slot, &words(&error), &info.device);
                    shared.pause(retry(&error), generation);
                }
            }
            Err(error) => {
                reasons.log(&error);
                reasons.show(slot, &words(&error), wanted(&params));
                shared.pause(retry(&error), generation);
            }
        }
        if !shared.watched() {
            shared.set_source(None, params.fps);
            tracing::info!("nobody watches: capture stopped");
        }
    }
}

fn capture(
    shared: &Shared,
    slot: &NewestSlot<Frame>,
    viewers: &dyn Viewers,
    source: &mut dyn VideoSource,
    (wanted, generation): (FrameRate, u64),
    reasons: &mut Reasons,
    cpu: &mut CpuMeter<'_>,
) -> Result<(), SourceError> {
    let mut size = source.info().size;
    let mut converter: Option<Arc<str>> = None;
    let mut pace = Pace::new(source.info().rate, wanted);
    while shared.goes_on(generation) {
        cpu.count();
        match source.next(WAIT)? {
            Captured::Frame(frame) => {
                if std::mem::replace(&mut size, frame.info().size) != size {
                    // Another mode has another rate.
                    let rate = source.info().rate;
                    shared.set_rate(rate.min(wanted));
                    pace = Pace::new(rate, wanted);
                }
                if !pace.takes(frame.info().captured) {
                    continue;
                }
                if converter.as_deref() != source.converter() {
                    converter = source.converter().map(Arc::from);
                    shared.set_converter(converter.clone());
                }
                reasons.clear(size);
                shared.counters.captured.fetch_add(1, Ordering::Relaxed);
                slot.put(frame);
            }
            Captured::Nothing => {}
            Captured::Cursor(cursor) => viewers.cursor(&cursor),
            Captured::NoPicture(state) => {
                let device = source.info().device;
                reasons.show(slot, &state, &device);
            }
        }
    }
    Ok(())
}

fn wanted(params: &CaptureParams) -> &str {
    params.device.as_deref().unwrap_or(params.driver.as_str())
}

fn retry(error: &SourceError) -> Duration {
    match error {
        SourceError::Unsupported { .. } => RETRY_UNSUPPORTED,
        _ => RETRY,
    }
}

fn words(error: &SourceError) -> NoPicture {
    match error {
        SourceError::Gone { .. } => NoPicture::NoDevice,
        other => NoPicture::Other(other.to_string()),
    }
}

/// Draws each reason once, in the size of the picture that it stands for.
struct Reasons {
    size: Size,
    shown: Option<NoPicture>,
    logged: Option<String>,
    sequence: u64,
}

impl Default for Reasons {
    fn default() -> Self {
        Self {
            size: REASON_SIZE,
            shown: None,
            logged: None,
            sequence: 0,
        }
    }
}

impl Reasons {
    fn show(&mut self, slot: &NewestSlot<Frame>, state: &NoPicture, device: &str) {
        if self.shown.as_ref() == Some(state) {
            return;
        }
        self.sequence += 1;
        slot.put(Reason::new(state, device).frame(self.size, self.sequence, clock::now()));
        tracing::info!(?state, device, "no picture: the reason is shown");
        self.shown = Some(state.clone());
    }

    /// The same failure every half second is one line in the log.
    fn log(&mut self, error: &SourceError) {
        let text = error.to_string();
        if self.logged.as_ref() != Some(&text) {
            tracing::warn!("{text}");
            self.logged = Some(text);
        }
    }

    fn clear(&mut self, size: Size) {
        self.size = size;
        self.shown = None;
        self.logged = None;
    }
}
