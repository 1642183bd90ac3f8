//! The story's control, discovery and metrics nodes, and what a reload does to every node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::Context as _;
use async_executor::{Executor, Task};
use async_io::Async;
use futures_rustls::TlsAcceptor;
use soft_kvm_core::story::{HandoverMode, Kind, Story, diff};
use soft_kvm_discovery::{Announcement, Txt};
use soft_kvm_platform::os::activation;
use soft_kvm_platform::os::lockdown::{self, Class};
use soft_kvm_platform::os::net::UdpSocket;
use soft_kvm_protocol::control::PROTOCOL_VERSION;
use soft_kvm_protocol::handover::HandoverRule;
use soft_kvm_security::tls;

use crate::clipboard;
use crate::context::{Context, lock};
use crate::control::{listener, local, metrics_http};
use crate::front::Front;
use crate::lan;
use crate::pipeline::Shared;
use crate::run::server_name;
use crate::session::Devices;

/// The `control` thread with the executor that runs on it.
#[derive(Debug)]
pub(crate) struct Control {
    executor: Arc<Executor<'static>>,
    acceptor: Acceptor,
    stop: async_channel::Sender<()>,
    thread: JoinHandle<()>,
    listening: std::sync::Mutex<Option<Listening>>,
}

/// A port that is listened at, until this is dropped.
#[derive(Debug)]
struct Listening {
    /// The same socket once more, for its options.
    socket: TcpListener,
    address: SocketAddr,
    _task: Task<()>,
}

#[derive(Clone)]
struct Acceptor(TlsAcceptor);

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

impl Control {
    /// At the start: takes the socket that the service manager listens with, if it is for this port; else as [`Self::bind`].
    pub(crate) fn listen_first(
        address: Option<IpAddr>,
        port: u16,
        allow_routed: bool,
    ) -> anyhow::Result<TcpListener> {
        let Some(given) = activation::take_tcp_listener() else {
            return Self::bind(address, port, allow_routed);
        };
        let at = given.local_addr().context("the service manager's socket")?;
        if at.port() != port || address.is_some_and(|address| address != at.ip()) {
            tracing::warn!(
                port,
                "the service manager listens at {at}, which the story does not: systemctl edit soft-kvm.socket"
            );
            return Self::bind(address, port, allow_routed);
        }
        tracing::info!("the service manager has listened at {at} for this server");
        confine(&given, allow_routed)?;
        Ok(given)
    }

    /// Listens on `address`, or on all addresses of both families.
    pub(crate) fn bind(
        address: Option<IpAddr>,
        port: u16,
        allow_routed: bool,
    ) -> anyhow::Result<TcpListener> {
        let bound = match address {
            Some(address) => TcpListener::bind((address, port)),
            // Without IPv6 in the kernel the unspecified IPv6 address cannot be bound.
            None => TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).or_else(|error| {
                if error.kind() == std::io::ErrorKind::AddrInUse {
                    Err(error)
                } else {
                    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
                }
            }),
        };
        let listener = bound.with_context(|| {
            format!(
                "TCP port {port} cannot be used: stop the program that has it (another soft-kvm-server?), \
                 or give --port"
            )
        })?;
        confine(&listener, allow_routed)?;
        Ok(listener)
    }

    /// Starts the thread with the TLS listener and the local control socket on it.
    pub(crate) fn start(
        context: &Arc<Context>,
        listener: TcpListener,
        local: std::os::unix::net::UnixListener,
    ) -> anyhow::Result<Self> {
        let executor = Arc::new(Executor::new());
        let acceptor = Acceptor(TlsAcceptor::from(tls::server_config(&context.identity)?));
        let (stop, stopped) = async_channel::bounded::<()>(1);
        let runner = Arc::clone(&executor);
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || {
                lockdown::narrow(Class::Network);
                // Ends when the sender is dropped or used.
                let _ = async_io::block_on(runner.run(stopped.recv()));
            })?;
        executor
            .spawn(local::serve(
                Arc::clone(&executor),
                Async::new(local)?,
                Arc::clone(context),
            ))
            .detach();
        let control = Self {
            executor,
            acceptor,
            stop,
            thread,
            listening: std::sync::Mutex::new(None),
        };
        control.listen(context, listener)?;
        Ok(control)
    }

    /// Listens there, and no longer where it did before.
    fn listen(&self, context: &Arc<Context>, listener: TcpListener) -> anyhow::Result<()> {
        let (socket, address) = (listener.try_clone()?, listener.local_addr()?);
        let serve = listener::serve(
            Arc::clone(&self.executor),
            Async::new(listener)?,
            self.acceptor.0.clone(),
            Arc::clone(context),
        );
        let task = self.executor.spawn(async move {
            serve.await;
        });
        *lock(&self.listening) = Some(Listening {
            socket,
            address,
            _task: task,
        });
        Ok(())
    }

    /// Ends the thread. Sessions have been told before; their last messages get a moment to leave.
    pub(crate) fn stop(self) {
        std::thread::sleep(std::time::Duration::from_millis(50));
        let _ = self.stop.try_send(());
        if self.thread.join().is_err() {
            tracing::error!("the control thread panicked");
        }
    }
}

/// The nodes that a reload may replace.
#[derive(Debug)]
pub(crate) struct Network {
    announcement: Option<Announcement>,
    front: Front,
    metrics: Option<Listening>,
    media: Arc<UdpSocket>,
}

impl Network {
    /// Starts discovery and metrics as the story says.
    pub(crate) fn start(
        context: &Arc<Context>,
        control: &Control,
        story: &Story,
        media: Arc<UdpSocket>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            media,
            metrics: start_metrics(context, control, story)?,
            announcement: announce(context, story),
            front: Front::start(context, story),
        })
    }

    /// The port that Prometheus reads, if any.
    pub(crate) fn metrics_port(&self) -> Option<u16> {
        self.metrics.as_ref().map(|page| page.address.port())
    }

    /// Restarts what differs between the running story and `story`, and nothing else.
    pub(crate) fn reload(
        &mut self,
        context: &Arc<Context>,
        control: &Control,
        pipeline: &Shared,
        story: Story,
        listen: Option<IpAddr>,
    ) -> anyhow::Result<()> {
        let old = context.story();
        let changes = diff(&old, &story);
        if changes.is_empty() {
            tracing::info!("reload: nothing changed");
            return Ok(());
        }
        let story = Arc::new(story);
        let mut ends_sessions = false;
        for change in &changes {
            tracing::info!(node = change.name, kind = %change.kind, "reload: restarting");
            match change.kind {
                Kind::Source => pipeline.set_capture(story.capture().clone()),
                Kind::Encoder => pipeline.set_encode(story.video().clone()),
                // An encoder that changed changes the transport's id, but nothing that sessions agreed on.
                Kind::Transport => ends_sessions |= story.rtp() != old.rtp(),
                Kind::Sink => {
                    let mut running = lock(&context.running);
                    running.sinks.devices =
                        Devices::new(story.input(), Some(&running.sinks.devices))?;
                    // Devices live in a session's sink: clients come back by themselves and announce them again.
                    ends_sessions = true;
                }
                Kind::Control => {
                    if story.control().port != old.control().port {
                        let listener = Control::bind(
                            listen,
                            story.control().port,
                            story.control().allow_routed,
                        )?;
                        let port = listener.local_addr()?.port();
                        control.listen(context, listener)?;
                        lock(&context.running).control_port = port;
                        tracing::info!(port, "reload: listening");
                    }
                    let allow_routed = story.control().allow_routed;
                    if allow_routed != old.control().allow_routed {
                        self.confine(control, allow_routed)?;
                        // Clients are told when they connect, and those behind routers may come no more.
                        ends_sessions = true;
                    }
                    let rule = handover_rule(&story);
                    context.sinks().turns.set_rule(rule);
                    let clipboard = clipboard::rule(story.control().clipboard);
                    context.clipboards.set_rule(clipboard);
                    let name = server_name(&story)?;
                    pipeline.set_name(&name.to_string());
                    lock(&context.running).name = name;
                    self.front.reload(context, &story);
                }
                // The one that runs says goodbye before the new one speaks.
                Kind::Discovery => self.announcement = None,
                Kind::Metrics => {
                    self.metrics = None;
                    self.metrics = start_metrics(context, control, &story)?;
                }
            }
        }
        lock(&context.running).story = Arc::clone(&story);
        let root = story.root().to_string();
        context.metrics.set_story(&root);
        match &self.announcement {
            Some(announcement) => announcement.update(&txt(context, &story))?,
            None => self.announcement = announce(context, &story),
        }
        if ends_sessions {
            for session in context.sessions.all() {
                session.end();
            }
        }
        tracing::info!(root, nodes = changes.len(), "reload: done");
        Ok(())
    }
}

impl Network {
    /// Keeps what every socket sends on the link, or lets it go further.
    fn confine(&self, control: &Control, allow_routed: bool) -> anyhow::Result<()> {
        if allow_routed {
            tracing::warn!("reload: clients behind routers are let in (allow_routed)");
        }
        let listening = lock(&control.listening);
        for port in listening.iter().chain(&self.metrics) {
            confine(&port.socket, allow_routed)?;
        }
        let limited = self.media.limit_hops(lan::hops(allow_routed));
        limited.context("keeping media on the link")
    }
}

/// When keyboard and mouse go over without a word.
pub(crate) fn handover_rule(story: &Story) -> HandoverRule {
    match story.control().handover {
        HandoverMode::Still => HandoverRule::Still,
        HandoverMode::Ask => HandoverRule::Ask,
    }
}

fn txt(context: &Context, story: &Story) -> Txt {
    Txt {
        version: PROTOCOL_VERSION,
        fingerprint: context.identity.fingerprint().short(),
        story: story.root().short(),
        features: vec!["h264".to_owned(), context.sinks().kind().to_owned()],
    }
}

fn announce(context: &Context, story: &Story) -> Option<Announcement> {
    if !story.discovery().is_some_and(|params| params.enabled) {
        return None;
    }
    let name = context.name().to_string();
    // The responder's threads take over what the one that starts them may do.
    let started = std::thread::scope(|scope| {
        let start = scope.spawn(|| {
            lockdown::narrow(Class::Network);
            Announcement::start(&name, context.control_port(), &txt(context, story))
        });
        start.join()
    });
    let Ok(started) = started else {
        tracing::error!("the thread that starts mDNS panicked");
        return None;
    };
    match started {
        Ok(announcement) => Some(announcement),
        Err(error) => {
            tracing::warn!("not announced by mDNS: {error}; clients can still connect by address");
            None
        }
    }
}

fn start_metrics(
    context: &Arc<Context>,
    control: &Control,
    story: &Story,
) -> anyhow::Result<Option<Listening>> {
    let Some(params) = story.metrics().filter(|params| params.enabled) else {
        return Ok(None);
    };
    let listener = match TcpListener::bind((params.address, params.port)) {
        Ok(listener) => listener,
        // Metrics are not the main job: say it and go on.
        Err(error) => {
            tracing::warn!(
                "{}:{}: {error}: no metrics; stop the program that has the port (Prometheus itself listens on \
                 9090 too), or give --metrics-port",
                params.address,
                params.port
            );
            return Ok(None);
        }
    };
    confine(&listener, story.control().allow_routed)?;
    let socket = listener.try_clone()?;
    let address = listener.local_addr()?;
    let serve = metrics_http::serve(
        Arc::clone(&control.executor),
        Async::new(listener)?,
        Arc::clone(context),
    );
    let task = control.executor.spawn(async move {
        serve.await;
    });
    Ok(Some(Listening {
        socket,
        address,
        _task: task,
    }))
}

fn confine(listener: &TcpListener, allow_routed: bool) -> anyhow::Result<()> {
    lan::confine(listener, allow_routed).context("keeping answers on the link")
}
