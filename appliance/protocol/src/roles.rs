//! What a paired client may do, and the messages that change it: on the control channel, from admins, and on the
//! server's local control socket.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::pairing::PeerName;

/// Most clients in one [`ClientsAnswer::List`]: the longest names fit a control message then.
pub const MAX_LISTED: usize = 100;

/// Most bytes of the text that says which client is meant.
pub const MAX_CLIENT_TEXT: usize = 4 * MAX_LISTED;

/// What a paired client may do; each may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// See the picture.
    View,
    /// Type and point.
    Control,
    /// Say what others may do.
    Admin,
}

impl Role {
    /// All, the least first.
    pub const ALL: [Self; 3] = [Self::View, Self::Control, Self::Admin];

    /// As in files, messages and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Control => "control",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the roles are view, control and admin")]
pub struct ParseRoleError;

impl FromStr for Role {
    type Err = ParseRoleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let same = |role: &Self| role.as_str() == text;
        Self::ALL.into_iter().find(same).ok_or(ParseRoleError)
    }
}

/// What is asked about the paired clients. `client` is a name, or a fingerprint or at least its first eight digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ClientsRequest {
    /// Who is paired.
    List {
        /// How many to leave out at the start.
        #[serde(default)]
        from: u32,
    },
    /// Open a pairing window for one more client.
    Pair {
        /// What it may do; the usual if left out.
        #[serde(default)]
        role: Option<Role>,
    },
    /// Let a client do more or less.
    Role {
        /// Which.
        client: String,
        /// What it may do.
        role: Role,
    },
    /// Forget a client's key: it is a stranger from now on.
    Revoke {
        /// Which.
        client: String,
    },
    /// Call a client something else.
    Rename {
        /// Which.
        client: String,
        /// What.
        name: PeerName,
    },
}

/// A paired client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedClient {
    /// Its name for people.
    pub name: PeerName,
    /// Its key's fingerprint, 64 hexadecimal digits.
    pub fingerprint: String,
    /// What it may do.
    pub role: Role,
    /// The day on which it was paired, by the server's clock of that day.
    pub paired_at: String,
    /// It has a session now.
    #[serde(default)]
    pub connected: bool,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ClientsAnswer {
    /// Some of those that are paired.
    List {
        /// At most [`MAX_LISTED`], by name.
        clients: Vec<ListedClient>,
        /// How many there are.
        total: u32,
    },
    /// The client as it is now, or was before it was revoked.
    Done(ListedClient),
    /// A pairing window is open.
    Code(PairingCode),
    /// Nothing was changed.
    Refused(String),
}

/// What a client needs to pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairingCode {
    /// Six digits.
    pub code: String,
    /// What a QR code says: `soft-kvm:pair?…` with name, port, code and fingerprint of the server.
    pub uri: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{FromClient, FromServer, MAX_MESSAGE};

    #[test]
    fn messages_have_the_documented_form() {
        let request = FromClient::Clients(ClientsRequest::Role {
            client: "desk".to_owned(),
            role: Role::View,
        });
        let text = serde_json::to_string(&request).unwrap();
        let expected = r#"{"type":"clients","do":"role","client":"desk","role":"view"}"#;
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<FromClient>(&text).unwrap(), request);
        let answer = FromServer::Clients {
            answer: ClientsAnswer::Refused("no".to_owned()),
        };
        let text = serde_json::to_string(&answer).unwrap();
        assert_eq!(text, r#"{"type":"clients","answer":{"refused":"no"}}"#);
        let pair = serde_json::from_str(r#"{"type":"clients","do":"pair"}"#).unwrap();
        assert_eq!(
            FromClient::Clients(ClientsRequest::Pair { role: None }),
            pair
        );
        let list = serde_json::from_str(r#"{"type":"clients","do":"list"}"#).unwrap();
        assert_eq!(FromClient::Clients(ClientsRequest::List { from: 0 }), list);
    }

    #[test]
    fn a_full_list_fits_a_message() {
        let client = ListedClient {
            name: PeerName::new(&"\u{1f5a5}".repeat(64)).unwrap(),
            fingerprint: "f".repeat(64),
            role: Role::Control,
            paired_at: "2026-11-22".to_owned(),
            connected: true,
        };
        let answer = FromServer::Clients {
            answer: ClientsAnswer::List {
                clients: vec![client; MAX_LISTED],
                total: 1024,
            },
        };
        assert!(serde_json::to_string(&answer).unwrap().len() < MAX_MESSAGE);
    }

    #[test]
    fn roles_are_words_and_have_an_order() {
        for role in Role::ALL {
            assert_eq!(role.to_string().parse(), Ok(role));
            let json = serde_json::to_string(&role).unwrap();
            assert_eq!(json, format!("\"{role}\""));
        }
        assert!("Admin".parse::<Role>().is_err() && "".parse::<Role>().is_err());
        assert!(Role::View < Role::Control && Role::Control < Role::Admin);
    }
}
