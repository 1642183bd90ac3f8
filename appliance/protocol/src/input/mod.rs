//! Input on the wire: what an operator's keyboards and mice report, and what comes back.
//!
//! Two kinds of messages share one binary form (big endian, first byte the version, second byte the kind, described
//! byte by byte in `docs/WIRE.md`):
//!
//! * **datagrams** ([`datagram`]): events and acknowledgements, the payload of SRTP packets with their own SSRC, so that
//!   nothing waits for a retransmission of TCP. Where UDP does not get through they travel in WebSocket binary messages;
//! * **records** ([`record`]): devices added and removed, LEDs, auto-repeat and force feedback back; always WebSocket
//!   binary messages.
//!
//! [`InputSender`] and [`InputReceiver`] are the two ends of the datagrams, without clock and socket.

pub mod carrier;
pub mod codes;
pub mod datagram;
pub mod device;
pub mod echo;
pub mod event;
pub mod force;
#[doc(hidden)]
pub mod fuzzing;
pub mod held;
pub mod path;
pub mod receiver;
pub mod record;
mod rtt;
pub mod sender;
pub mod springs;
mod wire;

pub use codes::{EventType, KeyCode};
pub use device::{AbsoluteAxis, DeviceDescriptor, Repeat};
pub use event::{DeviceId, EventReport, InputEvent};
pub use force::{Effect, EffectId, EffectKind, ForceAbilities, ForceChange, MAX_EFFECTS};
pub use held::HeldKeys;
pub use path::{InputPath, PathChooser};
pub use receiver::{InputHandler, InputReceiver, Received};
pub use record::{LedState, Record};
pub use sender::{AckSummary, InputSender};
pub use springs::Springs;
pub use wire::DecodeError;

use std::time::Duration;

/// Version of the binary form: the first byte of every message.
pub const INPUT_VERSION: u8 = 1;

/// Largest datagram payload, in bytes: fits an IPv6 path of 1280 with SRTP and its tag.
pub const MAX_DATAGRAM: usize = 1_200;

/// Largest reliable record, in bytes.
pub const MAX_RECORD: usize = 8 * 1_024;

/// Most events in one report; a longer kernel report is sent in parts, all but the last marked as unfinished.
pub const MAX_EVENTS: usize = 96;

/// Most keys and buttons that are down together, over all devices; more are not sent.
pub const MAX_HELD: usize = 128;

/// Most devices in one session.
pub const MAX_DEVICES: usize = 64;

/// Longest that the target waits before it acknowledges motion, so that not every step of a fast mouse costs an answer.
pub const ACK_DELAY: Duration = Duration::from_millis(4);

/// A session without a sign of life for this long has every key lifted on the target.
pub const LEASE: Duration = Duration::from_millis(250);

/// What a binary message is, by its second byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MessageKind {
    /// Events of the operator, [`datagram::InputDatagram`].
    Input,
    /// The target's acknowledgement, [`datagram::Ack`].
    Ack,
    /// A reliable [`Record`].
    Record,
    /// A reliable [`Record::Force`].
    Force,
}

/// Tells a message's kind without reading further, to route WebSocket messages.
///
/// # Errors
/// On an empty message, another version or an unknown kind.
pub fn message_kind(message: &[u8]) -> Result<MessageKind, DecodeError> {
    let mut reader = wire::Reader::new(message);
    match wire::read_head(&mut reader)? {
        datagram::KIND_INPUT => Ok(MessageKind::Input),
        datagram::KIND_ACK => Ok(MessageKind::Ack),
        kind if record::is_record(kind) => Ok(MessageKind::Record),
        kind if force::is_force(kind) => Ok(MessageKind::Force),
        kind => Err(DecodeError::Kind(kind)),
    }
}
