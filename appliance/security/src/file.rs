//! Files of the state folder: private, replaced in one step, never left half written.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::mode;

/// What is wrong with the state folder or a file in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The file system is full.
    #[error(
        "{path}: no space left on the file system: free some and start again; nothing was changed"
    )]
    Full {
        /// File that was being written.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What was tried, e.g. `read`.
        action: &'static str,
        /// The operating system's reason.
        source: io::Error,
    },
    /// Others than the owner can use a secret file, or put files in the folder.
    #[error(
        "{path}: other users have access (mode {mode:04o}): run `chmod {wanted:o} {path}`; \
             if the key may have been read, remove the file and pair again"
    )]
    Mode {
        /// File or folder.
        path: PathBuf,
        /// Permission bits it has.
        mode: u32,
        /// Permission bits it needs.
        wanted: u32,
    },
    /// The file's content cannot be used. It is never overwritten.
    #[error("{path}: {reason}: restore it from a backup, or move it away to start afresh ({cost})")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What starting afresh means.
        cost: &'static str,
    },
    /// The random number generator or the key generator failed.
    #[error("cannot make a key: {0}")]
    Key(String),
}

impl StateError {
    pub(crate) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        let path = path.to_owned();
        if matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        ) {
            Self::Full { path }
        } else {
            Self::Io {
                path,
                action,
                source,
            }
        }
    }
}

/// Largest state file that is read, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// The folder that holds one program's key and peers; owned by that program.
#[derive(Clone, Debug)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// Opens the folder, and makes it (mode 0700) when it is not there.
    ///
    /// # Errors
    ///
    /// It cannot be made, is not a folder, or others may write in it.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StateError> {
        let path = path.into();
        mode::create_private_dir(&path).map_err(|e| StateError::io(&path, "make the folder", e))?;
        let metadata = fs::metadata(&path).map_err(|e| StateError::io(&path, "look at", e))?;
        if let Some(mode) = mode::too_open(&metadata, 0o022) {
            return Err(StateError::Mode {
                path,
                mode,
                wanted: 0o700,
            });
        }
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The content of a private file, or nothing when there is no such file.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
        let path = self.file(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StateError::io(&path, "open", e)),
        };
        let metadata = file
            .metadata()
            .map_err(|e| StateError::io(&path, "look at", e))?;
        if let Some(mode) = mode::too_open(&metadata, 0o077) {
            return Err(StateError::Mode {
                path,
                mode,
                wanted: 0o600,
            });
        }
        if metadata.len() > MAX_FILE {
            return Err(StateError::Corrupt {
                path,
                reason: format!("larger than {MAX_FILE} bytes"),
                cost: "every peer has to pair again",
            });
        }
        let mut content = Zeroizing::new(Vec::new());
        file.take(MAX_FILE)
            .read_to_end(&mut content)
            .map_err(|e| StateError::io(&path, "read", e))?;
        Ok(Some(content))
    }

    /// Puts `content` in place of the file, whole or not at all, power cuts included.
    pub(crate) fn replace(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        let path = self.file(name);
        let temporary = self.write_temporary(&path, content)?;
        temporary
            .persist(&path)
            .map_err(|e| StateError::io(&path, "replace", e.error))?;
        self.sync(&path)
    }

    /// Removes the file for good; says whether it was there.
    pub(crate) fn remove(&self, name: &str) -> Result<bool, StateError> {
        let path = self.file(name);
        match fs::remove_file(&path) {
            Ok(()) => self.sync(&path).map(|()| true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(StateError::io(&path, "remove", e)),
        }
    }

    /// Like [`Self::replace`] but leaves a file alone that is there already; says whether it was written.
    pub(crate) fn create(&self, name: &str, content: &[u8]) -> Result<bool, StateError> {
        let path = self.file(name);
        let temporary = self.write_temporary(&path, content)?;
        match temporary.persist_noclobber(&path) {
            Ok(_) => self.sync(&path).map(|()| true),
            Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(StateError::io(&path, "make", e.error)),
        }
    }

    fn write_temporary(
        &self,
        path: &Path,
        content: &[u8],
    ) -> Result<tempfile::NamedTempFile, StateError> {
        // `tempfile` gives mode 0600 and removes the file when we fail before the rename.
        let mut temporary = tempfile::Builder::new()
            .prefix(".new-")
            .tempfile_in(&self.0)
            .map_err(|e| StateError::io(path, "make a temporary file for", e))?;
        self.own(temporary.as_file(), path)?;
        fill(temporary.as_file_mut(), content).map_err(|e| StateError::io(path, "write", e))?;
        Ok(temporary)
    }

    /// Gives a file that was made here to the folder's owner.
    pub(crate) fn own(&self, file: &File, path: &Path) -> Result<(), StateError> {
        mode::give_to_owner(file, &self.0).map_err(|e| StateError::io(path, "hand over", e))
    }

    fn sync(&self, path: &Path) -> Result<(), StateError> {
        mode::sync_dir(&self.0).map_err(|e| StateError::io(path, "flush", e))
    }
}

fn fill(file: &mut File, content: &[u8]) -> io::Result<()> {
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn state() -> (tempfile::TempDir, StateDir) {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open(root.path().join("a/state")).unwrap();
        (root, state)
    }

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn folder_and_files_are_private() {
        let (_root, state) = state();
        assert_eq!(mode_of(state.path()), 0o700);
        state.replace("x", b"1").unwrap();
        assert_eq!(mode_of(&state.file("x")), 0o600);
        state.replace("x", b"2").unwrap();
        assert_eq!(state.read("x").unwrap().unwrap().as_slice(), b"2");
        assert!(!state.create("x", b"3").unwrap());
        assert_eq!(state.read("x").unwrap().unwrap().as_slice(), b"2");
        assert!(state.read("y").unwrap().is_none());
        let left: Vec<_> = fs::read_dir(state.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "temporary files stay behind: {left:?}");
    }

    #[test]
    fn open_modes_are_refused_with_the_command_that_mends_them() {
        let (_root, state) = state();
        state.replace("x", b"1").unwrap();
        fs::set_permissions(state.file("x"), fs::Permissions::from_mode(0o644)).unwrap();
        let text = state.read("x").unwrap_err().to_string();
        assert!(
            text.contains("mode 0644") && text.contains("chmod 600"),
            "{text}"
        );
        fs::set_permissions(state.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let text = StateDir::open(state.path()).unwrap_err().to_string();
        assert!(text.contains("chmod 700"), "{text}");
    }

    #[test]
    fn a_file_in_place_of_the_folder_is_told() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("state"), "").unwrap();
        let error = StateDir::open(root.path().join("state")).unwrap_err();
        assert!(matches!(error, StateError::Io { .. }), "{error}");
    }

    #[test]
    fn a_full_file_system_is_named_as_such() {
        let mut full = fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let error = fill(&mut full, b"x").unwrap_err();
        let error = StateError::io(Path::new("/var/lib/soft-kvm/peers.json"), "write", error);
        assert!(matches!(error, StateError::Full { .. }), "{error}");
    }

    #[test]
    #[ignore = "needs root: gives a folder to another user"]
    fn what_root_writes_belongs_to_the_folders_owner() {
        use std::os::unix::fs::{MetadataExt as _, chown};

        let (_root, state) = state();
        chown(state.path(), Some(65_534), Some(65_534)).unwrap();
        state.replace("x", b"1").unwrap();
        let identity = crate::Identity::rotate(&state).unwrap();
        crate::PeerStore::open(&state)
            .unwrap()
            .set_address(&identity.fingerprint(), "192.0.2.1:1")
            .unwrap();
        crate::audit::AuditLog::new(&state)
            .append("now", &[crate::audit::Event::Stopped {}])
            .unwrap();
        crate::factory_reset(&state).unwrap();
        let entries: Vec<_> = fs::read_dir(state.path()).unwrap().flatten().collect();
        assert!(entries.len() > 3, "{entries:?}");
        for entry in entries {
            let owner = entry.metadata().unwrap();
            assert_eq!((owner.uid(), owner.gid()), (65_534, 65_534), "{entry:?}");
        }
    }

    #[test]
    #[ignore = "needs root: mounts a tmpfs of one page"]
    fn a_full_file_system_keeps_the_old_file() {
        struct Mount(PathBuf);
        impl Drop for Mount {
            fn drop(&mut self) {
                let _ = std::process::Command::new("umount").arg(&self.0).status();
            }
        }
        let root = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8k,mode=0700", "tmpfs"])
            .arg(root.path())
            .status()
            .unwrap();
        assert!(mounted.success());
        let _mount = Mount(root.path().to_owned());
        let state = StateDir::open(root.path()).unwrap();
        state.replace("x", b"old").unwrap();
        let error = state.replace("x", &[b'n'; 64 * 1024]).unwrap_err();
        assert!(matches!(error, StateError::Full { .. }), "{error}");
        assert_eq!(state.read("x").unwrap().unwrap().as_slice(), b"old");
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 1);
    }
}
