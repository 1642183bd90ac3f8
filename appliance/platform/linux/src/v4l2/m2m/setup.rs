//! What an encoder is told before it starts: for interactive pictures, without delay.

use soft_kvm_core::{Bitrate, FourCc, FrameRate, Size};
use soft_kvm_video::codec::{CodecError, CodedFormat, EncoderConfig};
use soft_kvm_video::level::h264_level;

use super::abi::control;
use super::device::{Device, error};
use super::ioctl::{self, Wanted};
use super::quirks::Quirks;

/// Coded formats that can be carried, the better first.
pub(super) const CODED: [(FourCc, CodedFormat); 2] = [
    (FourCc::new(b"H264"), CodedFormat::H264),
    (FourCc::new(b"FWHT"), CodedFormat::Fwht),
];

/// Frames from one intra picture to the next where nobody asks for one: as far apart as drivers allow.
const GOP: i32 = 600;

/// `V4L2_MPEG_VIDEO_H264_PROFILE_CONSTRAINED_BASELINE`.
const CONSTRAINED_BASELINE: i32 = 1;
/// `V4L2_CID_MPEG_VIDEO_INTRA_REFRESH_PERIOD_TYPE_CYCLIC`.
const CYCLIC: i32 = 1;
/// `V4L2_MPEG_VIDEO_BITRATE_MODE_CBR`.
const CBR: i32 = 1;
/// `V4L2_MPEG_VIDEO_HEADER_MODE_JOINED_WITH_1ST_FRAME`.
const JOINED: i32 = 1;

/// The device's coded format: the first of [`CODED`] that it makes.
pub(super) fn coded(device: &Device) -> Result<(FourCc, CodedFormat), CodecError> {
    let offered = device.formats(device.capture())?;
    let has = |code: &FourCc| offered.iter().any(|(format, _)| format == code);
    CODED
        .into_iter()
        .find(|(code, _)| has(code))
        .ok_or_else(|| {
            let names: Vec<String> = offered.iter().map(|(code, _)| code.to_string()).collect();
            error(format!(
                "{} makes {} only, none of which is carried",
                device.name,
                names.join(", ")
            ))
        })
}

/// Sets the coded format. It comes before the raw one, which the driver fits to it.
pub(super) fn set_coded(
    device: &Device,
    format: FourCc,
    config: &EncoderConfig,
) -> Result<(), CodecError> {
    // Drivers' own guesses are too small for key frames of text (raspberrypi/linux#5232).
    let image = u32::try_from(config.size.pixels() * 3 / 2).unwrap_or(u32::MAX);
    let set = device.set_format(
        device.capture(),
        Wanted {
            format,
            size: config.size,
            stride: 0,
            image: image.max(1 << 20),
            color: None,
        },
    )?;
    if set.format != format {
        let what = format!("{} set {} instead of {format}", device.name, set.format);
        return Err(error(what));
    }
    Ok(())
}

/// Rate, controls and what is to be seen of whole blocks, after both formats.
pub(super) fn set_parameters(
    device: &Device,
    config: &EncoderConfig,
    coded: CodedFormat,
    quirks: &Quirks,
) -> Result<(), CodecError> {
    let crop = ioctl::set_crop(device, config.size)
        .map_err(|errno| device.failed("VIDIOC_S_SELECTION", errno))?;
    let now = ioctl::get_format(device, device.output())
        .map_err(|errno| device.failed("VIDIOC_G_FMT", errno))?;
    if crop.unwrap_or(now.size) != config.size {
        return Err(error(format!(
            "{} cannot show {} of pictures of {}",
            device.name, config.size, now.size
        )));
    }
    let rate = quirks.rate.map_or(config.rate, |(pixels, small, large)| {
        let most = if config.size.pixels() <= pixels {
            small
        } else {
            large
        };
        config.rate.min(FrameRate::hz(most))
    });
    ioctl::set_rate(device, device.output().multi, rate)
        .map_err(|errno| device.failed("VIDIOC_S_PARM", errno))?;
    let set = |id, value| device.try_control(id, value);
    set(control::B_FRAMES, 0);
    set(control::GOP_SIZE, GOP);
    if coded == CodedFormat::H264 {
        let level = h264_level(config.size, config.rate, config.bitrate);
        set(control::H264_PROFILE, CONSTRAINED_BASELINE);
        set(control::H264_LEVEL, level_value(level));
        set(control::H264_ENTROPY_MODE, 0);
        set(control::H264_I_PERIOD, GOP);
        set(control::HEADER_MODE, JOINED);
        set(control::REPEAT_SEQ_HEADER, quirks.repeat_headers.into());
        set(control::PREPEND_SPSPPS_TO_IDR, quirks.repeat_headers.into());
    }
    if !set_intra_refresh(device, config) {
        tracing::info!(device = %device.name, "no control for intra refresh: key frames mend the picture");
    }
    set(control::FRAME_RC_ENABLE, 1);
    set(control::BITRATE_MODE, CBR);
    set_bitrate(device, config.bitrate);
    Ok(())
}

/// False if it is asked for and the device has no control for it.
fn set_intra_refresh(device: &Device, config: &EncoderConfig) -> bool {
    let pictures = config.intra_refresh;
    if pictures == 0 {
        // Drivers that have it start without.
        return true;
    }
    // The kind comes before the period (kernel doc "Codec Control Reference").
    device.try_control(control::INTRA_REFRESH_PERIOD_TYPE, CYCLIC);
    let value = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    device.try_control(control::INTRA_REFRESH_PERIOD, value(pictures))
        || device.try_control(
            control::CYCLIC_INTRA_REFRESH_MB,
            value(blocks(config.size).div_ceil(pictures)),
        )
}

/// Macroblocks of a picture.
fn blocks(size: Size) -> u32 {
    size.width.div_ceil(16) * size.height.div_ceil(16)
}

/// False if the device has no control for it, as those of lossless and fixed-quality formats.
pub(super) fn set_bitrate(device: &Device, bitrate: Bitrate) -> bool {
    let bps = i32::try_from(bitrate.as_bps()).unwrap_or(i32::MAX);
    // A peak below the target is refused, and a target above the peak too.
    device.try_control(control::BITRATE_PEAK, bps);
    let set = device.try_control(control::BITRATE, bps);
    device.try_control(control::BITRATE_PEAK, bps);
    set
}

/// `level_idc` as `enum v4l2_mpeg_video_h264_level` counts it (1b is the second).
fn level_value(level: u8) -> i32 {
    const LEVELS: [u8; 17] = [
        10, 9, 11, 12, 13, 20, 21, 22, 30, 31, 32, 40, 41, 42, 50, 51, 52,
    ];
    let place = LEVELS.iter().position(|known| *known == level);
    i32::try_from(place.unwrap_or(LEVELS.len() - 1)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_count_as_in_the_header() {
        assert_eq!(level_value(10), 0);
        assert_eq!(level_value(31), 9);
        assert_eq!(level_value(40), 11);
        assert_eq!(level_value(52), 16);
    }

    #[test]
    fn all_macroblocks_count() {
        assert_eq!(blocks(Size::new(1920, 1080)), 120 * 68);
        assert_eq!(blocks(Size::new(640, 480)), 1200);
    }
}
