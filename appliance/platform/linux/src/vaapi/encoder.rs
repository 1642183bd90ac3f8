//! The encoders that the server uses: for pictures in other devices' memory, and in the CPU's.

use std::path::Path;
use std::time::Duration;

use soft_kvm_core::{Bitrate, Size};
use soft_kvm_video::codec::{
    CodecError, CodedFormat, Encoded, EncoderConfig, FrameEncoder, I420Ref, VideoEncoder,
};
use soft_kvm_video::frame::Frame;

use super::import::Imported;
use super::session::{Input, Opened};
use super::worker::{Job, Worker};
use super::{NAME, error};

#[derive(Debug)]
struct Core {
    worker: Worker,
    size: Size,
    bitrate: Bitrate,
    /// CPU time of the worker's thread so far.
    cpu: Duration,
}

impl Core {
    fn open(
        node: &Path,
        config: &EncoderConfig,
        first: Option<Imported>,
    ) -> Result<(Self, Opened), CodecError> {
        let (worker, opened) = Worker::open(node.to_owned(), *config, first)?;
        let core = Self {
            worker,
            size: config.size,
            bitrate: config.bitrate,
            cpu: Duration::ZERO,
        };
        Ok((core, opened))
    }

    /// Gives the memory of the picture back.
    fn encode(
        &mut self,
        input: Input,
        idr: bool,
        out: &mut Vec<u8>,
    ) -> Result<(Encoded, Vec<u8>), CodecError> {
        let done = self.worker.encode(Job {
            input,
            idr,
            bitrate: self.bitrate,
            out: std::mem::take(out),
        })?;
        *out = done.out;
        self.cpu = done.cpu;
        Ok((Encoded { idr: done.idr }, done.spare))
    }
}

/// A VAAPI encoder that reads pictures where they are: it imports the DMA-BUFs of frames.
#[derive(Debug)]
pub struct VaapiEncoder {
    core: Core,
    converter: Option<String>,
}

impl VaapiEncoder {
    /// Opens the render node `node` for pictures that lie in memory like `first`. What is not NV12 goes through the
    /// driver's video processing.
    ///
    /// # Errors
    /// [`CodecError`]: no libva, no such device, no permission, no driver; no encoder for H.264; frames that the driver
    /// does not import or convert; it takes too long.
    pub fn open(node: &Path, config: &EncoderConfig, first: &Frame) -> Result<Self, CodecError> {
        let (core, opened) = Core::open(node, config, Some(Imported::of(first)?))?;
        let converter = opened
            .converts
            .then(|| format!("video processing of {}", opened.vendor));
        Ok(Self { core, converter })
    }

    /// Opens it for pictures in memory of the CPU, which are copied into the driver's own.
    ///
    /// # Errors
    /// As [`VaapiEncoder::open`].
    pub fn open_cpu(node: &Path, config: &EncoderConfig) -> Result<VaapiCopyEncoder, CodecError> {
        let (core, _) = Core::open(node, config, None)?;
        Ok(VaapiCopyEncoder {
            core,
            spare: Vec::new(),
        })
    }
}

impl FrameEncoder for VaapiEncoder {
    fn name(&self) -> &'static str {
        NAME
    }

    fn format(&self) -> CodedFormat {
        CodedFormat::H264
    }

    fn encode(
        &mut self,
        frame: &Frame,
        idr: bool,
        out: &mut Vec<u8>,
    ) -> Result<Encoded, CodecError> {
        if frame.info().size != self.core.size {
            return Err(error("the pictures have another size now"));
        }
        let input = Input::Device(Imported::of(frame)?);
        let (encoded, _) = self.core.encode(input, idr, out)?;
        Ok(encoded)
    }

    fn set_bitrate(&mut self, bitrate: Bitrate) -> Result<(), CodecError> {
        self.core.bitrate = bitrate;
        Ok(())
    }

    fn other_cpu(&self) -> Duration {
        self.core.cpu
    }

    fn converter(&self) -> Option<&str> {
        self.converter.as_deref()
    }
}

/// A VAAPI encoder for pictures in memory of the CPU.
#[derive(Debug)]
pub struct VaapiCopyEncoder {
    core: Core,
    /// The memory of the last picture.
    spare: Vec<u8>,
}

impl VideoEncoder for VaapiCopyEncoder {
    fn name(&self) -> &'static str {
        NAME
    }

    fn encode(
        &mut self,
        picture: I420Ref<'_>,
        idr: bool,
        out: &mut Vec<u8>,
    ) -> Result<Encoded, CodecError> {
        if picture.size != self.core.size {
            return Err(error("the pictures have another size now"));
        }
        let mut nv12 = std::mem::take(&mut self.spare);
        interleave(&picture, &mut nv12);
        let (encoded, spare) = self.core.encode(Input::Memory(nv12), idr, out)?;
        self.spare = spare;
        Ok(encoded)
    }

    fn set_bitrate(&mut self, bitrate: Bitrate) -> Result<(), CodecError> {
        self.core.bitrate = bitrate;
        Ok(())
    }

    fn other_cpu(&self) -> Duration {
        self.core.cpu
    }
}

/// NV12 without padding.
fn interleave(picture: &I420Ref<'_>, nv12: &mut Vec<u8>) {
    let (width, height) = (picture.size.width as usize, picture.size.height as usize);
    nv12.clear();
    nv12.reserve(width * height * 3 / 2);
    let lines = |plane: usize| picture.planes[plane].chunks(picture.strides[plane].max(1));
    for line in lines(0).take(height) {
        nv12.extend_from_slice(line.get(..width).unwrap_or_default());
    }
    for (cb, cr) in lines(1).zip(lines(2)).take(height / 2) {
        let pairs = cb.iter().zip(cr).take(width / 2);
        nv12.extend(pairs.flat_map(|(cb, cr)| [*cb, *cr]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_left_out() {
        let picture = I420Ref {
            size: Size::new(4, 2),
            planes: [
                &[1, 2, 3, 4, 0, 5, 6, 7, 8],
                &[10, 11, 0, 0],
                &[20, 21, 0, 0],
            ],
            strides: [5, 4, 4],
            color: soft_kvm_video::frame::Colorimetry::default(),
        };
        let mut nv12 = vec![9; 3];
        interleave(&picture, &mut nv12);
        assert_eq!(nv12, [1, 2, 3, 4, 5, 6, 7, 8, 10, 20, 11, 21]);
    }
}
