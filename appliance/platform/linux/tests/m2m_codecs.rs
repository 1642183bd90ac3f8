//! Hardware encoders by DMA-BUF, on the kernel's virtual capture device and codec.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use soft_kvm_core::{Bitrate, FourCc, FrameRate, Size};
use soft_kvm_platform_linux::dmabuf::Pool;
use soft_kvm_platform_linux::m2m::{M2mDecoder, M2mEncoder, M2mKind, M2mNode, probe};
use soft_kvm_platform_linux::v4l2::{V4l2Options, V4l2Source};
use soft_kvm_video::codec::{
    CodedFormat, EncoderConfig, FrameEncoder as _, I420Ref, VideoDecoder as _, VideoEncoder as _,
};
use soft_kvm_video::frame::{Colorimetry, Frame};
use soft_kvm_video::source::{Captured, VideoSource as _};

const SIZE: Size = Size::new(640, 480);

fn node(kind: M2mKind) -> M2mNode {
    let nodes = probe();
    let found = nodes.iter().find(|node| node.kind == Some(kind));
    found.unwrap_or_else(|| panic!("{nodes:?}")).clone()
}

fn config(size: Size) -> EncoderConfig {
    EncoderConfig {
        size,
        rate: FrameRate::hz(30),
        bitrate: Bitrate::kbps(4_000),
        intra_refresh: 0,
    }
}

fn vivid(format: &[u8; 4], size: Size) -> V4l2Source {
    V4l2Source::open(V4l2Options {
        input: Some(0),
        size: Some(size),
        format: Some(FourCc::new(format)),
        ..V4l2Options::new("/dev/video0")
    })
    .expect("vivid opens")
}

fn next_frame(source: &mut V4l2Source) -> Frame {
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        if let Captured::Frame(frame) = source
            .next(Duration::from_millis(500))
            .expect("vivid stays")
        {
            return frame;
        }
    }
    panic!("no frame within 10 s")
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

#[test]
#[ignore = "needs vivid and vicodec: run in the lab"]
fn nodes_are_told_apart() {
    let encoder = node(M2mKind::Encoder);
    assert_eq!(
        (encoder.driver.as_str(), encoder.unusable),
        ("vicodec", None)
    );
    assert!(
        encoder.input.contains(&"NV12".to_owned()),
        "{:?}",
        encoder.input
    );
    assert_eq!(encoder.output, ["FWHT"]);
    let decoder = node(M2mKind::Decoder);
    assert_eq!(decoder.input, ["FWHT"]);
    // vivid itself is none of them.
    let vivid = PathBuf::from("/dev/video0");
    assert!(probe().iter().all(|node| node.path != vivid));
}

#[test]
#[ignore = "needs vivid and vicodec: run in the lab"]
fn captured_frames_are_encoded_where_they_are() {
    let files = open_files();
    for format in [b"NV12", b"YU12", b"YUYV", b"XR24"] {
        let mut source = vivid(format, SIZE);
        let frame = next_frame(&mut source);
        let path = node(M2mKind::Encoder).path;
        let mut encoder = M2mEncoder::open(&path, &config(SIZE), &frame).expect("vicodec opens");
        assert_eq!(encoder.format(), CodedFormat::Fwht);
        drop(frame);
        let mut out = Vec::new();
        let mut keys = 0;
        for number in 0..20 {
            let frame = next_frame(&mut source);
            let ask = number == 0 || number == 10;
            let encoded = encoder.encode(&frame, ask, &mut out).expect("it encodes");
            assert!(!ask || encoded.idr, "picture {number} is no key frame");
            assert_eq!(
                out.get(..8),
                Some(&b"OOOO\xff\xff\xff\xff"[..]),
                "a frame of FWHT"
            );
            keys += u32::from(encoded.idr);
            assert_eq!(frame.opened_bytes(), 0, "the CPU was given the picture");
        }
        assert!(keys < 20, "every picture is a key frame");
    }
    assert_eq!(open_files(), files, "descriptors leak");
}

#[test]
#[ignore = "needs vivid and vicodec: run in the lab"]
fn frames_that_do_not_fit_are_refused_with_the_reason() {
    // vicodec wants 1088 lines for 1080.
    let mut source = vivid(b"NV12", Size::new(1920, 1080));
    let frame = next_frame(&mut source);
    let path = node(M2mKind::Encoder).path;
    let error = M2mEncoder::open(&path, &config(Size::new(1920, 1080)), &frame)
        .expect_err("chroma lies elsewhere");
    assert!(error.what.contains("1088"), "{error}");
    drop((frame, source));
    let mut source = vivid(b"NV12", SIZE);
    let frame = next_frame(&mut source);
    let mut encoder = M2mEncoder::open(&path, &config(SIZE), &frame).expect("vicodec opens");
    let mut out = Vec::new();
    encoder.encode(&frame, true, &mut out).expect("it encodes");
    drop((frame, source));
    let mut source = vivid(b"NV12", Size::new(1280, 720));
    let frame = next_frame(&mut source);
    encoder
        .encode(&frame, false, &mut out)
        .expect_err("the size has changed");
}

#[test]
#[ignore = "needs vivid and vicodec: run in the lab"]
fn pictures_of_the_cpu_are_copied_and_counted() {
    let path = node(M2mKind::Encoder).path;
    let luma: Vec<u8> = (0..=250_u8).cycle().take(SIZE.pixels()).collect();
    let chroma = vec![128; SIZE.pixels() / 4];
    let picture = I420Ref {
        size: SIZE,
        planes: [&luma, &chroma, &chroma],
        strides: [640, 320, 320],
        color: Colorimetry::default(),
    };
    let mut out = Vec::with_capacity(4 << 20);
    for (pools, memory) in [
        (&[Pool::Heap][..], "DMA heap"),
        (&[Pool::Udmabuf], "udmabuf"),
        (&[], "the encoder's own"),
    ] {
        let opened = M2mEncoder::open_cpu_with(&path, &config(SIZE), pools);
        let mut encoder = opened.expect("vicodec opens");
        assert_eq!(encoder.memory(), memory);
        let mut encode = |number: u32| {
            let encoded = encoder
                .encode(picture, number == 0, &mut out)
                .expect("it encodes");
            assert!(number > 0 || encoded.idr);
            assert!(!out.is_empty());
        };
        (0..5).for_each(&mut encode);
        let counted = allocation_counter::measure(|| (5..10).for_each(&mut encode));
        assert_eq!(counted.count_total, 0, "{memory}: {counted:?}");
        encoder
            .set_bitrate(Bitrate::kbps(1_000))
            .expect("a device without bitrate goes on");
        // Read and written.
        assert_eq!(encoder.cpu_bytes(), Some(10 * 640 * 480 * 3));
    }
}

/// vivid's bars through a hardware encoder and a hardware decoder, with a change of size on the way.
#[test]
#[ignore = "needs vivid and vicodec: run in the lab"]
fn a_decoder_gives_the_colour_bars_back() {
    let files = open_files();
    let decoder = node(M2mKind::Decoder).path;
    let mut decoder = M2mDecoder::open(&decoder, CodedFormat::Fwht, false).expect("vicodec opens");
    for size in [SIZE, Size::new(1280, 720), SIZE] {
        let mut source = vivid(b"NV12", size);
        let frame = next_frame(&mut source);
        let path = node(M2mKind::Encoder).path;
        let mut encoder = M2mEncoder::open(&path, &config(size), &frame).expect("vicodec opens");
        drop(frame);
        let mut out = Vec::new();
        for number in 0..5 {
            let frame = next_frame(&mut source);
            encoder
                .encode(&frame, number == 0, &mut out)
                .expect("it encodes");
            let picture = decoder.decode(&out).expect("it decodes");
            let picture = picture.expect("each access unit is a picture");
            assert_eq!(picture.size, size);
            let luma = frame.plane(0).expect("NV12 has luma");
            let chroma = frame.plane(1).expect("NV12 has chroma");
            let (mut sum, mut count) = (0_u32, 0);
            for y in (0..size.height as usize).step_by(7) {
                for x in (0..size.width as usize).step_by(5) {
                    let ours = picture.planes[0][y * picture.strides[0] + x];
                    sum += u32::from(ours.abs_diff(luma.data[y * luma.stride + x]));
                    count += 1;
                }
            }
            assert!(sum / count < 3, "luma differs by {sum} in {count} samples");
            // The middles of the bars; the codec is lossy.
            for bar in 0..8 {
                let (x, y) = (
                    size.width as usize / 16 * (2 * bar + 1) / 2,
                    size.height as usize / 6,
                );
                let theirs = &chroma.data[y * chroma.stride + x * 2..][..2];
                for part in 0..2 {
                    let ours = picture.planes[1 + part][y * picture.strides[1 + part] + x];
                    assert!(
                        ours.abs_diff(theirs[part]) < 12,
                        "bar {bar}: {ours} {theirs:?}"
                    );
                }
            }
        }
    }
    // Rubbish is an error, and the next key frame goes on.
    decoder.decode(&[1, 2, 3, 4]).expect_err("not a stream");
    drop(decoder);
    assert_eq!(open_files(), files, "descriptors leak");
}

#[test]
#[ignore = "needs vivid and vicodec: run in the lab"]
fn pictures_are_encoded_and_decoded_without_allocation() {
    let mut source = vivid(b"NV12", SIZE);
    let frame = next_frame(&mut source);
    let encoder = node(M2mKind::Encoder).path;
    let mut encoder = M2mEncoder::open(&encoder, &config(SIZE), &frame).expect("vicodec opens");
    let decoder = node(M2mKind::Decoder).path;
    let mut decoder = M2mDecoder::open(&decoder, CodedFormat::Fwht, false).expect("vicodec opens");
    let mut out = Vec::with_capacity(4 << 20);
    let mut decoded = 0;
    let mut picture = || {
        encoder.encode(&frame, false, &mut out).expect("it encodes");
        decoded += u32::from(decoder.decode(&out).expect("it decodes").is_some());
    };
    (0..5).for_each(|_| picture());
    let counted = allocation_counter::measure(|| (0..20).for_each(|_| picture()));
    assert_eq!(decoded, 25);
    assert_eq!(counted.count_total, 0, "{counted:?}");
}
