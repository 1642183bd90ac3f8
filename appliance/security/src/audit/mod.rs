//! The audit log: who came, paired, took control and changed what, as JSON lines that form a chain.
//!
//! A line is `{"n":7,"at":"…","event":"…",…,"prev":"…","hash":"…"}`: numbers without gaps, `prev` the hash of the line before,
//! and `hash` the SHA-256 of the line's own bytes up to `,"hash"`. So a line that was changed, moved or taken out shows. The
//! newest hash is kept in a file of its own and goes to the system's log too, so that a missing end shows as well.

mod log;

use ring::digest;
use serde::{Deserialize, Serialize};
use soft_kvm_protocol::pairing::HexBytes;
use soft_kvm_protocol::roles::Role;

pub use log::{AuditLog, Follower, VerifyError, Whole};

/// Longest line, in bytes without its line feed.
pub const MAX_LINE: usize = 4_096;

/// Something that happened. Keys are counted, never named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The server runs.
    Started {
        /// Its version.
        version: &'static str,
        /// The story's root id.
        story: String,
    },
    /// The server ends as it was told to.
    Stopped {},
    /// A session began.
    Connected {
        /// The client's name for people.
        client: String,
        /// Its key.
        key: String,
        /// Where from.
        remote: String,
        /// What it may do.
        role: Role,
    },
    /// A session ended.
    Disconnected {
        /// The client's name for people.
        client: String,
        /// Its key.
        key: String,
        /// How long it lasted.
        seconds: u64,
        /// How many keys and buttons it pressed.
        keys: u64,
        /// Why it ended.
        why: String,
    },
    /// Another client has keyboard and mouse now.
    Controls {
        /// The client's name for people.
        client: String,
        /// Its key.
        key: String,
        /// How it came to them: `typed`, `asked`, `granted`, `taken`.
        how: &'static str,
    },
    /// A client asks for keyboard and mouse.
    ControlAsked {
        /// The client's name for people.
        client: String,
        /// Its key.
        key: String,
    },
    /// A client was refused keyboard and mouse.
    ControlRefused {
        /// The client's name for people.
        client: String,
        /// Its key.
        key: String,
    },
    /// A client has keyboard and mouse no more.
    ControlReleased {
        /// The client's name for people.
        client: String,
        /// Its key.
        key: String,
    },
    /// A copied text was passed on.
    Clipboard {
        /// The name for people of the client that it came from or went to.
        client: String,
        /// Its key.
        key: String,
        /// Which way: `to-server`, `from-server`.
        way: &'static str,
        /// How long it was; what it was is kept nowhere.
        bytes: usize,
    },
    /// A code was asked for.
    PairingOpened {
        /// The role that was named for the next client.
        role: Option<Role>,
        /// `console`, or the key of the admin.
        by: String,
    },
    /// A client has paired.
    Paired {
        /// The client's name for people.
        client: String,
        /// Its key.
        key: String,
        /// Where from.
        remote: String,
        /// What it may do.
        role: Role,
    },
    /// A client has not paired.
    PairingFailed {
        /// Its key.
        key: String,
        /// Where from.
        remote: String,
        /// Why.
        why: String,
        /// How many more such events were left out before this one.
        more: u64,
    },
    /// A key that is not paired asked for a session.
    Refused {
        /// The key.
        key: String,
        /// Where from.
        remote: String,
        /// How many more such events were left out before this one.
        more: u64,
    },
    /// A client may do something else now.
    RoleChanged {
        /// The client's name for people.
        client: String,
        /// Its key.
        key: String,
        /// What it may do now.
        role: Role,
        /// `console`, or the key of the admin.
        by: String,
    },
    /// A client's key was forgotten.
    Revoked {
        /// The client's name for people.
        client: String,
        /// Its key.
        key: String,
        /// `console`, or the key of the admin.
        by: String,
    },
    /// A client is called something else.
    Renamed {
        /// Its name now.
        client: String,
        /// Its key.
        key: String,
        /// `console`, or the key of the admin.
        by: String,
    },
    /// A client has a new key, which its old one vouches for.
    KeyFollowed {
        /// The client's name for people.
        client: String,
        /// Its key now.
        key: String,
        /// Its key before, a stranger's from now on.
        before: String,
        /// Where from.
        remote: String,
    },
    /// The server has a new key from its next start on, which its old one vouches for.
    KeyRotated {
        /// The new key.
        key: String,
    },
    /// Key and pairings were taken from a backup.
    Restored {
        /// The key.
        key: String,
    },
    /// Key and pairings were forgotten.
    FactoryReset {},
    /// Another story is in force.
    Story {
        /// Its root id.
        story: String,
    },
    /// The end of the log was not whole, as after a power cut in the middle of a line; it was taken off.
    Torn {
        /// How many bytes.
        bytes: u64,
    },
}

/// The end of a chain: the number and the hash of its last line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// How many lines there have been.
    pub n: u64,
    /// The last one's hash.
    #[serde(with = "hex")]
    pub hash: [u8; 32],
}

impl Head {
    /// Before the first line.
    pub const START: Self = Self {
        n: 0,
        hash: [0; 32],
    };

    /// The hash as 64 hexadecimal digits.
    #[must_use]
    pub fn digits(&self) -> String {
        HexBytes(self.hash).to_string()
    }
}

mod hex {
    use serde::{Deserialize as _, Deserializer, Serializer};
    use soft_kvm_protocol::pairing::HexBytes;

    pub(super) fn serialize<S: Serializer>(hash: &[u8; 32], to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&HexBytes(*hash))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(from)?;
        let parsed = HexBytes::<32>::parse(&text).map_err(serde::de::Error::custom)?;
        Ok(parsed.0)
    }
}

#[derive(Serialize)]
struct Line<'a> {
    n: u64,
    at: &'a str,
    #[serde(flatten)]
    event: &'a Event,
    #[serde(with = "hex")]
    prev: [u8; 32],
}

/// The line that follows `head`, without a line feed, and the head with it. `at` is the time for people.
///
/// # Errors
/// The event does not fit [`MAX_LINE`].
pub fn seal(head: &Head, at: &str, event: &Event) -> Result<(String, Head), TooLong> {
    let n = head.n + 1;
    let line = Line {
        n,
        at,
        event,
        prev: head.hash,
    };
    // Strings and numbers only: there is nothing in it that JSON can't say.
    let mut text = serde_json::to_string(&line).map_err(|_| TooLong)?;
    text.pop();
    let hash = digest_of(text.as_bytes());
    text.push_str(&format!(",\"hash\":\"{}\"}}", HexBytes(hash)));
    if text.len() > MAX_LINE {
        return Err(TooLong);
    }
    Ok((text, Head { n, hash }))
}

/// An event with names longer than any that we take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event does not fit a line of the audit log")]
pub struct TooLong;

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// It is no line of this log.
    #[error("this is no line of an audit log")]
    Form,
    /// Its hash is not that of its text.
    #[error("the line was changed: its hash is not that of its text")]
    Changed,
    /// Lines are missing before it, or it stands in another's place.
    #[error(
        "lines before it are missing or were moved: it is number {n}, and {expected} belongs here"
    )]
    Missing {
        /// Its number.
        n: u64,
        /// Which one should stand here.
        expected: u64,
    },
    /// It follows another line than the one before it.
    #[error("the line before it was replaced")]
    Replaced,
}

#[derive(Deserialize)]
struct Read {
    n: u64,
    #[serde(with = "hex")]
    prev: [u8; 32],
    #[serde(with = "hex")]
    hash: [u8; 32],
}

/// The head after `line`, which has to follow `before`; any number may come first.
///
/// # Errors
/// It does not.
pub fn check(before: Option<&Head>, line: &str) -> Result<Head, Broken> {
    if line.len() > MAX_LINE {
        return Err(Broken::Form);
    }
    let read: Read = serde_json::from_str(line).map_err(|_| Broken::Form)?;
    let (text, _) = line.rsplit_once(",\"hash\":").ok_or(Broken::Form)?;
    if digest_of(text.as_bytes()) != read.hash {
        return Err(Broken::Changed);
    }
    if let Some(before) = before {
        let expected = before.n + 1;
        if read.n != expected {
            return Err(Broken::Missing {
                n: read.n,
                expected,
            });
        }
        if read.prev != before.hash {
            return Err(Broken::Replaced);
        }
    }
    Ok(Head {
        n: read.n,
        hash: read.hash,
    })
}

fn digest_of(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chain(count: usize) -> Vec<String> {
        let mut head = Head::START;
        let lines = (0..count).map(|number| {
            let event = Event::Disconnected {
                client: format!("seat \"{number}\""),
                key: "ab".repeat(32),
                seconds: 3,
                keys: u64::try_from(number).unwrap(),
                why: "said goodbye".to_owned(),
            };
            let (line, next) = seal(&head, "2026-11-25T12:00:00Z", &event).unwrap();
            head = next;
            line
        });
        lines.collect()
    }

    fn whole(lines: &[String]) -> Result<Option<Head>, (usize, Broken)> {
        let mut head = None;
        for (index, line) in lines.iter().enumerate() {
            head = Some(check(head.as_ref(), line).map_err(|broken| (index, broken))?);
        }
        Ok(head)
    }

    #[test]
    fn a_line_reads_as_documented() {
        let (line, head) = seal(&Head::START, "2026-11-25T12:00:00Z", &Event::Stopped {}).unwrap();
        let text = format!(
            r#"{{"n":1,"at":"2026-11-25T12:00:00Z","event":"stopped","prev":"{}""#,
            "0".repeat(64)
        );
        assert!(line.starts_with(&text), "{line}");
        let hash = HexBytes(digest_of(text.as_bytes()));
        assert_eq!(line, format!("{text},\"hash\":\"{hash}\"}}"));
        assert_eq!(check(Some(&Head::START), &line), Ok(head));
        let long = Event::Story {
            story: "x".repeat(MAX_LINE),
        };
        assert_eq!(seal(&head, "", &long), Err(TooLong));
    }

    #[test]
    fn a_key_named_hash_inside_an_event_is_text() {
        let event = Event::Story {
            story: "\",\"hash\":\"00\"}".to_owned(),
        };
        let (line, head) = seal(&Head::START, "now", &event).unwrap();
        assert_eq!(check(None, &line), Ok(head));
    }

    proptest! {
        #[test]
        fn what_is_taken_out_moved_or_changed_shows(
            count in 3_usize..8,
            at in any::<prop::sample::Index>(),
            byte in any::<prop::sample::Index>(),
            to in 0x20_u8..0x7f,
            kind in 0..3,
        ) {
            let lines = chain(count);
            prop_assert!(whole(&lines).is_ok());
            let mut bad = lines.clone();
            // The ends are looked after by the file of the head and by rotation.
            let index = 1 + at.index(count - 2);
            match kind {
                0 => {
                    bad.remove(index);
                }
                1 => bad.swap(index, index + 1),
                _ => {
                    let place = byte.index(bad[index].len());
                    let mut bytes = bad[index].clone().into_bytes();
                    prop_assume!(bytes[place] != to);
                    bytes[place] = to;
                    let text = String::from_utf8(bytes).unwrap();
                    // Hexadecimal digits of either case are the same number.
                    prop_assume!(!text.eq_ignore_ascii_case(&bad[index]));
                    bad[index] = text;
                }
            }
            prop_assert!(whole(&bad).is_err());
        }

        #[test]
        fn any_text_is_a_line_or_broken(text in ".{0,200}") {
            let _ = check(None, &text);
        }
    }
}
