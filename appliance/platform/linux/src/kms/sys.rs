//! DRM ioctls that the `drm` crate does not have, or has only with allocation or for the formats it knows.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use soft_kvm_core::MonoTime;

/// Properties that an object has at most; drivers have up to about 40 for a plane.
pub(super) const MAX_PROPERTIES: usize = 96;

/// `struct drm_mode_fb_cmd2`: a framebuffer with up to four planes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fb2 {
    pub(crate) id: u32,
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// `DRM_FORMAT_*`.
    pub(crate) fourcc: u32,
    pub(crate) flags: u32,
    /// GEM handles, new ones with every call; all zero without `CAP_SYS_ADMIN`.
    pub(crate) handles: [u32; 4],
    pub(crate) pitches: [u32; 4],
    pub(crate) offsets: [u32; 4],
    pub(crate) modifiers: [u64; 4],
}

/// `struct drm_mode_fb_cmd`: what kernels before 5.7 tell.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fb1 {
    pub(super) id: u32,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) pitch: u32,
    pub(super) bpp: u32,
    pub(super) depth: u32,
    pub(super) handle: u32,
}

/// `struct drm_mode_get_plane`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct GetPlane {
    pub(super) plane: u32,
    pub(super) crtc: u32,
    pub(super) fb: u32,
    pub(super) possible_crtcs: u32,
    gamma_size: u32,
    count_formats: u32,
    formats: u64,
}

/// `struct drm_mode_obj_get_properties`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct GetProperties {
    ids: u64,
    values: u64,
    count: u32,
    object: u32,
    object_type: u32,
}

/// `struct drm_crtc_queue_sequence`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct QueueSequence {
    crtc: u32,
    flags: u32,
    sequence: u64,
    user_data: u64,
}

const QUEUE_SEQUENCE: u8 = 0x3c;
const GET_FB: u8 = 0xad;
const GET_PLANE: u8 = 0xb6;
const GET_PROPERTIES: u8 = 0xb9;
const GET_FB2: u8 = 0xce;

/// `DRM_CRTC_SEQUENCE_RELATIVE`, `DRM_CRTC_SEQUENCE_NEXT_ON_MISS`.
const RELATIVE: u32 = 1;
const NEXT_ON_MISS: u32 = 2;
/// `DRM_EVENT_VBLANK`, `DRM_EVENT_CRTC_SEQUENCE`.
const EVENT_VBLANK: u32 = 1;
const EVENT_SEQUENCE: u32 = 3;

/// `DRM_IOWR(number, T)` of `<drm/drm.h>`.
const fn request<T>(number: u8) -> u64 {
    (3 << 30) | ((size_of::<T>() as u64) << 16) | ((b'd' as u64) << 8) | number as u64
}

fn call<T>(card: BorrowedFd<'_>, number: u8, argument: &mut T) -> Result<(), Errno> {
    loop {
        // SAFETY: the descriptor is open, and `argument` is of the size that the request's code has, which
        // is all that the kernel reads and writes; pointers in it are the callers' and alive.
        let done = unsafe {
            libc::ioctl(
                card.as_raw_fd(),
                request::<T>(number) as _,
                std::ptr::from_mut(argument),
            )
        };
        match Errno::result(done) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(error) => return Err(error),
        }
    }
}

/// `DRM_IOCTL_MODE_GETFB2`.
pub(super) fn get_fb2(card: BorrowedFd<'_>, id: u32) -> Result<Fb2, Errno> {
    let mut fb = Fb2 {
        id,
        ..Fb2::default()
    };
    call(card, GET_FB2, &mut fb)?;
    Ok(fb)
}

/// `DRM_IOCTL_MODE_GETFB`.
pub(super) fn get_fb(card: BorrowedFd<'_>, id: u32) -> Result<Fb1, Errno> {
    let mut fb = Fb1 {
        id,
        ..Fb1::default()
    };
    call(card, GET_FB, &mut fb)?;
    Ok(fb)
}

/// `DRM_IOCTL_MODE_GETPLANE`, without the formats.
pub(super) fn get_plane(card: BorrowedFd<'_>, plane: u32) -> Result<GetPlane, Errno> {
    let mut info = GetPlane {
        plane,
        ..GetPlane::default()
    };
    call(card, GET_PLANE, &mut info)?;
    Ok(info)
}

/// `DRM_CLIENT_CAP_*`-dependent properties of an object.
#[derive(Debug)]
pub(super) struct Properties {
    ids: [u32; MAX_PROPERTIES],
    values: [u64; MAX_PROPERTIES],
    count: usize,
}

impl Properties {
    pub(super) const fn new() -> Self {
        Self {
            ids: [0; MAX_PROPERTIES],
            values: [0; MAX_PROPERTIES],
            count: 0,
        }
    }

    /// `DRM_IOCTL_MODE_OBJ_GETPROPERTIES`; `object_type` is `DRM_MODE_OBJECT_*`.
    pub(super) fn read(
        &mut self,
        card: BorrowedFd<'_>,
        object: u32,
        object_type: u32,
    ) -> Result<(), Errno> {
        let room = u32::try_from(MAX_PROPERTIES).unwrap_or(0);
        let mut argument = GetProperties {
            ids: self.ids.as_mut_ptr() as u64,
            values: self.values.as_mut_ptr() as u64,
            count: room,
            object,
            object_type,
        };
        call(card, GET_PROPERTIES, &mut argument)?;
        // The kernel tells how many there are, and writes them only if all have room.
        self.count = if argument.count <= room {
            argument.count as usize
        } else {
            0
        };
        Ok(())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, u64)> {
        let pairs = self.ids.iter().zip(&self.values).take(self.count);
        pairs.map(|(&id, &value)| (id, value))
    }
}

/// `DRM_IOCTL_CRTC_QUEUE_SEQUENCE`: an event at the next vblank.
pub(super) fn queue_next_vblank(card: BorrowedFd<'_>, crtc: u32) -> Result<(), Errno> {
    let mut argument = QueueSequence {
        crtc,
        flags: RELATIVE | NEXT_ON_MISS,
        sequence: 1,
        user_data: 0,
    };
    call(card, QUEUE_SEQUENCE, &mut argument)
}

/// When the last vblank in what a card's descriptor gave was; its event has one of two forms, `struct
/// drm_event_crtc_sequence` and `struct drm_event_vblank`.
pub(super) fn last_vblank(mut events: &[u8]) -> Option<MonoTime> {
    let word = |bytes: &[u8], at: usize| -> Option<u32> {
        let bytes = bytes.get(at..at + 4)?;
        bytes.try_into().ok().map(u32::from_ne_bytes)
    };
    let mut last = None;
    while let (Some(kind), Some(length)) = (word(events, 0), word(events, 4)) {
        let length = length as usize;
        let Some(event) = events.get(..length).filter(|_| length >= 8) else {
            break;
        };
        match kind {
            EVENT_SEQUENCE => {
                let nanos = event.get(16..24).and_then(|bytes| bytes.try_into().ok());
                let nanos = nanos.and_then(|bytes| u64::try_from(i64::from_ne_bytes(bytes)).ok());
                last = nanos.map(MonoTime::from_nanos).or(last);
            }
            EVENT_VBLANK => {
                if let (Some(seconds), Some(micros)) = (word(event, 16), word(event, 20)) {
                    let nanos = u64::from(seconds) * 1_000_000_000 + u64::from(micros) * 1_000;
                    last = Some(MonoTime::from_nanos(nanos));
                }
            }
            _ => {}
        }
        events = events.get(length..).unwrap_or_default();
    }
    last
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn request_codes_of_the_kernel() {
        // As a C program prints them with <drm/drm.h>.
        assert_eq!(request::<Fb2>(GET_FB2), 0xc068_64ce);
        assert_eq!(request::<Fb1>(GET_FB), 0xc01c_64ad);
        assert_eq!(request::<GetPlane>(GET_PLANE), 0xc020_64b6);
        assert_eq!(request::<GetProperties>(GET_PROPERTIES), 0xc020_64b9);
        assert_eq!(request::<QueueSequence>(QUEUE_SEQUENCE), 0xc018_643c);
    }

    #[test]
    fn both_forms_of_vblank_events() {
        let mut events = Vec::new();
        for word in [1_u32, 32, 0, 0, 5, 6, 77, 41] {
            events.extend(word.to_ne_bytes());
        }
        assert_eq!(
            last_vblank(&events),
            Some(MonoTime::from_nanos(5_000_006_000))
        );
        for word in [3_u32, 32, 0, 0] {
            events.extend(word.to_ne_bytes());
        }
        events.extend(7_000_000_001_i64.to_ne_bytes());
        events.extend(78_u64.to_ne_bytes());
        assert_eq!(
            last_vblank(&events),
            Some(MonoTime::from_nanos(7_000_000_001))
        );
        assert_eq!(
            last_vblank(&events[..40]),
            Some(MonoTime::from_nanos(5_000_006_000))
        );
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = last_vblank(&bytes);
        }
    }
}
