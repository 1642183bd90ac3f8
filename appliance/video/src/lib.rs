//! Pictures: frames, damage, conversion, the test card, and the traits of sources and codecs.
//!
//! Data flow: a [`source::VideoSource`] hands [`frame::Frame`]s to a one-slot [`slot::NewestSlot`]; the
//! encoder's thread takes the newest, compares and converts its changed tiles, and runs a
//! [`codec::VideoEncoder`]. Nothing here reads a clock, opens a device or starts a thread.
#![forbid(unsafe_code)]

pub mod barcode;
pub mod codec;
pub mod compose;
pub mod convert;
pub mod cursor;
pub mod draw;
pub mod frame;
pub mod level;
pub mod measure;
pub mod memory;
pub mod pace;
pub mod reason;
pub mod slot;
pub mod source;
pub mod testcard;

/// Bodies of the fuzz targets in `fuzz/`. Not a public interface.
#[doc(hidden)]
pub mod fuzzing {
    use crate::cursor::{CursorImage, MAX_CURSOR};

    /// Any bytes as the PNG of a cursor.
    pub fn cursor_png(data: &[u8]) {
        if let Ok(image) = CursorImage::from_png(data, (0, 0)) {
            assert!(image.size.width <= MAX_CURSOR && image.size.height <= MAX_CURSOR);
            assert_eq!(image.pixels.len(), image.size.pixels() * 4);
        }
    }
}
