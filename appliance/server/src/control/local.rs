//! The local control socket in the state folder: through it the server's own user asks for a pairing code and manages the
//! paired clients.
//!
//! One line of JSON in, one out. The folder has mode 0700, so the kernel checks who asks.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_executor::Executor;
use async_io::{Async, Timer};
use futures_lite::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use futures_lite::{FutureExt, StreamExt};
use soft_kvm_platform::os::clock;
use soft_kvm_protocol::roles::{ClientsAnswer, ClientsRequest};
use soft_kvm_security::audit::AuditLog;
use soft_kvm_security::policy::By;
use soft_kvm_security::{PeerStore, StateDir};
use soft_kvm_service::console;

use super::clients;
use crate::context::Context;

/// Most bytes of a request.
const MAX_REQUEST: u64 = 4_096;

/// Where the socket of the server with this state folder lies.
#[must_use]
pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("control.sock")
}

/// Binds the socket; one left behind by a server that was killed is replaced.
///
/// # Errors
/// Another server runs with the same state folder, or the folder cannot be written.
pub fn bind(state_dir: &Path) -> anyhow::Result<UnixListener> {
    let path = path(state_dir);
    if UnixStream::connect(&path).is_ok() {
        anyhow::bail!(
            "another soft-kvm-server runs with the state folder {}",
            state_dir.display()
        );
    }
    match std::fs::remove_file(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot replace {}", path.display()));
        }
    }
    UnixListener::bind(&path).with_context(|| format!("cannot make {}", path.display()))
}

/// Answers for ever.
pub async fn serve(
    executor: Arc<Executor<'static>>,
    listener: Async<UnixListener>,
    context: Arc<Context>,
) {
    let mut incoming = Box::pin(listener.incoming());
    while let Some(stream) = incoming.next().await {
        let Ok(stream) = stream else {
            Timer::after(Duration::from_millis(100)).await;
            continue;
        };
        let context = Arc::clone(&context);
        executor
            .spawn(async move {
                let limit = async {
                    Timer::after(Duration::from_secs(2)).await;
                    Err(std::io::ErrorKind::TimedOut.into())
                };
                if let Err(error) = answer(stream, &context).or(limit).await {
                    tracing::debug!(%error, "local control socket");
                }
            })
            .detach();
    }
}

async fn answer(stream: Async<UnixStream>, context: &Context) -> std::io::Result<()> {
    let (reader, mut writer) = futures_lite::io::split(stream);
    let mut line = String::new();
    BufReader::new(reader.take(MAX_REQUEST))
        .read_line(&mut line)
        .await?;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => clients::answer(context, By::Console, &request),
        Err(error) => ClientsAnswer::Refused(format!("the request is not understood: {error}")),
    };
    let mut text = serde_json::to_string(&answer).map_err(std::io::Error::other)?;
    text.push('\n');
    writer.write_all(text.as_bytes()).await
}

fn nobody(state_dir: &Path) -> anyhow::Error {
    let path = path(state_dir);
    anyhow::anyhow!(
        "no soft-kvm-server of yours answers at {}: start it, or give --state-dir",
        path.display()
    )
}

/// Asks the server about its paired clients, or its state folder while it does not run; blocks.
///
/// # Errors
/// The state folder belongs to another user, or cannot be used.
pub fn ask_about_clients(
    state_dir: &Path,
    request: &ClientsRequest,
) -> anyhow::Result<ClientsAnswer> {
    if let Some(answer) = ask(state_dir, request)? {
        return Ok(answer);
    }
    if matches!(request, ClientsRequest::Pair { .. }) {
        return Err(nobody(state_dir));
    }
    let state = used_state(state_dir)?;
    let peers = PeerStore::open(&state)?;
    let by = By::Console;
    let answer = clients::answer_from_store(&peers, by, request, |_| false);
    if let ClientsAnswer::Done(client) = &answer {
        let at = console::timestamp(clock::wall());
        AuditLog::new(&state).append(&at, &[clients::event(by, request, client)])?;
    }
    Ok(answer)
}

/// Whether a server runs with this state folder.
#[must_use]
pub fn is_running(state_dir: &Path) -> bool {
    UnixStream::connect(path(state_dir)).is_ok()
}

/// The state folder of a server that has run, whether or not it runs now.
///
/// # Errors
/// There is none, or others may write in it.
pub fn used_state(state_dir: &Path) -> anyhow::Result<StateDir> {
    anyhow::ensure!(
        state_dir.is_dir(),
        "{}: no server has run with this state folder: give --state-dir",
        state_dir.display()
    );
    Ok(StateDir::open(state_dir)?)
}

/// The running server's answer; `None` when none runs with this state folder.
fn ask(state_dir: &Path, request: &ClientsRequest) -> anyhow::Result<Option<ClientsAnswer>> {
    use std::io::{BufRead, ErrorKind, Write};

    let path = path(state_dir);
    let mut stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(error)
            if [ErrorKind::NotFound, ErrorKind::ConnectionRefused].contains(&error.kind()) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    stream.write_all((serde_json::to_string(request)? + "\n").as_bytes())?;
    let mut line = String::new();
    std::io::BufReader::new(stream).read_line(&mut line)?;
    serde_json::from_str(&line)
        .map(Some)
        .context("the server's answer is not understood")
}
