//! Our own two programs as processes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use crate::process::{Ended, Process, until};
use crate::stage::Stage;

/// Time for a program to start, with a machine that is busy with other things.
pub const START: Duration = Duration::from_secs(10);

/// The test card in a size that no processor minds.
pub const TESTCARD: &[&str] = &["--source", "testcard", "--size", "640x360"];

/// A running `soft-kvm-server`.
#[derive(Debug)]
pub struct Server {
    /// Its process.
    pub process: Process,
    /// Its state folder.
    pub state: PathBuf,
    ready: Value,
}

impl Server {
    /// Starts one on free ports of loopback, without mDNS, with the state folder `server`.
    ///
    /// # Errors
    /// It is not ready within 10 s.
    pub fn start(stage: &Stage, words: &[&str]) -> anyhow::Result<Self> {
        let mut command = server_command(stage, "server")?;
        command
            .args(["--listen", "127.0.0.1", "--no-discovery"])
            .args(words);
        Self::ready(stage, "server", command)
    }

    /// Starts a prepared command.
    ///
    /// # Errors
    /// It is not ready within 10 s.
    pub fn ready(stage: &Stage, name: &str, mut command: Command) -> anyhow::Result<Self> {
        let file = stage.file(&format!("{name}-ready.json"));
        // One of a server before.
        let _ = std::fs::remove_file(&file);
        command.arg("--ready-file").arg(&file);
        let mut process = stage.start(name, &mut command)?;
        until("the server is ready", START, || {
            anyhow::ensure!(
                process.is_running()?,
                "the server ended: {}",
                process.stderr()
            );
            Ok(file.exists())
        })?;
        Ok(Self {
            process,
            state: stage.file(name),
            ready: serde_json::from_slice(&std::fs::read(file)?)?,
        })
    }

    /// Its TCP port, and the number of its UDP port, too.
    ///
    /// # Errors
    /// The ready file does not have it.
    pub fn port(&self) -> anyhow::Result<u16> {
        self.number("port")
    }

    /// The port of `/metrics`.
    ///
    /// # Errors
    /// The ready file does not have it.
    pub fn metrics_port(&self) -> anyhow::Result<u16> {
        self.number("metrics_port")
    }

    /// `127.0.0.1:PORT`.
    ///
    /// # Errors
    /// The ready file does not have it.
    pub fn address(&self) -> anyhow::Result<String> {
        Ok(format!("127.0.0.1:{}", self.port()?))
    }

    /// A text of the ready file.
    ///
    /// # Errors
    /// The ready file does not have it.
    pub fn text(&self, key: &str) -> anyhow::Result<&str> {
        let value = self.ready.get(key).and_then(Value::as_str);
        value.with_context(|| format!("the ready file has no {key}: {}", self.ready))
    }

    fn number(&self, key: &str) -> anyhow::Result<u16> {
        let value = self.ready.get(key).and_then(Value::as_u64);
        let value =
            value.with_context(|| format!("the ready file has no {key}: {}", self.ready))?;
        Ok(value.try_into()?)
    }

    /// Pairs the client with the state folder `client`.
    ///
    /// # Errors
    /// Pairing failed.
    pub fn pair(&self, stage: &Stage) -> anyhow::Result<()> {
        self.pair_as(stage, "client")?.success()?;
        Ok(())
    }

    /// Tries to pair the client with this state folder.
    ///
    /// # Errors
    /// The client cannot be started, or does not end.
    pub fn pair_as(&self, stage: &Stage, client: &str) -> anyhow::Result<Ended> {
        let mut command = client_command(stage, client, &["pair", &self.address()?])?;
        command.args(["--code", self.text("pairing_code")?]);
        stage.run(&format!("{client}-pair"), START, &mut command)
    }

    /// A command of the paired client: `--server ADDRESS WORDS…`.
    ///
    /// # Errors
    /// The client's binary is missing.
    pub fn client(&self, stage: &Stage, words: &[&str]) -> anyhow::Result<Command> {
        let address = self.address()?;
        client_command(stage, "client", &[&["--server", &address], words].concat())
    }

    /// A command of the paired client that shows nothing, and gives up when the connection is lost.
    ///
    /// # Errors
    /// The client's binary is missing.
    pub fn watch(&self, stage: &Stage, seconds: u32, words: &[&str]) -> anyhow::Result<Command> {
        let seconds = seconds.to_string();
        let fixed = ["--view", "none", "--once", "--seconds", &seconds];
        self.client(stage, &[&fixed, words].concat())
    }

    /// What `/metrics` says.
    ///
    /// # Errors
    /// It does not answer.
    pub fn metrics(&self) -> anyhow::Result<String> {
        let (head, body) = crate::media::http_get(self.metrics_port()?, "/metrics")?;
        anyhow::ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
        Ok(body)
    }
}

/// `soft-kvm-server` with the state folder `name` and free ports.
///
/// # Errors
/// Its binary is missing.
pub fn server_command(stage: &Stage, name: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(binary("soft-kvm-server")?);
    command.arg("--state-dir").arg(stage.file(name));
    command.args(["--port", "0", "--metrics-port", "0"]);
    Ok(command)
}

/// `soft-kvm-client WORDS… --state-dir NAME`.
///
/// # Errors
/// Its binary is missing.
pub fn client_command(stage: &Stage, name: &str, words: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(binary("soft-kvm-client")?);
    command.args(words).arg("--state-dir").arg(stage.file(name));
    Ok(command)
}

/// Names the folder with the programs to test, as for the benchmarks.
const READY: &str = "SOFT_KVM_PROGRAMS";

/// One of our programs: in the folder that `SOFT_KVM_PROGRAMS` names, else built beside this test.
///
/// # Errors
/// It is not there.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    if let Some(folder) = std::env::var_os(READY) {
        let path = PathBuf::from(folder).join(name);
        anyhow::ensure!(path.exists(), "{} is not there ({READY})", path.display());
        return Ok(path);
    }
    let test = std::env::current_exe().context("asking for this binary's path")?;
    let folder = test.parent().and_then(Path::parent);
    let path = folder
        .context("this binary lies in no target folder")?
        .join(name);
    anyhow::ensure!(
        path.exists(),
        "{} is not built: run cargo build -p {name}",
        path.display()
    );
    Ok(path)
}

/// `command` as `WRAPPER WORDS… PROGRAM …`, e.g. in a network namespace.
#[must_use]
pub fn wrapped(wrapper: &[&str], command: &Command) -> Command {
    let mut words = wrapper.iter().map(OsString::from);
    let mut outer = Command::new(words.next().unwrap_or_else(|| "env".into()));
    outer
        .args(words)
        .arg(command.get_program())
        .args(command.get_args());
    outer
}

/// The JSON that a program wrote.
///
/// # Errors
/// There is none.
pub fn json(path: &Path) -> anyhow::Result<Value> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// A number in the JSON that a program wrote, e.g. `/frames/decoded`.
///
/// # Errors
/// It has none there.
pub fn number(json: &Value, pointer: &str) -> anyhow::Result<f64> {
    let value = json.pointer(pointer).and_then(Value::as_f64);
    value.with_context(|| format!("no number at {pointer} in {json}"))
}
