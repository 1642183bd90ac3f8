//! Runs a piece of this program in a child process that can't take much time, memory or output.
//!
//! The parent calls [`run`]; the child, the same executable in another role, calls [`Limits::enter`] before anything else.
//! The kernel then ends it when it takes more than it may, and the parent ends it when it takes too long.

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

/// What a confined child may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Address space in bytes, the program's own code included.
    pub memory: u64,
    /// Seconds of processor time.
    pub cpu_seconds: u64,
    /// Time from start to the end of the output.
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
    /// It took too long.
    #[error("took more than {} ms", .0.as_millis())]
    Time(Duration),
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
        // The parent watches the clock; this is for when the parent itself is stopped or killed.
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        prctl::set_no_new_privs()?;
        for (resource, limit) in [
            (Resource::RLIMIT_AS, self.memory),
            (Resource::RLIMIT_CPU, self.cpu_seconds),
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
    let deadline = Instant::now() + limits.wall;
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
    let output = read_until(&mut child.0, deadline, limits).map_err(|error| match error {
        ReadError::Io(source) => failed(source),
        ReadError::Confined(error) => error,
    })?;
    // The output has ended, so the child is about to.
    let status = loop {
        if let Some(status) = child.0.try_wait().map_err(failed)? {
            break status;
        }
        if Instant::now() >= deadline {
            return Err(ConfineError::Time(limits.wall));
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    if status.success() {
        Ok(output)
    } else if status.signal() == Some(Signal::SIGXCPU as i32) {
        Err(ConfineError::Time(limits.wall))
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

enum ReadError {
    Io(io::Error),
    Confined(ConfineError),
}

impl<E: Into<io::Error>> From<E> for ReadError {
    fn from(error: E) -> Self {
        Self::Io(error.into())
    }
}

fn read_until(child: &mut Child, deadline: Instant, limits: &Limits) -> Result<Vec<u8>, ReadError> {
    let Some(mut pipe) = child.stdout.take() else {
        return Ok(Vec::new());
    };
    let flags = OFlag::from_bits_retain(fcntl(&pipe, FcntlArg::F_GETFL)?);
    fcntl(&pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    let mut output = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ReadError::Confined(ConfineError::Time(limits.wall)));
        }
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
        if output.len() > limits.output {
            return Err(ReadError::Confined(ConfineError::Output(limits.output)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        memory: 1 << 30,
        cpu_seconds: 10,
        wall: Duration::from_millis(300),
        output: 1000,
    };

    fn shell(script: &str) -> Result<Vec<u8>, ConfineError> {
        // `run` gives one argument; a script on disk is the simplest child that takes one.
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("script");
        std::fs::write(&file, script).expect("the script is written");
        run(Path::new("/bin/sh"), "ROLE", file.as_os_str(), &LIMITS)
    }

    #[test]
    fn the_answer_comes_back() {
        assert_eq!(shell("printf %s $ROLE").expect("it ends well"), b"1");
    }

    #[test]
    fn a_child_that_takes_too_long_is_ended() {
        let answer = shell("while :; do :; done");
        assert!(matches!(answer, Err(ConfineError::Time(_))), "{answer:?}");
        let answer = shell("exec >&-; while :; do :; done");
        assert!(matches!(answer, Err(ConfineError::Time(_))), "{answer:?}");
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
