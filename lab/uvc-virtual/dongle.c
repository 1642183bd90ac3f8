/* SPDX-License-Identifier: Apache-2.0 */
/* A virtual capture dongle: a USB Video Class device on a virtual device controller. See README.md. */
#include <errno.h>
#include <fcntl.h>
#include <linux/usb/ch9.h>
#include <linux/usb/raw_gadget.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

/* What raw_gadget takes at once (a page), which is a payload here: UVC 1.0, 2.4.3.2.2. */
#define PAYLOAD 4096
#define HEADER 2
#define PACKET 512
#define MODES 8
#define PICTURES 4
/* Bytes of a probe and commit control of UVC 1.0 (table 4-47). */
#define PROBE 26
#define MJPEG 1
#define YUYV 2
#define CONTROL_INTERFACE 0
#define STREAM_INTERFACE 1
#define ENDPOINT 0x81

enum { SET_CUR = 0x01, GET_CUR = 0x81, GET_MIN, GET_MAX, GET_RES, GET_LEN, GET_INFO, GET_DEF };

struct mode {
	int format, frame, width, height, rate, pictures;
	unsigned char *data[PICTURES];
	size_t size[PICTURES];
};

static struct mode modes[MODES];
static int mode_count, device;
static unsigned char config[1024];
static size_t config_size;
/* What the host has asked for. */
static struct mode *probed;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static struct mode *committed;
static unsigned int commits;
static int endpoint = -1;

static void die(const char *what)
{
	fprintf(stderr, "virtual uvc: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* --- descriptors --- */

static void put(size_t at, unsigned long value, int bytes)
{
	while (bytes--) {
		config[at++] = value;
		value >>= 8;
	}
}

static void add(const unsigned char *bytes, size_t size)
{
	if (config_size + size > sizeof(config)) {
		errno = E2BIG;
		die("too many modes");
	}
	memcpy(config + config_size, bytes, size);
	config_size += size;
}

#define ADD(...) add((const unsigned char[]){ __VA_ARGS__ }, sizeof((const unsigned char[]){ __VA_ARGS__ }))

static unsigned long largest(const struct mode *mode)
{
	return (unsigned long)mode->width * mode->height * 2;
}

static int frames_of(int format)
{
	int count = 0;

	for (int i = 0; i < mode_count; i++)
		count += modes[i].format == format;
	return count;
}

static void add_frames(int format)
{
	for (int i = 0; i < mode_count; i++) {
		struct mode *mode = &modes[i];
		unsigned long bits = largest(mode) * 8 * mode->rate;
		size_t at = config_size;

		if (mode->format != format)
			continue;
		/* VS_FRAME_MJPEG (UVC MJPEG payload, table 3-2), VS_FRAME_UNCOMPRESSED (table 3-2 of its own). */
		ADD(30, 0x24, format == MJPEG ? 0x07 : 0x05, mode->frame, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		    0, 0, 0, 0, 1, 0, 0, 0, 0);
		put(at + 5, mode->width, 2);
		put(at + 7, mode->height, 2);
		put(at + 9, bits, 4);
		put(at + 13, bits, 4);
		put(at + 17, largest(mode), 4);
		put(at + 21, 10000000 / mode->rate, 4);
		put(at + 26, 10000000 / mode->rate, 4);
	}
	/* VS_COLORFORMAT: BT.709, BT.709, SMPTE 170M. */
	ADD(6, 0x24, 0x0d, 1, 1, 4);
}

static void make_config(void)
{
	size_t stream;

	ADD(9, 0x02, 0, 0, 2, 1, 0, 0x80, 50);
	ADD(8, 0x0b, CONTROL_INTERFACE, 2, 0x0e, 0x03, 0, 0);
	/* The control interface: a camera, a processing unit without controls, the stream. */
	ADD(9, 0x04, CONTROL_INTERFACE, 0, 0, 0x0e, 0x01, 0, 0);
	ADD(13, 0x24, 0x01, 0x00, 0x01, 13 + 18 + 11 + 9, 0, 0x80, 0x8d, 0x5b, 0, 1, STREAM_INTERFACE);
	ADD(18, 0x24, 0x02, 1, 0x01, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0);
	ADD(11, 0x24, 0x05, 2, 1, 0, 0, 2, 0, 0, 0);
	ADD(9, 0x24, 0x03, 3, 0x01, 0x01, 0, 2, 0);
	/* The streaming interface without alternates: its endpoint is bulk. */
	ADD(9, 0x04, STREAM_INTERFACE, 0, 1, 0x0e, 0x02, 0, 0);
	stream = config_size;
	ADD(15, 0x24, 0x01, 2, 0, 0, ENDPOINT, 0, 3, 0, 0, 0, 1, 0, 0);
	ADD(11, 0x24, 0x06, MJPEG, frames_of(MJPEG), 0, 1, 0, 0, 0, 0);
	add_frames(MJPEG);
	ADD(27, 0x24, 0x04, YUYV, frames_of(YUYV), 'Y', 'U', 'Y', '2', 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b,
	    0x71, 16, 1, 0, 0, 0, 0);
	add_frames(YUYV);
	put(stream + 4, config_size - stream, 2);
	ADD(7, 0x05, ENDPOINT, 0x02, PACKET & 0xff, PACKET >> 8, 0);
	put(2, config_size, 2);
}

/* --- endpoint zero --- */

struct message {
	struct usb_raw_ep_io io;
	unsigned char data[PAYLOAD];
};

static void answer(const void *data, size_t size, size_t most)
{
	struct message message = { .io.length = size < most ? size : most };

	if (size < most && size % 64 == 0)
		message.io.flags = USB_RAW_IO_FLAGS_ZERO;
	memcpy(message.data, data, message.io.length);
	if (ioctl(device, USB_RAW_IOCTL_EP0_WRITE, &message) < 0)
		perror("virtual uvc: EP0_WRITE");
}

/* Takes the data of a request that has some, and ends the others. */
static size_t take(unsigned char *data, size_t most)
{
	struct message message = { .io.length = most < PAYLOAD ? most : PAYLOAD };
	int length = ioctl(device, USB_RAW_IOCTL_EP0_READ, &message);

	if (length < 0) {
		perror("virtual uvc: EP0_READ");
		return 0;
	}
	if (data)
		memcpy(data, message.data, message.io.length);
	return message.io.length;
}

static void stall(void)
{
	if (ioctl(device, USB_RAW_IOCTL_EP0_STALL, 0) < 0)
		perror("virtual uvc: EP0_STALL");
}

static void text(const char *words, size_t most)
{
	unsigned char bytes[126] = { 0, 0x03 };
	size_t length = strlen(words);

	bytes[0] = 2 + 2 * length;
	for (size_t i = 0; i < length; i++)
		bytes[2 + 2 * i] = words[i];
	answer(bytes, bytes[0], most);
}

static void describe(int type, int index, size_t most)
{
	static const unsigned char about[18] = {
		/* 1209:0001 is for tests (pid.codes). */
		18, 0x01, 0x00, 0x02, 0xef, 0x02, 0x01, 64, 0x09, 0x12, 0x01, 0x00, 0x00, 0x01, 1, 2, 0, 1,
	};
	static const unsigned char qualifier[10] = { 10, 0x06, 0x00, 0x02, 0xef, 0x02, 0x01, 64, 1, 0 };
	static const unsigned char languages[4] = { 4, 0x03, 0x09, 0x04 };

	if (type == USB_DT_DEVICE)
		answer(about, sizeof(about), most);
	else if (type == USB_DT_CONFIG)
		answer(config, config_size, most);
	else if (type == USB_DT_DEVICE_QUALIFIER)
		answer(qualifier, sizeof(qualifier), most);
	else if (type == USB_DT_STRING && index == 0)
		answer(languages, sizeof(languages), most);
	else if (type == USB_DT_STRING)
		text(index == 1 ? "Soft KVM lab" : "Virtual dongle", most);
	else
		stall();
}

static void configure(void)
{
	struct usb_endpoint_descriptor bulk = {
		.bLength = USB_DT_ENDPOINT_SIZE,
		.bDescriptorType = USB_DT_ENDPOINT,
		.bEndpointAddress = ENDPOINT,
		.bmAttributes = USB_ENDPOINT_XFER_BULK,
		.wMaxPacketSize = PACKET,
	};
	int number = ioctl(device, USB_RAW_IOCTL_EP_ENABLE, &bulk);

	if (number < 0)
		die("EP_ENABLE");
	if (ioctl(device, USB_RAW_IOCTL_VBUS_DRAW, 50) < 0 || ioctl(device, USB_RAW_IOCTL_CONFIGURE, 0) < 0)
		die("CONFIGURE");
	pthread_mutex_lock(&lock);
	endpoint = number;
	pthread_mutex_unlock(&lock);
	take(NULL, 0);
}

static void negotiated(unsigned char *data)
{
	unsigned long interval = 10000000 / probed->rate, size = largest(probed);

	memset(data, 0, PROBE);
	data[0] = 1;
	data[2] = probed->format;
	data[3] = probed->frame;
	for (int i = 0; i < 4; i++) {
		data[4 + i] = interval >> 8 * i;
		data[18 + i] = size >> 8 * i;
		data[22 + i] = PAYLOAD >> 8 * i;
	}
}

static void stream_control(int request, int selector, size_t length)
{
	unsigned char data[PAYLOAD] = { 0 };

	switch (request) {
	case SET_CUR:
		if (take(data, length) < 4)
			return;
		for (int i = 0; i < mode_count; i++)
			if (modes[i].format == data[2] && modes[i].frame == data[3])
				probed = &modes[i];
		if (selector == 2) {
			pthread_mutex_lock(&lock);
			committed = probed;
			commits++;
			pthread_cond_signal(&wake);
			pthread_mutex_unlock(&lock);
			printf("streams %s %dx%d\n", probed->format == MJPEG ? "MJPG" : "YUYV", probed->width, probed->height);
			fflush(stdout);
		}
		return;
	case GET_LEN:
		data[0] = PROBE;
		answer(data, 2, length);
		return;
	case GET_INFO:
		data[0] = 3;
		answer(data, 1, length);
		return;
	default:
		negotiated(data);
		answer(data, PROBE, length);
	}
}

static void control(const struct usb_ctrlrequest *setup)
{
	int type = setup->bRequestType & USB_TYPE_MASK, selector = setup->wValue >> 8;
	int stream = (setup->wIndex & 0xff) == STREAM_INTERFACE && (selector == 1 || selector == 2);

	if (type == USB_TYPE_STANDARD && setup->bRequest == USB_REQ_GET_DESCRIPTOR)
		describe(setup->wValue >> 8, setup->wValue & 0xff, setup->wLength);
	else if (type == USB_TYPE_STANDARD && setup->bRequest == USB_REQ_SET_CONFIGURATION)
		configure();
	else if (type == USB_TYPE_STANDARD && setup->bRequest == USB_REQ_SET_INTERFACE)
		take(NULL, 0);
	else if (type == USB_TYPE_CLASS && stream)
		stream_control(setup->bRequest, selector, setup->wLength);
	else
		stall();
}

/* --- pictures --- */

/* A picture in payloads; stops when the host has asked for something else. */
static void send_picture(const struct mode *mode, int picture, int toggle, unsigned int commit)
{
	struct message message;
	size_t at = 0, size = mode->size[picture];

	while (at < size) {
		size_t part = size - at < PAYLOAD - HEADER ? size - at : PAYLOAD - HEADER;

		memset(&message.io, 0, sizeof(message.io));
		message.io.ep = endpoint;
		message.io.length = HEADER + part;
		/* A payload that fills its packets and not the transfer has to be ended. */
		if (message.io.length < PAYLOAD && message.io.length % PACKET == 0)
			message.io.flags = USB_RAW_IO_FLAGS_ZERO;
		message.data[0] = HEADER;
		message.data[1] = 0x80 | toggle | (at + part == size ? 0x02 : 0);
		memcpy(message.data + HEADER, mode->data[picture] + at, part);
		if (ioctl(device, USB_RAW_IOCTL_EP_WRITE, &message) < 0) {
			/* The host has stopped the stream: the next one asks for it anew. */
			usleep(10000);
			return;
		}
		at += part;
		if (__atomic_load_n(&commits, __ATOMIC_RELAXED) != commit)
			return;
	}
}

static void *stream(void *unused)
{
	int picture = 0, toggle = 0;
	struct timespec next;

	(void)unused;
	clock_gettime(CLOCK_MONOTONIC, &next);
	for (;;) {
		const struct mode *mode;
		unsigned int commit;

		pthread_mutex_lock(&lock);
		while (!committed || endpoint < 0)
			pthread_cond_wait(&wake, &lock);
		mode = committed;
		commit = commits;
		pthread_mutex_unlock(&lock);

		send_picture(mode, picture++ % mode->pictures, toggle, commit);
		toggle ^= 1;
		next.tv_nsec += 1000000000 / mode->rate;
		if (next.tv_nsec >= 1000000000) {
			next.tv_nsec -= 1000000000;
			next.tv_sec++;
		}
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
	}
	return NULL;
}

/* --- start --- */

static void load(struct mode *mode, const char *path)
{
	FILE *file = fopen(path, "rb");
	long size;

	if (!file || fseek(file, 0, SEEK_END) || (size = ftell(file)) <= 0)
		die(path);
	rewind(file);
	mode->data[mode->pictures] = malloc(size);
	if (!mode->data[mode->pictures] || fread(mode->data[mode->pictures], 1, size, file) != (size_t)size)
		die(path);
	mode->size[mode->pictures++] = size;
	fclose(file);
}

static void parse(char *argument)
{
	struct mode *mode = &modes[mode_count];
	char *name = strtok(argument, ":"), *rest;

	if (mode_count == MODES || !name)
		goto bad;
	mode->format = strcmp(name, "mjpg") ? YUYV : MJPEG;
	rest = strtok(NULL, ":");
	if (!rest || sscanf(rest, "%dx%d@%d", &mode->width, &mode->height, &mode->rate) != 3)
		goto bad;
	while ((rest = strtok(NULL, ",")) && mode->pictures < PICTURES)
		load(mode, rest);
	if (!mode->pictures)
		goto bad;
	mode->frame = frames_of(mode->format) + 1;
	mode_count++;
	return;
bad:
	fprintf(stderr, "virtual uvc: no mode: %s\n", argument);
	exit(64);
}

int main(int argc, char **argv)
{
	struct usb_raw_init init = { .driver_name = "dummy_udc", .device_name = "dummy_udc.0", .speed = USB_SPEED_HIGH };
	pthread_t thread;

	for (int i = 1; i < argc; i++)
		parse(argv[i]);
	if (!frames_of(MJPEG) || !frames_of(YUYV)) {
		fprintf(stderr, "usage: dongle mjpg:WIDTHxHEIGHT@RATE:FILE[,FILE] yuyv:WIDTHxHEIGHT@RATE:FILE…\n");
		return 64;
	}
	probed = &modes[0];
	make_config();
	device = open("/dev/raw-gadget", O_RDWR);
	if (device < 0)
		die("/dev/raw-gadget");
	if (ioctl(device, USB_RAW_IOCTL_INIT, &init) < 0 || ioctl(device, USB_RAW_IOCTL_RUN, 0) < 0)
		die("dummy_udc.0");
	if (pthread_create(&thread, NULL, stream, NULL))
		die("a thread");
	for (;;) {
		struct {
			struct usb_raw_event event;
			struct usb_ctrlrequest setup;
		} got = { .event.length = sizeof(got.setup) };

		if (ioctl(device, USB_RAW_IOCTL_EVENT_FETCH, &got) < 0) {
			if (errno == EINTR)
				continue;
			die("EVENT_FETCH");
		}
		if (got.event.type == USB_RAW_EVENT_CONTROL)
			control(&got.setup);
	}
}
