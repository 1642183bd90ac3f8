//! The real programs over loopback, with third-party peers.
#![forbid(unsafe_code)]

mod audit;
mod clipboard;
mod doctor;
mod faults;
mod handover;
mod hostile;
mod hostile_client;
mod install;
mod keys;
mod mdns;
mod metrics;
mod record;
mod relay;
mod roles;
mod security;
mod srtp;
mod story;
mod tasks;
mod typing;
mod window;
mod x11_source;

use std::process::ExitCode;

use soft_kvm_tests::harness;

fn main() -> ExitCode {
    harness::main(
        [
            relay::TESTS,
            srtp::TESTS,
            record::TESTS,
            security::TESTS,
            roles::TESTS,
            audit::TESTS,
            clipboard::TESTS,
            keys::TESTS,
            handover::TESTS,
            hostile::TESTS,
            hostile_client::TESTS,
            mdns::TESTS,
            metrics::TESTS,
            story::TESTS,
            tasks::TESTS,
            doctor::TESTS,
            install::TESTS,
            faults::TESTS,
            typing::TESTS,
            window::TESTS,
            x11_source::TESTS,
        ]
        .concat(),
    )
}
