//! `soft-kvm-client control`: who has keyboard and mouse, asked and changed from a terminal.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use async_io::Timer;
use async_tungstenite::tungstenite::Message;
use futures_lite::{FutureExt, StreamExt};
use soft_kvm_core::Lang;
use soft_kvm_platform::os::clock;
use soft_kvm_protocol::control::{FromClient, FromServer};
use soft_kvm_protocol::handover::{ControlAnswer, ControlRequest, ControlState, Standing};
use soft_kvm_service::console;

use super::{Socket, send};
use crate::cli::ControlCommand;
use crate::desk;

/// Time for the server's answer.
const LIMIT: Duration = Duration::from_secs(5);
/// The sign of life.
const BEAT: Duration = Duration::from_secs(1);

/// Does it on an open control channel.
///
/// # Errors
/// The server refuses, or does not answer.
pub(crate) async fn run(
    socket: &mut Socket,
    command: &ControlCommand,
    lang: Lang,
) -> anyhow::Result<()> {
    let request = match command {
        ControlCommand::Show { .. } => ControlRequest::Show {},
        ControlCommand::Request { .. } => ControlRequest::Request {},
        ControlCommand::Grant { client } => ControlRequest::Grant {
            client: client.clone(),
        },
        ControlCommand::Refuse { client } => ControlRequest::Refuse {
            client: client.clone(),
        },
        ControlCommand::Release => ControlRequest::Release {},
        ControlCommand::Take => ControlRequest::Take {},
    };
    send(socket, &FromClient::Control(request)).await?;
    let mut limit = Some(Instant::now() + LIMIT);
    let (mut state, mut asked) = (None, false);
    loop {
        match next(socket, limit).await? {
            FromServer::Control { state: now } => {
                if asked && now.you == Standing::Controls {
                    return show(&now, false, lang);
                }
                if limit.is_none() {
                    show(&now, is_json(command), lang)?;
                }
                state = Some(now);
            }
            FromServer::ControlAnswer { answer } => match (answer, command) {
                (ControlAnswer::Refused(why), _) => bail!("{why}"),
                (ControlAnswer::Asked, ControlCommand::Request { wait }) => {
                    asked = true;
                    limit = Some(Instant::now() + Duration::from_secs(*wait));
                    console::err(lang.pick(
                        "soft-kvm-client: asked; waiting for the answer",
                        "soft-kvm-client: 交代を求めました。返事を待っています",
                    ));
                }
                (_, ControlCommand::Show { follow, .. }) => {
                    let now = state.as_ref().context("the server told no state")?;
                    show(now, is_json(command), lang)?;
                    if !follow {
                        return Ok(());
                    }
                    limit = None;
                }
                _ => {
                    let now = state.as_ref().context("the server told no state")?;
                    return show(now, false, lang);
                }
            },
            FromServer::Error { code, message } => bail!("{message} ({code})"),
            FromServer::Bye {} => bail!("the server ended the session"),
            _ => {}
        }
    }
}

const fn is_json(command: &ControlCommand) -> bool {
    matches!(command, ControlCommand::Show { json: true, .. })
}

fn show(state: &ControlState, json: bool, lang: Lang) -> anyhow::Result<()> {
    console::out(if json {
        serde_json::to_string(state)?
    } else {
        desk::line(state, lang)
    });
    Ok(())
}

/// The next message; the server is told meanwhile that this client lives.
async fn next(socket: &mut Socket, limit: Option<Instant>) -> anyhow::Result<FromServer> {
    loop {
        let message = async { Some(socket.next().await) };
        let beat = async {
            Timer::after(BEAT).await;
            None
        };
        let Some(message) = message.or(beat).await else {
            if limit.is_some_and(|limit| Instant::now() >= limit) {
                bail!(
                    "no answer in time: whoever has keyboard and mouse has neither given nor refused them"
                );
            }
            send(socket, &FromClient::Ping { t0: clock::now() }).await?;
            continue;
        };
        match message.context("the server closed the connection")?? {
            Message::Text(text) => {
                // A later server's message that this client does not know is none of its business.
                if let Ok(message) = serde_json::from_str(&text) {
                    return Ok(message);
                }
            }
            Message::Close(_) => bail!("the server closed the connection"),
            _ => {}
        }
    }
}
