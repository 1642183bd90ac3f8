//! A driver, opened for one render node, and its objects. All of them stay on the thread that made them; each is
//! destroyed when dropped, and keeps what it was made from.

use std::ffi::{c_int, c_uint, c_void};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::ptr;
use std::rc::Rc;

use soft_kvm_core::Size;
use soft_kvm_video::codec::CodecError;

use super::abi::{self, ConfigAttrib, Id, Plain, RawDisplay, Status, SurfaceAttrib};
use super::error;
use super::library::{self, Library};
use crate::shared_library;

/// Lists that drivers give are not believed to be longer.
const LIST_MOST: usize = 1024;

/// `VADisplay` after `vaInitialize`.
#[derive(Debug)]
pub(super) struct Display {
    library: &'static Library,
    raw: RawDisplay,
    node: String,
    // Closed after `vaTerminate`.
    _file: File,
}

impl Display {
    pub(super) fn open(node: &Path) -> Result<Rc<Self>, CodecError> {
        let library = library::library().map_err(error)?;
        let name = node.display().to_string();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_CLOEXEC)
            .open(node)
            .map_err(|why| error(format!("{name}: {why}")))?;
        library::complaint();
        // SAFETY: the descriptor is open, and stays so for as long as the display is used.
        let raw = unsafe { (library.get_display)(file.as_raw_fd()) };
        if raw.is_null() {
            return Err(error(format!("{name} is not a device that libva takes")));
        }
        // Made first: libva's own part of a display is freed by `vaTerminate` alone, also after a failed start.
        let display = Self {
            library,
            raw,
            node: name,
            _file: file,
        };
        // SAFETY: a display of `get_display`; the callbacks take any pointers and live for ever.
        unsafe {
            (library.set_error_callback)(raw, Some(library::on_error), ptr::null_mut());
            (library.set_info_callback)(raw, Some(library::on_info), ptr::null_mut());
        }
        let (mut major, mut minor) = (0, 0);
        // SAFETY: as above; both numbers are ours to write to.
        let status = unsafe { (library.initialize)(raw, &raw mut major, &raw mut minor) };
        if status != 0 {
            let why = library::complaint();
            let status = display.text(status);
            let hint =
                "no driver of libva for it works (Debian: intel-media-va-driver, mesa-va-drivers)";
            let why = if why.is_empty() { status } else { why };
            return Err(error(format!("{}: {hint}: {why}", display.node)));
        }
        Ok(Rc::new(display))
    }

    /// The driver's name for people.
    pub(super) fn vendor(&self) -> String {
        // SAFETY: an initialised display; the text is the driver's for as long as it is.
        shared_library::text(unsafe { (self.library.vendor)(self.raw) })
    }

    fn text(&self, status: Status) -> String {
        // SAFETY: takes any number, and gives a text that lives for ever.
        shared_library::text(unsafe { (self.library.error_text)(status) })
    }

    fn check(&self, action: &str, status: Status) -> Result<(), CodecError> {
        if status == 0 {
            return Ok(());
        }
        let why = self.text(status);
        Err(error(format!(
            "{}: {action}: {why} ({status:#x})",
            self.node
        )))
    }

    pub(super) fn profiles(&self) -> Result<Vec<c_int>, CodecError> {
        // SAFETY: an initialised display.
        let most = unsafe { (self.library.max_profiles)(self.raw) };
        let mut list = vec![0; usize::try_from(most).unwrap_or(0).min(LIST_MOST)];
        let mut count = 0;
        if list.len() < LIST_MOST {
            // SAFETY: the list has room for as many as the driver says that it has at most.
            let status =
                unsafe { (self.library.profiles)(self.raw, list.as_mut_ptr(), &raw mut count) };
            self.check("vaQueryConfigProfiles", status)?;
        }
        list.truncate(usize::try_from(count).unwrap_or(0));
        Ok(list)
    }

    pub(super) fn entrypoints(&self, profile: c_int) -> Result<Vec<c_int>, CodecError> {
        // SAFETY: an initialised display.
        let most = unsafe { (self.library.max_entrypoints)(self.raw) };
        let mut list = vec![0; usize::try_from(most).unwrap_or(0).min(LIST_MOST)];
        let mut count = 0;
        if list.len() < LIST_MOST {
            // SAFETY: as in `profiles`.
            let status = unsafe {
                (self.library.entrypoints)(self.raw, profile, list.as_mut_ptr(), &raw mut count)
            };
            self.check("vaQueryConfigEntrypoints", status)?;
        }
        list.truncate(usize::try_from(count).unwrap_or(0));
        Ok(list)
    }

    /// The value of an attribute; `None` if the driver does not know it.
    pub(super) fn attribute(&self, profile: c_int, entrypoint: c_int, kind: c_int) -> Option<u32> {
        let mut attribute = ConfigAttrib { kind, value: 0 };
        // SAFETY: one attribute, ours to write to.
        let status = unsafe {
            (self.library.attributes)(self.raw, profile, entrypoint, &raw mut attribute, 1)
        };
        (status == 0 && attribute.value != abi::ATTRIB_NOT_SUPPORTED).then_some(attribute.value)
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        // SAFETY: every object that was made with it has been dropped: each holds an `Rc` of it.
        unsafe { (self.library.terminate)(self.raw) };
    }
}

/// `VAConfigID`.
#[derive(Debug)]
pub(super) struct Config {
    display: Rc<Display>,
    id: Id,
}

impl Config {
    pub(super) fn new(
        display: &Rc<Display>,
        profile: c_int,
        entrypoint: c_int,
        attributes: &mut [ConfigAttrib],
    ) -> Result<Self, CodecError> {
        let mut id = abi::INVALID_ID;
        // SAFETY: the list is as long as said and read only; the number is ours to write to.
        let status = unsafe {
            (display.library.create_config)(
                display.raw,
                profile,
                entrypoint,
                attributes.as_mut_ptr(),
                length(attributes),
                &raw mut id,
            )
        };
        display.check("vaCreateConfig", status)?;
        Ok(Self {
            display: Rc::clone(display),
            id,
        })
    }
}

impl Drop for Config {
    fn drop(&mut self) {
        // SAFETY: ours; contexts made from it hold it.
        unsafe { (self.display.library.destroy_config)(self.display.raw, self.id) };
    }
}

fn length<T>(list: &[T]) -> c_int {
    // No list here has more than a handful.
    c_int::try_from(list.len()).unwrap_or(0)
}

fn sides(size: Size) -> (c_int, c_int) {
    let side = |pixels| c_int::try_from(pixels).unwrap_or(c_int::MAX);
    (side(size.width), side(size.height))
}

/// `VAContextID`.
#[derive(Debug)]
pub(super) struct Context {
    config: Config,
    id: Id,
}

impl Context {
    /// For pictures of `size`, read from or written to any surfaces, `known` among them.
    pub(super) fn new(config: Config, size: Size, known: &[&Surface]) -> Result<Self, CodecError> {
        let (width, height) = sides(size);
        let mut ids: Vec<Id> = known.iter().map(|surface| surface.id).collect();
        let mut id = abi::INVALID_ID;
        let display = &config.display;
        // SAFETY: the list is as long as said and read only; the number is ours to write to.
        let status = unsafe {
            (display.library.create_context)(
                display.raw,
                config.id,
                width,
                height,
                abi::PROGRESSIVE,
                ids.as_mut_ptr(),
                length(&ids),
                &raw mut id,
            )
        };
        display.check("vaCreateContext", status)?;
        Ok(Self { config, id })
    }

    fn display(&self) -> &Rc<Display> {
        &self.config.display
    }

    /// A buffer with a copy of `value`, which has to be what the headers say for the type.
    fn parameter<T: Plain>(&self, kind: c_int, value: &T) -> Result<Buffer, CodecError> {
        let data = ptr::from_ref(value).cast_mut().cast();
        Buffer::new(self.display(), self.id, kind, size_of::<T>(), data)
    }

    fn bytes(&self, kind: c_int, value: &[u8]) -> Result<Buffer, CodecError> {
        let data = value.as_ptr().cast_mut().cast();
        Buffer::new(self.display(), self.id, kind, value.len(), data)
    }

    /// A buffer of `size` bytes for what is encoded.
    pub(super) fn coded(&self, size: usize) -> Result<Buffer, CodecError> {
        Buffer::new(
            self.display(),
            self.id,
            abi::buffer::CODED,
            size,
            ptr::null_mut(),
        )
    }

    /// Starts on the surface that is read (encoders) or written (converters), and waits for nothing.
    pub(super) fn render(&self, target: &Surface, parts: &[Part<'_>]) -> Result<(), CodecError> {
        let display = self.display();
        let mut buffers = Vec::with_capacity(parts.len() + 2);
        for part in parts {
            match part {
                Part::Sequence(value) => {
                    buffers.push(self.parameter(abi::buffer::SEQUENCE, *value)?);
                }
                Part::Picture(value) => {
                    buffers.push(self.parameter(abi::buffer::PICTURE, *value)?);
                }
                Part::Slice(value) => buffers.push(self.parameter(abi::buffer::SLICE, *value)?),
                Part::RateControl(value) => {
                    buffers.push(self.parameter(abi::buffer::MISC, *value)?);
                }
                Part::FrameRate(value) => buffers.push(self.parameter(abi::buffer::MISC, *value)?),
                Part::Hrd(value) => buffers.push(self.parameter(abi::buffer::MISC, *value)?),
                Part::Pipeline(value) => {
                    buffers.push(self.parameter(abi::buffer::PIPELINE, *value)?);
                }
                Part::Packed(header, data) => {
                    buffers.push(self.parameter(abi::buffer::PACKED_HEADER, *header)?);
                    buffers.push(self.bytes(abi::buffer::PACKED_DATA, data)?);
                }
            }
        }
        let mut ids: Vec<Id> = buffers.iter().map(|buffer| buffer.id).collect();
        // SAFETY: context and surface are alive.
        let status = unsafe { (display.library.begin_picture)(display.raw, self.id, target.id) };
        display.check("vaBeginPicture", status)?;
        // SAFETY: the list is as long as said, and its buffers are alive until the picture has ended.
        let rendered = unsafe {
            (display.library.render_picture)(display.raw, self.id, ids.as_mut_ptr(), length(&ids))
        };
        // Also after a failure: what was begun has to be ended.
        // SAFETY: a picture was begun.
        let ended = unsafe { (display.library.end_picture)(display.raw, self.id) };
        display.check("vaRenderPicture", rendered)?;
        display.check("vaEndPicture", ended)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let display = self.display();
        // SAFETY: ours, and no picture is begun: `render` ends each.
        unsafe { (display.library.destroy_context)(display.raw, self.id) };
    }
}

/// What a picture is rendered from.
pub(super) enum Part<'a> {
    Sequence(&'a abi::SequenceH264),
    Picture(&'a abi::PictureParametersH264),
    Slice(&'a abi::SliceH264),
    RateControl(&'a abi::RateControl),
    FrameRate(&'a abi::FrameRateParameter),
    Hrd(&'a abi::Hrd),
    Packed(&'a abi::PackedHeader, &'a [u8]),
    Pipeline(&'a abi::Pipeline),
}

/// `VABufferID`.
#[derive(Debug)]
pub(super) struct Buffer {
    display: Rc<Display>,
    pub(super) id: Id,
}

impl Buffer {
    fn new(
        display: &Rc<Display>,
        context: Id,
        kind: c_int,
        size: usize,
        data: *mut c_void,
    ) -> Result<Self, CodecError> {
        let mut id = abi::INVALID_ID;
        let bytes = c_uint::try_from(size).map_err(|_| error("a buffer larger than 4 GiB"))?;
        // SAFETY: `data` is null or `size` bytes long, which are copied.
        let status = unsafe {
            (display.library.create_buffer)(display.raw, context, kind, bytes, 1, data, &raw mut id)
        };
        display.check("vaCreateBuffer", status)?;
        Ok(Self {
            display: Rc::clone(display),
            id,
        })
    }

    /// Calls `read` with each part of what was encoded into it, of `limit` bytes together at most.
    pub(super) fn read_coded(
        &self,
        limit: usize,
        mut read: impl FnMut(&[u8]),
    ) -> Result<(), CodecError> {
        let mut start = ptr::null_mut();
        let display = &self.display;
        // SAFETY: the buffer is alive; the pointer is ours to write to.
        let status = unsafe { (display.library.map_buffer)(display.raw, self.id, &raw mut start) };
        display.check("vaMapBuffer", status)?;
        let mut segment = start.cast::<abi::CodedSegment>();
        let (mut total, mut failure) = (0, None);
        while !segment.is_null() {
            // SAFETY: a mapped coded buffer is a list of segments, valid until it is unmapped.
            let part = unsafe { segment.read_unaligned() };
            let size = usize::try_from(part.size).unwrap_or(usize::MAX);
            total = size.saturating_add(total);
            if part.status & abi::CODED_BAD != 0
                || total > limit
                || (size > 0 && part.data.is_null())
            {
                let what = format!(
                    "{}: what it encoded is broken or too large (status {:#x}, {total} bytes)",
                    display.node, part.status
                );
                failure = Some(error(what));
                break;
            }
            if size > 0 {
                // SAFETY: a segment's data are as many bytes as it says, within what the buffer was made for.
                read(unsafe { std::slice::from_raw_parts(part.data.cast::<u8>(), size) });
            }
            segment = part.next.cast();
        }
        // SAFETY: mapped above, and nothing borrows its memory any more.
        let status = unsafe { (display.library.unmap_buffer)(display.raw, self.id) };
        display.check("vaUnmapBuffer", status)?;
        failure.map_or(Ok(()), Err)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: ours, and no picture that uses it is under way: pictures are waited for.
        unsafe { (self.display.library.destroy_buffer)(self.display.raw, self.id) };
    }
}

/// `VASurfaceID`.
#[derive(Debug)]
pub(super) struct Surface {
    display: Rc<Display>,
    pub(super) id: Id,
    size: Size,
}

impl Surface {
    /// NV12 in the driver's own memory.
    pub(super) fn nv12(display: &Rc<Display>, size: Size) -> Result<Self, CodecError> {
        let mut attribute = SurfaceAttrib {
            kind: abi::SURFACE_PIXEL_FORMAT,
            flags: abi::SURFACE_SETTABLE,
            value_kind: abi::GENERIC_INTEGER,
            value: ptr::without_provenance_mut(abi::fourcc::NV12 as usize),
        };
        let attributes = std::slice::from_mut(&mut attribute);
        Self::new(display, abi::rt_format::YUV420, size, attributes)
    }

    /// The memory of another device, where it lies. The driver takes descriptors of its own.
    pub(super) fn import(
        display: &Rc<Display>,
        rt_format: u32,
        descriptor: &abi::PrimeDescriptor,
    ) -> Result<Self, CodecError> {
        let memory = usize::try_from(abi::MEMORY_DRM_PRIME_2).unwrap_or(0);
        let mut attributes = [
            SurfaceAttrib {
                kind: abi::SURFACE_MEMORY_TYPE,
                flags: abi::SURFACE_SETTABLE,
                value_kind: abi::GENERIC_INTEGER,
                value: ptr::without_provenance_mut(memory),
            },
            SurfaceAttrib {
                kind: abi::SURFACE_EXTERNAL,
                flags: abi::SURFACE_SETTABLE,
                value_kind: abi::GENERIC_POINTER,
                value: ptr::from_ref(descriptor).cast_mut().cast(),
            },
        ];
        let size = Size::new(descriptor.width, descriptor.height);
        Self::new(display, rt_format, size, &mut attributes)
    }

    fn new(
        display: &Rc<Display>,
        format: u32,
        size: Size,
        attributes: &mut [SurfaceAttrib],
    ) -> Result<Self, CodecError> {
        let mut id = abi::INVALID_ID;
        let count = c_uint::try_from(attributes.len()).unwrap_or(0);
        // SAFETY: the list is as long as said; what it points to lives as long as the call; one number is written.
        let status = unsafe {
            (display.library.create_surfaces)(
                display.raw,
                format,
                size.width,
                size.height,
                &raw mut id,
                1,
                attributes.as_mut_ptr(),
                count,
            )
        };
        display.check("vaCreateSurfaces", status)?;
        Ok(Self {
            display: Rc::clone(display),
            id,
            size,
        })
    }

    /// Waits for what was rendered from or to it, for as long as the driver does.
    pub(super) fn sync(&self) -> Result<(), CodecError> {
        // SAFETY: the surface is alive.
        let status = unsafe { (self.display.library.sync_surface)(self.display.raw, self.id) };
        self.display.check("vaSyncSurface", status)
    }

    /// Puts the picture of an image of the same size in.
    pub(super) fn put(&self, image: &Image) -> Result<(), CodecError> {
        let Size { width, height } = self.size;
        let display = &self.display;
        // SAFETY: both are alive, and the image is not mapped: `Image::write` unmaps.
        let status = unsafe {
            (display.library.put_image)(
                display.raw,
                self.id,
                image.image.id,
                0,
                0,
                width,
                height,
                0,
                0,
                width,
                height,
            )
        };
        display.check("vaPutImage", status)
    }
}

impl Drop for Surface {
    fn drop(&mut self) {
        // SAFETY: ours, and waited for after each use.
        unsafe {
            (self.display.library.destroy_surfaces)(self.display.raw, &raw mut self.id, 1);
        }
    }
}

/// `VAImage` in NV12: memory of the driver that the CPU writes to.
#[derive(Debug)]
pub(super) struct Image {
    display: Rc<Display>,
    image: abi::Image,
}

impl Image {
    pub(super) fn nv12(display: &Rc<Display>, size: Size) -> Result<Self, CodecError> {
        let (width, height) = sides(size);
        let mut format = abi::ImageFormat {
            fourcc: abi::fourcc::NV12,
            byte_order: 1,
            bits_per_pixel: 12,
            ..abi::ImageFormat::zeroed()
        };
        let mut image = abi::Image::zeroed();
        // SAFETY: the format is read; the image is ours to write to.
        let status = unsafe {
            (display.library.create_image)(
                display.raw,
                &raw mut format,
                width,
                height,
                &raw mut image,
            )
        };
        display.check("vaCreateImage", status)?;
        Ok(Self {
            display: Rc::clone(display),
            image,
        })
    }

    /// Copies a picture in whose lines follow each other without padding: Y, then Cb and Cr in turn.
    pub(super) fn write(&mut self, size: Size, nv12: &[u8]) -> Result<(), CodecError> {
        let display = &self.display;
        let mut start = ptr::null_mut();
        // SAFETY: the image's buffer is alive; the pointer is ours to write to.
        let status =
            unsafe { (display.library.map_buffer)(display.raw, self.image.buffer, &raw mut start) };
        display.check("vaMapBuffer", status)?;
        if start.is_null() {
            return Err(error(format!("{}: it maps nothing", display.node)));
        }
        let length = usize::try_from(self.image.data_size).unwrap_or(0);
        // SAFETY: a mapped image is as long as it says, and nobody else uses it until it is unmapped.
        let memory = unsafe { std::slice::from_raw_parts_mut(start.cast::<u8>(), length) };
        let copied = copy(&self.image, size, nv12, memory);
        // SAFETY: mapped above, and `memory` is not used any more.
        let status = unsafe { (display.library.unmap_buffer)(display.raw, self.image.buffer) };
        display.check("vaUnmapBuffer", status)?;
        copied.ok_or_else(|| error(format!("{}: its image is too small", display.node)))
    }
}

/// `None` if the image's own numbers do not fit its memory.
fn copy(image: &abi::Image, size: Size, nv12: &[u8], memory: &mut [u8]) -> Option<()> {
    let width = usize::try_from(size.width).ok()?;
    let height = usize::try_from(size.height).ok()?;
    let (luma, chroma) = nv12.split_at_checked(width.checked_mul(height)?)?;
    for (plane, lines) in [luma, chroma].into_iter().enumerate() {
        let pitch = usize::try_from(*image.pitches.get(plane)?).ok()?;
        let offset = usize::try_from(*image.offsets.get(plane)?).ok()?;
        for (number, line) in lines.chunks_exact(width).enumerate() {
            let begin = offset.checked_add(pitch.checked_mul(number)?)?;
            memory
                .get_mut(begin..begin.checked_add(width)?)?
                .copy_from_slice(line);
        }
    }
    Some(())
}

impl Drop for Image {
    fn drop(&mut self) {
        // SAFETY: ours, and not mapped.
        unsafe { (self.display.library.destroy_image)(self.display.raw, self.image.id) };
    }
}
