//! What a desktop makes of keys: libxkbcommon's keymap and compose state.

use std::ffi::OsStr;

use xkbcommon::xkb::compose::{self, FeedResult, Status};
use xkbcommon::xkb::{self, KeyDirection, Keycode, keysyms};

/// A text field of a desktop with this keyboard.
pub struct TextField {
    state: xkb::State,
    compose: compose::State,
    text: String,
}

impl std::fmt::Debug for TextField {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextField")
            .field("text", &self.text)
            .finish_non_exhaustive()
    }
}

impl TextField {
    /// A field for a layout (`de`, `us:intl`), options (`compose:ralt`) and the compose table of a locale; none when
    /// libxkbcommon does not know one of them.
    #[must_use]
    pub fn new(layout: &str, options: &str, locale: &str) -> Option<Self> {
        let (name, variant) = layout.split_once(':').unwrap_or((layout, ""));
        let context = xkb::Context::new(xkb::CONTEXT_NO_FLAGS);
        let flags = xkb::KEYMAP_COMPILE_NO_FLAGS;
        let options = Some(options.to_owned());
        let keymap =
            xkb::Keymap::new_from_names(&context, "evdev", "pc105", name, variant, options, flags)?;
        let flags = compose::COMPILE_NO_FLAGS;
        let locale = OsStr::new(locale);
        let table = compose::Table::new_from_locale(&context, locale, flags).ok()?;
        Some(Self {
            state: xkb::State::new(&keymap),
            compose: compose::State::new(&table, compose::STATE_NO_FLAGS),
            text: String::new(),
        })
    }

    /// A key of evdev goes down or up.
    pub fn key(&mut self, key: u16, down: bool) {
        let code = Keycode::new(u32::from(key) + 8);
        if down {
            self.press(code);
        }
        let direction = if down {
            KeyDirection::Down
        } else {
            KeyDirection::Up
        };
        self.state.update_key(code, direction);
    }

    fn press(&mut self, code: Keycode) {
        let keysym = self.state.key_get_one_sym(code);
        let fed = self.compose.feed(keysym);
        match self.compose.status() {
            // Modifiers leave it as it was.
            _ if fed == FeedResult::Ignored => {}
            Status::Composing => {}
            Status::Composed => {
                let composed = self.compose.utf8().unwrap_or_default();
                self.text.push_str(&composed);
            }
            // What was begun is lost, with the key that did not fit.
            Status::Cancelled => self.text.push('\u{fffd}'),
            Status::Nothing => match keysym.raw() {
                keysyms::KEY_Return => self.text.push('\n'),
                keysyms::KEY_Tab => self.text.push('\t'),
                _ => self.text.push_str(&self.state.key_get_utf8(code)),
            },
        }
    }

    /// What stands in the field.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether a modifier is held or locked.
    #[must_use]
    pub fn has_modifiers(&self) -> bool {
        self.state.serialize_mods(xkb::STATE_MODS_EFFECTIVE) != 0
    }
}
