//! UDP sockets for media: batches in both directions, no allocation for a datagram.
//!
//! One dual-stack socket serves IPv4 and IPv6; IPv4 peers appear with their IPv4 address. Runs of equal
//! datagrams leave in one call by UDP generic segmentation offload (`UDP_SEGMENT`, Linux 4.18) where the
//! kernel and the interface have it. Sockets are non-blocking: wait with [`UdpSocket::wait`].

mod address;
mod batch;
mod changes;
mod listen;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{
    AddressFamily, SetSockOpt, SockFlag, SockType, getsockopt, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeSpec;

pub use batch::{Batch, Datagram};
pub use changes::AddressChanges;
pub use listen::listen_early;

use crate::waker::Waker;
use address::RawAddress;

/// Segments in one call at most (`UDP_MAX_SEGMENTS` of every kernel that has the feature).
const MAX_SEGMENTS: usize = 64;
/// Payload of one call at most: 65535 bytes less IPv6 and UDP headers.
const MAX_RUN: usize = 65_535 - 40 - 8;

/// What a socket is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpOptions {
    /// Receive buffer in bytes; a key frame of 1080p text is a burst of about 200 kB.
    pub receive_buffer: Option<usize>,
    /// Send buffer in bytes.
    pub send_buffer: Option<usize>,
    /// Differentiated services code point, 0 to 63 (RFC 2474): e.g. 34 (AF41) for video, 46 (EF) for input.
    pub dscp: Option<u8>,
    /// TTL and hop limit; 1 keeps answers on the link.
    pub hop_limit: Option<u8>,
}

/// Buffer sizes that the kernel gave, in its own count (twice the payload asked for, `socket(7)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferSizes {
    /// `SO_RCVBUF`.
    pub receive: usize,
    /// `SO_SNDBUF`.
    pub send: usize,
}

/// What [`UdpSocket::wait`] came back with; all false on timeout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// Datagrams (or an error) can be read.
    pub readable: bool,
    /// There is room to send.
    pub writable: bool,
    /// The waker was used; it has been cleared.
    pub woken: bool,
    /// What was watched beside can be read.
    pub beside: bool,
}

/// A non-blocking UDP socket. All calls take `&self`: several threads may send and receive at once.
#[derive(Debug)]
pub struct UdpSocket {
    fd: OwnedFd,
    family: AddressFamily,
    segmentation: AtomicBool,
}

/// The number of a network interface by its name, as scope ids of link-local addresses have it.
#[must_use]
pub fn interface_index(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

/// Sets TTL (and hop limit, if the socket is an IPv6 one) of what the socket sends; 1 keeps it on the link, nothing is the
/// system's usual one. Connections accepted from a listener inherit it, so that not even the answer to a SYN passes a router.
///
/// # Errors
/// The kernel's.
pub fn limit_hops(socket: &impl AsFd, v6: bool, hops: Option<u8>) -> io::Result<()> {
    let hops = hops.map_or(-1, i32::from);
    setsockopt(socket, sockopt::Ipv4Ttl, &hops)?;
    if v6 {
        setsockopt(socket, sockopt::Ipv6Ttl, &hops)?;
    }
    Ok(())
}

impl UdpSocket {
    /// Binds to `address`. An unspecified address (`[::]` or `0.0.0.0`) means all addresses of both
    /// families where the machine has IPv6.
    ///
    /// # Errors
    /// When the port is in use, the address is not the machine's, or an option is refused.
    /// A smaller buffer than asked for is not an error: see [`UdpSocket::buffers`].
    pub fn bind(address: SocketAddr, options: &UdpOptions) -> io::Result<Self> {
        let any = address.ip().is_unspecified();
        if !any {
            return Self::open(address, options);
        }
        match Self::open((Ipv6Addr::UNSPECIFIED, address.port()).into(), options) {
            // No IPv6 in this kernel, or switched off.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
                ) =>
            {
                Self::open((Ipv4Addr::UNSPECIFIED, address.port()).into(), options)
            }
            result => result,
        }
    }

    fn open(address: SocketAddr, options: &UdpOptions) -> io::Result<Self> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(family, SockType::Datagram, flags, None)?;
        if family == AddressFamily::Inet6 {
            setsockopt(&fd, sockopt::Ipv6V6Only, &!address.ip().is_unspecified())?;
        }
        if let Some(bytes) = options.receive_buffer {
            size_buffer(&fd, bytes, sockopt::RcvBufForce, sockopt::RcvBuf)?;
        }
        if let Some(bytes) = options.send_buffer {
            size_buffer(&fd, bytes, sockopt::SndBufForce, sockopt::SndBuf)?;
        }
        let own = Self {
            fd,
            family,
            segmentation: AtomicBool::new(true),
        };
        own.set_header_fields(options)?;
        let raw = RawAddress::new(address, family);
        // SAFETY: the descriptor is open, and pointer and length describe one live socket address.
        let bound = unsafe { libc::bind(own.fd.as_raw_fd(), raw.as_ptr(), raw.len()) };
        Errno::result(bound)?;
        Ok(own)
    }

    /// Sets TTL and hop limit anew, as [`limit_hops`] does.
    ///
    /// # Errors
    /// The kernel's.
    pub fn limit_hops(&self, hops: Option<u8>) -> io::Result<()> {
        limit_hops(&self.fd, self.family == AddressFamily::Inet6, hops)
    }

    fn set_header_fields(&self, options: &UdpOptions) -> io::Result<()> {
        let v6 = self.family == AddressFamily::Inet6;
        if options.hop_limit.is_some() {
            self.limit_hops(options.hop_limit)?;
        }
        if let Some(dscp) = options.dscp {
            if dscp > 63 {
                return Err(Errno::EINVAL.into());
            }
            setsockopt(&self.fd, sockopt::Ipv4Tos, &(i32::from(dscp) << 2))?;
            if v6 {
                setsockopt(&self.fd, sockopt::Ipv6TClass, &(i32::from(dscp) << 2))?;
            }
        }
        Ok(())
    }

    /// The address that it is bound to, with the port that the kernel chose for port 0.
    ///
    /// # Errors
    /// When the kernel refuses, which it does not for an open socket.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        let mut raw = RawAddress::empty();
        let mut len = raw.capacity();
        // SAFETY: the descriptor is open; the kernel writes at most `len` bytes to the address.
        let got = unsafe { libc::getsockname(self.fd.as_raw_fd(), raw.as_mut_ptr(), &raw mut len) };
        Errno::result(got)?;
        raw.to_address().ok_or_else(|| Errno::EAFNOSUPPORT.into())
    }

    /// The buffer sizes that the kernel gave.
    ///
    /// # Errors
    /// When the kernel refuses, which it does not for an open socket.
    pub fn buffers(&self) -> io::Result<BufferSizes> {
        Ok(BufferSizes {
            receive: getsockopt(&self.fd, sockopt::RcvBuf)?,
            send: getsockopt(&self.fd, sockopt::SndBuf)?,
        })
    }

    /// Whether runs still leave by segmentation offload; false for good after the kernel refused once.
    #[must_use]
    pub fn has_segmentation(&self) -> bool {
        self.segmentation.load(Ordering::Relaxed)
    }

    /// Turns segmentation offload off for good; for measurements and tests.
    pub fn disable_segmentation(&self) {
        self.segmentation.store(false, Ordering::Relaxed);
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// `WouldBlock` when the send buffer is full: nothing was sent.
    pub fn send(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        self.send_message(to, datagram, None).map(|_| ())
    }

    /// Sends `data` as datagrams of `segment` bytes, the last one shorter if they do not divide evenly.
    ///
    /// Returns the bytes sent; less than all when the send buffer is full: wait until writable, and go on
    /// from there. The count is always at the border of a datagram.
    ///
    /// # Errors
    /// What the kernel said about the first datagram that could not be sent, except that its buffer is full.
    pub fn send_segments(&self, to: SocketAddr, data: &[u8], segment: u16) -> io::Result<usize> {
        let size = usize::from(segment.max(1));
        let run = (MAX_RUN / size).clamp(1, MAX_SEGMENTS) * size;
        let mut sent = 0;
        while let Some(rest) = data.get(sent..).filter(|rest| !rest.is_empty()) {
            let several = rest.len() > size && self.has_segmentation();
            let chunk = &rest[..rest.len().min(if several { run } else { size })];
            let segment = (several && chunk.len() > size).then_some(segment);
            match self.send_message(to, chunk, segment) {
                Ok(()) => sent += chunk.len(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // EIO: no checksum offload on the way out; EINVAL, ENOPROTOOPT: an old kernel;
                // EMSGSIZE: segments larger than the path's MTU, which only plain datagrams may be.
                Err(error)
                    if segment.is_some()
                        && matches!(
                            error.raw_os_error(),
                            Some(libc::EIO | libc::EINVAL | libc::ENOPROTOOPT | libc::EMSGSIZE)
                        ) =>
                {
                    tracing::info!(%to, %error, "sending without segmentation offload from now on");
                    self.disable_segmentation();
                }
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    fn send_message(&self, to: SocketAddr, data: &[u8], segment: Option<u16>) -> io::Result<()> {
        let raw = RawAddress::new(to, self.family);
        batch::send(&self.fd, &raw, data, segment)
    }

    /// Receives what is there into `batch`, replacing what was in it; zero when nothing is.
    ///
    /// # Errors
    /// What the kernel said, except that nothing is there.
    pub fn receive(&self, batch: &mut Batch) -> io::Result<usize> {
        batch.fill(&self.fd)
    }

    /// Waits until something can be read, or sent if `writable` is asked for, or the waker is used.
    ///
    /// # Errors
    /// When the kernel refuses to wait.
    pub fn wait(
        &self,
        timeout: Duration,
        writable: bool,
        waker: Option<&Waker>,
    ) -> io::Result<Ready> {
        self.wait_beside(timeout, writable, waker, None)
    }

    /// The same, also until something can be read from `beside`.
    ///
    /// # Errors
    /// When the kernel refuses to wait.
    pub fn wait_beside(
        &self,
        timeout: Duration,
        writable: bool,
        waker: Option<&Waker>,
        beside: Option<BorrowedFd<'_>>,
    ) -> io::Result<Ready> {
        let mut interest = PollFlags::POLLIN;
        interest.set(PollFlags::POLLOUT, writable);
        let own = PollFd::new(self.fd.as_fd(), interest);
        let mut fds = [own.clone(), own.clone(), own];
        let mut count = 1;
        for other in [waker.map(AsFd::as_fd), beside].into_iter().flatten() {
            fds[count] = PollFd::new(other, PollFlags::POLLIN);
            count += 1;
        }
        // Not poll(2), whose whole milliseconds are long for a key that has to be sent again.
        match ppoll(
            &mut fds[..count],
            Some(TimeSpec::from_duration(timeout)),
            None,
        ) {
            Ok(0) | Err(Errno::EINTR) => return Ok(Ready::default()),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let events = |fd: &PollFd<'_>| fd.revents().unwrap_or(PollFlags::empty());
        let own = events(&fds[0]);
        let mut others = fds[1..count].iter().map(|fd| !events(fd).is_empty());
        Ok(Ready {
            readable: own.intersects(PollFlags::POLLIN | PollFlags::POLLERR),
            writable: writable && own.contains(PollFlags::POLLOUT),
            woken: waker.is_some_and(|waker| others.next() == Some(true) && waker.clear()),
            beside: beside.is_some() && others.next() == Some(true),
        })
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Beyond the system's limit if the process may (`CAP_NET_ADMIN`), else up to it.
fn size_buffer<F, P>(fd: &OwnedFd, bytes: usize, force: F, plain: P) -> io::Result<()>
where
    F: SetSockOpt<Val = usize>,
    P: SetSockOpt<Val = usize>,
{
    // The kernel reads a C int.
    let bytes = bytes.min(1 << 30);
    if setsockopt(fd, force, &bytes).is_err() {
        setsockopt(fd, plain, &bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
