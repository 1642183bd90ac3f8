//! Bad bytes on every port while a client watches: the stream goes on, the server lives.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use soft_kvm_testkit::attack::Attack;
use soft_kvm_tests::need::python;
use soft_kvm_tests::programs::{json, number};
use soft_kvm_tests::{Need, Server, Stage, TESTCARD, Test, until};

use crate::security::stranger;

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "hostile::random_bytes_on_every_port",
        needs: &[],
        run: random_bytes_on_every_port,
    },
    Test {
        name: "hostile::oversized_requests_and_frames",
        needs: &[Need::Python("websockets"), Need::Program("openssl")],
        run: oversized_requests_and_frames,
    },
    Test {
        name: "hostile::new_keys_are_not_made_without_end",
        needs: &[Need::Program("openssl")],
        run: new_keys_are_not_made_without_end,
    },
    Test {
        name: "hostile::floods_shut_out_nobody_else",
        needs: &[],
        run: floods_shut_out_nobody_else,
    },
    Test {
        name: "hostile::the_first_connection_gets_in_during_a_flood",
        needs: &[],
        run: the_first_connection_gets_in_during_a_flood,
    },
];

const LIMIT: Duration = Duration::from_secs(30);

/// Runs `attack` while a paired client watches; afterwards the client has its pictures and the server answers.
fn under_attack(
    stage: &Stage,
    attack: impl FnOnce(&Server) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut server = Server::start(stage, TESTCARD)?;
    server.pair(stage)?;
    let stats = stage.file("client.json");
    let mut command = server.watch(stage, 6, &["--probe-input", "20"])?;
    let client = stage.start("client", command.arg("--stats-json").arg(&stats))?;
    client.says("connected", LIMIT)?;
    attack(&server)?;
    let ended = client.wait(LIMIT)?.success()?;
    ensure!(
        ended.stderr.matches("connected").count() == 1,
        "{}",
        ended.stderr
    );
    let stats = json(&stats)?;
    let decoded = number(&stats, "/frames/decoded")?;
    ensure!(decoded > 60.0, "only {decoded} pictures came: {stats}");
    ensure!(number(&stats, "/dropped/malformed")? == 0.0, "{stats}");
    ensure!(number(&stats, "/input/to_echo_ms/count")? > 10.0, "{stats}");
    ensure!(server.process.is_running()?, "the server ended");
    let log = server.process.stderr();
    ensure!(!log.contains("panicked"), "{log}");
    ensure!(
        server.metrics()?.contains("soft_kvm_"),
        "no metrics any more"
    );
    Ok(())
}

/// Bytes that look random, the same in every run (xorshift).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length).map(|_| self.next().to_le_bytes()[3]).collect()
    }
}

/// TLS 1.3 has no renegotiation, but updates of keys (RFC 8446 §4.6.3): who asks for one after the other is cut off.
fn new_keys_are_not_made_without_end(stage: &Stage) -> anyhow::Result<()> {
    let (certificate, key) = stranger(stage)?;
    under_attack(stage, |server| {
        // The client takes a line "K" for the command to update its keys and to ask for the other side's.
        let mut command = Command::new("sh");
        command
            .args(["-c", "yes K | timeout 20 openssl s_client \"$@\"", "sh"])
            .args(["-tls1_3", "-connect", &server.address()?])
            .arg("-cert")
            .arg(&certificate)
            .arg("-key")
            .arg(&key);
        let ended = stage.run("s_client", LIMIT, &mut command)?;
        let updates = ended.text().matches("KEYUPDATE").count();
        ensure!(ended.status.code() == Some(1), "{:?}", ended.status);
        ensure!((1..500).contains(&updates), "{updates} updates");
        Ok(())
    })
}

fn random_bytes_on_every_port(stage: &Stage) -> anyhow::Result<()> {
    under_attack(stage, |server| {
        let mut noise = Noise(0x2545_f491_4f6c_dd1d);
        for port in [server.port()?, server.metrics_port()?] {
            for _ in 0..50 {
                let length = 1 + noise.next() % 4_000;
                answer(port, &noise.bytes(length))?;
            }
        }
        // A TLS record header and a client hello that never ends.
        for length in [0_u64, 1, 4, 5, 40, 200] {
            let mut hello = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
            hello.extend(noise.bytes(length));
            answer(server.port()?, &hello)?;
        }
        answer(
            server.metrics_port()?,
            &[b"GET /", &[b'x'; 100_000][..]].concat(),
        )?;
        let huge = format!(
            "GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n",
            "y".repeat(100_000)
        );
        answer(server.metrics_port()?, huge.as_bytes())?;
        datagrams(server.port()?, &mut noise)
    })
}

/// Random datagrams, and such as look like the start of RTP, RTCP and input.
fn datagrams(port: u16, noise: &mut Noise) -> anyhow::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    for round in 0..3_000_u64 {
        let length = noise.next() % 1_500;
        let mut datagram = noise.bytes(length);
        let header: &[u8] = match round % 4 {
            0 => &[],
            1 => &[0x80, 96],
            2 => &[0x90, 97, 0, 1],
            _ => &[0x81, 201, 0, 7],
        };
        for (to, from) in datagram.iter_mut().zip(header) {
            *to = *from;
        }
        // A full socket is as good as a lost datagram.
        let _ = socket.send_to(&datagram, ("127.0.0.1", port));
    }
    Ok(())
}

/// Sends bytes and reads until the server closes; it may close at any moment.
fn answer(port: u16, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut answer = Vec::new();
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut answer);
    Ok(answer)
}

/// Inside TLS, with a key that nobody knows: requests too large, and frames on the pairing path.
const REQUESTS: &str = r#"
import asyncio, os, socket, ssl, sys, websockets
port, certificate, key = sys.argv[1:4]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
context.load_cert_chain(certificate, key)
def request(data):
    try:
        with socket.create_connection(("127.0.0.1", int(port)), timeout=3) as plain:
            with context.wrap_socket(plain) as tls:
                tls.sendall(data)
                return tls.recv(100)
    except OSError as error:
        return type(error).__name__
start = b"GET /control HTTP/1.1\r\nHost: x\r\n"
for data in [start + b"X: " + b"y" * 200000 + b"\r\n\r\n", start + b"X: y\r\n" * 5000 + b"\r\n",
             b"\0" * 5000, os.urandom(5000), b"GET " + b"/" * 100000,
             b"POST /pair HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n"]:
    answer = request(data)
    print("request", answer)
async def frames():
    for message in ["x" * 5000000, os.urandom(70000), "", "{}", "[" * 60000, '{"type":"hello"}', b"\0" * 300]:
        try:
            async with websockets.connect(f"wss://127.0.0.1:{port}/pair", ssl=context,
                                          subprotocols=["soft-kvm.v1"], max_size=None) as socket:
                await socket.send(message)
                print("frame", (await asyncio.wait_for(socket.recv(), 3))[:80])
        except Exception as error:
            print("frame", type(error).__name__)
asyncio.run(frames())
print("done")
"#;

fn oversized_requests_and_frames(stage: &Stage) -> anyhow::Result<()> {
    under_attack(stage, |server| {
        let (certificate, key) = stranger(stage)?;
        let mut command = Command::new(python("websockets").context("asked for before")?);
        command
            .args(["-c", REQUESTS, &server.port()?.to_string()])
            .args([certificate, key]);
        let told = stage
            .run("requests", LIMIT, &mut command)?
            .success()?
            .stdout;
        ensure!(told.contains("done"), "{told}");
        ensure!(
            !told.contains("HTTP/1.1 101") && !told.contains("HTTP/1.1 200"),
            "{told}"
        );
        Ok(())
    })
}

/// Every attack at once, from hosts of their own: who watches goes on watching and typing, another paired client still gets in,
/// the strangers are counted and the server holds no more connections than it said.
fn floods_shut_out_nobody_else(stage: &Stage) -> anyhow::Result<()> {
    under_attack(stage, |server| {
        let (port, stop) = (server.port()?, AtomicBool::new(false));
        let descriptors = || -> anyhow::Result<usize> {
            let folder = format!("/proc/{}/fd", server.process.id());
            Ok(std::fs::read_dir(folder)?.count())
        };
        let before = descriptors()?;
        let refused = |reason: &str| -> anyhow::Result<bool> {
            let none = format!(r#"soft_kvm_connections_refused_total{{reason="{reason}"}} 0"#);
            Ok(!server.metrics()?.contains(&none))
        };
        let most = std::thread::scope(|scope| {
            let start = |attack: Attack| {
                let stop = &stop;
                scope.spawn(move || attack.run(port, u64::MAX, stop));
            };
            let outcome = || -> anyhow::Result<usize> {
                start(Attack::Datagrams);
                start(Attack::Handshakes);
                until("an unknown key is refused", LIMIT, || refused("unpaired"))?;
                // From here on strangers hold every place that they can get.
                start(Attack::HalfOpen);
                start(Attack::Connects);
                until("no place is left", LIMIT, || refused("full"))?;
                until("a host comes too often", LIMIT, || refused("rate"))?;
                let most = descriptors()?;
                let second = stage.file("second.json");
                let mut command = server.watch(stage, 1, &[])?;
                command.arg("--stats-json").arg(&second);
                stage.run("second", LIMIT, &mut command)?.success()?;
                let decoded = number(&json(&second)?, "/frames/decoded")?;
                ensure!(
                    decoded > 5.0,
                    "the second client decoded {decoded} pictures"
                );
                Ok(most.max(descriptors()?))
            };
            let outcome = outcome();
            stop.store(true, Ordering::Relaxed);
            outcome
        })?;
        // 64 unfinished connections, and what the second client and its encoder need.
        ensure!(
            most < before + 64 + 40,
            "{before} descriptors became {most}"
        );
        let lines = server.process.stderr().matches("connection closed").count();
        ensure!(lines < 20, "{lines} lines of refused connections");
        Ok(())
    })
}

/// A server that has just started knows no operator's address yet, and strangers have every place that they can get.
fn the_first_connection_gets_in_during_a_flood(stage: &Stage) -> anyhow::Result<()> {
    let server = Server::start(stage, TESTCARD)?;
    server.pair(stage)?;
    server.process.interrupt()?.success()?;
    let server = Server::start(stage, TESTCARD)?;
    let (port, stop) = (server.port()?, AtomicBool::new(false));
    let full = r#"soft_kvm_connections_refused_total{reason="full"} 0"#;
    std::thread::scope(|scope| {
        scope.spawn(|| Attack::HalfOpen.run(port, u64::MAX, &stop));
        scope.spawn(|| Attack::Connects.run(port, u64::MAX, &stop));
        let outcome = until("no place is left", LIMIT, || {
            Ok(!server.metrics()?.contains(full))
        })
        .and_then(|()| {
            // It does not try again.
            stage.run("client", LIMIT, &mut server.watch(stage, 1, &[])?)
        });
        stop.store(true, Ordering::Relaxed);
        outcome?.success()?;
        Ok(())
    })
}
