// SPDX-License-Identifier: GPL-2.0-only
/*
 * A virtual stateful H.264 encoder for tests: the interface of a hardware encoder (kernel doc "Memory-to-Memory
 * Stateful Video Encoder Interface") without the hardware. Module parameters make it fail as hardware does.
 */

#include <linux/cleanup.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

#include <media/media-device.h>
#include <media/v4l2-ctrls.h>
#include <media/v4l2-device.h>
#include <media/v4l2-event.h>
#include <media/v4l2-ioctl.h>
#include <media/v4l2-mem2mem.h>
#include <media/videobuf2-v4l2.h>
#include <media/videobuf2-vmalloc.h>

#include "encode.h"

MODULE_DESCRIPTION("Virtual H.264 encoder for tests");
MODULE_LICENSE("GPL");

#define NAME "virtual-h264"
#define CARD "Virtual H.264 encoder"

#define MIN_SIDE 16
#define MAX_WIDTH 4096
#define MAX_HEIGHT 2304
/* A coded buffer at most, however large it is asked for. */
#define MAX_CODED (64u << 20)

static bool multiplanar;
module_param(multiplanar, bool, 0444);
MODULE_PARM_DESC(multiplanar, "speak the multi-planar API");

static unsigned int stride_align = 2;
module_param(stride_align, uint, 0644);
MODULE_PARM_DESC(stride_align, "lines are multiples of this many bytes (a power of two)");

static int fail_open;
module_param(fail_open, int, 0644);
MODULE_PARM_DESC(fail_open, "fault: opening fails with this error number");

static unsigned int error_after;
module_param(error_after, uint, 0644);
MODULE_PARM_DESC(error_after, "fault: pictures after this many in a stream come back with the error flag");

static unsigned int hang_after;
module_param(hang_after, uint, 0644);
MODULE_PARM_DESC(hang_after, "fault: no answer after this many pictures in a stream");

static unsigned int wrong_stride;
module_param(wrong_stride, uint, 0644);
MODULE_PARM_DESC(wrong_stride, "fault: lines are this many bytes longer than asked for");

static bool refresh_by_blocks;
module_param(refresh_by_blocks, bool, 0644);
MODULE_PARM_DESC(refresh_by_blocks, "intra refresh by the older control, which counts macroblocks");

static bool no_vui;
module_param(no_vui, bool, 0644);
MODULE_PARM_DESC(no_vui, "parameter sets say nothing of colours");

static bool no_dmabuf;
module_param(no_dmabuf, bool, 0644);
MODULE_PARM_DESC(no_dmabuf, "fault: no import of DMA-BUFs");

static unsigned int late_key_frame;
module_param(late_key_frame, uint, 0644);
MODULE_PARM_DESC(late_key_frame, "fault: a forced key frame comes this many pictures late");

/* What tests look at. */
static int seen_bitrate;
module_param(seen_bitrate, int, 0444);
MODULE_PARM_DESC(seen_bitrate, "the bitrate that was set last, in bit/s");

static unsigned int seen_pictures;
module_param(seen_pictures, uint, 0444);
MODULE_PARM_DESC(seen_pictures, "pictures encoded since the module was loaded");

static unsigned int seen_imports;
module_param(seen_imports, uint, 0444);
MODULE_PARM_DESC(seen_imports, "those of them that were in imported DMA-BUFs");

/* A raw format: memories, and bytes from one chroma sample to the next. */
struct raw_format {
	u32 fourcc;
	u8 memories;
	u8 chroma_step;
};

static const struct raw_format raw_formats[] = {
	{ V4L2_PIX_FMT_NV12, 1, 2 },
	{ V4L2_PIX_FMT_YUV420, 1, 1 },
	/* Multi-planar API only. */
	{ V4L2_PIX_FMT_NV12M, 2, 2 },
	{ V4L2_PIX_FMT_YUV420M, 3, 1 },
};

static unsigned int raw_format_count(void)
{
	return multiplanar ? ARRAY_SIZE(raw_formats) : 2;
}

static const struct raw_format *find_raw_format(u32 fourcc)
{
	unsigned int i;

	for (i = 0; i < raw_format_count(); i++)
		if (raw_formats[i].fourcc == fourcc)
			return &raw_formats[i];
	return &raw_formats[0];
}

struct virtual_device {
	struct v4l2_device v4l2_dev;
	struct media_device media;
	struct video_device video;
	struct v4l2_m2m_dev *m2m;
	struct mutex lock;
};

/* The output queue's format. */
struct raw_layout {
	const struct raw_format *format;
	unsigned int width, height;
	/* Of luma; of chroma planes it is the same for interleaved ones, half of it for others. */
	unsigned int stride;
	u32 sizes[3];
};

struct context {
	struct v4l2_fh fh;
	struct virtual_device *dev;
	struct v4l2_ctrl_handler controls;
	struct work_struct work;

	struct raw_layout raw;
	struct v4l2_rect crop;
	u32 coded_size;
	u32 colorspace, ycbcr_enc, xfer_func, quantization;
	struct v4l2_fract interval;

	struct v4l2_ctrl *force_key_frame, *gop_size, *i_period, *repeat, *prepend, *level, *header_mode;
	struct v4l2_ctrl *refresh_period, *refresh_blocks;

	/* Of the stream that runs. */
	struct vh264_encoder encoder;
	unsigned int pictures, since_key;
	bool headers_sent;
	u32 out_sequence, cap_sequence;

	/* Guards what follows. */
	spinlock_t job_lock;
	bool aborting, hung;
	/* Pictures until a key frame that was asked for; -1 for none. */
	int key_in;
};

static const struct v4l2_event eos_event = { .type = V4L2_EVENT_EOS };

static struct context *context_of(struct file *file)
{
	return container_of(file_to_v4l2_fh(file), struct context, fh);
}

static u32 output_type(void)
{
	return multiplanar ? V4L2_BUF_TYPE_VIDEO_OUTPUT_MPLANE : V4L2_BUF_TYPE_VIDEO_OUTPUT;
}

static u32 capture_type(void)
{
	return multiplanar ? V4L2_BUF_TYPE_VIDEO_CAPTURE_MPLANE : V4L2_BUF_TYPE_VIDEO_CAPTURE;
}

/* The core asks for both APIs' types where a driver has functions for both. */
static bool is_own_type(u32 type)
{
	return V4L2_TYPE_IS_MULTIPLANAR(type) == multiplanar;
}

/* Jobs */

static u8 level_idc(s32 value)
{
	static const u8 levels[] = { 10, 9, 11, 12, 13, 20, 21, 22, 30, 31, 32, 40, 41, 42, 50, 51, 52 };

	return levels[clamp(value, 0, (s32)ARRAY_SIZE(levels) - 1)];
}

static unsigned int refresh_mbs(const struct context *ctx)
{
	unsigned int all = DIV_ROUND_UP(ctx->crop.width, 16) * DIV_ROUND_UP(ctx->crop.height, 16);

	if (ctx->refresh_blocks)
		return min_t(unsigned int, ctx->refresh_blocks->cur.val, all);
	return ctx->refresh_period->cur.val ? DIV_ROUND_UP(all, ctx->refresh_period->cur.val) : 0;
}

static void fill_params(const struct context *ctx, struct vh264_params *params)
{
	params->refresh_mbs = refresh_mbs(ctx);
	params->no_vui = no_vui;
	params->width = ctx->crop.width;
	params->height = ctx->crop.height;
	params->level_idc = level_idc(ctx->level->cur.val);
	params->full_range = ctx->quantization == V4L2_QUANTIZATION_FULL_RANGE;
	switch (ctx->ycbcr_enc ?: V4L2_MAP_YCBCR_ENC_DEFAULT(ctx->colorspace)) {
	case V4L2_YCBCR_ENC_601:
		params->primaries = 6;
		params->transfer = 6;
		params->matrix = 6;
		break;
	case V4L2_YCBCR_ENC_709:
		params->primaries = 1;
		params->transfer = 1;
		params->matrix = 1;
		break;
	case V4L2_YCBCR_ENC_BT2020:
		params->primaries = 9;
		params->transfer = 14;
		params->matrix = 9;
		break;
	default:
		params->primaries = 2;
		params->transfer = 2;
		params->matrix = 2;
	}
}

/* Where the planes are: behind each other in one memory, or each in its own. */
static int find_planes(const struct context *ctx, struct vb2_buffer *vb, struct vh264_picture *picture)
{
	const struct raw_layout *raw = &ctx->raw;
	const u8 *memory[3] = {};
	unsigned int i;

	for (i = 0; i < raw->format->memories; i++) {
		memory[i] = vb2_plane_vaddr(vb, i);
		if (!memory[i])
			return -EFAULT;
		if (vb2_plane_size(vb, i) < raw->sizes[i])
			return -EINVAL;
	}
	picture->width = ctx->crop.width;
	picture->height = ctx->crop.height;
	picture->luma = memory[0];
	picture->luma_stride = raw->stride;
	picture->chroma_step = raw->format->chroma_step;
	picture->chroma_stride = raw->format->chroma_step == 2 ? raw->stride : raw->stride / 2;
	picture->cb = memory[1] ?: memory[0] + raw->stride * raw->height;
	if (raw->format->chroma_step == 2)
		picture->cr = picture->cb + 1;
	else
		picture->cr = memory[2] ?: picture->cb + picture->chroma_stride * raw->height / 2;
	return 0;
}

static bool take_key_request(struct context *ctx)
{
	bool now;

	guard(spinlock)(&ctx->job_lock);
	now = ctx->key_in == 0;
	if (ctx->key_in >= 0)
		ctx->key_in--;
	return now;
}

static int encode(struct context *ctx, struct vb2_v4l2_buffer *src, struct vb2_v4l2_buffer *dst)
{
	size_t size = vb2_plane_size(&dst->vb2_buf, 0), used = 0;
	u8 *out = vb2_plane_vaddr(&dst->vb2_buf, 0);
	struct vh264_picture picture;
	unsigned int gop = ctx->gop_size->cur.val;
	unsigned int period = ctx->i_period->cur.val;
	bool forced, idr;
	size_t coded;
	int ret;

	if (!out)
		return -EFAULT;
	if (error_after && ctx->pictures >= error_after)
		return -EIO;
	ret = find_planes(ctx, &src->vb2_buf, &picture);
	if (ret)
		return ret;
	forced = take_key_request(ctx);
	idr = forced || !ctx->pictures || (gop && ctx->since_key >= gop) || (period && ctx->since_key >= period);
	if (idr && (!ctx->headers_sent || ctx->repeat->cur.val || ctx->prepend->cur.val)) {
		used = vh264_write_headers(&ctx->encoder, out, size);
		if (!used)
			return -ENOSPC;
		ctx->headers_sent = true;
	}
	coded = vh264_write_picture(&ctx->encoder, &picture, idr, out + used, size - used);
	if (!coded)
		return -ENOSPC;
	vb2_set_plane_payload(&dst->vb2_buf, 0, used + coded);
	dst->flags |= idr ? V4L2_BUF_FLAG_KEYFRAME : V4L2_BUF_FLAG_PFRAME;
	ctx->since_key = idr ? 1 : ctx->since_key + 1;
	ctx->pictures++;
	seen_pictures++;
	if (src->vb2_buf.memory == VB2_MEMORY_DMABUF)
		seen_imports++;
	return 0;
}

/* SPS and PPS in a buffer of their own, before the first picture. */
static bool send_headers_apart(struct context *ctx)
{
	struct vb2_v4l2_buffer *dst;
	size_t used;
	u8 *out;

	if (ctx->headers_sent || ctx->header_mode->cur.val != V4L2_MPEG_VIDEO_HEADER_MODE_SEPARATE)
		return false;
	dst = v4l2_m2m_dst_buf_remove(ctx->fh.m2m_ctx);
	out = vb2_plane_vaddr(&dst->vb2_buf, 0);
	used = out ? vh264_write_headers(&ctx->encoder, out, vb2_plane_size(&dst->vb2_buf, 0)) : 0;
	vb2_set_plane_payload(&dst->vb2_buf, 0, used);
	dst->sequence = ctx->cap_sequence++;
	dst->field = V4L2_FIELD_NONE;
	dst->flags &= ~(V4L2_BUF_FLAG_LAST | V4L2_BUF_FLAG_KEYFRAME | V4L2_BUF_FLAG_PFRAME);
	dst->vb2_buf.timestamp = 0;
	v4l2_m2m_buf_done(dst, used ? VB2_BUF_STATE_DONE : VB2_BUF_STATE_ERROR);
	ctx->headers_sent = true;
	return true;
}

static bool hangs(struct context *ctx)
{
	if (!hang_after || ctx->pictures < hang_after)
		return false;
	guard(spinlock)(&ctx->job_lock);
	ctx->hung = !ctx->aborting;
	return ctx->hung;
}

static void run_job(struct work_struct *work)
{
	struct context *ctx = container_of(work, struct context, work);
	struct v4l2_m2m_ctx *m2m_ctx = ctx->fh.m2m_ctx;
	struct vb2_v4l2_buffer *src, *dst;
	enum vb2_buffer_state state = VB2_BUF_STATE_DONE;

	/* Until somebody gives up. */
	if (hangs(ctx))
		return;
	src = v4l2_m2m_next_src_buf(m2m_ctx);
	if (!src || !v4l2_m2m_next_dst_buf(m2m_ctx) || send_headers_apart(ctx))
		goto finish;

	dst = v4l2_m2m_dst_buf_remove(m2m_ctx);
	v4l2_m2m_buf_copy_metadata(src, dst);
	dst->flags &= ~(V4L2_BUF_FLAG_LAST | V4L2_BUF_FLAG_KEYFRAME | V4L2_BUF_FLAG_PFRAME | V4L2_BUF_FLAG_BFRAME);
	dst->field = V4L2_FIELD_NONE;
	dst->sequence = ctx->cap_sequence++;
	src->sequence = ctx->out_sequence++;
	if (encode(ctx, src, dst)) {
		vb2_set_plane_payload(&dst->vb2_buf, 0, 0);
		state = VB2_BUF_STATE_ERROR;
	}
	if (v4l2_m2m_is_last_draining_src_buf(m2m_ctx, src)) {
		dst->flags |= V4L2_BUF_FLAG_LAST;
		v4l2_event_queue_fh(&ctx->fh, &eos_event);
		v4l2_m2m_mark_stopped(m2m_ctx);
	}
	v4l2_m2m_src_buf_remove(m2m_ctx);
	v4l2_m2m_buf_done(src, state);
	v4l2_m2m_buf_done(dst, state);
finish:
	v4l2_m2m_job_finish(ctx->dev->m2m, m2m_ctx);
}

static void device_run(void *priv)
{
	struct context *ctx = priv;

	schedule_work(&ctx->work);
}

/* Ends a job that hangs, or the caller would wait for ever. */
static void job_abort(void *priv)
{
	struct context *ctx = priv;
	bool hung;

	scoped_guard(spinlock, &ctx->job_lock) {
		ctx->aborting = true;
		hung = ctx->hung;
		ctx->hung = false;
	}
	if (hung)
		v4l2_m2m_job_finish(ctx->dev->m2m, ctx->fh.m2m_ctx);
}

static const struct v4l2_m2m_ops m2m_ops = {
	.device_run = device_run,
	.job_abort = job_abort,
};

/* Formats */

static u32 coded_size(const struct context *ctx, u32 asked)
{
	u32 least = vh264_max_size(ctx->raw.width, ctx->raw.height);

	return clamp(asked, least, max(least, MAX_CODED));
}

/* Fits a layout to what the device can do; `stride` and the sizes are what was asked for. */
static void fit(struct raw_layout *raw)
{
	unsigned int align = max(stride_align, 2u), least, luma, chroma;

	raw->width = clamp(ALIGN(raw->width, 2), MIN_SIDE, MAX_WIDTH);
	raw->height = clamp(ALIGN(raw->height, 2), MIN_SIDE, MAX_HEIGHT);
	least = ALIGN(raw->width, align);
	raw->stride = ALIGN(clamp(raw->stride, least, 2 * MAX_WIDTH), align) + ALIGN(wrong_stride, 2);
	luma = raw->stride * raw->height;
	chroma = luma / 2;
	memset(raw->sizes, 0, sizeof(raw->sizes));
	switch (raw->format->memories) {
	case 1:
		raw->sizes[0] = luma + chroma;
		break;
	case 2:
		raw->sizes[0] = luma;
		raw->sizes[1] = chroma;
		break;
	default:
		raw->sizes[0] = luma;
		raw->sizes[1] = chroma / 2;
		raw->sizes[2] = chroma / 2;
	}
}

static unsigned int plane_stride(const struct raw_layout *raw, unsigned int plane)
{
	return plane && raw->format->chroma_step == 1 ? raw->stride / 2 : raw->stride;
}

static void write_raw(struct v4l2_format *f, const struct raw_layout *raw)
{
	unsigned int i;

	if (!multiplanar) {
		f->fmt.pix.width = raw->width;
		f->fmt.pix.height = raw->height;
		f->fmt.pix.pixelformat = raw->format->fourcc;
		f->fmt.pix.field = V4L2_FIELD_NONE;
		f->fmt.pix.bytesperline = raw->stride;
		f->fmt.pix.sizeimage = raw->sizes[0];
		return;
	}
	f->fmt.pix_mp.width = raw->width;
	f->fmt.pix_mp.height = raw->height;
	f->fmt.pix_mp.pixelformat = raw->format->fourcc;
	f->fmt.pix_mp.field = V4L2_FIELD_NONE;
	f->fmt.pix_mp.num_planes = raw->format->memories;
	f->fmt.pix_mp.flags = 0;
	for (i = 0; i < raw->format->memories; i++) {
		f->fmt.pix_mp.plane_fmt[i].bytesperline = plane_stride(raw, i);
		f->fmt.pix_mp.plane_fmt[i].sizeimage = raw->sizes[i];
	}
}

static void read_raw(const struct v4l2_format *f, struct raw_layout *raw)
{
	if (multiplanar) {
		raw->format = find_raw_format(f->fmt.pix_mp.pixelformat);
		raw->width = f->fmt.pix_mp.width;
		raw->height = f->fmt.pix_mp.height;
		raw->stride = f->fmt.pix_mp.plane_fmt[0].bytesperline;
	} else {
		raw->format = find_raw_format(f->fmt.pix.pixelformat);
		raw->width = f->fmt.pix.width;
		raw->height = f->fmt.pix.height;
		raw->stride = f->fmt.pix.bytesperline;
	}
	/* Before sums of it overflow. */
	raw->width = min(raw->width, MAX_WIDTH);
	raw->height = min(raw->height, MAX_HEIGHT);
	raw->stride = min(raw->stride, 2 * MAX_WIDTH);
	fit(raw);
}

static void write_coded(struct v4l2_format *f, const struct context *ctx, u32 size)
{
	if (!multiplanar) {
		f->fmt.pix.width = ctx->raw.width;
		f->fmt.pix.height = ctx->raw.height;
		f->fmt.pix.pixelformat = V4L2_PIX_FMT_H264;
		f->fmt.pix.field = V4L2_FIELD_NONE;
		f->fmt.pix.bytesperline = 0;
		f->fmt.pix.sizeimage = size;
		return;
	}
	f->fmt.pix_mp.width = ctx->raw.width;
	f->fmt.pix_mp.height = ctx->raw.height;
	f->fmt.pix_mp.pixelformat = V4L2_PIX_FMT_H264;
	f->fmt.pix_mp.field = V4L2_FIELD_NONE;
	f->fmt.pix_mp.num_planes = 1;
	f->fmt.pix_mp.flags = 0;
	f->fmt.pix_mp.plane_fmt[0].bytesperline = 0;
	f->fmt.pix_mp.plane_fmt[0].sizeimage = size;
}

static void write_colors(struct v4l2_format *f, const struct context *ctx)
{
	if (multiplanar) {
		f->fmt.pix_mp.colorspace = ctx->colorspace;
		f->fmt.pix_mp.ycbcr_enc = ctx->ycbcr_enc;
		f->fmt.pix_mp.xfer_func = ctx->xfer_func;
		f->fmt.pix_mp.quantization = ctx->quantization;
	} else {
		f->fmt.pix.colorspace = ctx->colorspace;
		f->fmt.pix.ycbcr_enc = ctx->ycbcr_enc;
		f->fmt.pix.xfer_func = ctx->xfer_func;
		f->fmt.pix.quantization = ctx->quantization;
	}
}

static int querycap(struct file *file, void *priv, struct v4l2_capability *cap)
{
	strscpy(cap->driver, NAME, sizeof(cap->driver));
	strscpy(cap->card, CARD, sizeof(cap->card));
	strscpy(cap->bus_info, "platform:" NAME, sizeof(cap->bus_info));
	return 0;
}

static int enum_fmt_out(struct file *file, void *priv, struct v4l2_fmtdesc *f)
{
	if (!is_own_type(f->type) || f->index >= raw_format_count())
		return -EINVAL;
	f->pixelformat = raw_formats[f->index].fourcc;
	return 0;
}

static int enum_fmt_cap(struct file *file, void *priv, struct v4l2_fmtdesc *f)
{
	if (!is_own_type(f->type) || f->index)
		return -EINVAL;
	f->pixelformat = V4L2_PIX_FMT_H264;
	return 0;
}

static int g_fmt_out(struct file *file, void *priv, struct v4l2_format *f)
{
	struct context *ctx = context_of(file);

	if (!is_own_type(f->type))
		return -EINVAL;
	write_raw(f, &ctx->raw);
	write_colors(f, ctx);
	return 0;
}

static int try_fmt_out(struct file *file, void *priv, struct v4l2_format *f)
{
	struct raw_layout raw;
	u32 colorspace = multiplanar ? f->fmt.pix_mp.colorspace : f->fmt.pix.colorspace;

	if (!is_own_type(f->type))
		return -EINVAL;
	read_raw(f, &raw);
	write_raw(f, &raw);
	if (colorspace == V4L2_COLORSPACE_DEFAULT) {
		if (multiplanar)
			f->fmt.pix_mp.colorspace = V4L2_COLORSPACE_REC709;
		else
			f->fmt.pix.colorspace = V4L2_COLORSPACE_REC709;
	}
	return 0;
}

static int s_fmt_out(struct file *file, void *priv, struct v4l2_format *f)
{
	struct context *ctx = context_of(file);
	struct vb2_queue *out = v4l2_m2m_get_vq(ctx->fh.m2m_ctx, output_type());
	struct vb2_queue *cap = v4l2_m2m_get_vq(ctx->fh.m2m_ctx, capture_type());
	struct raw_layout raw;

	if (!is_own_type(f->type))
		return -EINVAL;
	if (vb2_is_busy(out) || vb2_is_streaming(cap))
		return -EBUSY;
	read_raw(f, &raw);
	if (vb2_is_busy(cap) && vh264_max_size(raw.width, raw.height) > ctx->coded_size)
		return -EBUSY;
	try_fmt_out(file, priv, f);
	ctx->raw = raw;
	ctx->crop = (struct v4l2_rect){ .width = raw.width, .height = raw.height };
	if (!vb2_is_busy(cap))
		ctx->coded_size = coded_size(ctx, 0);
	if (multiplanar) {
		ctx->colorspace = f->fmt.pix_mp.colorspace;
		ctx->ycbcr_enc = f->fmt.pix_mp.ycbcr_enc;
		ctx->xfer_func = f->fmt.pix_mp.xfer_func;
		ctx->quantization = f->fmt.pix_mp.quantization;
	} else {
		ctx->colorspace = f->fmt.pix.colorspace;
		ctx->ycbcr_enc = f->fmt.pix.ycbcr_enc;
		ctx->xfer_func = f->fmt.pix.xfer_func;
		ctx->quantization = f->fmt.pix.quantization;
	}
	return 0;
}

static int g_fmt_cap(struct file *file, void *priv, struct v4l2_format *f)
{
	struct context *ctx = context_of(file);

	if (!is_own_type(f->type))
		return -EINVAL;
	write_coded(f, ctx, ctx->coded_size);
	write_colors(f, ctx);
	return 0;
}

static int try_fmt_cap(struct file *file, void *priv, struct v4l2_format *f)
{
	struct context *ctx = context_of(file);
	u32 asked = multiplanar ? f->fmt.pix_mp.plane_fmt[0].sizeimage : f->fmt.pix.sizeimage;

	if (!is_own_type(f->type))
		return -EINVAL;
	write_coded(f, ctx, coded_size(ctx, asked));
	write_colors(f, ctx);
	return 0;
}

static int s_fmt_cap(struct file *file, void *priv, struct v4l2_format *f)
{
	struct context *ctx = context_of(file);

	if (!is_own_type(f->type))
		return -EINVAL;
	if (vb2_is_busy(v4l2_m2m_get_vq(ctx->fh.m2m_ctx, f->type)))
		return -EBUSY;
	try_fmt_cap(file, priv, f);
	ctx->coded_size = multiplanar ? f->fmt.pix_mp.plane_fmt[0].sizeimage : f->fmt.pix.sizeimage;
	return 0;
}

static int enum_framesizes(struct file *file, void *priv, struct v4l2_frmsizeenum *sizes)
{
	if (sizes->index)
		return -EINVAL;
	if (sizes->pixel_format != V4L2_PIX_FMT_H264 &&
	    find_raw_format(sizes->pixel_format)->fourcc != sizes->pixel_format)
		return -EINVAL;
	sizes->type = V4L2_FRMSIZE_TYPE_STEPWISE;
	sizes->stepwise = (struct v4l2_frmsize_stepwise){
		MIN_SIDE, MAX_WIDTH, 2, MIN_SIDE, MAX_HEIGHT, 2,
	};
	return 0;
}

static int g_selection(struct file *file, void *priv, struct v4l2_selection *s)
{
	struct context *ctx = context_of(file);

	if (s->type != V4L2_BUF_TYPE_VIDEO_OUTPUT)
		return -EINVAL;
	switch (s->target) {
	case V4L2_SEL_TGT_CROP:
		s->r = ctx->crop;
		return 0;
	case V4L2_SEL_TGT_CROP_DEFAULT:
	case V4L2_SEL_TGT_CROP_BOUNDS:
		s->r = (struct v4l2_rect){ .width = ctx->raw.width, .height = ctx->raw.height };
		return 0;
	}
	return -EINVAL;
}

static int s_selection(struct file *file, void *priv, struct v4l2_selection *s)
{
	struct context *ctx = context_of(file);

	if (s->type != V4L2_BUF_TYPE_VIDEO_OUTPUT || s->target != V4L2_SEL_TGT_CROP)
		return -EINVAL;
	if (vb2_is_streaming(v4l2_m2m_get_vq(ctx->fh.m2m_ctx, output_type())))
		return -EBUSY;
	s->r.left = 0;
	s->r.top = 0;
	s->r.width = clamp(s->r.width & ~1u, MIN_SIDE, ctx->raw.width);
	s->r.height = clamp(s->r.height & ~1u, MIN_SIDE, ctx->raw.height);
	ctx->crop = s->r;
	return 0;
}

static int g_parm(struct file *file, void *priv, struct v4l2_streamparm *parm)
{
	struct context *ctx = context_of(file);

	if (!V4L2_TYPE_IS_OUTPUT(parm->type) || !is_own_type(parm->type))
		return -EINVAL;
	parm->parm.output.capability = V4L2_CAP_TIMEPERFRAME;
	parm->parm.output.timeperframe = ctx->interval;
	return 0;
}

static int s_parm(struct file *file, void *priv, struct v4l2_streamparm *parm)
{
	struct context *ctx = context_of(file);
	struct v4l2_fract interval = parm->parm.output.timeperframe;

	if (!V4L2_TYPE_IS_OUTPUT(parm->type) || !is_own_type(parm->type))
		return -EINVAL;
	if (!interval.numerator || !interval.denominator)
		interval = (struct v4l2_fract){ 1, 30 };
	ctx->interval = interval;
	return g_parm(file, priv, parm);
}

static int encoder_cmd(struct file *file, void *priv, struct v4l2_encoder_cmd *command)
{
	struct context *ctx = context_of(file);
	struct v4l2_m2m_ctx *m2m_ctx = ctx->fh.m2m_ctx;
	int ret;

	ret = v4l2_m2m_ioctl_try_encoder_cmd(file, priv, command);
	if (ret < 0)
		return ret;
	if (!vb2_is_streaming(&m2m_ctx->out_q_ctx.q) || !vb2_is_streaming(&m2m_ctx->cap_q_ctx.q))
		return 0;
	ret = v4l2_m2m_ioctl_encoder_cmd(file, priv, command);
	if (ret < 0)
		return ret;
	if (command->cmd == V4L2_ENC_CMD_STOP && v4l2_m2m_has_stopped(m2m_ctx))
		v4l2_event_queue_fh(&ctx->fh, &eos_event);
	if (command->cmd == V4L2_ENC_CMD_START && v4l2_m2m_has_stopped(m2m_ctx))
		vb2_clear_last_buffer_dequeued(&m2m_ctx->cap_q_ctx.q);
	return 0;
}

static int subscribe_event(struct v4l2_fh *fh, const struct v4l2_event_subscription *sub)
{
	if (sub->type == V4L2_EVENT_EOS)
		return v4l2_event_subscribe(fh, sub, 0, NULL);
	return v4l2_ctrl_subscribe_event(fh, sub);
}

static const struct v4l2_ioctl_ops ioctl_ops = {
	.vidioc_querycap = querycap,
	.vidioc_enum_fmt_vid_cap = enum_fmt_cap,
	.vidioc_enum_fmt_vid_out = enum_fmt_out,
	.vidioc_g_fmt_vid_cap = g_fmt_cap,
	.vidioc_g_fmt_vid_cap_mplane = g_fmt_cap,
	.vidioc_g_fmt_vid_out = g_fmt_out,
	.vidioc_g_fmt_vid_out_mplane = g_fmt_out,
	.vidioc_try_fmt_vid_cap = try_fmt_cap,
	.vidioc_try_fmt_vid_cap_mplane = try_fmt_cap,
	.vidioc_try_fmt_vid_out = try_fmt_out,
	.vidioc_try_fmt_vid_out_mplane = try_fmt_out,
	.vidioc_s_fmt_vid_cap = s_fmt_cap,
	.vidioc_s_fmt_vid_cap_mplane = s_fmt_cap,
	.vidioc_s_fmt_vid_out = s_fmt_out,
	.vidioc_s_fmt_vid_out_mplane = s_fmt_out,
	.vidioc_enum_framesizes = enum_framesizes,
	.vidioc_g_selection = g_selection,
	.vidioc_s_selection = s_selection,
	.vidioc_g_parm = g_parm,
	.vidioc_s_parm = s_parm,
	.vidioc_reqbufs = v4l2_m2m_ioctl_reqbufs,
	.vidioc_querybuf = v4l2_m2m_ioctl_querybuf,
	.vidioc_qbuf = v4l2_m2m_ioctl_qbuf,
	.vidioc_dqbuf = v4l2_m2m_ioctl_dqbuf,
	.vidioc_prepare_buf = v4l2_m2m_ioctl_prepare_buf,
	.vidioc_create_bufs = v4l2_m2m_ioctl_create_bufs,
	.vidioc_remove_bufs = v4l2_m2m_ioctl_remove_bufs,
	.vidioc_expbuf = v4l2_m2m_ioctl_expbuf,
	.vidioc_streamon = v4l2_m2m_ioctl_streamon,
	.vidioc_streamoff = v4l2_m2m_ioctl_streamoff,
	.vidioc_try_encoder_cmd = v4l2_m2m_ioctl_try_encoder_cmd,
	.vidioc_encoder_cmd = encoder_cmd,
	.vidioc_subscribe_event = subscribe_event,
	.vidioc_unsubscribe_event = v4l2_event_unsubscribe,
};

/* Queues */

static int queue_setup(struct vb2_queue *queue, unsigned int *buffers, unsigned int *planes,
		       unsigned int sizes[], struct device *alloc_devs[])
{
	struct context *ctx = vb2_get_drv_priv(queue);
	bool output = V4L2_TYPE_IS_OUTPUT(queue->type);
	unsigned int count = output ? ctx->raw.format->memories : 1, i;
	const u32 *needed = output ? ctx->raw.sizes : &ctx->coded_size;

	if (*planes && *planes != count)
		return -EINVAL;
	for (i = 0; i < count; i++) {
		if (*planes && sizes[i] < needed[i])
			return -EINVAL;
		if (!*planes)
			sizes[i] = needed[i];
	}
	*planes = count;
	return 0;
}

static int buf_out_validate(struct vb2_buffer *vb)
{
	to_vb2_v4l2_buffer(vb)->field = V4L2_FIELD_NONE;
	return 0;
}

static int buf_prepare(struct vb2_buffer *vb)
{
	struct context *ctx = vb2_get_drv_priv(vb->vb2_queue);
	bool output = V4L2_TYPE_IS_OUTPUT(vb->vb2_queue->type);
	const u32 *needed = output ? ctx->raw.sizes : &ctx->coded_size;
	unsigned int i;

	for (i = 0; i < vb->num_planes; i++)
		if (vb2_plane_size(vb, i) < needed[i])
			return -EINVAL;
	return 0;
}

static void buf_queue(struct vb2_buffer *vb)
{
	struct vb2_v4l2_buffer *buffer = to_vb2_v4l2_buffer(vb);
	struct context *ctx = vb2_get_drv_priv(vb->vb2_queue);
	struct v4l2_m2m_ctx *m2m_ctx = ctx->fh.m2m_ctx;

	if (V4L2_TYPE_IS_CAPTURE(vb->vb2_queue->type) && vb2_is_streaming(vb->vb2_queue) &&
	    v4l2_m2m_dst_buf_is_last(m2m_ctx)) {
		vb2_set_plane_payload(vb, 0, 0);
		buffer->field = V4L2_FIELD_NONE;
		buffer->sequence = ctx->cap_sequence++;
		v4l2_m2m_last_buffer_done(m2m_ctx, buffer);
		v4l2_event_queue_fh(&ctx->fh, &eos_event);
		return;
	}
	v4l2_m2m_buf_queue(m2m_ctx, buffer);
}

static void return_buffers(struct vb2_queue *queue, enum vb2_buffer_state state)
{
	struct context *ctx = vb2_get_drv_priv(queue);
	struct vb2_v4l2_buffer *buffer;

	for (;;) {
		if (V4L2_TYPE_IS_OUTPUT(queue->type))
			buffer = v4l2_m2m_src_buf_remove(ctx->fh.m2m_ctx);
		else
			buffer = v4l2_m2m_dst_buf_remove(ctx->fh.m2m_ctx);
		if (!buffer)
			return;
		v4l2_m2m_buf_done(buffer, state);
	}
}

static int start_streaming(struct vb2_queue *queue, unsigned int count)
{
	struct context *ctx = vb2_get_drv_priv(queue);
	struct vh264_params params;
	int ret;

	v4l2_m2m_update_start_streaming_state(ctx->fh.m2m_ctx, queue);
	scoped_guard(spinlock, &ctx->job_lock)
		ctx->aborting = false;
	if (V4L2_TYPE_IS_CAPTURE(queue->type)) {
		ctx->cap_sequence = 0;
		return 0;
	}
	fill_params(ctx, &params);
	ret = vh264_init(&ctx->encoder, &params);
	if (ret) {
		return_buffers(queue, VB2_BUF_STATE_QUEUED);
		return ret;
	}
	ctx->out_sequence = 0;
	ctx->pictures = 0;
	ctx->since_key = 0;
	ctx->headers_sent = false;
	return 0;
}

static void stop_streaming(struct vb2_queue *queue)
{
	struct context *ctx = vb2_get_drv_priv(queue);

	return_buffers(queue, VB2_BUF_STATE_ERROR);
	v4l2_m2m_update_stop_streaming_state(ctx->fh.m2m_ctx, queue);
	if (V4L2_TYPE_IS_CAPTURE(queue->type))
		return;
	if (v4l2_m2m_has_stopped(ctx->fh.m2m_ctx))
		v4l2_event_queue_fh(&ctx->fh, &eos_event);
	vh264_exit(&ctx->encoder);
}

static const struct vb2_ops queue_ops = {
	.queue_setup = queue_setup,
	.buf_out_validate = buf_out_validate,
	.buf_prepare = buf_prepare,
	.buf_queue = buf_queue,
	.start_streaming = start_streaming,
	.stop_streaming = stop_streaming,
};

static int init_queue(struct context *ctx, struct vb2_queue *queue, u32 type)
{
	queue->type = type;
	queue->io_modes = VB2_MMAP | (no_dmabuf ? 0 : VB2_DMABUF);
	queue->drv_priv = ctx;
	queue->buf_struct_size = sizeof(struct v4l2_m2m_buffer);
	queue->ops = &queue_ops;
	queue->mem_ops = &vb2_vmalloc_memops;
	queue->timestamp_flags = V4L2_BUF_FLAG_TIMESTAMP_COPY;
	queue->lock = &ctx->dev->lock;
	return vb2_queue_init(queue);
}

static int init_queues(void *priv, struct vb2_queue *src, struct vb2_queue *dst)
{
	int ret;

	ret = init_queue(priv, src, output_type());
	return ret ?: init_queue(priv, dst, capture_type());
}

/* Controls */

static int s_ctrl(struct v4l2_ctrl *control)
{
	struct context *ctx = container_of(control->handler, struct context, controls);

	switch (control->id) {
	case V4L2_CID_MPEG_VIDEO_BITRATE:
		/* There is only one quality: lossless. */
		seen_bitrate = control->val;
		break;
	case V4L2_CID_MPEG_VIDEO_FORCE_KEY_FRAME:
		scoped_guard(spinlock, &ctx->job_lock)
			ctx->key_in = late_key_frame;
		break;
	}
	/* The others are read when they are needed. */
	return 0;
}

static const struct v4l2_ctrl_ops control_ops = { .s_ctrl = s_ctrl };

static int init_controls(struct context *ctx)
{
	struct v4l2_ctrl_handler *hdl = &ctx->controls;
	const struct v4l2_ctrl_ops *ops = &control_ops;

	v4l2_ctrl_handler_init(hdl, 16);
	v4l2_ctrl_new_std(hdl, ops, V4L2_CID_MIN_BUFFERS_FOR_OUTPUT, 1, 1, 1, 1);
	v4l2_ctrl_new_std(hdl, ops, V4L2_CID_MPEG_VIDEO_B_FRAMES, 0, 0, 1, 0);
	ctx->gop_size = v4l2_ctrl_new_std(hdl, ops, V4L2_CID_MPEG_VIDEO_GOP_SIZE, 0, 0x7fffffff, 1, 60);
	ctx->i_period = v4l2_ctrl_new_std(hdl, ops, V4L2_CID_MPEG_VIDEO_H264_I_PERIOD, 0, 0x7fffffff, 1, 60);
	v4l2_ctrl_new_std_menu(hdl, ops, V4L2_CID_MPEG_VIDEO_BITRATE_MODE,
			       V4L2_MPEG_VIDEO_BITRATE_MODE_CBR, 0, V4L2_MPEG_VIDEO_BITRATE_MODE_VBR);
	v4l2_ctrl_new_std(hdl, ops, V4L2_CID_MPEG_VIDEO_BITRATE, 25000, 200000000, 1000, 10000000);
	v4l2_ctrl_new_std(hdl, ops, V4L2_CID_MPEG_VIDEO_FRAME_RC_ENABLE, 0, 1, 1, 1);
	ctx->header_mode = v4l2_ctrl_new_std_menu(hdl, ops, V4L2_CID_MPEG_VIDEO_HEADER_MODE,
						  V4L2_MPEG_VIDEO_HEADER_MODE_JOINED_WITH_1ST_FRAME, 0,
						  V4L2_MPEG_VIDEO_HEADER_MODE_JOINED_WITH_1ST_FRAME);
	ctx->repeat = v4l2_ctrl_new_std(hdl, ops, V4L2_CID_MPEG_VIDEO_REPEAT_SEQ_HEADER, 0, 1, 1, 0);
	ctx->prepend = v4l2_ctrl_new_std(hdl, ops, V4L2_CID_MPEG_VIDEO_PREPEND_SPSPPS_TO_IDR, 0, 1, 1, 0);
	ctx->force_key_frame = v4l2_ctrl_new_std(hdl, ops, V4L2_CID_MPEG_VIDEO_FORCE_KEY_FRAME, 0, 0, 0, 0);
	v4l2_ctrl_new_std_menu(hdl, ops, V4L2_CID_MPEG_VIDEO_H264_PROFILE,
			       V4L2_MPEG_VIDEO_H264_PROFILE_CONSTRAINED_BASELINE,
			       ~BIT(V4L2_MPEG_VIDEO_H264_PROFILE_CONSTRAINED_BASELINE),
			       V4L2_MPEG_VIDEO_H264_PROFILE_CONSTRAINED_BASELINE);
	ctx->level = v4l2_ctrl_new_std_menu(hdl, ops, V4L2_CID_MPEG_VIDEO_H264_LEVEL,
					    V4L2_MPEG_VIDEO_H264_LEVEL_5_2, 0, V4L2_MPEG_VIDEO_H264_LEVEL_4_0);
	if (refresh_by_blocks) {
		ctx->refresh_blocks = v4l2_ctrl_new_std(hdl, ops, V4L2_CID_MPEG_VIDEO_CYCLIC_INTRA_REFRESH_MB,
							0, 0x7fffffff, 1, 0);
		return hdl->error;
	}
	v4l2_ctrl_new_std_menu(hdl, ops, V4L2_CID_MPEG_VIDEO_INTRA_REFRESH_PERIOD_TYPE,
			       V4L2_CID_MPEG_VIDEO_INTRA_REFRESH_PERIOD_TYPE_CYCLIC,
			       ~BIT(V4L2_CID_MPEG_VIDEO_INTRA_REFRESH_PERIOD_TYPE_CYCLIC),
			       V4L2_CID_MPEG_VIDEO_INTRA_REFRESH_PERIOD_TYPE_CYCLIC);
	ctx->refresh_period = v4l2_ctrl_new_std(hdl, ops, V4L2_CID_MPEG_VIDEO_INTRA_REFRESH_PERIOD,
						0, 0x7fffffff, 1, 0);
	return hdl->error;
}

/* Files */

static int open_file(struct file *file)
{
	struct virtual_device *dev = video_drvdata(file);
	struct context *ctx;
	int ret;

	if (fail_open)
		return -clamp(fail_open, 1, MAX_ERRNO);
	ctx = kzalloc(sizeof(*ctx), GFP_KERNEL);
	if (!ctx)
		return -ENOMEM;
	ctx->dev = dev;
	INIT_WORK(&ctx->work, run_job);
	spin_lock_init(&ctx->job_lock);
	ctx->key_in = -1;
	ctx->interval = (struct v4l2_fract){ 1, 30 };
	ctx->colorspace = V4L2_COLORSPACE_REC709;
	ctx->raw = (struct raw_layout){ .format = &raw_formats[0], .width = 1280, .height = 720 };
	fit(&ctx->raw);
	ctx->crop = (struct v4l2_rect){ .width = ctx->raw.width, .height = ctx->raw.height };
	ctx->coded_size = coded_size(ctx, 0);

	v4l2_fh_init(&ctx->fh, video_devdata(file));
	ret = init_controls(ctx);
	if (ret)
		goto free;
	ctx->fh.ctrl_handler = &ctx->controls;
	mutex_lock(&dev->lock);
	ctx->fh.m2m_ctx = v4l2_m2m_ctx_init(dev->m2m, ctx, init_queues);
	mutex_unlock(&dev->lock);
	if (IS_ERR(ctx->fh.m2m_ctx)) {
		ret = PTR_ERR(ctx->fh.m2m_ctx);
		goto free;
	}
	v4l2_fh_add(&ctx->fh, file);
	return 0;
free:
	v4l2_ctrl_handler_free(&ctx->controls);
	v4l2_fh_exit(&ctx->fh);
	kfree(ctx);
	return ret;
}

static int release_file(struct file *file)
{
	struct context *ctx = context_of(file);

	mutex_lock(&ctx->dev->lock);
	v4l2_m2m_ctx_release(ctx->fh.m2m_ctx);
	mutex_unlock(&ctx->dev->lock);
	cancel_work_sync(&ctx->work);
	v4l2_fh_del(&ctx->fh, file);
	v4l2_fh_exit(&ctx->fh);
	v4l2_ctrl_handler_free(&ctx->controls);
	kfree(ctx);
	return 0;
}

static const struct v4l2_file_operations file_ops = {
	.owner = THIS_MODULE,
	.open = open_file,
	.release = release_file,
	.poll = v4l2_m2m_fop_poll,
	.unlocked_ioctl = video_ioctl2,
	.mmap = v4l2_m2m_fop_mmap,
};

/* The device */

/* After the last file has been closed, however long the device has been gone. */
static void release_device(struct v4l2_device *v4l2_dev)
{
	struct virtual_device *dev = container_of(v4l2_dev, struct virtual_device, v4l2_dev);

	v4l2_device_unregister(&dev->v4l2_dev);
	v4l2_m2m_release(dev->m2m);
	media_device_cleanup(&dev->media);
	kfree(dev);
}

static int probe(struct platform_device *pdev)
{
	struct virtual_device *dev = kzalloc(sizeof(*dev), GFP_KERNEL);
	int ret;

	if (!dev)
		return -ENOMEM;
	mutex_init(&dev->lock);
	dev->media.dev = &pdev->dev;
	strscpy(dev->media.model, CARD, sizeof(dev->media.model));
	strscpy(dev->media.bus_info, "platform:" NAME, sizeof(dev->media.bus_info));
	media_device_init(&dev->media);
	dev->v4l2_dev.mdev = &dev->media;
	ret = v4l2_device_register(&pdev->dev, &dev->v4l2_dev);
	if (ret)
		goto free;
	dev->m2m = v4l2_m2m_init(&m2m_ops);
	if (IS_ERR(dev->m2m)) {
		ret = PTR_ERR(dev->m2m);
		goto unregister;
	}
	dev->video = (struct video_device){
		.name = NAME,
		.vfl_dir = VFL_DIR_M2M,
		.fops = &file_ops,
		.ioctl_ops = &ioctl_ops,
		.minor = -1,
		.release = video_device_release_empty,
		.lock = &dev->lock,
		.v4l2_dev = &dev->v4l2_dev,
		.device_caps = V4L2_CAP_STREAMING |
			       (multiplanar ? V4L2_CAP_VIDEO_M2M_MPLANE : V4L2_CAP_VIDEO_M2M),
	};
	video_set_drvdata(&dev->video, dev);
	platform_set_drvdata(pdev, dev);
	ret = video_register_device(&dev->video, VFL_TYPE_VIDEO, -1);
	if (ret)
		goto release;
	ret = v4l2_m2m_register_media_controller(dev->m2m, &dev->video, MEDIA_ENT_F_PROC_VIDEO_ENCODER);
	if (ret)
		goto unregister_video;
	ret = media_device_register(&dev->media);
	if (ret)
		goto unregister_controller;
	dev->v4l2_dev.release = release_device;
	return 0;
unregister_controller:
	v4l2_m2m_unregister_media_controller(dev->m2m);
unregister_video:
	video_unregister_device(&dev->video);
release:
	v4l2_m2m_release(dev->m2m);
unregister:
	v4l2_device_unregister(&dev->v4l2_dev);
free:
	media_device_cleanup(&dev->media);
	kfree(dev);
	return ret;
}

static void remove(struct platform_device *pdev)
{
	struct virtual_device *dev = platform_get_drvdata(pdev);

	media_device_unregister(&dev->media);
	v4l2_m2m_unregister_media_controller(dev->m2m);
	video_unregister_device(&dev->video);
	v4l2_device_put(&dev->v4l2_dev);
}

static struct platform_driver driver = {
	.probe = probe,
	.remove = remove,
	.driver = { .name = NAME },
};

static struct platform_device *device;

static int __init virtual_h264_init(void)
{
	int ret = platform_driver_register(&driver);

	if (ret)
		return ret;
	device = platform_device_register_simple(NAME, 0, NULL, 0);
	if (IS_ERR(device)) {
		platform_driver_unregister(&driver);
		return PTR_ERR(device);
	}
	return 0;
}

static void __exit virtual_h264_exit(void)
{
	platform_device_unregister(device);
	platform_driver_unregister(&driver);
}

module_init(virtual_h264_init);
module_exit(virtual_h264_exit);
