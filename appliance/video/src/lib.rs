//! Pictures: frames, damage, conversion, the test card, and the traits of sources and codecs.
//!
//! Data flow: a [`source::VideoSource`] hands [`frame::Frame`]s to a one-slot [`slot::NewestSlot`]; the
//! encoder's thread takes the newest, compares and converts its changed tiles, and runs a
//! [`codec::VideoEncoder`]. Nothing here reads a clock, opens a device or starts a thread.
#![forbid(unsafe_code)]

pub mod barcode;
pub mod codec;
pub mod convert;
pub mod draw;
pub mod frame;
pub mod measure;
pub mod memory;
pub mod reason;
pub mod slot;
pub mod source;
pub mod testcard;
