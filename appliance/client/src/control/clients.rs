//! Asking a server about its paired clients, as one of its admins.

use anyhow::{Context as _, bail};
use async_tungstenite::tungstenite::Message;
use futures_lite::StreamExt;
use soft_kvm_protocol::control::{FromClient, FromServer};
use soft_kvm_protocol::roles::{ClientsAnswer, ClientsRequest};

use super::Socket;

/// Asks on an open control channel; what else the server says meanwhile is passed over.
pub(crate) async fn ask(
    socket: &mut Socket,
    request: ClientsRequest,
) -> anyhow::Result<ClientsAnswer> {
    super::send(socket, &FromClient::Clients(request)).await?;
    while let Some(message) = socket.next().await {
        let Message::Text(text) = message? else {
            continue;
        };
        match serde_json::from_str(&text).context("the server's answer is not understood")? {
            FromServer::Clients { answer } => return Ok(answer),
            FromServer::Error { code, message } => bail!("{message} ({code})"),
            FromServer::Bye {} => bail!("the server ended the session"),
            _ => {}
        }
    }
    bail!("the server closed the connection")
}
