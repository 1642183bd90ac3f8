//! Title, clock and echo: what surrounds the content.

use std::fmt::{self, Write};

use soft_kvm_core::{MonoTime, Size};
use soft_kvm_protocol::input::echo::EchoSnapshot;

use super::TestCardConfig;
use crate::barcode::Barcode;
use crate::draw::{Canvas, Color, Font, clamp};
use crate::frame::Rect;

const BACKGROUND: Color = Color::rgb(20, 32, 52);
const TEXT: Color = Color::rgb(214, 222, 235);
const LABEL: Color = Color::rgb(120, 150, 190);
const MARK: Color = Color::rgb(255, 176, 64);

/// Where the parts are.
#[derive(Debug)]
pub(super) struct Panel {
    size: Size,
    title: Rect,
    clock: Rect,
    echo: Rect,
    line: Line,
}

impl Panel {
    pub(super) fn new(size: Size) -> Self {
        let top = Barcode::size(size).map_or(0, |code| code.height);
        let below = |height: u32| height.min(size.height.saturating_sub(top));
        let title = Rect {
            x: 0,
            y: top,
            width: size.width,
            height: below(32),
        };
        let clock_width = CLOCK_FONT.width() * 12;
        let clock = Rect {
            x: size.width.saturating_sub(clock_width + 16),
            width: clock_width.min(size.width),
            ..title
        };
        let height = if size.height >= 400 { 96 } else { 48 };
        let height = height.min(size.height.saturating_sub(title.bottom()));
        let echo = Rect {
            x: 0,
            y: size.height - height,
            width: size.width,
            height,
        };
        Self {
            size,
            title,
            clock,
            echo,
            line: Line::default(),
        }
    }

    /// What is left for the content.
    pub(super) fn content_area(&self) -> Rect {
        Rect {
            x: 0,
            y: self.title.bottom(),
            width: self.size.width,
            height: self.echo.y.saturating_sub(self.title.bottom()),
        }
    }

    /// Everything above the content but clock and barcode.
    pub(super) fn draw_title(&self, canvas: &mut Canvas<'_>, config: &TestCardConfig) {
        canvas.fill(0, 0, self.size.width, self.title.bottom(), BACKGROUND);
        let mut line = Line::default();
        let _ = write!(line, "Soft KVM test card  {}  {}", config.size, config.rate);
        let _ = write!(line, "  {}  {}", config.content, config.name);
        let y = clamp(self.title.y) + 8;
        canvas.text(16, y, line.as_str(), Font::Small, TEXT, None);
    }

    pub(super) fn draw_clock(&mut self, canvas: &mut Canvas<'_>, now: MonoTime) -> Rect {
        let millis = now.as_nanos() / 1_000_000;
        let (seconds, millis) = (millis / 1_000, millis % 1_000);
        let (hours, minutes) = (seconds / 3_600 % 100, seconds / 60 % 60);
        let line = self.line.clear();
        let _ = write!(
            line,
            "{hours:02}:{minutes:02}:{:02}.{millis:03}",
            seconds % 60
        );
        let mut part = canvas.part(self.clock);
        part.text(0, 0, line.as_str(), CLOCK_FONT, MARK, Some(BACKGROUND));
        self.clock
    }

    pub(super) fn draw_echo(&mut self, canvas: &mut Canvas<'_>, echo: &EchoSnapshot) -> Rect {
        let mut part = canvas.part(self.echo);
        let Size { width, height } = part.size();
        part.fill(0, 0, width, height, BACKGROUND);
        part.fill(0, 0, width, 1, LABEL);
        let line = self.line.clear();
        let _ = write!(line, "keys ");
        for key in &echo.keys_held {
            let _ = write!(line, " {key}");
        }
        text(&mut part, 0, line);
        let line = self.line.clear();
        let _ = write!(line, "text  {}", echo.text);
        text(&mut part, 1, line);
        let line = self.line.clear();
        let (x, y) = echo.pointer;
        let _ = write!(line, "pointer {x:5} {y:5}  buttons {:08b}", echo.buttons);
        text(&mut part, 2, line);
        let line = self.line.clear();
        let _ = write!(line, "reports {}", echo.reports);
        text(&mut part, 3, line);
        self.draw_pointer(canvas, echo);
        self.echo
    }

    /// A small screen with a cross where the pointer is.
    fn draw_pointer(&self, canvas: &mut Canvas<'_>, echo: &EchoSnapshot) {
        let height = self.echo.height.saturating_sub(8);
        let width = height * 16 / 9;
        let screen = Rect {
            x: self.size.width.saturating_sub(width + 16),
            y: self.echo.y + 4,
            width,
            height,
        };
        let mut screen = canvas.part(screen);
        let Size { width, height } = screen.size();
        screen.fill(0, 0, width, height, Color::BLACK);
        let at = |position: u16, length: u32| {
            clamp(u32::from(position) * length.saturating_sub(1) / u32::from(u16::MAX))
        };
        let (x, y) = (at(echo.pointer.0, width), at(echo.pointer.1, height));
        let color = if echo.buttons == 0 { TEXT } else { MARK };
        screen.fill(x - 8, y - 1, 17, 3, color);
        screen.fill(x - 1, y - 8, 3, 17, color);
        screen.frame(0, 0, width, height, 1, LABEL);
    }
}

const CLOCK_FONT: Font = Font::Large;

fn text(part: &mut Canvas<'_>, row: i32, line: &Line) {
    part.text(16, 12 + row * 20, line.as_str(), Font::Small, TEXT, None);
}

/// A line of text without allocation; what doesn't fit is left out.
#[derive(Debug)]
struct Line {
    bytes: [u8; 240],
    len: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [0; 240],
            len: 0,
        }
    }
}

impl Line {
    fn clear(&mut self) -> &mut Self {
        self.len = 0;
        self
    }

    fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..self.len).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            // Only ASCII has glyphs: the rest would show as `?` anyway.
            let byte = u8::try_from(character)
                .ok()
                .filter(u8::is_ascii)
                .unwrap_or(b'?');
            let Some(slot) = self.bytes.get_mut(self.len) else {
                break;
            };
            *slot = byte;
            self.len += 1;
        }
        Ok(())
    }
}
