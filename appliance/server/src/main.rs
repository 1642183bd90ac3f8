//! `soft-kvm-server`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
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
        Some(Command::Pair { state_dir }) => {
            run::state_path(state_dir.as_deref()).and_then(|path| {
                let code = control::local::ask_for_code(&path)?;
                console::out(format!("{} {code}", lang.pick("Pairing code:", "ペアリングコード:")));
                Ok(())
            })
        }
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "soft-kvm-server", &mut script);
            console::out(String::from_utf8_lossy(&script).trim_end());
            Ok(())
        }
        Some(Command::Man) => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(Into::into).map(|()| {
                console::out(String::from_utf8_lossy(&page).trim_end());
            })
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::err(format!("soft-kvm-server: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
