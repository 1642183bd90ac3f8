//! A frame's memory, held for a driver's thread.

use std::os::fd::{AsFd as _, OwnedFd};

use soft_kvm_video::frame::{DmaBuf, DmaPlane, Frame, FrameInfo};

/// Descriptors of its own: whoever lent the frame may take it back while a driver hangs with it.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) info: FrameInfo,
    fourcc: u32,
    modifier: u64,
    planes: [Option<Plane>; 4],
}

#[derive(Debug)]
struct Plane {
    fd: OwnedFd,
    offset: u32,
    stride: u32,
    length: u32,
}

impl Held {
    pub(super) fn of(frame: &Frame) -> Result<Self, String> {
        let memory = frame.dma_buf();
        let memory = memory.ok_or("the picture is in memory that devices cannot import")?;
        let mut planes = [const { None }; 4];
        for (held, plane) in planes.iter_mut().zip(memory.planes) {
            let Some(plane) = plane else { continue };
            let fd = plane.fd.try_clone_to_owned();
            *held = Some(Plane {
                fd: fd.map_err(|why| format!("a descriptor for the driver: {why}"))?,
                offset: plane.offset,
                stride: plane.stride,
                length: plane.length,
            });
        }
        Ok(Self {
            info: *frame.info(),
            fourcc: memory.fourcc,
            modifier: memory.modifier,
            planes,
        })
    }

    pub(super) fn memory(&self) -> DmaBuf<'_> {
        let mut planes = [None; 4];
        for (plane, held) in planes.iter_mut().zip(&self.planes) {
            *plane = held.as_ref().map(|held| DmaPlane {
                fd: held.fd.as_fd(),
                offset: held.offset,
                stride: held.stride,
                length: held.length,
            });
        }
        DmaBuf {
            fourcc: self.fourcc,
            modifier: self.modifier,
            planes,
        }
    }
}
