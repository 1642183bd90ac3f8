//! LAN only: a client on the link is served, one behind a router gets no byte back.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use soft_kvm_lab_tests::guest::{self, Namespace};

use crate::kvm::{self, Client, Host, PORT, SOON, Seat, Server, TARGET};

const SOURCE: &[&str] = &[
    "--no-discovery",
    "--source",
    "testcard",
    "--size",
    "320x240",
];

/// Three hosts in a row, over IPv4 and IPv6: the target, a router, and a host behind it.
struct Network {
    target: Namespace,
    router: Namespace,
    far: Namespace,
}

impl Network {
    fn new() -> anyhow::Result<Self> {
        let [target, router, far] = ["target", "router", "far"].map(Namespace::new);
        let (target, router, far) = (target?, router?, far?);
        Namespace::cable((&target, "10.1.0.1/24"), (&router, "10.1.0.2/24"))?;
        Namespace::cable((&router, "10.2.0.2/24"), (&far, "10.2.0.1/24"))?;
        let ip = |host: &Namespace, words: &str| {
            guest::run(host.command("ip").args(words.split(' '))).map(drop)
        };
        // nodad: an address is of use at once.
        ip(&target, "address add fd01::1/64 dev router nodad")?;
        ip(&router, "address add fd01::2/64 dev target nodad")?;
        ip(&router, "address add fd02::2/64 dev far nodad")?;
        ip(&far, "address add fd02::1/64 dev router nodad")?;
        ip(&target, "route add 10.2.0.0/24 via 10.1.0.2")?;
        ip(&far, "route add 10.1.0.0/24 via 10.2.0.2")?;
        ip(&target, "-6 route add fd02::/64 via fd01::2")?;
        ip(&far, "-6 route add fd01::/64 via fd02::2")?;
        for forward in [
            "/proc/sys/net/ipv4/ip_forward",
            "/proc/sys/net/ipv6/conf/all/forwarding",
        ] {
            let write = format!("echo 1 > {forward}");
            guest::run(router.command("sh").args(["-c", &write]))?;
        }
        Ok(Self {
            target,
            router,
            far,
        })
    }
}

/// A figure of `/proc/net/snmp`, such as `Tcp InSegs`: what the kernel of this host has seen.
fn seen(host: &Namespace, protocol: &str, name: &str) -> anyhow::Result<u64> {
    let text = guest::run(host.command("cat").arg(Path::new("/proc/net/snmp")))?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(protocol));
    let (names, values) = (lines.next(), lines.next());
    let (names, values) = names.zip(values).context("no such protocol")?;
    let pairs = names.split_whitespace().zip(values.split_whitespace());
    let (_, value) = pairs
        .into_iter()
        .find(|(key, _)| *key == name)
        .context("no such figure")?;
    Ok(value.parse()?)
}

/// On the link over IPv4, IPv6 and link-local; behind the router over IPv4 and IPv6; the same with `allow_routed`, until it is
/// taken back.
pub(crate) fn only() -> anyhow::Result<()> {
    let network = Network::new()?;
    let host = Host::Namespace(&network.target);
    let server = Server::start(host, SOURCE)?;
    let link_local = {
        let words = [
            "-6", "-o", "address", "show", "dev", "router", "scope", "link",
        ];
        let text = guest::run(network.target.command("ip").args(words))?;
        let address = text
            .split_whitespace()
            .find_map(|word| word.strip_suffix("/64"));
        format!(
            "[{}%target]:{PORT}",
            address.context("no link-local address")?
        )
    };
    let near = Seat::named("near", Host::Namespace(&network.router))?;
    near.pair(&format!("10.1.0.1:{PORT}"), server.code()?)?;
    for (name, address) in [("v6", format!("[fd01::1]:{PORT}")), ("local", link_local)] {
        let seat = Seat::named(name, Host::Namespace(&network.router))?;
        seat.pair(&address, &server.new_code(host)?)
            .context(address)?;
    }
    let far = Seat::named("far", Host::Namespace(&network.far))?;
    let before = seen(&network.far, "Tcp:", "InSegs")?;
    let code = server.new_code(host)?;
    for address in [format!("10.1.0.1:{PORT}"), format!("[fd01::1]:{PORT}")] {
        let refused = far.pair(&address, &code);
        ensure!(
            refused.is_err(),
            "{address} answered a host behind a router"
        );
    }
    let answers = seen(&network.far, "Tcp:", "InSegs")? - before;
    ensure!(
        answers == 0,
        "{answers} segments came back through the router"
    );
    server.stop()?;

    let story = guest::folder("story")?.join("story.jsonnet");
    let allow_routed = |allow: bool| {
        let text =
            format!("(import 'default.jsonnet') + {{ control+: {{ allow_routed: {allow} }} }}");
        std::fs::write(&story, text).context("writing the story")
    };
    allow_routed(true)?;
    let words = ["--story", &story.to_string_lossy()];
    let server = Server::start(host, &[SOURCE, &words].concat())?;
    let code = server.new_code(host)?;
    far.pair(&format!("10.1.0.1:{PORT}"), &code)
        .context("the route itself does not work")?;
    let answers = seen(&network.far, "Tcp:", "InSegs")? - before;
    ensure!(answers > 0, "the figure does not count");

    let address = format!("10.1.0.1:{PORT}");
    let clients = [near.connect(&address, &[])?, far.connect(&address, &[])?];
    let connected = |client: &Client| client.process.output().matches("connected").count();
    for client in &clients {
        guest::wait_for("a connection", SOON, || {
            (connected(client) > 0).then_some(())
        })
        .with_context(|| server.process.output())?;
    }
    allow_routed(false)?;
    guest::wait_for("the end of both sessions", SOON, || {
        let output = server.process.output();
        (output.matches("session: disconnected").count() == 2).then_some(())
    })
    .with_context(|| server.process.output())?;
    let [on_link, behind] = clients;
    guest::wait_for("the client on the link", SOON, || {
        let output = server.process.output();
        (output.matches("session: connected").count() == 3).then_some(())
    })
    .with_context(|| server.process.output())?;
    on_link.stop()?;
    behind.stop()?;
    // What was on its way.
    std::thread::sleep(Duration::from_secs(1));
    let before = seen(&network.far, "Tcp:", "InSegs")?;
    let code = server.new_code(host)?;
    ensure!(far.pair(&address, &code).is_err(), "it came back");
    let more = seen(&network.far, "Tcp:", "InSegs")? - before;
    ensure!(
        more == 0,
        "{more} segments came back when it was taken back"
    );
    server.stop()?;
    guest::tell(format!(
        "3 addresses on the link answer; behind a router 0 segments come back, {answers} with allow_routed"
    ));
    Ok(())
}

/// The addresses alone decide: a host on the same cable, which every TTL reaches, with an address of a network that the server
/// is not in. It gets in while the server has an address of that network.
pub(crate) fn links() -> anyhow::Result<()> {
    let (target, near) = kvm::two_hosts()?;
    let ip = |host: &Namespace, words: &str| {
        guest::run(host.command("ip").args(words.split(' '))).map(drop)
    };
    ip(&near, "address add 10.2.0.1/24 dev target")?;
    ip(&near, "route replace 10.1.0.0/24 dev target src 10.2.0.1")?;
    ip(&target, "route replace 10.2.0.0/24 dev seat")?;
    let host = Host::Namespace(&target);
    let mut server = Server::start(host, SOURCE)?;
    let seat = Seat::new(Host::Namespace(&near))?;
    let refused = |server: &Server| -> anyhow::Result<u64> {
        let page = server.metrics()?;
        let figure = "soft_kvm_connections_refused_total{reason=\"routed\"} ";
        let value = page.lines().find_map(|line| line.strip_prefix(figure));
        Ok(value.context("no such figure")?.trim().parse()?)
    };
    ensure!(seat.pair(TARGET, server.code()?).is_err(), "it is let in");
    server
        .process
        .wait_line("10.2.0.1 is not on this machine's links", SOON)?;
    let before = refused(&server)?;
    ensure!(before > 0, "not counted");
    ip(&target, "address add 10.2.0.9/24 dev seat")?;
    seat.pair(TARGET, &server.new_code(host)?)
        .context("on the link since a moment")?;
    ensure!(refused(&server)? == before, "refused on the link");
    ip(&target, "address del 10.2.0.9/24 dev seat")?;
    ip(&target, "route replace 10.2.0.0/24 dev seat")?;
    let again = Seat::named("again", Host::Namespace(&near))?;
    let code = server.new_code(host)?;
    ensure!(again.pair(TARGET, &code).is_err(), "let in off the link");
    ensure!(refused(&server)? > before, "not refused off the link");
    server.stop()?;
    Ok(())
}

/// At public addresses nothing listens for a host on the same cable; with `allow_routed` it does, until that is taken back. Addresses
/// that come while the server runs are treated alike.
pub(crate) fn public() -> anyhow::Result<()> {
    let (target, near) = kvm::two_hosts()?;
    let private = [
        "172.31.0.1/24",
        "192.168.7.1/24",
        "169.254.7.1/24",
        "fd07::1/64",
    ];
    let public = [
        "203.0.113.1/24",
        "172.32.0.1/24",
        "100.64.0.1/24",
        "2001:db8::1/64",
    ];
    let add = |address: &str| -> anyhow::Result<()> {
        // The other host has the next one; nodad: it is of use at once.
        let next = address.replace("1/", "2/");
        for (host, device, address) in [(&target, "seat", address), (&near, "target", &next)] {
            let mut command = host.command("ip");
            command.args(["address", "add", address, "dev", device]);
            if address.contains(':') {
                command.arg("nodad");
            }
            guest::run(&mut command)?;
        }
        Ok(())
    };
    for address in private.iter().chain(&public) {
        add(address)?;
    }
    let story = guest::folder("story")?.join("story.jsonnet");
    let write = |routed: bool| {
        let text =
            format!("(import 'default.jsonnet') + {{ control+: {{ allow_routed: {routed} }} }}");
        std::fs::write(&story, text)
    };
    write(false)?;
    let host = Host::Namespace(&target);
    let story_path = story.to_string_lossy();
    let mut server = Server::start(host, &[SOURCE, &["--story", &story_path]].concat())?;
    server
        .process
        .wait_line("nobody is answered at 203.0.113.1", SOON)?;
    // A TLS server answers what is no TLS with an alert.
    let answers = |address: &str| -> anyhow::Result<bool> {
        let (address, _) = address.split_once('/').context("no prefix")?;
        let script = format!("exec 3<>/dev/tcp/{address}/{PORT} && echo hello >&3 && cat <&3");
        let mut command = near.command("timeout");
        let told = command.args(["2", "bash", "-c", &script]).output()?;
        let refused = String::from_utf8_lossy(&told.stderr).contains("Connection refused");
        ensure!(
            refused == told.stdout.is_empty(),
            "{address}: let in, and sent away: {told:?}"
        );
        Ok(!refused)
    };
    for address in private {
        ensure!(answers(address)?, "no answer at {address}");
    }
    for address in public {
        ensure!(!answers(address)?, "it listens at {address}");
    }
    for address in ["192.168.8.1/24", "203.0.114.1/24"] {
        add(address)?;
    }
    guest::wait_for("an answer at an address that has come", SOON, || {
        answers("192.168.8.1/24").ok()?.then_some(())
    })?;
    server
        .process
        .wait_line("nobody is answered at 203.0.114.1", SOON)?;
    ensure!(
        !answers("203.0.114.1/24")?,
        "it listens at a public address that has come"
    );
    for (round, routed) in [(1, true), (2, false)] {
        write(routed)?;
        server.process.send_signal("HUP")?;
        guest::wait_for("the reload", SOON, || {
            let done = server.process.output().matches("reload: done").count();
            (done == round).then_some(())
        })?;
        for address in public {
            ensure!(answers(address)? == routed, "{address}: not {routed}");
        }
        ensure!(answers(private[0])?, "no answer at {}", private[0]);
    }
    let told = server.process.output();
    let told = told.matches("nobody is answered at 203.0.113.1").count();
    ensure!(
        told == 2,
        "told {told} times that nobody listens, not at the start and the end"
    );
    server.stop()?;
    guest::tell(format!(
        "nothing listens at {} public addresses, an answer at {} private ones",
        public.len() + 1,
        private.len() + 1
    ));
    Ok(())
}

/// mDNS tells no public address, and neither speaks nor listens on an interface that has no other; with `allow_routed` it does, until
/// that is taken back.
pub(crate) fn announced() -> anyhow::Result<()> {
    const PUBLIC: &str = "203.0.113.1";
    let (target, near) = kvm::two_hosts()?;
    for words in [
        format!("address add {PUBLIC}/24 dev seat"),
        "link add wan type veth peer name beyond".to_owned(),
        "address add 198.51.100.1/24 dev wan".to_owned(),
        "link set wan up".to_owned(),
        "link set beyond up".to_owned(),
    ] {
        guest::run(target.command("ip").args(words.split(' ')))?;
    }
    let story = guest::folder("story")?.join("story.jsonnet");
    let write = |routed: bool| {
        let change =
            format!("control+: {{ allow_routed: {routed} }}, capture+: {{ driver: 'testcard' }}");
        let text = format!("(import 'default.jsonnet') + {{ {change} }}");
        std::fs::write(&story, text).context("writing the story")
    };
    write(false)?;
    let story_path = story.to_string_lossy();
    let server = Server::start(Host::Namespace(&target), &["--story", &story_path])?;
    let seat = Seat::new(Host::Namespace(&near))?;
    let rounds = [false, true, false];
    for routed in rounds {
        write(routed)?;
        guest::wait_for("the announcement", SOON, || {
            let told = seat.run(&["discover", "--json", "--seconds", "2"]).ok()?;
            let private = told.contains(TARGET);
            (private && told.contains(PUBLIC) == routed).then_some(())
        })
        .with_context(|| format!("{routed}: {}", server.process.output()))?;
        guest::wait_for("the interfaces", SOON, || {
            (listens_to_mdns(&target).ok()? == (true, routed)).then_some(())
        })
        .with_context(|| format!("{routed}: {:?}", listens_to_mdns(&target)))?;
    }
    server.stop()?;
    guest::tell(format!(
        "{PUBLIC} was announced with allow_routed only, in {} rounds; so was the interface with nothing else",
        rounds.len()
    ));
    Ok(())
}

/// Whether the host has joined the group of mDNS over IPv4 at its private and at its public interface.
fn listens_to_mdns(host: &Namespace) -> anyhow::Result<(bool, bool)> {
    // 224.0.0.251, as the kernel prints it.
    const GROUP: &str = "FB0000E0";
    let groups = guest::run(host.command("cat").arg("/proc/net/igmp"))?;
    let mut joined = (false, false);
    let mut interface = "";
    for line in groups.lines() {
        if !line.starts_with('\t') {
            interface = line.split_whitespace().nth(1).unwrap_or_default();
        } else if line.contains(GROUP) {
            joined.0 |= interface == "seat";
            joined.1 |= interface == "wan";
        }
    }
    Ok(joined)
}

/// Whether `host` can read the server's page for Prometheus.
fn scrapes(host: &Namespace, server: &Server) -> anyhow::Result<bool> {
    let port = server.ready("metrics_port").and_then(Value::as_u64);
    let port = port.context("the server has no page")?;
    let script = format!(
        "exec 3<>/dev/tcp/10.1.0.1/{port} && \
         printf 'GET /metrics HTTP/1.1\\r\\nHost: 10.1.0.1\\r\\nConnection: close\\r\\n\\r\\n' >&3 && cat <&3"
    );
    let told = host.command("bash").args(["-c", &script]).output()?;
    Ok(String::from_utf8_lossy(&told.stdout).contains("soft_kvm_"))
}

/// The story's lists: a client that is denied while it is connected is cut off and gets in no more, one that is not among the
/// allowed ones likewise; it comes back when it may.
pub(crate) fn lists() -> anyhow::Result<()> {
    let (target, near) = kvm::two_hosts()?;
    let story = guest::folder("story")?.join("story.jsonnet");
    let tell = |lists: &str| {
        let text = format!(
            "(import 'default.jsonnet') + {{ control+: {{ {lists} }}, metrics+: {{ address: '::' }} }}"
        );
        std::fs::write(&story, text).context("writing the story")
    };
    tell("")?;
    let words = ["--story", &story.to_string_lossy()];
    let server = Server::start(Host::Namespace(&target), &[SOURCE, &words].concat())?;
    let seat = Seat::new(Host::Namespace(&near))?;
    seat.pair(TARGET, server.code()?)?;
    for (lists, reason) in [
        ("deny: ['10.1.0.2']", "10.1.0.2 is denied by the story"),
        (
            "allow: ['10.1.0.3']",
            "10.1.0.2 is not among what the story allows",
        ),
    ] {
        let before = server.process.output().matches(reason).count();
        let client = seat.connect(TARGET, &[])?;
        guest::wait_for("a connection", SOON, || {
            client.process.output().contains("connected").then_some(())
        })?;
        tell(lists)?;
        // The session that lives is cut off, and what follows is closed at the door.
        guest::wait_for(reason, SOON, || {
            (server.process.output().matches(reason).count() >= before + 2).then_some(())
        })
        .with_context(|| server.process.output())?;
        ensure!(!scrapes(&near, &server)?, "{lists}: the metrics are read");
        server.metrics().context("its own host reads them")?;
        client.stop().map(drop)?;
        tell("deny: ['10.1.0.3', '192.168.0.0/16'], allow: ['10.1.0.0/24']")?;
        let back = guest::wait_for("a connection again", SOON, || {
            seat.run(&[
                "--server",
                TARGET,
                "--view",
                "none",
                "--once",
                "--seconds",
                "1",
            ])
            .is_ok()
            .then_some(())
        });
        back.with_context(|| server.process.output())?;
        ensure!(scrapes(&near, &server)?, "{lists}: no metrics");
        tell("")?;
    }
    server.stop()?;
    guest::tell("2 lists cut a live session off and kept it out; it came back when they let it");
    Ok(())
}
