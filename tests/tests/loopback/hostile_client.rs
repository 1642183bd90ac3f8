//! A paired client that means harm: what it sends after its hello is refused with a reason, others are served meanwhile, and the
//! server's memory stays bounded.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use soft_kvm_tests::need::python;
use soft_kvm_tests::programs::{json, number};
use soft_kvm_tests::{Need, Server, Stage, TESTCARD, Test};

use crate::roles::pair_as;

pub(crate) const TESTS: &[Test] = &[Test {
    name: "hostile_client::what_it_sends_is_refused_with_a_reason_and_not_kept",
    needs: &[Need::Python("websockets")],
    run: what_it_sends_is_refused_with_a_reason_and_not_kept,
}];

const LIMIT: Duration = Duration::from_secs(120);

/// How far the server's memory at its highest (`VmHWM`) may rise above that with a client that behaves, in KiB. Each flood is longer
/// than that.
const BOUND: u64 = 16 * 1024;

/// Prints a line `CASE: ANSWER` for each thing that it tries.
const HOSTILE_CLIENT: &str = r#"
import asyncio, json, os, random, socket, ssl, struct, sys, websockets
port, identity = sys.argv[1:3]
random.seed(1)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
context.load_cert_chain(identity)

def codes(list):
    return struct.pack(f">H{len(list)}H", len(list), *list)
def device(id, keys=(30,), relative=(), absolute=(), properties=(), name=b"hostile", version=1, kind=16):
    axes = struct.pack(">H", len(absolute)) + b"".join(struct.pack(">H5i", *axis) for axis in absolute)
    head = struct.pack(">BB5HB", version, kind, id, 3, 0, 0, 0, len(name)) + name
    return head + codes(keys) + codes(relative) + axes + codes(()) * 3 + codes(properties) + b"\0"
def axis(code, least, most):
    return (code, least, most, 0, 0, 0)
def removal(id):
    return struct.pack(">BBH", 1, 17, id)
everything = dict(keys=range(768), relative=range(16), properties=range(32),
                  absolute=[axis(code, -2**31, 2**31 - 1) for code in range(0x2f)])

def connect():
    return websockets.connect(f"wss://127.0.0.1:{port}/control", ssl=context, subprotocols=["soft-kvm.v1"],
                              max_size=None, ping_interval=None)
async def reason(socket, kinds=("device", "error"), limit=5):
    while True:
        answer = await asyncio.wait_for(socket.recv(), limit)
        if isinstance(answer, str) and json.loads(answer)["type"] in kinds:
            return answer
async def enter(socket):
    await socket.send('{"type":"hello","version":1,"name":"hostile"}')
    await reason(socket, ("welcome",))

async def one_by_one():
    async with connect() as socket:
        await enter(socket)
        strange = {
            "everything": device(1, **everything),
            "axis": device(2, absolute=[axis(0x7f, 0, 1)]),
            "range": device(2, absolute=[axis(0, 5, -5)]),
            "contacts": device(2, absolute=[axis(0x2f, 0, 2**31 - 1)]),
            "key": device(2, keys=range(2000)),
            "order": device(2, keys=(31, 30)),
            "again": device(1),
            "nameless": device(2, name=b""),
            "name": device(2, name=b"\xff\xfe"),
            "version": device(2, version=9),
            "kind": device(2, kind=99),
            "short": device(2)[:-3],
            "long": device(2) + b"\0" * 60000,
            "empty": b"",
            "datagram": struct.pack(">BBBIQQB", 1, 1, 0xfe, 0, 0, 0, 0),
            "text": "[" * 60000,
            "name in text": '{"type":"hello","version":1,"name":"' + "x" * 60000 + '"',
        }
        for case, message in strange.items():
            await socket.send(message)
            print(f"{case}:", (await reason(socket))[:300])

async def flood(case, messages):
    counts = {}
    async with connect() as socket:
        await enter(socket)
        async def listen():
            while True:
                answer = await socket.recv()
                if isinstance(answer, str):
                    answer = json.loads(answer)
                    words = answer.get("message") or answer.get("result") or answer["type"]
                    words = words if isinstance(words, str) else json.dumps(words)
                    words = "".join(letter for letter in words if not letter.isdigit())
                    counts[words] = counts.get(words, 0) + 1
        listening = asyncio.create_task(listen())
        try:
            for number, message in enumerate(messages):
                await socket.send(message)
                if number % 50 == 0:
                    await asyncio.sleep(0)
            await asyncio.sleep(1)
            end = "open"
        except websockets.ConnectionClosed as error:
            end = str(error)
        listening.cancel()
    print(f"{case}: {end}", json.dumps(counts)[:600])

def plugged():
    for id in range(1, 20001):
        yield device(id, **everything)
        yield removal(id)
def datagrams():
    for number in range(30000):
        body = struct.pack(">BBBIQQB", 1 + number % 2, 1, number % 4, 1, number, number, 12) + random.randbytes(1000)
        yield body

async def too_long(case, message):
    # What was not read yet may reset the connection before the answer is seen.
    ends = set()
    for _ in range(8):
        try:
            async with connect() as socket:
                await enter(socket)
                await socket.send(message() if callable(message) else message)
                end = await reason(socket)
        except websockets.ConnectionClosed as error:
            end = f"closed {error.rcvd.code if error.rcvd else None}"
        except (ConnectionError, asyncio.TimeoutError) as error:
            end = f"lost {type(error).__name__}"
        ends.add(end)
    print(f"{case}:", " ".join(sorted(ends)))

def deaf():
    # Nothing is read: the answers have to wait somewhere, or the client has to go. A blocking socket with a small buffer, as asyncio
    # and the kernel would take in all the answers on its behalf.
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.settimeout(15)
    plain.connect(("127.0.0.1", int(port)))
    tls = context.wrap_socket(plain)
    tls.sendall(b"GET /control HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                b"Sec-WebSocket-Protocol: soft-kvm.v1\r\n\r\n")
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += tls.recv(1)
    def frame(message, opcode):
        length = struct.pack(">BBH", 0x80 | opcode, 0x80 | 126, len(message))
        return length + b"\0\0\0\0" + message
    tls.sendall(frame(b'{"type":"hello","version":1,"name":"deaf"}'.ljust(200), 1))
    record = frame(device(2, version=9, name=b"d" * 79), 2)
    sent, end = 0, "never stopped"
    try:
        for sent in range(400000):
            tls.sendall(record)
    except TimeoutError:
        end = "held back"
    except OSError:
        end = "cut"
    tls.close()
    print(f"deaf: {end} after {sent}")

async def main():
    await one_by_one()
    await flood("devices", (device(id) for id in range(1, 1001)))
    await flood("plugged", plugged())
    await flood("datagrams", datagrams())
    await too_long("long text", '{"type":"ping","t0":0,"x":"' + "x" * 5000000 + '"}')
    await too_long("long record", b"\1\x10" + b"\0" * 5000000)
    # In pieces that are short enough each.
    await too_long("pieces", lambda: (b"\1" * 60000 for _ in range(100)))
    deaf()
    print("done")
asyncio.run(main())
"#;

/// What is in the answer to each.
const REASONS: &[(&str, &str)] = &[
    // A device with everything that there is may be one.
    ("everything: ", r#""Ok""#),
    ("axis: ", "bad absolute axis: 127"),
    ("range: ", "bad range of an axis"),
    ("contacts: ", "bad count of contacts"),
    ("key: ", "bad key code: 768"),
    ("order: ", "bad key code: 30"),
    ("again: ", "announced before"),
    ("nameless: ", "device name"),
    ("name: ", "device name"),
    ("version: ", "version 9"),
    ("kind: ", "kind 99"),
    ("short: ", "ends early"),
    ("long: ", "bytes too many"),
    ("empty: ", "ends early"),
    ("datagram: ", "bad flags"),
    ("text: ", "not understood"),
    ("name in text: ", "not understood"),
    (
        "devices: ",
        r#""{\"Err\": \"more than  input devices\"}": 936"#,
    ),
    ("plugged: ", "reconnect"),
    ("datagrams: ", r#"update the older side": 15000"#),
    ("long text: ", "closed 1009"),
    ("long record: ", "closed 1009"),
    // It is not asked why: what it still sends comes in the way.
    ("pieces: ", ""),
    ("deaf: ", "cut after"),
];

/// The server's memory at its highest so far, in KiB.
fn memory(server: &Server) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.process.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("no VmHWM")?.parse()?)
}

/// A client that behaves: its pictures come, and what it types.
fn behaves(stage: &Stage, server: &Server) -> anyhow::Result<()> {
    let stats = stage.file("behaves.json");
    let mut command = server.watch(stage, 4, &["--probe-input", "20"])?;
    command.arg("--stats-json").arg(&stats);
    stage.run("behaves", LIMIT, &mut command)?.success()?;
    let stats = json(&stats)?;
    let decoded = number(&stats, "/frames/decoded")?;
    ensure!(decoded > 30.0, "only {decoded} pictures came");
    let typed = number(&stats, "/input/to_echo_ms/count")?;
    ensure!(typed > 10.0, "only {typed} of its keys came back");
    Ok(())
}

fn what_it_sends_is_refused_with_a_reason_and_not_kept(stage: &Stage) -> anyhow::Result<()> {
    let server = Server::start(stage, TESTCARD)?;
    server.pair(stage)?;
    pair_as(stage, &server, "hostile", &["--role", "control"])?;
    behaves(stage, &server)?;
    let before = memory(&server)?;

    let stats = stage.file("watching.json");
    let mut command = server.watch(stage, 120, &[])?;
    let watching = stage.start("watching", command.arg("--stats-json").arg(&stats))?;
    watching.says("connected", LIMIT)?;
    let mut command = Command::new(python("websockets").context("asked for before")?);
    command
        .args(["-c", HOSTILE_CLIENT, &server.port()?.to_string()])
        .arg(stage.file("hostile/identity.pem"));
    let told = stage.run("hostile", LIMIT, &mut command)?.success()?.stdout;
    let ended = watching.interrupt()?.success()?;
    ensure!(
        ended.stderr.matches("connected").count() == 1,
        "{}",
        ended.stderr
    );
    let decoded = number(&json(&stats)?, "/frames/decoded")?;
    ensure!(decoded > 60.0, "only {decoded} pictures came meanwhile");
    for (case, reason) in REASONS {
        let line = told.lines().find_map(|line| line.strip_prefix(case));
        let answer = line.with_context(|| format!("no {case} in {told}"))?;
        ensure!(answer.contains(reason), "{case}: no {reason} in {answer:?}");
    }
    ensure!(told.ends_with("done\n"), "{told}");
    let rise = memory(&server)?.saturating_sub(before);
    ensure!(rise < BOUND, "{before} KiB rose by {rise}");

    behaves(stage, &server)?;
    let ended = server.process.interrupt()?.success()?.text();
    ensure!(!ended.contains("panicked"), "{ended}");
    Ok(())
}
