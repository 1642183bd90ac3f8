//! Shared mappings of device memory.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::slice;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// What the CPU does with a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads only.
    Read,
    /// Reads and writes.
    Write,
}

/// A shared mapping of device memory: a V4L2 buffer or a DMA-BUF.
///
/// Devices and other programs may write to it at any time; who holds one sees to it that they do not while
/// the bytes are read (a dequeued buffer, `DMA_BUF_IOCTL_SYNC`). Otherwise the bytes are torn, no worse: they
/// have no invalid values.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<libc::c_void>,
    len: usize,
    access: Access,
}

// SAFETY: the mapping is owned, and plain memory can be used from any thread.
unsafe impl Send for Mapping {}
// SAFETY: as above; only `&mut self` gives writable bytes.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes from `offset` on.
    ///
    /// # Errors
    /// The kernel's: no such memory, no right to it, a length of 0.
    pub fn new(fd: &impl AsFd, offset: u64, len: usize, access: Access) -> io::Result<Self> {
        let whole = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
        let offset = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let protection = match access {
            Access::Read => ProtFlags::PROT_READ,
            Access::Write => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        };
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours; the driver
        // keeps its pages as long as the mapping is there.
        let start = unsafe { mmap(None, whole, protection, MapFlags::MAP_SHARED, fd, offset) }?;
        Ok(Self { start, len, access })
    }

    /// All of it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is `len` bytes long, readable, and lives as long as `self`.
        unsafe { slice::from_raw_parts(self.start.as_ptr().cast(), self.len) }
    }

    /// All of it, to write to; empty if it was mapped for reading.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        if self.access == Access::Read {
            return &mut [];
        }
        // SAFETY: as in `bytes`, writable by the check above, and borrowed from us only once.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing borrows it any more.
        let _ = unsafe { munmap(self.start, self.len) };
    }
}
