//! The MIME types that a program offers what it has copied as.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::clipboard::SECRET;

/// Those that are a text in UTF-8, the best first. X programs know the second, by way of Xwayland; by usage the last is UTF-8.
pub(super) const TEXTS: [&str; 3] = ["text/plain;charset=utf-8", "UTF8_STRING", "text/plain"];

const OWN: u8 = 1 << TEXTS.len();
const HIDDEN: u8 = OWN << 1;

/// Which of them a program offers. Only this is kept: it may offer any number of others.
#[derive(Debug, Default)]
pub(super) struct Kinds(AtomicU8);

impl Kinds {
    /// One more; `mark` is what only we offer.
    pub(super) fn note(&self, kind: &str, mark: &str) {
        let text = TEXTS.iter().position(|text| *text == kind);
        let bit = match text {
            Some(place) => 1 << place,
            None if kind == mark => OWN,
            None if kind == SECRET => HIDDEN,
            None => return,
        };
        self.0.fetch_or(bit, Ordering::Relaxed);
    }

    /// The best to ask for; `None` if it offers no text.
    pub(super) fn best(&self) -> Option<&'static str> {
        let bits = self.0.load(Ordering::Relaxed) & (OWN - 1);
        TEXTS.get(bits.trailing_zeros() as usize).copied()
    }

    /// It is a secret.
    pub(super) fn is_secret(&self) -> bool {
        self.0.load(Ordering::Relaxed) & HIDDEN != 0
    }

    /// It is what we offer.
    pub(super) fn is_own(&self) -> bool {
        self.0.load(Ordering::Relaxed) & OWN != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_text_is_asked_for() {
        let kinds = Kinds::default();
        assert_eq!(kinds.best(), None);
        kinds.note("image/png", "mark");
        kinds.note("text/html", "mark");
        assert_eq!(kinds.best(), None);
        kinds.note("text/plain", "mark");
        assert_eq!(kinds.best(), Some("text/plain"));
        kinds.note("text/plain;charset=utf-8", "mark");
        kinds.note("UTF8_STRING", "mark");
        assert_eq!(kinds.best(), Some("text/plain;charset=utf-8"));
        assert!(!kinds.is_own());
        kinds.note("mark", "mark");
        assert!(kinds.is_own() && !kinds.is_secret());
    }

    #[test]
    fn a_secret_is_known_by_its_mark() {
        let kinds = Kinds::default();
        kinds.note("text/plain", "mark");
        kinds.note("x-kde-passwordManagerHint", "mark");
        assert!(kinds.is_secret() && !kinds.is_own());
        assert_eq!(kinds.best(), Some("text/plain"));
    }

    #[test]
    fn what_is_ours_is_no_text_by_itself() {
        let kinds = Kinds::default();
        kinds.note("mark", "mark");
        assert_eq!(kinds.best(), None);
    }
}
