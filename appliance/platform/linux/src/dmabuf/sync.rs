//! Access by the CPU between devices.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// `_IOW('b', 0, struct dma_buf_sync)` of `<linux/dma-buf.h>`.
const DMA_BUF_IOCTL_SYNC: u64 = 0x4008_6200;
/// `DMA_BUF_SYNC_READ`.
pub(crate) const READ: u64 = 1;
/// `DMA_BUF_SYNC_WRITE`.
pub(crate) const WRITE: u64 = 2;
/// `DMA_BUF_SYNC_END`: the access is over; `DMA_BUF_SYNC_START` is zero.
pub(crate) const END: u64 = 4;

/// Begins or ends what the CPU does with a DMA-BUF.
pub(crate) fn sync(fd: BorrowedFd<'_>, mut flags: u64) -> io::Result<()> {
    loop {
        // SAFETY: the descriptor is open, and the kernel reads one 64-bit number.
        let done = unsafe { libc::ioctl(fd.as_raw_fd(), DMA_BUF_IOCTL_SYNC as _, &raw mut flags) };
        match Errno::result(done) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(error) => return Err(error.into()),
        }
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
