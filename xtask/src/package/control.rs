//! What dpkg reads: version, dependencies, sums, and the scripts that it runs.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use super::{stage, text};
use crate::shell;

/// Run by dpkg.
pub(super) const SCRIPTS: &[&str] = &["postinst", "prerm", "postrm"];

/// What differs from package to package.
#[derive(Debug)]
pub(super) struct About {
    pub(super) version: String,
    pub(super) architecture: &'static str,
    /// The libraries that the programs are linked to, with their versions.
    pub(super) libraries: String,
}

/// The version in the first line of a Debian changelog.
pub(super) fn version(changelog: &str) -> anyhow::Result<String> {
    let version = changelog
        .strip_prefix("soft-kvm (")
        .and_then(|rest| rest.split_once(") "))
        .map(|(version, _)| version.to_owned());
    version.context("packaging/debian/changelog does not begin with 'soft-kvm (VERSION) '")
}

/// Asks dpkg-shlibdeps which packages have the libraries of these programs.
pub(super) fn libraries(
    architecture: &str,
    programs: &[&Path],
    work: &Path,
) -> anyhow::Result<String> {
    // It wants a source tree's control file.
    let debian = work.join("debian");
    fs::create_dir_all(&debian)?;
    fs::write(
        debian.join("control"),
        "Source: soft-kvm\n\nPackage: soft-kvm\nArchitecture: any\n",
    )?;
    let said = shell::output(
        Command::new("dpkg-shlibdeps")
            .current_dir(work)
            .arg("-O")
            .args(programs)
            .env("DEB_HOST_ARCH", architecture),
    )
    .with_context(|| {
        format!(
            "which libraries the programs need; for another architecture than this machine's Debian's own have to be \
             there: dpkg --add-architecture {architecture} && apt-get update && apt-get install \
             libc6:{architecture} libstdc++6:{architecture}"
        )
    })?;
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("shlibs:Depends="));
    Ok(line
        .with_context(|| format!("dpkg-shlibdeps names no libraries: '{said}'"))?
        .to_owned())
}

/// Writes `DEBIAN/` of a staged tree.
pub(super) fn write(about: &About, tree: &Path) -> anyhow::Result<()> {
    let paths = stage::files(tree)?;
    let mut size = 0;
    for path in &paths {
        size += fs::symlink_metadata(tree.join(path))?.len().div_ceil(1024);
    }
    let sums = shell::output(
        Command::new("md5sum")
            .current_dir(tree)
            .arg("--")
            .args(&paths),
    )?;
    let control = fill(&text("control")?, about, size);
    stage::write(tree, "DEBIAN/control", 0o644, control.as_bytes())?;
    stage::write(tree, "DEBIAN/md5sums", 0o644, sums.as_bytes())?;
    for script in SCRIPTS {
        let path = format!("DEBIAN/{script}");
        stage::write(tree, &path, 0o755, text(script)?.as_bytes())?;
    }
    Ok(())
}

/// The template with its blanks filled; `size` is in KiB.
pub(super) fn fill(template: &str, about: &About, size: u64) -> String {
    template
        .replace("@VERSION@", &about.version)
        .replace("@ARCHITECTURE@", about.architecture)
        .replace("@SIZE@", &size.to_string())
        .replace("@LIBRARIES@", &about.libraries)
}
