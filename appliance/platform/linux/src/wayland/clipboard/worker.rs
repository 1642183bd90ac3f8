//! The thread: events of the compositor, pipes of other programs, and orders.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Mutex;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use wayland_client::backend::WaylandError;
use wayland_client::protocol::wl_seat::WlSeat;
use wayland_client::{Connection, DispatchError, EventQueue};

use super::incoming::Incoming;
use super::kinds::Kinds;
use super::outgoing::Outgoing;
use super::protocol::{self, Control};
use super::state::{Own, State};
use crate::clipboard::{ClipboardEvent, ClipboardOptions, Order, Orders, Patience, Step, next};
use crate::waker::Waker;

/// A connection to the compositor.
pub(crate) struct Worker<'a> {
    options: &'a ClipboardOptions,
    queue: EventQueue<State>,
    state: State,
    control: Box<dyn Control>,
    /// Others' texts are told.
    read: bool,
    /// How many texts we have put into the clipboard.
    copied: u64,
    incoming: Option<Incoming>,
}

impl<'a> Worker<'a> {
    pub(crate) fn open(options: &'a ClipboardOptions, socket: &Path) -> Result<Self, String> {
        let stream = UnixStream::connect(socket)
            .map_err(|error| format!("cannot connect to the compositor: {error}"))?;
        let connection = Connection::from_socket(stream).map_err(|error| error.to_string())?;
        let mut queue = connection.new_event_queue();
        let (handle, mut state) = (queue.handle(), State::default());
        let registry = connection.display().get_registry(&handle, ());
        sync(&connection, &mut queue, &mut state)?;
        let (open, name): (protocol::Open, _) = match (state.ext, state.wlr) {
            (Some(name), _) => (protocol::open_ext, name),
            (None, Some(name)) => (protocol::open_wlr, name),
            (None, None) => {
                let why = "the compositor has neither ext-data-control nor wlr-data-control";
                return Err(why.to_owned());
            }
        };
        let seat = state.seat.ok_or("the compositor has no seat")?;
        let seat: WlSeat = registry.bind(seat, 1, &handle, ());
        let control = open(name, &registry, &seat, &handle);
        // What is in the clipboard already is known then.
        sync(&connection, &mut queue, &mut state)?;
        state.changed = false;
        Ok(Self {
            options,
            queue,
            state,
            control,
            read: false,
            copied: 0,
            incoming: None,
        })
    }

    /// Serves until nobody wants it any more, or the compositor is gone.
    pub(crate) fn serve(
        &mut self,
        orders: &Mutex<Orders>,
        waker: &Waker,
        on_event: &mut impl FnMut(ClipboardEvent),
    ) -> Result<(), String> {
        loop {
            dispatch(&mut self.queue, &mut self.state)?;
            if self.state.finished {
                return Err("the compositor's seat is gone".to_owned());
            }
            let serves = self.state.own.is_some() || !self.state.outgoing.is_empty();
            let Some(order) = next(orders, serves) else {
                return Ok(());
            };
            let copied = self.look();
            let found = self.follow(order);
            for event in [copied, found, self.advance()].into_iter().flatten() {
                on_event(event);
            }
            self.wait(waker)?;
        }
    }

    /// Something else is in the clipboard.
    fn look(&mut self) -> Option<ClipboardEvent> {
        if !std::mem::take(&mut self.state.changed) {
            return None;
        }
        self.incoming = None;
        if self.read { self.begin() } else { None }
    }

    fn follow(&mut self, order: Order) -> Option<ClipboardEvent> {
        if let Some(text) = order.set {
            self.incoming = None;
            self.copied += 1;
            let (number, handle) = (self.copied, self.queue.handle());
            let source = self.control.copy(number, &self.state.mark, &handle);
            let own = Own {
                number,
                source,
                text,
            };
            if let Some(before) = self.state.own.replace(own) {
                before.source.destroy();
            }
        }
        if order.read == self.read {
            return None;
        }
        self.read = order.read;
        if !self.read {
            self.incoming = None;
        } else if self.options.current && self.state.own.is_none() {
            return self.begin();
        }
        None
    }

    /// Asks for what another program has in the clipboard, unless it is a secret.
    fn begin(&mut self) -> Option<ClipboardEvent> {
        let offer = self.state.offer.as_deref()?;
        if offer.kinds().is_some_and(Kinds::is_secret) {
            return Step::Secret.event();
        }
        match Incoming::begin(offer, self.options.longest) {
            Ok(incoming) => self.incoming = incoming,
            Err(error) => tracing::warn!(%error, "what was copied is not read"),
        }
        None
    }

    /// Moves texts on, both ways.
    fn advance(&mut self) -> Option<ClipboardEvent> {
        self.state.outgoing.retain_mut(Outgoing::step);
        let step = self.incoming.as_mut()?.step();
        if step != Step::More {
            self.incoming = None;
        }
        step.event()
    }

    /// Sleeps until there is an event or an order, a pipe can be used, or a program has been waited for long enough.
    fn wait(&self, waker: &Waker) -> Result<(), String> {
        let outgoing = &self.state.outgoing;
        let mut fds = vec![PollFd::new(waker.as_fd(), PollFlags::POLLIN)];
        let incoming = self.incoming.iter();
        fds.extend(incoming.map(|one| PollFd::new(one.as_fd(), PollFlags::POLLIN)));
        let pasting = outgoing.iter();
        fds.extend(pasting.map(|one| PollFd::new(one.as_fd(), PollFlags::POLLOUT)));
        let all = self.incoming.iter().map(Incoming::patience);
        let soonest = all.chain(outgoing.iter().map(Outgoing::patience)).min();
        wait(&self.queue, fds, Patience::timeout(soonest))?;
        let _ = waker.clear();
        Ok(())
    }
}

/// Waits until the compositor has answered all that it was asked.
fn sync(
    connection: &Connection,
    queue: &mut EventQueue<State>,
    state: &mut State,
) -> Result<(), String> {
    let patience = Patience::begin();
    state.synced = false;
    connection.display().sync(&queue.handle(), ());
    loop {
        dispatch(queue, state)?;
        if state.synced {
            return Ok(());
        }
        if patience.is_over() {
            return Err("the compositor does not answer".to_owned());
        }
        wait(queue, Vec::new(), Patience::timeout(Some(patience)))?;
    }
}

fn dispatch(queue: &mut EventQueue<State>, state: &mut State) -> Result<(), String> {
    queue.dispatch_pending(state).map_err(|error| match error {
        DispatchError::Backend(error) => gone(&error),
        error @ DispatchError::BadMessage { .. } => format!("the compositor errs: {error}"),
    })?;
    Ok(())
}

/// Sends what is to be sent, and sleeps until the compositor has something, one of `fds` is ready, or the time is over.
fn wait(
    queue: &EventQueue<State>,
    fds: Vec<PollFd<'_>>,
    timeout: PollTimeout,
) -> Result<(), String> {
    let mut wanted = PollFlags::POLLIN;
    match queue.flush() {
        Ok(()) => {}
        // It does not read: the rest goes when it does.
        Err(error) if would_block(&error) => wanted |= PollFlags::POLLOUT,
        Err(error) => return Err(gone(&error)),
    }
    // None while there are events to be dispatched first.
    let Some(guard) = queue.prepare_read() else {
        return Ok(());
    };
    let mut fds = fds;
    fds.push(PollFd::new(guard.connection_fd(), wanted));
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error.to_string()),
    }
    let ready = fds.last().and_then(PollFd::any).unwrap_or_default();
    drop(fds);
    if !ready {
        return Ok(());
    }
    match guard.read() {
        Err(error) if !would_block(&error) => Err(gone(&error)),
        _ => Ok(()),
    }
}

fn would_block(error: &WaylandError) -> bool {
    matches!(error, WaylandError::Io(error) if error.kind() == io::ErrorKind::WouldBlock)
}

fn gone(error: &WaylandError) -> String {
    format!("the compositor is gone: {error}")
}
