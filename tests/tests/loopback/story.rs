//! Stories: mistakes are told with their place, and a reload restarts only what changed.

use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use nix::sys::signal::Signal;
use serde_json::Value;
use soft_kvm_tests::programs::{binary, client_command, json, number};
use soft_kvm_tests::{Process, Server, Stage, TESTCARD, Test, until};

use crate::audit;

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "story::check_tells_each_mistake",
        needs: &[],
        run: check_tells_each_mistake,
    },
    Test {
        name: "story::a_changed_file_restarts_only_the_encoder",
        needs: &[],
        run: a_changed_file_restarts_only_the_encoder,
    },
    Test {
        name: "story::sighup_reloads_and_a_broken_story_changes_nothing",
        needs: &[],
        run: sighup_reloads_and_a_broken_story_changes_nothing,
    },
    Test {
        name: "story::a_new_name_and_port_are_used_at_once",
        needs: &[],
        run: a_new_name_and_port_are_used_at_once,
    },
    Test {
        name: "story::what_sessions_agreed_on_changes_and_clients_come_back",
        needs: &[],
        run: what_sessions_agreed_on_changes_and_clients_come_back,
    },
    Test {
        name: "story::a_server_with_a_broken_story_does_not_start",
        needs: &[],
        run: a_server_with_a_broken_story_does_not_start,
    },
];

const LIMIT: Duration = Duration::from_secs(20);

/// A mistake, and words of what is said about it. The mistake is in line 2.
const MISTAKES: &[(&str, &[&str])] = &[
    ("video+: { bitrate: 8000 }", &["bitrate_kbps"]),
    ("video+: { bitrate_kbps: 'many' }", &["bitrate_kbps"]),
    ("video+: { kind: 'encodr' }", &["encodr", "encoder"]),
    ("video+: { inputs: ['captur'] }", &["captur", "capture"]),
    ("video+: { inputs: [] }", &["input"]),
    ("capture+: { inputs: ['rtp'] }", &["capture"]),
    ("capture+: { driver: 'floppy' }", &["floppy"]),
    ("capture+: { size: 'large' }", &["size"]),
    ("control+: { port: 70000 }", &["port"]),
    ("video+: { bitrate_kbps: 8000 ", &[]),
    ("video+: { bitrate_kbps: bitrate }", &["bitrate"]),
    (
        "video+: import 'no-such-file.jsonnet'",
        &["no-such-file.jsonnet"],
    ),
];

fn story(change: &str) -> String {
    format!("(import 'default.jsonnet') + {{\n  {change},\n}}\n")
}

fn check_tells_each_mistake(stage: &Stage) -> anyhow::Result<()> {
    let check = |file: &std::path::Path| {
        let mut command = Command::new(binary("soft-kvm-server")?);
        stage.run("check", LIMIT, command.args(["story", "check"]).arg(file))
    };
    for (change, words) in MISTAKES {
        let file = stage.write("story.jsonnet", &story(change))?;
        let ended = check(&file)?.refuses(words)?;
        let text = ended.text();
        // A brace that is missing is missed at the end.
        let line = if words.is_empty() { 4 } else { 2 };
        let place = format!("story.jsonnet:{line}:");
        ensure!(text.contains(&place), "{change}: not at {place} {text}");
    }
    let file = stage.write("story.jsonnet", &story("video+: { bitrate_kbps: 8000 }"))?;
    check(&file)?.success()?;
    Ok(())
}

/// A server with a story, and a client that types and measures.
struct Running {
    server: Server,
    client: Process,
}

impl Running {
    fn start(stage: &Stage) -> anyhow::Result<Self> {
        let file = stage.write("story.jsonnet", &story("video+: { bitrate_kbps: 3000 }"))?;
        let file = file.to_string_lossy();
        let server = Server::start(stage, &[&["--story", &file], TESTCARD].concat())?;
        server.pair(stage)?;
        let mut command = server.watch(stage, 8, &["--probe-input", "30"])?;
        let stats = stage.file("client.json");
        let client = stage.start("client", command.arg("--stats-json").arg(&stats))?;
        client.says("connected", LIMIT)?;
        std::thread::sleep(Duration::from_millis(1_500));
        Ok(Self { server, client })
    }

    /// One connection from start to end, pictures and echoes to the end.
    fn finish(self, stage: &Stage) -> anyhow::Result<String> {
        let ended = self.client.wait(LIMIT)?.success()?;
        let connections = ended.stderr.matches("connected").count();
        ensure!(
            connections == 1,
            "{connections} connections:\n{}",
            ended.stderr
        );
        let stats = json(&stage.file("client.json"))?;
        let echoes = number(&stats, "/input/to_echo_ms/count")?;
        // 30 in a second for 8 seconds on a quiet machine; those of the time before the reload are fewer than this.
        ensure!(echoes > 100.0, "only {echoes} echoes: {stats}");
        Ok(self.server.process.stderr())
    }
}

fn a_changed_file_restarts_only_the_encoder(stage: &Stage) -> anyhow::Result<()> {
    let running = Running::start(stage)?;
    stage.write("story.jsonnet", &story("video+: { bitrate_kbps: 4500 }"))?;
    running.server.process.says("reload: done", LIMIT)?;
    // The audit log tells which story it is.
    let mut told = None;
    until("the change is told", LIMIT, || {
        let log = audit::lines(stage, &running.server.state)?;
        let mut changes = log.iter().filter(|line| line["event"] == "story");
        told = changes.next().map(|line| line["story"].clone());
        Ok(told.is_some())
    })?;
    let root = told.as_ref().and_then(Value::as_str).unwrap_or_default();
    ensure!(root.len() == 64, "no root id: {root}");
    ensure!(running.server.text("story")? != root, "the story before");
    ensure!(
        running.server.metrics()?.contains(root),
        "another than runs"
    );
    let log = running.finish(stage)?;
    let restarted: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("reload: restarting"))
        .collect();
    ensure!(
        restarted.iter().any(|line| line.contains("video")),
        "{restarted:?}"
    );
    // The transport depends on the encoder; the others do not.
    for other in ["capture", "input", "control", "discovery", "metrics"] {
        let name = format!("\"{other}\"");
        ensure!(
            !restarted.iter().any(|line| line.contains(&name)),
            "{restarted:?}"
        );
    }
    Ok(())
}

/// A reload that changes what was agreed on ends the session, which the audit log tells as the server's doing; the client comes
/// back, and its end is the client's.
fn what_sessions_agreed_on_changes_and_clients_come_back(stage: &Stage) -> anyhow::Result<()> {
    let file = stage.write("story.jsonnet", &story("rtp+: { mtu: 1100 }"))?;
    let file = file.to_string_lossy();
    let server = Server::start(stage, &[&["--story", &file], TESTCARD].concat())?;
    server.pair(stage)?;
    let mut command = server.client(stage, &["--view", "none"])?;
    let client = stage.start("client", &mut command)?;
    client.says(" connected ", LIMIT)?;
    stage.write("story.jsonnet", &story("rtp+: { mtu: 1300 }"))?;
    until("it comes back", LIMIT, || {
        Ok(client.stderr().matches(" connected ").count() == 2)
    })?;
    client.interrupt()?.success()?;
    let mut why = Vec::new();
    until("both ends are told", LIMIT, || {
        let log = audit::lines(stage, &server.state)?;
        let ends = log.iter().filter(|line| line["event"] == "disconnected");
        why = ends.map(|line| line["why"].clone()).collect();
        Ok(why.len() == 2)
    })?;
    ensure!(
        why == ["ended by the server", "ended by the client"],
        "{why:?}"
    );
    Ok(())
}

/// While a client watches, the server gets another name and another port: the client stays, the next one finds it there.
fn a_new_name_and_port_are_used_at_once(stage: &Stage) -> anyhow::Result<()> {
    // Free ports, as far as one can know; both are held until both are known.
    let (first, second) = {
        let free = || TcpListener::bind(("127.0.0.1", 0));
        let (first, second) = (free()?, free()?);
        (first.local_addr()?.port(), second.local_addr()?.port())
    };
    let control = |name, port| story(&format!("control+: {{ name: '{name}', port: {port} }}"));
    let file = stage.write("story.jsonnet", &control("before", first))?;
    let mut command = Command::new(binary("soft-kvm-server")?);
    command
        .args([
            "--listen",
            "127.0.0.1",
            "--no-discovery",
            "--metrics-port",
            "0",
        ])
        .args(TESTCARD)
        .arg("--state-dir")
        .arg(stage.file("server"))
        .arg("--story")
        .arg(file);
    let server = Server::ready(stage, "server", command)?;
    server.pair(stage)?;
    let watching = stage.start("client", &mut server.watch(stage, 6, &[])?)?;
    watching.says("\"before\"", LIMIT)?;
    stage.write("story.jsonnet", &control("after", second))?;
    server.process.says("reload: done", LIMIT)?;
    let address = format!("127.0.0.1:{second}");
    let words = [
        "--server",
        &address,
        "--view",
        "none",
        "--once",
        "--seconds",
        "1",
    ];
    let mut command = client_command(stage, "client", &words)?;
    let next = stage.run("next", LIMIT, &mut command)?.success()?;
    ensure!(next.stderr.contains("\"after\""), "{}", next.stderr);
    let ended = watching.wait(LIMIT)?.success()?;
    ensure!(
        ended.stderr.matches("connected").count() == 1,
        "{}",
        ended.stderr
    );
    Ok(())
}

fn sighup_reloads_and_a_broken_story_changes_nothing(stage: &Stage) -> anyhow::Result<()> {
    let running = Running::start(stage)?;
    running.server.process.signal(Signal::SIGHUP)?;
    running
        .server
        .process
        .says("reload: nothing changed", LIMIT)?;
    stage.write("story.jsonnet", &story("video+: { bitrate_kbps: 'many' }"))?;
    running.server.process.signal(Signal::SIGHUP)?;
    running
        .server
        .process
        .says("the story before stays in force", LIMIT)?;
    fs::remove_file(stage.file("story.jsonnet"))?;
    running.server.process.signal(Signal::SIGHUP)?;
    let root = running.server.text("story")?.to_owned();
    let metrics = running.server.metrics()?;
    ensure!(
        metrics.contains(&root),
        "the story's id changed from {root}"
    );
    let log = running.finish(stage)?;
    ensure!(log.contains("story.jsonnet:2"), "no place in {log}");
    ensure!(!log.contains("reload: restarting"), "{log}");
    Ok(())
}

fn a_server_with_a_broken_story_does_not_start(stage: &Stage) -> anyhow::Result<()> {
    let file = stage.write("story.jsonnet", &story("video+: { bitrate: 1 }"))?;
    let mut command = soft_kvm_tests::programs::server_command(stage, "server")?;
    command.arg("--story").arg(&file);
    stage
        .run("server", LIMIT, &mut command)?
        .refuses(&["story.jsonnet:2", "bitrate_kbps"])?;
    Ok(())
}
