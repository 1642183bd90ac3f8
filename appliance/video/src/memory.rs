//! Frames in ordinary memory, lent out without allocation.

use std::sync::Arc;

use soft_kvm_core::Size;

use crate::frame::{Frame, FrameInfo, FramePool, PixelFormat, Plane, Rect};

/// A few buffers of one format and size. A buffer is free again when the frame in it has been dropped.
#[derive(Debug)]
pub struct MemoryPool {
    buffers: Vec<Arc<Buffer>>,
}

#[derive(Debug)]
struct Buffer {
    planes: Vec<(Vec<u8>, usize)>,
}

impl MemoryPool {
    /// `count` buffers for pictures of `format` and `size`, black or nearly so; lines follow each other without gaps.
    #[must_use]
    pub fn new(format: PixelFormat, size: Size, count: usize) -> Self {
        let layout: Vec<(usize, usize)> = format.planes(size).collect();
        let buffer = || {
            Arc::new(Buffer {
                planes: layout
                    .iter()
                    .map(|&(line, lines)| (vec![0; line * lines], line))
                    .collect(),
            })
        };
        Self {
            buffers: (0..count).map(|_| buffer()).collect(),
        }
    }

    /// How many buffers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buffers.len()
    }

    /// Whether there is no buffer at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buffers.is_empty()
    }

    /// The number of a buffer that no frame uses, or `None` if all are lent out.
    pub fn free(&mut self) -> Option<usize> {
        self.buffers
            .iter_mut()
            .position(|buffer| Arc::get_mut(buffer).is_some())
    }

    /// A plane of a buffer that no frame uses, for writing: its bytes and the bytes from one line to the next.
    pub fn plane_mut(&mut self, buffer: usize, plane: usize) -> Option<(&mut Vec<u8>, usize)> {
        let buffer = Arc::get_mut(self.buffers.get_mut(buffer)?)?;
        let (data, stride) = buffer.planes.get_mut(plane)?;
        Some((data, *stride))
    }

    /// Copies rectangles of the first plane, `bytes` per pixel, from one buffer to another that no frame uses.
    pub(crate) fn copy(&mut self, from: usize, to: usize, bytes: usize, rects: &[Rect]) {
        let Some(from) = self.buffers.get(from).cloned() else {
            return;
        };
        let Some((source, _)) = from.planes.first() else {
            return;
        };
        let Some((target, stride)) = self.plane_mut(to, 0) else {
            return;
        };
        for rect in rects {
            for y in rect.y..rect.bottom() {
                let start = y as usize * stride + rect.x as usize * bytes;
                let line = start..start + rect.width as usize * bytes;
                if let (Some(source), Some(target)) =
                    (source.get(line.clone()), target.get_mut(line))
                {
                    target.copy_from_slice(source);
                }
            }
        }
    }

    /// Lends a buffer out as a frame; `None` if there is no such buffer.
    #[must_use]
    pub fn lend(&self, buffer: usize, info: FrameInfo) -> Option<Frame> {
        let buffer: Arc<dyn FramePool> = self.buffers.get(buffer)?.clone();
        Some(Frame::new(info, buffer, 0))
    }
}

impl FramePool for Buffer {
    fn plane(&self, _buffer: u32, plane: usize) -> Option<Plane<'_>> {
        let (data, stride) = self.planes.get(plane)?;
        Some(Plane {
            data,
            stride: *stride,
        })
    }

    // The reference count says it.
    fn release(&self, _buffer: u32) {}
}

#[cfg(test)]
mod tests {
    use soft_kvm_core::MonoTime;

    use super::*;
    use crate::frame::{Colorimetry, Damage};

    #[test]
    fn a_buffer_is_free_when_its_frame_is_dropped() {
        let size = Size::new(5, 3);
        let mut pool = MemoryPool::new(PixelFormat::I420, size, 1);
        let info = FrameInfo {
            format: PixelFormat::I420,
            size,
            sequence: 0,
            captured: MonoTime::ZERO,
            damage: Damage::Unknown,
            cpu_bytes: 0,
            color: Colorimetry::default(),
        };
        assert_eq!(pool.free(), Some(0));
        let frame = pool.lend(0, info).expect("buffer 0 exists");
        assert_eq!(pool.free(), None);
        assert!(pool.plane_mut(0, 0).is_none());
        let sizes: Vec<_> = (0..4)
            .map(|plane| frame.plane(plane).map(|plane| plane.data.len()))
            .collect();
        assert_eq!(sizes, [Some(15), Some(6), Some(6), None]);
        drop(frame);
        assert_eq!(pool.free(), Some(0));
    }
}
