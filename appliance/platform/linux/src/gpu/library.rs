//! libgbm, libEGL and libGLESv2, loaded when they are first asked for: programs start and run without them.

use std::ffi::{CString, c_char, c_float, c_int, c_uint, c_void};
use std::fmt;
use std::sync::OnceLock;

use libloading::Library as Shared;

use super::abi::{Bo, Boolean, Context, Display, GbmDevice, Image, Sync};
use crate::shared_library;

/// What is to be installed where one is missing.
const MISSING: &str =
    "install EGL, GBM and OpenGL ES (Debian: libegl1, libgbm1, libgles2 and libgl1-mesa-dri)";

/// A function of any type, as the loaders give it.
type Address = *mut c_void;

macro_rules! functions {
    ($($field:ident = $symbol:literal: fn($($argument:ty),* $(,)?) $(-> $result:ty)?;)*) => {
        /// The functions that are used, under names of their own.
        pub(super) struct Library {
            $(pub(super) $field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            // The functions are theirs; they are never unloaded, because drivers leave threads behind.
            _files: Files,
        }

        impl Library {
            fn load() -> Result<Self, String> {
                let files = Files::open()?;
                $(
                    let address = files.find($symbol)?;
                    // SAFETY: the function of this name has this type (gbm.h, EGL/egl.h, EGL/eglext.h, GLES2/gl2.h,
                    // GLES2/gl2ext.h), and the address is not null.
                    let $field = unsafe {
                        std::mem::transmute::<Address, unsafe extern "C" fn($($argument),*) $(-> $result)?>(address)
                    };
                )*
                Ok(Self { $($field,)* _files: files })
            }
        }
    };
}

functions! {
    create_device = "gbm_create_device": fn(c_int) -> *mut GbmDevice;
    destroy_device = "gbm_device_destroy": fn(*mut GbmDevice);
    create_bo = "gbm_bo_create": fn(*mut GbmDevice, u32, u32, u32, u32) -> *mut Bo;
    destroy_bo = "gbm_bo_destroy": fn(*mut Bo);
    bo_fd = "gbm_bo_get_fd": fn(*mut Bo) -> c_int;
    bo_stride = "gbm_bo_get_stride": fn(*mut Bo) -> u32;
    bo_offset = "gbm_bo_get_offset": fn(*mut Bo, c_int) -> u32;
    bo_modifier = "gbm_bo_get_modifier": fn(*mut Bo) -> u64;

    egl_error = "eglGetError": fn() -> c_int;
    egl_string = "eglQueryString": fn(*mut Display, c_int) -> *const c_char;
    initialize = "eglInitialize": fn(*mut Display, *mut c_int, *mut c_int) -> Boolean;
    terminate = "eglTerminate": fn(*mut Display) -> Boolean;
    bind_api = "eglBindAPI": fn(c_uint) -> Boolean;
    create_context = "eglCreateContext":
        fn(*mut Display, *mut c_void, *mut Context, *const c_int) -> *mut Context;
    destroy_context = "eglDestroyContext": fn(*mut Display, *mut Context) -> Boolean;
    make_current = "eglMakeCurrent":
        fn(*mut Display, *mut c_void, *mut c_void, *mut Context) -> Boolean;
    release_thread = "eglReleaseThread": fn() -> Boolean;
    platform_display = "eglGetPlatformDisplayEXT":
        fn(c_uint, *mut c_void, *const c_int) -> *mut Display;
    create_image = "eglCreateImageKHR":
        fn(*mut Display, *mut Context, c_uint, *mut c_void, *const c_int) -> *mut Image;
    destroy_image = "eglDestroyImageKHR": fn(*mut Display, *mut Image) -> Boolean;
    formats = "eglQueryDmaBufFormatsEXT":
        fn(*mut Display, c_int, *mut c_int, *mut c_int) -> Boolean;
    modifiers = "eglQueryDmaBufModifiersEXT":
        fn(*mut Display, c_int, c_int, *mut u64, *mut Boolean, *mut c_int) -> Boolean;
    create_sync = "eglCreateSyncKHR": fn(*mut Display, c_uint, *const c_int) -> *mut Sync;
    wait_sync = "eglClientWaitSyncKHR": fn(*mut Display, *mut Sync, c_int, u64) -> c_int;
    destroy_sync = "eglDestroySyncKHR": fn(*mut Display, *mut Sync) -> Boolean;

    gl_error = "glGetError": fn() -> c_uint;
    gl_string = "glGetString": fn(c_uint) -> *const c_char;
    disable = "glDisable": fn(c_uint);
    gen_textures = "glGenTextures": fn(c_int, *mut c_uint);
    delete_textures = "glDeleteTextures": fn(c_int, *const c_uint);
    bind_texture = "glBindTexture": fn(c_uint, c_uint);
    texture_parameter = "glTexParameteri": fn(c_uint, c_uint, c_int);
    texture_of_image = "glEGLImageTargetTexture2DOES": fn(c_uint, *mut Image);
    gen_renderbuffers = "glGenRenderbuffers": fn(c_int, *mut c_uint);
    delete_renderbuffers = "glDeleteRenderbuffers": fn(c_int, *const c_uint);
    bind_renderbuffer = "glBindRenderbuffer": fn(c_uint, c_uint);
    renderbuffer_of_image = "glEGLImageTargetRenderbufferStorageOES": fn(c_uint, *mut Image);
    gen_framebuffers = "glGenFramebuffers": fn(c_int, *mut c_uint);
    delete_framebuffers = "glDeleteFramebuffers": fn(c_int, *const c_uint);
    bind_framebuffer = "glBindFramebuffer": fn(c_uint, c_uint);
    framebuffer_renderbuffer = "glFramebufferRenderbuffer": fn(c_uint, c_uint, c_uint, c_uint);
    framebuffer_status = "glCheckFramebufferStatus": fn(c_uint) -> c_uint;
    create_shader = "glCreateShader": fn(c_uint) -> c_uint;
    shader_source = "glShaderSource":
        fn(c_uint, c_int, *const *const c_char, *const c_int);
    compile_shader = "glCompileShader": fn(c_uint);
    delete_shader = "glDeleteShader": fn(c_uint);
    create_program = "glCreateProgram": fn() -> c_uint;
    attach_shader = "glAttachShader": fn(c_uint, c_uint);
    bind_attribute = "glBindAttribLocation": fn(c_uint, c_uint, *const c_char);
    link_program = "glLinkProgram": fn(c_uint);
    program_value = "glGetProgramiv": fn(c_uint, c_uint, *mut c_int);
    program_log = "glGetProgramInfoLog": fn(c_uint, c_int, *mut c_int, *mut c_char);
    use_program = "glUseProgram": fn(c_uint);
    delete_program = "glDeleteProgram": fn(c_uint);
    uniform_location = "glGetUniformLocation": fn(c_uint, *const c_char) -> c_int;
    uniform_4f = "glUniform4f": fn(c_int, c_float, c_float, c_float, c_float);
    viewport = "glViewport": fn(c_int, c_int, c_int, c_int);
    attribute_pointer = "glVertexAttribPointer":
        fn(c_uint, c_int, c_uint, u8, c_int, *const c_void);
    enable_attribute = "glEnableVertexAttribArray": fn(c_uint);
    draw_arrays = "glDrawArrays": fn(c_uint, c_int, c_int);
    finish = "glFinish": fn();
}

/// The three libraries, and EGL's own way to its extensions.
struct Files {
    gbm: Shared,
    egl: Shared,
    gles: Shared,
    address: unsafe extern "C" fn(*const c_char) -> Address,
}

impl Files {
    fn open() -> Result<Self, String> {
        let gbm = shared_library::open("libgbm.so.1", MISSING)?;
        let egl = shared_library::open("libEGL.so.1", MISSING)?;
        let gles = shared_library::open("libGLESv2.so.2", MISSING)?;
        // SAFETY: the symbol is a function of this type since EGL 1.0; the library is kept.
        let address = unsafe { egl.get(b"eglGetProcAddress\0") };
        let address = *address.map_err(|why| format!("libEGL has no eglGetProcAddress: {why}"))?;
        Ok(Self {
            gbm,
            egl,
            gles,
            address,
        })
    }

    fn find(&self, symbol: &str) -> Result<Address, String> {
        let name = CString::new(symbol).map_err(|why| why.to_string())?;
        let extension = ["KHR", "EXT", "OES"]
            .iter()
            .any(|end| symbol.ends_with(end));
        let found = if extension {
            // SAFETY: the name is a text with a zero at its end, which is read during the call.
            unsafe { (self.address)(name.as_ptr()) }
        } else {
            let file = match symbol.get(..3) {
                Some("gbm") => &self.gbm,
                Some("egl") => &self.egl,
                _ => &self.gles,
            };
            // SAFETY: the symbol is a function; the library is kept.
            let found = unsafe { file.get::<Address>(name.as_bytes_with_nul()) };
            found.map_or(std::ptr::null_mut(), |function| *function)
        };
        (!found.is_null())
            .then_some(found)
            .ok_or_else(|| format!("the EGL and OpenGL ES of this machine have no {symbol}"))
    }
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EGL")
    }
}

/// The libraries, or why they are of no use.
pub(super) fn library() -> Result<&'static Library, String> {
    static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
    LIBRARY
        .get_or_init(Library::load)
        .as_ref()
        .map_err(Clone::clone)
}
