//! A process gives up what it will not need: files and TCP ports (Landlock), system calls (seccomp). For good, also for
//! the processes that it starts.

mod files;
mod seccomp;
mod syscalls;

use std::io;
use std::path::{Path, PathBuf};

pub use seccomp::Class;

/// What a process keeps. Paths that are not there are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Files, and folders with all that is in them, that may be read.
    pub read: Vec<PathBuf>,
    /// Folders that files may be made, written and removed in.
    pub write: Vec<PathBuf>,
    /// Device nodes, and folders of them, that may be opened and asked things.
    pub devices: Vec<PathBuf>,
    /// Programs that may be started.
    pub execute: Vec<PathBuf>,
}

/// How far the kernel went along.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// Landlock's version; 0 without it. Files from 1 on, TCP ports from 4, device calls from 5, signals from 6.
    pub landlock: u8,
    /// Whether system calls are filtered.
    pub seccomp: bool,
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let files = match self.landlock {
            0 => "any file (no Landlock in this kernel)",
            1..=3 => "its own files, any port (an old Landlock)",
            4 => "its own files and ports",
            _ => "its own files, ports and devices",
        };
        let calls = if self.seccomp {
            "its own system calls"
        } else {
            "any system call (no seccomp in this kernel)"
        };
        write!(f, "{files}, {calls}")
    }
}

impl Keep {
    /// The running program and its loader, so that it can start itself in another role.
    #[must_use]
    pub fn own_program(mut self) -> Self {
        let program = crate::confine::own_executable();
        self.execute.extend(files::interpreter(&program));
        self.execute.push(program);
        self
    }

    /// What the C library, the loader and device libraries read anywhere, none of it secret.
    #[must_use]
    pub fn system(mut self) -> Self {
        let read = [
            "/usr",
            "/lib",
            "/lib64",
            "/proc",
            "/sys",
            "/run/udev",
            "/etc/ld.so.cache",
            "/etc/ld.so.conf",
            "/etc/ld.so.conf.d",
            "/etc/localtime",
            "/etc/hosts",
            "/etc/host.conf",
            "/etc/resolv.conf",
            "/etc/nsswitch.conf",
            "/etc/gai.conf",
            "/etc/machine-id",
            "/etc/drirc",
            "/etc/libva.conf",
            "/etc/vulkan",
            "/etc/glvnd",
        ];
        self.read.extend(read.map(PathBuf::from));
        let devices = ["/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"];
        self.devices.extend(devices.map(PathBuf::from));
        self
    }
}

/// Gives everything up but `keep` and the system calls of `class`, for the calling thread and all that it starts from now
/// on. To be called before there are others. TCP connections to others can't be made any more.
///
/// A kernel that lacks a part has the others in force; the level says so.
///
/// # Errors
/// The kernel has it, and refuses it.
pub fn lock_in(keep: &Keep, class: Class) -> io::Result<Level> {
    let landlock = files::restrict(keep)?;
    let seccomp = seccomp::lock(class)?;
    Ok(Level { landlock, seccomp })
}

/// The system calls of `class` only, for the calling thread and those that it starts; files stay as they are.
///
/// # Errors
/// As [`lock_in`].
pub fn filter_calls(class: Class) -> io::Result<bool> {
    seccomp::lock(class)
}

/// Narrows the calling thread down to `class`, in a process that [`lock_in`] has locked; elsewhere nothing changes. It can
/// neither listen on a TCP port nor connect to one any more: it has the sockets that it was given.
pub fn narrow(class: Class) {
    if !seccomp::locked() {
        return;
    }
    if let Err(error) = files::no_ports() {
        tracing::warn!(%error, ?class, "a thread keeps the ports of its process");
    }
    if let Err(error) = seccomp::apply(class) {
        tracing::warn!(%error, ?class, "a thread keeps the system calls of its process");
    }
}

/// Landlock's version in this kernel; 0 without it.
#[must_use]
pub fn landlock_version() -> u8 {
    files::version()
}

/// The folder of `file`, for [`Keep`]: `.` for a bare name.
#[must_use]
pub fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}
