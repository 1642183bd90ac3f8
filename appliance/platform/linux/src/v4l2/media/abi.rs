//! What media devices need of `<linux/media.h>` and `<linux/v4l2-subdev.h>`.

pub(super) use crate::v4l2::abi::*;

kernel_struct!(
    /// `struct media_v2_entity` (packed in the header, where nothing is to pack).
    Entity { id: u32, name: [u8; 64], function: u32, flags: u32, reserved: [u32; 5] }
);
kernel_struct!(
    /// `struct media_v2_interface` with its device node.
    Interface {
        id: u32, intf_type: u32, flags: u32, reserved: [u32; 9], major: u32, minor: u32, rest: [u32; 14],
    }
);
kernel_struct!(
    /// `struct media_v2_pad`.
    Pad { id: u32, entity_id: u32, flags: u32, index: u32, reserved: [u32; 4] }
);
kernel_struct!(
    /// `struct media_v2_link`.
    Link { id: u32, source_id: u32, sink_id: u32, flags: u32, reserved: [u32; 6] }
);
kernel_struct!(
    /// `struct media_v2_topology`; the pointers are to arrays of as many as the numbers before them say.
    Topology {
        version: u64,
        entities: u32, reserved1: u32, entities_at: u64,
        interfaces: u32, reserved2: u32, interfaces_at: u64,
        pads: u32, reserved3: u32, pads_at: u64,
        links: u32, reserved4: u32, links_at: u64,
    }
);
kernel_struct!(
    /// `struct media_pad_desc`.
    PadDesc { entity: u32, index: u16, flags: u32, reserved: [u32; 2] }
);
kernel_struct!(
    /// `struct media_link_desc`.
    LinkDesc { source: PadDesc, sink: PadDesc, flags: u32, reserved: [u32; 2] }
);
kernel_struct!(
    /// `struct v4l2_mbus_framefmt`.
    FrameFormat {
        width: u32, height: u32, code: u32, field: u32, colorspace: u32, ycbcr_enc: u16, quantization: u16,
        xfer_func: u16, flags: u16, reserved: [u16; 10],
    }
);
kernel_struct!(
    /// `struct v4l2_subdev_format`; the stream is 0.
    PadFormat { which: u32, pad: u32, format: FrameFormat, reserved: [u32; 8] }
);
kernel_struct!(
    /// `struct v4l2_subdev_mbus_code_enum`; the stream is 0.
    MbusCode { pad: u32, index: u32, code: u32, which: u32, flags: u32, reserved: [u32; 7] }
);

/// `MEDIA_PAD_FL_SINK`.
pub(super) const PAD_SINK: u32 = 1;
/// `MEDIA_LNK_FL_ENABLED`.
pub(super) const LINK_ENABLED: u32 = 1;
/// `MEDIA_LNK_FL_IMMUTABLE`.
pub(super) const LINK_IMMUTABLE: u32 = 2;
/// `MEDIA_LNK_FL_LINK_TYPE` and its values `MEDIA_LNK_FL_DATA_LINK`, `MEDIA_LNK_FL_INTERFACE_LINK`.
pub(super) const LINK_TYPE: u32 = 0xf << 28;
/// See [`LINK_TYPE`].
pub(super) const LINK_DATA: u32 = 0;
/// See [`LINK_TYPE`].
pub(super) const LINK_INTERFACE: u32 = 1 << 28;
/// `MEDIA_ENT_FL_CONNECTOR`: a socket, which nothing can be set on.
pub(super) const ENTITY_CONNECTOR: u32 = 2;
/// `V4L2_SUBDEV_FORMAT_ACTIVE`.
pub(super) const ACTIVE: u32 = 1;

/// The same as for V4L2 with the media devices' letter.
const fn media<T>(number: u64) -> u64 {
    const READ_AND_WRITE: u64 = 3;
    READ_AND_WRITE << 30 | (size_of::<T>() as u64) << 16 | (b'|' as u64) << 8 | number
}

/// Request codes, under the header's names without `MEDIA_IOC_` and `VIDIOC_`.
pub(super) mod request {
    use super::*;

    pub(in super::super) const SETUP_LINK: u64 = media::<LinkDesc>(3);
    pub(in super::super) const G_TOPOLOGY: u64 = media::<Topology>(4);
    pub(in super::super) const SUBDEV_ENUM_MBUS_CODE: u64 = code::<MbusCode>(3, 2);
    pub(in super::super) const SUBDEV_G_FMT: u64 = code::<PadFormat>(3, 4);
    pub(in super::super) const SUBDEV_S_FMT: u64 = code::<PadFormat>(3, 5);
}

#[cfg(test)]
#[cfg(target_pointer_width = "64")]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn codes_and_layouts_are_those_of_the_headers() {
        let n = |value: usize| value as u64;
        let own = crate::v4l2::abi::request::QUERY_DV_TIMINGS;
        let facts = [
            ("MEDIA_IOC_SETUP_LINK", request::SETUP_LINK),
            ("MEDIA_IOC_G_TOPOLOGY", request::G_TOPOLOGY),
            (
                "VIDIOC_SUBDEV_ENUM_MBUS_CODE",
                request::SUBDEV_ENUM_MBUS_CODE,
            ),
            ("VIDIOC_SUBDEV_G_FMT", request::SUBDEV_G_FMT),
            ("VIDIOC_SUBDEV_S_FMT", request::SUBDEV_S_FMT),
            // Receivers take the same calls as video nodes.
            ("VIDIOC_SUBDEV_QUERY_DV_TIMINGS", own),
            (
                "VIDIOC_SUBDEV_S_DV_TIMINGS",
                crate::v4l2::abi::request::S_DV_TIMINGS,
            ),
            ("VIDIOC_SUBDEV_G_EDID", crate::v4l2::abi::request::G_EDID),
            ("VIDIOC_SUBDEV_S_EDID", crate::v4l2::abi::request::S_EDID),
            ("sizeof(struct media_v2_entity)", n(size_of::<Entity>())),
            (
                "sizeof(struct media_v2_interface)",
                n(size_of::<Interface>()),
            ),
            ("sizeof(struct media_v2_pad)", n(size_of::<Pad>())),
            ("sizeof(struct media_v2_link)", n(size_of::<Link>())),
            (
                "offsetof(struct media_v2_entity, function)",
                n(offset_of!(Entity, function)),
            ),
            (
                "offsetof(struct media_v2_interface, devnode)",
                n(offset_of!(Interface, major)),
            ),
            (
                "offsetof(struct media_v2_pad, index)",
                n(offset_of!(Pad, index)),
            ),
            (
                "offsetof(struct media_v2_link, flags)",
                n(offset_of!(Link, flags)),
            ),
            (
                "offsetof(struct media_v2_topology, ptr_links)",
                n(offset_of!(Topology, links_at)),
            ),
            (
                "offsetof(struct media_link_desc, flags)",
                n(offset_of!(LinkDesc, flags)),
            ),
            (
                "offsetof(struct media_pad_desc, flags)",
                n(offset_of!(PadDesc, flags)),
            ),
            (
                "offsetof(struct v4l2_mbus_framefmt, xfer_func)",
                n(offset_of!(FrameFormat, xfer_func)),
            ),
            (
                "offsetof(struct v4l2_subdev_format, format)",
                n(offset_of!(PadFormat, format)),
            ),
            (
                "offsetof(struct v4l2_subdev_mbus_code_enum, which)",
                n(offset_of!(MbusCode, which)),
            ),
            (
                "offsetof(struct v4l2_fmtdesc, mbus_code)",
                n(offset_of!(FmtDesc, mbus_code)),
            ),
            ("MEDIA_PAD_FL_SINK", PAD_SINK.into()),
            ("MEDIA_LNK_FL_ENABLED", LINK_ENABLED.into()),
            ("MEDIA_LNK_FL_IMMUTABLE", LINK_IMMUTABLE.into()),
            ("(unsigned)MEDIA_LNK_FL_LINK_TYPE", LINK_TYPE.into()),
            ("MEDIA_LNK_FL_INTERFACE_LINK", LINK_INTERFACE.into()),
            ("MEDIA_ENT_FL_CONNECTOR", ENTITY_CONNECTOR.into()),
            ("V4L2_SUBDEV_FORMAT_ACTIVE", ACTIVE.into()),
            ("V4L2_CAP_IO_MC", CAP_IO_MC.into()),
        ];
        compare_with_headers(&["linux/media.h", "linux/v4l2-subdev.h"], &facts)
            .expect("a compiler");
    }
}
