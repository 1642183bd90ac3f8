//! What a screen without devices shows of the input that it received.

/// Longest text kept, in characters.
pub const ECHO_TEXT: usize = 64;

/// Most keys named.
pub const ECHO_KEYS: usize = 8;

/// The test card's view of received input: plain data, drawn by the video side, written by the input side.
///
/// Kept by the reader and filled again for each picture, so that nothing is allocated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EchoSnapshot {
    /// Names of the keys down, at most [`ECHO_KEYS`], oldest first.
    pub keys_held: Vec<&'static str>,
    /// Pointer, 0 left or top to 65535 right or bottom.
    pub pointer: (u16, u16),
    /// Bit 0 left, bit 1 right, bit 2 middle, then the following buttons.
    pub buttons: u8,
    /// The last typed characters, at most [`ECHO_TEXT`], as on a US keyboard; tabulator and line end are spaces.
    pub text: String,
    /// Reports applied since the start; wraps.
    pub reports: u32,
}
