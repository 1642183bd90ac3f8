//! Our text on its way to a program that pastes it, through a pipe of that program's.
//!
//! The pipe's flags are that program's too: it may make writing wait at any moment. So the text goes into a pipe of our own
//! first, and from there by `splice(2)`, which is told with each call not to wait.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, SpliceFFlags, splice};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{pipe2, write};

use crate::clipboard::Patience;

/// As much as an empty pipe has room for in any case (`PIPE_BUF`).
const PIECE: usize = 4096;

pub(super) struct Outgoing {
    to: OwnedFd,
    text: Arc<str>,
    /// How much of it has gone into our pipe, and how much of that is still there.
    taken: usize,
    waiting: usize,
    /// Our pipe, the end to read from first.
    pipe: (OwnedFd, OwnedFd),
    patience: Patience,
}

impl Outgoing {
    /// Gives `text` to the program at the other end of `to`.
    pub(super) fn begin(to: OwnedFd, text: Arc<str>) -> io::Result<Self> {
        let kind = SFlag::from_bits_truncate(fstat(&to)?.st_mode) & SFlag::S_IFMT;
        if kind != SFlag::S_IFIFO {
            return Err(io::Error::other("it has given no pipe"));
        }
        Ok(Self {
            to,
            text,
            taken: 0,
            waiting: 0,
            pipe: pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?,
            patience: Patience::begin(),
        })
    }

    pub(super) fn patience(&self) -> Patience {
        self.patience
    }

    /// Gives what there is room for; false when it is done, or the program is not waited for any more.
    pub(super) fn step(&mut self) -> bool {
        loop {
            let outcome = if self.waiting > 0 {
                let (from, to) = (&self.pipe.0, &self.to);
                let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
                splice(from, None, to, None, self.waiting, flags)
                    .map(|count| self.waiting = self.waiting.saturating_sub(count))
            } else {
                let rest = self.text.as_bytes().get(self.taken..).unwrap_or_default();
                if rest.is_empty() {
                    return false;
                }
                let piece = &rest[..rest.len().min(PIECE)];
                write(&self.pipe.1, piece).map(|count| {
                    self.taken += count;
                    self.waiting = count;
                })
            };
            match outcome {
                Ok(()) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return !self.patience.is_over(),
                Err(_) => return false,
            }
        }
    }
}

impl AsFd for Outgoing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.to.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> (OwnedFd, OwnedFd) {
        pipe2(OFlag::O_CLOEXEC).expect("a pipe")
    }

    #[test]
    fn a_pipe_that_is_full_is_not_waited_for() {
        let (from, to) = pipe();
        let text: Arc<str> = "0123456789abcdef".repeat(16 * 1024).into();
        let mut outgoing = Outgoing::begin(to, Arc::clone(&text)).expect("a pipe");
        let mut seen = Vec::new();
        let mut piece = vec![0; 64 * 1024];
        // It is no pipe that tells to try again.
        while outgoing.step() {
            let count = nix::unistd::read(&from, &mut piece).expect("readable");
            seen.extend_from_slice(&piece[..count]);
        }
        drop(outgoing);
        while let count @ 1.. = nix::unistd::read(&from, &mut piece).expect("readable") {
            seen.extend_from_slice(&piece[..count]);
        }
        assert!(seen == text.as_bytes());
    }

    #[test]
    fn who_has_gone_is_given_nothing() {
        let (from, to) = pipe();
        drop(from);
        let mut outgoing = Outgoing::begin(to, "text".into()).expect("a pipe");
        assert!(!outgoing.step());
    }

    #[test]
    fn what_could_make_writing_wait_is_refused() {
        let (socket, _other) = std::os::unix::net::UnixStream::pair().expect("sockets");
        assert!(Outgoing::begin(socket.into(), "text".into()).is_err());
        let file = std::fs::File::open("/dev/null").expect("there");
        assert!(Outgoing::begin(file.into(), "text".into()).is_err());
    }
}
