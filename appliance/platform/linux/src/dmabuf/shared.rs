//! Memory that the CPU writes and devices import.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;

use super::sync::{END as SYNC_END, WRITE as SYNC_WRITE, sync};
use super::{Access, Mapping};
use crate::broker::{self, Kind};

/// `DMA_HEAP_IOCTL_ALLOC`: `_IOWR('H', 0, struct dma_heap_allocation_data)` of `<linux/dma-heap.h>`.
const DMA_HEAP_IOCTL_ALLOC: u64 = 0xc018_4800;
/// `UDMABUF_CREATE`: `_IOW('u', 0x42, struct udmabuf_create)` of `<linux/udmabuf.h>`.
const UDMABUF_CREATE: u64 = 0x4018_7542;
/// `UDMABUF_FLAGS_CLOEXEC`.
const UDMABUF_FLAGS_CLOEXEC: u32 = 1;

/// A multiple of every machine's pages.
const PAGE: usize = 64 * 1024;

/// A picture's memories at most: `VIDEO_MAX_PLANES` of `<linux/videodev2.h>`.
const PLANES: usize = 8;

/// `struct dma_heap_allocation_data`.
#[repr(C)]
struct HeapAllocation {
    len: u64,
    fd: u32,
    fd_flags: u32,
    heap_flags: u64,
}

/// `struct udmabuf_create`.
#[repr(C)]
struct UdmabufCreate {
    memfd: u32,
    flags: u32,
    offset: u64,
    size: u64,
}

/// Where such memory is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// The kernel's heap of ordinary pages for devices.
    Heap,
    /// A file in memory, which the kernel makes a DMA-BUF of.
    Udmabuf,
}

impl Pool {
    /// The better first.
    pub const ALL: [Self; 2] = [Self::Heap, Self::Udmabuf];

    /// Its device.
    #[must_use]
    pub fn node(self) -> &'static Path {
        Path::new(match self {
            Self::Heap => "/dev/dma_heap/system",
            Self::Udmabuf => "/dev/udmabuf",
        })
    }

    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Heap => "DMA heap",
            Self::Udmabuf => "udmabuf",
        }
    }

    /// Takes a buffer of each of these lengths.
    ///
    /// # Errors
    /// The kernel has no such device, gives this process no right to it, or has no memory left.
    pub fn allocate(self, lengths: &[usize]) -> io::Result<Vec<Shared>> {
        let device = broker::open(Kind::Memory, self.node())?;
        let one = |length: &usize| Shared::new(self, device.as_fd(), *length);
        lengths.iter().map(one).collect()
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A DMA-BUF of its own that is mapped.
#[derive(Debug)]
pub struct Shared {
    fd: OwnedFd,
    map: Mapping,
    length: usize,
}

impl Shared {
    fn new(pool: Pool, device: BorrowedFd<'_>, length: usize) -> io::Result<Self> {
        let length = length
            .checked_next_multiple_of(PAGE)
            .filter(|length| *length > 0)
            .ok_or(Errno::EINVAL)?;
        let fd = match pool {
            Pool::Heap => from_heap(device, length),
            Pool::Udmabuf => from_file(device, length),
        }?;
        let map = Mapping::new(&fd, 0, length, Access::Write)?;
        Ok(Self { fd, map, length })
    }

    /// All of it, whole pages.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// Has `write` write to all of `buffers`, a picture's planes, between what devices do with them.
    ///
    /// # Errors
    /// The kernel cannot hand one over to the CPU, or back to devices; they are more than a picture has.
    pub fn write_all<T>(
        buffers: &mut [Self],
        write: impl FnOnce(&mut [&mut [u8]]) -> T,
    ) -> io::Result<T> {
        let sync_all = |buffers: &[Self], flags| {
            let mut buffers = buffers.iter();
            buffers.try_for_each(|buffer| sync(buffer.as_fd(), flags))
        };
        let count = buffers.len();
        if count > PLANES {
            return Err(Errno::EINVAL.into());
        }
        sync_all(buffers, SYNC_WRITE)?;
        let mut memories: [&mut [u8]; PLANES] = Default::default();
        for (memory, buffer) in memories.iter_mut().zip(&mut *buffers) {
            *memory = buffer.map.bytes_mut();
        }
        let written = write(memories.get_mut(..count).unwrap_or_default());
        sync_all(buffers, SYNC_WRITE | SYNC_END)?;
        Ok(written)
    }
}

impl AsFd for Shared {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn from_heap(heap: BorrowedFd<'_>, length: usize) -> io::Result<OwnedFd> {
    let mut raw = HeapAllocation {
        len: length as u64,
        fd: 0,
        fd_flags: (libc::O_RDWR | libc::O_CLOEXEC).cast_unsigned(),
        heap_flags: 0,
    };
    // SAFETY: the descriptor is open, and the kernel reads and writes one structure of this layout.
    let done = unsafe { libc::ioctl(heap.as_raw_fd(), DMA_HEAP_IOCTL_ALLOC as _, &raw mut raw) };
    Errno::result(done)?;
    // SAFETY: the kernel made the descriptor for this call; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw.fd.cast_signed()) })
}

fn from_file(udmabuf: BorrowedFd<'_>, length: usize) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = memfd_create(c"soft-kvm-picture", flags)?;
    ftruncate(&file, i64::try_from(length).map_err(|_| Errno::EINVAL)?)?;
    // Its pages may not go while a device reads them.
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK))?;
    let raw = UdmabufCreate {
        memfd: file.as_raw_fd().cast_unsigned(),
        flags: UDMABUF_FLAGS_CLOEXEC,
        offset: 0,
        size: length as u64,
    };
    // SAFETY: the descriptor is open, and the kernel reads one structure of this layout.
    let fd = unsafe { libc::ioctl(udmabuf.as_raw_fd(), UDMABUF_CREATE as _, &raw const raw) };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel made the descriptor for this call; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_codes_of_the_kernel() {
        let code = |direction: u64, size: usize, kind: u8, number: u64| {
            direction << 30 | (size as u64) << 16 | u64::from(kind) << 8 | number
        };
        let heap = code(3, size_of::<HeapAllocation>(), b'H', 0);
        assert_eq!(DMA_HEAP_IOCTL_ALLOC, heap);
        let udmabuf = code(1, size_of::<UdmabufCreate>(), b'u', 0x42);
        assert_eq!(UDMABUF_CREATE, udmabuf);
    }
}
