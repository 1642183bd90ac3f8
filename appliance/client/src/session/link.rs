//! The way of the operator's input to the server: any thread pushes, the datagram leaves on that thread. The `input-net`
//! thread takes the answers and repeats what was lost; it does nothing else, so that no picture keeps a key waiting.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_channel::Sender;
use soft_kvm_core::{Lang, MonoTime};
use soft_kvm_platform::os::clock;
use soft_kvm_platform::os::net::{Batch, UdpSocket};
use soft_kvm_platform::os::thread::{Urgency, prioritise};
use soft_kvm_platform::os::waker::Waker;
use soft_kvm_protocol::input::carrier::{self, InputSealer};
use soft_kvm_protocol::input::{
    AckSummary, DeviceId, EventReport, InputPath, InputSender, PathChooser,
};
use soft_kvm_protocol::media::Opener;
use soft_kvm_service::console;

use super::outputs::lock;
use super::stats::Stats;

/// Longest sleep.
const IDLE: Duration = Duration::from_millis(500);
/// Largest datagram that is read; acknowledgements are much smaller.
const DATAGRAM_MAX: usize = 512;

/// The two ways to the server.
#[derive(Debug)]
pub(crate) struct Ends {
    /// A socket of the input's own.
    pub(crate) socket: UdpSocket,
    /// The server's media port.
    pub(crate) to: SocketAddr,
    /// Seals input.
    pub(crate) sealer: InputSealer,
    /// Opens acknowledgements.
    pub(crate) opener: Opener,
    /// Binary messages for the control channel.
    pub(crate) control: Sender<Vec<u8>>,
}

/// The sender's end of one session.
#[derive(Debug)]
pub(crate) struct InputLink {
    state: Mutex<State>,
    socket: UdpSocket,
    to: SocketAddr,
    control: Sender<Vec<u8>>,
    waker: Waker,
    stop: AtomicBool,
    /// When the server's last datagram came, in monotonic nanoseconds.
    heard: AtomicU64,
    stats: Arc<Mutex<Stats>>,
    lang: Lang,
}

#[derive(Debug)]
struct State {
    sender: InputSender,
    path: PathChooser,
    sealer: InputSealer,
    opener: Opener,
    payload: Vec<u8>,
    /// When the thread looks again by itself.
    armed: MonoTime,
}

/// The running thread; dropping it stops and joins it.
#[derive(Debug)]
pub(crate) struct InputNet {
    link: Arc<InputLink>,
    thread: Option<JoinHandle<()>>,
}

impl InputNet {
    /// Starts the thread, which tells the server of the session at once.
    ///
    /// # Errors
    /// The operating system's, when it gives no more threads or descriptors.
    pub(crate) fn start(ends: Ends, stats: Arc<Mutex<Stats>>, lang: Lang) -> std::io::Result<Self> {
        let link = Arc::new(InputLink::new(ends, stats, lang)?);
        let worker = Arc::clone(&link);
        let thread = std::thread::Builder::new()
            .name("input-net".into())
            .spawn(move || worker.run())?;
        Ok(Self {
            link,
            thread: Some(thread),
        })
    }

    /// What reports are pushed to.
    pub(crate) fn link(&self) -> &Arc<InputLink> {
        &self.link
    }
}

impl Drop for InputNet {
    fn drop(&mut self) {
        self.link.stop.store(true, Ordering::Release);
        self.link.waker.wake();
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the input-net thread panicked");
        }
    }
}

impl InputLink {
    fn new(ends: Ends, stats: Arc<Mutex<Stats>>, lang: Lang) -> std::io::Result<Self> {
        Ok(Self {
            state: Mutex::new(State {
                sender: InputSender::new(),
                path: PathChooser::new(),
                sealer: ends.sealer,
                opener: ends.opener,
                payload: Vec::new(),
                armed: MonoTime::ZERO,
            }),
            socket: ends.socket,
            to: ends.to,
            control: ends.control,
            waker: Waker::new()?,
            stop: AtomicBool::new(false),
            heard: AtomicU64::new(0),
            stats,
            lang,
        })
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

    /// Reports that the server has not confirmed yet.
    pub(crate) fn unconfirmed(&self) -> usize {
        self.lock().sender.unconfirmed()
    }

    /// Takes an acknowledgement from the control channel in.
    pub(crate) fn handle_message(&self, now: MonoTime, message: &[u8]) {
        self.acknowledged(now, InputPath::WebSocket, |state| {
            state.sender.handle_ack(now, message).ok()
        });
        // The answer may make the next datagram due earlier than the thread knows.
        self.waker.wake();
    }

    /// When the server's last authentic datagram came.
    pub(crate) fn heard(&self) -> MonoTime {
        MonoTime::from_nanos(self.heard.load(Ordering::Relaxed))
    }

    /// Whether positions have to be told again, because the server was out of reach for long.
    pub(crate) fn take_restarted(&self) -> bool {
        self.lock().sender.take_restarted()
    }

    fn run(&self) {
        prioritise(Urgency::Input);
        let mut batch = Batch::new(DATAGRAM_MAX);
        while !self.stop.load(Ordering::Acquire) {
            let timeout = self.tick(clock::now()).since(clock::now());
            match self.socket.wait(timeout, false, Some(&self.waker)) {
                Ok(ready) if ready.readable => self.receive(&mut batch),
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%error, "waiting for acknowledgements");
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
    }

    fn receive(&self, batch: &mut Batch) {
        match self.socket.receive(batch) {
            Ok(_) => batch.for_each_mut(|_, datagram| {
                let now = clock::now();
                self.acknowledged(now, InputPath::Udp, |state| {
                    let payload = carrier::open(&mut state.opener, datagram).ok()?;
                    self.heard.store(now.as_nanos(), Ordering::Relaxed);
                    state.sender.handle_ack(now, payload).ok()
                });
            }),
            // An ICMP error: the server is gone, which the control channel tells too.
            Err(error) => tracing::trace!(%error, "receiving acknowledgements"),
        }
    }

    fn acknowledged(
        &self,
        now: MonoTime,
        path: InputPath,
        read: impl FnOnce(&mut State) -> Option<AckSummary>,
    ) {
        let mut state = self.lock();
        let Some(summary) = read(&mut state) else {
            tracing::debug!("acknowledgement dropped");
            return;
        };
        state.path.answered(path);
        self.transmit(&mut state, now);
        drop(state);
        if summary.newest.is_some() {
            lock(&self.stats).acknowledged(&summary, now);
        }
    }

    /// Sends what is due; says when to come back.
    fn tick(&self, now: MonoTime) -> MonoTime {
        let mut state = self.lock();
        let state = &mut *state;
        if state.path.poll_timeout().is_some_and(|due| now >= due) {
            state.sender.send_now();
        }
        self.transmit(state, now);
        let due = state.sender.poll_timeout();
        let due = state.path.poll_timeout().map_or(due, |path| path.min(due));
        state.armed = due.min(now + IDLE);
        state.armed
    }

    fn with(&self, now: MonoTime, act: impl FnOnce(&mut InputSender)) {
        let mut state = self.lock();
        act(&mut state.sender);
        self.transmit(&mut state, now);
        if state.sender.unconfirmed() > 0 && state.sender.poll_timeout() < state.armed {
            state.armed = MonoTime::ZERO;
            self.waker.wake();
        }
    }

    fn transmit(&self, state: &mut State, now: MonoTime) {
        while state.sender.poll_transmit(now, &mut state.payload) {
            let ways = state.path.ways(now);
            // What gets lost on either way is repeated by the sender's timer.
            if ways.websocket && self.control.try_send(state.payload.clone()).is_err() {
                tracing::trace!("the control channel takes no input now");
            }
            if !ways.udp {
                continue;
            }
            let sent = match state.sealer.seal(now, &state.payload) {
                Ok(packet) => self.socket.send(self.to, packet),
                Err(error) => {
                    tracing::error!(%error, "sealing input");
                    return;
                }
            };
            if let Err(error) = sent {
                tracing::trace!(%error, "sending input");
            }
        }
        if let Some(path) = state.path.take_change() {
            self.tell(path, state.path.fallbacks());
        }
    }

    fn tell(&self, path: InputPath, fallbacks: u32) {
        lock(&self.stats).set_input_path(path);
        let text = match path {
            InputPath::Udp => {
                tracing::info!("UDP gets through again");
                self.lang.pick(
                    "UDP gets through again: keyboard and mouse are at full speed.",
                    "UDPが再び届くようになりました。キーボードとマウスは通常の速度に戻ります。",
                )
            }
            InputPath::WebSocket => {
                let server = self.to;
                tracing::warn!(%server, fallbacks, "UDP does not get through: input takes the control channel");
                self.lang.pick(
                    "UDP does not get through (is a firewall in the way?): keyboard and mouse use the slower control channel, pictures may stop.",
                    "UDPが届きません（ファイアウォールをご確認ください）。キーボードとマウスは低速な制御チャネルを使います。映像は止まることがあります。",
                )
            }
        };
        console::err(format!("soft-kvm-client: {text}"));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves whole reports behind: go on.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use soft_kvm_platform::os::net::UdpOptions;
    use soft_kvm_protocol::input::{InputEvent, InputHandler, InputReceiver, KeyCode};
    use soft_kvm_protocol::media::{Sealer, SrtpKeys, Ssrc};

    use super::*;

    struct Count(u32);

    impl InputHandler for Count {
        fn accepts(&mut self, _: DeviceId) -> bool {
            true
        }

        fn reconcile(&mut self, _: &soft_kvm_protocol::input::HeldKeys) {}

        fn report(&mut self, _: EventReport<'_>) {
            self.0 += 1;
        }
    }

    /// The server's end, on the same thread.
    struct Far {
        socket: UdpSocket,
        opener: Opener,
        sealer: InputSealer,
        receiver: InputReceiver,
        count: Count,
        batch: Batch,
        payload: Vec<u8>,
    }

    impl Far {
        fn answer(&mut self) {
            let wait = self.socket.wait(Duration::from_secs(5), false, None);
            assert!(wait.expect("a socket").readable, "no datagram came");
            self.socket.receive(&mut self.batch).expect("a datagram");
            let now = clock::now();
            let Self {
                socket,
                opener,
                sealer,
                receiver,
                count,
                batch,
                payload,
            } = self;
            batch.for_each_mut(|from, data| {
                let plain = carrier::open(opener, data).expect("authentic");
                let handled = receiver.handle_datagram(now, plain, count);
                handled.expect("ours");
                while receiver.poll_transmit(now, payload) {
                    let packet = sealer.seal(now, payload).expect("fits");
                    socket.send(from, packet).expect("room to send");
                }
            });
        }
    }

    #[test]
    fn no_event_allocates_on_its_way_out_nor_its_answer() {
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let socket = || UdpSocket::bind(local, &UdpOptions::default()).expect("loopback");
        let keys = SrtpKeys::from_exporter(&[7; 56]);
        let (here, there) = (Ssrc(3), Ssrc(5));
        let mut far = Far {
            socket: socket(),
            opener: Opener::new(keys.client(), here),
            sealer: InputSealer::new(Sealer::new(keys.server(), there)),
            receiver: InputReceiver::new(),
            count: Count(0),
            batch: Batch::new(2_048),
            payload: Vec::with_capacity(2_048),
        };
        let (control, detour) = async_channel::bounded(4);
        let ends = Ends {
            socket: socket(),
            to: far.socket.local_address().expect("an address"),
            sealer: InputSealer::new(Sealer::new(keys.client(), here)),
            opener: Opener::new(keys.server(), there),
            control,
        };
        let stats = Arc::new(Mutex::new(Stats::new()));
        let link = InputLink::new(ends, stats, Lang::English).expect("descriptors");
        let mut batch = Batch::new(DATAGRAM_MAX);
        let mut event = |number: u32| {
            let now = clock::now();
            let events = [InputEvent::key(KeyCode::A, number.is_multiple_of(2))];
            let report = EventReport {
                device: DeviceId(1),
                time: now,
                unfinished: false,
                events: &events,
            };
            let counted = allocation_counter::measure(|| link.push(now, report));
            far.answer();
            let wait = link.socket.wait(Duration::from_secs(5), false, None);
            assert!(wait.expect("a socket").readable, "no answer came");
            let answered = allocation_counter::measure(|| {
                link.receive(&mut batch);
                link.tick(clock::now());
            });
            counted.count_total + answered.count_total
        };
        (0..500).for_each(|number| {
            event(number);
        });
        let allocations: u64 = (500..2_500).map(&mut event).sum();
        assert_eq!(allocations, 0);
        assert!(far.count.0 >= 2_500);
        assert!(detour.is_empty(), "UDP answered: nothing takes the detour");
    }
}
