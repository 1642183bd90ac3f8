//! The tree of files that is packed.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::TEXTS;
use crate::shell;

/// Shells, and what stands before and behind a program's name where Debian has their completions.
const COMPLETIONS: &[(&str, &str, &str)] = &[
    ("bash", "bash-completion/completions/", ""),
    ("fish", "fish/vendor_completions.d/", ".fish"),
    ("zsh", "zsh/vendor-completions/_", ""),
];

/// Files of the checkout, and where they go.
const FILES: &[(&str, &str)] = &[
    (
        "systemd/soft-kvm.service",
        "usr/lib/systemd/system/soft-kvm.service",
    ),
    (
        "systemd/soft-kvm.socket",
        "usr/lib/systemd/system/soft-kvm.socket",
    ),
    (
        "systemd/soft-kvm-broker.socket",
        "usr/lib/systemd/system/soft-kvm-broker.socket",
    ),
    (
        "systemd/soft-kvm-broker.service",
        "usr/lib/systemd/system/soft-kvm-broker.service",
    ),
    (
        "systemd/soft-kvm-seat@.service",
        "usr/lib/systemd/system/soft-kvm-seat@.service",
    ),
    (
        "systemd/soft-kvm-client@.service",
        "usr/lib/systemd/system/soft-kvm-client@.service",
    ),
    (
        "systemd/soft-kvm.sysusers.conf",
        "usr/lib/sysusers.d/soft-kvm.conf",
    ),
    (
        "systemd/soft-kvm.tmpfiles.conf",
        "usr/lib/tmpfiles.d/soft-kvm.conf",
    ),
    (
        "udev/70-soft-kvm.rules",
        "usr/lib/udev/rules.d/70-soft-kvm.rules",
    ),
    (
        "udev/70-soft-kvm.hwdb",
        "usr/lib/udev/hwdb.d/70-soft-kvm.hwdb",
    ),
    (
        "story.jsonnet",
        "usr/share/doc/soft-kvm/examples/default.jsonnet",
    ),
];

/// Files that are compressed there.
const COMPRESSED: &[(&str, &str)] = &[("CHANGELOG.md", "usr/share/doc/soft-kvm/changelog")];

/// A program, and what it tells of itself.
#[derive(Debug)]
pub(super) struct Program {
    name: &'static str,
    pub(super) file: PathBuf,
    manual: String,
    /// In the order of [`COMPLETIONS`].
    completions: Vec<String>,
}

impl Program {
    /// Asks the program for its manual and completions; `runner` are the words that make it run here.
    pub(super) fn ask(
        name: &'static str,
        file: PathBuf,
        runner: &[String],
    ) -> anyhow::Result<Self> {
        let ask = |words: &[&str]| {
            let mut line = runner.iter().map(AsRef::as_ref).chain([file.as_os_str()]);
            let mut command = Command::new(line.next().unwrap_or(file.as_os_str()));
            shell::output(command.args(line).args(words).env("LC_ALL", "C.UTF-8"))
        };
        let completions = COMPLETIONS
            .iter()
            .map(|(shell, ..)| ask(&["completions", shell]));
        Ok(Self {
            name,
            manual: ask(&["man"])?,
            completions: completions.collect::<anyhow::Result<_>>()?,
            file,
        })
    }
}

/// What goes into the package besides files of the checkout.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) programs: Vec<Program>,
    /// Licences of what is linked in.
    pub(super) notices: String,
}

/// The files of the checkout that [`stage`] reads, besides the texts.
pub(super) fn sources() -> impl Iterator<Item = PathBuf> {
    FILES
        .iter()
        .chain(COMPRESSED)
        .map(|(from, _)| shell::root().join(from))
}

/// Writes the tree.
pub(super) fn stage(content: &Content, tree: &Path) -> anyhow::Result<()> {
    for program in &content.programs {
        let name = program.name;
        let binary = fs::read(&program.file)
            .with_context(|| format!("reading {}", program.file.display()))?;
        write(tree, &format!("usr/bin/{name}"), 0o755, &binary)?;
        let manual = format!("usr/share/man/man1/{name}.1");
        compressed(tree, &manual, program.manual.as_bytes())?;
        for ((_, before, behind), text) in COMPLETIONS.iter().zip(&program.completions) {
            let path = format!("usr/share/{before}{name}{behind}");
            write(tree, &path, 0o644, text.as_bytes())?;
        }
    }
    let read =
        |path: &str| fs::read(shell::root().join(path)).with_context(|| format!("reading {path}"));
    for (from, to) in FILES {
        write(tree, to, 0o644, &read(from)?)?;
    }
    for (from, to) in COMPRESSED {
        compressed(tree, to, &read(from)?)?;
    }
    let documentation = "usr/share/doc/soft-kvm";
    for name in ["copyright", "README.Debian"] {
        let text = read(&format!("{TEXTS}/{name}"))?;
        write(tree, &format!("{documentation}/{name}"), 0o644, &text)?;
    }
    let changelog = read(&format!("{TEXTS}/changelog"))?;
    let path = format!("{documentation}/changelog.Debian");
    compressed(tree, &path, &changelog)?;
    let path = format!("{documentation}/third-party");
    compressed(tree, &path, content.notices.as_bytes())?;
    let overrides = read(&format!("{TEXTS}/lintian-overrides"))?;
    let path = "usr/share/lintian/overrides/soft-kvm";
    write(tree, path, 0o644, &overrides)
}

/// Writes a file; its folders and modes are the same whatever the umask is.
pub(super) fn write(tree: &Path, path: &str, mode: u32, content: &[u8]) -> anyhow::Result<()> {
    let file = tree.join(path);
    let folder = file.parent().unwrap_or(tree);
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(&file, content));
    written.with_context(|| format!("writing {}", file.display()))?;
    fs::set_permissions(&file, Permissions::from_mode(mode))?;
    for folder in folder
        .ancestors()
        .take_while(|folder| folder.starts_with(tree))
    {
        fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Writes a file as `path.gz`, without a time in it.
fn compressed(tree: &Path, path: &str, content: &[u8]) -> anyhow::Result<()> {
    write(tree, path, 0o644, content)?;
    shell::run(Command::new("gzip").arg("-9n").arg(tree.join(path)))
}

/// The files of a tree, in order, as paths in it.
pub(super) fn files(tree: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![tree.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(tree)?.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}
