//! One text on its way from the program that has copied it, through a pipe. Who writes to it is any program of the session.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{pipe2, read};

use super::kinds::Kinds;
use super::protocol::Offer;
use crate::clipboard::{Patience, Step};

pub(super) struct Incoming {
    pipe: OwnedFd,
    bytes: Vec<u8>,
    longest: usize,
    patience: Patience,
}

impl Incoming {
    /// Asks for a text of `longest` bytes at most; `None` if none is offered.
    pub(super) fn begin(offer: &dyn Offer, longest: usize) -> io::Result<Option<Self>> {
        let Some(kind) = offer.kinds().and_then(Kinds::best) else {
            return Ok(None);
        };
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
        // Our end only: programs that write do not expect to be told to try again.
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        offer.receive(kind, theirs.as_fd());
        Ok(Some(Self {
            pipe: ours,
            bytes: Vec::new(),
            longest,
            patience: Patience::begin(),
        }))
    }

    pub(super) fn patience(&self) -> Patience {
        self.patience
    }

    /// Takes what is there.
    pub(super) fn step(&mut self) -> Step {
        let mut piece = [0; 4096];
        loop {
            match read(&self.pipe, &mut piece) {
                Ok(0) => return Step::utf8(std::mem::take(&mut self.bytes)),
                Ok(count) if self.bytes.len() + count > self.longest => return Step::TooLong,
                Ok(count) => self.bytes.extend_from_slice(&piece[..count]),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if !self.patience.is_over() => return Step::More,
                Err(_) => return Step::NoText,
            }
        }
    }
}

impl AsFd for Incoming {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}
