//! Which nodes of a card a GPU is tried at, and what is found there.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Gpu;
use crate::kms::Card;
use crate::probe::drm_cards;

/// Where the kernel tells which nodes are of the same device.
const CLASS: &str = "/sys/class/drm";

/// What is known of a card's GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuNode {
    /// The card, e.g. `/dev/dri/card0`.
    pub path: PathBuf,
    /// The GPU's name for people.
    pub renderer: String,
    /// How many formats it imports.
    pub formats: usize,
    /// Why it is of no use here; `None` if it makes framebuffers linear.
    pub unusable: Option<String>,
}

/// All cards, in the order of their numbers.
#[must_use]
pub fn probe() -> Vec<GpuNode> {
    let found = |path: PathBuf| match Gpu::of_card(&path) {
        Ok(gpu) => GpuNode {
            path,
            renderer: gpu.facts.renderer.clone(),
            formats: gpu.facts.formats.len(),
            unusable: None,
        },
        Err(why) => GpuNode {
            path,
            renderer: String::new(),
            formats: 0,
            unusable: Some(why),
        },
    };
    drm_cards().into_iter().map(found).collect()
}

/// The cards, those with a render node first: it takes no right to the screen to use them.
pub(super) fn cards() -> Vec<PathBuf> {
    let mut cards = drm_cards();
    cards.sort_by_key(|card| render_node(Path::new(CLASS), card).is_none());
    cards
}

impl Gpu {
    /// Opens the GPU that a card's framebuffers are made by: at the card's render node; else at the card itself, where Mesa
    /// finds the GPU that goes with a card that only has screens, or renders in software.
    ///
    /// # Errors
    /// As [`Gpu::open`], for each node.
    pub(crate) fn of_card(card: &Path) -> Result<Self, String> {
        super::library::library()?;
        let render = render_node(Path::new(CLASS), card);
        let by_render = render.map(|node| {
            let name = node.display().to_string();
            let file = open(&node).map_err(|why| format!("{name}: {why}"))?;
            Self::open(&name, file.into())
        });
        let refused = match by_render {
            Some(Ok(gpu)) => return Ok(gpu),
            other => other.and_then(Result::err),
        };
        let file = Card::open(card).map_err(|error| error.to_string())?;
        let by_card = Self::open(&card.display().to_string(), OwnedFd::from(file));
        by_card.map_err(|why| match refused {
            Some(first) => format!("{first}; {why}"),
            None => why,
        })
    }
}

/// A render node shows nothing and tells nothing about the machine: it is opened without the broker.
fn open(node: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(node)
}

/// The render node of the same device as `card`, by the folder [`CLASS`].
fn render_node(class: &Path, card: &Path) -> Option<PathBuf> {
    let nodes = fs::read_dir(class.join(card.file_name()?).join("device/drm")).ok()?;
    let mut names = nodes
        .flatten()
        .filter_map(|node| node.file_name().into_string().ok());
    let name = names.find(|name| name.starts_with("renderD"))?;
    Some(Path::new("/dev/dri").join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_render_node_is_that_of_the_same_device() {
        let folder = tempfile::tempdir().expect("a folder");
        let class = folder.path();
        for node in ["card0/device/drm/card0", "card1/device/drm/card1"] {
            fs::create_dir_all(class.join(node)).expect("a folder");
        }
        let render = class.join("card1/device/drm/renderD129");
        fs::create_dir_all(render).expect("a folder");
        let of = |card: &str| render_node(class, Path::new(card));
        assert_eq!(of("/dev/dri/card0"), None, "it has screens only");
        assert_eq!(of("/dev/dri/card1"), Some("/dev/dri/renderD129".into()));
        assert_eq!(of("/dev/dri/card2"), None, "it is not there");
    }
}
