//! The cursor beside the video: its picture on the control channel, its places in datagrams.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use soft_kvm_core::MonoTime;
use std::time::Duration;

/// Bytes of PNG that a [`CursorShape`] holds at most: the message stays below [`crate::control::MAX_MESSAGE`].
pub const MAX_PNG: usize = 45_000;

/// Pictures that a client keeps; the server knows which, and does not send those again.
pub const KEPT: usize = 16;

/// Bytes of a position datagram.
pub const POSITION_LEN: usize = 18;

const VERSION: u8 = 1;
/// Follows the kinds of `docs/WIRE.md`, Input.
const KIND: u8 = 3;

/// When a position is repeated: after the first, the second… time, and then again and again after the last.
const REPEATS: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(60),
    Duration::from_millis(200),
    Duration::from_secs(1),
];

/// A cursor's picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CursorShape {
    /// What positions call it; from 1 up, never used for another picture in a session.
    pub id: u32,
    /// The pixel that points, from the upper left corner.
    pub hot_x: i32,
    /// As `hot_x`.
    pub hot_y: i32,
    /// A PNG file with 8-bit RGBA in base64 (RFC 4648 §4).
    png: String,
}

impl CursorShape {
    /// A picture; `None` if its PNG is longer than [`MAX_PNG`].
    #[must_use]
    pub fn new(id: u32, hot: (i32, i32), png: &[u8]) -> Option<Self> {
        (png.len() <= MAX_PNG).then(|| Self {
            id,
            hot_x: hot.0,
            hot_y: hot.1,
            png: STANDARD.encode(png),
        })
    }

    /// The PNG's bytes, of which nothing is checked; `None` if it is no base64 or too long.
    #[must_use]
    pub fn png(&self) -> Option<Vec<u8>> {
        let bytes = STANDARD.decode(&self.png).ok()?;
        (bytes.len() <= MAX_PNG).then_some(bytes)
    }
}

/// Where the cursor is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CursorPosition {
    /// Goes up, also from session to session; the highest is the newest.
    pub count: u32,
    /// The picture's id; 0 when no cursor is shown.
    pub shape: u32,
    /// Column of the picture's upper left corner in the video; may lie outside.
    pub x: i32,
    /// Line of it.
    pub y: i32,
}

impl CursorPosition {
    /// As it goes into a datagram.
    #[must_use]
    pub fn to_bytes(self) -> [u8; POSITION_LEN] {
        let mut bytes = [0; POSITION_LEN];
        let fields = [
            self.count.to_be_bytes(),
            self.shape.to_be_bytes(),
            self.x.to_be_bytes(),
            self.y.to_be_bytes(),
        ];
        let head = [VERSION, KIND].into_iter();
        for (byte, value) in bytes
            .iter_mut()
            .zip(head.chain(fields.into_iter().flatten()))
        {
            *byte = value;
        }
        bytes
    }

    /// From a datagram; `None` if it is of another length, version or kind.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; POSITION_LEN] = bytes.try_into().ok()?;
        let (&[VERSION, KIND], rest) = bytes.split_first_chunk()? else {
            return None;
        };
        let (fields, _) = rest.as_chunks::<4>();
        let &[count, shape, x, y] = fields else {
            return None;
        };
        Some(Self {
            count: u32::from_be_bytes(count),
            shape: u32::from_be_bytes(shape),
            x: i32::from_be_bytes(x),
            y: i32::from_be_bytes(y),
        })
    }

    /// Whether it is newer than another; counts go round.
    #[must_use]
    pub const fn is_after(self, other: Self) -> bool {
        let ahead = self.count.wrapping_sub(other.count);
        ahead != 0 && ahead < 1 << 31
    }
}

/// Sends the newest position, and repeats it in case it was lost. No call allocates.
#[derive(Debug, Default)]
pub struct CursorSender {
    position: CursorPosition,
    due: Option<MonoTime>,
    sent: usize,
}

impl CursorSender {
    /// The cursor is somewhere else.
    pub const fn set(&mut self, now: MonoTime, position: CursorPosition) {
        self.position = position;
        self.due = Some(now);
        self.sent = 0;
    }

    /// Nobody looks any more.
    pub const fn clear(&mut self) {
        self.due = None;
    }

    /// The payload to be sent now, if one is due.
    pub fn poll_transmit(&mut self, now: MonoTime) -> Option<[u8; POSITION_LEN]> {
        self.due.filter(|&due| due <= now)?;
        let pause = REPEATS.get(self.sent).or(REPEATS.last())?;
        self.sent = self.sent.saturating_add(1);
        self.due = Some(now + *pause);
        Some(self.position.to_bytes())
    }

    /// When to ask again.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<MonoTime> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::control::{FromServer, MAX_MESSAGE};

    #[test]
    fn the_longest_picture_fits_into_a_message() {
        let shape = CursorShape::new(u32::MAX, (i32::MIN, i32::MIN), &[7; MAX_PNG]).expect("fits");
        assert_eq!(shape.png().expect("base64"), [7; MAX_PNG]);
        let text = serde_json::to_string(&FromServer::Cursor(shape)).expect("JSON");
        assert!(text.len() < MAX_MESSAGE, "{}", text.len());
        assert!(CursorShape::new(1, (0, 0), &[0; MAX_PNG + 1]).is_none());
        let text = r#"{"type":"cursor","id":1,"hot_x":2,"hot_y":-3,"png":"AAEC"}"#;
        let Ok(FromServer::Cursor(shape)) = serde_json::from_str(text) else {
            panic!("it is as documented");
        };
        assert_eq!((shape.hot_y, shape.png()), (-3, Some(vec![0, 1, 2])));
    }

    #[test]
    fn positions_have_the_documented_form() {
        let position = CursorPosition {
            count: 0x0102_0304,
            shape: 5,
            x: -1,
            y: 256,
        };
        let bytes = [1, 3, 1, 2, 3, 4, 0, 0, 0, 5, 255, 255, 255, 255, 0, 0, 1, 0];
        assert_eq!(position.to_bytes(), bytes);
        assert_eq!(CursorPosition::from_bytes(&bytes), Some(position));
    }

    #[test]
    fn the_newest_is_repeated_and_older_ones_are_known() {
        let at = |millis: u64| MonoTime::from_nanos(millis * 1_000_000);
        let mut sender = CursorSender::default();
        assert_eq!(sender.poll_transmit(at(0)), None);
        let one = CursorPosition {
            count: u32::MAX,
            ..CursorPosition::default()
        };
        let two = CursorPosition { count: 0, ..one };
        assert!(two.is_after(one) && !one.is_after(two) && !one.is_after(one));
        sender.set(at(0), one);
        sender.set(at(1), two);
        let mut times = Vec::new();
        for now in 1..3_000 {
            if let Some(bytes) = sender.poll_transmit(at(now)) {
                assert_eq!(CursorPosition::from_bytes(&bytes), Some(two));
                times.push(now);
            }
        }
        assert_eq!(times, [1, 21, 81, 281, 1_281, 2_281]);
        sender.clear();
        assert_eq!(
            (sender.poll_timeout(), sender.poll_transmit(at(9_000))),
            (None, None)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_position_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(position) = CursorPosition::from_bytes(&bytes) {
                prop_assert_eq!(&position.to_bytes()[..], &bytes[..]);
            }
        }
    }
}
