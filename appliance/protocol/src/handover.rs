//! Who has keyboard and mouse, and the messages that pass them on: on the control channel, between the clients of one server.

use serde::{Deserialize, Serialize};

use crate::pairing::PeerName;

/// Most clients that wait for keyboard and mouse; one more is refused.
pub const MAX_ASKING: usize = 8;

/// What a client wants. `client` is a name, or at least the first eight digits of a fingerprint; left out it is who has asked
/// first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ControlRequest {
    /// To know who has keyboard and mouse; the answer is the state.
    Show {},
    /// To have them: at once where nobody has or uses them, else who has them is asked.
    Request {},
    /// To give them to one who has asked.
    Grant {
        /// To whom.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client: Option<String>,
    },
    /// To keep them though one has asked.
    Refuse {
        /// Whom to say no to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client: Option<String>,
    },
    /// To have them no more, or to ask no more.
    Release {},
    /// To have them at once, whoever has them; from admins.
    Take {},
}

/// What came of a [`ControlRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ControlAnswer {
    /// The client has keyboard and mouse.
    Given,
    /// Who has them is asked; another message tells how that ends.
    Asked,
    /// It is done.
    Done,
    /// Nothing was changed; or who has them keeps them.
    Refused(String),
}

/// A client, as the others see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// Its name for people.
    pub name: PeerName,
    /// The first 16 digits of its fingerprint.
    pub key: String,
}

/// How the client that is told stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Its role is to watch.
    Watches,
    /// It may ask for keyboard and mouse.
    May,
    /// It has asked.
    Asks,
    /// It has them.
    Controls,
}

/// When keyboard and mouse go over without a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HandoverRule {
    /// To who types, once who has them has been still for a while.
    #[default]
    Still,
    /// Never: they have to be asked for.
    Ask,
}

/// Who has keyboard and mouse, as a client is told at its start and at every change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlState {
    /// Who has them; nobody if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<Seat>,
    /// Who has asked for them, the first first; at most [`MAX_ASKING`].
    #[serde(default)]
    pub asking: Vec<Seat>,
    /// How the client that is told stands.
    pub you: Standing,
    /// When they go over without a word.
    #[serde(default)]
    pub rule: HandoverRule,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{FromClient, FromServer, MAX_MESSAGE};

    fn seat(name: &str) -> Seat {
        Seat {
            name: PeerName::new(name).unwrap(),
            key: "0123456789abcdef".to_owned(),
        }
    }

    #[test]
    fn messages_have_the_documented_form() {
        let grant = FromClient::Control(ControlRequest::Grant {
            client: Some("desk".to_owned()),
        });
        let text = serde_json::to_string(&grant).unwrap();
        assert_eq!(text, r#"{"type":"control","do":"grant","client":"desk"}"#);
        let grant = serde_json::from_str(r#"{"type":"control","do":"grant"}"#).unwrap();
        let first = ControlRequest::Grant { client: None };
        assert_eq!(FromClient::Control(first), grant);
        let take = serde_json::from_str(r#"{"type":"control","do":"take","later":1}"#).unwrap();
        assert_eq!(FromClient::Control(ControlRequest::Take {}), take);
        assert!(serde_json::from_str::<FromClient>(r#"{"type":"control","do":"own"}"#).is_err());
        let answer = FromServer::ControlAnswer {
            answer: ControlAnswer::Refused("no".to_owned()),
        };
        let text = serde_json::to_string(&answer).unwrap();
        assert_eq!(
            text,
            r#"{"type":"control_answer","answer":{"refused":"no"}}"#
        );
        let state = FromServer::Control {
            state: ControlState {
                controller: Some(seat("desk")),
                asking: Vec::new(),
                you: Standing::May,
                rule: HandoverRule::Still,
            },
        };
        let text = serde_json::to_string(&state).unwrap();
        let expected = r#"{"type":"control","state":{"controller":{"name":"desk","key":"0123456789abcdef"},"asking":[],"you":"may","rule":"still"}}"#;
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<FromServer>(&text).unwrap(), state);
    }

    #[test]
    fn a_full_state_fits_a_message() {
        let longest = seat(&"\u{1f5a5}".repeat(64));
        let state = ControlState {
            controller: Some(longest.clone()),
            asking: vec![longest; MAX_ASKING],
            you: Standing::Controls,
            rule: HandoverRule::Ask,
        };
        let text = serde_json::to_string(&FromServer::Control { state }).unwrap();
        assert!(text.len() < MAX_MESSAGE / 8);
    }
}
