//! The cursor's way to the clients: its pictures on the control channel, its places in datagrams of their own.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use soft_kvm_core::{MonoTime, Size};
use soft_kvm_platform::os::clock;
use soft_kvm_platform::os::net::UdpSocket;
use soft_kvm_protocol::control::FromServer;
use soft_kvm_protocol::cursor::{CursorPosition, CursorSender, CursorShape, KEPT, MAX_PNG};
use soft_kvm_protocol::input::carrier::InputSealer;
use soft_kvm_protocol::media::Sealer;
use soft_kvm_video::cursor::{Cursor, CursorImage};

use super::{OUTGOING, Outgoing, Session, lock};

/// Side of the piece of a picture that is sent when the whole does not fit into a message, in pixels: its bytes
/// fit even if they cannot be compressed.
const PIECE: u32 = 96;

/// The cursor as it is now, and the last pictures.
#[derive(Debug, Default)]
pub(super) struct CurrentCursor {
    position: CursorPosition,
    /// The last ones that differed, newest last, with what a client is told.
    shapes: VecDeque<(Arc<CursorImage>, CursorShape)>,
    ids: u32,
}

/// What one client knows of it.
#[derive(Debug)]
pub(super) struct SessionCursor {
    sender: CursorSender,
    sealer: InputSealer,
    /// Pictures that the client keeps, oldest first.
    kept: VecDeque<u32>,
}

impl CurrentCursor {
    /// Takes the cursor over; whether anything about it is new.
    pub(super) fn set(&mut self, cursor: &Cursor) -> bool {
        let shape = match &cursor.image {
            Some(image) => self.shape(image),
            None => 0,
        };
        let (x, y) = cursor.position;
        let old = self.position;
        if (old.shape, old.x, old.y) == (shape, x, y) || (old.shape, shape) == (0, 0) {
            return false;
        }
        self.position = CursorPosition {
            count: old.count.wrapping_add(1),
            shape,
            x,
            y,
        };
        true
    }

    /// The id of a picture; 0 when it cannot be sent.
    fn shape(&mut self, image: &Arc<CursorImage>) -> u32 {
        let same = |known: &Arc<CursorImage>| Arc::ptr_eq(known, image) || known == image;
        // A cursor changes between a few pictures: arrow, text, hand.
        if let Some((known, shape)) = self.shapes.iter_mut().rev().find(|(known, _)| same(known)) {
            *known = Arc::clone(image);
            return shape.id;
        }
        let id = self.ids + 1;
        let shape = match shape(id, image) {
            Ok(shape) => shape,
            Err(error) => {
                tracing::warn!(%error, size = %image.size, "the cursor cannot be sent");
                return 0;
            }
        };
        self.ids = id;
        self.shapes.push_back((Arc::clone(image), shape));
        if self.shapes.len() > KEPT {
            self.shapes.pop_front();
        }
        id
    }
}

impl SessionCursor {
    pub(super) fn new(sealer: Sealer) -> Self {
        Self {
            sender: CursorSender::default(),
            sealer: InputSealer::new(sealer),
            kept: VecDeque::with_capacity(KEPT + 1),
        }
    }
}

impl Session {
    /// Tells the client where the cursor is, and how it looks if it does not know that.
    pub(super) fn show_cursor(&self, current: &CurrentCursor) {
        let position = current.position;
        if position.count == 0 {
            return;
        }
        let mut cursor = lock(&self.cursor);
        // Pictures of an animated cursor must not fill the channel of a client that is slow: a later one will do.
        let room = self.outgoing.len() < OUTGOING / 2;
        if position.shape != 0 && room && !cursor.kept.contains(&position.shape) {
            let shape = current
                .shapes
                .iter()
                .find(|(_, shape)| shape.id == position.shape);
            if let Some((_, shape)) = shape {
                self.tell(Outgoing::Message(FromServer::Cursor(shape.clone())));
                cursor.kept.push_back(position.shape);
                if cursor.kept.len() > KEPT {
                    cursor.kept.pop_front();
                }
            }
        }
        cursor.sender.set(clock::now(), position);
    }

    /// The client does not watch any more.
    pub(super) fn forget_cursor(&self) {
        lock(&self.cursor).sender.clear();
    }

    /// Sends the position if it is due; says when it is again.
    pub(super) fn send_cursor(&self, socket: &UdpSocket) -> Option<MonoTime> {
        let to = (*lock(&self.remote))?;
        let mut cursor = lock(&self.cursor);
        let cursor = &mut *cursor;
        let now = clock::now();
        if let Some(payload) = cursor.sender.poll_transmit(now) {
            match cursor.sealer.seal(now, &payload) {
                Ok(packet) => {
                    // Repeated soon, or replaced by a newer one.
                    if let Err(error) = socket.send(to, packet) {
                        tracing::trace!(client = self.name, %error, "sending the cursor");
                    }
                }
                Err(error) => tracing::error!(client = self.name, %error, "sealing the cursor"),
            }
        }
        cursor.sender.poll_timeout()
    }
}

/// The message for a picture; of one that is too large for it, only the upper left part.
fn shape(id: u32, image: &CursorImage) -> io::Result<CursorShape> {
    let png = png(image)?;
    if png.len() <= MAX_PNG
        && let Some(shape) = CursorShape::new(id, image.hot, &png)
    {
        return Ok(shape);
    }
    let piece = piece(image);
    CursorShape::new(id, piece.hot, &self::png(&piece)?)
        .ok_or_else(|| io::Error::other("its PNG is too long"))
}

fn png(image: &CursorImage) -> io::Result<Vec<u8>> {
    let (pixels, _) = image.pixels.as_chunks::<4>();
    // PNG has plain colours beside the opacity.
    let plain = |colour: u8, alpha: u8| {
        let alpha = u32::from(alpha);
        let sum = u32::from(colour) * 255 + alpha / 2;
        u8::try_from(sum.checked_div(alpha).unwrap_or(0)).unwrap_or(255)
    };
    let rgba: Vec<u8> = pixels
        .iter()
        .flat_map(|&[b, g, r, a]| [plain(r, a), plain(g, a), plain(b, a), a])
        .collect();
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, image.size.width, image.size.height);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&rgba)?;
    writer.finish()?;
    Ok(bytes)
}

/// The upper left part, where arrows point, as large as surely fits.
fn piece(image: &CursorImage) -> CursorImage {
    let size = Size::new(image.size.width.min(PIECE), image.size.height.min(PIECE));
    let line = image.size.width as usize * 4;
    let pixels = image
        .pixels
        .chunks_exact(line.max(1))
        .take(size.height as usize)
        .flat_map(|line| line.get(..size.width as usize * 4).unwrap_or_default())
        .copied()
        .collect();
    CursorImage {
        size,
        hot: image.hot,
        pixels,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(side: u32, seed: u8) -> Arc<CursorImage> {
        let mut state = u32::from(seed) + 1;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        let size = Size::new(side, side);
        let pixels = (0..size.pixels()).flat_map(|_| [next(), next(), next(), 255]);
        Arc::new(CursorImage {
            size,
            hot: (1, 2),
            pixels: pixels.collect(),
        })
    }

    fn at(image: &Arc<CursorImage>, x: i32) -> Cursor {
        Cursor {
            image: Some(Arc::clone(image)),
            position: (x, 0),
        }
    }

    #[test]
    fn a_picture_seen_before_has_its_old_id() {
        let mut current = CurrentCursor::default();
        assert!(!current.set(&Cursor::default()), "none is no news");
        let (arrow, hand) = (image(8, 1), image(8, 2));
        assert!(current.set(&at(&arrow, 0)));
        assert!(!current.set(&at(&image(8, 1), 0)), "the same again");
        assert!(current.set(&at(&hand, 0)));
        assert!(current.set(&at(&image(8, 1), 0)));
        assert_eq!((current.position.shape, current.position.count), (1, 3));
        assert!(current.set(&Cursor::default()));
        assert_eq!(current.position.shape, 0);
        for seed in 0..200 {
            current.set(&at(&image(8, seed), 0));
        }
        assert_eq!(current.shapes.len(), KEPT);
    }

    #[test]
    fn pictures_come_back_from_their_png_and_noise_is_cut() {
        for (side, expected) in [(64, 64), (256, PIECE)] {
            let image = image(side, 7);
            let shape = shape(1, &image).expect("it can be sent");
            let png = shape.png().expect("base64");
            let mut reader = png::Decoder::new(io::Cursor::new(png))
                .read_info()
                .expect("a PNG");
            let mut rgba = vec![0; reader.output_buffer_size().expect("small")];
            let info = reader.next_frame(&mut rgba).expect("its picture");
            assert_eq!((info.width, info.height), (expected, expected));
            let second = (side * 4) as usize;
            let wanted = &image.pixels[second..second + 4];
            let got = &rgba[(expected * 4) as usize..][..4];
            assert_eq!([got[2], got[1], got[0], got[3]], *wanted);
        }
    }
}
