//! What memory-to-memory devices need of `<linux/videodev2.h>` and `<linux/v4l2-controls.h>` besides
//! what capture needs.

pub(super) use crate::v4l2::abi::*;

/// `struct v4l2_control`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Control {
    pub(super) id: u32,
    pub(super) value: i32,
}

kernel_struct!(
    /// `struct v4l2_queryctrl`.
    QueryControl {
        id: u32, type_: u32, name: [u8; 32], minimum: i32, maximum: i32, step: i32, default: i32,
        flags: u32, reserved: [u32; 2],
    }
);
kernel_struct!(
    /// `struct v4l2_encoder_cmd`.
    EncoderCommand { command: u32, flags: u32, raw: [u32; 8] }
);
kernel_struct!(
    /// `struct v4l2_selection`.
    Selection {
        type_: u32, target: u32, flags: u32, left: i32, top: i32, width: u32, height: u32,
        reserved: [u32; 9],
    }
);

/// `V4L2_BUF_TYPE_VIDEO_OUTPUT`.
pub(super) const OUTPUT: u32 = 2;
/// `V4L2_BUF_TYPE_VIDEO_OUTPUT_MPLANE`.
pub(super) const OUTPUT_MPLANE: u32 = 10;
/// `V4L2_MEMORY_DMABUF`.
pub(super) const MEMORY_DMABUF: u32 = 4;
/// `V4L2_CAP_VIDEO_M2M_MPLANE`.
pub(super) const CAP_M2M_MPLANE: u32 = 0x4000;
/// `V4L2_FMT_FLAG_COMPRESSED`.
pub(super) const FMT_COMPRESSED: u32 = 1;
/// `V4L2_BUF_FLAG_KEYFRAME`.
pub(super) const BUF_KEYFRAME: u32 = 0x8;
/// `V4L2_BUF_FLAG_LAST`.
pub(super) const BUF_LAST: u32 = 0x0010_0000;
/// `V4L2_ENC_CMD_STOP`.
pub(super) const ENC_CMD_STOP: u32 = 1;
/// `V4L2_SEL_TGT_CROP`.
pub(super) const SEL_CROP: u32 = 0;
/// `V4L2_SEL_TGT_COMPOSE`.
pub(super) const SEL_COMPOSE: u32 = 0x100;
/// `V4L2_CTRL_FLAG_DISABLED`.
pub(super) const CTRL_DISABLED: u32 = 1;
/// Controls of codecs, under the header's names without `V4L2_CID_MPEG_VIDEO_`.
pub(super) mod control {
    pub(in super::super) const B_FRAMES: u32 = 0x0099_09ca;
    pub(in super::super) const GOP_SIZE: u32 = 0x0099_09cb;
    pub(in super::super) const BITRATE_MODE: u32 = 0x0099_09ce;
    pub(in super::super) const BITRATE: u32 = 0x0099_09cf;
    pub(in super::super) const BITRATE_PEAK: u32 = 0x0099_09d0;
    pub(in super::super) const CYCLIC_INTRA_REFRESH_MB: u32 = 0x0099_09d6;
    pub(in super::super) const FRAME_RC_ENABLE: u32 = 0x0099_09d7;
    pub(in super::super) const HEADER_MODE: u32 = 0x0099_09d8;
    pub(in super::super) const REPEAT_SEQ_HEADER: u32 = 0x0099_09e2;
    pub(in super::super) const FORCE_KEY_FRAME: u32 = 0x0099_09e5;
    pub(in super::super) const INTRA_REFRESH_PERIOD: u32 = 0x0099_09ec;
    pub(in super::super) const INTRA_REFRESH_PERIOD_TYPE: u32 = 0x0099_09ed;
    pub(in super::super) const H264_ENTROPY_MODE: u32 = 0x0099_0a65;
    pub(in super::super) const H264_I_PERIOD: u32 = 0x0099_0a66;
    pub(in super::super) const H264_LEVEL: u32 = 0x0099_0a67;
    pub(in super::super) const H264_PROFILE: u32 = 0x0099_0a6b;
    pub(in super::super) const PREPEND_SPSPPS_TO_IDR: u32 = 0x0099_0b84;
}

/// Request codes that capture does not use.
pub(super) mod request {
    use super::*;

    pub(in super::super) const S_CTRL: u64 = code::<Control>(3, 28);
    pub(in super::super) const QUERYCTRL: u64 = code::<QueryControl>(3, 36);
    pub(in super::super) const ENCODER_CMD: u64 = code::<EncoderCommand>(3, 77);
    pub(in super::super) const G_SELECTION: u64 = code::<Selection>(3, 94);
    pub(in super::super) const S_SELECTION: u64 = code::<Selection>(3, 95);
    pub(in super::super) use crate::v4l2::abi::request::*;
}

#[cfg(test)]
#[cfg(target_pointer_width = "64")]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn request_codes_are_the_kernels() {
        let pinned = [
            (request::S_CTRL, 0xc008_561c),
            (request::QUERYCTRL, 0xc044_5624),
            (request::ENCODER_CMD, 0xc028_564d),
            (request::G_SELECTION, 0xc040_565e),
            (request::S_SELECTION, 0xc040_565f),
        ];
        for (ours, kernels) in pinned {
            assert_eq!(ours, kernels, "{ours:#x} is not {kernels:#x}");
        }
    }

    #[test]
    fn layout_is_that_of_the_machines_header() -> std::io::Result<()> {
        let n = |value: usize| value as u64;
        let u = u64::from;
        compare_with_header(&[
            ("VIDIOC_S_CTRL", request::S_CTRL),
            ("VIDIOC_QUERYCTRL", request::QUERYCTRL),
            ("VIDIOC_ENCODER_CMD", request::ENCODER_CMD),
            ("VIDIOC_G_SELECTION", request::G_SELECTION),
            ("VIDIOC_S_SELECTION", request::S_SELECTION),
            ("V4L2_SEL_TGT_COMPOSE", u(SEL_COMPOSE)),
            (
                "offsetof(struct v4l2_queryctrl, flags)",
                n(offset_of!(QueryControl, flags)),
            ),
            (
                "offsetof(struct v4l2_queryctrl, minimum)",
                n(offset_of!(QueryControl, minimum)),
            ),
            (
                "offsetof(struct v4l2_selection, r)",
                n(offset_of!(Selection, left)),
            ),
            ("V4L2_BUF_TYPE_VIDEO_OUTPUT", u(OUTPUT)),
            ("V4L2_BUF_TYPE_VIDEO_OUTPUT_MPLANE", u(OUTPUT_MPLANE)),
            ("V4L2_MEMORY_DMABUF", u(MEMORY_DMABUF)),
            ("V4L2_CAP_VIDEO_M2M_MPLANE", u(CAP_M2M_MPLANE)),
            ("V4L2_FMT_FLAG_COMPRESSED", u(FMT_COMPRESSED)),
            ("V4L2_BUF_FLAG_KEYFRAME", u(BUF_KEYFRAME)),
            ("V4L2_BUF_FLAG_LAST", u(BUF_LAST)),
            ("V4L2_ENC_CMD_STOP", u(ENC_CMD_STOP)),
            ("V4L2_SEL_TGT_CROP", u(SEL_CROP)),
            ("V4L2_CTRL_FLAG_DISABLED", u(CTRL_DISABLED)),
            ("V4L2_CID_MPEG_VIDEO_B_FRAMES", u(control::B_FRAMES)),
            ("V4L2_CID_MPEG_VIDEO_GOP_SIZE", u(control::GOP_SIZE)),
            ("V4L2_CID_MPEG_VIDEO_BITRATE_MODE", u(control::BITRATE_MODE)),
            ("V4L2_CID_MPEG_VIDEO_BITRATE", u(control::BITRATE)),
            ("V4L2_CID_MPEG_VIDEO_BITRATE_PEAK", u(control::BITRATE_PEAK)),
            (
                "V4L2_CID_MPEG_VIDEO_FRAME_RC_ENABLE",
                u(control::FRAME_RC_ENABLE),
            ),
            ("V4L2_CID_MPEG_VIDEO_HEADER_MODE", u(control::HEADER_MODE)),
            (
                "V4L2_CID_MPEG_VIDEO_REPEAT_SEQ_HEADER",
                u(control::REPEAT_SEQ_HEADER),
            ),
            (
                "V4L2_CID_MPEG_VIDEO_FORCE_KEY_FRAME",
                u(control::FORCE_KEY_FRAME),
            ),
            (
                "V4L2_CID_MPEG_VIDEO_CYCLIC_INTRA_REFRESH_MB",
                u(control::CYCLIC_INTRA_REFRESH_MB),
            ),
            (
                "V4L2_CID_MPEG_VIDEO_INTRA_REFRESH_PERIOD",
                u(control::INTRA_REFRESH_PERIOD),
            ),
            (
                "V4L2_CID_MPEG_VIDEO_INTRA_REFRESH_PERIOD_TYPE",
                u(control::INTRA_REFRESH_PERIOD_TYPE),
            ),
            (
                "V4L2_CID_MPEG_VIDEO_H264_ENTROPY_MODE",
                u(control::H264_ENTROPY_MODE),
            ),
            (
                "V4L2_CID_MPEG_VIDEO_H264_I_PERIOD",
                u(control::H264_I_PERIOD),
            ),
            ("V4L2_CID_MPEG_VIDEO_H264_LEVEL", u(control::H264_LEVEL)),
            ("V4L2_CID_MPEG_VIDEO_H264_PROFILE", u(control::H264_PROFILE)),
            (
                "V4L2_CID_MPEG_VIDEO_PREPEND_SPSPPS_TO_IDR",
                u(control::PREPEND_SPSPPS_TO_IDR),
            ),
        ])
    }
}
