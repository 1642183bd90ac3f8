//! What moves: typing, scrolling, a dragged window, full motion.

use soft_kvm_core::{FrameRate, Size};

use super::Rects;
use super::corpus::{EDITOR, TERMINAL};
use crate::draw::{Canvas, Color, Font, clamp};
use crate::frame::Rect;
use crate::source::Content;

const DESKTOP: Color = Color::rgb(46, 76, 96);
const TERMINAL_BACKGROUND: Color = Color::rgb(18, 20, 24);
const TERMINAL_TEXT: Color = Color::rgb(204, 208, 200);
const PROMPT: Color = Color::rgb(120, 200, 110);
const PAPER: Color = Color::rgb(250, 249, 245);
const INK: Color = Color::rgb(40, 42, 54);
const KEYWORD: Color = Color::rgb(150, 40, 120);
const COMMENT: Color = Color::rgb(110, 120, 130);
const WINDOW_TITLE: Color = Color::rgb(60, 90, 160);
const LINE: u32 = Font::Small.height();
const CURSOR: Size = Size::new(12, 20);
const WINDOW: Size = Size::new(640, 400);

/// The content and its state. Coordinates inside are relative to its area.
#[derive(Debug)]
pub(super) struct Scene {
    content: Content,
    area: Rect,
    fps: u32,
    step: u32,
    /// Line of the terminal's text that is written next, and columns of it that are there.
    typed: (usize, usize),
    /// First pixel line of the terminal's line being written.
    y: u32,
    pointer: Option<Rect>,
    under_pointer: Vec<u8>,
    window: Rect,
    texture: Vec<u8>,
}

impl Scene {
    pub(super) fn new(content: Content, area: Rect, rate: FrameRate) -> Self {
        Self {
            content,
            area,
            fps: rate.as_hz(),
            step: 0,
            typed: (0, 0),
            y: 0,
            pointer: None,
            under_pointer: vec![0; Size::pixels(CURSOR) * 4],
            window: Rect::default(),
            texture: match content {
                Content::Motion => texture(area.width),
                _ => Vec::new(),
            },
        }
    }

    /// Draws the next step, or the `first` picture, and adds what changed in coordinates of the whole picture.
    pub(super) fn draw(&mut self, canvas: &mut Canvas<'_>, first: bool, changed: &mut Rects) {
        let mut canvas = canvas.part(self.area);
        let mut changes = Rects::default();
        if first && self.content != Content::Motion {
            self.draw_desktop(&mut canvas);
        }
        match self.content {
            Content::Static => {}
            Content::Typing => self.type_on(&mut canvas, &mut changes),
            Content::Scroll => self.scroll_or_drag(&mut canvas, &mut changes),
            Content::Motion => self.draw_motion(&mut canvas),
        }
        self.step = self.step.wrapping_add(1);
        for rect in changes.as_slice() {
            changed.add(Rect {
                x: rect.x + self.area.x,
                y: rect.y + self.area.y,
                ..*rect
            });
        }
    }

    /// The left half.
    const fn terminal(&self) -> Rect {
        Rect {
            x: 8,
            y: 8,
            width: (self.area.width / 2).saturating_sub(12),
            height: self.area.height.saturating_sub(16),
        }
    }

    /// The right half.
    const fn editor(&self) -> Rect {
        Rect {
            x: self.area.width / 2 + 4,
            ..self.terminal()
        }
    }

    fn draw_desktop(&mut self, canvas: &mut Canvas<'_>) {
        canvas.fill(0, 0, self.area.width, self.area.height, DESKTOP);
        let mut terminal = canvas.part(self.terminal());
        let size = terminal.size();
        terminal.fill(0, 0, size.width, size.height, TERMINAL_BACKGROUND);
        // Four lines are left free to type on.
        let rows = (size.height / LINE).saturating_sub(4);
        for row in 0..rows {
            terminal_line(&mut terminal, row * LINE, self.typed.0, usize::MAX);
            self.typed.0 += 1;
        }
        self.y = rows * LINE;
        let editor = self.editor();
        if self.content != Content::Scroll {
            draw_editor(&mut canvas.part(editor));
        }
    }

    fn type_on(&mut self, canvas: &mut Canvas<'_>, changes: &mut Rects) {
        self.lift_pointer(canvas, changes);
        let place = self.terminal();
        let mut terminal = canvas.part(place);
        // About twelve characters in a second, and three lines of output every two seconds.
        if self.step.is_multiple_of((self.fps / 12).max(1)) {
            self.type_character(&mut terminal, place, changes);
        }
        if self.step % (self.fps * 2) == self.fps {
            for _ in 0..3 {
                self.end_line(&mut terminal, place, changes);
                terminal_line(&mut terminal, self.y, self.typed.0, usize::MAX);
                self.typed.0 += 1;
            }
            changes.add(place);
            self.typed.1 = 0;
            self.end_line(&mut terminal, place, changes);
        }
        self.drop_pointer(canvas, changes);
    }

    fn type_character(&mut self, terminal: &mut Canvas<'_>, place: Rect, changes: &mut Rects) {
        let (line, column) = self.typed;
        let text = terminal_text(line);
        if column >= text.len() {
            self.end_line(terminal, place, changes);
            self.typed = (line + 1, 0);
            return;
        }
        terminal_line(terminal, self.y, line, column + 1);
        let x = u32::try_from(column).unwrap_or(0) * Font::Small.width();
        terminal.fill(clamp(x + 12), clamp(self.y), 8, LINE, PROMPT);
        changes.add(
            Rect {
                x: place.x,
                y: place.y + self.y,
                width: x + 24,
                height: LINE,
            }
            .intersection(place),
        );
        self.typed.1 = column + 1;
    }

    /// Goes to the next line; scrolls when there is none.
    fn end_line(&mut self, terminal: &mut Canvas<'_>, place: Rect, changes: &mut Rects) {
        if let Some(before) = self.typed.1.checked_sub(1) {
            // The line that was typed on keeps no cursor.
            let x = u32::try_from(before).unwrap_or(0) * Font::Small.width() + 12;
            terminal.fill(clamp(x), clamp(self.y), 8, LINE, TERMINAL_BACKGROUND);
            let cell = Rect {
                x: place.x + x,
                y: place.y + self.y,
                width: 8,
                height: LINE,
            };
            changes.add(cell.intersection(place));
            self.typed.1 = 0;
        }
        let Size { width, height } = terminal.size();
        if self.y + LINE * 2 <= height {
            self.y += LINE;
            return;
        }
        terminal.scroll_up(0, 0, width, self.y + LINE, LINE);
        terminal.fill(0, clamp(self.y), width, LINE, TERMINAL_BACKGROUND);
        changes.add(place);
    }

    /// Moves for a second, rests for a second.
    fn pointer_place(&self) -> Rect {
        let moved =
            self.step / (self.fps * 2) * self.fps + (self.step % (self.fps * 2)).min(self.fps);
        let distance = u64::from(moved) * 480 / u64::from(self.fps);
        Rect {
            x: triangle(distance, self.area.width.saturating_sub(CURSOR.width)),
            y: triangle(
                distance * 5 / 8,
                self.area.height.saturating_sub(CURSOR.height),
            ),
            width: CURSOR.width,
            height: CURSOR.height,
        }
        .intersection(Rect::whole(Size::new(self.area.width, self.area.height)))
    }

    fn lift_pointer(&mut self, canvas: &mut Canvas<'_>, changes: &mut Rects) {
        let Some(place) = self.pointer.take() else {
            return;
        };
        let mut part = canvas.part(place);
        for (y, saved) in (0..).zip(self.under_pointer.chunks_exact(CURSOR.width as usize * 4)) {
            if let Some((row, saved)) = part.row_mut(y).and_then(|row| {
                let saved = saved.get(..row.len())?;
                Some((row, saved))
            }) {
                row.copy_from_slice(saved);
            }
        }
        changes.add(place);
    }

    fn drop_pointer(&mut self, canvas: &mut Canvas<'_>, changes: &mut Rects) {
        let place = self.pointer_place();
        let mut part = canvas.part(place);
        let rows = self
            .under_pointer
            .chunks_exact_mut(CURSOR.width as usize * 4);
        for (y, saved) in (0..).zip(rows) {
            let Some(row) = part.row_mut(y) else { break };
            if let Some(saved) = saved.get_mut(..row.len()) {
                saved.copy_from_slice(row);
            }
        }
        for y in 0..clamp(CURSOR.height) {
            // An arrow: a triangle, black with a white edge.
            let width = (y * 3 / 5 + 1).min(20 - y);
            let width = u32::try_from(width).unwrap_or(0);
            part.fill(0, y, width + 1, 1, Color::WHITE);
            part.fill(1, y, width.saturating_sub(1), 1, Color::BLACK);
        }
        changes.add(place);
        self.pointer = Some(place);
    }

    fn scroll_or_drag(&mut self, canvas: &mut Canvas<'_>, changes: &mut Rects) {
        // Two seconds of scrolling text, a second of a dragged window.
        if self.step % (self.fps * 3) < self.fps * 2 {
            let lines = 3 + self.step / self.fps * 2 % 15;
            let place = self.terminal();
            scroll_text(&mut canvas.part(place), &mut self.y, lines);
            changes.add(place);
        } else {
            let place = self.editor();
            let mut part = canvas.part(place);
            let distance = u64::from(self.step) * 600 / u64::from(self.fps);
            let old = self.window;
            let new = Rect {
                x: triangle(distance, part.size().width.saturating_sub(WINDOW.width)),
                y: triangle(
                    distance / 2,
                    part.size().height.saturating_sub(WINDOW.height),
                ),
                width: WINDOW.width,
                height: WINDOW.height,
            }
            .intersection(Rect::whole(part.size()));
            part.fill(clamp(old.x), clamp(old.y), old.width, old.height, DESKTOP);
            draw_window(&mut part.part(new));
            self.window = new;
            let both = old.union(new);
            changes.add(Rect {
                x: both.x + place.x,
                y: both.y + place.y,
                ..both
            });
        }
    }

    /// Lines of the texture, each shifted along a wave, with jitter as noise.
    fn draw_motion(&self, canvas: &mut Canvas<'_>) {
        let Size { width, height } = canvas.size();
        let bytes = width as usize * 4;
        let stride = texture_width(self.area.width) as usize * 4;
        for y in 0..height {
            let noise = scramble(y ^ self.step.wrapping_mul(0x9E37));
            let jitter = if noise.is_multiple_of(8) {
                noise >> 8 & 15
            } else {
                0
            };
            let row = (y / 2 + self.step * 2 + jitter) % TEXTURE_LINES;
            let wave = triangle(u64::from(y + self.step * 7), 200);
            let shift = triangle(u64::from(self.step) * 5 + u64::from(wave), TEXTURE_MARGIN);
            let start = row as usize * stride + shift as usize * 4;
            let line = self.texture.get(start..start + bytes);
            if let (Some(target), Some(line)) = (canvas.row_mut(clamp(y)), line) {
                target.copy_from_slice(line);
            }
        }
    }
}

const TEXTURE_LINES: u32 = 256;
const TEXTURE_MARGIN: u32 = 256;

const fn texture_width(width: u32) -> u32 {
    width + TEXTURE_MARGIN
}

/// Gradients that wrap from the last line to the first, with a little noise.
fn texture(width: u32) -> Vec<u8> {
    let width = texture_width(width);
    let mut pixels = Vec::with_capacity((width * TEXTURE_LINES * 4) as usize);
    for y in 0..TEXTURE_LINES {
        for x in 0..width {
            let noise = scramble(y * width + x) % 12;
            let channel = |speed_x: u64, speed_y: u64| {
                let level = triangle(u64::from(x) * speed_x / 4 + u64::from(y) * speed_y * 2, 240);
                u8::try_from(level + noise).unwrap_or(255)
            };
            pixels.extend([channel(1, 1), channel(2, 2), channel(3, 4), 255]);
        }
    }
    pixels
}

/// There and back again between 0 and `top`.
fn triangle(at: u64, top: u32) -> u32 {
    let top = u64::from(top);
    if top == 0 {
        return 0;
    }
    let at = at % (top * 2);
    u32::try_from(at.min(top * 2 - at)).unwrap_or(0)
}

/// A number that looks random and isn't.
const fn scramble(seed: u32) -> u32 {
    let seed = (seed ^ seed >> 16).wrapping_mul(0x7FEB_352D);
    let seed = (seed ^ seed >> 15).wrapping_mul(0x846C_A68B);
    seed ^ seed >> 16
}

fn terminal_text(line: usize) -> &'static str {
    TERMINAL
        .get(line % TERMINAL.len())
        .copied()
        .unwrap_or_default()
}

/// One line of the terminal on its background, up to a column.
fn terminal_line(canvas: &mut Canvas<'_>, y: u32, line: usize, columns: usize) {
    let text = terminal_text(line);
    let text = text.get(..columns.min(text.len())).unwrap_or_default();
    canvas.fill(0, clamp(y), canvas.size().width, LINE, TERMINAL_BACKGROUND);
    let color = if text.starts_with('$') {
        PROMPT
    } else {
        TERMINAL_TEXT
    };
    canvas.text(4, clamp(y), text, Font::Small, color, None);
}

fn draw_editor(canvas: &mut Canvas<'_>) {
    let Size { width, height } = canvas.size();
    canvas.fill(0, 0, width, height, PAPER);
    canvas.fill(0, 0, 40, height, Color::rgb(236, 234, 226));
    for (row, text) in (0..height / LINE).zip(EDITOR.iter().cycle()) {
        let y = clamp(row * LINE);
        let digits = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9'];
        let mut number = row + 1;
        let mut x = 24;
        while number > 0 {
            let digit = digits.get((number % 10) as usize).copied().unwrap_or('0');
            canvas.text(
                x,
                y,
                digit.encode_utf8(&mut [0; 4]),
                Font::Small,
                COMMENT,
                None,
            );
            number /= 10;
            x -= 8;
        }
        let mut x = 48;
        for word in text.split_inclusive(' ') {
            let color = match word.trim() {
                _ if text.trim_start().starts_with("//") => COMMENT,
                "fn" | "pub" | "let" | "if" | "for" | "in" | "continue;" => KEYWORD,
                _ => INK,
            };
            x = canvas.text(x, y, word, Font::Small, color, None);
        }
    }
}

fn draw_window(canvas: &mut Canvas<'_>) {
    let Size { width, height } = canvas.size();
    canvas.fill(0, 0, width, 24, WINDOW_TITLE);
    canvas.text(8, 4, "ledger.rs - editor", Font::Small, Color::WHITE, None);
    let below = Rect {
        x: 0,
        y: 24,
        width,
        height: height.saturating_sub(24),
    };
    draw_editor(&mut canvas.part(below));
    canvas.frame(0, 0, width, height, 1, WINDOW_TITLE);
}

/// Moves the text up by `lines` pixel lines and draws what comes into view; `offset` counts them.
fn scroll_text(canvas: &mut Canvas<'_>, offset: &mut u32, lines: u32) {
    let Size { width, height } = canvas.size();
    let lines = lines.min(height);
    canvas.scroll_up(0, 0, width, height, lines);
    *offset = offset.wrapping_add(lines) % (LINE * 24 * 1000);
    let first = height - lines;
    let mut strip = canvas.part(Rect {
        x: 0,
        y: first,
        width,
        height: lines,
    });
    strip.fill(0, 0, width, lines, TERMINAL_BACKGROUND);
    let top = *offset + first;
    for line in top / LINE..=(top + lines) / LINE {
        let y = clamp(line * LINE) - clamp(top);
        let text = terminal_text(line as usize);
        let color = if text.starts_with('$') {
            PROMPT
        } else {
            TERMINAL_TEXT
        };
        strip.text(4, y, text, Font::Small, color, None);
    }
}
