//! Which memory-to-memory devices there are, and what each can be used for.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::device::Device;
use super::layout;
use super::setup;

/// What a memory-to-memory device does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum M2mKind {
    /// Raw pictures in, compressed ones out.
    Encoder,
    /// Compressed pictures in, raw ones out.
    Decoder,
    /// Raw pictures in and out.
    Converter,
}

/// What is known of a memory-to-memory device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct M2mNode {
    /// The node, e.g. `/dev/video11`.
    pub path: PathBuf,
    /// Kernel driver, e.g. `bcm2835-codec`.
    pub driver: String,
    /// The device's name for people.
    pub card: String,
    /// What it does; `None` if it could not be opened.
    pub kind: Option<M2mKind>,
    /// Formats that it takes, as fourccs.
    pub input: Vec<String>,
    /// Formats that it makes, as fourccs.
    pub output: Vec<String>,
    /// Why it is of no use here; `None` if it can be used.
    pub unusable: Option<String>,
}

/// All memory-to-memory devices of the machine, in the order of their numbers.
#[must_use]
pub fn probe() -> Vec<M2mNode> {
    let entries = fs::read_dir("/sys/class/video4linux").into_iter().flatten();
    let mut numbers: Vec<u32> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            name.to_str()?.strip_prefix("video")?.parse().ok()
        })
        .collect();
    numbers.sort_unstable();
    numbers
        .into_iter()
        .filter_map(|number| inspect(Path::new(&format!("/dev/video{number}"))))
        .collect()
}

/// `None` for nodes of other kinds, and for those that tell nothing: their names are in sysfs.
fn inspect(path: &Path) -> Option<M2mNode> {
    let mut node = M2mNode {
        path: path.to_owned(),
        driver: String::new(),
        card: String::new(),
        kind: None,
        input: Vec::new(),
        output: Vec::new(),
        unusable: None,
    };
    let device = match Device::open(path) {
        Ok(device) => device,
        Err(_) if !sysfs_says_m2m(path) => return None,
        Err(error) => {
            node.card = sysfs_name(path).unwrap_or_default();
            node.unusable = Some(error.what);
            return Some(node);
        }
    };
    node.driver.clone_from(&device.driver);
    node.card.clone_from(&device.card);
    let lists = (
        device.formats(device.output()),
        device.formats(device.capture()),
    );
    let (input, output) = match lists {
        (Ok(input), Ok(output)) => (input, output),
        (Err(error), _) | (_, Err(error)) => {
            node.unusable = Some(error.what);
            return Some(node);
        }
    };
    let compressed = |list: &[(soft_kvm_core::FourCc, bool)]| {
        // Some drivers leave the flag out.
        let known = |code| setup::CODED.iter().any(|(coded, _)| *coded == code);
        !list.is_empty() && list.iter().all(|(code, flag)| *flag || known(*code))
    };
    let raw = |list: &[(soft_kvm_core::FourCc, bool)]| {
        list.iter().any(|(code, _)| layout::pixels(*code).is_some())
    };
    let carried = |list: &[(soft_kvm_core::FourCc, bool)]| {
        list.iter()
            .any(|(code, _)| setup::CODED.iter().any(|(coded, _)| coded == code))
    };
    let (kind, usable) = match (compressed(&input), compressed(&output)) {
        (false, true) => (M2mKind::Encoder, raw(&input) && carried(&output)),
        (true, false) => (M2mKind::Decoder, carried(&input)),
        _ => (M2mKind::Converter, raw(&input) && raw(&output)),
    };
    node.kind = Some(kind);
    if !usable {
        node.unusable = Some("none of its formats is used".to_owned());
    }
    let names = |list: Vec<(soft_kvm_core::FourCc, bool)>| {
        list.into_iter().map(|(code, _)| code.to_string()).collect()
    };
    (node.input, node.output) = (names(input), names(output));
    Some(node)
}

fn sysfs_name(path: &Path) -> Option<String> {
    let class = Path::new("/sys/class/video4linux").join(path.file_name()?);
    let name = fs::read_to_string(class.join("name")).ok()?;
    Some(name.trim().to_owned())
}

/// A guess for nodes that cannot be opened: drivers name their codecs.
fn sysfs_says_m2m(path: &Path) -> bool {
    let name = sysfs_name(path).unwrap_or_default();
    ["enc", "dec", "codec", "m2m", "isp", "vpu", "264"]
        .iter()
        .any(|word| name.to_ascii_lowercase().contains(word))
}
