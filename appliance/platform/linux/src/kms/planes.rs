//! What each plane of a card shows, and where ("Plane Abstraction" and "Standard Plane Properties" of the kernel).

use std::io;
use std::os::fd::AsFd;

use drm::control::{Device as ControlDevice, plane, property};
use soft_kvm_core::Size;
use soft_kvm_video::compose::{Blend, Source, Target};
use soft_kvm_video::frame::{Colorimetry, Matrix, Range};

use super::card::Card;
use super::sys::{self, Properties};

/// `DRM_MODE_OBJECT_PLANE`.
const OBJECT_PLANE: u32 = 0xeeee_eeee;
/// `DRM_MODE_OBJECT_CRTC`.
const OBJECT_CRTC: u32 = 0xcccc_cccc;
/// `DRM_MODE_ROTATE_0`.
const UPRIGHT: u64 = 1;

/// `DRM_PLANE_TYPE_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Primary,
    Overlay,
    Cursor,
}

/// A property that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Property {
    Fb,
    Crtc,
    CrtcX,
    CrtcY,
    CrtcWidth,
    CrtcHeight,
    SourceX,
    SourceY,
    SourceWidth,
    SourceHeight,
    Alpha,
    Zpos,
    Blend,
    Rotation,
    HotX,
    HotY,
    Encoding,
    Range,
}

const NAMES: [(&[u8], Property); 18] = [
    (b"FB_ID", Property::Fb),
    (b"CRTC_ID", Property::Crtc),
    (b"CRTC_X", Property::CrtcX),
    (b"CRTC_Y", Property::CrtcY),
    (b"CRTC_W", Property::CrtcWidth),
    (b"CRTC_H", Property::CrtcHeight),
    (b"SRC_X", Property::SourceX),
    (b"SRC_Y", Property::SourceY),
    (b"SRC_W", Property::SourceWidth),
    (b"SRC_H", Property::SourceHeight),
    (b"alpha", Property::Alpha),
    (b"zpos", Property::Zpos),
    (b"pixel blend mode", Property::Blend),
    (b"rotation", Property::Rotation),
    (b"HOTSPOT_X", Property::HotX),
    (b"HOTSPOT_Y", Property::HotY),
    (b"COLOR_ENCODING", Property::Encoding),
    (b"COLOR_RANGE", Property::Range),
];

/// A plane of a card, and the numbers of its properties.
#[derive(Debug)]
pub(super) struct PlaneIds {
    id: u32,
    kind: Kind,
    properties: Vec<(u32, Property)>,
    /// Values of `pixel blend mode`.
    blends: Vec<(u64, Blend)>,
}

/// What a plane shows at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PlaneState {
    pub(super) plane: u32,
    pub(super) kind: Kind,
    /// The framebuffer, never 0.
    pub(super) fb: u32,
    /// `None` where the driver does not tell: the whole framebuffer on the whole screen.
    pub(super) place: Option<(Source, Target)>,
    pub(super) alpha: u16,
    /// `None`: as the framebuffer's format says.
    pub(super) blend: Option<Blend>,
    pub(super) zpos: Option<u64>,
    pub(super) rotated: bool,
    pub(super) hot: (i32, i32),
    pub(super) color: Colorimetry,
}

impl PlaneState {
    /// Whether the screen shows this plane and nothing else, if it is the only one that is on.
    pub(super) fn covers(&self, screen: Size) -> bool {
        let everywhere = self.place.is_none_or(|(_, target)| target == whole(screen));
        everywhere && !self.rotated && self.alpha == u16::MAX
    }

    /// Lowest first.
    pub(super) fn order(&self) -> impl Ord + use<> {
        // Without zpos the kinds lie over each other, and planes of a kind by their numbers.
        (self.zpos, self.kind, self.plane)
    }
}

impl PlaneIds {
    /// All planes of a card.
    pub(super) fn all(card: &Card) -> io::Result<Vec<Self>> {
        let planes = card.plane_handles()?;
        planes
            .into_iter()
            .map(|plane| Self::of(card, plane))
            .collect()
    }

    fn of(card: &Card, plane: plane::Handle) -> io::Result<Self> {
        let mut ids = Self {
            id: plane.into(),
            kind: Kind::Overlay,
            properties: Vec::new(),
            blends: Vec::new(),
        };
        for (handle, value) in &card.get_properties(plane)? {
            let info = card.get_property(*handle)?;
            let name = info.name().to_bytes();
            if name == b"type" {
                ids.kind = match value {
                    1 => Kind::Primary,
                    2 => Kind::Cursor,
                    _ => Kind::Overlay,
                };
            }
            let Some((_, property)) = NAMES.iter().find(|(known, _)| *known == name) else {
                continue;
            };
            ids.properties.push(((*handle).into(), *property));
            if let (Property::Blend, property::ValueType::Enum(values)) =
                (property, info.value_type())
            {
                let (_, values) = values.values();
                ids.blends.extend(values.iter().filter_map(|value| {
                    let blend = match value.name().to_bytes() {
                        b"None" => Blend::Opaque,
                        b"Pre-multiplied" => Blend::Premultiplied,
                        b"Coverage" => Blend::Coverage,
                        _ => return None,
                    };
                    Some((value.value(), blend))
                }));
            }
        }
        Ok(ids)
    }

    /// What it shows on a CRTC; `None` if nothing.
    pub(super) fn read(
        &self,
        card: &Card,
        crtc: u32,
        scratch: &mut Properties,
    ) -> io::Result<Option<PlaneState>> {
        let has = |wanted| self.properties.iter().any(|(_, known)| *known == wanted);
        if !has(Property::Fb) || !has(Property::Crtc) {
            // Not an atomic driver.
            let plane = sys::get_plane(card.as_fd(), self.id)?;
            return Ok((plane.crtc == crtc && plane.fb != 0).then(|| self.state(plane.fb)));
        }
        scratch.read(card.as_fd(), self.id, OBJECT_PLANE)?;
        let mut state = self.state(0);
        let (mut source, mut target) = (Source::default(), Target::default());
        let mut on = 0;
        for (id, value) in scratch.iter() {
            let Some((_, property)) = self.properties.iter().find(|(known, _)| *known == id) else {
                continue;
            };
            let small = low(value);
            match property {
                Property::Fb => state.fb = small,
                Property::Crtc => on = small,
                Property::CrtcX => target.x = small.cast_signed(),
                Property::CrtcY => target.y = small.cast_signed(),
                Property::CrtcWidth => target.size.width = small,
                Property::CrtcHeight => target.size.height = small,
                Property::SourceX => source.x = small,
                Property::SourceY => source.y = small,
                Property::SourceWidth => source.width = small,
                Property::SourceHeight => source.height = small,
                Property::Alpha => state.alpha = u16::try_from(value).unwrap_or(u16::MAX),
                Property::Zpos => state.zpos = Some(value),
                Property::Blend => {
                    let blend = self.blends.iter().find(|(known, _)| *known == value);
                    state.blend = blend.map(|(_, blend)| *blend);
                }
                Property::Rotation => state.rotated = value != UPRIGHT,
                Property::HotX => state.hot.0 = small.cast_signed(),
                Property::HotY => state.hot.1 = small.cast_signed(),
                // Both enumerations are the kernel's own (`drm_color_mgmt.h`), the same in every driver.
                Property::Encoding => {
                    state.color.matrix = match value {
                        0 => Matrix::Bt601,
                        2 => Matrix::Bt2020,
                        _ => Matrix::Bt709,
                    };
                }
                Property::Range => {
                    state.color.range = match value {
                        1 => Range::Full,
                        _ => Range::Limited,
                    };
                }
            }
        }
        state.place = Some((source, target));
        Ok((on == crtc && state.fb != 0).then_some(state))
    }

    fn state(&self, fb: u32) -> PlaneState {
        PlaneState {
            plane: self.id,
            kind: self.kind,
            fb,
            place: None,
            alpha: u16::MAX,
            blend: None,
            zpos: None,
            rotated: false,
            hot: (0, 0),
            color: Colorimetry::default(),
        }
    }
}

/// The id of the CRTC's `ACTIVE` property, of atomic drivers: false while DPMS has the screen off.
pub(super) fn active_property(
    card: &Card,
    crtc: drm::control::crtc::Handle,
) -> io::Result<Option<u32>> {
    for (handle, _) in &card.get_properties(crtc)? {
        if card.get_property(*handle)?.name().to_bytes() == b"ACTIVE" {
            return Ok(Some((*handle).into()));
        }
    }
    Ok(None)
}

/// Whether a CRTC is active, as its property says.
pub(super) fn is_active(
    card: &Card,
    crtc: u32,
    property: u32,
    scratch: &mut Properties,
) -> io::Result<bool> {
    scratch.read(card.as_fd(), crtc, OBJECT_CRTC)?;
    let value = scratch.iter().find(|(id, _)| *id == property);
    Ok(value.is_none_or(|(_, value)| value != 0))
}

/// The low half: properties of 32 bits come as 64.
fn low(value: u64) -> u32 {
    u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0)
}

/// The target that covers a screen.
pub(super) const fn whole(screen: Size) -> Target {
    Target {
        x: 0,
        y: 0,
        size: screen,
    }
}
