//! A Wayland compositor for one window, with a touch screen that the test moves: the objects, requests and events of `wayland.xml`
//! and `xdg-shell.xml` that a window needs, and nothing drawn.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, ensure};
use soft_kvm_lab_tests::guest;

use crate::kvm::SOON;

/// The window's size; it is maximised, so that it keeps it.
pub(crate) const WINDOW: (u32, u32) = (800, 480);
/// `maximized` of `xdg_toplevel.state`.
const MAXIMISED: u32 = 1;
/// `touch` of `wl_seat.capability`.
const TOUCH: u32 = 4;
/// `XRGB8888` and `ARGB8888` of `wl_shm.format`.
const FORMATS: [u32; 2] = [1, 0];

/// What is offered, each under its place in this list and with a version.
const GLOBALS: [(&str, Kind, u32); 5] = [
    ("wl_compositor", Kind::Compositor, 4),
    ("wl_shm", Kind::Shm, 1),
    ("wl_seat", Kind::Seat, 3),
    ("wl_output", Kind::Output, 2),
    ("xdg_wm_base", Kind::Shell, 1),
];

/// What a client's object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Display,
    Registry,
    Compositor,
    Shm,
    Pool,
    Seat,
    Output,
    Shell,
    Surface,
    ShellSurface,
    Toplevel,
    Touch,
    /// Something whose requests need no answer.
    Silent,
}

/// A compositor that listens; dropping it lets its client fall.
#[derive(Debug)]
pub(crate) struct Compositor {
    socket: PathBuf,
    screen: Arc<Mutex<Screen>>,
}

/// The client's window and touch screen.
#[derive(Debug, Default)]
struct Screen {
    stream: Option<UnixStream>,
    surface: Option<u32>,
    touch: Option<u32>,
    serial: u32,
    /// Pictures that the window was given.
    pictures: usize,
}

impl Compositor {
    /// Listens for one client.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let socket = guest::folder("compositor")?.join("wayland");
        let listener = UnixListener::bind(&socket)?;
        let screen = Arc::<Mutex<Screen>>::default();
        let shared = Arc::clone(&screen);
        std::thread::spawn(move || {
            let served = listener
                .accept()
                .context("no client")
                .and_then(|(stream, _)| Client::new(stream, shared)?.serve());
            if let Err(error) = served {
                guest::log(format!("the compositor ends: {error:#}"));
            }
        });
        Ok(Self { socket, screen })
    }

    /// For `WAYLAND_DISPLAY`.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Waits until the window has been given some pictures.
    pub(crate) fn await_pictures(&self) -> anyhow::Result<()> {
        guest::wait_for("pictures in the window", SOON, || {
            let screen = lock(&self.screen);
            (screen.pictures > 3 && screen.touch.is_some()).then_some(())
        })
    }

    /// Fingers come down at these places of the window, each with its number.
    pub(crate) fn down(&self, fingers: &[(u32, (i32, i32))]) -> anyhow::Result<()> {
        self.tell(fingers, |screen, (number, at)| {
            let surface = screen.surface.context("no window")?;
            let serial = screen.serial();
            screen.touch(0, &[serial, 0, surface, *number, fixed(at.0), fixed(at.1)])
        })
    }

    /// They move to these places.
    pub(crate) fn motion(&self, fingers: &[(u32, (i32, i32))]) -> anyhow::Result<()> {
        self.tell(fingers, |screen, (number, at)| {
            screen.touch(2, &[0, *number, fixed(at.0), fixed(at.1)])
        })
    }

    /// These are lifted.
    pub(crate) fn up(&self, fingers: &[u32]) -> anyhow::Result<()> {
        self.tell(fingers, |screen, number| {
            let serial = screen.serial();
            screen.touch(1, &[serial, 0, *number])
        })
    }

    /// The compositor has taken all fingers for itself.
    pub(crate) fn cancel(&self) -> anyhow::Result<()> {
        lock(&self.screen).touch(4, &[])
    }

    fn tell<T>(
        &self,
        fingers: &[T],
        each: impl Fn(&mut Screen, &T) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut screen = lock(&self.screen);
        for finger in fingers {
            each(&mut screen, finger)?;
        }
        // `frame`: they belong together.
        screen.touch(3, &[])
    }
}

impl Screen {
    const fn serial(&mut self) -> u32 {
        self.serial += 1;
        self.serial
    }

    /// An event of the client's `wl_touch`.
    fn touch(&self, event: u16, words: &[u32]) -> anyhow::Result<()> {
        self.event(self.touch.context("no touch screen")?, event, words)
    }

    fn event(&self, object: u32, event: u16, words: &[u32]) -> anyhow::Result<()> {
        let mut message = Vec::new();
        message.extend_from_slice(&object.to_ne_bytes());
        let length = u32::try_from(8 + 4 * words.len())?;
        message.extend_from_slice(&(length << 16 | u32::from(event)).to_ne_bytes());
        message.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        let mut stream = self.stream.as_ref().context("no client")?;
        Ok(stream.write_all(&message)?)
    }
}

/// The only client, on the compositor's thread.
struct Client {
    /// Descriptors of memory that come along are closed unread: nobody looks at the pictures.
    stream: UnixStream,
    screen: Arc<Mutex<Screen>>,
    objects: HashMap<u32, Kind>,
    shell_surface: u32,
    toplevel: u32,
    configured: bool,
    /// Attached, and not yet committed.
    buffer: Option<u32>,
    frames: Vec<u32>,
}

impl Client {
    fn new(stream: UnixStream, screen: Arc<Mutex<Screen>>) -> anyhow::Result<Self> {
        lock(&screen).stream = Some(stream.try_clone()?);
        Ok(Self {
            stream,
            screen,
            objects: HashMap::from([(1, Kind::Display)]),
            shell_surface: 0,
            toplevel: 0,
            configured: false,
            buffer: None,
            frames: Vec::new(),
        })
    }

    /// Until the client goes.
    fn serve(mut self) -> anyhow::Result<()> {
        let mut head = [0; 8];
        while self.stream.read_exact(&mut head).is_ok() {
            let [a, b, c, d, rest @ ..] = head;
            let (object, second) = (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes(rest));
            let length = usize::try_from(second >> 16)?;
            ensure!(
                length >= 8 && length % 4 == 0,
                "a request of {length} bytes"
            );
            let mut body = vec![0; length - 8];
            self.stream.read_exact(&mut body)?;
            let words: Vec<_> = body
                .as_chunks::<4>()
                .0
                .iter()
                .map(|word| u32::from_ne_bytes(*word))
                .collect();
            let kind = self.objects.get(&object).copied();
            let kind = kind.with_context(|| format!("no object {object}"))?;
            self.request(kind, object, (second & 0xffff) as u16, &words)?;
        }
        Ok(())
    }

    fn request(
        &mut self,
        kind: Kind,
        object: u32,
        request: u16,
        words: &[u32],
    ) -> anyhow::Result<()> {
        let word = |index: usize| words.get(index).copied().context("a short request");
        let made = match (kind, request) {
            // `sync`: everything before has been done.
            (Kind::Display, 0) => return self.done(word(0)?),
            (Kind::Display, 1) => {
                self.offer(word(0)?)?;
                (word(0)?, Kind::Registry)
            }
            (Kind::Registry, 0) => {
                // Behind the interface's name and version.
                let new = *words.last().context("a short request")?;
                let (_, kind, _) = *GLOBALS.get(word(0)? as usize).context("no such global")?;
                self.bound(new, kind)?;
                (new, kind)
            }
            (Kind::Compositor, 0) => (word(0)?, Kind::Surface),
            (Kind::Compositor, 1) | (Kind::Pool, 0) => (word(0)?, Kind::Silent),
            (Kind::Shm, 0) => (word(0)?, Kind::Pool),
            (Kind::Seat, 2) => {
                lock(&self.screen).touch = Some(word(0)?);
                (word(0)?, Kind::Touch)
            }
            (Kind::Shell, 1) => (word(0)?, Kind::Silent),
            (Kind::Shell, 2) => {
                self.shell_surface = word(0)?;
                lock(&self.screen).surface = Some(word(1)?);
                (word(0)?, Kind::ShellSurface)
            }
            (Kind::ShellSurface, 1) => {
                self.toplevel = word(0)?;
                (word(0)?, Kind::Toplevel)
            }
            (Kind::Surface, 1) => {
                self.buffer = Some(word(0)?).filter(|buffer| *buffer != 0);
                return Ok(());
            }
            (Kind::Surface, 3) => {
                self.frames.push(word(0)?);
                return Ok(());
            }
            (Kind::Surface, 6) => return self.committed(object),
            _ => return Ok(()),
        };
        self.objects.insert(made.0, made.1);
        Ok(())
    }

    /// `wl_registry.global` of all there is.
    fn offer(&self, registry: u32) -> anyhow::Result<()> {
        for (name, (interface, _, version)) in (0..).zip(GLOBALS) {
            let mut words = vec![name];
            words.extend(text(interface)?);
            words.push(version);
            self.event(registry, 0, &words)?;
        }
        Ok(())
    }

    /// What a new object of this kind tells first.
    fn bound(&self, object: u32, kind: Kind) -> anyhow::Result<()> {
        match kind {
            Kind::Shm => FORMATS
                .into_iter()
                .try_for_each(|format| self.event(object, 0, &[format])),
            Kind::Seat => self.event(object, 0, &[TOUCH]),
            Kind::Output => {
                let mut words = vec![0; 5];
                words.extend(text("Lab")?.into_iter().chain(text("Screen")?));
                words.push(0);
                self.event(object, 0, &words)?;
                let (width, height) = WINDOW;
                self.event(object, 1, &[1, width, height, 60_000])?;
                self.event(object, 3, &[1])?;
                self.event(object, 2, &[])
            }
            _ => Ok(()),
        }
    }

    /// A window is told its size with its first commit; a picture is on the screen at once.
    fn committed(&mut self, surface: u32) -> anyhow::Result<()> {
        let is_window = lock(&self.screen).surface == Some(surface);
        if is_window && self.toplevel != 0 && !std::mem::replace(&mut self.configured, true) {
            let (width, height) = WINDOW;
            self.event(self.toplevel, 0, &[width, height, 4, MAXIMISED])?;
            let serial = lock(&self.screen).serial();
            self.event(self.shell_surface, 0, &[serial])?;
        }
        if let Some(buffer) = self.buffer.take() {
            self.event(buffer, 0, &[])?;
            lock(&self.screen).pictures += usize::from(is_window);
        }
        for frame in std::mem::take(&mut self.frames) {
            self.done(frame)?;
        }
        Ok(())
    }

    /// `wl_callback.done`, after which its number is free (`wl_display.delete_id`).
    fn done(&self, callback: u32) -> anyhow::Result<()> {
        self.event(callback, 0, &[0])?;
        self.event(1, 1, &[callback])
    }

    fn event(&self, object: u32, event: u16, words: &[u32]) -> anyhow::Result<()> {
        lock(&self.screen).event(object, event, words)
    }
}

/// A string of the protocol: its length with the zero byte behind it, and both filled up to whole words.
fn text(text: &str) -> anyhow::Result<Vec<u32>> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    let length = u32::try_from(bytes.len())?;
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let words = bytes
        .as_chunks::<4>()
        .0
        .iter()
        .copied()
        .map(u32::from_ne_bytes);
    Ok(std::iter::once(length).chain(words).collect())
}

/// A whole number as `wl_fixed`, in 1/256.
const fn fixed(value: i32) -> u32 {
    (value * 256).cast_unsigned()
}

fn lock(screen: &Mutex<Screen>) -> MutexGuard<'_, Screen> {
    screen.lock().unwrap_or_else(PoisonError::into_inner)
}
