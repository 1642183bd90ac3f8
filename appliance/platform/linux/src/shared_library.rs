//! Libraries that are loaded when they are first asked for: programs start and run without them.

use std::ffi::{CStr, c_char};

use libloading::Library;

/// Opens a driver library of the system by its soname; `missing` says what is to be installed where it is not there.
pub(crate) fn open(name: &str, missing: &str) -> Result<Library, String> {
    // SAFETY: the libraries of VA-API, GBM, EGL and OpenGL ES have no initialisers but libc's own, and nothing else bears
    // their names on the system's library path.
    unsafe { Library::new(name) }.map_err(|_| format!("{name} is not there: {missing}"))
}

/// A text that such a library gave, without line ends; empty for null.
pub(crate) fn text(from: *const c_char) -> String {
    if from.is_null() {
        return String::new();
    }
    // SAFETY: not null, and their texts end with a zero; it is copied before the call that gave it returns, or stays.
    let text = unsafe { CStr::from_ptr(from) };
    text.to_string_lossy().trim().to_owned()
}
