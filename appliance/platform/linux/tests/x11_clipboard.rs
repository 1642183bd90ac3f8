//! The clipboard of an X display, in a server of its own, against programs that copy and paste by the letter of ICCCM.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use soft_kvm_platform_linux::clipboard::{Clipboard, ClipboardEvent, Desktop};
use x11rb::connection::Connection;
use x11rb::protocol::Event;
use x11rb::protocol::xproto::{
    Atom, AtomEnum, ChangeWindowAttributesAux, ConnectionExt as _, CreateWindowAux, EventMask,
    PropMode, Property, SELECTION_NOTIFY_EVENT, SelectionNotifyEvent, SelectionRequestEvent,
    Window, WindowClass,
};
use x11rb::rust_connection::RustConnection;
use x11rb::wrapper::ConnectionExt as _;

mod desktop;

use desktop::{Running, start, text};

const LONGEST: usize = 10_000;
const LIMIT: Duration = Duration::from_secs(20);

fn x11(display: &str) -> Desktop {
    Desktop {
        wayland: None,
        display: Some(display.to_owned()),
    }
}

struct Xvfb {
    _process: Running,
    display: String,
}

impl Xvfb {
    fn start() -> Self {
        let mut child = Command::new("Xvfb")
            .args(["-displayfd", "1", "-screen", "0", "64x64x24"])
            .args(["-nolisten", "tcp", "-noreset"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Xvfb is installed");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("Xvfb tells its number");
        Self {
            _process: Running(child),
            display: format!(":{}", line.trim()),
        }
    }

    fn clipboard(&self, current: bool) -> (Clipboard, Receiver<ClipboardEvent>) {
        start(x11(&self.display), LONGEST, current)
    }
}

/// Another program on the display.
struct Other {
    connection: RustConnection,
    window: Window,
}

impl Other {
    fn new(server: &Xvfb) -> Self {
        let (connection, screen) = x11rb::connect(Some(&server.display)).expect("Xvfb answers");
        let root = connection.setup().roots[screen].root;
        let window = connection.generate_id().expect("an id");
        let class = WindowClass::INPUT_ONLY;
        let events = CreateWindowAux::new().event_mask(EventMask::PROPERTY_CHANGE);
        connection
            .create_window(0, window, root, 0, 0, 1, 1, 0, class, 0, &events)
            .expect("sent")
            .check()
            .expect("made");
        Self { connection, window }
    }

    fn atom(&self, name: &str) -> Atom {
        let cookie = self.connection.intern_atom(false, name.as_bytes());
        cookie.expect("sent").reply().expect("answered").atom
    }

    fn owner(&self) -> Window {
        let clipboard = self.atom("CLIPBOARD");
        let cookie = self.connection.get_selection_owner(clipboard);
        cookie.expect("sent").reply().expect("answered").owner
    }

    fn own(&self) {
        let clipboard = self.atom("CLIPBOARD");
        self.connection
            .set_selection_owner(self.window, clipboard, x11rb::CURRENT_TIME)
            .expect("sent")
            .check()
            .expect("owned");
    }

    fn event(&self, mut wanted: impl FnMut(&Event) -> bool) -> Event {
        let end = Instant::now() + LIMIT;
        loop {
            match self.connection.poll_for_event().expect("Xvfb stays") {
                Some(event) if wanted(&event) => return event,
                Some(_) => {}
                None => {
                    assert!(Instant::now() < end, "no such event");
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }

    fn request(&self) -> SelectionRequestEvent {
        match self.event(|event| matches!(event, Event::SelectionRequest(_))) {
            Event::SelectionRequest(event) => event,
            _ => unreachable!("asked for"),
        }
    }

    fn answer(&self, event: &SelectionRequestEvent, property: Atom) {
        let told = SelectionNotifyEvent {
            response_type: SELECTION_NOTIFY_EVENT,
            sequence: 0,
            time: event.time,
            requestor: event.requestor,
            selection: event.selection,
            target: event.target,
            property,
        };
        let none = EventMask::NO_EVENT;
        self.connection
            .send_event(false, event.requestor, none, told)
            .expect("sent");
        self.connection.flush().expect("sent");
    }

    /// Copies a text, and gives it as a whole.
    fn copy(&self, text: &[u8], kind: Atom) {
        self.own();
        loop {
            let event = self.request();
            if event.target == kind {
                self.connection
                    .change_property8(
                        PropMode::REPLACE,
                        event.requestor,
                        event.property,
                        kind,
                        text,
                    )
                    .expect("sent");
                return self.answer(&event, event.property);
            }
            self.answer(&event, x11rb::NONE);
        }
    }

    /// Copies something, and says what it can be asked for as.
    fn offer(&self, targets: &[Atom]) {
        self.own();
        let event = self.request();
        assert_eq!(event.target, self.atom("TARGETS"));
        let (window, property) = (event.requestor, event.property);
        let atom = AtomEnum::ATOM;
        self.connection
            .change_property32(PropMode::REPLACE, window, property, atom, targets)
            .expect("sent");
        self.answer(&event, property);
    }

    /// Copies a text, and gives it in pieces.
    fn copy_in_pieces(&self, pieces: &[&[u8]], told: u32) {
        let utf8 = self.atom("UTF8_STRING");
        self.offer(&[utf8]);
        let event = self.request();
        assert_eq!(event.target, utf8);
        let (window, property) = (event.requestor, event.property);
        let watch = ChangeWindowAttributesAux::new().event_mask(EventMask::PROPERTY_CHANGE);
        self.connection
            .change_window_attributes(window, &watch)
            .expect("sent");
        let incr = self.atom("INCR");
        self.connection
            .change_property32(PropMode::REPLACE, window, property, incr, &[told])
            .expect("sent");
        self.answer(&event, property);
        for piece in pieces.iter().chain([&&b""[..]]) {
            // Gone is its window when the reader has had enough.
            let taken = self.event(|event| match event {
                Event::PropertyNotify(event) => {
                    event.window == window && event.state == Property::DELETE
                }
                _ => false,
            });
            assert!(matches!(taken, Event::PropertyNotify(_)));
            self.connection
                .change_property8(PropMode::REPLACE, window, property, event.target, piece)
                .expect("sent");
            self.connection.flush().expect("sent");
        }
    }

    /// Asks for the clipboard as `target`; its bytes and their type.
    fn paste(&self, target: Atom) -> Option<(Vec<u8>, Atom)> {
        let (clipboard, property) = (self.atom("CLIPBOARD"), self.atom("PASTED"));
        let now = x11rb::CURRENT_TIME;
        self.connection
            .convert_selection(self.window, clipboard, target, property, now)
            .expect("sent");
        self.connection.flush().expect("sent");
        let event = self.event(|event| matches!(event, Event::SelectionNotify(_)));
        let Event::SelectionNotify(SelectionNotifyEvent { property: told, .. }) = event else {
            return None;
        };
        if told == x11rb::NONE {
            return None;
        }
        let reply = self
            .connection
            .get_property(true, self.window, property, AtomEnum::ANY, 0, u32::MAX / 4)
            .expect("sent")
            .reply()
            .expect("answered");
        Some((reply.value, reply.type_))
    }

    fn await_owner(&self, ours: bool) {
        let end = Instant::now() + LIMIT;
        while (self.owner() == self.window || self.owner() == x11rb::NONE) == ours {
            assert!(Instant::now() < end, "the owner does not change");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
#[ignore = "needs Xvfb"]
fn texts_are_read_whole_in_pieces_and_in_latin() {
    let server = Xvfb::start();
    let (clipboard, heard) = server.clipboard(false);
    let other = Other::new(&server);
    let utf8 = other.atom("UTF8_STRING");
    // Once it has the clipboard, the thread looks.
    assert!(clipboard.read(true) && clipboard.set("ready".into()));
    other.await_owner(true);

    other.copy("z\u{e4}h".as_bytes(), utf8);
    assert_eq!(heard.recv_timeout(LIMIT), text("z\u{e4}h"));
    other.copy(b"z\xe4h", AtomEnum::STRING.into());
    assert_eq!(heard.recv_timeout(LIMIT), text("z\u{e4}h"), "Latin-1");
    let plain = other.atom("text/plain;charset=utf-8");
    other.copy("\u{20ac}".as_bytes(), plain);
    assert_eq!(heard.recv_timeout(LIMIT), text("\u{20ac}"));
    other.copy_in_pieces(&[b"one ", b"two ", b"three"], 1);
    assert_eq!(heard.recv_timeout(LIMIT), text("one two three"));
    let most = vec![b'x'; LONGEST];
    other.copy(&most, utf8);
    assert_eq!(heard.recv_timeout(LIMIT), text(&"x".repeat(LONGEST)));

    other.copy(&[&most[..], b"y"].concat(), utf8);
    assert_eq!(heard.recv_timeout(LIMIT), Ok(ClipboardEvent::TooLong));
    other.copy(&[b'x'; 4 * LONGEST], utf8);
    assert_eq!(heard.recv_timeout(LIMIT), Ok(ClipboardEvent::TooLong));
    // Its size is a lie: the last piece is one byte too many.
    other.copy_in_pieces(&[&most, b"y"], 1);
    assert_eq!(heard.recv_timeout(LIMIT), Ok(ClipboardEvent::TooLong));
    // No text at all, and bytes that are none: nothing is told, and what comes after is.
    other.own();
    for _ in 0..4 {
        other.answer(&other.request(), x11rb::NONE);
    }
    other.copy(b"\xff\xfe", utf8);
    other.copy(b"after", utf8);
    assert_eq!(heard.recv_timeout(LIMIT), text("after"));

    // A secret: nobody asks for it.
    other.offer(&[utf8, other.atom("x-kde-passwordManagerHint")]);
    assert_eq!(heard.recv_timeout(LIMIT), Ok(ClipboardEvent::Secret));
    other.copy(b"no secret", utf8);
    assert_eq!(heard.recv_timeout(LIMIT), text("no secret"));

    drop(server);
    let ended = heard.recv_timeout(LIMIT);
    assert!(matches!(ended, Ok(ClipboardEvent::Ended(_))), "{ended:?}");
    assert!(!clipboard.set("late".into()));
}

#[test]
#[ignore = "needs Xvfb"]
fn what_is_set_can_be_pasted_and_is_not_told() {
    let server = Xvfb::start();
    let (clipboard, heard) = server.clipboard(true);
    let other = Other::new(&server);
    let [utf8, targets, time, picture] =
        ["UTF8_STRING", "TARGETS", "TIMESTAMP", "image/png"].map(|name| other.atom(name));
    let (latin, atom) = (Atom::from(AtomEnum::STRING), Atom::from(AtomEnum::ATOM));
    assert!(clipboard.read(true) && clipboard.set("older".into()));
    assert!(clipboard.set("z\u{e4}h".into()));
    other.await_owner(true);
    let pasted = |target| other.paste(target).map(|(bytes, _)| bytes);
    let end = Instant::now() + LIMIT;
    while pasted(utf8).as_deref() != Some("z\u{e4}h".as_bytes()) {
        assert!(Instant::now() < end, "the newest is not there");
    }
    assert_eq!(other.paste(latin), Some((b"z\xe4h".to_vec(), latin)));
    let (list, kind) = other.paste(targets).expect("TARGETS");
    let list: Vec<Atom> = list
        .chunks_exact(4)
        .filter_map(|word| Some(u32::from_ne_bytes(*word.first_chunk()?)))
        .collect();
    assert!(kind == atom && list.contains(&utf8) && list.contains(&targets));
    assert_eq!(pasted(time).map(|bytes| bytes.len()), Some(4));
    assert_eq!(pasted(picture), None);
    assert!(clipboard.set("\u{20ac}".into()));
    let end = Instant::now() + LIMIT;
    while pasted(utf8).as_deref() != Some("\u{20ac}".as_bytes()) {
        assert!(Instant::now() < end, "the newest is not there");
    }
    assert_eq!(pasted(latin), None, "not a Latin letter");

    // Nothing of it was told; what another copies is, and takes the clipboard over.
    other.copy(b"other", utf8);
    assert_eq!(heard.recv_timeout(LIMIT), text("other"));
    assert_eq!(other.owner(), other.window);
    assert!(clipboard.read(false));
    assert!(clipboard.set("last".into()));
    drop(clipboard);
    other.await_owner(true);
    assert_eq!(pasted(utf8).as_deref(), Some(&b"last"[..]), "after the end");
    // Until another program copies: then the thread has nothing left to do, and lets the channel go.
    other.own();
    let ended = heard.recv_timeout(LIMIT);
    assert!(ended.is_err_and(|error| error == std::sync::mpsc::RecvTimeoutError::Disconnected));
}

#[test]
#[ignore = "needs Xvfb"]
fn what_is_there_already_is_told_if_wanted() {
    let server = Xvfb::start();
    let other = Other::new(&server);
    let utf8 = other.atom("UTF8_STRING");
    other.own();
    let (clipboard, heard) = server.clipboard(true);
    assert!(clipboard.read(true));
    other.answer(&other.request(), x11rb::NONE);
    let event = other.request();
    let (window, property) = (event.requestor, event.property);
    other
        .connection
        .change_property8(PropMode::REPLACE, window, property, utf8, b"before")
        .expect("sent");
    other.answer(&event, property);
    assert_eq!(heard.recv_timeout(LIMIT), text("before"));
    let (gone, heard) = start(x11(":no-such-display"), LONGEST, true);
    let ended = heard.recv_timeout(LIMIT);
    assert!(matches!(ended, Ok(ClipboardEvent::Ended(_))), "{ended:?}");
    assert!(!gone.read(true));
}
