//! `soft-kvm-server`.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use soft_kvm_core::Lang;
use soft_kvm_platform::os::gadget::run_keeper;
use soft_kvm_server::cli::{Cli, Command};
use soft_kvm_server::{audit_cmd, broker, control, devices, doctor, keys_cmd, run, story_cmd};
use soft_kvm_service::clients::{self, ClientsCommand};
use soft_kvm_service::install::{self, Programs};
use soft_kvm_service::{console, keys};

fn main() -> ExitCode {
    story_cmd::maybe_run_as_evaluator();
    let lang = console::lang();
    let cli = Cli::parse();
    let outcome = match cli.command {
        None if cli.install_service || cli.uninstall_service => {
            service(&cli.root, cli.install_service, lang)
        }
        None => run::run(&cli.run, lang),
        Some(Command::Broker(args)) => broker::run(&args, lang),
        Some(Command::GadgetKeeper) => run_keeper().context("this is for soft-kvm-server itself"),
        Some(Command::Audit(args)) => audit_cmd::run(&args, lang),
        Some(Command::Story(args)) => return story_cmd::run(&args, lang),
        Some(Command::Devices { json }) => devices::run(json, lang),
        Some(Command::Pair { role, state_dir }) => {
            clients(ClientsCommand::Pair { role }, state_dir.as_deref(), lang)
        }
        Some(Command::Clients { command, state_dir }) => {
            clients(command, state_dir.as_deref(), lang)
        }
        Some(Command::Key { command, state_dir }) => keys_cmd::run(state_dir.as_deref(), |place| {
            keys::run(&command, place, lang)
        }),
        Some(Command::FactoryReset { yes, state_dir }) => {
            keys_cmd::run(state_dir.as_deref(), |place| keys::reset(yes, place, lang))
        }
        Some(Command::Doctor(args)) => match doctor::run(&args, lang) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::FAILURE,
            Err(error) => Err(error),
        },
        Some(Command::Completions { shell }) => {
            console::completions::<Cli>(shell, "soft-kvm-server");
            Ok(())
        }
        Some(Command::Man) => console::manual::<Cli>().map_err(Into::into),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error = console::with_causes(&error);
            console::err(format!("soft-kvm-server: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn service(root: &Path, installed: bool, lang: Lang) -> anyhow::Result<()> {
    let changes = if installed {
        install::install(root, &Programs::find()?)?
    } else {
        install::uninstall(root)?
    };
    console::out(install::told(&changes, root, installed, lang));
    Ok(())
}

fn clients(command: ClientsCommand, state_dir: Option<&Path>, lang: Lang) -> anyhow::Result<()> {
    let path = console::state_path(state_dir, "server")?;
    let ask = |request| control::local::ask_about_clients(&path, &request);
    clients::run(command, lang, ask)
}
