//! Reads facts of the machine, under a root.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Longest text that is read of one file; what the kernel tells is shorter.
const MAX_TEXT: u64 = 4 << 20;

/// The machine, or a tree of files that looks like one.
#[derive(Clone, Debug)]
pub struct Machine {
    root: PathBuf,
}

/// Whether a node can be opened for reading and writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// It can.
    Granted,
    /// Not by this user.
    Denied,
    /// There is none, or nothing is behind it.
    Missing,
    /// Another reason of the kernel.
    Other(String),
}

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where it is on the machine.
    pub path: String,
    /// Whether it opens.
    pub access: Access,
    /// Its group.
    pub gid: Option<u32>,
    /// Its permission bits.
    pub mode: Option<u32>,
}

impl Default for Machine {
    fn default() -> Self {
        Self::at("/")
    }
}

impl Machine {
    /// The machine whose files lie under `root`.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Text of a file, if it can be read.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        let mut text = Vec::new();
        let file = fs::File::open(self.path(path)).ok()?;
        io::Read::read_to_end(&mut io::Read::take(file, MAX_TEXT), &mut text).ok()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    }

    /// A file's only word, such as a number of `/sys`.
    pub(super) fn word(&self, path: &str) -> Option<String> {
        self.text(path).map(|text| text.trim().to_owned())
    }

    /// A number in a file.
    pub(super) fn number(&self, path: &str) -> Option<u64> {
        self.word(path)?.parse().ok()
    }

    /// Whether there is such a file or folder.
    pub(super) fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Names in a folder, sorted.
    pub(super) fn names(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.path(folder))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// Where a link points.
    pub(super) fn link(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.path(path)).ok()?;
        target.into_os_string().into_string().ok()
    }

    /// A device node, opened and closed once.
    #[must_use]
    pub fn node(&self, path: &str) -> Node {
        let real = self.path(path);
        let access = match OpenOptions::new().read(true).write(true).open(&real) {
            Ok(_) => Access::Granted,
            Err(error) => Access::of(&error),
        };
        let metadata = fs::metadata(&real).ok();
        Node {
            path: path.to_owned(),
            access,
            gid: metadata.as_ref().map(MetadataExt::gid),
            mode: metadata.map(|metadata| metadata.mode() & 0o7777),
        }
    }

    /// Nodes of a folder whose names begin so, sorted by name.
    #[must_use]
    pub fn nodes(&self, folder: &str, prefix: &str) -> Vec<Node> {
        self.names(folder)
            .iter()
            .filter(|name| name.starts_with(prefix))
            .map(|name| self.node(&format!("{folder}/{name}")))
            .collect()
    }
}

impl Access {
    fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::Denied,
            io::ErrorKind::NotFound => Self::Missing,
            // Somebody else has it: it is there, and may be opened.
            io::ErrorKind::ResourceBusy => Self::Granted,
            _ if matches!(error.raw_os_error(), Some(ENXIO | ENODEV)) => Self::Missing,
            _ => Self::Other(error.to_string()),
        }
    }
}

/// No such device or address.
const ENXIO: i32 = 6;
/// No such device.
const ENODEV: i32 = 19;

#[cfg(test)]
pub(crate) mod tests {
    use tempfile::TempDir;

    use super::*;

    /// A tree with these files.
    pub(crate) fn tree(files: &[(&str, &str)]) -> (TempDir, Machine) {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let machine = Machine::at(folder.path());
        (folder, machine)
    }

    #[test]
    fn nodes_are_opened() {
        let (_folder, machine) = tree(&[("dev/video0", ""), ("dev/video1", ""), ("dev/vcs", "")]);
        let nodes = machine.nodes("/dev", "video");
        assert_eq!(nodes.len(), 2);
        assert_eq!(nodes[1].path, "/dev/video1");
        assert_eq!(nodes[1].access, Access::Granted);
        assert_eq!(machine.node("/dev/uinput").access, Access::Missing);
        let error = io::Error::from_raw_os_error;
        assert_eq!(Access::of(&error(ENODEV)), Access::Missing);
        assert_eq!(Access::of(&error(13)), Access::Denied);
        assert!(matches!(Access::of(&error(5)), Access::Other(_)));
    }
}
