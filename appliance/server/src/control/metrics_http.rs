//! `/metrics` for Prometheus: plain HTTP, on loopback unless the story says otherwise.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use async_executor::Executor;
use async_io::{Async, Timer};
use futures_lite::FutureExt;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::http::uri::Authority;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use smol_hyper::rt::FuturesIo;
use soft_kvm_core::story::ControlParams;
use soft_kvm_platform::os::process;

use super::door::Door;
use super::listener::plain;
use crate::context::Context;
use crate::lan;

/// Longest life of one scrape connection.
const IDLE: Duration = Duration::from_secs(120);
/// Scrape connections at once; more are closed.
const MAX_SCRAPES: usize = 16;

/// Answers scrapes for ever, for the same hosts as the control port and for this machine itself.
pub async fn serve(
    executor: Arc<Executor<'static>>,
    listener: Async<TcpListener>,
    context: Arc<Context>,
) -> Infallible {
    let door = Door::new(Arc::clone(&context.metrics));
    // A connection holds a clone; what is left beside the first is how many there are.
    let open = Arc::new(());
    loop {
        match listener.accept().await {
            Ok(_) if Arc::strong_count(&open) > MAX_SCRAPES => {
                tracing::debug!("too many scrape connections at once: closed");
            }
            Ok((stream, remote)) => {
                let Ok(local) = stream.get_ref().local_addr() else {
                    continue;
                };
                let story = context.story();
                if !is_own(remote) && !door.admits(local, remote, story.control()) {
                    continue;
                }
                let ends = (local, remote);
                let (context, place) = (Arc::clone(&context), Arc::clone(&open));
                executor
                    .spawn(async move {
                        let _place = place;
                        if let Err(error) = connection(stream, ends, context).await {
                            tracing::debug!("scrape connection: {error:#}");
                        }
                    })
                    .detach();
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a scrape");
                Timer::after(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(
    stream: Async<TcpStream>,
    (local, remote): (SocketAddr, SocketAddr),
    context: Arc<Context>,
) -> anyhow::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| {
        // The story may have been changed since the connection came.
        let response = if may_read(local, remote, context.story().control()) {
            answer(&request, &context)
        } else {
            plain(StatusCode::FORBIDDEN, "this address is not let in any more")
        };
        async move { Ok::<_, Infallible>(response) }
    });
    hyper::server::conn::http1::Builder::new()
        .max_buf_size(16 * 1024)
        .serve_connection(FuturesIo::new(stream), service)
        .or(async {
            Timer::after(IDLE).await;
            Ok(())
        })
        .await?;
    Ok(())
}

/// Programs of this machine, whatever the story's lists say, and who may come to the control port.
fn may_read(local: SocketAddr, remote: SocketAddr, params: &ControlParams) -> bool {
    is_own(remote) || lan::admit(local, remote, params).is_ok()
}

fn is_own(remote: SocketAddr) -> bool {
    remote.ip().to_canonical().is_loopback()
}

fn answer<B>(request: &Request<B>, context: &Context) -> Response<Full<Bytes>> {
    let names = [process::host_name(), context.name().to_string()];
    if !is_for_us(request, &names) {
        return plain(
            StatusCode::FORBIDDEN,
            "ask by this machine's address or its own name",
        );
    }
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "the metrics are at /metrics");
    }
    let mut response = Response::new(Full::from(context.metrics.render()));
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
    );
    response
}

/// Whether each host that the request names is an address or a name of this machine. A page whose own name has been made to lead
/// here (DNS rebinding) may read what a browser gets under that name, and the browser tells the name.
fn is_for_us<B>(request: &Request<B>, names: &[String]) -> bool {
    let is_ours = |text: &str| {
        text.parse::<Authority>()
            .is_ok_and(|host| is_our_name(host.host(), names))
    };
    let mut hosts = request.headers().get_all(HOST).iter();
    hosts.all(|host| host.to_str().is_ok_and(is_ours))
        && request
            .uri()
            .host()
            .is_none_or(|host| is_our_name(host, names))
}

fn is_our_name(host: &str, names: &[String]) -> bool {
    let address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    if address.parse::<IpAddr>().is_ok() {
        return true;
    }
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let label = host.strip_suffix(".local").unwrap_or(&host);
    host == "localhost" || names.iter().any(|name| name.eq_ignore_ascii_case(label))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_whose_name_was_made_to_lead_here_reads_nothing() {
        let names = ["rack-1".to_owned(), "Bob's box".to_owned()];
        let asks = |host: Option<&str>| {
            let mut request = Request::builder().uri("/metrics");
            if let Some(host) = host {
                request = request.header(HOST, host);
            }
            is_for_us(&request.body(()).expect("a request"), &names)
        };
        for ours in [
            "localhost:9090",
            "LOCALHOST",
            "127.0.0.1:9090",
            "[::1]:9090",
            "[fd00::5]",
            "rack-1:9090",
            "Rack-1.local.:9090",
        ] {
            assert!(asks(Some(ours)), "{ours}");
        }
        assert!(asks(None), "no browser leaves it out");
        for other in [
            "evil.example:9090",
            "rack-1.evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "local",
            "",
            "\u{e4}",
        ] {
            assert!(!asks(Some(other)), "{other}");
        }
        let twice = Request::builder()
            .uri("/metrics")
            .header(HOST, "localhost")
            .header(HOST, "evil.example");
        assert!(!is_for_us(&twice.body(()).expect("a request"), &names));
        let whole = Request::builder().uri("http://evil.example/metrics");
        let whole = whole.header(HOST, "localhost").body(()).expect("a request");
        assert!(!is_for_us(&whole, &names));
    }
}
