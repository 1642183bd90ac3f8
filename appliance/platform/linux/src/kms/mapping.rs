//! Framebuffers as DMA-BUFs, kept by framebuffer id; mapped when somebody reads them with the CPU.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use nix::errno::Errno;
use nix::sys::stat::fstat;
use soft_kvm_core::Size;
use soft_kvm_video::frame::{DmaBuf, DmaPlane, Frame, FrameInfo, FramePool, Plane, Rect};

use super::framebuffer::Layout;
use crate::dmabuf::{Access, Mapping, SYNC_END, SYNC_READ, sync};

/// Frames of one framebuffer that may be out at once.
const VIEWS: usize = 4;
const FREE: u8 = 0;
const LENT: u8 = 1;
const READ: u8 = 2;

/// A framebuffer's memory, or the part of it that a screen shows.
#[derive(Debug)]
pub(crate) struct Exported {
    layout: Layout,
    part: Rect,
    buffers: [Option<Buffer>; 4],
    views: [AtomicU8; VIEWS],
    /// Buffers that are numbered in front of this one's.
    first: u32,
}

#[derive(Debug)]
struct Buffer {
    fd: OwnedFd,
    length: usize,
    /// The DMA-BUF's own number: equal ones are the same memory.
    inode: u64,
    mapping: OnceLock<Option<Mapping>>,
}

impl Exported {
    /// Takes over the buffers behind PRIME descriptors. `slot` numbers the frames' buffers.
    pub(crate) fn new(
        layout: Layout,
        fds: [Option<OwnedFd>; 4],
        part: Rect,
        slot: usize,
    ) -> io::Result<Self> {
        let mut buffers = [None, None, None, None];
        for (buffer, fd) in buffers.iter_mut().zip(fds) {
            *buffer = fd.map(Buffer::new).transpose()?;
        }
        let exported = Self {
            layout,
            part,
            buffers,
            views: Default::default(),
            first: u32::try_from(slot * VIEWS).unwrap_or(0),
        };
        // A mapping beyond the buffer would end the process on access.
        for plane in 0..layout.planes {
            let fits = exported
                .place(plane)
                .is_some_and(|place| place.end() <= place.buffer.length);
            if !fits {
                return Err(Errno::EOVERFLOW.into());
            }
        }
        Ok(exported)
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(super) fn part(&self) -> Rect {
        self.part
    }

    /// Whether it is the same memory in the same form.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let inodes = |exported: &Self| {
            let buffers = exported.buffers.each_ref();
            buffers.map(|buffer| buffer.as_ref().map(|buffer| buffer.inode))
        };
        (self.layout, self.part) == (other.layout, other.part) && inodes(self) == inodes(other)
    }

    /// Lends it out as a frame; `None` while too many are out.
    pub(crate) fn lend(self: &Arc<Self>, info: FrameInfo) -> Option<Frame> {
        let free = |view: &AtomicU8| {
            view.compare_exchange(FREE, LENT, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        };
        let view = u32::try_from(self.views.iter().position(free)?).ok()?;
        let pool: Arc<dyn FramePool> = self.clone();
        Some(Frame::new(info, pool, self.first + view))
    }

    fn view(&self, buffer: u32) -> Option<&AtomicU8> {
        let view = buffer.checked_sub(self.first)?;
        self.views.get(usize::try_from(view).ok()?)
    }

    /// Where the shown part of a plane is.
    fn place(&self, plane: usize) -> Option<Place<'_>> {
        let Layout {
            format,
            pitches,
            offsets,
            buffers,
            gpu,
            ..
        } = &self.layout;
        let buffer = self.buffers.get(*buffers.get(plane)?)?.as_ref()?;
        if gpu.is_some() {
            // How far it goes is the GPU's business, and so is the part.
            return Some(Place {
                buffer,
                offset: *offsets.get(plane)? as usize,
                stride: *pitches.get(plane)? as usize,
                length: 0,
            });
        }
        let (line, lines) = format.planes(part_size(self.part)).nth(plane)?;
        let stride = *pitches.get(plane)? as usize;
        let (x, y) = (self.part.x as usize, self.part.y as usize);
        // Bytes before the part in a line, and lines before it in the plane.
        let (left, top) = match plane {
            0 => {
                let (whole, _) = format.planes(self.layout.size).next()?;
                (x * whole / (self.layout.size.width as usize).max(1), y)
            }
            _ => (x / 2 * 2, y / 2),
        };
        Some(Place {
            buffer,
            offset: *offsets.get(plane)? as usize + top * stride + left,
            stride,
            length: stride * lines.checked_sub(1)? + line,
        })
    }

    fn sync(&self, flags: u64) -> io::Result<()> {
        for buffer in self.buffers.iter().flatten() {
            sync(buffer.fd.as_fd(), flags)?;
        }
        Ok(())
    }
}

pub(super) const fn part_size(part: Rect) -> Size {
    Size::new(part.width, part.height)
}

#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    buffer: &'a Buffer,
    offset: usize,
    stride: usize,
    length: usize,
}

impl Place<'_> {
    const fn end(self) -> usize {
        self.offset.saturating_add(self.length)
    }
}

impl Buffer {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        // DMA-BUFs tell their size by seeking.
        // SAFETY: seeking takes no memory; the descriptor is open.
        let end = unsafe { libc::lseek(fd.as_raw_fd(), 0, libc::SEEK_END) };
        let length = usize::try_from(Errno::result(end)?).unwrap_or(0);
        let inode = fstat(&fd)?.st_ino;
        Ok(Self {
            fd,
            length,
            inode,
            mapping: OnceLock::new(),
        })
    }

    fn bytes(&self) -> Option<&[u8]> {
        let map = || {
            Mapping::new(&self.fd, 0, self.length, Access::Read)
                .inspect_err(|error| tracing::warn!(%error, "the framebuffer cannot be mapped"))
                .ok()
        };
        self.mapping.get_or_init(map).as_ref().map(Mapping::bytes)
    }
}

impl FramePool for Exported {
    fn plane(&self, buffer: u32, plane: usize) -> Option<Plane<'_>> {
        if self.layout.gpu.is_some() {
            return None;
        }
        let place = self.place(plane)?;
        let bytes = place.buffer.bytes()?;
        let state = self.view(buffer)?;
        if state.swap(READ, Ordering::AcqRel) != READ
            && let Err(error) = self.sync(SYNC_READ)
        {
            tracing::debug!(%error, "DMA_BUF_IOCTL_SYNC");
        }
        Some(Plane {
            data: bytes.get(place.offset..place.end())?,
            stride: place.stride,
        })
    }

    fn dma_buf(&self, _buffer: u32) -> Option<DmaBuf<'_>> {
        let mut planes = [None; 4];
        for (index, slot) in planes.iter_mut().enumerate().take(self.layout.planes) {
            let place = self.place(index)?;
            *slot = Some(DmaPlane {
                fd: place.buffer.fd.as_fd(),
                offset: u32::try_from(place.offset).ok()?,
                stride: u32::try_from(place.stride).ok()?,
                length: u32::try_from(place.buffer.length).ok()?,
            });
        }
        Some(DmaBuf {
            fourcc: self.layout.fourcc,
            modifier: self.layout.gpu.unwrap_or(DmaBuf::LINEAR),
            planes,
        })
    }

    fn release(&self, buffer: u32) {
        let Some(state) = self.view(buffer) else {
            return;
        };
        if state.load(Ordering::Acquire) == READ {
            // Nothing to do about a failure: the next begin tells it.
            let _ = self.sync(SYNC_READ | SYNC_END);
        }
        state.store(FREE, Ordering::Release);
    }
}
