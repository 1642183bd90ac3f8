//! `soft-kvm-server`.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use soft_kvm_core::Lang;
use soft_kvm_server::cli::{Cli, Command};
use soft_kvm_server::{control, devices, run, story_cmd};
use soft_kvm_service::console;

fn main() -> ExitCode {
    story_cmd::maybe_run_as_evaluator();
    let lang = console::lang();
    let cli = Cli::parse();
    let outcome = match cli.command {
        None => run::run(&cli.run, lang),
        Some(Command::Story(args)) => return story_cmd::run(&args, lang),
        Some(Command::Devices { json }) => devices::run(json, lang),
        Some(Command::Pair { state_dir }) => pair(state_dir.as_deref(), lang),
        Some(Command::Completions { shell }) => {
            console::completions::<Cli>(shell, "soft-kvm-server");
            Ok(())
        }
        Some(Command::Man) => console::manual::<Cli>().map_err(Into::into),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::err(format!("soft-kvm-server: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn pair(state_dir: Option<&Path>, lang: Lang) -> anyhow::Result<()> {
    let path = console::state_path(state_dir, "server")?;
    let code = control::local::ask_for_code(&path)?;
    console::out(format!(
        "{} {code}",
        lang.pick("Pairing code:", "ペアリングコード:")
    ));
    Ok(())
}
