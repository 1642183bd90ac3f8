//! Waking the thread that reads what programs tell virtual devices.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Readable from the moment that a program tells one of the devices something, until [`Bell::clear`]: the kernel queues
/// 16 such events for each device, and a program that uploads an effect waits for its answer.
#[derive(Clone, Debug)]
pub struct Bell(Arc<Epoll>);

impl Bell {
    /// A bell that no device rings yet.
    ///
    /// # Errors
    /// When the process has no file descriptors left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?)))
    }

    /// Lets a device ring from now on, until it is closed.
    pub(super) fn watch(&self, device: BorrowedFd<'_>) -> io::Result<()> {
        // Once for each event: whoever cannot read at the moment reads later, and is not rung at meanwhile.
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0);
        Ok(self.0.add(device, event)?)
    }

    /// Forgets what rang so far; true if anything did.
    #[must_use]
    pub fn clear(&self) -> bool {
        let mut rang = false;
        loop {
            let mut events = [EpollEvent::empty(); 16];
            match self.0.wait(&mut events, EpollTimeout::ZERO) {
                Ok(count) if count == events.len() => rang = true,
                Ok(count) => return rang || count > 0,
                Err(_) => return rang,
            }
        }
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::eventfd::EventFd;

    use super::*;

    #[test]
    fn it_rings_once_for_each_event_and_no_more_for_what_is_closed() -> io::Result<()> {
        let bell = Bell::new()?;
        let device = EventFd::new()?;
        bell.watch(device.as_fd())?;
        assert!(!bell.clear());
        device.write(1)?;
        assert!(bell.clear());
        assert!(!bell.clear(), "it was not read, and does not ring again");
        device.write(1)?;
        drop(device);
        assert!(!bell.clear());
        Ok(())
    }
}
