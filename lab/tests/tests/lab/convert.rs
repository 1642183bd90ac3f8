//! A screen that the encoder does not take as it is: a converter between them, DMA-BUF to DMA-BUF.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use drm::Device as DrmDevice;
use drm::buffer::{Buffer as _, DrmFourcc};
use drm::control::Device as ControlDevice;
use soft_kvm_core::{Bitrate, FrameRate, Size};
use soft_kvm_lab_tests::guest;
use soft_kvm_platform::os::kms::{KmsOptions, KmsSource, active_connectors};
use soft_kvm_platform::os::m2m::{M2mConverter, M2mEncoder, M2mKind, probe};
use soft_kvm_video::codec::{EncoderConfig, FrameEncoder as _};
use soft_kvm_video::frame::{Frame, PixelFormat};
use soft_kvm_video::source::{Captured, VideoSource as _};

use crate::picture::Picture;

/// The largest that vim2m takes, and a mode of vkms.
pub(crate) const SIZE: Size = Size::new(640, 480);

pub(crate) struct Card(File);

impl AsFd for Card {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
impl DrmDevice for Card {}
impl ControlDevice for Card {}

/// Columns of 16-bit pixels that all differ from their neighbours.
fn pixel(x: u32, y: u32) -> u16 {
    let part = |value: u32, bits: u32| u16::try_from(value % (1 << bits)).unwrap_or(0);
    part(x / 8, 5) << 11 | part(y / 4, 6) << 5 | part((x + y) / 16, 5)
}

/// Shows the picture on vkms; the card closes it.
fn show(node: &PathBuf) -> anyhow::Result<Card> {
    let card = Card(OpenOptions::new().read(true).write(true).open(node)?);
    let resources = card.resource_handles()?;
    let connector = *resources.connectors().first().context("a connector")?;
    let info = card.get_connector(connector, true)?;
    let mode = info.modes().iter().find(|mode| mode.size() == (640, 480));
    let mode = *mode.context("vkms has a mode of 640x480")?;
    let mut buffer = card.create_dumb_buffer((SIZE.width, SIZE.height), DrmFourcc::Rgb565, 16)?;
    let fb = card.add_framebuffer(&buffer, 16, 16)?;
    let pitch = buffer.pitch() as usize;
    {
        let mut map = card.map_dumb_buffer(&mut buffer)?;
        for (y, line) in (0..SIZE.height).zip(map.chunks_mut(pitch)) {
            for (x, bytes) in (0..SIZE.width).zip(line.as_chunks_mut::<2>().0) {
                *bytes = pixel(x, y).to_le_bytes();
            }
        }
    }
    let crtc = *resources.crtcs().first().context("a CRTC")?;
    card.set_crtc(crtc, Some(fb), (0, 0), &[connector], Some(mode))?;
    Ok(card)
}

fn next_frame(source: &mut KmsSource) -> anyhow::Result<Frame> {
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        if let Captured::Frame(frame) = source.next(Duration::from_millis(200))? {
            return Ok(frame);
        }
    }
    bail!("no frame within 10 s")
}

/// Red, green, blue of the converted picture, against those of the screen in eight bits.
fn check(frame: &Frame) -> anyhow::Result<()> {
    let plane = frame.plane(0).context("a plane")?;
    for (y, line) in (0..SIZE.height).zip(plane.data.chunks(plane.stride)) {
        for (x, got) in (0..SIZE.width).zip(line.as_chunks::<3>().0) {
            let wanted = pixel(x, y);
            let [red, green, blue] = eight_bits(wanted);
            let near = [blue, green, red]
                .iter()
                .zip(got)
                .all(|(wanted, got)| wanted.abs_diff(u16::from(*got)) < 8);
            ensure!(near, "{got:?} at {x},{y} of {wanted:#06x}");
        }
    }
    Ok(())
}

/// The card of vkms.
pub(crate) fn vkms() -> anyhow::Result<PathBuf> {
    let mut cards = (0..8).map(|number| PathBuf::from(format!("/dev/dri/card{number}")));
    let found =
        cards.find(|path| active_connectors(path).is_ok_and(|(driver, _)| driver == "vkms"));
    found.context("vkms is loaded")
}

/// The picture on the screen of vkms, as long as the card is open.
pub(crate) fn screen_of_vkms() -> anyhow::Result<Card> {
    show(&vkms()?)
}

/// What a viewer shows of the screen: the mean of each 40x40 pixels, for codecs blur.
pub(crate) fn check_screenshot(picture: &Picture) -> anyhow::Result<()> {
    const BLOCK: u32 = 40;
    let near = |a: u8, b: u8| a.abs_diff(b) <= 16;
    for y in (0..SIZE.height).step_by(40) {
        for x in (0..SIZE.width).step_by(40) {
            let mut sums = [0_u32; 3];
            for (x, y) in (0..BLOCK * BLOCK).map(|i| (x + i % BLOCK, y + i / BLOCK)) {
                for (sum, part) in sums.iter_mut().zip(eight_bits(pixel(x, y))) {
                    *sum += u32::from(part);
                }
            }
            let wanted = sums.map(|sum| u8::try_from(sum / BLOCK / BLOCK).unwrap_or(u8::MAX));
            let middle = ((x + BLOCK / 2) as usize, (y + BLOCK / 2) as usize);
            let got = picture.colour(middle, (BLOCK as usize, BLOCK as usize))?;
            let same = got
                .iter()
                .zip(wanted)
                .all(|(got, wanted)| near(*got, wanted));
            ensure!(same, "{got:?}, not {wanted:?}, at {x},{y}");
        }
    }
    Ok(())
}

/// Red, green, blue.
fn eight_bits(pixel: u16) -> [u16; 3] {
    [pixel >> 11 << 3, pixel >> 5 << 2 & 0xff, pixel << 3 & 0xff]
}

pub(crate) fn screen() -> anyhow::Result<()> {
    let card = vkms()?;
    let _screen = show(&card)?;
    let node = |kind| {
        let nodes = probe();
        let found = nodes.iter().find(|node| node.kind == Some(kind));
        let found = found.with_context(|| format!("no {kind:?}: {nodes:?}"))?;
        ensure!(found.unusable.is_none(), "{found:?}");
        anyhow::Ok(found.path.clone())
    };
    let files = std::fs::read_dir("/proc/self/fd")?.count();
    let mut source = KmsSource::open(KmsOptions::new(&card))?;
    let frame = next_frame(&mut source)?;
    ensure!(
        frame.info().format == PixelFormat::Rgb565,
        "{:?}",
        frame.info()
    );
    let config = EncoderConfig {
        size: SIZE,
        rate: FrameRate::hz(30),
        bitrate: Bitrate::kbps(4_000),
        intra_refresh: 0,
    };
    let encoder = node(M2mKind::Encoder)?;
    ensure!(
        M2mEncoder::open(&encoder, &config, &frame).is_err(),
        "the encoder takes the screen as it is"
    );
    let mut converter = M2mConverter::open(
        &node(M2mKind::Converter)?,
        &frame,
        &[PixelFormat::Nv12, PixelFormat::Bgr24],
    )?;
    let first = converter.convert(&frame)?;
    check(&first)?;
    let mut encoder = M2mEncoder::open(&encoder, &config, &first)?;
    drop(first);
    let (mut out, mut bytes) = (Vec::new(), 0);
    for number in 0..20 {
        let converted = converter.convert(&frame)?;
        encoder.encode(&converted, number == 0, &mut out)?;
        ensure!(!out.is_empty(), "nothing came of picture {number}");
        bytes += out.len();
        ensure!(converted.info().cpu_bytes == 0, "{:?}", converted.info());
    }
    let copied = frame.info().cpu_bytes + encoder.cpu_bytes();
    ensure!(copied == 0, "{copied} bytes copied");
    // More pictures than the converter has are an error, and no hang.
    let held: Vec<_> = (0..10).map(|_| converter.convert(&frame)).collect();
    ensure!(held.iter().any(Result::is_err), "ten of three pictures");
    drop(held);
    converter
        .convert(&frame)
        .context("the pictures have come back")?;
    drop((frame, source, converter, encoder));
    let left = std::fs::read_dir("/proc/self/fd")?.count();
    ensure!(left == files, "{files} files open before, {left} after");
    guest::tell(format!(
        "vkms RGB565 {SIZE} → vim2m → vicodec: 20 frames, {bytes} bytes of FWHT, {copied} bytes copied by the CPU, \
         0 descriptors leaked"
    ));
    Ok(())
}
