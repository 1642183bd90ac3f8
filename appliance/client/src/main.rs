//! `soft-kvm-client`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use soft_kvm_client::cli::{Cli, Command};
use soft_kvm_client::{devices, run};
use soft_kvm_service::console;

fn main() -> ExitCode {
    let lang = console::lang();
    let cli = Cli::parse();
    let outcome = match cli.command {
        None => run::connect(&cli.connect, lang),
        Some(Command::Discover { json, seconds }) => run::discover(json, seconds, lang),
        Some(Command::Pair {
            server,
            code,
            state_dir,
        }) => run::pair(&server, code, state_dir.as_deref(), lang),
        Some(Command::Relay {
            target,
            rtp,
            sdp,
            seconds,
        }) => run::relay(&target, rtp, &sdp, seconds, lang),
        Some(Command::Devices { json }) => devices::run(json, lang),
        Some(Command::Completions { shell }) => {
            console::completions::<Cli>(shell, "soft-kvm-client");
            Ok(())
        }
        Some(Command::Man) => console::manual::<Cli>().map_err(Into::into),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::err(format!("soft-kvm-client: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
