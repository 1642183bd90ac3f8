//! A graphics device with an OpenGL ES context that shows nothing, and the memory that it reads and draws into. All of it
//! stays on the thread that made it; each is destroyed when dropped, and keeps what it was made from.

use std::ffi::{c_int, c_uint, c_void};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::rc::Rc;
use std::time::Duration;

use soft_kvm_core::Size;
use soft_kvm_video::frame::{Colorimetry, DmaBuf, DmaPlane, Matrix, Range};

use super::abi;
use super::library::{self, Library};
use crate::shared_library;

/// Lists that drivers give are not believed to be longer.
const LIST_MOST: usize = 1024;

/// What EGL must have beside version 1.4.
const EGL_NEEDED: [&str; 4] = [
    "EGL_EXT_image_dma_buf_import",
    "EGL_EXT_image_dma_buf_import_modifiers",
    "EGL_KHR_surfaceless_context",
    "EGL_KHR_no_config_context",
];

/// What OpenGL ES must have beside version 2.0.
const GL_NEEDED: [&str; 2] = ["GL_OES_EGL_image", "GL_OES_EGL_image_external"];

/// A format that is imported, and the ways in which its memory may lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Format {
    /// `DRM_FORMAT_*`.
    pub(super) fourcc: u32,
    /// `DRM_FORMAT_MOD_*`.
    pub(super) modifiers: Vec<u64>,
}

impl Format {
    /// Whether it is imported from memory of this modifier. Where the modifier is not told the driver knows it; one that
    /// lists none, as software renderers do, takes memory that is not tiled.
    pub(super) fn takes(&self, modifier: u64) -> bool {
        match modifier {
            DmaBuf::IMPLICIT => true,
            DmaBuf::LINEAR if self.modifiers.is_empty() => true,
            _ => self.modifiers.contains(&modifier),
        }
    }
}

/// A device and its context, which is current on this thread.
#[derive(Debug)]
pub(super) struct Device {
    library: &'static Library,
    node: String,
    gbm: *mut abi::GbmDevice,
    display: *mut abi::Display,
    context: *mut abi::Context,
    /// Whether the GPU can be waited for with a limit.
    fences: bool,
    // Closed last: GBM works with its number.
    file: OwnedFd,
}

impl Device {
    /// Makes a context of the device that is open as `file`.
    pub(super) fn open(node: &str, file: OwnedFd) -> Result<Rc<Self>, String> {
        let library = library::library()?;
        // SAFETY: the descriptor is open, and stays so for as long as the device is used.
        let gbm = unsafe { (library.create_device)(file.as_raw_fd()) };
        if gbm.is_null() {
            return Err(format!("{node}: no driver of GBM takes it"));
        }
        // Made first, so that what comes next is undone in any case.
        let mut device = Self {
            library,
            node: node.to_owned(),
            gbm,
            display: ptr::null_mut(),
            context: ptr::null_mut(),
            fences: false,
            file,
        };
        device.start()?;
        Ok(Rc::new(device))
    }

    fn start(&mut self) -> Result<(), String> {
        let library = self.library;
        // SAFETY: a GBM device is what this platform takes; no attributes.
        let display = unsafe {
            (library.platform_display)(abi::PLATFORM_GBM, self.gbm.cast::<c_void>(), ptr::null())
        };
        if display.is_null() {
            return Err(self.failed("eglGetPlatformDisplayEXT"));
        }
        let (mut major, mut minor) = (0, 0);
        // SAFETY: a display of this library; both numbers are ours to write to.
        if unsafe { (library.initialize)(display, &raw mut major, &raw mut minor) } == 0 {
            return Err(self.failed("eglInitialize"));
        }
        self.display = display;
        // SAFETY: an initialised display; the text is the library's for as long as the display is.
        let extensions =
            shared_library::text(unsafe { (library.egl_string)(display, abi::EXTENSIONS) });
        self.needs(&extensions, &EGL_NEEDED)?;
        self.fences = has(&extensions, "EGL_KHR_fence_sync");
        let attributes = [abi::CONTEXT_CLIENT_VERSION, 2, abi::NONE];
        // SAFETY: an initialised display; no configuration and no shared context; a list with an end.
        let context = unsafe {
            (library.bind_api)(abi::OPENGL_ES_API);
            (library.create_context)(
                display,
                ptr::null_mut(),
                ptr::null_mut(),
                attributes.as_ptr(),
            )
        };
        if context.is_null() {
            return Err(self.failed("eglCreateContext"));
        }
        self.context = context;
        let none = ptr::null_mut();
        // SAFETY: a context of this display, which is current nowhere else, without surfaces.
        if unsafe { (library.make_current)(display, none, none, context) } == 0 {
            return Err(self.failed("eglMakeCurrent"));
        }
        self.needs(&self.gl_text(abi::GL_EXTENSIONS), &GL_NEEDED)?;
        // SAFETY: the context is current. Equal pictures have to come out equal.
        unsafe { (library.disable)(abi::DITHER) };
        Ok(())
    }

    fn needs(&self, extensions: &str, needed: &[&str]) -> Result<(), String> {
        match needed.iter().find(|name| !has(extensions, name)) {
            Some(name) => Err(format!("{}: its driver has no {name}", self.node)),
            None => Ok(()),
        }
    }

    /// The GPU's name for people.
    pub(super) fn renderer(&self) -> String {
        self.gl_text(abi::RENDERER)
    }

    fn gl_text(&self, which: c_uint) -> String {
        // SAFETY: the context is current; the text is the driver's for as long as it is.
        shared_library::text(unsafe { (self.library.gl_string)(which) })
    }

    /// The card or render node.
    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(super) fn library(&self) -> &'static Library {
        self.library
    }

    /// What EGL says of the last call that failed.
    pub(super) fn failed(&self, action: &str) -> String {
        // SAFETY: takes nothing.
        let code = unsafe { (self.library.egl_error)() };
        format!("{}: {action} failed ({code:#x})", self.node)
    }

    /// What OpenGL ES says, if a call has failed since the last time.
    pub(super) fn check(&self, action: &str) -> Result<(), String> {
        // SAFETY: the context is current.
        match unsafe { (self.library.gl_error)() } {
            0 => Ok(()),
            code => Err(format!("{}: {action}: OpenGL ES {code:#x}", self.node)),
        }
    }

    /// What can be imported to be read.
    pub(super) fn formats(&self) -> Result<Vec<Format>, String> {
        let ask = |list: &mut [c_int]| {
            let (most, mut count) = (c_int::try_from(list.len()).unwrap_or(0), 0);
            // SAFETY: an initialised display; the list has room for as many as we say.
            let done = unsafe {
                (self.library.formats)(self.display, most, list.as_mut_ptr(), &raw mut count)
            };
            (done != 0).then(|| usize::try_from(count).unwrap_or(0).min(LIST_MOST))
        };
        let failed = || self.failed("eglQueryDmaBufFormatsEXT");
        let mut list = vec![0; ask(&mut []).ok_or_else(failed)?];
        let count = ask(&mut list).ok_or_else(failed)?;
        list.truncate(count);
        list.into_iter().map(|fourcc| self.format(fourcc)).collect()
    }

    fn format(&self, fourcc: c_int) -> Result<Format, String> {
        let ask = |list: &mut [u64]| {
            let (most, mut count) = (c_int::try_from(list.len()).unwrap_or(0), 0);
            // Those that are for external textures only count too: these are what we use.
            let mut external = vec![0; list.len()];
            // SAFETY: an initialised display and a format of its list; both lists have room for as many as we say.
            let done = unsafe {
                (self.library.modifiers)(
                    self.display,
                    fourcc,
                    most,
                    list.as_mut_ptr(),
                    external.as_mut_ptr(),
                    &raw mut count,
                )
            };
            (done != 0).then(|| usize::try_from(count).unwrap_or(0).min(LIST_MOST))
        };
        let failed = || self.failed("eglQueryDmaBufModifiersEXT");
        let mut modifiers = vec![0; ask(&mut []).ok_or_else(failed)?];
        let count = ask(&mut modifiers).ok_or_else(failed)?;
        modifiers.truncate(count);
        Ok(Format {
            fourcc: fourcc.cast_unsigned(),
            modifiers,
        })
    }

    /// Waits until all that was drawn is in memory, for `limit` at most.
    pub(super) fn wait(&self, limit: Duration) -> Result<(), String> {
        let library = self.library;
        let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        if self.fences {
            // SAFETY: an initialised display with a current context; no attributes.
            let fence =
                unsafe { (library.create_sync)(self.display, abi::SYNC_FENCE, ptr::null()) };
            if !fence.is_null() {
                // SAFETY: the fence was made just now, and is destroyed once.
                let done = unsafe {
                    let flush = abi::SYNC_FLUSH_COMMANDS;
                    let done = (library.wait_sync)(self.display, fence, flush, nanos);
                    (library.destroy_sync)(self.display, fence);
                    done
                };
                return match done {
                    abi::CONDITION_SATISFIED => Ok(()),
                    _ => Err(format!(
                        "{}: the GPU was not done after {} ms",
                        self.node,
                        limit.as_millis()
                    )),
                };
            }
        }
        // SAFETY: the context is current.
        unsafe { (library.finish)() };
        Ok(())
    }
}

fn has(extensions: &str, name: &str) -> bool {
    extensions.split_ascii_whitespace().any(|one| one == name)
}

impl Drop for Device {
    fn drop(&mut self) {
        let library = self.library;
        let none = ptr::null_mut();
        // SAFETY: each was made by the library and is destroyed once, what was made last first; nothing that was made
        // from them is left, because that keeps the device.
        unsafe {
            if !self.context.is_null() {
                (library.make_current)(self.display, none, none, ptr::null_mut());
                (library.destroy_context)(self.display, self.context);
            }
            if !self.display.is_null() {
                (library.terminate)(self.display);
                (library.release_thread)();
            }
            (library.destroy_device)(self.gbm);
        }
    }
}

/// A list of EGL's attributes, which are pairs, with an end.
struct Attributes {
    list: [c_int; Self::MOST],
    length: usize,
}

impl Attributes {
    /// Size, format, four planes with their modifiers, two hints, the end.
    const MOST: usize = 2 * (2 + 1 + 4 * (3 + 2) + 2) + 1;

    fn new() -> Self {
        Self {
            list: [abi::NONE; Self::MOST],
            length: 0,
        }
    }

    /// The last place stays the end.
    fn push(&mut self, name: c_int, value: c_int) {
        if let Some([first, second, _, ..]) = self.list.get_mut(self.length..) {
            (*first, *second) = (name, value);
            self.length += 2;
        }
    }
}

/// The attributes of a picture in DMA-BUFs.
fn attributes(memory: &DmaBuf<'_>, size: Size, yuv: Option<Colorimetry>) -> Attributes {
    // The bits count: fourccs and halves of modifiers may have the highest one set, the others are small.
    let mut list = Attributes::new();
    list.push(abi::WIDTH, size.width.cast_signed());
    list.push(abi::HEIGHT, size.height.cast_signed());
    list.push(abi::FOURCC, memory.fourcc.cast_signed());
    let [low, high] = [memory.modifier, memory.modifier >> 32]
        .map(|half| u32::try_from(half & u64::from(u32::MAX)).unwrap_or(0));
    let names = abi::PLANES.iter().zip(&abi::MODIFIERS);
    for (plane, ([fd, offset, pitch], [first, second])) in memory.planes.iter().flatten().zip(names)
    {
        list.push(*fd, plane.fd.as_raw_fd());
        list.push(*offset, plane.offset.cast_signed());
        list.push(*pitch, plane.stride.cast_signed());
        if memory.modifier != DmaBuf::IMPLICIT {
            list.push(*first, low.cast_signed());
            list.push(*second, high.cast_signed());
        }
    }
    if let Some(color) = yuv {
        let matrix = match color.matrix {
            Matrix::Bt601 => abi::REC601,
            Matrix::Bt709 => abi::REC709,
            Matrix::Bt2020 => abi::REC2020,
        };
        let range = match color.range {
            Range::Limited => abi::NARROW_RANGE,
            Range::Full => abi::FULL_RANGE,
        };
        list.push(abi::COLOR_SPACE_HINT, matrix);
        list.push(abi::SAMPLE_RANGE_HINT, range);
    }
    list
}

/// Imported DMA-BUFs.
#[derive(Debug)]
struct Image {
    device: Rc<Device>,
    raw: *mut abi::Image,
}

impl Image {
    fn new(
        device: &Rc<Device>,
        memory: &DmaBuf<'_>,
        size: Size,
        yuv: Option<Colorimetry>,
    ) -> Result<Self, String> {
        let attributes = attributes(memory, size, yuv);
        let (context, buffer) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: an initialised display; this target takes no context and no buffer, but a list with an end, whose
        // descriptors are open. EGL takes descriptors of its own.
        let raw = unsafe {
            let list = attributes.list.as_ptr();
            (device.library.create_image)(device.display, context, abi::LINUX_DMA_BUF, buffer, list)
        };
        if raw.is_null() {
            let (action, modifier) = ("eglCreateImageKHR", memory.modifier);
            let why = device.failed(action);
            return Err(format!("{why} for {size}, modifier {modifier:#018x}"));
        }
        Ok(Self {
            device: Rc::clone(device),
            raw,
        })
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // SAFETY: made by this display, and destroyed once; textures and renderbuffers keep the memory themselves.
        unsafe { (self.device.library.destroy_image)(self.device.display, self.raw) };
    }
}

/// A picture to read from.
#[derive(Debug)]
pub(super) struct Texture {
    image: Image,
    pub(super) number: c_uint,
}

impl Texture {
    /// Imports the memory of a picture of `size`; `yuv` says what its samples mean unless they are RGB.
    pub(super) fn import(
        device: &Rc<Device>,
        memory: &DmaBuf<'_>,
        size: Size,
        yuv: Option<Colorimetry>,
    ) -> Result<Self, String> {
        let image = Image::new(device, memory, size, yuv)?;
        let library = device.library;
        let mut texture = Self { image, number: 0 };
        // SAFETY: the context is current, and the image is one of its display.
        unsafe {
            (library.gen_textures)(1, &raw mut texture.number);
            (library.bind_texture)(abi::TEXTURE_EXTERNAL, texture.number);
            for filter in abi::FILTERS {
                (library.texture_parameter)(abi::TEXTURE_EXTERNAL, filter, abi::NEAREST);
            }
            (library.texture_of_image)(abi::TEXTURE_EXTERNAL, texture.image.raw);
        }
        device.check("importing a picture")?;
        Ok(texture)
    }
}

impl Drop for Texture {
    fn drop(&mut self) {
        // SAFETY: the context is current on this thread, which made the texture; 0 is ignored.
        unsafe { (self.image.device.library.delete_textures)(1, &raw const self.number) };
    }
}

/// A buffer of GBM.
#[derive(Debug)]
struct Bo {
    device: Rc<Device>,
    raw: *mut abi::Bo,
}

impl Drop for Bo {
    fn drop(&mut self) {
        // SAFETY: made by this device, and destroyed once.
        unsafe { (self.device.library.destroy_bo)(self.raw) };
    }
}

/// Linear memory to draw into.
#[derive(Debug)]
pub(super) struct Target {
    image: Image,
    _bo: Bo,
    renderbuffer: c_uint,
    pub(super) framebuffer: c_uint,
    pub(super) size: Size,
}

/// A target's memory for others.
#[derive(Debug)]
pub(crate) struct Linear {
    /// The DMA-BUF.
    pub(crate) fd: OwnedFd,
    /// First byte.
    pub(crate) offset: u32,
    /// Bytes from one line to the next.
    pub(crate) stride: u32,
}

impl Target {
    /// Takes memory for a picture of `size` in the format `fourcc`.
    pub(super) fn new(
        device: &Rc<Device>,
        size: Size,
        fourcc: u32,
    ) -> Result<(Self, Linear), String> {
        let library = device.library;
        // SAFETY: the device is open; size and format are numbers that it may refuse.
        let raw = unsafe {
            let usage = abi::USE_RENDERING_LINEAR;
            (library.create_bo)(device.gbm, size.width, size.height, fourcc, usage)
        };
        if raw.is_null() {
            let node = &device.node;
            return Err(format!("{node}: no linear memory of {size} to draw into"));
        }
        let bo = Bo {
            device: Rc::clone(device),
            raw,
        };
        // SAFETY: the buffer is there, and has a first plane.
        let (fd, stride, offset, modifier) = unsafe {
            (
                (library.bo_fd)(raw),
                (library.bo_stride)(raw),
                (library.bo_offset)(raw, 0),
                (library.bo_modifier)(raw),
            )
        };
        if fd < 0 {
            let node = &device.node;
            return Err(format!("{node}: its memory cannot be a DMA-BUF"));
        }
        // SAFETY: the descriptor was made for this call; nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        if modifier != DmaBuf::LINEAR && modifier != DmaBuf::IMPLICIT {
            let node = &device.node;
            return Err(format!(
                "{node}: memory that was asked to be linear has modifier {modifier:#018x}"
            ));
        }
        let memory = DmaBuf {
            fourcc,
            modifier,
            planes: [Some(plane(fd.as_fd(), offset, stride)), None, None, None],
        };
        let image = Image::new(device, &memory, size, None)?;
        let mut target = Self {
            image,
            _bo: bo,
            renderbuffer: 0,
            framebuffer: 0,
            size,
        };
        target.attach()?;
        let linear = Linear { fd, offset, stride };
        Ok((target, linear))
    }

    fn attach(&mut self) -> Result<(), String> {
        let device = &self.image.device;
        let library = device.library;
        // SAFETY: the context is current, and the image is one of its display.
        let status = unsafe {
            (library.gen_renderbuffers)(1, &raw mut self.renderbuffer);
            (library.bind_renderbuffer)(abi::RENDERBUFFER, self.renderbuffer);
            (library.renderbuffer_of_image)(abi::RENDERBUFFER, self.image.raw);
            (library.gen_framebuffers)(1, &raw mut self.framebuffer);
            (library.bind_framebuffer)(abi::FRAMEBUFFER, self.framebuffer);
            (library.framebuffer_renderbuffer)(
                abi::FRAMEBUFFER,
                abi::COLOR_ATTACHMENT,
                abi::RENDERBUFFER,
                self.renderbuffer,
            );
            (library.framebuffer_status)(abi::FRAMEBUFFER)
        };
        device.check("making memory to draw into")?;
        if status == abi::FRAMEBUFFER_COMPLETE {
            return Ok(());
        }
        let node = &device.node;
        Err(format!(
            "{node}: cannot draw into linear memory of {} ({status:#x})",
            self.size
        ))
    }
}

fn plane(fd: BorrowedFd<'_>, offset: u32, stride: u32) -> DmaPlane<'_> {
    // The length is not told to EGL.
    DmaPlane {
        fd,
        offset,
        stride,
        length: 0,
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let library = self.image.device.library;
        // SAFETY: the context is current on this thread, which made both; 0 is ignored.
        unsafe {
            (library.delete_framebuffers)(1, &raw const self.framebuffer);
            (library.delete_renderbuffers)(1, &raw const self.renderbuffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modifiers_that_a_driver_takes() {
        const TILED: u64 = 0x0100_0000_0000_0002;
        const OTHER: u64 = 0x0200_0000_0000_0001;
        let takes = |modifiers: &[u64], modifier| {
            let modifiers = modifiers.to_vec();
            Format {
                fourcc: 0,
                modifiers,
            }
            .takes(modifier)
        };
        for (listed, modifier, taken) in [
            (&[][..], DmaBuf::LINEAR, true),
            (&[], DmaBuf::IMPLICIT, true),
            (&[], TILED, false),
            (&[TILED], TILED, true),
            (&[TILED], OTHER, false),
            (&[TILED], DmaBuf::LINEAR, false),
            (&[TILED], DmaBuf::IMPLICIT, true),
            (&[DmaBuf::LINEAR, TILED], DmaBuf::LINEAR, true),
        ] {
            assert_eq!(
                takes(listed, modifier),
                taken,
                "{modifier:#x} of {listed:?}"
            );
        }
    }

    #[test]
    fn attributes_of_a_compressed_picture() {
        let file = std::fs::File::open("/dev/null").expect("a descriptor");
        let fd = file.as_raw_fd();
        let one = |offset| Some(plane(file.as_fd(), offset, 256));
        let memory = DmaBuf {
            fourcc: u32::from_le_bytes(*b"XR24"),
            modifier: 0x0100_0000_8000_0004,
            planes: [one(0), one(4096), None, None],
        };
        let got = attributes(&memory, Size::new(64, 48), None);
        let (low, high) = (0x8000_0004_u32.cast_signed(), 0x0100_0000);
        let expected = [
            [abi::WIDTH, 64],
            [abi::HEIGHT, 48],
            [abi::FOURCC, memory.fourcc.cast_signed()],
            [0x3272, fd],
            [0x3273, 0],
            [0x3274, 256],
            [0x3443, low],
            [0x3444, high],
            [0x3275, fd],
            [0x3276, 4096],
            [0x3277, 256],
            [0x3445, low],
            [0x3446, high],
        ];
        let length = 2 * expected.len();
        assert_eq!(got.list[..length], *expected.as_flattened());
        assert!(got.list[length..].iter().all(|end| *end == abi::NONE));
    }

    #[test]
    fn the_fullest_list_has_an_end_and_an_implicit_modifier_is_not_told() {
        let file = std::fs::File::open("/dev/null").expect("a descriptor");
        let one = Some(plane(file.as_fd(), 0, 64));
        let mut memory = DmaBuf {
            fourcc: u32::from_le_bytes(*b"NV12"),
            modifier: 1,
            planes: [one; 4],
        };
        let yuv = Some(Colorimetry::default());
        let full = attributes(&memory, Size::new(64, 48), yuv);
        assert_eq!(full.length, Attributes::MOST - 1);
        assert_eq!(full.list[full.length], abi::NONE);
        assert_eq!(
            full.list[full.length - 4..full.length],
            [
                abi::COLOR_SPACE_HINT,
                abi::REC709,
                abi::SAMPLE_RANGE_HINT,
                abi::NARROW_RANGE
            ]
        );
        memory.modifier = DmaBuf::IMPLICIT;
        let short = attributes(&memory, Size::new(64, 48), yuv);
        assert_eq!(short.length, full.length - 4 * 2 * 2);
    }
}
