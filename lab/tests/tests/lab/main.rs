//! The device lab's tests. See `lab/README.md`.
#![forbid(unsafe_code)]

mod boot;
mod wire;

use std::process::ExitCode;

use soft_kvm_lab_tests::{LabTest, host};

const TESTS: &[LabTest] = &[
    LabTest {
        modules: &["vivid"],
        ..LabTest::new("boot", &[boot::kernel])
    },
    LabTest {
        programs: &["tc"],
        ..LabTest::new("namespaces", &[boot::namespaces])
    },
    LabTest::new("wire", &[wire::left, wire::right]),
];

fn main() -> ExitCode {
    host::main(TESTS)
}
