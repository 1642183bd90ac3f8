//! The tier of arm64: unit tests of the libraries that are the same on every machine, built for it and run by qemu-user.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;

use super::{Ledger, Options, Program};
use crate::{metadata, setup, shell};

const TRIPLE: &str = "aarch64-unknown-linux-gnu";
const COMPILER: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64-static";
/// Where Debian's cross compiler has the target's C library.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu";
const PACKAGES: [&str; 5] = [
    "soft-kvm-core",
    "soft-kvm-protocol",
    "soft-kvm-video",
    "soft-kvm-input",
    "soft-kvm-security",
];
/// Of a property's cases: an emulated machine is many times slower.
const CASES: &str = "16";

pub(super) fn run(
    _programs: &[Program],
    options: &Options,
    ledger: &mut Ledger,
) -> anyhow::Result<()> {
    setup::try_run(setup::Purpose::Arm64);
    if let Some(reason) = unmet() {
        ledger.counts.skipped += 1;
        let skipped = ledger.skips.entry(reason).or_default();
        skipped.insert("arm64".to_owned());
        return Ok(());
    }
    let folder = metadata::read("Cargo.toml")?.target_directory;
    let mut command = shell::cargo();
    command
        // What lies beside the libraries' code: other tests want libraries of this machine.
        .args(["test", "--no-run", "--lib", "--target", TRIPLE])
        .args(PACKAGES.iter().flat_map(|package| ["--package", package]))
        // Of its own, for it has other features of the dependencies than the whole workspace.
        .arg("--target-dir")
        .arg(folder.join("arm64"))
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", COMPILER)
        .env("CC_aarch64_unknown_linux_gnu", COMPILER);
    let programs = super::build(command, ledger)?;
    let cases = [("PROPTEST_CASES", PathBuf::from(CASES))];
    for mut program in programs {
        program.target.push_str(" (arm64)");
        program.runner = [EMULATOR, "-L", LIBRARIES].map(OsString::from).to_vec();
        let ignored = super::run_program(&program, &options.names, &cases, ledger)?;
        // They want more than qemu-user has: the other tiers run them.
        for (name, reason) in &ignored {
            ledger.unskip(name, reason);
        }
    }
    Ok(())
}

/// Why it cannot run here.
fn unmet() -> Option<String> {
    for program in [COMPILER, EMULATOR] {
        if shell::which(program).is_none() {
            return Some(format!("needs {program}"));
        }
    }
    standard_library()
        .err()
        .map(|error| format!("needs the standard library of {TRIPLE}: {error:#}"))
}

/// The compiler's, or rustup's.
fn standard_library() -> anyhow::Result<()> {
    let mut ask = Command::new("rustc");
    ask.args(["--print", "target-libdir", "--target", TRIPLE]);
    let folder = PathBuf::from(shell::output(ask.current_dir(shell::root()))?.trim());
    if folder.is_dir() {
        return Ok(());
    }
    let mut add = Command::new("rustup");
    add.args(["target", "add", TRIPLE]);
    shell::run(add.current_dir(shell::root())).context("rustup")
}
