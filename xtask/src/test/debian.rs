//! The tier of Debian roots: our package is installed, upgraded, removed and purged in a fresh root of each release
//! (`packaging/try.sh`), and lintian is asked about it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use super::{Ledger, Options, Program};
use crate::{metadata, package, shell};

/// Debian 12 and 13.
const SUITES: [&str; 2] = ["bookworm", "trixie"];
const LINT: &str = "debian::lintian_finds_no_error";
/// How `packaging/root.sh` ends when this machine cannot have the root.
const NO_ROOT: i32 = 2;

pub(super) fn run(_: &[Program], options: &Options, ledger: &mut Ledger) -> anyhow::Result<()> {
    let target = metadata::read("Cargo.toml")?.target_directory;
    let folder = target.join("debian");
    let chosen = SUITES
        .into_iter()
        .filter(|suite| options.names(&name(suite)));
    let chosen: Vec<_> = chosen.collect();
    if chosen.is_empty() && !options.names(LINT) {
        return Ok(());
    }
    // Not the lab's, which is made at the same time.
    package::for_lab(&target.join("debug"), &folder).context("making the packages")?;
    if options.names(LINT) {
        super::lint(LINT, &folder.join("new.deb"), ledger)?;
    }
    if let Some(reason) = unmet() {
        let tests = chosen.iter().map(|suite| name(suite));
        tests.for_each(|test| ledger.skip(&test, &reason));
        return Ok(());
    }
    for suite in chosen {
        let root = folder.join(suite);
        remove(&root)?;
        lives(suite, &root, &folder, ledger)?;
        remove(&root)?;
    }
    Ok(())
}

fn name(suite: &str) -> String {
    format!("debian::package_lives_in_{suite}")
}

/// Makes the root and tries the package in it.
fn lives(suite: &str, root: &Path, packages: &Path, ledger: &mut Ledger) -> anyhow::Result<()> {
    let test = name(suite);
    let script = |script: &str| {
        let mut command = Command::new("sh");
        command.arg(shell::root().join("packaging").join(script));
        command
    };
    let mut said = Vec::new();
    let mut make = script("root.sh");
    make.arg(suite).arg(root);
    let made = shell::lines(make, |line| said.push(line.to_owned()))?;
    if made.code() == Some(NO_ROOT) {
        let why = said.last().map_or("", String::as_str);
        ledger.skip(&test, &format!("no root of {suite}: {why}"));
        return Ok(());
    }
    if !made.success() {
        ledger.test(&test, false, &said);
        return Ok(());
    }
    let mut life = script("try.sh");
    life.arg(root);
    life.args(["old.deb", "new.deb"].map(|package| packages.join(package)));
    super::attempt(&test, life, ledger)
}

/// What is left of a run that was interrupted may have `/proc` mounted in it.
fn remove(root: &Path) -> anyhow::Result<()> {
    if !root.exists() {
        return Ok(());
    }
    // Fails where nothing is mounted, which is well.
    let _ = shell::output(Command::new("umount").arg(root.join("proc")));
    fs::remove_dir_all(root).with_context(|| format!("removing {}", root.display()))
}

/// Why it cannot run here.
fn unmet() -> Option<String> {
    if shell::which("debootstrap").is_none() {
        return Some("needs debootstrap".to_owned());
    }
    (!shell::is_root()).then(|| "needs root for a Debian root".to_owned())
}
