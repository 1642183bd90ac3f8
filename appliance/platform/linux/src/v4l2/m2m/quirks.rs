//! What drivers do differently from the kernel's documentation. `docs/HARDWARE.md` has the table with sources.

/// How an encoder's driver is to be treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quirks {
    /// The driver may be told to repeat SPS and PPS before each IDR; otherwise they are kept and repeated here.
    pub(super) repeat_headers: bool,
    /// Only one encoder of it in the machine at a time.
    pub(super) alone: bool,
    /// Widths have to be multiples of this.
    pub(super) width: u32,
    /// Chroma of `NV12` begins behind a multiple of this many lines, whatever height the driver tells.
    pub(super) lines: u32,
    /// Frames in a second to tell at most, up to this many pixels, and for larger pictures.
    pub(super) rate: Option<(usize, u32, u32)>,
}

const NONE: Quirks = Quirks {
    repeat_headers: true,
    alone: false,
    width: 2,
    lines: 1,
    rate: None,
};

/// By the driver's name, as `VIDIOC_QUERYCAP` tells it.
const TABLE: [(&str, Quirks); 2] = [
    (
        // raspberrypi/linux#4520, #4764; raspberrypi/firmware#1608; ustreamer src/ustreamer/m2m.c.
        "bcm2835-codec",
        Quirks {
            repeat_headers: false,
            alone: true,
            width: 32,
            lines: 1,
            rate: Some((1280 * 720, 60, 30)),
        },
    ),
    (
        // Kernel drivers/media/platform/qcom/venus/helpers.c, get_framesize_raw_nv12.
        "qcom-venus",
        Quirks { lines: 32, ..NONE },
    ),
];

impl Quirks {
    pub(super) fn of(driver: &str) -> Self {
        TABLE
            .iter()
            .find_map(|(name, quirks)| driver.starts_with(name).then_some(*quirks))
            .unwrap_or(NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_drivers_are_told_from_others() {
        assert!(!Quirks::of("bcm2835-codec").repeat_headers);
        assert_eq!(Quirks::of("qcom-venus").lines, 32);
        assert_eq!(Quirks::of("vicodec"), NONE);
        assert_eq!(Quirks::of(""), NONE);
    }
}
