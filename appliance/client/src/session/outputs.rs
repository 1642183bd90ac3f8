//! What is done with a received stream: window, recording, screenshot, relay, figures.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use soft_kvm_core::MonoTime;
use soft_kvm_protocol::media::{CodedFormat, ReceivedAccessUnit};
use soft_kvm_service::console;
use soft_kvm_video::barcode::Barcode;
use soft_kvm_video::codec::Decoded as Picture;
use soft_kvm_video::cursor::Cursor;

use super::probe::InputProbe;
use super::relay::Relay;
use super::stats::Decoded;
use crate::record::{RecordStatus, RecordThread};
use crate::remote::Remote;
use crate::screenshot;
use crate::view::{ShownFrame, Viewport};

/// Outlives single connections; the `media-rx` thread of the server that is shown uses it.
#[derive(Debug)]
pub(crate) struct Outputs {
    /// The window's picture.
    pub(crate) viewport: Option<Arc<Viewport>>,
    /// The running recording.
    pub(crate) record: Option<RecordThread>,
    /// Where the first picture goes.
    pub(crate) screenshot: Option<PathBuf>,
    /// Existing files may be overwritten.
    pub(crate) overwrite: bool,
    /// A local player.
    pub(crate) relay: Option<Relay>,
    /// Whether anyone wants decoded pictures.
    pub(crate) decode: bool,
    /// The viewport's pictures may be frames.
    pub(crate) frames: bool,
    /// Reports whose echo is waited for.
    pub(crate) probe: Option<Arc<Mutex<InputProbe>>>,
    /// A format that outputs can't take, which has been told.
    pub(crate) refused: Option<CodedFormat>,
    /// Failures of outputs, for the exit status.
    pub(crate) failed: bool,
}

impl Outputs {
    /// Takes an access unit as it came.
    pub(crate) fn unit(&mut self, unit: &ReceivedAccessUnit<'_>, server: &str) {
        if unit.format != CodedFormat::H264 {
            self.refuse(unit.format);
            return;
        }
        self.refused = None;
        if let Some(record) = self.record.as_mut()
            && let RecordStatus::Stopped(error) = record.push(unit.data, unit.captured)
        {
            self.failed = true;
            console::err(format!("soft-kvm-client: {error}"));
        }
        if let Some(relay) = self.relay.as_mut().filter(|_| unit.idr) {
            match relay.describe(unit.data, server) {
                Ok(false) => {}
                Ok(true) => tracing::info!("relay: the description is written"),
                Err(error) => {
                    self.failed = true;
                    console::err(format!("soft-kvm-client: {error:#}"));
                }
            }
        }
    }

    /// Recordings and players take H.264 only: told once for each change of the format.
    fn refuse(&mut self, format: CodedFormat) {
        if self.refused.replace(format) == Some(format) {
            return;
        }
        let record = self.record.take().is_some();
        for what in [
            record.then_some("the recording stopped"),
            self.relay.is_some().then_some("nothing is relayed"),
        ]
        .into_iter()
        .flatten()
        {
            self.failed = true;
            console::err(format!(
                "soft-kvm-client: {what}: the server sends {format}, and only H.264 can be recorded or relayed: \
                 choose another encoder on the server"
            ));
        }
    }

    /// The cursor of the server that is shown is somewhere else.
    pub(crate) fn cursor(&self, cursor: Cursor) {
        if let Some(viewport) = &self.viewport {
            viewport.set_cursor(cursor);
        }
    }

    /// Whether something reads the next picture, so that it cannot be a frame.
    pub(crate) fn read(&self) -> bool {
        let shown = self.viewport.as_ref();
        self.screenshot.is_some()
            || self.probe.is_some()
            || !shown.is_some_and(|viewport| viewport.takes_frames())
    }

    /// Takes a decoded picture.
    pub(crate) fn picture(
        &mut self,
        picture: Picture<'_>,
        unit: &ReceivedAccessUnit<'_>,
        decoded: Decoded,
        remote: &Remote,
    ) {
        let stats = &remote.stats;
        let captured = {
            let mut stats = lock(stats);
            stats.frame(unit, decoded);
            stats.to_local(unit.captured)
        };
        let info = ShownFrame {
            frame: unit.frame,
            captured_local: captured.unwrap_or(unit.first_arrival),
            decoded: decoded.done,
        };
        let picture = match (picture, &self.viewport) {
            (Picture::Memory(picture), None) => picture,
            (Picture::Memory(picture), Some(viewport)) => {
                if let Err(error) = viewport.show(picture, info) {
                    tracing::warn!("{error}");
                }
                picture
            }
            (Picture::Frame(frame), viewport) => {
                if let Some(viewport) = viewport {
                    viewport.show_frame(frame, info);
                }
                return;
            }
        };
        if let Some(path) = self.screenshot.take() {
            let cursor = remote.cursor.shown();
            match screenshot::write_png(&path, picture, &cursor, self.overwrite) {
                Ok(()) => tracing::info!(path = %path.display(), "screenshot"),
                Err(error) => {
                    self.failed = true;
                    console::err(format!("soft-kvm-client: {error}"));
                }
            }
        }
        if let Some(probe) = &self.probe
            && let Some(code) = Barcode::read(picture)
        {
            let mut echoed = |made: MonoTime| {
                lock(stats).echoed(decoded.done.since(made));
            };
            lock(probe).shown(code.reports, &mut echoed);
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Plain data, whole after every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
