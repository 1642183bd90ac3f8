//! `recvmmsg(2)` and `sendmsg(2)` without allocation.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::null_mut;

use nix::errno::Errno;

use super::address::RawAddress;

/// Datagrams in one call at most.
const CALL: usize = 32;
/// The same for the kernel.
const CALL_COUNT: libc::c_uint = 32;

/// Buffers for received datagrams, made once and used again.
#[derive(Debug)]
pub struct Batch {
    memory: Box<[u8]>,
    datagram_max: usize,
    entries: Vec<Entry>,
    truncated: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    slot: usize,
    len: usize,
    from: SocketAddr,
}

/// One received datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// The sender.
    pub from: SocketAddr,
    /// What it sent.
    pub data: &'a [u8],
}

impl Batch {
    /// Room for 32 datagrams of at most `datagram_max` bytes.
    #[must_use]
    pub fn new(datagram_max: usize) -> Self {
        let datagram_max = datagram_max.clamp(1, 65_535);
        Self {
            memory: vec![0; CALL * datagram_max].into_boxed_slice(),
            datagram_max,
            entries: Vec::with_capacity(CALL),
            truncated: 0,
        }
    }

    /// The datagrams of the last call, in the order of their arrival.
    pub fn iter(&self) -> impl Iterator<Item = Datagram<'_>> {
        self.entries.iter().filter_map(|entry| {
            let start = entry.slot * self.datagram_max;
            Some(Datagram {
                from: entry.from,
                data: self.memory.get(start..start + entry.len)?,
            })
        })
    }

    /// Calls `each` for the datagrams of the last call, in the order of their arrival, for opening in place.
    pub fn for_each_mut(&mut self, mut each: impl FnMut(SocketAddr, &mut [u8])) {
        for entry in &self.entries {
            let start = entry.slot * self.datagram_max;
            if let Some(data) = self.memory.get_mut(start..start + entry.len) {
                each(entry.from, data);
            }
        }
    }

    /// Datagrams so far that were longer than the buffers, and were left out.
    #[must_use]
    pub fn truncated(&self) -> u64 {
        self.truncated
    }

    pub(super) fn fill(&mut self, fd: &OwnedFd) -> io::Result<usize> {
        self.entries.clear();
        let mut from = [RawAddress::empty(); CALL];
        // SAFETY: the structures are plain numbers and pointers; all zeros is a value of them.
        let (mut iov, mut messages): ([libc::iovec; CALL], [libc::mmsghdr; CALL]) =
            unsafe { (zeroed(), zeroed()) };
        let slots = self.memory.chunks_exact_mut(self.datagram_max);
        for (((message, iov), from), slot) in
            messages.iter_mut().zip(&mut iov).zip(&mut from).zip(slots)
        {
            iov.iov_base = slot.as_mut_ptr().cast();
            iov.iov_len = slot.len();
            message.msg_hdr.msg_name = from.as_mut_ptr().cast();
            message.msg_hdr.msg_namelen = from.capacity();
            message.msg_hdr.msg_iov = iov;
            message.msg_hdr.msg_iovlen = 1;
        }
        let count = loop {
            // SAFETY: every header points to its own address, iovec and piece of `self.memory`, all of which
            // live to the end of this function and are not used meanwhile; CALL headers are given.
            let got = unsafe {
                libc::recvmmsg(
                    fd.as_raw_fd(),
                    messages.as_mut_ptr(),
                    CALL_COUNT,
                    libc::MSG_DONTWAIT,
                    null_mut(),
                )
            };
            match Errno::result(got) {
                Ok(count) => break usize::try_from(count).unwrap_or(0),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(0),
                Err(error) => return Err(error.into()),
            }
        };
        for (slot, (message, from)) in messages.iter().zip(&from).take(count).enumerate() {
            if message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
                self.truncated += 1;
            } else if let (Some(from), Ok(len)) =
                (from.to_address(), usize::try_from(message.msg_len))
            {
                self.entries.push(Entry { slot, len, from });
            }
        }
        Ok(self.entries.len())
    }
}

/// Room for one control message with a 16-bit number, aligned as `cmsghdr` has to be.
#[repr(C)]
struct SegmentControl {
    header: libc::cmsghdr,
    segment: u16,
    padding: [u8; 6],
}

pub(super) fn send(
    fd: &OwnedFd,
    to: &RawAddress,
    data: &[u8],
    segment: Option<u16>,
) -> io::Result<()> {
    let mut iov = libc::iovec {
        iov_base: data.as_ptr().cast_mut().cast(),
        iov_len: data.len(),
    };
    let mut control = SegmentControl {
        header: libc::cmsghdr {
            cmsg_len: size_of::<libc::cmsghdr>() + size_of::<u16>(),
            cmsg_level: libc::SOL_UDP,
            cmsg_type: libc::UDP_SEGMENT,
        },
        segment: segment.unwrap_or(0),
        padding: [0; 6],
    };
    // SAFETY: the structure is plain numbers and pointers; all zeros is a value of it.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_name = to.as_ptr().cast_mut().cast();
    message.msg_namelen = to.len();
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    if segment.is_some() {
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = size_of::<SegmentControl>();
    }
    loop {
        // SAFETY: the kernel only reads what the header points to (address, iovec, data, control message),
        // and all of it lives to the end of this function.
        let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
        match Errno::result(sent) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

const _: () = {
    // cmsg(3): the data begins where the header ends, rounded up to the alignment of `size_t`.
    assert!(std::mem::offset_of!(SegmentControl, segment) == 16 || size_of::<usize>() != 8);
    assert!(size_of::<SegmentControl>() == 24 || size_of::<usize>() != 8);
};
