//! The capture queue's buffers as memory that other devices import.

use std::os::fd::{AsFd as _, OwnedFd};

use nix::errno::Errno;
use soft_kvm_video::codec::CodecError;
use soft_kvm_video::frame::{DmaBuf, DmaPlane, PixelFormat, Plane};

use super::device::{Maps, Running};
use super::ioctl::{self, Format};
use super::layout::{self, Place};
use crate::v4l2::format::drm_fourcc;

/// DMA-BUFs of all buffers, and where the planes of a picture lie in them.
#[derive(Debug)]
pub(super) struct Exports {
    pub(super) pixels: PixelFormat,
    places: [Place; 3],
    planes: usize,
    /// Of each buffer's memories.
    fds: Vec<Vec<OwnedFd>>,
}

impl Exports {
    /// Exports the buffers of a capture queue that was set to `set`; `None` for a format whose layout is not known.
    ///
    /// # Errors
    /// The driver does not export.
    pub(super) fn of(run: &Running, set: &Format) -> Result<Option<Self>, CodecError> {
        let shape = layout::pixels(set.format).zip(layout::places(set));
        let Some((pixels, (places, planes))) = shape else {
            return Ok(None);
        };
        let capture = run.device.capture();
        let mut fds = Vec::new();
        for (index, maps) in (0_u32..).zip(&*run.result) {
            let memories = (0_u32..).take(maps.len());
            let export = |plane| ioctl::export_buffer(&run.device, capture, index, plane);
            let exported: Result<Vec<_>, Errno> = memories.map(export).collect();
            fds.push(exported.map_err(|errno| run.device.failed("VIDIOC_EXPBUF", errno))?);
        }
        Ok(Some(Self {
            pixels,
            places,
            planes,
            fds,
        }))
    }

    /// A plane of a picture, from the mapped buffers.
    pub(super) fn plane<'a>(
        &self,
        buffers: &'a [Maps],
        buffer: u32,
        plane: usize,
    ) -> Option<Plane<'a>> {
        let place = self.places.get(..self.planes)?.get(plane)?;
        let memory = buffers.get(buffer as usize)?.get(place.memory)?;
        Some(Plane {
            data: memory.bytes().get(place.offset as usize..)?,
            stride: place.stride as usize,
        })
    }

    /// A buffer for other devices.
    pub(super) fn dma_buf(&self, buffers: &[Maps], buffer: u32) -> Option<DmaBuf<'_>> {
        let fds = self.fds.get(buffer as usize)?;
        let memories = buffers.get(buffer as usize)?;
        let mut planes = [None; 4];
        for (plane, place) in planes.iter_mut().zip(self.places).take(self.planes) {
            *plane = Some(DmaPlane {
                fd: fds.get(place.memory)?.as_fd(),
                offset: place.offset,
                stride: place.stride,
                length: u32::try_from(memories.get(place.memory)?.bytes().len()).ok()?,
            });
        }
        Some(DmaBuf {
            fourcc: drm_fourcc(self.pixels)?,
            modifier: DmaBuf::LINEAR,
            planes,
        })
    }
}
