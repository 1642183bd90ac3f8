#![no_main]
//! The decoder library panics on some broken pictures, and the pool catches that. libFuzzer's own hook would end the
//! process before; a panic that nobody catches ends it all the same.

use std::sync::Once;

static QUIET: Once = Once::new();

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    soft_kvm_platform_linux::fuzzing::mjpeg(data);
});
