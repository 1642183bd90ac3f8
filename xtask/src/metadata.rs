//! What `cargo metadata` says about the workspace, as far as we need it.

use std::path::PathBuf;

use anyhow::Context as _;
use serde::Deserialize;

use crate::shell;

#[derive(Debug, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
    pub(crate) target_directory: PathBuf,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) manifest_path: PathBuf,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// `None`, `"dev"` or `"build"`.
    pub(crate) kind: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) kind: Vec<String>,
    pub(crate) src_path: PathBuf,
}

/// The members of the workspace whose root manifest is `manifest` below the checkout.
pub(crate) fn read(manifest: &str) -> anyhow::Result<Metadata> {
    let text = shell::output(
        shell::cargo()
            .args([
                "metadata",
                "--format-version=1",
                "--no-deps",
                "--manifest-path",
            ])
            .arg(shell::root().join(manifest)),
    )?;
    serde_json::from_str(&text).context("reading cargo metadata")
}
