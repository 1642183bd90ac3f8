//! The picture with the pairing code. Its words are English: the embedded bitmap fonts have no kana or kanji.

use qrcode::{Color as Module, QrCode};
use soft_kvm_core::Size;
use soft_kvm_video::draw::{Canvas, Color, Font, clamp, lines};
use soft_kvm_video::reason::{BACKGROUND, TEXT, TITLE};

/// Light modules around the code (ISO/IEC 18004 §6.3.8).
const QUIET: u32 = 4;

/// What the picture says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Picture {
    pub(super) name: String,
    pub(super) addresses: String,
    pub(super) code: String,
    pub(super) uri: String,
    pub(super) seconds: u64,
}

impl Picture {
    /// The pixels, 0x00RRGGBB.
    pub(super) fn pixels(&self, size: Size) -> Vec<u32> {
        let stride = size.width as usize * 4;
        let mut bytes = vec![0; stride * size.height as usize];
        self.draw(&mut Canvas::new(&mut bytes, stride, size));
        let pixels = bytes.as_chunks::<4>().0.iter();
        pixels
            .map(|pixel| u32::from_le_bytes(*pixel) & 0x00ff_ffff)
            .collect()
    }

    /// Words on the left, the QR code on the right.
    fn draw(&self, canvas: &mut Canvas<'_>) {
        let size = canvas.size();
        canvas.fill(0, 0, size.width, size.height, BACKGROUND);
        let margin = size.width / 20;
        let side = (size.width / 2).min(size.height).saturating_sub(margin);
        let (qr_x, qr_y) = (size.width.saturating_sub(side + margin), size.height / 2);
        qr(
            canvas,
            clamp(qr_x),
            clamp(qr_y.saturating_sub(side / 2)),
            side,
            &self.uri,
        );
        let wide = size.width >= 1000;
        let (large, small) = if wide {
            (Font::Large, Font::Medium)
        } else {
            (Font::Medium, Font::Small)
        };
        let columns = (qr_x.saturating_sub(2 * margin) / small.width()) as usize;
        let words = [
            ("Pairing code".to_owned(), large, TITLE),
            (self.code.clone(), Font::Large, Color::WHITE),
            (self.name.clone(), small, TEXT),
            (self.addresses.clone(), small, TEXT),
            (
                format!("Open for {}:{:02}", self.seconds / 60, self.seconds % 60),
                small,
                TEXT,
            ),
        ];
        let mut y = size.height / 4;
        for (text, font, color) in words {
            if text == self.code {
                let scale = (qr_x.saturating_sub(2 * margin) / font.measure(&text).max(1)).max(1);
                enlarged(canvas, margin, y, &text, color, scale);
                y += font.height() * scale + large.height();
            } else {
                for line in lines(&text, columns.max(1)) {
                    canvas.text(clamp(margin), clamp(y), line, font, color, None);
                    y += font.height();
                }
                y += font.height() / 2;
            }
        }
    }
}

/// Text in the large font, each pixel `scale` wide and high.
fn enlarged(canvas: &mut Canvas<'_>, x: u32, y: u32, text: &str, color: Color, scale: u32) {
    let size = Size::new(Font::Large.measure(text), Font::Large.height());
    let stride = size.width as usize * 4;
    let mut bytes = vec![0; stride * size.height as usize];
    Canvas::new(&mut bytes, stride, size).text(0, 0, text, Font::Large, color, None);
    for (row, line) in (0..).zip(bytes.chunks_exact(stride.max(1))) {
        for (column, pixel) in (0..).zip(line.as_chunks::<4>().0) {
            if *pixel != [0; 4] {
                let (left, top) = (x + column * scale, y + row * scale);
                canvas.fill(clamp(left), clamp(top), scale, scale, color);
            }
        }
    }
}

/// A QR code with its quiet zone, as large as whole pixels allow in a square of `side`.
fn qr(canvas: &mut Canvas<'_>, x: i32, y: i32, side: u32, uri: &str) {
    let Ok(code) = QrCode::new(uri) else {
        return;
    };
    let width = u32::try_from(code.width()).unwrap_or(u32::MAX);
    let scale = side / width.saturating_add(2 * QUIET);
    let whole = scale * (width + 2 * QUIET);
    canvas.fill(x, y, whole, whole, Color::WHITE);
    for (index, module) in (0..).zip(code.to_colors()) {
        if module == Module::Dark {
            let (column, row) = (index % width + QUIET, index / width + QUIET);
            let (left, top) = (clamp(column * scale), clamp(row * scale));
            canvas.fill(
                x.saturating_add(left),
                y.saturating_add(top),
                scale,
                scale,
                Color::BLACK,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> Picture {
        Picture {
            name: "rack-7".to_owned(),
            addresses: "10.1.0.1".to_owned(),
            code: "123456".to_owned(),
            uri: "soft-kvm:pair?name=rack-7&port=7755&code=123456".to_owned(),
            seconds: 119,
        }
    }

    #[test]
    fn everything_on_it_is_seen() {
        let size = Size::new(1280, 720);
        let shown = picture().pixels(size);
        assert_eq!(shown.len(), size.pixels());
        let others: [fn(&mut Picture); 5] = [
            |picture| picture.name = "rack-8".to_owned(),
            |picture| picture.addresses = "10.1.0.2".to_owned(),
            |picture| picture.code = "123457".to_owned(),
            |picture| picture.uri.push('7'),
            |picture| picture.seconds = 118,
        ];
        for change in others {
            let mut other = picture();
            change(&mut other);
            assert!(other.pixels(size) != shown, "{other:?} looks the same");
        }
    }

    #[test]
    fn any_size_is_drawn() {
        for size in [(1, 1), (16, 16), (320, 200), (640, 480), (3840, 2160)] {
            let size = Size::new(size.0, size.1);
            assert_eq!(picture().pixels(size).len(), size.pixels());
        }
    }
}
