//! Rectangles and text on BGRX memory. Everything clips; nothing panics.
//!
//! The fonts are bitmaps (Spleen) with Latin letters only: no kana or kanji. Other characters show as `?`.

use soft_kvm_core::Size;
use spleen_font::{FONT_8X16, FONT_12X24, FONT_16X32};

use crate::frame::Rect;

/// A colour; drawn fully opaque.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Color {
    /// Red, 0..=255.
    pub red: u8,
    /// Green, 0..=255.
    pub green: u8,
    /// Blue, 0..=255.
    pub blue: u8,
}

impl Color {
    /// Black.
    pub const BLACK: Self = Self::rgb(0, 0, 0);
    /// White.
    pub const WHITE: Self = Self::rgb(255, 255, 255);

    /// From red, green and blue.
    #[must_use]
    pub const fn rgb(red: u8, green: u8, blue: u8) -> Self {
        Self { red, green, blue }
    }

    /// The four bytes in memory.
    #[must_use]
    pub const fn bgrx(self) -> [u8; 4] {
        [self.blue, self.green, self.red, 255]
    }
}

/// A fixed-width bitmap font.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Font {
    /// 8x16 pixels.
    #[default]
    Small,
    /// 12x24 pixels.
    Medium,
    /// 16x32 pixels.
    Large,
}

impl Font {
    /// Columns of a character.
    #[must_use]
    pub const fn width(self) -> u32 {
        match self {
            Self::Small => 8,
            Self::Medium => 12,
            Self::Large => 16,
        }
    }

    /// Lines of a character.
    #[must_use]
    pub const fn height(self) -> u32 {
        self.width() * 2
    }

    /// Columns that a text takes.
    #[must_use]
    pub fn measure(self, text: &str) -> u32 {
        let characters = u32::try_from(text.chars().count()).unwrap_or(u32::MAX);
        characters.saturating_mul(self.width())
    }

    /// The character's lines one after the other, each in whole bytes, leftmost pixel in the highest bit.
    fn glyph(self, character: char) -> &'static [u8] {
        // Where the glyphs begin: the small font is a PSF1 file, the others are PSF2. Read here because
        // spleen-font 0.2 takes PSF1's mode for its glyph size.
        let (file, start) = match self {
            Self::Small => (FONT_8X16, 4),
            Self::Medium => (FONT_12X24, 32),
            Self::Large => (FONT_16X32, 32),
        };
        let shown = match character {
            ' '..='~' => character,
            _ => '?',
        };
        // Spleen puts printable ASCII at its own code.
        let bytes = (self.width().div_ceil(8) * self.height()) as usize;
        file.get(start + u32::from(shown) as usize * bytes..)
            .and_then(|glyphs| glyphs.get(..bytes))
            .unwrap_or_default()
    }
}

/// A BGRX picture to draw on.
#[derive(Debug)]
pub struct Canvas<'a> {
    data: &'a mut [u8],
    stride: usize,
    size: Size,
}

impl<'a> Canvas<'a> {
    /// A canvas over `data` with `stride` bytes from one line to the next. What doesn't fit in `data` is cut off.
    #[must_use]
    pub fn new(data: &'a mut [u8], stride: usize, size: Size) -> Self {
        let width = size
            .width
            .min(u32::try_from(stride / 4).unwrap_or(u32::MAX));
        let lines = data.len().checked_div(stride).unwrap_or(0);
        let height = size.height.min(u32::try_from(lines).unwrap_or(u32::MAX));
        Self {
            data,
            stride,
            size: Size::new(width, height),
        }
    }

    /// The part that can be drawn on.
    #[must_use]
    pub const fn size(&self) -> Size {
        self.size
    }

    /// The part of it inside of `rect` as a canvas of its own, which clips there.
    pub fn part(&mut self, rect: Rect) -> Canvas<'_> {
        let rect = rect.intersection(Rect::whole(self.size));
        let start = rect.y as usize * self.stride + rect.x as usize * 4;
        Canvas {
            data: self.data.get_mut(start..).unwrap_or_default(),
            stride: self.stride,
            size: Size::new(rect.width, rect.height),
        }
    }

    /// Fills a rectangle, which may lie partly or wholly outside.
    pub fn fill(&mut self, x: i32, y: i32, width: u32, height: u32, color: Color) {
        let color = color.bgrx();
        self.rows(x, y, width, height, |row| {
            for pixel in row.chunks_exact_mut(4) {
                pixel.copy_from_slice(&color);
            }
        });
    }

    /// Draws the four edges of a rectangle, `thickness` wide, inside it.
    pub fn frame(&mut self, x: i32, y: i32, width: u32, height: u32, thickness: u32, color: Color) {
        let (dx, dy) = (
            clamp(width.saturating_sub(thickness)),
            clamp(height.saturating_sub(thickness)),
        );
        self.fill(x, y, width, thickness, color);
        self.fill(x, y.saturating_add(dy), width, thickness, color);
        self.fill(x, y, thickness, height, color);
        self.fill(x.saturating_add(dx), y, thickness, height, color);
    }

    /// Halves the brightness of a rectangle, so that text on it can be read.
    pub fn dim(&mut self, x: i32, y: i32, width: u32, height: u32) {
        self.rows(x, y, width, height, |row| {
            for byte in row {
                *byte /= 2;
            }
        });
    }

    /// Draws one line of text; `background` fills the characters' cells. Returns the first column after it.
    pub fn text(
        &mut self,
        x: i32,
        y: i32,
        text: &str,
        font: Font,
        color: Color,
        background: Option<Color>,
    ) -> i32 {
        let mut x = x;
        for character in text.chars() {
            if x >= clamp(self.size.width) {
                break;
            }
            self.glyph(x, y, character, font, color, background);
            x = x.saturating_add(clamp(font.width()));
        }
        x
    }

    fn glyph(
        &mut self,
        x: i32,
        y: i32,
        character: char,
        font: Font,
        color: Color,
        background: Option<Color>,
    ) {
        if let Some(background) = background {
            self.fill(x, y, font.width(), font.height(), background);
        }
        let color = color.bgrx();
        let bytes = font.width().div_ceil(8) as usize;
        for (line, bits) in (y..).zip(font.glyph(character).chunks_exact(bytes)) {
            let Some(row) = self.row_mut(line) else {
                continue;
            };
            let bits = bits
                .iter()
                .flat_map(|byte| (0..8).map(move |bit| byte & (0x80 >> bit) != 0));
            for (column, _) in (x..).zip(bits).filter(|&(_, on)| on) {
                let pixel = usize::try_from(column)
                    .ok()
                    .and_then(|column| row.get_mut(column * 4..column * 4 + 4));
                if let Some(pixel) = pixel {
                    pixel.copy_from_slice(&color);
                }
            }
        }
    }

    /// Copies the rectangle's lines up by `lines`; the lowest ones stay as they were.
    pub fn scroll_up(&mut self, x: u32, y: u32, width: u32, height: u32, lines: u32) {
        let right = x.saturating_add(width).min(self.size.width);
        let bottom = y.saturating_add(height).min(self.size.height);
        if x >= right {
            return;
        }
        let bytes = (right - x) as usize * 4;
        for to in y..bottom.saturating_sub(lines) {
            let from = (to + lines) as usize * self.stride + x as usize * 4;
            let to = to as usize * self.stride + x as usize * 4;
            if from + bytes > self.data.len() {
                return;
            }
            self.data.copy_within(from..from + bytes, to);
        }
    }

    /// The visible bytes of a line.
    pub(crate) fn row_mut(&mut self, y: i32) -> Option<&mut [u8]> {
        let y = usize::try_from(y)
            .ok()
            .filter(|&y| y < self.size.height as usize)?;
        let bytes = self.size.width as usize * 4;
        self.data.get_mut(y * self.stride..)?.get_mut(..bytes)
    }

    fn rows(&mut self, x: i32, y: i32, width: u32, height: u32, mut each: impl FnMut(&mut [u8])) {
        let (left, right) = clip(x, width, self.size.width);
        let (top, bottom) = clip(y, height, self.size.height);
        for y in top..bottom {
            let line = y * self.stride;
            if let Some(row) = self.data.get_mut(line + left * 4..line + right * 4) {
                each(row);
            }
        }
    }
}

/// Start and end of the part of `start..start + length` inside of `0..limit`; never the wrong way round.
fn clip(start: i32, length: u32, limit: u32) -> (usize, usize) {
    let inside = |at: i64| usize::try_from(at.clamp(0, i64::from(limit))).unwrap_or(0);
    let start = i64::from(start);
    (inside(start), inside(start + i64::from(length)))
}

/// As a signed coordinate.
#[must_use]
pub fn clamp(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// Breaks a text at spaces into lines of at most `columns` characters; longer words are cut.
pub fn lines(text: &str, columns: usize) -> impl Iterator<Item = &str> {
    let mut rest = text.trim();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let limit = rest
            .char_indices()
            .nth(columns)
            .map_or(rest.len(), |(index, _)| index);
        let (head, tail) = rest.split_at(limit);
        let cut = if tail.is_empty() || tail.starts_with(' ') {
            head
        } else {
            head.rsplit_once(' ').map_or(head, |(line, _)| line)
        };
        rest = rest.strip_prefix(cut).unwrap_or_default().trim_start();
        Some(cut.trim_end())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pixel(data: &[u8], stride: usize, x: usize, y: usize) -> &[u8] {
        &data[y * stride + x * 4..][..4]
    }

    #[test]
    fn lines_break_at_spaces() {
        let broken = |text, columns| lines(text, columns).collect::<Vec<_>>();
        assert_eq!(broken("one two three", 7), ["one two", "three"]);
        assert_eq!(broken("one two three", 8), ["one two", "three"]);
        assert_eq!(broken("abcdefgh ij", 3), ["abc", "def", "gh", "ij"]);
        assert_eq!(broken("", 3), Vec::<&str>::new());
    }

    #[test]
    fn text_has_ink_and_background() {
        let mut data = vec![9; 8 * 4 * 16];
        let mut canvas = Canvas::new(&mut data, 32, Size::new(8, 16));
        let next = canvas.text(0, 0, "A", Font::Small, Color::WHITE, Some(Color::BLACK));
        assert_eq!(next, 8);
        let white = data.chunks_exact(4).filter(|p| *p == [255; 4]).count();
        let black = data
            .chunks_exact(4)
            .filter(|p| *p == [0, 0, 0, 255])
            .count();
        assert_eq!(white + black, 8 * 16);
        assert!((10..60).contains(&white), "{white} pixels of ink");
    }

    #[test]
    fn every_printable_character_has_a_glyph_in_every_font() {
        for font in [Font::Small, Font::Medium, Font::Large] {
            let bytes = (font.width().div_ceil(8) * font.height()) as usize;
            for character in ' '..='~' {
                let glyph = font.glyph(character);
                assert_eq!(glyph.len(), bytes, "{character} in {font:?}");
                assert_eq!(glyph.iter().all(|&byte| byte == 0), character == ' ');
            }
            assert_eq!(font.glyph('あ'), font.glyph('?'));
        }
    }

    #[test]
    fn scrolling_moves_lines_up() {
        let mut data = vec![0; 4 * 4 * 4];
        let mut canvas = Canvas::new(&mut data, 16, Size::new(4, 4));
        canvas.fill(1, 2, 2, 1, Color::WHITE);
        canvas.scroll_up(1, 0, 2, 4, 2);
        assert_eq!(pixel(&data, 16, 1, 0), [255; 4]);
        assert_eq!(pixel(&data, 16, 0, 0), [0; 4]);
        assert_eq!(pixel(&data, 16, 3, 0), [0; 4]);
    }

    proptest! {
        #[test]
        fn breaking_keeps_every_character(text in "[a-zé ]{0,80}", columns in 1..20_usize) {
            let kept: String = lines(&text, columns).collect::<Vec<_>>().join("").replace(' ', "");
            prop_assert_eq!(kept, text.replace(' ', ""));
            prop_assert!(lines(&text, columns).all(|line| line.chars().count() <= columns));
        }

        #[test]
        fn drawing_anywhere_neither_panics_nor_touches_the_padding(
            x in any::<i32>(), y in any::<i32>(), small in -40..40_i32,
            width in any::<u32>(), height in any::<u32>(),
        ) {
            let mut data = vec![7; 20 * 4 * 10];
            let mut canvas = Canvas::new(&mut data, 80, Size::new(17, 10));
            for (x, y) in [(x, y), (small, small), (small, y), (x, small)] {
                canvas.fill(x, y, width, height, Color::WHITE);
                canvas.frame(x, y, width, height, 3, Color::BLACK);
                canvas.dim(x, y, width % 64, height % 64);
                canvas.text(x, y, "Ag", Font::Large, Color::WHITE, None);
                let rect = Rect { x: x.unsigned_abs(), y: y.unsigned_abs(), width, height };
                let mut part = canvas.part(rect);
                part.fill(x, y, width, height, Color::BLACK);
                part.text(0, 0, "part", Font::Small, Color::WHITE, Some(Color::BLACK));
                canvas.scroll_up(x.unsigned_abs(), y.unsigned_abs(), width, height, width % 12);
            }
            for row in data.chunks_exact(80) {
                prop_assert!(row[17 * 4..].iter().all(|&byte| byte == 7));
            }
        }

        #[test]
        fn a_canvas_over_too_little_memory_is_cut_off(bytes in 0..500_usize, stride in 0..90_usize) {
            let mut data = vec![0; bytes];
            let mut canvas = Canvas::new(&mut data, stride, Size::new(64, 64));
            canvas.fill(0, 0, 64, 64, Color::WHITE);
            canvas.text(-3, -3, "text", Font::Medium, Color::WHITE, Some(Color::BLACK));
        }
    }
}
