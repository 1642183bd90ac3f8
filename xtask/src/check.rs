//! `cargo xtask check`: what has to hold in every commit, besides the tests.

mod deny;
mod files;
mod layers;
mod source;

use std::process::Command;
use std::time::Instant;

use anyhow::bail;

use crate::{metadata, setup, shell};

/// A rule that does not hold: where and what.
pub(crate) type Violation = String;

type Step = fn() -> anyhow::Result<()>;

const STEPS: &[(&str, Step)] = &[
    ("format", format),
    ("layers", layer_rules),
    ("files", file_rules),
    ("clippy", clippy),
    ("documentation", documentation),
    ("licences", deny::run),
];

/// Runs the steps (all, or those with one of `chosen` in their names); true when all hold.
pub(crate) fn run(chosen: &[String]) -> anyhow::Result<bool> {
    setup::try_run(setup::Purpose::Check);
    let mut failed = Vec::new();
    let steps = STEPS.iter().filter(|(name, _)| {
        chosen.is_empty() || chosen.iter().any(|word| name.contains(word.as_str()))
    });
    for (name, step) in steps {
        shell::headline(name);
        let start = Instant::now();
        if let Err(error) = step() {
            println!("{error:#}");
            failed.push(*name);
        }
        println!("{name} took {} s", start.elapsed().as_secs());
    }
    if failed.is_empty() {
        println!("All checks hold.");
    } else {
        println!("These checks do not hold: {}", failed.join(", "));
    }
    Ok(failed.is_empty())
}

fn format() -> anyhow::Result<()> {
    // Names the files only: `cargo fmt` shows and mends the rest.
    shell::run(shell::cargo().args(["fmt", "--all", "--", "--check", "-l"]))
}

fn clippy() -> anyhow::Result<()> {
    shell::run(shell::cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--keep-going",
        "--",
        "-Dwarnings",
    ]))
}

fn documentation() -> anyhow::Result<()> {
    shell::run(
        shell::cargo()
            .args([
                "doc",
                "--workspace",
                "--no-deps",
                "--document-private-items",
                "--keep-going",
            ])
            .env("RUSTDOCFLAGS", "-Dwarnings"),
    )
}

fn layer_rules() -> anyhow::Result<()> {
    let metadata = metadata::read("Cargo.toml")?;
    let mut violations = layers::violations(&metadata.packages);
    for path in files::tracked()? {
        if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(shell::root().join(&path))?;
            violations.extend(source::violations(&path, &text));
        }
    }
    for package in &metadata.packages {
        for target in &package.targets {
            let path = target
                .src_path
                .strip_prefix(shell::root())
                .unwrap_or(&target.src_path);
            let root = target
                .kind
                .iter()
                .any(|kind| kind == "lib" || kind == "bin");
            if root {
                let text = std::fs::read_to_string(&target.src_path)?;
                violations.extend(source::missing_forbid(path, &text));
            }
        }
    }
    report(&violations)
}

fn file_rules() -> anyhow::Result<()> {
    let paths = files::tracked()?;
    let mut violations = files::violations(&paths)?;
    if shell::which("shellcheck").is_some() {
        let scripts = files::shell_scripts(&paths);
        if shell::run(
            Command::new("shellcheck")
                .current_dir(shell::root())
                .args(scripts),
        )
        .is_err()
        {
            violations.push("shellcheck is not content".to_owned());
        }
    } else {
        println!("shellcheck is not installed: shell scripts not checked");
    }
    violations.extend(files::unit_violations());
    report(&violations)
}

fn report(violations: &[Violation]) -> anyhow::Result<()> {
    if violations.is_empty() {
        return Ok(());
    }
    bail!("{}", violations.join("\n"));
}
