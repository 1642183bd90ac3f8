//! The local control socket in the state folder: the server's own user asks for a pairing code through it.
//!
//! One line in, one line of JSON out. The folder has mode 0700, so the kernel checks who asks.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_executor::Executor;
use async_io::{Async, Timer};
use futures_lite::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use futures_lite::{FutureExt, StreamExt};
use serde::{Deserialize, Serialize};

use crate::context::Context;

/// What the running server answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The code of the pairing window, six digits.
    Code(String),
    /// Why there is none.
    Error(String),
}

/// Where the socket of the server with this state folder lies.
#[must_use]
pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("control.sock")
}

/// Binds the socket; one left behind by a server that was killed is replaced.
///
/// # Errors
/// Another server runs with the same state folder, or the folder cannot be written.
pub fn bind(state_dir: &Path) -> anyhow::Result<Async<UnixListener>> {
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
    Async::<UnixListener>::bind(path.clone())
        .with_context(|| format!("cannot make {}", path.display()))
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
    BufReader::new(reader.take(64)).read_line(&mut line).await?;
    let answer = match line.trim() {
        "pair" => match context.open_pairing() {
            Ok(code) => Answer::Code(code),
            Err(error) => Answer::Error(error.to_string()),
        },
        other => Answer::Error(format!("unknown request {other:?}")),
    };
    let mut text = serde_json::to_string(&answer).map_err(std::io::Error::other)?;
    text.push('\n');
    writer.write_all(text.as_bytes()).await
}

/// Asks the running server for a pairing code; blocks.
///
/// # Errors
/// No server runs with this state folder, it belongs to another user, or the server refuses.
pub fn ask_for_code(state_dir: &Path) -> anyhow::Result<String> {
    use std::io::{BufRead, Write};

    let path = path(state_dir);
    let mut stream = UnixStream::connect(&path).with_context(|| {
        format!(
            "no soft-kvm-server of yours answers at {}: start it, or give --state-dir",
            path.display()
        )
    })?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    stream.write_all(b"pair\n")?;
    let mut line = String::new();
    std::io::BufReader::new(stream).read_line(&mut line)?;
    match serde_json::from_str(&line).context("the server's answer is not understood")? {
        Answer::Code(code) => Ok(code),
        Answer::Error(error) => anyhow::bail!("{error}"),
    }
}
