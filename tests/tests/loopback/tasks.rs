//! What the README tells users to run: the list of devices, the demo with its window, a benchmark.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use soft_kvm_tests::programs::{binary, json};
use soft_kvm_tests::xvfb::Xvfb;
use soft_kvm_tests::{Need, Stage, Test, until};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "tasks::devices_are_listed_with_the_choice_and_the_reasons",
        needs: &[],
        run: devices_are_listed_with_the_choice_and_the_reasons,
    },
    Test {
        name: "tasks::the_demo_shows_address_code_and_window",
        needs: &[
            Need::Program("cargo"),
            Need::Program("Xvfb"),
            Need::Program("xdotool"),
        ],
        run: the_demo_shows_address_code_and_window,
    },
    Test {
        name: "tasks::the_demo_measures_where_no_window_can_open",
        needs: &[Need::Program("cargo")],
        run: the_demo_measures_where_no_window_can_open,
    },
    Test {
        name: "tasks::a_benchmark_prints_the_five_lines_and_writes_json",
        needs: &[Need::Program("cargo")],
        run: a_benchmark_prints_the_five_lines_and_writes_json,
    },
];

/// Cargo compiles the benchmark's own crate for it.
const BUILD: Duration = Duration::from_secs(300);

/// Lists of `devices --json`, the key of a name and of a reason in each.
const LISTS: [(&str, &str, &str); 3] = [
    ("sources", "name", "reason"),
    ("encoders", "name", "why"),
    ("sinks", "name", "why"),
];

fn devices_are_listed_with_the_choice_and_the_reasons(stage: &Stage) -> anyhow::Result<()> {
    let list = |words: &[&str]| -> anyhow::Result<String> {
        let mut command = Command::new(binary("soft-kvm-server")?);
        command.arg("devices").args(words);
        for variable in ["DISPLAY", "WAYLAND_DISPLAY"] {
            command.env_remove(variable);
        }
        let ended = stage.run("devices", Duration::from_secs(20), &mut command)?;
        Ok(ended.success()?.stdout)
    };
    let (plain, tree): (_, Value) = (list(&[])?, serde_json::from_str(&list(&["--json"])?)?);
    for (kind, name, reason) in LISTS {
        let rows = tree[kind]
            .as_array()
            .with_context(|| format!("no {kind}"))?;
        let chosen: Vec<&Value> = rows.iter().filter(|row| row["chosen"] == true).collect();
        ensure!(chosen.len() == 1, "{kind}: {} are chosen", chosen.len());
        for row in rows {
            let text = |key: &str| {
                let text = row[key].as_str().filter(|text| !text.is_empty());
                text.with_context(|| format!("{kind} without {key}: {row}"))
            };
            let (name, reason) = (text(name)?, text(reason)?);
            // The plain list says the same, with a star before the chosen one.
            let line = plain
                .lines()
                .find(|line| line.contains(name) && line.contains(reason));
            let line =
                line.with_context(|| format!("no line with {name} and {reason}:\n{plain}"))?;
            ensure!(
                line.trim_start().starts_with('*') == (row["chosen"] == true),
                "{line}"
            );
        }
    }
    let names: Vec<&str> = tree["sinks"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|row| row["name"].as_str())
        .collect();
    for sink in ["uinput", "echo", "gadget"] {
        ensure!(names.contains(&sink), "no {sink} among {names:?}");
    }
    Ok(())
}

fn the_demo_shows_address_code_and_window(stage: &Stage) -> anyhow::Result<()> {
    let screen = Xvfb::start(stage, "1024x768x24")?;
    let figures = stage.file("demo.json");
    let mut command = Command::new(binary("xtask")?);
    // The programs as they were built for this test.
    command
        .env("SOFT_KVM_PROGRAMS", programs()?)
        .args(["demo", "--seconds", "6", "--size", "640x360", "--json"])
        .arg(&figures);
    let demo = stage.start("demo", screen.on(&mut command))?;
    let limit = Duration::from_secs(60);
    // The code as text and as QR, whose finder patterns are these half blocks.
    for text in ["Address: 127.0.0.1:", "Pairing code: ", "█ ▄▄▄▄▄ █"] {
        until(text, limit, || Ok(demo.stdout().contains(text)))?;
    }
    until("the window shows the picture", limit, || {
        Ok(screen.picture()?.colors() > 4)
    })?;
    screen.xdotool(stage, &["search", "--onlyvisible", "--name", "Soft KVM"])?;
    demo.wait(limit)?.success()?;
    let decoded = json(&figures)?["frames"]["decoded"].as_u64();
    ensure!(decoded.is_some_and(|decoded| decoded > 0), "{decoded:?}");
    Ok(())
}

fn the_demo_measures_where_no_window_can_open(stage: &Stage) -> anyhow::Result<()> {
    let figures = stage.file("demo.json");
    let mut command = Command::new(binary("xtask")?);
    command
        .env("SOFT_KVM_PROGRAMS", programs()?)
        .args(["demo", "--seconds", "3", "--size", "640x360", "--json"])
        .arg(&figures);
    for variable in ["DISPLAY", "WAYLAND_DISPLAY", "WAYLAND_SOCKET"] {
        command.env_remove(variable);
    }
    let ended = stage.run("demo", Duration::from_secs(60), &mut command)?;
    let printed = ended.success()?.stdout;
    ensure!(printed.contains("No desktop session"), "{printed}");
    let decoded = json(&figures)?["frames"]["decoded"].as_u64();
    ensure!(decoded.is_some_and(|decoded| decoded > 0), "{decoded:?}");
    Ok(())
}

fn a_benchmark_prints_the_five_lines_and_writes_json(stage: &Stage) -> anyhow::Result<()> {
    let figures = stage.file("bench.json");
    let mut command = Command::new("cargo");
    command
        // All of the workspace, so that crates keep the features with which they were built.
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .env("SOFT_KVM_PROGRAMS", programs()?)
        .args(["bench", "--quiet", "--profile", "dev", "--bench"])
        .args(["comprehensive", "--", "--p99", "--quick", "--json"])
        .arg(&figures);
    let printed = stage.run("bench", BUILD, &mut command)?.success()?.stdout;
    // As the user's page has them: `NAME: FIGURE (Target: <GOAL) ✓`.
    let goals = BTreeMap::from([
        ("Video Latency p99: ", "ms (Target: <50ms) "),
        ("Input Latency p99: ", "ms (Target: <10ms) "),
        ("CPU Usage p99: ", "% (Target: <15%) "),
        ("Memory Usage p99: ", "MB (Target: <256MB) "),
        ("Connection Time p95: ", "ms (Target: <1000ms) "),
    ]);
    for (name, goal) in goals {
        let line = printed.lines().find_map(|line| line.strip_prefix(name));
        let line = line.with_context(|| format!("no line {name:?} in\n{printed}"))?;
        let (figure, mark) = line.split_once(goal).with_context(|| line.to_owned())?;
        let figure: f64 = figure.parse().with_context(|| line.to_owned())?;
        ensure!(figure > 0.0 && ["✓", "✗"].contains(&mark), "{line}");
    }
    let decoded = json(&figures)?["run"]["report"]["frames"]["decoded"].as_u64();
    ensure!(decoded.is_some_and(|decoded| decoded > 0), "{decoded:?}");
    Ok(())
}

/// The folder of the programs that this test runs.
fn programs() -> anyhow::Result<std::path::PathBuf> {
    let server = binary("soft-kvm-server")?;
    Ok(server.parent().map(Path::to_path_buf).unwrap_or_default())
}
