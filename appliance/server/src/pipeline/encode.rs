//! The `encode` thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use soft_kvm_core::story::VideoParams;
use soft_kvm_core::{FrameRate, MonoTime, Size};
use soft_kvm_platform::openh264;
use soft_kvm_platform::os::clock;
use soft_kvm_protocol::control::VideoInfo;
use soft_kvm_protocol::media::{AccessUnit, AccessUnitInfo};
use soft_kvm_video::codec::{CodecError, EncoderConfig, VideoEncoder};
use soft_kvm_video::convert::{Converter, Update};
use soft_kvm_video::frame::Frame;
use soft_kvm_video::slot::{NewestSlot, Taken};

use super::{Shared, Viewers};

/// Longest sleep; bounds how late a still picture's refresh is.
const WAIT: Duration = Duration::from_millis(250);

/// Runs until the slot is closed.
pub(super) fn run(shared: &Shared, slot: &Arc<NewestSlot<Frame>>, viewers: &dyn Viewers) {
    let mut stage = Stage::new();
    loop {
        match slot.take(WAIT) {
            Taken::Value(frame) => stage.take_frame(shared, &frame),
            Taken::TimedOut | Taken::Woken => {}
            Taken::Closed => return,
        }
        if !shared.watched() {
            stage.rest();
            continue;
        }
        if let Err(error) = stage.encode_if_due(shared, viewers) {
            tracing::error!("{error}: the encoder is opened again");
            shared
                .counters
                .encoder_errors
                .fetch_add(1, Ordering::Relaxed);
            stage.encoder = None;
        }
    }
}

struct Open {
    encoder: Box<dyn VideoEncoder>,
    size: Size,
    rate: FrameRate,
    params: VideoParams,
}

struct Stage {
    converter: Converter,
    encoder: Option<Open>,
    /// The access unit, in a buffer that is kept.
    coded: Vec<u8>,
    /// A picture came that has not been encoded.
    changed: bool,
    captured: MonoTime,
    converted: MonoTime,
    last: Option<MonoTime>,
    frame: u32,
}

impl Stage {
    fn new() -> Self {
        Self {
            converter: Converter::new(),
            encoder: None,
            coded: Vec::new(),
            changed: false,
            captured: MonoTime::ZERO,
            converted: MonoTime::ZERO,
            last: None,
            frame: 0,
        }
    }

    fn take_frame(&mut self, shared: &Shared, frame: &Frame) {
        match self.converter.update(frame) {
            Ok(Update::Unchanged) => {
                shared.counters.unchanged.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Update::Changed { .. }) => {
                self.changed = true;
                self.captured = frame.info().captured;
                self.converted = clock::now();
            }
            Err(error) => {
                tracing::warn!("{error}");
                shared
                    .counters
                    .encoder_errors
                    .fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Nobody watches: a picture from before must not be shown to the next one who does.
    fn rest(&mut self) {
        if self.last.take().is_some() {
            self.converter.clear();
            self.encoder = None;
            self.changed = false;
        }
    }

    fn encode_if_due(&mut self, shared: &Shared, viewers: &dyn Viewers) -> Result<(), CodecError> {
        let size = self.converter.picture().size;
        if !size.is_supported() {
            return Ok(());
        }
        let params = shared.encode_params();
        let now = clock::now();
        let refresh = self
            .last
            .is_none_or(|last| now.since(last) >= params.refresh);
        let asked = shared.take_key_frame_request();
        if !(self.changed || asked || refresh) {
            return Ok(());
        }
        if !self.changed {
            // The source says nothing of a change: the picture is what is there now.
            shared.counters.refreshed.fetch_add(1, Ordering::Relaxed);
            (self.captured, self.converted) = (now, now);
        }
        let fresh = self.open(shared, viewers, size, params)?;
        let Some(open) = self.encoder.as_mut() else {
            return Ok(());
        };
        let encoded =
            open.encoder
                .encode(self.converter.picture(), asked || fresh, &mut self.coded)?;
        self.changed = false;
        if self.coded.is_empty() {
            return Ok(());
        }
        let done = clock::now();
        self.last = Some(done);
        self.frame = self.frame.wrapping_add(1);
        shared.counters.encoded.fetch_add(1, Ordering::Relaxed);
        viewers.deliver(&AccessUnit {
            data: &self.coded,
            info: AccessUnitInfo {
                frame: self.frame,
                captured: self.captured,
                converted: self.converted,
                encoded: done,
                idr: encoded.idr,
            },
        });
        Ok(())
    }

    /// Makes the encoder fit; true when it is a new one, which begins with an IDR.
    fn open(
        &mut self,
        shared: &Shared,
        viewers: &dyn Viewers,
        size: Size,
        params: VideoParams,
    ) -> Result<bool, CodecError> {
        let rate = shared.rate();
        if let Some(open) = self.encoder.as_mut()
            && open.size == size
            && open.rate == rate
        {
            if open.params.bitrate != params.bitrate {
                open.encoder.set_bitrate(params.bitrate)?;
            }
            open.params = params;
            return Ok(false);
        }
        let config = EncoderConfig {
            size,
            rate,
            bitrate: params.bitrate,
        };
        let encoder = Box::new(openh264::Encoder::open(config)?);
        tracing::info!(encoder = encoder.name(), %size, %rate, bitrate = %params.bitrate, "encoding");
        viewers.announce(VideoInfo {
            size,
            rate,
            source: shared.source().unwrap_or_default(),
            encoder: encoder.name().to_owned(),
            why: "software is the only encoder so far".to_owned(),
        });
        self.encoder = Some(Open {
            encoder,
            size,
            rate,
            params,
        });
        Ok(true)
    }
}
