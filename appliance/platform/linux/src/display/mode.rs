//! Which of a monitor's modes fits a stream.

use soft_kvm_core::{FrameRate, Size};

/// What matters of a mode (`drm_mode_modeinfo`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timing {
    pub(super) size: Size,
    /// Pictures in a second.
    pub(super) refresh: u32,
    /// The monitor says that it looks best.
    pub(super) preferred: bool,
}

/// The index of the best mode: the stream's own size; else the smallest that holds it; else the preferred one. Among
/// equals the slowest whose refresh is a multiple of the stream's rate, so that each picture stays equally long; else the
/// fastest.
pub(super) fn choose(modes: &[Timing], stream: Size, rate: FrameRate) -> Option<usize> {
    let holds = |size: Size| size.width >= stream.width && size.height >= stream.height;
    let size = if modes.iter().any(|mode| mode.size == stream) {
        stream
    } else {
        let smallest = modes
            .iter()
            .filter(|mode| stream.pixels() > 0 && holds(mode.size))
            .min_by_key(|mode| mode.size.pixels());
        let preferred = modes.iter().find(|mode| mode.preferred);
        smallest.or(preferred).or(modes.first())?.size
    };
    let pace = |refresh: u32| {
        let even = rate.as_hz() > 0 && refresh > 0 && refresh.is_multiple_of(rate.as_hz());
        (even, if even { u32::MAX - refresh } else { refresh })
    };
    modes
        .iter()
        .enumerate()
        .filter(|(_, mode)| mode.size == size)
        .max_by_key(|(_, mode)| pace(mode.refresh))
        .map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(width: u32, height: u32, refresh: u32) -> Timing {
        Timing {
            size: Size::new(width, height),
            refresh,
            preferred: (width, height, refresh) == (2560, 1440, 60),
        }
    }

    #[test]
    fn the_streams_own_size_goes_first() {
        let modes = [
            mode(2560, 1440, 60),
            mode(1920, 1080, 60),
            mode(1920, 1080, 50),
            mode(1920, 1080, 75),
            mode(1280, 720, 60),
        ];
        let at = |width, height, hz| {
            choose(&modes, Size::new(width, height), FrameRate::hz(hz)).map(|index| modes[index])
        };
        assert_eq!(at(1920, 1080, 30), Some(mode(1920, 1080, 60)));
        assert_eq!(at(1920, 1080, 25), Some(mode(1920, 1080, 50)));
        assert_eq!(at(1920, 1080, 144), Some(mode(1920, 1080, 75)));
        assert_eq!(
            at(1024, 768, 60),
            Some(mode(1920, 1080, 60)),
            "smallest that holds it"
        );
        assert_eq!(at(3840, 2160, 30), Some(modes[0]), "none holds it");
        assert_eq!(at(0, 0, 30), Some(modes[0]), "no stream yet");
        assert_eq!(choose(&[], Size::new(640, 480), FrameRate::hz(30)), None);
    }
}
