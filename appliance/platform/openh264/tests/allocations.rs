//! The hot path allocates nothing in Rust code for a frame once warm. OpenH264 allocates by itself, in C.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use soft_kvm_core::{Bitrate, FrameRate, MonoTime, Size};
use soft_kvm_platform_openh264::{Decoder, Encoder};
use soft_kvm_protocol::input::echo::EchoSnapshot;
use soft_kvm_video::codec::{EncoderConfig, VideoDecoder, VideoEncoder};
use soft_kvm_video::convert::Converter;
use soft_kvm_video::source::Content;
use soft_kvm_video::testcard::{TestCard, TestCardConfig};

/// Counts what the thread allocates.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending has no counter any more.
    let _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn drawing_converting_encoding_and_decoding_allocate_nothing_once_warm() {
    let (size, rate) = (Size::new(640, 480), FrameRate::hz(30));
    for (_, content) in Content::ALL {
        let mut card = TestCard::new(TestCardConfig {
            size,
            rate,
            content,
            name: "test".to_owned(),
            still: false,
        });
        let mut converter = Converter::new();
        let config = EncoderConfig {
            size,
            rate,
            bitrate: Bitrate::kbps(2_000),
            intra_refresh: 0,
        };
        let mut encoder = Encoder::open(config).expect("the size is supported");
        let mut decoder = Decoder::open().expect("decoder");
        // As large as the driver's: an access unit of any size fits.
        let mut unit = Vec::with_capacity(1 << 20);
        let mut echo = EchoSnapshot {
            text: "some text".to_owned(),
            ..EchoSnapshot::default()
        };
        let mut before = 0;
        for index in 0..330_u32 {
            if index == 30 {
                before = ALLOCATIONS.get();
            }
            echo.reports = index / 7;
            let now = MonoTime::from_nanos(u64::from(index) * 33_333_333);
            let frame = card.draw_frame(now, &echo).expect("a buffer is free");
            converter
                .update(&frame)
                .expect("the card's frames are whole");
            drop(frame);
            encoder
                .encode(converter.picture(), index % 100 == 50, &mut unit)
                .expect("works");
            let picture = decoder.decode(&unit).expect("sound");
            assert!(picture.is_some());
        }
        assert_eq!(ALLOCATIONS.get() - before, 0, "{content}, 300 frames");
    }
}
