//! Where one test plays: a folder, and everything that was started in it.

use std::cell::Cell;
use std::fmt::Write as _;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use tempfile::TempDir;

use crate::process::{Ended, Process};

/// Lines of each output that are shown when a test fails.
const SHOWN: usize = 30;

/// One test's folder.
#[derive(Debug)]
pub struct Stage {
    folder: TempDir,
    started: Cell<u32>,
}

impl Stage {
    /// # Errors
    /// No temporary folder can be made.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {
            folder: tempfile::Builder::new()
                .prefix("soft-kvm-test-")
                .tempdir()?,
            started: Cell::new(0),
        })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A file in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file with this text.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.file(name);
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// Starts a process whose outputs are kept here.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&self, name: &str, command: &mut Command) -> anyhow::Result<Process> {
        let number = self.started.replace(self.started.get() + 1);
        Process::start(
            self.folder(),
            &format!("{number:02}-{name}"),
            command.env("LC_ALL", "C.UTF-8"),
        )
    }

    /// Starts a process and waits for its end.
    ///
    /// # Errors
    /// It cannot be started, or still runs after `limit`.
    pub fn run(&self, name: &str, limit: Duration, command: &mut Command) -> anyhow::Result<Ended> {
        self.start(name, command)?.wait(limit)
    }

    /// The ends of all outputs, for the report of a failed test.
    #[must_use]
    pub fn outputs(&self) -> String {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.folder())
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "out" || extension == "err")
            })
            .collect();
        files.sort();
        let mut text = String::new();
        for file in files {
            let bytes = std::fs::read(&file).unwrap_or_default();
            let output = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = output.lines().collect();
            if lines.is_empty() {
                continue;
            }
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            // Writing to a String cannot fail.
            let _ = writeln!(text, "--- {name}");
            let shown = lines.len().saturating_sub(SHOWN);
            for line in lines.into_iter().skip(shown) {
                let _ = writeln!(text, "  | {line}");
            }
        }
        text
    }
}

/// Two UDP ports that follow each other, the first even, free a moment ago (RFC 3550 §11).
///
/// # Errors
/// None was found.
pub fn port_pair() -> anyhow::Result<u16> {
    for _ in 0..100 {
        let first = UdpSocket::bind("127.0.0.1:0")?;
        let port = first.local_addr()?.port();
        if port % 2 == 0 && UdpSocket::bind(("127.0.0.1", port + 1)).is_ok() {
            return Ok(port);
        }
    }
    anyhow::bail!("no two free ports in a row")
}
