//! Messages of the pairing exchange on [`PAIR_PATH`](crate::control::PAIR_PATH): JSON texts in WebSocket messages.
//!
//! Four messages, client first: [`FromClient::Start`], [`FromServer::Share`], [`FromClient::Confirm`],
//! [`FromServer::Confirm`]. [`FromServer::Error`] may stand in place of either answer and ends the exchange. The
//! cryptography behind them is in `soft_kvm_security::pairing`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Version of the pairing messages and of the transcript that they authenticate.
pub const PAIRING_VERSION: u32 = 1;

/// RFC 8446 §7.5 exporter label of the value that ties the exchange to its TLS session; no context, 32 bytes.
pub const PAIRING_EXPORTER_LABEL: &[u8] = b"EXPORTER-soft-kvm-pairing";

/// Largest pairing message that either side reads, in bytes.
pub const MAX_PAIRING_MESSAGE: usize = 4 * 1024;

/// Length of a SPAKE2 share: the side's letter and a compressed Edwards point, in bytes.
pub const SHARE_LEN: usize = 33;

/// Length of a key confirmation (HMAC-SHA256), in bytes.
pub const CONFIRMATION_LEN: usize = 32;

/// Most characters in a [`PeerName`].
pub const MAX_NAME_CHARS: usize = 64;

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum FromClient {
    /// First message.
    Start {
        /// [`PAIRING_VERSION`] of the client.
        version: u32,
        /// The client's name for people.
        name: PeerName,
        /// The client's SPAKE2 share.
        share: HexBytes<SHARE_LEN>,
    },
    /// The client has the right code.
    Confirm {
        /// HMAC over the transcript.
        mac: HexBytes<CONFIRMATION_LEN>,
    },
}

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum FromServer {
    /// Answer to [`FromClient::Start`].
    Share {
        /// The server's name for people.
        name: PeerName,
        /// The server's SPAKE2 share.
        share: HexBytes<SHARE_LEN>,
    },
    /// Answer to [`FromClient::Confirm`]: the server has the right code too and has stored the client's key.
    Confirm {
        /// HMAC over the transcript.
        mac: HexBytes<CONFIRMATION_LEN>,
    },
    /// The exchange is over.
    Error {
        /// A stable word: `version`, `closed`, `busy`, `wrong-code`, `bad-message`, `storage`.
        code: String,
        /// For people, in English.
        message: String,
    },
}

/// A name for people: 1 to 64 characters, none of them a control or text direction character, so that it can be
/// shown on a terminal as it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PeerName(String);

/// Why a text is not a [`PeerName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing but white space.
    #[error("the name is empty")]
    Empty,
    /// More than [`MAX_NAME_CHARS`].
    #[error("the name has more than {MAX_NAME_CHARS} characters")]
    TooLong,
    /// A character that would act on a terminal instead of being shown.
    #[error("the name contains a control character")]
    Control,
}

impl PeerName {
    /// A name, without white space around it.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.chars().count() > MAX_NAME_CHARS {
            return Err(NameError::TooLong);
        }
        if !text.chars().all(is_shown) {
            return Err(NameError::Control);
        }
        Ok(Self(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a character is shown rather than acted on: no control character, no bidirectional override.
#[must_use]
pub fn is_shown(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for PeerName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::new(&text)
    }
}

impl From<PeerName> for String {
    fn from(name: PeerName) -> Self {
        name.0
    }
}

/// `N` bytes, written as `2 * N` hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HexBytes<const N: usize>(pub [u8; N]);

/// A text is not the hexadecimal form of so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not {digits} hexadecimal digits")]
pub struct HexError {
    /// Digits that were expected.
    pub digits: usize,
}

impl<const N: usize> HexBytes<N> {
    /// Reads `2 * N` hexadecimal digits of either case.
    pub fn parse(text: &str) -> Result<Self, HexError> {
        let error = HexError { digits: N * 2 };
        let mut digits = text
            .chars()
            .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()));
        let mut bytes = [0; N];
        for byte in &mut bytes {
            let mut next = || digits.next().flatten().ok_or(error);
            *byte = (next()? << 4) | next()?;
        }
        if digits.next().is_some() {
            return Err(error);
        }
        Ok(Self(bytes))
    }
}

impl<const N: usize> fmt::Display for HexBytes<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<const N: usize> fmt::Debug for HexBytes<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const N: usize> TryFrom<String> for HexBytes<N> {
    type Error = HexError;

    fn try_from(text: String) -> Result<Self, HexError> {
        Self::parse(&text)
    }
}

impl<const N: usize> From<HexBytes<N>> for String {
    fn from(bytes: HexBytes<N>) -> Self {
        bytes.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_have_the_documented_form() {
        let start = FromClient::Start {
            version: PAIRING_VERSION,
            name: PeerName::new("desk").unwrap(),
            share: HexBytes([0xab; SHARE_LEN]),
        };
        let text = serde_json::to_string(&start).unwrap();
        let share = "ab".repeat(SHARE_LEN);
        assert_eq!(
            text,
            format!(r#"{{"type":"start","version":1,"name":"desk","share":"{share}"}}"#)
        );
        assert_eq!(serde_json::from_str::<FromClient>(&text).unwrap(), start);
        let confirm = FromServer::Confirm {
            mac: HexBytes([1; CONFIRMATION_LEN]),
        };
        assert_eq!(
            serde_json::to_string(&confirm).unwrap(),
            format!(r#"{{"type":"confirm","mac":"{}"}}"#, "01".repeat(32))
        );
    }

    #[test]
    fn names_that_would_act_on_a_terminal_are_refused() {
        assert_eq!(PeerName::new(" 机の上 ").unwrap().as_str(), "机の上");
        assert_eq!(PeerName::new(" \t"), Err(NameError::Empty));
        assert_eq!(PeerName::new("a\x1b[2Jb"), Err(NameError::Control));
        assert_eq!(PeerName::new("a\u{202e}b"), Err(NameError::Control));
        assert!(PeerName::new(&"é".repeat(64)).is_ok());
        assert_eq!(PeerName::new(&"é".repeat(65)), Err(NameError::TooLong));
    }

    #[test]
    fn truncated_and_foreign_messages_are_errors() {
        for bad in [
            "",
            "{}",
            r#"{"type":"confirm"}"#,
            r#"{"type":"confirm","mac":"00"}"#,
            r#"{"type":"confirm","mac":7}"#,
            r#"{"type":"start","version":-1,"name":"a","share":""}"#,
            r#"{"type":"stop"}"#,
        ] {
            assert!(serde_json::from_str::<FromClient>(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn hexadecimal_goes_there_and_back(bytes: [u8; 5]) {
            let text = HexBytes(bytes).to_string();
            prop_assert_eq!(HexBytes::parse(&text), Ok(HexBytes(bytes)));
            prop_assert!(HexBytes::<5>::parse(&text[1..]).is_err());
            prop_assert!(HexBytes::<4>::parse(&text).is_err());
        }

        #[test]
        fn any_text_is_read_without_panic(text: String) {
            let _ = HexBytes::<4>::parse(&text);
            let _ = PeerName::new(&text);
            let _ = serde_json::from_str::<FromServer>(&text);
        }
    }
}
