#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| soft_kvm_video::fuzzing::cursor_png(data));
