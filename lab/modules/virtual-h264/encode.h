/* SPDX-License-Identifier: GPL-2.0-only */
/* Pictures to H.264: constrained baseline, of I_PCM and P_Skip macroblocks only. */
#ifndef VIRTUAL_H264_ENCODE_H
#define VIRTUAL_H264_ENCODE_H

#include <linux/types.h>

/* A picture in 4:2:0. Lines and columns beyond its size are repeated from its edge. */
struct vh264_picture {
	const u8 *luma, *cb, *cr;
	unsigned int luma_stride, chroma_stride;
	/* Bytes from one chroma sample to the next: 1, or 2 where Cb and Cr are interleaved. */
	unsigned int chroma_step;
	unsigned int width, height;
};

/* What goes into the parameter sets. */
struct vh264_params {
	/* Of the visible picture, even. */
	unsigned int width, height;
	u8 level_idc;
	bool full_range;
	/* ITU-T H.273 code points; 2 is "unspecified". */
	u8 primaries, transfer, matrix;
	/* The SPS says nothing of colours. */
	bool no_vui;
	/* Macroblocks that are sent with each picture though they did not change, one behind the other. */
	unsigned int refresh_mbs;
};

struct vh264_encoder {
	struct vh264_params params;
	unsigned int mbs_x, mbs_y;
	/* The last picture, 384 bytes for each macroblock. */
	u8 *reference;
	u16 frame_num;
	u16 idr_pic_id;
	/* The first macroblock that the next picture sends in any case. */
	unsigned int refresh_at;
};

/* Bytes of an access unit at most, whatever the picture. */
size_t vh264_max_size(unsigned int width, unsigned int height);

int vh264_init(struct vh264_encoder *encoder, const struct vh264_params *params);
void vh264_exit(struct vh264_encoder *encoder);

/* SPS and PPS. Gives the number of bytes, or 0 if they do not fit. */
size_t vh264_write_headers(const struct vh264_encoder *encoder, u8 *out, size_t size);

/* One picture, without parameter sets. Gives the number of bytes, or 0 if they do not fit. */
size_t vh264_write_picture(struct vh264_encoder *encoder, const struct vh264_picture *picture,
			   bool idr, u8 *out, size_t size);

#endif
