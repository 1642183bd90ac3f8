/* SPDX-License-Identifier: Apache-2.0 */
/* Pictures of the virtual VA driver: what is rendered between begin and end, encoded or converted at the end. */
#include "virtual.h"

#include <string.h>

static VAStatus begin_picture(VADriverContextP va, VAContextID id, VASurfaceID target)
{
	struct object *object = find(driver_of(va), CONTEXT, id);

	if (!object)
		return VA_STATUS_ERROR_INVALID_CONTEXT;
	if (!find(driver_of(va), SURFACE, target))
		return VA_STATUS_ERROR_INVALID_SURFACE;
	object->context.target = target;
	object->context.begun = true;
	object->context.has_picture = object->context.has_slice = object->context.has_pipeline = false;
	object->context.packed_count = 0;
	return VA_STATUS_SUCCESS;
}

static VAStatus miscellaneous(const struct buffer *buffer)
{
	const VAEncMiscParameterBuffer *what = (const void *)buffer->data;
	const VAEncMiscParameterRateControl *rate = (const void *)what->data;

	if (what->type != VAEncMiscParameterTypeRateControl)
		return VA_STATUS_SUCCESS;
	if (buffer->size * buffer->elements < sizeof(*what) + sizeof(*rate))
		return VA_STATUS_ERROR_INVALID_BUFFER;
	seen("bitrate=%u", rate->bits_per_second);
	return VA_STATUS_SUCCESS;
}

static VAStatus packed(struct context *context, const struct buffer *buffer)
{
	size_t bytes = (context->next_header.bit_length + 7) / 8;
	unsigned int at = context->packed_count;

	if (at >= PACKED || bytes > sizeof(context->packed[at].data) || bytes > (size_t)buffer->size * buffer->elements)
		return VA_STATUS_ERROR_INVALID_BUFFER;
	/* Only headers with emulation prevention are taken as they are. */
	if (!context->next_header.has_emulation_bytes)
		return VA_STATUS_ERROR_UNIMPLEMENTED;
	context->packed[at].type = context->next_header.type;
	context->packed[at].bits = context->next_header.bit_length;
	memcpy(context->packed[at].data, buffer->data, bytes);
	context->packed_count++;
	return VA_STATUS_SUCCESS;
}

#define TAKE(member, flag)                                                                                            \
	do {                                                                                                          \
		if ((size_t)buffer->size * buffer->elements < sizeof(context->member))                                \
			return VA_STATUS_ERROR_INVALID_BUFFER;                                                        \
		memcpy(&context->member, buffer->data, sizeof(context->member));                                      \
		flag;                                                                                                 \
		return VA_STATUS_SUCCESS;                                                                             \
	} while (0)

static VAStatus render(struct context *context, const struct buffer *buffer)
{
	switch ((int)buffer->type) {
	case VAEncSequenceParameterBufferType: TAKE(sequence, context->has_sequence = true);
	case VAEncPictureParameterBufferType: TAKE(picture, context->has_picture = true);
	case VAEncSliceParameterBufferType: TAKE(slice, context->has_slice = true);
	case VAProcPipelineParameterBufferType: TAKE(pipeline, context->has_pipeline = true);
	case VAEncPackedHeaderParameterBufferType: TAKE(next_header, (void)0);
	case VAEncPackedHeaderDataBufferType: return packed(context, buffer);
	case VAEncMiscParameterBufferType: return miscellaneous(buffer);
	default: return VA_STATUS_ERROR_UNSUPPORTED_BUFFERTYPE;
	}
}

static VAStatus render_picture(VADriverContextP va, VAContextID id, VABufferID *buffers, int count)
{
	struct object *object = find(driver_of(va), CONTEXT, id);
	int at;

	if (!object || !object->context.begun)
		return VA_STATUS_ERROR_INVALID_CONTEXT;
	for (at = 0; at < count; at++) {
		struct object *buffer = find(driver_of(va), BUFFER, buffers[at]);
		VAStatus status = VA_STATUS_ERROR_INVALID_BUFFER;

		if (buffer)
			status = render(&object->context, &buffer->buffer);
		if (status)
			return status;
	}
	return VA_STATUS_SUCCESS;
}

static VAStatus convert(VADriverContextP va, struct context *context, struct surface *target)
{
	struct object *from = find(driver_of(va), SURFACE, context->pipeline.surface);
	VAStatus status;

	if (!context->has_pipeline || !from)
		return VA_STATUS_ERROR_INVALID_SURFACE;
	if (context->pipeline.output_color_standard != VAProcColorStandardBT709)
		return VA_STATUS_ERROR_INVALID_PARAMETER;
	surface_read(&from->surface, true);
	status = surface_convert(&from->surface, target);
	surface_read(&from->surface, false);
	return status;
}

/* What the caller has to have got right: the driver's own header fields would not fit otherwise. */
static bool consistent(const struct context *context)
{
	const VAEncSequenceParameterBufferH264 *seq = &context->sequence;
	const VAEncPictureParameterBufferH264 *pic = &context->picture;
	bool idr = pic->pic_fields.bits.idr_pic_flag;

	return context->has_sequence && context->has_picture && context->has_slice &&
	       seq->picture_width_in_mbs == (context->width + 15) / 16 &&
	       seq->picture_height_in_mbs == (context->height + 15) / 16 &&
	       seq->seq_fields.bits.pic_order_cnt_type == 2 && seq->seq_fields.bits.frame_mbs_only_flag &&
	       !pic->pic_fields.bits.entropy_coding_mode_flag && context->slice.macroblock_address == 0 &&
	       context->slice.num_macroblocks == (uint32_t)seq->picture_width_in_mbs * seq->picture_height_in_mbs &&
	       context->slice.slice_type % 5 == (idr ? 2 : 0) && (!idr || pic->frame_num == 0);
}

static VAStatus write(VADriverContextP va, struct context *context, const struct nv12 *picture, struct writer *w)
{
	const VAEncPictureParameterBufferH264 *pic = &context->picture;
	bool idr = pic->pic_fields.bits.idr_pic_flag;
	struct object *rebuilt = find(driver_of(va), SURFACE, pic->CurrPic.picture_id);
	struct object *reference = NULL;
	struct nv12 to, from;
	unsigned int at;
	bool slice = false;

	if (!rebuilt || !surface_nv12(&rebuilt->surface, &to) || !rebuilt->surface.own)
		return VA_STATUS_ERROR_INVALID_SURFACE;
	if (!idr) {
		reference = find(driver_of(va), SURFACE, context->slice.RefPicList0[0].picture_id);
		if (!reference || !surface_nv12(&reference->surface, &from) || reference == rebuilt ||
		    pic->ReferenceFrames[0].picture_id != context->slice.RefPicList0[0].picture_id)
			return VA_STATUS_ERROR_INVALID_SURFACE;
	}
	if (idr && !context->config->packed_headers && !fault("no_headers"))
		write_parameter_sets(w, &context->sequence, pic);
	for (at = 0; at < context->packed_count; at++) {
		if (context->packed[at].type != VAEncPackedHeaderSlice) {
			put_bytes(w, context->packed[at].data, context->packed[at].bits / 8);
			continue;
		}
		put_packed_slice(w, context->packed[at].data, context->packed[at].bits);
		slice = true;
	}
	if (slice != !!(context->config->packed_headers & VA_ENC_PACKED_HEADER_SLICE))
		return VA_STATUS_ERROR_INVALID_PARAMETER;
	if (!slice)
		write_slice_header(w, &context->sequence, pic, &context->slice);
	write_slice_data(w, picture, idr ? NULL : &from, &to);
	return w->full ? VA_STATUS_ERROR_NOT_ENOUGH_BUFFER : VA_STATUS_SUCCESS;
}

static VAStatus encode(VADriverContextP va, struct context *context, struct surface *input)
{
	struct object *coded = find(driver_of(va), BUFFER, context->picture.coded_buf);
	struct writer w = { 0 };
	struct nv12 picture;
	VAStatus status;

	if (!consistent(context))
		return VA_STATUS_ERROR_INVALID_PARAMETER;
	if (!coded || coded->buffer.type != VAEncCodedBufferType)
		return VA_STATUS_ERROR_INVALID_BUFFER;
	if (!surface_nv12(input, &picture) || input->width != context->width || input->height != context->height)
		return VA_STATUS_ERROR_INVALID_SURFACE;
	w.out = coded->buffer.data;
	w.size = coded->buffer.size;
	surface_read(input, true);
	status = write(va, context, &picture, &w);
	surface_read(input, false);
	if (status)
		return status;
	coded->buffer.segment = (VACodedBufferSegment){ .size = (uint32_t)w.len, .buf = coded->buffer.data };
	context->pictures++;
	return VA_STATUS_SUCCESS;
}

static VAStatus end_picture(VADriverContextP va, VAContextID id)
{
	struct object *object = find(driver_of(va), CONTEXT, id), *target;
	struct context *context;
	long errors, hangs;
	VAStatus status;

	if (!object || !object->context.begun)
		return VA_STATUS_ERROR_INVALID_CONTEXT;
	context = &object->context;
	context->begun = false;
	target = find(driver_of(va), SURFACE, context->target);
	if (!target)
		return VA_STATUS_ERROR_INVALID_SURFACE;
	if (context->config->entrypoint == VAEntrypointVideoProc)
		return convert(va, context, &target->surface);
	status = encode(va, context, &target->surface);
	if (status)
		return status;
	errors = fault("error_after");
	hangs = fault("hang_after");
	/* As with real hardware, the caller hears of it when it waits for the picture. */
	target->surface.status = errors && context->pictures > errors ? VA_STATUS_ERROR_ENCODING_ERROR : 0;
	target->surface.hangs = hangs && context->pictures > hangs;
	return VA_STATUS_SUCCESS;
}

void picture_functions(struct VADriverVTable *table)
{
	table->vaBeginPicture = begin_picture;
	table->vaRenderPicture = render_picture;
	table->vaEndPicture = end_picture;
}
