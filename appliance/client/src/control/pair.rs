//! The client's side of pairing.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_io::Timer;
use async_tungstenite::tungstenite::Message;
use futures_lite::{FutureExt, StreamExt};
use soft_kvm_protocol::control::PAIR_PATH;
use soft_kvm_protocol::pairing::{FromClient, FromServer, MAX_PAIRING_MESSAGE, PeerName};
use soft_kvm_security::pairing::{Binding, ClientPairing, LONGEST_REST, Paired, PairingCode};
use soft_kvm_security::{Identity, tls};

use super::Socket;

/// The exchange is two round trips; the server waits no longer either.
const LIMIT: Duration = Duration::from_secs(10);

/// Exchanges keys with the server at `address`.
///
/// # Errors
/// In words: nobody answers, the window is closed, the code is wrong.
pub(crate) async fn pair(
    identity: &Identity,
    address: SocketAddr,
    code: &PairingCode,
    name: PeerName,
) -> anyhow::Result<Paired> {
    let exchange = async {
        let config = tls::unpinned_client_config(identity)?;
        let mut socket = super::websocket(config, address, PAIR_PATH).await?;
        let connection = socket.get_ref().get_ref().1;
        let binding = Binding {
            exporter: tls::export_pairing_binding(connection)?,
            client: identity.fingerprint(),
            server: tls::peer_fingerprint(connection).context("the server showed no key")?,
        };
        let (pairing, start) = ClientPairing::start(code, binding, name);
        send(&mut socket, &start).await?;
        let (confirming, confirm) = pairing.share(receive(&mut socket).await?)?;
        send(&mut socket, &confirm).await?;
        Ok((socket, confirming))
    };
    let (mut socket, confirming) = within(LIMIT, exchange).await?;
    let answer = async {
        let paired = confirming.conclude(&receive(&mut socket).await?)?;
        let _ = socket.close(None).await;
        Ok(paired)
    };
    // The server holds back what it says to a wrong code.
    within(LIMIT + LONGEST_REST, answer).await
}

async fn within<T>(
    limit: Duration,
    step: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let late = async {
        Timer::after(limit).await;
        bail!("pairing took longer than {} s", limit.as_secs())
    };
    step.or(late).await
}

async fn send(socket: &mut Socket, message: &FromClient) -> anyhow::Result<()> {
    socket
        .send(Message::text(serde_json::to_string(message)?))
        .await?;
    Ok(())
}

async fn receive(socket: &mut Socket) -> anyhow::Result<FromServer> {
    while let Some(message) = socket.next().await {
        if let Message::Text(text) = message? {
            if text.len() > MAX_PAIRING_MESSAGE {
                bail!("a pairing message is too long");
            }
            return serde_json::from_str(&text).context("a pairing message is not understood");
        }
    }
    bail!("the server closed the connection")
}
