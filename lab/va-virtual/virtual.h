/* SPDX-License-Identifier: Apache-2.0 */
/* The objects of the virtual VA driver. */
#ifndef VIRTUAL_VA_H
#define VIRTUAL_VA_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <va/va.h>
#include <va/va_backend.h>
#include <va/va_drmcommon.h>
#include <va/va_enc_h264.h>
#include <va/va_vpp.h>

#include "h264.h"

#define OBJECTS 512
#define PACKED 4

enum kind { FREE, CONFIG, CONTEXT, SURFACE, BUFFER, IMAGE };

struct config {
	VAEntrypoint entrypoint;
	uint32_t rate_control, packed_headers;
};

/* Memory that another device lent. */
struct lent {
	int fd;
	uint8_t *data;
	size_t size;
};

struct surface {
	uint32_t fourcc, width, height;
	uint32_t planes, pitch[4];
	uint8_t *plane[4];
	/* The driver's own memory, or that of DMA-BUFs. */
	uint8_t *own;
	struct lent lent[4];
	/* What vaSyncSurface says of the last picture. */
	bool hangs;
	VAStatus status;
};

struct buffer {
	VABufferType type;
	uint32_t size, elements;
	uint8_t *data;
	/* Not ours to free: it belongs to an image's or surface's memory. */
	bool borrowed;
	VACodedBufferSegment segment;
};

struct image {
	VAImage image;
};

struct context {
	const struct config *config;
	uint32_t width, height;
	/* Pictures since it was made. */
	unsigned int pictures;
	VASurfaceID target;
	bool begun, has_sequence, has_picture, has_slice, has_pipeline;
	VAEncSequenceParameterBufferH264 sequence;
	VAEncPictureParameterBufferH264 picture;
	VAEncSliceParameterBufferH264 slice;
	VAProcPipelineParameterBuffer pipeline;
	VAEncPackedHeaderParameterBuffer next_header;
	struct {
		uint32_t type, bits;
		uint8_t data[256];
	} packed[PACKED];
	unsigned int packed_count;
};

struct object {
	enum kind kind;
	union {
		struct config config;
		struct context context;
		struct surface surface;
		struct buffer buffer;
		struct image image;
	};
};

struct driver {
	pthread_mutex_t lock;
	struct object *objects[OBJECTS];
};

static inline struct driver *driver_of(VADriverContextP va)
{
	return va->pDriverData;
}

/* A new object, of zeros, and its number; NULL if there are too many. */
struct object *make(struct driver *driver, enum kind kind, unsigned int *id);
/* NULL if there is none of this kind. */
struct object *find(struct driver *driver, enum kind kind, unsigned int id);
void forget(struct driver *driver, unsigned int id);

/* The value of a fault in the file that SOFT_KVM_VIRTUAL_VA names (lines of name=value), 0 without one. */
long fault(const char *name);
/* Adds a line to that file's neighbour, FILE.seen. */
void seen(const char *format, ...) __attribute__((format(printf, 1, 2)));

void surface_functions(struct VADriverVTable *table);
void surface_free(struct surface *surface);
/* Between begin and end the CPU may read what devices wrote. */
void surface_read(struct surface *surface, bool begin);
bool surface_nv12(struct surface *surface, struct nv12 *picture);
/* Any format to NV12 of BT.709, limited range. */
VAStatus surface_convert(struct surface *from, struct surface *to);

void picture_functions(struct VADriverVTable *table);

#endif
