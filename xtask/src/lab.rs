//! The device lab: where its kernel is, building it, running things in it.

use std::path::{Path, PathBuf};
use std::process::Command as Process;

use anyhow::{Context as _, bail};
use clap::Subcommand;

use crate::{metadata, package, setup, shell, test};

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Build the kernel into the cache, once
    Setup,
    /// Run a command as root inside; options of lab/run.sh may stand before `--`
    Run {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Run the lab's tests
    Test {
        /// Only tests with one of these words in their names
        names: Vec<String>,
    },
}

pub(crate) fn run(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Setup => {
            build()?;
            if let Some(kernel) = ready()? {
                modules(&kernel)?;
            }
            va_driver()?;
            Ok(true)
        }
        Command::Run { command } => {
            let Some(kernel) = ready()? else {
                bail!("no lab kernel: run 'cargo xtask lab setup' first");
            };
            let mut run = Process::new(shell::root().join("lab/run.sh"));
            // clap takes the `--` away.
            if !command.first().is_some_and(|word| word.starts_with('-')) {
                run.arg("--");
            }
            let status = run
                .args(command)
                .env("SOFT_KVM_LAB_KERNEL", kernel)
                .status()?;
            Ok(status.success())
        }
        Command::Test { names } => test::run(&test::Options::lab(names)),
    }
}

/// The folder of a ready kernel: `SOFT_KVM_LAB_KERNEL` or the cache.
pub(crate) fn ready() -> anyhow::Result<Option<PathBuf>> {
    let folder = match std::env::var_os("SOFT_KVM_LAB_KERNEL") {
        Some(folder) => std::path::absolute(folder)?,
        None => cache()?.join("out"),
    };
    Ok(folder.join("linux").is_file().then_some(folder))
}

/// Builds the kernel into the cache, unless it is there.
pub(crate) fn build() -> anyhow::Result<()> {
    if let Some(folder) = ready()? {
        println!("The lab's kernel is ready in {}.", folder.display());
        return Ok(());
    }
    if std::env::var_os("SOFT_KVM_LAB_KERNEL").is_some() {
        bail!("SOFT_KVM_LAB_KERNEL names a folder without a kernel");
    }
    setup::run(setup::Purpose::Lab)?;
    shell::run(Process::new(shell::root().join("lab/build.sh")).arg(cache()?))
}

/// Builds the lab's own kernel modules for that kernel into `target/lab-modules`, where the lab's tests look for them.
pub(crate) fn modules(kernel: &Path) -> anyhow::Result<()> {
    let folder = metadata::read("Cargo.toml")?
        .target_directory
        .join("lab-modules");
    shell::run(
        Process::new(shell::root().join("lab/modules/build.sh")).args([kernel, &folder, &cache()?]),
    )
}

/// Builds the lab's virtual VA driver into `target/lab-va`.
pub(crate) fn va_driver() -> anyhow::Result<()> {
    let folder = metadata::read("Cargo.toml")?
        .target_directory
        .join("lab-va");
    shell::run(Process::new(shell::root().join("lab/va-virtual/build.sh")).arg(folder))
}

/// Makes the packages of the test build's programs that the lab's tests install, in `target/lab-package`.
pub(crate) fn packages() -> anyhow::Result<()> {
    let target = metadata::read("Cargo.toml")?.target_directory;
    package::for_lab(&target.join("debug"), &target.join("lab-package"))
}

fn cache() -> anyhow::Result<PathBuf> {
    let folder = match std::env::var_os("XDG_CACHE_HOME") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(folder.join("soft-kvm-lab"))
}
