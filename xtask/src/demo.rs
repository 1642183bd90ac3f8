//! `cargo xtask demo`: the main job on this machine, server and client as two processes.

use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use crate::{metadata, setup, shell};

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// No window: measure and print
    #[arg(long)]
    headless: bool,
    /// End after so many seconds
    #[arg(long, value_name = "N")]
    seconds: Option<u32>,
    /// Write the measurements to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    setup::try_run(setup::Purpose::Demo);
    shell::headline("building");
    shell::run(shell::cargo().args([
        "build",
        "--release",
        "--package=soft-kvm-server",
        "--package=soft-kvm-client",
    ]))?;
    let programs = metadata::read("Cargo.toml")?
        .target_directory
        .join("release");
    let mut server = Command::new(programs.join("soft-kvm-server")).spawn()?;
    let mut client = Command::new(programs.join("soft-kvm-client"));
    if options.headless {
        client.args(["--view", "none"]);
    }
    if let Some(seconds) = options.seconds {
        client.args(["--seconds", &seconds.to_string()]);
    }
    if let Some(file) = &options.json {
        client.arg("--stats-json").arg(file);
    }
    let result = shell::run(&mut client);
    server.kill()?;
    server.wait()?;
    result
}
