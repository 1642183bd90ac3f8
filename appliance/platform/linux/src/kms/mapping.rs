//! Framebuffers mapped through PRIME, kept by framebuffer id.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::slice;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use soft_kvm_core::Size;
use soft_kvm_video::frame::{FramePool, PixelFormat, Plane};

/// `_IOW('b', 0, struct dma_buf_sync)` of `<linux/dma-buf.h>`.
const DMA_BUF_IOCTL_SYNC: u64 = 0x4008_6200;
/// `DMA_BUF_SYNC_READ`.
const SYNC_READ: u64 = 1;
/// `DMA_BUF_SYNC_END`; `DMA_BUF_SYNC_START` is zero.
const SYNC_END: u64 = 4;

/// A mapped framebuffer. A frame of it is buffer 0 of this pool.
#[derive(Debug)]
pub(super) struct Mapped {
    fd: OwnedFd,
    start: NonNull<libc::c_void>,
    len: usize,
    offset: usize,
    pub(super) stride: usize,
    pub(super) size: Size,
    pub(super) format: PixelFormat,
}

// SAFETY: the mapping is owned, read-only for us, and reading it is possible from any thread.
unsafe impl Send for Mapped {}
// SAFETY: as above; nothing of ours changes through `&self`.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps the buffer behind a PRIME descriptor.
    pub(super) fn new(
        fd: OwnedFd,
        size: Size,
        stride: u32,
        offset: u32,
        format: PixelFormat,
    ) -> io::Result<Self> {
        let (stride, offset) = (stride as usize, offset as usize);
        if stride < size.width as usize * 4 || size.height == 0 {
            return Err(Errno::EINVAL.into());
        }
        let len = offset + stride * (size.height as usize - 1) + size.width as usize * 4;
        let whole = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
        // A mapping beyond the buffer would end the process on access: DMA-BUFs tell their size by seeking.
        // SAFETY: seeking takes no memory; the descriptor is open.
        let end = unsafe { libc::lseek(fd.as_raw_fd(), 0, libc::SEEK_END) };
        if usize::try_from(end).is_ok_and(|end| end < len) {
            return Err(Errno::EOVERFLOW.into());
        }
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours; the
        // DMA-BUF keeps its pages as long as the mapping is there.
        let start = unsafe {
            mmap(
                None,
                whole,
                ProtFlags::PROT_READ,
                MapFlags::MAP_SHARED,
                &fd,
                0,
            )
        }?;
        Ok(Self {
            fd,
            start,
            len,
            offset,
            stride,
            size,
            format,
        })
    }

    /// Prepares the memory for reading by the CPU; [`FramePool::release`] ends it.
    pub(super) fn begin(&self) -> io::Result<()> {
        self.sync(SYNC_READ)
    }

    fn sync(&self, mut flags: u64) -> io::Result<()> {
        loop {
            // SAFETY: the descriptor is open, and the kernel reads one 64-bit number.
            let done = unsafe {
                libc::ioctl(self.fd.as_raw_fd(), DMA_BUF_IOCTL_SYNC as _, &raw mut flags)
            };
            match Errno::result(done) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl FramePool for Mapped {
    fn plane(&self, _buffer: u32, plane: usize) -> Option<Plane<'_>> {
        // SAFETY: the mapping is `len` bytes long, readable, and lives as long as `self`. Another program
        // may draw into it meanwhile, which at worst tears the picture: bytes have no invalid values.
        let bytes = unsafe { slice::from_raw_parts(self.start.as_ptr().cast(), self.len) };
        (plane == 0).then_some(Plane {
            data: bytes.get(self.offset..)?,
            stride: self.stride,
        })
    }

    fn release(&self, _buffer: u32) {
        // Nothing to do about a failure: the next `begin` tells it.
        let _ = self.sync(SYNC_READ | SYNC_END);
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing borrows it any more.
        let _ = unsafe { munmap(self.start, self.len) };
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn request_code_of_the_kernel() {
        // _IOC(_IOC_WRITE, 'b', 0, 8)
        assert_eq!(super::DMA_BUF_IOCTL_SYNC, 1 << 30 | 8 << 16 | 0x62 << 8);
    }
}
