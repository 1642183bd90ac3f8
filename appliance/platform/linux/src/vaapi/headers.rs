//! Parameter sets and slice headers (ITU-T H.264, 7.3), for drivers that want to be given them and for those that leave
//! them out: one slice for each picture, I or P, one reference, no reordering.

use soft_kvm_core::Size;
use soft_kvm_video::frame::{Colorimetry, Range};

/// `log2_max_frame_num`. Short, so that no slice header holds two bytes of zeros that would need emulation prevention.
pub(super) const FRAME_NUM_BITS: u32 = 8;

/// `pic_init_qp`: what encoders without a rate control use, too.
pub(super) const QP: u8 = 26;

/// What the parameter sets say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stream {
    pub(super) size: Size,
    pub(super) level: u8,
    /// 66 constrained baseline, 77 main, 100 high.
    pub(super) profile: u8,
    pub(super) color: Colorimetry,
    pub(super) hz: u32,
}

/// Macroblocks from side to side.
pub(super) fn blocks(pixels: u32) -> u32 {
    pixels.div_ceil(16)
}

/// Columns and lines of the coded picture that are not shown, in pairs.
pub(super) fn crop(size: Size) -> (u32, u32) {
    let hidden = |pixels: u32| (blocks(pixels) * 16 - pixels) / 2;
    (hidden(size.width), hidden(size.height))
}

#[derive(Debug, Default)]
struct Bits {
    bytes: Vec<u8>,
    /// Bits in use of the last byte; 0 if that is full.
    used: u32,
}

impl Bits {
    fn bit(&mut self, bit: bool) {
        if self.used == 0 {
            self.bytes.push(0);
        }
        if let Some(last) = self.bytes.last_mut() {
            *last |= u8::from(bit) << (7 - self.used);
        }
        self.used = (self.used + 1) % 8;
    }

    /// `u(count)`.
    fn put(&mut self, value: u32, count: u32) {
        for place in (0..count).rev() {
            self.bit(value >> place & 1 == 1);
        }
    }

    /// `ue(v)`, 9.1.
    fn ue(&mut self, value: u32) {
        let digits = (value + 1).ilog2();
        self.put(0, digits);
        self.put(value + 1, digits + 1);
    }

    fn length(&self) -> usize {
        self.bytes.len() * 8 - usize::from(self.used > 0) * ((8 - self.used) as usize)
    }
}

/// Start code, header and payload with emulation prevention (7.3.1).
fn nal_unit(header: u8, mut bits: Bits, out: &mut Vec<u8>) {
    bits.bit(true); // rbsp_stop_one_bit
    out.extend_from_slice(&[0, 0, 0, 1, header]);
    let mut zeros = 0;
    for byte in bits.bytes {
        if zeros == 2 && byte <= 3 {
            out.push(3);
            zeros = 0;
        }
        out.push(byte);
        zeros = if byte == 0 { zeros + 1 } else { 0 };
    }
}

/// Sequence and picture parameter set in byte stream form.
pub(super) fn parameter_sets(stream: &Stream) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    nal_unit(0x67, sequence(stream), &mut out);
    nal_unit(0x68, picture(), &mut out);
    out
}

/// `seq_parameter_set_data()`, 7.3.2.1.1.
fn sequence(stream: &Stream) -> Bits {
    let mut bits = Bits::default();
    bits.put(stream.profile.into(), 8);
    // constraint_set0_flag and constraint_set1_flag: constrained baseline.
    bits.put(if stream.profile == 66 { 0xC0 } else { 0 }, 8);
    bits.put(stream.level.into(), 8);
    bits.ue(0); // seq_parameter_set_id
    if stream.profile == 100 {
        bits.ue(1); // chroma_format_idc: 4:2:0
        bits.ue(0); // bit_depth_luma_minus8
        bits.ue(0); // bit_depth_chroma_minus8
        bits.put(0, 2); // no lossless bypass, no scaling matrix
    }
    bits.ue(FRAME_NUM_BITS - 4);
    bits.ue(2); // pic_order_cnt_type: output in the order of decoding
    bits.ue(1); // max_num_ref_frames
    bits.bit(false); // gaps_in_frame_num_value_allowed_flag
    bits.ue(blocks(stream.size.width) - 1);
    bits.ue(blocks(stream.size.height) - 1);
    bits.bit(true); // frame_mbs_only_flag
    bits.bit(true); // direct_8x8_inference_flag
    let (right, bottom) = crop(stream.size);
    bits.bit((right, bottom) != (0, 0));
    if (right, bottom) != (0, 0) {
        for side in [0, right, 0, bottom] {
            bits.ue(side);
        }
    }
    bits.bit(true); // vui_parameters_present_flag
    vui(stream, &mut bits);
    bits
}

/// `vui_parameters()`, E.1.1.
fn vui(stream: &Stream, bits: &mut Bits) {
    bits.bit(false); // aspect_ratio_info_present_flag
    bits.bit(false); // overscan_info_present_flag
    bits.bit(true); // video_signal_type_present_flag
    bits.put(5, 3); // video_format: unspecified
    bits.bit(stream.color.range == Range::Full);
    bits.bit(true); // colour_description_present_flag
    for code in stream.color.h273() {
        bits.put(code.into(), 8);
    }
    bits.bit(false); // chroma_loc_info_present_flag
    bits.bit(true); // timing_info_present_flag
    bits.put(1, 32); // num_units_in_tick
    bits.put(stream.hz.saturating_mul(2), 32); // time_scale: in fields
    bits.bit(false); // fixed_frame_rate_flag
    bits.put(0, 2); // no HRD parameters
    bits.bit(false); // pic_struct_present_flag
    bits.bit(true); // bitstream_restriction_flag
    bits.bit(true); // motion_vectors_over_pic_boundaries_flag
    bits.ue(0); // max_bytes_per_pic_denom
    bits.ue(0); // max_bits_per_mb_denom
    bits.ue(15); // log2_max_mv_length_horizontal
    bits.ue(15); // log2_max_mv_length_vertical
    bits.ue(0); // max_num_reorder_frames
    bits.ue(1); // max_dec_frame_buffering
}

/// `pic_parameter_set_rbsp()`, 7.3.2.2.
fn picture() -> Bits {
    let mut bits = Bits::default();
    bits.ue(0); // pic_parameter_set_id
    bits.ue(0); // seq_parameter_set_id
    bits.bit(false); // entropy_coding_mode_flag: CAVLC
    bits.bit(false); // bottom_field_pic_order_in_frame_present_flag
    bits.ue(0); // num_slice_groups_minus1
    bits.ue(0); // num_ref_idx_l0_default_active_minus1
    bits.ue(0); // num_ref_idx_l1_default_active_minus1
    bits.put(0, 3); // no weighted prediction
    bits.ue(0); // pic_init_qp_minus26: QP
    bits.ue(0); // pic_init_qs_minus26
    bits.ue(0); // chroma_qp_index_offset
    bits.bit(true); // deblocking_filter_control_present_flag
    bits.bit(false); // constrained_intra_pred_flag
    bits.bit(false); // redundant_pic_cnt_present_flag
    bits
}

/// Start code, NAL unit header and `slice_header()` (7.3.3), and how many bits of the bytes it is.
pub(super) fn slice(idr: bool, frame_num: u32, idr_pic_id: u32) -> (Vec<u8>, usize) {
    let mut bits = Bits::default();
    bits.bytes
        .extend_from_slice(&[0, 0, 0, 1, if idr { 0x65 } else { 0x61 }]);
    bits.ue(0); // first_mb_in_slice
    bits.ue(if idr { 7 } else { 5 }); // slice_type: all of the picture are I, or P
    bits.ue(0); // pic_parameter_set_id
    bits.put(frame_num % (1 << FRAME_NUM_BITS), FRAME_NUM_BITS);
    if idr {
        bits.ue(idr_pic_id);
        bits.put(0, 2); // dec_ref_pic_marking(): no prior output dropped, no long-term
    } else {
        bits.bit(false); // num_ref_idx_active_override_flag
        bits.bit(false); // ref_pic_list_modification_flag_l0
        bits.bit(false); // adaptive_ref_pic_marking_mode_flag
    }
    bits.ue(0); // slice_qp_delta
    bits.ue(0); // disable_deblocking_filter_idc
    bits.ue(0); // slice_alpha_c0_offset_div2
    bits.ue(0); // slice_beta_offset_div2
    let length = bits.length();
    (bits.bytes, length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use soft_kvm_protocol::media::{SequenceParameterSet, nal_units};
    use soft_kvm_video::frame::Matrix;

    fn stream(size: Size) -> Stream {
        Stream {
            size,
            level: 40,
            profile: 66,
            color: Colorimetry {
                matrix: Matrix::Bt601,
                range: Range::Full,
            },
            hz: 30,
        }
    }

    #[test]
    fn a_reader_finds_what_was_written() {
        for profile in [66, 77, 100] {
            for size in [
                Size::new(640, 480),
                Size::new(1920, 1080),
                Size::new(98, 50),
            ] {
                let stream = Stream {
                    profile,
                    ..stream(size)
                };
                let sets = parameter_sets(&stream);
                let nals: Vec<_> = nal_units(&sets).collect();
                assert_eq!(nals.len(), 2, "{sets:02x?}");
                let read = SequenceParameterSet::parse(nals[0]).expect("it is read");
                assert_eq!(read.size(), size);
                assert_eq!(read.profile_idc, profile);
                assert_eq!(read.max_num_ref_frames, 1);
                assert_eq!(read.pic_order_cnt_type, 2);
                assert_eq!((read.full_range, read.matrix_coefficients), (true, 6));
            }
        }
    }

    #[test]
    fn slice_headers_never_need_emulation_prevention() {
        for idr in [false, true] {
            for number in 0..512 {
                let (bytes, bits) = slice(idr, number, number % 2);
                assert!(bits <= bytes.len() * 8 && bits > bytes.len() * 8 - 8);
                let payload = bytes.get(4..).unwrap_or_default();
                let zeros = payload.windows(2).any(|pair| pair == [0, 0]);
                assert!(!zeros, "{bytes:02x?}");
            }
        }
    }

    #[test]
    fn exp_golomb_codes_are_those_of_the_standard() {
        let code = |value| {
            let mut bits = Bits::default();
            bits.ue(value);
            (bits.bytes.clone(), bits.length())
        };
        assert_eq!(code(0), (vec![0b1000_0000], 1));
        assert_eq!(code(1), (vec![0b0100_0000], 3));
        assert_eq!(code(7), (vec![0b0001_0000], 7));
        assert_eq!(code(8), (vec![0b0001_0010], 7));
    }
}
