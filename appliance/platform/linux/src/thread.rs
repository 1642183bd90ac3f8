//! Threads with a name, a way to stop, and an end that is waited for.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use crate::waker::Waker;

/// Longest thread name that the kernel keeps (`TASK_COMM_LEN` less the final zero).
pub const NAME_MAX: usize = 15;

/// Tells a thread to end.
#[derive(Clone, Debug)]
pub struct Stop {
    asked: Arc<AtomicBool>,
    waker: Waker,
}

impl Stop {
    /// Whether the thread has been asked to end. Cheap: ask once in each round.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    /// Asks the thread to end, and wakes it.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Readable as soon as the thread is asked to end, or woken for another reason: hand it to `poll`.
    #[must_use]
    pub fn waker(&self) -> &Waker {
        &self.waker
    }
}

/// A running thread. Dropping it asks the thread to end and waits until it has.
#[derive(Debug)]
pub struct Worker {
    stop: Stop,
    handle: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts a thread under `name`, which `top -H` and the metrics show.
    ///
    /// # Errors
    /// When the system starts no more threads, or `name` is longer than [`NAME_MAX`] bytes.
    pub fn spawn(name: &str, body: impl FnOnce(Stop) + Send + 'static) -> io::Result<Self> {
        if name.len() > NAME_MAX {
            let what = format!("thread name {name:?} is longer than {NAME_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let stop = Stop {
            asked: Arc::default(),
            waker: Waker::new()?,
        };
        let inner = stop.clone();
        let handle = Builder::new()
            .name(name.to_owned())
            .spawn(move || body(inner))?;
        Ok(Self {
            stop,
            handle: Some(handle),
        })
    }

    /// What stops and wakes the thread.
    #[must_use]
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Whether the thread has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.handle.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Asks the thread to end and waits; false if it panicked.
    #[must_use]
    pub fn join(mut self) -> bool {
        self.end()
    }

    fn end(&mut self) -> bool {
        self.stop.ask();
        self.handle
            .take()
            .is_none_or(|handle| handle.join().is_ok())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.end() {
            tracing::error!("a thread panicked");
        }
    }
}

/// How soon a thread has to run when it has something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Keys and buttons: a few microseconds of work that everybody feels.
    Input,
    /// Pictures: milliseconds of work, thirty times in a second.
    Media,
}

/// Lets the calling thread run before others, as far as this process may: `SCHED_RR` for input (`CAP_SYS_NICE` or
/// `RLIMIT_RTPRIO`), else a lower nice value (`RLIMIT_NICE`). Without permission nothing changes; threads and processes
/// that this one starts later are ordinary again.
pub fn prioritise(urgency: Urgency) {
    if urgency == Urgency::Input {
        // SAFETY: all fields of `sched_param` are integers, for which zero is a value.
        let mut parameters: libc::sched_param = unsafe { std::mem::zeroed() };
        parameters.sched_priority = REAL_TIME_PRIORITY;
        let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
        // SAFETY: 0 is the calling thread, and the parameters live during the call.
        let set = unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
        if set == 0 {
            return;
        }
    }
    // SAFETY: no pointers; 0 is the calling thread (setpriority(2), "C library/kernel differences").
    let set = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    if set != 0 {
        let error = io::Error::last_os_error();
        tracing::debug!(?urgency, %error, "this thread runs with ordinary priority");
    }
}

/// Low among the real-time ones: the kernel's own threads go first.
const REAL_TIME_PRIORITY: libc::c_int = 10;
const NICE: libc::c_int = -11;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropping_stops_and_joins() -> io::Result<()> {
        let ended = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ended);
        let worker = Worker::spawn("worker-test", move |stop| {
            assert_eq!(std::thread::current().name(), Some("worker-test"));
            while !stop.is_asked() {
                std::thread::yield_now();
            }
            flag.store(true, Ordering::Release);
        })?;
        drop(worker);
        assert!(ended.load(Ordering::Acquire));
        Ok(())
    }

    #[test]
    fn priority_is_taken_or_left_in_silence() {
        let thread = std::thread::spawn(|| {
            prioritise(Urgency::Media);
            prioritise(Urgency::Input);
            // SAFETY: no pointers; 0 is the calling thread.
            unsafe { libc::sched_getscheduler(0) }
        });
        let policy = thread.join().expect("the thread does not panic");
        let policy = policy & !libc::SCHED_RESET_ON_FORK;
        assert!(policy == libc::SCHED_RR || policy == libc::SCHED_OTHER);
    }

    #[test]
    fn a_panic_is_told() -> io::Result<()> {
        let worker = Worker::spawn("panics", |_| panic!("on purpose"))?;
        assert!(!worker.join());
        assert!(Worker::spawn("a name that is too long", |_| ()).is_err());
        Ok(())
    }
}
