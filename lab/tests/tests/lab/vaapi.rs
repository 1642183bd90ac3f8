//! Encoders behind libva, by the lab's virtual VA driver: what they make, and how they fail.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use soft_kvm_core::{Bitrate, MonoTime, Size};
use soft_kvm_lab_tests::guest;
use soft_kvm_platform::openh264::Decoder;
use soft_kvm_platform::os::vaapi::{VaapiEncoder, probe};
use soft_kvm_protocol::input::echo::EchoSnapshot;
use soft_kvm_protocol::media::nal_units;
use soft_kvm_video::codec::{FrameEncoder, VideoDecoder as _, VideoEncoder};
use soft_kvm_video::convert::Converter;
use soft_kvm_video::source::Content;
use soft_kvm_video::testcard::{TestCard, TestCardConfig};

use crate::keyboard::SMALL;
use crate::kvm::{self, Host, Seat, Server, TARGET};
use crate::m2m::{by_ffmpeg, config, expect, next_frame, open_files, samples, tight, vivid};

/// The render node of vgem.
pub(crate) fn node() -> anyhow::Result<PathBuf> {
    let nodes = probe();
    let found = nodes.iter().find(|node| node.unusable.is_none());
    let found = found.with_context(|| format!("no encoder: {nodes:?}"))?;
    ensure!(found.driver.contains("virtual"), "{found:?}");
    Ok(found.path.clone())
}

/// The test card, as 4:2:0.
pub(crate) struct Card {
    card: TestCard,
    converter: Converter,
    at: u64,
}

impl Card {
    pub(crate) fn new(size: Size) -> Self {
        let card = TestCard::new(TestCardConfig {
            size,
            rate: config(size).rate,
            content: Content::Typing,
            name: "lab".to_owned(),
            still: false,
        });
        Self {
            card,
            converter: Converter::new(),
            at: 0,
        }
    }

    pub(crate) fn next(&mut self) -> anyhow::Result<soft_kvm_video::codec::I420Ref<'_>> {
        self.at += 33_000_000;
        let now = MonoTime::from_nanos(self.at);
        if let Some(frame) = self.card.draw_frame(now, &EchoSnapshot::default()) {
            self.converter.update(&frame)?;
        }
        Ok(self.converter.picture())
    }
}

/// The test card from memory of the CPU decodes to the very same samples in OpenH264 and ffmpeg, with headers made by
/// us, by the driver, or put in by us where it makes none, with and without a rate control, and cropped.
pub(crate) fn every_sample() -> anyhow::Result<()> {
    guest::va_faults(&[])?;
    let (small, odd) = (Size::new(640, 480), Size::new(1000, 562));
    let ways = [
        ("headers packed by us", "none", odd),
        ("headers of the driver", "own_headers", odd),
        ("a driver without parameter sets", "no_headers", small),
        ("without rate control", "only_cqp", small),
    ];
    let files = open_files()?;
    for (name, fault, size) in ways {
        guest::va_faults(&[(fault, 1)])?;
        compare(name, size)?;
    }
    let left = open_files()?;
    ensure!(left == files, "{files} files open before, {left} after");
    let leaks = guest::va_seen("leaked");
    ensure!(leaks.is_empty(), "objects left in the driver: {leaks:?}");
    let modes = guest::va_seen("rate_control");
    ensure!(
        modes == ["2", "2", "2", "16"],
        "CBR where there is: {modes:?}"
    );
    Ok(())
}

fn compare(name: &str, size: Size) -> anyhow::Result<()> {
    let mut encoder = VaapiEncoder::open_cpu(&node()?, &config(size))?;
    let mut card = Card::new(size);
    let mut decoder = Decoder::open()?;
    let (mut stream, mut originals, mut out) = (Vec::new(), Vec::new(), Vec::new());
    let (mut keys, mut smallest) = (0, usize::MAX);
    for number in 0..10 {
        if number == 6 {
            encoder.set_bitrate(Bitrate::kbps(1_500))?;
        }
        let picture = card.next()?;
        let wanted = tight(picture);
        let asked = number == 5 || number == 7;
        let encoded = encoder.encode(picture, asked, &mut out)?;
        ensure!(encoded.idr == (asked || number == 0), "picture {number}");
        let kinds: Vec<u8> = nal_units(&out)
            .filter_map(|nal| nal.first().map(|header| header & 0x1f))
            .collect();
        let expected: &[u8] = if encoded.idr { &[7, 8, 5] } else { &[1] };
        ensure!(kinds == expected, "picture {number} is {kinds:?}");
        keys += u32::from(encoded.idr);
        smallest = smallest.min(out.len());
        let picture = decoder.decode(&out)?.context("a picture")?;
        ensure!(picture.size == size, "decoded as {}", picture.size);
        ensure!(
            tight(picture) == wanted,
            "picture {number} differs in OpenH264"
        );
        stream.extend_from_slice(&out);
        originals.extend_from_slice(&wanted);
    }
    ensure!(smallest < size.pixels() / 4, "{smallest} bytes at least");
    ensure!(
        by_ffmpeg(&stream)? == originals,
        "a picture differs in ffmpeg"
    );
    guest::tell(format!(
        "{name}: 10 pictures of {size} with {keys} IDR, every sample the same in OpenH264 and ffmpeg"
    ));
    Ok(())
}

/// The driver fails as real ones do, and each fault becomes an error in words, in time.
pub(crate) fn faults() -> anyhow::Result<()> {
    guest::va_faults(&[])?;
    let size = Size::new(640, 480);
    let node = node()?;
    let mut card = Card::new(size);
    let mut out = Vec::new();
    let open = || VaapiEncoder::open_cpu(&node, &config(size));
    let files = open_files()?;

    guest::va_faults(&[("fail_init", 1)])?;
    expect(open().map(drop), "no driver of libva")?;
    guest::va_faults(&[("decode_only", 1)])?;
    expect(open().map(drop), "no encoder for H.264")?;
    guest::va_faults(&[("fail_create", 1)])?;
    expect(open().map(drop), "vaCreateContext")?;

    guest::va_faults(&[("error_after", 3)])?;
    let mut broken = open()?;
    for _ in 0..3 {
        broken.encode(card.next()?, false, &mut out)?;
    }
    expect(
        broken.encode(card.next()?, false, &mut out).map(drop),
        "vaSyncSurface",
    )?;
    drop(broken);

    guest::va_faults(&[("hang_after", 3)])?;
    let mut hung = open()?;
    for _ in 0..3 {
        hung.encode(card.next()?, false, &mut out)?;
    }
    let start = Instant::now();
    expect(
        hung.encode(card.next()?, false, &mut out).map(drop),
        "longer than",
    )?;
    drop(hung);
    let gap = start.elapsed();
    ensure!(gap < Duration::from_secs(3), "given up after {gap:?}");

    guest::va_faults(&[("hang_create", 1)])?;
    expect(open().map(drop), "longer than")?;
    // Threads are left behind in a driver that hangs, but not for ever more.
    let mut told = open().map(drop);
    for _ in 0..4 {
        told = open().map(drop);
    }
    expect(told, "not tried")?;

    // What hung has come back.
    guest::va_faults(&[])?;
    guest::wait_for("the threads", Duration::from_secs(10), || open().ok())?.encode(
        card.next()?,
        true,
        &mut out,
    )?;
    // The bitrate while it runs.
    let mut running = open()?;
    for bitrate in [4_000, 4_000, 1_500, 1_500, 6_000] {
        running.set_bitrate(Bitrate::kbps(bitrate))?;
        running.encode(card.next()?, false, &mut out)?;
    }
    drop(running);
    let told = guest::va_seen("bitrate");
    let last = told.get(told.len().saturating_sub(3)..).unwrap_or_default();
    ensure!(last == ["4000000", "1500000", "6000000"], "{told:?}");
    guest::wait_for("descriptors to close", Duration::from_secs(10), || {
        open_files().is_ok_and(|left| left == files).then_some(())
    })?;
    guest::tell(format!(
        "7 faults told in words, a hang given up after {} ms, 0 descriptors leaked",
        gap.as_millis()
    ));
    Ok(())
}

/// Captured frames are encoded where they lie: the very same samples, from one import for each of the source's buffers.
pub(crate) fn imports() -> anyhow::Result<()> {
    guest::va_faults(&[])?;
    let node = node()?;
    let files = open_files()?;
    let size = Size::new(640, 480);
    let mut source = vivid(b"NV12", size)?;
    let frame = next_frame(&mut source)?;

    guest::va_faults(&[("no_import", 1)])?;
    let refused = VaapiEncoder::open(&node, &config(size), &frame).map(drop);
    expect(refused, "vaCreateSurfaces")?;
    guest::va_faults(&[])?;

    let mut encoder = VaapiEncoder::open(&node, &config(size), &frame)?;
    drop(frame);
    let (mut decoder, mut out) = (Decoder::open()?, Vec::new());
    let count = 20;
    for number in 0..count {
        let frame = next_frame(&mut source)?;
        let wanted = samples(&frame)?;
        encoder.encode(&frame, number == 10, &mut out)?;
        drop(frame);
        let picture = decoder.decode(&out)?.context("a picture")?;
        ensure!(tight(picture) == wanted, "picture {number} differs");
    }
    ensure!(encoder.cpu_bytes() == 0 && encoder.converter().is_none());
    drop((encoder, source));
    let imported = guest::va_seen("imported");
    ensure!(
        imported.len() <= 8 && imported.iter().all(|format| format == "NV12"),
        "{imported:?}"
    );
    guest::wait_for("descriptors to close", Duration::from_secs(10), || {
        open_files().is_ok_and(|left| left == files).then_some(())
    })?;
    guest::tell(format!(
        "{count} frames of vivid, every sample the same, {} imports, 0 bytes copied by the CPU, 0 descriptors leaked",
        imported.len()
    ));
    Ok(())
}

/// Where libva is missing, `devices` says what to install, and the server works as before.
pub(crate) fn without_libva() -> anyhow::Result<()> {
    kvm::hide_library("libva.so.2")?;
    let listed = kvm::devices()?;
    let rows = listed.get("encoders").and_then(Value::as_array);
    let row = |name: &str| {
        let mut rows = rows.into_iter().flatten();
        rows.find(|row| row.get("name").is_some_and(|found| found == name))
    };
    let why = row("vaapi").and_then(|row| row.get("why")?.as_str());
    ensure!(
        why.is_some_and(|why| why.contains("libva.so.2") && why.contains("install libva")),
        "{listed}"
    );
    let (target, near) = kvm::two_hosts()?;
    let server = Server::start(Host::Namespace(&target), SMALL)?;
    let seat = Seat::new(Host::Namespace(&near))?;
    seat.pair(TARGET, server.code()?)?;
    let shown = seat.connect(TARGET, &["--seconds", "3"])?.finish()?;
    let served = server.stop()?;
    ensure!(
        shown.get("encoder").is_some_and(|name| name == "openh264"),
        "{shown}"
    );
    let decoded = kvm::number(&shown, "/frames/decoded")?;
    ensure!(decoded > 0, "{shown}\n{served}");
    guest::tell(format!(
        "without libva: {decoded} frames of OpenH264; devices: {}",
        why.unwrap_or_default()
    ));
    Ok(())
}
