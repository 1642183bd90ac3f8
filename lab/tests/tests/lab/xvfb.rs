//! An X server without a screen, at which xdotool sits.

use std::process::Command;

use soft_kvm_lab_tests::guest::{self, Process};

use crate::kvm::SOON;

const DISPLAY: &str = ":7";
/// What makes a program use it.
pub(crate) const VARIABLES: &[(&str, &str)] = &[("DISPLAY", DISPLAY), ("WAYLAND_DISPLAY", "")];

/// The running server.
#[derive(Debug)]
pub(crate) struct Xvfb {
    _process: Process,
}

impl Xvfb {
    /// Starts it, with one screen of 1024 by 768.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let words = ["-nolisten", "tcp", "-screen", "0", "1024x768x24"];
        let process = Process::start("xvfb", Command::new("Xvfb").arg(DISPLAY).args(words))?;
        let server = Self { _process: process };
        guest::wait_for("Xvfb", SOON, || {
            server.xdotool(&["getdisplaygeometry"]).ok()
        })?;
        Ok(server)
    }

    /// Another program at it.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("DISPLAY", DISPLAY);
        command
    }

    /// `xdotool WORDS…`; gives what it prints.
    pub(crate) fn xdotool(&self, words: &[&str]) -> anyhow::Result<String> {
        guest::run(self.command("xdotool").args(words))
    }

    /// Waits for the client's window and gives it the focus; its number.
    pub(crate) fn focus_window(&self) -> anyhow::Result<String> {
        let search = ["search", "--onlyvisible", "--name", "Soft KVM"];
        let window = guest::wait_for("the window", SOON, || self.xdotool(&search).ok())?;
        let window = window.trim().to_owned();
        self.xdotool(&["windowfocus", "--sync", &window])?;
        Ok(window)
    }
}
