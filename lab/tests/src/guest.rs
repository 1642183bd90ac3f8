//! Helpers for the side inside the kernel. Everything runs as root; the machine's own files are read-only,
//! `/tmp`, `/run`, `/mnt` and `/var/lib` are empty and writable, `/dev/shm` too.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

/// Writes a line that the host shows when the test fails.
pub fn log(message: impl AsRef<str>) {
    // Nobody is left to tell when standard error is gone.
    let _ = writeln!(std::io::stderr(), "{}", message.as_ref());
}

/// Writes a line that the host shows also when the test succeeds: a measurement.
pub fn tell(message: impl AsRef<str>) {
    // Nobody is left to tell when standard output is gone.
    let _ = writeln!(std::io::stdout(), "{}", message.as_ref());
}

/// Loads a kernel module with parameters such as `n_devs=1`.
///
/// # Errors
/// `modprobe`'s own words.
pub fn modprobe(module: &str, parameters: &[&str]) -> anyhow::Result<()> {
    let modules = std::env::var("LAB_MODULES").context("LAB_MODULES is not set: not in the lab")?;
    run(Command::new("modprobe")
        .args(["-d", &modules, module])
        .args(parameters))?;
    Ok(())
}

/// Loads one of the lab's own kernel modules with parameters such as `hang_after=10`; what it needs has to be loaded.
///
/// # Errors
/// `insmod`'s own words.
pub fn insmod(module: &str, parameters: &[&str]) -> anyhow::Result<()> {
    let file = crate::host::own_module(module)?;
    run(Command::new("insmod").arg(file).args(parameters)).map(drop)
}

/// Where the virtual VA driver looks for its faults; what it has seen stands in the file beside it.
pub const VA_FAULTS: &str = "/run/virtual-va/faults";

/// Sets the faults of the virtual VA driver, such as `("error_after", 5)`: these and no others.
///
/// # Errors
/// The file cannot be written.
pub fn va_faults(faults: &[(&str, u32)]) -> anyhow::Result<()> {
    let lines: String = faults
        .iter()
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect();
    // At once: the driver may be reading.
    let fresh = format!("{VA_FAULTS}.new");
    fs::create_dir_all(Path::new(VA_FAULTS).parent().unwrap_or(Path::new("/")))?;
    fs::write(&fresh, lines)?;
    fs::rename(&fresh, VA_FAULTS).context(VA_FAULTS)
}

/// What the virtual VA driver has seen of a kind, such as `bitrate`, the newest last.
#[must_use]
pub fn va_seen(name: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("{VA_FAULTS}.seen")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines
        .filter(|(seen, _)| *seen == name)
        .map(|(_, value)| value.to_owned())
        .collect()
}

/// Unloads a kernel module.
///
/// # Errors
/// `rmmod`'s own words.
pub fn rmmod(module: &str) -> anyhow::Result<()> {
    run(Command::new("rmmod").arg(module)).map(drop)
}

/// Takes a device from its driver: its nodes go, with uevents, as if unplugged. `("vivid", "vivid.0")`.
///
/// # Errors
/// The device is not bound to the driver.
pub fn unbind(driver: &str, device: &str) -> anyhow::Result<()> {
    write_driver(driver, device, "unbind")
}

/// Gives a device back to its driver.
///
/// # Errors
/// The driver does not take it.
pub fn bind(driver: &str, device: &str) -> anyhow::Result<()> {
    write_driver(driver, device, "bind")
}

fn write_driver(driver: &str, device: &str, file: &str) -> anyhow::Result<()> {
    let path = format!("/sys/bus/platform/drivers/{driver}/{file}");
    fs::write(&path, device).with_context(|| format!("writing {device} to {path}"))
}

/// Runs a command to its end and gives its standard output.
///
/// # Errors
/// It cannot start or fails; the error holds its standard error.
pub fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

/// Asks every 5 ms until there is an answer.
///
/// # Errors
/// No answer within `limit`; names `what` was waited for.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        if start.elapsed() > limit {
            bail!("waited {} ms for {what} in vain", limit.as_millis());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// The path of one of our programs, built in this test's profile.
///
/// # Errors
/// It has not been built.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let path = crate::host::profile_folder()?.join(name);
    ensure!(
        path.is_file(),
        "{} is not built: run the lab by 'cargo xtask test --tier lab' or build it first",
        path.display()
    );
    Ok(path)
}

/// The path of our Debian package `old` or `new` of this build, where systemd runs.
///
/// # Errors
/// It has not been made.
pub fn package(name: &str) -> anyhow::Result<PathBuf> {
    let path = crate::host::own_package(name)?;
    ensure!(path.is_file(), "{} is not made", path.display());
    Ok(path)
}

/// A fresh writable folder, for state directories and results.
///
/// # Errors
/// The folder cannot be made.
pub fn folder(name: &str) -> anyhow::Result<PathBuf> {
    let path = Path::new("/tmp").join(name);
    fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
    Ok(path)
}

/// The folder that both kernels of a test see and may write.
///
/// # Errors
/// The test has one machine only.
pub fn shared() -> anyhow::Result<PathBuf> {
    match std::env::var("LAB_SHARED") {
        Ok(path) if !path.is_empty() => Ok(path.into()),
        _ => bail!("this test has one kernel only: there is no shared folder"),
    }
}

/// Tells the other kernel that a step is done; see [`await_signal`].
///
/// # Errors
/// The shared folder cannot be written.
pub fn signal(step: &str) -> anyhow::Result<()> {
    fs::write(shared()?.join(step), "").with_context(|| format!("signalling {step}"))
}

/// Waits until the other kernel has called [`signal`].
///
/// # Errors
/// It has not within `limit`.
pub fn await_signal(step: &str, limit: Duration) -> anyhow::Result<()> {
    let path = shared()?.join(step);
    wait_for(&format!("the other kernel's {step}"), limit, || {
        path.exists().then_some(())
    })
}

/// Gives this kernel's end of the wire an address (`10.0.0.1/24`) and brings it up.
///
/// # Errors
/// There is no wire: the test has one machine only.
pub fn wire_up(address: &str) -> anyhow::Result<()> {
    run(Command::new("ip").args(["address", "add", address, "dev", "vec0"]))?;
    run(Command::new("ip").args(["link", "set", "vec0", "up"]))?;
    Ok(())
}

/// A running program: its output is kept, and it is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program with its standard output and error in one log file.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(name: &str, command: &mut Command) -> anyhow::Result<Self> {
        let log = folder("log")?.join(name);
        let file = File::create(&log).with_context(|| format!("making {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {name}: {command:?}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has written so far.
    #[must_use]
    pub fn output(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Whether it runs no more.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for a line that contains `text` and gives the line.
    ///
    /// # Errors
    /// None came within `limit`, or the program ended before; holds its output.
    pub fn wait_line(&mut self, text: &str, limit: Duration) -> anyhow::Result<String> {
        let start = Instant::now();
        loop {
            let ended = self.child.try_wait()?;
            let output = self.output();
            if let Some(line) = output.lines().find(|line| line.contains(text)) {
                return Ok(line.to_owned());
            }
            if let Some(status) = ended {
                bail!(
                    "{} ended ({status}) before it wrote '{text}':\n{output}",
                    self.name
                );
            }
            if start.elapsed() > limit {
                bail!(
                    "{} did not write '{text}' within {} ms:\n{output}",
                    self.name,
                    limit.as_millis()
                );
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It still runs after `limit`; holds its output.
    pub fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let child = &mut self.child;
        let ended = wait_for("the end of a program", limit, || {
            child.try_wait().transpose()
        });
        let ended = ended.with_context(|| format!("{}:\n{}", self.name, self.output()))?;
        Ok(ended?)
    }

    /// Waits for its end, which has to be a success; gives its output.
    ///
    /// # Errors
    /// It failed or still runs; holds its output.
    pub fn succeed(&mut self, limit: Duration) -> anyhow::Result<String> {
        let status = self.wait(limit)?;
        let output = self.output();
        ensure!(status.success(), "{}: {status}\n{output}", self.name);
        Ok(output)
    }

    /// Sends a signal by name: `TERM`, `HUP`, `STOP`.
    ///
    /// # Errors
    /// The program has ended.
    pub fn send_signal(&self, name: &str) -> anyhow::Result<()> {
        let id = self.id().to_string();
        run(Command::new("kill").args(["-s", name, &id])).map(drop)
    }

    /// Kills it at once, as a crash would.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        // Killing fails only for a program that has ended, which is what is wanted.
        let _ = self.child.kill();
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
        if thread::panicking() {
            log(format!("--- {}:\n{}", self.name, self.output()));
        }
    }
}

/// A protocol over IPv4, by its number (IANA "Assigned Internet Protocol Numbers").
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub enum Protocol {
    /// Control channel.
    Tcp = 6,
    /// Video and input.
    Udp = 17,
}

/// A network namespace: another host on the same kernel.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace with its loopback interface up.
    ///
    /// # Errors
    /// The name is taken.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        run(Command::new("ip").args(["netns", "add", name]))?;
        let namespace = Self {
            name: name.to_owned(),
        };
        run(namespace.command("ip").args(["link", "set", "lo", "up"]))?;
        Ok(namespace)
    }

    /// The file that stands for it, for `setns(2)`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// A command that runs inside.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name])
            .arg(program.as_ref());
        command
    }

    /// Joins two namespaces by a cable: an interface called like the other namespace in each, with an
    /// address such as `10.1.0.1/24`.
    ///
    /// # Errors
    /// The kernel's words.
    pub fn cable(
        (left, left_address): (&Self, &str),
        (right, right_address): (&Self, &str),
    ) -> anyhow::Result<()> {
        run(left
            .command("ip")
            .args(["link", "add", &right.name, "type", "veth"])
            .args(["peer", "name", &left.name, "netns", &right.name]))?;
        for (here, there, address) in [(left, right, left_address), (right, left, right_address)] {
            run(here
                .command("ip")
                .args(["address", "add", address, "dev", &there.name]))?;
            run(here.command("ip").args(["link", "set", &there.name, "up"]))?;
        }
        Ok(())
    }

    /// Lets nothing of a protocol over IPv4 out to `other`, or lets it out again; everything else passes.
    ///
    /// # Errors
    /// The kernel's words.
    pub fn block(&self, other: &Self, protocol: Protocol, block: bool) -> anyhow::Result<()> {
        let tc = |words: &str| {
            let words = words.replace("DEVICE", &other.name);
            run(self.command("tc").args(words.split(' '))).map(drop)
        };
        if !block {
            return tc("qdisc del dev DEVICE root");
        }
        tc("qdisc add dev DEVICE root handle 1: prio")?;
        tc("qdisc add dev DEVICE parent 1:3 handle 30: netem loss 100%")?;
        // The first band takes what no filter sends to the third.
        tc(&format!(
            "filter add dev DEVICE parent 1: protocol ip prio 1 u32 match ip protocol {} 0xff flowid 1:3",
            protocol as u8
        ))?;
        tc("filter add dev DEVICE parent 1: protocol all prio 2 u32 match u32 0 0 flowid 1:1")
    }

    /// Makes what this side sends over the cable to `other` bad: `["loss", "2%", "delay", "1ms"]`; no words
    /// make it good again.
    ///
    /// # Errors
    /// The kernel's words.
    pub fn disturb(&self, other: &Self, netem: &[&str]) -> anyhow::Result<()> {
        let device = other.name.as_str();
        if netem.is_empty() {
            run(self
                .command("tc")
                .args(["qdisc", "del", "dev", device, "root"]))?;
        } else {
            run(self
                .command("tc")
                .args(["qdisc", "replace", "dev", device, "root", "netem"])
                .args(netem))?;
        }
        Ok(())
    }
}
