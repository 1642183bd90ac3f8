//! Requests about the paired clients, wherever they come from, and what they do to live sessions.

use soft_kvm_protocol::roles::{
    ClientsAnswer, ClientsRequest, ListedClient, MAX_LISTED, PairingCode, Role,
};
use soft_kvm_security::audit::Event;
use soft_kvm_security::policy::{self, By};
use soft_kvm_security::{ManageError, Peer, PeerStore, StateError};

use crate::context::Context;
use crate::run::pairing_uri;

/// Answers a request; a session that may no longer be as it is has been cut when this returns.
pub(crate) fn answer(context: &Context, by: By, request: &ClientsRequest) -> ClientsAnswer {
    if let ClientsRequest::Pair { role } = request {
        let opened = policy::check(by)
            .map_err(|refusal| refusal.to_string())
            .and_then(|()| {
                context
                    .open_pairing(*role, by)
                    .map_err(|error| error.to_string())
            })
            .map(|code| PairingCode {
                uri: pairing_uri(context, &code),
                code,
            });
        return opened.map_or_else(ClientsAnswer::Refused, ClientsAnswer::Code);
    }
    let sessions = context.sessions.all();
    let connected = |peer: &Peer| sessions.iter().any(|s| s.peer == peer.fingerprint);
    let answer = answer_from_store(&context.peers, by, request, connected);
    if let ClientsAnswer::Done(client) = &answer {
        context.audit.record(event(by, request, client));
        if let Err(error) = enforce(context) {
            tracing::error!("cannot read the paired clients: {error}");
        }
    }
    answer
}

/// What the audit log keeps of a change.
pub(crate) fn event(by: By, request: &ClientsRequest, now: &ListedClient) -> Event {
    let client = now.name.to_string();
    let key = now.fingerprint.clone();
    let role = now.role;
    let by = by.to_string();
    match request {
        ClientsRequest::Revoke { .. } => Event::Revoked { client, key, by },
        ClientsRequest::Rename { .. } => Event::Renamed { client, key, by },
        _ => Event::RoleChanged {
            client,
            key,
            role,
            by,
        },
    }
}

/// The same where no server runs.
pub(crate) fn answer_from_store(
    peers: &PeerStore,
    by: By,
    request: &ClientsRequest,
    connected: impl Fn(&Peer) -> bool,
) -> ClientsAnswer {
    let outcome = match request {
        ClientsRequest::List { from } => policy::check(by)
            .map_err(ManageError::from)
            .and_then(|()| page(peers, *from, &connected).map_err(ManageError::from)),
        change => peers
            .manage(by, change)
            .map(|peer| ClientsAnswer::Done(listed(&peer, &connected))),
    };
    outcome.unwrap_or_else(|error| {
        if matches!(error, ManageError::State(_)) {
            tracing::error!("{error}");
        }
        ClientsAnswer::Refused(error.to_string())
    })
}

fn page(
    peers: &PeerStore,
    from: u32,
    connected: impl Fn(&Peer) -> bool,
) -> Result<ClientsAnswer, StateError> {
    let all = peers.list()?;
    let from = usize::try_from(from).unwrap_or(usize::MAX);
    let clients = all.iter().skip(from).take(MAX_LISTED);
    Ok(ClientsAnswer::List {
        clients: clients.map(|peer| listed(peer, &connected)).collect(),
        total: u32::try_from(all.len()).unwrap_or(u32::MAX),
    })
}

fn listed(peer: &Peer, connected: impl Fn(&Peer) -> bool) -> ListedClient {
    ListedClient {
        name: peer.name.clone(),
        fingerprint: peer.fingerprint.to_string(),
        role: peer.role,
        paired_at: peer.paired_at.clone(),
        connected: connected(peer),
    }
}

/// Cuts the sessions of those that are no longer paired or have another role now; these may come back with it.
pub(crate) fn enforce(context: &Context) -> Result<(), StateError> {
    let peers = context.peers.list()?;
    context.sessions.cut(|session| {
        let peer = peers.iter().find(|peer| peer.fingerprint == session.peer);
        verdict(session.gate.role(), peer.map(|peer| peer.role))
    });
    Ok(())
}

/// Why a session that began with one role ends when its client has another, or none.
fn verdict(before: Option<Role>, now: Option<Role>) -> Option<(&'static str, String)> {
    match (before, now) {
        (_, None) => Some(("revoked", "this client is no longer paired".to_owned())),
        (Some(before), Some(now)) if before != now => {
            Some(("role", format!("this client's role is {now} now")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_end_when_their_right_to_be_does() {
        let code = |before, now| verdict(before, now).map(|(code, _)| code);
        assert_eq!(code(Some(Role::Admin), None), Some("revoked"));
        assert_eq!(code(Some(Role::Admin), Some(Role::View)), Some("role"));
        assert_eq!(code(Some(Role::View), Some(Role::Admin)), Some("role"));
        assert_eq!(code(Some(Role::View), Some(Role::View)), None);
        // Cut already.
        assert_eq!(code(None, Some(Role::View)), None);
    }
}
