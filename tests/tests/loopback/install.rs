//! `--install-service` of the plain binary: systemd takes what it writes, and uninstalling leaves the state.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use soft_kvm_tests::programs::binary;
use soft_kvm_tests::{Need, Stage, Test};

pub(crate) const TESTS: &[Test] = &[Test {
    name: "install::systemd_takes_the_service_and_uninstalling_leaves_the_state",
    needs: &[
        Need::Program("systemd-analyze"),
        Need::Program("systemctl"),
        Need::Program("systemd-sysusers"),
    ],
    run: systemd_takes_the_service,
}];

const LIMIT: Duration = Duration::from_secs(60);
/// Where the machine's own units are, on which ours depend.
const UNITS: &str = "usr/lib/systemd/system";

fn systemd_takes_the_service(stage: &Stage) -> anyhow::Result<()> {
    let root = stage.file("root");
    let at = format!("--root={}", root.display());
    let run = |program: &str, words: &[&str]| {
        let mut command = Command::new(program);
        stage
            .run(program, LIMIT, command.arg(&at).args(words))?
            .success()
    };
    let state = root.join("var/lib/soft-kvm/identity.pem");
    fs::create_dir_all(state.parent().unwrap_or(&root))?;
    fs::write(&state, "key")?;
    // What a system has besides.
    let units = root.join(UNITS);
    fs::create_dir_all(units.parent().unwrap_or(&root))?;
    let mut copy = Command::new("cp");
    copy.args(["-r", &format!("/{UNITS}")]).arg(&units);
    stage.run("cp", LIMIT, &mut copy)?.success()?;
    // Of a package on this machine.
    let _ = fs::remove_file(units.join("soft-kvm.service"));
    program(&root.join("bin/kill"))?;

    let server = binary("soft-kvm-server")?;
    let installer = |option: &str| {
        let mut command = Command::new(&server);
        stage
            .run("install", LIMIT, command.args([option, &at]))?
            .success()
    };
    let told = installer("--install-service")?.text();
    ensure!(told.contains("soft-kvm.service: written"), "{told}");
    run(
        "systemd-analyze",
        &[
            "verify",
            "--man=no",
            "soft-kvm.service",
            "soft-kvm-seat@x.service",
        ],
    )?;
    run("systemd-sysusers", &[])?;
    run("systemctl", &["enable", "soft-kvm"])?;
    let mut installed = Command::new(root.join("usr/local/bin/soft-kvm-server"));
    let version = stage
        .run("version", LIMIT, installed.arg("--version"))?
        .success()?;
    ensure!(
        version.text().contains("soft-kvm-server"),
        "{}",
        version.text()
    );
    let again = installer("--install-service")?.text();
    ensure!(
        !again.contains("written") && again.contains("unchanged"),
        "{again}"
    );

    let told = installer("--uninstall-service")?.text();
    ensure!(told.contains("soft-kvm.service: removed"), "{told}");
    let mut find = Command::new("find");
    find.arg(&root).args(["-name", "*soft-kvm*"]);
    let left = stage.run("find", LIMIT, &mut find)?.success()?.stdout;
    ensure!(
        left.trim() == root.join("var/lib/soft-kvm").to_string_lossy(),
        "{left}"
    );
    ensure!(fs::read_to_string(state)? == "key");
    Ok(())
}

/// A file that may be run.
fn program(path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    fs::write(path, "#!/bin/sh\n")?;
    Ok(fs::set_permissions(
        path,
        fs::Permissions::from_mode(0o755),
    )?)
}
