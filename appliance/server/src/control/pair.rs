//! The pairing exchange: the only thing that a stranger gets.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::bail;
use async_io::Timer;
use async_tungstenite::tungstenite::Message;
use futures_lite::{FutureExt, StreamExt};
use soft_kvm_platform::os::clock;
use soft_kvm_protocol::pairing::{FromClient, FromServer, MAX_PAIRING_MESSAGE};
use soft_kvm_protocol::roles::Role;
use soft_kvm_security::audit::Event;
use soft_kvm_security::pairing::{Binding, LONGEST_REST, PairingError, TRY_LIMIT};
use soft_kvm_security::{Fingerprint, Peer, tls};

use super::websocket::Socket;
use crate::audit::{self, Strangers};
use crate::context::Context;

/// A person types the code before the client connects, so this covers two round trips, and the time that the refusal of a wrong
/// code is held back.
const LIMIT: Duration = TRY_LIMIT.saturating_add(LONGEST_REST);

/// Runs one exchange.
pub(super) async fn run(
    mut socket: Socket,
    remote: SocketAddr,
    key: Fingerprint,
    context: &Context,
) -> anyhow::Result<()> {
    let limit = async {
        Timer::after(LIMIT).await;
        bail!("pairing took longer than {} s", LIMIT.as_secs())
    };
    let mut guessed = false;
    let outcome = exchange(&mut socket, (key, remote), context, &mut guessed)
        .or(limit)
        .await;
    let _ = socket.close(None).await;
    let (name, role) = match outcome {
        Ok(paired) => paired,
        Err(error) => {
            if !guessed {
                context.audit.record_stranger(Strangers::Pairing, |more| {
                    failed((key, remote), audit::why(&error), more)
                });
            }
            return Err(error.context(format!("{remote}: pairing failed")));
        }
    };
    context.audit.record(Event::Paired {
        client: name.clone(),
        key: key.to_string(),
        remote: remote.to_string(),
        role,
    });
    tracing::info!(%remote, key = key.short(), name, %role, "paired");
    Ok(())
}

fn failed((key, remote): (Fingerprint, SocketAddr), why: String, more: u64) -> Event {
    Event::PairingFailed {
        key: key.to_string(),
        remote: remote.to_string(),
        why,
        more,
    }
}

/// `guessed` becomes true when the window has counted a wrong try, which is in the audit log then.
async fn exchange(
    socket: &mut Socket,
    (key, remote): (Fingerprint, SocketAddr),
    context: &Context,
    guessed: &mut bool,
) -> anyhow::Result<(String, Role)> {
    let binding = Binding {
        exporter: tls::export_pairing_binding(socket.get_ref().get_ref().1)?,
        client: key,
        server: context.identity.fingerprint(),
    };
    let start = receive(socket).await?;
    let answered = context
        .with_pairing(|window| window.answer(clock::now(), &binding, &context.name(), start));
    let (started, reply) = or_tell(socket, answered).await?;
    let mut pending = Abandon {
        context,
        started: Some(started),
    };
    send(socket, &reply).await?;
    let confirm = receive(socket).await?;
    let Some(started) = pending.started.take() else {
        bail!("the try was taken twice");
    };
    let wanted = context.pairing_role();
    let (concluded, rest) = context.with_pairing(|window| {
        let (now, left) = (clock::now(), window.tries_left());
        let concluded = window.conclude(now, started, &confirm);
        *guessed = window.tries_left() < left;
        Ok((concluded, window.rests_until().since(now)))
    })?;
    if let Err(error) = &concluded {
        context.pairing_changed();
        if *guessed {
            // Before the client can end this by leaving. Every one: no window takes more than a few.
            let failed = failed((key, remote), error.to_string(), 0);
            context.audit.record(failed);
            Timer::after(rest).await;
        }
    }
    let paired = or_tell(socket, concluded).await?;
    let name = paired.client.name.clone();
    let peer = Peer {
        name: paired.client.name,
        fingerprint: paired.client.fingerprint,
        // The store decides.
        role: Role::View,
        paired_at: soft_kvm_service::console::today(clock::wall()),
        address: None,
    };
    let role = match context.peers.add_paired(peer, wanted) {
        Ok(role) => role,
        Err(error) => {
            tracing::error!("{error}");
            return or_tell(socket, Err(PairingError::Storage)).await;
        }
    };
    send(socket, &paired.reply).await?;
    Ok((name.to_string(), role))
}

/// Lets the next client in when the exchange ends between its two halves, however it ends.
struct Abandon<'a> {
    context: &'a Context,
    started: Option<soft_kvm_security::pairing::PairingTry>,
}

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        if let Some(started) = self.started.take() {
            let _ = self.context.with_pairing(|window| {
                window.abandon(started);
                Ok(())
            });
        }
    }
}

/// The value, or the error after the client was told.
async fn or_tell<T>(socket: &mut Socket, outcome: Result<T, PairingError>) -> anyhow::Result<T> {
    match outcome {
        Ok(value) => Ok(value),
        Err(error) => {
            send(socket, &error.to_message()).await?;
            Err(error.into())
        }
    }
}

async fn send(socket: &mut Socket, message: &FromServer) -> anyhow::Result<()> {
    socket
        .send(Message::text(serde_json::to_string(message)?))
        .await?;
    Ok(())
}

async fn receive(socket: &mut Socket) -> anyhow::Result<FromClient> {
    while let Some(message) = socket.next().await {
        if let Message::Text(text) = message? {
            if text.len() > MAX_PAIRING_MESSAGE {
                bail!("a pairing message is too long");
            }
            return Ok(serde_json::from_str(&text)?);
        }
    }
    bail!("the client left")
}
