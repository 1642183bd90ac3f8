//! Structures and numbers of `<linux/videodev2.h>` that capture needs, checked in.
//!
//! A test compiles the same list against the machine's own header and compares. Structures have no
//! invalid bit patterns: enums of the header are plain numbers here.

use std::mem::zeroed;

/// Implemented by structures of plain numbers, for which all zeros is a value.
///
/// # Safety
/// All zeros has to be a valid value of the type.
pub(super) unsafe trait Zeroed: Copy {
    /// All zeros, as the kernel wants reserved fields.
    fn zeroed() -> Self {
        // SAFETY: the implementor vouches for it.
        unsafe { zeroed() }
    }
}

macro_rules! kernel_struct {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        #[repr(C)]
        pub(super) struct $name { $(pub(super) $field: $type),* }
        // SAFETY: every field is a number or an array of numbers (checked by `Zeroed`'s other users).
        unsafe impl Zeroed for $name {}
    };
}
pub(in crate::v4l2) use kernel_struct;

kernel_struct!(
    /// `struct v4l2_capability`.
    Capability {
        driver: [u8; 16], card: [u8; 32], bus_info: [u8; 32], version: u32,
        capabilities: u32, device_caps: u32, reserved: [u32; 3],
    }
);
kernel_struct!(
    /// `struct v4l2_fmtdesc`.
    FmtDesc {
        index: u32, type_: u32, flags: u32, description: [u8; 32], pixelformat: u32,
        mbus_code: u32, reserved: [u32; 3],
    }
);
kernel_struct!(
    /// `struct v4l2_frmsizeenum`; `size` is the union: discrete width and height, or
    /// min/max/step of width, then of height.
    FrmSizeEnum { index: u32, pixel_format: u32, type_: u32, size: [u32; 6], reserved: [u32; 2] }
);
kernel_struct!(
    /// `struct v4l2_frmivalenum`; `interval` is the union: a discrete fraction, or those of
    /// min, max and step.
    FrmIvalEnum {
        index: u32, pixel_format: u32, width: u32, height: u32, type_: u32, interval: [u32; 6],
        reserved: [u32; 2],
    }
);
kernel_struct!(
    /// `struct v4l2_pix_format`.
    PixFormat {
        width: u32, height: u32, pixelformat: u32, field: u32, bytesperline: u32, sizeimage: u32,
        colorspace: u32, priv_: u32, flags: u32, ycbcr_enc: u32, quantization: u32, xfer_func: u32,
    }
);
/// `struct v4l2_plane_pix_format` (packed in the header).
#[derive(Clone, Copy, Debug)]
#[repr(C, packed)]
pub(super) struct PlanePixFormat {
    pub(super) sizeimage: u32,
    pub(super) bytesperline: u32,
    reserved: [u16; 6],
}
// SAFETY: numbers only.
unsafe impl Zeroed for PlanePixFormat {}

/// `struct v4l2_pix_format_mplane` (packed in the header).
#[derive(Clone, Copy, Debug)]
#[repr(C, packed)]
pub(super) struct PixFormatMplane {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) pixelformat: u32,
    pub(super) field: u32,
    pub(super) colorspace: u32,
    pub(super) plane_fmt: [PlanePixFormat; 8],
    pub(super) num_planes: u8,
    pub(super) flags: u8,
    pub(super) ycbcr_enc: u8,
    pub(super) quantization: u8,
    pub(super) xfer_func: u8,
    reserved: [u8; 7],
}
// SAFETY: numbers only.
unsafe impl Zeroed for PixFormatMplane {}

/// The union in `struct v4l2_format`. It holds pointers in other variants, hence the alignment.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) union FormatUnion {
    pub(super) pix: PixFormat,
    pub(super) mplane: PixFormatMplane,
    raw: [u8; 200],
    align: usize,
}

/// `struct v4l2_format`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Format {
    pub(super) type_: u32,
    pub(super) fmt: FormatUnion,
}
// SAFETY: numbers only in every variant.
unsafe impl Zeroed for Format {}

kernel_struct!(
    /// `struct v4l2_streamparm` with its capture variant.
    StreamParm {
        type_: u32, capability: u32, capturemode: u32, numerator: u32, denominator: u32,
        extendedmode: u32, readbuffers: u32, rest: [u32; 44],
    }
);
kernel_struct!(
    /// `struct v4l2_requestbuffers`.
    RequestBuffers {
        count: u32, type_: u32, memory: u32, capabilities: u32, flags: u8, reserved: [u8; 3],
    }
);
kernel_struct!(
    /// `struct v4l2_timecode`.
    Timecode {
        type_: u32, flags: u32, frames: u8, seconds: u8, minutes: u8, hours: u8, userbits: [u8; 4],
    }
);
kernel_struct!(
    /// `struct v4l2_plane`; `m` is the union of offset, user pointer and descriptor.
    Plane { bytesused: u32, length: u32, m: usize, data_offset: u32, reserved: [u32; 11] }
);
kernel_struct!(
    /// `struct v4l2_buffer`; `m` is the union of offset, user pointer, plane array and descriptor.
    Buffer {
        index: u32, type_: u32, bytesused: u32, flags: u32, field: u32,
        timestamp_sec: libc::time_t, timestamp_usec: libc::suseconds_t, timecode: Timecode,
        sequence: u32, memory: u32, m: usize, length: u32, reserved2: u32, request_fd: i32,
    }
);
kernel_struct!(
    /// `struct v4l2_exportbuffer`.
    ExportBuffer { type_: u32, index: u32, plane: u32, flags: u32, fd: i32, reserved: [u32; 11] }
);
kernel_struct!(
    /// `struct v4l2_input`.
    Input {
        index: u32, name: [u8; 32], type_: u32, audioset: u32, tuner: u32, std: u64, status: u32,
        capabilities: u32, reserved: [u32; 3],
    }
);
/// `struct v4l2_bt_timings` (packed in the header).
#[derive(Clone, Copy, Debug)]
#[repr(C, packed)]
pub(super) struct BtTimings {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) interlaced: u32,
    pub(super) polarities: u32,
    pub(super) pixelclock: u64,
    pub(super) hfrontporch: u32,
    pub(super) hsync: u32,
    pub(super) hbackporch: u32,
    pub(super) vfrontporch: u32,
    pub(super) vsync: u32,
    pub(super) vbackporch: u32,
    pub(super) il_vfrontporch: u32,
    pub(super) il_vsync: u32,
    pub(super) il_vbackporch: u32,
    pub(super) standards: u32,
    pub(super) flags: u32,
    picture_aspect: [u32; 2],
    cea861_vic: u8,
    hdmi_vic: u8,
    reserved: [u8; 46],
}

/// `struct v4l2_dv_timings` (packed in the header) with its only variant.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed)]
pub(super) struct DvTimings {
    pub(super) type_: u32,
    pub(super) bt: BtTimings,
    rest: [u8; 4],
}
// SAFETY: numbers only.
unsafe impl Zeroed for DvTimings {}

kernel_struct!(
    /// `struct v4l2_event_subscription`.
    EventSubscription { type_: u32, id: u32, flags: u32, reserved: [u32; 5] }
);
/// The union in `struct v4l2_event`: 64 bytes with the alignment of a 64-bit number.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct EventData(pub(super) [u8; 64]);
kernel_struct!(
    /// `struct v4l2_event`.
    Event {
        type_: u32, u: EventData, pending: u32, sequence: u32, timestamp: libc::timespec, id: u32,
        reserved: [u32; 8],
    }
);

kernel_struct!(
    /// `struct v4l2_edid`; `edid` is a pointer to the blocks.
    EdidBlocks { pad: u32, start_block: u32, blocks: u32, reserved: [u32; 5], edid: usize }
);
kernel_struct!(
    /// `struct v4l2_control`.
    ControlValue { id: u32, value: i32 }
);

/// `V4L2_BUF_TYPE_VIDEO_CAPTURE`.
pub(super) const CAPTURE: u32 = 1;
/// `V4L2_BUF_TYPE_VIDEO_CAPTURE_MPLANE`.
pub(super) const CAPTURE_MPLANE: u32 = 9;
/// `V4L2_MEMORY_MMAP`.
pub(super) const MEMORY_MMAP: u32 = 1;
/// `V4L2_FIELD_NONE`: progressive.
pub(super) const FIELD_NONE: u32 = 1;
/// `V4L2_PIX_FMT_PRIV_MAGIC`.
pub(super) const PIX_FMT_PRIV_MAGIC: u32 = 0xfeed_cafe;
/// `enum v4l2_colorspace`, as far as it is used.
pub(super) mod colorspace {
    pub(in super::super) const SMPTE170M: u32 = 1;
    pub(in super::super) const SMPTE240M: u32 = 2;
    pub(in super::super) const REC709: u32 = 3;
    pub(in super::super) const JPEG: u32 = 7;
    pub(in super::super) const SRGB: u32 = 8;
    pub(in super::super) const BT2020: u32 = 10;
    pub(in super::super) const DCI_P3: u32 = 12;
}
/// `enum v4l2_ycbcr_encoding`, as far as it is written.
pub(super) mod ycbcr_enc {
    pub(in super::super) const BT601: u8 = 1;
    pub(in super::super) const BT709: u8 = 2;
    pub(in super::super) const BT2020: u8 = 6;
}
/// `enum v4l2_quantization`.
pub(super) mod quantization {
    pub(in super::super) const FULL: u8 = 1;
    pub(in super::super) const LIMITED: u8 = 2;
}
/// `V4L2_CAP_VIDEO_CAPTURE`.
pub(super) const CAP_CAPTURE: u32 = 0x1;
/// `V4L2_CAP_VIDEO_CAPTURE_MPLANE`.
pub(super) const CAP_CAPTURE_MPLANE: u32 = 0x1000;
/// `V4L2_CAP_VIDEO_OUTPUT`, `V4L2_CAP_VIDEO_OUTPUT_MPLANE`.
pub(super) const CAP_OUTPUT: u32 = 0x2 | 0x2000;
/// `V4L2_CAP_VIDEO_M2M_MPLANE`, `V4L2_CAP_VIDEO_M2M`.
pub(super) const CAP_M2M: u32 = 0x4000 | 0x8000;
/// `V4L2_CAP_META_CAPTURE`.
pub(super) const CAP_META: u32 = 0x0080_0000;
/// `V4L2_CAP_IO_MC`: what leads to the node is set on sub-devices.
pub(super) const CAP_IO_MC: u32 = 0x2000_0000;
/// `V4L2_CAP_STREAMING`.
pub(super) const CAP_STREAMING: u32 = 0x0400_0000;
/// `V4L2_CAP_DEVICE_CAPS`.
pub(super) const CAP_DEVICE_CAPS: u32 = 0x8000_0000;
/// `V4L2_IN_CAP_DV_TIMINGS`.
pub(super) const IN_CAP_DV_TIMINGS: u32 = 2;
/// `V4L2_CAP_TIMEPERFRAME`.
pub(super) const CAP_TIMEPERFRAME: u32 = 0x1000;
/// `V4L2_BUF_FLAG_ERROR`.
pub(super) const BUF_ERROR: u32 = 0x40;
/// `V4L2_BUF_FLAG_TIMESTAMP_MASK` and its value `V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC`.
pub(super) const BUF_TIMESTAMP_MASK: u32 = 0xe000;
/// See [`BUF_TIMESTAMP_MASK`].
pub(super) const BUF_TIMESTAMP_MONOTONIC: u32 = 0x2000;
/// `V4L2_EVENT_CTRL`: a control's value has changed.
pub(super) const EVENT_CTRL: u32 = 3;
/// `V4L2_CID_DV_RX_POWER_PRESENT`: a bit for each input, set while a source at its other end has 5 V on.
pub(super) const CID_DV_RX_POWER_PRESENT: u32 = 0x00a0_0964;
/// `V4L2_EVENT_SOURCE_CHANGE`.
pub(super) const EVENT_SOURCE_CHANGE: u32 = 5;

/// `_IOC(direction, 'V', number, size)` of `<asm-generic/ioctl.h>`; read is 2, write 1.
pub(super) const fn code<T>(direction: u64, number: u64) -> u64 {
    direction << 30 | (size_of::<T>() as u64) << 16 | (b'V' as u64) << 8 | number
}

/// Request codes, under the header's names without `VIDIOC_`.
pub(super) mod request {
    use super::*;

    pub(in super::super) const QUERYCAP: u64 = code::<Capability>(2, 0);
    pub(in super::super) const ENUM_FMT: u64 = code::<FmtDesc>(3, 2);
    pub(in super::super) const G_FMT: u64 = code::<Format>(3, 4);
    pub(in super::super) const S_FMT: u64 = code::<Format>(3, 5);
    pub(in super::super) const REQBUFS: u64 = code::<RequestBuffers>(3, 8);
    pub(in super::super) const QUERYBUF: u64 = code::<Buffer>(3, 9);
    pub(in super::super) const QBUF: u64 = code::<Buffer>(3, 15);
    pub(in super::super) const EXPBUF: u64 = code::<ExportBuffer>(3, 16);
    pub(in super::super) const DQBUF: u64 = code::<Buffer>(3, 17);
    pub(in super::super) const STREAMON: u64 = code::<i32>(1, 18);
    pub(in super::super) const STREAMOFF: u64 = code::<i32>(1, 19);
    pub(in super::super) const S_PARM: u64 = code::<StreamParm>(3, 22);
    pub(in super::super) const ENUMINPUT: u64 = code::<Input>(3, 26);
    pub(in super::super) const G_INPUT: u64 = code::<i32>(2, 38);
    pub(in super::super) const S_INPUT: u64 = code::<i32>(3, 39);
    pub(in super::super) const G_CTRL: u64 = code::<ControlValue>(3, 27);
    pub(in super::super) const G_EDID: u64 = code::<EdidBlocks>(3, 40);
    pub(in super::super) const S_EDID: u64 = code::<EdidBlocks>(3, 41);
    pub(in super::super) const ENUM_FRAMESIZES: u64 = code::<FrmSizeEnum>(3, 74);
    pub(in super::super) const ENUM_FRAMEINTERVALS: u64 = code::<FrmIvalEnum>(3, 75);
    pub(in super::super) const S_DV_TIMINGS: u64 = code::<DvTimings>(3, 87);
    pub(in super::super) const DQEVENT: u64 = code::<Event>(2, 89);
    pub(in super::super) const SUBSCRIBE_EVENT: u64 = code::<EventSubscription>(1, 90);
    pub(in super::super) const QUERY_DV_TIMINGS: u64 = code::<DvTimings>(2, 99);
}

/// Compares the header's expressions with our values, where the machine has the header and a compiler.
#[cfg(test)]
pub(super) fn compare_with_header(facts: &[(&str, u64)]) -> std::io::Result<()> {
    compare_with_headers(&[], facts)
}

/// The same with more headers than `<linux/videodev2.h>`.
#[cfg(test)]
pub(super) fn compare_with_headers(more: &[&str], facts: &[(&str, u64)]) -> std::io::Result<()> {
    use std::fmt::Write as _;
    use std::process::Command;

    let header = std::path::Path::new("/usr/include/linux/videodev2.h").exists();
    if !header || Command::new("cc").arg("--version").output().is_err() {
        return Ok(());
    }
    let mut source = String::from("#include <stddef.h>\n#include <linux/videodev2.h>\n");
    for header in more {
        let _ = writeln!(source, "#include <{header}>");
    }
    for (expression, value) in facts {
        let _ = writeln!(
            source,
            "_Static_assert((unsigned long)({expression}) == {value}ul, \"{expression} is not {value}\");"
        );
    }
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("layout.c");
    std::fs::write(&file, source)?;
    let output = Command::new("cc")
        .arg("-fsyntax-only")
        .arg(&file)
        .output()?;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[cfg(test)]
#[cfg(target_pointer_width = "64")]
mod tests {
    use super::*;
    use std::mem::offset_of;

    /// The header's expression and our value.
    fn facts() -> Vec<(&'static str, u64)> {
        let n = |value: usize| value as u64;
        vec![
            ("VIDIOC_QUERYCAP", request::QUERYCAP),
            ("VIDIOC_ENUM_FMT", request::ENUM_FMT),
            ("VIDIOC_G_FMT", request::G_FMT),
            ("VIDIOC_S_FMT", request::S_FMT),
            ("VIDIOC_REQBUFS", request::REQBUFS),
            ("VIDIOC_QUERYBUF", request::QUERYBUF),
            ("VIDIOC_QBUF", request::QBUF),
            ("VIDIOC_EXPBUF", request::EXPBUF),
            ("VIDIOC_DQBUF", request::DQBUF),
            ("VIDIOC_STREAMON", request::STREAMON),
            ("VIDIOC_STREAMOFF", request::STREAMOFF),
            ("VIDIOC_S_PARM", request::S_PARM),
            ("VIDIOC_ENUMINPUT", request::ENUMINPUT),
            ("VIDIOC_G_INPUT", request::G_INPUT),
            ("VIDIOC_S_INPUT", request::S_INPUT),
            ("VIDIOC_G_CTRL", request::G_CTRL),
            ("VIDIOC_G_EDID", request::G_EDID),
            ("VIDIOC_S_EDID", request::S_EDID),
            (
                "offsetof(struct v4l2_edid, edid)",
                n(offset_of!(EdidBlocks, edid)),
            ),
            ("V4L2_EVENT_CTRL", u64::from(EVENT_CTRL)),
            (
                "V4L2_CID_DV_RX_POWER_PRESENT",
                u64::from(CID_DV_RX_POWER_PRESENT),
            ),
            ("VIDIOC_ENUM_FRAMESIZES", request::ENUM_FRAMESIZES),
            ("VIDIOC_ENUM_FRAMEINTERVALS", request::ENUM_FRAMEINTERVALS),
            ("VIDIOC_S_DV_TIMINGS", request::S_DV_TIMINGS),
            ("VIDIOC_DQEVENT", request::DQEVENT),
            ("VIDIOC_SUBSCRIBE_EVENT", request::SUBSCRIBE_EVENT),
            ("VIDIOC_QUERY_DV_TIMINGS", request::QUERY_DV_TIMINGS),
            (
                "offsetof(struct v4l2_capability, device_caps)",
                n(offset_of!(Capability, device_caps)),
            ),
            (
                "offsetof(struct v4l2_fmtdesc, pixelformat)",
                n(offset_of!(FmtDesc, pixelformat)),
            ),
            (
                "offsetof(struct v4l2_format, fmt)",
                n(offset_of!(Format, fmt)),
            ),
            (
                "offsetof(struct v4l2_pix_format, sizeimage)",
                n(offset_of!(PixFormat, sizeimage)),
            ),
            ("sizeof(struct v4l2_pix_format)", n(size_of::<PixFormat>())),
            (
                "sizeof(struct v4l2_pix_format_mplane)",
                n(size_of::<PixFormatMplane>()),
            ),
            (
                "offsetof(struct v4l2_pix_format_mplane, plane_fmt)",
                n(offset_of!(PixFormatMplane, plane_fmt)),
            ),
            (
                "offsetof(struct v4l2_pix_format_mplane, num_planes)",
                n(offset_of!(PixFormatMplane, num_planes)),
            ),
            (
                "sizeof(struct v4l2_plane_pix_format)",
                n(size_of::<PlanePixFormat>()),
            ),
            ("sizeof(struct v4l2_plane)", n(size_of::<Plane>())),
            ("offsetof(struct v4l2_plane, m)", n(offset_of!(Plane, m))),
            (
                "offsetof(struct v4l2_plane, data_offset)",
                n(offset_of!(Plane, data_offset)),
            ),
            (
                "offsetof(struct v4l2_buffer, timestamp)",
                n(offset_of!(Buffer, timestamp_sec)),
            ),
            (
                "offsetof(struct v4l2_buffer, sequence)",
                n(offset_of!(Buffer, sequence)),
            ),
            ("offsetof(struct v4l2_buffer, m)", n(offset_of!(Buffer, m))),
            (
                "offsetof(struct v4l2_buffer, length)",
                n(offset_of!(Buffer, length)),
            ),
            (
                "offsetof(struct v4l2_exportbuffer, fd)",
                n(offset_of!(ExportBuffer, fd)),
            ),
            (
                "offsetof(struct v4l2_streamparm, parm.capture.timeperframe)",
                n(offset_of!(StreamParm, numerator)),
            ),
            (
                "offsetof(struct v4l2_input, status)",
                n(offset_of!(Input, status)),
            ),
            (
                "offsetof(struct v4l2_input, capabilities)",
                n(offset_of!(Input, capabilities)),
            ),
            (
                "offsetof(struct v4l2_frmsizeenum, discrete)",
                n(offset_of!(FrmSizeEnum, size)),
            ),
            (
                "offsetof(struct v4l2_frmivalenum, discrete)",
                n(offset_of!(FrmIvalEnum, interval)),
            ),
            (
                "offsetof(struct v4l2_dv_timings, bt)",
                n(offset_of!(DvTimings, bt)),
            ),
            (
                "offsetof(struct v4l2_bt_timings, pixelclock)",
                n(offset_of!(BtTimings, pixelclock)),
            ),
            (
                "offsetof(struct v4l2_bt_timings, flags)",
                n(offset_of!(BtTimings, flags)),
            ),
            ("sizeof(struct v4l2_bt_timings)", n(size_of::<BtTimings>())),
            ("offsetof(struct v4l2_event, u)", n(offset_of!(Event, u))),
            (
                "offsetof(struct v4l2_event, pending)",
                n(offset_of!(Event, pending)),
            ),
            ("V4L2_BUF_TYPE_VIDEO_CAPTURE", u64::from(CAPTURE)),
            (
                "V4L2_BUF_TYPE_VIDEO_CAPTURE_MPLANE",
                u64::from(CAPTURE_MPLANE),
            ),
            ("V4L2_MEMORY_MMAP", u64::from(MEMORY_MMAP)),
            ("V4L2_FIELD_NONE", u64::from(FIELD_NONE)),
            ("V4L2_PIX_FMT_PRIV_MAGIC", u64::from(PIX_FMT_PRIV_MAGIC)),
            ("V4L2_COLORSPACE_SMPTE170M", colorspace::SMPTE170M.into()),
            ("V4L2_COLORSPACE_SMPTE240M", colorspace::SMPTE240M.into()),
            ("V4L2_COLORSPACE_REC709", colorspace::REC709.into()),
            ("V4L2_COLORSPACE_JPEG", colorspace::JPEG.into()),
            ("V4L2_COLORSPACE_SRGB", colorspace::SRGB.into()),
            ("V4L2_COLORSPACE_BT2020", colorspace::BT2020.into()),
            ("V4L2_COLORSPACE_DCI_P3", colorspace::DCI_P3.into()),
            ("V4L2_YCBCR_ENC_601", ycbcr_enc::BT601.into()),
            ("V4L2_YCBCR_ENC_709", ycbcr_enc::BT709.into()),
            ("V4L2_YCBCR_ENC_BT2020", ycbcr_enc::BT2020.into()),
            ("V4L2_QUANTIZATION_FULL_RANGE", quantization::FULL.into()),
            ("V4L2_QUANTIZATION_LIM_RANGE", quantization::LIMITED.into()),
            (
                "offsetof(struct v4l2_pix_format, quantization)",
                n(offset_of!(PixFormat, quantization)),
            ),
            (
                "offsetof(struct v4l2_pix_format_mplane, quantization)",
                n(offset_of!(PixFormatMplane, quantization)),
            ),
            ("V4L2_CAP_VIDEO_CAPTURE", u64::from(CAP_CAPTURE)),
            (
                "V4L2_CAP_VIDEO_CAPTURE_MPLANE",
                u64::from(CAP_CAPTURE_MPLANE),
            ),
            (
                "V4L2_CAP_VIDEO_OUTPUT | V4L2_CAP_VIDEO_OUTPUT_MPLANE",
                u64::from(CAP_OUTPUT),
            ),
            (
                "V4L2_CAP_VIDEO_M2M | V4L2_CAP_VIDEO_M2M_MPLANE",
                u64::from(CAP_M2M),
            ),
            ("V4L2_CAP_META_CAPTURE", u64::from(CAP_META)),
            ("V4L2_CAP_STREAMING", u64::from(CAP_STREAMING)),
            ("V4L2_CAP_DEVICE_CAPS", u64::from(CAP_DEVICE_CAPS)),
            ("V4L2_IN_CAP_DV_TIMINGS", u64::from(IN_CAP_DV_TIMINGS)),
            ("V4L2_CAP_TIMEPERFRAME", u64::from(CAP_TIMEPERFRAME)),
            ("V4L2_BUF_FLAG_ERROR", u64::from(BUF_ERROR)),
            (
                "V4L2_BUF_FLAG_TIMESTAMP_MASK",
                u64::from(BUF_TIMESTAMP_MASK),
            ),
            (
                "V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC",
                u64::from(BUF_TIMESTAMP_MONOTONIC),
            ),
            ("V4L2_EVENT_SOURCE_CHANGE", u64::from(EVENT_SOURCE_CHANGE)),
        ]
    }

    #[test]
    fn request_codes_are_the_kernels() {
        let pinned = [
            (request::QUERYCAP, 0x8068_5600),
            (request::ENUM_FMT, 0xc040_5602),
            (request::G_FMT, 0xc0d0_5604),
            (request::S_FMT, 0xc0d0_5605),
            (request::REQBUFS, 0xc014_5608),
            (request::QUERYBUF, 0xc058_5609),
            (request::QBUF, 0xc058_560f),
            (request::DQBUF, 0xc058_5611),
            (request::STREAMON, 0x4004_5612),
            (request::STREAMOFF, 0x4004_5613),
            (request::S_PARM, 0xc0cc_5616),
            (request::ENUMINPUT, 0xc050_561a),
            (request::G_INPUT, 0x8004_5626),
            (request::S_INPUT, 0xc004_5627),
            (request::ENUM_FRAMESIZES, 0xc02c_564a),
            (request::ENUM_FRAMEINTERVALS, 0xc034_564b),
            (request::S_DV_TIMINGS, 0xc084_5657),
            (request::DQEVENT, 0x8088_5659),
            (request::SUBSCRIBE_EVENT, 0x4020_565a),
            (request::QUERY_DV_TIMINGS, 0x8084_5663),
        ];
        for (ours, kernels) in pinned {
            assert_eq!(ours, kernels, "{ours:#x} is not {kernels:#x}");
        }
    }

    #[test]
    fn layout_is_that_of_the_machines_header() -> std::io::Result<()> {
        compare_with_header(&facts())
    }
}
