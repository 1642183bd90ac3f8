//! The broker: a process that opens the devices that the story names, and hands their descriptors over, so that the process
//! which talks to the network needs no right to any of them.
//!
//! Questions and answers have one size each and lie in one datagram of a `SOCK_SEQPACKET` socket; descriptors go beside
//! them (`SCM_RIGHTS`). Nothing else is understood, and nothing is allocated for what is asked.

mod ask;
mod grants;
mod serve;
mod wire;

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::Path;

pub(crate) use ask::{framebuffer, gadget};
pub use ask::{is_used, use_broker, use_broker_at};
pub use grants::{Grant, Grants};
pub use serve::{Ended, serve};
pub use wire::{ANSWER_LEN, QUESTION_LEN};

/// What a device is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A V4L2 device: capture, or memory to memory.
    Video,
    /// A media device or one of its sub-devices, which a V4L2 device captures through.
    Media,
    /// A DRM card, to look at its screens.
    Screen,
    /// The memory of a framebuffer of a DRM card, to read.
    Framebuffer,
    /// Virtual input devices.
    Uinput,
    /// A USB gadget on a device controller.
    Gadget,
    /// The button that opens pairing, to read: by the story's words for it.
    Button,
    /// The own screen that shows the pairing code: by its connector.
    Monitor,
    /// Memory that devices import: the system's DMA heap, or udmabuf.
    Memory,
}

/// Opens a device node for reading and writing, without blocking: by the broker where there is one, else by this process.
pub(crate) fn open(kind: Kind, node: &Path) -> io::Result<OwnedFd> {
    if is_used() {
        return ask::open(kind, node);
    }
    open_here(node)
}

pub(crate) fn open_here(node: &Path) -> io::Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(node)?;
    Ok(file.into())
}

/// Both ends of a broker's socket.
///
/// # Errors
/// The system has no descriptors left.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    let (kind, flags) = (SockType::SeqPacket, SockFlag::SOCK_CLOEXEC);
    Ok(socketpair(AddressFamily::Unix, kind, None, flags)?)
}

/// Waits at a socket that listens for the one who asks.
///
/// # Errors
/// It is no socket.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    use nix::sys::socket::{SockFlag, accept4};
    let fd = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: the kernel has just made the descriptor for this process, and nobody else has its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether this is a socket that waits for others to connect.
#[must_use]
pub fn listens(socket: BorrowedFd<'_>) -> bool {
    use nix::sys::socket::{getsockopt, sockopt};
    getsockopt(&socket, sockopt::AcceptConn).unwrap_or(false)
}

/// Body of the fuzz target: any bytes as a question and as an answer.
#[doc(hidden)]
pub fn fuzz_broker(data: &[u8]) {
    if let Some(question) = wire::Question::parse(data) {
        assert_eq!(wire::Question::parse(&question.bytes()), Some(question));
    }
    let _ = wire::Answer::parse(data);
}
