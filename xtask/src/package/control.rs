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

/// Asks dpkg-shlibdeps which packages have the libraries of these programs: Debian's own of the architecture, or else those that
/// came with the cross compiler, in the folder `cross`.
pub(super) fn libraries(
    architecture: &str,
    cross: Option<&Path>,
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
    let ask = |folder: Option<&Path>| {
        let mut command = Command::new("dpkg-shlibdeps");
        command.current_dir(work).arg("-O");
        if let Some(folder) = folder {
            command.arg(format!("-l{}", folder.display()));
        }
        command.args(programs).env("DEB_HOST_ARCH", architecture);
        shell::output(&mut command)
    };
    let said = match (ask(None), cross) {
        (Err(_), Some(folder)) => ask(Some(folder)),
        (said, _) => said,
    };
    let said = said.context("which libraries the programs need")?;
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("shlibs:Depends="));
    let line = line.with_context(|| format!("dpkg-shlibdeps names no libraries: '{said}'"))?;
    Ok(as_on_target(line, architecture))
}

/// The cross compiler's packages have other names than the target's: `libc6:arm64`, `libgcc-s1-arm64-cross`.
pub(super) fn as_on_target(libraries: &str, architecture: &str) -> String {
    let names = libraries.replace(&format!("-{architecture}-cross"), "");
    names.replace(&format!(":{architecture}"), "")
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
