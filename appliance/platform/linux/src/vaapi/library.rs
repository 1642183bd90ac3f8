//! libva, loaded when it is first asked for: programs start and run without it.

use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::fmt;
use std::sync::OnceLock;

use libloading::Library as Shared;

use super::abi::{ConfigAttrib, Id, Image, ImageFormat, RawDisplay, Status, SurfaceAttrib};
use crate::shared_library;

/// What is to be installed where it is missing.
const MISSING: &str = "install libva (Debian: libva2 and libva-drm2)";

/// `VAMessageCallback`.
type MessageCallback = extern "C" fn(*mut c_void, *const c_char);

macro_rules! functions {
    ($($field:ident = $symbol:literal: fn($($argument:ty),* $(,)?) $(-> $result:ty)?;)*) => {
        /// The functions of libva that are used, under their names without `va`.
        pub(super) struct Library {
            $(pub(super) $field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            // The functions are theirs; they are never unloaded, because drivers leave threads behind.
            _va: Shared,
            _drm: Shared,
        }

        impl Library {
            fn load() -> Result<Self, String> {
                let va = shared_library::open("libva.so.2", MISSING)?;
                let drm = shared_library::open("libva-drm.so.2", MISSING)?;
                $(
                    let library = if $symbol == "vaGetDisplayDRM" { &drm } else { &va };
                    // SAFETY: the symbol is a function of this type since libva 2.0 (VA-API 1.0); the library is kept.
                    let $field = unsafe {
                        library.get::<unsafe extern "C" fn($($argument),*) $(-> $result)?>($symbol.as_bytes())
                    };
                    let $field = *$field.map_err(|why| format!("libva has no {}: {why}", $symbol))?;
                )*
                Ok(Self { $($field,)* _va: va, _drm: drm })
            }
        }
    };
}

functions! {
    get_display = "vaGetDisplayDRM": fn(c_int) -> RawDisplay;
    initialize = "vaInitialize": fn(RawDisplay, *mut c_int, *mut c_int) -> Status;
    terminate = "vaTerminate": fn(RawDisplay) -> Status;
    error_text = "vaErrorStr": fn(Status) -> *const c_char;
    vendor = "vaQueryVendorString": fn(RawDisplay) -> *const c_char;
    set_error_callback = "vaSetErrorCallback":
        fn(RawDisplay, Option<MessageCallback>, *mut c_void) -> Option<MessageCallback>;
    set_info_callback = "vaSetInfoCallback":
        fn(RawDisplay, Option<MessageCallback>, *mut c_void) -> Option<MessageCallback>;
    max_profiles = "vaMaxNumProfiles": fn(RawDisplay) -> c_int;
    max_entrypoints = "vaMaxNumEntrypoints": fn(RawDisplay) -> c_int;
    profiles = "vaQueryConfigProfiles": fn(RawDisplay, *mut c_int, *mut c_int) -> Status;
    entrypoints = "vaQueryConfigEntrypoints": fn(RawDisplay, c_int, *mut c_int, *mut c_int) -> Status;
    attributes = "vaGetConfigAttributes":
        fn(RawDisplay, c_int, c_int, *mut ConfigAttrib, c_int) -> Status;
    create_config = "vaCreateConfig":
        fn(RawDisplay, c_int, c_int, *mut ConfigAttrib, c_int, *mut Id) -> Status;
    destroy_config = "vaDestroyConfig": fn(RawDisplay, Id) -> Status;
    create_context = "vaCreateContext":
        fn(RawDisplay, Id, c_int, c_int, c_int, *mut Id, c_int, *mut Id) -> Status;
    destroy_context = "vaDestroyContext": fn(RawDisplay, Id) -> Status;
    create_surfaces = "vaCreateSurfaces":
        fn(RawDisplay, c_uint, c_uint, c_uint, *mut Id, c_uint, *mut SurfaceAttrib, c_uint) -> Status;
    destroy_surfaces = "vaDestroySurfaces": fn(RawDisplay, *mut Id, c_int) -> Status;
    sync_surface = "vaSyncSurface": fn(RawDisplay, Id) -> Status;
    create_buffer = "vaCreateBuffer":
        fn(RawDisplay, Id, c_int, c_uint, c_uint, *mut c_void, *mut Id) -> Status;
    destroy_buffer = "vaDestroyBuffer": fn(RawDisplay, Id) -> Status;
    map_buffer = "vaMapBuffer": fn(RawDisplay, Id, *mut *mut c_void) -> Status;
    unmap_buffer = "vaUnmapBuffer": fn(RawDisplay, Id) -> Status;
    begin_picture = "vaBeginPicture": fn(RawDisplay, Id, Id) -> Status;
    render_picture = "vaRenderPicture": fn(RawDisplay, Id, *mut Id, c_int) -> Status;
    end_picture = "vaEndPicture": fn(RawDisplay, Id) -> Status;
    create_image = "vaCreateImage":
        fn(RawDisplay, *mut ImageFormat, c_int, c_int, *mut Image) -> Status;
    destroy_image = "vaDestroyImage": fn(RawDisplay, Id) -> Status;
    put_image = "vaPutImage":
        fn(RawDisplay, Id, Id, c_int, c_int, c_uint, c_uint, c_int, c_int, c_uint, c_uint) -> Status;
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("libva")
    }
}

/// The library, or why it is of no use.
pub(super) fn library() -> Result<&'static Library, String> {
    static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
    LIBRARY
        .get_or_init(Library::load)
        .as_ref()
        .map_err(Clone::clone)
}

thread_local! {
    /// What libva or a driver complained of last, on this thread: it calls back on the thread that called it.
    static COMPLAINT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Messages of libva and its drivers go to the log instead of the standard error output.
pub(super) extern "C" fn on_error(_context: *mut c_void, message: *const c_char) {
    let message = shared_library::text(message);
    tracing::debug!(message, "libva");
    // A driver's own threads may outlive this thread's memory: then nobody reads it.
    let _ = COMPLAINT.try_with(|complaint| *complaint.borrow_mut() = message);
}

pub(super) extern "C" fn on_info(_context: *mut c_void, message: *const c_char) {
    tracing::trace!(message = shared_library::text(message), "libva");
}

/// The last complaint on this thread, taken.
pub(super) fn complaint() -> String {
    COMPLAINT.with(RefCell::take)
}
