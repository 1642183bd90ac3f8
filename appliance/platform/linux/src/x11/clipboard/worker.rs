//! The thread: events of the display, and orders.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use x11rb::connection::Connection;
use x11rb::errors::{ConnectionError, ReplyError};
use x11rb::protocol::Event;
use x11rb::protocol::xfixes::{ConnectionExt as _, SelectionEventMask};
use x11rb::protocol::xproto::{
    ConnectionExt as _, CreateWindowAux, Timestamp, Window, WindowClass,
};
use x11rb::rust_connection::RustConnection;

use super::incoming::Incoming;
use super::outgoing;
use crate::clipboard::{
    ClipboardEvent, ClipboardOptions, Order, Orders, Patience, SECRET, Step, next,
};
use crate::waker::Waker;

x11rb::atom_manager! {
    /// Names that clipboards use.
    pub(super) Atoms: AtomsCookie {
        CLIPBOARD,
        TARGETS,
        TIMESTAMP,
        INCR,
        TEXT,
        UTF8_STRING,
        PLAIN_UTF8: b"text/plain;charset=utf-8",
        SECRET: SECRET.as_bytes(),
        SOFT_KVM: b"SOFT_KVM_CLIPBOARD",
    }
}

/// A connection to the display.
pub(crate) struct Worker<'a> {
    options: &'a ClipboardOptions,
    connection: RustConnection,
    root: Window,
    /// Ours, which has the selection while we do.
    window: Window,
    atoms: Atoms,
    /// Others' texts are told.
    read: bool,
    /// What we have put into the clipboard, while it is there, and since when.
    own: Option<Arc<str>>,
    since: Timestamp,
    incoming: Option<Incoming>,
}

impl<'a> Worker<'a> {
    pub(crate) fn open(options: &'a ClipboardOptions, display: &str) -> Result<Self, String> {
        let (connection, number) = x11rb::connect(Some(display))
            .map_err(|error| format!("cannot connect to the display: {error}"))?;
        let screen = connection.setup().roots.get(number);
        let root = screen.ok_or("the display has no such screen")?.root;
        let (window, atoms) = prepare(&connection, root).map_err(told)?;
        Ok(Self {
            options,
            connection,
            root,
            window,
            atoms,
            read: false,
            own: None,
            since: x11rb::CURRENT_TIME,
            incoming: None,
        })
    }

    /// Serves until nobody wants it any more, or the display is gone.
    pub(crate) fn serve(
        &mut self,
        orders: &Mutex<Orders>,
        waker: &Waker,
        on_event: &mut impl FnMut(ClipboardEvent),
    ) -> Result<(), String> {
        loop {
            let Some(order) = next(orders, self.own.is_some()) else {
                return Ok(());
            };
            self.follow(order).map_err(told)?;
            let mut idle = true;
            while let Some(event) = self.connection.poll_for_event().map_err(gone)? {
                idle = false;
                if let Some(event) = self.handle(&event).map_err(told)? {
                    on_event(event);
                }
            }
            self.connection.flush().map_err(gone)?;
            if !idle {
                // There may be nothing left to do.
                continue;
            }
            self.wait(waker).map_err(|error| error.to_string())?;
            if self.incoming.as_ref().is_some_and(Incoming::is_over) {
                self.abandon().map_err(gone)?;
            }
        }
    }

    /// Sleeps until there is an event or an order, or a text has been waited for long enough.
    fn wait(&self, waker: &Waker) -> Result<(), Errno> {
        let patience = self.incoming.as_ref().map(Incoming::patience);
        let mut fds = [
            PollFd::new(self.connection.stream().as_fd(), PollFlags::POLLIN),
            PollFd::new(waker.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, Patience::timeout(patience)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
        let _ = waker.clear();
        Ok(())
    }

    fn follow(&mut self, order: Order) -> Result<(), ReplyError> {
        let Order { read, set } = order;
        if let Some(text) = set {
            self.abandon()?;
            let (window, clipboard) = (self.window, self.atoms.CLIPBOARD);
            self.connection
                .set_selection_owner(window, clipboard, x11rb::CURRENT_TIME)?;
            self.own = Some(text);
        }
        if read == self.read {
            return Ok(());
        }
        self.read = read;
        let clipboard = self.atoms.CLIPBOARD;
        if !read {
            self.abandon()?;
        } else if self.options.current && self.own.is_none() {
            let owner = self.connection.get_selection_owner(clipboard)?.reply()?;
            if owner.owner != x11rb::NONE {
                self.begin(x11rb::CURRENT_TIME)?;
            }
        }
        Ok(())
    }

    fn handle(&mut self, event: &Event) -> Result<Option<ClipboardEvent>, ReplyError> {
        let clipboard = self.atoms.CLIPBOARD;
        let step = match event {
            Event::XfixesSelectionNotify(event) if event.selection == clipboard => {
                if event.owner == self.window {
                    self.since = event.selection_timestamp;
                } else if event.owner == x11rb::NONE || !self.read {
                    self.abandon()?;
                } else {
                    self.begin(event.selection_timestamp)?;
                }
                return Ok(None);
            }
            Event::SelectionClear(event) if event.selection == clipboard => {
                // We may have taken it back meanwhile.
                let owner = self.connection.get_selection_owner(clipboard)?.reply()?;
                if owner.owner != self.window {
                    self.own = None;
                }
                return Ok(None);
            }
            Event::SelectionRequest(event) if event.selection == clipboard => {
                let text = self.own.as_deref().unwrap_or_default();
                outgoing::answer(&self.connection, &self.atoms, event, text, self.since)?;
                return Ok(None);
            }
            Event::SelectionNotify(event) => match &mut self.incoming {
                Some(incoming) => incoming.answered(&self.connection, &self.atoms, event),
                None => Ok(Step::More),
            },
            Event::PropertyNotify(event) => match &mut self.incoming {
                Some(incoming) => incoming.changed(&self.connection, &self.atoms, event),
                None => Ok(Step::More),
            },
            // Of a program that has gone while it was answered.
            _ => Ok(Step::More),
        };
        let event = match step {
            Ok(Step::More) => return Ok(None),
            Ok(step) => step.event(),
            Err(ReplyError::X11Error(_)) => None,
            Err(error) => return Err(error),
        };
        self.abandon()?;
        Ok(event)
    }

    fn begin(&mut self, time: Timestamp) -> Result<(), ReplyError> {
        self.abandon()?;
        let longest = self.options.longest;
        let (connection, atoms) = (&self.connection, &self.atoms);
        self.incoming = Some(Incoming::begin(
            connection, self.root, atoms, time, longest,
        )?);
        Ok(())
    }

    fn abandon(&mut self) -> Result<(), ConnectionError> {
        match self.incoming.take() {
            Some(incoming) => incoming.end(&self.connection),
            None => Ok(()),
        }
    }
}

fn prepare(connection: &RustConnection, root: Window) -> Result<(Window, Atoms), ReplyError> {
    let atoms = Atoms::new(connection)?.reply()?;
    connection.xfixes_query_version(5, 0)?.reply()?;
    let id = connection.generate_id();
    let window = id.map_err(|_| ConnectionError::UnsupportedExtension)?;
    let (class, none) = (WindowClass::INPUT_ONLY, CreateWindowAux::new());
    connection
        .create_window(0, window, root, 0, 0, 1, 1, 0, class, 0, &none)?
        .check()?;
    let mask = SelectionEventMask::SET_SELECTION_OWNER;
    connection
        .xfixes_select_selection_input(window, atoms.CLIPBOARD, mask)?
        .check()?;
    Ok((window, atoms))
}

fn gone(error: ConnectionError) -> String {
    told(error.into())
}

fn told(error: ReplyError) -> String {
    match error {
        ReplyError::ConnectionError(ConnectionError::UnsupportedExtension) => {
            "the display has no XFixes extension".to_owned()
        }
        ReplyError::ConnectionError(error) => format!("the display is gone: {error}"),
        ReplyError::X11Error(error) => format!("the display refused: {error:?}"),
    }
}
