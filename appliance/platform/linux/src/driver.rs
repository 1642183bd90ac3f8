//! Drivers' libraries wait for their hardware as long as they like. Their calls run on a thread of their own, which is
//! left behind when it does not answer in time.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

/// Threads that may be left behind in drivers of a kind before they are not tried any more.
const LEFT_MOST: usize = 4;

/// How long a driver may take to close.
const CLOSING: Duration = Duration::from_millis(200);

/// A kind of driver, and how many threads are in its calls that nobody waits for.
#[derive(Debug)]
pub(crate) struct Kind {
    /// Name of the threads.
    thread: &'static str,
    /// What the drivers are called.
    name: &'static str,
    left: AtomicUsize,
}

impl Kind {
    pub(crate) const fn new(thread: &'static str, name: &'static str) -> Self {
        Self {
            thread,
            name,
            left: AtomicUsize::new(0),
        }
    }

    /// Whether another thread may be risked.
    fn room(&self, device: &str) -> Result<(), String> {
        let left = self.left.load(Ordering::Acquire);
        if left < LEFT_MOST {
            return Ok(());
        }
        let name = self.name;
        Err(format!(
            "{device}: not tried, {left} calls of {name} drivers have not come back"
        ))
    }

    /// Counts the calling thread until what this gives is dropped.
    fn call(&'static self) -> Call {
        self.left.fetch_add(1, Ordering::AcqRel);
        Call(self)
    }

    fn spawn(&self, run: impl FnOnce() + Send + 'static) -> Result<(), String> {
        let spawned = thread::Builder::new()
            .name(self.thread.to_owned())
            .spawn(run);
        spawned
            .map(drop)
            .map_err(|why| format!("a thread for the driver: {why}"))
    }

    /// Asks a driver once, for `limit` at most.
    ///
    /// # Errors
    /// What it answers; that it does not answer in time; that too many have not.
    pub(crate) fn ask<T: Send + 'static>(
        &'static self,
        device: &str,
        limit: Duration,
        question: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        self.room(device)?;
        let (answer, answers) = sync_channel(1);
        self.spawn(move || {
            let _call = self.call();
            let _ = answer.send(question());
        })?;
        answers
            .recv_timeout(limit)
            .unwrap_or_else(|_| Err(format!("{device}: the driver does not answer")))
    }
}

/// A thread is in a driver's hands.
struct Call(&'static Kind);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.left.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A driver that does one job after the other, on its thread. Nothing is allocated for a job.
pub(crate) struct Driver<Job, Done> {
    jobs: Option<SyncSender<Job>>,
    answers: Receiver<Result<Done, String>>,
    device: String,
    hung: bool,
}

impl<Job: Send + 'static, Done: Send + 'static> Driver<Job, Done> {
    /// Starts the thread and opens the driver there, for `limit` at most. What is opened never leaves the thread; what it
    /// tells about itself does.
    ///
    /// # Errors
    /// What `open` says, or that it takes too long.
    pub(crate) fn open<Session, Facts: Send + 'static>(
        kind: &'static Kind,
        device: String,
        limit: Duration,
        open: impl FnOnce() -> Result<(Session, Facts), String> + Send + 'static,
        mut work: impl FnMut(&mut Session, Job) -> Result<Done, String> + Send + 'static,
    ) -> Result<(Self, Facts), String> {
        kind.room(&device)?;
        let (jobs, queue) = sync_channel::<Job>(1);
        let (answer, answers) = sync_channel(1);
        let (tell, told) = sync_channel(1);
        kind.spawn(move || {
            let call = kind.call();
            let opened = open();
            drop(call);
            let mut session = match opened {
                Ok((session, facts)) => {
                    let _ = tell.send(Ok(facts));
                    session
                }
                Err(why) => {
                    let _ = tell.send(Err(why));
                    return;
                }
            };
            for job in queue {
                let call = kind.call();
                let done = work(&mut session, job);
                drop(call);
                if answer.send(done).is_err() {
                    break;
                }
            }
            let _call = kind.call();
            drop(session);
        })?;
        let mut driver = Self {
            jobs: Some(jobs),
            answers,
            device,
            hung: false,
        };
        let facts = match told.recv_timeout(limit) {
            Ok(facts) => facts?,
            Err(why) => return Err(driver.silent("opening it", limit, why)),
        };
        Ok((driver, facts))
    }

    /// Has a job done within `limit`. `what` is what it is called where it takes longer.
    ///
    /// # Errors
    /// What the driver says, or that it takes too long: from then on every job fails.
    pub(crate) fn work(&mut self, job: Job, what: &str, limit: Duration) -> Result<Done, String> {
        let sent = self.jobs.as_ref().map(|jobs| jobs.send(job).is_ok());
        if self.hung || sent != Some(true) {
            return Err(self.gone());
        }
        match self.answers.recv_timeout(limit) {
            Ok(done) => done,
            Err(why) => Err(self.silent(what, limit, why)),
        }
    }

    fn silent(&mut self, what: &str, limit: Duration, why: RecvTimeoutError) -> String {
        if why == RecvTimeoutError::Disconnected {
            return self.gone();
        }
        self.hung = true;
        let (device, limit) = (&self.device, limit.as_millis());
        format!("{device}: {what} took the driver longer than {limit} ms")
    }

    fn gone(&self) -> String {
        format!("{}: the driver's thread has ended", self.device)
    }
}

impl<Job, Done> Drop for Driver<Job, Done> {
    fn drop(&mut self) {
        self.jobs = None;
        // Another may want the device: it is closed before this returns, if the driver lets it. A thread that hangs has
        // been given its time already.
        if !self.hung {
            while let Ok(answer) = self.answers.recv_timeout(CLOSING) {
                drop(answer);
            }
        }
    }
}

impl<Job, Done> fmt::Debug for Driver<Job, Done> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("device", &self.device)
            .field("hung", &self.hung)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn jobs_are_done_in_order_and_the_session_closes_on_its_thread() {
        static KIND: Kind = Kind::new("test", "test");
        struct Session(SyncSender<thread::ThreadId>, u32);
        impl Drop for Session {
            fn drop(&mut self) {
                let _ = self.0.send(thread::current().id());
            }
        }
        let (closed, closes) = sync_channel(1);
        let open = move || Ok((Session(closed, 0), thread::current().id()));
        let work = |session: &mut Session, job: u32| {
            session.1 += job;
            Ok((session.1, thread::current().id()))
        };
        let (mut driver, thread) =
            Driver::open(&KIND, "device".to_owned(), SOON, open, work).expect("it opens");
        assert_eq!(driver.work(3, "a job", SOON), Ok((3, thread)));
        assert_eq!(driver.work(4, "a job", SOON), Ok((7, thread)));
        drop(driver);
        assert_eq!(closes.recv_timeout(SOON), Ok(thread));
    }

    #[test]
    fn one_that_hangs_is_left_behind_and_after_some_none_is_tried() {
        static KIND: Kind = Kind::new("test", "test");
        let (go_on, wait) = sync_channel::<()>(0);
        let wait = std::sync::Arc::new(std::sync::Mutex::new(wait));
        let limit = Duration::from_millis(20);
        for _ in 0..LEFT_MOST {
            let wait = std::sync::Arc::clone(&wait);
            let work = move |(): &mut (), ()| {
                let _ = wait.lock().map(|wait| wait.recv());
                Ok(())
            };
            let (mut driver, ()) =
                Driver::open(&KIND, "device".to_owned(), SOON, || Ok(((), ())), work)
                    .expect("it opens");
            let error = driver.work((), "a job", limit).expect_err("it hangs");
            assert_eq!(error, "device: a job took the driver longer than 20 ms");
            let error = driver.work((), "a job", limit).expect_err("it hangs");
            assert!(error.contains("has ended"), "{error}");
        }
        let error = KIND
            .ask("device", SOON, || Ok(()))
            .expect_err("all are taken");
        assert!(error.contains("4 calls of test drivers"), "{error}");
        // What hung has come back.
        drop(go_on);
        let back = (0..1_000).any(|_| {
            thread::sleep(Duration::from_millis(5));
            KIND.ask("device", SOON, || Ok(())).is_ok()
        });
        assert!(back, "the threads ended");
    }
}
