//! Room and permissions of a folder.

use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, faccessat};

/// What the kernel tells about a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Whether this process may make files in it.
    pub writable: bool,
    /// Whether its file system is mounted read-only.
    pub read_only: bool,
    /// Bytes that an ordinary user may still write.
    pub free: u64,
}

/// Looks at the file system under a folder; writes nothing.
///
/// # Errors
/// The kernel's.
pub fn look(folder: &Path) -> io::Result<Disk> {
    let system = statvfs(folder)?;
    let flags = AccessFlags::W_OK | AccessFlags::X_OK;
    let writable = match faccessat(nix::fcntl::AT_FDCWD, folder, flags, AtFlags::AT_EACCESS) {
        Ok(()) => true,
        Err(Errno::EACCES | Errno::EROFS | Errno::EPERM) => false,
        Err(error) => return Err(error.into()),
    };
    Ok(Disk {
        writable,
        read_only: system.flags().contains(FsFlags::ST_RDONLY),
        free: system
            .blocks_available()
            .saturating_mul(system.fragment_size()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_of_a_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = look(folder.path()).expect("the kernel tells");
        assert!(disk.writable && !disk.read_only && disk.free > 0);
        let system = look(Path::new("/proc")).expect("the kernel tells");
        assert_eq!(system.free, 0, "nothing is kept there");
        assert!(look(&folder.path().join("none")).is_err());
    }
}
