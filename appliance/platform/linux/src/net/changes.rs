//! The kernel's own notices that an address of this machine came or went (`rtnetlink(7)`).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

/// One notice is shorter; what is in it is not read.
const ROOM: usize = 1024;

/// A socket that hears when addresses of this network namespace change.
#[derive(Debug)]
pub struct AddressChanges {
    socket: OwnedFd,
}

impl AddressChanges {
    /// Listens from now on. Needs no right.
    ///
    /// # Errors
    /// The kernel has no netlink, or the process no descriptor left.
    pub fn new() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkRoute,
        )?;
        let groups = libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
        bind(
            socket.as_raw_fd(),
            &NetlinkAddr::new(0, groups.cast_unsigned()),
        )?;
        Ok(Self { socket })
    }

    /// Takes everything that waits; whether there was something. Lost notices (the kernel's queue was full) are something.
    pub fn drain(&self) -> bool {
        let mut room = [0; ROOM];
        let mut found = false;
        loop {
            match recv(self.socket.as_raw_fd(), &mut room, MsgFlags::empty()) {
                Ok(_) | Err(Errno::ENOBUFS) => found = true,
                Err(Errno::EINTR) => {}
                Err(_) => return found,
            }
        }
    }
}

impl AsFd for AddressChanges {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
