//! Which devices the story names.

use std::path::{Component, Path, PathBuf};

use super::Kind;
use crate::dmabuf::Pool;
use crate::gadget::CONTROLLERS;

/// Which devices of a kind are handed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Grant {
    /// None.
    #[default]
    Nothing,
    /// This one.
    Only(PathBuf),
    /// Every one that the machine has.
    Any,
}

impl Grant {
    fn lets(&self, node: &Path) -> bool {
        match self {
            Self::Nothing => false,
            Self::Any => true,
            Self::Only(named) => {
                // A story may name a link of udev, and the client the node behind it.
                node == named || named.canonicalize().is_ok_and(|named| named == node)
            }
        }
    }
}

/// What the story lets the broker hand over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// V4L2 devices to capture from.
    pub capture: Grant,
    /// V4L2 devices to encode and convert with.
    pub codec: Grant,
    /// DRM cards whose screens are captured.
    pub screen: Grant,
    /// Virtual input devices.
    pub uinput: bool,
    /// USB device controllers, as folders in `/sys/class/udc`.
    pub gadget: Grant,
    /// The button that opens pairing: its device's node or name, and its key.
    pub button: Option<(String, String)>,
    /// Connector of the screen that shows the pairing code.
    pub monitor: Option<String>,
}

impl Grants {
    /// Whether the path may be opened for `kind` at all; what is behind it is looked at when it is open.
    pub(super) fn lets(&self, kind: Kind, node: &Path) -> bool {
        let is = |named: &str| node.as_os_str() == named;
        match kind {
            // These are words of the story's; the broker looks for the node itself.
            Kind::Button => return self.button.as_ref().is_some_and(|(device, _)| is(device)),
            Kind::Monitor => return self.monitor.as_deref().is_some_and(is),
            _ => {}
        }
        let plain = node
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        let place = match kind {
            Kind::Gadget => node.parent() == Some(Path::new(CONTROLLERS)),
            _ => node.starts_with("/dev"),
        };
        if !plain || !place {
            return false;
        }
        match kind {
            Kind::Gadget => self.gadget.lets(node),
            Kind::Video => self.capture.lets(node) || self.codec.lets(node),
            Kind::Screen | Kind::Framebuffer => self.screen.lets(node),
            Kind::Media => self.capture != Grant::Nothing && is_media(node),
            // Codecs import it.
            Kind::Memory => {
                let pool = Pool::ALL.iter().any(|pool| pool.node() == node);
                pool && self.codec != Grant::Nothing
            }
            Kind::Uinput => self.uinput && node == Path::new("/dev/uinput"),
            Kind::Button | Kind::Monitor => false,
        }
    }

    /// Whether a V4L2 device that is open may be handed over, now that it is known what it does.
    pub(super) fn lets_video(&self, node: &Path, memory_to_memory: bool) -> bool {
        if memory_to_memory {
            self.codec.lets(node)
        } else {
            self.capture.lets(node)
        }
    }
}

/// Whether it is called like a media device or a sub-device, which give no pictures themselves.
fn is_media(node: &Path) -> bool {
    let name = node.strip_prefix("/dev").ok().and_then(Path::to_str);
    let number = name.and_then(|name| {
        name.strip_prefix("media")
            .or_else(|| name.strip_prefix("v4l-subdev"))
    });
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_story_names() {
        let video = |number: u8| PathBuf::from(format!("/dev/video{number}"));
        let grants = Grants {
            capture: Grant::Only(video(0)),
            ..Grants::default()
        };
        assert!(grants.lets(Kind::Video, &video(0)));
        for node in ["/dev/media0", "/dev/v4l-subdev12"] {
            assert!(grants.lets(Kind::Media, Path::new(node)));
            assert!(!Grants::default().lets(Kind::Media, Path::new(node)));
            assert!(!grants.lets(Kind::Video, Path::new(node)));
        }
        for (kind, node) in [
            (Kind::Video, "/dev/video1"),
            (Kind::Video, "/dev/../dev/video0"),
            (Kind::Video, "dev/video0"),
            (Kind::Screen, "/dev/dri/card0"),
            (Kind::Framebuffer, "/dev/dri/card0"),
            (Kind::Uinput, "/dev/uinput"),
            (Kind::Gadget, "/sys/class/udc/dummy_udc.0"),
            (Kind::Media, "/dev/media"),
            (Kind::Media, "/dev/mediax"),
            (Kind::Media, "/dev/video0"),
            (Kind::Media, "/dev/v4l-subdev0/../mem"),
        ] {
            assert!(!grants.lets(kind, Path::new(node)), "{kind:?} {node}");
        }
        assert!(
            !grants.lets_video(&video(0), true),
            "it is no encoder of the story's"
        );
        let all = Grants {
            capture: Grant::Any,
            codec: Grant::Any,
            screen: Grant::Any,
            uinput: true,
            gadget: Grant::Any,
            ..Grants::default()
        };
        for node in ["/dev/dma_heap/system", "/dev/udmabuf"] {
            assert!(all.lets(Kind::Memory, Path::new(node)));
            assert!(
                !grants.lets(Kind::Memory, Path::new(node)),
                "nothing encodes"
            );
        }
        assert!(all.lets(Kind::Gadget, Path::new("/sys/class/udc/dummy_udc.0")));
        for (kind, node) in [
            (Kind::Video, "/etc/shadow"),
            (Kind::Uinput, "/dev/video0"),
            (Kind::Screen, "/dev/dri/../mem"),
            (Kind::Gadget, "/dev/uinput"),
            (Kind::Gadget, "/sys/class/udc/../net"),
            (Kind::Gadget, "/sys/class/udc"),
            (Kind::Gadget, "/sys/class/udc/a/b"),
            (Kind::Button, "/dev/input/event0"),
            (Kind::Monitor, "HDMI-A-1"),
            (Kind::Memory, "/dev/video0"),
            (Kind::Memory, "/dev/dma_heap/other"),
            (Kind::Uinput, "/dev/udmabuf"),
        ] {
            assert!(!all.lets(kind, Path::new(node)), "{kind:?} {node}");
        }
    }

    #[test]
    fn button_and_screen_are_asked_for_in_the_storys_words() {
        let grants = Grants {
            button: Some(("gpio-keys".to_owned(), "KEY_WPS_BUTTON".to_owned())),
            monitor: Some("HDMI-A-1".to_owned()),
            ..Grants::default()
        };
        assert!(grants.lets(Kind::Button, Path::new("gpio-keys")));
        assert!(grants.lets(Kind::Monitor, Path::new("HDMI-A-1")));
        for (kind, words) in [
            (Kind::Button, "gpio-keys/"),
            (Kind::Button, "HDMI-A-1"),
            (Kind::Button, "/dev/input/event0"),
            (Kind::Button, ""),
            (Kind::Monitor, "HDMI-A-2"),
            (Kind::Monitor, "/dev/dri/card0"),
            (Kind::Screen, "HDMI-A-1"),
            (Kind::Video, "gpio-keys"),
        ] {
            assert!(!grants.lets(kind, Path::new(words)), "{kind:?} {words}");
        }
    }
}
