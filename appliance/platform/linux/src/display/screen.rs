//! A connector with a mode, and the buffers that are shown in turn.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use drm::buffer::{Buffer as _, DrmFourcc};
use drm::control::atomic::AtomicModeReq;
use drm::control::dumbbuffer::DumbBuffer;
use drm::control::{
    AtomicCommitFlags, Device as ControlDevice, Mode, ModeTypeFlags, PlaneType, connector, crtc,
    framebuffer, plane, property,
};
use drm::{ClientCapability, Device as DrmDevice};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use soft_kvm_core::{FrameRate, Size};
use soft_kvm_video::cursor::Cursor;

use super::DisplayError;
use super::direct::{Change, Imports, PlaneIds};
use super::keeper::{KeeperCommand, ScreenKeeper};
use super::mode::{Timing, choose};
use super::pointer::{Place, Pointer};
use crate::broker::{self, Kind};
use crate::dmabuf::{Access, Mapping};

/// One is shown, one is drawn into.
const BUFFERS: usize = 2;
/// A flip that takes longer than this is not waited for: the monitor may have gone.
const FLIP: Duration = Duration::from_millis(200);

/// How long a card may have another master before its screen counts as taken, and how often to try: a program that only looks is
/// master from its opening of the card until it gives that up, as our capture does (drm-uapi, "Primary Nodes, DRM Master and
/// Authentication").
const MASTER: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(10));

/// Where to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DisplayOptions {
    /// The card's node; the first with a connected monitor if `None`.
    pub device: Option<PathBuf>,
    /// Connector, e.g. `HDMI-A-1`; the first with a monitor if `None`.
    pub connector: Option<String>,
    /// What puts the old picture back if this program is killed; without it the screen stays dark then.
    pub keeper: Option<KeeperCommand>,
}

#[derive(Debug)]
pub(super) struct Card(File);

impl AsFd for Card {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
impl DrmDevice for Card {}
impl ControlDevice for Card {}

impl Card {
    /// One that another process has opened.
    pub(super) fn shared(fd: OwnedFd) -> Self {
        Self(fd.into())
    }

    /// A buffer's memory, to write to.
    pub(super) fn map(&self, buffer: &DumbBuffer) -> io::Result<Mapping> {
        let handle = buffer.handle().into();
        let place = drm_ffi::mode::dumbbuffer::map(self.as_fd(), handle, 0, 0)?;
        let length = buffer.pitch() as usize * buffer.size().1 as usize;
        Mapping::new(self, place.offset, length, Access::Write)
    }

    /// Puts back what a CRTC showed.
    pub(super) fn restore(
        &self,
        crtc: crtc::Handle,
        connector: connector::Handle,
        before: &crtc::Info,
    ) -> io::Result<()> {
        // What a killed program leaves is a mode without a picture: that is dark, too.
        let lit = before.framebuffer().is_some();
        self.set_crtc(
            crtc,
            before.framebuffer(),
            before.position(),
            lit.then_some(connector).as_slice(),
            before.mode().filter(|_| lit),
        )
    }
}

/// Tries until the screen is free, or counts as taken.
fn patiently<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let (patience, pause) = MASTER;
    let start = Instant::now();
    loop {
        match attempt() {
            Err(error) if is_busy(&error) && start.elapsed() < patience => {
                std::thread::sleep(pause);
            }
            outcome => return outcome,
        }
    }
}

fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBUSY)
}

/// Master by its opening, or by asking; `EBUSY` while another one is.
fn become_master(card: &Card) -> io::Result<()> {
    // Who may not ask, and is not master already, gets EACCES.
    let asked = card.acquire_master_lock();
    asked.map_err(|_| io::Error::from_raw_os_error(libc::EBUSY))
}

/// Opens the card with this connector for the broker to hand over, as its master: the right to that stays with the open file,
/// whoever has it, and ends when it is closed. `EBUSY` while another program is master, `ENODEV` without a monitor.
pub(crate) fn open_master(connector: &str) -> io::Result<OwnedFd> {
    let mut last = io::Error::from_raw_os_error(libc::ENODEV);
    for node in crate::probe::cards_with(connector) {
        let opened = || {
            let card = Card(broker::open_here(&node)?.into());
            become_master(&card)?;
            let monitor = find_connector(&card, Some(connector))?;
            monitor.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
            Ok(card)
        };
        match opened() {
            Ok(Card(file)) => return Ok(file.into()),
            Err(error) if is_busy(&last) => drop::<io::Error>(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Property ids of one object by name.
pub(super) type Properties = HashMap<String, property::Info>;

#[derive(Debug)]
struct Shown {
    buffer: DumbBuffer,
    framebuffer: framebuffer::Handle,
    memory: Mapping,
}

/// A monitor that shows our pictures until it is dropped.
#[derive(Debug)]
pub struct Display {
    pub(super) card: Card,
    pub(super) device: String,
    connector: connector::Handle,
    crtc: crtc::Handle,
    pub(super) plane: plane::Handle,
    /// Of connector, CRTC and plane.
    properties: [Properties; 3],
    pub(super) plane_ids: PlaneIds,
    pub(super) imports: Imports,
    before: Option<crtc::Info>,
    mode: Option<Mode>,
    buffers: Vec<Shown>,
    canvas: Size,
    /// Which buffer is drawn into next.
    next: usize,
    flipping: bool,
    picture: Option<(Size, FrameRate)>,
    /// The hardware's cursor; an error once it has turned out that there is none.
    pointer: Option<Result<Pointer, ()>>,
    keeper: Option<ScreenKeeper>,
}

impl Display {
    /// Takes a monitor. Nothing changes on it before the first [`Display::prepare`].
    ///
    /// # Errors
    /// [`DisplayError`]: no monitor, no right to the card, or another program has it.
    pub fn open(options: &DisplayOptions) -> Result<Self, DisplayError> {
        if broker::is_used() {
            return Self::ask(options.connector.as_deref().unwrap_or_default());
        }
        let cards = match &options.device {
            Some(device) => vec![device.clone()],
            None => crate::probe::drm_cards(),
        };
        let mut last = DisplayError::NoMonitor("this machine has no graphics card".to_owned());
        for path in cards {
            match Self::open_card(&path, options.connector.as_deref()) {
                Ok(display) => return Ok(display.kept(options.keeper.as_ref())),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn open_card(path: &Path, wanted: Option<&str>) -> Result<Self, DisplayError> {
        let device = path.display().to_string();
        let card = Card(
            broker::open_here(path)
                .map_err(failed(&device, "open"))?
                .into(),
        );
        patiently(|| become_master(&card)).map_err(failed(&device, "DRM_IOCTL_SET_MASTER"))?;
        Self::on(card, device, wanted)
    }

    /// The card that the broker opens for this connector. Each opening is a new one: a file of another process can be master
    /// again by that process only.
    fn ask(connector: &str) -> Result<Self, DisplayError> {
        let opened = patiently(|| broker::open(Kind::Monitor, Path::new(connector)));
        let device = connector.to_owned();
        match opened {
            Ok(fd) => Self::on(Card(fd.into()), device, Some(connector)),
            Err(error) if is_busy(&error) => Err(DisplayError::Busy { device }),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Err(
                DisplayError::NoMonitor(format!("no monitor is connected at {connector}")),
            ),
            Err(error) => Err(failed(&device, "open")(error)),
        }
    }

    /// With a card that this process, or who opened it, is master of.
    fn on(card: Card, device: String, wanted: Option<&str>) -> Result<Self, DisplayError> {
        let fail = |action| failed(&device, action);
        card.set_client_capability(ClientCapability::UniversalPlanes, true)
            .map_err(fail("DRM_CLIENT_CAP_UNIVERSAL_PLANES"))?;
        card.set_client_capability(ClientCapability::Atomic, true)
            .map_err(fail("DRM_CLIENT_CAP_ATOMIC"))?;
        let monitor = find_connector(&card, wanted)
            .map_err(fail("DRM_IOCTL_MODE_GETCONNECTOR"))?
            .ok_or_else(|| {
                let which = wanted.map_or_else(String::new, |name| format!(" at {name}"));
                DisplayError::NoMonitor(format!("{device}: no monitor is connected{which}"))
            })?;
        let found = find_pipe(&card, &monitor).map_err(fail("DRM_IOCTL_MODE_GETPLANE"))?;
        let (crtc, plane) = found.ok_or_else(|| {
            DisplayError::NoMonitor(format!("{device}: all its outputs are in use"))
        })?;
        let of = |properties: io::Result<_>| {
            properties.map_err(fail("DRM_IOCTL_MODE_OBJ_GETPROPERTIES"))
        };
        let properties = [
            of(properties(&card, monitor.handle()))?,
            of(properties(&card, crtc))?,
            of(properties(&card, plane))?,
        ];
        let [_, _, of_plane] = &properties;
        let plane_ids = PlaneIds::of(of_plane).map_err(fail("the plane's properties"))?;
        let before = card.get_crtc(crtc).ok();
        tracing::info!(device, connector = %monitor, "showing on a monitor");
        Ok(Self {
            connector: monitor.handle(),
            card,
            device,
            crtc,
            plane,
            properties,
            plane_ids,
            imports: Imports::default(),
            before,
            mode: None,
            buffers: Vec::new(),
            canvas: Size::default(),
            next: 0,
            flipping: false,
            picture: None,
            pointer: None,
            keeper: None,
        })
    }

    /// The same with a keeper; one that does not start is told, and left out.
    fn kept(mut self, command: Option<&KeeperCommand>) -> Self {
        let card = self.card.as_fd();
        let start = |command| ScreenKeeper::start(command, card, self.crtc, self.connector);
        match command.map(start).transpose() {
            Ok(keeper) => self.keeper = keeper,
            Err(error) => tracing::warn!(
                device = self.device, %error,
                "the screen's keeper does not start: if this program is killed, the screen stays dark"
            ),
        }
        self
    }

    /// Sets a mode that fits pictures of this size and rate; returns the size to draw in. That is the picture's own where
    /// the hardware scales it, and the screen's otherwise. A size of 0x0 stands for no picture yet.
    ///
    /// # Errors
    /// [`DisplayError`], also when the monitor has gone: try again later.
    pub fn prepare(&mut self, picture: Size, rate: FrameRate) -> Result<Size, DisplayError> {
        if self.picture == Some((picture, rate)) {
            return Ok(self.canvas);
        }
        let fail = |action| failed(&self.device, action);
        let monitor = self
            .card
            .get_connector(self.connector, true)
            .map_err(fail("DRM_IOCTL_MODE_GETCONNECTOR"))?;
        let timings: Vec<_> = monitor.modes().iter().map(timing).collect();
        let mode = choose(&timings, picture, rate).and_then(|index| monitor.modes().get(index));
        let Some(&mode) = mode else {
            let what = format!("{}: the monitor at {monitor} has gone", self.device);
            return Err(DisplayError::NoMonitor(what));
        };
        let screen = timing(&mode).size;
        self.finish_flip();
        let scaled = picture.pixels() > 0
            && picture != screen
            && self
                .set(&mode, picture, screen, AtomicCommitFlags::TEST_ONLY)
                .is_ok();
        let canvas = if scaled { picture } else { screen };
        self.set(&mode, canvas, screen, AtomicCommitFlags::empty())
            .map_err(failed(&self.device, "setting the mode"))?;
        tracing::info!(device = self.device, mode = %screen, refresh = mode.vrefresh(), scaled, "mode set");
        (self.canvas, self.mode) = (canvas, Some(mode));
        self.picture = Some((picture, rate));
        Ok(canvas)
    }

    /// Shows pixels, 0x00RRGGBB, of the size that [`Display::prepare`] gave: at the next vertical blank.
    ///
    /// # Errors
    /// [`DisplayError`]: the monitor or the right to it has gone; prepare anew later.
    pub fn show(&mut self, pixels: &[u32]) -> Result<(), DisplayError> {
        self.finish_flip();
        let next = self.next;
        let Some(back) = self.buffers.get_mut(next) else {
            return Ok(());
        };
        let (width, pitch) = (self.canvas.width as usize, back.buffer.pitch() as usize);
        let lines = back.memory.bytes_mut().chunks_mut(pitch);
        for (line, source) in lines.zip(pixels.chunks(width.max(1))) {
            for (target, pixel) in line.chunks_exact_mut(4).zip(source) {
                target.copy_from_slice(&pixel.to_le_bytes());
            }
        }
        let framebuffer = back.framebuffer;
        let Some(screen) = self.screen() else {
            return Ok(());
        };
        self.flip(&Change {
            framebuffer,
            size: self.canvas,
            screen,
            color: None,
        })?;
        self.next = (next + 1) % BUFFERS;
        Ok(())
    }

    /// The size of the screen, once it has a mode.
    pub(super) fn screen(&self) -> Option<Size> {
        self.mode.as_ref().map(|mode| timing(mode).size)
    }

    /// Puts a picture on the plane at the next vertical blank.
    pub(super) fn flip(&mut self, change: &Change) -> Result<(), DisplayError> {
        let flags = AtomicCommitFlags::PAGE_FLIP_EVENT | AtomicCommitFlags::NONBLOCK;
        if let Err(error) = self.change(change, flags) {
            self.picture = None;
            return Err(failed(&self.device, "DRM_IOCTL_MODE_ATOMIC")(error));
        }
        self.flipping = true;
        Ok(())
    }

    /// Shows the cursor by the hardware over the picture, at once; false when it has to be drawn into the picture: the
    /// hardware has no cursor, or no room for this one.
    pub fn point(&mut self, cursor: &Cursor) -> bool {
        let (Some((picture, _)), Some(mode)) = (self.picture, &self.mode) else {
            return false;
        };
        if picture.pixels() == 0 {
            return false;
        }
        let (x, y, size) = fit(picture, timing(mode).size);
        let place = Place {
            picture,
            corner: (x, y),
            size,
        };
        let device = &self.device;
        let none = |error: io::Error| {
            tracing::info!(device, %error, "no cursor of the hardware: it is drawn into the picture");
        };
        let card = &self.card;
        let made = self
            .pointer
            .get_or_insert_with(|| Pointer::new(card).map_err(none));
        let Ok(pointer) = made else {
            return false;
        };
        match pointer.show(card, self.crtc, cursor, &place) {
            Ok(shown) => shown,
            Err(error) => {
                none(error);
                self.pointer = Some(Err(()));
                false
            }
        }
    }

    /// Waits until the picture before is on the screen and its buffer free.
    pub(super) fn finish_flip(&mut self) {
        if !std::mem::take(&mut self.flipping) {
            return;
        }
        let timeout = PollTimeout::try_from(FLIP).unwrap_or(PollTimeout::ZERO);
        let mut fds = [PollFd::new(self.card.as_fd(), PollFlags::POLLIN)];
        if matches!(poll(&mut fds, timeout), Ok(1..)) {
            // Only flips are asked for: whatever came, it was one.
            let _ = self.card.receive_events();
        }
    }

    /// Commits mode and plane with buffers of `canvas`, which are kept unless it was only a test.
    fn set(
        &mut self,
        mode: &Mode,
        canvas: Size,
        screen: Size,
        flags: AtomicCommitFlags,
    ) -> io::Result<()> {
        let test = flags.contains(AtomicCommitFlags::TEST_ONLY);
        let mut buffers = Vec::new();
        for _ in 0..if test { 1 } else { BUFFERS } {
            match self.buffer(canvas) {
                Ok(buffer) => buffers.push(buffer),
                Err(error) => {
                    self.free(buffers);
                    return Err(error);
                }
            }
        }
        let committed = self.commit(mode, canvas, screen, flags, buffers.first());
        if test || committed.is_err() {
            self.free(buffers);
            return committed;
        }
        let old = std::mem::replace(&mut self.buffers, buffers);
        self.free(old);
        self.imports.forget(&self.card);
        self.next = 1;
        Ok(())
    }

    fn commit(
        &self,
        mode: &Mode,
        canvas: Size,
        screen: Size,
        flags: AtomicCommitFlags,
        first: Option<&Shown>,
    ) -> io::Result<()> {
        let [of_connector, of_crtc, of_plane] = &self.properties;
        let blob = self.card.create_property_blob(mode)?;
        let place = fit(canvas, screen);
        let fixed = |pixels: u32| property::Value::UnsignedRange(u64::from(pixels) << 16);
        let count = |pixels: u32| property::Value::UnsignedRange(pixels.into());
        let at = |pixels: u32| property::Value::SignedRange(pixels.into());
        let framebuffer = first.map(|shown| shown.framebuffer);
        let mut request = AtomicModeReq::new();
        let crtc = property::Value::CRTC(Some(self.crtc));
        request.add_property(self.connector, id(of_connector, "CRTC_ID")?, crtc);
        request.add_property(self.crtc, id(of_crtc, "MODE_ID")?, blob);
        let active = property::Value::Boolean(true);
        request.add_property(self.crtc, id(of_crtc, "ACTIVE")?, active);
        for (name, value) in [
            ("FB_ID", property::Value::Framebuffer(framebuffer)),
            ("CRTC_ID", crtc),
            ("SRC_X", fixed(0)),
            ("SRC_Y", fixed(0)),
            ("SRC_W", fixed(canvas.width)),
            ("SRC_H", fixed(canvas.height)),
            ("CRTC_X", at(place.0)),
            ("CRTC_Y", at(place.1)),
            ("CRTC_W", count(place.2.width)),
            ("CRTC_H", count(place.2.height)),
        ] {
            request.add_property(self.plane, id(of_plane, name)?, value);
        }
        let done = self
            .card
            .atomic_commit(flags | AtomicCommitFlags::ALLOW_MODESET, request);
        if let property::Value::Blob(blob) = blob {
            // The kernel keeps what it uses.
            let _ = self.card.destroy_property_blob(blob);
        }
        done
    }

    fn buffer(&self, size: Size) -> io::Result<Shown> {
        let format = DrmFourcc::Xrgb8888;
        let buffer = self
            .card
            .create_dumb_buffer((size.width, size.height), format, 32)?;
        let made = self.card.map(&buffer).and_then(|memory| {
            let framebuffer = self.card.add_framebuffer(&buffer, 24, 32)?;
            Ok((memory, framebuffer))
        });
        match made {
            Ok((memory, framebuffer)) => Ok(Shown {
                buffer,
                framebuffer,
                memory,
            }),
            Err(error) => {
                let _ = self.card.destroy_dumb_buffer(buffer);
                Err(error)
            }
        }
    }

    fn free(&self, buffers: Vec<Shown>) {
        for shown in buffers {
            // Nothing to do about failures: closing the card frees them too.
            let _ = self.card.destroy_framebuffer(shown.framebuffer);
            drop(shown.memory);
            let _ = self.card.destroy_dumb_buffer(shown.buffer);
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.finish_flip();
        if let Some(Ok(pointer)) = &mut self.pointer {
            // Whatever is shown next has its own.
            let _ = pointer.hide(&self.card, self.crtc);
        }
        if self.mode.is_some()
            && let Some(before) = &self.before
        {
            let restored = self.card.restore(self.crtc, self.connector, before);
            if let Err(error) = restored {
                tracing::warn!(device = self.device, %error, "the screen's old picture is not put back");
            }
        }
        if let Some(keeper) = &mut self.keeper {
            keeper.done();
        }
        let buffers = std::mem::take(&mut self.buffers);
        self.free(buffers);
        self.imports.forget(&self.card);
    }
}

pub(super) fn failed<'a>(
    device: &'a str,
    action: &'static str,
) -> impl Fn(io::Error) -> DisplayError + 'a {
    move |source| match source.raw_os_error() {
        Some(libc::EACCES | libc::EBUSY) if action != "open" => DisplayError::Busy {
            device: device.to_owned(),
        },
        _ => DisplayError::Io {
            device: device.to_owned(),
            action,
            source,
        },
    }
}

pub(super) fn id(properties: &Properties, name: &str) -> io::Result<property::Handle> {
    let info = properties.get(name);
    info.map(property::Info::handle)
        .ok_or_else(|| Errno::EOPNOTSUPP.into())
}

fn properties<T: drm::control::ResourceHandle>(card: &Card, object: T) -> io::Result<Properties> {
    card.get_properties(object)?.as_hashmap(card)
}

fn timing(mode: &Mode) -> Timing {
    let (width, height) = mode.size();
    Timing {
        size: Size::new(width.into(), height.into()),
        refresh: mode.vrefresh(),
        preferred: mode.mode_type().contains(ModeTypeFlags::PREFERRED),
    }
}

/// Where a picture goes: the largest rectangle of its shape, in the middle of the screen.
pub(super) fn fit(picture: Size, screen: Size) -> (u32, u32, Size) {
    let (pw, ph) = (u64::from(picture.width), u64::from(picture.height));
    let (sw, sh) = (u64::from(screen.width), u64::from(screen.height));
    // Never wider than the screen.
    let narrow = |pixels: u64| u32::try_from(pixels).unwrap_or(u32::MAX);
    let size = if sw * ph <= sh * pw {
        Size::new(screen.width, narrow(sw * ph / pw.max(1)))
    } else {
        Size::new(narrow(sh * pw / ph.max(1)), screen.height)
    };
    let x = (screen.width - size.width) / 2;
    (x, (screen.height - size.height) / 2, size)
}

fn find_connector(card: &Card, wanted: Option<&str>) -> io::Result<Option<connector::Info>> {
    for handle in card.resource_handles()?.connectors() {
        let info = card.get_connector(*handle, true)?;
        let named = wanted.is_none_or(|name| info.to_string() == name);
        if named && info.state() == connector::State::Connected && !info.modes().is_empty() {
            return Ok(Some(info));
        }
    }
    Ok(None)
}

/// A CRTC that the connector can use, its own one first, and its primary plane.
fn find_pipe(
    card: &Card,
    monitor: &connector::Info,
) -> io::Result<Option<(crtc::Handle, plane::Handle)>> {
    let resources = card.resource_handles()?;
    let mut candidates = Vec::new();
    if let Some(encoder) = monitor.current_encoder()
        && let Some(crtc) = card.get_encoder(encoder)?.crtc()
    {
        candidates.push(crtc);
    }
    for encoder in monitor.encoders() {
        let possible = card.get_encoder(*encoder)?.possible_crtcs();
        let idle =
            |crtc: &crtc::Handle| card.get_crtc(*crtc).is_ok_and(|info| info.mode().is_none());
        candidates.extend(resources.filter_crtcs(possible).into_iter().filter(idle));
    }
    for crtc in candidates {
        for handle in card.plane_handles()? {
            let info = card.get_plane(handle)?;
            let possible = resources.filter_crtcs(info.possible_crtcs());
            if possible.contains(&crtc) && is_primary(card, handle)? {
                return Ok(Some((crtc, handle)));
            }
        }
    }
    Ok(None)
}

fn is_primary(card: &Card, plane: plane::Handle) -> io::Result<bool> {
    let primary = PlaneType::Primary as u64;
    for (id, value) in card.get_properties(plane)? {
        if card.get_property(id)?.name().to_bytes() == b"type" {
            return Ok(value == primary);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scaled_picture_keeps_its_shape_in_the_middle() {
        let (x, y, size) = fit(Size::new(1280, 720), Size::new(1024, 768));
        assert_eq!((x, y, size), (0, 96, Size::new(1024, 576)));
        let (x, y, size) = fit(Size::new(640, 480), Size::new(1920, 1080));
        assert_eq!((x, y, size), (240, 0, Size::new(1440, 1080)));
    }
}
