//! `cargo xtask`: the developer's commands. `setup` brings the system packages, `demo` shows the main job,
//! `check` and `test` are what CI runs, `lab` boots the device lab, `fuzz` runs the fuzzers,
//! `package` makes a Debian package.
#![forbid(unsafe_code)]

mod check;
mod demo;
mod fuzz;
mod lab;
mod metadata;
mod outcome;
mod package;
mod setup;
mod shell;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer commands of Soft KVM")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install the system packages that are missing, saying which and why
    Setup {
        /// What they are wanted for
        #[arg(long = "for", value_enum, default_value_t = setup::Purpose::Dev)]
        purpose: setup::Purpose,
    },
    /// Format, lints, documentation, licences and the layer rules
    Check {
        /// Only the steps with these words in their names
        steps: Vec<String>,
    },
    /// Run the tests; all tiers when none is named
    Test(test::Options),
    /// Build both programs and show the main job on this machine
    Demo(demo::Options),
    /// The device lab: a kernel with real drivers that runs as a process
    Lab {
        #[command(subcommand)]
        command: lab::Command,
    },
    /// Run every fuzz target for a while (needs a nightly toolchain)
    Fuzz(fuzz::Options),
    /// Make a Debian package of both programs
    Package(package::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Task::Setup { purpose } => setup::run(purpose).map(|()| true),
        Task::Check { steps } => check::run(&steps),
        Task::Test(options) => test::run(&options),
        Task::Demo(options) => demo::run(&options).map(|()| true),
        Task::Lab { command } => lab::run(command),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Package(options) => package::run(&options).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
