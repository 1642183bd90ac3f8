//! Hardware encoders: the kernel's interface by the lab's virtual H.264 encoder, its faults, and DMA-BUFs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::kvm::{self, Host, Seat, Server, TARGET};
use crate::picture::Picture;
use crate::vivid;
use anyhow::{Context as _, bail, ensure};
use soft_kvm_core::{Bitrate, FourCc, FrameRate, Size};
use soft_kvm_lab_tests::guest;
use soft_kvm_platform::openh264::Decoder;
use soft_kvm_platform::os::dmabuf::Pool;
use soft_kvm_platform::os::m2m::{M2mEncoder, M2mKind, probe};
use soft_kvm_platform::os::v4l2::{V4l2Options, V4l2Source};
use soft_kvm_video::codec::{
    CodecError, EncoderConfig, FrameEncoder, I420Ref, VideoDecoder as _, VideoEncoder as _,
};
use soft_kvm_video::frame::{Colorimetry, Frame, Matrix, PixelFormat, Rect};
use soft_kvm_video::source::{Captured, VideoSource as _};

pub(crate) const MODULE: &str = "virtual-h264";
const SIZE: Size = Size::new(640, 480);

/// What an encoder has to be told for pictures without delay, by the kernel's header `v4l2-controls.h`.
const LOW_DELAY: &[(&str, &str)] = &[
    ("no B-frames", "id=0x9909ca, value=0"),
    ("far key frames", "id=0x9909cb, value=600"),
    ("constrained baseline", "id=0x990a6b, value=1"),
    ("level 3 for 640x480 at 30/s", "id=0x990a67, value=8"),
    ("headers with their picture", "id=0x9909d8, value=1"),
    ("headers with each key frame", "id=0x9909e2, value=1"),
    ("the same by its newer name", "id=0x990b84, value=1"),
    ("a rate that is kept", "id=0x9909d7, value=1"),
    ("constant bitrate", "id=0x9909ce, value=1"),
    ("the bitrate", "id=0x9909cf, value=4000000"),
    ("the pictures' rate", "timeperframe=1/30"),
];

/// The kernel's own log of the calls says that the encoder is set up for pictures without delay, and that no picture waits in
/// it for the next.
pub(crate) fn low_delay() -> anyhow::Result<()> {
    guest::insmod(MODULE, &[])?;
    let node = encoder(MODULE)?;
    let name = node.file_name().unwrap_or_default().to_string_lossy();
    // Calls with their arguments, also those that move buffers (kernel doc "V4L2 device instance", dev_debug).
    fs::write(format!("/sys/class/video4linux/{name}/dev_debug"), "0xb")?;
    let mut source = vivid(b"NV12", SIZE)?;
    let frame = next_frame(&mut source)?;
    let mut encoder = M2mEncoder::open(&node, &config(SIZE), &frame)?;
    let mut out = Vec::new();
    for number in 0..5 {
        encoder.encode(&frame, number == 0, &mut out)?;
    }
    let log = guest::run(&mut Command::new("dmesg"))?;
    drop(encoder);
    let calls: Vec<_> = log
        .lines()
        .filter(|line| line.contains(&format!("{name}: VIDIOC_")))
        .collect();
    for (what, call) in LOW_DELAY {
        ensure!(
            calls
                .iter()
                .any(|line| line.contains(call) && !line.contains("error")),
            "not told: {what} ({call}) in\n{}",
            calls.join("\n")
        );
    }
    // One picture goes in, its access unit comes out, then the next goes in.
    let moves = calls
        .iter()
        .filter(|line| line.contains("flags=") && !line.contains("error"));
    let moves: Vec<_> = moves
        .filter_map(|line| {
            let kind = if line.contains("type=vid-out") {
                "in"
            } else {
                "out"
            };
            if line.contains("VIDIOC_QBUF") && kind == "in" {
                Some("in")
            } else if line.contains("VIDIOC_DQBUF") && kind == "out" {
                Some("out")
            } else {
                None
            }
        })
        .collect();
    ensure!(
        moves == ["in", "out"].repeat(5),
        "{moves:?}\n{}",
        calls.join("\n")
    );
    guest::tell(format!(
        "{} settings told to the driver, 5 pictures in and out in turns, by the kernel's log",
        LOW_DELAY.len()
    ));
    Ok(())
}

/// Intra refresh, by either control that drivers have for it: the kernel's log says that it is told, and a decoder whose
/// picture is another one has the right one once the period is over, without a key frame. Without it, never.
pub(crate) fn intra_refresh() -> anyhow::Result<()> {
    guest::insmod(MODULE, &[])?;
    let node = encoder(MODULE)?;
    let name = node.file_name().unwrap_or_default().to_string_lossy();
    fs::write(format!("/sys/class/video4linux/{name}/dev_debug"), "0x3")?;
    // 40x30 macroblocks in 25 pictures.
    for (by_blocks, told) in [
        ("0", &["id=0x9909ed, value=1", "id=0x9909ec, value=25"][..]),
        ("1", &["id=0x9909d6, value=48"]),
    ] {
        set("refresh_by_blocks", by_blocks)?;
        guest::run(Command::new("dmesg").arg("-C"))?;
        let mended = mended_after(&node, 25)?;
        ensure!(mended == Some(25), "mended after {mended:?} pictures");
        let log = guest::run(&mut Command::new("dmesg"))?;
        for call in told {
            let mut lines = log.lines();
            let line = lines.find(|line| line.contains("VIDIOC_S_CTRL") && line.contains(call));
            ensure!(
                line.is_some_and(|line| !line.contains("error")),
                "{call} in\n{log}"
            );
        }
    }
    let never = mended_after(&node, 0)?;
    ensure!(never.is_none(), "mended after {never:?} pictures");
    guest::tell(
        "a picture spoilt by loss is whole again after 25 pictures with intra refresh, by either control; without it never",
    );
    Ok(())
}

/// Pictures after which a decoder with another picture than the encoder's shows the encoder's, which does not change.
fn mended_after(node: &Path, intra_refresh: u32) -> anyhow::Result<Option<u32>> {
    let config = EncoderConfig {
        intra_refresh,
        ..config(SIZE)
    };
    let chroma = vec![128; SIZE.pixels() / 4];
    let picture = |luma| I420Ref {
        size: SIZE,
        planes: [luma, &chroma, &chroma],
        strides: [640, 320, 320],
        color: Colorimetry::default(),
    };
    let (wrong, right) = (vec![40; SIZE.pixels()], vec![200; SIZE.pixels()]);
    let (mut out, mut decoder) = (Vec::new(), Decoder::open()?);
    // Another encoder's key frame stands for one that was never mended after a loss.
    let mut other = M2mEncoder::open_cpu(node, &config)?;
    other.encode(picture(&wrong), true, &mut out)?;
    decoder.decode(&out)?.context("a key frame")?;
    drop(other);
    let mut encoder = M2mEncoder::open_cpu(node, &config)?;
    encoder.encode(picture(&right), true, &mut out)?;
    for number in 1..=50 {
        let encoded = encoder.encode(picture(&right), false, &mut out)?;
        ensure!(!encoded.idr, "a key frame");
        let shown = decoder.decode(&out)?.context("a picture")?;
        if tight(shown) == tight(picture(&right)) {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

/// A driver whose parameter sets say nothing of colours: the source's are added, in key frames that repeat the sets and in those
/// that get them from us.
pub(crate) fn colours_added() -> anyhow::Result<()> {
    guest::insmod(MODULE, &["no_vui=1"])?;
    let node = encoder(MODULE)?;
    let mut source = vivid(b"NV12", SIZE)?;
    let frame = next_frame(&mut source)?;
    let color = frame.info().color;
    ensure!(
        color.matrix != Matrix::Bt709,
        "what decoders guess: {color:?}"
    );
    let wanted = samples(&frame)?;
    let mut encoder = M2mEncoder::open(&node, &config(SIZE), &frame)?;
    let (mut out, mut decoder) = (Vec::new(), Decoder::open()?);
    for number in 0..6 {
        let encoded = encoder.encode(&frame, number % 3 == 0, &mut out)?;
        ensure!(
            encoded.idr == (number % 3 == 0),
            "picture {number}: {encoded:?}"
        );
        let shown = decoder.decode(&out)?.context("a picture")?;
        ensure!(shown.color == color, "{:?}, not {color:?}", shown.color);
        ensure!(tight(shown) == wanted, "picture {number} differs");
    }
    guest::tell(format!(
        "SPS without VUI: {color:?} added, and every sample the same"
    ));
    Ok(())
}

/// What `v4l2-compliance` says about the virtual encoder in both APIs, streaming included. Where the tool is older
/// than the kernel it finds faults with every driver: those that it finds with the kernel's own vicodec do not count.
pub(crate) fn compliance() -> anyhow::Result<()> {
    let accepted = faults_found(&encoder("vicodec")?)?;
    for parameter in ["multiplanar=0", "multiplanar=1"] {
        guest::insmod(MODULE, &[parameter])?;
        let found = faults_found(&encoder(MODULE)?)?;
        let own: Vec<_> = found.difference(&accepted).collect();
        ensure!(own.is_empty(), "{parameter}: {own:#?}");
        guest::rmmod(MODULE)?;
        guest::tell(format!(
            "{parameter}: v4l2-compliance finds nothing that it does not find with the kernel's own vicodec"
        ));
    }
    Ok(())
}

/// Why tests fail, without the places in the tool's source.
fn faults_found(node: &Path) -> anyhow::Result<BTreeSet<String>> {
    let mut command = Command::new("v4l2-compliance");
    let output = command.arg("-d").arg(node).arg("-s5").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let total = text.lines().find(|line| line.starts_with("Total for"));
    total.with_context(|| format!("v4l2-compliance did not finish:\n{text}"))?;
    let reasons = text.lines().filter_map(|line| {
        let (_, reason) = line.trim().strip_prefix("fail: ")?.split_once("): ")?;
        Some(reason.to_owned())
    });
    let mut reasons: BTreeSet<String> = reasons.collect();
    // The kernel's core writes the descriptions; an older tool gives up listing at one that has changed since.
    let before = reasons.len();
    reasons.retain(|reason| !reason.contains("fmtdesc.description mismatch"));
    if reasons.len() < before {
        reasons.retain(|reason| !reason.contains("not reported by ENUM_FMT"));
    }
    Ok(reasons)
}

/// The node of a driver's encoder.
fn encoder(driver: &str) -> anyhow::Result<PathBuf> {
    let nodes = probe();
    let found = nodes
        .iter()
        .find(|node| node.kind == Some(M2mKind::Encoder) && node.driver == driver);
    let found = found.with_context(|| format!("no encoder of {driver}: {nodes:?}"))?;
    Ok(found.path.clone())
}

pub(crate) fn config(size: Size) -> EncoderConfig {
    EncoderConfig {
        size,
        rate: FrameRate::hz(30),
        bitrate: Bitrate::kbps(4_000),
        intra_refresh: 0,
    }
}

/// vivid as a dongle, whose size and format are asked for.
pub(crate) fn vivid(format: &[u8; 4], size: Size) -> anyhow::Result<V4l2Source> {
    Ok(V4l2Source::open(V4l2Options {
        input: Some(0),
        size: Some(size),
        format: Some(FourCc::new(format)),
        ..V4l2Options::new("/dev/video0")
    })?)
}

pub(crate) fn next_frame(source: &mut V4l2Source) -> anyhow::Result<Frame> {
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        if let Captured::Frame(frame) = source.next(Duration::from_millis(500))? {
            return Ok(frame);
        }
    }
    bail!("no frame within 10 s")
}

/// The visible samples as three tight planes: Y, Cb, Cr behind each other.
pub(crate) fn samples(frame: &Frame) -> anyhow::Result<Vec<u8>> {
    let size = frame.info().size;
    let (width, height) = (size.width as usize, size.height as usize);
    let plane = |index| frame.plane(index).context("the frame has the plane");
    let mut all = Vec::new();
    let luma = plane(0)?;
    for line in luma.data.chunks(luma.stride).take(height) {
        all.extend_from_slice(line.get(..width).context("a whole line")?);
    }
    match frame.info().format {
        PixelFormat::Nv12 => {
            let chroma = plane(1)?;
            for part in 0..2 {
                for line in chroma.data.chunks(chroma.stride).take(height / 2) {
                    let line = line.get(..width).context("a whole line")?;
                    all.extend(line.iter().skip(part).step_by(2));
                }
            }
        }
        _ => {
            for index in 1..3 {
                let chroma = plane(index)?;
                for line in chroma.data.chunks(chroma.stride).take(height / 2) {
                    all.extend_from_slice(line.get(..width / 2).context("a whole line")?);
                }
            }
        }
    }
    Ok(all)
}

pub(crate) fn tight(picture: I420Ref<'_>) -> Vec<u8> {
    let (width, height) = (picture.size.width as usize, picture.size.height as usize);
    let shapes = [
        (width, height),
        (width / 2, height / 2),
        (width / 2, height / 2),
    ];
    let mut all = Vec::new();
    for ((plane, stride), (width, height)) in
        picture.planes.into_iter().zip(picture.strides).zip(shapes)
    {
        for line in plane.chunks(stride).take(height) {
            all.extend_from_slice(line.get(..width).unwrap_or_default());
        }
    }
    all
}

pub(crate) fn seen(name: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string(format!("/sys/module/virtual_h264/parameters/{name}"))?;
    Ok(text.trim().parse()?)
}

fn set(name: &str, value: &str) -> anyhow::Result<()> {
    let path = format!("/sys/module/virtual_h264/parameters/{name}");
    fs::write(&path, value).with_context(|| path)
}

/// What the device makes of captured frames decodes to the very same samples, in OpenH264 and in ffmpeg, and the CPU
/// touched none on the way.
pub(crate) fn every_pixel() -> anyhow::Result<()> {
    let large = Size::new(1920, 1080);
    for (api, shapes) in [
        ("multiplanar=0", [(b"NV12", SIZE), (b"YU12", large)]),
        ("multiplanar=1", [(b"NV12", large), (b"YU12", SIZE)]),
    ] {
        guest::insmod(MODULE, &[api])?;
        for (format, size) in shapes {
            compare(format, size, api)?;
        }
        guest::rmmod(MODULE).context("somebody still holds the device")?;
    }
    Ok(())
}

/// The whole way: a dongle on one host, its picture encoded by the device from where it lies, decoded on another host.
pub(crate) fn to_the_client() -> anyhow::Result<()> {
    guest::modprobe("vivid", vivid::WEBCAM)?;
    guest::insmod(MODULE, &[])?;
    let (target, near) = kvm::two_hosts()?;
    let arguments = [
        "--no-discovery",
        "--source",
        "v4l2:/dev/video0",
        "--size",
        "640x480",
        "--encoder",
        "v4l2m2m",
    ];
    let server = Server::start(Host::Namespace(&target), &arguments)?;
    let seat = Seat::new(Host::Namespace(&near))?;
    seat.pair(TARGET, server.code()?)?;
    let screenshot = seat.file("picture.png");
    let arguments = [
        "--seconds",
        "3",
        "--screenshot",
        &screenshot.to_string_lossy(),
    ];
    let shown = seat.connect(TARGET, &arguments)?.finish()?;
    let served = server.stop()?;
    Picture::read(&screenshot)?
        .check_bars()
        .with_context(|| format!("{shown}\n{served}"))?;
    let decoded = kvm::number(&shown, "/frames/decoded")?;
    ensure!(decoded >= 10, "only {decoded} decoded: {shown}\n{served}");
    ensure!(kvm::number(&shown, "/dropped/decoder")? == 0, "{shown}");
    let imports = seen("seen_imports")?;
    ensure!(imports > 0, "the device imported none: {served}");
    let copied = kvm::number(&served, "/cpu_pixel_bytes")?;
    ensure!(copied == 0, "{copied} bytes touched by the CPU: {served}");
    guest::tell(format!(
        "vivid → virtual H.264 encoder → another host: {imports} DMA-BUFs imported, {decoded} frames decoded, \
         {copied} bytes of pixels touched by the server's CPU"
    ));
    Ok(())
}

fn compare(format: &[u8; 4], size: Size, api: &str) -> anyhow::Result<()> {
    let mut source = vivid(format, size)?;
    let first = next_frame(&mut source)?;
    let mut encoder = M2mEncoder::open(&encoder(MODULE)?, &config(size), &first)?;
    drop(first);
    let imported = seen("seen_imports")?;
    let mut decoder = Decoder::open()?;
    let (mut stream, mut originals, mut out) = (Vec::new(), Vec::new(), Vec::new());
    let (count, mut keys, mut smallest) = (8_u64, 0, usize::MAX);
    for number in 0..count {
        let frame = next_frame(&mut source)?;
        let wanted = samples(&frame)?;
        let encoded = encoder.encode(&frame, number == 0 || number == 5, &mut out)?;
        drop(frame);
        keys += u32::from(encoded.idr);
        smallest = smallest.min(out.len());
        let picture = decoder
            .decode(&out)?
            .context("an access unit with a picture")?;
        ensure!(picture.size == size, "decoded as {}", picture.size);
        ensure!(
            tight(picture) == wanted,
            "picture {number} differs in OpenH264"
        );
        stream.extend_from_slice(&out);
        originals.extend_from_slice(&wanted);
    }
    ensure!(keys == 2, "{keys} key frames instead of 2");
    ensure!(
        smallest < size.pixels() / 4,
        "pictures that hardly change take {smallest} bytes"
    );
    let imports = seen("seen_imports")? - imported;
    ensure!(imports == count, "{imports} of {count} pictures imported");
    let copied = encoder.cpu_bytes();
    ensure!(copied == 0, "{copied} bytes copied");
    ensure!(
        by_ffmpeg(&stream)? == originals,
        "a picture differs in ffmpeg"
    );
    guest::tell(format!(
        "{} {size} {api}: {count} frames, every sample the same in OpenH264 and ffmpeg, \
         {count} DMA-BUFs imported, {copied} bytes copied by the CPU",
        FourCc::new(format)
    ));
    Ok(())
}

/// The samples that ffmpeg decodes.
pub(crate) fn by_ffmpeg(stream: &[u8]) -> anyhow::Result<Vec<u8>> {
    let folder = guest::folder("every-pixel")?;
    let file = folder.join("stream.h264");
    fs::write(&file, stream)?;
    let raw = folder.join("stream.yuv");
    guest::run(
        Command::new("ffmpeg")
            .args([
                "-v", "error", "-xerror", "-y", "-threads", "1", "-f", "h264",
            ])
            .arg("-i")
            .arg(&file)
            .args([
                "-vsync",
                "passthrough",
                "-pix_fmt",
                "yuv420p",
                "-f",
                "rawvideo",
            ])
            .arg(&raw),
    )?;
    Ok(fs::read(&raw)?)
}

/// The device fails as hardware does, and each fault becomes an error in words, in time.
pub(crate) fn faults() -> anyhow::Result<()> {
    guest::insmod(MODULE, &[])?;
    let node = encoder(MODULE)?;
    let mut source = vivid(b"NV12", SIZE)?;
    let frame = next_frame(&mut source)?;
    let files = open_files()?;
    let mut out = Vec::new();
    let open = || M2mEncoder::open(&node, &config(SIZE), &frame);

    set("fail_open", "16")?;
    expect(open().map(drop), "in use")?;
    let listed = probe().into_iter().find(|found| found.path == node);
    let why = listed.and_then(|found| found.unusable);
    ensure!(
        why.as_deref().is_some_and(|why| why.contains("in use")),
        "listed as {why:?}"
    );
    set("fail_open", "0")?;

    set("wrong_stride", "64")?;
    expect(open().map(drop), "lines of plane 0 are 640 bytes apart")?;
    set("wrong_stride", "0")?;

    set("no_dmabuf", "1")?;
    expect(open().map(drop), "import of DMA-BUFs")?;
    let copies = copies(&node, &Pool::ALL, SIZE, 3)?;
    let copied = copies.bytes;
    // Read and written: the first as a whole, then where the bar was and is.
    ensure!(
        copied == 2 * (460_800 + 2 * 60 * 720),
        "{copied} bytes touched"
    );
    ensure!(copies.memory == OWN, "into {}", copies.memory);
    set("no_dmabuf", "0")?;

    set("error_after", "3")?;
    let mut broken = open()?;
    for _ in 0..3 {
        broken.encode(&frame, false, &mut out)?;
    }
    expect(
        broken.encode(&frame, false, &mut out).map(drop),
        "could not",
    )?;
    drop(broken);
    set("error_after", "0")?;

    set("hang_after", "3")?;
    let mut hung = open()?;
    for _ in 0..3 {
        hung.encode(&frame, false, &mut out)?;
    }
    let start = Instant::now();
    expect(
        hung.encode(&frame, false, &mut out).map(drop),
        "did not answer",
    )?;
    drop(hung);
    let gap = start.elapsed();
    ensure!(gap < Duration::from_secs(3), "given up after {gap:?}");
    set("hang_after", "0")?;
    open()?.encode(&frame, false, &mut out)?;

    // A key frame that comes late is asked for again, by starting anew.
    set("late_key_frame", "1000")?;
    let mut late = open()?;
    late.encode(&frame, true, &mut out)?;
    let waited = (1..10).find(|_| {
        late.encode(&frame, true, &mut out)
            .is_ok_and(|encoded| encoded.idr)
    });
    ensure!(
        waited.is_some_and(|pictures| pictures <= 5),
        "a key frame after {waited:?} pictures"
    );
    ensure!(
        out.starts_with(&[0, 0, 0, 1, 0x67]),
        "a key frame without SPS"
    );
    set("late_key_frame", "0")?;

    late.set_bitrate(Bitrate::kbps(1_500))?;
    let bitrate = seen("seen_bitrate")?;
    ensure!(bitrate == 1_500_000, "the device was told {bitrate} bit/s");

    // Unplugged while it runs.
    guest::unbind(MODULE, "virtual-h264.0")?;
    let gone = late.encode(&frame, false, &mut out).map(drop);
    expect(gone, "gone")?;
    drop(late);
    guest::bind(MODULE, "virtual-h264.0")?;
    M2mEncoder::open(&encoder(MODULE)?, &config(SIZE), &frame)?.encode(&frame, true, &mut out)?;

    let left = open_files()?;
    ensure!(left == files, "{files} files open before, {left} after");
    guest::rmmod(MODULE).context("somebody still holds the device")?;
    guest::tell(format!(
        "8 faults told in words, a hang given up after {} ms, 0 descriptors leaked",
        gap.as_millis()
    ));
    Ok(())
}

/// Memory of the CPU's, for tests that name it.
const OWN: &str = "the encoder's own";

/// What the CPU writes into a DMA heap's memory and into udmabuf's, the device imports, and it decodes to the very same
/// samples; side by side with the device's own memory.
pub(crate) fn cpu_memory() -> anyhow::Result<()> {
    let large = Size::new(1920, 1080);
    let files = open_files()?;
    let mut told = Vec::new();
    for (api, size) in [("multiplanar=0", SIZE), ("multiplanar=1", large)] {
        guest::insmod(MODULE, &[api])?;
        let node = encoder(MODULE)?;
        for (pools, expected) in [
            (&Pool::ALL[..], "DMA heap"),
            (&[Pool::Udmabuf], "udmabuf"),
            (&[], OWN),
        ] {
            let (count, before) = (8, seen("seen_imports")?);
            let Copies {
                bytes: copied,
                memory,
                median,
            } = copies(&node, pools, size, count)?;
            let each = median.as_secs_f64() * 1e3;
            let imports = seen("seen_imports")? - before;
            ensure!(memory == expected, "{memory}, not {expected}");
            let (pictures, none) = (u64::from(count), expected == OWN);
            ensure!(
                imports == if none { 0 } else { pictures },
                "{imports} imports"
            );
            let whole = pictures * u64::try_from(size.pixels() * 3)?;
            ensure!(copied > 0 && copied < whole / 2, "{copied} bytes touched");
            let copied = copied / pictures;
            told.push(format!(
                "{size} {api}: {memory}, {imports} of {count} pictures imported, {each:.1} ms and {copied} bytes touched each"
            ));
        }
        guest::rmmod(MODULE).context("somebody still holds the device")?;
    }
    let left = open_files()?;
    ensure!(left == files, "{files} files open before, {left} after");
    guest::tell(told.join("\n"));
    Ok(())
}

/// What [`copies`] saw.
struct Copies {
    /// That the CPU read and wrote.
    bytes: u64,
    /// Whose they were written to.
    memory: &'static str,
    /// Time for a picture.
    median: Duration,
}

/// Has the CPU write different pictures for the device, each where it differs from the one before.
fn copies(node: &Path, pools: &[Pool], size: Size, count: u8) -> anyhow::Result<Copies> {
    let mut encoder = M2mEncoder::open_cpu_with(node, &config(size), pools)?;
    let mut times = Vec::new();
    let width = size.width as usize;
    let (mut out, mut decoder) = (Vec::new(), Decoder::open()?);
    for number in 0..count {
        let (cb, cr) = (vec![100; size.pixels() / 4], vec![200; size.pixels() / 4]);
        // A bar that moves.
        let mut luma = vec![90; size.pixels()];
        for line in luma.chunks_mut(width) {
            line.iter_mut()
                .skip(usize::from(number) * 20)
                .take(40)
                .for_each(|pixel| *pixel = 200);
        }
        let picture = I420Ref {
            size,
            planes: [&luma, &cb, &cr],
            strides: [width, width / 2, width / 2],
            color: Colorimetry::default(),
        };
        let start = Instant::now();
        // Where the bar was, and where it is.
        let changed = match number {
            0 => Rect::whole(size),
            _ => Rect {
                x: u32::from(number - 1) * 20,
                width: 60,
                ..Rect::whole(size)
            },
        };
        encoder.encode_changed(picture, changed, false, &mut out)?;
        times.push(start.elapsed());
        let decoded = decoder.decode(&out)?.context("a picture")?;
        ensure!(tight(decoded) == tight(picture), "the copy differs");
    }
    times.sort_unstable();
    Ok(Copies {
        bytes: encoder.cpu_bytes().unwrap_or_default(),
        memory: encoder.memory(),
        median: times.get(times.len() / 2).copied().unwrap_or_default(),
    })
}

pub(crate) fn expect(result: Result<(), CodecError>, word: &str) -> anyhow::Result<()> {
    match result {
        Ok(()) => bail!("no error where \"{word}\" was expected"),
        Err(error) => {
            ensure!(error.what.contains(word), "not \"{word}\" but: {error}");
            Ok(())
        }
    }
}

pub(crate) fn open_files() -> anyhow::Result<usize> {
    // A hanging device is closed on a thread of its own.
    std::thread::sleep(Duration::from_millis(50));
    Ok(fs::read_dir("/proc/self/fd")?.count())
}
