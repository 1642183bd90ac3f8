//! libva's calls wait for the hardware as long as the driver likes. They run on a thread of their own, which is left
//! behind when it does not answer in time.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use soft_kvm_core::Bitrate;
use soft_kvm_video::codec::{CodecError, EncoderConfig};

use super::error;
use super::import::Imported;
use super::session::{Input, Opened, Session};
use crate::clock;

/// How long a driver may take for one picture. One that hangs is opened once more and may hang again: the next
/// encoder has to take over within a second.
const DEADLINE: Duration = Duration::from_millis(400);

/// How long it may take to open and to close.
const OPENING: Duration = Duration::from_millis(500);
const CLOSING: Duration = Duration::from_millis(200);

/// Threads that may be left behind in a driver before it is not tried any more.
const LEFT_MOST: usize = 4;

/// Threads in drivers' calls that nobody waits for.
static LEFT: AtomicUsize = AtomicUsize::new(0);

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

#[derive(Debug)]
enum Answer {
    Opened(Opened),
    Done(Done),
}

/// A session on its thread.
#[derive(Debug)]
pub(super) struct Worker {
    jobs: Option<Sender<Job>>,
    answers: Receiver<Result<Answer, CodecError>>,
    node: PathBuf,
    hung: bool,
}

impl Worker {
    /// Starts the thread and opens the session there.
    pub(super) fn open(
        node: PathBuf,
        config: EncoderConfig,
        first: Option<Imported>,
    ) -> Result<(Self, Opened), CodecError> {
        room(&node)?;
        let (jobs, work) = channel::<Job>();
        let (answer, answers) = channel();
        let path = node.clone();
        let run = move || run(&path, config, first, &work, &answer);
        thread::Builder::new()
            .name("vaapi".to_owned())
            .spawn(run)
            .map_err(|why| error(format!("a thread for the driver: {why}")))?;
        let mut worker = Self {
            jobs: Some(jobs),
            answers,
            node,
            hung: false,
        };
        match worker.wait("opening it", OPENING)? {
            Answer::Opened(opened) => Ok((worker, opened)),
            Answer::Done(_) => Err(error("a picture before there was an encoder")),
        }
    }

    /// Encodes one picture in time.
    pub(super) fn encode(&mut self, job: Job) -> Result<Done, CodecError> {
        let sent = self.jobs.as_ref().map(|jobs| jobs.send(job).is_ok());
        if self.hung || sent != Some(true) {
            return Err(self.gone());
        }
        match self.wait("a picture", DEADLINE)? {
            Answer::Done(done) => Ok(done),
            Answer::Opened(_) => Err(error("opened twice")),
        }
    }

    fn wait(&mut self, what: &str, limit: Duration) -> Result<Answer, CodecError> {
        match self.answers.recv_timeout(limit) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => {
                self.hung = true;
                let node = self.node.display();
                let limit = limit.as_millis();
                Err(error(format!(
                    "{node}: {what} took the driver longer than {limit} ms"
                )))
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.gone()),
        }
    }

    fn gone(&self) -> CodecError {
        error(format!(
            "{}: the driver's thread has ended",
            self.node.display()
        ))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        // Another encoder may want the device: it is closed before this returns, if the driver lets it. A thread that
        // hangs has been given its time already.
        if !self.hung {
            while let Ok(answer) = self.answers.recv_timeout(CLOSING) {
                drop(answer);
            }
        }
    }
}

/// Whether another thread may be risked on the drivers.
pub(super) fn room(node: &std::path::Path) -> Result<(), CodecError> {
    let left = LEFT.load(Ordering::Acquire);
    if left < LEFT_MOST {
        return Ok(());
    }
    let node = node.display();
    Err(error(format!(
        "{node}: not tried, {left} calls of VAAPI drivers have not come back"
    )))
}

/// Counts the thread while it is in a driver's hands.
struct Counted;

impl Counted {
    fn new() -> Self {
        LEFT.fetch_add(1, Ordering::AcqRel);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        LEFT.fetch_sub(1, Ordering::AcqRel);
    }
}

fn run(
    node: &std::path::Path,
    config: EncoderConfig,
    first: Option<Imported>,
    work: &Receiver<Job>,
    answer: &Sender<Result<Answer, CodecError>>,
) {
    let counted = Counted::new();
    let opened = Session::open(node, config, first.as_ref());
    drop((counted, first));
    let mut session = match opened {
        Ok((session, opened)) => {
            let _ = answer.send(Ok(Answer::Opened(opened)));
            session
        }
        Err(why) => {
            let _ = answer.send(Err(why));
            return;
        }
    };
    for job in work {
        let counted = Counted::new();
        let Job {
            input,
            idr,
            bitrate,
            mut out,
        } = job;
        out.clear();
        let made = session.encode(&input, idr, bitrate, &mut out);
        let spare = match input {
            Input::Memory(memory) => memory,
            Input::Device(_) => Vec::new(),
        };
        drop(counted);
        let cpu = clock::thread_cpu();
        let done = |idr| {
            Answer::Done(Done {
                idr,
                out,
                spare,
                cpu,
            })
        };
        let made = made.map(done);
        if answer.send(made).is_err() {
            break;
        }
    }
    let _counted = Counted::new();
    drop(session);
}

/// Runs a question to a driver on a thread of its own, for `limit` at most.
pub(super) fn ask<T: Send + 'static>(
    node: &std::path::Path,
    limit: Duration,
    question: impl FnOnce(&std::path::Path) -> Result<T, CodecError> + Send + 'static,
) -> Result<T, CodecError> {
    room(node)?;
    let (answer, answers) = channel();
    let path = node.to_owned();
    let run = move || {
        let _counted = Counted::new();
        let _ = answer.send(question(&path));
    };
    thread::Builder::new()
        .name("vaapi".to_owned())
        .spawn(run)
        .map_err(|why| error(format!("a thread for the driver: {why}")))?;
    answers.recv_timeout(limit).unwrap_or_else(|_| {
        let node = node.display();
        Err(error(format!("{node}: the driver does not answer")))
    })
}
