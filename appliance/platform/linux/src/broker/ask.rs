//! The process that asks.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, recvmsg, send,
    socket,
};

use super::Kind;
use super::wire::{ANSWER_LEN, Answer, Question};
use crate::kms::Fb2;

/// How long an answer may take; a broker that was killed is back well before, and systemd starts one within it.
const PATIENCE: Duration = Duration::from_secs(5);

static BROKER: OnceLock<Mutex<Broker>> = OnceLock::new();

struct Broker {
    socket: OwnedFd,
    /// Where the next one is met when this one has ended; without it the next one reads on from the same socket.
    place: Option<PathBuf>,
    number: u16,
}

/// From now on this process opens no device itself, but asks the broker at the other end of `socket`.
pub fn use_broker(socket: OwnedFd) {
    put_to_use(socket, None);
}

/// From now on this process opens no device itself, but asks the broker that listens at `place`, and when that has ended
/// the next one there.
///
/// # Errors
/// Nobody listens, or this user may not connect.
pub fn use_broker_at(place: &Path) -> io::Result<()> {
    put_to_use(connect(place)?, Some(place.to_owned()));
    Ok(())
}

fn put_to_use(socket: OwnedFd, place: Option<PathBuf>) {
    let broker = Broker {
        socket,
        place,
        number: 0,
    };
    // A second one is dropped: the first is in use.
    let _ = BROKER.set(Mutex::new(broker));
}

fn connect(place: &Path) -> io::Result<OwnedFd> {
    let (kind, flags) = (SockType::SeqPacket, SockFlag::SOCK_CLOEXEC);
    let socket = socket(AddressFamily::Unix, kind, flags, None)?;
    nix::sys::socket::connect(socket.as_raw_fd(), &UnixAddr::new(place)?)?;
    Ok(socket)
}

/// Whether a broker opens the devices.
#[must_use]
pub fn is_used() -> bool {
    BROKER.get().is_some()
}

pub(super) fn open(kind: Kind, node: &Path) -> io::Result<OwnedFd> {
    let (_, [fd, ..]) = ask(kind, node, 0)?;
    fd.ok_or_else(|| io::Error::other("the broker gave no descriptor"))
}

/// What the kernel tells about a framebuffer, and its memory. The handles say which descriptor, from 1 on.
pub(crate) fn framebuffer(card: &Path, id: u32) -> io::Result<(Fb2, [Option<OwnedFd>; 4])> {
    let (answer, fds) = ask(Kind::Framebuffer, card, id)?;
    Ok((Fb2 { id, ..answer.fb }, fds))
}

/// Does a step with the USB gadget of this controller (its folder in sysfs); gives the descriptors of its functions if it
/// opens them.
pub(crate) fn gadget(controller: &Path, step: u32) -> io::Result<[Option<OwnedFd>; 4]> {
    ask(Kind::Gadget, controller, step).map(|(_, fds)| fds)
}

fn ask(kind: Kind, node: &Path, id: u32) -> io::Result<(Answer, [Option<OwnedFd>; 4])> {
    let broker = BROKER.get().ok_or(io::ErrorKind::NotConnected)?;
    let mut broker = broker.lock().unwrap_or_else(PoisonError::into_inner);
    let question = Question::new(kind, node, id).ok_or(io::ErrorKind::InvalidFilename)?;
    let (answer, fds) = broker.ask_on(question)?;
    match answer.error {
        0 => Ok((answer, fds)),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

impl Broker {
    /// Asks the next broker when this one has ended.
    fn ask_on(&mut self, question: Question) -> io::Result<(Answer, [Option<OwnedFd>; 4])> {
        let outcome = self.ask(question);
        match (outcome, &self.place) {
            (Err(error), Some(place)) if has_ended(&error) => {
                tracing::warn!(%error, "asking the next broker");
                self.socket = connect(place)?;
                self.ask(question)
            }
            (outcome, _) => outcome,
        }
    }

    fn ask(&mut self, mut question: Question) -> io::Result<(Answer, [Option<OwnedFd>; 4])> {
        self.number = self.number.wrapping_add(1);
        question.number = self.number;
        send(
            self.socket.as_raw_fd(),
            &question.bytes(),
            MsgFlags::MSG_NOSIGNAL,
        )?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, timeout)? == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the broker, which opens the devices, did not answer; it is started again by itself",
                ));
            }
            let (answer, fds) = self.receive()?;
            // One that came too late belongs to a question that was given up.
            if answer.number == self.number {
                return Ok((answer, fds));
            }
        }
    }

    fn receive(&self) -> io::Result<(Answer, [Option<OwnedFd>; 4])> {
        let mut bytes = [0; ANSWER_LEN + 1];
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        let mut space = nix::cmsg_space!([RawFd; 4]);
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(
            self.socket.as_raw_fd(),
            &mut buffers,
            Some(&mut space),
            flags,
        )?;
        let length = message.bytes;
        let mut fds = [None, None, None, None];
        let received = message.cmsgs()?.filter_map(|part| match part {
            ControlMessageOwned::ScmRights(fds) => Some(fds),
            _ => None,
        });
        for (index, fd) in received.flatten().enumerate() {
            // SAFETY: the kernel has just made the descriptor for this process, and nobody else has its number.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            if let Some(place) = fds.get_mut(index) {
                *place = Some(fd);
            }
        }
        if length == 0 {
            return Err(io::Error::new(
                io::ErrorKind::BrokenPipe,
                "the broker, which opens the devices, has ended",
            ));
        }
        let answer = Answer::parse(bytes.get(..length).unwrap_or_default())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the broker's answer"))?;
        Ok((answer, fds))
    }
}

fn has_ended(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected
    )
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{Backlog, bind, listen};

    use super::*;
    use crate::broker::{Ended, Grants, accept, listens, serve};

    #[test]
    fn the_next_broker_is_asked_when_one_has_ended() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("broker");
        assert_eq!(
            connect(&place).expect_err("nobody listens").kind(),
            io::ErrorKind::NotFound
        );
        let (kind, flags) = (SockType::SeqPacket, SockFlag::SOCK_CLOEXEC);
        let listener = socket(AddressFamily::Unix, kind, flags, None).expect("a socket");
        bind(
            listener.as_raw_fd(),
            &UnixAddr::new(&place).expect("a short path"),
        )
        .expect("a free place");
        listen(&listener, Backlog::new(4).expect("a small one")).expect("a bound socket");
        assert!(listens(listener.as_fd()) && !listens(io::stdin().as_fd()));
        let accept = move || accept(listener.as_fd()).expect("somebody who asks");
        let mut broker = Broker {
            socket: connect(&place).expect("a listener"),
            place: Some(place),
            number: 0,
        };
        let question = Question::new(Kind::Uinput, Path::new("/dev/uinput"), 0).expect("short");
        // The first one ends before it answers, the second one refuses, for no story names anything.
        let brokers = std::thread::spawn(move || {
            drop(accept());
            serve(accept().as_fd(), Grants::default)
        });
        let (answer, _) = broker.ask_on(question).expect("an answer");
        assert_eq!(answer.error, libc::EACCES);
        drop(broker);
        let ended = brokers.join().expect("no panic").expect("a socket");
        assert_eq!(ended, Ended);
    }
}
