//! The guard: a small process that gives the operator's devices back when the program that took them hangs.
//!
//! A thread could not do it: it is stopped with its process (`SIGSTOP`, `SIGTSTP`, a debugger). The guard shares the
//! open devices, so it can revoke them (`EVIOCREVOKE`): the kernel ends the grab, and what the hung program would read
//! later is gone. It looks at the keys themselves (`EVIOCGKEY` on a descriptor of its own, which a grab does not hide),
//! so the panic chord works whatever the program is doing. It ends with the program, by the end of their socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use evdevil::Evdev;
use evdevil::bits::BitSet;
use evdevil::event::{Key, Led};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    send, sendmsg, socketpair,
};
use soft_kvm_input::Chord;

use crate::force;

/// A program that says nothing for so long hangs.
pub const STALL: Duration = Duration::from_secs(2);

/// How often the guard looks at the keys.
const LOOK: Duration = Duration::from_millis(50);
/// Longest message: a chord of five keys and its tag.
const MESSAGE: usize = 16;
/// Devices that are shared at most; more than a source follows, for those that are plugged again.
const MAX_SHARED: usize = 256;

const BEAT: u8 = b'B';
const CHORD: u8 = b'C';
const DEVICE: u8 = b'D';
const LEFT: u8 = b'L';
const TAKEN: u8 = b'T';

/// Why the guard gave the devices back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Release {
    /// A panic chord was held, and the program did not react.
    Chord,
    /// The program did not run for [`STALL`].
    Stalled,
    /// The program was stopped by a signal or a debugger.
    Stopped,
}

impl Release {
    const ALL: [(u8, Self); 3] = [
        (b'c', Self::Chord),
        (b's', Self::Stalled),
        (b't', Self::Stopped),
    ];

    fn tag(self) -> u8 {
        let found = Self::ALL.iter().find(|(_, release)| *release == self);
        found.map_or(0, |(tag, _)| *tag)
    }
}

/// The program's end: shares devices, tells that it lives. Dropping it ends the guard.
#[derive(Debug)]
pub struct Guard {
    socket: Option<OwnedFd>,
    child: Child,
}

impl Guard {
    /// Starts `program` with `arguments`, which has to call [`run_guard`].
    ///
    /// # Errors
    /// The system's, when it can't be started.
    pub fn start(program: &Path, arguments: &[&str], panic: &[Chord]) -> io::Result<Self> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        )?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            // Ctrl-Z and Ctrl-C at the terminal are for the program alone.
            .process_group(0)
            .spawn()?;
        let guard = Self {
            socket: Some(ours),
            child,
        };
        for chord in panic {
            let mut message = vec![CHORD];
            message.extend(chord.keys().iter().flat_map(|key| key.0.to_le_bytes()));
            guard.tell(&message)?;
        }
        Ok(guard)
    }

    /// Shares a device, before it is taken.
    ///
    /// # Errors
    /// The guard is gone: the device must not be taken.
    pub fn watch(&self, device: BorrowedFd<'_>) -> io::Result<()> {
        let fds = [device.as_raw_fd()];
        let sent = sendmsg::<()>(
            self.socket()?.as_raw_fd(),
            &[IoSlice::new(&[DEVICE])],
            &[ControlMessage::ScmRights(&fds)],
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        Ok(sent.map(drop)?)
    }

    /// Tells whether devices are taken: the guard acts only then.
    ///
    /// # Errors
    /// As [`beat`](Self::beat).
    pub fn set_taken(&self, taken: bool) -> io::Result<()> {
        self.tell(&[if taken { TAKEN } else { LEFT }])
    }

    /// The program lives; to be called several times within [`STALL`].
    ///
    /// # Errors
    /// The guard is gone: devices must not stay taken.
    pub fn beat(&self) -> io::Result<()> {
        self.tell(&[BEAT])
    }

    /// Why the guard gave the devices back since the last call, if it did. To be asked before devices are taken.
    ///
    /// # Errors
    /// The guard is gone: devices must not stay taken.
    pub fn poll_release(&self) -> io::Result<Option<Release>> {
        let mut buffer = [0; MESSAGE];
        match nix::sys::socket::recv(
            self.socket()?.as_raw_fd(),
            &mut buffer,
            MsgFlags::MSG_DONTWAIT,
        ) {
            Ok(0) => Err(io::ErrorKind::BrokenPipe.into()),
            Ok(_) => {
                let found = Release::ALL.iter().find(|(tag, _)| *tag == buffer[0]);
                Ok(found.map(|(_, release)| *release))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn socket(&self) -> io::Result<&OwnedFd> {
        self.socket.as_ref().ok_or(io::ErrorKind::BrokenPipe.into())
    }

    fn tell(&self, message: &[u8]) -> io::Result<()> {
        let sent = send(
            self.socket()?.as_raw_fd(),
            message,
            MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT,
        );
        match sent {
            // A full queue means that the guard has enough to read.
            Ok(_) | Err(Errno::EAGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.socket = None;
        // It ends by itself, as it would when we crash; a hung one must not keep devices.
        let patience = Instant::now() + Duration::from_secs(1);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= patience {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The guard's process, with its socket as standard input; returns when the program has ended.
///
/// # Errors
/// Standard input is no such socket.
pub fn run_guard() -> io::Result<()> {
    let stdin = io::stdin();
    let socket = stdin.as_fd();
    let mut watch = Watch {
        program: std::os::unix::process::parent_id(),
        panic: Vec::new(),
        devices: Vec::new(),
        taken: false,
        beat: Instant::now(),
        chord_looks: 0,
    };
    loop {
        let mut polled = [PollFd::new(socket, PollFlags::POLLIN)];
        let timeout = if watch.taken { LOOK } else { STALL };
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::ZERO);
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !watch.listen(socket)? {
            return Ok(());
        }
        if let Some(release) = watch.look() {
            // Told first: what the program sees next is that its devices are gone.
            let _ = send(
                socket.as_raw_fd(),
                &[release.tag()],
                MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT,
            );
            watch.release();
        }
    }
}

struct Watch {
    program: u32,
    panic: Vec<Vec<Key>>,
    devices: Vec<Shared>,
    taken: bool,
    beat: Instant,
    /// How often in a row a panic chord was seen.
    chord_looks: u32,
}

struct Shared {
    /// The program's own open file.
    theirs: Evdev,
    /// Another one of the same device, because asking for the keys empties the asker's queue.
    ours: Evdev,
    leds: BitSet<Led>,
    /// It has force feedback: its driver may be busy with an effect, for which other calls wait.
    felt: bool,
}

impl Watch {
    /// Reads all messages; `false` when the program has ended.
    fn listen(&mut self, socket: BorrowedFd<'_>) -> io::Result<bool> {
        loop {
            let mut buffer = [0; MESSAGE];
            let mut slices = [IoSliceMut::new(&mut buffer)];
            let mut space = nix::cmsg_space!(OwnedFd);
            let received = recvmsg::<()>(
                socket.as_raw_fd(),
                &mut slices,
                Some(&mut space),
                MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT,
            );
            let (length, device) = match received {
                Ok(message) if message.bytes == 0 => return Ok(false),
                Ok(message) => {
                    let mut device = None;
                    for control in message.cmsgs()? {
                        if let ControlMessageOwned::ScmRights(fds) = control {
                            for fd in fds {
                                // SAFETY: the kernel has just made this descriptor for us; nothing else owns it.
                                device = Some(unsafe { OwnedFd::from_raw_fd(fd) });
                            }
                        }
                    }
                    (message.bytes, device)
                }
                Err(Errno::EAGAIN) => return Ok(true),
                Err(Errno::EINTR) => continue,
                Err(Errno::ECONNRESET) => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            let message = buffer.get(..length).unwrap_or_default();
            self.beat = Instant::now();
            match message.split_first() {
                Some((&CHORD, keys)) => {
                    let keys = keys.as_chunks::<2>().0;
                    let keys = keys
                        .iter()
                        .map(|key| Key::from_raw(u16::from_le_bytes(*key)));
                    self.panic.push(keys.collect());
                }
                Some((&TAKEN, _)) => self.taken = true,
                Some((&LEFT, _)) => self.taken = false,
                Some((&DEVICE, _)) => {
                    self.devices
                        .retain(|device| device.ours.key_state().is_ok());
                    if let Some(device) = device.filter(|_| self.devices.len() < MAX_SHARED) {
                        match Shared::new(device) {
                            Ok(device) => self.devices.push(device),
                            Err(error) => tracing::debug!(%error, "a device that is gone already"),
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// Looks at the keys and at the program; tells whether the devices have to be given back.
    fn look(&mut self) -> Option<Release> {
        if !self.taken {
            self.chord_looks = 0;
            return None;
        }
        let mut down = Vec::new();
        self.devices.retain(|device| match device.ours.key_state() {
            Ok(keys) => {
                down.extend(&keys);
                true
            }
            // Unplugged.
            Err(_) => false,
        });
        let chord = |chord: &Vec<Key>| chord.iter().all(|key| down.contains(key));
        self.chord_looks = if self.panic.iter().any(chord) {
            self.chord_looks + 1
        } else {
            0
        };
        // A program that runs has let go of the devices by the second look.
        if self.chord_looks > 1 {
            return Some(Release::Chord);
        }
        if is_stopped(self.program) {
            return Some(Release::Stopped);
        }
        (self.beat.elapsed() >= STALL).then_some(Release::Stalled)
    }

    fn release(&mut self) {
        // No keyboard waits for a busy driver.
        self.devices.sort_by_key(|device| device.felt);
        for device in &self.devices {
            let supported = device.ours.supported_leds().unwrap_or_default();
            for led in &supported {
                // A device that was unplugged meanwhile has nothing to restore.
                let _ = device.ours.set_led(led, device.leds.contains(led));
            }
            let _ = device.theirs.revoke();
        }
        for device in self.devices.drain(..).filter(|device| device.felt) {
            force::stop_all(&device.ours);
        }
        self.taken = false;
        self.chord_looks = 0;
    }
}

impl Shared {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        // Refuses what is no evdev node.
        let ours = Evdev::open(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
        let leds = ours.led_state()?;
        // SAFETY: the descriptor is one of the node that has just been opened as an evdev node.
        let theirs = unsafe { Evdev::from_owned_fd(fd) };
        let felt = force::abilities(&ours)?.is_some();
        Ok(Self {
            theirs,
            ours,
            leds,
            felt,
        })
    }
}

/// Whether a process is stopped by a signal or a tracer (`proc_pid_stat(5)`, field 3).
fn is_stopped(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name before it stands in parentheses and may hold some itself.
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
    state.is_some_and(|state| state.starts_with(['T', 't']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_process_is_seen() {
        let mut child = Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("sleep starts");
        let id = nix::unistd::Pid::from_raw(child.id().try_into().expect("a small number"));
        assert!(!is_stopped(child.id()));
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGSTOP).expect("it is ours");
        let start = Instant::now();
        while !is_stopped(child.id()) {
            assert!(start.elapsed() < Duration::from_secs(5));
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().expect("it is ours");
        child.wait().expect("it ends");
        assert!(!is_stopped(child.id()), "gone");
    }

    #[test]
    fn a_guard_that_ends_is_noticed_and_every_reason_has_its_tag() {
        let guard = Guard::start(Path::new("true"), &[], &Chord::default_panic());
        // It may have ended before the chords were told.
        let Ok(guard) = guard else { return };
        let start = Instant::now();
        while guard.beat().is_ok() {
            assert!(start.elapsed() < Duration::from_secs(5));
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(guard.poll_release().is_err());
        for (tag, release) in Release::ALL {
            assert_eq!(release.tag(), tag);
        }
    }
}
