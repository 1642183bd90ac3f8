//! English and Japanese for what people read.
//!
//! Messages stand where they are used, both languages side by side, so that neither can be forgotten:
//! `lang.pick("no signal", "信号がありません")`. Logs stay English.

/// The language of a person at the console.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lang {
    /// English, the default.
    #[default]
    English,
    /// Japanese.
    Japanese,
}

impl Lang {
    /// Reads a POSIX locale name such as `ja_JP.UTF-8`.
    #[must_use]
    pub fn from_locale(locale: &str) -> Self {
        if locale == "ja" || locale.starts_with("ja_") || locale.starts_with("ja.") {
            Self::Japanese
        } else {
            Self::English
        }
    }

    /// The language by the precedence of POSIX: `LC_ALL`, `LC_MESSAGES`, `LANG`; empty ones do not count.
    pub fn from_variables(get: impl Fn(&str) -> Option<String>) -> Self {
        ["LC_ALL", "LC_MESSAGES", "LANG"]
            .into_iter()
            .find_map(|name| get(name).filter(|value| !value.is_empty()))
            .map_or(Self::English, |locale| Self::from_locale(&locale))
    }

    /// The text in this language.
    #[must_use]
    pub fn pick<'a>(self, english: &'a str, japanese: &'a str) -> &'a str {
        match self {
            Self::English => english,
            Self::Japanese => japanese,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn posix_precedence() {
        let environment = |pairs: &'static [(&str, &str)]| {
            move |name: &str| {
                pairs
                    .iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| (*value).to_owned())
            }
        };
        assert_eq!(
            Lang::from_variables(environment(&[("LANG", "ja_JP.UTF-8")])),
            Lang::Japanese
        );
        assert_eq!(
            Lang::from_variables(environment(&[("LC_ALL", "C"), ("LANG", "ja_JP.UTF-8")])),
            Lang::English
        );
        assert_eq!(
            Lang::from_variables(environment(&[("LC_ALL", ""), ("LANG", "ja")])),
            Lang::Japanese
        );
        assert_eq!(Lang::from_variables(environment(&[])), Lang::English);
    }
}
