//! Licences and notices of the crates that are linked into the programs; their authors ask for them to be passed on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Deserialize;

use crate::shell;

/// How the names of licence files begin.
const NAMES: &[&str] = &[
    "LICENSE",
    "LICENCE",
    "COPYING",
    "COPYRIGHT",
    "NOTICE",
    "UNLICENSE",
];

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Crate>,
}

/// A crate, as `cargo metadata` has it.
#[derive(Debug, Deserialize)]
pub(super) struct Crate {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) license: Option<String>,
    pub(super) authors: Vec<String>,
    /// `None` for our own.
    pub(super) source: Option<String>,
    pub(super) manifest_path: PathBuf,
}

/// The text for what is linked into the programs for `triple`.
pub(super) fn collect(triple: &str) -> anyhow::Result<String> {
    let linked = shell::output(shell::cargo().args([
        "tree",
        "--package=soft-kvm-server",
        "--package=soft-kvm-client",
        "--edges=normal,no-proc-macro",
        "--prefix=none",
        "--no-dedupe",
        "--format={p}",
        "--target",
        triple,
    ]))?;
    // NAME vVERSION, and more behind it.
    let linked: BTreeSet<(&str, &str)> = linked
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?, words.next()?.strip_prefix('v')?))
        })
        .collect();
    let text = shell::output(shell::cargo().args(["metadata", "--format-version=1"]))?;
    let metadata: Metadata = serde_json::from_str(&text).context("reading cargo metadata")?;
    let mut crates = Vec::new();
    for one in metadata.packages {
        if one.source.is_some() && linked.contains(&(one.name.as_str(), one.version.as_str())) {
            let folder = one.manifest_path.parent().unwrap_or(Path::new("."));
            let texts = texts(folder)?;
            crates.push((one, texts));
        }
    }
    Ok(render(&crates))
}

/// The licence files of a crate, and of the sources of others in it.
fn texts(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            for inner in fs::read_dir(&path)? {
                paths.push(inner?.path());
            }
        } else {
            paths.push(path);
        }
    }
    paths.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let source = path.extension().is_some_and(|extension| extension == "rs");
        let upper = name.to_uppercase();
        path.is_file() && !source && NAMES.iter().any(|begin| upper.starts_with(begin))
    });
    paths.sort();
    let texts = paths.iter().map(|path| {
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    });
    texts.collect()
}

/// A list of all, then each text once with the crates that it is of.
pub(super) fn render(crates: &[(Crate, Vec<String>)]) -> String {
    let mut text =
        "Linked into soft-kvm-server and soft-kvm-client, besides Rust's standard library \
        (MIT OR Apache-2.0, The Rust Project Developers):\n\n"
            .to_owned();
    let mut places: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (one, texts) in crates {
        let name = format!("{} {}", one.name, one.version);
        let license = one.license.as_deref().unwrap_or("see below");
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name}: {license}; {}", one.authors.join(", "));
        for one in texts {
            places.entry(one).or_default().push(name.clone());
        }
    }
    let mut sections: Vec<(String, &str)> = places
        .into_iter()
        .map(|(license, names)| (names.join(", "), license))
        .collect();
    sections.sort();
    for (names, license) in sections {
        let _ = write!(text, "\n{}\n{names}\n\n{license}\n", "-".repeat(72));
    }
    text
}
