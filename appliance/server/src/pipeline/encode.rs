//! The `encode` thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use soft_kvm_core::story::{EncoderDriver, GpuMode, VideoParams};
use soft_kvm_core::{Bitrate, FrameRate, MonoTime, Size};
use soft_kvm_platform::os::clock;
use soft_kvm_protocol::control::VideoInfo;
use soft_kvm_protocol::media::{AccessUnit, AccessUnitInfo};
use soft_kvm_video::codec::{
    CodecError, CodedFormat, Encoded, EncoderConfig, FrameEncoder, VideoEncoder,
};
use soft_kvm_video::convert::{Converter, Update};
use soft_kvm_video::frame::{Colorimetry, Frame, Rect};
use soft_kvm_video::slot::{NewestSlot, Taken};

use super::ladder::{Fall, Ladder};
use super::rungs::{Encoders, Rung};
use super::state::{CpuMeter, add_time};
use super::{Shared, Viewers};

/// Longest sleep; bounds how late a still picture's refresh is.
const WAIT: Duration = Duration::from_millis(250);

/// Runs until the slot is closed.
pub(super) fn run(
    shared: &Shared,
    slot: &Arc<NewestSlot<Frame>>,
    viewers: &dyn Viewers,
    encoders: &dyn Encoders,
) {
    let mut stage = Stage::new(shared, viewers, encoders);
    let mut cpu = CpuMeter::new(&shared.counters.encode_cpu);
    loop {
        cpu.count();
        match slot.take(WAIT) {
            Taken::Value(frame) => stage.take_frame(frame),
            Taken::TimedOut | Taken::Woken => {}
            Taken::Closed => return,
        }
        if shared.watched() {
            stage.encode_if_due();
        } else {
            stage.rest();
        }
    }
}

/// Where the pixels are when they are encoded.
enum Coder {
    /// Where the source has them.
    Import(Box<dyn FrameEncoder>),
    /// In the converter's canvas.
    Pictures(Box<dyn VideoEncoder>),
}

impl Coder {
    fn format(&self) -> CodedFormat {
        match self {
            Self::Import(encoder) => encoder.format(),
            Self::Pictures(encoder) => encoder.format(),
        }
    }

    fn other_cpu(&self) -> Duration {
        match self {
            Self::Import(encoder) => encoder.other_cpu(),
            Self::Pictures(encoder) => encoder.other_cpu(),
        }
    }

    fn converter(&self) -> Option<&str> {
        match self {
            Self::Import(encoder) => encoder.converter(),
            Self::Pictures(_) => None,
        }
    }
}

/// A source's memory, as an importing encoder was opened for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    size: Size,
    fourcc: u32,
    modifier: u64,
    /// Offset and stride of each plane.
    planes: [Option<(u32, u32)>; 4],
    color: Colorimetry,
}

impl Layout {
    fn of(frame: &Frame) -> Option<Self> {
        let memory = frame.dma_buf()?;
        Some(Self {
            size: frame.info().size,
            fourcc: memory.fourcc,
            modifier: memory.modifier,
            planes: memory
                .planes
                .map(|plane| plane.map(|plane| (plane.offset, plane.stride))),
            color: frame.info().color,
        })
    }
}

struct Open {
    rung: usize,
    coder: Coder,
    /// What an importing encoder takes.
    layout: Option<Layout>,
    size: Size,
    rate: FrameRate,
    bitrate: Bitrate,
    /// What made the source's memory readable when the encoder was announced.
    source_converter: Option<Arc<str>>,
}

/// What takes a new ladder, and new encoders on it, when a story changes it: driver, device, time until a retry, intra
/// refresh, whether a GPU converts.
type Settings = (EncoderDriver, Option<String>, Duration, u32, GpuMode);

struct Stage<'a> {
    shared: &'a Shared,
    viewers: &'a dyn Viewers,
    encoders: &'a dyn Encoders,
    converter: Converter,
    ladder: Ladder<Rung>,
    /// The settings that the ladder was made from, and its encoders are opened with.
    ladder_of: Option<Settings>,
    open: Option<Open>,
    /// A layout that a rung can't import, and why: its pictures go through the converter.
    refused: Option<(usize, Layout, String)>,
    /// The newest frame, kept while an encoder imports frames: a refresh needs it once more.
    frame: Option<Frame>,
    /// `frame` has not been converted.
    unconverted: bool,
    /// The access unit, in a buffer that is kept.
    coded: Vec<u8>,
    /// A picture came that has not been encoded.
    changed: bool,
    /// What of the converter's picture has changed since an encoder took it; a new encoder takes all of it.
    damage: Rect,
    captured: MonoTime,
    converted: MonoTime,
    last: Option<MonoTime>,
    number: u32,
}

impl<'a> Stage<'a> {
    fn new(shared: &'a Shared, viewers: &'a dyn Viewers, encoders: &'a dyn Encoders) -> Self {
        Self {
            shared,
            viewers,
            encoders,
            converter: Converter::new(),
            ladder: Ladder::new([], Duration::ZERO),
            ladder_of: None,
            open: None,
            refused: None,
            frame: None,
            unconverted: false,
            coded: Vec::new(),
            changed: false,
            damage: Rect::default(),
            captured: MonoTime::ZERO,
            converted: MonoTime::ZERO,
            last: None,
            number: 0,
        }
    }

    fn take_frame(&mut self, frame: Frame) {
        let counters = &self.shared.counters;
        counters
            .cpu_bytes
            .fetch_add(frame.info().cpu_bytes, Ordering::Relaxed);
        if self.imports(&frame) {
            // Without looking at the pixels nobody knows whether they changed: the source told that they did.
            self.changed = true;
            self.unconverted = true;
            self.captured = frame.info().captured;
            self.converted = clock::now();
            self.frame = Some(frame);
        } else {
            self.frame = None;
            self.convert(&frame);
        }
    }

    /// Whether the rung in turn takes such frames as they are, as far as is known.
    fn imports(&mut self, frame: &Frame) -> bool {
        let Some(layout) = Layout::of(frame) else {
            return false;
        };
        self.make_ladder();
        let rung = self.ladder.best(clock::now());
        let refused = self
            .refused
            .as_ref()
            .is_some_and(|(by, what, _)| *by == rung && *what == layout);
        let software = self
            .ladder
            .rung(rung)
            .is_none_or(|rung| rung.driver == EncoderDriver::Openh264);
        !refused && !software
    }

    /// Brings the canvas up to date.
    fn convert(&mut self, frame: &Frame) {
        self.unconverted = false;
        let counters = &self.shared.counters;
        match self.converter.update(frame) {
            Ok(Update::Unchanged) => {
                counters.unchanged.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Update::Changed { rect, .. }) => {
                self.changed = true;
                self.damage = self.damage.union(rect);
                self.captured = frame.info().captured;
                self.converted = clock::now();
            }
            Err(error) => {
                tracing::warn!("{error}");
                counters.encoder_errors.fetch_add(1, Ordering::Relaxed);
            }
        }
        let touched = self.converter.take_cpu_bytes();
        counters.cpu_bytes.fetch_add(touched, Ordering::Relaxed);
    }

    /// Nobody watches: a picture from before must not be shown to the next one who does.
    fn rest(&mut self) {
        if self.last.take().is_some() {
            self.converter.clear();
            self.open = None;
            self.frame = None;
            self.changed = false;
            // Encoders may have been plugged or pulled when somebody watches again.
            self.ladder_of = None;
            self.shared.set_encoder(None);
        }
    }

    fn encode_if_due(&mut self) {
        if self.frame.is_none() && !self.converter.picture().size.is_supported() {
            return;
        }
        let params = self.shared.encode_params();
        let now = clock::now();
        let refresh = self
            .last
            .is_none_or(|last| now.since(last) >= params.refresh);
        let asked = self.shared.take_key_frame_request();
        if !(self.changed || asked || refresh) {
            return;
        }
        if !self.changed {
            // The source says nothing of a change: the picture is what is there now.
            let refreshed = &self.shared.counters.refreshed;
            refreshed.fetch_add(1, Ordering::Relaxed);
            (self.captured, self.converted) = (now, now);
        }
        self.make_ladder();
        // Each rung has two tries at most; the picture is not lost while one of them works.
        for _ in 0..2 * self.ladder.len() {
            let rung = self.ladder.best(clock::now());
            match self.encode_on(rung, &params, asked) {
                Ok(()) => return,
                Err(error) => self.fall(rung, &error),
            }
        }
        tracing::error!("no encoder works: tried again with the next picture");
    }

    /// The ladder of the settings as they are now.
    fn make_ladder(&mut self) {
        let params = self.shared.encode_params();
        let gpu = self.shared.gpu();
        let settings = self.ladder_of.as_ref();
        let same = settings.is_some_and(|(driver, device, retry, intra, mode)| {
            (driver, device, retry, intra, mode)
                == (
                    &params.driver,
                    &params.device,
                    &params.retry,
                    &params.intra_refresh,
                    &gpu,
                )
        });
        if !same {
            self.ladder = Ladder::new(self.encoders.rungs(&params), params.retry);
            self.ladder_of = Some((
                params.driver,
                params.device.clone(),
                params.retry,
                params.intra_refresh,
                gpu,
            ));
            self.open = None;
            self.refused = None;
        }
    }

    fn fall(&mut self, rung: usize, error: &Failure) {
        let counters = &self.shared.counters;
        counters.encoder_errors.fetch_add(1, Ordering::Relaxed);
        let name = self.ladder.rung(rung).map(ToString::to_string);
        let name = name.unwrap_or_default();
        self.make_room(rung);
        // The next try may import after all.
        self.refused.take_if(|(by, ..)| *by == rung);
        let now = clock::now();
        let again = match error {
            Failure::Open(error) => {
                self.ladder.not_opened(rung, error.to_string(), now);
                Fall::Next
            }
            Failure::Encode(error) => self.ladder.failed(rung, error.to_string(), now),
        };
        let (Failure::Open(error) | Failure::Encode(error)) = error;
        if again == Fall::Reopen {
            tracing::warn!(encoder = name, "{error}: the encoder is opened once more");
        } else {
            counters.encoder_falls.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(encoder = name, "{error}: left for the next encoder");
        }
    }

    fn encode_on(&mut self, rung: usize, params: &VideoParams, asked: bool) -> Result<(), Failure> {
        let fresh = self.fit(rung, params).map_err(Failure::Open)?;
        self.tell_converter();
        let Some(open) = self.open.as_mut() else {
            return Ok(());
        };
        let idr = asked || fresh;
        let mut touched = 0;
        let format = open.coder.format();
        let cpu = open.coder.other_cpu();
        let encoded = match (&mut open.coder, &self.frame) {
            (Coder::Import(encoder), Some(frame)) => {
                let before = encoder.cpu_bytes() + frame.opened_bytes();
                let encoded = encoder.encode(frame, idr, &mut self.coded);
                touched += encoder.cpu_bytes() + frame.opened_bytes() - before;
                encoded
            }
            // `fit` opens no importing encoder without a frame to import.
            (Coder::Import(_), None) => return Ok(()),
            (Coder::Pictures(encoder), _) => {
                let before = encoder.cpu_bytes();
                let picture = self.converter.picture();
                let encoded = encoder.encode_changed(picture, self.damage, idr, &mut self.coded);
                touched += match (before, encoder.cpu_bytes()) {
                    (Some(before), Some(now)) => now - before,
                    _ => u64::from(open.size.width) * u64::from(open.size.height) * 3 / 2,
                };
                encoded
            }
        };
        self.shared
            .counters
            .cpu_bytes
            .fetch_add(touched, Ordering::Relaxed);
        let cpu = open.coder.other_cpu().saturating_sub(cpu);
        add_time(&self.shared.counters.encode_cpu, cpu);
        let encoded = encoded.map_err(Failure::Encode)?;
        self.ladder.worked(rung);
        self.changed = false;
        self.damage = Rect::default();
        self.deliver(encoded, format);
        Ok(())
    }

    fn deliver(&mut self, encoded: Encoded, format: CodedFormat) {
        if self.coded.is_empty() {
            return;
        }
        let done = clock::now();
        self.last = Some(done);
        self.number = self.number.wrapping_add(1);
        let counters = &self.shared.counters;
        counters.encoded.fetch_add(1, Ordering::Relaxed);
        self.viewers.deliver(&AccessUnit {
            data: &self.coded,
            info: AccessUnitInfo {
                format,
                frame: self.number,
                captured: self.captured,
                converted: self.converted,
                encoded: done,
                idr: encoded.idr,
            },
        });
    }

    /// Makes the open encoder fit rung and picture; true when it is a new one, which begins with an IDR.
    fn fit(&mut self, rung: usize, params: &VideoParams) -> Result<bool, CodecError> {
        let rate = self.shared.rate();
        if let Some(frame) = self.frame.take() {
            let fitted = self.fit_import(rung, params, rate, &frame);
            if matches!(fitted, Ok(Some(_))) {
                self.frame = Some(frame);
            } else if self.unconverted {
                self.convert(&frame);
            }
            if let Some(fresh) = fitted? {
                return Ok(fresh);
            }
        }
        let size = self.converter.picture().size;
        if let Some(open) = self.open.as_mut()
            && (open.rung, open.layout, open.size, open.rate) == (rung, None, size, rate)
        {
            if open.bitrate != params.bitrate
                && let Coder::Pictures(encoder) = &mut open.coder
            {
                encoder.set_bitrate(params.bitrate)?;
                open.bitrate = params.bitrate;
            }
            return Ok(false);
        }
        let config = EncoderConfig {
            size,
            rate,
            bitrate: params.bitrate,
            intra_refresh: params.intra_refresh,
        };
        self.make_room(rung);
        let Some(name) = self.ladder.rung(rung) else {
            return Ok(false);
        };
        let encoder = self.encoders.pictures(name, config)?;
        self.opened(rung, Coder::Pictures(encoder), None, config);
        Ok(true)
    }

    /// The same for an encoder that reads `frame` where it is; `None` if the rung can't.
    fn fit_import(
        &mut self,
        rung: usize,
        params: &VideoParams,
        rate: FrameRate,
        frame: &Frame,
    ) -> Result<Option<bool>, CodecError> {
        let Some(layout) = Layout::of(frame) else {
            return Ok(None);
        };
        if let Some(open) = self.open.as_mut()
            && (open.rung, open.layout, open.rate) == (rung, Some(layout), rate)
        {
            if open.bitrate != params.bitrate
                && let Coder::Import(encoder) = &mut open.coder
            {
                encoder.set_bitrate(params.bitrate)?;
                open.bitrate = params.bitrate;
            }
            return Ok(Some(false));
        }
        if !self.imports(frame) {
            return Ok(None);
        }
        let config = EncoderConfig {
            size: layout.size,
            rate,
            bitrate: params.bitrate,
            intra_refresh: params.intra_refresh,
        };
        self.make_room(rung);
        let Some(name) = self.ladder.rung(rung) else {
            return Ok(None);
        };
        match self.encoders.import(name, config, frame) {
            Ok(encoder) => {
                self.opened(rung, Coder::Import(encoder), Some(layout), config);
                Ok(Some(true))
            }
            Err(error) => {
                tracing::info!("{error}: the CPU copies the pictures for it");
                self.refused = Some((rung, layout, error.to_string()));
                Ok(None)
            }
        }
    }

    /// Some devices can be open only once. An encoder of another rung stays until the new one works.
    fn make_room(&mut self, rung: usize) {
        self.open.take_if(|open| open.rung == rung);
    }

    /// The open encoder's pictures take another way to it than when it was announced.
    fn tell_converter(&mut self) {
        let converter = self.shared.converter();
        if let Some(open) = self.open.take_if(|open| open.source_converter != converter) {
            let config = EncoderConfig {
                size: open.size,
                rate: open.rate,
                bitrate: open.bitrate,
                intra_refresh: self.shared.encode_params().intra_refresh,
            };
            self.opened(open.rung, open.coder, open.layout, config);
        }
    }

    fn opened(&mut self, rung: usize, coder: Coder, layout: Option<Layout>, config: EncoderConfig) {
        let source_converter = self.shared.converter();
        let encoder = self
            .ladder
            .rung(rung)
            .map_or_else(String::new, Rung::to_string);
        let driver = self.ladder.rung(rung).map(|rung| rung.driver);
        let converters = (source_converter.as_deref(), coder.converter());
        let why = self.why(rung, layout, converters);
        let codec = coder.format();
        tracing::info!(encoder, size = %config.size, rate = %config.rate, bitrate = %config.bitrate, why, "encoding");
        self.shared
            .set_encoder(driver.map(|driver| (driver, why.as_str())));
        self.viewers.announce(VideoInfo {
            size: config.size,
            rate: config.rate,
            source: self.shared.source().unwrap_or_default(),
            encoder,
            why,
            codec,
        });
        self.open = Some(Open {
            rung,
            coder,
            layout,
            size: config.size,
            rate: config.rate,
            bitrate: config.bitrate,
            source_converter,
        });
    }

    /// Which encoder and why, for people; the converters are the source's and the encoder's.
    fn why(
        &self,
        rung: usize,
        layout: Option<Layout>,
        (of_source, converter): (Option<&str>, Option<&str>),
    ) -> String {
        let mut reasons: Vec<String> = self
            .ladder
            .above(rung)
            .map(|(better, why)| format!("{better} failed: {why}"))
            .collect();
        match &self.refused {
            _ if layout.is_some() => reasons.push(match converter {
                Some(converter) => format!("{converter} converts the source's memory for it"),
                None => "reads the source's memory itself".to_owned(),
            }),
            Some((by, _, why)) if *by == rung => {
                reasons.push(format!("pictures are copied: {why}"))
            }
            _ if reasons.is_empty() && self.ladder.len() == 1 => {
                reasons.push("software is the only encoder here".to_owned());
            }
            _ => {}
        }
        if let Some(gpu) = of_source {
            reasons.push(format!("{gpu} makes the screen's memory linear"));
        }
        reasons.join("; ")
    }
}

/// Whether a rung could not be opened, or failed later.
enum Failure {
    Open(CodecError),
    Encode(CodecError),
}

#[cfg(test)]
mod tests;
