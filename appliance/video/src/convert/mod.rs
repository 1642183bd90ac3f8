//! Compare and convert in one pass: only the tiles that changed become I420.

mod color;
mod display;
pub mod expand;
mod packed;
mod pixels;

use soft_kvm_core::Size;

use crate::codec::I420Ref;
use crate::frame::{Colorimetry, Damage, Frame, PixelFormat, Plane, Rect};

use color::Recode;

pub use color::standard;
pub use display::{to_bgrx, to_rgb};
pub use packed::to_i420;

/// Columns of a tile.
pub const TILE_WIDTH: u32 = 64;
/// Lines of a tile: a row of macroblocks.
pub const TILE_HEIGHT: u32 = 16;

/// What an update found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// Every pixel is as before.
    Unchanged,
    /// The picture is new in places.
    Changed {
        /// How many tiles of [`TILE_WIDTH`] x [`TILE_HEIGHT`] pixels were converted.
        tiles: u32,
        /// The rectangle around them.
        rect: Rect,
        /// The size is another one than before (or this is the first picture): the encoder has to be opened again.
        resized: bool,
    },
}

/// A frame that can't be converted. The picture stays as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// The size is outside what the program handles.
    #[error("pictures of {size} can't be handled: 16x16 to 3840x2160 pixels is what works")]
    Size {
        /// The frame's size.
        size: Size,
    },
    /// A plane is missing, or its memory is shorter than size and stride say.
    #[error(
        "plane {plane} of the {format:?} picture of {size} is missing or too short: the source is broken"
    )]
    Plane {
        /// Which one, from 0.
        plane: usize,
        /// The frame's format.
        format: PixelFormat,
        /// The frame's size.
        size: Size,
    },
}

/// Keeps the newest picture as I420 (BT.709, limited range) and what the source's memory held, to compare.
///
/// Odd sizes are rounded down to even ones. Other colours ([`FrameInfo::color`](crate::frame::FrameInfo)) cost a
/// pass more over the tiles that changed.
/// After the first frame of a format and size nothing is allocated.
#[derive(Debug, Default)]
pub struct Converter {
    source: Option<(PixelFormat, Colorimetry, Size)>,
    /// What has to be done to the colours.
    recode: Option<Recode>,
    /// Sequence number of the frame that the picture shows; `None` when the next frame must be compared as a whole.
    sequence: Option<u64>,
    size: Size,
    canvas: [Buffer; 3],
    shadow: [Buffer; 3],
    dirty: Vec<bool>,
    cpu_bytes: u64,
}

/// A plane with one line too many: the `yuv` crate takes whole strides only, also of a line's end.
#[derive(Debug, Default)]
struct Buffer {
    data: Vec<u8>,
    stride: usize,
    lines: usize,
}

impl Buffer {
    fn reset(&mut self, stride: usize, lines: usize, value: u8) {
        self.data.clear();
        self.data.resize(stride * (lines + 1), value);
        self.stride = stride;
        self.lines = lines;
    }

    /// `count` bytes of line `y` from byte `x` on.
    fn line(&self, y: usize, x: usize, count: usize) -> &[u8] {
        self.data
            .get(y * self.stride + x..)
            .and_then(|data| data.get(..count))
            .unwrap_or_default()
    }

    fn line_mut(&mut self, y: usize, x: usize, count: usize) -> &mut [u8] {
        self.data
            .get_mut(y * self.stride + x..)
            .and_then(|data| data.get_mut(..count))
            .unwrap_or_default()
    }

    /// Whole strides for `lines` lines from byte `x` of line `y` on.
    fn block_mut(&mut self, y: usize, x: usize, lines: usize) -> &mut [u8] {
        let bytes = self.stride * lines;
        self.line_mut(y, x, bytes)
    }
}

/// Columns and lines of pixels; all even, and a multiple of the tile but at the picture's edges.
#[derive(Clone, Copy, Debug)]
struct Block {
    x: usize,
    y: usize,
    width: usize,
    lines: usize,
}

impl Converter {
    /// A converter without a picture.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the frame's changes over.
    ///
    /// Honours [`Damage::Within`] when the frame follows the one before it by sequence number; compares all
    /// of it otherwise.
    ///
    /// # Errors
    /// [`ConvertError`] on a frame with a size out of bounds or with planes that are too short.
    pub fn update(&mut self, frame: &Frame) -> Result<Update, ConvertError> {
        let info = *frame.info();
        let previous = self.sequence.take();
        let planes = planes(frame)?;
        let source = Some((info.format, info.color, info.size));
        let reset = self.source != source;
        let resized = self.size != info.size.even();
        if reset {
            self.recode = Recode::new(info.format, info.color);
            self.reset(info.format, info.size);
            self.source = source;
        }
        let area = match info.damage {
            Damage::Within(rect) if !reset && previous == info.sequence.checked_sub(1) => rect,
            _ => Rect::whole(info.size),
        };
        let (tiles, rect) = self.take_changes(info.format, &planes, area, reset);
        self.sequence = Some(info.sequence);
        Ok(if tiles == 0 {
            Update::Unchanged
        } else {
            Update::Changed {
                tiles,
                rect,
                resized,
            }
        })
    }

    /// The picture as it is now; 0x0 before the first frame.
    #[must_use]
    pub fn picture(&self) -> I420Ref<'_> {
        let [y, cb, cr] = &self.canvas;
        let plane = |buffer: &'_ Buffer| buffer.stride * buffer.lines;
        I420Ref {
            size: self.size,
            planes: [
                y.line(0, 0, plane(y)),
                cb.line(0, 0, plane(cb)),
                cr.line(0, 0, plane(cr)),
            ],
            strides: [y.stride, cb.stride, cr.stride],
            color: Colorimetry::default(),
        }
    }

    /// Bytes of pixels read and written since the last call: both sides of each comparison, and what a changed
    /// tile was read from and written to.
    pub fn take_cpu_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.cpu_bytes)
    }

    /// Forgets the picture and frees its memory: for when nobody watches.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn reset(&mut self, format: PixelFormat, size: Size) {
        let size = size.even();
        self.size = size;
        for (plane, (buffer, (stride, lines))) in self
            .canvas
            .iter_mut()
            .zip(PixelFormat::I420.planes(size))
            .enumerate()
        {
            buffer.reset(stride, lines, if plane == 0 { 16 } else { 128 });
        }
        self.shadow = Default::default();
        for (plane, (stride, lines)) in format.planes(size).enumerate() {
            if !pixels::canvas_is_shadow(format, plane, self.recode.as_ref())
                && let Some(buffer) = self.shadow.get_mut(plane)
            {
                buffer.reset(stride, lines, 0);
            }
        }
        if matches!(format, PixelFormat::Rgb565 | PixelFormat::Xrgb2101010) {
            // A row of tiles as B G R x: these have no second plane.
            let [_, wide, _] = &mut self.shadow;
            wide.reset(size.width as usize * 4, TILE_HEIGHT as usize, 0);
        }
        let columns = size.width.div_ceil(TILE_WIDTH) as usize;
        self.dirty.clear();
        self.dirty.resize(columns, false);
    }

    fn take_changes(
        &mut self,
        format: PixelFormat,
        planes: &[Option<Plane<'_>>; 3],
        area: Rect,
        all: bool,
    ) -> (u32, Rect) {
        let area = area.intersection(Rect::whole(self.size));
        let (mut tiles, mut changed) = (0, Rect::default());
        if area.is_empty() {
            return (tiles, changed);
        }
        let columns = (area.x / TILE_WIDTH) as usize..area.right().div_ceil(TILE_WIDTH) as usize;
        for row in area.y / TILE_HEIGHT..area.bottom().div_ceil(TILE_HEIGHT) {
            let y = row * TILE_HEIGHT;
            let lines = TILE_HEIGHT.min(self.size.height - y);
            self.dirty.fill(false);
            if all {
                self.dirty.fill(true);
            } else {
                self.compare(format, planes, y, lines, columns.clone());
            }
            let mut column = columns.start;
            while let Some(start) = self.next_column(column, columns.end, true) {
                let end = self
                    .next_column(start, columns.end, false)
                    .unwrap_or(columns.end);
                let x = start * TILE_WIDTH as usize;
                let width = (end * TILE_WIDTH as usize).min(self.size.width as usize) - x;
                let block = Block {
                    x,
                    y: y as usize,
                    width,
                    lines: lines as usize,
                };
                pixels::take(
                    format,
                    planes,
                    &mut self.shadow,
                    &mut self.canvas,
                    self.recode.as_ref(),
                    block,
                );
                self.cpu_bytes += touched(format, self.recode.as_ref(), block);
                tiles += as_u32(end - start);
                changed = changed.union(Rect {
                    x: as_u32(x),
                    y,
                    width: as_u32(width),
                    height: lines,
                });
                column = end;
            }
        }
        (tiles, changed)
    }

    /// The first column in `from..to` whose flag is `dirty`.
    fn next_column(&self, from: usize, to: usize, dirty: bool) -> Option<usize> {
        let flags = self.dirty.get(from..to)?;
        flags
            .iter()
            .position(|&flag| flag == dirty)
            .map(|index| from + index)
    }

    /// Marks the tiles of one row of tiles that differ from what the source held before.
    fn compare(
        &mut self,
        format: PixelFormat,
        planes: &[Option<Plane<'_>>; 3],
        y: u32,
        lines: u32,
        columns: std::ops::Range<usize>,
    ) {
        let Some(dirty) = self.dirty.get_mut(columns.clone()) else {
            return;
        };
        for (index, plane) in planes.iter().enumerate() {
            let (Some(plane), Some(shape)) = (plane, pixels::shape(format, index)) else {
                continue;
            };
            let old = if pixels::canvas_is_shadow(format, index, self.recode.as_ref()) {
                &self.canvas
            } else {
                &self.shadow
            };
            let Some(old) = old.get(index) else { continue };
            let tile = shape.bytes(TILE_WIDTH as usize);
            let start = columns.start * tile;
            let bytes = old.stride.min(columns.end * tile) - start;
            let first = shape.lines(y as usize);
            for line in first..first + shape.lines(lines as usize) {
                let new = plane
                    .data
                    .get(line * plane.stride + start..)
                    .and_then(|d| d.get(..bytes));
                let new = new.unwrap_or_default();
                let old = old.line(line, start, bytes);
                self.cpu_bytes += 2 * bytes as u64;
                if new == old {
                    continue;
                }
                let pairs = new.chunks(tile).zip(old.chunks(tile));
                for (flag, (new, old)) in dirty.iter_mut().zip(pairs) {
                    *flag = *flag || new != old;
                }
                if dirty.iter().all(|&flag| flag) {
                    return;
                }
            }
        }
    }
}

/// The frame's planes, checked to be as long as they have to be.
fn planes(frame: &Frame) -> Result<[Option<Plane<'_>>; 3], ConvertError> {
    let info = frame.info();
    let (format, size) = (info.format, info.size);
    if !size.is_supported() {
        return Err(ConvertError::Size { size });
    }
    let mut planes = [None; 3];
    for (index, ((line, lines), slot)) in format.planes(size).zip(&mut planes).enumerate() {
        let plane = frame.plane(index).filter(|plane| {
            let least = plane
                .stride
                .checked_mul(lines - 1)
                .and_then(|sum| sum.checked_add(line));
            plane.stride >= line && least.is_some_and(|least| plane.data.len() >= least)
        });
        if plane.is_none() {
            return Err(ConvertError::Plane {
                plane: index,
                format,
                size,
            });
        }
        *slot = plane;
    }
    Ok(planes)
}

/// Bytes that taking a block over reads and writes: the source, its copy for the next comparison, the canvas (read and
/// written again where its colours are changed).
fn touched(format: PixelFormat, recode: Option<&Recode>, block: Block) -> u64 {
    let size = Size::new(as_u32(block.width), as_u32(block.lines));
    let bytes = |format: PixelFormat| -> usize {
        format.planes(size).map(|(line, lines)| line * lines).sum()
    };
    let source = bytes(format);
    let kept: usize = format
        .planes(size)
        .enumerate()
        .filter(|(plane, _)| !pixels::canvas_is_shadow(format, *plane, recode))
        .map(|(_, (line, lines))| line * lines)
        .sum();
    let passes = if recode.is_some() { 3 } else { 1 };
    let wide = match format {
        PixelFormat::Rgb565 | PixelFormat::Xrgb2101010 => 2 * bytes(PixelFormat::Bgrx),
        _ => 0,
    };
    (source + kept + wide + bytes(PixelFormat::I420) * passes) as u64
}

/// Picture coordinates are below [`Size::MAX`].
fn as_u32(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
