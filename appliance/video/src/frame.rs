//! Captured pictures, owned until the last user drops them.

use std::fmt;
use std::sync::Arc;

use soft_kvm_core::{MonoTime, Size};

/// Memory layout of a picture in CPU memory, named after V4L2's fourccs (`videodev2.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PixelFormat {
    /// `NV12`: a plane of Y, a half-size plane of interleaved Cb Cr.
    Nv12,
    /// `YU12`: planes of Y, Cb, Cr; the chroma planes of half size each way.
    I420,
    /// `YUYV`: 4:2:2 packed, Y0 Cb Y1 Cr.
    Yuyv,
    /// `UYVY`: 4:2:2 packed, Cb Y0 Cr Y1.
    Uyvy,
    /// `RGB3`: bytes R G B.
    Rgb24,
    /// `BGR3`: bytes B G R.
    Bgr24,
    /// `XR24`/`BGR4` (DRM `XRGB8888`): bytes B G R x.
    Bgrx,
    /// `XB24` (DRM `XBGR8888`): bytes R G B x.
    Rgbx,
}

impl PixelFormat {
    /// Each plane's bytes in a line (without padding) and number of lines, for a picture of `size`.
    ///
    /// Odd sizes round chroma up; the packed 4:2:2 formats hold whole pairs of pixels.
    pub fn planes(self, size: Size) -> impl Iterator<Item = (usize, usize)> {
        let (width, height) = (size.width as usize, size.height as usize);
        let (half_width, half_height) = (width.div_ceil(2), height.div_ceil(2));
        let planes = match self {
            Self::Nv12 => [(width, height), (half_width * 2, half_height), (0, 0)],
            Self::I420 => [
                (width, height),
                (half_width, half_height),
                (half_width, half_height),
            ],
            Self::Yuyv | Self::Uyvy => [(half_width * 4, height), (0, 0), (0, 0)],
            Self::Rgb24 | Self::Bgr24 => [(width * 3, height), (0, 0), (0, 0)],
            Self::Bgrx | Self::Rgbx => [(width * 4, height), (0, 0), (0, 0)],
        };
        planes.into_iter().filter(|&(line, _)| line > 0)
    }
}

/// One plane's place in its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plane<'a> {
    /// The plane's bytes, from its first line; at least `stride * (lines - 1) + bytes of a line` long.
    pub data: &'a [u8],
    /// Bytes from one line to the next.
    pub stride: usize,
}

/// A rectangle in pixels; may not lie outside its picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rect {
    /// First column.
    pub x: u32,
    /// First line.
    pub y: u32,
    /// Columns.
    pub width: u32,
    /// Lines.
    pub height: u32,
}

impl Rect {
    /// The whole of a picture.
    #[must_use]
    pub const fn whole(size: Size) -> Self {
        Self {
            x: 0,
            y: 0,
            width: size.width,
            height: size.height,
        }
    }

    /// Whether it holds no pixel.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.width == 0 || self.height == 0
    }

    /// The first column right of it.
    #[must_use]
    pub const fn right(self) -> u32 {
        self.x.saturating_add(self.width)
    }

    /// The first line below it.
    #[must_use]
    pub const fn bottom(self) -> u32 {
        self.y.saturating_add(self.height)
    }

    /// The smallest rectangle around both; an empty one adds nothing.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        if self.is_empty() {
            return other;
        }
        if other.is_empty() {
            return self;
        }
        let (x, y) = (self.x.min(other.x), self.y.min(other.y));
        Self {
            x,
            y,
            width: self.right().max(other.right()) - x,
            height: self.bottom().max(other.bottom()) - y,
        }
    }

    /// What both have in common; empty if nothing.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        let (x, y) = (self.x.max(other.x), self.y.max(other.y));
        Self {
            x,
            y,
            width: self.right().min(other.right()).saturating_sub(x),
            height: self.bottom().min(other.bottom()).saturating_sub(y),
        }
    }
}

/// What a source knows about the difference between a frame and the one that it gave before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Damage {
    /// Anything may have changed: compare.
    #[default]
    Unknown,
    /// Only this rectangle may have changed.
    Within(Rect),
}

/// What is known of a frame besides its pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameInfo {
    /// Memory layout.
    pub format: PixelFormat,
    /// Size in pixels.
    pub size: Size,
    /// The source's own count; gaps are frames that the device or the slot dropped.
    pub sequence: u64,
    /// When the picture was taken: the kernel's own stamp where there is one.
    pub captured: MonoTime,
    /// What changed since the frame with the sequence number before this one.
    pub damage: Damage,
}

/// A set of buffers that a source lends out frame by frame.
///
/// Implementations keep mapped device memory alive and take a buffer back in [`FramePool::release`],
/// which runs on whatever thread drops the frame last.
pub trait FramePool: Send + Sync + fmt::Debug {
    /// The plane's memory, or `None` if the buffer has no such plane.
    fn plane(&self, buffer: u32, plane: usize) -> Option<Plane<'_>>;

    /// The frame in `buffer` has been dropped: the source may fill it again.
    fn release(&self, buffer: u32);
}

/// A captured picture.
///
/// Made without allocation: it names a buffer of a long-lived [`FramePool`] and gives it back on drop.
#[derive(Debug)]
pub struct Frame {
    info: FrameInfo,
    pool: Arc<dyn FramePool>,
    buffer: u32,
}

impl Frame {
    /// Lends `buffer` of `pool` out as a frame.
    #[must_use]
    pub fn new(info: FrameInfo, pool: Arc<dyn FramePool>, buffer: u32) -> Self {
        Self { info, pool, buffer }
    }

    /// What is known of the frame.
    #[must_use]
    pub fn info(&self) -> &FrameInfo {
        &self.info
    }

    /// The plane's memory, or `None` if the frame has no such plane.
    #[must_use]
    pub fn plane(&self, plane: usize) -> Option<Plane<'_>> {
        self.pool.plane(self.buffer, plane)
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.pool.release(self.buffer);
    }
}
