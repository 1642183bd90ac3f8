//! What an encoder and a decoder are.

use std::time::Duration;

use soft_kvm_core::{Bitrate, FrameRate, Size};
pub use soft_kvm_protocol::media::CodedFormat;

use crate::frame::{Colorimetry, Frame, Rect};

/// A borrowed 4:2:0 picture.
#[derive(Clone, Copy, Debug)]
pub struct I420Ref<'a> {
    /// Size in pixels; even.
    pub size: Size,
    /// Luma, Cb, Cr; each from its first line.
    pub planes: [&'a [u8]; 3],
    /// Bytes from one line to the next, of each plane.
    pub strides: [usize; 3],
    /// What the samples mean: BT.709 limited range but for streams of hardware that encodes what it gets.
    pub color: Colorimetry,
}

/// What an encoder is asked for at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncoderConfig {
    /// Size in pixels; even.
    pub size: Size,
    /// Frames in a second at most.
    pub rate: FrameRate,
    /// Target on the average.
    pub bitrate: Bitrate,
    /// Pictures within which each block is coded anew once without the pictures before it; 0 leaves that to key frames.
    /// Encoders that cannot do it go without.
    pub intra_refresh: u32,
}

/// What one call of [`VideoEncoder::encode`] made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Whether a decoder can start here (IDR with SPS and PPS before it).
    pub idr: bool,
}

/// An encoder for interactive pictures: no B-frames, one picture in, one access unit out.
pub trait VideoEncoder: Send {
    /// Name as in the story and the metrics: `openh264`, `v4l2m2m`, `vaapi`.
    fn name(&self) -> &'static str;

    /// What its access units are.
    fn format(&self) -> CodedFormat {
        CodedFormat::H264
    }

    /// Encodes one picture. The access unit (H.264: Annex B form, with start codes) replaces what is in `out`;
    /// an empty one means that the encoder left the picture out.
    ///
    /// # Errors
    /// [`CodecError`]: the encoder has to be opened again.
    fn encode(
        &mut self,
        picture: I420Ref<'_>,
        idr: bool,
        out: &mut Vec<u8>,
    ) -> Result<Encoded, CodecError>;

    /// The same where only `changed` differs from the picture of the call before.
    ///
    /// # Errors
    /// As [`VideoEncoder::encode`].
    fn encode_changed(
        &mut self,
        picture: I420Ref<'_>,
        changed: Rect,
        idr: bool,
        out: &mut Vec<u8>,
    ) -> Result<Encoded, CodecError> {
        let _ = changed;
        self.encode(picture, idr, out)
    }

    /// Changes the target from the next picture on.
    ///
    /// # Errors
    /// [`CodecError`] if the encoder refuses; the old target stays.
    fn set_bitrate(&mut self, bitrate: Bitrate) -> Result<(), CodecError>;

    /// Bytes of pixels that the CPU has read and written so far; `None` for encoders that read each picture once, as a whole.
    fn cpu_bytes(&self) -> Option<u64> {
        None
    }

    /// CPU time that threads of its own have used so far: what the caller's thread does not show.
    fn other_cpu(&self) -> Duration {
        Duration::ZERO
    }
}

/// An encoder that reads frames where they are: a device that imports DMA-BUFs.
///
/// Opened for the layout of a first frame; frames of another size or layout need another encoder.
pub trait FrameEncoder: Send {
    /// Name as in the story and the metrics: `v4l2m2m`, `vaapi`.
    fn name(&self) -> &'static str;

    /// What its access units are.
    fn format(&self) -> CodedFormat;

    /// Encodes one frame; the frame is free again when this returns. The access unit (H.264: Annex B form,
    /// parameter sets before each IDR) replaces what is in `out`; an empty one means that the frame was left out.
    ///
    /// # Errors
    /// [`CodecError`]: the encoder has to be opened again, or another be taken.
    fn encode(
        &mut self,
        frame: &Frame,
        idr: bool,
        out: &mut Vec<u8>,
    ) -> Result<Encoded, CodecError>;

    /// Changes the target from the next frame on.
    ///
    /// # Errors
    /// [`CodecError`] if the encoder refuses; the old target stays.
    fn set_bitrate(&mut self, bitrate: Bitrate) -> Result<(), CodecError>;

    /// Bytes of pixels that the CPU has touched of pictures that it had made for itself, by a converter, so far. What is
    /// touched of a given frame, that frame tells ([`Frame::opened_bytes`]).
    fn cpu_bytes(&self) -> u64 {
        0
    }

    /// CPU time that threads of its own have used so far: what the caller's thread does not show.
    fn other_cpu(&self) -> Duration {
        Duration::ZERO
    }

    /// The converter that frames go through first, for people.
    fn converter(&self) -> Option<&str> {
        None
    }
}

/// A decoded picture.
#[derive(Debug)]
pub enum Decoded<'a> {
    /// In the decoder's memory, until the next access unit.
    Memory(I420Ref<'a>),
    /// In memory that displays show as it is; the decoder has it back when it is dropped.
    Frame(Frame),
}

/// A decoder without output delay.
pub trait VideoDecoder: Send {
    /// Name for the statistics: `openh264`, `v4l2m2m`.
    fn name(&self) -> &'static str;

    /// Decodes one access unit (H.264: in Annex B form); the picture borrows the decoder's memory until the next call.
    /// `None` when the access unit holds no picture.
    ///
    /// # Errors
    /// [`CodecError`] on broken input: ask the sender for an IDR and go on with it.
    fn decode(&mut self, access_unit: &[u8]) -> Result<Option<I420Ref<'_>>, CodecError>;

    /// The same as a frame, where the decoder has the picture in memory that devices share.
    ///
    /// # Errors
    /// As [`VideoDecoder::decode`].
    fn decode_frame(&mut self, access_unit: &[u8]) -> Result<Option<Decoded<'_>>, CodecError> {
        let picture = self.decode(access_unit)?;
        Ok(picture.map(Decoded::Memory))
    }
}

/// An encoder or decoder that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{codec}: {what}")]
pub struct CodecError {
    /// Which one.
    pub codec: &'static str,
    /// What failed, with the codec's own code.
    pub what: String,
}
