//! Numbers and handles of GBM, EGL and OpenGL ES, as their headers have them (`gbm.h`, `EGL/egl.h`, `EGL/eglext.h`,
//! `GLES2/gl2.h`, `GLES2/gl2ext.h`).

use std::ffi::{c_int, c_uint};

/// `EGLBoolean`.
pub(super) type Boolean = c_uint;

macro_rules! opaque {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug)]
            #[repr(C)]
            pub(super) struct $name {
                _private: [u8; 0],
            }
        )*
    };
}

opaque! {
    /// `struct gbm_device`.
    GbmDevice;
    /// `struct gbm_bo`.
    Bo;
    /// What `EGLDisplay` points to.
    Display;
    /// What `EGLContext` points to.
    Context;
    /// What `EGLImageKHR` points to.
    Image;
    /// What `EGLSyncKHR` points to.
    Sync;
}

/// `GBM_BO_USE_RENDERING | GBM_BO_USE_LINEAR`.
pub(super) const USE_RENDERING_LINEAR: u32 = 1 << 2 | 1 << 4;

/// `EGL_PLATFORM_GBM_KHR`.
pub(super) const PLATFORM_GBM: c_uint = 0x31D7;
/// `EGL_OPENGL_ES_API`.
pub(super) const OPENGL_ES_API: c_uint = 0x30A0;
/// `EGL_EXTENSIONS`.
pub(super) const EXTENSIONS: c_int = 0x3055;
/// `EGL_CONTEXT_CLIENT_VERSION`.
pub(super) const CONTEXT_CLIENT_VERSION: c_int = 0x3098;
/// `EGL_NONE`.
pub(super) const NONE: c_int = 0x3038;
/// `EGL_LINUX_DMA_BUF_EXT`.
pub(super) const LINUX_DMA_BUF: c_uint = 0x3270;
/// `EGL_WIDTH`.
pub(super) const WIDTH: c_int = 0x3057;
/// `EGL_HEIGHT`.
pub(super) const HEIGHT: c_int = 0x3056;
/// `EGL_LINUX_DRM_FOURCC_EXT`.
pub(super) const FOURCC: c_int = 0x3271;
/// `EGL_DMA_BUF_PLANE0_FD_EXT`, `…_OFFSET_EXT`, `…_PITCH_EXT`, then those of the other planes.
pub(super) const PLANES: [[c_int; 3]; 4] = [
    [0x3272, 0x3273, 0x3274],
    [0x3275, 0x3276, 0x3277],
    [0x3278, 0x3279, 0x327A],
    [0x3440, 0x3441, 0x3442],
];
/// `EGL_DMA_BUF_PLANE0_MODIFIER_LO_EXT`, `…_HI_EXT`, then those of the other planes.
pub(super) const MODIFIERS: [[c_int; 2]; 4] = [
    [0x3443, 0x3444],
    [0x3445, 0x3446],
    [0x3447, 0x3448],
    [0x3449, 0x344A],
];
/// `EGL_YUV_COLOR_SPACE_HINT_EXT`.
pub(super) const COLOR_SPACE_HINT: c_int = 0x327B;
/// `EGL_SAMPLE_RANGE_HINT_EXT`.
pub(super) const SAMPLE_RANGE_HINT: c_int = 0x327C;
/// `EGL_ITU_REC601_EXT`.
pub(super) const REC601: c_int = 0x327F;
/// `EGL_ITU_REC709_EXT`.
pub(super) const REC709: c_int = 0x3280;
/// `EGL_ITU_REC2020_EXT`.
pub(super) const REC2020: c_int = 0x3281;
/// `EGL_YUV_FULL_RANGE_EXT`.
pub(super) const FULL_RANGE: c_int = 0x3282;
/// `EGL_YUV_NARROW_RANGE_EXT`.
pub(super) const NARROW_RANGE: c_int = 0x3283;
/// `EGL_SYNC_FENCE_KHR`.
pub(super) const SYNC_FENCE: c_uint = 0x30F9;
/// `EGL_SYNC_FLUSH_COMMANDS_BIT_KHR`.
pub(super) const SYNC_FLUSH_COMMANDS: c_int = 1;
/// `EGL_CONDITION_SATISFIED_KHR`.
pub(super) const CONDITION_SATISFIED: c_int = 0x30F6;

/// `GL_RENDERER`.
pub(super) const RENDERER: c_uint = 0x1F01;
/// `GL_EXTENSIONS`.
pub(super) const GL_EXTENSIONS: c_uint = 0x1F03;
/// `GL_DITHER`.
pub(super) const DITHER: c_uint = 0x0BD0;
/// `GL_TEXTURE_EXTERNAL_OES`.
pub(super) const TEXTURE_EXTERNAL: c_uint = 0x8D65;
/// `GL_TEXTURE_MIN_FILTER`, `GL_TEXTURE_MAG_FILTER`.
pub(super) const FILTERS: [c_uint; 2] = [0x2801, 0x2800];
/// `GL_NEAREST`.
pub(super) const NEAREST: c_int = 0x2600;
/// `GL_FRAMEBUFFER`.
pub(super) const FRAMEBUFFER: c_uint = 0x8D40;
/// `GL_RENDERBUFFER`.
pub(super) const RENDERBUFFER: c_uint = 0x8D41;
/// `GL_COLOR_ATTACHMENT0`.
pub(super) const COLOR_ATTACHMENT: c_uint = 0x8CE0;
/// `GL_FRAMEBUFFER_COMPLETE`.
pub(super) const FRAMEBUFFER_COMPLETE: c_uint = 0x8CD5;
/// `GL_VERTEX_SHADER`.
pub(super) const VERTEX_SHADER: c_uint = 0x8B31;
/// `GL_FRAGMENT_SHADER`.
pub(super) const FRAGMENT_SHADER: c_uint = 0x8B30;
/// `GL_LINK_STATUS`.
pub(super) const LINK_STATUS: c_uint = 0x8B82;
/// `GL_FLOAT`.
pub(super) const FLOAT: c_uint = 0x1406;
/// `GL_TRIANGLES`.
pub(super) const TRIANGLES: c_uint = 0x0004;
