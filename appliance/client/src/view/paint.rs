//! The picture in the window: where it is, scaled how, and the texts over it.

use bytemuck::cast_slice_mut;
use soft_kvm_core::Size;
use soft_kvm_video::cursor::{Cursor, over};
use soft_kvm_video::draw::{Canvas, Color, Font};

/// The part of the window that shows the picture, in the window's pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Placement {
    pub(super) x: u32,
    pub(super) y: u32,
    pub(super) size: Size,
}

impl Placement {
    /// The largest rectangle of the picture's shape, in the middle of the window.
    pub(super) fn fit(picture: Size, window: Size) -> Self {
        if picture.pixels() == 0 || window.pixels() == 0 {
            return Self::default();
        }
        let (pw, ph) = (u64::from(picture.width), u64::from(picture.height));
        let (ww, wh) = (u64::from(window.width), u64::from(window.height));
        let narrow = |pixels: u64| u32::try_from(pixels.max(1)).unwrap_or(u32::MAX);
        let size = if ww * ph <= wh * pw {
            Size::new(window.width, narrow(ww * ph / pw))
        } else {
            Size::new(narrow(wh * pw / ph), window.height)
        };
        Self {
            x: (window.width - size.width) / 2,
            y: (window.height - size.height) / 2,
            size,
        }
    }

    /// A position in the window to 0..=65535 over the picture's width and height; outside, the nearest edge, and `false`.
    pub(super) fn to_absolute(self, x: f64, y: f64) -> (i32, i32, bool) {
        let (column, inside_x) = axis(x, self.x, self.size.width);
        let (line, inside_y) = axis(y, self.y, self.size.height);
        (column, line, inside_x && inside_y)
    }
}

fn axis(at: f64, start: u32, length: u32) -> (i32, bool) {
    let pixel = at - f64::from(start);
    let last = f64::from(length.saturating_sub(1)).max(1.0);
    let inside = pixel >= 0.0 && pixel < f64::from(length);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "clamped to 0..=65535 before"
    )]
    let absolute = (pixel.floor() * 65_535.0 / last)
        .round()
        .clamp(0.0, 65_535.0) as i32;
    (absolute, inside)
}

/// Scales pictures; keeps its tables while the sizes stay.
#[derive(Debug, Default)]
pub(super) struct Scaler {
    from: Size,
    to: Size,
    /// For each column of the target: the source column, and the share of the next one in 1/256.
    columns: Vec<(usize, u32)>,
    /// Two source lines mixed.
    line: Vec<u32>,
}

impl Scaler {
    /// Fills the window: black beside the picture, the picture at `place`.
    pub(super) fn draw(
        &mut self,
        picture: Size,
        pixels: &[u32],
        place: Placement,
        window: Size,
        out: &mut [u32],
    ) {
        let width = window.width as usize;
        if picture == window && pixels.len() == out.len() {
            out.copy_from_slice(pixels);
            return;
        }
        if place.size.pixels() == 0 || pixels.len() < picture.pixels() {
            out.fill(0);
            return;
        }
        self.prepare(picture, place.size);
        let (left, top) = (place.x as usize, place.y as usize);
        let right = left + place.size.width as usize;
        let bottom = top + place.size.height as usize;
        for (y, row) in out.chunks_exact_mut(width).enumerate() {
            if y < top || y >= bottom {
                row.fill(0);
                continue;
            }
            row.iter_mut().take(left).for_each(|pixel| *pixel = 0);
            row.iter_mut().skip(right).for_each(|pixel| *pixel = 0);
            if let Some(target) = row.get_mut(left..right) {
                self.scale_line(y - top, pixels, target);
            }
        }
    }

    fn prepare(&mut self, from: Size, to: Size) {
        if (self.from, self.to) == (from, to) {
            return;
        }
        (self.from, self.to) = (from, to);
        let columns = (0..to.width).map(|x| sample(x, from.width, to.width));
        self.columns.clear();
        self.columns.extend(columns);
    }

    fn scale_line(&mut self, y: usize, pixels: &[u32], target: &mut [u32]) {
        let width = self.from.width as usize;
        let lines = |first: usize| pixels.chunks_exact(width).skip(first);
        let y = u32::try_from(y).unwrap_or(u32::MAX);
        let (line, share) = sample(y, self.from.height, self.to.height);
        let mut source = lines(line);
        let (Some(upper), lower) = (source.next(), source.next()) else {
            return;
        };
        self.line.clear();
        match lower {
            Some(lower) if share > 0 => {
                let mixed = upper.iter().zip(lower).map(|(&a, &b)| mix(a, b, share));
                self.line.extend(mixed);
            }
            _ if self.from.width == self.to.width => {
                target.copy_from_slice(upper);
                return;
            }
            _ => self.line.extend_from_slice(upper),
        }
        // A last column twice saves a question per pixel.
        self.line.extend(upper.last());
        for (pixel, &(column, share)) in target.iter_mut().zip(&self.columns) {
            if let Some(&[a, b]) = self.line.get(column..column + 2) {
                *pixel = if share == 0 { a } else { mix(a, b, share) };
            }
        }
    }
}

/// The source sample left of the middle of target sample `at`, and the share of the next one in 1/256. Whole
/// factors upwards take the nearest, so that text stays sharp.
fn sample(at: u32, from: u32, to: u32) -> (usize, u32) {
    let (at, from, to) = (u64::from(at), u64::from(from), u64::from(to));
    let position = if to % from == 0 {
        at * from / to * 256
    } else {
        let middle = (2 * at + 1) * from * 128 / to;
        middle.saturating_sub(128).min((from - 1) * 256)
    };
    let share = u32::try_from(position % 256).unwrap_or(0);
    (usize::try_from(position / 256).unwrap_or(usize::MAX), share)
}

/// Two channels at a time: `share`/256 of `b`, the rest of `a`.
fn mix(a: u32, b: u32, share: u32) -> u32 {
    const RED_BLUE: u32 = 0x00ff_00ff;
    let rest = 256 - share;
    let red_blue = ((a & RED_BLUE) * rest + (b & RED_BLUE) * share) >> 8 & RED_BLUE;
    let green = ((a >> 8 & 0xff) * rest + (b >> 8 & 0xff) * share) & 0xff00;
    red_blue | green
}

/// Draws the server's cursor over the picture of `size` pixels that is shown at `place`, scaled like the picture.
pub(super) fn cursor(window: Size, out: &mut [u32], place: Placement, size: Size, cursor: &Cursor) {
    let Some(image) = &cursor.image else {
        return;
    };
    let (pixels, _) = image.pixels.as_chunks::<4>();
    let (left, top) = cursor.position;
    let columns = Axis {
        shown: place.size.width,
        length: size.width,
        at: left,
        count: image.size.width,
    };
    let lines = Axis {
        shown: place.size.height,
        length: size.height,
        at: top,
        count: image.size.height,
    };
    for y in lines.covered() {
        for x in columns.covered() {
            let (Some(column), Some(line)) = (columns.source(x), lines.source(y)) else {
                continue;
            };
            let at = (place.y + y) as usize * window.width as usize + (place.x + x) as usize;
            let pixel = pixels.get(line * image.size.width as usize + column);
            let (Some(below), Some(&[blue, green, red, alpha])) = (out.get_mut(at), pixel) else {
                continue;
            };
            let [_, r, g, b] = below.to_be_bytes();
            *below = u32::from_be_bytes([
                0,
                over(r, red, alpha),
                over(g, green, alpha),
                over(b, blue, alpha),
            ]);
        }
    }
}

/// A cursor's pixels along one axis: `shown` pixels of the window show `length` of the picture.
#[derive(Clone, Copy, Debug)]
struct Axis {
    shown: u32,
    length: u32,
    at: i32,
    count: u32,
}

impl Axis {
    /// Pixels of the shown picture that the cursor may be over.
    fn covered(self) -> std::ops::Range<u32> {
        let scaled = |at: i64| {
            let at = at.clamp(0, i64::from(self.length)) * i64::from(self.shown);
            let at = (at / i64::from(self.length.max(1))).min(i64::from(self.shown));
            u32::try_from(at).unwrap_or(0)
        };
        let start = i64::from(self.at);
        let end = start + i64::from(self.count);
        scaled(start)..scaled(end).saturating_add(1).min(self.shown)
    }

    /// The cursor's pixel that is shown there.
    fn source(self, at: u32) -> Option<usize> {
        let pixel = u64::from(at) * u64::from(self.length) / u64::from(self.shown.max(1));
        let pixel = i64::try_from(pixel).ok()? - i64::from(self.at);
        let pixel = u32::try_from(pixel)
            .ok()
            .filter(|&pixel| pixel < self.count)?;
        usize::try_from(pixel).ok()
    }
}

/// Draws the overlay's lines in the upper left corner.
pub(super) fn overlay(window: Size, out: &mut [u32], lines: &[String]) {
    let font = Font::Small;
    let width = lines
        .iter()
        .map(|line| font.measure(line))
        .max()
        .unwrap_or(0);
    let height = u32::try_from(lines.len())
        .unwrap_or(u32::MAX)
        .saturating_mul(font.height());
    on_canvas(window, out, |canvas| {
        canvas.fill(8, 8, width + 16, height.saturating_add(16), Color::BLACK);
        for (y, line) in (16..).step_by(font.height() as usize).zip(lines) {
            canvas.text(16, y, line, font, Color::WHITE, None);
        }
    });
}

/// Writes a line over the lower edge of the window.
pub(super) fn notice(window: Size, out: &mut [u32], text: &str) {
    let font = [Font::Medium, Font::Small]
        .into_iter()
        .find(|font| font.measure(text) + 32 <= window.width)
        .unwrap_or(Font::Small);
    let columns = (window.width / font.width()).saturating_sub(2).max(1) as usize;
    let lines = wrap(text, columns);
    let height = u32::try_from(lines.len())
        .unwrap_or(u32::MAX)
        .saturating_mul(font.height())
        .saturating_add(16);
    let top = i32::try_from(window.height.saturating_sub(height)).unwrap_or(0);
    on_canvas(window, out, |canvas| {
        canvas.fill(0, top, window.width, height, Color::BLACK);
        for (y, line) in (top + 8..).step_by(font.height() as usize).zip(&lines) {
            canvas.text(16, y, line, font, Color::WHITE, None);
        }
    });
}

/// Darkens the window and writes `text` in its middle.
pub(super) fn status(window: Size, out: &mut [u32], text: &str) {
    let font = [Font::Large, Font::Medium, Font::Small]
        .into_iter()
        .find(|font| font.measure(text) + 32 <= window.width)
        .unwrap_or_default();
    let columns = (window.width / font.width()).saturating_sub(2).max(1) as usize;
    let lines = wrap(text, columns);
    let height = u32::try_from(lines.len())
        .unwrap_or(u32::MAX)
        .saturating_mul(font.height());
    let middle = |whole: u32, part: u32| i32::try_from(whole.saturating_sub(part) / 2).unwrap_or(0);
    on_canvas(window, out, |canvas| {
        canvas.dim(0, 0, window.width, window.height);
        let top = middle(window.height, height);
        canvas.fill(
            0,
            top - 8,
            window.width,
            height.saturating_add(16),
            Color::BLACK,
        );
        for (y, line) in (top..).step_by(font.height() as usize).zip(&lines) {
            let x = middle(window.width, font.measure(line));
            canvas.text(x, y, line, font, Color::WHITE, None);
        }
    });
}

fn wrap(text: &str, columns: usize) -> Vec<String> {
    // The font has no such character.
    let text = text.replace('…', "...");
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn on_canvas(window: Size, out: &mut [u32], draw: impl FnOnce(&mut Canvas<'_>)) {
    let swap = |out: &mut [u32]| {
        if cfg!(target_endian = "big") {
            out.iter_mut().for_each(|pixel| *pixel = pixel.swap_bytes());
        }
    };
    swap(out);
    let stride = window.width as usize * 4;
    draw(&mut Canvas::new(cast_slice_mut(&mut *out), stride, window));
    swap(out);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_picture_keeps_its_shape() {
        let place = Placement::fit(Size::new(1280, 720), Size::new(1000, 1000));
        assert_eq!(
            (place.x, place.y, place.size),
            (0, 219, Size::new(1000, 562))
        );
        let place = Placement::fit(Size::new(640, 480), Size::new(1920, 480));
        assert_eq!(
            (place.x, place.y, place.size),
            (640, 0, Size::new(640, 480))
        );
        assert_eq!(
            Placement::fit(Size::default(), Size::new(9, 9)),
            Placement::default()
        );
    }

    #[test]
    fn the_pointer_reaches_both_edges() {
        let place = Placement::fit(Size::new(640, 480), Size::new(1920, 480));
        assert_eq!(place.to_absolute(640.0, 0.0), (0, 0, true));
        assert_eq!(place.to_absolute(1279.9, 479.9), (65_535, 65_535, true));
        assert_eq!(place.to_absolute(1280.0, 100.0), (65_535, 13_682, false));
        assert_eq!(place.to_absolute(-5.0, -5.0), (0, 0, false));
    }

    #[test]
    fn doubling_repeats_pixels_and_shrinking_mixes_them() {
        let mut scaler = Scaler::default();
        let (small, large) = (Size::new(2, 1), Size::new(4, 2));
        let mut out = [9; 8];
        let place = Placement::fit(small, large);
        scaler.draw(small, &[0x10_2030, 0xff_ff00], place, large, &mut out);
        let line = [0x10_2030, 0x10_2030, 0xff_ff00, 0xff_ff00];
        assert_eq!((&out[..4], &out[4..]), (&line[..], &line[..]));
        let mut one = [9];
        let place = Placement::fit(Size::new(2, 2), Size::new(1, 1));
        let source = [0, 0xff_ffff, 0, 0xff_ffff];
        scaler.draw(Size::new(2, 2), &source, place, Size::new(1, 1), &mut one);
        assert_eq!(one, [0x7f_7f7f]);
    }

    #[test]
    fn a_status_leaves_nothing_as_bright_as_before_beside_its_letters() {
        let window = Size::new(200, 100);
        let mut out = vec![0xff_ffff; window.pixels()];
        status(
            window,
            &mut out,
            "connection lost: the server does not answer…",
        );
        assert_eq!(out[0] & 0xff_ffff, 0x7f_7f7f);
        assert!(out.iter().any(|pixel| pixel & 0xff_ffff == 0xff_ffff));
        assert!(out.iter().any(|pixel| pixel & 0xff_ffff == 0));
    }

    #[test]
    fn a_notice_covers_the_lower_edge_only() {
        let window = Size::new(640, 120);
        let mut out = vec![0x12_3456; window.pixels()];
        notice(window, &mut out, "desk has keyboard and mouse");
        let half = window.pixels() / 2;
        assert!(out[..half].iter().all(|&pixel| pixel == 0x12_3456));
        let letters = out[half..]
            .iter()
            .filter(|&&pixel| pixel & 0xff_ffff == 0xff_ffff);
        assert!(letters.count() > 100);
    }

    fn dot(position: (i32, i32)) -> Cursor {
        let image = soft_kvm_video::cursor::CursorImage {
            size: Size::new(2, 2),
            hot: (0, 0),
            pixels: [30, 20, 10, 255].repeat(4),
        };
        Cursor {
            image: Some(std::sync::Arc::new(image)),
            position,
        }
    }

    #[test]
    fn the_cursor_is_scaled_with_the_picture() {
        let (size, window) = (Size::new(8, 4), Size::new(16, 12));
        let place = Placement::fit(size, window);
        let mut out = vec![0x00ff_ffff; window.pixels()];
        cursor(window, &mut out, place, size, &dot((3, -1)));
        let drawn: Vec<_> = (0..out.len())
            .filter(|&at| out[at] == 0x000a_141e)
            .collect();
        let line = |y: usize| (y * 16 + 6)..(y * 16 + 10);
        assert_eq!(drawn, line(2).chain(line(3)).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn the_cursor_stays_in_the_picture(
            x in any::<i32>(), y in any::<i32>(), pw in 1u32..40, ph in 1u32..40, ww in 1u32..40, wh in 1u32..40,
        ) {
            let (size, window) = (Size::new(pw, ph), Size::new(ww, wh));
            let place = Placement::fit(size, window);
            for position in [(x, y), (x % 50, y % 50)] {
                let mut out = vec![7; window.pixels()];
                cursor(window, &mut out, place, size, &dot(position));
                for (at, pixel) in out.iter().enumerate() {
                    let (column, line) = (at % ww as usize, at / ww as usize);
                    let inside = (place.x as usize..(place.x + place.size.width) as usize).contains(&column)
                        && (place.y as usize..(place.y + place.size.height) as usize).contains(&line);
                    prop_assert!(*pixel == 7 || inside);
                }
            }
        }

        #[test]
        fn any_sizes_fill_the_whole_window(
            pw in 1u32..70, ph in 1u32..70, ww in 1u32..70, wh in 1u32..70) {
            let (picture, window) = (Size::new(pw, ph), Size::new(ww, wh));
            let place = Placement::fit(picture, window);
            prop_assert!(place.x + place.size.width <= ww && place.y + place.size.height <= wh);
            let mut out = vec![0x12_3456; window.pixels()];
            let pixels = vec![0xab_cdef; picture.pixels()];
            Scaler::default().draw(picture, &pixels, place, window, &mut out);
            let shown = out.iter().filter(|&&pixel| pixel == 0xab_cdef).count();
            let black = out.iter().filter(|&&pixel| pixel == 0).count();
            // Mixing rounds down: equal neighbours give the colour again.
            prop_assert_eq!(shown + black, window.pixels());
            prop_assert_eq!(shown, place.size.pixels());
        }
    }
}
