/* SPDX-License-Identifier: Apache-2.0 */
#include "h264.h"

#include <string.h>

#define MB_BYTES 384
#define ALIGNED(pixels) (((pixels) + 15) / 16)

static void put_raw(struct writer *w, uint8_t byte)
{
	if (w->len < w->size)
		w->out[w->len++] = byte;
	else
		w->full = true;
}

static void put_byte(struct writer *w, uint8_t byte)
{
	if (w->zeros == 2 && byte <= 3) {
		put_raw(w, 3);
		w->zeros = 0;
	}
	put_raw(w, byte);
	w->zeros = byte ? 0 : w->zeros + 1;
}

static void put_bits(struct writer *w, uint32_t value, unsigned int n)
{
	w->bits = w->bits << n | value;
	w->count += n;
	while (w->count >= 8) {
		w->count -= 8;
		put_byte(w, (uint8_t)(w->bits >> w->count));
	}
	w->bits &= (1u << w->count) - 1;
}

/* ue(v), 9.1 */
static void put_ue(struct writer *w, uint32_t value)
{
	unsigned int digits = 0;

	while ((value + 1) >> digits)
		digits++;
	put_bits(w, 0, digits - 1);
	put_bits(w, value + 1, digits);
}

/* se(v), 9.1.1 */
static void put_se(struct writer *w, int32_t value)
{
	put_ue(w, value > 0 ? 2 * (uint32_t)value - 1 : 2 * (uint32_t)-value);
}

static void align(struct writer *w)
{
	if (w->count)
		put_bits(w, 0, 8 - w->count);
}

static void begin_nal(struct writer *w, uint8_t header)
{
	static const uint8_t start[] = { 0, 0, 0, 1 };

	put_bytes(w, start, sizeof(start));
	put_raw(w, header);
	w->zeros = 0;
}

/* rbsp_trailing_bits() */
static void end_nal(struct writer *w)
{
	put_bits(w, 1, 1);
	align(w);
}

void put_bytes(struct writer *w, const uint8_t *data, size_t len)
{
	while (len--)
		put_raw(w, *data++);
	w->zeros = 0;
}

void put_packed_slice(struct writer *w, const uint8_t *data, size_t bits)
{
	size_t whole = bits / 8, at;

	put_bytes(w, data, whole);
	for (at = whole; at > 0 && !data[at - 1]; at--)
		w->zeros++;
	if (bits % 8)
		put_bits(w, data[whole] >> (8 - bits % 8), bits % 8);
}

/* 7.3.2.1.1 and 7.3.2.2; without VUI, as drivers do that are not told */
void write_parameter_sets(struct writer *w, const VAEncSequenceParameterBufferH264 *seq,
			  const VAEncPictureParameterBufferH264 *pic)
{
	begin_nal(w, 0x67);
	put_bits(w, 66, 8);
	put_bits(w, 0xc0, 8);
	put_bits(w, seq->level_idc, 8);
	put_ue(w, seq->seq_parameter_set_id);
	put_ue(w, seq->seq_fields.bits.log2_max_frame_num_minus4);
	put_ue(w, seq->seq_fields.bits.pic_order_cnt_type);
	put_ue(w, seq->max_num_ref_frames);
	put_bits(w, 0, 1);
	put_ue(w, seq->picture_width_in_mbs - 1u);
	put_ue(w, seq->picture_height_in_mbs - 1u);
	put_bits(w, 1, 1);
	put_bits(w, seq->seq_fields.bits.direct_8x8_inference_flag, 1);
	put_bits(w, seq->frame_cropping_flag, 1);
	if (seq->frame_cropping_flag) {
		put_ue(w, seq->frame_crop_left_offset);
		put_ue(w, seq->frame_crop_right_offset);
		put_ue(w, seq->frame_crop_top_offset);
		put_ue(w, seq->frame_crop_bottom_offset);
	}
	put_bits(w, 0, 1);
	end_nal(w);

	begin_nal(w, 0x68);
	put_ue(w, pic->pic_parameter_set_id);
	put_ue(w, pic->seq_parameter_set_id);
	put_bits(w, 0, 2);
	put_ue(w, 0);
	put_ue(w, pic->num_ref_idx_l0_active_minus1);
	put_ue(w, pic->num_ref_idx_l1_active_minus1);
	put_bits(w, 0, 3);
	put_se(w, pic->pic_init_qp - 26);
	put_se(w, 0);
	put_se(w, pic->chroma_qp_index_offset);
	put_bits(w, pic->pic_fields.bits.deblocking_filter_control_present_flag, 1);
	put_bits(w, 0, 2);
	end_nal(w);
}

/* 7.3.3, for pic_order_cnt_type 2 */
void write_slice_header(struct writer *w, const VAEncSequenceParameterBufferH264 *seq,
			const VAEncPictureParameterBufferH264 *pic, const VAEncSliceParameterBufferH264 *slice)
{
	bool idr = pic->pic_fields.bits.idr_pic_flag;
	unsigned int digits = seq->seq_fields.bits.log2_max_frame_num_minus4 + 4;

	begin_nal(w, idr ? 0x65 : 0x41);
	put_ue(w, slice->macroblock_address);
	put_ue(w, slice->slice_type % 5 + 5);
	put_ue(w, slice->pic_parameter_set_id);
	put_bits(w, pic->frame_num & ((1u << digits) - 1), digits);
	if (idr) {
		put_ue(w, slice->idr_pic_id);
		put_bits(w, 0, 2);
	} else {
		put_bits(w, 0, 3);
	}
	put_se(w, slice->slice_qp_delta);
	if (pic->pic_fields.bits.deblocking_filter_control_present_flag) {
		put_ue(w, slice->disable_deblocking_filter_idc);
		if (slice->disable_deblocking_filter_idc != 1) {
			put_se(w, slice->slice_alpha_c0_offset_div2);
			put_se(w, slice->slice_beta_offset_div2);
		}
	}
}

static uint32_t least(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/* The samples of a macroblock (7.3.5); beyond the picture its edge is repeated. */
static void load(uint8_t *mb, const struct nv12 *p, uint32_t x, uint32_t y)
{
	uint32_t row, column;

	for (row = 0; row < 16; row++) {
		const uint8_t *line = p->luma + (size_t)least(y * 16 + row, p->height - 1) * p->luma_pitch;

		if (x * 16 + 16 <= p->width)
			memcpy(mb + row * 16, line + x * 16, 16);
		else
			for (column = 0; column < 16; column++)
				mb[row * 16 + column] = line[least(x * 16 + column, p->width - 1)];
	}
	for (row = 0; row < 8; row++) {
		const uint8_t *line = p->chroma + (size_t)least(y * 8 + row, p->height / 2 - 1) * p->chroma_pitch;

		for (column = 0; column < 8; column++) {
			const uint8_t *pair = line + least(x * 8 + column, p->width / 2 - 1) * 2;

			mb[256 + row * 8 + column] = pair[0];
			mb[320 + row * 8 + column] = pair[1];
		}
	}
}

static void store(const uint8_t *mb, struct nv12 *p, uint32_t x, uint32_t y)
{
	uint32_t columns = least(16, p->width - x * 16), rows = least(16, p->height - y * 16);
	uint32_t row, column;

	for (row = 0; row < rows; row++)
		memcpy(p->luma + (size_t)(y * 16 + row) * p->luma_pitch + x * 16, mb + row * 16, columns);
	for (row = 0; row < rows / 2; row++) {
		uint8_t *line = p->chroma + (size_t)(y * 8 + row) * p->chroma_pitch + x * 16;

		for (column = 0; column < columns / 2; column++) {
			line[column * 2] = mb[256 + row * 8 + column];
			line[column * 2 + 1] = mb[320 + row * 8 + column];
		}
	}
}

void write_slice_data(struct writer *w, const struct nv12 *picture, const struct nv12 *reference,
		      struct nv12 *rebuilt)
{
	uint32_t x, y, skipped = 0;
	uint8_t mb[MB_BYTES], last[MB_BYTES];
	unsigned int i;

	for (y = 0; y < ALIGNED(picture->height); y++) {
		for (x = 0; x < ALIGNED(picture->width); x++) {
			load(mb, picture, x, y);
			store(mb, rebuilt, x, y);
			if (reference) {
				load(last, reference, x, y);
				if (!memcmp(mb, last, MB_BYTES)) {
					skipped++;
					continue;
				}
				put_ue(w, skipped);
				skipped = 0;
			}
			/* mb_type I_PCM: 25, behind the five types of P macroblocks in P slices (7.4.5) */
			put_ue(w, reference ? 30 : 25);
			align(w);
			for (i = 0; i < MB_BYTES; i++)
				put_byte(w, mb[i]);
		}
	}
	if (skipped)
		put_ue(w, skipped);
	end_nal(w);
}
