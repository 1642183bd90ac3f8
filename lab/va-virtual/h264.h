/* SPDX-License-Identifier: Apache-2.0 */
/* Pictures to H.264 (ITU-T H.264) of I_PCM and P_Skip macroblocks: lossless, and of no use but for tests. */
#ifndef VIRTUAL_VA_H264_H
#define VIRTUAL_VA_H264_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <va/va.h>
#include <va/va_enc_h264.h>

/* Writes bits. `zeros` counts for emulation prevention (7.3.1). */
struct writer {
	uint8_t *out;
	size_t size, len;
	unsigned int zeros;
	uint64_t bits;
	unsigned int count;
	bool full;
};

/* A picture in NV12. */
struct nv12 {
	uint8_t *luma, *chroma;
	uint32_t luma_pitch, chroma_pitch;
	uint32_t width, height;
};

/* Bytes as they are, from a byte boundary on: whole NAL units with their start codes. */
void put_bytes(struct writer *w, const uint8_t *data, size_t len);

/* A packed header that does not end at a byte boundary: the slice's data go on behind its last bit. */
void put_packed_slice(struct writer *w, const uint8_t *data, size_t bits);

void write_parameter_sets(struct writer *w, const VAEncSequenceParameterBufferH264 *seq,
			  const VAEncPictureParameterBufferH264 *pic);
void write_slice_header(struct writer *w, const VAEncSequenceParameterBufferH264 *seq,
			const VAEncPictureParameterBufferH264 *pic, const VAEncSliceParameterBufferH264 *slice);

/* Behind the slice header: what differs from `reference` (all of it without one) as it is, the rest skipped.
 * `rebuilt` gets what a decoder will show. */
void write_slice_data(struct writer *w, const struct nv12 *picture, const struct nv12 *reference,
		      struct nv12 *rebuilt);

#endif
