//! Linux keys as HID usages (USB HID Usage Tables 1.5, keyboard page 0x07 and consumer page 0x0c).

use soft_kvm_protocol::input::KeyCode;

/// Where a key lies in HID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// Bit of a boot keyboard's first byte.
    Modifier(u8),
    /// A usage of the keyboard page.
    Keyboard(u8),
    /// A usage of the consumer page.
    Consumer(u16),
}

/// The usage of a key; none for buttons and for keys that HID does not have.
#[must_use]
pub fn usage(key: KeyCode) -> Option<Usage> {
    let find = |table: &[(u16, u16)]| {
        let found = table.iter().find(|(code, _)| *code == key.0);
        found.map(|(_, usage)| *usage)
    };
    if let Some(bit) = MODIFIERS.iter().position(|code| *code == key.0) {
        return u8::try_from(bit).ok().map(Usage::Modifier);
    }
    if let Some(usage) = find(CONSUMER) {
        return Some(Usage::Consumer(usage));
    }
    let place = KEYBOARD
        .iter()
        .position(|code| *code == key.0 && key.0 != 0);
    let place = place.and_then(|place| u8::try_from(place + 4).ok());
    place
        .or_else(|| find(FURTHER).and_then(|usage| u8::try_from(usage).ok()))
        .map(Usage::Keyboard)
}

/// Keycodes of the modifier bits, from bit 0: left Control, Shift, Alt, Meta, then the right ones.
const MODIFIERS: [u16; 8] = [29, 42, 56, 125, 97, 54, 100, 126];

/// Keycodes of the keyboard page from usage 0x04 on; 0 where another usage of the same key is taken.
#[rustfmt::skip]
const KEYBOARD: [u16; 98] = [
    // 0x04: a to z
    30, 48, 46, 32, 18, 33, 34, 35, 23, 36, 37, 38, 50, 49, 24, 25, 16, 19, 31, 20, 22, 47, 17, 45, 21, 44,
    // 0x1e: 1 to 0
    2, 3, 4, 5, 6, 7, 8, 9, 10, 11,
    // 0x28: Enter, Escape, Backspace, Tab, Space, - = [ ] \ (non-US #) ; ' ` , . / Caps Lock
    28, 1, 14, 15, 57, 12, 13, 26, 27, 43, 0, 39, 40, 41, 51, 52, 53, 58,
    // 0x3a: F1 to F12
    59, 60, 61, 62, 63, 64, 65, 66, 67, 68, 87, 88,
    // 0x46: Print Screen, Scroll Lock, Pause, Insert, Home, Page Up, Delete, End, Page Down, right, left, down, up
    99, 70, 119, 110, 102, 104, 111, 107, 109, 106, 105, 108, 103,
    // 0x53: Num Lock, keypad / * - + Enter 1 to 9, 0 and .
    69, 98, 55, 74, 78, 96, 79, 80, 81, 75, 76, 77, 71, 72, 73, 82, 83,
    // 0x64: the key beside left Shift on ISO keyboards, Menu
    86, 127,
];

/// Keycodes with their usages above that.
const FURTHER: &[(u16, u16)] = &[
    (117, 0x67), // KEY_KPEQUAL
    (183, 0x68), // KEY_F13 to KEY_F24
    (184, 0x69),
    (185, 0x6a),
    (186, 0x6b),
    (187, 0x6c),
    (188, 0x6d),
    (189, 0x6e),
    (190, 0x6f),
    (191, 0x70),
    (192, 0x71),
    (193, 0x72),
    (194, 0x73),
    (138, 0x75), // KEY_HELP
    (130, 0x76), // KEY_PROPS
    (132, 0x77), // KEY_FRONT
    (128, 0x78), // KEY_STOP
    (129, 0x79), // KEY_AGAIN
    (131, 0x7a), // KEY_UNDO
    (137, 0x7b), // KEY_CUT
    (133, 0x7c), // KEY_COPY
    (135, 0x7d), // KEY_PASTE
    (136, 0x7e), // KEY_FIND
    (121, 0x85), // KEY_KPCOMMA
    (89, 0x87),  // KEY_RO
    (93, 0x88),  // KEY_KATAKANAHIRAGANA
    (124, 0x89), // KEY_YEN
    (92, 0x8a),  // KEY_HENKAN
    (94, 0x8b),  // KEY_MUHENKAN
    (95, 0x8c),  // KEY_KPJPCOMMA
    (122, 0x90), // KEY_HANGEUL
    (123, 0x91), // KEY_HANJA
    (90, 0x92),  // KEY_KATAKANA
    (91, 0x93),  // KEY_HIRAGANA
    (85, 0x94),  // KEY_ZENKAKUHANKAKU
    (179, 0xb6), // KEY_KPLEFTPAREN
    (180, 0xb7), // KEY_KPRIGHTPAREN
];

/// Media and system keys with their usages of the consumer page.
const CONSUMER: &[(u16, u16)] = &[
    (116, 0x030), // KEY_POWER
    (142, 0x032), // KEY_SLEEP
    (139, 0x040), // KEY_MENU
    (225, 0x06f), // KEY_BRIGHTNESSUP
    (224, 0x070), // KEY_BRIGHTNESSDOWN
    (207, 0x0b0), // KEY_PLAY
    (167, 0x0b2), // KEY_RECORD
    (208, 0x0b3), // KEY_FASTFORWARD
    (168, 0x0b4), // KEY_REWIND
    (163, 0x0b5), // KEY_NEXTSONG
    (165, 0x0b6), // KEY_PREVIOUSSONG
    (166, 0x0b7), // KEY_STOPCD
    (161, 0x0b8), // KEY_EJECTCD
    (164, 0x0cd), // KEY_PLAYPAUSE
    (113, 0x0e2), // KEY_MUTE
    (115, 0x0e9), // KEY_VOLUMEUP
    (114, 0x0ea), // KEY_VOLUMEDOWN
    (171, 0x183), // KEY_CONFIG
    (155, 0x18a), // KEY_MAIL
    (140, 0x192), // KEY_CALC
    (144, 0x194), // KEY_FILE
    (150, 0x196), // KEY_WWW
    (217, 0x221), // KEY_SEARCH
    (172, 0x223), // KEY_HOMEPAGE
    (158, 0x224), // KEY_BACK
    (159, 0x225), // KEY_FORWARD
    (173, 0x227), // KEY_REFRESH
    (156, 0x22a), // KEY_BOOKMARKS
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usages_are_those_of_the_tables() {
        let of = |name| usage(KeyCode::from_name(name).expect("a key"));
        for (name, wanted) in [
            ("A", 0x04),
            ("Z", 0x1d),
            ("1", 0x1e),
            ("0", 0x27),
            ("ENTER", 0x28),
            ("BACKSLASH", 0x31),
            ("SEMICOLON", 0x33),
            ("SLASH", 0x38),
            ("CAPSLOCK", 0x39),
            ("F12", 0x45),
            ("SYSRQ", 0x46),
            ("UP", 0x52),
            ("NUMLOCK", 0x53),
            ("KP1", 0x59),
            ("KPDOT", 0x63),
            ("102ND", 0x64),
            ("COMPOSE", 0x65),
            ("YEN", 0x89),
        ] {
            assert_eq!(of(name), Some(Usage::Keyboard(wanted)), "{name}");
        }
        assert_eq!(of("RIGHTMETA"), Some(Usage::Modifier(7)));
        assert_eq!(of("VOLUMEUP"), Some(Usage::Consumer(0xe9)));
        assert_eq!(usage(KeyCode::BTN_LEFT), None);
        assert_eq!(usage(KeyCode(0)), None);
    }

    #[test]
    fn no_two_keys_share_a_usage() {
        let all: Vec<_> = (0..=KeyCode::MAX.0)
            .filter_map(|code| usage(KeyCode(code)))
            .collect();
        for (index, one) in all.iter().enumerate() {
            assert!(!all[index + 1..].contains(one), "{one:?}");
        }
        let every_named = (1..=83).filter(|code| usage(KeyCode(*code)).is_none());
        assert_eq!(every_named.collect::<Vec<_>>(), Vec::<u16>::new());
    }
}
