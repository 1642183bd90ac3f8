//! A DRM card: opening it, its connectors, and its errors in words.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use drm::Device as DrmDevice;
use drm::control::{Device as ControlDevice, connector, crtc};
use nix::errno::Errno;
use soft_kvm_video::source::SourceError;

use crate::broker::{self, Kind};
use crate::capability;

#[derive(Debug)]
pub(crate) struct Card {
    file: File,
    node: PathBuf,
}

impl AsFd for Card {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
impl From<Card> for OwnedFd {
    fn from(card: Card) -> Self {
        card.file.into()
    }
}
impl DrmDevice for Card {}
impl ControlDevice for Card {}

impl Card {
    /// Opens it, by the broker where one is used.
    pub(crate) fn open(path: &Path) -> Result<Self, SourceError> {
        let device = path.display().to_string();
        let opened = if broker::is_used() {
            broker::open(Kind::Screen, path).map(|fd| Self::new(fd, path))
        } else {
            Self::open_here(path)
        };
        opened.map_err(|error| {
            if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM)) {
                let hint = "add the user to group video or install the udev rule".to_owned();
                return SourceError::Permission { device, hint };
            }
            failed(&device, "open", error)
        })
    }

    fn new(fd: OwnedFd, node: &Path) -> Self {
        Self {
            file: fd.into(),
            node: node.to_owned(),
        }
    }

    /// Where it was opened.
    pub(super) fn node(&self) -> &Path {
        &self.node
    }

    /// Opens it in this process.
    pub(crate) fn open_here(path: &Path) -> io::Result<Self> {
        let card = Self::new(broker::open_here(path)?, path);
        // The first opener of a card becomes its master and would keep a compositor from starting. Before Linux
        // 5.8 this takes the capability too.
        let _raised = capability::Raised::new();
        let _ = card.release_master_lock();
        Ok(card)
    }

    pub(super) fn connectors(&self) -> io::Result<Vec<connector::Info>> {
        let resources = self.resource_handles()?;
        let connectors = resources.connectors().iter();
        connectors
            .map(|handle| self.get_connector(*handle, false))
            .collect()
    }

    /// The CRTC that feeds a connector, if it has a mode.
    pub(super) fn crtc_of(&self, info: &connector::Info) -> io::Result<Option<crtc::Handle>> {
        let Some(encoder) = info.current_encoder() else {
            return Ok(None);
        };
        let Some(crtc) = self.get_encoder(encoder)?.crtc() else {
            return Ok(None);
        };
        Ok(self.get_crtc(crtc)?.mode().map(|_| crtc))
    }
}

/// Names of the connectors of a card that show something, e.g. `HDMI-A-1`, and the card's driver.
///
/// # Errors
/// [`SourceError`]: no such card, or no right to it.
pub fn active_connectors(device: &Path) -> Result<(String, Vec<String>), SourceError> {
    let name = device.display().to_string();
    let card = Card::open(device)?;
    let driver = card
        .get_driver()
        .map(|driver| driver.name().to_string_lossy().into_owned())
        .unwrap_or_default();
    let list = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for info in card.connectors()? {
            if card.crtc_of(&info)?.is_some() {
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

pub(super) fn failed(device: &str, action: &'static str, source: io::Error) -> SourceError {
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
