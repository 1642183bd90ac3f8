//! Capture from the kernel's virtual video device: formats, loss of signal, faults, unplugging.

use std::path::Path;
use std::time::{Duration, Instant};

use soft_kvm_core::{FourCc, FrameRate, Size};
use soft_kvm_platform_linux::v4l2::{V4l2Options, V4l2Source, inspect};
use soft_kvm_video::frame::{Frame, PixelFormat};
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

fn control(name: &str, value: &str) {
    let set = std::process::Command::new("v4l2-ctl")
        .args(["-d", DEVICE, "-c", &format!("{name}={value}")])
        .status();
    assert!(
        set.is_ok_and(|status| status.success()),
        "v4l2-ctl {name}={value}"
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

#[test]
#[ignore = "needs vivid: run in the lab"]
fn a_lost_signal_is_told_and_comes_back() {
    let mut source = V4l2Source::open(V4l2Options::new(DEVICE)).expect("vivid's HDMI input opens");
    next_frame(&mut source).expect("a picture at first");
    for (mode, reason) in [
        ("1", NoPicture::NoSignal),
        ("2", NoPicture::NoLock),
        ("3", NoPicture::OutOfRange),
    ] {
        control("dv_timings_signal_mode", mode);
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            match source
                .next(Duration::from_millis(100))
                .expect("the device stays")
            {
                Captured::NoPicture(told) => {
                    assert_eq!(told, reason);
                    break;
                }
                _ => assert!(Instant::now() < end, "{reason:?} was not told"),
            }
        }
        control("dv_timings_signal_mode", "0");
        next_frame(&mut source).expect("the picture comes back");
    }
}

#[test]
#[ignore = "needs vivid: run in the lab"]
fn faults_are_survived() {
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
    for fault in ["inject_v4l2_buf_flag_error", "inject_fatal_streaming_error"] {
        control(fault, "1");
        for _ in 0..20 {
            next_frame(&mut source).expect("frames come again");
        }
    }
    let counters = source.counters();
    assert!(
        counters.damaged > 0 && counters.restarts > 0,
        "{counters:?}"
    );
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

#[test]
#[ignore = "needs vivid: run in the lab"]
fn zz_unplugging_is_told_and_the_device_opens_again() {
    let mut source = V4l2Source::open(V4l2Options::new(DEVICE)).expect("vivid opens");
    let frame = next_frame(&mut source).expect("a picture at first");
    let driver = Path::new("/sys/bus/platform/drivers/vivid");
    std::fs::write(driver.join("unbind"), "vivid.0").expect("unbind");
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match source.next(Duration::from_millis(100)) {
            Err(SourceError::Gone { .. }) => break,
            other => assert!(Instant::now() < end, "{other:?}"),
        }
    }
    drop((frame, source));
    std::fs::write(driver.join("bind"), "vivid.0").expect("bind");
    let mut source = loop {
        match V4l2Source::open(V4l2Options::new(DEVICE)) {
            Ok(source) => break source,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
    };
    next_frame(&mut source).expect("the picture comes back");
}
