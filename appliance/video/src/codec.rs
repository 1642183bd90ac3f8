//! What an encoder and a decoder are.

use soft_kvm_core::{Bitrate, FrameRate, Size};

/// A borrowed 4:2:0 picture, BT.709 limited range.
#[derive(Clone, Copy, Debug)]
pub struct I420Ref<'a> {
    /// Size in pixels; even.
    pub size: Size,
    /// Luma, Cb, Cr; each from its first line.
    pub planes: [&'a [u8]; 3],
    /// Bytes from one line to the next, of each plane.
    pub strides: [usize; 3],
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
}

/// What one call of [`VideoEncoder::encode`] made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Whether a decoder can start here (IDR with SPS and PPS before it).
    pub idr: bool,
}

/// An H.264 encoder for interactive pictures: no B-frames, one picture in, one access unit out.
pub trait VideoEncoder: Send {
    /// Name as in the story and the metrics: `openh264`, `v4l2m2m`, `vaapi`.
    fn name(&self) -> &'static str;

    /// Encodes one picture. The access unit in Annex B form (start codes) replaces what is in `out`;
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

    /// Changes the target from the next picture on.
    ///
    /// # Errors
    /// [`CodecError`] if the encoder refuses; the old target stays.
    fn set_bitrate(&mut self, bitrate: Bitrate) -> Result<(), CodecError>;
}

/// An H.264 decoder without output delay.
pub trait VideoDecoder: Send {
    /// Name for the statistics: `openh264`.
    fn name(&self) -> &'static str;

    /// Decodes one access unit in Annex B form; the picture borrows the decoder's memory until the next call.
    /// `None` when the access unit holds no picture.
    ///
    /// # Errors
    /// [`CodecError`] on broken input: ask the sender for an IDR and go on with it.
    fn decode(&mut self, access_unit: &[u8]) -> Result<Option<I420Ref<'_>>, CodecError>;
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
