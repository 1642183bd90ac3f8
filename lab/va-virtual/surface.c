/* SPDX-License-Identifier: Apache-2.0 */
/* Surfaces of the virtual VA driver: its own memory and imported DMA-BUFs, images, colour conversion. */
#include "virtual.h"

#include <fcntl.h>
#include <linux/dma-buf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define MODIFIER_LINEAR 0ull
#define MODIFIER_INVALID 0xffffffffffffffull

void surface_free(struct surface *surface)
{
	unsigned int at;

	free(surface->own);
	for (at = 0; at < 4; at++) {
		if (!surface->lent[at].data)
			continue;
		munmap(surface->lent[at].data, surface->lent[at].size);
		close(surface->lent[at].fd);
	}
}

void surface_read(struct surface *surface, bool begin)
{
	struct dma_buf_sync sync = { .flags = DMA_BUF_SYNC_READ | (begin ? DMA_BUF_SYNC_START : DMA_BUF_SYNC_END) };
	unsigned int at;

	for (at = 0; at < 4; at++)
		if (surface->lent[at].data)
			ioctl(surface->lent[at].fd, DMA_BUF_IOCTL_SYNC, &sync);
}

bool surface_nv12(struct surface *surface, struct nv12 *picture)
{
	if (surface->fourcc != VA_FOURCC_NV12)
		return false;
	*picture = (struct nv12){
		.luma = surface->plane[0], .chroma = surface->plane[1],
		.luma_pitch = surface->pitch[0], .chroma_pitch = surface->pitch[1],
		.width = surface->width, .height = surface->height,
	};
	return true;
}

/* Bytes in a line of a plane, and lines; 0 for formats that are not known. */
static uint32_t line_of(uint32_t fourcc, uint32_t width)
{
	switch (fourcc) {
	case VA_FOURCC_NV12: return width;
	case VA_FOURCC_BGRX:
	case VA_FOURCC_BGRA:
	case VA_FOURCC_RGBX:
	case VA_FOURCC_RGBA: return width * 4;
	case VA_FOURCC_RGB565:
	case VA_FOURCC_YUY2: return width * 2;
	default: return 0;
	}
}

static VAStatus import(struct surface *surface, const VADRMPRIMESurfaceDescriptor *from)
{
	uint32_t at, planes = 0, layer;

	if (fault("no_import") || from->num_objects > 4 || from->num_layers > 4)
		return VA_STATUS_ERROR_UNSUPPORTED_MEMORY_TYPE;
	surface->fourcc = from->fourcc;
	for (at = 0; at < from->num_objects; at++) {
		struct lent *lent = &surface->lent[at];
		off_t size = lseek(from->objects[at].fd, 0, SEEK_END);
		uint64_t modifier = from->objects[at].drm_format_modifier;

		if (modifier != MODIFIER_LINEAR && modifier != MODIFIER_INVALID)
			return VA_STATUS_ERROR_INVALID_PARAMETER;
		if (size <= 0)
			return VA_STATUS_ERROR_INVALID_PARAMETER;
		lent->fd = fcntl(from->objects[at].fd, F_DUPFD_CLOEXEC, 3);
		lent->size = (size_t)size;
		lent->data = mmap(NULL, lent->size, PROT_READ, MAP_SHARED, lent->fd, 0);
		if (lent->data == MAP_FAILED) {
			lent->data = NULL;
			close(lent->fd);
			return VA_STATUS_ERROR_ALLOCATION_FAILED;
		}
	}
	for (layer = 0; layer < from->num_layers; layer++) {
		for (at = 0; at < from->layers[layer].num_planes && planes < 4; at++, planes++) {
			uint32_t object = from->layers[layer].object_index[at];
			uint64_t pitch = from->layers[layer].pitch[at], offset = from->layers[layer].offset[at];
			uint32_t lines = planes ? surface->height / 2 : surface->height;
			uint32_t line = line_of(surface->fourcc, surface->width);

			if (!line || pitch < line || object >= from->num_objects ||
			    offset + pitch * (lines - 1) + line > surface->lent[object].size)
				return VA_STATUS_ERROR_INVALID_PARAMETER;
			surface->plane[planes] = surface->lent[object].data + offset;
			surface->pitch[planes] = (uint32_t)pitch;
		}
	}
	surface->planes = planes;
	seen("imported=%.4s", (const char *)&surface->fourcc);
	return planes == (surface->fourcc == VA_FOURCC_NV12 ? 2 : 1) ? VA_STATUS_SUCCESS :
								  VA_STATUS_ERROR_INVALID_PARAMETER;
}

static VAStatus allocate(struct surface *surface, unsigned int format)
{
	/* Lines and columns as hardware pads them: who takes them for the picture's sees it. */
	uint32_t pitch = (surface->width + 127) & ~63u, lines = (surface->height + 31) & ~15u;

	if (format != VA_RT_FORMAT_YUV420)
		return VA_STATUS_ERROR_UNSUPPORTED_RT_FORMAT;
	surface->fourcc = VA_FOURCC_NV12;
	surface->own = calloc(lines + lines / 2, pitch);
	if (!surface->own)
		return VA_STATUS_ERROR_ALLOCATION_FAILED;
	surface->planes = 2;
	surface->plane[0] = surface->own;
	surface->plane[1] = surface->own + (size_t)lines * pitch;
	surface->pitch[0] = surface->pitch[1] = pitch;
	return VA_STATUS_SUCCESS;
}

static VAStatus destroy_surfaces(VADriverContextP va, VASurfaceID *ids, int count)
{
	int at;

	for (at = 0; at < count; at++) {
		if (!find(driver_of(va), SURFACE, ids[at]))
			return VA_STATUS_ERROR_INVALID_SURFACE;
		forget(driver_of(va), ids[at]);
	}
	return VA_STATUS_SUCCESS;
}

static VAStatus create_surfaces(VADriverContextP va, unsigned int format, unsigned int width, unsigned int height,
				VASurfaceID *ids, unsigned int count, VASurfaceAttrib *list, unsigned int attributes)
{
	const VADRMPRIMESurfaceDescriptor *external = NULL;
	uint32_t memory = VA_SURFACE_ATTRIB_MEM_TYPE_VA;
	unsigned int at;

	if (!width || !height || width > 8192 || height > 8192)
		return VA_STATUS_ERROR_RESOLUTION_NOT_SUPPORTED;
	for (at = 0; at < attributes; at++) {
		if (!(list[at].flags & VA_SURFACE_ATTRIB_SETTABLE))
			continue;
		if (list[at].type == VASurfaceAttribMemoryType)
			memory = (uint32_t)list[at].value.value.i;
		if (list[at].type == VASurfaceAttribExternalBufferDescriptor)
			external = list[at].value.value.p;
	}
	if (memory == VA_SURFACE_ATTRIB_MEM_TYPE_DRM_PRIME_2 && (!external || count != 1))
		return VA_STATUS_ERROR_INVALID_PARAMETER;
	if (memory != VA_SURFACE_ATTRIB_MEM_TYPE_DRM_PRIME_2 && memory != VA_SURFACE_ATTRIB_MEM_TYPE_VA)
		return VA_STATUS_ERROR_UNSUPPORTED_MEMORY_TYPE;
	for (at = 0; at < count; at++) {
		struct object *object = make(driver_of(va), SURFACE, &ids[at]);
		VAStatus status = VA_STATUS_ERROR_ALLOCATION_FAILED;

		if (object) {
			object->surface.width = width;
			object->surface.height = height;
			status = external ? import(&object->surface, external) : allocate(&object->surface, format);
		}
		if (status) {
			destroy_surfaces(va, ids, (int)(object ? at + 1 : at));
			return status;
		}
	}
	return VA_STATUS_SUCCESS;
}

static VAStatus sync_surface(VADriverContextP va, VASurfaceID id)
{
	struct object *object = find(driver_of(va), SURFACE, id);

	if (!object)
		return VA_STATUS_ERROR_INVALID_SURFACE;
	while (object->surface.hangs && fault("hang_after"))
		usleep(10000);
	return object->surface.hangs ? VA_STATUS_ERROR_HW_BUSY : object->surface.status;
}

static VAStatus query_status(VADriverContextP va, VASurfaceID id, VASurfaceStatus *status)
{
	struct object *object = find(driver_of(va), SURFACE, id);

	if (!object)
		return VA_STATUS_ERROR_INVALID_SURFACE;
	*status = object->surface.hangs ? VASurfaceRendering : VASurfaceReady;
	return VA_STATUS_SUCCESS;
}

static const VAImageFormat NV12 = { .fourcc = VA_FOURCC_NV12, .byte_order = VA_LSB_FIRST, .bits_per_pixel = 12 };

static VAStatus image_formats(VADriverContextP va, VAImageFormat *list, int *count)
{
	(void)va;
	list[0] = NV12;
	*count = 1;
	return VA_STATUS_SUCCESS;
}

static VAStatus create_image(VADriverContextP va, VAImageFormat *format, int width, int height, VAImage *image)
{
	uint32_t pitch = ((uint32_t)width + 31) & ~15u;
	uint32_t size = pitch * (uint32_t)height * 3 / 2;
	struct object *object, *memory;
	VAImageID id;
	VABufferID buffer;

	if (format->fourcc != VA_FOURCC_NV12)
		return VA_STATUS_ERROR_INVALID_IMAGE_FORMAT;
	object = make(driver_of(va), IMAGE, &id);
	if (!object)
		return VA_STATUS_ERROR_ALLOCATION_FAILED;
	memory = make(driver_of(va), BUFFER, &buffer);
	if (memory)
		memory->buffer.data = calloc(1, size);
	if (!memory || !memory->buffer.data) {
		if (memory)
			forget(driver_of(va), buffer);
		forget(driver_of(va), id);
		return VA_STATUS_ERROR_ALLOCATION_FAILED;
	}
	memory->buffer.type = VAImageBufferType;
	memory->buffer.size = size;
	memory->buffer.elements = 1;
	*image = (VAImage){
		.image_id = id, .format = NV12, .buf = buffer, .width = (uint16_t)width, .height = (uint16_t)height,
		.data_size = size, .num_planes = 2, .pitches = { pitch, pitch }, .offsets = { 0, pitch * (uint32_t)height },
	};
	object->image.image = *image;
	return VA_STATUS_SUCCESS;
}

static VAStatus destroy_image(VADriverContextP va, VAImageID id)
{
	struct object *object = find(driver_of(va), IMAGE, id);

	if (!object)
		return VA_STATUS_ERROR_INVALID_IMAGE;
	forget(driver_of(va), object->image.image.buf);
	forget(driver_of(va), id);
	return VA_STATUS_SUCCESS;
}

/* Whole pictures only. */
static VAStatus put_image(VADriverContextP va, VASurfaceID id, VAImageID image, int x, int y, unsigned int width,
			  unsigned int height, int to_x, int to_y, unsigned int to_width, unsigned int to_height)
{
	struct object *object = find(driver_of(va), SURFACE, id), *from = find(driver_of(va), IMAGE, image), *memory;
	const VAImage *of;
	uint32_t line;

	if (!object)
		return VA_STATUS_ERROR_INVALID_SURFACE;
	if (!from)
		return VA_STATUS_ERROR_INVALID_IMAGE;
	of = &from->image.image;
	memory = find(driver_of(va), BUFFER, of->buf);
	if (x || y || to_x || to_y || width != object->surface.width || height != object->surface.height ||
	    to_width != width || to_height != height || width > of->width || height > of->height || !memory ||
	    !object->surface.own)
		return VA_STATUS_ERROR_INVALID_PARAMETER;
	for (line = 0; line < height; line++)
		memcpy(object->surface.plane[0] + (size_t)line * object->surface.pitch[0],
		       memory->buffer.data + of->offsets[0] + (size_t)line * of->pitches[0], width);
	for (line = 0; line < height / 2; line++)
		memcpy(object->surface.plane[1] + (size_t)line * object->surface.pitch[1],
		       memory->buffer.data + of->offsets[1] + (size_t)line * of->pitches[1], width);
	return VA_STATUS_SUCCESS;
}

static void pixel(const struct surface *from, uint32_t x, uint32_t y, int32_t rgb[3])
{
	const uint8_t *line = from->plane[0] + (size_t)y * from->pitch[0], *at = line + x * 4;
	uint32_t packed;

	switch (from->fourcc) {
	case VA_FOURCC_RGBX:
	case VA_FOURCC_RGBA:
		rgb[0] = at[0]; rgb[1] = at[1]; rgb[2] = at[2];
		break;
	case VA_FOURCC_RGB565:
		packed = line[x * 2] | (uint32_t)line[x * 2 + 1] << 8;
		rgb[0] = (int32_t)((packed >> 11 & 31) * 255 / 31);
		rgb[1] = (int32_t)((packed >> 5 & 63) * 255 / 63);
		rgb[2] = (int32_t)((packed & 31) * 255 / 31);
		break;
	default:
		rgb[0] = at[2]; rgb[1] = at[1]; rgb[2] = at[0];
	}
}

/* ITU-R BT.709, limited range, in 16.16 fixed point. */
static uint8_t luma_of(const int32_t rgb[3])
{
	return (uint8_t)((11966 * rgb[0] + 40254 * rgb[1] + 4064 * rgb[2] + (16 << 16) + (1 << 15)) >> 16);
}

VAStatus surface_convert(struct surface *from, struct surface *to)
{
	uint32_t x, y, at, dx, dy;

	if (to->fourcc != VA_FOURCC_NV12 || !to->own || from->width != to->width || from->height != to->height)
		return VA_STATUS_ERROR_INVALID_PARAMETER;
	if (from->fourcc == VA_FOURCC_NV12 || from->fourcc == VA_FOURCC_YUY2)
		return VA_STATUS_ERROR_UNSUPPORTED_RT_FORMAT;
	for (y = 0; y + 1 < from->height; y += 2) {
		for (x = 0; x + 1 < from->width; x += 2) {
			int32_t sum[3] = { 0, 0, 0 }, rgb[3];
			uint8_t *chroma = to->plane[1] + (size_t)y / 2 * to->pitch[1] + x;

			for (dy = 0; dy < 2; dy++) {
				for (dx = 0; dx < 2; dx++) {
					pixel(from, x + dx, y + dy, rgb);
					to->plane[0][(size_t)(y + dy) * to->pitch[0] + x + dx] = luma_of(rgb);
					for (at = 0; at < 3; at++)
						sum[at] += rgb[at];
				}
			}
			chroma[0] = (uint8_t)((-6596 * sum[0] - 22189 * sum[1] + 28785 * sum[2] + (512 << 16) + (2 << 16)) >> 18);
			chroma[1] = (uint8_t)((28785 * sum[0] - 26145 * sum[1] - 2640 * sum[2] + (512 << 16) + (2 << 16)) >> 18);
		}
	}
	return VA_STATUS_SUCCESS;
}

void surface_functions(struct VADriverVTable *table)
{
	table->vaCreateSurfaces2 = create_surfaces;
	table->vaDestroySurfaces = destroy_surfaces;
	table->vaSyncSurface = sync_surface;
	table->vaQuerySurfaceStatus = query_status;
	table->vaQueryImageFormats = image_formats;
	table->vaCreateImage = create_image;
	table->vaDestroyImage = destroy_image;
	table->vaPutImage = put_image;
}
