//! One connected client: its media streams and its input, whichever thread touches them.

mod cursor;
mod gate;
mod rx;
mod sink;
mod turns;
mod tx;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};
use std::time::Duration;

use async_channel::{Sender, TrySendError};
use soft_kvm_core::time::ClockOffset;
use soft_kvm_core::{FrameRate, MonoTime};
use soft_kvm_input::session::TargetSession;
use soft_kvm_monitoring::{ConnectStage, InputStage, Latency, Metrics, VideoStage};
use soft_kvm_platform::os::clock;
use soft_kvm_protocol::control::{FromServer, MAX_AGES, Ssrcs, VideoInfo};
use soft_kvm_protocol::handover::{ControlAnswer, ControlRequest};
use soft_kvm_protocol::input::Record;
use soft_kvm_protocol::input::carrier::InputSealer;
use soft_kvm_protocol::media::{
    AccessUnit, Opener, Pushed, Sealer, SenderConfig, SenderStats, SrtpKeys, Ssrc, VideoSender,
};
use soft_kvm_security::Fingerprint;
use soft_kvm_security::handover::SessionId;
use soft_kvm_video::cursor::Cursor;

use crate::pipeline::{Shared, Viewers};
use cursor::{CurrentCursor, SessionCursor};

pub use gate::Gate;
pub use rx::MediaReceiver;
pub use sink::{Devices, SinkChoice, TargetSink};
pub use turns::Turns;
pub use tx::MediaTransmitter;

/// Messages that wait for a client's control channel; a client that reads none of so many is dropped.
const OUTGOING: usize = 64;

/// What goes out on a client's control channel.
#[derive(Debug)]
pub enum Outgoing {
    /// A control message.
    Message(FromServer),
    /// An input record.
    Record(Vec<u8>),
}

/// What a session is made of.
#[derive(Debug)]
pub struct SessionConfig {
    /// The client's key.
    pub peer: Fingerprint,
    /// The client's name for people.
    pub name: String,
    /// What the client may do; its sink asks the same gate.
    pub gate: Arc<Gate>,
    /// Stream identifiers.
    pub ssrc: Ssrcs,
    /// RTP parameters.
    pub sender: SenderConfig,
    /// When the client's connection was accepted.
    pub accepted: MonoTime,
}

/// One connected client.
#[derive(Debug)]
pub struct Session {
    /// The client's key.
    pub peer: Fingerprint,
    /// The client's name for people.
    pub name: String,
    /// What the client may do.
    pub gate: Arc<Gate>,
    ssrc: Ssrcs,
    video: Mutex<Video>,
    input: Mutex<Input>,
    cursor: Mutex<SessionCursor>,
    remote: Mutex<Option<SocketAddr>>,
    clock: Mutex<Option<ClockOffset>>,
    watching: AtomicBool,
    /// When the client's last authentic datagram came, in monotonic nanoseconds.
    heard: AtomicU64,
    outgoing: Sender<Outgoing>,
    /// This session's number among those that may have keyboard and mouse.
    seat: (SessionId, Arc<Turns>),
    figures: Figures,
}

/// Where this session's latencies are recorded.
#[derive(Debug)]
struct Figures {
    convert: Latency,
    encode: Latency,
    send: Latency,
    capture_to_decoded: Latency,
    inject: Latency,
    event_to_injected: Latency,
    connected: Latency,
}

#[derive(Debug)]
struct Video {
    sender: VideoSender,
    /// Nothing but an IDR is of use to the client's decoder.
    needs_idr: bool,
    /// When the connection was accepted, until the first picture was sent.
    accepted: Option<MonoTime>,
}

#[derive(Debug)]
struct Input {
    opener: Opener,
    sealer: InputSealer,
    target: TargetSession<TargetSink>,
    payload: Vec<u8>,
    answer_to: AnswerTo,
}

/// Which way the newest input came: acknowledgements go back the same.
#[derive(Clone, Copy, Debug)]
enum AnswerTo {
    Nobody,
    ControlChannel,
    Udp(SocketAddr),
}

impl Session {
    /// A session with its control channel's receiving end.
    #[must_use]
    pub fn new(
        config: SessionConfig,
        keys: &SrtpKeys,
        mut sink: TargetSink,
        metrics: &Metrics,
    ) -> (Self, async_channel::Receiver<Outgoing>) {
        let (outgoing, receiver) = async_channel::bounded(OUTGOING);
        sink.turn().attach(outgoing.clone());
        let (number, turns) = sink.turn().ends();
        let seat = (number, Arc::clone(turns));
        let SessionConfig {
            peer,
            name,
            gate,
            ssrc,
            sender,
            accepted,
        } = config;
        let video = |stage| metrics.video_latency(stage, "video", &name);
        let input = |stage| metrics.input_latency(stage, "input", &name);
        let figures = Figures {
            convert: video(VideoStage::Convert),
            encode: video(VideoStage::Encode),
            send: video(VideoStage::Send),
            capture_to_decoded: video(VideoStage::CaptureToDecoded),
            inject: input(InputStage::Inject),
            event_to_injected: input(InputStage::EventToInjected),
            connected: metrics.connection_time(ConnectStage::Total),
        };
        let session = Self {
            figures,
            peer,
            name,
            gate,
            ssrc,
            video: Mutex::new(Video {
                sender: VideoSender::new(
                    sender,
                    Sealer::new(keys.server(), Ssrc(ssrc.video)),
                    Opener::new(keys.client(), Ssrc(ssrc.receiver)),
                ),
                needs_idr: true,
                accepted: Some(accepted),
            }),
            input: Mutex::new(Input {
                opener: Opener::new(keys.client(), Ssrc(ssrc.input)),
                sealer: InputSealer::new(Sealer::new(keys.server(), Ssrc(ssrc.feedback))),
                target: TargetSession::new(sink),
                payload: Vec::new(),
                answer_to: AnswerTo::Nobody,
            }),
            cursor: Mutex::new(SessionCursor::new(Sealer::new(
                keys.server(),
                Ssrc(ssrc.cursor),
            ))),
            remote: Mutex::new(None),
            clock: Mutex::new(None),
            watching: AtomicBool::new(false),
            heard: AtomicU64::new(0),
            outgoing,
            seat,
        };
        (session, receiver)
    }

    /// Queues something for the control channel; a client that does not read is cut off.
    pub fn tell(&self, message: Outgoing) {
        if let Err(TrySendError::Full(_)) = self.outgoing.try_send(message) {
            tracing::warn!(
                client = self.name,
                "the client does not read its control channel: session ends"
            );
            self.outgoing.close();
        }
    }

    /// Its number, which no other session gets.
    #[must_use]
    pub fn number(&self) -> SessionId {
        self.seat.0
    }

    /// Whether its client has keyboard and mouse now.
    #[must_use]
    pub fn has_turn(&self) -> bool {
        let (number, turns) = &self.seat;
        turns.has(*number)
    }

    fn tell_record(&self, record: &Record) {
        let mut message = Vec::new();
        record.encode(&mut message);
        self.tell(Outgoing::Record(message));
    }

    /// How many messages may be queued for the control channel by what can wait: half of it stays for the rest.
    fn room(&self) -> usize {
        (OUTGOING / 2).saturating_sub(self.outgoing.len())
    }

    /// How the client's clock relates to ours, as the client measured it.
    pub fn set_clock(&self, clock: ClockOffset) {
        *lock(&self.clock) = Some(clock);
    }

    /// Takes an input record or, where UDP does not get through, an input datagram from the control channel.
    ///
    /// # Errors
    /// Bytes that are not as `docs/WIRE.md` says.
    pub fn handle_input_message(&self, message: &[u8]) -> anyhow::Result<()> {
        use soft_kvm_protocol::input::{MessageKind, message_kind};

        let mut input = lock(&self.input);
        let input = &mut *input;
        let now = clock::now();
        match message_kind(message)? {
            MessageKind::Record => {
                if let Some(answer) = input.target.handle_record(now, message)? {
                    self.tell(Outgoing::Message(answer));
                }
            }
            MessageKind::Input => {
                input.target.handle_datagram(now, message)?;
                input.answer_to = AnswerTo::ControlChannel;
                self.observe_input(input, Some(now), clock::now());
                while input.target.poll_transmit(clock::now(), &mut input.payload) {
                    self.tell(Outgoing::Record(input.payload.clone()));
                }
            }
            _ => anyhow::bail!("a message came from the wrong side"),
        }
        Ok(())
    }

    /// Records how long newly written reports took; those that waited for their readers have no arrival.
    fn observe_input(&self, input: &mut Input, arrived: Option<MonoTime>, applied: MonoTime) {
        let Some(stamp) = input.target.take_last_report() else {
            return;
        };
        if let Some(pressed) = on_our_clock(self, stamp) {
            self.figures
                .event_to_injected
                .observe(applied.since(pressed));
        }
        if let Some(arrived) = arrived {
            self.figures.inject.observe(applied.since(arrived));
        }
    }

    /// Records how old frames were when the client had decoded them, in microseconds.
    pub fn record_ages(&self, micros: &[u32]) {
        for age in micros.iter().take(MAX_AGES) {
            self.figures
                .capture_to_decoded
                .observe(Duration::from_micros(u64::from(*age)));
        }
    }

    /// Counters of the video stream.
    #[must_use]
    pub fn video_stats(&self) -> SenderStats {
        lock(&self.video).sender.stats()
    }

    /// When the client's last authentic datagram came.
    #[must_use]
    pub fn heard(&self) -> MonoTime {
        MonoTime::from_nanos(self.heard.load(Ordering::Relaxed))
    }

    /// Whether the client wants pictures.
    #[must_use]
    pub fn is_watching(&self) -> bool {
        self.watching.load(Ordering::Acquire)
    }

    /// Asks the session's task to end it: the client is told, and may come back.
    pub fn end(&self) {
        self.outgoing.close();
    }

    /// Whether this side has ended it: by [`end`](Self::end), by a cut, or because the client did not read.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.outgoing.is_closed()
    }

    /// Lifts what this session has down on the target, because another client is heard next.
    fn lift_unheard(&self) {
        let mut input = lock(&self.input);
        // Of what still waits only releases pass: nobody is heard now.
        input.target.write_waiting(clock::now());
        input.target.sink_mut().set_lifting(true);
        input.target.lift_unheard();
        input.target.sink_mut().set_lifting(false);
    }

    /// Lifts all keys; for when the session ends.
    fn close(&self) {
        // Shut while input waits: nothing gets in between.
        let mut input = lock(&self.input);
        input.target.close(clock::now());
        self.gate.shut();
        input.target.sink_mut().turn().leave();
        drop(input);
        self.outgoing.close();
    }
}

/// All connected clients, and the pipeline's viewers.
#[derive(Debug)]
pub struct Sessions {
    list: RwLock<Vec<Arc<Session>>>,
    video: Mutex<Option<VideoInfo>>,
    cursor: Mutex<CurrentCursor>,
    pipeline: Arc<Shared>,
    transmit: Arc<tx::Wakeup>,
    /// What clients that have left had been sent.
    left: Mutex<SenderStats>,
}

impl Sessions {
    /// No clients yet.
    #[must_use]
    pub fn new(pipeline: Arc<Shared>) -> Self {
        Self {
            list: RwLock::default(),
            video: Mutex::new(None),
            cursor: Mutex::default(),
            pipeline,
            transmit: Arc::default(),
            left: Mutex::default(),
        }
    }

    /// Adds a client, if there are fewer than `max`, and not half of them with this client's key: one client does not keep
    /// the others out.
    #[must_use]
    pub fn add(&self, session: &Arc<Session>, max: usize) -> bool {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let own = list.iter().filter(|other| other.peer == session.peer);
        if list.len() >= max || own.count() >= max.div_ceil(2) {
            return false;
        }
        list.push(Arc::clone(session));
        true
    }

    /// Removes a client: its keys go up, its devices vanish.
    pub fn remove(&self, session: &Arc<Session>) {
        self.watch(session, false);
        session.close();
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let before = list.len();
        list.retain(|other| !Arc::ptr_eq(other, session));
        if list.len() < before {
            *lock(&self.left) += session.video_stats();
        }
    }

    /// Answers what a session wants with keyboard and mouse; when they go to another, all keys of who had them are up before it
    /// returns.
    pub fn control(&self, session: &Session, request: &ControlRequest) -> ControlAnswer {
        let (number, turns) = &session.seat;
        turns.request(*number, request, |old| {
            let all = self.all();
            let of = all.iter().filter(|other| other.peer == old);
            of.for_each(|other| other.lift_unheard());
        })
    }

    /// Ends those sessions to which `why` gives a reason, code and words, before it returns: no key of theirs and no picture
    /// for them passes from then on, whether or not the client reads.
    pub fn cut(&self, why: impl Fn(&Session) -> Option<(&'static str, String)>) {
        for session in self.all() {
            let Some((code, message)) = why(&session) else {
                continue;
            };
            tracing::info!(
                client = session.name,
                key = session.peer.short(),
                "session cut: {message}"
            );
            session.tell(Outgoing::Message(FromServer::Error {
                code: code.to_owned(),
                message,
            }));
            self.remove(&session);
        }
    }

    /// Starts or stops sending pictures to a client.
    pub fn watch(&self, session: &Session, watch: bool) {
        if session.watching.swap(watch, Ordering::AcqRel) == watch {
            return;
        }
        lock(&session.video).needs_idr = true;
        if watch && let Some(info) = lock(&self.video).clone() {
            session.tell(Outgoing::Message(FromServer::Video(info)));
        }
        if watch {
            session.show_cursor(&lock(&self.cursor));
            self.transmit.wake();
        } else {
            session.forget_cursor();
        }
        self.pipeline.watch(watch);
    }

    /// The clients at this moment.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Session>> {
        self.list
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Counters of all video streams, of the clients that have left too.
    #[must_use]
    pub fn video_totals(&self) -> SenderStats {
        let mut total = *lock(&self.left);
        self.each(|session| total += session.video_stats());
        total
    }

    fn each(&self, mut act: impl FnMut(&Arc<Session>)) {
        self.list
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .for_each(&mut act);
    }

    fn with(&self, find: impl Fn(&Ssrcs) -> bool, act: impl FnOnce(&Arc<Session>)) {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = list.iter().find(|session| find(&session.ssrc)) {
            act(session);
        }
    }
}

impl Viewers for Sessions {
    fn deliver(&self, unit: &AccessUnit<'_>) {
        let mut wants_idr = false;
        self.each(|session| {
            if !session.is_watching() {
                return;
            }
            let mut video = lock(&session.video);
            if video.needs_idr && !unit.info.idr {
                wants_idr = true;
                return;
            }
            match video.sender.push(clock::now(), unit) {
                Pushed::Queued(_) => {
                    video.needs_idr = false;
                    if let Some(accepted) = video.accepted.take() {
                        session
                            .figures
                            .connected
                            .observe(clock::now().since(accepted));
                    }
                    let info = &unit.info;
                    session
                        .figures
                        .convert
                        .observe(info.converted.since(info.captured));
                    session
                        .figures
                        .encode
                        .observe(info.encoded.since(info.converted));
                    session
                        .figures
                        .send
                        .observe(clock::now().since(info.encoded));
                }
                Pushed::Dropped => {
                    // The line does not keep up: the rest of this group of pictures is of no use.
                    video.needs_idr = true;
                    wants_idr = true;
                }
            }
        });
        self.transmit.wake();
        if wants_idr {
            self.pipeline.request_key_frame();
        }
    }

    fn announce(&self, info: VideoInfo) {
        self.each(|session| {
            if session.is_watching() {
                session.tell(Outgoing::Message(FromServer::Video(info.clone())));
            }
        });
        *lock(&self.video) = Some(info);
    }

    fn cursor(&self, cursor: &Cursor) {
        let mut current = lock(&self.cursor);
        if current.set(cursor) {
            self.each(|session| {
                if session.is_watching() {
                    session.show_cursor(&current);
                }
            });
            self.transmit.wake();
        }
    }
}

/// The RTP parameters of a session under a story.
#[must_use]
pub fn sender_config(
    rtp: &soft_kvm_core::story::RtpParams,
    rate: FrameRate,
    random: [u8; 6],
    ntp_minus_mono_ns: u64,
) -> SenderConfig {
    let [a, b, c, d, e, f] = random;
    SenderConfig {
        mtu: usize::from(rtp.mtu),
        pacing_rate: rtp.pacing,
        frame_interval: rate.interval(),
        first_sequence: u16::from_be_bytes([a, b]),
        timestamp_offset: u32::from_be_bytes([c, d, e, f]),
        ntp_minus_mono_ns,
        ..SenderConfig::default()
    }
}

/// The time on our clock at which the client's showed `theirs`, once the client has told how they relate.
fn on_our_clock(session: &Session, theirs: MonoTime) -> Option<MonoTime> {
    // The client measures "server minus client", seen from itself: our clock is its remote one.
    lock(&session.clock).map(|clock| clock.to_remote(theirs))
}

/// The lock, unless another thread has it.
fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

// Every critical section leaves its data consistent: a panic elsewhere is reported where it happened.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
