//! The audit log of the running server: its thread, and how much strangers may put into it.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use soft_kvm_core::MonoTime;
use soft_kvm_platform::os::clock;
use soft_kvm_platform::os::lockdown::{self, Class};
use soft_kvm_security::StateDir;
use soft_kvm_security::audit::{AuditLog, Event};
use soft_kvm_service::console;

use crate::context::lock;

/// Events that wait for the disk.
const QUEUE: usize = 1_024;
/// Time between two tries to write what could not be written.
const RETRY: Duration = Duration::from_secs(5);
/// What strangers do is written at most so often in [`WINDOW`], each kind: they must not rotate away what matters.
const STRANGERS: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// Longest reason, in characters.
const MAX_WHY: usize = 200;

/// Takes events from any thread without waiting for the disk.
#[derive(Debug)]
pub struct Audit {
    open: Mutex<Option<Open>>,
    refused: Mutex<Budget>,
    pairing: Mutex<Budget>,
}

/// What strangers do. Each kind has its own measure, so that much of one hides none of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strangers {
    /// They ask for a session.
    Refused,
    /// They begin to pair, and show no code.
    Pairing,
}

#[derive(Debug)]
struct Open {
    sender: SyncSender<(String, Event)>,
    thread: JoinHandle<()>,
}

impl Audit {
    /// Starts the thread that writes to the log in `state`.
    ///
    /// # Errors
    /// The operating system gives no more threads.
    pub fn start(state: &StateDir) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(QUEUE);
        let log = AuditLog::new(state);
        let thread = std::thread::Builder::new()
            .name("audit".into())
            .spawn(move || {
                lockdown::narrow(Class::Network);
                write(&log, &receiver);
            })?;
        Ok(Self {
            open: Mutex::new(Some(Open { sender, thread })),
            refused: Mutex::default(),
            pairing: Mutex::default(),
        })
    }

    /// Keeps an event that a paired client, the console or the server itself made.
    pub fn record(&self, event: Event) {
        let open = lock(&self.open);
        let Some(Open { sender, .. }) = &*open else {
            return;
        };
        let sent = sender.try_send((console::timestamp(clock::wall()), event));
        drop(open);
        if let Err(TrySendError::Full((at, event)) | TrySendError::Disconnected((at, event))) = sent
        {
            tracing::error!(at, ?event, "the audit log takes no more events");
        }
    }

    /// Writes what is left, and takes nothing any more.
    pub fn close(&self) {
        let Some(Open { sender, thread }) = lock(&self.open).take() else {
            return;
        };
        drop(sender);
        if thread.join().is_err() {
            tracing::error!("the audit thread panicked");
        }
    }

    /// Keeps an event that a stranger made, if there have not been too many; it is told how many were left out before.
    pub fn record_stranger(&self, kind: Strangers, event: impl FnOnce(u64) -> Event) {
        let budget = match kind {
            Strangers::Refused => &self.refused,
            Strangers::Pairing => &self.pairing,
        };
        let more = lock(budget).enter(clock::now());
        if let Some(more) = more {
            self.record(event(more));
        }
    }
}

/// Why something ended, short enough for a line of the log.
pub(crate) fn why(error: &anyhow::Error) -> String {
    format!("{error:#}").chars().take(MAX_WHY).collect()
}

/// How often strangers have been written down lately.
#[derive(Debug, Default)]
struct Budget {
    since: Option<MonoTime>,
    count: u32,
    left_out: u64,
}

impl Budget {
    /// How many were left out since the last one, if this one is to be written.
    fn enter(&mut self, now: MonoTime) -> Option<u64> {
        if self.since.is_none_or(|since| now.since(since) >= WINDOW) {
            (self.since, self.count) = (Some(now), 0);
        }
        if self.count >= STRANGERS {
            self.left_out += 1;
            return None;
        }
        self.count += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

/// Writes until all senders are gone. What the disk does not take is tried again, in order.
fn write(log: &AuditLog, receiver: &Receiver<(String, Event)>) {
    let mut waiting = VecDeque::new();
    let mut failed = false;
    loop {
        let next = if waiting.is_empty() {
            receiver.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            receiver.recv_timeout(RETRY)
        };
        let open = !matches!(next, Err(RecvTimeoutError::Disconnected));
        waiting.extend(next.ok());
        while let Some((at, event)) = waiting.front() {
            match log.append(at, std::slice::from_ref(event)) {
                Ok(head) => {
                    // The system's log keeps the newest hash where the server's user cannot change it.
                    let text = serde_json::to_string(event).unwrap_or_default();
                    tracing::info!(target: "audit", n = head.n, hash = head.digits(), "{text}");
                    waiting.pop_front();
                    failed = false;
                }
                Err(error) => {
                    if !std::mem::replace(&mut failed, true) {
                        tracing::error!("the audit log cannot be written: {error}");
                    }
                    break;
                }
            }
        }
        let room = if open { QUEUE } else { 0 };
        while waiting.len() > room {
            let lost = waiting.pop_front();
            tracing::error!(?lost, "not written to the audit log");
        }
        if !open {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_fill_no_log_and_are_counted() {
        let mut strangers = Budget::default();
        let at = |seconds| MonoTime::ZERO + Duration::from_secs(seconds);
        let written = (0..1_000)
            .filter(|_| strangers.enter(at(1)).is_some())
            .count();
        assert_eq!(written, 10);
        assert_eq!(strangers.enter(at(60)), None);
        assert_eq!(strangers.enter(at(61)), Some(991));
        assert_eq!(strangers.enter(at(62)), Some(0));
    }

    #[test]
    fn a_flood_of_unpaired_keys_hides_no_pairing() {
        let root = tempfile::tempdir().expect("a folder");
        let state = StateDir::open(root.path().join("s")).expect("a folder");
        let audit = Audit::start(&state).expect("a thread");
        let (key, remote) = (String::new, String::new);
        for _ in 0..100 {
            audit.record_stranger(Strangers::Refused, |more| Event::Refused {
                key: key(),
                remote: remote(),
                more,
            });
        }
        for _ in 0..3 {
            audit.record_stranger(Strangers::Pairing, |more| Event::PairingFailed {
                key: key(),
                remote: remote(),
                why: String::new(),
                more,
            });
        }
        audit.close();
        let written = AuditLog::new(&state).verify().expect("whole").head.n;
        assert_eq!(written, 10 + 3);
    }

    #[test]
    fn a_disk_that_recovers_gets_what_it_missed() {
        let root = tempfile::tempdir().expect("a folder");
        let state = StateDir::open(root.path().join("s")).expect("a folder");
        // A folder in the log's place: it cannot be opened for writing.
        let place = state.path().join("audit.jsonl");
        std::fs::create_dir(&place).expect("a folder");
        let audit = Audit::start(&state).expect("a thread");
        audit.record(Event::Stopped {});
        std::thread::sleep(Duration::from_millis(50));
        std::fs::remove_dir(&place).expect("empty");
        audit.record(Event::Stopped {});
        audit.close();
        assert_eq!(AuditLog::new(&state).verify().expect("whole").head.n, 2);
    }
}
