//! The keeper: a small process that unplugs the composite of a server that was killed.
//!
//! The host keeps the last report: a key that was down when the server died would repeat until somebody unplugged the
//! cable. A broker sees that its server is gone; a server that makes its gadget itself has this child for it.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use super::configfs;

/// How often the keeper tries: the kernel closes a dead process's files one after the other, and its lock may be later
/// than the pipe.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(5);

/// The server's end. Dropping it ends the keeper.
#[derive(Debug)]
pub(super) struct Keeper {
    pipe: Option<ChildStdin>,
    child: Child,
}

impl Keeper {
    /// Starts `command`, which has to call [`run_keeper`].
    pub(super) fn start(mut command: Command) -> io::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // Ctrl-C at the terminal is for the server alone.
            .process_group(0)
            .spawn()?;
        Ok(Self {
            pipe: child.stdin.take(),
            child,
        })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.pipe = None;
        // It has nothing to remove, and ends at once.
        let _ = self.child.wait();
    }
}

/// The keeper's process, with the server's pipe as standard input: waits for the server's end, and removes the gadget if
/// the server left one.
///
/// # Errors
/// Standard input cannot be read, or the gadget stays.
pub fn run_keeper() -> io::Result<()> {
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    for _ in 0..TRIES {
        configfs::remove_leftovers().map_err(io::Error::other)?;
        if !configfs::is_any_left() {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
    // What is left belongs to a server that lives.
    Ok(())
}
