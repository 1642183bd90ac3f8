//! Licences, bans and sources of the dependencies by cargo-deny; advisories where their database is
//! reachable.

use std::path::PathBuf;
use std::process::Command;

use anyhow::bail;

use crate::{metadata, shell};

/// The version that was tried; it builds in a few minutes.
const VERSION: &str = "^0.20";

pub(super) fn run() -> anyhow::Result<()> {
    let program = installed()?;
    let deny = |words: &[&str]| {
        let mut command = Command::new(&program);
        command
            .current_dir(shell::root())
            .args(["--workspace", "--color=never", "check"])
            .args(words);
        command
    };
    shell::run(&mut deny(&[
        "--hide-inclusion-graph",
        "licenses",
        "bans",
        "sources",
    ]))?;
    let mut lines = Vec::new();
    let status = shell::lines(deny(&["advisories"]), |line| lines.push(line.to_owned()))?;
    if status.success() {
        println!("advisories: none");
    } else if lines.iter().any(|line| unreachable(line)) {
        println!("advisories: their database is not reachable from here: not checked");
    } else {
        bail!("{}", lines.join("\n"));
    }
    Ok(())
}

/// cargo-deny on the path, or our own in `target/tools`, installed when missing.
fn installed() -> anyhow::Result<PathBuf> {
    if let Some(program) = shell::which("cargo-deny") {
        return Ok(program);
    }
    let tools = metadata::read("Cargo.toml")?.target_directory.join("tools");
    let program = tools.join("bin/cargo-deny");
    if !program.is_file() {
        println!(
            "Installing cargo-deny into {} (a few minutes, once).",
            tools.display()
        );
        let mut install = shell::cargo();
        install
            .args([
                "install",
                "cargo-deny",
                "--locked",
                // Compiles in a third of the time, and a check of ours is a second's work.
                "--debug",
                "--version",
                VERSION,
                "--root",
            ])
            .arg(&tools);
        install.arg("--target-dir").arg(tools.join("build"));
        shell::run(&mut install)?;
        // Only the program is wanted.
        std::fs::remove_dir_all(tools.join("build"))?;
    }
    Ok(program)
}

fn unreachable(line: &str) -> bool {
    line.contains("failed to fetch advisory database")
        || line.contains("failed to acquire advisory database")
}
