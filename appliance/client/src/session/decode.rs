//! Which decoder takes the pictures of a connection.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use soft_kvm_core::MonoTime;
use soft_kvm_platform::openh264;
use soft_kvm_platform::os::m2m::{self, M2mDecoder, M2mKind};
use soft_kvm_video::codec::{CodecError, CodedFormat, Decoded, VideoDecoder};

/// Time from one try to open a decoder that there is no substitute for to the next.
const RETRY: Duration = Duration::from_secs(1);

/// What the operator wants to decode with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DecoderChoice {
    /// Hardware where the machine has it, software else.
    #[default]
    Auto,
    /// OpenH264.
    Software,
    /// Hardware: the named one, or the first that takes the stream.
    V4l2m2m(Option<PathBuf>),
}

impl FromStr for DecoderChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text
            .split_once(':')
            .map_or((text, None), |(a, b)| (a, Some(b)))
        {
            ("auto", None) => Ok(Self::Auto),
            ("software", None) => Ok(Self::Software),
            ("v4l2m2m", None) => Ok(Self::V4l2m2m(None)),
            ("v4l2m2m", Some(device)) if !device.is_empty() => {
                Ok(Self::V4l2m2m(Some(PathBuf::from(device))))
            }
            _ => Err("auto, software, v4l2m2m, or v4l2m2m:/dev/videoN".to_owned()),
        }
    }
}

/// Opens decoders as the stream needs them.
pub(super) struct Decoders {
    choice: DecoderChoice,
    /// Pictures are wanted in memory that a monitor shows as it is.
    frames: bool,
    open: Option<(CodedFormat, Box<dyn VideoDecoder>)>,
    /// Hardware has failed on H.264: software goes on for this connection.
    hardware_failed: bool,
    retry: MonoTime,
}

impl Decoders {
    /// None is open yet.
    pub(super) fn new(choice: DecoderChoice, frames: bool) -> Self {
        Self {
            choice,
            frames,
            open: None,
            hardware_failed: false,
            retry: MonoTime::ZERO,
        }
    }

    /// Opens the decoder before the first picture is there, which is then not held up by asking each device what it is.
    pub(super) fn prepare(&mut self, format: CodedFormat) {
        match self.open_for(format) {
            Ok(decoder) => self.open = Some((format, decoder)),
            // The first picture tries again, and tells.
            Err(error) => tracing::debug!("{error}"),
        }
    }

    /// The open decoder.
    pub(super) fn name(&self) -> Option<&'static str> {
        self.open.as_ref().map(|(_, decoder)| decoder.name())
    }

    /// Decodes an access unit, into the decoder's memory if it is to be read. Nothing comes while a decoder that could not be
    /// opened is not due again.
    ///
    /// # Errors
    /// The decoder's: tell [`Decoders::failed`], and go on with a key frame.
    pub(super) fn decode(
        &mut self,
        format: CodedFormat,
        access_unit: &[u8],
        read: bool,
        now: MonoTime,
    ) -> Result<Option<Decoded<'_>>, CodecError> {
        // Some devices can be open only once.
        self.open.take_if(|(of, _)| *of != format);
        if self.open.is_none() {
            if now < self.retry {
                return Ok(None);
            }
            self.open = Some((format, self.open_for(format)?));
        }
        let Some((_, decoder)) = &mut self.open else {
            return Ok(None);
        };
        if self.frames && !read {
            return decoder.decode_frame(access_unit);
        }
        Ok(decoder.decode(access_unit)?.map(Decoded::Memory))
    }

    /// The decoder failed on a picture of this format, or could not be opened.
    pub(super) fn failed(&mut self, format: CodedFormat, now: MonoTime) {
        let software = openh264::NAME;
        if self
            .open
            .as_ref()
            .is_some_and(|(_, open)| open.name() == software)
        {
            // The stream was broken; the decoder goes on with the next key frame.
            return;
        }
        self.open = None;
        match format {
            CodedFormat::H264 => self.hardware_failed = true,
            CodedFormat::Fwht => self.retry = now + RETRY,
        }
    }

    fn open_for(&self, format: CodedFormat) -> Result<Box<dyn VideoDecoder>, CodecError> {
        let hardware = self.choice != DecoderChoice::Software && !self.hardware_failed;
        let device = match &self.choice {
            DecoderChoice::V4l2m2m(Some(device)) => Some(device.clone()),
            _ if hardware || format != CodedFormat::H264 => find(format),
            _ => None,
        };
        match format {
            CodedFormat::H264 if !hardware => Ok(Box::new(openh264::Decoder::open()?)),
            CodedFormat::H264 => {
                let opened = device.map(|device| M2mDecoder::open(&device, format, self.frames));
                match opened {
                    Some(Ok(decoder)) => return Ok(Box::new(decoder)),
                    Some(Err(error)) => tracing::warn!("{error}: decoding in software"),
                    None => {}
                }
                Ok(Box::new(openh264::Decoder::open()?))
            }
            CodedFormat::Fwht => match device {
                Some(device) => Ok(Box::new(M2mDecoder::open(&device, format, self.frames)?)),
                None => Err(CodecError {
                    codec: "v4l2m2m",
                    what:
                        "the server sends FWHT, and no device here decodes that: load the kernel \
                           module vicodec, or choose an H.264 encoder on the server"
                            .to_owned(),
                }),
            },
        }
    }
}

/// The first device that decodes `format`.
fn find(format: CodedFormat) -> Option<PathBuf> {
    let name = match format {
        CodedFormat::H264 => "H264",
        CodedFormat::Fwht => "FWHT",
    };
    let usable = |node: &m2m::M2mNode| {
        node.kind == Some(M2mKind::Decoder)
            && node.unusable.is_none()
            && node.input.iter().any(|input| input == name)
    };
    m2m::probe().into_iter().find(usable).map(|node| node.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_as_they_are_written() {
        assert_eq!("auto".parse(), Ok(DecoderChoice::Auto));
        assert_eq!("software".parse(), Ok(DecoderChoice::Software));
        assert_eq!("v4l2m2m".parse(), Ok(DecoderChoice::V4l2m2m(None)));
        let device = Some(PathBuf::from("/dev/video10"));
        assert_eq!(
            "v4l2m2m:/dev/video10".parse(),
            Ok(DecoderChoice::V4l2m2m(device))
        );
        for wrong in ["", "v4l2m2m:", "auto:/dev/video0", "openh264"] {
            assert!(wrong.parse::<DecoderChoice>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn hardware_that_does_not_open_gives_way_to_software() {
        let absent = Some(PathBuf::from("/dev/absent-decoder"));
        let mut decoders = Decoders::new(DecoderChoice::V4l2m2m(absent), true);
        let now = MonoTime::from_nanos(1);
        let picture = decoders.decode(CodedFormat::H264, &[0, 0, 0, 1, 9, 0x10], false, now);
        assert!(picture.is_ok_and(|picture| picture.is_none()));
        assert_eq!(decoders.name(), Some(openh264::NAME));
    }

    #[test]
    fn a_decoder_that_is_prepared_is_there_before_the_first_picture() {
        let mut decoders = Decoders::new(DecoderChoice::Software, false);
        assert_eq!(decoders.name(), None);
        decoders.prepare(CodedFormat::H264);
        assert_eq!(decoders.name(), Some(openh264::NAME));
    }

    #[test]
    fn without_a_decoder_for_fwht_it_says_so_and_tries_again_later() {
        let absent = Some(PathBuf::from("/dev/absent-decoder"));
        let mut decoders = Decoders::new(DecoderChoice::V4l2m2m(absent), true);
        let at = |millis: u64| MonoTime::from_nanos(millis * 1_000_000);
        assert!(
            decoders
                .decode(CodedFormat::Fwht, &[1], true, at(1))
                .is_err()
        );
        decoders.failed(CodedFormat::Fwht, at(1));
        let soon = decoders.decode(CodedFormat::Fwht, &[1], true, at(500));
        assert!(soon.is_ok_and(|picture| picture.is_none()));
        assert!(
            decoders
                .decode(CodedFormat::Fwht, &[1], true, at(1_001))
                .is_err()
        );
    }
}
