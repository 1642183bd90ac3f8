//! Accepts connections, and sends each request where its key may go.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use async_executor::Executor;
use async_io::{Async, Timer};
use futures_lite::FutureExt;
use futures_rustls::TlsAcceptor;
use futures_rustls::rustls::CommonState;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use smol_hyper::rt::FuturesIo;
use soft_kvm_core::MonoTime;
use soft_kvm_monitoring::{ConnectStage, RefusedConnection};
use soft_kvm_platform::os::clock;
use soft_kvm_protocol::control::{CONTROL_PATH, PAIR_PATH};
use soft_kvm_security::audit::Event;
use soft_kvm_security::{Fingerprint, tls as keys};

use super::door::{Door, Place};
use super::websocket;
use super::{pair, session};
use crate::audit::Strangers;
use crate::context::Context;

/// Time from accepting a connection to its first complete request.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Accepts connections for ever. Errors of one connection end that connection only.
pub(super) async fn serve(
    executor: Arc<Executor<'static>>,
    listener: Async<TcpListener>,
    acceptor: TlsAcceptor,
    door: Arc<Door>,
    context: Arc<Context>,
) -> Infallible {
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // No descriptor or no memory left: wait until sessions give some back.
                tracing::warn!(%error, "cannot accept a connection");
                Timer::after(Duration::from_millis(100)).await;
                continue;
            }
        };
        let place = stream.get_ref().local_addr().ok().and_then(|local| {
            let story = context.story();
            door.enter(local, remote, story.control())
        });
        let Some(place) = place.map(Arc::new) else {
            continue;
        };
        let (acceptor, context) = (acceptor.clone(), Arc::clone(&context));
        let tasks = Arc::clone(&executor);
        executor
            .spawn(async move {
                let held = Arc::clone(&place);
                let outcome = connection(tasks, stream, remote, acceptor, context, place)
                    .or(lost(&held))
                    .or(async {
                        Timer::after(HANDSHAKE_TIMEOUT).await;
                        Err(anyhow::anyhow!(
                            "no request within {} s",
                            HANDSHAKE_TIMEOUT.as_secs()
                        ))
                    })
                    .await;
                if let Err(error) = outcome {
                    tracing::debug!(%remote, "connection closed: {error:#}");
                }
            })
            .detach();
    }
}

/// Ends when the connection has to make room at the door.
async fn lost<T>(place: &Place) -> anyhow::Result<T> {
    place.is_lost().await;
    anyhow::bail!("its place at the door went to another host")
}

/// One connection up to its upgrade or its last plain answer.
async fn connection(
    tasks: Arc<Executor<'static>>,
    stream: Async<TcpStream>,
    remote: SocketAddr,
    acceptor: TlsAcceptor,
    context: Arc<Context>,
    place: Arc<Place>,
) -> anyhow::Result<()> {
    // Control messages and clock probes are small and must not wait for each other (Nagle).
    stream.get_ref().set_nodelay(true)?;
    let accepted = clock::now();
    let tls = acceptor.accept(stream).await?;
    context
        .metrics
        .connection_time(ConnectStage::Tls)
        .observe(clock::now().since(accepted));
    let key = keys::peer_fingerprint(tls.get_ref().1)
        .ok_or_else(|| anyhow::anyhow!("the client showed no key"))?;
    follow(key, tls.get_ref().1, remote, &context);
    let service = service_fn(move |request| {
        let response = route(
            &tasks,
            request,
            &Peer {
                remote,
                key,
                accepted,
                place: &place,
            },
            &context,
        );
        async move { Ok::<_, Infallible>(response) }
    });
    hyper::server::conn::http1::Builder::new()
        .max_buf_size(16 * 1024)
        .serve_connection(FuturesIo::new(tls), service)
        .with_upgrades()
        .await?;
    Ok(())
}

/// A client that was paired with an earlier key is known by its new one from now on.
fn follow(key: Fingerprint, connection: &CommonState, remote: SocketAddr, context: &Context) {
    let before = keys::peer_predecessors(connection);
    match context.peers.follow(&before, key) {
        Ok(Some((peer, before))) => {
            tracing::info!(client = %peer.name, key = key.short(), before = before.short(), "a new key, which the old one vouches for");
            context.audit.record(Event::KeyFollowed {
                client: peer.name.to_string(),
                key: key.to_string(),
                before: before.to_string(),
                remote: remote.to_string(),
            });
        }
        Ok(None) => {}
        Err(error) => tracing::error!(%error, "cannot read the paired clients"),
    }
}

/// Who asks, and since when.
struct Peer<'a> {
    remote: SocketAddr,
    key: Fingerprint,
    accepted: MonoTime,
    place: &'a Arc<Place>,
}

fn route(
    tasks: &Arc<Executor<'static>>,
    mut request: Request<Incoming>,
    &Peer {
        remote,
        key,
        accepted,
        place,
    }: &Peer<'_>,
    context: &Arc<Context>,
) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is understood");
    }
    let path = request.uri().path();
    let pairing = path == PAIR_PATH;
    if !pairing {
        match context.peers.find(&key) {
            Ok(Some(_)) => place.is_known(),
            Ok(None) => {
                context
                    .metrics
                    .count_refused_connection(RefusedConnection::Unpaired);
                tracing::warn!(%remote, key = key.short(), "refused: this key is not paired");
                context
                    .audit
                    .record_stranger(Strangers::Refused, |more| Event::Refused {
                        key: key.to_string(),
                        remote: remote.to_string(),
                        more,
                    });
                return plain(
                    StatusCode::FORBIDDEN,
                    "not paired: run soft-kvm-client pair",
                );
            }
            Err(error) => {
                tracing::error!(%error, "cannot read the paired clients");
                return plain(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the server cannot read its paired clients",
                );
            }
        }
        if path != CONTROL_PATH {
            return plain(StatusCode::NOT_FOUND, "no such path");
        }
    }
    match websocket::accept(&request) {
        Ok(response) => {
            let upgrade = hyper::upgrade::on(&mut request);
            let context = Arc::clone(context);
            // A stranger who pairs is at the door until that is done.
            let place = pairing.then(|| Arc::clone(place));
            tasks
                .spawn(async move {
                    let outcome = match (websocket::upgraded(upgrade).await, &place) {
                        (Ok(socket), Some(place)) => {
                            let paired = pair::run(socket, remote, key, &context)
                                .or(lost(place))
                                .await;
                            if paired.is_ok() {
                                place.is_known();
                            }
                            paired
                        }
                        (Ok(socket), None) => {
                            session::run(socket, remote, key, accepted, &context).await
                        }
                        (Err(error), _) => Err(error),
                    };
                    if let Err(error) = outcome {
                        tracing::info!(%remote, key = key.short(), "{error:#}");
                    }
                })
                .detach();
            response
        }
        Err((status, why)) => plain(status, why),
    }
}

/// A short text answer.
pub(super) fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
