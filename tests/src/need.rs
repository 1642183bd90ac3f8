//! What a test needs from the machine besides our own programs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Something that may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A program on the path.
    Program(&'static str),
    /// A module of Debian's Python.
    Python(&'static str),
    /// An element of GStreamer.
    GStreamer(&'static str),
    /// Root, with all that belongs to it: mounts, packet capture.
    Root,
    /// Root that may make network namespaces.
    Namespaces,
}

impl Need {
    /// Why the test cannot run here; `None` when it can.
    #[must_use]
    pub fn unmet(self) -> Option<String> {
        match self {
            Self::Program(name) => find(name).is_none().then(|| format!("needs {name}")),
            Self::Python(module) => python(module)
                .is_none()
                .then(|| format!("needs python3 with the module {module}")),
            Self::GStreamer(element) => (!quiet("gst-inspect-1.0", &["--exists", element]))
                .then(|| format!("needs gst-launch-1.0 with the element {element}")),
            Self::Root => (!is_root()).then(|| "needs root".to_owned()),
            Self::Namespaces => (!is_root() || !quiet("unshare", &["--net", "--mount", "true"]))
                .then(|| "needs root that may make network namespaces".to_owned()),
        }
    }
}

/// Where a program lies; system folders count even when an ordinary user's path leaves them out.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// A Python that has the module. Debian's comes first: the packages that `cargo xtask setup` installs are its own.
#[must_use]
pub fn python(module: &str) -> Option<&'static Path> {
    ["/usr/bin/python3", "python3"]
        .map(Path::new)
        .into_iter()
        .find(|python| {
            quiet(
                &python.to_string_lossy(),
                &["-c", &format!("import {module}")],
            )
        })
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn quiet(program: &str, words: &[&str]) -> bool {
    Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(Need::Program("sh").unmet(), None);
        assert_eq!(
            Need::Program("no-such-program").unmet().as_deref(),
            Some("needs no-such-program")
        );
        let reason = Need::Python("no_such_module").unmet();
        assert!(reason.is_some_and(|reason| reason.contains("no_such_module")));
    }
}
