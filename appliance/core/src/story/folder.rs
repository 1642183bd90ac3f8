//! Reads a user's story and its imports, and nothing outside the story's own folder.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use super::error::Text;

/// The largest file that a story may consist of or import, in bytes.
pub const MAX_FILE: usize = 1024 * 1024;

/// A file of the story.
#[derive(Debug)]
pub(super) struct Source {
    /// The file's path without links; tells files apart.
    pub(super) path: PathBuf,
    /// The folder that its own imports start from.
    pub(super) folder: PathBuf,
    /// Its name in messages.
    pub(super) shown: String,
    pub(super) text: Vec<u8>,
}

/// The folder that imports may not leave.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    /// The folder as the user wrote it, for messages.
    shown: PathBuf,
}

impl Folder {
    /// Opens the folder of a story and reads the story. The story itself may be a link to anywhere: the user named it.
    pub(super) fn open(story: &Path) -> Result<(Self, Source), Text> {
        let shown = story.parent().unwrap_or(Path::new("")).to_owned();
        let parent = if shown.as_os_str().is_empty() {
            Path::new(".")
        } else {
            &shown
        };
        let root = parent.canonicalize().map_err(|error| unreadable(&error))?;
        let path = story.canonicalize().map_err(|error| unreadable(&error))?;
        let source = Source {
            text: read(&path)?,
            path,
            folder: root.clone(),
            shown: story.display().to_string(),
        };
        Ok((Self { root, shown }, source))
    }

    /// Reads the import `path` of a file in `from`.
    pub(super) fn read(&self, from: &Path, path: &str) -> Result<Source, Text> {
        let relative = Path::new(path);
        let inside = !path.is_empty()
            && relative
                .components()
                .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !inside {
            return Err(outside());
        }
        let path = from
            .join(relative)
            .canonicalize()
            .map_err(|error| unreadable(&error))?;
        let Ok(in_root) = path.strip_prefix(&self.root) else {
            return Err(outside());
        };
        Ok(Source {
            text: read(&path)?,
            folder: path.parent().unwrap_or(&self.root).to_owned(),
            shown: self.shown.join(in_root).display().to_string(),
            path,
        })
    }
}

fn outside() -> Text {
    Text::new(
        "imports stay inside the story's own folder: no absolute path, no '..', no link out of it",
        "import はストーリーのフォルダの中だけです。絶対パス、'..'、外へのリンクは使えません",
    )
}

fn unreadable(error: &io::Error) -> Text {
    Text::new(
        format!("can't be read: {error}"),
        format!("読み込めません: {error}"),
    )
}

/// Devices and pipes are refused before they are opened, as opening one may wait for ever; the size is checked
/// while reading, as a file may grow.
fn read(path: &Path) -> Result<Vec<u8>, Text> {
    let metadata = path.metadata().map_err(|error| unreadable(&error))?;
    if !metadata.is_file() {
        return Err(Text::new(
            "is not a regular file",
            "通常のファイルではありません",
        ));
    }
    let mut text = Vec::new();
    let limit = u64::try_from(MAX_FILE).unwrap_or(u64::MAX);
    File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut text))
        .map_err(|error| unreadable(&error))?;
    if text.len() > MAX_FILE {
        return Err(Text::new(
            format!("is larger than {MAX_FILE} bytes"),
            format!("{MAX_FILE} バイトより大きいファイルです"),
        ));
    }
    Ok(text)
}
