//! A Wayland compositor without a screen.

use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use tempfile::TempDir;

use crate::media::Rgb;
use crate::process::{Process, until};
use crate::stage::Stage;

const SOCKET: &str = "soft-kvm-test";

/// A running Weston that composes in memory; windows open on its desktop of 1024x640.
#[derive(Debug)]
pub struct Weston {
    runtime: TempDir,
    process: Process,
}

impl Weston {
    /// Starts one with a runtime folder of its own.
    ///
    /// # Errors
    /// It does not listen within 20 s.
    pub fn start(stage: &Stage) -> anyhow::Result<Self> {
        // Mode 0700: it takes no folder that others may write to.
        let runtime = tempfile::tempdir_in(stage.folder())?;
        let mut command = Command::new("weston");
        command
            .env("XDG_RUNTIME_DIR", runtime.path())
            .env_remove("WAYLAND_DISPLAY")
            .env_remove("DISPLAY")
            // Only with --debug other programs may take pictures of the screen.
            .args(["--backend=headless-backend.so", "--use-pixman", "--debug"])
            .args(["--no-config", "--idle-time=0", "--socket", SOCKET]);
        let process = stage.start("weston", &mut command)?;
        let socket = runtime.path().join(SOCKET);
        until("Weston listens", Duration::from_secs(20), || {
            Ok(socket.exists())
        })
        .with_context(|| process.stderr())?;
        Ok(Self { runtime, process })
    }

    /// Whether it still runs: Weston 10 reads beyond a window's buffer now and then, and crashes (in pixman).
    ///
    /// # Errors
    /// The system does not tell.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        self.process.is_running()
    }

    /// Makes a command use this compositor, and no X server.
    pub fn on<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        self.socket_on(command).env_remove("DISPLAY")
    }

    /// Makes a command use this compositor besides what it uses.
    pub fn socket_on<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("XDG_RUNTIME_DIR", self.runtime.path())
            .env("WAYLAND_DISPLAY", SOCKET)
    }

    /// What is on the screen, as Weston's own program for it says.
    ///
    /// # Errors
    /// It took none.
    pub fn picture(&self, stage: &Stage) -> anyhow::Result<Rgb> {
        let folder = tempfile::tempdir_in(stage.folder())?;
        let mut command = Command::new("weston-screenshooter");
        self.on(command.current_dir(folder.path()));
        stage
            .run("screenshooter", Duration::from_secs(10), &mut command)?
            .success()?;
        let mut files = std::fs::read_dir(folder.path())?;
        let file = files.next().context("no picture was written")??;
        Rgb::read_png(&file.path())
    }
}
