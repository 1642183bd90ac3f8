//! Runs a piece of this program in a child process that can't take much time, memory or output.
//!
//! The parent calls [`run`]; the child, the same executable in another role, calls [`Limits::enter`] before anything else.
//! The kernel then ends it when it takes more than it may, and the parent ends it when it takes too long. What counts is
//! the processor's time, so that a busy machine refuses nothing that a quiet one takes.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;

/// What a confined child may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Address space in bytes, the program's own code included.
    pub memory: u64,
    /// Processor time, starting included.
    pub cpu: Duration,
    /// Time from start to end, for a child that waits: for a file that can't be read, say, or for a processor.
    pub wall: Duration,
    /// Bytes of output.
    pub output: usize,
}

/// Why a confined child gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// It could not be started or watched.
    #[error("can't run {program}: {source}")]
    Run {
        /// The executable.
        program: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It took too much processor time.
    #[error("took more than {} ms of processor time", .0.as_millis())]
    Cpu(Duration),
    /// It had not ended after so long, and had taken less processor time than it may.
    #[error("did not end within {} s", .0.as_secs_f32())]
    Wall(Duration),
    /// It wrote too much.
    #[error("wrote more than {0} bytes")]
    Output(usize),
    /// It ran into a limit or failed by itself.
    #[error("ended with {status} (memory is limited to {} MiB)", memory / (1024 * 1024))]
    Ended {
        /// Its exit code, or the signal that ended it, in words.
        status: std::process::ExitStatus,
        /// The memory limit in bytes.
        memory: u64,
    },
}

impl Limits {
    /// Puts the calling process under these limits, for good. It can write no file, leave no core dump, and dies with
    /// its parent.
    ///
    /// # Errors
    ///
    /// The kernel refuses a limit, e.g. because a lower one is in force that may not be raised.
    pub fn enter(&self) -> io::Result<()> {
        // The parent watches the clocks; this is for when the parent itself is stopped or killed.
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        prctl::set_no_new_privs()?;
        // The kernel takes whole seconds.
        let cpu_seconds = self.cpu.as_secs() + u64::from(self.cpu.subsec_nanos() > 0);
        for (resource, limit) in [
            (Resource::RLIMIT_AS, self.memory),
            (Resource::RLIMIT_CPU, cpu_seconds),
            (Resource::RLIMIT_FSIZE, 0),
            (Resource::RLIMIT_CORE, 0),
            (Resource::RLIMIT_NPROC, 0),
        ] {
            setrlimit(resource, limit, limit)?;
        }
        Ok(())
    }
}

/// The running executable, also after it was replaced on disk by an update.
#[must_use]
pub fn own_executable() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

/// Runs `program` with `argument` and the environment variable `role=1` as its whole environment, and returns what it
/// wrote to its standard output. Its standard input is empty and its standard error is dropped.
///
/// # Errors
///
/// The child could not be started, took too much time, wrote too much, or did not end with success. It is gone and
/// reaped in each case.
pub fn run(
    program: &Path,
    role: &str,
    argument: &OsStr,
    limits: &Limits,
) -> Result<Vec<u8>, ConfineError> {
    let failed = |source: io::Error| ConfineError::Run {
        program: program.to_owned(),
        source,
    };
    let started = Instant::now();
    let child = Command::new(program)
        .arg(argument)
        .env_clear()
        .env(role, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let mut child = Reaper(child);
    let watch = Watch {
        started,
        cpu: cpu_clock(&child.0).map_err(|error| failed(error.into()))?,
        limits,
    };
    let output = read_until(&mut child.0, &watch).map_err(|error| match error {
        ReadError::Io(source) => failed(source),
        ReadError::Confined(error) => error,
    })?;
    // The output has ended, so the child is about to.
    let status = loop {
        if let Some(status) = child.0.try_wait().map_err(failed)? {
            break status;
        }
        watch.left()?;
        std::thread::sleep(Duration::from_millis(1));
    };
    if status.success() {
        Ok(output)
    } else if status.signal() == Some(Signal::SIGXCPU as i32) {
        Err(ConfineError::Cpu(limits.cpu))
    } else {
        Err(ConfineError::Ended {
            status,
            memory: limits.memory,
        })
    }
}

/// Ends and reaps the child when dropped; does nothing to one that was waited for.
struct Reaper(Child);

impl Drop for Reaper {
    fn drop(&mut self) {
        // Both fail only if the child is gone already, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The clock of a child's processor time (`clock_getcpuclockid(3)`).
fn cpu_clock(child: &Child) -> nix::Result<ClockId> {
    let pid = i32::try_from(child.id()).map_err(|_| nix::Error::ERANGE)?;
    clock_getcpuclockid(Pid::from_raw(pid))
}

/// The clocks that a child runs against.
struct Watch<'a> {
    started: Instant,
    cpu: ClockId,
    limits: &'a Limits,
}

impl Watch<'_> {
    /// How long the child can go on at most before the clocks have to be looked at again.
    fn left(&self) -> Result<Duration, ConfineError> {
        let used = match self.cpu.now() {
            Ok(time) => Duration::from(time),
            // It has ended, and is told of by its exit status.
            Err(_) => Duration::ZERO,
        };
        let cpu = self.limits.cpu.saturating_sub(used);
        let wall = self.limits.wall.saturating_sub(self.started.elapsed());
        if cpu.is_zero() {
            Err(ConfineError::Cpu(self.limits.cpu))
        } else if wall.is_zero() {
            Err(ConfineError::Wall(self.limits.wall))
        } else {
            // One thread can't take more processor time than passes.
            Ok(cpu.min(wall))
        }
    }
}

enum ReadError {
    Io(io::Error),
    Confined(ConfineError),
}

impl<E: Into<io::Error>> From<E> for ReadError {
    fn from(error: E) -> Self {
        Self::Io(error.into())
    }
}

fn read_until(child: &mut Child, watch: &Watch<'_>) -> Result<Vec<u8>, ReadError> {
    let Some(mut pipe) = child.stdout.take() else {
        return Ok(Vec::new());
    };
    let flags = OFlag::from_bits_retain(fcntl(&pipe, FcntlArg::F_GETFL)?);
    fcntl(&pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    let mut output = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let left = watch.left().map_err(ReadError::Confined)?;
        // Rounded up, so that the last millisecond does not spin.
        let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(output),
            Ok(count) => output.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error.into()),
        }
        let most = watch.limits.output;
        if output.len() > most {
            return Err(ReadError::Confined(ConfineError::Output(most)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        memory: 1 << 30,
        cpu: Duration::from_millis(300),
        wall: Duration::from_secs(60),
        output: 1000,
    };

    fn shell(script: &str) -> Result<Vec<u8>, ConfineError> {
        shell_within(&LIMITS, script)
    }

    fn shell_within(limits: &Limits, script: &str) -> Result<Vec<u8>, ConfineError> {
        // `run` gives one argument; a script on disk is the simplest child that takes one.
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("script");
        std::fs::write(&file, script).expect("the script is written");
        run(Path::new("/bin/sh"), "ROLE", file.as_os_str(), limits)
    }

    #[test]
    fn the_answer_comes_back() {
        assert_eq!(shell("printf %s $ROLE").expect("it ends well"), b"1");
    }

    #[test]
    fn a_child_that_takes_too_much_processor_time_is_ended() {
        let answer = shell("while :; do :; done");
        assert!(matches!(answer, Err(ConfineError::Cpu(_))), "{answer:?}");
        let answer = shell("exec >&-; while :; do :; done");
        assert!(matches!(answer, Err(ConfineError::Cpu(_))), "{answer:?}");
    }

    #[test]
    fn a_child_that_waits_takes_no_processor_time() {
        let answer = shell("sleep 0.7; printf %s late").expect("it has the time");
        assert_eq!(answer, b"late");
    }

    #[test]
    fn a_child_that_waits_for_ever_is_ended() {
        let limits = Limits {
            wall: Duration::from_millis(300),
            cpu: Duration::from_secs(60),
            ..LIMITS
        };
        for script in ["exec sleep 100", "exec >&-; exec sleep 100"] {
            let answer = shell_within(&limits, script);
            assert!(matches!(answer, Err(ConfineError::Wall(_))), "{answer:?}");
        }
    }

    #[test]
    fn a_child_that_writes_too_much_is_ended() {
        let answer = shell("while :; do echo 0123456789; done");
        assert!(matches!(answer, Err(ConfineError::Output(_))), "{answer:?}");
    }

    #[test]
    fn failure_and_signals_are_told() {
        let answer = shell("exit 3");
        assert!(
            matches!(answer, Err(ConfineError::Ended { .. })),
            "{answer:?}"
        );
        let answer = shell("kill -ABRT $$");
        assert!(
            answer.is_err_and(|error| error.to_string().contains("signal")),
            "a signal is named"
        );
    }

    #[test]
    fn a_missing_program_is_an_error() {
        let answer = run(Path::new("/no/such"), "ROLE", OsStr::new(""), &LIMITS);
        assert!(
            matches!(answer, Err(ConfineError::Run { .. })),
            "{answer:?}"
        );
    }
}
