//! The server's cursor, which is not in the video: put together from its pictures and its places.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};

use soft_kvm_core::Size;
use soft_kvm_protocol::cursor::{CursorPosition, CursorShape, KEPT};
use soft_kvm_video::cursor::{Cursor, CursorImage};

use super::outputs::lock;
use super::stats::CursorReport;

/// The cursor of the current connection. The control channel brings pictures, the media thread places.
#[derive(Debug, Default)]
pub(crate) struct RemoteCursor(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The newest last; the server counts on these being here.
    shapes: VecDeque<(u32, Arc<CursorImage>)>,
    position: Option<CursorPosition>,
    /// Pictures and places of all connections.
    images: u64,
    positions: u64,
}

impl RemoteCursor {
    /// A new connection begins without a cursor.
    pub(crate) fn reset(&self) {
        let mut state = lock(&self.0);
        state.shapes.clear();
        state.position = None;
    }

    /// Takes a picture.
    ///
    /// # Errors
    /// In words, when it is not one; a cursor of that name is not drawn then.
    pub(crate) fn shape(&self, shape: &CursorShape) -> io::Result<()> {
        let image = shape
            .png()
            .ok_or_else(|| io::Error::other("no base64"))
            .and_then(|png| CursorImage::from_png(&png, (shape.hot_x, shape.hot_y)));
        let mut state = lock(&self.0);
        state.images += 1;
        // Counted in any case, as the server does.
        let (image, outcome) = match image {
            Ok(image) => (image, Ok(())),
            Err(error) => (nothing(), Err(error)),
        };
        state.shapes.push_back((shape.id, Arc::new(image)));
        if state.shapes.len() > KEPT {
            state.shapes.pop_front();
        }
        outcome
    }

    /// Takes a place; whether it is news.
    pub(crate) fn position(&self, payload: &[u8]) -> bool {
        let Some(position) = CursorPosition::from_bytes(payload) else {
            return false;
        };
        let mut state = lock(&self.0);
        let news = state.position.is_none_or(|old| position.is_after(old));
        if news {
            state.position = Some(position);
            state.positions += 1;
        }
        news
    }

    /// The cursor now.
    pub(crate) fn shown(&self) -> Cursor {
        let state = lock(&self.0);
        let position = state.position.unwrap_or_default();
        let known = state.shapes.iter().find(|(id, _)| *id == position.shape);
        Cursor {
            image: known.map(|(_, image)| Arc::clone(image)),
            position: (position.x, position.y),
        }
    }

    pub(crate) fn report(&self) -> CursorReport {
        let now = self.shown();
        let state = lock(&self.0);
        CursorReport {
            images: state.images,
            positions: state.positions,
            shown: now.image.map(|image| image.size.to_string()),
            x: now.position.0,
            y: now.position.1,
        }
    }
}

fn nothing() -> CursorImage {
    CursorImage {
        size: Size::new(1, 1),
        hot: (0, 0),
        pixels: vec![0; 4],
    }
}

#[cfg(test)]
mod tests {
    use soft_kvm_video::cursor::MAX_CURSOR;

    use super::*;

    fn shape(id: u32, side: u32, colours: png::ColorType) -> CursorShape {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, side, side);
        encoder.set_color(colours);
        let mut writer = encoder.write_header().expect("a header");
        let length = side * side * u32::try_from(colours.samples()).expect("few");
        let pixels: Vec<u8> = [200, 100, 0, 128]
            .into_iter()
            .cycle()
            .take(length as usize)
            .collect();
        writer.write_image_data(&pixels).expect("an image");
        drop(writer);
        CursorShape::new(id, (1, 1), &bytes).expect("small")
    }

    fn place(count: u32, shape: u32, x: i32) -> [u8; 18] {
        CursorPosition {
            count,
            shape,
            x,
            y: 0,
        }
        .to_bytes()
    }

    #[test]
    fn pictures_and_places_meet_in_any_order() {
        let cursor = RemoteCursor::default();
        assert!(cursor.position(&place(5, 2, 7)));
        assert!(
            cursor.shown().image.is_none(),
            "its picture is not here yet"
        );
        cursor
            .shape(&shape(2, 4, png::ColorType::Rgba))
            .expect("a picture");
        let shown = cursor.shown();
        assert_eq!(shown.position, (7, 0));
        let image = shown.image.expect("both are here");
        assert_eq!(image.pixels[..4], [0, 50, 100, 128]);
        assert!(!cursor.position(&place(4, 2, 9)), "an older one");
        assert!(!cursor.position(&[1, 3]), "half of one");
        assert!(cursor.position(&place(6, 0, 0)));
        assert!(cursor.shown().image.is_none(), "hidden");
        let report = cursor.report();
        assert_eq!(
            (report.images, report.positions, report.shown),
            (1, 2, None)
        );
        cursor.reset();
        assert!(
            cursor.position(&place(1, 2, 0)),
            "a new session counts anew"
        );
        assert!(cursor.shown().image.is_none());
    }

    #[test]
    fn what_is_no_cursor_is_refused_and_the_last_sixteen_are_kept() {
        let cursor = RemoteCursor::default();
        for bad in [
            shape(1, 4, png::ColorType::Grayscale),
            shape(2, MAX_CURSOR + 1, png::ColorType::Rgba),
            CursorShape::new(3, (0, 0), b"no PNG").expect("short"),
        ] {
            cursor.shape(&bad).expect_err("it is refused");
        }
        for id in 4..25 {
            cursor
                .shape(&shape(id, 2, png::ColorType::Rgba))
                .expect("a picture");
        }
        assert!(cursor.position(&place(1, 9, 0)));
        assert!(cursor.shown().image.is_some());
        assert!(cursor.position(&place(2, 8, 0)));
        assert!(cursor.shown().image.is_none());
    }
}
