//! The control channel to one server: TLS 1.3 with the server's pinned key, WebSocket, JSON messages.

pub(crate) mod clients;
pub(crate) mod drive;
pub(crate) mod handover;
pub(crate) mod pair;
pub(crate) mod target;

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_io::{Async, Timer};
use async_tungstenite::WebSocketStream;
use async_tungstenite::tungstenite::Message;
use async_tungstenite::tungstenite::client::IntoClientRequest;
use async_tungstenite::tungstenite::http::HeaderValue;
use async_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use async_tungstenite::tungstenite::protocol::WebSocketConfig;
use futures_lite::{FutureExt, StreamExt};
use futures_rustls::TlsConnector;
use futures_rustls::client::TlsStream;
use rustls::ClientConfig;
use soft_kvm_protocol::control::{
    CONTROL_PATH, FromClient, FromServer, MAX_MESSAGE, PROTOCOL_VERSION, SUBPROTOCOL, Welcome,
};
use soft_kvm_protocol::media::SrtpKeys;
use soft_kvm_protocol::pairing::HexBytes;
use soft_kvm_security::{Fingerprint, Identity, tls};

use target::Target;

/// Time for one address to answer completely.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A WebSocket on a client-side TLS connection.
pub(crate) type Socket = WebSocketStream<TlsStream<Async<TcpStream>>>;

/// An open control channel with its session.
pub(crate) struct Connection {
    /// Messages both ways.
    pub(crate) socket: Socket,
    /// The session as the server set it up.
    pub(crate) welcome: Welcome,
    /// Keys of the session's media.
    pub(crate) keys: SrtpKeys,
    /// Where the server was reached.
    pub(crate) address: SocketAddr,
}

/// Connects to a paired server and greets it.
///
/// # Errors
/// In words for the person at the seat: nobody answers, another key answers, not paired, other version.
pub(crate) async fn open(
    identity: &Identity,
    pins: &[Fingerprint],
    address: SocketAddr,
    name: &str,
) -> anyhow::Result<Connection> {
    let limit = async {
        Timer::after(CONNECT_TIMEOUT).await;
        bail!(
            "{address}: no complete answer within {} s",
            CONNECT_TIMEOUT.as_secs()
        )
    };
    open_now(identity, pins, address, name).or(limit).await
}

/// [`open`]s the first of a server's addresses that answers.
///
/// # Errors
/// The last address's, or there is none.
pub(crate) async fn open_first(
    identity: &Identity,
    target: &Target,
    addresses: Vec<SocketAddr>,
    name: &str,
) -> anyhow::Result<Connection> {
    let mut failure = anyhow::anyhow!("{} has no address", target.text);
    for address in addresses {
        match open(identity, &target.pins, address, name).await {
            Ok(connection) => return Ok(connection),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn open_now(
    identity: &Identity,
    pins: &[Fingerprint],
    address: SocketAddr,
    name: &str,
) -> anyhow::Result<Connection> {
    let mut socket = websocket(tls::client_config(identity, pins)?, address, CONTROL_PATH).await?;
    let hello = FromClient::Hello {
        version: PROTOCOL_VERSION,
        name: name.to_owned(),
    };
    send(&mut socket, &hello).await?;
    let welcome = match receive(&mut socket).await? {
        FromServer::Welcome(welcome) => welcome,
        FromServer::Error { code, message } => bail!("{address}: {message} ({code})"),
        other => bail!("{address}: the server's first message is no welcome: {other:?}"),
    };
    if welcome.version != PROTOCOL_VERSION {
        bail!(
            "{address}: the server speaks protocol {}, this client {PROTOCOL_VERSION}: update the older one",
            welcome.version
        );
    }
    let session = HexBytes::<16>::parse(&welcome.session).context("the server's session id")?;
    let keys = tls::export_srtp_keys(socket.get_ref().get_ref().1, &session.0)?;
    let keys = SrtpKeys::from_exporter(&keys);
    Ok(Connection {
        socket,
        welcome,
        keys,
        address,
    })
}

/// Opens a WebSocket on `path` of the server.
pub(crate) async fn websocket(
    config: Arc<ClientConfig>,
    address: SocketAddr,
    path: &str,
) -> anyhow::Result<Socket> {
    let stream = Async::<TcpStream>::connect(address)
        .await
        .with_context(|| format!("{address}: no soft-kvm-server answers"))?;
    stream.get_ref().set_nodelay(true)?;
    let stream = TlsConnector::from(config)
        .connect(tls::server_name(), stream)
        .await
        .map_err(|error| explain_tls(address, &error))?;
    let mut request = format!("wss://soft-kvm.local{path}").into_client_request()?;
    request.headers_mut().insert(
        SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_static(SUBPROTOCOL),
    );
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .write_buffer_size(0)
        .max_write_buffer_size(4 * MAX_MESSAGE);
    let (socket, _) = async_tungstenite::client_async_with_config(request, stream, Some(config))
        .await
        .map_err(|error| explain_refusal(address, error))?;
    Ok(socket)
}

/// Sends one message.
pub(crate) async fn send(socket: &mut Socket, message: &FromClient) -> anyhow::Result<()> {
    socket
        .send(Message::text(serde_json::to_string(message)?))
        .await?;
    Ok(())
}

/// Reads the next text message.
async fn receive(socket: &mut Socket) -> anyhow::Result<FromServer> {
    while let Some(message) = socket.next().await {
        if let Message::Text(text) = message? {
            return serde_json::from_str(&text)
                .context("a message of the server is not understood");
        }
    }
    bail!("the server closed the connection")
}

fn explain_tls(address: SocketAddr, error: &std::io::Error) -> anyhow::Error {
    let tls_error = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls_error {
        Some(rustls::Error::InvalidCertificate(_)) => anyhow::anyhow!(
            "{address}: another key answers than the one that was paired. If the server was set up anew, pair again; \
             otherwise somebody answers in its place"
        ),
        Some(other) => anyhow::anyhow!("{address}: TLS: {other}"),
        None => anyhow::anyhow!("{address}: {error}"),
    }
}

fn explain_refusal(
    address: SocketAddr,
    error: async_tungstenite::tungstenite::Error,
) -> anyhow::Error {
    use async_tungstenite::tungstenite::Error;

    match error {
        Error::Http(response) => {
            let body = response.body().as_deref().unwrap_or_default();
            let text: String = String::from_utf8_lossy(body)
                .chars()
                .filter(|c| !c.is_control())
                .take(200)
                .collect();
            anyhow::anyhow!(
                "{address}: refused ({}): {text}",
                response.status().as_u16()
            )
        }
        other => anyhow::anyhow!("{address}: {other}"),
    }
}
