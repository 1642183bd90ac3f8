//! `cargo xtask fuzz`: every target of `fuzz/` for a while, one more at a time than there are processors. Each counts as one test.
//!
//! The flags are those of cargo-fuzz; using them directly saves installing it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context as _, bail};
use clap::Args;

use crate::outcome::Counts;
use crate::{metadata, shell};

const FLAGS: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions",
    "-Ccodegen-units=1",
    "-Zsanitizer=address",
];

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Only these targets
    targets: Vec<String>,
}

/// Builds and runs the targets; true when none failed.
pub(crate) fn run(options: &Options) -> anyhow::Result<bool> {
    let metadata = metadata::read("fuzz/Cargo.toml").context("the fuzz targets live in fuzz/")?;
    let targets: Vec<String> = metadata
        .packages
        .into_iter()
        .flat_map(|package| package.targets)
        .filter(|target| target.kind.iter().any(|kind| kind == "bin"))
        .map(|target| target.name)
        .filter(|name| options.targets.is_empty() || options.targets.contains(name))
        .collect();
    if targets.is_empty() {
        bail!("no fuzz target has such a name");
    }
    let mut counts = Counts::default();
    match nightly_host() {
        Err(error) => {
            println!("skipped: {}", targets.join(", "));
            println!("no nightly toolchain ('rustup toolchain install nightly'): {error:#}");
            counts.skipped = targets.len();
        }
        Ok(host) => run_all(
            options,
            &host,
            &metadata.target_directory,
            &targets,
            &mut counts,
        )?,
    }
    println!("{counts}");
    Ok(counts.failed == 0)
}

/// The nightly compiler's own target triple.
fn nightly_host() -> anyhow::Result<String> {
    let text = shell::output(nightly("rustc").arg("-vV"))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc names no host")?.to_owned())
}

/// A program of the nightly toolchain, without what our own toolchain has set.
fn nightly(program: &str) -> Command {
    let mut command = Command::new("rustup");
    command
        .args(["run", "nightly", program])
        .current_dir(shell::root());
    for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN", "RUSTFLAGS"] {
        command.env_remove(name);
    }
    command
}

fn run_all(
    options: &Options,
    host: &str,
    target_folder: &Path,
    targets: &[String],
    counts: &mut Counts,
) -> anyhow::Result<()> {
    shell::headline("building the fuzz targets");
    // A folder of its own: another compiler and other flags than anything else here.
    let build_folder = target_folder.join("fuzz-build");
    let mut build = nightly("cargo");
    build.args([
        "build",
        "--release",
        "--bins",
        "--keep-going",
        "--manifest-path=fuzz/Cargo.toml",
    ]);
    build
        .args(["--target", host])
        .arg("--target-dir")
        .arg(&build_folder);
    build.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"));
    if let Err(error) = shell::run(&mut build) {
        println!("failed: the fuzz targets do not all build: {error:#}");
    }
    let programs = build_folder.join(host).join("release");
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    // Three for each processor: a minute by the clock each, and a third of one by the processor's.
    let at_a_time = thread::available_parallelism().map_or(3, |count| 3 * count.get());
    thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = fuzz_one(&programs, target, options.seconds);
                    match &result {
                        Ok(last) => println!("fuzz {target} ... ok ({last})"),
                        Err(error) => println!("fuzz {target} ... FAILED\n{error:#}"),
                    }
                    // The lock is poisoned only if the line above panicked.
                    results
                        .lock()
                        .expect("printing does not panic")
                        .push(result.is_ok());
                }
            });
        }
    });
    for passed in results.into_inner().expect("printing does not panic") {
        if passed {
            counts.passed += 1;
        } else {
            counts.failed += 1;
        }
    }
    Ok(())
}

/// Runs one target; gives libFuzzer's last word, or all it said when it found something.
fn fuzz_one(programs: &Path, target: &str, seconds: u32) -> anyhow::Result<String> {
    let folder = |kind: &str| -> PathBuf { shell::root().join("fuzz").join(kind).join(target) };
    let (corpus, artifacts, seeds) = (folder("corpus"), folder("artifacts"), folder("seeds"));
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&artifacts)?;
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", &(u64::from(seconds) + 120).to_string()]);
    command.arg(programs.join(target));
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    command.args(["-print_final_stats=0", "-timeout=20"]);
    command.arg(corpus);
    if seeds.is_dir() {
        command.arg(seeds);
    }
    let mut lines = Vec::new();
    let status = shell::lines(command, |line| lines.push(line.to_owned()))?;
    if !status.success() {
        let tail = lines.len().saturating_sub(60);
        bail!(
            "{status}\n{}",
            lines.get(tail..).unwrap_or_default().join("\n")
        );
    }
    Ok(lines.pop().unwrap_or_default())
}
