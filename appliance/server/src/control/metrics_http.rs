//! `/metrics` for Prometheus: plain HTTP, on loopback unless the story says otherwise.

use std::convert::Infallible;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use async_executor::Executor;
use async_io::{Async, Timer};
use futures_lite::FutureExt;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use smol_hyper::rt::FuturesIo;
use soft_kvm_monitoring::Metrics;

use super::listener::plain;

/// Longest life of one scrape connection.
const IDLE: Duration = Duration::from_secs(120);
/// Scrape connections at once; more are closed.
const MAX_SCRAPES: usize = 16;

/// Answers scrapes for ever.
pub async fn serve(
    executor: Arc<Executor<'static>>,
    listener: Async<TcpListener>,
    metrics: Arc<Metrics>,
) -> Infallible {
    // A connection holds a clone; what is left beside the first is how many there are.
    let open = Arc::new(());
    loop {
        match listener.accept().await {
            Ok(_) if Arc::strong_count(&open) > MAX_SCRAPES => {
                tracing::debug!("too many scrape connections at once: closed");
            }
            Ok((stream, _)) => {
                let (metrics, place) = (Arc::clone(&metrics), Arc::clone(&open));
                executor
                    .spawn(async move {
                        let _place = place;
                        if let Err(error) = connection(stream, metrics).await {
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

async fn connection(stream: Async<TcpStream>, metrics: Arc<Metrics>) -> anyhow::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(&request, &metrics);
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

fn answer(request: &Request<Incoming>, metrics: &Metrics) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "the metrics are at /metrics");
    }
    let mut response = Response::new(Full::from(metrics.render()));
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
    );
    response
}
