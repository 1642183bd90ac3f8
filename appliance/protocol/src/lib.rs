//! Wire formats and session state machines: bytes and time come in as arguments, bytes and events go out.
//!
//! Every byte is described in `docs/WIRE.md`. Nothing here reads a clock, opens a socket or starts a thread.
#![forbid(unsafe_code)]

pub mod control;
pub mod input;
pub mod media;
pub mod pairing;

/// Bodies of the fuzz targets in `fuzz/`. Not a public interface.
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::media::fuzzing::*;
}
