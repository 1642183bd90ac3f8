//! Who is let in: independent TLS and WebSocket clients, and a server whose key has changed.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use soft_kvm_tests::need::python;
use soft_kvm_tests::programs::binary;
use soft_kvm_tests::{Ended, Need, Process, Server, Stage, TESTCARD, Test, until};

use crate::audit;

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "security::a_websocket_client_without_a_pin_gets_403",
        needs: &[Need::Python("websockets"), Need::Program("openssl")],
        run: a_websocket_client_without_a_pin_gets_403,
    },
    Test {
        name: "security::only_tls_1_3",
        needs: &[Need::Program("openssl")],
        run: only_tls_1_3,
    },
    Test {
        name: "security::a_server_with_another_key_is_refused",
        needs: &[],
        run: a_server_with_another_key_is_refused,
    },
    Test {
        name: "security::wrong_codes_close_the_pairing_window",
        needs: &[],
        run: wrong_codes_close_the_pairing_window,
    },
    Test {
        name: "security::both_programs_keep_their_memory_to_themselves",
        needs: &[],
        run: both_programs_keep_their_memory_to_themselves,
    },
    Test {
        name: "security::the_servers_memory_is_never_swapped",
        needs: &[Need::Root],
        run: the_servers_memory_is_never_swapped,
    },
    Test {
        name: "security::every_thread_is_locked_in",
        needs: &[],
        run: every_thread_is_locked_in,
    },
    Test {
        name: "security::both_programs_are_linked_hardened",
        needs: &[Need::Program("readelf")],
        run: both_programs_are_linked_hardened,
    },
    Test {
        name: "security::hardening_check_of_debian_agrees",
        needs: &[Need::Program("hardening-check")],
        run: hardening_check_of_debian_agrees,
    },
    Test {
        name: "security::a_port_scanner_sees_tls_1_3_and_nothing_weak",
        needs: &[Need::Program("nmap")],
        run: a_port_scanner_sees_tls_1_3_and_nothing_weak,
    },
    Test {
        name: "security::an_unpaired_client_is_told_to_pair",
        needs: &[],
        run: an_unpaired_client_is_told_to_pair,
    },
];

const LIMIT: Duration = Duration::from_secs(20);

/// Tries each path with a key that nobody knows; prints what came back.
const WEBSOCKET_CLIENT: &str = r#"
import asyncio, ssl, sys, websockets
port, certificate, key = sys.argv[1:4]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
async def attempt(path, with_key, page=None):
    if with_key:
        context.load_cert_chain(certificate, key)
    try:
        async with websockets.connect(f"wss://127.0.0.1:{port}{path}", ssl=context, origin=page,
                                      subprotocols=["soft-kvm.v1"]) as socket:
            await socket.send('{"type":"hello","version":1,"name":"stranger"}')
            return "open: " + repr(await asyncio.wait_for(socket.recv(), 3))
    except websockets.exceptions.InvalidStatusCode as error:
        return f"status {error.status_code}"
    except websockets.exceptions.InvalidStatus as error:
        return f"status {error.response.status_code}"
    except Exception as error:
        return f"{type(error).__name__}"
async def main():
    print("none", await attempt("/control", False))
    for path in ["/control", "/", "/metrics", "/pairs", "/control/../control"]:
        print(path, await attempt(path, True))
    print("page", await attempt("/pair", True, f"https://127.0.0.1:{port}"))
asyncio.run(main())
"#;

fn a_websocket_client_without_a_pin_gets_403(stage: &Stage) -> anyhow::Result<()> {
    let server = Server::start(stage, TESTCARD)?;
    let (certificate, key) = stranger(stage)?;
    let python = python("websockets").context("asked for before")?;
    let mut command = Command::new(python);
    command
        .args(["-c", WEBSOCKET_CLIENT, &server.port()?.to_string()])
        .args([certificate, key]);
    let told = stage
        .run("websockets", LIMIT, &mut command)?
        .success()?
        .stdout;
    ensure!(told.lines().count() == 7, "{told}");
    for line in told.lines() {
        let refused = match line.split_once(' ') {
            // Without any key the connection itself is refused.
            Some(("none", answer)) => !answer.starts_with("open") && !answer.starts_with("status"),
            Some((_, answer)) => answer == "status 403",
            None => false,
        };
        ensure!(refused, "{told}");
    }
    Ok(())
}

/// No core dumps, no looking in by other processes of the user, no new privileges for what they start.
fn both_programs_keep_their_memory_to_themselves(stage: &Stage) -> anyhow::Result<()> {
    let server = Server::start(stage, TESTCARD)?;
    server.pair(stage)?;
    let client = stage.start("client", &mut server.watch(stage, 20, &[])?)?;
    client.says("connected", LIMIT)?;
    for process in [server.process.id(), client.id()] {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{process}/{file}"));
        let status = read("status")?;
        ensure!(status.contains("NoNewPrivs:\t1"), "{status}");
        let limits = read("limits")?;
        let cores = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"));
        let cores: Vec<&str> = cores.unwrap_or_default().split_whitespace().collect();
        ensure!(cores.get(4..6) == Some(&["0", "0"]), "{cores:?}");
    }
    Ok(())
}

/// Every page that the server may write is locked: there is no other place for the keys of TLS and SRTP.
fn the_servers_memory_is_never_swapped(stage: &Stage) -> anyhow::Result<()> {
    let server = Server::start(stage, TESTCARD)?;
    server.pair(stage)?;
    let client = stage.start("client", &mut server.watch(stage, 20, &[])?)?;
    client.says("connected", LIMIT)?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.process.id()))?;
    let kib = |name: &str| -> anyhow::Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(number.context("a line of the status")?.parse()?)
    };
    let (locked, written) = (kib("VmLck:")?, kib("VmData:")?);
    ensure!(written > 0 && locked >= written, "{status}");
    Ok(())
}

/// Every thread of the server is under a filter of system calls, and all but those that wait for signals under a second,
/// narrower one; the client is under one. The story is read again all the same.
fn every_thread_is_locked_in(stage: &Stage) -> anyhow::Result<()> {
    let story = stage.file("story.jsonnet");
    let text = "(import 'default.jsonnet') + { video+: { bitrate_kbps: 3000 } }";
    std::fs::write(&story, text)?;
    let story_option = story.to_string_lossy().into_owned();
    let mut options = vec!["--story", &story_option];
    options.extend(TESTCARD);
    let server = Server::start(stage, &options)?;
    server.pair(stage)?;
    let client = stage.start("client", &mut server.watch(stage, 20, &[])?)?;
    client.says("connected", LIMIT)?;
    server.process.says("capturing", LIMIT)?;
    server.process.says(
        "locked in: its own files, ports and devices, its own system calls",
        LIMIT,
    )?;
    let narrow = threads_under(server.process.id(), 1)?;
    for name in [
        "control", "media-rx", "media-tx", "capture", "encode", "audit", "async-io",
    ] {
        let filters = narrow.iter().find(|(thread, _)| thread == name);
        ensure!(
            filters.is_some_and(|(_, filters)| *filters == 2),
            "{name}: {narrow:?}"
        );
    }
    for (name, filters) in &narrow {
        let wide = name == "signals" || name == "soft-kvm-server";
        ensure!(wide || *filters == 2, "{name}: {narrow:?}");
    }
    threads_under(client.id(), 1)?;
    std::fs::write(&story, text.replace("3000", "4000"))?;
    server.process.says("reload: done", LIMIT)
}

/// Name and number of filters of each thread; each has no new privileges and at least `least` filters in force.
fn threads_under(process: u32, least: u32) -> anyhow::Result<Vec<(String, u32)>> {
    // A container may have put filters on everything in it.
    let own = std::fs::read_to_string("/proc/self/status")?;
    let inherited = own
        .lines()
        .find_map(|line| line.strip_prefix("Seccomp_filters:"));
    let inherited = inherited
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0);
    let mut threads = Vec::new();
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread that has ended meanwhile is no matter.
        let Ok(status) = std::fs::read_to_string(thread?.path().join("status")) else {
            continue;
        };
        let value = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap_or_default().trim().to_owned()
        };
        let name = value("Name:");
        let filters: u32 = value("Seccomp_filters:").parse().unwrap_or(0);
        let filters = filters.saturating_sub(inherited);
        let locked = value("Seccomp:") == "2" && value("NoNewPrivs:") == "1" && filters >= least;
        ensure!(locked, "{name} may do anything: {status}");
        threads.push((name, filters));
    }
    Ok(threads)
}

/// Position-independent, relocations read-only from the start on, no stack that can
/// be run, no segment that can be written and run.
fn both_programs_are_linked_hardened(stage: &Stage) -> anyhow::Result<()> {
    for program in ["soft-kvm-server", "soft-kvm-client"] {
        let mut command = Command::new("readelf");
        command.args(["--wide", "--file-header", "--segments", "--dynamic"]);
        command.arg(binary(program)?);
        let told = stage.run("readelf", LIMIT, &mut command)?.success()?.stdout;
        let line = |part: &str| {
            let found = told
                .lines()
                .find(|line| line.trim_start().starts_with(part));
            found.with_context(|| format!("{program}: no {part} in {told}"))
        };
        ensure!(line("Type:")?.contains("DYN"), "{program}: no PIE");
        line("GNU_RELRO")?;
        let flags = told.lines().filter(|line| line.contains("(FLAGS"));
        let flags = flags.collect::<Vec<_>>().join(" ");
        ensure!(flags.contains("NOW") && flags.contains("PIE"), "{flags}");
        let stack = line("GNU_STACK")?;
        ensure!(stack.contains(" RW ") && !stack.contains("RWE"), "{stack}");
        ensure!(!told.contains(" RWE "), "{told}");
    }
    Ok(())
}

/// Debian's tool about what the linker does. What it asks of compilers is about C's functions: `_FORTIFY_SOURCE` and the like.
fn hardening_check_of_debian_agrees(stage: &Stage) -> anyhow::Result<()> {
    let mut command = Command::new("hardening-check");
    command.args(["--nofortify", "--nocfprotection"]);
    // It disassembles all of a program: one is enough, as both are linked alike.
    command.arg(binary("soft-kvm-server")?);
    let limit = Duration::from_secs(60);
    let told = stage.run("check", limit, &mut command)?.success()?.stdout;
    for what in [
        "Position Independent Executable",
        "Read-only relocations",
        "Immediate binding",
    ] {
        let line = format!("{what}: yes");
        ensure!(told.contains(&line), "no {line} in {told}");
    }
    Ok(())
}

fn a_port_scanner_sees_tls_1_3_and_nothing_weak(stage: &Stage) -> anyhow::Result<()> {
    let server = Server::start(stage, TESTCARD)?;
    let mut command = Command::new("nmap");
    command.args(["-Pn", "-n", "--script", "ssl-enum-ciphers,ssl-cert", "-p"]);
    command.args([&server.port()?.to_string(), "127.0.0.1"]);
    let limit = Duration::from_secs(60);
    let told = stage.run("nmap", limit, &mut command)?.success()?.stdout;
    let versions = told
        .lines()
        .filter(|line| line.contains("TLSv") || line.contains("SSLv"));
    let versions: Vec<&str> = versions.map(|line| line.trim_matches(['|', ' '])).collect();
    ensure!(versions == ["TLSv1.3:"], "{told}");
    ensure!(told.contains("least strength: A"), "{told}");
    ensure!(told.contains("Public Key type: ec"), "{told}");
    Ok(())
}

/// A key that no server knows, as PEM files.
pub(crate) fn stranger(stage: &Stage) -> anyhow::Result<(PathBuf, PathBuf)> {
    let (certificate, key) = (stage.file("stranger.pem"), stage.file("stranger.key"));
    let mut make = Command::new("openssl");
    make.args(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x".split(' '),
    )
    .arg("-out")
    .arg(&certificate)
    .arg("-keyout")
    .arg(&key);
    stage.run("openssl-req", LIMIT, &mut make)?.success()?;
    Ok((certificate, key))
}

fn only_tls_1_3(stage: &Stage) -> anyhow::Result<()> {
    let server = Server::start(stage, TESTCARD)?;
    let (certificate, key) = stranger(stage)?;
    let connect = |version: &str| -> anyhow::Result<Ended> {
        let mut command = Command::new("openssl");
        command.args(["s_client", version, "-connect", &server.address()?]);
        command.arg("-cert").arg(&certificate).arg("-key").arg(&key);
        stage.run("s_client", LIMIT, &mut command)
    };
    for version in ["-tls1", "-tls1_1", "-tls1_2"] {
        let ended = connect(version)?;
        ensure!(!ended.status.success(), "{version}: {}", ended.text());
        ensure!(
            !ended.stdout.contains("Cipher is TLS_"),
            "{version}: {}",
            ended.text()
        );
    }
    let ended = connect("-tls1_3")?.success()?;
    ensure!(
        ended.stdout.contains("New, TLSv1.3, Cipher is TLS_"),
        "{}",
        ended.text()
    );
    Ok(())
}

fn a_server_with_another_key_is_refused(stage: &Stage) -> anyhow::Result<()> {
    let server = Server::start(stage, TESTCARD)?;
    server.pair(stage)?;
    let state = server.state.clone();
    drop(server);
    std::fs::rename(&state, stage.file("first-server"))?;
    let server = Server::start(stage, TESTCARD)?;
    let ended = stage.run("client", LIMIT, &mut server.watch(stage, 5, &[])?)?;
    ended.refuses(&["another key answers", "pair again"])?;
    Ok(())
}

fn wrong_codes_close_the_pairing_window(stage: &Stage) -> anyhow::Result<()> {
    let server = Server::start(stage, TESTCARD)?;
    let code = server.text("pairing_code")?;
    let wrong = if code == "123456" { "654321" } else { "123456" };
    let attempt = |code: &str| -> anyhow::Result<Process> {
        let words = ["pair", &server.address()?, "--code", code];
        let mut command = soft_kvm_tests::programs::client_command(stage, "client", &words)?;
        stage.start("pair", &mut command)
    };
    let start = Instant::now();
    for number in 1..=5 {
        let mut guess = attempt(wrong)?;
        if number == 4 {
            // Told before the guess is answered, so that nobody gets out of it by leaving.
            until("the guess in the audit log", LIMIT, || {
                let log = audit::lines(stage, &server.state)?;
                let failed = log.iter().filter(|line| line["event"] == "pairing-failed");
                Ok(failed.count() == number)
            })?;
            ensure!(guess.is_running()?, "answered: {}", guess.stderr());
        }
        guess.wait(LIMIT)?.refuses(&["code"])?;
    }
    // Held back for 1, 2, 4 and 8 s.
    let took = start.elapsed();
    ensure!(took >= Duration::from_secs(15), "guessed in {took:?}");
    // The right one comes too late.
    attempt(code)?.wait(LIMIT)?.refuses(&[])?;
    let ended = stage.run("client", LIMIT, &mut server.watch(stage, 3, &[])?)?;
    ended.refuses(&["pair"])?;
    Ok(())
}

fn an_unpaired_client_is_told_to_pair(stage: &Stage) -> anyhow::Result<()> {
    let server = Server::start(stage, TESTCARD)?;
    let ended = stage.run("client", LIMIT, &mut server.watch(stage, 5, &[])?)?;
    ended.refuses(&["soft-kvm-client pair"])?;
    // Paired with a server that has forgotten it since.
    server.pair(stage)?;
    std::fs::remove_file(server.state.join("peers.json"))?;
    let ended = stage.run("client", LIMIT, &mut server.watch(stage, 5, &[])?)?;
    ended.refuses(&["not paired"])?;
    Ok(())
}
