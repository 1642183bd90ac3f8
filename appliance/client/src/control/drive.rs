//! Connects, converses, reconnects.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::bail;
use async_io::Timer;
use async_tungstenite::tungstenite::Message;
use async_tungstenite::{WebSocketReceiver, WebSocketSender};
use futures_lite::{FutureExt, StreamExt};
use futures_rustls::client::TlsStream;
use futures_util::future::try_join_all;
use soft_kvm_core::MonoTime;
use soft_kvm_platform::os::clock;
use soft_kvm_protocol::control::{FromClient, FromServer};
use soft_kvm_protocol::handover::{ControlAnswer, ControlRequest};
use soft_kvm_protocol::input::{MessageKind, message_kind};
use soft_kvm_protocol::liveness::LastHeard;
use soft_kvm_protocol::media::ClockEstimator;
use soft_kvm_protocol::roles::Role;
use soft_kvm_security::tls;
use soft_kvm_service::console;

use super::Connection;
use crate::clipboard::Sharing;
use crate::desk::{Desk, ROUTED};
use crate::remote::Remote;
use crate::run::{Shared, type_by_itself};
use crate::session::link::InputLink;
use crate::session::media::Media;
use crate::session::outputs::lock;

type Tls = TlsStream<async_io::Async<std::net::TcpStream>>;

/// First and longest pause between two tries.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// Probes right after connecting, for a clock that is known before the first picture.
const FIRST_PROBES: u32 = 8;
/// Time between those.
const FIRST_PROBE_INTERVAL: Duration = Duration::from_millis(15);
/// Time between later ones; also the sign of life.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// A server that says nothing for so long, on no way, is gone.
const SILENCE: Duration = Duration::from_secs(4);
/// Input datagrams that wait for the control channel; what does not fit is repeated.
const DETOUR: usize = 16;
/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_millis(300);

/// Shortest time between two texts of the clipboard; the newest goes then.
const COPY_PAUSE: Duration = Duration::from_millis(500);

/// How often the executor shows that it runs.
const BEAT: Duration = Duration::from_millis(250);

/// Keeps all connections until the client stops, or with `--once` until one ends.
pub(crate) async fn run(shared: &Arc<Shared>) -> anyhow::Result<()> {
    let stopped = async {
        stopped(shared).await;
        // A session says goodbye first; one that cannot is left.
        Timer::after(GOODBYE).await;
        Ok(())
    };
    let beat = async {
        loop {
            let now = clock::now().as_nanos();
            shared.control_seen.store(now, Ordering::Release);
            Timer::after(BEAT).await;
        }
    };
    let all = shared.remotes.iter().map(|remote| sessions(shared, remote));
    let all = async { try_join_all(all).await.map(drop) };
    all.or(stopped).or(beat).await
}

/// Ends when the client stops.
async fn stopped(shared: &Shared) {
    // Nothing is ever sent: the channel is closed.
    let _ = shared.stop.1.recv().await;
}

async fn sessions(shared: &Arc<Shared>, remote: &Arc<Remote>) -> anyhow::Result<()> {
    let mut pause = RETRY.0;
    let mut told = String::new();
    loop {
        let started = clock::now();
        match connect(shared, remote).await {
            Ok(connection) => {
                pause = RETRY.0;
                told.clear();
                let outcome = session(shared, remote, connection, started).await;
                *lock(&remote.link) = None;
                *lock(&remote.records) = None;
                remote.force.lost();
                if shared.is_stopped() {
                    return Ok(());
                }
                let reason = match outcome {
                    Ok(()) => "the server ended the session".to_owned(),
                    Err(error) => format!("{error:#}"),
                };
                if shared.once {
                    bail!("connection lost: {reason}");
                }
                let server = &remote.target.text;
                tracing::warn!(server, "connection lost: {reason}");
                shared.status(remote, &format!("connection lost: {reason}\nreconnecting…"));
            }
            Err(error) => {
                if shared.once {
                    return Err(error);
                }
                let text = format!("{error:#}");
                shared.status(remote, &format!("{text}\ntrying again…"));
                if text != told {
                    console::err(format!("soft-kvm-client: {text}; trying again"));
                    told = text;
                }
            }
        }
        Timer::after(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

async fn connect(shared: &Arc<Shared>, remote: &Remote) -> anyhow::Result<Connection> {
    let (target, peers) = (remote.target.clone(), shared.peers.clone());
    let addresses = blocking(move || target.resolve(&peers)).await?;
    super::open_first(&shared.identity, &remote.target, addresses, &shared.name).await
}

/// mDNS and the resolver block: their own thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let (done, result) = async_channel::bounded(1);
    std::thread::Builder::new()
        .name("resolve".into())
        .spawn(move || {
            // Nobody waits any more when the client stops.
            let _ = done.try_send(work());
        })?;
    result.recv().await?
}

enum Step {
    Incoming(Option<Result<Message, async_tungstenite::tungstenite::Error>>),
    Record(Vec<u8>),
    Probe,
    Turned,
    Wish(ControlRequest),
    Copied,
}

async fn session(
    shared: &Arc<Shared>,
    remote: &Arc<Remote>,
    connection: Connection,
    started: MonoTime,
) -> anyhow::Result<()> {
    let Connection {
        socket,
        welcome,
        keys,
        address,
    } = connection;
    tracing::info!(server = welcome.name, %address, sink = welcome.sink, role = welcome.role.map_or("", Role::as_str), story = welcome.story, "connected");
    shared.reached.store(true, Ordering::Release);
    remember(shared, &socket, address);
    if let Some((_, probe)) = &shared.probe {
        lock(probe).reset();
    }
    lock(&remote.stats).connecting(started);
    let outputs = Arc::clone(&shared.outputs);
    remote.cursor.reset();
    let (detour, detoured) = async_channel::bounded(DETOUR);
    let media = Media::start(
        address,
        &welcome,
        &keys,
        (outputs, Arc::clone(remote)),
        detour,
        shared.decoder.clone(),
        shared.lang,
    )?;
    let (mut sender, mut receiver) = socket.split();
    let (records, queued) = async_channel::bounded(128);
    send(&mut sender, &FromClient::Ping { t0: clock::now() }).await?;
    let _ = remote.turned.1.try_recv();
    while remote.wishes.1.try_recv().is_ok() {}
    *lock(&remote.desk) = Desk::new(welcome.routed);
    remote.lamps.forget();
    remote.set_passes_force(welcome.force);
    if welcome.routed {
        let text = shared.lang.pick(ROUTED.0, ROUTED.1);
        console::err(format!("soft-kvm-client: {}: {text}", welcome.name));
    }
    if remote.is_shown() {
        watch(shared, remote, &mut sender, &welcome.name).await?;
    }
    // Servers before roles let everyone control.
    let controls = welcome.role.is_none_or(|role| role >= Role::Control);
    if !controls && shared.controls() {
        console::err(shared.lang.pick(
            "soft-kvm-client: the server lets this client only watch: keyboard and mouse stay here",
            "soft-kvm-client: このクライアントはサーバーで閲覧のみ許可されています。キーボードとマウスは送られません",
        ));
    }
    let devices = if controls {
        // Together: a device that comes later finds the channel, and waits there for its turn.
        let devices = lock(&shared.devices);
        *lock(&remote.records) = Some(records.clone());
        devices.clone()
    } else {
        Vec::new()
    };
    for device in devices {
        let message = remote.announcement(&device);
        sender.send(Message::binary(message)).await?;
    }
    if controls {
        *lock(&remote.link) = Some(Arc::clone(media.link()));
    }
    let offered = welcome.clipboard.filter(|_| controls);
    let sharing = shared.clipboard.as_ref().zip(offered);
    let sharing = sharing.map(|(seat, rule)| Sharing::new(seat, remote, rule));
    if let Some(sharing) = sharing.as_ref().filter(|_| remote.is_shown()) {
        send(&mut sender, &FromClient::Clipboard(sharing.turned())).await?;
    }
    shared.status(remote, "");
    let stop = async {
        stopped(shared).await;
        Ok(())
    };
    let heard = Cell::new(clock::now());
    let talk = converse(
        shared,
        remote,
        &welcome.name,
        (&mut sender, &mut receiver),
        (&queued, &detoured),
        (&heard, sharing.as_ref()),
    )
    .or(silence(&heard, media.link()))
    .or(stop);
    let typing = async {
        type_by_itself(shared, remote).await;
        Ok(())
    };
    let text = type_text(shared, remote, media.link());
    let outcome = talk.or(typing).or(text).await;
    if let Some(typist) = &shared.typist {
        typist.cut_off(media.link()).await;
    }
    drop(media);
    if shared.is_stopped() {
        let _ = send(&mut sender, &FromClient::Bye {}).await;
        let _ = sender.close(None).await;
    }
    outcome
}

/// Types the text that was asked for, then stops the client.
async fn type_text(shared: &Shared, remote: &Remote, link: &InputLink) -> anyhow::Result<()> {
    let Some(typist) = &shared.typist else {
        return std::future::pending().await;
    };
    let typed_so_far = shared.lang.pick("characters typed", "文字を入力しました");
    let tell = |typed, all| {
        console::err(format!("soft-kvm-client: {typed}/{all} {typed_so_far}"));
    };
    typist.run(link, &remote.lamps, tell).await;
    shared.stop();
    Ok(())
}

/// Ends when the server is gone, also while a message waits for room in the socket.
async fn silence(heard: &Cell<MonoTime>, link: &InputLink) -> anyhow::Result<()> {
    loop {
        let heard = LastHeard {
            message: heard.get(),
            datagram: link.heard(),
        };
        let Some(patience) = heard.patience(clock::now(), SILENCE) else {
            bail!("nothing heard for {} s", SILENCE.as_secs());
        };
        Timer::after(patience).await;
    }
}

/// Asks for the picture, which is shown from now on.
async fn watch(
    shared: &Shared,
    remote: &Remote,
    sender: &mut WebSocketSender<Tls>,
    name: &str,
) -> anyhow::Result<()> {
    show_cursor(shared, remote);
    if let Some(viewport) = &shared.viewport {
        viewport.set_title(&format!("{name} — Soft KVM"));
        viewport.set_status("");
        shared.show_desk(remote);
    }
    send(sender, &FromClient::Watch {}).await
}

/// Keeps where the server was reached, for when mDNS finds nothing, and its new key if it has one.
fn remember(shared: &Shared, socket: &super::Socket, address: std::net::SocketAddr) {
    let connection = socket.get_ref().get_ref().1;
    let Some(key) = tls::peer_fingerprint(connection) else {
        return;
    };
    let remembered = shared
        .peers
        .follow(&tls::peer_predecessors(connection), key)
        .and_then(|followed| {
            if let Some((peer, before)) = followed {
                tracing::info!(server = %peer.name, key = key.short(), before = before.short(), "a new key, which the old one vouches for");
            }
            shared.peers.set_address(&key, &address.to_string())
        });
    if let Err(error) = remembered {
        tracing::warn!("{error}");
    }
}

async fn converse(
    shared: &Shared,
    remote: &Remote,
    name: &str,
    (sender, receiver): (&mut WebSocketSender<Tls>, &mut WebSocketReceiver<Tls>),
    (queued, detoured): (
        &async_channel::Receiver<Vec<u8>>,
        &async_channel::Receiver<Vec<u8>>,
    ),
    (heard, sharing): (&Cell<MonoTime>, Option<&Sharing<'_>>),
) -> anyhow::Result<()> {
    let mut next_copied = std::time::Instant::now();
    let mut clock_estimate = ClockEstimator::new();
    let mut probes = 0;
    let mut bytes_before = (clock::now(), lock(&remote.stats).received().bytes);
    let mut next_probe = std::time::Instant::now() + FIRST_PROBE_INTERVAL;
    loop {
        let incoming = async { Step::Incoming(receiver.next().await) };
        let record = async {
            match queued.recv().await {
                Ok(record) => Step::Record(record),
                Err(_) => Step::Incoming(None),
            }
        };
        let detour = async {
            match detoured.recv().await {
                Ok(datagram) => Step::Record(datagram),
                Err(_) => std::future::pending().await,
            }
        };
        let probe = async {
            Timer::at(next_probe).await;
            Step::Probe
        };
        let turned = async {
            // Never closed: this side owns both ends.
            let _ = remote.turned.1.recv().await;
            Step::Turned
        };
        let wish = async {
            match remote.wishes.1.recv().await {
                Ok(wish) => Step::Wish(wish),
                Err(_) => std::future::pending().await,
            }
        };
        let copied = async {
            Timer::at(next_copied).await;
            remote.copied.woken().await;
            Step::Copied
        };
        let next = incoming.or(record).or(detour).or(turned).or(wish);
        match next.or(probe).or(copied).await {
            Step::Incoming(None) => return Ok(()),
            Step::Incoming(Some(message)) => {
                let arrived = clock::now();
                heard.set(arrived);
                match message? {
                    Message::Text(text) => match serde_json::from_str(&text) {
                        Ok(FromServer::Pong { t0, t1, t2 }) => {
                            clock_estimate.add(t0, t1, t2, arrived);
                            if let Some(clock) = clock_estimate.estimate(arrived) {
                                lock(&remote.stats).clock = Some(clock);
                                send(sender, &FromClient::Clock(clock)).await?;
                            }
                        }
                        Ok(FromServer::Bye {}) => return Ok(()),
                        Ok(FromServer::Clipboard(news)) => {
                            if let Some(sharing) = sharing {
                                sharing.heard(news);
                            }
                        }
                        Ok(message) => told(shared, remote, message),
                        Err(error) => {
                            tracing::warn!(%error, "a message of the server is not understood")
                        }
                    },
                    Message::Binary(message) if message_kind(&message) == Ok(MessageKind::Ack) => {
                        if let Some(link) = remote.link() {
                            link.handle_message(arrived, &message);
                        }
                    }
                    Message::Binary(message)
                        if message_kind(&message) == Ok(MessageKind::Force) =>
                    {
                        remote.force.handle_record(&message);
                    }
                    Message::Binary(record) if remote.lamps.handle_record(&record) => {}
                    Message::Binary(record) => {
                        // LEDs and auto-repeat; the newest matter.
                        let _ = remote.feedback.0.force_send(record.to_vec());
                    }
                    Message::Close(_) => return Ok(()),
                    _ => {}
                }
            }
            Step::Record(record) => sender.send(Message::binary(record)).await?,
            Step::Wish(wish) => send(sender, &FromClient::Control(wish)).await?,
            Step::Turned => {
                if remote.is_shown() {
                    watch(shared, remote, sender, name).await?;
                } else {
                    send(sender, &FromClient::Unwatch {}).await?;
                }
                if let Some(sharing) = sharing {
                    send(sender, &FromClient::Clipboard(sharing.turned())).await?;
                }
            }
            Step::Copied => {
                if let Some(copied) = sharing.and_then(Sharing::unsent) {
                    next_copied = std::time::Instant::now() + COPY_PAUSE;
                    send(sender, &FromClient::Clipboard(copied)).await?;
                }
            }
            Step::Probe => {
                let now = clock::now();
                probes += 1;
                let first = probes < FIRST_PROBES;
                next_probe = std::time::Instant::now()
                    + if first {
                        FIRST_PROBE_INTERVAL
                    } else {
                        PROBE_INTERVAL
                    };
                send(sender, &FromClient::Ping { t0: now }).await?;
                if !first {
                    each_second(shared, remote, sender, &mut bytes_before).await?;
                }
            }
        }
    }
}

async fn each_second(
    shared: &Shared,
    remote: &Remote,
    sender: &mut WebSocketSender<Tls>,
    before: &mut (MonoTime, u64),
) -> anyhow::Result<()> {
    let (ages, lines) = {
        let mut stats = lock(&remote.stats);
        let (now, bytes) = (clock::now(), stats.received().bytes);
        let millis = u64::try_from(now.since(before.0).as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        let kbps = bytes.saturating_sub(before.1) * 8 / millis;
        *before = (now, bytes);
        let viewport = shared.viewport.as_ref().filter(|_| remote.is_shown());
        let lines = viewport.map(|viewport| {
            let mut lines = stats.overlay(kbps);
            lines.extend(lock(&remote.desk).overlay());
            (viewport, lines)
        });
        (stats.take_ages(), lines)
    };
    if let Some((viewport, lines)) = lines {
        viewport.set_overlay(&lines);
        shared.show_desk(remote);
    }
    if !ages.is_empty() {
        send(sender, &FromClient::Ages { micros: ages }).await?;
    }
    Ok(())
}

/// The window draws the cursor of the server that it shows.
fn show_cursor(shared: &Shared, remote: &Remote) {
    if let Some(viewport) = shared.viewport.as_ref().filter(|_| remote.is_shown()) {
        viewport.set_cursor(remote.cursor.shown());
    }
}

fn told(shared: &Shared, remote: &Remote, message: FromServer) {
    if let Some(typist) = &shared.typist {
        match &message {
            FromServer::Device { id, result } => {
                return typist.answered(*id, result.clone().map(drop));
            }
            FromServer::Error { message, .. } => return typist.refused(message.clone()),
            _ => {}
        }
    }
    match message {
        FromServer::Video(info) => {
            tracing::info!(size = %info.size, rate = %info.rate, source = info.source, encoder = info.encoder, why = info.why, "video");
            lock(&remote.stats).video = Some(info);
        }
        FromServer::Cursor(shape) => {
            if let Err(error) = remote.cursor.shape(&shape) {
                tracing::warn!(%error, "the server's cursor cannot be shown");
            }
            show_cursor(shared, remote);
        }
        FromServer::Control { state } => {
            let news = lock(&remote.desk).set(state, clock::now(), shared.lang);
            shared.show_desk(remote);
            remote.copied.wake();
            if let Some(text) = news {
                console::err(format!("soft-kvm-client: {}: {text}", remote.target.text));
            }
        }
        FromServer::ControlAnswer {
            answer: ControlAnswer::Refused(why),
        } => {
            console::err(format!("soft-kvm-client: {}: {why}", remote.target.text));
            lock(&remote.desk).note(why, clock::now());
            shared.show_desk(remote);
        }
        // The state tells the rest.
        FromServer::ControlAnswer { .. } => {}
        FromServer::Device {
            id,
            result: Ok(device),
        } => tracing::info!(id, device, "device on the server"),
        FromServer::Device {
            id,
            result: Err(error),
        } => {
            console::err(format!(
                "soft-kvm-client: device {id} cannot be used on the server: {error}"
            ));
        }
        FromServer::Error { code, message } => {
            console::err(format!(
                "soft-kvm-client: the server says: {message} ({code})"
            ));
        }
        other => tracing::debug!(?other, "message out of turn"),
    }
}

async fn send(sender: &mut WebSocketSender<Tls>, message: &FromClient) -> anyhow::Result<()> {
    sender
        .send(Message::text(serde_json::to_string(message)?))
        .await?;
    Ok(())
}
