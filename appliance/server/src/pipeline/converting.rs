//! A hardware converter, or a GPU, in front of a hardware encoder that does not take what the source gives.

use std::path::Path;

use soft_kvm_core::Bitrate;
use soft_kvm_core::story::GpuMode;
use soft_kvm_platform::os::gpu::GpuConverter;
use soft_kvm_platform::os::m2m::{self, M2mConverter, M2mEncoder, M2mKind, M2mNode};
use soft_kvm_video::codec::{CodecError, CodedFormat, Encoded, EncoderConfig, FrameEncoder};
use soft_kvm_video::frame::{Frame, PixelFormat};

/// What is asked of converters: first what encoders take most. 4:2:2 comes last: what a converter takes for the matrix
/// from RGB is not told by all drivers.
const WANTED: [PixelFormat; 9] = [
    PixelFormat::Nv12,
    PixelFormat::I420,
    PixelFormat::Bgr24,
    PixelFormat::Rgb24,
    PixelFormat::Bgrx,
    PixelFormat::Rgbx,
    PixelFormat::Rgb565,
    PixelFormat::Yuyv,
    PixelFormat::Uyvy,
];

/// What converts.
enum Converter {
    Device(M2mConverter),
    Gpu(GpuConverter),
}

impl Converter {
    fn convert(&mut self, frame: &Frame) -> Result<Frame, CodecError> {
        match self {
            Self::Device(converter) => converter.convert(frame),
            Self::Gpu(converter) => converter.convert(frame),
        }
    }
}

/// Converter and encoder, with DMA-BUFs between them.
pub(super) struct Converting {
    converter: Converter,
    encoder: M2mEncoder,
    name: String,
    /// Bytes of converted pictures that the CPU was given.
    touched: u64,
}

impl Converting {
    /// The first pair that takes frames like `first` through to the encoder at `node`, devices made for it before a GPU;
    /// `None` if there is none.
    pub(super) fn open(
        node: &Path,
        config: &EncoderConfig,
        first: &Frame,
        gpu: GpuMode,
    ) -> Option<Self> {
        let usable =
            |found: &M2mNode| found.kind == Some(M2mKind::Converter) && found.unusable.is_none();
        let converters: Vec<_> = m2m::probe().into_iter().filter(usable).collect();
        converters
            .iter()
            .find_map(|converter| Self::with(converter, node, config, first))
            .or_else(|| Self::with_gpu(gpu, node, config, first))
    }

    /// With a GPU, which makes NV12 as the encoder wants it to lie.
    fn with_gpu(mode: GpuMode, node: &Path, config: &EncoderConfig, first: &Frame) -> Option<Self> {
        let open = || {
            // Four bytes are drawn at a time.
            let stride = first.info().size.width.next_multiple_of(4);
            let layout = M2mEncoder::nv12_layout(node, config, stride)?;
            let (converter, converted) = GpuConverter::open(mode, first, layout)?;
            let encoder = M2mEncoder::open(node, config, &converted)?;
            Ok::<_, CodecError>((converter, encoder))
        };
        match open() {
            Ok((converter, encoder)) => Some(Self {
                name: format!("GPU {}", converter.renderer()),
                converter: Converter::Gpu(converter),
                encoder,
                touched: 0,
            }),
            Err(error) => {
                tracing::debug!(%error, "no GPU converts for the encoder");
                None
            }
        }
    }

    /// With this converter, and a format that it and the encoder agree on.
    fn with(found: &M2mNode, node: &Path, config: &EncoderConfig, first: &Frame) -> Option<Self> {
        for format in WANTED {
            if format == first.info().format {
                continue;
            }
            let mut hung = false;
            let pair =
                M2mConverter::open(&found.path, first, &[format]).and_then(|mut converter| {
                    let converted = converter.convert(first);
                    hung = converter.is_hung();
                    let encoder = M2mEncoder::open(node, config, &converted?)?;
                    Ok((converter, encoder))
                });
            match pair {
                Ok((converter, encoder)) => {
                    return Some(Self {
                        converter: Converter::Device(converter),
                        encoder,
                        touched: 0,
                        name: format!("{} ({})", found.path.display(), found.driver),
                    });
                }
                Err(error) => tracing::debug!(
                    converter = %found.path.display(), ?format, %error, "not with this converter"
                ),
            }
            if hung {
                // Each further try would cost another deadline, and somebody waits for a picture.
                break;
            }
        }
        None
    }
}

impl FrameEncoder for Converting {
    fn name(&self) -> &'static str {
        self.encoder.name()
    }

    fn format(&self) -> CodedFormat {
        self.encoder.format()
    }

    fn encode(
        &mut self,
        frame: &Frame,
        idr: bool,
        out: &mut Vec<u8>,
    ) -> Result<Encoded, CodecError> {
        let converted = self.converter.convert(frame)?;
        let encoded = self.encoder.encode(&converted, idr, out);
        self.touched += converted.opened_bytes();
        encoded
    }

    fn set_bitrate(&mut self, bitrate: Bitrate) -> Result<(), CodecError> {
        self.encoder.set_bitrate(bitrate)
    }

    fn cpu_bytes(&self) -> u64 {
        self.touched
    }

    fn converter(&self) -> Option<&str> {
        Some(&self.name)
    }
}
