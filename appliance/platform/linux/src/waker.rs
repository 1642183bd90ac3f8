//! Waking a thread that waits in `poll(2)`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Wakes one thread out of `poll(2)`: an eventfd that is readable from [`Waker::wake`] to
/// [`Waker::clear`]. Clones wake the same thread.
#[derive(Clone, Debug)]
pub struct Waker(Arc<EventFd>);

impl Waker {
    /// A waker that nobody has used yet.
    ///
    /// # Errors
    /// When the process has no file descriptors left.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(Arc::new(EventFd::from_value_and_flags(0, flags)?)))
    }

    /// Wakes the waiting thread, or the next wait when none is running. May be called from any thread.
    pub fn wake(&self) {
        // EAGAIN means that the counter is full: it is readable, which is all that is wanted.
        let _ = self.0.write(1);
    }

    /// Forgets the wake-ups so far; true if there were any.
    #[must_use]
    pub fn clear(&self) -> bool {
        loop {
            match self.0.read() {
                Err(Errno::EINTR) => {}
                other => return other.is_ok(),
            }
        }
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wake_ups_add_up_to_one() -> io::Result<()> {
        let waker = Waker::new()?;
        assert!(!waker.clear());
        waker.wake();
        waker.clone().wake();
        assert!(waker.clear());
        assert!(!waker.clear());
        Ok(())
    }
}
