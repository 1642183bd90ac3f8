//! A tier beside the others: these mostly wait for kernels and clocks, and its processes give way to theirs.

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;
use clap::ValueEnum as _;

use super::{Ledger, Tier};
use crate::outcome::Counts;
use crate::{metadata, shell};

/// A tier in a process of its own. Killed when dropped before its end.
#[derive(Debug)]
pub(super) struct Beside {
    child: Child,
    /// What it prints, for the end.
    log: File,
}

impl Beside {
    /// Starts the whole tier.
    pub(super) fn start(tier: Tier) -> anyhow::Result<Self> {
        let name = tier.to_possible_value().context("every tier has a name")?;
        let folder = metadata::read("Cargo.toml")?.target_directory;
        fs::create_dir_all(&folder)?;
        let log = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(folder.join(format!("{}-tests.log", name.get_name())))?;
        // What only computes is idle by the scheduler's class: it never takes a processor from a test that wants one. In a
        // Debian root programs run that have deadlines themselves, such as package scripts and our evaluator.
        let mut command = match tier {
            Tier::Debian => {
                let mut nice = Command::new("nice");
                nice.args(["-n", "19"]);
                nice
            }
            _ => {
                let mut idle = Command::new("chrt");
                idle.args(["--idle", "0"]);
                idle
            }
        };
        command
            .arg(present(&std::env::current_exe()?))
            .args(["test", "--tier", name.get_name()])
            .current_dir(shell::root())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?);
        let child = command
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        Ok(Self { child, log })
    }

    /// Waits for its end, prints what it printed, and counts.
    pub(super) fn finish(mut self, what: &str, ledger: &mut Ledger) -> anyhow::Result<()> {
        let status = self.child.wait()?;
        self.log.seek(SeekFrom::Start(0))?;
        let mut told = None;
        let mut flaky = Vec::new();
        shell::each_line(&self.log, &mut |line| {
            if let Some(counts) = Counts::read(line) {
                told = Some(counts);
            } else {
                println!("{line}");
                flaky.extend(flaky_test(line).map(str::to_owned));
            }
        })?;
        ledger.flaky.append(&mut flaky);
        let counts = told.unwrap_or_default();
        ledger.counts += counts;
        if counts.failed > 0 {
            ledger.failures.push(format!("{what}: {}", counts.failed));
        } else if !status.success() {
            ledger.fail(format!("{what}: {status}"));
        }
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // Has ended, or nobody waits for it any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Building the tests puts another file in the place of this program's, which Linux tells of the old one (proc_pid_exe(5)).
fn present(program: &Path) -> PathBuf {
    let text = program.to_string_lossy();
    text.strip_suffix(" (deleted)")
        .map_or_else(|| program.to_owned(), PathBuf::from)
}

fn flaky_test(line: &str) -> Option<&str> {
    line.strip_prefix("flaky: ")?
        .strip_suffix(" failed, then passed by itself")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_was_built_anew_is_found() {
        for path in ["/target/debug/xtask", "/target/debug/xtask (deleted)"] {
            assert_eq!(present(Path::new(path)), Path::new("/target/debug/xtask"));
        }
    }

    #[test]
    fn flaky_tests_stay_flaky() {
        assert_eq!(
            flaky_test("flaky: x lab: stall failed, then passed by itself"),
            Some("x lab: stall")
        );
        assert_eq!(flaky_test("failed: x"), None);
    }
}
