//! Device to device: the lab's tests `loss`, asked for figures.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use soft_kvm_benches::report::Summary;

/// How the lab's tests announce a line of figures.
const MEASURED: &str = "measured ";

/// One phase: on one kernel or between two, on a quiet wire or a bad one.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Phase {
    hosts: String,
    phase: String,
    times: Times,
    /// What the client says of the input's way, as in its `--stats-json`.
    stages: Value,
    /// Of a user-mode kernel's one processor.
    client_cpu_percent: f64,
    server_cpu_percent: f64,
}

/// Written to the operator's device to read from the target's, and plain datagrams beside it.
#[derive(Debug, Serialize, Deserialize)]
struct Times {
    wire_one_way_ms: Summary,
    wire_round_trip_ms: Summary,
    motion_ms: Summary,
    keys_ms: Summary,
}

/// Runs the lab's tests, which print their tables; without a lab kernel they say that they are skipped, and nothing is
/// measured.
///
/// # Errors
/// Events were lost, doubled or reordered, or the lab failed in another way.
pub(crate) fn measure(events: u32) -> anyhow::Result<Vec<Phase>> {
    println!(
        "device to device, in the lab: {events} motion reports at {}/s, keys and buttons between them; written to uinput, grabbed by the client, read from the target's evdev",
        super::RATE
    );
    println!(
        "programs of the development profile; a user-mode kernel pays 5 to 40 us for a system call"
    );
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut child = Command::new(cargo)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .args(["xtask", "lab", "test", "loss"])
        .env("SOFT_KVM_LAB_EVENTS", events.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting cargo xtask lab test")?;
    let stdout = child.stdout.take().context("its standard output")?;
    let mut phases = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        match line.strip_prefix(MEASURED) {
            Some(figures) => phases.push(
                serde_json::from_str(figures)
                    .with_context(|| format!("the lab's figures: {figures}"))?,
            ),
            None => println!("{line}"),
        }
    }
    let status = child.wait()?;
    ensure!(status.success(), "cargo xtask lab test loss: {status}");
    if phases.is_empty() {
        println!("device to device: not measured");
    }
    Ok(phases)
}
