//! Connects, converses, reconnects.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use async_io::Timer;
use async_tungstenite::tungstenite::Message;
use async_tungstenite::{WebSocketReceiver, WebSocketSender};
use futures_lite::{FutureExt, StreamExt};
use futures_rustls::client::TlsStream;
use soft_kvm_core::MonoTime;
use soft_kvm_platform::os::clock;
use soft_kvm_protocol::control::{FromClient, FromServer};
use soft_kvm_protocol::input::Record;
use soft_kvm_protocol::media::ClockEstimator;
use soft_kvm_service::console;

use super::Connection;
use crate::run::{Shared, type_by_itself};
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
/// A server that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(4);
/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_millis(300);

/// Runs until the client stops, or with `--once` until the connection ends.
pub(crate) async fn run(shared: &Arc<Shared>) -> anyhow::Result<()> {
    let stopped = async {
        stopped(shared).await;
        // A session says goodbye first; one that cannot is left.
        Timer::after(GOODBYE).await;
        Ok(())
    };
    sessions(shared).or(stopped).await
}

/// Ends when the client stops.
async fn stopped(shared: &Shared) {
    // Nothing is ever sent: the channel is closed.
    let _ = shared.stop.1.recv().await;
}

async fn sessions(shared: &Arc<Shared>) -> anyhow::Result<()> {
    let mut pause = RETRY.0;
    let mut told = String::new();
    loop {
        let started = clock::now();
        match connect(shared).await {
            Ok(connection) => {
                pause = RETRY.0;
                told.clear();
                let outcome = session(shared, connection, started).await;
                *lock(&shared.link) = None;
                *lock(&shared.records) = None;
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
                tracing::warn!("connection lost: {reason}");
                shared.status(&format!("connection lost: {reason}\nreconnecting…"));
            }
            Err(error) => {
                if shared.once {
                    return Err(error);
                }
                let text = format!("{error:#}");
                shared.status(&format!("{text}\ntrying again…"));
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

async fn connect(shared: &Arc<Shared>) -> anyhow::Result<Connection> {
    let (target, peers) = (shared.target.clone(), shared.peers.clone());
    let addresses = blocking(move || target.resolve(&peers)).await?;
    let mut failure = anyhow::anyhow!("{} has no address", shared.target.text);
    for address in addresses {
        match super::open(&shared.identity, &shared.target.pins, address, &shared.name).await {
            Ok(connection) => return Ok(connection),
            Err(error) => failure = error,
        }
    }
    Err(failure)
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
}

async fn session(
    shared: &Arc<Shared>,
    connection: Connection,
    started: MonoTime,
) -> anyhow::Result<()> {
    let Connection {
        socket,
        welcome,
        keys,
        address,
    } = connection;
    tracing::info!(server = welcome.name, %address, sink = welcome.sink, story = welcome.story, "connected");
    remember_address(shared, &socket, address);
    if let Some((_, probe)) = &shared.probe {
        lock(probe).reset();
    }
    if let Some(viewport) = &shared.viewport {
        viewport.set_title(&format!("{} — Soft KVM", welcome.name));
    }
    lock(&shared.stats).connecting(started);
    let media = Media::start(address, &welcome, &keys, Arc::clone(&shared.outputs))?;
    let (mut sender, mut receiver) = socket.split();
    let (records, queued) = async_channel::bounded(128);
    send(&mut sender, &FromClient::Ping { t0: clock::now() }).await?;
    send(&mut sender, &FromClient::Watch {}).await?;
    let devices = lock(&shared.devices).clone();
    for device in devices {
        let mut message = Vec::new();
        Record::DeviceAdd(Box::new(device)).encode(&mut message);
        sender.send(Message::binary(message)).await?;
    }
    *lock(&shared.records) = Some(records);
    *lock(&shared.link) = Some(Arc::clone(media.link()));
    shared.status("");
    let stop = async {
        stopped(shared).await;
        Ok(())
    };
    let talk = converse(shared, &mut sender, &mut receiver, &queued).or(stop);
    let typing = async {
        type_by_itself(shared).await;
        Ok(())
    };
    let outcome = talk.or(typing).await;
    drop(media);
    if shared.is_stopped() {
        let _ = send(&mut sender, &FromClient::Bye {}).await;
        let _ = sender.close(None).await;
    }
    outcome
}

/// Keeps where the server was reached, for when mDNS finds nothing.
fn remember_address(shared: &Shared, socket: &super::Socket, address: std::net::SocketAddr) {
    let key = soft_kvm_security::tls::peer_fingerprint(socket.get_ref().get_ref().1);
    if let Some(key) = key
        && let Err(error) = shared.peers.set_address(&key, &address.to_string())
    {
        tracing::warn!("{error}");
    }
}

async fn converse(
    shared: &Shared,
    sender: &mut WebSocketSender<Tls>,
    receiver: &mut WebSocketReceiver<Tls>,
    queued: &async_channel::Receiver<Vec<u8>>,
) -> anyhow::Result<()> {
    let mut clock_estimate = ClockEstimator::new();
    let mut probes = 0;
    let mut heard = clock::now();
    let mut bytes_before = (clock::now(), lock(&shared.stats).received().bytes);
    let mut next_probe = std::time::Instant::now() + FIRST_PROBE_INTERVAL;
    loop {
        let incoming = async { Step::Incoming(receiver.next().await) };
        let record = async {
            match queued.recv().await {
                Ok(record) => Step::Record(record),
                Err(_) => Step::Incoming(None),
            }
        };
        let probe = async {
            Timer::at(next_probe).await;
            Step::Probe
        };
        match incoming.or(record).or(probe).await {
            Step::Incoming(None) => return Ok(()),
            Step::Incoming(Some(message)) => {
                let arrived = clock::now();
                heard = arrived;
                match message? {
                    Message::Text(text) => match serde_json::from_str(&text) {
                        Ok(FromServer::Pong { t0, t1, t2 }) => {
                            clock_estimate.add(t0, t1, t2, arrived);
                            if let Some(clock) = clock_estimate.estimate(arrived) {
                                lock(&shared.stats).clock = Some(clock);
                                send(sender, &FromClient::Clock(clock)).await?;
                            }
                        }
                        Ok(FromServer::Bye {}) => return Ok(()),
                        Ok(message) => told(shared, message),
                        Err(error) => {
                            tracing::warn!(%error, "a message of the server is not understood")
                        }
                    },
                    Message::Binary(record) => {
                        // Only LEDs and auto-repeat come this way; the newest matter.
                        let _ = shared.feedback.0.force_send(record.to_vec());
                    }
                    Message::Close(_) => return Ok(()),
                    _ => {}
                }
            }
            Step::Record(record) => sender.send(Message::binary(record)).await?,
            Step::Probe => {
                let now = clock::now();
                if now.since(heard) >= SILENCE {
                    bail!("nothing heard for {} s", SILENCE.as_secs());
                }
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
                    each_second(shared, sender, &mut bytes_before).await?;
                }
            }
        }
    }
}

async fn each_second(
    shared: &Shared,
    sender: &mut WebSocketSender<Tls>,
    before: &mut (MonoTime, u64),
) -> anyhow::Result<()> {
    let (ages, lines) = {
        let mut stats = lock(&shared.stats);
        let (now, bytes) = (clock::now(), stats.received().bytes);
        let millis = u64::try_from(now.since(before.0).as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        let kbps = bytes.saturating_sub(before.1) * 8 / millis;
        *before = (now, bytes);
        let lines = shared.viewport.as_ref().map(|_| stats.overlay(kbps));
        (stats.take_ages(), lines)
    };
    if let (Some(viewport), Some(lines)) = (&shared.viewport, lines) {
        viewport.set_overlay(&lines);
    }
    if !ages.is_empty() {
        send(sender, &FromClient::Ages { micros: ages }).await?;
    }
    Ok(())
}

fn told(shared: &Shared, message: FromServer) {
    match message {
        FromServer::Video(info) => {
            tracing::info!(size = %info.size, rate = %info.rate, source = info.source, encoder = info.encoder, "video");
            lock(&shared.stats).video = Some(info);
        }
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
