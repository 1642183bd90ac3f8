//! The `media-rx` thread: every datagram of every client. Keys go to the kernel from here, without another hand-over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use soft_kvm_core::MonoTime;
use soft_kvm_platform::os::clock;
use soft_kvm_platform::os::net::{Batch, UdpSocket};
use soft_kvm_platform::os::waker::Waker;
use soft_kvm_protocol::input::carrier;
use soft_kvm_protocol::media::{DatagramKind, classify};

use super::{Outgoing, Session, Sessions, lock, on_our_clock, try_lock};

/// Largest datagram that is read; ours are smaller.
const DATAGRAM_MAX: usize = 2_048;
/// How often the leases and the targets' LEDs are looked after.
const TICK: Duration = Duration::from_millis(20);
/// How long to sleep with no client.
const IDLE: Duration = Duration::from_millis(500);

/// The running thread; dropping it stops and joins it.
#[derive(Debug)]
pub struct MediaReceiver {
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl MediaReceiver {
    /// Starts the thread.
    ///
    /// # Errors
    /// The operating system's, when it gives no more threads or descriptors.
    pub fn start(sessions: Arc<Sessions>, socket: Arc<UdpSocket>) -> std::io::Result<Self> {
        let (stop, waker) = (Arc::new(AtomicBool::new(false)), Waker::new()?);
        let (stopped, woken) = (Arc::clone(&stop), waker.clone());
        let thread = std::thread::Builder::new()
            .name("media-rx".into())
            .spawn(move || {
                let mut batch = Batch::new(DATAGRAM_MAX);
                let mut timeout = TICK;
                while !stopped.load(Ordering::Acquire) {
                    if let Err(error) = socket.wait(timeout, false, Some(&woken)) {
                        tracing::error!(%error, "waiting for datagrams");
                        std::thread::sleep(TICK);
                    }
                    loop {
                        match socket.receive(&mut batch) {
                            Ok(0) => break,
                            Ok(_) => batch.for_each_mut(|from, data| {
                                datagram(&sessions, &socket, from, data);
                            }),
                            // An ICMP error for something sent before; the next call reads on.
                            Err(error) => tracing::trace!(%error, "receiving"),
                        }
                    }
                    timeout = look_after(&sessions, &socket);
                }
            })?;
        Ok(Self {
            stop,
            waker,
            thread: Some(thread),
        })
    }
}

impl Drop for MediaReceiver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the media-rx thread panicked");
        }
    }
}

fn datagram(sessions: &Sessions, socket: &UdpSocket, from: SocketAddr, data: &mut [u8]) {
    match classify(data) {
        Some(DatagramKind::Rtp { ssrc, .. }) => {
            sessions.with(
                |ssrcs| ssrcs.input == ssrc.0,
                |session| input(sessions, session, socket, from, data),
            );
        }
        Some(DatagramKind::Rtcp { ssrc }) => {
            sessions.with(
                |ssrcs| ssrcs.receiver == ssrc.0,
                |session| feedback(sessions, session, from, data),
            );
        }
        None => {}
    }
}

fn input(
    sessions: &Sessions,
    session: &Session,
    socket: &UdpSocket,
    from: SocketAddr,
    data: &mut [u8],
) {
    let arrived = clock::now();
    // A device is being made, which takes the kernel a moment: this datagram is dropped, the client repeats it.
    let Some(mut guard) = try_lock(&session.input) else {
        return;
    };
    let input = &mut *guard;
    let outcome = match carrier::open(&mut input.opener, data) {
        Ok(payload) => input.target.handle_datagram(arrived, payload),
        Err(error) => {
            tracing::trace!(client = session.name, %error, "input datagram dropped");
            return;
        }
    };
    if remember(session, from) {
        sessions.transmit.wake();
    }
    if let Err(error) = outcome {
        tracing::debug!(client = session.name, %error, "input datagram dropped");
        return;
    }
    let applied = clock::now();
    if let Some(stamp) = input.target.take_last_report() {
        if let Some(pressed) = on_our_clock(session, stamp) {
            session
                .figures
                .event_to_injected
                .observe(applied.since(pressed));
        }
        session.figures.inject.observe(applied.since(arrived));
    }
    acknowledge(session, input, socket, from, applied);
}

fn acknowledge(
    session: &Session,
    input: &mut super::Input,
    socket: &UdpSocket,
    to: SocketAddr,
    now: MonoTime,
) {
    while input.target.poll_transmit(now, &mut input.payload) {
        match input.sealer.seal(now, &input.payload) {
            Ok(packet) => {
                if let Err(error) = socket.send(to, packet) {
                    tracing::debug!(client = session.name, %error, "sending an acknowledgement");
                }
            }
            Err(error) => {
                tracing::error!(client = session.name, %error, "sealing an acknowledgement")
            }
        }
    }
    if let Some((count, error)) = input.target.take_errors() {
        tracing::warn!(client = session.name, count, "{error}");
    }
}

fn feedback(sessions: &Sessions, session: &Session, from: SocketAddr, data: &mut [u8]) {
    let outcome = lock(&session.video).sender.handle_rtcp(clock::now(), data);
    match outcome {
        Ok(feedback) => {
            if remember(session, from) || feedback.repaired > 0 {
                sessions.transmit.wake();
            }
            if feedback.key_frame {
                lock(&session.video).needs_idr = true;
                sessions.pipeline.request_key_frame();
            }
        }
        Err(error) => tracing::debug!(client = session.name, %error, "feedback dropped"),
    }
}

/// The client is where its last authentic datagram came from; true when that is news.
fn remember(session: &Session, from: SocketAddr) -> bool {
    let mut remote = lock(&session.remote);
    let news = *remote != Some(from);
    if news {
        tracing::debug!(client = session.name, %from, "media address");
        *remote = Some(from);
    }
    news
}

/// Leases, LEDs and auto-repeat; says when to come back.
fn look_after(sessions: &Sessions, socket: &UdpSocket) -> Duration {
    let mut timeout = IDLE;
    sessions.each(|session| {
        timeout = TICK;
        let Some(mut guard) = try_lock(&session.input) else {
            return;
        };
        let input = &mut *guard;
        let now = clock::now();
        input.target.handle_timeout(now);
        input.target.poll_feedback(|record| {
            let mut message = Vec::new();
            record.encode(&mut message);
            session.tell(Outgoing::Record(message));
        });
        let remote = *lock(&session.remote);
        if let Some(to) = remote {
            acknowledge(session, input, socket, to, now);
        }
    });
    timeout
}
