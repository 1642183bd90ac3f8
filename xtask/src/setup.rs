//! The system packages: which, why, and for which command.

use std::process::Command;

use anyhow::bail;
use clap::ValueEnum;

use crate::shell;

/// A reason to want packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Purpose {
    /// Build and run both programs
    Demo,
    /// Run all tests but building the lab's kernel
    Test,
    /// Run the checks
    Check,
    /// Build and boot the device lab's kernel
    Lab,
    /// Make a Debian package and check it
    Package,
    /// Run the tests on an emulated arm64 machine
    Arm64,
    /// Everything
    Dev,
}

use Purpose::{Arm64, Check, Demo, Dev, Lab, Package, Test};

/// Debian's and Ubuntu's package, why, and what needs it (`Dev` needs all).
const PACKAGES: &[(&str, &str, &[Purpose])] = &[
    ("g++", "compiles OpenH264", &[Demo, Test, Check, Package]),
    (
        "gcc",
        "compiles ring, and links",
        &[Demo, Test, Check, Lab, Package],
    ),
    (
        "nasm",
        "assembles OpenH264's fast paths",
        &[Demo, Test, Check, Package],
    ),
    (
        "pkg-config",
        "finds system libraries",
        &[Demo, Test, Check, Package],
    ),
    ("avahi-daemon", "an independent mDNS responder", &[Test]),
    ("avahi-utils", "avahi-browse resolves our service", &[Test]),
    (
        "dbus",
        "the message bus of avahi, and of systemd in the lab",
        &[Test],
    ),
    ("ffmpeg", "plays the relayed stream", &[Test]),
    ("gstreamer1.0-libav", "decodes H.264 in GStreamer", &[Test]),
    (
        "gstreamer1.0-plugins-bad",
        "GStreamer's H.264 parser and SRTP decrypter",
        &[Test],
    ),
    (
        "gstreamer1.0-plugins-base",
        "GStreamer's basic elements",
        &[Test],
    ),
    (
        "gstreamer1.0-plugins-good",
        "GStreamer's RTP depacketiser",
        &[Test],
    ),
    (
        "gstreamer1.0-tools",
        "gst-launch-1.0 plays the relayed stream",
        &[Test],
    ),
    (
        "iproute2",
        "network namespaces and disturbed cables",
        &[Test, Lab],
    ),
    ("kmod", "loads the lab's kernel modules", &[Test, Lab]),
    ("libegl1", "a GPU makes tiled screens linear", &[Test]),
    ("libgbm1", "memory that the GPU draws into", &[Test]),
    ("libgles2", "what the GPU is told to draw", &[Test]),
    (
        "libgl1-mesa-dri",
        "drivers of GPUs, and the lab's in software",
        &[Test],
    ),
    ("libva2", "hardware encoders of PCs (VAAPI)", &[Demo, Test]),
    ("libva-drm2", "libva on graphics devices", &[Demo, Test]),
    ("libva-dev", "compiles the lab's VA driver", &[Test, Lab]),
    (
        "libxkbcommon-x11-0",
        "keyboard maps for the viewer's window",
        &[Demo, Test],
    ),
    (
        "libx11-data",
        "dead keys and compose sequences for typing",
        &[Test],
    ),
    ("libxkbcommon-dev", "checks what typed keys make", &[Test]),
    ("xclip", "has a text in the clipboard", &[Test]),
    ("xkb-data", "keyboard layouts for typing", &[Test]),
    ("libdrm-tests", "modetest sets modes in the lab", &[Test]),
    (
        "libinput-tools",
        "libinput reads our virtual devices",
        &[Test],
    ),
    ("libpam-systemd", "login sessions in the lab", &[Test]),
    ("iptables", "older firewall rules for doctor", &[Test]),
    ("nftables", "firewall rules for doctor", &[Test]),
    ("devscripts", "hardening-check judges the server", &[Test]),
    (
        "nmap",
        "lists the TLS versions and ciphers that the server takes",
        &[Test],
    ),
    ("openssl", "s_client tries older TLS versions", &[Test]),
    (
        "prometheus",
        "scrapes the metrics; promtool checks them",
        &[Test],
    ),
    ("python3", "independent peers", &[Test, Lab]),
    (
        "python3-websockets",
        "an independent WebSocket client",
        &[Test],
    ),
    ("python3-zeroconf", "an independent mDNS browser", &[Test]),
    (
        "systemd",
        "reads the installed units; runs them in the lab",
        &[Test],
    ),
    ("tshark", "dissects RTP and RTCP", &[Test]),
    (
        "udev",
        "device links in the lab; checks the udev rule",
        &[Test, Check],
    ),
    (
        "v4l-utils",
        "v4l2-ctl sets up test devices in the lab",
        &[Test],
    ),
    (
        "xdotool",
        "types and clicks into the viewer's window",
        &[Test],
    ),
    ("weston", "a Wayland compositor without a screen", &[Test]),
    (
        "sway",
        "a Wayland compositor with data-control, without a screen",
        &[Test],
    ),
    ("wl-clipboard", "copies and pastes under Wayland", &[Test]),
    ("wtype", "types into the window under Wayland", &[Test]),
    ("xwayland", "the X server beside sway", &[Test]),
    ("xvfb", "an X server without a screen", &[Test]),
    ("shellcheck", "checks the shell scripts", &[Check]),
    ("bc", "kernel and module build", &[Test, Lab]),
    ("bison", "kernel and module build", &[Test, Lab]),
    ("flex", "kernel and module build", &[Test, Lab]),
    ("make", "kernel and module build", &[Test, Lab]),
    ("perl", "kernel and module build", &[Test, Lab]),
    ("xz-utils", "unpacks the kernel's source", &[Test, Lab]),
    ("binutils", "strips the packaged programs", &[Test, Package]),
    (
        "debootstrap",
        "fresh Debian roots to try packages in",
        &[Test, Package],
    ),
    (
        "dpkg-dev",
        "finds the packages of libraries",
        &[Test, Package],
    ),
    ("lintian", "checks packages", &[Test, Package]),
    (
        "gcc-aarch64-linux-gnu",
        "compiles and links for arm64",
        &[Arm64],
    ),
    (
        "g++-aarch64-linux-gnu",
        "compiles OpenH264 for arm64",
        &[Arm64],
    ),
    ("libc6-dev-arm64-cross", "the C library of arm64", &[Arm64]),
    ("qemu-user-static", "runs programs of arm64", &[Arm64]),
];

/// Installs what is missing for a purpose. Does nothing when all is there.
pub(crate) fn run(purpose: Purpose) -> anyhow::Result<()> {
    let wanted = wanted(purpose);
    if shell::which("dpkg-query").is_none() || shell::which("apt-get").is_none() {
        println!("This is not a Debian or Ubuntu system. Please see to these yourself:");
        for (package, why) in &wanted {
            println!("  {package:28} {why}");
        }
        return Ok(());
    }
    let names: Vec<&str> = wanted.iter().map(|(name, _)| *name).collect();
    // It fails when it does not know a package, and says the rest all the same.
    let known = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\\n"])
        .args(&names)
        .output()?;
    let missing = missing(&wanted, &String::from_utf8_lossy(&known.stdout));
    if missing.is_empty() {
        return Ok(());
    }
    println!("These system packages are missing and will be installed:");
    for (package, why) in &missing {
        println!("  {package:28} {why}");
    }
    let administrator = shell::is_root();
    if !administrator && shell::which("sudo").is_none() {
        let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
        bail!(
            "not root and no sudo here: ask an administrator for 'apt-get install {}'",
            names.join(" ")
        );
    }
    let apt = |words: &[&str]| {
        let mut command = Command::new(if administrator { "env" } else { "sudo" });
        if !administrator {
            command.arg("env");
        }
        // tshark asks who may capture; nobody answers here.
        command
            .args([
                "DEBIAN_FRONTEND=noninteractive",
                "apt-get",
                "--quiet",
                "--yes",
            ])
            .args(words);
        shell::run(&mut command)
    };
    apt(&["update"])?;
    let install = |names: &[&str]| apt(&[&["install", "--no-install-recommends"], names].concat());
    let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
    if install(&names).is_ok() {
        return Ok(());
    }
    // One that this release does not have must not keep the others away.
    let failed: Vec<&str> = names
        .into_iter()
        .filter(|name| install(&[name]).is_err())
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    bail!("not installed: {}", failed.join(", "));
}

/// As [`run`], for commands that go on without: what needs a missing package says so itself.
pub(crate) fn try_run(purpose: Purpose) {
    if let Err(error) = run(purpose) {
        eprintln!("warning: {error:#}; going on without");
    }
}

fn wanted(purpose: Purpose) -> Vec<(&'static str, &'static str)> {
    PACKAGES
        .iter()
        .filter(|(_, _, purposes)| purpose == Dev || purposes.contains(&purpose))
        .map(|(package, why, _)| (*package, *why))
        .collect()
}

/// The packages that dpkg-query's lines (`NAME STATUS`) do not call installed.
fn missing<'a>(wanted: &[(&'a str, &'a str)], listed: &str) -> Vec<(&'a str, &'a str)> {
    let installed: Vec<&str> = listed
        .lines()
        .filter_map(|line| line.strip_suffix(" installed"))
        .collect();
    wanted
        .iter()
        .filter(|(package, _)| !installed.contains(package))
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_installed_counts() {
        let wanted = [("gcc", "a"), ("nasm", "b"), ("flex", "c")];
        let listed = "gcc installed\nflex not-installed\nnasm config-files\n";
        assert_eq!(missing(&wanted, listed), [("nasm", "b"), ("flex", "c")]);
    }

    #[test]
    fn the_demo_needs_little_and_dev_everything() {
        assert_eq!(wanted(Demo).len(), 7);
        assert_eq!(wanted(Dev).len(), PACKAGES.len());
    }

    #[test]
    fn every_package_stands_once() {
        let mut names: Vec<&str> = PACKAGES.iter().map(|(name, ..)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PACKAGES.len());
    }
}
