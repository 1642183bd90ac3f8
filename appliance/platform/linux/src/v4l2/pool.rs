//! Mapped buffers, lent out as frames and queued again when they come back.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use soft_kvm_video::frame::{DmaBuf, DmaPlane, FramePool, Plane};

use super::format::PlanePlace;
use super::ioctl::{self, Api};

/// A shared read-only mapping of device memory.
///
/// The kernel makes it readable for the CPU when it gives the buffer out (`VIDIOC_DQBUF`).
#[derive(Debug)]
struct Mapping {
    start: NonNull<libc::c_void>,
    len: usize,
    /// The same memory for other devices, if the driver exports it.
    export: Option<OwnedFd>,
    /// Where the data of the buffer's last picture begins, as the driver said.
    data: AtomicUsize,
}

// SAFETY: the mapping is owned, read-only, and reading it is possible from any thread.
unsafe impl Send for Mapping {}
// SAFETY: as above; only an atomic number changes through `&self`.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(fd: &OwnedFd, offset: u32, length: u32) -> io::Result<Self> {
        let len = std::num::NonZeroUsize::new(length as usize).ok_or(Errno::EINVAL)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours; the
        // driver keeps its pages as long as the mapping is there.
        let start = unsafe {
            mmap(
                None,
                len,
                ProtFlags::PROT_READ,
                MapFlags::MAP_SHARED,
                fd,
                i64::from(offset),
            )
        }?;
        Ok(Self {
            start,
            len: len.get(),
            export: None,
            data: AtomicUsize::new(0),
        })
    }

    /// The kernel does not write to the memory while its buffer is dequeued: only then may it be read.
    fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is `len` bytes long, readable, and lives as long as `self`.
        unsafe { slice::from_raw_parts(self.start.as_ptr().cast(), self.len) }
    }

    fn data(&self) -> usize {
        self.data.load(Ordering::Relaxed)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing borrows it any more.
        let _ = unsafe { munmap(self.start, self.len) };
    }
}

/// The buffers of one run of the device, from `STREAMON` to `STREAMOFF`.
#[derive(Debug)]
pub(super) struct BufferPool {
    fd: Arc<OwnedFd>,
    api: Api,
    mappings: Vec<Vec<Mapping>>,
    places: Vec<PlanePlace>,
    /// `DRM_FORMAT_*` of the pictures in exported buffers.
    fourcc: Option<u32>,
    /// Held while queueing, so that no buffer gets into the queue of a later run.
    queue: Mutex<Queue>,
}

/// Whether and which buffers are queued again.
#[derive(Debug)]
struct Queue {
    /// Buffers that come back are queued again.
    running: bool,
    /// Bits of buffers that came back when the driver refused them: tried again with the next.
    refused: u64,
}

impl BufferPool {
    /// Maps all buffers, exports them if their pictures have a DRM format and the driver can, and queues them.
    pub(super) fn new(
        fd: &Arc<OwnedFd>,
        api: Api,
        count: u32,
        places: Vec<PlanePlace>,
        fourcc: Option<u32>,
    ) -> io::Result<Self> {
        let mut mappings = Vec::new();
        for index in 0..count {
            let (memory, planes) = ioctl::query_buffer(fd, api, index)?;
            let mut maps = Vec::new();
            for (plane, place) in (0..).zip(memory.iter().take(planes)) {
                let mut map = Mapping::new(fd, place.offset, place.length)?;
                if fourcc.is_some() {
                    let export = ioctl::export_buffer(fd, api, index, plane);
                    map.export = export
                        .inspect_err(|error| tracing::debug!(index, plane, %error, "VIDIOC_EXPBUF"))
                        .ok();
                }
                maps.push(map);
            }
            let fits = |place: &PlanePlace| {
                maps.get(place.memory)
                    .is_some_and(|map| place.offset + place.len <= map.len)
            };
            if !places.iter().all(fits) {
                let what = "the driver's buffers are smaller than its picture";
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            mappings.push(maps);
        }
        let pool = Self {
            fd: Arc::clone(fd),
            api,
            mappings,
            places,
            fourcc,
            queue: Mutex::new(Queue {
                running: true,
                refused: 0,
            }),
        };
        for index in 0..count {
            ioctl::queue_buffer(&pool.fd, api, index)?;
        }
        Ok(pool)
    }

    /// Ends the run: buffers that come back later are only unmapped with the last of them.
    pub(super) fn stop(&self) {
        self.queue().running = false;
    }

    /// A buffer came filled, with its data at these places of its memory; false if its picture does not fit behind them.
    pub(super) fn filled(&self, buffer: u32, data_offsets: &[u32]) -> bool {
        let Some(maps) = self.mappings.get(buffer as usize) else {
            return false;
        };
        for (map, offset) in maps.iter().zip(data_offsets) {
            map.data.store(*offset as usize, Ordering::Relaxed);
        }
        self.places.iter().all(|place| {
            maps.get(place.memory)
                .is_some_and(|map| map.data() + place.offset + place.len <= map.len)
        })
    }

    /// The first `used` bytes of a buffer's first memory, without what stands before the data; for compressed formats.
    pub(super) fn bytes(&self, buffer: u32, used: usize) -> Option<&[u8]> {
        let map = self.mappings.get(buffer as usize)?.first()?;
        map.bytes().get(..used.min(map.len))?.get(map.data()..)
    }

    /// Queues `buffers` (bits) and those that the driver refused before.
    fn give_back(&self, buffers: u64) {
        let mut queue = self.queue();
        if !queue.running {
            return;
        }
        let mut left = queue.refused | buffers;
        queue.refused = 0;
        while left != 0 {
            let buffer = left.trailing_zeros();
            left &= left - 1;
            if let Err(error) = ioctl::queue_buffer(&self.fd, self.api, buffer) {
                // The device may have gone; the source notices by itself.
                tracing::debug!(buffer, %error, "VIDIOC_QBUF");
                queue.refused |= 1 << buffer;
            }
        }
    }

    /// Offers the driver again what it has refused.
    pub(super) fn retry(&self) {
        self.give_back(0);
    }

    // A panic elsewhere leaves numbers as consistent as they were.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FramePool for BufferPool {
    fn plane(&self, buffer: u32, plane: usize) -> Option<Plane<'_>> {
        let place = self.places.get(plane)?;
        let memory = self.mappings.get(buffer as usize)?.get(place.memory)?;
        Some(Plane {
            data: memory.bytes().get(memory.data() + place.offset..)?,
            stride: place.stride,
        })
    }

    fn dma_buf(&self, buffer: u32) -> Option<DmaBuf<'_>> {
        let maps = self.mappings.get(buffer as usize)?;
        let mut planes = [None; 4];
        for (slot, place) in planes.iter_mut().zip(&self.places) {
            let map = maps.get(place.memory)?;
            *slot = Some(DmaPlane {
                fd: map.export.as_ref()?.as_fd(),
                offset: u32::try_from(map.data() + place.offset).ok()?,
                stride: u32::try_from(place.stride).ok()?,
                length: u32::try_from(map.len).ok()?,
            });
        }
        Some(DmaBuf {
            fourcc: self.fourcc?,
            modifier: DmaBuf::LINEAR,
            planes,
        })
    }

    fn release(&self, buffer: u32) {
        self.give_back(1_u64.checked_shl(buffer).unwrap_or(0));
    }
}
