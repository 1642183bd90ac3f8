//! Access rights of files, as Unix has them. A port to a system without them replaces this file.

use std::fs::{DirBuilder, File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

/// Makes a folder, and those above it, for its owner alone.
pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The mode's permission bits when they let others do one of `forbidden`.
pub(crate) fn too_open(metadata: &Metadata, forbidden: u32) -> Option<u32> {
    let mode = metadata.permissions().mode() & 0o7777;
    (mode & forbidden != 0).then_some(mode)
}

/// Makes the last rename in a folder survive a power cut.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
