//! Who may take up the server's time before they have shown a paired key.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use soft_kvm_core::MonoTime;
use soft_kvm_core::story::ControlParams;
use soft_kvm_monitoring::{Metrics, RefusedConnection};
use soft_kvm_platform::os::clock;
use soft_kvm_security::admission::{Admission, Full, Limits, Source};
use soft_kvm_security::lan::Refusal;

use crate::lan;

/// At most one line in the log for so long: a flood of connections is no flood of lines.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// The place where connections are let in or turned away.
#[derive(Debug)]
pub(super) struct Door {
    state: Mutex<State>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct State {
    admission: Admission,
    logged: Option<MonoTime>,
    unlogged: u64,
}

impl Door {
    pub(super) fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                admission: Admission::new(Limits::default()),
                logged: None,
                unlogged: 0,
            }),
            metrics,
        })
    }

    /// A place for the connection to `local` from `remote`, or nothing where it is to be closed: that has been logged and counted.
    pub(super) fn enter(
        self: &Arc<Self>,
        local: SocketAddr,
        remote: SocketAddr,
        params: &ControlParams,
    ) -> Option<Place> {
        if let Err(refusal) = lan::admit(local, remote, params) {
            let (reason, hint) = match refusal {
                Refusal::Routed(_) | Refusal::Public(_) => (
                    RefusedConnection::Routed,
                    "; --allow-routed lets such clients in",
                ),
                Refusal::Denied(_) | Refusal::NotAllowed(_) => (RefusedConnection::Listed, ""),
            };
            self.refuse(
                reason,
                remote,
                &format!("{refusal}: connection closed{hint}"),
            );
            return None;
        }
        let source = Source::of(remote.ip());
        let entered = self.lock().admission.enter(clock::now(), source);
        if let Err(full) = entered {
            let reason = match full {
                Full::Rate => RefusedConnection::Rate,
                Full::Total | Full::Source => RefusedConnection::Full,
            };
            self.refuse(reason, remote, &format!("{full}: connection closed"));
            return None;
        }
        Some(Place {
            door: Arc::clone(self),
            source,
            known: AtomicBool::new(false),
        })
    }

    fn refuse(&self, reason: RefusedConnection, remote: SocketAddr, why: &str) {
        self.metrics.count_refused_connection(reason);
        let now = clock::now();
        let mut state = self.lock();
        if state.logged.is_some_and(|last| now.since(last) < LOG_EVERY) {
            state.unlogged += 1;
            return;
        }
        state.logged = Some(now);
        let more = std::mem::take(&mut state.unlogged);
        drop(state);
        tracing::warn!(%remote, more, "{why}");
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place at the door; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Place {
    door: Arc<Door>,
    source: Source,
    known: AtomicBool,
}

impl Place {
    /// The connection has shown a paired key.
    pub(super) fn is_known(&self) {
        self.known.store(true, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let known = self.known.load(Ordering::Relaxed);
        self.door.lock().admission.leave(self.source, known);
    }
}
