/* SPDX-License-Identifier: Apache-2.0 */
/* The virtual VA driver: configurations, contexts and buffers. See README.md. */
#include "virtual.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct object *make(struct driver *driver, enum kind kind, unsigned int *id)
{
	struct object *object = NULL;
	unsigned int at;

	pthread_mutex_lock(&driver->lock);
	for (at = 0; at < OBJECTS && !object; at++) {
		if (driver->objects[at])
			continue;
		object = calloc(1, sizeof(*object));
		if (!object)
			break;
		object->kind = kind;
		driver->objects[at] = object;
		*id = at + 1;
	}
	pthread_mutex_unlock(&driver->lock);
	return object;
}

struct object *find(struct driver *driver, enum kind kind, unsigned int id)
{
	struct object *object = NULL;

	pthread_mutex_lock(&driver->lock);
	if (id > 0 && id <= OBJECTS)
		object = driver->objects[id - 1];
	pthread_mutex_unlock(&driver->lock);
	return object && object->kind == kind ? object : NULL;
}

void forget(struct driver *driver, unsigned int id)
{
	struct object *object;

	pthread_mutex_lock(&driver->lock);
	object = driver->objects[id - 1];
	driver->objects[id - 1] = NULL;
	pthread_mutex_unlock(&driver->lock);
	if (object->kind == SURFACE)
		surface_free(&object->surface);
	if (object->kind == BUFFER && !object->buffer.borrowed)
		free(object->buffer.data);
	free(object);
}

long fault(const char *name)
{
	const char *path = getenv("SOFT_KVM_VIRTUAL_VA");
	FILE *file = path ? fopen(path, "re") : NULL;
	size_t length = strlen(name);
	char line[80];
	long value = 0;

	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, name, length) && line[length] == '=')
			value = atol(line + length + 1);
	if (file)
		fclose(file);
	return value;
}

void seen(const char *format, ...)
{
	const char *path = getenv("SOFT_KVM_VIRTUAL_VA");
	char name[4096];
	va_list arguments;
	FILE *file;

	if (!path || (size_t)snprintf(name, sizeof(name), "%s.seen", path) >= sizeof(name))
		return;
	file = fopen(name, "ae");
	if (!file)
		return;
	va_start(arguments, format);
	vfprintf(file, format, arguments);
	va_end(arguments);
	fputc('\n', file);
	fclose(file);
}

static VAStatus unsupported(void)
{
	return VA_STATUS_ERROR_UNIMPLEMENTED;
}

static VAStatus terminate(VADriverContextP va)
{
	struct driver *driver = driver_of(va);
	unsigned int id, left = 0;

	for (id = 1; id <= OBJECTS; id++) {
		if (!driver->objects[id - 1])
			continue;
		left++;
		forget(driver, id);
	}
	if (left)
		seen("leaked=%u", left);
	pthread_mutex_destroy(&driver->lock);
	free(driver);
	va->pDriverData = NULL;
	return VA_STATUS_SUCCESS;
}

static VAStatus query_profiles(VADriverContextP va, VAProfile *list, int *count)
{
	(void)va;
	list[0] = VAProfileH264ConstrainedBaseline;
	list[1] = VAProfileNone;
	*count = 2;
	return VA_STATUS_SUCCESS;
}

static VAStatus query_entrypoints(VADriverContextP va, VAProfile profile, VAEntrypoint *list, int *count)
{
	(void)va;
	*count = 1;
	if (profile == VAProfileH264ConstrainedBaseline && !fault("decode_only"))
		list[0] = VAEntrypointEncSlice;
	else if (profile == VAProfileH264ConstrainedBaseline)
		list[0] = VAEntrypointVLD;
	else if (profile == VAProfileNone)
		list[0] = VAEntrypointVideoProc;
	else
		return VA_STATUS_ERROR_UNSUPPORTED_PROFILE;
	return VA_STATUS_SUCCESS;
}

static uint32_t offered(VAEntrypoint entrypoint, VAConfigAttribType type)
{
	bool encodes = entrypoint == VAEntrypointEncSlice;

	if (type == VAConfigAttribRTFormat)
		return encodes ? VA_RT_FORMAT_YUV420 :
				 VA_RT_FORMAT_YUV420 | VA_RT_FORMAT_YUV422 | VA_RT_FORMAT_RGB32 | VA_RT_FORMAT_RGB16;
	if (type == VAConfigAttribRateControl && encodes)
		return fault("only_cqp") ? VA_RC_CQP : VA_RC_CQP | VA_RC_CBR;
	if (type == VAConfigAttribEncPackedHeaders && encodes)
		return fault("own_headers") || fault("no_headers") ?
			VA_ENC_PACKED_HEADER_NONE :
			VA_ENC_PACKED_HEADER_SEQUENCE | VA_ENC_PACKED_HEADER_PICTURE | VA_ENC_PACKED_HEADER_SLICE;
	if ((type == VAConfigAttribEncMaxRefFrames || type == VAConfigAttribEncMaxSlices) && encodes)
		return 1;
	if (type == VAConfigAttribMaxPictureWidth || type == VAConfigAttribMaxPictureHeight)
		return 4096;
	return VA_ATTRIB_NOT_SUPPORTED;
}

static VAStatus get_attributes(VADriverContextP va, VAProfile profile, VAEntrypoint entrypoint,
			       VAConfigAttrib *list, int count)
{
	int at;

	(void)va;
	(void)profile;
	for (at = 0; at < count; at++)
		list[at].value = offered(entrypoint, list[at].type);
	return VA_STATUS_SUCCESS;
}

static VAStatus create_config(VADriverContextP va, VAProfile profile, VAEntrypoint entrypoint,
			      VAConfigAttrib *list, int count, VAConfigID *id)
{
	VAEntrypoint own = VAEntrypointVLD;
	struct object *object;
	int at, entrypoints;

	if (query_entrypoints(va, profile, &own, &entrypoints))
		return VA_STATUS_ERROR_UNSUPPORTED_PROFILE;
	if (own != entrypoint)
		return VA_STATUS_ERROR_UNSUPPORTED_ENTRYPOINT;
	for (at = 0; at < count; at++)
		if (list[at].value & ~offered(entrypoint, list[at].type))
			return VA_STATUS_ERROR_ATTR_NOT_SUPPORTED;
	object = make(driver_of(va), CONFIG, id);
	if (!object)
		return VA_STATUS_ERROR_ALLOCATION_FAILED;
	object->config.entrypoint = entrypoint;
	object->config.rate_control = VA_RC_CQP;
	for (at = 0; at < count; at++) {
		if (list[at].type == VAConfigAttribRateControl)
			object->config.rate_control = list[at].value;
		if (list[at].type == VAConfigAttribEncPackedHeaders)
			object->config.packed_headers = list[at].value;
	}
	return VA_STATUS_SUCCESS;
}

static VAStatus destroy_config(VADriverContextP va, VAConfigID id)
{
	if (!find(driver_of(va), CONFIG, id))
		return VA_STATUS_ERROR_INVALID_CONFIG;
	forget(driver_of(va), id);
	return VA_STATUS_SUCCESS;
}

static VAStatus create_context(VADriverContextP va, VAConfigID config, int width, int height, int flag,
			       VASurfaceID *targets, int count, VAContextID *id)
{
	struct object *of = find(driver_of(va), CONFIG, config), *object;

	(void)flag;
	(void)targets;
	(void)count;
	if (!of)
		return VA_STATUS_ERROR_INVALID_CONFIG;
	if (of->config.entrypoint == VAEntrypointEncSlice && fault("fail_create"))
		return VA_STATUS_ERROR_ALLOCATION_FAILED;
	while (fault("hang_create"))
		usleep(10000);
	object = make(driver_of(va), CONTEXT, id);
	if (!object)
		return VA_STATUS_ERROR_ALLOCATION_FAILED;
	object->context.config = &of->config;
	object->context.width = (uint32_t)width;
	object->context.height = (uint32_t)height;
	if (of->config.entrypoint == VAEntrypointEncSlice)
		seen("rate_control=%u", of->config.rate_control);
	return VA_STATUS_SUCCESS;
}

static VAStatus destroy_context(VADriverContextP va, VAContextID id)
{
	if (!find(driver_of(va), CONTEXT, id))
		return VA_STATUS_ERROR_INVALID_CONTEXT;
	forget(driver_of(va), id);
	return VA_STATUS_SUCCESS;
}

static VAStatus create_buffer(VADriverContextP va, VAContextID context, VABufferType type, unsigned int size,
			      unsigned int elements, void *data, VABufferID *id)
{
	struct object *object = make(driver_of(va), BUFFER, id);

	(void)context;
	if (!object)
		return VA_STATUS_ERROR_ALLOCATION_FAILED;
	object->buffer.type = type;
	object->buffer.size = size;
	object->buffer.elements = elements;
	object->buffer.data = calloc(elements ? elements : 1, size ? size : 1);
	if (!object->buffer.data) {
		forget(driver_of(va), *id);
		return VA_STATUS_ERROR_ALLOCATION_FAILED;
	}
	if (data)
		memcpy(object->buffer.data, data, (size_t)size * elements);
	return VA_STATUS_SUCCESS;
}

static VAStatus map_buffer(VADriverContextP va, VABufferID id, void **data)
{
	struct object *object = find(driver_of(va), BUFFER, id);

	if (!object)
		return VA_STATUS_ERROR_INVALID_BUFFER;
	*data = object->buffer.data;
	if (object->buffer.type == VAEncCodedBufferType)
		*data = &object->buffer.segment;
	return VA_STATUS_SUCCESS;
}

static VAStatus unmap_buffer(VADriverContextP va, VABufferID id)
{
	return find(driver_of(va), BUFFER, id) ? VA_STATUS_SUCCESS : VA_STATUS_ERROR_INVALID_BUFFER;
}

static VAStatus destroy_buffer(VADriverContextP va, VABufferID id)
{
	if (!find(driver_of(va), BUFFER, id))
		return VA_STATUS_ERROR_INVALID_BUFFER;
	forget(driver_of(va), id);
	return VA_STATUS_SUCCESS;
}

/* libva refuses drivers that leave one of these out. */
static void fill(struct VADriverVTable *table)
{
	/* All entries are pointers to functions; those that are not set below are called by nobody here. */
	void **entry = (void **)table;
	size_t at;

	for (at = 0; at < offsetof(struct VADriverVTable, vaGetSurfaceAttributes) / sizeof(*entry); at++)
		entry[at] = (void *)unsupported;
	table->vaTerminate = terminate;
	table->vaQueryConfigProfiles = query_profiles;
	table->vaQueryConfigEntrypoints = query_entrypoints;
	table->vaGetConfigAttributes = get_attributes;
	table->vaCreateConfig = create_config;
	table->vaDestroyConfig = destroy_config;
	table->vaCreateContext = create_context;
	table->vaDestroyContext = destroy_context;
	table->vaCreateBuffer = create_buffer;
	table->vaMapBuffer = map_buffer;
	table->vaUnmapBuffer = unmap_buffer;
	table->vaDestroyBuffer = destroy_buffer;
	surface_functions(table);
	picture_functions(table);
}

VAStatus __attribute__((visibility("default"))) __vaDriverInit_1_0(VADriverContextP va);

VAStatus __vaDriverInit_1_0(VADriverContextP va)
{
	struct driver *driver;

	if (fault("fail_init"))
		return VA_STATUS_ERROR_UNKNOWN;
	driver = calloc(1, sizeof(*driver));
	if (!driver)
		return VA_STATUS_ERROR_ALLOCATION_FAILED;
	pthread_mutex_init(&driver->lock, NULL);
	va->pDriverData = driver;
	va->version_major = VA_MAJOR_VERSION;
	va->version_minor = VA_MINOR_VERSION;
	va->max_profiles = 2;
	va->max_entrypoints = 1;
	va->max_attributes = 16;
	va->max_image_formats = 1;
	va->max_subpic_formats = 1;
	va->max_display_attributes = 1;
	va->str_vendor = "Soft KVM virtual driver (lab)";
	fill(va->vtable);
	return VA_STATUS_SUCCESS;
}
