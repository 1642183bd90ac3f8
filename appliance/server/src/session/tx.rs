//! The `media-tx` thread: sends what the video senders give, at the time they give it.

use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use soft_kvm_core::MonoTime;
use soft_kvm_platform::os::clock;
use soft_kvm_platform::os::lockdown::{self, Class};
use soft_kvm_platform::os::net::UdpSocket;
use soft_kvm_protocol::media::Batch;

use super::{Session, Sessions, lock};

/// Longest sleep with nothing to send.
const IDLE: Duration = Duration::from_millis(500);
/// Longest wait for room in a full send buffer.
const FULL: Duration = Duration::from_millis(20);

/// Wakes the thread when packets wait.
#[derive(Debug, Default)]
pub(super) struct Wakeup {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pending: bool,
    stopped: bool,
}

impl Wakeup {
    pub(super) fn wake(&self) {
        lock(&self.state).pending = true;
        self.changed.notify_one();
    }

    fn stop(&self) {
        lock(&self.state).stopped = true;
        self.changed.notify_one();
    }

    /// False when the thread shall end.
    fn wait(&self, timeout: Duration) -> bool {
        let state = lock(&self.state);
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, timeout, |state| !state.pending && !state.stopped)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        state.pending = false;
        !state.stopped
    }
}

/// The running thread; dropping it stops and joins it.
#[derive(Debug)]
pub struct MediaTransmitter {
    wakeup: Arc<Wakeup>,
    thread: Option<JoinHandle<()>>,
}

impl MediaTransmitter {
    /// Starts the thread.
    ///
    /// # Errors
    /// The operating system's, when it gives no more threads.
    pub fn start(sessions: Arc<Sessions>, socket: Arc<UdpSocket>) -> std::io::Result<Self> {
        let wakeup = Arc::clone(&sessions.transmit);
        let thread = std::thread::Builder::new()
            .name("media-tx".into())
            .spawn(move || {
                lockdown::narrow(Class::Network);
                let mut batch = Batch::new();
                let mut timeout = Duration::ZERO;
                while sessions.transmit.wait(timeout) {
                    let mut next = clock::now() + IDLE;
                    sessions.each(|session| {
                        let due = session.send_cursor(&socket);
                        let due = due
                            .into_iter()
                            .chain(transmit(session, &socket, &mut batch));
                        next = due.fold(next, MonoTime::min);
                    });
                    timeout = next.since(clock::now());
                }
            })?;
        Ok(Self {
            wakeup,
            thread: Some(thread),
        })
    }
}

impl Drop for MediaTransmitter {
    fn drop(&mut self) {
        self.wakeup.stop();
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the media-tx thread panicked");
        }
    }
}

/// Sends what one client may get now; says when there is more.
fn transmit(session: &Session, socket: &UdpSocket, batch: &mut Batch) -> Option<MonoTime> {
    // Without a datagram from the client nobody knows where to send to: it sends its first RTCP at once.
    let to = (*lock(&session.remote))?;
    loop {
        let (more, due) = {
            let mut video = lock(&session.video);
            (
                video.sender.poll_transmit(clock::now(), batch),
                video.sender.poll_timeout(),
            )
        };
        if !more {
            return due;
        }
        let Ok(segment) = u16::try_from(batch.segment_size()) else {
            continue;
        };
        let mut rest = batch.bytes();
        while !rest.is_empty() {
            match socket.send_segments(to, rest, segment) {
                Ok(0) => {
                    if socket
                        .wait(FULL, true, None)
                        .is_ok_and(|ready| !ready.writable)
                    {
                        // The line is stuck; the client asks for what it misses.
                        break;
                    }
                }
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(error) => {
                    tracing::debug!(client = session.name, %error, "sending video");
                    break;
                }
            }
        }
    }
}
