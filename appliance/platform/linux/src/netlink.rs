//! Notices of the kernel by netlink multicast (`netlink(7)`).

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

/// Hears the multicast `groups` (bits) of a protocol from now on. Needs no right.
///
/// # Errors
/// The kernel has no netlink, or the process no descriptor left.
pub(crate) fn listen(protocol: SockProtocol, groups: u32) -> io::Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        protocol,
    )?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(socket)
}

/// Takes everything that waits; whether one of it is `wanted`. Lost notices (the kernel's queue was full) count as wanted.
/// What is longer than `room` is cut.
pub(crate) fn drain(
    socket: &impl AsFd,
    room: &mut [u8],
    mut wanted: impl FnMut(&[u8]) -> bool,
) -> bool {
    let mut found = false;
    loop {
        match recv(socket.as_fd().as_raw_fd(), room, MsgFlags::empty()) {
            Ok(length) => found |= wanted(room.get(..length).unwrap_or_default()),
            Err(Errno::EINTR) => {}
            Err(Errno::ENOBUFS) => found = true,
            Err(_) => return found,
        }
    }
}
