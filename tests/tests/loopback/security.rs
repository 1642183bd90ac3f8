//! Who is let in: independent TLS and WebSocket clients, and a server whose key has changed.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use soft_kvm_tests::need::python;
use soft_kvm_tests::{Ended, Need, Server, Stage, TESTCARD, Test};

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
async def attempt(path, with_key):
    if with_key:
        context.load_cert_chain(certificate, key)
    try:
        async with websockets.connect(f"wss://127.0.0.1:{port}{path}", ssl=context,
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
    ensure!(told.lines().count() == 6, "{told}");
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
    let attempt = |code: &str| -> anyhow::Result<Ended> {
        let words = ["pair", &server.address()?, "--code", code];
        let mut command = soft_kvm_tests::programs::client_command(stage, "client", &words)?;
        stage.run("pair", LIMIT, &mut command)
    };
    for _ in 0..5 {
        attempt(wrong)?.refuses(&["code"])?;
    }
    // The right one comes too late.
    attempt(code)?.refuses(&[])?;
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
