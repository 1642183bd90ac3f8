//! Access rights of files; where an operating system has none, everything passes.

use std::fs::{self, Metadata};
use std::io;
use std::path::Path;

/// Makes a folder, and those above it, for its owner alone.
pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// The mode's permission bits when they let others do one of `forbidden`.
pub(crate) fn too_open(metadata: &Metadata, forbidden: u32) -> Option<u32> {
    #[cfg(unix)]
    let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o7777;
    #[cfg(not(unix))]
    let mode = {
        let _ = metadata;
        0
    };
    (mode & forbidden != 0).then_some(mode)
}

/// Makes the last rename in a folder survive a power cut.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        fs::File::open(path)?.sync_all()?;
    }
    Ok(())
}
