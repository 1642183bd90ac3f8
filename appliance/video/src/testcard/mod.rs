//! The test card: a picture drawn by us, for machines without devices and for measuring.
//!
//! It shows a clock, the frame's number as a [`Barcode`], moving content, and an echo of received input,
//! so that the whole loop can be tried and measured. Drawing is a pure function of the calls made so far.

mod content;
mod corpus;
mod panel;

use soft_kvm_core::{FrameRate, MonoTime, Size};
use soft_kvm_protocol::input::echo::EchoSnapshot;

use crate::barcode::Barcode;
use crate::draw::Canvas;
use crate::frame::{Colorimetry, Damage, Frame, FrameInfo, PixelFormat, Rect};
use crate::memory::MemoryPool;
use crate::source::Content;
use content::Scene;
use panel::Panel;

/// One in the slot, one with the encoder, one to draw.
const BUFFERS: usize = 3;

/// What a test card shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestCardConfig {
    /// Size in pixels; a barcode needs about 320x200.
    pub size: Size,
    /// Frames in a second: shown, and the measure of the motion's speed.
    pub rate: FrameRate,
    /// What moves.
    pub content: Content,
    /// The machine's or the story's name, shown in the title.
    pub name: String,
    /// Nothing at all changes between inputs, not even clock and barcode.
    pub still: bool,
}

/// Draws the test card. The driver only has to wait for the next frame's time and call [`TestCard::draw_frame`].
#[derive(Debug)]
pub struct TestCard {
    config: TestCardConfig,
    pool: MemoryPool,
    /// What changed since each buffer was drawn last.
    stale: [Rects; BUFFERS],
    current: Option<usize>,
    sequence: u64,
    echo: EchoSnapshot,
    scene: Scene,
    panel: Panel,
}

impl TestCard {
    /// A test card. A size out of bounds becomes 1280x720.
    #[must_use]
    pub fn new(mut config: TestCardConfig) -> Self {
        if !config.size.is_supported() {
            config.size = Size::new(1280, 720);
        }
        let panel = Panel::new(config.size);
        Self {
            pool: MemoryPool::new(PixelFormat::Bgrx, config.size, BUFFERS),
            stale: Default::default(),
            current: None,
            sequence: 0,
            echo: EchoSnapshot::default(),
            scene: Scene::new(config.content, panel.content_area(), config.rate),
            panel,
            config,
        }
    }

    /// What it was made with.
    #[must_use]
    pub fn config(&self) -> &TestCardConfig {
        &self.config
    }

    /// Draws the next frame: the clock shows `now`, which is also the capture time, the echo panel `echo`.
    ///
    /// `None` when all buffers are still in use. Allocates nothing but what a longer echo needs.
    pub fn draw_frame(&mut self, now: MonoTime, echo: &EchoSnapshot) -> Option<Frame> {
        let echoed = self.current.is_none() || self.echo != *echo;
        if self.config.still && !echoed {
            return self.lend(now, Damage::Within(Rect::default()));
        }
        let buffer = self.pool.free()?;
        let moves_everything = self.config.content == Content::Motion && !self.config.still;
        let mut changed = Rects::default();
        match self.current {
            Some(current) if !moves_everything => {
                let stale = std::mem::take(self.stale.get_mut(buffer)?);
                if buffer != current {
                    self.pool.copy(current, buffer, 4, stale.as_slice());
                }
            }
            _ => changed.add(Rect::whole(self.config.size)),
        }
        remember(&mut self.echo, echo);
        let first = self.current.is_none();
        let (data, stride) = self.pool.plane_mut(buffer, 0)?;
        let mut canvas = Canvas::new(data, stride, self.config.size);
        if first || moves_everything {
            self.panel.draw_title(&mut canvas, &self.config);
        }
        if first || !self.config.still {
            self.scene.draw(&mut canvas, first, &mut changed);
        }
        if first || echoed || moves_everything {
            changed.add(self.panel.draw_echo(&mut canvas, echo));
        }
        changed.add(self.panel.draw_clock(&mut canvas, now));
        let code = Barcode {
            frame: frame_number(self.sequence),
            reports: echo.reports,
        };
        code.draw(&mut canvas);
        if let Some(size) = Barcode::size(self.config.size) {
            changed.add(Rect::whole(size));
        }
        for stale in &mut self.stale {
            changed.as_slice().iter().for_each(|&rect| stale.add(rect));
        }
        *self.stale.get_mut(buffer)? = Rects::default();
        self.current = Some(buffer);
        self.lend(now, Damage::Within(changed.bounds()))
    }

    fn lend(&mut self, captured: MonoTime, damage: Damage) -> Option<Frame> {
        let info = FrameInfo {
            format: PixelFormat::Bgrx,
            size: self.config.size,
            sequence: self.sequence,
            captured,
            damage,
            cpu_bytes: 0,
            color: Colorimetry::RGB,
        };
        self.sequence += 1;
        self.pool.lend(self.current?, info)
    }
}

/// Copies into the memory that is there, which a derived `clone_from` does not.
fn remember(to: &mut EchoSnapshot, from: &EchoSnapshot) {
    let EchoSnapshot {
        keys_held,
        pointer,
        buttons,
        text,
        reports,
    } = from;
    to.keys_held.clone_from(keys_held);
    to.text.clone_from(text);
    (to.pointer, to.buttons, to.reports) = (*pointer, *buttons, *reports);
}

/// The barcode's frame number wraps with the sequence number's low half.
fn frame_number(sequence: u64) -> u32 {
    u32::try_from(sequence & u64::from(u32::MAX)).unwrap_or(0)
}

/// A few rectangles; when there is no room left, the last one grows around what is added.
#[derive(Clone, Copy, Debug, Default)]
struct Rects {
    rects: [Rect; 12],
    len: usize,
}

impl Rects {
    fn add(&mut self, rect: Rect) {
        if rect.is_empty() || self.as_slice().iter().any(|&old| old.union(rect) == old) {
            return;
        }
        if let Some(slot) = self.rects.get_mut(self.len) {
            *slot = rect;
            self.len += 1;
        } else if let Some(last) = self.rects.last_mut() {
            *last = last.union(rect);
        }
    }

    fn as_slice(&self) -> &[Rect] {
        self.rects.get(..self.len).unwrap_or_default()
    }

    fn bounds(&self) -> Rect {
        self.as_slice()
            .iter()
            .fold(Rect::default(), |all, &rect| all.union(rect))
    }
}

#[cfg(test)]
mod tests;
