//! Pictures in memory of the kernel's virtual display as NV12 by its GPU, which in the lab is Mesa's software renderer.
#![expect(
    clippy::disallowed_macros,
    reason = "each test says what it saw, for the lab's report"
)]

use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use drm::buffer::{Buffer as _, DrmFourcc};
use drm::control::Device as _;
use soft_kvm_core::story::GpuMode;
use soft_kvm_core::{Bitrate, FourCc, FrameRate, MonoTime, Size};
use soft_kvm_platform_linux::gpu::GpuConverter;
use soft_kvm_platform_linux::m2m::{self, M2mEncoder, M2mKind, Nv12Layout};
use soft_kvm_platform_linux::v4l2::{V4l2Options, V4l2Source};
use soft_kvm_video::codec::{EncoderConfig, FrameEncoder as _};
use soft_kvm_video::convert::Converter;
use soft_kvm_video::frame::{
    Colorimetry, Damage, DmaBuf, DmaPlane, Frame, FrameInfo, FramePool, PixelFormat, Plane, Range,
    Rect,
};
use soft_kvm_video::source::{Captured, VideoSource as _};

mod screen;
use screen::{Display, Fb};

const SIZE: Size = Size::new(640, 480);

/// How far a sample may be from the CPU's: each rounds in its own way, and more than once.
const NEAR: u8 = 2;

fn modprobe(module: &str) {
    let load = format!("$MODPROBE {module}");
    let loaded = Command::new("sh").args(["-c", &load]).status();
    assert!(loaded.is_ok_and(|status| status.success()), "{load}");
}

fn display() -> Display {
    modprobe("vkms");
    let node = screen::node("vkms").expect("vkms is loaded");
    Display::open(&node).expect("the card opens")
}

/// A framebuffer's memory for devices, and a copy for the CPU.
#[derive(Debug)]
struct Painted {
    fd: OwnedFd,
    fourcc: u32,
    stride: u32,
    copy: Vec<u8>,
}

impl FramePool for Painted {
    fn plane(&self, _: u32, plane: usize) -> Option<Plane<'_>> {
        (plane == 0).then_some(Plane {
            data: &self.copy,
            stride: self.stride as usize,
        })
    }

    fn dma_buf(&self, _: u32) -> Option<DmaBuf<'_>> {
        let plane = DmaPlane {
            fd: self.fd.as_fd(),
            offset: 0,
            stride: self.stride,
            length: u32::try_from(self.copy.len()).ok()?,
        };
        Some(DmaBuf {
            fourcc: self.fourcc,
            modifier: DmaBuf::LINEAR,
            planes: [Some(plane), None, None, None],
        })
    }

    fn release(&self, _: u32) {}
}

/// Neighbours differ in each colour, and lines too.
fn motley(x: u32, y: u32) -> [u8; 4] {
    let byte = |value: u32| u8::try_from(value & 0xff).unwrap_or(0);
    [
        byte(x * 7 + y),
        byte(y * 5 + x / 3),
        byte(x * 3 + y * 11),
        255,
    ]
}

fn painted(display: &Display, fb: &mut Fb, colour: impl Fn(u32, u32) -> [u8; 4]) -> Arc<Painted> {
    display.paint(fb, colour).expect("painted");
    let card = &display.card;
    let fd = card.buffer_to_prime_fd(fb.buffer.handle(), 0);
    let stride = fb.buffer.pitch();
    let map = card.map_dumb_buffer(&mut fb.buffer).expect("a mapping");
    let copy = map.to_vec();
    drop(map);
    Arc::new(Painted {
        fd: fd.expect("a DMA-BUF"),
        fourcc: fb.fourcc as u32,
        stride,
        copy,
    })
}

fn frame(memory: &Arc<Painted>, format: PixelFormat, range: Range, size: Size) -> Frame {
    let info = FrameInfo {
        format,
        color: Colorimetry {
            range,
            ..Colorimetry::RGB
        },
        size,
        sequence: 7,
        captured: MonoTime::from_nanos(11),
        damage: Damage::Within(Rect::whole(size)),
        cpu_bytes: 0,
    };
    Frame::new(info, memory.clone(), 0)
}

/// A motley framebuffer of [`SIZE`].
fn still(display: &Display) -> (Fb, Arc<Painted>) {
    let shape = (SIZE.width, SIZE.height);
    let mut fb = display
        .fb(shape, DrmFourcc::Xrgb8888)
        .expect("a framebuffer");
    let memory = painted(display, &mut fb, motley);
    (fb, memory)
}

/// As small as it can be.
fn tight(size: Size) -> Nv12Layout {
    Nv12Layout {
        stride: size.width.next_multiple_of(4),
        lines: size.height,
        bytes: 0,
    }
}

/// A converter, and `source` as it has made it.
fn open(source: &Frame, layout: Nv12Layout) -> (GpuConverter, Frame) {
    GpuConverter::open(GpuMode::Always, source, layout).expect("it opens")
}

/// Why there is none.
fn refused(mode: GpuMode, source: &Frame, layout: Nv12Layout) -> String {
    let opened = GpuConverter::open(mode, source, layout);
    opened.expect_err("it is refused").what
}

/// As a codec of whole macroblocks and long lines has it.
fn roomy(size: Size) -> Nv12Layout {
    let stride = size.width.next_multiple_of(256);
    let lines = size.height.next_multiple_of(16);
    Nv12Layout {
        stride,
        lines,
        bytes: stride * lines * 3 / 2 + 4_096,
    }
}

/// Compares each sample with what the CPU makes, which leaves an odd last column and line out; the largest difference.
fn compare(source: &Frame, converted: &Frame) -> u8 {
    let mut cpu = Converter::new();
    cpu.update(source).expect("the CPU converts it");
    let wanted = cpu.picture();
    let (width, height) = (wanted.size.width as usize, wanted.size.height as usize);
    let [luma, chroma] = [0, 1].map(|plane| converted.plane(plane).expect("two planes"));
    let mut most = 0;
    let mut check = |got: u8, wanted: u8, what: &str, x: usize, y: usize| {
        let off = got.abs_diff(wanted);
        assert!(off <= NEAR, "{what} {got}, not {wanted}, at {x},{y}");
        most = most.max(off);
    };
    for (x, y) in (0..width * height).map(|at| (at % width, at / width)) {
        let got = luma.data[y * luma.stride + x];
        check(got, wanted.planes[0][y * wanted.strides[0] + x], "Y", x, y);
    }
    let half = width / 2;
    for (x, y) in (0..half * height / 2).map(|at| (at % half, at / half)) {
        let place = y * chroma.stride + 2 * x;
        let [cb, cr] = [1, 2].map(|plane| wanted.planes[plane][y * wanted.strides[plane] + x]);
        check(chroma.data[place], cb, "Cb", x, y);
        check(chroma.data[place + 1], cr, "Cr", x, y);
    }
    most
}

/// Formats, both ranges, sizes that are no multiple of anything, and memory that has to lie in an awkward way.
#[test]
#[ignore = "needs the lab: vkms"]
fn every_sample() {
    let display = display();
    for (fourcc, format, range, size) in [
        (DrmFourcc::Xrgb8888, PixelFormat::Bgrx, Range::Full, SIZE),
        (DrmFourcc::Xrgb8888, PixelFormat::Bgrx, Range::Limited, SIZE),
        (DrmFourcc::Xbgr8888, PixelFormat::Rgbx, Range::Full, SIZE),
        (DrmFourcc::Rgb565, PixelFormat::Rgb565, Range::Full, SIZE),
        (
            DrmFourcc::Xrgb8888,
            PixelFormat::Bgrx,
            Range::Full,
            Size::new(1366, 50),
        ),
        (
            DrmFourcc::Rgb565,
            PixelFormat::Rgb565,
            Range::Full,
            Size::new(641, 47),
        ),
    ] {
        let shape = (size.width, size.height);
        let mut fb = display.fb(shape, fourcc).expect("a framebuffer");
        let memory = painted(&display, &mut fb, motley);
        let source = || frame(&memory, format, range, size);
        for layout in [tight(size), roomy(size)] {
            let (_converter, converted) = open(&source(), layout);
            let (got, from) = (converted.info(), source());
            let as_nv12 = FrameInfo {
                format: PixelFormat::Nv12,
                color: Colorimetry::default(),
                ..*from.info()
            };
            assert_eq!(*got, as_nv12);
            let most = compare(&from, &converted);
            let memory = converted.dma_buf().expect("a DMA-BUF");
            let lies = memory.planes.map(|of| of.map(|of| (of.offset, of.stride)));
            let chroma = layout.stride * layout.lines;
            let wanted = [Some((0, layout.stride)), Some((chroma, layout.stride))];
            assert_eq!(lies, [wanted[0], wanted[1], None, None]);
            let Nv12Layout { stride, lines, .. } = layout;
            println!(
                "seen: {fourcc:?} {size}, {range:?}, as {lines} lines of {stride}: {most} off at most"
            );
        }
        display.remove(fb);
    }
}

/// The edge goes on where an odd picture has half a sample of chroma.
#[test]
#[ignore = "needs the lab: vkms"]
fn odd_edges() {
    let display = display();
    let size = Size::new(641, 47);
    let shape = (size.width, size.height);
    let mut fb = display
        .fb(shape, DrmFourcc::Xrgb8888)
        .expect("a framebuffer");
    let edge = |x, y| match (x, y) {
        (640, _) | (_, 46) => [0, 0, 255, 255],
        _ => [255, 255, 255, 255],
    };
    let memory = painted(&display, &mut fb, edge);
    let source = frame(&memory, PixelFormat::Bgrx, Range::Full, size);
    let (_converter, converted) = open(&source, tight(size));
    let chroma = converted.plane(1).expect("chroma");
    let blue = [240, 118];
    for (x, y) in [(320, 0), (320, 23), (0, 23)] {
        let got = &chroma.data[y * chroma.stride + 2 * x..][..2];
        let near = got
            .iter()
            .zip(blue)
            .all(|(got, blue)| got.abs_diff(blue) <= NEAR);
        assert!(near, "{got:?}, not {blue:?}, at {x},{y}");
    }
    println!("seen: the last column and line of {size} have chroma of their own");
}

/// Frames keep what was drawn, no more of them are lent than there is memory, nothing is allocated for a picture, and nothing
/// stays behind.
#[test]
#[ignore = "needs the lab: vkms"]
fn rounds() {
    let display = display();
    let (mut fb, memory) = still(&display);
    let source = || frame(&memory, PixelFormat::Bgrx, Range::Full, SIZE);
    let open = || open(&source(), tight(SIZE));
    let files = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    // The first round loads the libraries, which stay.
    drop(open());
    let before = files();
    let (mut converter, first) = open();
    let kept = source();
    let repainted = painted(&display, &mut fb, |x, y| motley(y, x));
    let later = frame(&repainted, PixelFormat::Bgrx, Range::Full, SIZE);
    let second = converter.convert(&later).expect("it converts");
    compare(&kept, &first);
    compare(&later, &second);
    let mut lent = vec![first, second];
    let error = loop {
        match converter.convert(&later) {
            Ok(frame) => lent.push(frame),
            Err(error) => break error,
        }
        assert!(lent.len() < 10, "memory without end");
    };
    assert!(error.what.contains("still in use"), "{error}");
    let most = lent.len();
    drop(lent);
    // The same memory, which the GPU has imported already.
    drop(converter.convert(&later).expect("they have come back"));
    let counted = allocation_counter::measure(|| {
        for _ in 0..10 {
            converter.convert(&later).expect("it converts");
        }
    });
    assert_eq!(counted.count_total, 0, "for 10 pictures");
    let other = frame(&memory, PixelFormat::Bgrx, Range::Full, Size::new(320, 240));
    let error = converter.convert(&other).expect_err("another size");
    assert!(error.what.contains("another size"), "{error}");
    drop((converter, later, kept, other, repainted));
    let end = Instant::now() + Duration::from_secs(10);
    while files() > before && Instant::now() < end {
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(files(), before, "files stay open");
    println!("seen: {most} pictures lent, 10 with 0 allocations, 0 descriptors leaked");
}

/// Software renderers are taken only where the story wants a GPU always.
#[test]
#[ignore = "needs the lab: vkms"]
fn modes() {
    let display = display();
    let (_fb, memory) = still(&display);
    let source = frame(&memory, PixelFormat::Bgrx, Range::Full, SIZE);
    let auto = refused(GpuMode::Auto, &source, tight(SIZE));
    assert!(
        auto.contains("llvmpipe") && auto.contains("in software"),
        "{auto}"
    );
    let off = refused(GpuMode::Off, &source, tight(SIZE));
    assert!(off.contains("gpu: 'off'"), "{off}");
    let (converter, _) = open(&source, tight(SIZE));
    assert!(
        converter.renderer().starts_with("llvmpipe"),
        "{converter:?}"
    );
    // Four bytes are drawn at a time.
    let layout = Nv12Layout {
        stride: 642,
        ..tight(SIZE)
    };
    let awkward = refused(GpuMode::Always, &source, layout);
    assert!(awkward.contains("642 bytes"), "{awkward}");
    println!("seen: auto: {auto}; off: {off}; awkward: {awkward}");
}

/// Another device's memory, which Mesa's software renderers would not survive: told in words.
#[test]
#[ignore = "needs the lab: vkms, vivid"]
fn memory_of_a_capture_device() {
    modprobe("vivid");
    let _display = display();
    for format in [b"XR24", b"YUYV"] {
        let options = V4l2Options {
            size: Some(SIZE),
            format: Some(FourCc::new(format)),
            input: Some(0),
            ..V4l2Options::new("/dev/video0")
        };
        let mut source = V4l2Source::open(options).expect("it opens");
        let frame = loop {
            let captured = source.next(Duration::from_millis(500)).expect("it stays");
            if let Captured::Frame(frame) = captured {
                break frame;
            }
        };
        let name = frame.info().format;
        let why = refused(GpuMode::Always, &frame, tight(SIZE));
        assert!(why.contains("another device"), "{why}");
        println!("seen: {name:?} of vivid: {why}");
    }
}

/// Memory that is none of the machine's graphics in the middle of a stream: told, and no GPU is opened for a while, so that the
/// next picture goes by the CPU at once.
#[test]
#[ignore = "needs the lab: vkms"]
fn failure_in_the_middle() {
    let display = display();
    let (_fb, memory) = still(&display);
    let source = frame(&memory, PixelFormat::Bgrx, Range::Full, SIZE);
    let (mut converter, _) = open(&source, tight(SIZE));
    let file = std::fs::File::open("/dev/null").expect("it is there");
    let other = Arc::new(Painted {
        fd: file.into(),
        fourcc: memory.fourcc,
        stride: memory.stride,
        copy: memory.copy.clone(),
    });
    let other = frame(&other, PixelFormat::Bgrx, Range::Full, SIZE);
    let error = converter.convert(&other).expect_err("it is no DMA-BUF");
    assert!(error.what.contains("not imported"), "{error}");
    let again = refused(GpuMode::Always, &source, tight(SIZE));
    assert!(again.contains("a short while ago"), "{again}");
    println!("seen: {error}; then: {again}");
}

/// A codec that wants whole macroblocks encodes what the GPU has drawn, without a copy.
#[test]
#[ignore = "needs the lab: vkms, vicodec"]
fn whole_macroblocks() {
    modprobe("vicodec");
    let display = display();
    let size = Size::new(1920, 1080);
    let mut fb = display
        .fb((1920, 1080), DrmFourcc::Xrgb8888)
        .expect("a framebuffer");
    let memory = painted(&display, &mut fb, motley);
    let source = frame(&memory, PixelFormat::Bgrx, Range::Full, size);
    let nodes = m2m::probe();
    let encoder = nodes
        .iter()
        .find(|node| node.kind == Some(M2mKind::Encoder));
    let node = &encoder.expect("an encoder").path;
    let config = EncoderConfig {
        size,
        rate: FrameRate::hz(30),
        bitrate: Bitrate::kbps(4_000),
        intra_refresh: 0,
    };
    let layout = M2mEncoder::nv12_layout(node, &config, size.width).expect("it takes NV12");
    assert_eq!(layout.lines, 1088);
    let (mut converter, first) = open(&source, layout);
    compare(&source, &first);
    let mut encoder = M2mEncoder::open(node, &config, &first).expect("it imports");
    drop(first);
    let mut out = Vec::new();
    for number in 0..3 {
        let converted = converter.convert(&source).expect("it converts");
        let encoded = encoder.encode(&converted, number == 0, &mut out);
        encoded.expect("it encodes");
        assert!(!out.is_empty(), "nothing came of picture {number}");
        assert_eq!(converted.opened_bytes() + encoder.cpu_bytes(), 0);
    }
    println!(
        "seen: {size} with {} lines of luma, encoded, 0 bytes copied",
        layout.lines
    );
}
