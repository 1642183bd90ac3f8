//! The control channel of one paired client.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;
use async_io::Timer;
use async_tungstenite::tungstenite::Message;
use async_tungstenite::{WebSocketReceiver, WebSocketSender};
use futures_lite::{FutureExt, StreamExt};
use soft_kvm_core::MonoTime;
use soft_kvm_monitoring::ConnectStage;
use soft_kvm_platform::os::clock;

use soft_kvm_protocol::clipboard::ClipboardNews;
use soft_kvm_protocol::control::{FromClient, FromServer, PROTOCOL_VERSION, Ssrcs, Welcome};
use soft_kvm_protocol::liveness::LastHeard;
use soft_kvm_protocol::media::SrtpKeys;
use soft_kvm_protocol::pairing::{HexBytes, PeerName};
use soft_kvm_security::audit::Event;
use soft_kvm_security::policy::By;
use soft_kvm_security::{Fingerprint, lan, tls};

use super::clients;
use super::clipboard::{self, Share};
use super::websocket::{self, Socket, Tls};
use crate::audit;
use crate::context::Context;
use crate::lan::admit;
use crate::session::{Gate, Outgoing, Session, SessionConfig, sender_config};

/// Time for the first message.
const HELLO: Duration = Duration::from_secs(5);
/// A client that says nothing for so long, on no way, is gone; it sends a clock probe each second.
const SILENCE: Duration = Duration::from_secs(5);
/// How often the story's lists are looked at.
const LISTS: Duration = Duration::from_secs(1);
/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_millis(300);

/// Runs the channel until either side leaves.
pub(super) async fn run(
    mut socket: Socket,
    remote: SocketAddr,
    key: Fingerprint,
    accepted: MonoTime,
    context: &Arc<Context>,
) -> anyhow::Result<()> {
    let limit = async {
        Timer::after(HELLO).await;
        bail!("no hello within {} s", HELLO.as_secs())
    };
    let name = match greet(&mut socket).or(limit).await {
        Ok(name) => name,
        Err(error) => {
            let _ = socket.close(None).await;
            return Err(error);
        }
    };
    let mut random = [0; 38];
    context.random(&mut random)?;
    let [id, rest] = [&random[..16], &random[16..]];
    let id: [u8; 16] = id.try_into()?;
    let word = |at: usize| {
        rest.get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u32::from_be_bytes)
    };
    // The low bits tell the five apart: GCM must never see one key with one SSRC twice.
    let ssrc = Ssrcs {
        video: word(0) & !7,
        feedback: word(4) & !7 | 1,
        receiver: word(8) & !7 | 2,
        input: word(12) & !7 | 3,
        cursor: word(0) & !7 | 4,
    };
    let keys = tls::export_srtp_keys(socket.get_ref().get_ref().1, &id)?;
    let keys = SrtpKeys::from_exporter(&keys);
    let Some(peer) = context.peers.find(&key)? else {
        refuse(&mut socket, "revoked", "this client is no longer paired").await?;
        bail!("refused: revoked meanwhile");
    };
    let gate = Arc::new(Gate::new(peer.role));
    let story = context.story();
    let sequence: [u8; 6] = rest.get(16..22).unwrap_or_default().try_into()?;
    let config = SessionConfig {
        peer: key,
        name: name.to_string(),
        gate: Arc::clone(&gate),
        ssrc,
        accepted,
        sender: sender_config(
            story.rtp(),
            story.capture().fps,
            sequence,
            context.ntp_minus_mono_ns,
        ),
    };
    let sinks = context.sinks();
    let passes_force = sinks.passes_force();
    let sink = sinks.open(config.peer, &peer.name, gate);
    let (session, outgoing) = Session::new(config, &keys, sink, &context.metrics);
    let session = Arc::new(session);
    let max = usize::try_from(story.control().max_clients).unwrap_or(usize::MAX);
    if !context.sessions.add(&session, max) {
        refuse(
            &mut socket,
            "busy",
            &format!("no place is free: {max} clients at most, half of them with one key"),
        )
        .await?;
        bail!("refused: no place is free among {max}");
    }
    let began = clock::now();
    // From here on the session is removed on every way out, also when this task is dropped.
    let _member = Member {
        context,
        session: &session,
    };
    // What was changed since the role was read did not find this session.
    clients::enforce(context)?;
    let local = socket.get_ref().get_ref().0.get_ref().local_addr()?;
    admit(local, remote, context.story().control())?;
    let welcome = Welcome {
        version: PROTOCOL_VERSION,
        name: context.name().to_string(),
        session: HexBytes(id).to_string(),
        story: story.root().to_string(),
        udp_port: context.udp_port,
        ssrc,
        ntp_minus_mono_ns: context.ntp_minus_mono_ns,
        sink: context.sinks().kind().to_owned(),
        role: Some(peer.role),
        routed: story.control().allow_routed,
        force: passes_force,
        clipboard: clipboard::offered(context, peer.role),
    };
    send(&mut socket, &FromServer::Welcome(welcome)).await?;
    context
        .metrics
        .connection_time(ConnectStage::Welcome)
        .observe(clock::now().since(accepted));
    tracing::info!(%remote, client = session.name, key = key.short(), role = %peer.role, "connected");
    context.audit.record(Event::Connected {
        client: session.name.clone(),
        key: key.to_string(),
        remote: remote.to_string(),
        role: peer.role,
    });
    let (mut sender, mut receiver) = socket.split();
    let heard = AtomicU64::new(clock::now().as_nanos());
    let ends = (&mut sender, &mut receiver);
    let talk = converse(ends, &outgoing, &session, context, &heard);
    let outcome = talk
        .or(silence(&heard, &session))
        .or(unlisted(remote, context))
        .await;
    let farewell = outcome.as_ref().err().and_then(websocket::farewell);
    let goodbye = async {
        let _ = sender.close(farewell).await;
    };
    let limit = async {
        Timer::after(GOODBYE).await;
    };
    goodbye.or(limit).await;
    context.record_handovers();
    context.audit.record(Event::Disconnected {
        client: session.name.clone(),
        key: key.to_string(),
        seconds: clock::now().since(began).as_secs(),
        keys: session.gate.keys(),
        why: match &outcome {
            Ok(()) if session.is_ended() => "ended by the server".to_owned(),
            Ok(()) => "ended by the client".to_owned(),
            Err(error) => audit::why(error),
        },
    });
    match &outcome {
        Ok(()) => tracing::info!(%remote, client = session.name, "disconnected"),
        Err(error) => tracing::info!(%remote, client = session.name, "disconnected: {error:#}"),
    }
    Ok(())
}

struct Member<'a> {
    context: &'a Context,
    session: &'a Arc<Session>,
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        self.context.sessions.remove(self.session);
    }
}

enum Step {
    Incoming(Option<Result<Message, async_tungstenite::tungstenite::Error>>),
    Outgoing(Result<Outgoing, async_channel::RecvError>),
    Clipboard(ClipboardNews),
}

/// Ends when the client is gone, also while a message waits for room in the socket; its last message came at `heard` (monotonic
/// nanoseconds).
async fn silence(heard: &AtomicU64, session: &Session) -> anyhow::Result<()> {
    loop {
        let heard = LastHeard {
            message: MonoTime::from_nanos(heard.load(Ordering::Relaxed)),
            datagram: session.heard(),
        };
        let Some(patience) = heard.patience(clock::now(), SILENCE) else {
            bail!("nothing heard for {} s", SILENCE.as_secs());
        };
        Timer::after(patience).await;
    }
}

/// Ends when a story that was changed meanwhile lets the address in no more, whatever the client says or does not say.
async fn unlisted(remote: SocketAddr, context: &Context) -> anyhow::Result<()> {
    loop {
        Timer::after(LISTS).await;
        let story = context.story();
        let control = story.control();
        lan::listed(remote.ip(), &control.allow, &control.deny)?;
    }
}

async fn converse(
    (sender, receiver): (&mut WebSocketSender<Tls>, &mut WebSocketReceiver<Tls>),
    outgoing: &async_channel::Receiver<Outgoing>,
    session: &Arc<Session>,
    context: &Arc<Context>,
    heard: &AtomicU64,
) -> anyhow::Result<()> {
    let (news, waiting) = async_channel::bounded(1);
    let mut share = Share::new(context, session, news);
    let mut next_copied = Instant::now();
    loop {
        let incoming = async { Step::Incoming(receiver.next().await) };
        let queued = async { Step::Outgoing(outgoing.recv().await) };
        let (at, waiting) = (next_copied, &waiting);
        let copied = async move {
            Timer::at(at).await;
            match waiting.recv().await {
                Ok(news) => Step::Clipboard(news),
                // Never closed: `share` has the other end.
                Err(_) => std::future::pending().await,
            }
        };
        // A session that was cut has nothing more to say, and is told why.
        let step = if session.gate.is_shut() {
            queued.await
        } else {
            // What waits goes first: after a stall a hundred messages come at once, and each of them is answered.
            queued.or(incoming).or(copied).await
        };
        match step {
            Step::Incoming(None) => return Ok(()),
            Step::Incoming(Some(message)) => {
                heard.store(clock::now().as_nanos(), Ordering::Relaxed);
                match message.map_err(plain_end)? {
                    Message::Text(text) => {
                        let arrived = clock::now();
                        let message: FromClient = match serde_json::from_str(&text) {
                            Ok(message) => message,
                            Err(error) => {
                                session.tell(Outgoing::Message(FromServer::Error {
                                    code: "message".to_owned(),
                                    message: format!("not understood: {error}"),
                                }));
                                continue;
                            }
                        };
                        match message {
                            FromClient::Ping { t0 } => {
                                // Answered here and not through the queue: the stamps have to be close.
                                let pong = FromServer::Pong {
                                    t0,
                                    t1: arrived,
                                    t2: clock::now(),
                                };
                                sender
                                    .send(Message::text(serde_json::to_string(&pong)?))
                                    .await?;
                            }
                            FromClient::Watch {} => context.sessions.watch(session, true),
                            FromClient::Unwatch {} => context.sessions.watch(session, false),
                            FromClient::Clock(clock) => session.set_clock(clock),
                            FromClient::Ages { micros } => session.record_ages(&micros),
                            FromClient::Clients(request) => {
                                let Some(role) = session.gate.role() else {
                                    continue;
                                };
                                let by = By::Client(session.peer, role);
                                let answer = clients::answer(context, by, &request);
                                // Not through the queue: the request may have ended this session.
                                let answer = FromServer::Clients { answer };
                                sender
                                    .send(Message::text(serde_json::to_string(&answer)?))
                                    .await?;
                            }
                            FromClient::Control(request) => {
                                let answer = context.sessions.control(session, &request);
                                session
                                    .tell(Outgoing::Message(FromServer::ControlAnswer { answer }));
                                context.record_handovers();
                            }
                            FromClient::Clipboard(request) => share.take(request),
                            FromClient::Bye {} => return Ok(()),
                            _ => bail!("a message out of turn"),
                        }
                    }
                    Message::Binary(bytes) => {
                        if let Err(error) = session.handle_input_message(&bytes) {
                            session.tell(Outgoing::Message(FromServer::Error {
                                code: "input".to_owned(),
                                message: error.to_string(),
                            }));
                        }
                    }
                    Message::Close(_) => return Ok(()),
                    _ => {}
                }
            }
            Step::Outgoing(Ok(Outgoing::Message(message))) => {
                sender
                    .send(Message::text(serde_json::to_string(&message)?))
                    .await?;
            }
            Step::Clipboard(news) => {
                next_copied = Instant::now() + clipboard::PAUSE;
                if let Some(news) = share.passes(news) {
                    let message = serde_json::to_string(&FromServer::Clipboard(news))?;
                    sender.send(Message::text(message)).await?;
                }
            }
            Step::Outgoing(Ok(Outgoing::Record(record))) => {
                sender.send(Message::binary(record)).await?;
            }
            Step::Outgoing(Err(_)) => {
                let bye = serde_json::to_string(&FromServer::Bye {})?;
                let _ = sender.send(Message::text(bye)).await;
                return Ok(());
            }
        }
    }
}

/// A client that vanished is no fault of TLS: say so in fewer words.
fn plain_end(error: async_tungstenite::tungstenite::Error) -> anyhow::Error {
    use async_tungstenite::tungstenite::Error;

    match error {
        Error::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            anyhow::anyhow!("the client vanished")
        }
        other => other.into(),
    }
}

async fn greet(socket: &mut Socket) -> anyhow::Result<PeerName> {
    let Some(message) = socket.next().await else {
        bail!("the client left before its hello");
    };
    let Message::Text(text) = message? else {
        bail!("the first message is no hello");
    };
    match serde_json::from_str(&text) {
        Ok(FromClient::Hello { version, name }) if version == PROTOCOL_VERSION => {
            Ok(PeerName::new(&name)?)
        }
        Ok(FromClient::Hello { version, .. }) => {
            let what = format!(
                "this server speaks protocol {PROTOCOL_VERSION}, the client {version}: update the older one"
            );
            refuse(socket, "version", &what).await?;
            bail!("{what}");
        }
        Ok(_) => bail!("the first message is no hello"),
        Err(error) => bail!("the first message is not understood: {error}"),
    }
}

async fn refuse(socket: &mut Socket, code: &str, message: &str) -> anyhow::Result<()> {
    send(
        socket,
        &FromServer::Error {
            code: code.to_owned(),
            message: message.to_owned(),
        },
    )
    .await
}

async fn send(socket: &mut Socket, message: &FromServer) -> anyhow::Result<()> {
    socket
        .send(Message::text(serde_json::to_string(message)?))
        .await?;
    Ok(())
}
