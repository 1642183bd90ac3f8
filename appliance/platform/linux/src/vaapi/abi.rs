//! What of libva's headers is used (`va/va.h`, `va_enc_h264.h`, `va_vpp.h`, `va_drmcommon.h` of VA-API 1.x): numbers and
//! structures. Sizes and places are pinned below; `lab/va-virtual` is compiled with the headers themselves.

use std::ffi::{c_int, c_void};

pub(super) type Status = c_int;
/// `VADisplay`.
pub(super) type RawDisplay = *mut c_void;
/// `VAConfigID`, `VAContextID`, `VASurfaceID`, `VABufferID`, `VAImageID`.
pub(super) type Id = u32;

pub(super) const INVALID_ID: Id = u32::MAX;
pub(super) const ATTRIB_NOT_SUPPORTED: u32 = 0x8000_0000;
pub(super) const PROGRESSIVE: c_int = 1;

/// `VAProfile`.
pub(super) mod profile {
    use std::ffi::c_int;

    pub(in crate::vaapi) const NONE: c_int = -1;
    pub(in crate::vaapi) const H264_MAIN: c_int = 6;
    pub(in crate::vaapi) const H264_HIGH: c_int = 7;
    pub(in crate::vaapi) const H264_CONSTRAINED_BASELINE: c_int = 13;
}

/// `VAEntrypoint`.
pub(super) mod entrypoint {
    use std::ffi::c_int;

    pub(in crate::vaapi) const ENC_SLICE: c_int = 6;
    /// "Low power": by fixed functions of the hardware alone.
    pub(in crate::vaapi) const ENC_SLICE_LP: c_int = 8;
    pub(in crate::vaapi) const VIDEO_PROC: c_int = 10;
}

/// `VAConfigAttribType` and its values.
pub(super) mod attribute {
    use std::ffi::c_int;

    pub(in crate::vaapi) const RT_FORMAT: c_int = 0;
    pub(in crate::vaapi) const RATE_CONTROL: c_int = 5;
    pub(in crate::vaapi) const PACKED_HEADERS: c_int = 10;
    pub(in crate::vaapi) const MAX_WIDTH: c_int = 18;
    pub(in crate::vaapi) const MAX_HEIGHT: c_int = 19;

    pub(in crate::vaapi) const RC_CBR: u32 = 0x02;
    pub(in crate::vaapi) const RC_VBR: u32 = 0x04;
    pub(in crate::vaapi) const RC_CQP: u32 = 0x10;

    pub(in crate::vaapi) const HEADER_SEQUENCE: u32 = 1;
    pub(in crate::vaapi) const HEADER_SLICE: u32 = 4;
}

/// `VA_RT_FORMAT_*`.
pub(super) mod rt_format {
    pub(in crate::vaapi) const YUV420: u32 = 0x0000_0001;
    pub(in crate::vaapi) const YUV422: u32 = 0x0000_0002;
    pub(in crate::vaapi) const RGB16: u32 = 0x0001_0000;
    pub(in crate::vaapi) const RGB32: u32 = 0x0002_0000;
    pub(in crate::vaapi) const RGB32_10: u32 = 0x0020_0000;
}

/// `VABufferType`.
pub(super) mod buffer {
    use std::ffi::c_int;

    pub(in crate::vaapi) const CODED: c_int = 21;
    pub(in crate::vaapi) const SEQUENCE: c_int = 22;
    pub(in crate::vaapi) const PICTURE: c_int = 23;
    pub(in crate::vaapi) const SLICE: c_int = 24;
    pub(in crate::vaapi) const PACKED_HEADER: c_int = 25;
    pub(in crate::vaapi) const PACKED_DATA: c_int = 26;
    pub(in crate::vaapi) const MISC: c_int = 27;
    pub(in crate::vaapi) const PIPELINE: c_int = 41;
}

/// `VAEncMiscParameterType`.
pub(super) mod misc {
    pub(in crate::vaapi) const FRAME_RATE: u32 = 0;
    pub(in crate::vaapi) const RATE_CONTROL: u32 = 1;
    pub(in crate::vaapi) const HRD: u32 = 5;
}

/// `VAEncPackedHeaderType`.
pub(super) const PACKED_SEQUENCE: u32 = 1;
pub(super) const PACKED_SLICE: u32 = 3;

/// `VASurfaceAttribType`, `VA_SURFACE_ATTRIB_*`, `VAGenericValueType`.
pub(super) const SURFACE_PIXEL_FORMAT: c_int = 1;
pub(super) const SURFACE_MEMORY_TYPE: c_int = 6;
pub(super) const SURFACE_EXTERNAL: c_int = 7;
pub(super) const SURFACE_SETTABLE: u32 = 2;
pub(super) const MEMORY_DRM_PRIME_2: i32 = 0x4000_0000;
pub(super) const GENERIC_INTEGER: c_int = 1;
pub(super) const GENERIC_POINTER: c_int = 3;

pub(super) const PICTURE_INVALID: u32 = 1;
pub(super) const PICTURE_SHORT_TERM: u32 = 8;
/// `VA_CODED_BUF_STATUS_BAD_BITSTREAM`, `…_SLICE_OVERFLOW_MASK`.
pub(super) const CODED_BAD: u32 = 0x8000 | 0x200;

/// `VAProcColorStandardType`.
pub(super) const STANDARD_BT601: c_int = 1;
pub(super) const STANDARD_BT709: c_int = 2;
pub(super) const STANDARD_SRGB: c_int = 8;
pub(super) const STANDARD_BT2020: c_int = 12;
/// `VA_SOURCE_RANGE_*`.
pub(super) const RANGE_REDUCED: u8 = 1;
pub(super) const RANGE_FULL: u8 = 2;

/// `VA_FOURCC_*` differ from DRM's.
pub(super) mod fourcc {
    const fn code(text: &[u8; 4]) -> u32 {
        u32::from_le_bytes(*text)
    }

    pub(in crate::vaapi) const NV12: u32 = code(b"NV12");
    pub(in crate::vaapi) const BGRX: u32 = code(b"BGRX");
    pub(in crate::vaapi) const RGBX: u32 = code(b"RGBX");
    pub(in crate::vaapi) const RGB565: u32 = code(b"RG16");
    pub(in crate::vaapi) const X2R10G10B10: u32 = code(b"XR30");
    pub(in crate::vaapi) const YUY2: u32 = code(b"YUY2");
    pub(in crate::vaapi) const UYVY: u32 = code(b"UYVY");
}

/// A structure of the headers.
pub(super) trait Plain: Copy {
    /// All zeros: what the headers ask reserved fields to be.
    fn zeroed() -> Self;
}

macro_rules! structure {
    ($(#[$meta:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug)]
        pub(super) struct $name {
            $(pub(super) $field: $kind),*
        }

        impl Plain for $name {
            fn zeroed() -> Self {
                // SAFETY: numbers, arrays of numbers and raw pointers only, for all of which zero is a value.
                unsafe { std::mem::zeroed() }
            }
        }
    };
}

structure!(
    /// `VAConfigAttrib`.
    ConfigAttrib { kind: c_int, value: u32 }
);

structure!(
    /// `VASurfaceAttrib` with its `VAGenericValue`, whose union is as wide as a pointer.
    SurfaceAttrib {
        kind: c_int,
        flags: u32,
        value_kind: c_int,
        value: *mut c_void,
    }
);

structure!(
    /// `VAImageFormat`.
    ImageFormat {
        fourcc: u32,
        byte_order: u32,
        bits_per_pixel: u32,
        depth: u32,
        masks: [u32; 4],
        reserved: [u32; 4],
    }
);

structure!(
    /// `VAImage`.
    Image {
        id: Id,
        format: ImageFormat,
        buffer: Id,
        width: u16,
        height: u16,
        data_size: u32,
        planes: u32,
        pitches: [u32; 3],
        offsets: [u32; 3],
        palette_entries: i32,
        entry_bytes: i32,
        component_order: [i8; 4],
        reserved: [u32; 4],
    }
);

structure!(
    /// `VACodedBufferSegment`.
    CodedSegment {
        size: u32,
        bit_offset: u32,
        status: u32,
        reserved: u32,
        data: *mut c_void,
        next: *mut c_void,
        va_reserved: [u32; 4],
    }
);

structure!(
    /// `VAPictureH264`.
    PictureH264 {
        surface: Id,
        frame_idx: u32,
        flags: u32,
        top: i32,
        bottom: i32,
        reserved: [u32; 4],
    }
);

structure!(
    /// `VAEncSequenceParameterBufferH264`; bit fields are whole numbers here.
    SequenceH264 {
        seq_parameter_set_id: u8,
        level_idc: u8,
        intra_period: u32,
        intra_idr_period: u32,
        ip_period: u32,
        bits_per_second: u32,
        max_num_ref_frames: u32,
        width_in_mbs: u16,
        height_in_mbs: u16,
        fields: u32,
        bit_depth_luma_minus8: u8,
        bit_depth_chroma_minus8: u8,
        ref_frames_in_cycle: u8,
        offset_for_non_ref_pic: i32,
        offset_for_top_to_bottom_field: i32,
        offset_for_ref_frame: [i32; 256],
        frame_cropping_flag: u8,
        crop_left: u32,
        crop_right: u32,
        crop_top: u32,
        crop_bottom: u32,
        vui_present: u8,
        vui_fields: u32,
        aspect_ratio_idc: u8,
        sar_width: u32,
        sar_height: u32,
        num_units_in_tick: u32,
        time_scale: u32,
        reserved: [u32; 4],
    }
);

structure!(
    /// `VAEncPictureParameterBufferH264`.
    PictureParametersH264 {
        current: PictureH264,
        references: [PictureH264; 16],
        coded: Id,
        pic_parameter_set_id: u8,
        seq_parameter_set_id: u8,
        last_picture: u8,
        frame_num: u16,
        pic_init_qp: u8,
        num_ref_idx_l0_active_minus1: u8,
        num_ref_idx_l1_active_minus1: u8,
        chroma_qp_index_offset: i8,
        second_chroma_qp_index_offset: i8,
        fields: u32,
        reserved: [u32; 4],
    }
);

structure!(
    /// `VAEncSliceParameterBufferH264`.
    SliceH264 {
        macroblock_address: u32,
        num_macroblocks: u32,
        macroblock_info: Id,
        slice_type: u8,
        pic_parameter_set_id: u8,
        idr_pic_id: u16,
        pic_order_cnt_lsb: u16,
        delta_pic_order_cnt_bottom: i32,
        delta_pic_order_cnt: [i32; 2],
        direct_spatial_mv_pred_flag: u8,
        num_ref_idx_active_override_flag: u8,
        num_ref_idx_l0_active_minus1: u8,
        num_ref_idx_l1_active_minus1: u8,
        list0: [PictureH264; 32],
        list1: [PictureH264; 32],
        luma_log2_weight_denom: u8,
        chroma_log2_weight_denom: u8,
        luma_weight_l0_flag: u8,
        luma_l0: [[i16; 32]; 2],
        chroma_weight_l0_flag: u8,
        chroma_l0: [[i16; 64]; 2],
        luma_weight_l1_flag: u8,
        luma_l1: [[i16; 32]; 2],
        chroma_weight_l1_flag: u8,
        chroma_l1: [[i16; 64]; 2],
        cabac_init_idc: u8,
        slice_qp_delta: i8,
        disable_deblocking_filter_idc: u8,
        alpha_c0_offset_div2: i8,
        beta_offset_div2: i8,
        reserved: [u32; 4],
    }
);

structure!(
    /// `VAEncMiscParameterBuffer` around `VAEncMiscParameterRateControl`.
    RateControl {
        kind: u32,
        bits_per_second: u32,
        target_percentage: u32,
        window_size: u32,
        initial_qp: u32,
        min_qp: u32,
        basic_unit_size: u32,
        flags: u32,
        icq_quality_factor: u32,
        max_qp: u32,
        quality_factor: u32,
        target_frame_size: u32,
        reserved: [u32; 4],
    }
);

structure!(
    /// `VAEncMiscParameterBuffer` around `VAEncMiscParameterFrameRate`.
    FrameRateParameter {
        kind: u32,
        framerate: u32,
        flags: u32,
        reserved: [u32; 4],
    }
);

structure!(
    /// `VAEncMiscParameterBuffer` around `VAEncMiscParameterHRD`.
    Hrd {
        kind: u32,
        initial_fullness: u32,
        buffer_size: u32,
        reserved: [u32; 4],
    }
);

structure!(
    /// `VAEncPackedHeaderParameterBuffer`.
    PackedHeader {
        kind: u32,
        bit_length: u32,
        has_emulation_bytes: u8,
        reserved: [u32; 4],
    }
);

structure!(
    /// A memory object of [`PrimeDescriptor`].
    PrimeObject { fd: c_int, size: u32, modifier: u64 }
);

structure!(
    /// A layer of [`PrimeDescriptor`].
    PrimeLayer {
        drm_format: u32,
        num_planes: u32,
        object_index: [u32; 4],
        offset: [u32; 4],
        pitch: [u32; 4],
    }
);

structure!(
    /// `VADRMPRIMESurfaceDescriptor`.
    PrimeDescriptor {
        fourcc: u32,
        width: u32,
        height: u32,
        num_objects: u32,
        objects: [PrimeObject; 4],
        num_layers: u32,
        layers: [PrimeLayer; 4],
    }
);

structure!(
    /// `VAProcColorProperties`.
    ColorProperties {
        chroma_sample_location: u8,
        color_range: u8,
        primaries: u8,
        transfer: u8,
        matrix: u8,
        reserved: [u8; 3],
    }
);

structure!(
    /// `VAProcPipelineParameterBuffer`.
    Pipeline {
        surface: Id,
        surface_region: *const c_void,
        surface_color_standard: c_int,
        output_region: *const c_void,
        output_background_color: u32,
        output_color_standard: c_int,
        pipeline_flags: u32,
        filter_flags: u32,
        filters: *mut Id,
        num_filters: u32,
        forward_references: *mut Id,
        num_forward_references: u32,
        backward_references: *mut Id,
        num_backward_references: u32,
        rotation_state: u32,
        blend_state: *const c_void,
        mirror_state: u32,
        additional_outputs: *mut Id,
        num_additional_outputs: u32,
        input_surface_flag: u32,
        output_surface_flag: u32,
        input_color_properties: ColorProperties,
        output_color_properties: ColorProperties,
        processing_mode: c_int,
        output_hdr_metadata: *mut c_void,
        // VA_PADDING_LARGE less 16; less 13 where pointers are short.
        reserved: [u32; if size_of::<usize>() == 8 { 16 } else { 19 }],
    }
);

/// As gcc lays them out where pointers have 64 bits.
#[cfg(target_pointer_width = "64")]
mod pinned {
    use super::*;
    use std::mem::offset_of;

    const fn same(found: usize, expected: usize) {
        assert!(found == expected, "a structure of libva has another layout");
    }

    const _: () = {
        same(size_of::<ConfigAttrib>(), 8);
        same(size_of::<SurfaceAttrib>(), 24);
        same(offset_of!(SurfaceAttrib, value_kind), 8);
        same(offset_of!(SurfaceAttrib, value), 16);
        same(size_of::<ImageFormat>(), 48);
        same(size_of::<Image>(), 120);
        same(offset_of!(Image, buffer), 52);
        same(offset_of!(Image, pitches), 68);
        same(offset_of!(Image, offsets), 80);
        same(size_of::<CodedSegment>(), 48);
        same(offset_of!(CodedSegment, data), 16);
        same(offset_of!(CodedSegment, next), 24);
        same(size_of::<PictureH264>(), 36);
        same(size_of::<SequenceH264>(), 1132);
        same(offset_of!(SequenceH264, intra_period), 4);
        same(offset_of!(SequenceH264, fields), 28);
        same(offset_of!(SequenceH264, offset_for_ref_frame), 44);
        same(offset_of!(SequenceH264, frame_cropping_flag), 1068);
        same(offset_of!(SequenceH264, vui_fields), 1092);
        same(offset_of!(SequenceH264, time_scale), 1112);
        same(size_of::<PictureParametersH264>(), 648);
        same(offset_of!(PictureParametersH264, coded), 612);
        same(offset_of!(PictureParametersH264, frame_num), 620);
        same(offset_of!(PictureParametersH264, fields), 628);
        same(size_of::<SliceH264>(), 3140);
        same(offset_of!(SliceH264, slice_type), 12);
        same(offset_of!(SliceH264, list0), 36);
        same(offset_of!(SliceH264, luma_l0), 2344);
        same(offset_of!(SliceH264, slice_qp_delta), 3119);
        same(offset_of!(SliceH264, disable_deblocking_filter_idc), 3120);
        // Each with the four bytes of its type before it.
        same(size_of::<RateControl>(), 4 + 60);
        same(size_of::<FrameRateParameter>(), 4 + 24);
        same(size_of::<Hrd>(), 4 + 24);
        same(size_of::<PackedHeader>(), 28);
        same(size_of::<PrimeDescriptor>(), 312);
        same(offset_of!(PrimeDescriptor, layers), 84);
        same(size_of::<Pipeline>(), 224);
        same(offset_of!(Pipeline, surface_region), 8);
        same(offset_of!(Pipeline, output_region), 24);
        same(offset_of!(Pipeline, filters), 48);
        same(offset_of!(Pipeline, input_color_properties), 132);
        same(offset_of!(Pipeline, output_color_properties), 140);
        same(offset_of!(Pipeline, output_hdr_metadata), 152);
    };
}
