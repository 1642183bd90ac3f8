//! `soft-kvm-client`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use soft_kvm_client::cli::{Cli, Command, TargetArgs};
use soft_kvm_client::{devices, doctor, keys_cmd, run, typing};
use soft_kvm_service::{console, keys};

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
        Some(Command::Clients {
            server,
            state_dir,
            command,
        }) => run::clients(&TargetArgs { server, state_dir }, command, lang),
        Some(Command::Key { command, state_dir }) => keys_cmd::run(state_dir.as_deref(), |place| {
            keys::run(&command, place, lang)
        }),
        Some(Command::FactoryReset { yes, state_dir }) => {
            keys_cmd::run(state_dir.as_deref(), |place| keys::reset(yes, place, lang))
        }
        Some(Command::Control {
            server,
            state_dir,
            command,
        }) => run::control(&TargetArgs { server, state_dir }, &command, lang),
        Some(Command::Type(args)) => typing::run(&args, lang),
        Some(Command::Devices { json }) => devices::run(json, lang),
        Some(Command::Doctor { target, json }) => match doctor::run(&target, json, lang) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::FAILURE,
            Err(error) => Err(error),
        },
        Some(Command::Guard) => run::guard(),
        Some(Command::ScreenKeeper { crtc, connector }) => run::keep_screen(crtc, connector),
        Some(Command::Completions { shell }) => {
            console::completions::<Cli>(shell, "soft-kvm-client");
            Ok(())
        }
        Some(Command::Man) => console::manual::<Cli>().map_err(Into::into),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error = console::with_causes(&error);
            console::err(format!("soft-kvm-client: {error}"));
            ExitCode::FAILURE
        }
    }
}
