//! Processes that end with the test, and whose output is kept.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

/// Time between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(20);

/// A running process; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// A process that has ended.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Ended {
    /// Both outputs, standard error first.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}{}", self.stderr, self.stdout)
    }

    /// # Errors
    /// The process failed.
    pub fn success(self) -> anyhow::Result<Self> {
        if !self.status.success() {
            bail!("{}:\n{}", self.status, self.text());
        }
        Ok(self)
    }

    /// # Errors
    /// The process did not fail by itself (with an exit status), or did not say one of `words`.
    pub fn refuses(self, words: &[&str]) -> anyhow::Result<Self> {
        let text = self.text();
        match self.status.code() {
            Some(0) | None => bail!("it should have failed, but: {}:\n{text}", self.status),
            Some(101) => bail!("it panicked:\n{text}"),
            Some(_) => {}
        }
        for word in words {
            if !text.contains(word) {
                bail!("it does not say {word:?}:\n{text}");
            }
        }
        Ok(self)
    }
}

impl Process {
    /// Starts it with its outputs going to `NAME.out` and `NAME.err` of `folder`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(folder: &Path, name: &str, command: &mut Command) -> anyhow::Result<Self> {
        let stdout = folder.join(format!("{name}.out"));
        let stderr = folder.join(format!("{name}.err"));
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&stdout)?)
            .stderr(File::create(&stderr)?)
            .spawn()
            .with_context(|| format!("starting {name} ({:?})", command.get_program()))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            stdout,
            stderr,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// What it wrote to standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// The operating system's.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It has ended already.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let id = Pid::from_raw(self.child.id().try_into()?);
        signal::kill(id, signal).with_context(|| format!("{} to {}", signal, self.name))
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// It still runs after `limit`.
    pub fn wait(mut self, limit: Duration) -> anyhow::Result<Ended> {
        let mut status = None;
        until(&format!("{} ends", self.name), limit, || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })?;
        Ok(Ended {
            status: status.context("an ended process has a status")?,
            stdout: self.stdout(),
            stderr: self.stderr(),
        })
    }

    /// Asks it to stop as Ctrl-C does, and waits.
    ///
    /// # Errors
    /// It goes on for more than 5 s.
    pub fn interrupt(self) -> anyhow::Result<Ended> {
        self.signal(Signal::SIGINT)?;
        self.wait(Duration::from_secs(5))
    }

    /// Waits until it has written `words` to standard error.
    ///
    /// # Errors
    /// It has not within `limit`.
    pub fn says(&self, words: &str, limit: Duration) -> anyhow::Result<()> {
        until(&format!("{} says {words:?}", self.name), limit, || {
            Ok(self.stderr().contains(words))
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks until it is so.
///
/// # Errors
/// It is not so within `limit`, or looking failed.
pub fn until(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let end = Instant::now() + limit;
    while !look()? {
        if Instant::now() >= end {
            bail!("waited {} s in vain until {what}", limit.as_secs());
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

fn read(path: &Path) -> String {
    std::fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}
