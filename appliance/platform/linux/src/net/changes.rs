//! The kernel's own notices that an address of this machine came or went (`rtnetlink(7)`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::libc;
use nix::sys::socket::SockProtocol;

use crate::netlink;

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
        let groups = libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
        let socket = netlink::listen(SockProtocol::NetlinkRoute, groups.cast_unsigned())?;
        Ok(Self { socket })
    }

    /// Takes everything that waits; whether there was something. Lost notices (the kernel's queue was full) are something.
    pub fn drain(&self) -> bool {
        netlink::drain(&self.socket, &mut [0; ROOM], |_| true)
    }
}

impl AsFd for AddressChanges {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
