//! A program that shows something on a screen of the kernel's virtual display, as a console or a compositor does.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use drm::buffer::{Buffer as _, DrmFourcc, DrmModifier, Handle, PlanarBuffer};
use drm::control::dumbbuffer::DumbBuffer;
use drm::control::{
    Device as ControlDevice, FbCmd2Flags, Mode, PlaneType, connector, crtc, framebuffer, plane,
};
use drm::{ClientCapability, Device as DrmDevice};

pub(crate) struct Card(File);

impl AsFd for Card {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
impl DrmDevice for Card {}
impl ControlDevice for Card {}

/// A framebuffer in memory.
pub(crate) struct Fb {
    pub(crate) buffer: DumbBuffer,
    pub(crate) handle: framebuffer::Handle,
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) fourcc: DrmFourcc,
}

/// How a framebuffer lies in its one buffer.
struct Planes<'a>(&'a DumbBuffer, DrmFourcc, (u32, u32));

impl PlanarBuffer for Planes<'_> {
    fn size(&self) -> (u32, u32) {
        self.2
    }
    fn format(&self) -> DrmFourcc {
        self.1
    }
    fn modifier(&self) -> Option<DrmModifier> {
        None
    }
    fn pitches(&self) -> [u32; 4] {
        let pitch = self.0.pitch();
        let second = if self.1 == DrmFourcc::Nv12 { pitch } else { 0 };
        [pitch, second, 0, 0]
    }
    fn handles(&self) -> [Option<Handle>; 4] {
        let handle = Some(self.0.handle());
        let second = handle.filter(|_| self.1 == DrmFourcc::Nv12);
        [handle, second, None, None]
    }
    fn offsets(&self) -> [u32; 4] {
        let second = if self.1 == DrmFourcc::Nv12 {
            self.0.pitch() * self.2.1
        } else {
            0
        };
        [0, second, 0, 0]
    }
}

/// A card with its first connector.
pub(crate) struct Display {
    pub(crate) card: Card,
    pub(crate) crtc: crtc::Handle,
    pub(crate) connector: connector::Handle,
    pub(crate) modes: Vec<Mode>,
}

impl Display {
    pub(crate) fn open(node: &Path) -> io::Result<Self> {
        let card = Card(OpenOptions::new().read(true).write(true).open(node)?);
        card.set_client_capability(ClientCapability::UniversalPlanes, true)?;
        let resources = card.resource_handles()?;
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let connector = *resources.connectors().first().ok_or_else(missing)?;
        let info = card.get_connector(connector, true)?;
        Ok(Self {
            crtc: *resources.crtcs().first().ok_or_else(missing)?,
            connector,
            modes: info.modes().to_vec(),
            card,
        })
    }

    /// A black framebuffer.
    pub(crate) fn fb(&self, (width, height): (u32, u32), fourcc: DrmFourcc) -> io::Result<Fb> {
        let (bits, lines) = match fourcc {
            DrmFourcc::Rgb565 => (16, height),
            DrmFourcc::Nv12 => (8, height * 3 / 2),
            DrmFourcc::R8 => (8, height),
            _ => (32, height),
        };
        // The kernel takes any format's size as that of a buffer with so many bits.
        let simple = match bits {
            16 => DrmFourcc::Rgb565,
            8 => DrmFourcc::C8,
            _ => DrmFourcc::Xrgb8888,
        };
        let buffer = self.card.create_dumb_buffer((width, lines), simple, bits)?;
        let planes = Planes(&buffer, fourcc, (width, height));
        let handle = self
            .card
            .add_planar_framebuffer(&planes, FbCmd2Flags::empty())?;
        Ok(Fb {
            buffer,
            handle,
            width,
            height,
            fourcc,
        })
    }

    /// Fills a framebuffer; `colour` gives R, G, B, A of a pixel.
    pub(crate) fn paint(
        &self,
        fb: &mut Fb,
        colour: impl Fn(u32, u32) -> [u8; 4],
    ) -> io::Result<()> {
        let pitch = fb.buffer.pitch() as usize;
        let (width, height, fourcc) = (fb.width, fb.height, fb.fourcc);
        let mut map = self.card.map_dumb_buffer(&mut fb.buffer)?;
        for y in 0..height {
            for x in 0..width {
                let [r, g, b, a] = colour(x, y);
                let (line, column) = (y as usize * pitch, x as usize);
                match fourcc {
                    DrmFourcc::Rgb565 => {
                        let pixel =
                            u16::from(r >> 3) << 11 | u16::from(g >> 2) << 5 | u16::from(b >> 3);
                        map[line + column * 2..][..2].copy_from_slice(&pixel.to_le_bytes());
                    }
                    DrmFourcc::Nv12 => {
                        let [luma, cb, cr] = limited_bt709([r, g, b]);
                        map[line + column] = luma;
                        let chroma = (height + y / 2) as usize * pitch + column / 2 * 2;
                        map[chroma..][..2].copy_from_slice(&[cb, cr]);
                    }
                    DrmFourcc::Xbgr8888 | DrmFourcc::Abgr8888 => {
                        map[line + column * 4..][..4].copy_from_slice(&[r, g, b, a]);
                    }
                    _ => map[line + column * 4..][..4].copy_from_slice(&[b, g, r, a]),
                }
            }
        }
        Ok(())
    }

    /// Sets a mode of the framebuffer's size.
    pub(crate) fn show(&self, fb: &Fb) -> io::Result<()> {
        let size = (fb.width, fb.height);
        let fits = |mode: &&Mode| (u32::from(mode.size().0), u32::from(mode.size().1)) == size;
        let mode = self.modes.iter().find(fits).copied();
        let mode = mode.ok_or_else(|| io::Error::other(format!("no mode of {size:?}")))?;
        let connectors = [self.connector];
        self.card
            .set_crtc(self.crtc, Some(fb.handle), (0, 0), &connectors, Some(mode))
    }

    pub(crate) fn turn_off(&self) {
        let _ = self.card.set_crtc(self.crtc, None, (0, 0), &[], None);
    }

    /// Writes the connector's `DPMS` property: 0 is on, 3 off.
    pub(crate) fn dpms(&self, value: u64) -> io::Result<()> {
        for (handle, _) in &self.card.get_properties(self.connector)? {
            if self.card.get_property(*handle)?.name().to_bytes() == b"DPMS" {
                return self.card.set_property(self.connector, *handle, value);
            }
        }
        Err(io::Error::other("no DPMS"))
    }

    pub(crate) fn plane(&self, wanted: PlaneType) -> io::Result<plane::Handle> {
        for plane in self.card.plane_handles()? {
            for (handle, value) in &self.card.get_properties(plane)? {
                let name = self.card.get_property(*handle)?;
                if name.name().to_bytes() == b"type" && *value == wanted as u64 {
                    return Ok(plane);
                }
            }
        }
        Err(io::Error::other("no such plane"))
    }

    /// Puts a framebuffer on an overlay plane, scaled to `width` x `height`.
    pub(crate) fn overlay(
        &self,
        plane: plane::Handle,
        fb: &Fb,
        (x, y): (i32, i32),
        (width, height): (u32, u32),
    ) -> io::Result<()> {
        let source = (0, 0, fb.width << 16, fb.height << 16);
        let target = (x, y, width, height);
        self.card
            .set_plane(plane, self.crtc, Some(fb.handle), 0, target, source)
    }

    /// Sets the cursor's picture; `move_cursor` moves it.
    #[expect(
        deprecated,
        reason = "the legacy calls set the cursor without an atomic commit"
    )]
    pub(crate) fn set_cursor(&self, fb: &Fb) -> io::Result<()> {
        self.card.set_cursor(self.crtc, Some(&fb.buffer))
    }

    #[expect(
        deprecated,
        reason = "the legacy calls move the cursor without waiting"
    )]
    pub(crate) fn move_cursor(&self, at: (i32, i32)) -> io::Result<()> {
        self.card.move_cursor(self.crtc, at)
    }

    #[expect(clippy::needless_pass_by_value, reason = "it is gone afterwards")]
    pub(crate) fn remove(&self, fb: Fb) {
        let _ = self.card.destroy_framebuffer(fb.handle);
        let _ = self.card.destroy_dumb_buffer(fb.buffer);
    }
}

/// The card of a driver, e.g. `vkms`.
pub(crate) fn node(driver: &str) -> Option<PathBuf> {
    (0..8)
        .map(|number| PathBuf::from(format!("/dev/dri/card{number}")))
        .find(|path| {
            let file = OpenOptions::new().read(true).write(true).open(path);
            let Ok(card) = file.map(Card) else {
                return false;
            };
            let _ = card.release_master_lock();
            card.get_driver().is_ok_and(|known| known.name() == driver)
        })
}

/// One more card of vkms, with so many screens, each with a cursor (kernel doc "drm/vkms", "Configuring With Configfs").
pub(crate) fn add_card(screens: u32) -> io::Result<PathBuf> {
    const CONFIGFS: &str = "/sys/kernel/config";
    const PRIMARY: &str = "1";
    const CURSOR: &str = "2";
    let before = cards();
    if !Path::new(CONFIGFS).join("vkms").exists() {
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "configfs", "none", CONFIGFS]).status()?;
        if !mounted.success() {
            return Err(io::Error::other("no configfs"));
        }
    }
    let device = Path::new(CONFIGFS).join("vkms/another");
    fs::create_dir(&device)?;
    for number in 0..screens {
        let part = |folder: &str, name: &str| {
            let made = device.join(format!("{folder}/{name}{number}"));
            fs::create_dir(&made).map(|()| made)
        };
        let (crtc, encoder) = (part("crtcs", "crtc")?, part("encoders", "encoder")?);
        let connector = part("connectors", "connector")?;
        symlink(&crtc, encoder.join("possible_crtcs/crtc"))?;
        symlink(&encoder, connector.join("possible_encoders/encoder"))?;
        for (name, kind) in [("primary", PRIMARY), ("cursor", CURSOR)] {
            let plane = part("planes", name)?;
            fs::write(plane.join("type"), kind)?;
            symlink(&crtc, plane.join("possible_crtcs/crtc"))?;
        }
    }
    fs::write(device.join("enabled"), "1")?;
    let mut new = cards();
    new.retain(|card| !before.contains(card));
    new.pop().ok_or_else(|| io::Error::other("it has no node"))
}

fn cards() -> Vec<PathBuf> {
    let cards = (0..8).map(|number| PathBuf::from(format!("/dev/dri/card{number}")));
    cards.filter(|card| card.exists()).collect()
}

/// ITU-R BT.709, limited range.
fn limited_bt709(rgb: [u8; 3]) -> [u8; 3] {
    let [r, g, b] = rgb.map(i32::from);
    let luma = (47 * r + 157 * g + 16 * b + 128) / 256 + 16;
    let cb = (-26 * r - 86 * g + 112 * b) / 256 + 128;
    let cr = (112 * r - 102 * g - 10 * b) / 256 + 128;
    [luma, cb, cr].map(|value| u8::try_from(value.clamp(0, 255)).unwrap_or(0))
}
