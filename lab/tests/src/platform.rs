//! The device tests of `appliance/platform/linux`: its integration tests that are ignored elsewhere because
//! they need kernel drivers. Each test function runs in a kernel of its own.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::host::{Boot, report};

const PACKAGE: &str = "soft-kvm-platform-linux";

/// Modules to load for a test binary, by its name.
const MODULES: &[(&str, &[&str])] = &[
    ("v4l2_vivid", &["vivid"]),
    ("kms_vkms", &["vkms"]),
    ("m2m_codecs", &["vivid", "vicodec"]),
];

/// One test function of one binary.
#[derive(Debug)]
pub(crate) struct PlatformTest {
    binary: PathBuf,
    group: String,
    function: String,
}

impl PlatformTest {
    pub(crate) fn name(&self) -> String {
        format!("platform::{}::{}", self.group, self.function)
    }

    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let modules = MODULES
            .iter()
            .find(|(group, _)| *group == self.group)
            .map_or(&[][..], |(_, modules)| modules);
        let boot = Boot {
            modules,
            udev: false,
            systemd: false,
            // Long enough for the slowest, 100 rounds of unplugging.
            timeout: Duration::from_secs(300),
            shared: None,
            kernel: None,
            processor: 0,
        };
        let words = [
            "--exact",
            &self.function,
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ];
        let mut command = vec![self.binary.clone().into()];
        command.extend(words.map(Into::into));
        let output = boot.run(&command)?;
        let passed = String::from_utf8_lossy(&output.stdout).contains("ok. 1 passed");
        if !output.status.success() || !passed {
            bail!("{}", report(&output));
        }
        for stream in [&output.stdout, &output.stderr] {
            for line in String::from_utf8_lossy(stream).lines() {
                if let Some(seen) = line.find("seen: ").and_then(|at| line.get(at..)) {
                    let _ = writeln!(std::io::stdout(), "\n{}: {seen}", self.name());
                }
            }
        }
        Ok(())
    }
}

/// All ignored integration tests of the platform crate, but those that only want an X server.
pub(crate) fn tests() -> anyhow::Result<Vec<PlatformTest>> {
    let mut tests = Vec::new();
    for binary in binaries()? {
        let group = group(&binary);
        tests.extend(ignored(&binary)?.into_iter().map(|function| PlatformTest {
            binary: binary.clone(),
            group: group.clone(),
            function,
        }));
    }
    Ok(tests)
}

/// The test binaries: `cargo xtask test` names those it has built (separated by colons), else cargo is asked.
fn binaries() -> anyhow::Result<Vec<PathBuf>> {
    if let Some(paths) = std::env::var_os("SOFT_KVM_LAB_BINARIES") {
        return Ok(std::env::split_paths(&paths)
            .filter(|path| !path.as_os_str().is_empty())
            .collect());
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "test",
            "--package",
            PACKAGE,
            "--test",
            "*",
            "--no-run",
            "--message-format=json",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .context("asking cargo for the platform's test binaries")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        // A package without integration tests has none to run.
        if errors.contains("no test target") {
            return Ok(Vec::new());
        }
        bail!("the platform's tests do not build:\n{errors}");
    }
    let messages = text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    Ok(messages
        .filter_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
        .collect())
}

/// `target/debug/deps/v4l2_vivid-0123456789abcdef` is `v4l2_vivid`.
fn group(binary: &Path) -> String {
    let stem = binary.file_stem().unwrap_or_default().to_string_lossy();
    stem.rsplit_once('-')
        .map_or_else(|| stem.clone().into_owned(), |(name, _)| name.to_owned())
}

/// The functions of a binary that need the lab. The harness tells the reasons only when it is asked to run
/// ignored tests without `--ignored`, which runs none of them.
fn ignored(binary: &Path) -> anyhow::Result<Vec<String>> {
    let ask = |words: &[String]| -> anyhow::Result<String> {
        let output = Command::new(binary)
            .args(words)
            .output()
            .with_context(|| format!("asking {} for its tests", binary.display()))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let listed = ask(&["--list", "--ignored", "--format=terse"].map(str::to_owned))?;
    let names: Vec<String> = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect();
    if names.is_empty() {
        return Ok(names);
    }
    let mut words = vec!["--exact".to_owned(), "--test-threads=1".to_owned()];
    words.extend(names);
    Ok(lab_only(&ask(&words)?))
}

/// Reads `test NAME ... ignored, REASON` lines and leaves out what needs only a window system.
fn lab_only(output: &str) -> Vec<String> {
    let rows = output.lines().filter_map(|line| {
        let (name, reason) = line.strip_prefix("test ")?.split_once(" ... ignored")?;
        let display = ["Xvfb", "sway", "weston"];
        let outside = display.iter().any(|program| reason.contains(program));
        (!outside).then(|| name.to_owned())
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_of_window_systems_stay_outside() {
        let output = "running 4 tests\n\
                      test grab ... ignored, needs the lab: uinput\n\
                      test screen ... ignored, needs Xvfb\n\
                      test copied ... ignored, needs wl-copy, sway\n\
                      test other ... ignored\n\
                      test result: ok. 0 passed; 0 failed; 4 ignored\n";
        assert_eq!(lab_only(output), ["grab", "other"]);
    }

    #[test]
    fn group_is_the_target_name() {
        assert_eq!(
            group(Path::new("x/deps/kms_vkms-0123456789abcdef")),
            "kms_vkms"
        );
    }
}
