//! The `media-rx` thread: every datagram of every client. Keys go to the kernel from here, without another hand-over.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use soft_kvm_core::MonoTime;
use soft_kvm_input::sink::SinkError;
use soft_kvm_platform::os::clock;
use soft_kvm_platform::os::lockdown::{self, Class};
use soft_kvm_platform::os::net::{Batch, Ready, UdpSocket};
use soft_kvm_platform::os::thread::{Urgency, prioritise};
use soft_kvm_platform::os::uinput::Bell;
use soft_kvm_platform::os::waker::Waker;
use soft_kvm_protocol::control::FromServer;
use soft_kvm_protocol::input::carrier;
use soft_kvm_protocol::media::{DatagramKind, classify};

use super::{AnswerTo, Outgoing, Session, Sessions, lock, try_lock};

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
    /// Starts the thread; the sessions' virtual devices ring the bell.
    ///
    /// # Errors
    /// The operating system's, when it gives no more threads or descriptors.
    pub fn start(
        sessions: Arc<Sessions>,
        socket: Arc<UdpSocket>,
        bell: Option<Bell>,
    ) -> std::io::Result<Self> {
        let (stop, waker) = (Arc::new(AtomicBool::new(false)), Waker::new()?);
        let (stopped, woken) = (Arc::clone(&stop), waker.clone());
        let thread = std::thread::Builder::new()
            .name("media-rx".into())
            .spawn(move || {
                prioritise(Urgency::Input);
                lockdown::narrow(Class::Network);
                let mut batch = Batch::new(DATAGRAM_MAX);
                let (mut timeout, mut looked) = (TICK, MonoTime::ZERO);
                while !stopped.load(Ordering::Acquire) {
                    let beside = bell.as_ref().map(AsFd::as_fd);
                    let ready = socket
                        .wait_beside(timeout, false, Some(&woken), beside)
                        .unwrap_or_else(|error| {
                            tracing::error!(%error, "waiting for datagrams");
                            std::thread::sleep(TICK);
                            Ready::default()
                        });
                    if ready.readable {
                        match socket.receive(&mut batch) {
                            Ok(_) => batch.for_each_mut(|from, data| {
                                datagram(&sessions, &socket, from, data);
                            }),
                            // An ICMP error for something sent before; the next call reads on.
                            Err(error) => tracing::trace!(%error, "receiving"),
                        }
                    }
                    let now = clock::now();
                    let rang = ready.beside && bell.as_ref().is_some_and(Bell::clear);
                    let ask = rang || now.since(looked) >= TICK;
                    if ask {
                        looked = now;
                    }
                    timeout = look_after(&sessions, &socket, ask);
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
                |session| input(session, socket, from, data),
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

fn input(session: &Session, socket: &UdpSocket, from: SocketAddr, data: &mut [u8]) {
    let arrived = clock::now();
    // A device is being made, which takes the kernel a moment: this datagram is dropped, the client repeats it.
    let Some(mut guard) = try_lock(&session.input) else {
        return;
    };
    let input = &mut *guard;
    let outcome = match carrier::open(&mut input.opener, data) {
        Ok(payload) => {
            session.heard.store(arrived.as_nanos(), Ordering::Relaxed);
            input.answer_to = AnswerTo::Udp(from);
            input.target.handle_datagram(arrived, payload)
        }
        Err(error) => {
            tracing::trace!(client = session.name, %error, "input datagram dropped");
            return;
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(client = session.name, %error, "input datagram dropped");
        return;
    }
    let applied = clock::now();
    session.observe_input(input, Some(arrived), applied);
    acknowledge(session, input, socket, applied);
}

/// Answers the way that the newest input came.
fn acknowledge(session: &Session, input: &mut super::Input, socket: &UdpSocket, now: MonoTime) {
    while input.target.poll_transmit(now, &mut input.payload) {
        let to = match input.answer_to {
            AnswerTo::Nobody => continue,
            AnswerTo::ControlChannel => {
                session.tell(Outgoing::Record(input.payload.clone()));
                continue;
            }
            AnswerTo::Udp(to) => to,
        };
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
        if matches!(error, SinkError::InUse { .. } | SinkError::Kept { .. }) {
            session.tell(Outgoing::Message(FromServer::Error {
                code: "in-use".to_owned(),
                message: error.to_string(),
            }));
        }
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

/// Leases and answers that are due, and when `ask` says so LEDs, auto-repeat and force feedback; says when to come back.
fn look_after(sessions: &Sessions, socket: &UdpSocket, ask: bool) -> Duration {
    let mut timeout = IDLE;
    sessions.each(|session| {
        timeout = timeout.min(TICK);
        let Some(mut guard) = try_lock(&session.input) else {
            return;
        };
        let input = &mut *guard;
        let now = clock::now();
        input.target.handle_timeout(now);
        // What had waited for its readers.
        session.observe_input(input, None, now);
        if ask {
            input
                .target
                .poll_feedback(|record| session.tell_record(&record));
            let room = session.room();
            input
                .target
                .poll_force(now, room, |record| session.tell_record(&record));
        }
        acknowledge(session, input, socket, now);
        if let Some(due) = input.target.poll_timeout() {
            timeout = timeout.min(due.since(now));
        }
    });
    timeout
}

#[cfg(test)]
mod tests {
    use soft_kvm_core::MonoTime;
    use soft_kvm_monitoring::Metrics;
    use soft_kvm_platform::os::net::UdpOptions;
    use soft_kvm_protocol::control::Ssrcs;
    use soft_kvm_protocol::handover::{ControlAnswer, ControlRequest};
    use soft_kvm_protocol::input::carrier::InputSealer;
    use soft_kvm_protocol::input::{
        DeviceDescriptor, DeviceId, EventReport, InputEvent, InputSender, KeyCode, Record,
    };
    use soft_kvm_protocol::media::{Opener, Sealer, SenderConfig, SrtpKeys, Ssrc};
    use soft_kvm_protocol::pairing::PeerName;
    use soft_kvm_protocol::roles::Role;
    use soft_kvm_security::Fingerprint;

    use super::super::{Devices, Gate, SessionConfig, SinkChoice};
    use super::*;

    /// One session on the test card's echo, and what its client needs to send.
    struct Scene {
        session: Session,
        _outgoing: async_channel::Receiver<Outgoing>,
        echo: Arc<std::sync::Mutex<soft_kvm_input::echo::EchoState>>,
        sinks: SinkChoice,
        keys: SrtpKeys,
        ssrc: Ssrcs,
    }

    impl Scene {
        fn new(role: Role) -> Self {
            let sinks = SinkChoice {
                devices: Devices::None,
                echo: Arc::default(),
                echo_shown: Arc::new(AtomicBool::new(true)),
                turns: Arc::default(),
                bell: None,
            };
            Self::on(sinks, role, 1)
        }

        fn on(sinks: SinkChoice, role: Role, key: u8) -> Self {
            let keys = SrtpKeys::from_exporter(&[7; 56]);
            let ssrc = Ssrcs {
                video: 4,
                feedback: 5,
                receiver: 6,
                input: 7,
                cursor: 8,
            };
            let gate = Arc::new(Gate::new(role));
            let peer = Fingerprint::from_bytes([key; 32]);
            let config = SessionConfig {
                peer,
                name: "seat".to_owned(),
                gate: Arc::clone(&gate),
                ssrc,
                sender: SenderConfig::default(),
                accepted: clock::now(),
            };
            let metrics = Metrics::new("test").expect("metrics");
            let sink = sinks.open(peer, &PeerName::new("seat").expect("a name"), gate);
            let (session, outgoing) = Session::new(config, &keys, sink, &metrics);
            let mut record = Vec::new();
            Record::DeviceAdd(Box::new(DeviceDescriptor {
                id: DeviceId(1),
                name: "keyboard".to_owned(),
                keys: (1..120).map(KeyCode).collect(),
                ..DeviceDescriptor::default()
            }))
            .encode(&mut record);
            session.handle_input_message(&record).expect("a record");
            Self {
                session,
                _outgoing: outgoing,
                echo: Arc::clone(&sinks.echo),
                sinks,
                keys,
                ssrc,
            }
        }

        fn shown(&self) -> (u32, usize) {
            let mut shown = soft_kvm_protocol::input::echo::EchoSnapshot::default();
            lock(&self.echo).snapshot_into(&mut shown);
            (shown.reports, shown.keys_held.len())
        }
    }

    /// Key A goes down: the datagram's payload.
    fn key_down(sender: &mut InputSender) -> Vec<u8> {
        key_a(sender, true)
    }

    fn key_a(sender: &mut InputSender, down: bool) -> Vec<u8> {
        let now = clock::now();
        let events = [InputEvent::key(KeyCode::A, down)];
        sender.push(
            now,
            EventReport {
                device: DeviceId(1),
                time: now,
                unfinished: false,
                events: &events,
            },
        );
        let mut payload = Vec::new();
        assert!(sender.poll_transmit(now, &mut payload));
        payload
    }

    #[test]
    fn a_viewer_injects_nothing_on_any_carrier() {
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let socket = UdpSocket::bind(local, &UdpOptions::default()).expect("loopback");
        for (role, expected) in [(Role::View, (0, 0)), (Role::Control, (1, 1))] {
            let by_channel = Scene::new(role);
            let payload = key_down(&mut InputSender::new());
            by_channel
                .session
                .handle_input_message(&payload)
                .expect("a datagram");
            assert_eq!(
                by_channel.shown(),
                expected,
                "{role} on the control channel"
            );
            let by_udp = Scene::new(role);
            let sealer = Sealer::new(by_udp.keys.client(), Ssrc(by_udp.ssrc.input));
            let mut sealer = InputSealer::new(sealer);
            let payload = key_down(&mut InputSender::new());
            let mut packet = sealer.seal(clock::now(), &payload).expect("fits").to_vec();
            input(&by_udp.session, &socket, local, &mut packet);
            assert_eq!(by_udp.shown(), expected, "{role} by UDP");
        }
    }

    #[test]
    fn a_key_is_up_before_another_client_is_heard() {
        let boss = Scene::new(Role::Admin);
        let desk = Scene::on(boss.sinks.clone(), Role::Control, 2);
        let (mut by_boss, mut by_desk) = (InputSender::new(), InputSender::new());
        let says = |scene: &Scene, payload: &[u8]| {
            let heard = scene.session.handle_input_message(payload);
            heard.expect("a datagram");
            scene.shown().1
        };
        // In between nobody is heard, but a key that goes up by itself goes up.
        for lets_go in [false, true] {
            assert_eq!(says(&desk, &key_a(&mut by_desk, true)), 1);
            let (number, turns) = &boss.session.seat;
            let mut lifted = false;
            let answer = turns.request(*number, &ControlRequest::Take {}, |old| {
                assert_eq!(old, desk.session.peer);
                assert_eq!(says(&boss, &key_a(&mut by_boss, true)), 1);
                if lets_go {
                    assert_eq!(says(&desk, &key_a(&mut by_desk, false)), 0);
                }
                desk.session.lift_unheard();
                assert_eq!(desk.shown().1, 0);
                assert_eq!(says(&boss, &key_a(&mut by_boss, false)), 0);
                lifted = true;
            });
            assert!(answer == ControlAnswer::Given && lifted);
            // What is still held, and what is said in every datagram, does not come back.
            assert_eq!(says(&desk, &key_a(&mut by_desk, !lets_go)), 0);
            assert_eq!(says(&boss, &key_a(&mut by_boss, true)), 1);
            assert_eq!(says(&desk, &key_a(&mut by_desk, false)), 1);
            assert_eq!(says(&boss, &key_a(&mut by_boss, false)), 0);
            let (number, _) = &boss.session.seat;
            let release = turns.request(*number, &ControlRequest::Release {}, |_| {
                boss.session.lift_unheard();
            });
            assert_eq!(release, ControlAnswer::Done);
        }
    }

    #[test]
    fn a_cut_session_holds_no_key_and_presses_none() {
        let scene = Scene::new(Role::Control);
        let mut sender = InputSender::new();
        let press = |sender: &mut InputSender| {
            let payload = key_down(sender);
            scene
                .session
                .handle_input_message(&payload)
                .expect("a datagram");
        };
        press(&mut sender);
        assert_eq!(scene.shown().1, 1);
        scene.session.close();
        let (reports, held) = scene.shown();
        assert_eq!(held, 0);
        press(&mut sender);
        press(&mut InputSender::new());
        assert_eq!(scene.shown(), (reports, 0));
    }

    #[test]
    fn no_event_allocates_from_its_datagram_to_its_answer() {
        let Scene {
            session,
            keys,
            ssrc,
            ..
        } = &Scene::new(Role::Control);

        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let socket = UdpSocket::bind(local, &UdpOptions::default()).expect("loopback");
        let client = UdpSocket::bind(local, &UdpOptions::default()).expect("loopback");
        let from = client.local_address().expect("an address");
        let mut sender = InputSender::new();
        let mut sealer = InputSealer::new(Sealer::new(keys.client(), Ssrc(ssrc.input)));
        let mut opener = Opener::new(keys.server(), Ssrc(ssrc.feedback));
        let (mut payload, mut batch) = (Vec::new(), Batch::new(DATAGRAM_MAX));
        let mut event = |number: u32| {
            let now: MonoTime = clock::now();
            let events = [InputEvent::key(KeyCode::A, number.is_multiple_of(2))];
            let report = EventReport {
                device: DeviceId(1),
                time: now,
                unfinished: false,
                events: &events,
            };
            sender.push(now, report);
            let mut allocations = 0;
            while sender.poll_transmit(now, &mut payload) {
                let mut packet = sealer.seal(now, &payload).expect("fits").to_vec();
                let counted =
                    allocation_counter::measure(|| input(session, &socket, from, &mut packet));
                allocations += counted.count_total;
            }
            let wait = client.wait(Duration::from_secs(5), false, None);
            assert!(wait.expect("a socket").readable, "no answer came");
            client.receive(&mut batch).expect("an answer");
            batch.for_each_mut(|_, data| {
                let plain = carrier::open(&mut opener, data).expect("authentic");
                sender.handle_ack(now, plain).expect("an answer");
            });
            allocations
        };
        (0..500).for_each(|number| {
            event(number);
        });
        let allocations: u64 = (500..2_500).map(&mut event).sum();
        assert_eq!(allocations, 0);
        assert!(lock(&session.input).target.report_count() >= 2_500);
    }
}
