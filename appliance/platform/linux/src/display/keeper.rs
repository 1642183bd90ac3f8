//! The keeper: a small process that puts the old picture back when the program that showed ours was killed.
//!
//! It shares the program's open card, and with it the right to the screen, which ends when the last of them has closed it
//! (drm-uapi, "Primary Nodes, DRM Master and Authentication"). So it can restore what the kernel would leave dark.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use drm::control::{Device as ControlDevice, RawResourceHandle, connector, crtc, from_u32};

use super::screen::Card;

/// How long the keeper may take to remember the screen.
const START: Duration = Duration::from_secs(2);
/// It has remembered the screen.
const READY: &[u8; 1] = b"R";
/// There is nothing to restore any more.
const DONE: &[u8; 1] = b"D";

/// How the keeper is started: a program whose subcommand calls [`run_keeper`] with the two words after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeeperCommand {
    /// The program.
    pub program: PathBuf,
    /// Its first word.
    pub subcommand: &'static str,
}

/// The program's end of it. Dropping it makes the keeper restore the screen; [`ScreenKeeper::done`] does not.
#[derive(Debug)]
pub(super) struct ScreenKeeper {
    pipe: Option<UnixStream>,
    child: Child,
}

impl ScreenKeeper {
    /// Starts it, and waits until it has remembered what the CRTC shows.
    pub(super) fn start(
        command: &KeeperCommand,
        card: BorrowedFd<'_>,
        crtc: crtc::Handle,
        connector: connector::Handle,
    ) -> io::Result<Self> {
        let (mut pipe, theirs) = UnixStream::pair()?;
        pipe.set_read_timeout(Some(START))?;
        let mut child = Command::new(&command.program)
            .arg(command.subcommand)
            .args([crtc.into(), connector.into()].map(|raw: RawResourceHandle| raw.to_string()))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(card.try_clone_to_owned()?))
            // Ctrl-C at the terminal is for the program alone.
            .process_group(0)
            .spawn()?;
        let mut answer = [0];
        let ready = pipe.read_exact(&mut answer);
        if ready.is_err() || &answer != READY {
            // It has ended by itself, or never will.
            let _ = child.kill();
            let _ = child.wait();
            ready?;
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Self {
            pipe: Some(pipe),
            child,
        })
    }

    /// The screen shows what it did before.
    pub(super) fn done(&mut self) {
        if let Some(mut pipe) = self.pipe.take() {
            // A keeper that is gone restores nothing either.
            let _ = pipe.write_all(DONE);
        }
    }
}

impl Drop for ScreenKeeper {
    fn drop(&mut self) {
        self.pipe = None;
        // It ends at once; until then it has the screen.
        let _ = self.child.wait();
    }
}

/// The keeper's process: the program's socket is standard input, the card standard output. Waits for the program's end,
/// and restores the screen unless the program has.
///
/// # Errors
/// It was started by hand, or the kernel does not restore.
pub fn run_keeper(crtc: u32, connector: u32) -> io::Result<()> {
    let not_ours = || io::Error::from(io::ErrorKind::InvalidInput);
    let crtc: crtc::Handle = from_u32(crtc).ok_or_else(not_ours)?;
    let connector: connector::Handle = from_u32(connector).ok_or_else(not_ours)?;
    let card = Card::shared(io::stdout().as_fd().try_clone_to_owned()?);
    let mut pipe = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let before = card.get_crtc(crtc)?;
    pipe.write_all(READY)?;
    let mut told = Vec::new();
    // Whatever ends the socket, the program is gone.
    let _ = pipe.read_to_end(&mut told);
    if told.contains(&DONE[0]) {
        return Ok(());
    }
    card.restore(crtc, connector, &before)
}
