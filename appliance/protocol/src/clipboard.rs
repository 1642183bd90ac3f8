//! The clipboard's text on the control channel, both ways: its messages, its bounds, and what keeps it from going round.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest text, in bytes of its JSON string without the quotes: UTF-8, where `"`, `\`, tabs and ends of lines count twice.
/// With the rest of its message it fits [`crate::control::MAX_MESSAGE`].
pub const MAX_TEXT: usize = 60 * 1024;

/// A text of the clipboard. Shown as its length only: passwords go through clipboards. Clones share it.
#[derive(Clone, PartialEq, Eq)]
pub struct ClipboardText(Arc<str>);

impl ClipboardText {
    /// Takes a text from a clipboard, less its control characters other than tabs and ends of lines: at a terminal they would
    /// be commands. `None` if nothing is left.
    ///
    /// # Errors
    /// It is longer than [`MAX_TEXT`].
    pub fn from_local(text: &str) -> Result<Option<Self>, ClipboardRefusal> {
        let text = if text.chars().any(is_forbidden) {
            let kept = text.chars().filter(|c| !is_forbidden(*c));
            Self(kept.collect::<String>().into())
        } else {
            Self(text.into())
        };
        if text.0.is_empty() {
            return Ok(None);
        }
        text.check()?;
        Ok(Some(text))
    }

    /// Checks a text that a peer sent.
    ///
    /// # Errors
    /// It is empty, longer than [`MAX_TEXT`], or has control characters other than tabs and ends of lines.
    pub fn check(&self) -> Result<(), ClipboardRefusal> {
        if encoded_len(&self.0) > MAX_TEXT {
            return Err(ClipboardRefusal::TooLong);
        }
        if self.0.is_empty() || self.0.chars().any(is_forbidden) {
            return Err(ClipboardRefusal::Characters);
        }
        Ok(())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, shared.
    #[must_use]
    pub fn to_shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

fn is_forbidden(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\r' | '\t')
}

fn encoded_len(text: &str) -> usize {
    let twice = |byte: &u8| matches!(byte, b'"' | b'\\' | b'\n' | b'\r' | b'\t');
    text.len() + text.bytes().filter(|byte| twice(byte)).count()
}

impl fmt::Debug for ClipboardText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a text of {} bytes", self.0.len())
    }
}

impl Serialize for ClipboardText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ClipboardText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(String::deserialize(deserializer)?.into()))
    }
}

/// Which ways the clipboard goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClipboardRule {
    /// Both.
    Both,
    /// From the operators to the server only.
    ToServer,
    /// From the server to the operators only.
    FromServer,
}

impl ClipboardRule {
    /// Whether the server takes texts.
    #[must_use]
    pub const fn to_server(self) -> bool {
        matches!(self, Self::Both | Self::ToServer)
    }

    /// Whether the server gives texts.
    #[must_use]
    pub const fn from_server(self) -> bool {
        matches!(self, Self::Both | Self::FromServer)
    }
}

/// What a client says about the clipboard; only to a server whose `welcome` says that it has one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ClipboardRequest {
    /// Tell what is copied on the server from now on.
    Share {},
    /// No more.
    Unshare {},
    /// This was copied at the operator's seat.
    Text {
        /// It.
        text: ClipboardText,
    },
}

/// What a server says about the clipboard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ClipboardNews {
    /// This was copied on the server.
    Text {
        /// It.
        text: ClipboardText,
    },
    /// A text was not passed on.
    Refused {
        /// Why.
        why: ClipboardRefusal,
    },
}

/// Why a text was not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ClipboardRefusal {
    /// The client's own is longer than [`MAX_TEXT`].
    TooLong,
    /// The server's is longer than [`MAX_TEXT`].
    ServersTooLong,
    /// What was copied at the client's seat is marked as a secret.
    Secret,
    /// What was copied on the server is marked as a secret.
    ServersSecret,
    /// It is empty or has control characters.
    Characters,
    /// The client's role is to watch.
    Role,
    /// Another client has keyboard and mouse, or nobody has.
    Turn,
    /// The server's story does not let it.
    Off,
    /// What the server shows has no clipboard that it could use.
    NoClipboard,
    /// Too many came in a short time.
    TooOften,
    /// A reason of a later version.
    #[serde(other)]
    Other,
}

/// Keeps a text from going back to where it came from, however often a clipboard manager on the way copies it anew.
#[derive(Clone, Debug, Default)]
pub struct Echo {
    came: Option<ClipboardText>,
}

impl Echo {
    /// Notes a text that came and is put into the clipboard here.
    pub fn came(&mut self, text: &ClipboardText) {
        self.came = Some(text.clone());
    }

    /// Whether a text that was copied here is what came last, and so is not to be sent.
    pub fn is_echo(&mut self, text: &ClipboardText) -> bool {
        let echo = self.came.as_ref() == Some(text);
        if !echo {
            self.came = None;
        }
        echo
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{FromClient, FromServer, MAX_MESSAGE};

    fn text(text: &str) -> ClipboardText {
        ClipboardText(text.into())
    }

    #[test]
    fn messages_have_the_documented_form() {
        let copied = FromClient::Clipboard(ClipboardRequest::Text {
            text: text("a\nü\""),
        });
        let json = serde_json::to_string(&copied).unwrap();
        let expected = r#"{"type":"clipboard","do":"text","text":"a\nü\""}"#;
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_str::<FromClient>(&json).unwrap(), copied);
        let share = serde_json::from_str(r#"{"type":"clipboard","do":"share","later":1}"#);
        assert_eq!(
            FromClient::Clipboard(ClipboardRequest::Share {}),
            share.unwrap()
        );
        let refused = |why| FromServer::Clipboard(ClipboardNews::Refused { why });
        let json = serde_json::to_string(&refused(ClipboardRefusal::TooLong)).unwrap();
        let expected = r#"{"type":"clipboard","do":"refused","why":"too-long"}"#;
        assert_eq!(json, expected);
        let later = r#"{"type":"clipboard","do":"refused","why":"full-moon"}"#;
        let later = serde_json::from_str::<FromServer>(later).unwrap();
        assert_eq!(later, refused(ClipboardRefusal::Other));
    }

    #[test]
    fn the_longest_text_fits_a_message_and_one_byte_more_is_refused() {
        for unit in ["x", "\n", "\"", "\\", "\u{e9}", "\u{1f5a5}", "a\t"] {
            let most = MAX_TEXT / encoded_len(unit);
            let longest = text(&unit.repeat(most));
            assert_eq!(longest.check(), Ok(()), "{unit:?}");
            let message = ClipboardNews::Text { text: longest };
            let json = serde_json::to_string(&FromServer::Clipboard(message)).unwrap();
            assert!(json.len() <= MAX_MESSAGE, "{unit:?}: {}", json.len());
            let more = unit.repeat(most + 1);
            let refused = Err(ClipboardRefusal::TooLong);
            assert_eq!(text(&more).check(), refused, "{unit:?}");
            assert_eq!(
                ClipboardText::from_local(&more),
                Err(ClipboardRefusal::TooLong)
            );
        }
    }

    #[test]
    fn control_characters_are_left_out_and_refused_from_peers() {
        let local = |text| ClipboardText::from_local(text).unwrap();
        let kept = local("a\u{1b}[31m\tb\r\n\u{0}\u{7f}\u{9b}").unwrap();
        assert_eq!(kept.as_str(), "a[31m\tb\r\n");
        assert_eq!(local("\u{0}"), None);
        assert_eq!(local(""), None);
        for bad in ["", "\u{1b}c", "a\u{0}", "\u{9b}"] {
            let refused = Err(ClipboardRefusal::Characters);
            assert_eq!(text(bad).check(), refused, "{bad:?}");
        }
    }

    #[test]
    fn what_came_does_not_go_back_and_what_is_copied_does() {
        let mut echo = Echo::default();
        assert!(!echo.is_echo(&text("a")));
        echo.came(&text("b"));
        assert!(echo.is_echo(&text("b")), "a clipboard manager");
        assert!(echo.is_echo(&text("b")), "and another");
        assert!(!echo.is_echo(&text("a")), "copied again");
        assert!(!echo.is_echo(&text("b")), "and what once came, too");
    }

    #[test]
    fn the_content_is_not_shown_by_debug() {
        let message = FromClient::Clipboard(ClipboardRequest::Text {
            text: text("secret"),
        });
        let shown = format!("{message:?}");
        assert!(
            !shown.contains("secret") && shown.contains("6 bytes"),
            "{shown}"
        );
    }
}
