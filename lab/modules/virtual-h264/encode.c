// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pictures to H.264 (ITU-T H.264, the clauses are named beside the code).
 *
 * A macroblock that differs from the last picture is sent as it is (I_PCM), one that does not is skipped
 * (P_Skip; all motion vectors are zero, so the predicted one is as well), but for those whose turn it is with
 * intra refresh. No loop filter, so decoding gives
 * back every sample.
 */

#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/string.h>

#include "encode.h"

#define MB_BYTES 384

/* Writes bits with emulation prevention (7.3.1): no 00 00 followed by 00…03. */
struct writer {
	u8 *out;
	size_t size, len;
	unsigned int zeros;
	u32 bits;
	unsigned int count;
	bool full;
};

static void put_raw(struct writer *w, u8 byte)
{
	if (w->len < w->size)
		w->out[w->len++] = byte;
	else
		w->full = true;
}

static void put_byte(struct writer *w, u8 byte)
{
	if (w->zeros == 2 && byte <= 3) {
		put_raw(w, 3);
		w->zeros = 0;
	}
	put_raw(w, byte);
	w->zeros = byte ? 0 : w->zeros + 1;
}

/* u(n), n up to 24 */
static void put_bits(struct writer *w, u32 value, unsigned int n)
{
	w->bits = w->bits << n | value;
	w->count += n;
	while (w->count >= 8) {
		w->count -= 8;
		put_byte(w, w->bits >> w->count);
		w->bits &= (1u << w->count) - 1;
	}
}

/* ue(v), 9.1; values below 2^20 */
static void put_ue(struct writer *w, u32 value)
{
	unsigned int digits = fls(value + 1);

	put_bits(w, 0, digits - 1);
	put_bits(w, value + 1, digits);
}

static void align(struct writer *w)
{
	if (w->count)
		put_bits(w, 0, 8 - w->count);
}

/* Start code (Annex B) and header of a NAL unit. */
static void begin_nal(struct writer *w, u8 header)
{
	put_raw(w, 0);
	put_raw(w, 0);
	put_raw(w, 0);
	put_raw(w, 1);
	put_raw(w, header);
	w->zeros = 0;
	w->bits = 0;
	w->count = 0;
}

/* rbsp_trailing_bits() */
static void end_nal(struct writer *w)
{
	put_bits(w, 1, 1);
	align(w);
}

static unsigned int blocks(unsigned int pixels)
{
	return DIV_ROUND_UP(pixels, 16);
}

size_t vh264_max_size(unsigned int width, unsigned int height)
{
	/* Two bytes before the samples, and every second byte may need one of emulation prevention. */
	return (size_t)blocks(width) * blocks(height) * (MB_BYTES + 2) * 3 / 2 + 256;
}

int vh264_init(struct vh264_encoder *encoder, const struct vh264_params *params)
{
	encoder->params = *params;
	encoder->mbs_x = blocks(params->width);
	encoder->mbs_y = blocks(params->height);
	encoder->frame_num = 0;
	encoder->idr_pic_id = 0;
	encoder->refresh_at = 0;
	encoder->reference = kvmalloc_array(encoder->mbs_x * encoder->mbs_y, MB_BYTES, GFP_KERNEL);
	return encoder->reference ? 0 : -ENOMEM;
}

void vh264_exit(struct vh264_encoder *encoder)
{
	kvfree(encoder->reference);
	encoder->reference = NULL;
}

/* seq_parameter_set_data(), 7.3.2.1.1 */
static void write_sps(struct writer *w, const struct vh264_encoder *encoder)
{
	const struct vh264_params *params = &encoder->params;
	unsigned int right = (encoder->mbs_x * 16 - params->width) / 2;
	unsigned int bottom = (encoder->mbs_y * 16 - params->height) / 2;

	begin_nal(w, 0x67);
	put_bits(w, 66, 8);		/* profile_idc: baseline */
	put_bits(w, 0xc0, 8);		/* constraint_set0_flag, constraint_set1_flag: constrained */
	put_bits(w, params->level_idc, 8);
	put_ue(w, 0);			/* seq_parameter_set_id */
	put_ue(w, 12);			/* log2_max_frame_num_minus4: 16 bits */
	put_ue(w, 2);			/* pic_order_cnt_type: output in the order of decoding */
	put_ue(w, 1);			/* max_num_ref_frames */
	put_bits(w, 0, 1);		/* gaps_in_frame_num_value_allowed_flag */
	put_ue(w, encoder->mbs_x - 1);
	put_ue(w, encoder->mbs_y - 1);
	put_bits(w, 1, 1);		/* frame_mbs_only_flag */
	put_bits(w, 1, 1);		/* direct_8x8_inference_flag */
	put_bits(w, right || bottom, 1);
	if (right || bottom) {
		put_ue(w, 0);
		put_ue(w, right);
		put_ue(w, 0);
		put_ue(w, bottom);
	}
	put_bits(w, !params->no_vui, 1);
	if (params->no_vui) {
		end_nal(w);
		return;
	}
	/* vui_parameters(), E.1.1 */
	put_bits(w, 0, 1);		/* aspect_ratio_info_present_flag */
	put_bits(w, 0, 1);		/* overscan_info_present_flag */
	put_bits(w, 1, 1);		/* video_signal_type_present_flag */
	put_bits(w, 5, 3);		/* video_format: unspecified */
	put_bits(w, params->full_range, 1);
	put_bits(w, 1, 1);		/* colour_description_present_flag */
	put_bits(w, params->primaries, 8);
	put_bits(w, params->transfer, 8);
	put_bits(w, params->matrix, 8);
	put_bits(w, 0, 1);		/* chroma_loc_info_present_flag */
	put_bits(w, 0, 1);		/* timing_info_present_flag */
	put_bits(w, 0, 2);		/* no HRD parameters */
	put_bits(w, 0, 1);		/* pic_struct_present_flag */
	put_bits(w, 1, 1);		/* bitstream_restriction_flag */
	put_bits(w, 1, 1);		/* motion_vectors_over_pic_boundaries_flag */
	put_ue(w, 0);			/* max_bytes_per_pic_denom: no limit */
	put_ue(w, 0);			/* max_bits_per_mb_denom: no limit */
	put_ue(w, 0);			/* log2_max_mv_length_horizontal */
	put_ue(w, 0);			/* log2_max_mv_length_vertical */
	put_ue(w, 0);			/* max_num_reorder_frames */
	put_ue(w, 1);			/* max_dec_frame_buffering */
	end_nal(w);
}

/* pic_parameter_set_rbsp(), 7.3.2.2 */
static void write_pps(struct writer *w)
{
	begin_nal(w, 0x68);
	put_ue(w, 0);			/* pic_parameter_set_id */
	put_ue(w, 0);			/* seq_parameter_set_id */
	put_bits(w, 0, 1);		/* entropy_coding_mode_flag: CAVLC */
	put_bits(w, 0, 1);		/* bottom_field_pic_order_in_frame_present_flag */
	put_ue(w, 0);			/* num_slice_groups_minus1 */
	put_ue(w, 0);			/* num_ref_idx_l0_default_active_minus1 */
	put_ue(w, 0);			/* num_ref_idx_l1_default_active_minus1 */
	put_bits(w, 0, 3);		/* no weighted prediction */
	put_ue(w, 0);			/* pic_init_qp_minus26 */
	put_ue(w, 0);			/* pic_init_qs_minus26 */
	put_ue(w, 0);			/* chroma_qp_index_offset */
	put_bits(w, 1, 1);		/* deblocking_filter_control_present_flag */
	put_bits(w, 0, 1);		/* constrained_intra_pred_flag */
	put_bits(w, 0, 1);		/* redundant_pic_cnt_present_flag */
	end_nal(w);
}

size_t vh264_write_headers(const struct vh264_encoder *encoder, u8 *out, size_t size)
{
	struct writer w = { .out = out, .size = size };

	write_sps(&w, encoder);
	write_pps(&w);
	return w.full ? 0 : w.len;
}

/* slice_header(), 7.3.3 */
static void write_slice_header(struct writer *w, const struct vh264_encoder *encoder, bool idr)
{
	begin_nal(w, idr ? 0x65 : 0x41);
	put_ue(w, 0);			/* first_mb_in_slice */
	put_ue(w, idr ? 7 : 5);		/* slice_type: all slices of the picture are I, or P */
	put_ue(w, 0);			/* pic_parameter_set_id */
	put_bits(w, encoder->frame_num, 16);
	if (idr) {
		put_ue(w, encoder->idr_pic_id);
		put_bits(w, 0, 2);	/* dec_ref_pic_marking(): no prior output dropped, no long-term */
	} else {
		put_bits(w, 0, 1);	/* num_ref_idx_active_override_flag */
		put_bits(w, 0, 1);	/* ref_pic_list_modification_flag_l0 */
		put_bits(w, 0, 1);	/* adaptive_ref_pic_marking_mode_flag */
	}
	put_ue(w, 0);			/* slice_qp_delta, se(v) */
	put_ue(w, 1);			/* disable_deblocking_filter_idc: off */
}

static void copy_plane(u8 *mb, unsigned int side, const u8 *plane, unsigned int stride, unsigned int step,
		       unsigned int x, unsigned int y, unsigned int width, unsigned int height)
{
	unsigned int row, column;

	for (row = 0; row < side; row++) {
		const u8 *line = plane + (size_t)min(y + row, height - 1) * stride;

		if (step == 1 && x + side <= width) {
			memcpy(mb + row * side, line + x, side);
			continue;
		}
		for (column = 0; column < side; column++)
			mb[row * side + column] = line[min(x + column, width - 1) * step];
	}
}

/* pcm_sample_luma, pcm_sample_chroma (7.3.5) of one macroblock */
static void load(u8 *mb, const struct vh264_picture *p, unsigned int x, unsigned int y)
{
	copy_plane(mb, 16, p->luma, p->luma_stride, 1, x * 16, y * 16, p->width, p->height);
	copy_plane(mb + 256, 8, p->cb, p->chroma_stride, p->chroma_step, x * 8, y * 8,
		   p->width / 2, p->height / 2);
	copy_plane(mb + 320, 8, p->cr, p->chroma_stride, p->chroma_step, x * 8, y * 8,
		   p->width / 2, p->height / 2);
}

/* Whether a macroblock of this picture is sent in any case. */
static bool is_refreshed(const struct vh264_encoder *encoder, unsigned int mb)
{
	unsigned int all = encoder->mbs_x * encoder->mbs_y;

	return (mb + all - encoder->refresh_at) % all < encoder->params.refresh_mbs;
}

size_t vh264_write_picture(struct vh264_encoder *encoder, const struct vh264_picture *picture,
			   bool idr, u8 *out, size_t size)
{
	struct writer w = { .out = out, .size = size };
	unsigned int x, y, i, skipped = 0;
	u8 *reference = encoder->reference;
	u8 mb[MB_BYTES];

	if (idr) {
		encoder->frame_num = 0;
		encoder->idr_pic_id++;
	} else {
		encoder->frame_num++;
	}
	write_slice_header(&w, encoder, idr);
	/* slice_data(), 7.3.4 */
	for (y = 0; y < encoder->mbs_y; y++) {
		for (x = 0; x < encoder->mbs_x; x++, reference += MB_BYTES) {
			load(mb, picture, x, y);
			if (!idr && !is_refreshed(encoder, y * encoder->mbs_x + x) &&
			    !memcmp(mb, reference, MB_BYTES)) {
				skipped++;
				continue;
			}
			memcpy(reference, mb, MB_BYTES);
			if (!idr)
				put_ue(&w, skipped);
			skipped = 0;
			/* mb_type I_PCM: 25, behind the five types of P macroblocks in P slices (7.4.5) */
			put_ue(&w, idr ? 25 : 30);
			align(&w);
			for (i = 0; i < MB_BYTES; i++)
				put_byte(&w, mb[i]);
		}
	}
	if (skipped)
		put_ue(&w, skipped);
	if (idr)
		encoder->refresh_at = 0;
	else
		encoder->refresh_at = (encoder->refresh_at + encoder->params.refresh_mbs) %
				      (encoder->mbs_x * encoder->mbs_y);
	end_nal(&w);
	return w.full ? 0 : w.len;
}
