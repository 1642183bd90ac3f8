//! The kernel's own notices about devices (`kobject_uevent`), by netlink and without udev.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::socket::SockProtocol;

use crate::netlink;

/// The multicast group of the kernel; group 2 is udev's.
const KERNEL: u32 = 1;
/// `UEVENT_BUFFER_SIZE` of the kernel, and its header.
const LONGEST: usize = 4096;

/// A socket that hears every device's notices.
#[derive(Debug)]
pub struct Uevents {
    socket: OwnedFd,
    buffer: Box<[u8]>,
}

/// One notice. Its words are the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uevent<'a> {
    /// `add`, `remove`, `change`, `bind`, …
    pub action: &'a str,
    /// e.g. `drm`, `video4linux`.
    pub subsystem: &'a str,
    /// The device's node below `/dev`, e.g. `dri/card0`.
    pub node: Option<&'a str>,
}

impl Uevents {
    /// Listens from now on. Needs no right.
    ///
    /// # Errors
    /// The kernel has no netlink, or the process no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            socket: netlink::listen(SockProtocol::NetlinkKObjectUEvent, KERNEL)?,
            buffer: vec![0; LONGEST].into_boxed_slice(),
        })
    }

    /// Reads everything that waits; whether one of it is `wanted`. Lost ones (the kernel's queue was full) count
    /// as wanted.
    pub fn drain(&mut self, mut wanted: impl FnMut(&Uevent<'_>) -> bool) -> bool {
        netlink::drain(&self.socket, &mut self.buffer, |message| {
            parse(message).is_some_and(|event| wanted(&event))
        })
    }
}

impl AsFd for Uevents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// `ACTION@DEVPATH`, then `KEY=VALUE` words, each with a zero behind (Documentation/driver-api/kobject).
fn parse(message: &[u8]) -> Option<Uevent<'_>> {
    let mut words = message
        .split(|&byte| byte == 0)
        .map_while(|word| std::str::from_utf8(word).ok());
    let (action, _) = words.next()?.split_once('@')?;
    let (mut subsystem, mut node) = ("", None);
    for word in words {
        match word.split_once('=') {
            Some(("SUBSYSTEM", value)) => subsystem = value,
            Some(("DEVNAME", value)) => node = Some(value),
            _ => {}
        }
    }
    Some(Uevent {
        action,
        subsystem,
        node,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_hotplug_of_a_card() {
        let message = b"change@/devices/pci0000:00/0000:00:02.0/drm/card0\0ACTION=change\0\
            DEVPATH=/devices/pci0000:00/0000:00:02.0/drm/card0\0SUBSYSTEM=drm\0HOTPLUG=1\0\
            CONNECTOR=95\0DEVNAME=dri/card0\0DEVTYPE=drm_minor\0SEQNUM=5012\0MAJOR=226\0MINOR=0\0";
        let event = parse(message).expect("a notice");
        assert_eq!(
            (event.action, event.subsystem, event.node),
            ("change", "drm", Some("dri/card0"))
        );
        assert_eq!(parse(b"libudev\0\xfe\xed\xca\xfe"), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn the_kernel_lets_us_listen() {
        let mut events = Uevents::new().expect("netlink is there");
        assert!(!events.drain(|event| event.subsystem == "no such subsystem"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_notice_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }
    }
}
