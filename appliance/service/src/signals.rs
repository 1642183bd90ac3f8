//! Signals, as requests.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::{self, JoinHandle};

use async_channel::Receiver;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{self, Handle};
use signal_hook::{SigId, flag, low_level};

/// What the operating system, or the person at the terminal, asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// `SIGINT`, `SIGTERM`: release everything and end.
    Stop,
    /// `SIGHUP`: read the story again.
    Reload,
}

/// The signals could not be taken over.
#[derive(Debug, thiserror::Error)]
#[error("cannot handle signals: {0}")]
pub struct SignalError(#[from] std::io::Error);

/// Takes `SIGINT`, `SIGTERM` and `SIGHUP` over, until it is dropped.
///
/// The first `SIGINT` or `SIGTERM` is a [`Request::Stop`]; a second one ends the process at once, inside the signal
/// handler, with status 128 + signal, even when every thread is stuck. The kernel then releases grabbed devices.
#[derive(Debug)]
pub struct Signals {
    requests: Receiver<Request>,
    handle: Handle,
    exits: Vec<SigId>,
    thread: Option<JoinHandle<()>>,
}

impl Signals {
    /// Starts; to be called once, early.
    ///
    /// # Errors
    ///
    /// The system has no file descriptors or threads left.
    pub fn new() -> Result<Self, SignalError> {
        let stopping = Arc::new(AtomicBool::new(false));
        let mut exits = Vec::new();
        for signal in [SIGINT, SIGTERM] {
            // In this order: the exit looks at the flag before this very signal sets it.
            let status = 128 + signal;
            exits.push(flag::register_conditional_shutdown(
                signal,
                status,
                Arc::clone(&stopping),
            )?);
            exits.push(flag::register(signal, Arc::clone(&stopping))?);
        }
        let mut signals = iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let handle = signals.handle();
        let (sender, requests) = async_channel::unbounded();
        let thread = thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                for signal in &mut signals {
                    let request = match signal {
                        SIGHUP => Request::Reload,
                        _ => Request::Stop,
                    };
                    if sender.try_send(request).is_err() {
                        break;
                    }
                }
            })?;
        Ok(Self {
            requests,
            handle,
            exits,
            thread: Some(thread),
        })
    }

    /// The next request.
    pub async fn next(&self) -> Request {
        // The channel closes only with `self`; a thread that died leaves the safe answer.
        self.requests.recv().await.unwrap_or(Request::Stop)
    }

    /// Blocks until the next request.
    #[must_use]
    pub fn wait(&self) -> Request {
        self.requests.recv_blocking().unwrap_or(Request::Stop)
    }

    /// The next request if there is one already.
    #[must_use]
    pub fn poll(&self) -> Option<Request> {
        self.requests.try_recv().ok()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.handle.close();
        for id in self.exits.drain(..) {
            low_level::unregister(id);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// Set in the processes that the tests below run themselves in, since signals hit a whole process.
    const CHILD: &str = "SOFT_KVM_TEST_CHILD";

    fn alone(test: &str) -> std::process::ExitStatus {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test])
            .env(CHILD, "1")
            .stdout(Stdio::null())
            .status()
            .unwrap()
    }

    #[test]
    fn requests_arrive_in_order_and_stop_when_dropped() {
        assert!(alone("signals::tests::child_reload_and_stop").success());
    }

    #[test]
    fn child_reload_and_stop() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        let signals = Signals::new().unwrap();
        assert_eq!(signals.poll(), None);
        low_level::raise(SIGHUP).unwrap();
        assert_eq!(signals.wait(), Request::Reload);
        low_level::raise(SIGTERM).unwrap();
        assert_eq!(
            futures_lite::future::block_on(signals.next()),
            Request::Stop
        );
        drop(signals);
        let again = Signals::new().unwrap();
        low_level::raise(SIGINT).unwrap();
        assert_eq!(again.wait(), Request::Stop);
    }

    #[test]
    fn the_second_stop_ends_a_stuck_process_at_once() {
        let status = alone("signals::tests::child_two_stops");
        assert_eq!(status.code(), Some(128 + SIGTERM));
    }

    #[test]
    fn child_two_stops() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        let _signals = Signals::new().unwrap();
        low_level::raise(SIGINT).unwrap();
        low_level::raise(SIGTERM).unwrap();
        unreachable!("the second signal ended the process inside the handler");
    }
}
