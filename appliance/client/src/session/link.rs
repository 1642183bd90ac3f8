//! The way of the operator's input to the server: any thread pushes, the datagram leaves on that thread.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use soft_kvm_core::MonoTime;
use soft_kvm_platform::os::net::UdpSocket;
use soft_kvm_platform::os::waker::Waker;
use soft_kvm_protocol::input::carrier::{self, InputSealer};
use soft_kvm_protocol::input::{AckSummary, DeviceId, EventReport, InputSender};
use soft_kvm_protocol::media::Opener;

/// The sender's end of one session.
#[derive(Debug)]
pub(crate) struct InputLink {
    state: Mutex<State>,
    socket: Arc<UdpSocket>,
    to: SocketAddr,
    waker: Waker,
}

#[derive(Debug)]
struct State {
    sender: InputSender,
    sealer: InputSealer,
    opener: Opener,
    payload: Vec<u8>,
}

impl InputLink {
    /// A link to the server's media port; `waker` wakes the thread that keeps its timers.
    pub(crate) fn new(
        socket: Arc<UdpSocket>,
        to: SocketAddr,
        waker: Waker,
        sealer: InputSealer,
        opener: Opener,
    ) -> Self {
        let sender = InputSender::new();
        Self {
            state: Mutex::new(State {
                sender,
                sealer,
                opener,
                payload: Vec::new(),
            }),
            socket,
            to,
            waker,
        }
    }

    /// Sends a report.
    pub(crate) fn push(&self, now: MonoTime, report: EventReport<'_>) {
        self.with(now, |sender| sender.push(now, report));
    }

    /// A device is gone: its keys go up.
    pub(crate) fn remove_device(&self, now: MonoTime, device: DeviceId) {
        self.with(now, |sender| sender.remove_device(now, device));
    }

    /// Lifts all keys, because the operator's devices were let go.
    pub(crate) fn release_all(&self, now: MonoTime) {
        self.with(now, |sender| sender.release_all(now));
    }

    /// Sends what is due; says when to come back.
    pub(crate) fn tick(&self, now: MonoTime) -> MonoTime {
        let mut state = self.lock();
        self.transmit(&mut state, now);
        state.sender.poll_timeout()
    }

    /// Takes an acknowledgement in, opened in place.
    pub(crate) fn handle_ack(&self, now: MonoTime, datagram: &mut [u8]) -> Option<AckSummary> {
        let mut state = self.lock();
        let state = &mut *state;
        let summary = carrier::open(&mut state.opener, datagram)
            .map_err(|error| tracing::trace!(%error, "acknowledgement dropped"))
            .ok()
            .and_then(|payload| match state.sender.handle_ack(now, payload) {
                Ok(summary) => Some(summary),
                Err(error) => {
                    tracing::debug!(%error, "acknowledgement dropped");
                    None
                }
            });
        self.transmit(state, now);
        summary
    }

    /// Whether positions have to be told again, because the server was out of reach for long.
    pub(crate) fn take_restarted(&self) -> bool {
        self.lock().sender.take_restarted()
    }

    fn with(&self, now: MonoTime, act: impl FnOnce(&mut InputSender)) {
        let mut state = self.lock();
        let was_idle = state.sender.unconfirmed() == 0;
        act(&mut state.sender);
        self.transmit(&mut state, now);
        if was_idle && state.sender.unconfirmed() > 0 {
            self.waker.wake();
        }
    }

    fn transmit(&self, state: &mut State, now: MonoTime) {
        while state.sender.poll_transmit(now, &mut state.payload) {
            let sent = match state.sealer.seal(now, &state.payload) {
                Ok(packet) => self.socket.send(self.to, packet),
                Err(error) => {
                    tracing::error!(%error, "sealing input");
                    return;
                }
            };
            if let Err(error) = sent {
                // Repeated by the sender's timer like any lost datagram.
                tracing::trace!(%error, "sending input");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves whole reports behind: go on.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
