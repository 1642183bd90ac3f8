//! One block of one format into I420.

use yuv::{
    BufferStoreMut, YuvConversionMode, YuvError, YuvPlanarImageMut, YuvRange, YuvStandardMatrix,
};

use super::color::Recode;
use super::{Block, Buffer, as_u32, expand};
use crate::frame::{PixelFormat, Plane};

/// How a plane's memory relates to pixels: bytes for every pair of columns, and lines for every pair of lines.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    bytes_per_pair: usize,
    lines_per_pair: usize,
}

impl Shape {
    /// Bytes for an even number of columns.
    pub(super) const fn bytes(self, columns: usize) -> usize {
        columns / 2 * self.bytes_per_pair
    }

    /// Lines for an even number of lines of the picture.
    pub(super) const fn lines(self, lines: usize) -> usize {
        lines / 2 * self.lines_per_pair
    }
}

/// The shape of a format's plane; `None` if it has no such plane.
pub(super) const fn shape(format: PixelFormat, plane: usize) -> Option<Shape> {
    let (bytes_per_pair, lines_per_pair) = match (format, plane) {
        (PixelFormat::Nv12 | PixelFormat::I420, 0) => (2, 2),
        (PixelFormat::Nv12, 1) => (2, 1),
        (PixelFormat::I420, 1 | 2) => (1, 1),
        (PixelFormat::Yuyv | PixelFormat::Uyvy, 0) => (4, 2),
        (PixelFormat::Rgb24 | PixelFormat::Bgr24, 0) => (6, 2),
        (PixelFormat::Bgrx | PixelFormat::Rgbx | PixelFormat::Xrgb2101010, 0) => (8, 2),
        (PixelFormat::Rgb565, 0) => (4, 2),
        _ => return None,
    };
    Some(Shape {
        bytes_per_pair,
        lines_per_pair,
    })
}

/// Whether the source's plane goes into the canvas as it is, so that the canvas serves for the comparison.
pub(super) const fn canvas_is_shadow(
    format: PixelFormat,
    plane: usize,
    recode: Option<&Recode>,
) -> bool {
    recode.is_none()
        && matches!(
            (format, plane),
            (PixelFormat::I420, _) | (PixelFormat::Nv12, 0)
        )
}

/// Copies a block of the source's planes to where the next comparison looks, and brings the canvas up to date.
pub(super) fn take(
    format: PixelFormat,
    planes: &[Option<Plane<'_>>; 3],
    shadow: &mut [Buffer; 3],
    canvas: &mut [Buffer; 3],
    recode: Option<&Recode>,
    block: Block,
) {
    for (index, plane) in planes.iter().enumerate() {
        let (Some(plane), Some(shape)) = (plane, shape(format, index)) else {
            continue;
        };
        let target = if canvas_is_shadow(format, index, recode) {
            canvas.get_mut(index)
        } else {
            shadow.get_mut(index)
        };
        if let Some(target) = target {
            copy(plane, target, shape, block);
        }
    }
    if recode.is_some() {
        copy_up(format, shadow, canvas, block);
    }
    let [source, second, _] = shadow;
    let range = Recode::rgb_range(recode);
    match format {
        PixelFormat::I420 => {}
        PixelFormat::Nv12 => split_chroma(second, canvas, block),
        PixelFormat::Yuyv => unpack::<0>(source, canvas, block),
        PixelFormat::Uyvy => unpack::<1>(source, canvas, block),
        PixelFormat::Rgb24 => {
            from_rgb(yuv::rgb_to_yuv420, source, block.y, canvas, block, 3, range)
        }
        PixelFormat::Bgr24 => {
            from_rgb(yuv::bgr_to_yuv420, source, block.y, canvas, block, 3, range)
        }
        PixelFormat::Bgrx => from_rgb(
            yuv::bgra_to_yuv420,
            source,
            block.y,
            canvas,
            block,
            4,
            range,
        ),
        PixelFormat::Rgbx => from_rgb(
            yuv::rgba_to_yuv420,
            source,
            block.y,
            canvas,
            block,
            4,
            range,
        ),
        PixelFormat::Rgb565 => {
            widen(source, second, block, |[low, high]: [u8; 2]| {
                expand::rgb565(u16::from_le_bytes([low, high]))
            });
            from_rgb(yuv::bgra_to_yuv420, second, 0, canvas, block, 4, range);
        }
        PixelFormat::Xrgb2101010 => {
            widen(source, second, block, |bytes: [u8; 4]| {
                expand::xrgb2101010(u32::from_le_bytes(bytes))
            });
            from_rgb(yuv::bgra_to_yuv420, second, 0, canvas, block, 4, range);
        }
    }
    if let Some(recode) = recode {
        recode.apply(canvas, block);
    }
}

/// Copies the planes that the canvas has in the same form, for their colours to be changed there.
fn copy_up(format: PixelFormat, shadow: &[Buffer; 3], canvas: &mut [Buffer; 3], block: Block) {
    for (index, (shadow, canvas)) in shadow.iter().zip(canvas).enumerate() {
        if let Some(shape) = shape(format, index)
            && canvas_is_shadow(format, index, None)
        {
            let plane = Plane {
                data: &shadow.data,
                stride: shadow.stride,
            };
            copy(&plane, canvas, shape, block);
        }
    }
}

fn copy(plane: &Plane<'_>, target: &mut Buffer, shape: Shape, block: Block) {
    let (x, bytes) = (shape.bytes(block.x), shape.bytes(block.width));
    let first = shape.lines(block.y);
    for line in first..first + shape.lines(block.lines) {
        let start = line * plane.stride + x;
        if let Some(source) = plane.data.get(start..start + bytes) {
            target.line_mut(line, x, bytes).copy_from_slice(source);
        }
    }
}

/// Interleaved Cb Cr to planes.
fn split_chroma(source: &Buffer, [_, cb, cr]: &mut [Buffer; 3], block: Block) {
    let (x, width) = (block.x / 2, block.width / 2);
    for line in block.y / 2..(block.y + block.lines) / 2 {
        let pairs = source.line(line, x * 2, width * 2).chunks_exact(2);
        let targets = cb
            .line_mut(line, x, width)
            .iter_mut()
            .zip(cr.line_mut(line, x, width));
        for ((cb, cr), pair) in targets.zip(pairs) {
            [*cb, *cr] = [pair[0], pair[1]];
        }
    }
}

/// Packed 4:2:2 to planes; `LUMA` is 0 for Y0 Cb Y1 Cr and 1 for Cb Y0 Cr Y1. Chroma is the mean of two lines.
fn unpack<const LUMA: usize>(source: &Buffer, [y, cb, cr]: &mut [Buffer; 3], block: Block) {
    let chroma = 1 - LUMA;
    for line in block.y..block.y + block.lines {
        let source = source.line(line, block.x * 2, block.width * 2);
        let luma = y.line_mut(line, block.x, block.width);
        for (luma, pair) in luma.iter_mut().zip(source.chunks_exact(2)) {
            *luma = pair[LUMA];
        }
    }
    let (x, width) = (block.x / 2, block.width / 2);
    for line in block.y / 2..(block.y + block.lines) / 2 {
        let upper = source.line(line * 2, x * 4, width * 4).chunks_exact(4);
        let lower = source.line(line * 2 + 1, x * 4, width * 4).chunks_exact(4);
        let targets = cb
            .line_mut(line, x, width)
            .iter_mut()
            .zip(cr.line_mut(line, x, width));
        for ((cb, cr), (upper, lower)) in targets.zip(upper.zip(lower)) {
            *cb = mean(upper[chroma], lower[chroma]);
            *cr = mean(upper[chroma + 2], lower[chroma + 2]);
        }
    }
}

/// Makes B G R x of a block's pixels, from the first line of `wide` on: for formats that the `yuv` crate does not know.
fn widen<const BYTES: usize>(
    source: &Buffer,
    wide: &mut Buffer,
    block: Block,
    pixel: impl Fn([u8; BYTES]) -> [u8; 4],
) {
    for line in 0..block.lines {
        let source = source.line(block.y + line, block.x * BYTES, block.width * BYTES);
        let target = wide.line_mut(line, block.x * 4, block.width * 4);
        let (source, _) = source.as_chunks::<BYTES>();
        let (target, _) = target.as_chunks_mut::<4>();
        for (target, bytes) in target.iter_mut().zip(source) {
            *target = pixel(*bytes);
        }
    }
}

fn mean(a: u8, b: u8) -> u8 {
    a.midpoint(b)
}

type FromRgb = fn(
    &mut YuvPlanarImageMut<'_, u8>,
    &[u8],
    u32,
    YuvRange,
    YuvStandardMatrix,
    YuvConversionMode,
) -> Result<(), YuvError>;

/// `source_line` is where the block's first line is in `source`.
fn from_rgb(
    convert: FromRgb,
    source: &mut Buffer,
    source_line: usize,
    [y, cb, cr]: &mut [Buffer; 3],
    block: Block,
    bytes_per_pixel: usize,
    range: YuvRange,
) {
    let (x, line, lines) = (block.x / 2, block.y / 2, block.lines / 2);
    let mut picture = YuvPlanarImageMut {
        y_stride: as_u32(y.stride),
        u_stride: as_u32(cb.stride),
        v_stride: as_u32(cr.stride),
        y_plane: BufferStoreMut::Borrowed(y.block_mut(block.y, block.x, block.lines)),
        u_plane: BufferStoreMut::Borrowed(cb.block_mut(line, x, lines)),
        v_plane: BufferStoreMut::Borrowed(cr.block_mut(line, x, lines)),
        width: as_u32(block.width),
        height: as_u32(block.lines),
    };
    let stride = as_u32(source.stride);
    let source = source.block_mut(source_line, block.x * bytes_per_pixel, block.lines);
    let done = convert(
        &mut picture,
        source,
        stride,
        range,
        YuvStandardMatrix::Bt709,
        YuvConversionMode::Balanced,
    );
    debug_assert!(
        done.is_ok(),
        "every block lies inside of its buffers: {done:?}"
    );
}
