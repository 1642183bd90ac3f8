//! A session on a thread of its own: libva's calls wait for the hardware as long as the driver likes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use soft_kvm_core::Bitrate;
use soft_kvm_video::codec::{CodecError, EncoderConfig};

use super::error;
use super::import::Imported;
use super::session::{Input, Opened, Session};
use crate::clock;
use crate::driver::{Driver, Kind};

/// How long a driver may take for one picture. One that hangs is opened once more and may hang again: the next
/// encoder has to take over within a second.
const DEADLINE: Duration = Duration::from_millis(400);

/// How long it may take to open.
const OPENING: Duration = Duration::from_millis(500);

static DRIVERS: Kind = Kind::new("vaapi", "VAAPI");

/// One picture to encode.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) input: Input,
    pub(super) idr: bool,
    pub(super) bitrate: Bitrate,
    /// A buffer for what is made.
    pub(super) out: Vec<u8>,
}

/// What became of it.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) idr: bool,
    pub(super) out: Vec<u8>,
    /// The memory of the picture, to be used again.
    pub(super) spare: Vec<u8>,
    /// CPU time of the driver's thread so far.
    pub(super) cpu: Duration,
}

/// A session on its thread.
#[derive(Debug)]
pub(super) struct Worker(Driver<Job, Done>);

impl Worker {
    /// Starts the thread and opens the session there.
    pub(super) fn open(
        node: PathBuf,
        config: EncoderConfig,
        first: Option<Imported>,
    ) -> Result<(Self, Opened), CodecError> {
        let device = node.display().to_string();
        let open = move || Session::open(&node, config, first.as_ref()).map_err(|error| error.what);
        let (driver, opened) =
            Driver::open(&DRIVERS, device, OPENING, open, encode).map_err(error)?;
        Ok((Self(driver), opened))
    }

    /// Encodes one picture in time.
    pub(super) fn encode(&mut self, job: Job) -> Result<Done, CodecError> {
        self.0.work(job, "a picture", DEADLINE).map_err(error)
    }
}

fn encode(session: &mut Session, job: Job) -> Result<Done, String> {
    let Job {
        input,
        idr,
        bitrate,
        mut out,
    } = job;
    out.clear();
    let idr = session
        .encode(&input, idr, bitrate, &mut out)
        .map_err(|error| error.what)?;
    let spare = match input {
        Input::Memory(memory) => memory,
        Input::Device(_) => Vec::new(),
    };
    Ok(Done {
        idr,
        out,
        spare,
        cpu: clock::thread_cpu(),
    })
}

/// Runs a question to a driver on a thread of its own, for `limit` at most.
pub(super) fn ask<T: Send + 'static>(
    node: &Path,
    limit: Duration,
    question: impl FnOnce(&Path) -> Result<T, CodecError> + Send + 'static,
) -> Result<T, CodecError> {
    let path = node.to_owned();
    let question = move || question(&path).map_err(|error| error.what);
    let device = node.display().to_string();
    DRIVERS.ask(&device, limit, question).map_err(error)
}
