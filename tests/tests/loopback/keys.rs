//! A key that is rotated, backed up, restored and forgotten, between the real programs.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use soft_kvm_tests::process::Ended;
use soft_kvm_tests::programs::{binary, client_command};
use soft_kvm_tests::{Server, Stage, TESTCARD, Test};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "keys::pins_follow_a_rotated_key_and_the_old_one_is_a_strangers",
        needs: &[],
        run: pins_follow_a_rotated_key_and_the_old_one_is_a_strangers,
    },
    Test {
        name: "keys::a_backup_brings_a_machine_back_after_a_factory_reset",
        needs: &[],
        run: a_backup_brings_a_machine_back_after_a_factory_reset,
    },
];

const LIMIT: Duration = Duration::from_secs(30);
const PASSPHRASE: &str = "nine lives of a cat";

/// `soft-kvm-server` or `soft-kvm-client` on its state folder, which has the same name.
fn ask(stage: &Stage, program: &str, words: &[&str]) -> anyhow::Result<Ended> {
    let mut command = match program {
        "client" => client_command(stage, program, words)?,
        _ => {
            let mut command = Command::new(binary("soft-kvm-server")?);
            command.args(words);
            command.arg("--state-dir").arg(stage.file(program));
            command
        }
    };
    stage.run(&format!("{program}-{}", words[0]), LIMIT, &mut command)
}

/// The key, and how many keys before vouch for it.
fn shown(stage: &Stage, program: &str) -> anyhow::Result<(String, usize)> {
    let told = ask(stage, program, &["key", "show", "--json"])?.success()?;
    let told: Value = serde_json::from_str(&told.stdout)?;
    let key = told["fingerprint"].as_str().context("no fingerprint")?;
    let before = told["predecessors"].as_array().context("no list")?;
    Ok((key.to_owned(), before.len()))
}

fn watch(stage: &Stage, server: &Server) -> anyhow::Result<Ended> {
    stage.run("client", LIMIT, &mut server.watch(stage, 1, &[])?)
}

/// The one pin in a state folder.
fn pin(state: &Path) -> anyhow::Result<String> {
    let list: Value = serde_json::from_slice(&fs::read(state.join("peers.json"))?)?;
    let peers = list["peers"].as_array().context("no peers")?;
    ensure!(peers.len() == 1, "{list}");
    let key = peers[0]["fingerprint"].as_str().context("no fingerprint")?;
    Ok(key.to_owned())
}

fn pins_follow_a_rotated_key_and_the_old_one_is_a_strangers(stage: &Stage) -> anyhow::Result<()> {
    let server = Server::start(stage, TESTCARD)?;
    server.pair(stage)?;
    watch(stage, &server)?.success()?;
    let (near, far) = (stage.file("client"), stage.file("server"));
    let identity = |state: &Path| state.join("identity.pem");

    // The client's, while the server runs.
    let stolen = fs::read(identity(&near))?;
    ask(stage, "client", &["key", "rotate"])?.success()?;
    let (key, before) = shown(stage, "client")?;
    ensure!(before == 1 && pin(&far)? != key);
    watch(stage, &server)?.success()?;
    ensure!(pin(&far)? == key, "the server's pin has not followed");
    let kept = fs::read(identity(&near))?;
    fs::write(identity(&near), stolen)?;
    watch(stage, &server)?.refuses(&["403"])?;
    ensure!(pin(&far)? == key, "the old key has come back");
    fs::write(identity(&near), kept)?;
    watch(stage, &server)?.success()?;

    // The server's: twice, so that the client misses one.
    let old = fs::read(identity(&far))?;
    ask(stage, "server", &["key", "rotate"])?.success()?;
    let told = ask(stage, "server", &["key", "rotate"])?.success()?;
    ensure!(told.stdout.contains("restart"), "{}", told.stdout);
    let (key, before) = shown(stage, "server")?;
    ensure!(before == 2, "{before}");
    watch(stage, &server)?.success()?;
    ensure!(pin(&near)? != key, "the running server has its old key");
    server.process.interrupt()?.success()?;
    let server = Server::start(stage, TESTCARD)?;
    watch(stage, &server)?.success()?;
    ensure!(pin(&near)? == key, "the client's pin has not followed");
    server.process.interrupt()?.success()?;
    fs::write(identity(&far), old)?;
    let server = Server::start(stage, TESTCARD)?;
    watch(stage, &server)?.refuses(&["127.0.0.1"])?;
    ensure!(pin(&near)? == key, "the old key has come back");

    let log = ask(stage, "server", &["audit"])?.success()?.stdout;
    for event in ["key-followed", "key-rotated"] {
        ensure!(log.contains(event), "no {event} in {log}");
    }
    ask(stage, "server", &["audit", "--verify"])?.success()?;
    Ok(())
}

fn a_backup_brings_a_machine_back_after_a_factory_reset(stage: &Stage) -> anyhow::Result<()> {
    let server = Server::start(stage, TESTCARD)?;
    server.pair(stage)?;
    let (key, _) = shown(stage, "server")?;
    let (file, secret) = (stage.file("backup"), stage.file("passphrase"));
    fs::write(&secret, format!("{PASSPHRASE}\n"))?;
    let (file, secret) = (file.to_string_lossy(), secret.to_string_lossy());
    let with = |words: &[&str]| {
        let words = [&["key"], words, &["--passphrase-file", &*secret]].concat();
        ask(stage, "server", &words)
    };
    let words = ["key", "backup", &*file, "--passphrase-file", "/"];
    ask(stage, "server", &words)?.refuses(&["/: "])?;
    with(&["backup", &file])?.success()?;
    with(&["backup", &file])?.refuses(&["exists already"])?;
    let sealed = fs::read(&*file)?;
    let named = |text: &str| {
        sealed
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    };
    ensure!(!named("PRIVATE KEY") && !named("fingerprint"));

    ask(stage, "server", &["factory-reset", "--yes"])?.refuses(&["runs", "stop it first"])?;
    with(&["restore", &file])?.refuses(&["runs", "stop it first"])?;
    watch(stage, &server)?.success()?;
    server.process.interrupt()?.success()?;
    // Nobody says yes.
    ask(stage, "server", &["factory-reset"])?.refuses(&["nothing was changed"])?;
    ask(stage, "server", &["factory-reset", "--yes"])?.success()?;
    let server = Server::start(stage, TESTCARD)?;
    ensure!(shown(stage, "server")?.0 != key);
    watch(stage, &server)?.refuses(&["127.0.0.1"])?;
    server.process.interrupt()?.success()?;

    with(&["restore", &file])?.refuses(&["--force"])?;
    fs::write(&*secret, "nine lives of a dog\n")?;
    with(&["restore", &file, "--force"])?.refuses(&["passphrase is wrong"])?;
    fs::write(&*secret, format!("{PASSPHRASE}\r\n"))?;
    with(&["restore", &file, "--force"])?.success()?;
    let server = Server::start(stage, TESTCARD)?;
    ensure!(shown(stage, "server")?.0 == key);
    watch(stage, &server)?.success()?;
    let log = ask(stage, "server", &["audit", "--verify"])?.success()?;
    ensure!(log.stdout.contains("whole"), "{}", log.stdout);
    Ok(())
}
