//! `doctor` of both programs on this very machine: what is really broken is found, and its own command mends it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use soft_kvm_tests::process::until;
use soft_kvm_tests::programs::{binary, client_command, wrapped};
use soft_kvm_tests::{Need, Process, Server, Stage, TESTCARD, Test};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "doctor::both_programs_report_in_both_languages",
        needs: &[],
        run: both_programs_report_in_both_languages,
    },
    Test {
        name: "doctor::what_it_finds_its_commands_mend",
        needs: &[],
        run: what_it_finds_its_commands_mend,
    },
    Test {
        name: "doctor::a_firewall_that_drops_is_opened_by_its_command",
        needs: &[
            Need::Namespaces,
            Need::Program("nft"),
            Need::Program("iptables"),
            Need::Program("nsenter"),
        ],
        run: a_firewall_that_drops_is_opened_by_its_command,
    },
    Test {
        name: "doctor::a_broken_network_is_found_and_mended",
        needs: &[
            Need::Namespaces,
            Need::Program("ip"),
            Need::Program("nsenter"),
        ],
        run: a_broken_network_is_found_and_mended,
    },
    Test {
        name: "doctor::the_way_to_a_server",
        needs: &[],
        run: the_way_to_a_server,
    },
];

const LIMIT: Duration = Duration::from_secs(30);

/// What every report has a line about.
const SERVER_CHECKS: &[&str] = &[
    "story",
    "source",
    "encoder",
    "uinput",
    "groups",
    "capabilities",
    "realtime",
    "modules",
    "state",
    "disk",
    "landlock",
    "seccomp",
    "broker",
    "ports",
    "multicast",
    "firewall",
    "wifi",
    "buffers",
    "clock",
];
const CLIENT_CHECKS: &[&str] = &[
    "devices",
    "groups",
    "display",
    "realtime",
    "state",
    "disk",
    "multicast",
    "firewall",
    "wifi",
    "buffers",
    "clock",
];

/// A report of `doctor --json`.
struct Report(Value);

impl Report {
    fn ask(stage: &Stage, command: &mut Command) -> anyhow::Result<Self> {
        let ended = stage.run("doctor", LIMIT, command.arg("--json"))?;
        let report: Value = serde_json::from_str(&ended.stdout).context(ended.text())?;
        let wrong = report["state"] == "wrong";
        ensure!(
            ended.status.code() == Some(i32::from(wrong)),
            "{}",
            ended.status
        );
        Ok(Self(report))
    }

    fn findings(&self) -> anyhow::Result<&Vec<Value>> {
        self.0["findings"].as_array().context("no findings")
    }

    /// State and command of the first finding of a check that is not well, or of its first one.
    fn of(&self, check: &str) -> anyhow::Result<(&str, Option<&str>)> {
        let findings = self.findings()?.iter();
        let worst = findings
            .filter(|one| one["check"] == check)
            .max_by_key(|one| {
                ["ok", "not_checkable", "warning", "wrong"]
                    .iter()
                    .position(|state| one["state"] == *state)
            });
        let worst = worst.with_context(|| format!("nothing about {check}: {}", self.0))?;
        let state = worst["state"].as_str().context("a state")?;
        Ok((state, worst["mend"].as_str()))
    }

    /// The command for what is wrong.
    fn mend(&self, check: &str) -> anyhow::Result<&str> {
        let (state, mend) = self.of(check)?;
        ensure!(state == "wrong", "{check} is {state}: {}", self.0);
        mend.with_context(|| format!("no command for {check}: {}", self.0))
    }

    fn is_ok(&self, check: &str) -> anyhow::Result<()> {
        let (state, _) = self.of(check)?;
        ensure!(state == "ok", "{check} is {state}: {}", self.0);
        Ok(())
    }
}

fn doctor(stage: &Stage, program: &str, state: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(binary(program)?);
    command
        .arg("doctor")
        .arg("--state-dir")
        .arg(stage.file(state));
    Ok(command)
}

fn server_doctor(stage: &Stage, state: &str, port: u16) -> anyhow::Result<Command> {
    let mut command = doctor(stage, "soft-kvm-server", state)?;
    command.args(["--port", &port.to_string(), "--metrics-port", "0"]);
    Ok(command)
}

/// Does what the report says, as a person would paste it.
fn paste(stage: &Stage, command: &str) -> anyhow::Result<()> {
    stage
        .run("mend", LIMIT, Command::new("sh").args(["-c", command]))?
        .success()?;
    Ok(())
}

fn both_programs_report_in_both_languages(stage: &Stage) -> anyhow::Result<()> {
    for (program, checks) in [
        ("soft-kvm-server", SERVER_CHECKS),
        ("soft-kvm-client", CLIENT_CHECKS),
    ] {
        let report = Report::ask(stage, &mut doctor(stage, program, "none")?)?;
        let keys = |value: &Value| -> Vec<String> {
            value
                .as_object()
                .into_iter()
                .flat_map(|object| object.keys().cloned())
                .collect()
        };
        ensure!(report.0["program"] == program, "{}", report.0);
        ensure!(
            keys(&report.0) == ["findings", "program", "state", "version"],
            "{}",
            report.0
        );
        for finding in report.findings()? {
            ensure!(
                keys(finding) == ["check", "mend", "message", "state"],
                "{finding}"
            );
            ensure!(
                finding["message"]
                    .as_str()
                    .is_some_and(|text| !text.is_empty()),
                "{finding}"
            );
        }
        for check in checks {
            report.of(check)?;
        }
        ensure!(!stage.file("none").exists(), "a look makes no folder");
        // The same for people, in their language.
        let command = doctor(stage, program, "none")?;
        for (locale, word) in [("C.UTF-8", "mend"), ("ja_JP.UTF-8", "直せます")] {
            let mut command = wrapped(&["env", &format!("LC_ALL={locale}")], &command);
            let text = stage.run("doctor-text", LIMIT, &mut command)?.text();
            for word in checks.iter().chain([&word]) {
                ensure!(
                    text.contains(word),
                    "{locale}: nothing about {word}:\n{text}"
                );
            }
        }
    }
    Ok(())
}

fn what_it_finds_its_commands_mend(stage: &Stage) -> anyhow::Result<()> {
    let mut server = Server::start(stage, TESTCARD)?;
    let port = server.port()?;
    // The server's own folder: it runs, all is well.
    Report::ask(stage, &mut server_doctor(stage, "server", port)?)?.is_ok("ports")?;
    // Another folder: its server could not have the port.
    let report = Report::ask(stage, &mut server_doctor(stage, "other", port)?)?;
    let command = report.mend("ports")?;
    ensure!(
        command == format!("kill {}", server.process.id()),
        "{command}"
    );
    paste(stage, command)?;
    until("the server has ended", LIMIT, || {
        Ok(!server.process.is_running()?)
    })?;
    Report::ask(stage, &mut server_doctor(stage, "other", port)?)?.is_ok("ports")?;

    // With such a folder, or such a key, the program does not start.
    let key = server.state.join("identity.pem");
    for (path, broken) in [(&server.state, 0o777), (&key, 0o644)] {
        fs::set_permissions(path, Permissions::from_mode(broken))?;
        let mut command = soft_kvm_tests::programs::server_command(stage, "server")?;
        stage
            .run("server", LIMIT, command.args(["--seconds", "1"]))?
            .refuses(&["mode"])?;
        let report = Report::ask(stage, &mut server_doctor(stage, "server", 0)?)?;
        paste(stage, report.mend("state")?)?;
        Report::ask(stage, &mut server_doctor(stage, "server", 0)?)?.is_ok("state")?;
    }
    let story = stage.write(
        "broken.jsonnet",
        "(import 'default.jsonnet') + { video+: { bitrate: 1 } }",
    )?;
    let mut command = server_doctor(stage, "server", 0)?;
    let report = Report::ask(stage, command.arg("--story").arg(story))?;
    ensure!(report.of("story")?.0 == "wrong", "{}", report.0);
    Ok(())
}

fn the_way_to_a_server(stage: &Stage) -> anyhow::Result<()> {
    let server = Server::start(stage, TESTCARD)?;
    let address = server.address()?;
    let ask = || {
        Report::ask(
            stage,
            doctor(stage, "soft-kvm-client", "client")?.args(["--server", &address]),
        )
    };
    let report = ask()?;
    report.is_ok("server")?;
    // The command asks for the code, and needs the test's folder.
    ensure!(
        report.mend("pairing")? == format!("soft-kvm-client pair {address}"),
        "{}",
        report.0
    );
    let mut pair = client_command(stage, "client", &["pair", &address])?;
    stage
        .run(
            "pair",
            LIMIT,
            pair.args(["--code", server.text("pairing_code")?]),
        )?
        .success()?;
    ask()?.is_ok("pairing")?;
    server.process.interrupt()?;
    let report = ask()?;
    ensure!(report.of("server")?.0 == "wrong", "{}", report.0);
    report.is_ok("pairing")
}

/// A network of its own, whose firewall and interfaces are nobody else's.
struct Network {
    holder: Process,
}

impl Network {
    fn new(stage: &Stage) -> anyhow::Result<Self> {
        let mut command = Command::new("unshare");
        // It lasts as long as the process.
        command.args(["--net", "--mount", "sh", "-ec"]);
        command.arg("mount -t sysfs sysfs /sys; echo made >&2; exec sleep 600");
        let holder = stage.start("network", &mut command)?;
        holder.says("made", LIMIT)?;
        Ok(Self { holder })
    }

    fn inside(&self, command: &Command) -> Command {
        let of = |kind: &str| {
            format!(
                "--{kind}=/proc/{}/ns/{}",
                self.holder.id(),
                kind.replace("mount", "mnt")
            )
        };
        wrapped(&["nsenter", &of("net"), &of("mount")], command)
    }

    /// A shell's line inside.
    fn paste(&self, stage: &Stage, line: &str) -> anyhow::Result<()> {
        let mut shell = Command::new("sh");
        // Firewall tools are not in every path.
        shell.args(["-ec", &format!("PATH=$PATH:/usr/sbin:/sbin; {line}")]);
        stage
            .run("inside", LIMIT, &mut self.inside(&shell))?
            .success()?;
        Ok(())
    }

    fn doctor(&self, stage: &Stage) -> anyhow::Result<Report> {
        let command = server_doctor(stage, "server", 7755)?;
        Report::ask(stage, &mut self.inside(&command))
    }

    /// Does what the report says about a check until nothing is wrong with it.
    fn mend_all(&self, stage: &Stage, check: &str) -> anyhow::Result<Vec<String>> {
        let mut commands = Vec::new();
        while self.doctor(stage)?.of(check)?.0 == "wrong" {
            ensure!(commands.len() < 10, "does not get well: {commands:?}");
            let command = self.doctor(stage)?.mend(check)?.to_owned();
            self.paste(stage, &command)?;
            commands.push(command);
        }
        Ok(commands)
    }
}

/// Rules as people write them; each drops the server's ports, and mDNS.
const FIREWALLS: &[(&str, &str)] = &[
    (
        "nft",
        "nft -f - <<END
table inet filter {
    set open { type inet_service; flags interval; elements = { 22, 8000-9000 } }
    chain input {
        type filter hook input priority 0; policy drop;
        ct state vmap { established : accept, related : accept, invalid : drop }
        iifname lo accept
        meta l4proto { icmp, ipv6-icmp } accept
        tcp dport @open accept
        udp dport 7755 limit rate 5/second log prefix \"x\"
    }
}
END",
    ),
    (
        "nft reject",
        "nft add table ip raw; nft add chain ip raw pre '{ type filter hook prerouting priority -300; }'; nft add rule ip raw pre udp dport '{ 7755, 5353 }' drop; nft add rule ip raw pre tcp dport 7000-7999 drop",
    ),
    (
        "iptables",
        "for t in iptables ip6tables; do $t -P INPUT DROP; $t -A INPUT -i lo -j ACCEPT; $t -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; $t -N user; $t -A INPUT -j user; $t -A user -p udp -m multiport --dports 53,99:101 -j ACCEPT; $t -A user -p tcp --dport 22 -m comment --comment 'it is -j' -j ACCEPT; done",
    ),
];

fn a_firewall_that_drops_is_opened_by_its_command(stage: &Stage) -> anyhow::Result<()> {
    for (name, rules) in FIREWALLS {
        let network = Network::new(stage)?;
        network.doctor(stage)?.is_ok("firewall").context(*name)?;
        network.paste(stage, rules)?;
        let commands = network.mend_all(stage, "firewall").context(*name)?;
        for words in [("tcp", "7755"), ("udp", "7755"), ("udp", "5353")] {
            let opened = |one: &String| one.contains(words.0) && one.contains(words.1);
            ensure!(commands.iter().any(opened), "{name}: {commands:?}");
        }
        network.doctor(stage)?.is_ok("firewall").context(*name)?;
    }
    Ok(())
}

fn a_broken_network_is_found_and_mended(stage: &Stage) -> anyhow::Result<()> {
    let network = Network::new(stage)?;
    ensure!(
        network.doctor(stage)?.of("multicast")? == ("wrong", None),
        "only loopback"
    );
    network.paste(
        stage,
        "ip link add v0 type veth peer name v1; ip link set v1 up; ip link set v0 multicast off",
    )?;
    let commands = network.mend_all(stage, "multicast")?;
    let wanted = ["ip link set v0 up", "ip link set dev v0 multicast on"];
    ensure!(commands == wanted, "{commands:?}");
    network.doctor(stage)?.is_ok("multicast")
}
