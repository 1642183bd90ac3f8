//! Sockets that listen at an address of their own.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt,
};

/// Connections that wait to be accepted; as the standard library has it.
const WAITING: i32 = 128;

/// Listens at `at`, also while it is not of use yet: an IPv6 address is asked about on its link for a second before (RFC 4862 §5.4),
/// and nobody is to be turned away in the moment after that.
///
/// # Errors
/// The port is in use or not allowed, or no descriptor is left.
pub fn listen_early(at: SocketAddr) -> io::Result<TcpListener> {
    let family = match at {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // Connections of a server that has just ended are no obstacle.
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    setsockopt(&fd, sockopt::IpFreebind, &true)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(at))?;
    listen(&fd, Backlog::new(WAITING)?)?;
    Ok(fd.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_not_there_yet_can_be_listened_at_and_a_port_in_use_cannot() {
        let absent = listen_early("192.0.2.1:0".parse().expect("an address")).expect("early");
        let taken = absent.local_addr().expect("bound");
        let error = listen_early(taken).expect_err("in use");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
