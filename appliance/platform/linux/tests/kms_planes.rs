//! Formats, planes, cursor and changes of a screen of the kernel's virtual display.
#![expect(
    clippy::disallowed_macros,
    reason = "each test says what it saw, for the lab's report"
)]

use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use drm::buffer::DrmFourcc;
use drm::control::{Device as _, PageFlipFlags, PlaneType};
use soft_kvm_core::story::GpuMode;
use soft_kvm_core::{FrameRate, Size};
use soft_kvm_platform_linux::capability::{self, SysAdmin};
use soft_kvm_platform_linux::kms::{KmsOptions, KmsSource};
use soft_kvm_video::convert::expand;
use soft_kvm_video::cursor::Cursor;
use soft_kvm_video::frame::{DmaBuf, Frame, PixelFormat, Plane};
use soft_kvm_video::source::{Captured, NoPicture, SourceError, VideoSource};

mod screen;
use screen::{Display, Fb};

const SMALL: (u32, u32) = (640, 480);
const LARGE: (u32, u32) = (1024, 768);

fn display() -> (PathBuf, Display) {
    let load = "$MODPROBE vkms enable_overlay=1";
    let loaded = Command::new("sh").args(["-c", load]).status();
    assert!(loaded.is_ok_and(|status| status.success()), "{load}");
    let node = screen::node("vkms").expect("vkms is loaded");
    let display = Display::open(&node).expect("the card opens");
    (node, display)
}

/// A source of 60 pictures in a second.
fn open(node: &PathBuf) -> KmsSource {
    open_at(node, 60)
}

fn open_at(node: &PathBuf, rate: u32) -> KmsSource {
    let options = KmsOptions {
        rate: FrameRate::hz(rate),
        ..KmsOptions::new(node)
    };
    KmsSource::open(options).expect("it opens")
}

fn background(x: u32, y: u32) -> [u8; 4] {
    // Pairs of pixels and lines are alike, for NV12.
    let byte = |value: u32| u8::try_from(value & 0xff).unwrap_or(0);
    [byte(x / 2), byte(y / 2), byte((x / 2 + y / 2) / 2), 255]
}

fn shown(display: &Display, size: (u32, u32), fourcc: DrmFourcc) -> Fb {
    let mut fb = display.fb(size, fourcc).expect("a framebuffer");
    display.paint(&mut fb, background).expect("painted");
    display.show(&fb).expect("shown");
    fb
}

/// What comes next that `wanted` wants.
fn until<T>(source: &mut KmsSource, mut wanted: impl FnMut(Captured) -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        let captured = source.next(Duration::from_millis(100)).expect("it stays");
        if let Some(found) = wanted(captured) {
            return found;
        }
    }
    panic!("not within 10 s");
}

fn next_frame(source: &mut KmsSource) -> Frame {
    until(source, |captured| match captured {
        Captured::Frame(frame) => Some(frame),
        _ => None,
    })
}

fn next_cursor(source: &mut KmsSource, wanted: impl Fn(&Cursor) -> bool) -> Cursor {
    until(source, |captured| match captured {
        Captured::Cursor(cursor) => wanted(&cursor).then_some(cursor),
        _ => None,
    })
}

/// The frame's pixels as R, G, B.
fn pixel(frame: &Frame, x: u32, y: u32) -> [u8; 3] {
    let planes: [Option<Plane<'_>>; 3] = std::array::from_fn(|plane| frame.plane(plane));
    let info = frame.info();
    let mut out = [[0; 4]];
    let (x, y) = (x as usize, y as usize);
    assert!(expand::line(
        info.format,
        info.color,
        &planes,
        y,
        x,
        &mut out
    ));
    let [b, g, r, _] = out[0];
    [r, g, b]
}

fn check(frame: &Frame, tolerance: u8, wanted: impl Fn(u32, u32) -> [u8; 4]) {
    let size = frame.info().size;
    for y in (0..size.height).step_by(7) {
        for x in (0..size.width).step_by(5) {
            let got = pixel(frame, x, y);
            let near = got
                .iter()
                .zip(wanted(x, y))
                .all(|(got, wanted)| got.abs_diff(wanted) <= tolerance);
            assert!(near, "{got:?}, not {:?} at {x},{y}", wanted(x, y));
        }
    }
}

/// Shows a framebuffer of this format, and looks at the frame that a source which opens then gives of it. The CPU has touched none
/// of it before.
fn see(
    (node, display): &(PathBuf, Display),
    fourcc: DrmFourcc,
    open: impl FnOnce(&PathBuf) -> KmsSource,
    look: impl FnOnce(&Frame, &KmsSource, &Fb),
) {
    let fb = shown(display, SMALL, fourcc);
    let mut source = open(node);
    let frame = next_frame(&mut source);
    assert_eq!(frame.info().cpu_bytes, 0);
    look(&frame, &source, &fb);
    drop((frame, source));
    display.turn_off();
    display.remove(fb);
}

#[test]
#[ignore = "needs the lab: vkms"]
fn formats() {
    let screen = display();
    for (fourcc, format, tolerance) in [
        (DrmFourcc::Xrgb8888, PixelFormat::Bgrx, 0),
        (DrmFourcc::Argb8888, PixelFormat::Bgrx, 0),
        (DrmFourcc::Xbgr8888, PixelFormat::Rgbx, 0),
        (DrmFourcc::Abgr8888, PixelFormat::Rgbx, 0),
        (DrmFourcc::Rgb565, PixelFormat::Rgb565, 7),
        (DrmFourcc::Nv12, PixelFormat::Nv12, 40),
    ] {
        see(&screen, fourcc, open, |frame, _, fb| {
            assert_eq!(frame.info().format, format);
            let memory = frame.dma_buf().expect("a DMA-BUF");
            assert_eq!(memory.fourcc, fourcc as u32);
            let planes: Vec<_> = memory.planes.iter().flatten().collect();
            assert_eq!(planes.len(), if fourcc == DrmFourcc::Nv12 { 2 } else { 1 });
            assert_eq!(planes[0].stride, fb.buffer_pitch());
            // vkms says BT.601 full range by default: NV12 is compared where that differs little, by its own bytes.
            if fourcc == DrmFourcc::Nv12 {
                let luma = frame.plane(0).expect("luma").data[0];
                assert_eq!(luma, 16, "black");
            } else {
                check(frame, tolerance, background);
            }
        });
        println!("seen: {fourcc:?} as {format:?}, 0 bytes copied");
    }
}

/// Through the card's GPU, which in the lab is Mesa's software renderer.
fn through_gpu(node: &PathBuf) -> KmsSource {
    let options = KmsOptions {
        rate: FrameRate::hz(60),
        gpu: GpuMode::Always,
        ..KmsOptions::new(node)
    };
    KmsSource::open(options).expect("it opens")
}

/// What the GPU draws of each format is linear, and pixel by pixel what the framebuffer has.
#[test]
#[ignore = "needs the lab: vkms"]
fn gpu_formats() {
    let screen = display();
    for (fourcc, drawn, tolerance) in [
        (DrmFourcc::Xrgb8888, DrmFourcc::Xrgb8888, 0),
        (DrmFourcc::Argb8888, DrmFourcc::Argb8888, 0),
        (DrmFourcc::Xbgr8888, DrmFourcc::Xrgb8888, 0),
        (DrmFourcc::Abgr8888, DrmFourcc::Argb8888, 0),
        (DrmFourcc::Rgb565, DrmFourcc::Xrgb8888, 7),
    ] {
        see(&screen, fourcc, through_gpu, |frame, source, _| {
            assert_eq!(frame.info().format, PixelFormat::Bgrx);
            let memory = frame.dma_buf().expect("a DMA-BUF");
            assert_eq!(
                (memory.fourcc, memory.modifier),
                (drawn as u32, DmaBuf::LINEAR)
            );
            check(frame, tolerance, background);
            let gpu = source.converter().expect("it went through the GPU");
            println!("seen: {fourcc:?} as {drawn:?} by {gpu}");
        });
    }
}

/// Frames keep what was drawn; planes with an alpha channel are put together as without the GPU; nothing is allocated for a
/// picture, and nothing stays behind.
#[test]
#[ignore = "needs the lab: vkms"]
fn gpu_rounds() {
    let (node, display) = display();
    let mut ground = shown(&display, SMALL, DrmFourcc::Xrgb8888);
    let plane = display.plane(PlaneType::Overlay).expect("an overlay plane");
    let mut small = display
        .fb((64, 32), DrmFourcc::Argb8888)
        .expect("a framebuffer");
    display
        .paint(&mut small, |_, _| [0, 0, 0, 128])
        .expect("painted");
    let files = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    // The first round loads the libraries, which stay.
    drop(through_gpu(&node));
    let before = files();
    let mut source = through_gpu(&node);
    // A frame is a copy: what is drawn into the screen later is not in it, and more are lent than one.
    let kept = next_frame(&mut source);
    display
        .paint(&mut ground, |_, _| [10, 20, 30, 255])
        .expect("painted");
    let later = next_frame(&mut source);
    check(&kept, 0, background);
    check(&later, 0, |_, _| [10, 20, 30, 255]);
    let held: Vec<_> = (0..2).map(|_| next_frame(&mut source)).collect();
    let captured = source.next(Duration::from_millis(100)).expect("it stays");
    assert!(
        !matches!(captured, Captured::Frame(_)),
        "a fifth of four pictures"
    );
    drop((kept, later, held));
    // Pictures of a small part of the screen in another ring, composed by the CPU.
    display
        .overlay(plane, &small, (600, 100), (64, 32))
        .expect("an overlay");
    let frame = until(&mut source, |captured| match captured {
        Captured::Frame(frame) if frame.info().cpu_bytes > 0 => Some(frame),
        _ => None,
    });
    check(&frame, 1, |x, y| match (x, y) {
        (600.., 100..132) => [5, 10, 15, 255],
        _ => [10, 20, 30, 255],
    });
    drop(frame);
    display
        .card
        .set_plane(plane, display.crtc, None, 0, (0, 0, 0, 0), (0, 0, 0, 0))
        .expect("the overlay goes");
    // Long enough for the small ring to be given up.
    let end = Instant::now() + Duration::from_millis(2_500);
    while Instant::now() < end {
        drop(next_frame(&mut source));
    }
    let mut frames = 0;
    let counted = allocation_counter::measure(|| {
        while frames < 10 {
            let captured = source.next(Duration::from_millis(100));
            frames += u32::from(matches!(captured, Ok(Captured::Frame(_))));
        }
    });
    assert_eq!(counted.count_total, 0, "in {frames} pictures");
    drop(source);
    let end = Instant::now() + Duration::from_secs(10);
    while files() > before && Instant::now() < end {
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(files(), before, "files stay open");
    println!(
        "seen: 4 pictures lent, overlay composed, {frames} pictures with 0 allocations, 0 descriptors leaked"
    );
}

/// The story's `off`, and the framebuffers that it lets through.
#[test]
#[ignore = "needs the lab: vkms"]
fn gpu_off() {
    let (node, display) = display();
    let _fb = shown(&display, SMALL, DrmFourcc::Xrgb8888);
    let options = KmsOptions {
        gpu: GpuMode::Off,
        ..KmsOptions::new(&node)
    };
    let mut source = KmsSource::open(options).expect("it opens");
    check(&next_frame(&mut source), 0, background);
    assert_eq!(source.converter(), None);
    println!("seen: a linear framebuffer without the GPU");
}

trait Pitch {
    fn buffer_pitch(&self) -> u32;
}

impl Pitch for Fb {
    fn buffer_pitch(&self) -> u32 {
        drm::buffer::Buffer::pitch(&self.buffer)
    }
}

#[test]
#[ignore = "needs the lab: vkms"]
fn overlay() {
    let (node, display) = display();
    let _ground = shown(&display, SMALL, DrmFourcc::Xrgb8888);
    let plane = display.plane(PlaneType::Overlay).expect("an overlay plane");
    let mut small = display
        .fb((64, 32), DrmFourcc::Argb8888)
        .expect("a framebuffer");
    // Left half opaque green, right half half-transparent black.
    let half = |x: u32, _| {
        if x < 32 {
            [0, 200, 0, 255]
        } else {
            [0, 0, 0, 128]
        }
    };
    display.paint(&mut small, half).expect("painted");
    let mut source = open(&node);
    assert_eq!(next_frame(&mut source).info().cpu_bytes, 0);
    // vkms does not scale: the size is the framebuffer's. It hangs out at the right edge.
    display
        .overlay(plane, &small, (600, 100), (64, 32))
        .expect("an overlay");
    let frame = until(&mut source, |captured| match captured {
        Captured::Frame(frame) if frame.info().cpu_bytes > 0 => Some(frame),
        _ => None,
    });
    assert!(frame.dma_buf().is_none());
    let copied = frame.info().cpu_bytes;
    check(&frame, 1, |x, y| {
        let below = background(x, y);
        match (x, y) {
            (600..632, 100..132) => [0, 200, 0, 255],
            (632.., 100..132) => below.map(|value| value / 2),
            _ => below,
        }
    });
    drop(frame);
    display
        .card
        .set_plane(plane, display.crtc, None, 0, (0, 0, 0, 0), (0, 0, 0, 0))
        .expect("the overlay goes");
    until(&mut source, |captured| match captured {
        Captured::Frame(frame) if frame.info().cpu_bytes == 0 => Some(()),
        _ => None,
    });
    println!("seen: overlay composed, {copied} bytes by the CPU; 0 bytes without it");
}

#[test]
#[ignore = "needs the lab: vkms"]
fn cursor() {
    let (node, display) = display();
    let _ground = shown(&display, SMALL, DrmFourcc::Xrgb8888);
    let mut arrow = display
        .fb((64, 64), DrmFourcc::Argb8888)
        .expect("a framebuffer");
    let shape = |x: u32, y: u32| {
        if x + y < 40 {
            [250, 10, 20, 255]
        } else {
            [0; 4]
        }
    };
    display.paint(&mut arrow, shape).expect("painted");
    display.set_cursor(&arrow).expect("a cursor");
    display.move_cursor((100, 50)).expect("moved");
    let mut source = open_at(&node, 2);
    let cursor = next_cursor(&mut source, |cursor| cursor.position == (100, 50));
    let image = cursor.image.expect("a picture");
    assert_eq!(image.size, Size::new(64, 64));
    assert_eq!(image.pixels[..4], [20, 10, 250, 255]);
    assert_eq!(image.pixels[64 * 64 * 4 - 4..], [0; 4]);
    // The cursor is not in the picture, which stays uncopied.
    let frame = next_frame(&mut source);
    assert_eq!(frame.info().cpu_bytes, 0);
    check(&frame, 0, background);
    drop(frame);

    // 50 positions in a second, with two pictures in a second.
    let mover = thread::spawn(move || {
        for step in 0..50 {
            display.move_cursor((step * 4, -10)).expect("moved");
            thread::sleep(Duration::from_millis(20));
        }
        (display, arrow)
    });
    let (mut positions, mut pictures) = (0, 0);
    until(&mut source, |captured| {
        match captured {
            Captured::Cursor(cursor) => {
                positions += 1;
                let same = cursor
                    .image
                    .as_ref()
                    .is_some_and(|new| new.size == image.size);
                assert!(same, "the picture stays");
                return (cursor.position == (196, -10)).then_some(());
            }
            Captured::Frame(_) => pictures += 1,
            _ => {}
        }
        None
    });
    let (display, mut arrow) = mover.join().expect("it ends well");
    assert!(positions > 25, "{positions} of 50");
    assert!(pictures < 10, "{pictures} pictures");
    // Another picture in the same place, then none.
    display
        .paint(&mut arrow, |_, _| [1, 2, 3, 255])
        .expect("painted");
    next_cursor(&mut source, |cursor| {
        cursor
            .image
            .as_ref()
            .is_some_and(|image| image.pixels[..4] == [3, 2, 1, 255])
    });
    #[expect(deprecated, reason = "as it was set")]
    display
        .card
        .set_cursor::<drm::control::dumbbuffer::DumbBuffer>(display.crtc, None)
        .expect("no cursor");
    next_cursor(&mut source, |cursor| cursor.image.is_none());
    println!("seen: cursor picture twice, {positions} positions beside {pictures} pictures");
}

#[test]
#[ignore = "needs the lab: vkms"]
fn modes_and_off() {
    let (node, display) = display();
    let small = shown(&display, SMALL, DrmFourcc::Xrgb8888);
    let mut source = open(&node);
    assert_eq!(next_frame(&mut source).info().size, Size::new(640, 480));
    let changed = Instant::now();
    let large = shown(&display, LARGE, DrmFourcc::Xrgb8888);
    until(&mut source, |captured| match captured {
        Captured::Frame(frame) => {
            (frame.info().size == Size::new(1024, 768)).then(|| check(&frame, 0, background))
        }
        _ => None,
    });
    let mode = changed.elapsed();
    let off = |source: &mut KmsSource| {
        until(source, |captured| {
            matches!(captured, Captured::NoPicture(NoPicture::DisplayOff)).then_some(())
        });
    };
    let asleep = Instant::now();
    display.dpms(3).expect("DPMS off");
    off(&mut source);
    let asleep = asleep.elapsed();
    display.dpms(0).expect("DPMS on");
    check(&next_frame(&mut source), 0, background);
    display.turn_off();
    off(&mut source);
    let on = Instant::now();
    display.show(&small).expect("shown");
    assert_eq!(next_frame(&mut source).info().size, Size::new(640, 480));
    println!(
        "seen: new mode after {} ms, DPMS off after {} ms, on again after {} ms",
        mode.as_millis(),
        asleep.as_millis(),
        on.elapsed().as_millis()
    );
    display.remove(large);
}

/// Looking, waiting and taking pictures allocate nothing once every buffer is known.
#[test]
#[ignore = "needs the lab: vkms"]
fn allocations() {
    let (node, display) = display();
    let _fb = shown(&display, SMALL, DrmFourcc::Xrgb8888);
    let mut source = open(&node);
    for _ in 0..5 {
        drop(next_frame(&mut source));
    }
    // Longer than a framebuffer is trusted without asking the kernel for it again.
    let end = Instant::now() + Duration::from_millis(1_200);
    let mut frames = 0;
    let counted = allocation_counter::measure(|| {
        while Instant::now() < end {
            let captured = source.next(Duration::from_millis(100));
            frames += u32::from(matches!(captured, Ok(Captured::Frame(_))));
        }
    });
    assert!(frames > 30, "{frames}");
    assert_eq!(counted.count_total, 0, "in {frames} pictures");
    println!("seen: {frames} pictures, 0 allocations");
}

/// A program that flips is captured once for each flip, with the kernel's own time of a vblank.
#[test]
#[ignore = "needs the lab: vkms"]
fn flips() {
    let (node, display) = display();
    let first = shown(&display, SMALL, DrmFourcc::Xrgb8888);
    let second = shown(&display, SMALL, DrmFourcc::Xrgb8888);
    let mut source = open(&node);
    drop(next_frame(&mut source));
    let mode = display
        .modes
        .iter()
        .find(|mode| mode.size() == (640, 480))
        .expect("its mode");
    // Pixels of a picture with its blanking, at a clock in kHz.
    let pixels = u64::from(mode.hsync().2) * u64::from(mode.vsync().2);
    let interval = pixels * 1_000_000 / u64::from(mode.clock());
    let flipper = thread::spawn(move || {
        for step in 0..40 {
            let fb = if step % 2 == 0 { &first } else { &second };
            display
                .card
                .page_flip(display.crtc, fb.handle, PageFlipFlags::empty(), None)
                .expect("flipped");
            thread::sleep(Duration::from_millis(50));
        }
    });
    let (mut frames, mut asked) = (0, 0);
    let (mut first, mut beside) = (None, 0);
    while !flipper.is_finished() {
        asked += 1;
        let captured = source.next(Duration::from_millis(200)).expect("it stays");
        if let Captured::Frame(frame) = captured {
            frames += 1;
            let at = frame.info().captured;
            let since = at.since(*first.get_or_insert(at));
            let off = u64::try_from(since.as_nanos()).expect("two seconds") % interval;
            if off.min(interval - off) > 500_000 {
                beside += 1;
            }
        }
    }
    flipper.join().expect("it ends well");
    assert!(
        beside * 10 <= frames,
        "{beside} of {frames} were not captured at a vblank"
    );
    // 40 flips in 2 s at 60 pictures a second: 120 without looking.
    assert!((30..100).contains(&frames), "{frames}");
    println!(
        "seen: {frames} pictures of 40 flips in 2 s ({asked} calls), {} of them at a vblank",
        frames - beside
    );
}

#[test]
#[ignore = "needs the lab: vkms"]
fn capability() {
    let (node, display) = display();
    let _fb = shown(&display, SMALL, DrmFourcc::Xrgb8888);
    let lowered = node.clone();
    let worked = thread::spawn(move || {
        capability::lower().expect("lowered");
        let mut source = open(&lowered);
        check(&next_frame(&mut source), 0, background);
        capability::sys_admin().expect("told")
    });
    assert_eq!(worked.join().expect("it works"), SysAdmin::Permitted);
    let refused = thread::spawn(move || {
        capability::give_up().expect("given up");
        KmsSource::open(KmsOptions::new(node)).map(drop)
    });
    let Err(SourceError::Permission { hint, .. }) = refused.join().expect("it ends well") else {
        panic!("nobody may read a screen without the capability");
    };
    assert!(hint.contains("CAP_SYS_ADMIN"), "{hint}");
    println!("seen: works with the capability lowered; without it: {hint}");
}

/// A connector that loses and gets its monitor, by the kernel's notice.
#[test]
#[ignore = "needs the lab: vkms"]
fn hotplug() {
    let script = "$MODPROBE vkms create_default_dev=0
        mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config
        cd /sys/kernel/config/vkms; mkdir lab; cd lab
        mkdir planes/p crtcs/c encoders/e connectors/o; echo 1 > planes/p/type
        ln -s crtcs/c planes/p/possible_crtcs; ln -s crtcs/c encoders/e/possible_crtcs
        ln -s encoders/e connectors/o/possible_encoders; echo 1 > connectors/o/status
        echo 1 > enabled";
    let made = Command::new("sh")
        .args(["-ec", script])
        .output()
        .expect("a shell");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let node = screen::node("vkms").expect("the card is there");
    let mut uevents = soft_kvm_platform_linux::uevent::Uevents::new().expect("netlink");
    let display = Display::open(&node).expect("it opens");
    let _fb = shown(&display, SMALL, DrmFourcc::Xrgb8888);
    let mut source = open(&node);
    drop(next_frame(&mut source));
    let status = "/sys/kernel/config/vkms/lab/connectors/o/status";
    for (state, picture) in [("2", false), ("1", true), ("2", false), ("1", true)] {
        std::fs::write(status, state).expect("the monitor changes");
        // As a compositor does when the kernel tells.
        if picture {
            display.show(&_fb).expect("shown");
        } else {
            display.turn_off();
        }
        until(&mut source, |captured| match captured {
            Captured::Frame(_) => picture.then_some(()),
            Captured::NoPicture(NoPicture::DisplayOff) => (!picture).then_some(()),
            _ => None,
        });
    }
    assert!(uevents.drain(|event| event.subsystem == "drm" && event.action == "change"));
    println!("seen: monitor unplugged and plugged twice, picture back each time");
}

/// Opened, closed, other modes, other framebuffers: nothing stays behind.
#[test]
#[ignore = "needs the lab: vkms"]
fn rounds() {
    let (node, display) = display();
    let plane = display.plane(PlaneType::Overlay).expect("an overlay plane");
    // One source that sees every framebuffer, and a new one in each round.
    let round = |number: u32, lasting: &mut KmsSource| {
        let size = if number.is_multiple_of(2) {
            SMALL
        } else {
            LARGE
        };
        let fb = display
            .fb(size, DrmFourcc::Xrgb8888)
            .expect("a framebuffer");
        let over = display.fb((64, 64), DrmFourcc::Argb8888).expect("another");
        display.show(&fb).expect("shown");
        display
            .overlay(plane, &over, (8, 8), (64, 64))
            .expect("an overlay");
        display.set_cursor(&over).expect("a cursor");
        drop(next_frame(lasting));
        let mut source = open(&node);
        let frame = next_frame(&mut source);
        assert_eq!(frame.info().size, Size::new(size.0, size.1));
        drop((frame, source));
        display.turn_off();
        display.remove(over);
        display.remove(fb);
        until(lasting, |captured| {
            matches!(captured, Captured::NoPicture(_)).then_some(())
        });
    };
    let mut lasting = open(&node);
    round(0, &mut lasting);
    round(1, &mut lasting);
    let before = (files(), shared_memory(), dma_bufs());
    for number in 0..100 {
        round(number, &mut lasting);
    }
    let after = (files(), shared_memory(), dma_bufs());
    assert_eq!(after.0, before.0, "descriptors");
    assert_eq!(after.2, before.2, "DMA-BUFs");
    // One handle left in each round would keep 2 MB of framebuffers.
    let grown = after.1.saturating_sub(before.1);
    assert!(grown < 8 << 10, "{grown} kB more in framebuffers");
    println!("seen: 100 rounds, 0 descriptors, 0 DMA-BUFs and {grown} kB of framebuffers left");
}

/// DMA-BUFs of the system, where the kernel tells.
fn dma_bufs() -> Option<usize> {
    let _ = Command::new("mount")
        .args(["-t", "debugfs", "none", "/sys/kernel/debug"])
        .output();
    let text = std::fs::read_to_string("/sys/kernel/debug/dma_buf/bufinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("Total "))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn files() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Shared memory of the system in kilobytes: dumb buffers of vkms are in it.
fn shared_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("proc is mounted");
    let line = text.lines().find_map(|line| line.strip_prefix("Shmem:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.expect("the kernel counts it")
}
