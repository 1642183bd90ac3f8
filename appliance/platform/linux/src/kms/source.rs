//! A screen of a DRM card as a [`VideoSource`].

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use drm::control::{Device as ControlDevice, crtc};
use drm::{ClientCapability, Device as DrmDevice, VblankWaitFlags, VblankWaitTarget};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use soft_kvm_core::{MonoTime, Size};
use soft_kvm_video::source::{Captured, NoPicture, SourceError, SourceInfo, VideoSource};

use super::KmsOptions;
use super::card::{Card, failed};
use super::cursor::Tracker;
use super::flips::Flips;
use super::picture::{Picture, Taken};
use super::planes::{self, Kind, PlaneIds, PlaneState};
use super::sys::{self, Properties};
use crate::clock;
use crate::uevent::Uevents;

/// How often a screen that is off is looked at, besides the kernel's notices.
const OFF_CHECK: Duration = Duration::from_millis(100);
/// How often the planes are looked at while the cursor moves or a program flips: twice for each vblank of 60 Hz.
const LOOK: Duration = Duration::from_millis(8);
/// How long after the last movement.
const LIVELY: Duration = Duration::from_secs(1);
/// Longest wait for a vblank, which a screen that goes off has none of.
const VBLANK: Duration = Duration::from_millis(50);

/// What is on.
#[derive(Clone, Copy, Debug)]
struct Screen {
    crtc: crtc::Handle,
    /// Index of the CRTC among the card's, for vblank waits.
    pipe: u32,
    /// The mode's.
    size: Size,
    /// The CRTC's `ACTIVE` property.
    active: Option<u32>,
}

/// How pictures keep step with the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// `CRTC_QUEUE_SEQUENCE` (Linux 4.15).
    Sequence,
    /// `WAIT_VBLANK`.
    Vblank,
    /// The driver has no vblank.
    Time,
}

/// A screen of a DRM card.
#[derive(Debug)]
pub struct KmsSource {
    card: Card,
    options: KmsOptions,
    info: SourceInfo,
    planes: Vec<PlaneIds>,
    scratch: Box<Properties>,
    screen: Option<Screen>,
    /// What the planes show, lowest first; the cursor is not among them when it goes apart.
    shown: Vec<PlaneState>,
    picture: Picture,
    cursor: Tracker,
    flips: Flips,
    uevents: Option<Uevents>,
    pace: Pace,
    next_at: MonoTime,
    /// A picture is due, of this moment.
    due: Option<MonoTime>,
    lively: MonoTime,
    /// The screen was off when it was last looked at.
    off: bool,
}

impl KmsSource {
    /// Opens the card. A screen that is off is no error: it may come on.
    ///
    /// # Errors
    /// [`SourceError`]: no such card, no right to it, or no such connector.
    pub fn open(options: KmsOptions) -> Result<Self, SourceError> {
        let device = options.device.display().to_string();
        let card = Card::open(&options.device)?;
        card.set_client_capability(ClientCapability::UniversalPlanes, true)
            .map_err(|error| failed(&device, "DRM_CLIENT_CAP_UNIVERSAL_PLANES", error))?;
        // Places, opacity and order are shown to atomic clients only; the cursor plane of virtual machines' cards
        // only to those that know its hot spot. Older drivers have neither.
        let _ = card.set_client_capability(ClientCapability::Atomic, true);
        let _ = card.set_client_capability(ClientCapability::CursorPlaneHotspot, true);
        if let Some(name) = &options.connector {
            let known = card
                .connectors()
                .map_err(|error| failed(&device, "DRM_IOCTL_MODE_GETRESOURCES", error))?;
            if !known.iter().any(|info| info.to_string() == *name) {
                let names: Vec<_> = known.iter().map(ToString::to_string).collect();
                let what = format!("has no connector {name}: it has {}", names.join(", "));
                return Err(SourceError::Unsupported { device, what });
            }
        }
        let planes = PlaneIds::all(&card)
            .map_err(|error| failed(&device, "DRM_IOCTL_MODE_GETPLANERESOURCES", error))?;
        let uevents = Uevents::new()
            .inspect_err(|error| tracing::info!(%error, "no kernel notices: hotplug is looked for"))
            .ok();
        let info = SourceInfo {
            driver: "kms",
            device,
            size: Size::default(),
            rate: options.rate,
            pixel_format: String::new(),
        };
        let now = clock::now();
        let mut source = Self {
            shown: Vec::with_capacity(planes.len()),
            planes,
            card,
            picture: Picture::new(&options.device, options.gpu),
            options,
            info,
            scratch: Box::new(Properties::new()),
            screen: None,
            cursor: Tracker::default(),
            flips: Flips::default(),
            uevents,
            pace: Pace::Sequence,
            next_at: now,
            due: None,
            lively: now,
            off: false,
        };
        // Tells a missing capability at once instead of at the first picture.
        if source.look(now)? {
            drop(source.take(now)?);
        }
        Ok(source)
    }

    /// Finds out what is on and shown now; false while the screen is off.
    fn look(&mut self, now: MonoTime) -> Result<bool, SourceError> {
        self.shown.clear();
        if self.screen.is_none() {
            self.screen = self
                .find()
                .map_err(|error| self.fail("finding a screen", error))?;
        }
        let on = self
            .read_planes()
            .map_err(|error| self.fail("DRM_IOCTL_MODE_OBJ_GETPROPERTIES", error))?;
        let Some(screen) = self.screen.filter(|_| on) else {
            self.screen = None;
            self.picture.clear();
            self.shown.clear();
            let nowhere = Size::default();
            self.cursor
                .update(&self.card, None, (nowhere, nowhere), now);
            return Ok(false);
        };
        self.shown.sort_unstable_by_key(PlaneState::order);
        let cursor = self
            .shown
            .iter()
            .position(|state| state.kind == Kind::Cursor);
        let plane = cursor.and_then(|index| self.shown.get(index).copied());
        let sizes = (screen.size, self.picture.size_or(screen.size));
        let apart = self.cursor.update(&self.card, plane.as_ref(), sizes, now);
        if let Some(index) = cursor.filter(|_| apart) {
            self.shown.remove(index);
        }
        let mut hasher = DefaultHasher::new();
        self.shown.hash(&mut hasher);
        self.flips.look(now, hasher.finish());
        Ok(!self.shown.is_empty())
    }

    /// Reads what is on the screen's CRTC; false when it has no mode any more, or another one.
    fn read_planes(&mut self) -> io::Result<bool> {
        let Some(screen) = self.screen else {
            return Ok(false);
        };
        if mode_size(&self.card, screen.crtc)? != Some(screen.size) {
            // Once more from the start: the connector may be another CRTC's by now.
            self.screen = self.find()?;
        }
        let Some(screen) = self.screen else {
            return Ok(false);
        };
        let crtc = screen.crtc.into();
        if let Some(active) = screen.active
            && !planes::is_active(&self.card, crtc, active, &mut self.scratch)?
        {
            return Ok(false);
        }
        for plane in &self.planes {
            self.shown
                .extend(plane.read(&self.card, crtc, &mut self.scratch)?);
        }
        Ok(self.shown.iter().any(|state| state.kind != Kind::Cursor))
    }

    /// The wanted connector's screen, if it is on.
    fn find(&self) -> io::Result<Option<Screen>> {
        let resources = self.card.resource_handles()?;
        for info in self.card.connectors()? {
            let wanted = self.options.connector.as_ref();
            if wanted.is_some_and(|name| info.to_string() != *name) {
                continue;
            }
            let Some(crtc) = self.card.crtc_of(&info)? else {
                continue;
            };
            let pipe = resources.crtcs().iter().position(|handle| *handle == crtc);
            let (Some(pipe), Some(size)) = (pipe, mode_size(&self.card, crtc)?) else {
                continue;
            };
            return Ok(Some(Screen {
                crtc,
                pipe: u32::try_from(pipe).unwrap_or(0),
                size,
                active: planes::active_property(&self.card, crtc)?,
            }));
        }
        Ok(None)
    }

    fn take(&mut self, captured: MonoTime) -> Result<Taken, SourceError> {
        let Some(screen) = self.screen else {
            return Ok(Taken::Nothing);
        };
        self.picture.take(
            &self.card,
            &self.shown,
            screen.size,
            captured,
            &mut self.info,
        )
    }

    /// Waits for the screen to come on, as long as that may be waited for.
    fn wait_off(&mut self, timeout: Duration) -> Captured {
        if let Some(cursor) = self.cursor.news() {
            return Captured::Cursor(cursor);
        }
        // The first time at once; then there is time.
        if std::mem::replace(&mut self.off, true) {
            self.wait(timeout.min(OFF_CHECK), false);
        }
        Captured::NoPicture(NoPicture::DisplayOff)
    }

    /// Sleeps; true when the kernel told of a change of this card, which ends the sleep.
    fn wait(&mut self, timeout: Duration, vblank: bool) -> bool {
        // Whole milliseconds, rounded up: too early would mean to sleep twice.
        let millis = timeout.as_micros().div_ceil(1_000);
        let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
        let card = PollFd::new(self.card.as_fd(), PollFlags::POLLIN);
        let ready = match (&self.uevents, vblank) {
            (Some(uevents), true) => poll(
                &mut [card, PollFd::new(uevents.as_fd(), PollFlags::POLLIN)],
                timeout,
            ),
            (Some(uevents), false) => poll(
                &mut [PollFd::new(uevents.as_fd(), PollFlags::POLLIN)],
                timeout,
            ),
            (None, true) => poll(&mut [card], timeout),
            (None, false) => poll(&mut [], timeout),
        };
        if !matches!(ready, Ok(1..)) {
            return false;
        }
        let node = self.options.device.strip_prefix("/dev").ok();
        let wanted = self.uevents.as_mut().is_some_and(|uevents| {
            uevents.drain(|event| {
                event.subsystem == "drm"
                    && event
                        .node
                        .is_none_or(|name| node.is_some_and(|node| node.as_os_str() == name))
            })
        });
        if wanted {
            tracing::debug!(device = self.info.device, "the kernel tells of a change");
            self.screen = None;
        }
        wanted
    }

    /// Waits for the next vblank; gives the kernel's time of it, or now.
    fn wait_vblank(&mut self, timeout: Duration) -> MonoTime {
        let Some(screen) = self.screen else {
            return clock::now();
        };
        if self.pace == Pace::Sequence
            && let Err(error) = sys::queue_next_vblank(self.card.as_fd(), screen.crtc.into())
        {
            tracing::debug!(device = self.info.device, %error, "DRM_IOCTL_CRTC_QUEUE_SEQUENCE");
            self.pace = Pace::Vblank;
        }
        if self.pace == Pace::Vblank {
            // Asked for as an event: a blocking wait could outlast the timeout when the screen goes off.
            let (target, flags) = (VblankWaitTarget::Relative(1), VblankWaitFlags::EVENT);
            if let Err(error) = self.card.wait_vblank(target, flags, screen.pipe, 0) {
                tracing::info!(device = self.info.device, %error, "no vblank: paced by time");
                self.pace = Pace::Time;
            }
        }
        if self.pace == Pace::Time {
            return clock::now();
        }
        self.wait(timeout.min(VBLANK), true);
        let mut events = [0; 512];
        // The descriptor does not block; late events of earlier waits go with it.
        let read = nix::unistd::read(&self.card, &mut events).unwrap_or(0);
        let now = clock::now();
        let last = sys::last_vblank(events.get(..read).unwrap_or_default());
        last.filter(|&last| last <= now && now.since(last) < VBLANK)
            .unwrap_or(now)
    }

    fn fail(&self, action: &'static str, error: io::Error) -> SourceError {
        failed(&self.info.device, action, error)
    }
}

impl VideoSource for KmsSource {
    fn info(&self) -> SourceInfo {
        self.info.clone()
    }

    fn converter(&self) -> Option<&str> {
        self.picture.gpu()
    }

    fn next(&mut self, timeout: Duration) -> Result<Captured, SourceError> {
        let end = clock::now() + timeout;
        loop {
            let now = clock::now();
            if !self.look(now)? {
                self.due = None;
                return Ok(self.wait_off(end.since(now)));
            }
            self.off = false;
            if let Some(cursor) = self.cursor.news() {
                self.lively = now;
                return Ok(Captured::Cursor(cursor));
            }
            if self.flips.is_flipping(now) {
                self.lively = now;
            }
            if let Some(captured) = self.due.take()
                && self.flips.take(now)
            {
                match self.take(captured)? {
                    Taken::Frame(frame) => return Ok(Captured::Frame(frame)),
                    Taken::Gone => self.screen = None,
                    Taken::Nothing => {}
                }
            }
            if now >= end {
                return Ok(Captured::Nothing);
            }
            if now >= self.next_at {
                self.due = Some(self.wait_vblank(end.since(now)));
                // A quarter of a frame early, so that the vblank decides and not the timer.
                let interval = self.options.rate.interval();
                let early = match self.pace {
                    Pace::Time => Duration::ZERO,
                    _ => interval / 4,
                };
                self.next_at = clock::now() + (interval - early);
                continue;
            }
            let mut until = self.next_at.min(end);
            if now.since(self.lively) < LIVELY {
                until = until.min(now + LOOK);
            }
            self.wait(until.since(now), false);
        }
    }
}

/// The size of a CRTC's mode, if it has one.
fn mode_size(card: &Card, crtc: crtc::Handle) -> io::Result<Option<Size>> {
    let mode = card.get_crtc(crtc)?.mode();
    Ok(mode.map(|mode| {
        let (width, height) = mode.size();
        Size::new(width.into(), height.into())
    }))
}
