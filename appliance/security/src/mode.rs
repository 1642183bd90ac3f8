//! Access rights of files, as Unix has them. A port to a system without them replaces this file.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
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

/// A file that is made, is made for its owner alone.
pub(crate) fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options.mode(0o600)
}

/// Whether the path still leads to this open file.
pub(crate) fn is_file(file: &File, path: &Path) -> bool {
    let same = |a: Metadata, b: Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    file.metadata()
        .and_then(|open| path.metadata().map(|there| same(open, there)))
        .unwrap_or(false)
}

/// A file made by root in the folder of another user is that user's: the program that runs as that user has to use it.
pub(crate) fn give_to_owner(file: &File, folder: &Path) -> io::Result<()> {
    let folder = folder.metadata()?;
    if file.metadata()?.uid() == folder.uid() {
        return Ok(());
    }
    fchown(file, Some(folder.uid()), Some(folder.gid()))
}
