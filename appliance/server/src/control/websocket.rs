//! From an HTTP request to a WebSocket on the same TLS connection (RFC 6455 §4.2).

use async_io::Async;
use async_tungstenite::WebSocketStream;
use async_tungstenite::tungstenite::Error;
use async_tungstenite::tungstenite::handshake::derive_accept_key;
use async_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use async_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use futures_rustls::server::TlsStream;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Request, Response, StatusCode};
use smol_hyper::rt::FuturesIo;

use soft_kvm_protocol::control::{MAX_MESSAGE, SUBPROTOCOL};

/// A server-side TLS connection.
pub(crate) type Tls = TlsStream<Async<std::net::TcpStream>>;

/// A WebSocket on a server-side TLS connection.
pub(crate) type Socket = WebSocketStream<Tls>;

/// The answer that accepts the upgrade, or status and reason of the refusal.
pub(crate) fn accept<B>(
    request: &Request<B>,
) -> Result<Response<Full<Bytes>>, (StatusCode, &'static str)> {
    let headers = request.headers();
    // A browser names the page that asks. This server has no pages, so it is another site's.
    if headers.contains_key(ORIGIN) {
        return Err((StatusCode::FORBIDDEN, "web pages are not let in"));
    }
    answer(headers).map_err(|why| (StatusCode::BAD_REQUEST, why))
}

fn answer(headers: &HeaderMap) -> Result<Response<Full<Bytes>>, &'static str> {
    if !has_token(headers, &UPGRADE, "websocket") || !has_token(headers, &CONNECTION, "upgrade") {
        return Err("this path is a WebSocket");
    }
    if headers
        .get(SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        return Err("Sec-WebSocket-Version has to be 13");
    }
    if !has_token(headers, &SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
        return Err("Sec-WebSocket-Protocol has to be soft-kvm.v1");
    }
    let key = headers
        .get(SEC_WEBSOCKET_KEY)
        .ok_or("Sec-WebSocket-Key is missing")?;
    let accepted = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|_| "Sec-WebSocket-Key is malformed")?;
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accepted);
    headers.insert(
        SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_static(SUBPROTOCOL),
    );
    Ok(response)
}

/// Waits until the answer is out, and takes the connection over.
pub(crate) async fn upgraded(upgrade: hyper::upgrade::OnUpgrade) -> anyhow::Result<Socket> {
    let upgraded = upgrade.await?;
    let parts = upgraded
        .downcast::<FuturesIo<Tls>>()
        .map_err(|_| anyhow::anyhow!("the upgraded connection is not the one that was accepted"))?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .write_buffer_size(0)
        .max_write_buffer_size(4 * MAX_MESSAGE);
    Ok(WebSocketStream::from_partially_read(
        parts.io.into_inner(),
        parts.read_buf.to_vec(),
        Role::Server,
        Some(config),
    )
    .await)
}

/// With what the connection is closed after this error.
pub(super) fn farewell(error: &anyhow::Error) -> Option<CloseFrame> {
    match error.downcast_ref() {
        Some(Error::Capacity(what)) => Some(CloseFrame {
            code: CloseCode::Size,
            reason: what.to_string().into(),
        }),
        _ => None,
    }
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(origin: Option<&str>) -> Result<StatusCode, (StatusCode, &'static str)> {
        let mut request = Request::builder()
            .uri("/control")
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL)
            .header(SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==");
        if let Some(origin) = origin {
            request = request.header(ORIGIN, origin);
        }
        let request = request.body(()).expect("a request");
        accept(&request).map(|response| response.status())
    }

    #[test]
    fn a_page_in_a_browser_is_refused() {
        assert_eq!(status(None), Ok(StatusCode::SWITCHING_PROTOCOLS));
        for page in ["https://evil.example", "null", "https://192.168.1.5:7755"] {
            let refused = status(Some(page)).map_err(|(status, _)| status);
            assert_eq!(refused, Err(StatusCode::FORBIDDEN), "{page}");
        }
    }
}
