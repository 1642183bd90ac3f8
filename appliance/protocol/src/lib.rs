//! Wire formats and session state machines: bytes and time come in as arguments, bytes and events go out.
//!
//! Every byte is described in `docs/WIRE.md`. Nothing here reads a clock, opens a socket or starts a thread.
#![forbid(unsafe_code)]

pub mod clipboard;
pub mod control;
pub mod cursor;
pub mod handover;
pub mod input;
pub mod liveness;
pub mod media;
pub mod pairing;
pub mod roles;

/// Bodies of the fuzz targets in `fuzz/`. Not a public interface.
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::input::fuzzing::*;
    pub use crate::media::fuzzing::*;

    /// Any text as a message of the control channel, both ways.
    pub fn control_messages(data: &[u8]) {
        comes_back::<crate::control::FromClient>(data);
        comes_back::<crate::control::FromServer>(data);
    }

    /// Any text as a cursor's picture, any bytes as its place.
    pub fn cursor_messages(data: &[u8]) {
        use crate::cursor::{CursorPosition, CursorShape};
        comes_back::<CursorShape>(data);
        if let Ok(shape) = serde_json::from_slice::<CursorShape>(data) {
            let _ = shape.png();
        }
        if let Some(position) = CursorPosition::from_bytes(data) {
            assert_eq!(position.to_bytes().as_slice(), data);
        }
    }

    /// Any text as a message of the pairing exchange, both ways.
    pub fn pairing_messages(data: &[u8]) {
        comes_back::<crate::pairing::FromClient>(data);
        comes_back::<crate::pairing::FromServer>(data);
    }

    fn comes_back<T>(data: &[u8])
    where
        T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        if let Ok(message) = serde_json::from_slice::<T>(data) {
            let text = serde_json::to_vec(&message).expect("what was read can be written");
            assert_eq!(serde_json::from_slice::<T>(&text).ok(), Some(message));
        }
    }
}
