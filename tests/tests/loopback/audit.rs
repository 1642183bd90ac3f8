//! The audit log: what is in it, what never is, and that what was taken out shows.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use soft_kvm_tests::programs::{binary, client_command};
use soft_kvm_tests::{Server, Stage, TESTCARD, Test, until};

pub(crate) const TESTS: &[Test] = &[Test {
    name: "audit::what_happened_is_told_and_what_is_missing_shows",
    needs: &[],
    run: what_happened_is_told_and_what_is_missing_shows,
}];

const LIMIT: Duration = Duration::from_secs(20);

fn audit(state: &Path, words: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(binary("soft-kvm-server")?);
    command.arg("audit").args(words);
    command.arg("--state-dir").arg(state);
    Ok(command)
}

/// The lines of the log.
pub(crate) fn lines(stage: &Stage, state: &Path) -> anyhow::Result<Vec<Value>> {
    let told = stage
        .run("audit", LIMIT, &mut audit(state, &[])?)?
        .success()?;
    let lines = told.stdout.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().context("a line is no JSON")
}

fn what_happened_is_told_and_what_is_missing_shows(stage: &Stage) -> anyhow::Result<()> {
    let server = Server::start(stage, TESTCARD)?;
    let state = server.state.clone();
    let follow = stage.start("follow", &mut audit(&state, &["--follow"])?)?;
    let address = server.address()?;
    let code = server.text("pairing_code")?;
    let wrong = if code == "000000" { "000001" } else { "000000" };
    let words = ["pair", &address, "--code", wrong];
    let mut command = client_command(stage, "stranger", &words)?;
    stage.run("stranger", LIMIT, &mut command)?.refuses(&[])?;
    server.pair(stage)?;
    let mut command = server.watch(stage, 2, &["--probe-input", "50"])?;
    stage.run("client", LIMIT, &mut command)?.success()?;
    until("the session's end is followed", LIMIT, || {
        Ok(follow.stdout().contains("\"event\":\"disconnected\""))
    })?;
    let mut command = Command::new(binary("soft-kvm-server")?);
    command.args(["clients", "list", "--json", "--state-dir"]);
    let list = stage
        .run("clients", LIMIT, command.arg(&state))?
        .success()?;
    let clients: Value = serde_json::from_str(&list.stdout)?;
    let key = clients[0]["fingerprint"].as_str().context("no key")?;
    let mut command = Command::new(binary("soft-kvm-server")?);
    command.args(["clients", "revoke", key, "--state-dir"]);
    stage
        .run("clients", LIMIT, command.arg(&state))?
        .success()?;
    let mut command = server.watch(stage, 2, &[])?;
    stage
        .run("revoked", LIMIT, &mut command)?
        .refuses(&["403"])?;
    // Killed: the chain goes on with the next start.
    drop(server);
    let mut restarted = soft_kvm_tests::programs::server_command(stage, "server")?;
    restarted
        .args(TESTCARD)
        .args(["--listen", "127.0.0.1", "--no-discovery"]);
    let server = Server::ready(stage, "server", restarted)?;
    server.process.interrupt()?.success()?;

    let log = lines(stage, &state)?;
    let events: Vec<&str> = log
        .iter()
        .filter_map(|line| line["event"].as_str())
        .collect();
    let expected = [
        "started",
        "pairing-opened",
        "pairing-failed",
        "paired",
        "connected",
        "controls",
        "disconnected",
        "revoked",
        "refused",
        "started",
        "stopped",
    ];
    let mut left = events.iter();
    for event in expected {
        ensure!(
            left.any(|seen| *seen == event),
            "no {event}, in this order, in {events:?}"
        );
    }
    let one = |event: &str| {
        log.iter()
            .find(|line| line["event"] == event)
            .context("gone")
    };
    ensure!(one("connected")?["key"] == key && one("connected")?["role"] == "admin");
    ensure!(one("revoked")?["by"] == "console" && one("revoked")?["key"] == key);
    let remote = one("pairing-failed")?["remote"]
        .as_str()
        .unwrap_or_default();
    ensure!(remote.starts_with("127.0.0.1:"), "{remote}");
    let keys = one("disconnected")?["keys"].as_u64().context("no count")?;
    ensure!(keys > 10, "{keys} keys were counted");

    let verify = |stage: &Stage| stage.run("verify", LIMIT, &mut audit(&state, &["--verify"])?);
    verify(stage)?.success()?;
    let file = state.join("audit.jsonl");
    let good = std::fs::read_to_string(&file)?;
    let without: Vec<&str> = good
        .lines()
        .filter(|line| !line.contains("revoked"))
        .collect();
    std::fs::write(&file, without.join("\n") + "\n")?;
    verify(stage)?.refuses(&["audit.jsonl, line", "missing"])?;
    std::fs::write(&file, good.replacen("127.0.0.1", "127.0.0.9", 1))?;
    verify(stage)?.refuses(&["was changed"])?;
    let mut end: Vec<&str> = good.lines().collect();
    end.pop();
    std::fs::write(&file, end.join("\n") + "\n")?;
    verify(stage)?.refuses(&["newest lines are missing"])?;
    std::fs::write(&file, good)?;
    verify(stage)?.success()?;
    Ok(())
}
