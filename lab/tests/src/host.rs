//! The side on this machine: lists the tests, boots kernels, collects results.

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::{LabTest, guest, platform};

/// The entry of the test binary: the harness on the host, `--guest NAME MACHINE` inside the kernel.
#[must_use]
pub fn main(tests: &'static [LabTest]) -> ExitCode {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some("--guest") {
        let name = words.next().unwrap_or_default();
        let machine = words
            .next()
            .and_then(|number| number.parse().ok())
            .unwrap_or(0);
        return run_inside(tests, &name, machine);
    }
    let mut arguments = Arguments::from_args();
    // Each kernel keeps a processor busy and most tests look at times.
    arguments.test_threads.get_or_insert(1);
    let missing = missing();
    let mut trials: Vec<Trial> = tests
        .iter()
        .map(|test| trial(*test, missing.clone()))
        .collect();
    match platform::tests() {
        Ok(found) => trials.extend(found.into_iter().map(|test| {
            let missing = missing.clone();
            skippable(test.name(), missing, move || test.run())
        })),
        Err(error) => trials.push(Trial::test("platform", move || {
            Err(Failed::from(format!("{error:#}")))
        })),
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Boots a kernel and runs a command in it; gives the command's status and output.
#[derive(Debug)]
pub(crate) struct Boot<'a> {
    pub(crate) modules: &'a [&'a str],
    pub(crate) udev: bool,
    pub(crate) systemd: bool,
    pub(crate) timeout: Duration,
    /// A folder that the guest may write.
    pub(crate) shared: Option<&'a Path>,
    /// Kernel arguments, for the wire.
    pub(crate) kernel: Option<String>,
    /// Counted from the last processor.
    pub(crate) processor: usize,
}

impl Boot<'_> {
    pub(crate) fn run(&self, command: &[OsString]) -> anyhow::Result<Output> {
        let mut run = Command::new(lab_folder().join("run.sh"));
        run.arg("-t").arg(self.timeout.as_secs().to_string());
        run.arg("-s").arg(format!(
            "{}:{}:{}:{}:{}",
            profile_folder()?.display(),
            beside("lab-modules")?.display(),
            va_folder()?.display(),
            beside("lab-package")?.display(),
            lab_folder().display()
        ));
        if !self.modules.is_empty() {
            run.arg("-M").arg(self.modules.join(","));
        }
        if self.udev {
            run.arg("-u");
        }
        if self.systemd {
            run.arg("-d");
        }
        if let Some(shared) = self.shared {
            run.arg("-w").arg(shared);
        }
        if let Some(kernel) = &self.kernel {
            run.arg("-k").arg(kernel);
        }
        let processors = thread::available_parallelism().map_or(1, usize::from);
        run.arg("-p")
            .arg((processors - 1 - self.processor % processors).to_string());
        run.arg("--").args(command);
        run.output().context("starting lab/run.sh")
    }
}

/// What a guest printed, for the report of a failed test.
pub(crate) fn report(output: &Output) -> String {
    let mut text = format!(
        "exit status inside: {}\n",
        output.status.code().unwrap_or(-1)
    );
    for stream in [&output.stdout, &output.stderr] {
        for line in String::from_utf8_lossy(stream).lines() {
            text.push_str("  | ");
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// The folder of this build profile's programs, e.g. `target/debug`, from the place of this binary.
pub(crate) fn profile_folder() -> anyhow::Result<PathBuf> {
    let binary = std::env::current_exe().context("asking for this binary's path")?;
    let folder = binary.parent().and_then(Path::parent);
    Ok(folder
        .context("this binary lies in no target folder")?
        .to_owned())
}

/// A folder beside the profiles' folders: `lab-modules` with the lab's own modules, `lab-package` with our packages.
fn beside(name: &str) -> anyhow::Result<PathBuf> {
    let profile = profile_folder()?;
    let target = profile.parent().context("the target folder")?;
    Ok(target.join(name))
}

/// Where `lab/va-virtual/build.sh` puts the virtual VA driver.
fn va_folder() -> anyhow::Result<PathBuf> {
    beside("lab-va")
}

/// The name by which libva knows it.
const VA_DRIVER: &str = "softkvm_virtual";

/// The variables that make libva load it, and name the file of its faults.
fn va_variables() -> anyhow::Result<[OsString; 3]> {
    let mut path = OsString::from("LIBVA_DRIVERS_PATH=");
    path.push(va_folder()?);
    // A server that has locked itself in reads only where drivers may lie: the faults count as such a place.
    path.push(":");
    path.push(
        Path::new(guest::VA_FAULTS)
            .parent()
            .unwrap_or(Path::new("/")),
    );
    Ok([
        path,
        format!("LIBVA_DRIVER_NAME={VA_DRIVER}").into(),
        format!("SOFT_KVM_VIRTUAL_VA={}", guest::VA_FAULTS).into(),
    ])
}

/// Why tests that need it cannot run, if so.
fn va_missing() -> Option<String> {
    let file = format!("{VA_DRIVER}_drv_video.so");
    let built = va_folder().is_ok_and(|folder| folder.join(file).is_file());
    let why = "the lab's virtual VA driver is not built: run 'cargo xtask lab setup'";
    (!built).then(|| why.to_owned())
}

/// The file of one of the lab's own modules.
pub(crate) fn own_module(name: &str) -> anyhow::Result<PathBuf> {
    Ok(beside("lab-modules")?.join(format!("{name}.ko")))
}

/// The file of one of our packages for the lab.
pub(crate) fn own_package(name: &str) -> anyhow::Result<PathBuf> {
    Ok(beside("lab-package")?.join(format!("{name}.deb")))
}

/// Why tests under systemd cannot run, if so.
fn without_systemd() -> Option<String> {
    let programs = ["systemctl", "udevadm", "journalctl", "dbus-daemon", "dpkg"];
    if let Some(absent) = programs.iter().find(|program| !installed(program)) {
        return Some(format!(
            "{absent} missing: run 'cargo xtask setup --for test'"
        ));
    }
    let made = own_package("new").is_ok_and(|file| file.is_file());
    (!made).then(|| "our packages are not made: run 'cargo xtask lab test'".to_owned())
}

/// Why tests that need these modules of our own cannot run, if so.
fn unbuilt(modules: &[&str]) -> Option<String> {
    let built = |name: &&&str| own_module(name).is_ok_and(|file| file.is_file());
    let name = modules.iter().find(|name| !built(name))?;
    Some(format!(
        "the lab's kernel module {name} is not built: run 'cargo xtask lab setup'"
    ))
}

/// A trial that counts as ignored when the lab cannot run here.
fn skippable(
    name: String,
    missing: Option<String>,
    run: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
) -> Trial {
    Trial::ignorable_test(name, move || match missing {
        Some(reason) => Ok(Completion::ignored_with(reason)),
        None => match run() {
            Ok(()) => Ok(Completion::Completed),
            Err(error) => Err(Failed::from(format!("{error:#}"))),
        },
    })
}

fn trial(test: LabTest, missing: Option<String>) -> Trial {
    let missing = missing.or_else(|| {
        let absent: Vec<&str> = test
            .programs
            .iter()
            .copied()
            .filter(|program| !installed(program))
            .collect();
        (!absent.is_empty()).then(|| {
            format!(
                "{} missing: run 'cargo xtask setup --for test'",
                absent.join(", ")
            )
        })
    });
    let missing = missing.or_else(|| unbuilt(test.own_modules));
    let missing = missing.or_else(|| test.va_driver.then(va_missing).flatten());
    let missing = missing.or_else(|| test.systemd.then(without_systemd).flatten());
    skippable(test.name.to_owned(), missing, move || boot_all(test))
}

/// Boots the kernels of a test side by side; all of them have to succeed.
fn boot_all(test: LabTest) -> anyhow::Result<()> {
    let binary = std::env::current_exe()?;
    let shared = tempfile::tempdir_in("/var/tmp")?;
    let ports = (free_port()?, free_port()?);
    let mut start: Vec<OsString> = Vec::new();
    if test.va_driver {
        start.push("env".into());
        start.extend(va_variables()?);
    }
    let outputs = thread::scope(|scope| {
        let kernels: Vec<_> = (0..test.machines.len())
            .map(|machine| {
                let mut command = start.clone();
                command.extend([
                    binary.clone().into(),
                    "--guest".into(),
                    test.name.into(),
                    machine.to_string().into(),
                ]);
                let joined = test.machines.len() > 1;
                let boot = Boot {
                    modules: test.modules,
                    udev: test.udev,
                    systemd: test.systemd,
                    timeout: test.timeout + measuring(),
                    shared: joined.then_some(shared.path()),
                    kernel: joined.then(|| wire(machine, ports)),
                    processor: machine,
                };
                scope.spawn(move || boot.run(&command))
            })
            .collect();
        kernels
            .into_iter()
            .map(|kernel| {
                kernel
                    .join()
                    .unwrap_or_else(|_| bail!("the booting thread panicked"))
            })
            .collect::<Vec<_>>()
    });
    let mut failed = false;
    let (mut text, mut told) = (String::new(), String::new());
    for (machine, output) in outputs.into_iter().enumerate() {
        let output = output?;
        told.push_str(&String::from_utf8_lossy(&output.stdout));
        failed |= !output.status.success();
        text.push_str(&format!("kernel {machine}: {}", report(&output)));
    }
    if failed {
        bail!("{text}");
    }
    if !told.is_empty() {
        // Measurements; the harness's own lines go to standard output, too.
        let _ = write!(std::io::stdout(), "\n{told}");
    }
    Ok(())
}

/// More time for a measuring test that was asked for more events, at 1000 in a second and several times over.
fn measuring() -> Duration {
    let events = std::env::var("SOFT_KVM_LAB_EVENTS").ok();
    let events = events.and_then(|text| text.parse::<u64>().ok());
    Duration::from_millis(events.unwrap_or(0) * 4)
}

/// The kernel argument for one end of the wire: Ethernet frames in L2TPv3 over UDP on loopback.
fn wire(machine: usize, (first, second): (u16, u16)) -> String {
    let (here, there, own, other) = if machine == 0 {
        (first, second, 1, 2)
    } else {
        (second, first, 2, 1)
    };
    format!(
        "vec0:transport=l2tpv3,udp=1,src=127.0.0.1,dst=127.0.0.1,srcport={here},dstport={there},tx_session=0x{own},rx_session=0x{other}"
    )
}

fn free_port() -> anyhow::Result<u16> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn run_inside(tests: &[LabTest], name: &str, machine: usize) -> ExitCode {
    let Some(test) = tests.iter().find(|test| test.name == name) else {
        guest::log(format!("no test is called {name}"));
        return ExitCode::FAILURE;
    };
    let Some(run) = test.machines.get(machine) else {
        guest::log(format!("{name} has no machine {machine}"));
        return ExitCode::FAILURE;
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            guest::log(format!("{error:?}"));
            ExitCode::FAILURE
        }
    }
}

/// Why the lab cannot run on this machine, if so.
fn missing() -> Option<String> {
    if std::env::consts::ARCH != "x86_64" {
        return Some(format!(
            "the lab's kernel runs on x86_64, not on {}",
            std::env::consts::ARCH
        ));
    }
    let kernel = std::env::var_os("SOFT_KVM_LAB_KERNEL").map_or_else(
        || {
            let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
                || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"),
                PathBuf::from,
            );
            cache.join("soft-kvm-lab/out")
        },
        PathBuf::from,
    );
    if !kernel.join("linux").is_file() {
        return Some(format!(
            "no lab kernel in {}: run 'cargo xtask lab setup'",
            kernel.display()
        ));
    }
    let absent: Vec<&str> = ["ip", "modprobe", "timeout"]
        .into_iter()
        .filter(|program| !installed(program))
        .collect();
    if !absent.is_empty() {
        return Some(format!(
            "{} missing: run 'cargo xtask setup --for lab'",
            absent.join(", ")
        ));
    }
    memory_missing()
}

/// The guest's memory is a file in `/dev/shm`, mapped executable.
fn memory_missing() -> Option<String> {
    const NEEDED_KIB: u64 = 1 << 20;
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let options = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        (words.next() == Some("/dev/shm")).then(|| words.nth(1).unwrap_or_default())
    });
    match options {
        None => return Some("no tmpfs on /dev/shm for the guest's memory".to_owned()),
        Some(options) if options.split(',').any(|option| option == "noexec") => {
            return Some(
                "/dev/shm is mounted noexec: the guest's memory has to be executable".to_owned(),
            );
        }
        Some(_) => {}
    }
    let output = Command::new("df")
        .args(["-k", "--output=avail", "/dev/shm"])
        .output()
        .ok()?;
    let free: u64 = String::from_utf8_lossy(&output.stdout)
        .lines()
        .nth(1)?
        .trim()
        .parse()
        .ok()?;
    (free < NEEDED_KIB).then(|| format!("/dev/shm has {free} KiB free, a guest needs {NEEDED_KIB}"))
}

/// Whether a program is on the path, or in one of the folders of the administrator.
fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder: PathBuf| folder.join(program).is_file())
}

fn lab_folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
