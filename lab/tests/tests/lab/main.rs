//! The device lab's tests. See `lab/README.md`.
#![forbid(unsafe_code)]

mod boot;
mod input;
mod keyboard;
mod kvm;
mod pairing;
mod picture;
mod vivid;
mod vkms;
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
    LabTest {
        programs: &["v4l2-ctl"],
        ..LabTest::new("vivid_640x480", &[vivid::hdmi_640x480])
    },
    LabTest::new("vivid_1280x720", &[vivid::hdmi_1280x720]),
    LabTest {
        programs: &["v4l2-ctl"],
        ..LabTest::new("vivid_dongle", &[vivid::dongle_640x480])
    },
    LabTest::new("vivid_unplugged", &[vivid::unplugged]),
    LabTest {
        modules: &["vkms"],
        ..LabTest::new("vkms", &[vkms::console])
    },
    LabTest::new("pairing_mdns", &[pairing::by_name]),
    LabTest::new("keyboard", &[keyboard::on_one_kernel]),
    LabTest::new("keyboard_unplugged", &[keyboard::unplugged]),
    LabTest::new(
        "two_kernels",
        &[keyboard::target_kernel, keyboard::seat_kernel],
    ),
];

fn main() -> ExitCode {
    host::main(TESTS)
}
