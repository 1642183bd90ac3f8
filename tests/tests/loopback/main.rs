//! The real programs over loopback, with third-party peers.
#![forbid(unsafe_code)]

mod faults;
mod hostile;
mod mdns;
mod metrics;
mod record;
mod relay;
mod security;
mod srtp;
mod story;
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
            hostile::TESTS,
            mdns::TESTS,
            metrics::TESTS,
            story::TESTS,
            faults::TESTS,
            window::TESTS,
            x11_source::TESTS,
        ]
        .concat(),
    )
}
