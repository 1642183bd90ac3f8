//! Rules on files as text: length, JSON, no traces of the machine they were written on.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Violation;
use crate::shell;

/// Longer source files are split.
const MAX_LINES: usize = 1000;
/// What people write by hand; data and lists may be as long as they are.
const SOURCES: &[&str] = &["rs", "sh", "py", "js", "jsonnet", "html", "css", "toml"];

/// Words that tell of one machine or of one package mirror. Each is written in two parts, so that this file
/// does not break its own rule.
const TRACES: &[&str] = &[
    concat!("/wo", "rk/main"),
    concat!("/wo", "rk/shared"),
    concat!("/ro", "ot/"),
    concat!("/tm", "p/t-"),
    concat!("spa", "rse+http"),
    concat!("static.", "crates.io"),
    concat!("index.", "crates.io"),
    concat!("deb.", "debian.org"),
    concat!("arti", "factory"),
];

/// The files of the checkout that are or could be committed.
pub(super) fn tracked() -> anyhow::Result<Vec<PathBuf>> {
    let text = shell::output(Command::new("git").current_dir(shell::root()).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    let paths = text.lines().map(PathBuf::from);
    Ok(paths
        .filter(|path| shell::root().join(path).is_file())
        .collect())
}

/// All breaches in these files.
pub(super) fn violations(paths: &[PathBuf]) -> anyhow::Result<Vec<Violation>> {
    let mut found = Vec::new();
    for path in paths {
        // Pictures and the like.
        if let Ok(text) = String::from_utf8(std::fs::read(shell::root().join(path))?) {
            found.extend(of_file(path, &text));
        }
    }
    Ok(found)
}

fn of_file(path: &Path, text: &str) -> Vec<Violation> {
    let mut found = Vec::new();
    let place = path.display();
    let extension = path
        .extension()
        .and_then(|extension| extension.to_str())
        .unwrap_or_default();
    let lines = text.lines().count();
    if SOURCES.contains(&extension) && lines > MAX_LINES {
        found.push(format!(
            "{place}: {lines} lines, more than {MAX_LINES}: split it"
        ));
    }
    if extension == "json"
        && let Err(error) = serde_json::from_str::<serde_json::Value>(text)
    {
        found.push(format!("{place}:{}: {error}", error.line()));
    }
    for (number, line) in text.lines().enumerate() {
        for trace in TRACES.iter().filter(|trace| line.contains(**trace)) {
            found.push(format!(
                "{place}:{}: '{trace}' tells of one machine or mirror",
                number + 1
            ));
        }
    }
    found
}

/// The shell scripts among these files, by name or first line.
pub(super) fn shell_scripts(paths: &[PathBuf]) -> Vec<&PathBuf> {
    let is_script = |path: &&PathBuf| {
        let text = std::fs::read(shell::root().join(path)).unwrap_or_default();
        [&b"#!/bin/sh"[..], b"#!/bin/bash", b"#!/usr/bin/env bash"]
            .iter()
            .any(|line| text.starts_with(line))
    };
    paths.iter().filter(is_script).collect()
}

/// Tenths of `systemd-analyze security` that our services may have.
const MOST_EXPOSED: u8 = 15;

/// What udev and systemd say about our files, where they are installed.
pub(super) fn unit_violations() -> Vec<Violation> {
    let mut found = Vec::new();
    let mut ask = |words: &[&str], filter: fn(&str) -> bool| {
        let Some(program) = words.first().and_then(|program| shell::which(program)) else {
            println!("{} is not installed: not asked", words.join(" "));
            return;
        };
        let mut lines = Vec::new();
        let mut command = Command::new(program);
        command
            .current_dir(shell::root())
            .args(words.iter().skip(1));
        let ended = shell::lines(command, |line| lines.push(line.to_owned()));
        let failed = ended.map_or(true, |status| !status.success());
        lines.retain(|line| filter(line));
        if failed && !lines.is_empty() {
            found.push(format!("{}:\n  {}", words.join(" "), lines.join("\n  ")));
        }
    };
    // Older udev has no `verify`.
    ask(&["udevadm", "verify", "udev/70-soft-kvm.rules"], |line| {
        !line.contains("Unknown command verb")
    });
    // The program is not installed on the machine of a developer.
    for unit in [
        "systemd/soft-kvm.service",
        "systemd/soft-kvm.socket",
        "systemd/soft-kvm-broker.socket",
        "systemd/soft-kvm-broker.service",
    ] {
        ask(&["systemd-analyze", "verify", unit], |line| {
            line.contains("soft-kvm") && !line.contains("is not executable")
        });
        if unit.ends_with(".service") {
            let most = format!("--threshold={MOST_EXPOSED}");
            let words = ["systemd-analyze", "security", "--offline=true", &most, unit];
            // Older systemd cannot look at a file.
            ask(&words, |line| line.contains("exposure level"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_sources_are_refused_and_data_is_not() {
        let text = "x\n".repeat(MAX_LINES + 1);
        assert_eq!(of_file(Path::new("a/b.rs"), &text).len(), 1);
        assert_eq!(of_file(Path::new("a/list.txt"), &text).len(), 0);
        assert_eq!(
            of_file(Path::new("a/b.rs"), &"x\n".repeat(MAX_LINES)).len(),
            0
        );
    }

    #[test]
    fn json_has_to_parse() {
        assert_eq!(of_file(Path::new("a.json"), "{\"a\": 1,}").len(), 1);
        assert_eq!(of_file(Path::new("a.json"), "{\"a\": 1}").len(), 0);
    }

    #[test]
    fn traces_of_machines_are_refused() {
        for trace in TRACES {
            assert_eq!(
                of_file(Path::new("README.md"), &format!("see {trace}x")).len(),
                1,
                "{trace}"
            );
        }
    }
}
