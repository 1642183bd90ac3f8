//! `soft-kvm-server` and `soft-kvm-client` on the hosts of a test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use soft_kvm_lab_tests::guest::{self, Namespace, Process};

/// How long a program may take to start, to answer or to end: user-mode kernels start them slowly.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// The server's port in every test.
pub(crate) const PORT: u16 = 7755;

/// Where a program runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Host<'a> {
    /// On the kernel itself.
    Kernel,
    /// In a namespace, which is another host to the network and the same one to devices.
    Namespace(&'a Namespace),
}

impl Host<'_> {
    fn command(self, program: &str) -> anyhow::Result<Command> {
        let path = guest::program(program)?;
        let mut command = match self {
            Self::Kernel => Command::new(path),
            Self::Namespace(namespace) => namespace.command(path),
        };
        command.env("RUST_LOG", "info");
        Ok(command)
    }
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    /// The program.
    pub(crate) process: Process,
    ready: Value,
    state: PathBuf,
    stats: PathBuf,
}

impl Server {
    /// Starts it with more `arguments` and waits until it listens.
    pub(crate) fn start(host: Host<'_>, arguments: &[&str]) -> anyhow::Result<Self> {
        Self::start_named("server", host, arguments)
    }

    /// One of several servers.
    pub(crate) fn start_named(
        name: &str,
        host: Host<'_>,
        arguments: &[&str],
    ) -> anyhow::Result<Self> {
        let folder = guest::folder(name)?;
        let (ready, stats) = (folder.join("ready.json"), folder.join("stats.json"));
        let state = folder.join("state");
        if arguments.contains(&"--user") {
            // It writes there when it is that user.
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            std::fs::set_permissions(&folder, open)?;
        }
        // A ready file of a server before is not this one's.
        let _ = std::fs::remove_file(&ready);
        let mut process = Process::start(
            name,
            host.command("soft-kvm-server")?
                .args(["--metrics-port", "0", "--port"])
                .arg(PORT.to_string())
                .arg("--state-dir")
                .arg(&state)
                .arg("--ready-file")
                .arg(&ready)
                .arg("--stats-json")
                .arg(&stats)
                .args(arguments),
        )?;
        let waited = guest::wait_for("the server", SOON, || {
            (ready.exists() || process.has_ended()).then_some(())
        });
        ensure!(
            waited.is_ok() && ready.exists(),
            "the server does not serve:\n{}",
            process.output()
        );
        Ok(Self {
            ready: read_json(&ready)?,
            process,
            state,
            stats,
        })
    }

    /// The pairing code that it shows.
    pub(crate) fn code(&self) -> anyhow::Result<&str> {
        let code = self.ready.get("pairing_code").and_then(Value::as_str);
        code.context("the server shows no pairing code")
    }

    /// A value of its ready file.
    pub(crate) fn ready(&self, key: &str) -> Option<&Value> {
        self.ready.get(key)
    }

    /// Opens another pairing window, as `soft-kvm-server pair` on `host` does, and gives its code.
    pub(crate) fn new_code(&self, host: Host<'_>) -> anyhow::Result<String> {
        let told = guest::run(
            host.command("soft-kvm-server")?
                .args(["pair", "--state-dir"])
                .arg(&self.state),
        )?;
        let code = told.split_whitespace().last().unwrap_or_default();
        ensure!(code.len() == 6, "no code in {told:?}");
        Ok(code.to_owned())
    }

    /// `soft-kvm-server clients WORDS…` on its console.
    pub(crate) fn clients(&self, host: Host<'_>, words: &[&str]) -> anyhow::Result<String> {
        let mut command = host.command("soft-kvm-server")?;
        command.arg("clients").args(words);
        guest::run(command.arg("--state-dir").arg(&self.state))
    }

    /// The name that it has for itself.
    pub(crate) fn name(&self) -> anyhow::Result<&str> {
        let name = self.ready.get("name").and_then(Value::as_str);
        name.context("the server has no name")
    }

    /// Its page for Prometheus, as a program on its host reads it.
    pub(crate) fn metrics(&self) -> anyhow::Result<String> {
        let port = self.ready.get("metrics_port").and_then(Value::as_u64);
        let port = port.context("the server has no page")?;
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{port}; \
             printf 'GET /metrics HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3"
        );
        let id = self.process.id().to_string();
        guest::run(Command::new("nsenter").args(["-t", &id, "-n", "bash", "-c", &script]))
    }

    /// Ends it as `systemctl stop` does, and gives its figures.
    pub(crate) fn stop(mut self) -> anyhow::Result<Value> {
        self.process.send_signal("TERM")?;
        self.process.succeed(SOON)?;
        read_json(&self.stats)
    }
}

/// A client's state, and the host that it runs on.
#[derive(Debug)]
pub(crate) struct Seat<'a> {
    host: Host<'a>,
    folder: PathBuf,
}

impl<'a> Seat<'a> {
    pub(crate) fn new(host: Host<'a>) -> anyhow::Result<Self> {
        Self::named("client", host)
    }

    /// One of several clients.
    pub(crate) fn named(name: &str, host: Host<'a>) -> anyhow::Result<Self> {
        let folder = guest::folder(name)?;
        Ok(Self { host, folder })
    }

    /// The path of a result.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A subcommand to its end; gives what it printed.
    pub(crate) fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = self.host.command("soft-kvm-client")?;
        guest::run(
            command
                .args(arguments)
                .env("SOFT_KVM_CLIENT_STATE", self.state()),
        )
    }

    /// A subcommand that goes on while the test does something else.
    pub(crate) fn start(&self, name: &str, arguments: &[&str]) -> anyhow::Result<Process> {
        let mut command = self.host.command("soft-kvm-client")?;
        Process::start(
            name,
            command
                .args(arguments)
                .env("SOFT_KVM_CLIENT_STATE", self.state()),
        )
    }

    /// Pairs with a server by its code.
    pub(crate) fn pair(&self, server: &str, code: &str) -> anyhow::Result<()> {
        self.run(&["pair", server, "--code", code]).map(drop)
    }

    /// Connects without a view; ends by itself when the arguments say so, or by [`Client::stop`].
    pub(crate) fn connect(&self, server: &str, arguments: &[&str]) -> anyhow::Result<Client> {
        self.view("none", server, arguments)
    }

    /// The same with a view.
    pub(crate) fn view(
        &self,
        view: &str,
        server: &str,
        arguments: &[&str],
    ) -> anyhow::Result<Client> {
        self.client(view, server, arguments, &[])
    }

    /// The same with more environment variables.
    pub(crate) fn connect_as(
        &self,
        server: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> anyhow::Result<Client> {
        self.client("none", server, arguments, variables)
    }

    /// Connects with a window, on the display that the variables name.
    pub(crate) fn window(
        &self,
        server: &str,
        variables: &[(&str, &str)],
    ) -> anyhow::Result<Client> {
        self.client("window", server, &[], variables)
    }

    fn client(
        &self,
        view: &str,
        server: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> anyhow::Result<Client> {
        let stats = self.file("stats.json");
        let name = self.folder.file_name().unwrap_or_default();
        let process = Process::start(
            &name.to_string_lossy(),
            self.host
                .command("soft-kvm-client")?
                .args(["--view", view, "--server", server, "--state-dir"])
                .arg(self.state())
                .arg("--stats-json")
                .arg(&stats)
                .args(arguments)
                .envs(variables.iter().copied()),
        )?;
        Ok(Client { process, stats })
    }

    fn state(&self) -> PathBuf {
        self.folder.join("state")
    }
}

/// A connected client.
#[derive(Debug)]
pub(crate) struct Client {
    /// The program.
    pub(crate) process: Process,
    stats: PathBuf,
}

impl Client {
    /// Waits for its end by itself and gives its figures.
    pub(crate) fn finish(mut self) -> anyhow::Result<Value> {
        self.process.succeed(2 * SOON)?;
        read_json(&self.stats)
    }

    /// Ends it as Ctrl-C does, and gives its figures.
    pub(crate) fn stop(self) -> anyhow::Result<Value> {
        self.process.send_signal("INT")?;
        self.finish()
    }
}

/// Makes a library of the system as good as missing until the kernel ends.
pub(crate) fn hide_library(name: &str) -> anyhow::Result<()> {
    let folders = std::fs::read_dir("/usr/lib")?.flatten();
    let libraries: Vec<_> = folders
        .map(|folder| folder.path().join(name))
        .filter(|path| path.exists())
        .collect();
    ensure!(!libraries.is_empty(), "{name} is not installed");
    for library in libraries {
        let mut mount = Command::new("mount");
        guest::run(mount.args(["--bind", "/dev/null"]).arg(library))?;
    }
    Ok(())
}

/// What `soft-kvm-server devices` lists on the kernel itself.
pub(crate) fn devices() -> anyhow::Result<Value> {
    let mut command = Host::Kernel.command("soft-kvm-server")?;
    let text = guest::run(command.args(["devices", "--json"]))?;
    serde_json::from_str(&text).with_context(|| text)
}

/// Two hosts on one kernel with a cable between them: the server's at 10.1.0.1, the client's at 10.1.0.2.
pub(crate) fn two_hosts() -> anyhow::Result<(Namespace, Namespace)> {
    let (target, seat) = (Namespace::new("target")?, Namespace::new("seat")?);
    Namespace::cable((&target, "10.1.0.1/24"), (&seat, "10.1.0.2/24"))?;
    Ok((target, seat))
}

/// The server's address with [`two_hosts`].
pub(crate) const TARGET: &str = "10.1.0.1:7755";

/// The number at a path such as `/frames/decoded`.
pub(crate) fn number(stats: &Value, path: &str) -> anyhow::Result<u64> {
    let value = stats.pointer(path).and_then(Value::as_u64);
    value.with_context(|| format!("no number {path} in {stats}"))
}

fn read_json(path: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))
}
