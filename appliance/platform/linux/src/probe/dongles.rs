//! USB ids of HDMI capture devices, which look like webcams to the kernel.

/// Vendor and product of devices that are HDMI inputs.
///
/// Sources: 534d:2109 Linux `sound/usb/quirks-table.h` (MacroSilicon MS2109; the vendor also in usb.ids 2025.07.26);
/// 345f:2109 (MS2109S), 345f:2130 (MS2130) and 345f:2132 the device lists of the Openterface projects; 0fd9:0066
/// Linux `drivers/media/usb/uvc/uvc_driver.c` ("Elgato Cam Link 4K", quirk `UVC_QUIRK_FIX_FORMAT_INDEX`); 3188:1000 the
/// HDMI input of the GPD Pocket 3's KVM module.
const KNOWN: [(u16, u16); 7] = [
    (0x534d, 0x2109),
    (0x534d, 0x2130),
    (0x345f, 0x2109),
    (0x345f, 0x2130),
    (0x345f, 0x2132),
    (0x0fd9, 0x0066),
    (0x3188, 0x1000),
];

/// Magewell: makes nothing but capture devices (2935:0001 on linux-media, 2014-12-10; usb.ids 2025.07.26 lacks the vendor).
const CAPTURE_ONLY_VENDORS: [u16; 1] = [0x2935];

/// Elgato and AVerMedia make webcams too: the device's name decides.
const MIXED_VENDORS: [u16; 2] = [0x0fd9, 0x07ca];

/// Words in the names of their capture devices, in lower case.
const NAMES: [&str; 5] = ["cam link", "game capture", "hd60", "live gamer", "hdmi"];

/// Whether a USB video device is known as an HDMI input. `card` is its name in V4L2.
#[must_use]
pub fn is_hdmi_dongle((vendor, product): (u16, u16), card: &str) -> bool {
    let card = card.to_lowercase();
    KNOWN.contains(&(vendor, product))
        || CAPTURE_ONLY_VENDORS.contains(&vendor)
        || (MIXED_VENDORS.contains(&vendor) && NAMES.iter().any(|name| card.contains(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_capture_devices_from_webcams() {
        assert!(is_hdmi_dongle((0x345f, 0x2130), "USB3 Video"));
        assert!(is_hdmi_dongle((0x0fd9, 0x006a), "Game Capture HD60 S+"));
        assert!(!is_hdmi_dongle((0x0fd9, 0x0078), "Elgato Facecam"));
        assert!(!is_hdmi_dongle((0x046d, 0x085c), "HDMI"));
    }
}
