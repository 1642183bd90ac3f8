//! A server and its clients on this machine, in a folder of their own that vanishes with them.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

use crate::programs::Programs;
use crate::report::{ClientFigures, ServerFigures};

/// How long the server may take until it listens.
const START: Duration = Duration::from_secs(20);
/// How long a program may take to end after it was asked to.
const END: Duration = Duration::from_secs(10);
/// Time between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(10);

/// What the server's test card shows.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Width and height, e.g. `1920x1080`.
    pub size: String,
    /// Frames in a second.
    pub fps: u32,
    /// `typing`, `scroll`, `motion` or `static`.
    pub content: String,
}

impl Default for Picture {
    fn default() -> Self {
        Self {
            size: "1920x1080".to_owned(),
            fps: 30,
            content: "typing".to_owned(),
        }
    }
}

/// What the server says once it listens.
#[derive(Clone, Debug, Deserialize)]
pub struct Ready {
    /// TCP and UDP port.
    pub port: u16,
    /// Six digits, while pairing is open.
    pub pairing_code: Option<String>,
}

/// Set by Ctrl-C; the programs get the signal from the terminal as well.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Catches SIGINT and SIGTERM.
    ///
    /// # Errors
    /// The operating system's.
    pub fn catch() -> anyhow::Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&flag)).context("catching signals")?;
        }
        Ok(Self(flag))
    }

    /// Whether to end.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A running server with a test card.
#[derive(Debug)]
pub struct Rig {
    programs: Programs,
    folder: tempfile::TempDir,
    server: Process,
    ready: Ready,
    clients: u32,
    console: bool,
}

impl Rig {
    /// Starts a server on free ports and waits until it listens. What it says on the console (name, address,
    /// pairing code as text and QR) is shown or not.
    ///
    /// # Errors
    /// It does not start; its own words are on standard error.
    pub fn start(programs: &Programs, picture: &Picture, console: bool) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("a folder for keys and figures")?;
        let ready_file = folder.path().join("ready.json");
        let mut command = Command::new(&programs.server);
        command
            .args(["--port", "0", "--metrics-port", "0", "--no-discovery"])
            .args(["--source", "testcard", "--size", &picture.size])
            .args(["--fps", &picture.fps.to_string()])
            .args(["--content", &picture.content])
            .args([
                OsString::from("--state-dir"),
                folder.path().join("s").into(),
            ])
            .args([OsString::from("--ready-file"), ready_file.clone().into()])
            .args([
                OsString::from("--stats-json"),
                folder.path().join("s.json").into(),
            ])
            .stdin(Stdio::null());
        if !console {
            command.stdout(Stdio::null());
            quiet(&mut command);
        }
        let mut server = Process::spawn(&mut command)?;
        let started = Instant::now();
        while !ready_file.exists() {
            if let Some(status) = server.child.try_wait()? {
                bail!("soft-kvm-server ended before it listened ({status})");
            }
            ensure!(
                started.elapsed() < START,
                "soft-kvm-server did not listen within {} s",
                START.as_secs()
            );
            std::thread::sleep(LOOK);
        }
        let ready = serde_json::from_slice(&fs::read(&ready_file)?).context("the ready file")?;
        Ok(Self {
            programs: programs.clone(),
            folder,
            server,
            ready,
            clients: 0,
            console,
        })
    }

    /// What the server said once it listened.
    #[must_use]
    pub const fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Where a client connects to.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ready.port)
    }

    /// The server's process.
    #[must_use]
    pub fn server_pid(&self) -> u32 {
        self.server.child.id()
    }

    /// Pairs the client by the code of the ready file.
    ///
    /// # Errors
    /// The client's exit status; its words are on standard error.
    pub fn pair(&self) -> anyhow::Result<()> {
        let code = self.ready.pairing_code.as_deref();
        let code = code.context("the server opened no pairing")?;
        let mut command = Command::new(&self.programs.client);
        command
            .args(["pair", &self.address(), "--code", code])
            .args([
                OsString::from("--state-dir"),
                self.folder.path().join("c").into(),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let status = command.status().context("starting soft-kvm-client")?;
        ensure!(status.success(), "pairing failed ({status})");
        Ok(())
    }

    /// Connects the paired client with further options, e.g. `--view none --seconds 5`.
    ///
    /// # Errors
    /// The program does not start.
    pub fn connect(&mut self, options: &[&str]) -> anyhow::Result<Client> {
        self.clients += 1;
        let figures = self.folder.path().join(format!("c{}.json", self.clients));
        let mut command = Command::new(&self.programs.client);
        command
            .args(["--server", &self.address()])
            .args([
                OsString::from("--state-dir"),
                self.folder.path().join("c").into(),
            ])
            .args([OsString::from("--stats-json"), figures.clone().into()])
            .args(options)
            .stdin(Stdio::null());
        if !self.console {
            quiet(&mut command);
        }
        Ok(Client {
            process: Process::spawn(&mut command)?,
            figures,
        })
    }

    /// Ends the server and reads what it counted.
    ///
    /// # Errors
    /// It failed, or had to be killed.
    pub fn finish(mut self) -> anyhow::Result<ServerFigures> {
        self.server.terminate();
        let status = self.server.wait(Some(END))?;
        ensure!(status.success(), "soft-kvm-server failed ({status})");
        read(&self.folder.path().join("s.json"))
    }
}

/// A running client.
#[derive(Debug)]
pub struct Client {
    process: Process,
    figures: PathBuf,
}

impl Client {
    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// Its exit status, once it has ended.
    ///
    /// # Errors
    /// The operating system's.
    pub fn try_wait(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.process.child.try_wait()?)
    }

    /// Asks it to end, and waits.
    ///
    /// # Errors
    /// It had to be killed.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.process.terminate();
        self.process.wait(Some(END)).map(|_| ())
    }

    /// Waits until it has ended and reads what it measured.
    ///
    /// # Errors
    /// It failed.
    pub fn finish(mut self) -> anyhow::Result<ClientFigures> {
        let status = self.process.wait(None)?;
        ensure!(status.success(), "soft-kvm-client failed ({status})");
        read(&self.figures)
    }
}

/// Leaves out what goes well, unless the user asked for a log.
fn quiet(command: &mut Command) {
    const LOG: &str = "SOFT_KVM_LOG";
    if std::env::var_os(LOG).is_none() {
        command.env(LOG, "error");
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let what = || format!("reading {}", path.display());
    serde_json::from_slice(&fs::read(path).with_context(what)?).with_context(what)
}

/// A child that does not outlive its owner.
#[derive(Debug)]
struct Process {
    child: Child,
}

impl Process {
    fn spawn(command: &mut Command) -> anyhow::Result<Self> {
        let child = command
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().to_string_lossy()))?;
        Ok(Self { child })
    }

    /// SIGTERM, by the shell: the standard library only kills.
    fn terminate(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let script = format!("kill -TERM {}", self.child.id());
            // Should this fail, the wait that follows ends by killing.
            let _ = Command::new("sh").args(["-c", &script]).status();
        }
    }

    fn wait(&mut self, limit: Option<Duration>) -> anyhow::Result<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if limit.is_some_and(|limit| started.elapsed() > limit) {
                self.child.kill()?;
                self.child.wait()?;
                bail!("a program did not end when it was asked to, and was killed");
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // Only after a failure elsewhere, which is what gets reported.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
