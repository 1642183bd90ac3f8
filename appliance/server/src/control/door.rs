//! Who may take up the server's time before they have shown a paired key.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use soft_kvm_core::MonoTime;
use soft_kvm_core::story::ControlParams;
use soft_kvm_monitoring::{Metrics, RefusedConnection};
use soft_kvm_platform::os::clock;
use soft_kvm_security::admission::{Admission, Full, Limits, Source, Ticket};
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
    /// Closing it tells the place that somebody else has it now.
    places: HashMap<Ticket, Sender<Infallible>>,
    logged: Option<MonoTime>,
    unlogged: u64,
}

impl Door {
    pub(super) fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                admission: Admission::new(Limits::default()),
                places: HashMap::new(),
                logged: None,
                unlogged: 0,
            }),
            metrics,
        })
    }

    /// Whether the address rules let a connection to `local` from `remote` in; a refusal has been logged and counted.
    pub(super) fn admits(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        params: &ControlParams,
    ) -> bool {
        let Err(refusal) = lan::admit(local, remote, params) else {
            return true;
        };
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
        false
    }

    /// A place for the connection to `local` from `remote`, or nothing where it is to be closed: that has been logged and counted.
    pub(super) fn enter(
        self: &Arc<Self>,
        local: SocketAddr,
        remote: SocketAddr,
        params: &ControlParams,
    ) -> Option<Place> {
        if !self.admits(local, remote, params) {
            return None;
        }
        let mut state = self.lock();
        match state.admission.enter(clock::now(), Source::of(remote.ip())) {
            Ok(entered) => {
                if let Some(displaced) = entered.displaced {
                    state.places.remove(&displaced);
                }
                let (place, displaced) = async_channel::bounded(1);
                state.places.insert(entered.ticket, place);
                drop(state);
                if entered.displaced.is_some() {
                    self.refuse(
                        RefusedConnection::Full,
                        remote,
                        "too many unfinished connections: connection closed, the oldest of the host with most",
                    );
                }
                Some(Place {
                    door: Arc::clone(self),
                    ticket: entered.ticket,
                    displaced,
                })
            }
            Err(full) => {
                drop(state);
                let reason = match full {
                    Full::Rate => RefusedConnection::Rate,
                    Full::Total | Full::Source => RefusedConnection::Full,
                };
                self.refuse(reason, remote, &format!("{full}: connection closed"));
                None
            }
        }
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
    ticket: Ticket,
    displaced: Receiver<Infallible>,
}

impl Place {
    /// The connection has shown a paired key.
    pub(super) fn is_known(&self) {
        self.door.lock().admission.knows(self.ticket);
    }

    /// Ends when a newcomer has got this place.
    pub(super) async fn is_lost(&self) {
        // Nothing is ever sent: an answer is the end of the channel.
        let _ = self.displaced.recv().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.door.lock();
        state.places.remove(&self.ticket);
        state.admission.leave(self.ticket);
    }
}
