//! One controller at a time: asked for, given, refused, taken, freed; and everyone is told.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use soft_kvm_tests::programs::client_command;
use soft_kvm_tests::{Ended, Server, Stage, TESTCARD, Test};

use crate::roles::{console, pair_as, watches};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "handover::asked_given_refused_taken_and_freed_and_everyone_is_told",
        needs: &[],
        run: asked_given_refused_taken_and_freed_and_everyone_is_told,
    },
    Test {
        name: "handover::a_server_beyond_its_network_says_so",
        needs: &[],
        run: a_server_beyond_its_network_says_so,
    },
];

const LIMIT: Duration = Duration::from_secs(20);

/// `soft-kvm-client control WORDS…` as one of the clients.
fn control(stage: &Stage, server: &Server, name: &str, words: &[&str]) -> anyhow::Result<Ended> {
    let address = server.address()?;
    let words = [&["control", "--server", &address], words].concat();
    stage.run(name, LIMIT, &mut client_command(stage, name, &words)?)
}

/// Gives the client with the state folder `name` that name on the server.
fn rename(stage: &Stage, server: &Server, name: &str, known: &[&str]) -> anyhow::Result<()> {
    let told = console(stage, &server.state, &["list", "--json"])?.success()?;
    let clients: Vec<Value> = serde_json::from_str(&told.stdout)?;
    let new = clients
        .iter()
        .find(|client| !known.iter().any(|known| client["name"] == *known));
    let key = new.and_then(|client| client["fingerprint"].as_str());
    let key = key.context("no new client")?.get(..16).context("short")?;
    console(stage, &server.state, &["rename", key, name])?.success()?;
    Ok(())
}

fn asked_given_refused_taken_and_freed_and_everyone_is_told(stage: &Stage) -> anyhow::Result<()> {
    let story = stage.write(
        "ask.jsonnet",
        "(import 'default.jsonnet') + { control+: { handover: 'ask' } }",
    )?;
    let story = story.to_str().context("a path that is no text")?;
    let server = Server::start(stage, &[TESTCARD, &["--story", story]].concat())?;
    server.pair(stage)?;
    rename(stage, &server, "boss", &[])?;
    pair_as(stage, &server, "desk", &[])?;
    rename(stage, &server, "desk", &["boss"])?;
    pair_as(stage, &server, "tv", &["--role", "view"])?;
    rename(stage, &server, "tv", &["boss", "desk"])?;

    let probing = ["--seconds", "300", "--probe-input", "20"];
    let mut viewer = watches(stage, &server, "tv", &["--seconds", "300"])?;
    let viewer = stage.start("tv", &mut viewer)?;
    viewer.says("connected", LIMIT)?;
    // A free place is for the first who types; the viewer and who comes later are told.
    let mut boss = watches(stage, &server, "client", &probing)?;
    let boss = stage.start("boss", &mut boss)?;
    viewer.says("boss has keyboard and mouse", LIMIT)?;
    let mut desk = watches(stage, &server, "desk", &probing)?;
    let desk = stage.start("desk", &mut desk)?;
    desk.says("boss has keyboard and mouse", LIMIT)?;
    desk.says("ask for them", LIMIT)?;

    // Who may only watch gets nothing by any request, and nobody but an admin takes.
    for request in ["request", "take", "release", "grant"] {
        control(stage, &server, "tv", &[request])?.refuses(&["only watch"])?;
    }
    control(stage, &server, "desk", &["take"])?.refuses(&["only admins"])?;
    control(stage, &server, "desk", &["grant"])?.refuses(&["does not have"])?;

    let ask = |name: &str| {
        let address = server.address()?;
        let words = ["control", "--server", &address, "request"];
        stage.start(name, &mut client_command(stage, "desk", &words)?)
    };
    let asking = ask("refused")?;
    asking.says("asked", LIMIT)?;
    boss.says("desk asks for them", LIMIT)?;
    viewer.says("desk asks for them", LIMIT)?;
    control(stage, &server, "client", &["refuse", "desk"])?.success()?;
    asking
        .wait(LIMIT)?
        .refuses(&["boss keeps keyboard and mouse"])?;
    let asking = ask("granted")?;
    asking.says("asked", LIMIT)?;
    control(stage, &server, "client", &["grant", "desk"])?.success()?;
    let granted = asking.wait(LIMIT)?.success()?;
    ensure!(
        granted.stdout.contains("this seat has"),
        "{}",
        granted.stdout
    );
    viewer.says("desk has keyboard and mouse", LIMIT)?;
    boss.says("desk has keyboard and mouse", LIMIT)?;
    let shown = control(stage, &server, "tv", &["show", "--json"])?.success()?;
    let shown: Value = serde_json::from_str(&shown.stdout)?;
    ensure!(
        shown["controller"]["name"] == "desk"
            && shown["you"] == "watches"
            && shown["rule"] == "ask",
        "{shown}"
    );
    let taken = control(stage, &server, "client", &["take"])?.success()?;
    ensure!(taken.stdout.contains("this seat has"), "{}", taken.stdout);
    // Who has them vanishes: the place is free, and the other types on.
    drop(boss);
    soft_kvm_tests::until("the other types", LIMIT, || {
        let shown = control(stage, &server, "tv", &["show", "--json"])?.success()?;
        let shown: Value = serde_json::from_str(&shown.stdout)?;
        Ok(shown["controller"]["name"] == "desk")
    })?;
    drop(desk);
    viewer.says("nobody has keyboard and mouse", LIMIT)?;
    drop(viewer);
    server.process.interrupt()?.success()?;

    let log = std::fs::read_to_string(server.state.join("audit.jsonl"))?;
    let log: Vec<Value> = log
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let mut left = log.iter();
    for (event, client, how) in [
        ("controls", "boss", Some("typed")),
        ("control-asked", "desk", None),
        ("control-refused", "desk", None),
        ("control-asked", "desk", None),
        ("controls", "desk", Some("granted")),
        ("controls", "boss", Some("taken")),
        ("control-released", "boss", None),
        ("controls", "desk", Some("typed")),
    ] {
        let is = |line: &&Value| {
            line["event"] == event && line["client"] == client && line["how"].as_str() == how
        };
        ensure!(
            left.by_ref().any(|line| is(&line)),
            "no {event} of {client}, in this order, in {log:?}"
        );
    }
    Ok(())
}

fn a_server_beyond_its_network_says_so(stage: &Stage) -> anyhow::Result<()> {
    for (words, expected) in [(&["--allow-routed"][..], true), (&[], false)] {
        let _ = std::fs::remove_dir_all(stage.file("server"));
        let _ = std::fs::remove_dir_all(stage.file("client"));
        let server = Server::start(stage, &[TESTCARD, words].concat())?;
        server.pair(stage)?;
        let ended = stage.run("client", LIMIT, &mut server.watch(stage, 1, &[])?)?;
        let ended = ended.success()?;
        let said = ended.stderr.contains("reachable beyond this network");
        ensure!(said == expected, "{}", ended.stderr);
        let ended = server.process.interrupt()?.success()?;
        let said = ended.text().contains("behind routers are let in");
        ensure!(said == expected, "{}", ended.text());
    }
    Ok(())
}
