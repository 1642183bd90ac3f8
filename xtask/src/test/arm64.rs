//! The tier of arm64, run by qemu-user: unit tests of the libraries that are the same on every machine, the package, and tests
//! of the loopback tier with its programs.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use soft_kvm_benches::programs::READY;

use super::{LOOPBACK, Ledger, Options, Program};
use crate::package::{self, Architecture};
use crate::{metadata, setup, shell};

const ARM64: Architecture = Architecture::Arm64;
const PACKAGES: [&str; 5] = [
    "soft-kvm-core",
    "soft-kvm-protocol",
    "soft-kvm-video",
    "soft-kvm-input",
    "soft-kvm-security",
];
/// Of a property's cases: an emulated machine is many times slower.
const CASES: &str = "16";
/// A build for tests only: what optimising takes is more than it saves.
const CONFIGURATION: [&str; 3] = [
    "profile.dev.opt-level=0",
    "profile.dev.debug=false",
    "profile.dev.package.\"*\".opt-level=0",
];
const MADE: &str = "arm64::the_package_is_made";
const LINT: &str = "arm64::lintian_finds_no_error";
/// With the package's programs: a picture in the emulated client of the emulated server, SRTP that others decrypt, commands and
/// their files.
const WITH_THE_PACKAGE: [&str; 4] = [
    "record::a_screenshot_shows_the_test_card",
    "srtp::gstreamer_decrypts_our_packets",
    "keys::pins_follow_a_rotated_key_and_the_old_one_is_a_strangers",
    "security::only_tls_1_3",
];

/// They watch a stream: not in the scheduler's idle class, in which the rest of the tier may be, where it may be left.
const WATCHING: &str = "chrt --other --pid 0 $$ 2>/dev/null; exec \"$0\" \"$@\"";

pub(super) fn run(
    programs: &[Program],
    options: &Options,
    ledger: &mut Ledger,
) -> anyhow::Result<()> {
    setup::try_run(setup::Purpose::Arm64);
    if let Some(reason) = unmet() {
        ledger.skip("arm64", &reason);
        return Ok(());
    }
    let folder = metadata::read("Cargo.toml")?.target_directory.join("arm64");
    libraries(&folder, options, ledger)?;
    // Names are of other tiers' tests, mostly.
    if !(options.names.is_empty() || options.names.iter().any(|word| word.contains("arm64"))) {
        return Ok(());
    }
    let made = package::for_tests(ARM64, &folder.join("package"), |command| {
        configure(command, &folder);
    });
    let package = match made {
        Ok(package) => package,
        Err(error) => {
            ledger.test(MADE, false, &[format!("{error:#}")]);
            return Ok(());
        }
    };
    ledger.test(MADE, true, &[]);
    super::lint(LINT, &package, ledger)?;
    with_the_package(&package, &folder.join("unpacked"), programs, ledger)
}

/// A folder of its own, for it has other features of the dependencies than the whole workspace.
fn configure(command: &mut Command, folder: &Path) {
    command
        .args(CONFIGURATION.iter().flat_map(|line| ["--config", line]))
        .arg("--target-dir")
        .arg(folder);
}

fn libraries(folder: &Path, options: &Options, ledger: &mut Ledger) -> anyhow::Result<()> {
    let mut command = shell::cargo();
    command
        // What lies beside the libraries' code: other tests want libraries of this machine.
        .args(["test", "--no-run", "--lib"])
        .args(PACKAGES.iter().flat_map(|package| ["--package", package]));
    ARM64.cross(&mut command);
    configure(&mut command, folder);
    let programs = super::build(command, ledger)?;
    let cases = [("PROPTEST_CASES", PathBuf::from(CASES))];
    for mut program in programs {
        program.target.push_str(" (arm64)");
        program.runner = ARM64.runner().into_iter().map(OsString::from).collect();
        let ignored = super::run_program(&program, &options.names, &cases, ledger)?;
        // They want more than qemu-user has: the other tiers run them.
        for (name, reason) in &ignored {
            ledger.unskip(name, reason);
        }
    }
    Ok(())
}

/// Unpacks the package, and runs tests of the loopback tier, which are this machine's, with its programs.
fn with_the_package(
    package: &Path,
    root: &Path,
    programs: &[Program],
    ledger: &mut Ledger,
) -> anyhow::Result<()> {
    if root.exists() {
        fs::remove_dir_all(root).with_context(|| format!("emptying {}", root.display()))?;
    }
    shell::run(
        Command::new("dpkg-deb")
            .arg("--extract")
            .args([package, root]),
    )?;
    let emulated = root.join("emulated");
    fs::create_dir(&emulated)?;
    for name in ["soft-kvm-server", "soft-kvm-client"] {
        let program = root.join("usr/bin").join(name);
        let starter = emulated.join(name);
        let (runner, program) = (ARM64.runner().join(" "), program.display());
        let script = format!("#!/bin/sh\nexec {runner} '{program}' \"$@\"\n");
        fs::write(&starter, script)?;
        fs::set_permissions(&starter, Permissions::from_mode(0o755))?;
    }
    let tests = programs
        .iter()
        .find(|program| program.package == LOOPBACK && program.integration);
    let mut tests = tests.context("the loopback tests are not built")?.clone();
    tests.target.push_str(" (arm64)");
    tests.runner = ["sh", "-c", WATCHING].map(OsString::from).to_vec();
    for test in WITH_THE_PACKAGE {
        let words = [test.to_owned(), "--exact".to_owned()];
        let variables = [(READY, emulated.clone())];
        super::run_program(&tests, &words, &variables, ledger)?;
    }
    Ok(())
}

/// Why it cannot run here.
fn unmet() -> Option<String> {
    if let Err(error) = package::has_tools(ARM64) {
        return Some(error.to_string());
    }
    let emulator = ARM64.runner().into_iter().next().unwrap_or_default();
    if !emulator.is_empty() && shell::which(&emulator).is_none() {
        return Some(format!("needs {emulator}"));
    }
    standard_library().err().map(|error| {
        let triple = ARM64.triple();
        format!("needs the standard library of {triple}: {error:#}")
    })
}

/// The compiler's, or rustup's.
fn standard_library() -> anyhow::Result<()> {
    let mut ask = Command::new("rustc");
    let triple = ARM64.triple();
    ask.args(["--print", "target-libdir", "--target", &triple]);
    let folder = PathBuf::from(shell::output(ask.current_dir(shell::root()))?.trim());
    if folder.is_dir() {
        return Ok(());
    }
    let mut add = Command::new("rustup");
    add.args(["target", "add", &triple]);
    shell::run(add.current_dir(shell::root())).context("rustup")
}
