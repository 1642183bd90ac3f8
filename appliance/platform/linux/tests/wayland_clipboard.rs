//! The clipboard of a Wayland compositor without a screen, against the programs `wl-copy` and `wl-paste`.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use soft_kvm_platform_linux::clipboard::{Clipboard, ClipboardEvent, Desktop};
use tempfile::TempDir;

mod desktop;

use desktop::{Running, start, text};

const LONGEST: usize = 200_000;
const LIMIT: Duration = Duration::from_secs(20);
/// Less than a program is waited for that does not give its text.
const SOON: Duration = Duration::from_secs(5);

/// A compositor, with its runtime folder and its socket there.
struct Compositor {
    process: Running,
    folder: TempDir,
    socket: &'static str,
}

fn signal(program: &Running, signal: Signal) {
    let process = i32::try_from(program.0.id()).expect("a process number");
    kill(Pid::from_raw(process), signal).expect("it runs");
}

impl Compositor {
    fn sway() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("config");
        std::fs::write(&config, "xwayland disable\n").expect("written");
        let mut command = if geteuid().is_root() {
            // It does not run as root. It need not know.
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-user=1000", "--map-group=1000", "sway"]);
            command
        } else {
            Command::new("sway")
        };
        command.arg("--config").arg(&config);
        Self::start(command, folder, "wayland-1")
    }

    /// One without a protocol for clipboards of programs that have no window.
    fn weston() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new("weston");
        command.args(["--backend=headless-backend.so", "--no-config"]);
        command.args(["--idle-time=0", "--socket=wayland-1"]);
        Self::start(command, folder, "wayland-1")
    }

    fn start(mut command: Command, folder: TempDir, socket: &'static str) -> Self {
        command
            .env("XDG_RUNTIME_DIR", folder.path())
            .env("WLR_BACKENDS", "headless")
            .env("WLR_LIBINPUT_NO_DEVICES", "1")
            .env("WLR_RENDERER", "pixman")
            .env_remove("WAYLAND_DISPLAY")
            .env_remove("DISPLAY")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = Running(command.spawn().expect("the compositor is installed"));
        let own = Self {
            process,
            folder,
            socket,
        };
        let end = Instant::now() + LIMIT;
        while std::os::unix::net::UnixStream::connect(own.socket()).is_err() {
            assert!(Instant::now() < end, "the compositor does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        own
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join(self.socket)
    }

    fn clipboard(&self, current: bool) -> (Clipboard, Receiver<ClipboardEvent>) {
        start(desktop_of(&self.socket(), None), LONGEST, current)
    }

    fn command(&self, program: &str, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(words)
            .env("XDG_RUNTIME_DIR", self.folder.path())
            .env("WAYLAND_DISPLAY", self.socket)
            .env_remove("DISPLAY")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        command
    }

    /// A program that has this in the clipboard, as a text or as the kind that `words` name.
    fn copy_as(&self, bytes: &[u8], words: &[&str]) -> Running {
        let words = [&["--foreground"], words].concat();
        let mut child = self.command("wl-copy", &words).spawn().expect("installed");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        stdin.write_all(bytes).expect("it reads");
        Running(child)
    }

    fn copy(&self, text: &str) -> Running {
        self.copy_as(text.as_bytes(), &[])
    }

    /// What another program would paste.
    fn pasted(&self, words: &[&str]) -> String {
        let words = [&["--no-newline"], words].concat();
        let output = self.command("wl-paste", &words).output();
        String::from_utf8(output.expect("installed").stdout).expect("UTF-8")
    }

    fn await_pasted(&self, text: &str) {
        let end = Instant::now() + SOON;
        while self.pasted(&[]) != text {
            assert!(Instant::now() < end, "{text:.20} is not in the clipboard");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn desktop_of(wayland: &Path, display: Option<&str>) -> Desktop {
    Desktop {
        wayland: Some(wayland.to_owned()),
        display: display.map(str::to_owned),
    }
}

fn end(heard: &Receiver<ClipboardEvent>) -> String {
    match heard.recv_timeout(LIMIT) {
        Ok(ClipboardEvent::Ended(why)) => why,
        other => panic!("no end: {other:?}"),
    }
}

#[test]
#[ignore = "needs wl-copy, sway"]
fn texts_are_read_and_nothing_else_is() {
    let sway = Compositor::sway();
    let (clipboard, heard) = sway.clipboard(false);
    assert!(clipboard.set("own".into()));
    sway.await_pasted("own");
    let before = sway.copy("before");
    sway.await_pasted("before");
    assert!(clipboard.read(true));
    // Neither what we have set nor what was copied before is told.
    let _first = sway.copy("z\u{e4}h \u{20ac}\n");
    assert_eq!(heard.recv_timeout(LIMIT), text("z\u{e4}h \u{20ac}\n"));
    drop(before);
    let _as_x11 = sway.copy_as(b"from X", &["--type", "UTF8_STRING"]);
    assert_eq!(heard.recv_timeout(LIMIT), text("from X"));
    let most = "x".repeat(LONGEST);
    let _most = sway.copy(&most);
    assert_eq!(heard.recv_timeout(LIMIT), text(&most));
    let _more = sway.copy(&format!("{most}y"));
    assert_eq!(heard.recv_timeout(LIMIT), Ok(ClipboardEvent::TooLong));
    let _much = sway.copy(&most.repeat(20));
    assert_eq!(heard.recv_timeout(LIMIT), Ok(ClipboardEvent::TooLong));
    // A picture, and bytes that are no text: nothing is told, and what comes after is.
    let _picture = sway.copy_as(b"\x89PNG", &["--type", "image/png"]);
    let _bytes = sway.copy_as(b"\xff\xfe", &["--type", "text/plain;charset=utf-8"]);
    std::thread::sleep(Duration::from_millis(500));
    let hint = ["--type", "x-kde-passwordManagerHint"];
    let _secret = sway.copy_as(b"secret", &hint);
    assert_eq!(heard.recv_timeout(LIMIT), Ok(ClipboardEvent::Secret));
    let _after = sway.copy("after");
    assert_eq!(heard.recv_timeout(LIMIT), text("after"));
    assert!(clipboard.read(false));
    let _silent = sway.copy("silent");
    sway.await_pasted("silent");

    drop(sway);
    end(&heard);
    assert!(!clipboard.set("late".into()));
}

#[test]
#[ignore = "needs wl-copy, sway"]
fn what_is_set_can_be_pasted_and_is_not_told() {
    let sway = Compositor::sway();
    let (clipboard, heard) = sway.clipboard(true);
    assert!(clipboard.read(true) && clipboard.set("older".into()));
    sway.await_pasted("older");
    let long = "0123456789abcdef".repeat(16 * 1024);
    for newer in ["z\u{e4}h \u{20ac}", &long, ""] {
        assert!(clipboard.set(newer.into()));
        sway.await_pasted(newer);
    }
    assert!(clipboard.set("newest".into()));
    sway.await_pasted("newest");
    for kind in ["text/plain;charset=utf-8", "text/plain", "UTF8_STRING"] {
        assert_eq!(sway.pasted(&["--type", kind]), "newest", "{kind}");
    }
    let kinds = sway.pasted(&["--list-types"]);
    assert_eq!(kinds.lines().count(), 4, "three and our mark: {kinds}");
    // Nobody has them.
    assert_eq!(sway.pasted(&["--type", "image/png"]), "");

    // Nothing of it was told; what another copies is, and takes the clipboard over.
    let _other = sway.copy("other");
    assert_eq!(heard.recv_timeout(LIMIT), text("other"));
    sway.await_pasted("other");
    assert!(clipboard.read(false) && clipboard.set("last".into()));
    drop(clipboard);
    sway.await_pasted("last");
    // Until another program copies: then the thread has nothing left to do, and lets the channel go.
    let _end = sway.copy("end");
    let ended = heard.recv_timeout(LIMIT);
    assert_eq!(ended, Err(RecvTimeoutError::Disconnected));
}

#[test]
#[ignore = "needs wl-copy, sway"]
fn programs_that_hang_keep_nobody_waiting() {
    let sway = Compositor::sway();
    let hanging = sway.copy("never given");
    sway.await_pasted("never given");
    signal(&hanging, Signal::SIGSTOP);
    let (clipboard, heard) = sway.clipboard(true);
    assert!(clipboard.read(true));
    let waited = heard.recv_timeout(Duration::from_secs(1));
    assert_eq!(waited, Err(RecvTimeoutError::Timeout));
    // While it is waited for, others copy.
    let _other = sway.copy("other");
    assert_eq!(heard.recv_timeout(SOON), text("other"));

    // Programs that take none of a text which is longer than a pipe, many of them, and one after them that takes all.
    let long = "x".repeat(LONGEST);
    assert!(clipboard.set(long.as_str().into()));
    sway.await_pasted(&long);
    let mut stuck: Vec<Running> = (0..40)
        .map(|_| Running(sway.command("wl-paste", &[]).spawn().expect("installed")))
        .collect();
    std::thread::sleep(Duration::from_secs(1));
    sway.await_pasted(&long);
    let _another = sway.copy("another");
    assert_eq!(heard.recv_timeout(SOON), text("another"));
    // The newest still get all of it, though it is no more in the clipboard. The others had to make room: what they have is
    // what was in the pipes.
    let whole = stuck.iter_mut().filter_map(|program| {
        let mut all = Vec::new();
        let mut stdout = program.0.stdout.take().expect("stdout is piped");
        stdout.read_to_end(&mut all).expect("readable");
        // And an end of line.
        (all.len() == LONGEST + 1).then_some(())
    });
    let whole = whole.count();
    assert!((1..=16).contains(&whole), "{whole} of 40");
}

#[test]
#[ignore = "needs wl-copy, sway"]
fn what_is_there_already_is_told_if_wanted() {
    let sway = Compositor::sway();
    let _before = sway.copy("before");
    sway.await_pasted("before");
    let (clipboard, heard) = sway.clipboard(true);
    assert!(clipboard.read(true));
    assert_eq!(heard.recv_timeout(LIMIT), text("before"));
    // The compositor dies while it has our text.
    assert!(clipboard.set("own".into()));
    sway.await_pasted("own");
    signal(&sway.process, Signal::SIGKILL);
    end(&heard);
}

#[test]
#[ignore = "needs weston"]
fn without_the_protocol_the_x_display_is_used_and_it_is_told() {
    let weston = Compositor::weston();
    let (_none, heard) = weston.clipboard(true);
    let why = end(&heard);
    assert!(why.contains("ext-data-control"), "{why}");

    let both = desktop_of(&weston.socket(), Some(":no-such-display"));
    let (_gone, heard) = start(both, LONGEST, true);
    let fallback = heard.recv_timeout(LIMIT);
    assert_eq!(fallback, Ok(ClipboardEvent::Fallback(why)));
    let why = end(&heard);
    assert!(why.contains("cannot connect to the display"), "{why}");

    let missing = weston.folder.path().join("nobody");
    let (_missing, heard) = start(desktop_of(&missing, None), LONGEST, true);
    let why = end(&heard);
    assert!(why.contains("cannot connect to the compositor"), "{why}");
}
