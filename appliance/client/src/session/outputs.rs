//! What is done with a received stream: window, recording, screenshot, relay, figures.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use soft_kvm_core::MonoTime;
use soft_kvm_protocol::media::ReceivedAccessUnit;
use soft_kvm_service::console;
use soft_kvm_video::barcode::Barcode;
use soft_kvm_video::codec::I420Ref;

use super::probe::InputProbe;
use super::relay::Relay;
use super::stats::{Decoded, Stats};
use crate::record::{RecordStatus, RecordThread};
use crate::screenshot;
use crate::view::{ShownFrame, Viewport};

/// Outlives single connections; only the `media-rx` thread of the current one uses it.
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
    /// Figures.
    pub(crate) stats: Arc<Mutex<Stats>>,
    /// Reports whose echo is waited for.
    pub(crate) probe: Option<Arc<Mutex<InputProbe>>>,
    /// Failures of outputs, for the exit status.
    pub(crate) failed: bool,
}

impl Outputs {
    /// Takes an access unit as it came.
    pub(crate) fn unit(&mut self, unit: &ReceivedAccessUnit<'_>, server: &str) {
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

    /// Takes a decoded picture.
    pub(crate) fn picture(
        &mut self,
        picture: I420Ref<'_>,
        unit: &ReceivedAccessUnit<'_>,
        decoded: Decoded,
    ) {
        let captured = {
            let mut stats = lock(&self.stats);
            stats.frame(unit, decoded);
            stats.to_local(unit.captured)
        };
        if let Some(viewport) = &self.viewport {
            let info = ShownFrame {
                frame: unit.frame,
                captured_local: captured.unwrap_or(unit.first_arrival),
                decoded: decoded.done,
            };
            if let Err(error) = viewport.show(picture, info) {
                tracing::warn!("{error}");
            }
        }
        if let Some(path) = self.screenshot.take() {
            match screenshot::write_png(&path, picture, self.overwrite) {
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
                lock(&self.stats).echoed(decoded.done.since(made));
            };
            lock(probe).shown(code.reports, &mut echoed);
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Plain data, whole after every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
