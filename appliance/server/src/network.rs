//! The story's control, discovery and metrics nodes, and what a reload does to every node.

use std::net::{IpAddr, TcpListener};
use std::sync::Arc;

use anyhow::Context as _;
use soft_kvm_core::story::{HandoverMode, Kind, Story, diff};
use soft_kvm_discovery::{Announcement, Txt};
use soft_kvm_platform::os::lockdown::{self, Class};
use soft_kvm_platform::os::net::UdpSocket;
use soft_kvm_protocol::control::PROTOCOL_VERSION;
use soft_kvm_protocol::handover::HandoverRule;

use crate::clipboard;
use crate::context::{Context, lock};
use crate::control::{Control, Listening, metrics_http};
use crate::front::Front;
use crate::lan;
use crate::pipeline::Shared;
use crate::run::server_name;
use crate::session::Devices;

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
                    let allow_routed = story.control().allow_routed;
                    if story.control().port != old.control().port
                        || allow_routed != old.control().allow_routed
                    {
                        // A port that was asked to be any free one stays the one that was found.
                        let port = match story.control().port {
                            0 => control.port(),
                            port => port,
                        };
                        control.reload(context, listen, port, allow_routed)?;
                        lock(&context.running).control_port = port;
                        tracing::info!(port, "reload: listening");
                    }
                    if allow_routed != old.control().allow_routed {
                        self.confine(allow_routed)?;
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
    /// Keeps what metrics and media send on the link, or lets it go further.
    fn confine(&self, allow_routed: bool) -> anyhow::Result<()> {
        if allow_routed {
            tracing::warn!("reload: clients behind routers are let in (allow_routed)");
        }
        if let Some(metrics) = &self.metrics {
            metrics.confine(allow_routed)?;
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
    let welcome: fn(IpAddr) -> bool = if story.control().allow_routed {
        |_| true
    } else {
        lan::is_private
    };
    // The responder's threads take over what the one that starts them may do.
    let started = std::thread::scope(|scope| {
        let start = scope.spawn(|| {
            lockdown::narrow(Class::Network);
            let (port, txt) = (context.control_port(), txt(context, story));
            Announcement::start(&name, port, &txt, welcome)
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
    let executor = control.executor();
    let metrics = control.listen(listener, |listener| {
        metrics_http::serve(executor, listener, Arc::clone(context))
    })?;
    metrics.confine(story.control().allow_routed)?;
    Ok(Some(metrics))
}
