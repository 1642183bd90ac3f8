//! One text on its way from the program that has copied it (ICCCM §2.4, large ones in pieces by §2.7.2). Each has a window of
//! its own: what an abandoned one still sends finds nobody.

use x11rb::connection::Connection;
use x11rb::errors::{ConnectionError, ReplyError};
use x11rb::protocol::xproto::{
    Atom, AtomEnum, ConnectionExt as _, CreateWindowAux, EventMask, Property, PropertyNotifyEvent,
    SelectionNotifyEvent, Timestamp, Window, WindowClass,
};
use x11rb::rust_connection::RustConnection;

use super::worker::Atoms;
use crate::clipboard::{Patience, Step};

#[derive(Debug)]
pub(super) struct Incoming {
    window: Window,
    /// What can still be asked for, the best last.
    targets: Vec<Atom>,
    target: Atom,
    time: Timestamp,
    /// What has come so far, once it comes in pieces.
    pieces: Option<Vec<u8>>,
    longest: usize,
    patience: Patience,
}

impl Incoming {
    /// Asks who has the clipboard since `time` for a text of `longest` bytes at most, after what it can be asked for at all: a
    /// secret is not asked for.
    pub(super) fn begin(
        connection: &RustConnection,
        root: Window,
        atoms: &Atoms,
        time: Timestamp,
        longest: usize,
    ) -> Result<Self, ReplyError> {
        let id = connection.generate_id();
        let window = id.map_err(|_| ConnectionError::UnsupportedExtension)?;
        let events = CreateWindowAux::new().event_mask(EventMask::PROPERTY_CHANGE);
        let class = WindowClass::INPUT_ONLY;
        connection.create_window(0, window, root, 0, 0, 1, 1, 0, class, 0, &events)?;
        let mut own = Self {
            window,
            targets: vec![
                AtomEnum::STRING.into(),
                atoms.PLAIN_UTF8,
                atoms.UTF8_STRING,
                atoms.TARGETS,
            ],
            target: x11rb::NONE,
            time,
            pieces: None,
            longest,
            patience: Patience::begin(),
        };
        own.ask(connection, atoms)?;
        Ok(own)
    }

    /// How long to wait for it.
    pub(super) fn patience(&self) -> Patience {
        self.patience
    }

    /// It is not waited for any more.
    pub(super) fn is_over(&self) -> bool {
        self.patience.is_over()
    }

    /// Takes its window away.
    pub(super) fn end(&self, connection: &RustConnection) -> Result<(), ConnectionError> {
        connection.destroy_window(self.window)?;
        Ok(())
    }

    fn ask(&mut self, connection: &RustConnection, atoms: &Atoms) -> Result<Step, ReplyError> {
        let Some(target) = self.targets.pop() else {
            return Ok(Step::NoText);
        };
        self.target = target;
        let (from, to) = (atoms.CLIPBOARD, atoms.SOFT_KVM);
        connection.convert_selection(self.window, from, target, to, self.time)?;
        Ok(Step::More)
    }

    /// The program has answered.
    pub(super) fn answered(
        &mut self,
        connection: &RustConnection,
        atoms: &Atoms,
        event: &SelectionNotifyEvent,
    ) -> Result<Step, ReplyError> {
        if event.requestor != self.window || event.target != self.target || self.pieces.is_some() {
            return Ok(Step::More);
        }
        if event.property == x11rb::NONE {
            return self.ask(connection, atoms);
        }
        let (value, kind, more) = self.take(connection, event.property)?;
        if self.target == atoms.TARGETS {
            let list = Atom::from(AtomEnum::ATOM);
            if kind == list && names(&value, atoms.SECRET) {
                return Ok(Step::Secret);
            }
            return self.ask(connection, atoms);
        }
        if kind == atoms.INCR {
            let least = value
                .first_chunk()
                .map_or(0, |least| u32::from_ne_bytes(*least));
            if usize::try_from(least).unwrap_or(usize::MAX) > self.longest {
                return Ok(Step::TooLong);
            }
            // That the property is gone is the sign to go on.
            self.pieces = Some(Vec::new());
            return Ok(Step::More);
        }
        if more || value.len() > self.longest {
            return Ok(Step::TooLong);
        }
        Ok(self.text(value, kind, atoms))
    }

    /// A property has changed: perhaps the next piece is there.
    pub(super) fn changed(
        &mut self,
        connection: &RustConnection,
        atoms: &Atoms,
        event: &PropertyNotifyEvent,
    ) -> Result<Step, ReplyError> {
        let ours = event.window == self.window && event.atom == atoms.SOFT_KVM;
        if !ours || event.state != Property::NEW_VALUE || self.pieces.is_none() {
            return Ok(Step::More);
        }
        let (piece, kind, more) = self.take(connection, event.atom)?;
        let Some(pieces) = &mut self.pieces else {
            return Ok(Step::More);
        };
        if piece.is_empty() && !more {
            let all = std::mem::take(pieces);
            return Ok(self.text(all, kind, atoms));
        }
        if more || pieces.len() + piece.len() > self.longest {
            return Ok(Step::TooLong);
        }
        pieces.extend_from_slice(&piece);
        Ok(Step::More)
    }

    /// A property's value, its type, and whether there is more of it than we take; without more it is deleted.
    fn take(
        &self,
        connection: &RustConnection,
        property: Atom,
    ) -> Result<(Vec<u8>, Atom, bool), ReplyError> {
        let words = u32::try_from(self.longest / 4 + 1).unwrap_or(u32::MAX);
        let any = AtomEnum::ANY;
        let reply = connection
            .get_property(true, self.window, property, any, 0, words)?
            .reply()?;
        Ok((reply.value, reply.type_, reply.bytes_after > 0))
    }

    fn text(&self, value: Vec<u8>, kind: Atom, atoms: &Atoms) -> Step {
        let latin: Atom = AtomEnum::STRING.into();
        if self.target == latin && kind != atoms.UTF8_STRING {
            return Step::Text(value.into_iter().map(char::from).collect());
        }
        Step::utf8(value)
    }
}

/// Whether a list of atoms has this one.
fn names(list: &[u8], atom: Atom) -> bool {
    list.chunks_exact(4).any(|word| word == atom.to_ne_bytes())
}
