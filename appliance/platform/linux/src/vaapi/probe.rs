//! Which render nodes there are, and whether libva has an H.264 encoder behind them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use soft_kvm_core::MonoTime;

use super::display::Display;
use super::{library, session, worker};
use crate::clock;

/// How long a driver may take to say what it has.
const PATIENCE: Duration = Duration::from_secs(2);

/// A node without an encoder is not asked again before: a driver may have been installed then.
const AGAIN: Duration = Duration::from_secs(60);

/// What is known of a render node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaapiNode {
    /// The node, e.g. `/dev/dri/renderD128`.
    pub path: PathBuf,
    /// libva's driver, for people.
    pub driver: String,
    /// Why it is of no use here; `None` if it encodes H.264.
    pub unusable: Option<String>,
}

/// Why there can be no VAAPI on this machine at all, whatever its devices: libva is missing.
///
/// # Errors
/// What is missing, and what to install.
pub fn available() -> Result<(), String> {
    library::library().map(drop)
}

/// All render nodes, in the order of their numbers. Each driver is asked once, those without an encoder again after a
/// while.
#[must_use]
pub fn probe() -> Vec<VaapiNode> {
    let entries = fs::read_dir("/dev/dri").into_iter().flatten().flatten();
    let mut numbers: Vec<u32> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            name.to_str()?.strip_prefix("renderD")?.parse().ok()
        })
        .collect();
    numbers.sort_unstable();
    numbers
        .into_iter()
        .map(|number| asked(PathBuf::from(format!("/dev/dri/renderD{number}"))))
        .collect()
}

/// What was found at a node, and when.
type Known = BTreeMap<PathBuf, (VaapiNode, MonoTime)>;

fn asked(path: PathBuf) -> VaapiNode {
    static KNOWN: Mutex<Known> = Mutex::new(BTreeMap::new());
    let lock = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((node, at)) = lock().get(&path)
        && (node.unusable.is_none() || clock::now().since(*at) < AGAIN)
    {
        return node.clone();
    }
    let node = inspect(&path);
    lock().insert(path, (node.clone(), clock::now()));
    node
}

fn inspect(path: &Path) -> VaapiNode {
    let found = available()
        .map_err(super::error)
        .and_then(|()| worker::ask(path, PATIENCE, question));
    let (driver, unusable) = match found {
        Ok(vendor) => (vendor, None),
        Err(error) => (String::new(), Some(error.what)),
    };
    VaapiNode {
        path: path.to_owned(),
        driver,
        unusable,
    }
}

fn question(path: &Path) -> Result<String, soft_kvm_video::codec::CodecError> {
    let display = Display::open(path)?;
    session::entry(&display)?;
    Ok(display.vendor())
}
