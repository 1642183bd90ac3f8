//! A recording with a thread of its own, so that a slow disk never holds up the picture.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use soft_kvm_core::MonoTime;

use super::{RecordError, Recorder};

/// Bytes that may wait for the disk: some ten seconds of a busy picture.
const MOST_WAITING: usize = 32 << 20;

/// How a recording is doing.
#[derive(Debug)]
pub enum RecordStatus {
    /// It goes on.
    Running,
    /// It has stopped for this reason; told once.
    Stopped(RecordError),
    /// It has stopped, and the reason was told before.
    Over,
}

/// A [`Recorder`] on the thread `record`.
#[derive(Debug)]
pub struct RecordThread {
    path: PathBuf,
    units: Option<Sender<(Vec<u8>, MonoTime)>>,
    /// Emptied buffers come back to be filled again.
    spare: Receiver<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
    failed: Arc<Mutex<Option<RecordError>>>,
    thread: Option<JoinHandle<()>>,
}

impl RecordThread {
    /// Creates the file and starts the thread.
    ///
    /// # Errors
    /// As [`Recorder::create`]; [`RecordError::Create`] when no thread can be started.
    pub fn start(path: &Path, overwrite: bool) -> Result<Self, RecordError> {
        let mut recorder = Recorder::create(path, overwrite)?;
        let (units, incoming) = channel::<(Vec<u8>, MonoTime)>();
        let (emptied, spare) = channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let failed = Arc::new(Mutex::new(None));
        let (counter, failure) = (Arc::clone(&waiting), Arc::clone(&failed));
        let work = move || {
            let mut result = Ok(());
            for (unit, captured) in incoming {
                result = recorder.push(&unit, captured);
                counter.fetch_sub(unit.len(), Ordering::Relaxed);
                // Nobody takes it back when the session has ended.
                drop(emptied.send(unit));
                if result.is_err() {
                    break;
                }
            }
            if let Err(error) = result.and_then(|()| recorder.finish()) {
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
        };
        let thread = std::thread::Builder::new()
            .name("record".to_owned())
            .spawn(work)
            .map_err(|source| RecordError::Create {
                path: path.to_owned(),
                source,
            })?;
        Ok(Self {
            path: path.to_owned(),
            units: Some(units),
            spare,
            waiting,
            failed,
            thread: Some(thread),
        })
    }

    /// Hands one access unit in Annex B form to the thread; never waits. Tells when the recording has stopped, once.
    #[must_use = "a recording that has stopped has to be told"]
    pub fn push(&mut self, access_unit: &[u8], captured: MonoTime) -> RecordStatus {
        let Some(units) = &self.units else {
            return RecordStatus::Over;
        };
        let waiting = self.waiting.fetch_add(access_unit.len(), Ordering::Relaxed);
        if waiting > MOST_WAITING {
            self.units = None;
            // The thread may hang in a write for long: what it still has, it writes when it can.
            self.thread = None;
            return RecordStatus::Stopped(RecordError::TooSlow(self.path.clone()));
        }
        let mut buffer = self.spare.try_recv().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(access_unit);
        if units.send((buffer, captured)).is_ok() {
            return RecordStatus::Running;
        }
        self.units = None;
        match self.join() {
            Some(error) => RecordStatus::Stopped(error),
            None => RecordStatus::Over,
        }
    }

    /// Writes what is left and waits for it.
    ///
    /// # Errors
    /// [`RecordError`] when writing failed and was not told before.
    pub fn finish(mut self) -> Result<(), RecordError> {
        self.units = None;
        self.join().map_or(Ok(()), Err)
    }

    fn join(&mut self) -> Option<RecordError> {
        let thread = self.thread.take()?;
        if thread.join().is_err() {
            return Some(RecordError::Stream {
                path: self.path.clone(),
                what: "the recording thread panicked; this is a bug".to_owned(),
            });
        }
        self.failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

impl Drop for RecordThread {
    fn drop(&mut self) {
        self.units = None;
        if let Some(error) = self.join() {
            tracing::warn!("{error}");
        }
    }
}
