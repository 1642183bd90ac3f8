//! Who may do what, and how that is changed: pure decisions about a list of peers.

use std::fmt;

use soft_kvm_protocol::pairing::PeerName;
use soft_kvm_protocol::roles::{ClientsRequest, MAX_CLIENT_TEXT, Role};

use crate::{Fingerprint, Peer};

/// Fewest digits of a fingerprint that name a client.
const MIN_DIGITS: usize = 8;

/// Something that not every paired client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Make devices on the target and send their events.
    Inject,
    /// Get what is copied on the target, and put texts into its clipboard.
    Clipboard,
    /// List and change the paired clients.
    Manage,
    /// Have keyboard and mouse at once, whoever has them.
    Take,
}

/// Whether a client with this role may do this. The only place that says so.
#[must_use]
pub fn may(role: Role, act: Act) -> bool {
    match act {
        Act::Inject | Act::Clipboard => role >= Role::Control,
        Act::Manage | Act::Take => role >= Role::Admin,
    }
}

/// Who asks for a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The server's own user, on its machine.
    Console,
    /// Who pressed the server's button.
    Button,
    /// A client, with the role that its session has.
    Client(Fingerprint, Role),
}

impl fmt::Display for By {
    /// `console`, `button`, or the client's key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Console => f.write_str("console"),
            Self::Button => f.write_str("button"),
            Self::Client(key, _) => fmt::Display::fmt(key, f),
        }
    }
}

/// Why a change is refused; nothing was changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The role does not allow it.
    #[error("only admins may do that")]
    NotAdmin,
    /// Nobody is called so.
    #[error(
        "no paired client is called {0:?}: list them, or give the first digits of its fingerprint"
    )]
    Unknown(String),
    /// Several are.
    #[error("several clients are meant: give the fingerprint of one of {}", .0.join(", "))]
    Ambiguous(Vec<String>),
    /// Over the network nobody could set it right again.
    #[error("this is the last admin: only the server's own console may change that")]
    LastAdmin,
    /// The request changes nothing by its kind.
    #[error("this request is not understood")]
    Request,
}

/// What a newly paired client may do: what was `wanted` when the pairing was opened, or what the same key could do
/// `before`, or everything for the `first`, or control.
#[must_use]
pub fn role_at_pairing(wanted: Option<Role>, before: Option<Role>, first: bool) -> Role {
    let usual = if first { Role::Admin } else { Role::Control };
    wanted.or(before).unwrap_or(usual)
}

/// Whom a text means: a whole fingerprint, else a name or the first eight or more digits of a fingerprint.
///
/// # Errors
/// Nobody, or several: a client that takes another's name, or digits for a name, never stands for that one.
pub fn select(peers: &[Peer], text: &str) -> Result<Fingerprint, Refusal> {
    let text = text.trim();
    if text.len() > MAX_CLIENT_TEXT {
        return Err(Refusal::Unknown("…".to_owned()));
    }
    let exact = text.parse::<Fingerprint>().ok();
    if let Some(key) = exact
        && peers.iter().any(|peer| peer.fingerprint == key)
    {
        return Ok(key);
    }
    let digits = text.len() >= MIN_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let digits = digits.then(|| text.to_ascii_lowercase());
    let meant = |peer: &&Peer| {
        let begins = |digits: &String| peer.fingerprint.to_string().starts_with(digits.as_str());
        peer.name.as_str().eq_ignore_ascii_case(text) || digits.as_ref().is_some_and(begins)
    };
    let found: Vec<_> = peers
        .iter()
        .filter(meant)
        .map(|peer| peer.fingerprint)
        .collect();
    match found.as_slice() {
        [] => Err(Refusal::Unknown(text.to_owned())),
        [one] => Ok(*one),
        several => Err(Refusal::Ambiguous(
            several.iter().map(Fingerprint::short).collect(),
        )),
    }
}

/// Applies a request that changes something; gives the peer as it is after, or was before it was revoked.
///
/// # Errors
/// Nothing was changed.
pub fn apply(peers: &mut Vec<Peer>, by: By, request: &ClientsRequest) -> Result<Peer, Refusal> {
    check(by)?;
    let (text, change) = match request {
        ClientsRequest::Role { client, role } => (client, Change::Role(*role)),
        ClientsRequest::Revoke { client } => (client, Change::Revoke),
        ClientsRequest::Rename { client, name } => (client, Change::Rename(name)),
        _ => return Err(Refusal::Request),
    };
    let key = select(peers, text)?;
    let unknown = || Refusal::Unknown(text.clone());
    let at = peers
        .iter()
        .position(|peer| peer.fingerprint == key)
        .ok_or_else(unknown)?;
    let takes_admin = match change {
        Change::Role(role) => role != Role::Admin,
        Change::Revoke => true,
        Change::Rename(_) => false,
    };
    let others = peers.iter().filter(|peer| peer.fingerprint != key);
    if by != By::Console && takes_admin && !others.into_iter().any(|peer| peer.role == Role::Admin)
    {
        return Err(Refusal::LastAdmin);
    }
    if let Change::Revoke = change {
        return Ok(peers.remove(at));
    }
    let peer = peers.get_mut(at).ok_or_else(unknown)?;
    match change {
        Change::Role(role) => peer.role = role,
        Change::Rename(name) => peer.name = name.clone(),
        Change::Revoke => {}
    }
    Ok(peer.clone())
}

/// Whether who asks may know or change who is paired.
///
/// # Errors
/// They may not.
pub fn check(by: By) -> Result<(), Refusal> {
    match by {
        By::Client(_, role) if !may(role, Act::Manage) => Err(Refusal::NotAdmin),
        _ => Ok(()),
    }
}

enum Change<'a> {
    Role(Role),
    Revoke,
    Rename(&'a PeerName),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peer(name: &str, key: u8, role: Role) -> Peer {
        Peer {
            name: PeerName::new(name).unwrap(),
            fingerprint: Fingerprint::from_bytes([key; 32]),
            role,
            paired_at: "2026-11-22".to_owned(),
            address: None,
        }
    }

    #[test]
    fn viewers_only_watch_and_only_admins_manage() {
        let allowed = |act| Role::ALL.map(|role| may(role, act));
        assert_eq!(allowed(Act::Inject), [false, true, true]);
        assert_eq!(allowed(Act::Clipboard), [false, true, true]);
        for act in [Act::Manage, Act::Take] {
            assert_eq!(allowed(act), [false, false, true]);
        }
    }

    #[test]
    fn the_first_is_admin_later_ones_control_and_nobody_rises_by_pairing_again() {
        assert_eq!(role_at_pairing(None, None, true), Role::Admin);
        assert_eq!(role_at_pairing(None, None, false), Role::Control);
        assert_eq!(role_at_pairing(None, Some(Role::View), false), Role::View);
        let wanted = Some(Role::Control);
        assert_eq!(
            role_at_pairing(wanted, Some(Role::View), false),
            Role::Control
        );
        assert_eq!(role_at_pairing(Some(Role::View), None, true), Role::View);
    }

    #[test]
    fn no_name_stands_for_another_key() {
        let digits = "0202020202020202";
        let peers = [
            peer("desk", 1, Role::Admin),
            peer("rack", 2, Role::View),
            peer("rack", 3, Role::View),
            peer(digits, 4, Role::View),
            peer(&"05".repeat(32), 6, Role::View),
            peer("five", 5, Role::View),
        ];
        let key = |byte| Ok(Fingerprint::from_bytes([byte; 32]));
        assert_eq!(select(&peers, " DESK "), key(1));
        assert_eq!(select(&peers, "03030303"), key(3));
        assert!(matches!(
            select(&peers, "0303030"),
            Err(Refusal::Unknown(_))
        ));
        assert!(matches!(select(&peers, ""), Err(Refusal::Unknown(_))));
        assert!(matches!(
            select(&peers, &"0".repeat(9_999)),
            Err(Refusal::Unknown(_))
        ));
        for several in ["rack", digits] {
            assert!(matches!(
                select(&peers, several),
                Err(Refusal::Ambiguous(_))
            ));
        }
        assert_eq!(select(&peers, &"05".repeat(32)), key(5));
    }

    #[test]
    fn the_last_admin_falls_at_the_console_only() {
        let revoke = ClientsRequest::Revoke {
            client: "a".to_owned(),
        };
        let mut peers = vec![peer("a", 1, Role::Admin), peer("b", 2, Role::Control)];
        let by = By::Client(Fingerprint::from_bytes([1; 32]), Role::Admin);
        assert_eq!(apply(&mut peers, by, &revoke), Err(Refusal::LastAdmin));
        assert!(apply(&mut peers, By::Console, &revoke).is_ok());
        assert_eq!(peers.len(), 1);
    }

    fn role() -> impl Strategy<Value = Role> {
        prop::sample::select(Role::ALL.to_vec())
    }

    fn request() -> impl Strategy<Value = ClientsRequest> {
        (0_u8..6, 0_u8..4, role()).prop_map(|(client, kind, role)| {
            let client = format!("n{client}");
            match kind {
                0 => ClientsRequest::Role { client, role },
                1 => ClientsRequest::Revoke { client },
                2 => ClientsRequest::Rename {
                    client,
                    name: PeerName::new("new").unwrap(),
                },
                _ => ClientsRequest::List { from: 0 },
            }
        })
    }

    proptest! {
        #[test]
        fn changes_touch_one_client_and_leave_an_admin(
            roles in prop::collection::vec(role(), 0..6),
            console in any::<bool>(),
            asker in role(),
            request in request(),
        ) {
            let numbered = (0_u8..).zip(&roles);
            let mut peers: Vec<_> = numbered.map(|(n, role)| peer(&format!("n{n}"), n, *role)).collect();
            let before = peers.clone();
            let admins = |peers: &[Peer]| peers.iter().filter(|p| p.role == Role::Admin).count();
            let by = if console {
                By::Console
            } else {
                By::Client(Fingerprint::from_bytes([9; 32]), asker)
            };
            match apply(&mut peers, by, &request) {
                Err(_) => prop_assert_eq!(&peers, &before),
                Ok(changed) => {
                    prop_assert!(console || asker == Role::Admin);
                    let others = |peers: &[Peer]| -> Vec<Peer> {
                        let other = |p: &&Peer| p.fingerprint != changed.fingerprint;
                        peers.iter().filter(other).cloned().collect()
                    };
                    prop_assert_eq!(others(&peers), others(&before));
                    prop_assert!(console || admins(&before) == 0 || admins(&peers) > 0);
                }
            }
        }

        #[test]
        fn any_text_selects_one_or_says_why(text in ".{0,80}") {
            let peers = [peer("desk", 1, Role::Admin), peer("rack", 2, Role::View)];
            let _ = select(&peers, &text);
        }
    }
}
