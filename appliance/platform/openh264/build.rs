//! Fails early where OpenH264 would quietly be built without its assembly.
#![expect(
    clippy::disallowed_macros,
    reason = "how a build script talks to cargo"
)]

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=PATH");
    println!("cargo::rerun-if-env-changed=OPENH264_NO_ASM");
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    if arch != "x86" && arch != "x86_64" {
        return;
    }
    // openh264-sys2 falls back to C without an error, which encodes up to three times slower.
    if std::env::var_os("OPENH264_NO_ASM").is_some() {
        println!(
            "cargo::error=OPENH264_NO_ASM is set: OpenH264 would be built without its assembly, up to three times slower. Unset it."
        );
    }
    let found = Command::new("nasm")
        .arg("-v")
        .output()
        .is_ok_and(|output| output.status.success());
    if !found {
        println!(
            "cargo::error=nasm is missing: OpenH264 would be built without its assembly, up to three times slower. Install the package `nasm` (Debian, Ubuntu, Fedora, Homebrew: `nasm`), or run `cargo xtask setup`, then `cargo clean -p openh264-sys2`."
        );
    }
}
