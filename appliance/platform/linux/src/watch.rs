//! Noticing that device nodes come and go, with inotify on `/dev`: works with udevd, mdev or bare devtmpfs.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use crate::waker::Waker;

/// What a device node is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeKind {
    /// `/dev/videoN` (V4L2).
    Video,
    /// `/dev/dri/cardN`.
    Drm,
    /// `/dev/input/eventN`.
    Input,
}

/// What happened to a device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeChange {
    /// It has been made. Its permissions may not be set yet: an [`NodeChange::Attributes`] follows under udev.
    Came,
    /// It has been removed.
    Gone,
    /// Its owner or permissions changed: worth another try to open it.
    Attributes,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEvent {
    /// The node.
    pub path: PathBuf,
    /// What it is for.
    pub kind: NodeKind,
    /// What happened.
    pub change: NodeChange,
}

/// Folders below the root, with the name that their nodes begin with.
const FOLDERS: [(&str, &str, NodeKind); 3] = [
    ("", "video", NodeKind::Video),
    ("dri", "card", NodeKind::Drm),
    ("input", "event", NodeKind::Input),
];

/// Watches `/dev`, `/dev/dri` and `/dev/input`, also when the last two are made later.
#[derive(Debug)]
pub struct DeviceWatch {
    root: PathBuf,
    inotify: Inotify,
    folders: [Option<WatchDescriptor>; 3],
}

impl DeviceWatch {
    /// Watches `/dev`.
    ///
    /// # Errors
    /// When the system has no inotify instance left.
    pub fn new() -> io::Result<Self> {
        Self::at(Path::new("/dev"))
    }

    /// Watches a folder that looks like `/dev`; for tests.
    ///
    /// # Errors
    /// When there is no such folder or the system has no inotify instance left.
    pub fn at(root: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let mut watch = Self {
            root: root.to_owned(),
            inotify,
            folders: [None; 3],
        };
        watch.folders[0] = Some(watch.inotify.add_watch(root, interest())?);
        // A folder that is not there yet is taken up when it appears in the root.
        let _ = watch.add(1);
        let _ = watch.add(2);
        Ok(watch)
    }

    /// Waits for changes, at most `timeout` or until `waker` (which stays set) wakes, and appends them to
    /// `events`. Nothing is appended on timeout.
    ///
    /// After an overflow of the kernel's queue the changes are not known: `Ok(false)` asks the caller to
    /// look at all devices again.
    ///
    /// # Errors
    /// When the kernel refuses to read its queue.
    pub fn wait(
        &mut self,
        timeout: Duration,
        waker: Option<&Waker>,
        events: &mut Vec<NodeEvent>,
    ) -> io::Result<bool> {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let own = PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN);
        let ready = match waker {
            Some(waker) => poll(
                &mut [own, PollFd::new(waker.as_fd(), PollFlags::POLLIN)],
                timeout,
            ),
            None => poll(&mut [own], timeout),
        };
        match ready {
            Ok(0) | Err(Errno::EINTR) => return Ok(true),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        self.read(events)
    }

    fn read(&mut self, events: &mut Vec<NodeEvent>) -> io::Result<bool> {
        let mut complete = true;
        loop {
            let batch = match self.inotify.read_events() {
                Ok(batch) => batch,
                Err(Errno::EAGAIN) => return Ok(complete),
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for event in batch {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    complete = false;
                    continue;
                }
                let Some(folder) = self.folders.iter().position(|wd| *wd == Some(event.wd)) else {
                    continue;
                };
                if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    self.folders[folder] = None;
                    continue;
                }
                let Some(name) = event.name else { continue };
                if event.mask.contains(AddWatchFlags::IN_ISDIR) {
                    self.folder_event(folder, &name, event.mask, events);
                } else {
                    self.node_event(folder, &name, event.mask, events);
                }
            }
        }
    }

    fn node_event(
        &self,
        folder: usize,
        name: &OsStr,
        mask: AddWatchFlags,
        events: &mut Vec<NodeEvent>,
    ) {
        let Some(&(place, prefix, kind)) = FOLDERS.get(folder) else {
            return;
        };
        if !is_numbered(name, prefix) {
            return;
        }
        let change = if mask.intersects(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO) {
            NodeChange::Came
        } else if mask.intersects(AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM) {
            NodeChange::Gone
        } else {
            NodeChange::Attributes
        };
        events.push(NodeEvent {
            path: self.root.join(place).join(name),
            kind,
            change,
        });
    }

    fn folder_event(
        &mut self,
        parent: usize,
        name: &OsStr,
        mask: AddWatchFlags,
        events: &mut Vec<NodeEvent>,
    ) {
        let made = mask.intersects(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO);
        let found = FOLDERS
            .iter()
            .position(|(place, ..)| !place.is_empty() && name == OsStr::new(place));
        let (Some(folder), true, 0) = (found, made, parent) else {
            return;
        };
        if self.add(folder).is_err() {
            return;
        }
        // Nodes made before the watch was in place would be missed.
        let (place, prefix, kind) = FOLDERS[folder];
        let path = self.root.join(place);
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            if is_numbered(&entry.file_name(), prefix) {
                events.push(NodeEvent {
                    path: entry.path(),
                    kind,
                    change: NodeChange::Came,
                });
            }
        }
    }

    fn add(&mut self, folder: usize) -> nix::Result<()> {
        let path = self.root.join(FOLDERS[folder].0);
        self.folders[folder] = Some(self.inotify.add_watch(&path, interest())?);
        Ok(())
    }
}

impl AsFd for DeviceWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

fn interest() -> AddWatchFlags {
    AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_ONLYDIR
}

fn is_numbered(name: &OsStr, prefix: &str) -> bool {
    name.to_str()
        .and_then(|name| name.strip_prefix(prefix))
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn changes(watch: &mut DeviceWatch) -> io::Result<Vec<(String, NodeChange)>> {
        let mut events = Vec::new();
        assert!(watch.wait(Duration::ZERO, None, &mut events)?);
        let name = |event: &NodeEvent| event.path.file_name().map(|n| n.to_string_lossy().into());
        Ok(events
            .iter()
            .filter_map(|event| Some((name(event)?, event.change)))
            .collect())
    }

    #[test]
    fn nodes_come_and_go() -> io::Result<()> {
        let dev = tempfile::tempdir()?;
        let mut watch = DeviceWatch::at(dev.path())?;
        assert_eq!(changes(&mut watch)?, []);
        for name in ["video0", "videoX", "video", "null", "event3"] {
            fs::write(dev.path().join(name), "")?;
        }
        assert_eq!(changes(&mut watch)?, [("video0".into(), NodeChange::Came)]);
        fs::remove_file(dev.path().join("video0"))?;
        let gone = changes(&mut watch)?;
        assert_eq!(gone.last(), Some(&("video0".into(), NodeChange::Gone)));
        Ok(())
    }

    #[test]
    fn folders_made_later_are_watched_with_what_is_in_them() -> io::Result<()> {
        let dev = tempfile::tempdir()?;
        let mut watch = DeviceWatch::at(dev.path())?;
        fs::create_dir(dev.path().join("input"))?;
        fs::write(dev.path().join("input/event0"), "")?;
        assert_eq!(changes(&mut watch)?, [("event0".into(), NodeChange::Came)]);
        fs::write(dev.path().join("input/event1"), "")?;
        assert_eq!(changes(&mut watch)?, [("event1".into(), NodeChange::Came)]);
        // Removed and made again, as when the last device goes and another comes.
        fs::remove_dir_all(dev.path().join("input"))?;
        changes(&mut watch)?;
        fs::create_dir(dev.path().join("input"))?;
        fs::write(dev.path().join("input/event2"), "")?;
        assert_eq!(changes(&mut watch)?, [("event2".into(), NodeChange::Came)]);
        Ok(())
    }

    #[test]
    fn a_waker_ends_the_wait() -> io::Result<()> {
        let dev = tempfile::tempdir()?;
        let mut watch = DeviceWatch::at(dev.path())?;
        let waker = Waker::new()?;
        waker.wake();
        let mut events = Vec::new();
        assert!(watch.wait(Duration::from_secs(600), Some(&waker), &mut events)?);
        assert!(events.is_empty() && waker.clear());
        Ok(())
    }
}
