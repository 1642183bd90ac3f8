//! QR codes in a terminal.

use std::io::{IsTerminal as _, stdout};

use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;

/// The code as lines of half blocks, light on dark as terminals mostly are; `None` for a text that is too long for one.
#[must_use]
pub fn lines(text: &str) -> Option<String> {
    let code = QrCode::new(text).ok()?;
    let picture = code
        .render::<Dense1x2>()
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark)
        .build();
    Some(picture)
}

/// The same where somebody looks at standard output; a script that reads it gets none.
pub(crate) fn for_people(text: &str) -> Option<String> {
    stdout().is_terminal().then(|| lines(text)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pairing_fits_into_a_code_of_a_few_lines() {
        let picture = lines("soft-kvm:pair?name=rack-1&port=8443&code=123456").expect("short");
        assert!((10..40).contains(&picture.lines().count()), "{picture}");
        assert_eq!(lines(&"x".repeat(5_000)), None);
    }
}
