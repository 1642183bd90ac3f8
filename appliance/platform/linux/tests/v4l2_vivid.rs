//! Capture from the kernel's virtual video device: formats, colours, loss of signal, faults, unplugging.

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use soft_kvm_core::{FourCc, FrameRate, Size};
use soft_kvm_platform_linux::v4l2::{Edid, V4l2Options, V4l2Source, inspect};
use soft_kvm_video::convert::Converter;
use soft_kvm_video::frame::{Colorimetry, DmaBuf, Frame, Matrix, PixelFormat, Range};
use soft_kvm_video::source::{Captured, NoPicture, SourceError, VideoSource};

const DEVICE: &str = "/dev/video0";
/// vivid's inputs by default: webcam, TV, S-Video, HDMI.
const WEBCAM: u32 = 0;

fn next_frame(source: &mut V4l2Source) -> Result<Frame, String> {
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        match source.next(Duration::from_millis(500)) {
            Ok(Captured::Frame(frame)) => return Ok(frame),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Err("no frame within 10 s".to_owned())
}

/// What a test has seen, for its report.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "seen: {line}");
}

fn control(name: &str, value: &str) {
    v4l2_ctl(&["-c", &format!("{name}={value}")]);
}

fn v4l2_ctl(arguments: &[&str]) {
    let done = std::process::Command::new("v4l2-ctl")
        .args(["-d", DEVICE])
        .args(arguments)
        .output();
    assert!(
        done.as_ref().is_ok_and(|output| output.status.success()),
        "v4l2-ctl {arguments:?}: {done:?}"
    );
}

/// Red, green, blue at the middle of vivid's bar number `bar` of 8, at a third of the height.
fn colour(frame: &Frame, bar: usize) -> [i32; 3] {
    let size = frame.info().size;
    let x = (size.width as usize / 8 * bar + size.width as usize / 16) & !1;
    let y = (size.height as usize / 3) & !1;
    let byte = |plane: usize, at: usize| {
        let plane = frame.plane(plane).expect("the format has the plane");
        i32::from(plane.data[at])
    };
    let line = |plane: usize, y: usize| frame.plane(plane).map_or(0, |plane| plane.stride * y);
    let at = |bytes: usize| line(0, y) + x * bytes;
    let (luma, cb, cr) = match frame.info().format {
        PixelFormat::Nv12 => {
            let chroma = line(1, y / 2) + x;
            (byte(0, at(1)), byte(1, chroma), byte(1, chroma + 1))
        }
        PixelFormat::Yuyv => (byte(0, at(2)), byte(0, at(2) + 1), byte(0, at(2) + 3)),
        PixelFormat::Uyvy => (byte(0, at(2) + 1), byte(0, at(2)), byte(0, at(2) + 2)),
        PixelFormat::Rgb24 => return [byte(0, at(3)), byte(0, at(3) + 1), byte(0, at(3) + 2)],
        PixelFormat::Bgr24 => return [byte(0, at(3) + 2), byte(0, at(3) + 1), byte(0, at(3))],
        _ => return [byte(0, at(4) + 2), byte(0, at(4) + 1), byte(0, at(4))],
    };
    let (luma, cb, cr) = (298 * (luma - 16), cb - 128, cr - 128);
    let clip = |value: i32| ((value + 128) >> 8).clamp(0, 255);
    [
        clip(luma + 409 * cr),
        clip(luma - 100 * cb - 208 * cr),
        clip(luma + 516 * cb),
    ]
}

/// The frame's DMA-BUFs, mapped as another device would see them, hold the frame's own bytes.
fn check_dma_buf(frame: &Frame) {
    let info = frame.info();
    let exported = frame.dma_buf().expect("vivid exports its buffers");
    assert_eq!(exported.modifier, DmaBuf::LINEAR);
    let wanted = info.format.planes(info.size).count();
    assert_eq!(exported.planes.iter().flatten().count(), wanted);
    for (index, plane) in exported.planes.iter().flatten().enumerate() {
        let flags = nix::fcntl::fcntl(plane.fd, nix::fcntl::FcntlArg::F_GETFD);
        assert_eq!(flags, Ok(libc::FD_CLOEXEC));
        let cpu = frame.plane(index).expect("the CPU sees every plane");
        assert_eq!(cpu.stride, plane.stride as usize);
        let length = NonZeroUsize::new(plane.length as usize).expect("memory");
        let (read, shared) = (ProtFlags::PROT_READ, MapFlags::MAP_SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice; nobody writes to it while the frame is held.
        let start = unsafe { mmap(None, length, read, shared, plane.fd, 0) }.expect("mmap");
        // SAFETY: `length` bytes are mapped, and stay so until the munmap below.
        let memory = unsafe { std::slice::from_raw_parts(start.as_ptr().cast(), length.get()) };
        let data: &[u8] = &memory[plane.offset as usize..];
        let (line, lines) = info.format.planes(info.size).nth(index).expect("counted");
        let bytes = cpu.stride * (lines - 1) + line;
        assert!(
            data[..bytes] == cpu.data[..bytes],
            "{:?} {index}",
            info.format
        );
        // SAFETY: the mapping is ours, and its slice is not used any more.
        unsafe { munmap(start, length.get()) }.expect("munmap");
    }
}

#[test]
#[ignore = "needs vivid: run in the lab"]
fn every_format_shows_the_colour_bars() {
    check_every_format();
}

/// The multi-planar API has other structures, and vivid puts a header before the data of some formats.
#[test]
#[ignore = "needs vivid: run in the lab"]
fn every_format_of_a_multi_planar_device_shows_the_colour_bars() {
    let run = |command: &str| {
        let status = std::process::Command::new("sh")
            .args(["-c", command])
            .status();
        assert!(status.is_ok_and(|status| status.success()), "{command}");
    };
    run("rmmod vivid");
    run("$MODPROBE vivid n_devs=1 node_types=0x1 multiplanar=2");
    check_every_format();
}

fn check_every_format() {
    let formats = [
        b"NV12", b"NM12", b"YUYV", b"UYVY", b"XR24", b"BGR4", b"BGR3", b"RGB3",
    ];
    let offered = inspect(Path::new(DEVICE)).expect("vivid is loaded").formats;
    for size in [Size::new(640, 480), Size::new(1280, 720)] {
        for format in formats.map(FourCc::new) {
            if !offered.contains(&format.to_string()) {
                continue;
            }
            let mut source = V4l2Source::open(V4l2Options {
                input: Some(WEBCAM),
                size: Some(size),
                format: Some(format),
                ..V4l2Options::new(DEVICE)
            })
            .expect("vivid opens");
            let frame = next_frame(&mut source).expect("vivid gives frames");
            assert_eq!(frame.info().size, size, "{format}");
            check_dma_buf(&frame);
            // vivid's 100 % bars: white, yellow, cyan, green, magenta, red, blue, black.
            let bars = [7, 6, 3, 2, 5, 4, 1, 0]
                .map(|bits: i32| [4, 2, 1].map(|bit| if bits & bit != 0 { 255 } else { 0 }));
            for (bar, wanted) in bars.iter().enumerate().skip(1) {
                let got = colour(&frame, bar);
                // A third of the way is room for 75 % bars and for BT.709 read as BT.601.
                let near = got
                    .iter()
                    .zip(wanted)
                    .all(|(got, wanted)| got.abs_diff(*wanted) < 90);
                assert!(near, "{format} {size} bar {bar}: {got:?}, not {wanted:?}");
            }
        }
    }
}

/// Whatever matrix and range the device has, BT.709 in limited range comes out of the converter.
#[test]
#[ignore = "needs vivid: run in the lab"]
fn colours_are_the_same_whatever_the_device_has() {
    // vivid's 100 % bars as BT.709 has them: white, yellow, cyan, green, magenta, red, blue, black.
    const BARS: [[u8; 3]; 8] = [
        [235, 128, 128],
        [219, 16, 138],
        [188, 154, 16],
        [173, 42, 26],
        [78, 214, 230],
        [63, 102, 240],
        [32, 240, 118],
        [16, 128, 128],
    ];
    control("test_pattern", "1");
    control("colorspace", "1");
    let size = Size::new(640, 480);
    // Numbers of the header.
    let matrices = [
        ("1", Matrix::Bt601),
        ("2", Matrix::Bt709),
        ("6", Matrix::Bt2020),
    ];
    let ranges = [("1", Range::Full), ("2", Range::Limited)];
    let mut seen = 0;
    for format in [b"NV12", b"YUYV", b"XR24", b"RGB3"].map(FourCc::new) {
        for (encoding, matrix) in matrices {
            for (quantization, range) in ranges {
                control("y_cbcr_encoding", encoding);
                control("quantization", quantization);
                let mut source = V4l2Source::open(V4l2Options {
                    input: Some(WEBCAM),
                    size: Some(size),
                    format: Some(format),
                    ..V4l2Options::new(DEVICE)
                })
                .expect("vivid opens");
                let frame = next_frame(&mut source).expect("vivid gives frames");
                let ycbcr = matches!(frame.info().format, PixelFormat::Nv12 | PixelFormat::Yuyv);
                let matrix = if ycbcr { matrix } else { Matrix::Bt709 };
                assert_eq!(
                    frame.info().color,
                    Colorimetry { matrix, range },
                    "{format}"
                );
                let mut converter = Converter::new();
                converter.update(&frame).expect("a whole frame");
                let picture = converter.picture();
                for (bar, wanted) in BARS.iter().enumerate() {
                    let (x, y) = (size.width as usize / 8 * bar + 40, size.height as usize / 3);
                    let at = |plane: usize, x: usize, y: usize| {
                        picture.planes[plane][y * picture.strides[plane] + x]
                    };
                    let got = [at(0, x, y), at(1, x / 2, y / 2), at(2, x / 2, y / 2)];
                    let near = got
                        .iter()
                        .zip(wanted)
                        .all(|(got, wanted)| got.abs_diff(*wanted) <= 3);
                    assert!(
                        near,
                        "{format} {matrix:?} {range:?} bar {bar}: {got:?}, not {wanted:?}"
                    );
                }
                seen += 1;
            }
        }
    }
    say(&format!("{seen} kinds of samples gave the same colours"));
}

/// Waits until the source tells a reason, and says how long it took.
fn await_reason(source: &mut V4l2Source, reason: &NoPicture) {
    let start = Instant::now();
    loop {
        match source.next(Duration::from_millis(100)) {
            Ok(Captured::NoPicture(told)) if told == *reason => break,
            Ok(_) => {}
            Err(error) => panic!("{reason:?}: {error}"),
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{reason:?}");
    }
    say(&format!(
        "{reason:?} after {} ms",
        start.elapsed().as_millis()
    ));
}

/// Waits for a picture after a fault, and says how long it took.
fn await_picture(source: &mut V4l2Source, fault: &str) {
    let start = Instant::now();
    next_frame(source).expect("the picture comes back");
    let restarts = source.counters().restarts;
    let gap = start.elapsed().as_millis();
    say(&format!(
        "{fault}: a picture after {gap} ms, {restarts} restarts"
    ));
}

#[test]
#[ignore = "needs vivid: run in the lab"]
fn signal_states_are_told_apart_and_the_picture_comes_back() {
    let options = V4l2Options {
        edid: Edid::built_in("720p60"),
        ..V4l2Options::new(DEVICE)
    };
    let mut source = V4l2Source::open(options).expect("vivid's HDMI input opens");
    next_frame(&mut source).expect("a picture at first");
    for (mode, reason) in [
        ("1", NoPicture::NoCable),
        ("2", NoPicture::NoLock),
        ("3", NoPicture::OutOfRange),
    ] {
        control("dv_timings_signal_mode", mode);
        await_reason(&mut source, &reason);
        control("dv_timings_signal_mode", "0");
        await_picture(&mut source, "back");
    }
    // Without an EDID the 5 V of vivid's source are there and its signal is not.
    control("dv_timings_signal_mode", "2");
    await_reason(&mut source, &NoPicture::NoLock);
    v4l2_ctl(&["--clear-edid", "3"]);
    control("dv_timings_signal_mode", "0");
    await_reason(&mut source, &NoPicture::NoSignal);
    v4l2_ctl(&["--set-edid", "pad=3,type=hdmi"]);
    await_picture(&mut source, "EDID again");
}

/// An encoder keeps the last frame until the next one comes: that must not hide for ever that none can come.
#[test]
#[ignore = "needs vivid: run in the lab"]
fn signal_that_comes_back_to_a_device_kept_by_another_is_an_error_while_a_frame_is_lent_out() {
    let mut source = V4l2Source::open(V4l2Options::new(DEVICE)).expect("vivid opens");
    let lent = next_frame(&mut source).expect("a picture");
    control("dv_timings_signal_mode", "1");
    await_reason(&mut source, &NoPicture::NoCable);
    control("dv_timings_signal_mode", "0");
    // Nobody else may change formats while it lives (VIDIOC_S_PRIORITY, "record").
    let mut other = std::process::Command::new("v4l2-ctl")
        .args(["-d", DEVICE, "--set-priority=3", "--sleep=60"])
        .spawn()
        .expect("v4l2-ctl starts");
    std::thread::sleep(Duration::from_millis(500));
    let start = Instant::now();
    let told = loop {
        match source.next(Duration::from_millis(100)) {
            Err(error) => break Some(error),
            Ok(Captured::Frame(_)) => panic!("the other program does not keep it"),
            Ok(_) if start.elapsed() > Duration::from_secs(8) => break None,
            Ok(_) => {}
        }
    };
    let gone = (other.kill(), other.wait());
    let told = told.unwrap_or_else(|| panic!("nothing is told in 8 s; {gone:?}"));
    let after = start.elapsed().as_millis();
    say(&format!("{told} after {after} ms"));
    drop(lent);
}

#[test]
#[ignore = "needs vivid: run in the lab"]
fn signal_needs_an_edid_which_is_written_and_a_missing_one_is_replaced() {
    let read = || {
        let path = "/tmp/edid";
        v4l2_ctl(&["--get-edid", &format!("pad=3,format=raw,file={path}")]);
        std::fs::read(path).expect("v4l2-ctl wrote it")
    };
    for name in Edid::NAMES {
        let options = V4l2Options {
            edid: Edid::built_in(name),
            ..V4l2Options::new(DEVICE)
        };
        let wanted = options.edid.clone().expect("a built-in name");
        let mut source = V4l2Source::open(options).expect("vivid opens");
        next_frame(&mut source).expect("a picture");
        assert_eq!(read(), wanted.bytes(), "{name}");
    }
    drop(V4l2Source::open(V4l2Options::new(DEVICE)).expect("vivid opens"));
    let kept = Edid::built_in("4K30").expect("a built-in name");
    assert_eq!(read(), kept.bytes(), "without a wish it stays");
    v4l2_ctl(&["--clear-edid", "3"]);
    let mut source = V4l2Source::open(V4l2Options::new(DEVICE)).expect("vivid opens");
    next_frame(&mut source).expect("a picture, so there is an EDID again");
    let default = Edid::built_in("1080p30").expect("a built-in name");
    assert_eq!(read(), default.bytes());
    say("4 EDIDs written and read back, a missing one replaced");
}

#[test]
#[ignore = "needs vivid: run in the lab"]
fn signal_faults_of_the_driver_are_survived() {
    let mut source = V4l2Source::open(V4l2Options {
        rate: FrameRate::hz(60),
        ..V4l2Options::new(DEVICE)
    })
    .expect("vivid opens");
    next_frame(&mut source).expect("a picture at first");
    control("percentage_of_dropped_buffers", "50");
    for _ in 0..20 {
        next_frame(&mut source).expect("frames come with half of them dropped");
    }
    control("percentage_of_dropped_buffers", "0");
    await_picture(&mut source, "half of the buffers dropped");
    // Each fails the next call of its kind: the buffer, QUEUE_SETUP, BUF_PREPARE, START_STREAMING, the queue.
    for fault in [
        "inject_v4l2_buf_flag_error",
        "inject_vidioc_reqbufs_error",
        "inject_vidioc_qbuf_error",
        "inject_vidioc_streamon_error",
    ] {
        control(fault, "1");
        for _ in 0..5 {
            next_frame(&mut source).expect("frames come on");
        }
        control("inject_fatal_streaming_error", "1");
        for _ in 0..15 {
            next_frame(&mut source).expect("frames come again");
        }
        await_picture(&mut source, &format!("{fault} and a fatal error"));
    }
    let counters = source.counters();
    assert!(
        counters.damaged > 0 && counters.restarts >= 4,
        "{counters:?}"
    );
    say(&format!(
        "{} frames, {} damaged",
        counters.frames, counters.damaged
    ));
}

/// Buffers that the driver refuses when they come back are offered again: all of them still carry frames at the end.
#[test]
#[ignore = "needs vivid: run in the lab"]
fn signal_goes_on_after_every_buffer_was_refused_once() {
    let mut source = V4l2Source::open(V4l2Options::new(DEVICE)).expect("vivid opens");
    for _ in 0..20 {
        let frame = next_frame(&mut source).expect("frames come");
        control("inject_vidioc_qbuf_error", "1");
        drop(frame);
    }
    control("inject_vidioc_qbuf_error", "1");
    let mut buffers = std::collections::BTreeSet::new();
    for _ in 0..30 {
        buffers.insert(next_frame(&mut source).expect("frames come").buffer());
    }
    let restarts = source.counters().restarts;
    say(&format!(
        "{} buffers in use after 20 refusals, {restarts} restarts",
        buffers.len()
    ));
    assert!(buffers.len() >= 4, "{buffers:?}");
    assert_eq!(restarts, 0);
}

/// Who was busy for long gets the newest of the pictures that wait, and never one of before.
#[test]
#[ignore = "needs vivid: run in the lab"]
fn signal_newest_picture_wins() {
    let mut source = V4l2Source::open(V4l2Options::new(DEVICE)).expect("vivid opens");
    let mut last = next_frame(&mut source)
        .expect("frames come")
        .info()
        .sequence;
    let mut all = 0;
    for _ in 0..3 {
        let before = source.counters().superseded;
        std::thread::sleep(Duration::from_millis(500));
        let sequence = next_frame(&mut source)
            .expect("frames come on")
            .info()
            .sequence;
        let superseded = source.counters().superseded - before;
        assert!(superseded > 0, "one picture in 500 ms");
        assert!(
            sequence - last > superseded,
            "{last}, {sequence}: {superseded} between"
        );
        (last, all) = (sequence, all + superseded);
    }
    say(&format!("{all} pictures gave way to newer ones"));
}

/// The capture loop of raw formats allocates nothing once it is warm.
#[test]
#[ignore = "needs vivid: run in the lab"]
fn signal_that_flows_allocates_nothing() {
    let mut source = V4l2Source::open(V4l2Options {
        rate: FrameRate::hz(60),
        ..V4l2Options::new(DEVICE)
    })
    .expect("vivid opens");
    for _ in 0..10 {
        next_frame(&mut source).expect("frames come");
    }
    let mut frames = 0;
    let info = allocation_counter::measure(|| {
        while frames < 60 {
            if let Ok(Captured::Frame(frame)) = source.next(Duration::from_secs(1)) {
                assert!(frame.dma_buf().is_some());
                frames += 1;
            }
        }
    });
    say(&format!(
        "{} allocations for {frames} frames",
        info.count_total
    ));
    assert_eq!(info.count_total, 0);
}

#[test]
#[ignore = "needs vivid: run in the lab"]
fn nothing_leaks_over_many_opens_and_frames() {
    let files = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let before = files();
    for _ in 0..200 {
        let mut source = V4l2Source::open(V4l2Options::new(DEVICE)).expect("vivid opens");
        // A frame that outlives its source keeps its memory.
        let frame = next_frame(&mut source).ok();
        drop(source);
        assert!(frame.is_none_or(|frame| frame.plane(0).is_some()));
    }
    let mut source = V4l2Source::open(V4l2Options::new(DEVICE)).expect("vivid opens");
    for _ in 0..100 {
        next_frame(&mut source).expect("frames come");
    }
    drop(source);
    assert_eq!(files(), before);
}

/// Waits for the error that says that the device has gone.
fn await_gone(source: &mut V4l2Source) {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match source.next(Duration::from_millis(100)) {
            Err(SourceError::Gone { .. }) => break,
            other => assert!(Instant::now() < end, "{other:?}"),
        }
    }
}

fn reopen() -> V4l2Source {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match V4l2Source::open(V4l2Options::new(DEVICE)) {
            Ok(source) => break source,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
    }
}

/// 100 rounds, or as many as a slow machine plays in the time; `SOFT_KVM_LAB_ROUNDS` asks for others.
#[test]
#[ignore = "needs vivid: run in the lab"]
fn hotplug_rounds_leak_nothing() {
    let rounds: Option<u32> = std::env::var("SOFT_KVM_LAB_ROUNDS")
        .ok()
        .and_then(|rounds| rounds.parse().ok());
    let files = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let mapped = || {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("procfs");
        maps.lines()
            .filter(|line| line.contains("/dev/video") || line.contains("dmabuf"))
            .count()
    };
    let driver = Path::new("/sys/bus/platform/drivers/vivid");
    let before = (files(), mapped());
    let start = Instant::now();
    let (mut done, mut worst) = (0, Duration::ZERO);
    while match rounds {
        Some(rounds) => done < rounds,
        None => done < 100 && start.elapsed() < Duration::from_secs(180),
    } {
        let mut source = reopen();
        let held = next_frame(&mut source).expect("a picture");
        std::fs::write(driver.join("unbind"), "vivid.0").expect("unbind");
        await_gone(&mut source);
        // A frame in use keeps its memory after the device has gone.
        assert!(
            held.plane(0)
                .is_some_and(|plane| plane.data.iter().any(|byte| *byte > 0))
        );
        drop((held, source));
        std::fs::write(driver.join("bind"), "vivid.0").expect("bind");
        let back = Instant::now();
        next_frame(&mut reopen()).expect("the picture comes back");
        worst = worst.max(back.elapsed());
        done += 1;
    }
    let after = (files(), mapped());
    say(&format!(
        "{done} rounds, at most {} ms to the next picture; descriptors and mappings {before:?} before, {after:?} after",
        worst.as_millis()
    ));
    assert_eq!(after, before);
    assert!(done >= 10, "only {done} rounds");
}

/// vivid's own fault: its nodes go, as if the device had been torn out.
#[test]
#[ignore = "needs vivid: run in the lab"]
fn hotplug_disconnect_is_told() {
    let mut source = V4l2Source::open(V4l2Options::new(DEVICE)).expect("vivid opens");
    let frame = next_frame(&mut source).expect("a picture at first");
    control("disconnect", "1");
    let start = Instant::now();
    await_gone(&mut source);
    say(&format!("gone after {} ms", start.elapsed().as_millis()));
    drop((frame, source));
}
