//! Answers to programs that paste what we have put into the clipboard (ICCCM §2.2, §2.6.2).

use x11rb::connection::RequestConnection as _;
use x11rb::errors::ConnectionError;
use x11rb::protocol::xproto::{
    AtomEnum, ConnectionExt as _, EventMask, PropMode, SELECTION_NOTIFY_EVENT,
    SelectionNotifyEvent, SelectionRequestEvent, Timestamp,
};
use x11rb::rust_connection::RustConnection;
use x11rb::wrapper::ConnectionExt as _;

use super::worker::Atoms;

/// Room for a request besides its text, in bytes.
const REQUEST: usize = 64;

/// Answers `event` with `text`, which we have had since `since`. A program that has gone meanwhile does not matter.
pub(super) fn answer(
    connection: &RustConnection,
    atoms: &Atoms,
    event: &SelectionRequestEvent,
    text: &str,
    since: Timestamp,
) -> Result<(), ConnectionError> {
    // Programs from before ICCCM name no property.
    let property = match event.property {
        x11rb::NONE => event.target,
        property => property,
    };
    let window = event.requestor;
    let bytes = |kind, bytes: &[u8]| -> Result<bool, ConnectionError> {
        if bytes.len() + REQUEST > connection.maximum_request_bytes() {
            return Ok(false);
        }
        connection.change_property8(PropMode::REPLACE, window, property, kind, bytes)?;
        Ok(true)
    };
    let words = |kind: AtomEnum, words: &[u32]| -> Result<bool, ConnectionError> {
        connection.change_property32(PropMode::REPLACE, window, property, kind, words)?;
        Ok(true)
    };
    let latin = AtomEnum::STRING.into();
    let answered = match event.target {
        target if target == atoms.TARGETS => {
            let targets = [
                atoms.TARGETS,
                atoms.TIMESTAMP,
                atoms.UTF8_STRING,
                atoms.PLAIN_UTF8,
                atoms.TEXT,
                latin,
            ];
            words(AtomEnum::ATOM, &targets)?
        }
        target if target == atoms.TIMESTAMP => words(AtomEnum::INTEGER, &[since])?,
        target if target == atoms.UTF8_STRING || target == atoms.TEXT => {
            bytes(atoms.UTF8_STRING, text.as_bytes())?
        }
        target if target == atoms.PLAIN_UTF8 => bytes(target, text.as_bytes())?,
        target if target == latin => match to_latin(text) {
            Some(text) => bytes(target, &text)?,
            None => false,
        },
        _ => false,
    };
    let told = SelectionNotifyEvent {
        response_type: SELECTION_NOTIFY_EVENT,
        sequence: 0,
        time: event.time,
        requestor: window,
        selection: event.selection,
        target: event.target,
        property: if answered { property } else { x11rb::NONE },
    };
    connection.send_event(false, window, EventMask::NO_EVENT, told)?;
    Ok(())
}

/// ISO 8859-1, in which the character's number is the byte; `None` for a text with others.
fn to_latin(text: &str) -> Option<Vec<u8>> {
    text.chars()
        .map(|c| u8::try_from(u32::from(c)).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latin_letters_only() {
        assert_eq!(to_latin("z\u{e4}h"), Some(vec![b'z', 0xe4, b'h']));
        assert_eq!(to_latin("\u{20ac}"), None);
    }
}
