//! Encoders whose pictures the CPU writes: into memory that the device imports, else into the device's own.

use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use soft_kvm_core::Bitrate;
use soft_kvm_video::codec::{
    CodecError, CodedFormat, Encoded, EncoderConfig, I420Ref, VideoEncoder,
};
use soft_kvm_video::frame::{Colorimetry, PixelFormat, Rect};

use super::device::{Device, NAME, Running, error, open_for};
use super::encoder::{Core, RESULTS, Ready};
use super::ioctl::{Fill, Format, PLANES_MAX};
use super::layout::{self, Place};
use crate::dmabuf::{Pool, Shared};

/// Pictures in imported memory: one that the device may read, one to write.
const PICTURES: usize = 2;

/// Name of the memory that is the device's.
const OWN: &str = "the encoder's own";

/// A hardware encoder whose pictures the CPU writes into memory that the device reads.
#[derive(Debug)]
pub struct M2mCopyEncoder {
    core: Core,
    format: PixelFormat,
    places: [Place; 3],
    /// What the device imports, each with a memory for each of its planes; none if it reads its own.
    imported: Vec<Vec<Shared>>,
    memory: &'static str,
    /// Which is written next.
    next: usize,
    /// What each holds of an older picture.
    stale: Vec<Rect>,
    /// Bytes of pixels, read and written.
    touched: u64,
}

impl M2mCopyEncoder {
    pub(super) fn open(
        node: &Path,
        config: &EncoderConfig,
        pools: &[Pool],
    ) -> Result<Self, CodecError> {
        let (device, raw) = open_for(node, &[PixelFormat::I420, PixelFormat::Nv12])?;
        let mut places = [Place::default(); 3];
        let check = |set: &Format| {
            let found = layout::places(set);
            places = found
                .ok_or_else(|| format!("the device set {}", set.format))?
                .0;
            Ok(())
        };
        let (mut imported, mut memory) = (Vec::new(), OWN);
        let start = |device: Device, set: &Format| {
            let mut running = device.idle();
            for pool in pools {
                match import(&mut running, set, *pool) {
                    Ok(pictures) => {
                        (imported, memory) = (pictures, pool.name());
                        break;
                    }
                    Err(why) => {
                        tracing::debug!(device = %running.device.name, %pool, why, "not imported");
                    }
                }
            }
            if imported.is_empty() {
                running.make_input(1)?;
            }
            running.begin(RESULTS)?;
            Ok((running, memory))
        };
        let color = Colorimetry::default();
        let ready = Ready::new(device, config, raw, 0, color)?;
        let core = ready.start(config, check, start)?;
        let stale = vec![Rect::whole(config.size); imported.len().max(1)];
        Ok(Self {
            core,
            stale,
            format: layout::pixels(raw).unwrap_or(PixelFormat::I420),
            places,
            imported,
            memory,
            next: 0,
            touched: 0,
        })
    }

    /// Whose memory the device reads.
    #[must_use]
    pub fn memory(&self) -> &'static str {
        self.memory
    }

    fn copy(&mut self, picture: I420Ref<'_>) -> Result<(), CodecError> {
        let (format, places) = (self.format, self.places);
        let Some(stale) = self.stale.get_mut(self.next).map(std::mem::take) else {
            return Err(error("no such buffer"));
        };
        if stale.is_empty() {
            return Ok(());
        }
        let too_large = || error("a picture is larger than the device's buffers");
        let written = match self.imported.get_mut(self.next) {
            Some(memories) => {
                let written = Shared::write_all(memories, |memories| {
                    write(picture, stale, format, places, memories)
                });
                written.map_err(|why| error(format!("{}: {why}", self.memory)))?
            }
            None => {
                let maps = self.core.run.input.first_mut().into_iter().flatten();
                let mut memories: [&mut [u8]; PLANES_MAX] = Default::default();
                for (memory, map) in memories.iter_mut().zip(maps) {
                    *memory = map.bytes_mut();
                }
                write(picture, stale, format, places, &mut memories)
            }
        };
        self.touched += written.ok_or_else(too_large)?;
        Ok(())
    }
}

/// Pictures in memory of `pool` that the device has taken; why not, in words.
fn import(running: &mut Running, set: &Format, pool: Pool) -> Result<Vec<Vec<Shared>>, String> {
    let lengths: Vec<usize> = set
        .images
        .iter()
        .take(set.planes)
        .map(|image| *image as usize)
        .collect();
    let mut pictures = Vec::with_capacity(PICTURES);
    for _ in 0..PICTURES {
        pictures.push(pool.allocate(&lengths).map_err(|why| why.to_string())?);
    }
    let fills: Vec<_> = pictures.iter().map(|picture| fill(picture, set)).collect();
    running.offer(&fills, set.planes).map_err(|why| why.what)?;
    Ok(pictures)
}

fn fill<'a>(picture: &'a [Shared], set: &Format) -> [Fill<'a>; PLANES_MAX] {
    let mut fill = [Fill::Used(0); PLANES_MAX];
    for ((fill, memory), image) in fill.iter_mut().zip(picture).zip(set.images) {
        let length = u32::try_from(memory.length()).unwrap_or(u32::MAX);
        *fill = Fill::DmaBuf(memory.as_fd(), image, length);
    }
    fill
}

/// Writes a part of the picture as the device reads it, and gives the number of bytes read and written; `None` if it is
/// larger than the memories.
fn write(
    picture: I420Ref<'_>,
    part: Rect,
    format: PixelFormat,
    places: [Place; 3],
    memories: &mut [&mut [u8]],
) -> Option<u64> {
    let part = part.intersection(Rect::whole(picture.size));
    // Whole samples of chroma; the picture's own sides are even.
    let (x, y) = (part.x as usize / 2, part.y as usize / 2);
    let columns = (part.right() as usize).div_ceil(2).saturating_sub(x);
    let rows = (part.bottom() as usize).div_ceil(2).saturating_sub(y);
    let [luma, cb, cr] = picture.planes;
    let [luma_stride, cb_stride, cr_stride] = picture.strides;
    for row in 2 * y..2 * (y + rows) {
        let from = luma.get(luma_stride * row + 2 * x..)?.get(..2 * columns)?;
        line(memories, places[0], row, 2 * x, 2 * columns)?.copy_from_slice(from);
    }
    for row in y..y + rows {
        let cb = cb.get(cb_stride * row + x..)?.get(..columns)?;
        let cr = cr.get(cr_stride * row + x..)?.get(..columns)?;
        if format == PixelFormat::I420 {
            line(memories, places[1], row, x, columns)?.copy_from_slice(cb);
            line(memories, places[2], row, x, columns)?.copy_from_slice(cr);
        } else {
            let both = line(memories, places[1], row, 2 * x, 2 * columns)?;
            let pairs = both.as_chunks_mut::<2>().0.iter_mut();
            for (pair, (cb, cr)) in pairs.zip(cb.iter().zip(cr)) {
                *pair = [*cb, *cr];
            }
        }
    }
    u64::try_from(columns * rows * 6 * 2).ok()
}

/// `bytes` of a line of a plane, from byte `x` on.
fn line<'a>(
    memories: &'a mut [&mut [u8]],
    place: Place,
    row: usize,
    x: usize,
    bytes: usize,
) -> Option<&'a mut [u8]> {
    let begin = place.offset as usize + place.stride as usize * row + x;
    let memory = memories.get_mut(place.memory)?;
    memory.get_mut(begin..begin.checked_add(bytes)?)
}

impl VideoEncoder for M2mCopyEncoder {
    fn name(&self) -> &'static str {
        NAME
    }

    fn format(&self) -> CodedFormat {
        self.core.coded
    }

    fn encode(
        &mut self,
        picture: I420Ref<'_>,
        idr: bool,
        out: &mut Vec<u8>,
    ) -> Result<Encoded, CodecError> {
        self.encode_changed(picture, Rect::whole(picture.size), idr, out)
    }

    fn encode_changed(
        &mut self,
        picture: I420Ref<'_>,
        changed: Rect,
        idr: bool,
        out: &mut Vec<u8>,
    ) -> Result<Encoded, CodecError> {
        if picture.size != self.core.size {
            return Err(error("the pictures have another size now"));
        }
        for stale in &mut self.stale {
            *stale = stale.union(changed);
        }
        self.copy(picture)?;
        let written = self.imported.get(self.next);
        let slot = u32::try_from(self.next).map_err(|_| error("no such buffer"))?;
        let encoded = self.core.encode(idr, out, |run, set, stamp| {
            let mut filled = [Fill::Used(0); PLANES_MAX];
            match written {
                Some(picture) => filled = fill(picture, set),
                None => {
                    for (fill, image) in filled.iter_mut().zip(set.images) {
                        *fill = Fill::Used(image);
                    }
                }
            }
            let filled = filled.get(..set.planes).ok_or(Errno::EINVAL)?;
            run.queue(slot, filled, stamp)
        })?;
        self.next = (self.next + 1) % self.imported.len().max(1);
        Ok(encoded)
    }

    fn set_bitrate(&mut self, bitrate: Bitrate) -> Result<(), CodecError> {
        self.core.set_bitrate(bitrate);
        Ok(())
    }

    fn cpu_bytes(&self) -> Option<u64> {
        Some(self.touched)
    }
}

#[cfg(test)]
mod tests {
    use soft_kvm_core::Size;

    use super::*;

    #[test]
    fn chroma_is_written_as_the_device_reads_it() {
        let size = Size::new(4, 2);
        let picture = I420Ref {
            size,
            planes: [&[1, 2, 3, 4, 0, 5, 6, 7, 8], &[10, 11], &[20, 21]],
            strides: [5, 2, 2],
            color: Colorimetry::default(),
        };
        let place = |offset, stride| Place {
            memory: 0,
            offset,
            stride,
        };
        let places = [place(0, 6), place(12, 6), place(18, 3)];
        let mut nv12 = [0; 24];
        let whole = Rect::whole(size);
        let written = write(picture, whole, PixelFormat::Nv12, places, &mut [&mut nv12]);
        assert_eq!(written, Some(24));
        assert_eq!(
            nv12[..16],
            [1, 2, 3, 4, 0, 0, 5, 6, 7, 8, 0, 0, 10, 20, 11, 21]
        );
        let mut yu12 = [0; 24];
        write(picture, whole, PixelFormat::I420, places, &mut [&mut yu12])
            .expect("it is large enough");
        assert_eq!(yu12[12..20], [10, 11, 0, 0, 0, 0, 20, 21]);
        let mut short = [0; 9];
        let none = write(picture, whole, PixelFormat::Nv12, places, &mut [&mut short]);
        assert_eq!(none, None);
        // A part grows to whole samples of chroma, and nothing else is touched.
        let part = Rect {
            x: 3,
            y: 1,
            width: 9,
            height: 1,
        };
        let mut some = [0; 24];
        let written = write(picture, part, PixelFormat::Nv12, places, &mut [&mut some]);
        assert_eq!(written, Some(12));
        assert_eq!(
            some[..16],
            [0, 0, 3, 4, 0, 0, 0, 0, 7, 8, 0, 0, 0, 0, 11, 21]
        );
        let nothing = write(picture, Rect::default(), PixelFormat::Nv12, places, &mut []);
        assert_eq!(nothing, Some(0));
    }
}
