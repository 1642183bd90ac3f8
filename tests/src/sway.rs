//! A Wayland compositor without a screen, whose clipboard programs without a window may use.

use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use tempfile::TempDir;

use crate::process::{Process, until};
use crate::stage::Stage;

/// A running Sway, with Xwayland.
#[derive(Debug)]
pub struct Sway {
    runtime: TempDir,
    socket: String,
    display: String,
    _process: Process,
}

impl Sway {
    /// Starts one with a runtime folder of its own.
    ///
    /// # Errors
    /// It does not start programs within 20 s.
    pub fn start(stage: &Stage) -> anyhow::Result<Self> {
        let runtime = tempfile::tempdir_in(stage.folder())?;
        let [config, told] = ["config", "told"].map(|name| runtime.path().join(name));
        // The names of its displays it tells only to what it starts.
        let tell = "echo \"$WAYLAND_DISPLAY $DISPLAY\" > \"$XDG_RUNTIME_DIR/told\"";
        std::fs::write(&config, format!("xwayland enable\nexec {tell}\n"))?;
        let mut command = if nix::unistd::geteuid().is_root() {
            // It does not run as root. It need not know.
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-user=1000", "--map-group=1000", "sway"]);
            command
        } else {
            Command::new("sway")
        };
        command
            .arg("--config")
            .arg(&config)
            .env("XDG_RUNTIME_DIR", runtime.path())
            .env("WLR_BACKENDS", "headless")
            .env("WLR_LIBINPUT_NO_DEVICES", "1")
            .env("WLR_RENDERER", "pixman")
            .env_remove("WAYLAND_DISPLAY")
            .env_remove("DISPLAY");
        let process = stage.start("sway", &mut command)?;
        let mut names = String::new();
        until("Sway is ready", Duration::from_secs(20), || {
            names = std::fs::read_to_string(&told).unwrap_or_default();
            Ok(names.ends_with('\n'))
        })
        .with_context(|| process.stderr())?;
        let (socket, display) = names
            .trim()
            .split_once(' ')
            .context("a display is missing")?;
        Ok(Self {
            socket: socket.to_owned(),
            display: display.to_owned(),
            runtime,
            _process: process,
        })
    }

    /// Makes a command use this session: the compositor, and its Xwayland.
    pub fn on<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("XDG_RUNTIME_DIR", self.runtime.path())
            .env("WAYLAND_DISPLAY", &self.socket)
            .env("DISPLAY", &self.display)
            .env_remove("XAUTHORITY")
    }
}
