//! What goes wrong on one's own machine: ports in use, a full disk, a second server; nobody there, no such device.

use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use soft_kvm_tests::programs::{binary, client_command, server_command};
use soft_kvm_tests::{Ended, Need, Server, Stage, TESTCARD, Test};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "faults::a_port_in_use_is_an_error",
        needs: &[],
        run: a_port_in_use_is_an_error,
    },
    Test {
        name: "faults::one_server_for_each_state_folder",
        needs: &[],
        run: one_server_for_each_state_folder,
    },
    Test {
        name: "faults::a_state_folder_that_cannot_be_made_is_an_error",
        needs: &[],
        run: a_state_folder_that_cannot_be_made_is_an_error,
    },
    Test {
        name: "faults::a_client_says_what_it_waits_for",
        needs: &[],
        run: a_client_says_what_it_waits_for,
    },
    Test {
        name: "faults::a_full_disk_keeps_the_old_pins",
        needs: &[Need::Root, Need::Namespaces, Need::Program("mount")],
        run: a_full_disk_keeps_the_old_pins,
    },
];

const LIMIT: Duration = Duration::from_secs(15);

fn a_port_in_use_is_an_error(stage: &Stage) -> anyhow::Result<()> {
    let start = |port: u16| -> anyhow::Result<Ended> {
        let mut command = Command::new(binary("soft-kvm-server")?);
        command.args([
            "--no-discovery",
            "--metrics-port",
            "0",
            "--listen",
            "127.0.0.1",
        ]);
        command.args(["--port", &port.to_string()]).args(TESTCARD);
        command.arg("--state-dir").arg(stage.file("server"));
        stage.run("server", LIMIT, &mut command)
    };
    let tcp = TcpListener::bind("127.0.0.1:0")?;
    let port = tcp.local_addr()?.port();
    start(port)?.refuses(&["TCP", &port.to_string(), "in use", "--port"])?;
    let udp = UdpSocket::bind("127.0.0.1:0")?;
    let port = udp.local_addr()?.port();
    start(port)?.refuses(&["UDP", &port.to_string(), "in use", "--port"])?;
    // Metrics are not the main job: the server starts without.
    let port = tcp.local_addr()?.port().to_string();
    let mut command = Command::new(binary("soft-kvm-server")?);
    command.args(["--no-discovery", "--port", "0", "--listen", "127.0.0.1"]);
    command
        .args(["--metrics-port", &port, "--seconds", "1"])
        .args(TESTCARD);
    command.arg("--state-dir").arg(stage.file("server"));
    let ended = stage.run("server", LIMIT, &mut command)?.success()?;
    ensure!(ended.stderr.contains("no metrics"), "{}", ended.stderr);
    Ok(())
}

fn one_server_for_each_state_folder(stage: &Stage) -> anyhow::Result<()> {
    let mut server = Server::start(stage, TESTCARD)?;
    let mut command = server_command(stage, "server")?;
    command.args(["--no-discovery"]).args(TESTCARD);
    stage
        .run("second", LIMIT, &mut command)?
        .refuses(&["another soft-kvm-server", &server.state.to_string_lossy()])?;
    ensure!(server.process.is_running()?, "the first one ended");
    server.pair(stage)
}

fn a_state_folder_that_cannot_be_made_is_an_error(stage: &Stage) -> anyhow::Result<()> {
    let file = stage.write("file", "")?;
    let mut command = Command::new(binary("soft-kvm-server")?);
    command
        .arg("--state-dir")
        .arg(file.join("state"))
        .args(["--port", "0"]);
    stage
        .run("server", LIMIT, &mut command)?
        .refuses(&["file/state"])?;
    Ok(())
}

fn a_client_says_what_it_waits_for(stage: &Stage) -> anyhow::Result<()> {
    let server = Server::start(stage, TESTCARD)?;
    server.pair(stage)?;
    let address = server.address()?;
    drop(server);
    let run = |address: &str, words: &[&str]| -> anyhow::Result<Ended> {
        let fixed = ["--server", address, "--view", "none", "--seconds", "1"];
        let mut command = client_command(stage, "client", &[&fixed, words].concat())?;
        stage.run("client", LIMIT, &mut command)
    };
    // Whoever counts on the time being measured has to hear that nothing was.
    let ended = run(&address, &["--grab", "No Such Keyboard"])?
        .refuses(&["no soft-kvm-server answers", "before a server was reached"])?;
    let missing = ended.stderr.matches("named No Such Keyboard").count();
    ensure!(missing == 1, "{}", ended.stderr);
    run(" ", &[])?.refuses(&["name or address is empty"])?;
    Ok(())
}

/// A small file system in memory, unmounted at the end.
struct Disk<'a>(&'a Path);

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

fn a_full_disk_keeps_the_old_pins(stage: &Stage) -> anyhow::Result<()> {
    let folder = stage.file("server");
    std::fs::create_dir(&folder)?;
    let mut mount = Command::new("mount");
    mount
        .args(["-t", "tmpfs", "-o", "size=64k,mode=0700", "none"])
        .arg(&folder);
    stage.run("mount", LIMIT, &mut mount)?.success()?;
    let _disk = Disk(&folder);
    let server = Server::start(stage, &[TESTCARD, &["--pair"]].concat())?;
    server.pair(stage)?;
    let mut ask = Command::new(binary("soft-kvm-server")?);
    ask.args(["pair", "--state-dir"]).arg(&folder);
    let asked = stage.run("pair", LIMIT, &mut ask)?.success()?;
    let code: String = asked.stdout.chars().filter(char::is_ascii_digit).collect();
    // Filled to the last byte; the error at the end is the point.
    let _ = std::fs::write(folder.join("filler"), vec![0; 128 << 10]);
    let words = ["pair", &server.address()?, "--code", &code];
    let mut second = client_command(stage, "second", &words)?;
    stage
        .run("second-pair", LIMIT, &mut second)?
        .refuses(&["store"])?;
    let log = server.process.stderr();
    ensure!(log.contains("no space left"), "{log}");
    // The first client is still known.
    stage
        .run("client", LIMIT, &mut server.watch(stage, 2, &[])?)?
        .success()?;
    Ok(())
}
