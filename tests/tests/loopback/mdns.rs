//! mDNS against independent peers, in a network namespace of its own.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use soft_kvm_tests::need::python;
use soft_kvm_tests::programs::{server_command, wrapped};
use soft_kvm_tests::{Need, Process, Server, Stage, TESTCARD, Test, until};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "mdns::zeroconf_resolves_the_server_and_hears_its_goodbye",
        needs: &[
            Need::Namespaces,
            Need::Program("ip"),
            Need::Python("zeroconf"),
        ],
        run: zeroconf_resolves_the_server_and_hears_its_goodbye,
    },
    Test {
        name: "mdns::avahi_resolves_the_server",
        needs: &[
            Need::Namespaces,
            Need::Program("ip"),
            Need::Program("avahi-daemon"),
            Need::Program("avahi-browse"),
            Need::Program("dbus-daemon"),
        ],
        run: avahi_resolves_the_server,
    },
];

const LIMIT: Duration = Duration::from_secs(20);

/// A network namespace with two ends of a cable, one in a namespace within it.
struct Network {
    name: String,
    peer: String,
}

impl Network {
    fn new(stage: &Stage) -> anyhow::Result<Self> {
        let id = std::process::id();
        let network = Self {
            name: format!("soft-kvm-a{id}"),
            peer: format!("soft-kvm-b{id}"),
        };
        let (a, b) = (&network.name, &network.peer);
        for words in [
            format!("netns add {a}"),
            format!("netns add {b}"),
            format!("-n {a} link add v0 type veth peer name v0 netns {b}"),
            format!("-n {a} addr add 10.99.0.1/24 dev v0"),
            format!("-n {b} addr add 10.99.0.2/24 dev v0"),
            format!("-n {a} link set lo up"),
            format!("-n {b} link set lo up"),
            format!("-n {a} link set v0 up"),
            format!("-n {b} link set v0 up"),
        ] {
            let mut command = Command::new("ip");
            stage
                .run("ip", LIMIT, command.args(words.split(' ')))?
                .success()?;
        }
        Ok(network)
    }

    fn server(&self, stage: &Stage) -> anyhow::Result<Server> {
        let mut command = server_command(stage, "server")?;
        command.args(TESTCARD);
        let wrapper = ["ip", "netns", "exec", &self.name];
        Server::ready(stage, "server", wrapped(&wrapper, &command))
    }

    fn beside(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.peer, program]);
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in [&self.name, &self.peer] {
            // It may not have been made.
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

const ZEROCONF: &str = r#"
import sys, time
from zeroconf import ServiceBrowser, Zeroconf
class Listener:
    def add_service(self, zeroconf, kind, name):
        info = zeroconf.get_service_info(kind, name)
        if info:
            print("added", name, info.port, info.parsed_addresses(), info.properties, flush=True)
    def update_service(self, zeroconf, kind, name):
        pass
    def remove_service(self, zeroconf, kind, name):
        print("removed", name, flush=True)
zeroconf = Zeroconf(interfaces=["10.99.0.2"])
ServiceBrowser(zeroconf, "_soft-kvm._tcp.local.", Listener())
time.sleep(60)
"#;

fn zeroconf_resolves_the_server_and_hears_its_goodbye(stage: &Stage) -> anyhow::Result<()> {
    let network = Network::new(stage)?;
    let python = python("zeroconf").context("asked for before")?;
    let mut command = network.beside(&python.to_string_lossy());
    let browser = stage.start("zeroconf", command.args(["-c", ZEROCONF]))?;
    let server = network.server(stage)?;
    until("zeroconf has found it", LIMIT, || {
        Ok(browser.stdout().contains("added"))
    })?;
    let line = browser.stdout();
    let name = server.text("name")?;
    let (fingerprint, story) = (server.text("fingerprint")?, server.text("story")?);
    for expected in [name, &format!(" {} ", server.port()?), "10.99.0.1"] {
        ensure!(line.contains(expected), "no {expected} in {line}");
    }
    for whole in [fingerprint, story] {
        let hint = whole.get(..12).unwrap_or(whole);
        ensure!(line.contains(hint), "no {hint} in {line}");
    }
    server.process.interrupt()?.success()?;
    until("zeroconf has heard its goodbye", LIMIT, || {
        Ok(browser.stdout().contains("removed"))
    })
}

/// A bus and an avahi of its own, in the namespace and in folders of the test.
fn avahi(stage: &Stage, network: &Network) -> anyhow::Result<[Process; 2]> {
    let bus = stage.file("bus");
    let policy = "<busconfig><type>system</type><auth>EXTERNAL</auth><listen>unix:path=BUS</listen>\
        <policy context=\"default\"><allow user=\"*\"/><allow own=\"*\"/><allow send_type=\"method_call\"/>\
        <allow send_type=\"signal\"/><allow send_type=\"method_return\"/><allow send_type=\"error\"/>\
        <allow receive_type=\"method_call\"/><allow receive_type=\"signal\"/><allow receive_type=\"method_return\"/>\
        <allow receive_type=\"error\"/></policy></busconfig>";
    let policy = stage.write("bus.conf", &policy.replace("BUS", &bus.to_string_lossy()))?;
    let mut command = network.beside("dbus-daemon");
    command
        .arg("--nofork")
        .arg(format!("--config-file={}", policy.display()));
    let daemon = stage.start("dbus", &mut command)?;
    until("the bus is there", LIMIT, || Ok(bus.exists()))?;
    let configuration = stage.write(
        "avahi.conf",
        "[server]\nhost-name=avahi-test\nuse-ipv6=no\nallow-interfaces=v0\n[publish]\ndisable-publishing=yes\n",
    )?;
    // Its run folder cannot be set: it gets an empty one in a mount namespace.
    let run = stage.file("avahi-run");
    std::fs::create_dir(&run)?;
    let mut command = network.beside("unshare");
    command
        .args(["--mount", "sh", "-c"])
        .arg("mkdir -p /run/avahi-daemon && mount --bind \"$0\" /run/avahi-daemon && exec avahi-daemon \"$@\"")
        .arg(&run)
        .args(["--no-drop-root", "--no-chroot", "--no-rlimits", "--file"])
        .arg(&configuration)
        .env("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={}", bus.display()));
    let avahi = stage.start("avahi", &mut command)?;
    avahi.says("Server startup complete", LIMIT)?;
    Ok([daemon, avahi])
}

fn avahi_resolves_the_server(stage: &Stage) -> anyhow::Result<()> {
    let network = Network::new(stage)?;
    let _daemons = avahi(stage, &network)?;
    let server = network.server(stage)?;
    let bus = format!("unix:path={}", stage.file("bus").display());
    let mut found = String::new();
    until("avahi-browse resolves it", LIMIT, || {
        let mut command = network.beside("avahi-browse");
        command.args(["--resolve", "--parsable", "--terminate", "_soft-kvm._tcp"]);
        command.env("DBUS_SYSTEM_BUS_ADDRESS", &bus);
        found = stage
            .run("avahi-browse", LIMIT, &mut command)?
            .success()?
            .stdout;
        Ok(found.lines().any(|line| line.starts_with('=')))
    })?;
    for expected in [
        server.text("name")?,
        &format!(";{};", server.port()?),
        ";10.99.0.1;",
    ] {
        ensure!(found.contains(expected), "no {expected} in {found}");
    }
    let hint = server.text("story")?.get(..12).context("a long id")?;
    ensure!(found.contains(hint), "no {hint} in {found}");
    Ok(())
}
