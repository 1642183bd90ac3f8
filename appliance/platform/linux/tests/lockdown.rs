//! What a locked process can still do, and what it can't: tried for real, in a child that locks itself.

use std::error::Error;
use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicU32;
use std::thread;

use soft_kvm_platform_linux::confine;
use soft_kvm_platform_linux::lockdown::{self, Class, Keep};

type Outcome = Result<(), Box<dyn Error>>;

const FOLDER: &str = "SOFT_KVM_TEST_FOLDER";
const PORT: &str = "SOFT_KVM_TEST_PORT";

/// Runs the test `name` again in a child, with a folder to play in and the port of somebody who listens.
fn in_child(name: &str) -> Outcome {
    let folder = tempfile::tempdir()?;
    for part in ["read", "write", "other"] {
        fs::create_dir(folder.path().join(part))?;
        fs::write(folder.path().join(part).join("file"), part)?;
    }
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let output = Command::new(std::env::current_exe()?)
        .args(["--exact", name, "--nocapture"])
        .env(FOLDER, folder.path())
        .env(PORT, listener.local_addr()?.port().to_string())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}\n{text}\n{errors}", output.status).into())
}

fn refused<T>(what: &str, outcome: io::Result<T>) {
    let error = outcome
        .err()
        .unwrap_or_else(|| panic!("{what} was allowed"));
    let refusals = [libc::EACCES, libc::EPERM, libc::ENOSYS];
    let code = error.raw_os_error().unwrap_or_default();
    assert!(refusals.contains(&code), "{what}: {error}");
}

fn call(number: libc::c_long, arguments: [usize; 3]) -> io::Result<()> {
    let [first, second, third] = arguments;
    // SAFETY: the callers pass numbers and null pointers only, which the kernel checks.
    match unsafe { libc::syscall(number, first, second, third) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[test]
fn files_ports_and_programs_outside_are_refused() -> Outcome {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return in_child("files_ports_and_programs_outside_are_refused");
    };
    let folder = Path::new(&folder);
    let others: u16 = std::env::var(PORT)?.parse()?;
    let keep = Keep {
        read: vec![folder.join("read"), folder.join("is-not-there")],
        write: vec![folder.join("write")],
        ..Keep::default()
    };
    let version = lockdown::landlock_version();
    let level = lockdown::lock_in(&keep.system().own_program(), Class::Main)?;
    assert!(level.seccomp, "{level}");
    assert_eq!(level.landlock, version);

    assert_eq!(fs::read_to_string(folder.join("read/file"))?, "read");
    fs::write(folder.join("write/new"), "text")?;
    fs::rename(folder.join("write/new"), folder.join("write/newer"))?;
    fs::remove_file(folder.join("write/newer"))?;
    fs::read_to_string("/proc/self/status")?;
    fs::read("/dev/null")?;
    let own = Command::new(confine::own_executable())
        .arg("--list")
        .output()?;
    assert!(own.status.success(), "this program in another role");
    if level.landlock >= 1 {
        refused("reading elsewhere", fs::read(folder.join("other/file")));
        refused("reading the password file", fs::read("/etc/shadow"));
        refused(
            "writing what may be read",
            fs::write(folder.join("read/file"), "x"),
        );
        refused(
            "making a file elsewhere",
            fs::write(folder.join("other/new"), "x"),
        );
        refused("a device", fs::File::open("/dev/full"));
        refused("another program", Command::new("/bin/true").status());
    }
    if level.landlock >= 4 {
        TcpListener::bind("127.0.0.1:0")?;
        refused("a connection", TcpStream::connect(("127.0.0.1", others)));
    }
    UdpSocket::bind("127.0.0.1:0")?;
    dangers_are_refused();
    Ok(())
}

fn dangers_are_refused() {
    let own = usize::try_from(std::process::id()).unwrap_or_default();
    for (what, number, arguments) in [
        ("ptrace", libc::SYS_ptrace, [0, 0, 0]),
        ("mount", libc::SYS_mount, [0, 0, 0]),
        ("a new name space", libc::SYS_unshare, [0, 0, 0]),
        ("io_uring", libc::SYS_io_uring_setup, [1, 0, 0]),
        ("bpf", libc::SYS_bpf, [0, 0, 0]),
        ("perf", libc::SYS_perf_event_open, [0, 0, 0]),
        ("userfaultfd", libc::SYS_userfaultfd, [0, 0, 0]),
        ("keyctl", libc::SYS_keyctl, [0, 0, 0]),
        ("a module", libc::SYS_init_module, [0, 0, 0]),
        ("kexec", libc::SYS_kexec_load, [0, 0, 0]),
        ("a file by handle", libc::SYS_open_by_handle_at, [0, 0, 0]),
        ("another's memory", libc::SYS_process_vm_readv, [own, 0, 0]),
        ("swap", libc::SYS_swapon, [0, 0, 0]),
        ("reboot", libc::SYS_reboot, [0, 0, 0]),
    ] {
        refused(what, call(number, arguments));
    }
}

fn own_program() -> io::Result<()> {
    Command::new(confine::own_executable())
        .arg("--list")
        .output()
        .map(drop)
}

/// `VIDIOC_QUERYCAP` without memory for the answer.
fn video_ioctl(file: &fs::File) -> io::Error {
    use std::os::fd::AsRawFd;
    // SAFETY: the kernel checks the address, and /dev/null has no such call.
    unsafe { libc::ioctl(file.as_raw_fd(), 0x8068_5600, std::ptr::null_mut::<u8>()) };
    io::Error::last_os_error()
}

#[test]
fn threads_have_the_calls_of_their_class() -> Outcome {
    if std::env::var_os(FOLDER).is_none() {
        return in_child("threads_have_the_calls_of_their_class");
    }
    let version = lockdown::landlock_version();
    let null = fs::File::open("/dev/null")?;
    lockdown::narrow(Class::Network); // Not locked yet: changes nothing.
    lockdown::lock_in(
        &Keep {
            read: vec!["/".into()],
            ..Keep::default().own_program()
        },
        Class::Main,
    )?;
    own_program()?;
    assert_eq!(video_ioctl(&null).raw_os_error(), Some(libc::ENOTTY));
    static DONE: AtomicU32 = AtomicU32::new(0);
    let done = || DONE.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    thread::scope(|scope| {
        scope.spawn(|| {
            lockdown::narrow(Class::Network);
            UdpSocket::bind("127.0.0.1:0").expect("what it is for");
            if version >= 4 {
                refused("a TCP port", TcpListener::bind("127.0.0.1:0"));
            }
            refused("a program", own_program());
            assert_eq!(video_ioctl(&null).raw_os_error(), Some(libc::ENOSYS));
            dangers_are_refused();
            thread::spawn(|| refused("a program", own_program()))
                .join()
                .expect("threads may be made, and are as narrow");
            done();
        });
        scope.spawn(|| {
            lockdown::narrow(Class::Device);
            assert_eq!(video_ioctl(&null).raw_os_error(), Some(libc::ENOTTY));
            refused("a socket", UdpSocket::bind("127.0.0.1:0"));
            refused("a program", own_program());
            dangers_are_refused();
            done();
        });
    });
    assert_eq!(DONE.load(std::sync::atomic::Ordering::Relaxed), 2);
    Ok(())
}

#[test]
fn a_program_with_a_window_keeps_all_but_the_dangers() -> Outcome {
    if std::env::var_os(FOLDER).is_none() {
        return in_child("a_program_with_a_window_keeps_all_but_the_dangers");
    }
    assert!(lockdown::filter_calls(Class::Desktop)?);
    Command::new("/bin/true").status()?;
    fs::read("/etc/passwd")?;
    dangers_are_refused();
    Ok(())
}
