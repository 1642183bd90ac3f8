//! Captured pictures, owned until the last user drops them.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

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
    /// `RGBP` (DRM `RGB565`): little-endian 16 bits, red in the highest five.
    Rgb565,
    /// DRM `XRGB2101010` (`XR30`): little-endian 32 bits; two unused, then ten each of red, green and blue.
    Xrgb2101010,
}

impl PixelFormat {
    /// Whether samples are Y, Cb and Cr, and not R, G and B.
    #[must_use]
    pub const fn is_ycbcr(self) -> bool {
        matches!(self, Self::Nv12 | Self::I420 | Self::Yuyv | Self::Uyvy)
    }

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
            Self::Bgrx | Self::Rgbx | Self::Xrgb2101010 => [(width * 4, height), (0, 0), (0, 0)],
            Self::Rgb565 => [(width * 2, height), (0, 0), (0, 0)],
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

/// How Y, Cb and Cr came from R, G and B (`v4l2_ycbcr_encoding`, ITU-T H.273 matrix coefficients).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Matrix {
    /// ITU-R BT.601: standard definition, most webcams and MJPEG.
    Bt601,
    /// ITU-R BT.709: HDTV.
    #[default]
    Bt709,
    /// ITU-R BT.2020, non-constant luminance: UHDTV.
    Bt2020,
}

/// What the samples' numbers mean (`v4l2_quantization`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Range {
    /// Y and RGB in 16…235, Cb and Cr in 16…240.
    #[default]
    Limited,
    /// 0…255.
    Full,
}

/// The colours of a picture's samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Colorimetry {
    /// Of no meaning for RGB.
    pub matrix: Matrix,
    /// The samples' range.
    pub range: Range,
}

impl Colorimetry {
    /// From `matrix_coefficients` and `video_full_range_flag` of a stream (ITU-T H.273, table 4; H.264, E.2.1).
    /// What is unspecified, unknown, or near to BT.709 is BT.709.
    #[must_use]
    pub const fn from_h273(matrix_coefficients: u8, full_range: bool) -> Self {
        Self {
            matrix: match matrix_coefficients {
                // FCC, BT.470 B/G, SMPTE 170M.
                4..=6 => Matrix::Bt601,
                9 | 10 => Matrix::Bt2020,
                _ => Matrix::Bt709,
            },
            range: if full_range {
                Range::Full
            } else {
                Range::Limited
            },
        }
    }

    /// The code points of ITU-T H.273 for it: primaries, transfer, matrix.
    #[must_use]
    pub const fn h273(self) -> [u8; 3] {
        match self.matrix {
            Matrix::Bt601 => [6, 6, 6],
            Matrix::Bt709 => [1, 1, 1],
            Matrix::Bt2020 => [9, 14, 9],
        }
    }

    /// RGB as computers make it.
    pub const RGB: Self = Self {
        matrix: Matrix::Bt709,
        range: Range::Full,
    };
}

/// What is known of a frame besides its pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameInfo {
    /// Memory layout.
    pub format: PixelFormat,
    /// What the samples mean.
    pub color: Colorimetry,
    /// Size in pixels.
    pub size: Size,
    /// The source's own count; gaps are frames that the device or the slot dropped.
    pub sequence: u64,
    /// When the picture was taken: the kernel's own stamp where there is one.
    pub captured: MonoTime,
    /// What changed since the frame with the sequence number before this one.
    pub damage: Damage,
    /// Bytes of pixels that the CPU has read or written to make the frame: 0 if a device did it.
    pub cpu_bytes: u64,
}

/// A DMA-BUF's plane (`v4l2_plane`, `drm_mode_fb_cmd2`).
#[derive(Clone, Copy, Debug)]
pub struct DmaPlane<'a> {
    /// The DMA-BUF; planes may share one.
    pub fd: BorrowedFd<'a>,
    /// Bytes from the buffer's begin to the plane's first line.
    pub offset: u32,
    /// Bytes from one line to the next.
    pub stride: u32,
    /// Bytes of the whole DMA-BUF.
    pub length: u32,
}

/// A frame's memory as DMA-BUFs, for devices to import.
#[derive(Clone, Copy, Debug)]
pub struct DmaBuf<'a> {
    /// `DRM_FORMAT_*` of `<drm/drm_fourcc.h>`.
    pub fourcc: u32,
    /// `DRM_FORMAT_MOD_*`: [`DmaBuf::LINEAR`] unless the memory is tiled or compressed.
    pub modifier: u64,
    /// As many planes as the format has, first ones first.
    pub planes: [Option<DmaPlane<'a>>; 4],
}

impl DmaBuf<'_> {
    /// `DRM_FORMAT_MOD_LINEAR`.
    pub const LINEAR: u64 = 0;

    /// `DRM_FORMAT_MOD_INVALID`: as the driver that made the memory knows, without being told.
    pub const IMPLICIT: u64 = 0x00ff_ffff_ffff_ffff;
}

/// A set of buffers that a source lends out frame by frame.
///
/// Implementations keep mapped device memory alive and take a buffer back in [`FramePool::release`],
/// which runs on whatever thread drops the frame last.
pub trait FramePool: Send + Sync + fmt::Debug {
    /// The plane's memory for the CPU, or `None` if the buffer has no such plane or the CPU can't read it.
    /// DMA-BUFs are made readable at the first call for a frame (`DMA_BUF_IOCTL_SYNC`).
    fn plane(&self, buffer: u32, plane: usize) -> Option<Plane<'_>>;

    /// The buffer's memory as DMA-BUFs, if devices can import it.
    fn dma_buf(&self, _buffer: u32) -> Option<DmaBuf<'_>> {
        None
    }

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
    /// A bit for each plane that the CPU was given.
    opened: AtomicU8,
}

impl Frame {
    /// Lends `buffer` of `pool` out as a frame.
    #[must_use]
    pub fn new(info: FrameInfo, pool: Arc<dyn FramePool>, buffer: u32) -> Self {
        Self {
            info,
            pool,
            buffer,
            opened: AtomicU8::new(0),
        }
    }

    /// What is known of the frame.
    #[must_use]
    pub fn info(&self) -> &FrameInfo {
        &self.info
    }

    /// The plane's memory for the CPU, or `None` if the frame has no such plane or the CPU can't read it.
    #[must_use]
    pub fn plane(&self, plane: usize) -> Option<Plane<'_>> {
        let given = self.pool.plane(self.buffer, plane)?;
        let bit = u32::try_from(plane)
            .ok()
            .and_then(|plane| 1_u8.checked_shl(plane));
        self.opened.fetch_or(bit.unwrap_or(0), Ordering::Relaxed);
        Some(given)
    }

    /// Bytes of the planes that [`plane`](Self::plane) gave so far, whole: 0 while only devices have used the frame.
    #[must_use]
    pub fn opened_bytes(&self) -> u64 {
        let opened = self.opened.load(Ordering::Relaxed);
        let planes = self.info.format.planes(self.info.size).enumerate();
        planes
            .filter(|(plane, _)| opened >> plane & 1 == 1)
            .map(|(_, (line, lines))| line as u64 * lines as u64)
            .sum()
    }

    /// The frame's memory for devices, or `None` if it is ordinary memory.
    #[must_use]
    pub fn dma_buf(&self) -> Option<DmaBuf<'_>> {
        self.pool.dma_buf(self.buffer)
    }

    /// The buffer's number in its pool. Importers that keep one slot for each number map less often; they must not
    /// rely on equal numbers being equal memory.
    #[must_use]
    pub fn buffer(&self) -> u32 {
        self.buffer
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.pool.release(self.buffer);
    }
}
