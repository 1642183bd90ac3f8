//! Sockets that a service manager opened for this program (sd_listen_fds(3)).

use std::net::TcpListener;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::socket::{AddressFamily, SockType, SockaddrLike as _, SockaddrStorage};
use nix::sys::socket::{getsockname, getsockopt, sockopt};

use crate::broker;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// The TCP socket that listens for this process, if the service manager gave one; once. Other sockets that it gave are closed.
pub fn take_tcp_listener() -> Option<TcpListener> {
    if TAKEN.swap(true, Ordering::AcqRel) {
        return None;
    }
    let given = sd_notify::listen_fds()
        .inspect_err(|error| tracing::warn!(%error, "the service manager's sockets"))
        .ok()?;
    // SAFETY: the service manager gave these descriptors to this very process (`LISTEN_PID`), they have just been seen to be
    // open, nobody else here knows their numbers, and `TAKEN` lets them be taken once.
    let owned: Vec<_> = given
        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
        .collect();
    let listener = owned.into_iter().find(listens_on_tcp)?;
    Some(TcpListener::from(listener))
}

fn listens_on_tcp(fd: &OwnedFd) -> bool {
    let family = getsockname::<SockaddrStorage>(fd.as_raw_fd()).map(|address| address.family());
    matches!(family, Ok(Some(AddressFamily::Inet | AddressFamily::Inet6)))
        && getsockopt(fd, sockopt::SockType) == Ok(SockType::Stream)
        && broker::listens(fd.as_fd())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_a_listening_tcp_socket_is_one() {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = tcp.local_addr().expect("its own address");
        let stream = std::net::TcpStream::connect(address).expect("a listener");
        assert!(listens_on_tcp(&tcp.into()) && !listens_on_tcp(&stream.into()));
        let folder = tempfile::tempdir().expect("a folder");
        let unix = UnixListener::bind(folder.path().join("socket")).expect("a free place");
        assert!(!listens_on_tcp(&unix.into()));
        assert!(take_tcp_listener().is_none(), "nobody gave one");
    }
}
