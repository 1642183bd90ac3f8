//! Capture of a screen of the kernel's virtual display.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use drm::Device as DrmDevice;
use drm::buffer::{Buffer as _, DrmFourcc};
use drm::control::{Device as ControlDevice, dumbbuffer::DumbBuffer, framebuffer};
use soft_kvm_core::Size;
use soft_kvm_platform_linux::kms::{KmsOptions, KmsSource, active_connectors};
use soft_kvm_video::frame::Frame;
use soft_kvm_video::source::{Captured, NoPicture, SourceError, VideoSource};

mod screen;

struct Card(File);

impl AsFd for Card {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
impl DrmDevice for Card {}
impl ControlDevice for Card {}

impl Card {
    fn open(node: &Path) -> Self {
        let file = OpenOptions::new().read(true).write(true).open(node);
        Self(file.expect("the card opens"))
    }

    /// The same open file: what is master once is both times.
    fn again(&self) -> Self {
        Self(self.0.try_clone().expect("a descriptor"))
    }
}

/// A mode with a dumb buffer, as a text console has.
struct Screen {
    card: Card,
    number: usize,
    buffer: DumbBuffer,
    fb: framebuffer::Handle,
    size: Size,
}

fn node() -> PathBuf {
    let cards = (0..8).map(|number| PathBuf::from(format!("/dev/dri/card{number}")));
    let mut vkms =
        cards.filter(|path| active_connectors(path).is_ok_and(|(name, _)| name == "vkms"));
    vkms.next().expect("vkms is loaded")
}

impl Screen {
    fn new(node: &Path, colour: u32) -> Self {
        Self::on(Card::open(node), 0, colour)
    }

    /// On the card's connector and CRTC of this number.
    fn on(card: Card, number: usize, colour: u32) -> Self {
        let resources = card.resource_handles().expect("resources");
        let connector = resources.connectors()[number];
        let info = card.get_connector(connector, true).expect("a connector");
        let mode = info.modes()[0];
        let (width, height) = mode.size();
        let size = Size::new(width.into(), height.into());
        let buffer = card
            .create_dumb_buffer((size.width, size.height), DrmFourcc::Xrgb8888, 32)
            .expect("a buffer");
        let fb = card
            .add_framebuffer(&buffer, 24, 32)
            .expect("a framebuffer");
        let crtc = resources.crtcs()[number];
        card.set_crtc(crtc, Some(fb), (0, 0), &[connector], Some(mode))
            .expect("a mode");
        let mut screen = Self {
            card,
            number,
            buffer,
            fb,
            size,
        };
        screen.paint(colour);
        screen
    }

    /// Every pixel its own value: column and line, mixed with the colour.
    fn paint(&mut self, colour: u32) {
        let (pitch, size) = (self.buffer.pitch() as usize, self.size);
        let mut map = self
            .card
            .map_dumb_buffer(&mut self.buffer)
            .expect("a mapping");
        for y in 0..size.height {
            for x in 0..size.width {
                let at = y as usize * pitch + x as usize * 4;
                map[at..at + 4].copy_from_slice(&wanted(x, y, colour).to_le_bytes());
            }
        }
    }
}

impl Screen {
    fn turn_off(&self) {
        let crtcs = self.card.resource_handles().expect("resources");
        let crtc = crtcs.crtcs()[self.number];
        let _ = self.card.set_crtc(crtc, None, (0, 0), &[], None);
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.turn_off();
        let _ = self.card.destroy_framebuffer(self.fb);
        let _ = self.card.destroy_dumb_buffer(self.buffer);
    }
}

fn wanted(x: u32, y: u32, colour: u32) -> u32 {
    ((x & 0xff) << 16 | (y & 0xff) << 8 | (x + y) & 0xff) ^ colour
}

fn next_frame(source: &mut KmsSource) -> Frame {
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        if let Captured::Frame(frame) = source.next(Duration::from_millis(200)).expect("it stays") {
            return frame;
        }
    }
    panic!("no frame within 10 s");
}

fn check(frame: &Frame, colour: u32) {
    let size = frame.info().size;
    let plane = frame.plane(0).expect("one plane");
    for y in 0..size.height {
        for x in 0..size.width {
            let at = y as usize * plane.stride + x as usize * 4;
            let expected = wanted(x, y, colour).to_le_bytes();
            assert_eq!(plane.data[at..at + 3], expected[..3], "at {x},{y}");
        }
    }
}

fn files() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

#[test]
#[ignore = "needs vkms and root: run in the lab"]
fn every_pixel_arrives_and_nothing_leaks() {
    let node = node();
    let screen = Screen::new(&node, 0);
    let mut source = KmsSource::open(KmsOptions::new(&node)).expect("it opens");
    check(&next_frame(&mut source), 0);
    assert_eq!(source.info().size, screen.size);

    // Another framebuffer, which may get the id of the first.
    drop(screen);
    let mut screen = Screen::new(&node, 0x55_5555);
    std::thread::sleep(Duration::from_millis(600));
    check(&next_frame(&mut source), 0x55_5555);
    screen.paint(0xff_0000);
    check(&next_frame(&mut source), 0xff_0000);

    // What was shown before is kept for a second.
    std::thread::sleep(Duration::from_millis(1_100));
    drop(next_frame(&mut source));
    let before = files();
    for _ in 0..150 {
        drop(next_frame(&mut source));
    }
    assert_eq!(files(), before);
    for _ in 0..200 {
        drop(KmsSource::open(KmsOptions::new(&node)).expect("it opens again"));
    }
    assert_eq!(files(), before);
    screen.turn_off();
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match source.next(Duration::from_millis(50)).expect("it stays") {
            Captured::NoPicture(NoPicture::DisplayOff) => break,
            other => assert!(Instant::now() < end, "{other:?}"),
        }
    }
    drop(screen);

    // A handle left open would keep the memory of each framebuffer.
    let shared = shared_memory();
    for colour in 0..40 {
        let screen = Screen::new(&node, colour);
        drop(next_frame(&mut source));
        drop(screen);
    }
    let grown = shared_memory().saturating_sub(shared);
    assert!(grown < 40 << 10, "{grown} kB more");
}

/// Shared memory of the system in kilobytes: dumb buffers of vkms are in it.
fn shared_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("proc is mounted");
    let line = text.lines().find_map(|line| line.strip_prefix("Shmem:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.expect("the kernel counts it")
}

/// Each of two screens of one card is captured by the name of its connector, with the other one lit.
#[test]
#[ignore = "needs vkms and root: run in the lab"]
fn the_named_one_of_two_connectors_is_captured() {
    let node = screen::add_card(2).expect("vkms takes devices by configfs");
    let card = Card::open(&node);
    let connectors = card.resource_handles().expect("resources");
    let names: Vec<_> = connectors
        .connectors()
        .iter()
        .map(|connector| {
            let info = card.get_connector(*connector, true);
            info.expect("a connector").to_string()
        })
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let colours = [0, 0x55_5555];
    let _screens = [0, 1].map(|number| Screen::on(card.again(), number, colours[number]));
    for (name, colour) in names.iter().zip(colours) {
        let mut source = KmsSource::open(KmsOptions {
            connector: Some(name.clone()),
            ..KmsOptions::new(&node)
        })
        .expect("it opens");
        check(&next_frame(&mut source), colour);
    }
}

#[test]
#[ignore = "needs vkms and root: run in the lab"]
fn a_connector_that_is_not_there_is_told() {
    let options = KmsOptions {
        connector: Some("HDMI-A-9".to_owned()),
        ..KmsOptions::new(node())
    };
    let Err(SourceError::Unsupported { what, .. }) = KmsSource::open(options) else {
        panic!("there is no such connector");
    };
    assert!(what.contains("HDMI-A-9"), "{what}");
}
