//! All chosen devices of the operator in one blocking loop, with those that come and go.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use evdevil::Evdev;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use soft_kvm_input::{DeviceClass, InputSource, SourceError, SourceEvent};
use soft_kvm_protocol::input::{DeviceDescriptor, DeviceId, LedState, MAX_DEVICES};

use super::device::{OpenDevice, describe};
use super::guard::Guard;
use super::{FOLDER, is_ours, nodes, open, problem};
use crate::{clock, waker};

/// Which devices are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Every keyboard, pointer, tablet, touch device and joystick.
    All,
    /// Those with one of these names or nodes (also symbolic links to them).
    Named(Vec<String>),
}

impl Selection {
    fn takes(&self, device: &DeviceDescriptor, path: &Path) -> bool {
        match self {
            Self::All => DeviceClass::of(device) != DeviceClass::Other,
            Self::Named(names) => names.iter().any(|name| means(name, device, path)),
        }
    }
}

/// Whether a name or node that was given is this device's.
fn means(name: &str, device: &DeviceDescriptor, path: &Path) -> bool {
    name == device.name
        || Path::new(name) == path
        || std::fs::canonicalize(name).is_ok_and(|target| target == path)
}

/// The operator's devices by evdev.
///
/// Nodes that appear later are taken up by inotify, with and without udevd. Our own virtual devices are left alone.
/// Once warm, no event allocates.
#[derive(Debug)]
pub struct EvdevSource {
    selection: Selection,
    guard: Option<Arc<Guard>>,
    inotify: Inotify,
    waker: waker::Waker,
    devices: Vec<OpenDevice>,
    /// Nodes that were looked at and not taken.
    passed: Vec<PathBuf>,
    /// Nodes that were one too many: looked at again when another device has gone.
    waiting: Vec<PathBuf>,
    next_id: u16,
    grab: bool,
    scan: bool,
    /// What is missing of the named devices is told once.
    told_missing: bool,
    tell_state: bool,
    polled: Vec<libc::pollfd>,
}

impl EvdevSource {
    /// A source for the chosen devices; nothing is grabbed yet. The devices come with the first
    /// [`InputSource::wait`].
    ///
    /// # Errors
    /// When the system has no inotify instance or descriptor left.
    pub fn new(selection: Selection) -> Result<Self, SourceError> {
        let watch = |what| move |source| SourceError::Watch { what, source };
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .map_err(|errno| watch("inotify")(errno.into()))?;
        let source = Self {
            selection,
            guard: None,
            inotify,
            waker: waker::Waker::new().map_err(watch("eventfd"))?,
            devices: Vec::new(),
            passed: Vec::new(),
            waiting: Vec::new(),
            next_id: 1,
            grab: false,
            scan: true,
            told_missing: false,
            tell_state: false,
            polled: Vec::with_capacity(MAX_DEVICES + 2),
        };
        source.watch_folders();
        Ok(source)
    }

    /// Lets a guard share every device before it is taken.
    #[must_use]
    pub fn with_guard(mut self, guard: Arc<Guard>) -> Self {
        self.guard = Some(guard);
        self
    }

    /// Watches `/dev/input`, and `/dev` for the time before the first device makes it.
    fn watch_folders(&self) {
        let interest =
            AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ATTRIB;
        if self.inotify.add_watch(FOLDER, interest).is_err() {
            // Without a `/dev` there are no devices to wait for.
            let _ = self.inotify.add_watch("/dev", AddWatchFlags::IN_CREATE);
        }
    }

    fn scan(&mut self, each: &mut dyn FnMut(SourceEvent<'_>)) {
        self.watch_folders();
        let nodes = nodes();
        for paths in [&mut self.passed, &mut self.waiting] {
            paths.retain(|path| nodes.iter().any(|(_, node)| node == path));
        }
        let mut troubled = false;
        for (_, path) in nodes {
            let known = self.devices.iter().any(|device| device.path == path);
            let waits = self.devices.len() >= MAX_DEVICES && self.waiting.contains(&path);
            if known || waits || self.passed.contains(&path) {
                continue;
            }
            match self.take_up(&path) {
                Ok(Some(device)) => {
                    self.waiting.retain(|waiting| *waiting != path);
                    each(SourceEvent::Added {
                        device: &device.descriptor,
                        class: device.class,
                        path: &device.path.to_string_lossy(),
                    });
                    self.devices.push(device);
                }
                Ok(None) => self.passed.push(path),
                Err(error) => {
                    troubled = true;
                    each(SourceEvent::Problem(&error));
                    let full = matches!(error, SourceError::TooMany { .. });
                    let list = if full {
                        &mut self.waiting
                    } else {
                        &mut self.passed
                    };
                    list.push(path);
                }
            }
        }
        // What could not be used was told already, and may be one of the named.
        if !std::mem::replace(&mut self.told_missing, true) && !troubled {
            self.tell_missing(each);
        }
    }

    fn tell_missing(&mut self, each: &mut dyn FnMut(SourceEvent<'_>)) {
        let Selection::Named(names) = &self.selection else {
            return;
        };
        for name in names {
            let mut here = self.devices.iter();
            if !here.any(|device| means(name, &device.descriptor, &device.path)) {
                let name = name.clone();
                each(SourceEvent::Problem(&SourceError::Missing { name }));
            }
        }
    }

    fn take_up(&mut self, path: &Path) -> Result<Option<OpenDevice>, SourceError> {
        let device = open(path)?;
        let chosen = |device: &Evdev, id| -> io::Result<Option<DeviceDescriptor>> {
            if is_ours(device)? {
                return Ok(None);
            }
            let descriptor = describe(device, id)?;
            Ok(self
                .selection
                .takes(&descriptor, path)
                .then_some(descriptor))
        };
        let descriptor =
            chosen(&device, DeviceId(self.next_id)).map_err(problem(path, "read capabilities"))?;
        let Some(descriptor) = descriptor else {
            return Ok(None);
        };
        if self.devices.len() >= MAX_DEVICES {
            return Err(SourceError::TooMany {
                path: path.to_owned(),
                limit: MAX_DEVICES,
            });
        }
        self.next_id = self.next_id.wrapping_add(1);
        if let Some(guard) = &self.guard {
            guard
                .watch(device.as_fd())
                .map_err(problem(path, "share with the guard"))?;
        }
        OpenDevice::new(device, path.to_owned(), descriptor)
            .map(Some)
            .map_err(problem(path, "set the clock"))
    }

    fn grab_free(&mut self, each: &mut dyn FnMut(SourceEvent<'_>)) {
        for device in self.devices.iter_mut().filter(|device| !device.grabbed) {
            match device.try_grab() {
                Ok(true) => {
                    device.told = false;
                    each(SourceEvent::Grabbed(device.id()));
                    // Sticks and switches stand somewhere from the start; a vanished device is told by the next read.
                    let _ = device.tell_state(clock::now(), each);
                }
                Ok(false) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => device.gone = true,
                Err(error) => {
                    if !std::mem::replace(&mut device.told, true) {
                        let error = problem(&device.path, "grab")(error);
                        each(SourceEvent::Problem(&error));
                    }
                }
            }
        }
    }

    /// Waits in `poll(2)`; afterwards `polled` tells who is ready: the waker, inotify, then the devices in order.
    fn poll(&mut self, timeout: Option<Duration>) -> Result<(), SourceError> {
        let interest = |fd: RawFd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        self.polled.clear();
        self.polled.push(interest(self.waker.as_fd().as_raw_fd()));
        self.polled.push(interest(self.inotify.as_fd().as_raw_fd()));
        self.polled.extend(
            self.devices
                .iter()
                .map(|device| interest(device.device.as_raw_fd())),
        );
        let timeout = timeout.map(|timeout| libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let timeout = timeout
            .as_ref()
            .map_or(std::ptr::null(), std::ptr::from_ref);
        let count = libc::nfds_t::try_from(self.polled.len()).unwrap_or(0);
        // SAFETY: the pointer and count are those of a live vector of `pollfd`, the time is null or a live local, and
        // no signal mask is given; all descriptors are open during the call.
        let ready =
            unsafe { libc::ppoll(self.polled.as_mut_ptr(), count, timeout, std::ptr::null()) };
        if ready < 0 {
            let source = io::Error::last_os_error();
            if source.kind() != io::ErrorKind::Interrupted {
                return Err(SourceError::Watch {
                    what: "poll",
                    source,
                });
            }
            for polled in &mut self.polled {
                polled.revents = 0;
            }
        }
        Ok(())
    }

    fn is_ready(&self, index: usize) -> bool {
        self.polled
            .get(index)
            .is_some_and(|polled| polled.revents != 0)
    }

    fn read_devices(&mut self, each: &mut dyn FnMut(SourceEvent<'_>)) {
        for (index, device) in self.devices.iter_mut().enumerate() {
            let ready = self
                .polled
                .get(index + 2)
                .is_some_and(|polled| polled.revents != 0);
            if !ready {
                continue;
            }
            if let Err(error) = device.read(each) {
                device.gone = true;
                if error.raw_os_error() != Some(libc::ENODEV) {
                    each(SourceEvent::Problem(&problem(&device.path, "read")(error)));
                }
            }
        }
    }

    fn forget_gone(&mut self, each: &mut dyn FnMut(SourceEvent<'_>)) {
        self.devices.retain(|device| {
            if device.gone {
                each(SourceEvent::Removed(device.id()));
            }
            !device.gone
        });
    }
}

impl InputSource for EvdevSource {
    fn wait(
        &mut self,
        timeout: Option<Duration>,
        each: &mut dyn FnMut(SourceEvent<'_>),
    ) -> Result<(), SourceError> {
        if std::mem::replace(&mut self.scan, false) {
            self.scan(each);
        }
        if self.grab {
            self.grab_free(each);
        }
        if std::mem::replace(&mut self.tell_state, false) {
            for device in &mut self.devices {
                if device.tell_state(clock::now(), each).is_err() {
                    device.gone = true;
                }
            }
        }
        self.poll(timeout)?;
        if self.is_ready(0) {
            let _ = self.waker.clear();
        }
        if self.is_ready(1) {
            while self.inotify.read_events().is_ok() {}
            // A node whose permissions changed is worth another look.
            self.passed.clear();
            self.scan = true;
        }
        self.read_devices(each);
        if self.devices.iter().any(|device| device.gone) {
            self.forget_gone(each);
            // Its number may already be another device's. Not at once: the guard may have taken it from us, which the
            // caller asks before devices are taken again.
            self.scan = true;
            return Ok(());
        }
        if std::mem::replace(&mut self.scan, false) {
            self.scan(each);
        }
        if self.grab {
            self.grab_free(each);
        }
        Ok(())
    }

    fn set_grabbed(&mut self, grabbed: bool) {
        self.grab = grabbed;
        if !grabbed {
            // Those last whose drivers may be busy with an effect: no keyboard waits for them.
            self.devices
                .sort_by_key(|device| device.descriptor.force.is_some());
            self.devices.iter_mut().for_each(OpenDevice::release);
        }
        if let Some(guard) = &self.guard {
            // A guard that is gone is told by its next beat.
            let _ = guard.set_taken(grabbed);
        }
    }

    fn set_leds(&mut self, device: DeviceId, leds: LedState) {
        if let Some(device) = self.devices.iter().find(|known| known.id() == device) {
            device.set_leds(leds);
        }
    }

    fn repeat_state(&mut self) {
        self.tell_state = true;
    }

    fn waker(&self) -> soft_kvm_input::Waker {
        let waker = self.waker.clone();
        soft_kvm_input::Waker::new(move || waker.wake())
    }
}
