//! A screen of a DRM card as a [`VideoSource`].

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use drm::buffer::{DrmFourcc, DrmModifier, Handle as BufferHandle};
use drm::control::{Device as ControlDevice, connector, crtc, framebuffer, plane};
use drm::{ClientCapability, Device as DrmDevice, VblankWaitFlags, VblankWaitTarget};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use soft_kvm_core::{MonoTime, Size};
use soft_kvm_video::frame::{Damage, Frame, FrameInfo, FramePool, PixelFormat};
use soft_kvm_video::source::{Captured, NoPicture, SourceError, SourceInfo, VideoSource};

use super::KmsOptions;
use super::mapping::Mapped;
use crate::clock;

/// Mappings kept: a triple-buffered screen has three.
const CACHE: usize = 4;
/// How long a mapping is trusted without looking whether its id names another framebuffer by now.
const TRUST: Duration = Duration::from_millis(500);
/// How often a screen that is off is looked at.
const OFF_CHECK: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Card(File);

impl AsFd for Card {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
impl DrmDevice for Card {}
impl ControlDevice for Card {}

#[derive(Debug)]
struct Cached {
    id: framebuffer::Handle,
    checked: MonoTime,
    mapped: Arc<Mapped>,
}

/// What is on.
#[derive(Clone, Copy, Debug)]
struct Screen {
    plane: plane::Handle,
    crtc: crtc::Handle,
    /// Index of the CRTC among the card's, for vblank waits.
    pipe: u32,
}

/// A screen of a DRM card.
#[derive(Debug)]
pub struct KmsSource {
    card: Card,
    options: KmsOptions,
    info: SourceInfo,
    screen: Option<Screen>,
    cache: Vec<Cached>,
    sequence: u64,
    next_at: MonoTime,
    vblank: bool,
}

impl KmsSource {
    /// Opens the card. A screen that is off is no error: it may come on.
    ///
    /// # Errors
    /// [`SourceError`]: no such card, no right to it, or no such connector.
    pub fn open(options: KmsOptions) -> Result<Self, SourceError> {
        let device = options.device.display().to_string();
        let card = open_card(&options.device)?;
        card.set_client_capability(ClientCapability::UniversalPlanes, true)
            .map_err(|error| failed(&device, "DRM_CLIENT_CAP_UNIVERSAL_PLANES", error))?;
        if let Some(name) = &options.connector {
            let known = connectors(&card)
                .map_err(|error| failed(&device, "DRM_IOCTL_MODE_GETRESOURCES", error))?;
            if !known.iter().any(|info| info.to_string() == *name) {
                let names: Vec<_> = known.iter().map(ToString::to_string).collect();
                let what = format!("has no connector {name}: it has {}", names.join(", "));
                return Err(SourceError::Unsupported { device, what });
            }
        }
        let info = SourceInfo {
            driver: "kms",
            device,
            size: Size::default(),
            rate: options.rate,
            pixel_format: String::new(),
        };
        let mut source = Self {
            card,
            options,
            info,
            screen: None,
            cache: Vec::with_capacity(CACHE),
            sequence: 0,
            next_at: clock::now(),
            vblank: true,
        };
        // Tells a missing capability at once instead of at the first picture.
        if let Some(frame) = source.capture()? {
            drop(frame);
        }
        source.sequence = 0;
        Ok(source)
    }

    fn capture(&mut self) -> Result<Option<Frame>, SourceError> {
        if self.screen.is_none() {
            self.screen = self
                .find()
                .map_err(|error| self.fail("finding a screen", error))?;
        }
        let Some(screen) = self.screen else {
            self.cache.clear();
            return Ok(None);
        };
        let plane = drm_plane(&self.card, screen.plane)
            .map_err(|error| self.fail("DRM_IOCTL_MODE_GETPLANE", error))?;
        let (Some(id), Some(crtc)) = plane else {
            self.screen = None;
            self.cache.clear();
            return Ok(None);
        };
        if crtc != screen.crtc {
            self.screen = None;
            return Ok(None);
        }
        let now = clock::now();
        let Some(mapped) = self.mapping(id, now)? else {
            self.screen = None;
            return Ok(None);
        };
        mapped
            .begin()
            .map_err(|error| self.fail("DMA_BUF_IOCTL_SYNC", error))?;
        self.sequence += 1;
        self.info.size = mapped.size;
        let info = FrameInfo {
            format: mapped.format,
            size: mapped.size,
            sequence: self.sequence,
            captured: now,
            damage: Damage::Unknown,
        };
        let pool: Arc<dyn FramePool> = mapped;
        Ok(Some(Frame::new(info, pool, 0)))
    }

    /// The mapping of a framebuffer; `None` when it has gone meanwhile.
    fn mapping(
        &mut self,
        id: framebuffer::Handle,
        now: MonoTime,
    ) -> Result<Option<Arc<Mapped>>, SourceError> {
        // An id may be given to another framebuffer when the first is removed: look again now and then.
        self.cache
            .retain(|cached| now.since(cached.checked) < TRUST);
        if let Some(cached) = self.cache.iter().find(|cached| cached.id == id) {
            return Ok(Some(Arc::clone(&cached.mapped)));
        }
        let Some(mapped) = self.map(id)? else {
            return Ok(None);
        };
        let mapped = Arc::new(mapped);
        if self.cache.len() == CACHE {
            self.cache.remove(0);
        }
        self.cache.push(Cached {
            id,
            checked: now,
            mapped: Arc::clone(&mapped),
        });
        Ok(Some(mapped))
    }

    fn map(&mut self, id: framebuffer::Handle) -> Result<Option<Mapped>, SourceError> {
        let unsupported = |what: String| SourceError::Unsupported {
            device: self.info.device.clone(),
            what,
        };
        let (handles, size, format, pitch, offset) = match self.card.get_planar_framebuffer(id) {
            Ok(fb) => {
                let handles = fb.buffers();
                let linear = fb.modifier().is_none_or(|modifier| {
                    matches!(modifier, DrmModifier::Linear | DrmModifier::Invalid)
                });
                if !linear {
                    self.close(handles);
                    let modifier = fb.modifier();
                    return Err(unsupported(format!(
                        "the framebuffer is tiled or compressed (modifier {modifier:?}): only LINEAR can be read"
                    )));
                }
                (
                    handles,
                    fb.size(),
                    fb.pixel_format(),
                    fb.pitches()[0],
                    fb.offsets()[0],
                )
            }
            // Kernels before 5.7, and formats that the library does not know.
            Err(_) => match self.card.get_framebuffer(id) {
                Ok(fb) if fb.bpp() == 32 => (
                    [fb.buffer(), None, None, None],
                    fb.size(),
                    DrmFourcc::Xrgb8888,
                    fb.pitch(),
                    0,
                ),
                Ok(fb) => {
                    self.close([fb.buffer(), None, None, None]);
                    let bits = fb.bpp();
                    return Err(unsupported(format!("a framebuffer of {bits} bits a pixel")));
                }
                // Removed between the two calls.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
                Err(error) => return Err(self.fail("DRM_IOCTL_MODE_GETFB", error)),
            },
        };
        let pixels = match format {
            DrmFourcc::Xrgb8888 | DrmFourcc::Argb8888 => Some(PixelFormat::Bgrx),
            DrmFourcc::Xbgr8888 | DrmFourcc::Abgr8888 => Some(PixelFormat::Rgbx),
            _ => None,
        };
        let Some(buffer) = handles[0] else {
            return Err(SourceError::Permission {
                device: self.info.device.clone(),
                hint: "reading the screen needs CAP_SYS_ADMIN: run the server as root, or give \
                       its unit AmbientCapabilities=CAP_SYS_ADMIN"
                    .to_owned(),
            });
        };
        // DRM_CLOEXEC; reading needs no DRM_RDWR.
        let exported = self.card.buffer_to_prime_fd(buffer, 0o2_000_000);
        // GETFB2 made new handles: the descriptor keeps the memory, they only leak.
        self.close(handles);
        let fd = exported.map_err(|error| self.fail("DRM_IOCTL_PRIME_HANDLE_TO_FD", error))?;
        let Some(pixels) = pixels else {
            return Err(unsupported(format!(
                "the framebuffer's format {format} cannot be read: set the screen to 24 or 32 bits"
            )));
        };
        let size = Size::new(size.0, size.1);
        if !size.is_supported() {
            return Err(unsupported(format!("a framebuffer of {size}")));
        }
        self.info.pixel_format = format.to_string();
        Mapped::new(fd, size, pitch, offset, pixels)
            .map(Some)
            .map_err(|error| self.fail("mapping the framebuffer", error))
    }

    fn close(&self, handles: [Option<BufferHandle>; 4]) {
        for (index, handle) in handles.iter().enumerate() {
            // Planes of one buffer share a handle.
            if let Some(handle) = handle.filter(|h| !handles[..index].contains(&Some(*h))) {
                let _ = self.card.close_buffer(handle);
            }
        }
    }

    /// The primary plane of the wanted connector, if it shows something.
    fn find(&self) -> io::Result<Option<Screen>> {
        let resources = self.card.resource_handles()?;
        for info in connectors(&self.card)? {
            let wanted = self.options.connector.as_ref();
            if wanted.is_some_and(|name| info.to_string() != *name) {
                continue;
            }
            let Some(crtc) = crtc_of(&self.card, &info)? else {
                continue;
            };
            let Some(pipe) = resources.crtcs().iter().position(|handle| *handle == crtc) else {
                continue;
            };
            for plane in self.card.plane_handles()? {
                if drm_plane(&self.card, plane)?.1 == Some(crtc) && is_primary(&self.card, plane)? {
                    let pipe = u32::try_from(pipe).unwrap_or(0);
                    return Ok(Some(Screen { plane, crtc, pipe }));
                }
            }
        }
        Ok(None)
    }

    /// Waits for the next moment to capture; false on timeout.
    fn pace(&mut self, timeout: Duration) -> bool {
        let due = self.next_at.since(clock::now());
        if due > timeout {
            std::thread::sleep(timeout);
            return false;
        }
        std::thread::sleep(due);
        if let (Some(screen), true) = (self.screen, self.vblank) {
            // Asked for as an event: a blocking wait could outlast the timeout when the screen goes off.
            let asked = self.card.wait_vblank(
                VblankWaitTarget::Relative(1),
                VblankWaitFlags::EVENT,
                screen.pipe,
                0,
            );
            match asked {
                Ok(_) => self.wait_event(timeout.saturating_sub(due).min(OFF_CHECK)),
                Err(error) => {
                    tracing::info!(device = %self.info.device, %error, "no vblank: paced by time");
                    self.vblank = false;
                }
            }
        }
        // A quarter of a frame early, so that the vblank decides and not the timer.
        let interval = self.options.rate.interval();
        self.next_at = clock::now() + (interval - interval / 4);
        true
    }

    fn wait_event(&self, timeout: Duration) {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::ZERO);
        let ready = poll(
            &mut [PollFd::new(self.card.as_fd(), PollFlags::POLLIN)],
            timeout,
        );
        if matches!(ready, Ok(1..)) {
            // Empties the descriptor; late events of earlier waits go with it.
            let _ = self.card.receive_events();
        }
    }

    fn fail(&self, action: &'static str, error: io::Error) -> SourceError {
        failed(&self.info.device, action, error)
    }
}

impl VideoSource for KmsSource {
    fn info(&self) -> SourceInfo {
        self.info.clone()
    }

    fn next(&mut self, timeout: Duration) -> Result<Captured, SourceError> {
        if self.screen.is_none() {
            std::thread::sleep(timeout.min(OFF_CHECK));
        } else if !self.pace(timeout) {
            return Ok(Captured::Nothing);
        }
        Ok(match self.capture()? {
            Some(frame) => Captured::Frame(frame),
            None => Captured::NoPicture(NoPicture::DisplayOff),
        })
    }
}

/// Names of the connectors of a card that show something, e.g. `HDMI-A-1`, and the card's driver.
///
/// # Errors
/// [`SourceError`]: no such card, or no right to it.
pub fn active_connectors(device: &Path) -> Result<(String, Vec<String>), SourceError> {
    let name = device.display().to_string();
    let card = open_card(device)?;
    let driver = card
        .get_driver()
        .map(|driver| driver.name().to_string_lossy().into_owned())
        .unwrap_or_default();
    let list = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for info in connectors(&card)? {
            if crtc_of(&card, &info)?.is_some() {
                names.push(info.to_string());
            }
        }
        Ok(names)
    };
    // A card without screens (a render-only GPU) has no such call.
    let names = list().or_else(|error| match error.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::EINVAL) => Ok(Vec::new()),
        _ => Err(failed(&name, "DRM_IOCTL_MODE_GETRESOURCES", error)),
    })?;
    Ok((driver, names))
}

fn open_card(path: &Path) -> Result<Card, SourceError> {
    let device = path.display().to_string();
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options.custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC);
    let card = options.open(path).map(Card).map_err(|error| {
        if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM)) {
            let hint = "add the user to group video or install the udev rule".to_owned();
            return SourceError::Permission { device, hint };
        }
        failed(&device, "open", error)
    })?;
    // The first opener of a card becomes its master and would keep a compositor from starting.
    let _ = card.release_master_lock();
    Ok(card)
}

fn connectors(card: &Card) -> io::Result<Vec<connector::Info>> {
    let resources = card.resource_handles()?;
    let connectors = resources.connectors().iter();
    connectors
        .map(|handle| card.get_connector(*handle, false))
        .collect()
}

/// The CRTC that feeds a connector, if it has a mode.
fn crtc_of(card: &Card, info: &connector::Info) -> io::Result<Option<crtc::Handle>> {
    let Some(encoder) = info.current_encoder() else {
        return Ok(None);
    };
    let Some(crtc) = card.get_encoder(encoder)?.crtc() else {
        return Ok(None);
    };
    Ok(card.get_crtc(crtc)?.mode().map(|_| crtc))
}

/// What a plane shows, and where. Without the plane's formats, which would be allocated each time.
fn drm_plane(
    card: &Card,
    handle: plane::Handle,
) -> io::Result<(Option<framebuffer::Handle>, Option<crtc::Handle>)> {
    let plane = card.get_plane(handle)?;
    Ok((plane.framebuffer(), plane.crtc()))
}

fn is_primary(card: &Card, plane: plane::Handle) -> io::Result<bool> {
    let properties = card.get_properties(plane)?;
    for (handle, value) in &properties {
        if card.get_property(*handle)?.name().to_bytes() == b"type" {
            // DRM_PLANE_TYPE_PRIMARY
            return Ok(*value == 1);
        }
    }
    Ok(false)
}

fn failed(device: &str, action: &'static str, source: io::Error) -> SourceError {
    let device = device.to_owned();
    match source.raw_os_error() {
        Some(libc::ENODEV | libc::ENXIO) => SourceError::Gone { device },
        Some(libc::ENOENT) if action == "open" => SourceError::Gone { device },
        Some(libc::EACCES | libc::EPERM) => SourceError::Permission {
            device,
            hint: format!("{action}: {}", Errno::EACCES.desc()),
        },
        _ => SourceError::Io {
            device,
            action,
            source,
        },
    }
}
