//! Builds the programs that are measured.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use serde_json::Value;

/// Names a folder with both programs, so that nothing is built.
pub const READY: &str = "SOFT_KVM_PROGRAMS";

/// How the programs are built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// As they are shipped.
    #[default]
    Release,
    /// As the tests have them: figures are of no use.
    Dev,
}

/// The programs' files.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `soft-kvm-server`.
    pub server: PathBuf,
    /// `soft-kvm-client`.
    pub client: PathBuf,
}

impl Programs {
    /// Builds what is missing or stale; cargo tells its progress on standard error. With [`READY`] set, the
    /// programs of that folder are taken as they are.
    ///
    /// # Errors
    /// The build fails.
    pub fn build(profile: Profile) -> anyhow::Result<Self> {
        Self::build_with(profile, |_| {})
    }

    /// As [`Programs::build`], where `more` adds words and variables to cargo's command.
    ///
    /// # Errors
    /// The build fails.
    pub fn build_with(profile: Profile, more: impl FnOnce(&mut Command)) -> anyhow::Result<Self> {
        if let Some(folder) = std::env::var_os(READY).map(PathBuf::from) {
            return Ok(Self {
                server: folder.join("soft-kvm-server"),
                client: folder.join("soft-kvm-client"),
            });
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
            .args(["build", "--message-format=json-render-diagnostics"])
            .args(["--package=soft-kvm-server", "--package=soft-kvm-client"])
            .stdout(Stdio::piped());
        if profile == Profile::Release {
            command.arg("--release");
        }
        more(&mut command);
        let mut child = command.spawn().context("starting cargo")?;
        let stdout = child.stdout.take().context("cargo's standard output")?;
        let (mut server, mut client) = (None, None);
        for line in BufReader::new(stdout).lines() {
            match executable(&line?) {
                Some((name, path)) if name == "soft-kvm-server" => server = Some(path),
                Some((name, path)) if name == "soft-kvm-client" => client = Some(path),
                _ => {}
            }
        }
        let status = child.wait()?;
        ensure!(status.success(), "the programs do not build ({status})");
        Ok(Self {
            server: server.context("cargo named no soft-kvm-server")?,
            client: client.context("cargo named no soft-kvm-client")?,
        })
    }
}

/// The program that one of cargo's messages announces.
fn executable(message: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(message).ok()?;
    let path = message.get("executable")?.as_str()?;
    let name = message.get("target")?.get("name")?.as_str()?;
    Some((name.to_owned(), path.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_cargos_messages() {
        let message = r#"{"reason":"compiler-artifact","target":{"name":"soft-kvm-server"},"executable":"/t/s"}"#;
        assert_eq!(
            executable(message),
            Some(("soft-kvm-server".to_owned(), "/t/s".into()))
        );
        for other in [
            r#"{"target":{"name":"x"},"executable":null}"#,
            r#"{"reason":"build-finished"}"#,
            "not JSON",
        ] {
            assert_eq!(executable(other), None);
        }
    }
}
