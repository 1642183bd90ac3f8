//! One stream on one driver, on the thread of its objects.

use std::ffi::c_int;
use std::path::Path;
use std::rc::Rc;

use soft_kvm_core::{Bitrate, Size};
use soft_kvm_video::codec::{CodecError, EncoderConfig};
use soft_kvm_video::frame::Colorimetry;
use soft_kvm_video::level::h264_level;

use super::abi::{self, ConfigAttrib, Plain, attribute, entrypoint, misc, profile};
use super::display::{Buffer, Config, Context, Display, Image, Part, Surface};
use super::error;
use super::headers::{self, Stream};
use super::import::{Imported, Imports, Vpp};
use crate::m2m::h264::contents;

/// H.264 profiles that decoders here know, the simplest first, with `profile_idc`. All are used without B pictures, CABAC
/// and 8x8 transforms.
const PROFILES: [(c_int, u8); 3] = [
    (profile::H264_CONSTRAINED_BASELINE, 66),
    (profile::H264_MAIN, 77),
    (profile::H264_HIGH, 100),
];

/// Pictures from one intra picture to the next, as rate controls are told; IDR pictures come when they are asked for.
const GOP: u32 = 600;

/// How an encoder of a driver is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) profile: c_int,
    pub(super) profile_idc: u8,
    pub(super) entrypoint: c_int,
}

/// The encoder that the driver has for H.264.
pub(super) fn entry(display: &Display) -> Result<Entry, CodecError> {
    let offered = display.profiles()?;
    for (profile, profile_idc) in PROFILES {
        if !offered.contains(&profile) {
            continue;
        }
        let entrypoints = display.entrypoints(profile)?;
        let wanted = [entrypoint::ENC_SLICE, entrypoint::ENC_SLICE_LP];
        if let Some(entrypoint) = wanted.into_iter().find(|one| entrypoints.contains(one)) {
            return Ok(Entry {
                profile,
                profile_idc,
                entrypoint,
            });
        }
    }
    let vendor = display.vendor();
    Err(error(format!("{vendor} has no encoder for H.264")))
}

/// Where a picture is.
#[derive(Debug)]
pub(super) enum Input {
    /// In memory of the CPU: NV12 without padding.
    Memory(Vec<u8>),
    /// In another device's memory.
    Device(Imported),
}

/// What an open session is.
#[derive(Clone, Debug)]
pub(super) struct Opened {
    /// The driver's name for people.
    pub(super) vendor: String,
    /// Whether pictures go through its video processing.
    pub(super) converts: bool,
}

/// Where pictures are read from.
#[derive(Debug)]
enum Feed {
    /// The CPU writes them to an image, which the driver copies to its own surface.
    Image(Image, Surface),
    /// Imported surfaces, encoded as they are.
    Direct(Imports),
    /// Imported surfaces, converted to NV12 first.
    Converted(Imports, Vpp, Surface),
}

/// An encoder that runs.
#[derive(Debug)]
pub(super) struct Session {
    feed: Feed,
    coded: Buffer,
    context: Context,
    /// What the encoder rebuilds, to read it for the next picture.
    rebuilt: [Surface; 2],
    stream: Stream,
    rate_control: u32,
    packed: u32,
    size: Size,
    config: EncoderConfig,
    limit: usize,
    /// The bitrate that the driver was told last.
    told: Option<Bitrate>,
    /// Pictures since the last IDR picture; `None` before the first.
    number: Option<u32>,
    idr_pic_id: u16,
}

impl Session {
    /// Opens the encoder of `node`: for pictures in memory, or like `first`.
    pub(super) fn open(
        node: &Path,
        config: EncoderConfig,
        first: Option<&Imported>,
    ) -> Result<(Self, Opened), CodecError> {
        let display = Display::open(node)?;
        let entry = entry(&display)?;
        let vendor = display.vendor();
        let size = config.size;
        let ask = |kind| display.attribute(entry.profile, entry.entrypoint, kind);
        for (kind, side) in [
            (attribute::MAX_WIDTH, size.width),
            (attribute::MAX_HEIGHT, size.height),
        ] {
            if let Some(most) = ask(kind).filter(|most| *most > 0 && side > *most) {
                let what = format!("{vendor} encodes {most} pixels at most, not {side}");
                return Err(error(what));
            }
        }
        let controls = ask(attribute::RATE_CONTROL).unwrap_or(attribute::RC_CQP);
        let rate_control = [attribute::RC_CBR, attribute::RC_VBR, attribute::RC_CQP]
            .into_iter()
            .find(|one| controls & one != 0)
            .ok_or_else(|| error(format!("{vendor} has no rate control that is known")))?;
        let wanted = attribute::HEADER_SEQUENCE | attribute::HEADER_SLICE;
        let packed = ask(attribute::PACKED_HEADERS).unwrap_or(0) & wanted;
        let mut attributes = vec![
            ConfigAttrib {
                kind: attribute::RT_FORMAT,
                value: abi::rt_format::YUV420,
            },
            ConfigAttrib {
                kind: attribute::RATE_CONTROL,
                value: rate_control,
            },
        ];
        if packed != 0 {
            attributes.push(ConfigAttrib {
                kind: attribute::PACKED_HEADERS,
                value: packed,
            });
        }
        let made = Config::new(&display, entry.profile, entry.entrypoint, &mut attributes)?;
        let rebuilt = [
            Surface::nv12(&display, size)?,
            Surface::nv12(&display, size)?,
        ];
        let context = Context::new(made, size, &[&rebuilt[0], &rebuilt[1]])?;
        // Larger than any coded picture: three times its samples.
        let pixels = headers::blocks(size.width) * headers::blocks(size.height) * 256;
        let limit = (pixels as usize) * 3 + (1 << 16);
        let coded = context.coded(limit)?;
        let feed = Self::feed(&display, size, first)?;
        let color = match (&feed, first) {
            (Feed::Direct(_), Some(first)) => first.color,
            _ => Colorimetry::default(),
        };
        let stream = Stream {
            size,
            level: h264_level(size, config.rate, config.bitrate),
            profile: entry.profile_idc,
            color,
            hz: config.rate.as_hz(),
        };
        let opened = Opened {
            converts: matches!(feed, Feed::Converted(..)),
            vendor,
        };
        tracing::info!(node = %node.display(), driver = opened.vendor, profile = entry.profile,
            low_power = entry.entrypoint == entrypoint::ENC_SLICE_LP, rate_control, packed, %size,
            imported = first.is_some(), converted = opened.converts, "encoding");
        let session = Self {
            feed,
            coded,
            context,
            rebuilt,
            stream,
            rate_control,
            packed,
            size,
            config,
            limit,
            told: None,
            number: None,
            idr_pic_id: 0,
        };
        Ok((session, opened))
    }

    fn feed(
        display: &Rc<Display>,
        size: Size,
        first: Option<&Imported>,
    ) -> Result<Feed, CodecError> {
        let Some(first) = first else {
            let image = Image::nv12(display, size)?;
            return Ok(Feed::Image(image, Surface::nv12(display, size)?));
        };
        let mut imports = Imports::new(display);
        // Once before it is asked for: whether the driver takes such memory shows here.
        imports.surface(first)?;
        if first.is_nv12() {
            return Ok(Feed::Direct(imports));
        }
        let vpp = Vpp::new(display, size)?;
        Ok(Feed::Converted(imports, vpp, Surface::nv12(display, size)?))
    }

    /// Encodes one picture; what was made is appended to `out`. Gives whether it is an IDR picture.
    pub(super) fn encode(
        &mut self,
        input: &Input,
        idr: bool,
        bitrate: Bitrate,
        out: &mut Vec<u8>,
    ) -> Result<bool, CodecError> {
        let idr = idr || self.number.is_none();
        let number = if idr {
            0
        } else {
            self.number.unwrap_or(0).wrapping_add(1)
        };
        let sequence = self.sequence(bitrate);
        let rate = self.rate_parameters(bitrate);
        let fresh = self.told != Some(bitrate);
        let config = self.packed_sets(idr);
        let (slice_bytes, slice_bits) = headers::slice(idr, number, self.idr_pic_id.into());
        let slice_header = packed_header(abi::PACKED_SLICE, slice_bits);
        let picture = self.picture(idr, number);
        let slice = self.slice(idr, number);
        let mut parts = vec![Part::Sequence(&sequence)];
        if fresh && self.rate_control != attribute::RC_CQP {
            parts.extend([
                Part::RateControl(&rate.0),
                Part::FrameRate(&rate.1),
                Part::Hrd(&rate.2),
            ]);
        }
        parts.push(Part::Picture(&picture));
        if let Some((header, bytes)) = &config {
            parts.push(Part::Packed(header, bytes));
        }
        if self.packed & attribute::HEADER_SLICE != 0 {
            parts.push(Part::Packed(&slice_header, &slice_bytes));
        }
        parts.push(Part::Slice(&slice));
        let surface = match (&mut self.feed, input) {
            (Feed::Image(image, surface), Input::Memory(picture)) => {
                image.write(self.size, picture)?;
                surface.put(image)?;
                &*surface
            }
            (Feed::Direct(imports), Input::Device(picture)) => imports.surface(picture)?,
            (Feed::Converted(imports, vpp, surface), Input::Device(picture)) => {
                vpp.convert(imports.surface(picture)?, picture, surface)?;
                &*surface
            }
            _ => return Err(error("the pictures lie somewhere else now")),
        };
        self.context.render(surface, &parts)?;
        surface.sync()?;
        let begin = out.len();
        self.coded
            .read_coded(self.limit, |part| out.extend_from_slice(part))?;
        self.complete(idr, begin, out)?;
        self.told = Some(bitrate);
        self.number = Some(number);
        if idr {
            self.idr_pic_id ^= 1;
        }
        Ok(idr)
    }

    /// Puts the parameter sets before an IDR picture of a driver that does not.
    fn complete(&self, idr: bool, begin: usize, out: &mut Vec<u8>) -> Result<(), CodecError> {
        let made = out.get(begin..).unwrap_or_default();
        let holds = contents(made);
        if !holds.picture || holds.idr != idr {
            let what = format!(
                "{} bytes of another picture than it was asked for",
                made.len()
            );
            return Err(error(format!("the driver gave {what}")));
        }
        if idr && !holds.sps {
            let sets = headers::parameter_sets(&self.stream);
            out.splice(begin..begin, sets);
        }
        Ok(())
    }

    fn packed_sets(&self, idr: bool) -> Option<(abi::PackedHeader, Vec<u8>)> {
        if !idr || self.packed & attribute::HEADER_SEQUENCE == 0 {
            return None;
        }
        let bytes = headers::parameter_sets(&self.stream);
        Some((packed_header(abi::PACKED_SEQUENCE, bytes.len() * 8), bytes))
    }

    fn sequence(&self, bitrate: Bitrate) -> abi::SequenceH264 {
        let (right, bottom) = headers::crop(self.size);
        let side = |pixels| u16::try_from(headers::blocks(pixels)).unwrap_or(u16::MAX);
        let cbr = self.rate_control != attribute::RC_CQP;
        abi::SequenceH264 {
            level_idc: self.stream.level,
            intra_period: GOP,
            intra_idr_period: GOP,
            ip_period: 1,
            bits_per_second: if cbr { bits(bitrate) } else { 0 },
            max_num_ref_frames: 1,
            width_in_mbs: side(self.size.width),
            height_in_mbs: side(self.size.height),
            // chroma_format_idc 1, frame_mbs_only_flag, direct_8x8_inference_flag, log2_max_frame_num_minus4,
            // pic_order_cnt_type 2.
            fields: 1 | 1 << 2 | 1 << 5 | (headers::FRAME_NUM_BITS - 4) << 6 | 2 << 10,
            frame_cropping_flag: u8::from((right, bottom) != (0, 0)),
            crop_right: right,
            crop_bottom: bottom,
            vui_present: 1,
            // timing_info_present_flag, bitstream_restriction_flag, motion vectors of 2^15 quarter pixels and beyond the
            // picture.
            vui_fields: 1 << 1 | 1 << 2 | 15 << 3 | 15 << 8 | 1 << 15,
            num_units_in_tick: 1,
            time_scale: self.stream.hz.saturating_mul(2),
            ..abi::SequenceH264::zeroed()
        }
    }

    fn rate_parameters(
        &self,
        bitrate: Bitrate,
    ) -> (abi::RateControl, abi::FrameRateParameter, abi::Hrd) {
        let bps = bits(bitrate);
        let rate = abi::RateControl {
            kind: misc::RATE_CONTROL,
            bits_per_second: bps,
            target_percentage: 100,
            // Milliseconds: what a key frame may take to even out.
            window_size: 500,
            initial_qp: headers::QP.into(),
            // Pictures are never left out, and never filled up.
            flags: 1 << 1 | 1 << 2,
            ..abi::RateControl::zeroed()
        };
        let frames = abi::FrameRateParameter {
            kind: misc::FRAME_RATE,
            framerate: self.config.rate.as_hz(),
            ..abi::FrameRateParameter::zeroed()
        };
        let hrd = abi::Hrd {
            kind: misc::HRD,
            initial_fullness: bps / 4,
            buffer_size: bps / 2,
            ..abi::Hrd::zeroed()
        };
        (rate, frames, hrd)
    }

    /// The surface that is rebuilt now, and the one of the picture before.
    fn turns(&self, number: u32) -> (abi::PictureH264, abi::PictureH264) {
        let at = |number: u32| abi::PictureH264 {
            surface: self.rebuilt[usize::from(number % 2 == 1)].id,
            frame_idx: number % (1 << headers::FRAME_NUM_BITS),
            flags: abi::PICTURE_SHORT_TERM,
            top: order(number),
            bottom: order(number),
            ..abi::PictureH264::zeroed()
        };
        (at(number), at(number.wrapping_sub(1)))
    }

    fn picture(&self, idr: bool, number: u32) -> abi::PictureParametersH264 {
        let (now, before) = self.turns(number);
        let mut references = [absent(); 16];
        if !idr {
            references[0] = before;
        }
        abi::PictureParametersH264 {
            current: abi::PictureH264 { flags: 0, ..now },
            references,
            coded: self.coded.id,
            frame_num: u16::try_from(number % (1 << headers::FRAME_NUM_BITS)).unwrap_or(0),
            pic_init_qp: headers::QP,
            // idr_pic_flag, reference_pic_flag, deblocking_filter_control_present_flag; CAVLC.
            fields: u32::from(idr) | 1 << 1 | 1 << 9,
            ..abi::PictureParametersH264::zeroed()
        }
    }

    fn slice(&self, idr: bool, number: u32) -> abi::SliceH264 {
        let mut list0 = [absent(); 32];
        if !idr {
            list0[0] = self.turns(number).1;
        }
        let Size { width, height } = self.size;
        abi::SliceH264 {
            num_macroblocks: headers::blocks(width) * headers::blocks(height),
            macroblock_info: abi::INVALID_ID,
            slice_type: if idr { 2 } else { 0 },
            idr_pic_id: self.idr_pic_id,
            list0,
            list1: [absent(); 32],
            ..abi::SliceH264::zeroed()
        }
    }
}

fn absent() -> abi::PictureH264 {
    abi::PictureH264 {
        surface: abi::INVALID_ID,
        flags: abi::PICTURE_INVALID,
        ..abi::PictureH264::zeroed()
    }
}

/// Twice the number, as `pic_order_cnt_type` 2 has it (8.2.1.3).
fn order(number: u32) -> i32 {
    i32::try_from(number.wrapping_mul(2) & 0x7FFF_FFFF).unwrap_or(0)
}

fn packed_header(kind: u32, bits: usize) -> abi::PackedHeader {
    abi::PackedHeader {
        kind,
        bit_length: u32::try_from(bits).unwrap_or(0),
        has_emulation_bytes: 1,
        ..abi::PackedHeader::zeroed()
    }
}

fn bits(bitrate: Bitrate) -> u32 {
    u32::try_from(bitrate.as_bps()).unwrap_or(u32::MAX)
}
