//! The keys that are trusted.

use std::fs::{File, OpenOptions};

use serde::{Deserialize, Serialize};
use soft_kvm_protocol::pairing::PeerName;
use soft_kvm_protocol::roles::{ClientsRequest, Role};

use crate::policy::{self, By, Refusal};
use crate::{Fingerprint, StateDir, StateError};

const FILE: &str = "peers.json";
const LOCK: &str = "peers.lock";
const VERSION: u32 = 1;

/// Most peers in one store; far more than a seat or a server has.
const MAX_PEERS: usize = 1024;

/// Someone whose key is trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Name for people, as the peer gave it when it paired; not unique.
    pub name: PeerName,
    /// The pinned key.
    pub fingerprint: Fingerprint,
    /// What the peer may do. In a server's store; a client's says nothing by it. Without one it may control, as before
    /// there were roles.
    #[serde(default = "without_role")]
    pub role: Role,
    /// When it paired, by the wall clock of that day; for people only, nothing depends on it.
    pub paired_at: String,
    /// Where a server was last reached, `ADDRESS:PORT`; clients keep it for when mDNS finds nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

const fn without_role() -> Role {
    Role::Control
}

/// Why a client was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManageError {
    /// It must not be.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The file cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    peers: Vec<Peer>,
}

impl Default for Content {
    fn default() -> Self {
        Self {
            version: VERSION,
            peers: Vec::new(),
        }
    }
}

/// The pinned peers of one program, in one file.
///
/// Every call reads the file anew, so a peer that another process adds or removes counts at once. Changes are
/// made under a lock and land whole, so processes may change it at the same time.
#[derive(Clone, Debug)]
pub struct PeerStore {
    state: StateDir,
}

impl PeerStore {
    /// The store in `state`; a missing file is an empty store.
    ///
    /// # Errors
    ///
    /// The file is there but cannot be used.
    pub fn open(state: &StateDir) -> Result<Self, StateError> {
        let store = Self {
            state: state.clone(),
        };
        store.list()?;
        Ok(store)
    }

    /// All peers, by name.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn list(&self) -> Result<Vec<Peer>, StateError> {
        Ok(self.read()?.peers)
    }

    /// The peer with this key.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn find(&self, fingerprint: &Fingerprint) -> Result<Option<Peer>, StateError> {
        let found = |peer: &Peer| peer.fingerprint == *fingerprint;
        Ok(self.list()?.into_iter().find(found))
    }

    /// The peers with this name; several machines may carry the same.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn find_name(&self, name: &str) -> Result<Vec<Peer>, StateError> {
        let mut peers = self.list()?;
        peers.retain(|peer| peer.name.as_str().eq_ignore_ascii_case(name.trim()));
        Ok(peers)
    }

    /// Adds a peer; one with the same key is replaced, and keeps its address when the new entry has none.
    ///
    /// # Errors
    ///
    /// The file cannot be read or written, or is full (1024 entries).
    pub fn add(&self, mut peer: Peer) -> Result<(), StateError> {
        self.change(|peers| {
            if let Some(old) = remove_from(peers, &peer.fingerprint) {
                peer.address = peer.address.take().or(old.address);
            }
            peers.push(peer);
        })
    }

    /// Adds a client that has just paired; its role is as [`policy::role_at_pairing`] says, whatever `peer` has.
    ///
    /// # Errors
    ///
    /// As [`Self::add`].
    pub fn add_paired(&self, mut peer: Peer, wanted: Option<Role>) -> Result<Role, StateError> {
        self.change(|peers| {
            let first = peers.is_empty();
            let before = remove_from(peers, &peer.fingerprint).map(|old| old.role);
            peer.role = policy::role_at_pairing(wanted, before, first);
            let role = peer.role;
            peers.push(peer);
            role
        })
    }

    /// Changes a client as [`policy::apply`] says.
    ///
    /// # Errors
    ///
    /// The policy refuses, or the file cannot be read or written; nothing was changed then.
    pub fn manage(&self, by: By, request: &ClientsRequest) -> Result<Peer, ManageError> {
        self.try_change(|peers| policy::apply(peers, by, request))?
            .map_err(ManageError::Refused)
    }

    /// Removes the peer with this key and returns it.
    ///
    /// # Errors
    ///
    /// The file cannot be read or written.
    pub fn remove(&self, fingerprint: &Fingerprint) -> Result<Option<Peer>, StateError> {
        if self.find(fingerprint)?.is_none() {
            return Ok(None);
        }
        self.change(|peers| remove_from(peers, fingerprint))
    }

    /// Puts the key `new` in place of the newest of `old` that is trusted, once [`crate::succession`] has shown that they
    /// vouch for it; gives the peer as it is now and the key it had. Nothing when `new` is known, or none of `old` is.
    ///
    /// # Errors
    ///
    /// The file cannot be read or written.
    pub fn follow(
        &self,
        old: &[Fingerprint],
        new: Fingerprint,
    ) -> Result<Option<(Peer, Fingerprint)>, StateError> {
        let is_known = |peers: &[Peer], key| peers.iter().any(|peer| peer.fingerprint == key);
        let followed = |peers: &mut Vec<Peer>| {
            let newest = old.iter().find(|key| is_known(peers, **key)).copied();
            let before = newest.filter(|_| !is_known(peers, new)).ok_or(())?;
            let mut peer = remove_from(peers, &before).ok_or(())?;
            // Keys before that are out of use for as long.
            peers.retain(|peer| !old.contains(&peer.fingerprint));
            peer.fingerprint = new;
            peers.push(peer.clone());
            Ok::<_, ()>((peer, before))
        };
        // Every connection with a key that was rotated once comes by here.
        if old.is_empty() || self.find(&new)?.is_some() {
            return Ok(None);
        }
        Ok(self.try_change(followed)?.ok())
    }

    /// Remembers where the peer with this key was reached; writes nothing when that is known, or the peer is not.
    ///
    /// # Errors
    ///
    /// The file cannot be read or written.
    pub fn set_address(&self, fingerprint: &Fingerprint, address: &str) -> Result<(), StateError> {
        match self.find(fingerprint)? {
            Some(peer) if peer.address.as_deref() != Some(address) => self.change(|peers| {
                let found = peers.iter_mut().find(|p| p.fingerprint == *fingerprint);
                if let Some(peer) = found {
                    peer.address = Some(address.to_owned());
                }
            }),
            _ => Ok(()),
        }
    }

    /// The whole list as it is kept.
    pub(crate) fn text(&self) -> Result<String, StateError> {
        self.text_of(&self.read()?)
    }

    /// Counts the peers of a text as [`Self::text`] gives it.
    pub(crate) fn parse(text: &[u8]) -> Result<usize, String> {
        Self::content(text).map(|content| content.peers.len())
    }

    /// Puts a text that [`Self::parse`] takes in place of the list.
    pub(crate) fn replace(state: &StateDir, text: &str) -> Result<(), StateError> {
        let store = Self {
            state: state.clone(),
        };
        let _lock = store.lock()?;
        state.replace(FILE, text.as_bytes())
    }

    /// Forgets all peers.
    pub(crate) fn remove_all(state: &StateDir) -> Result<(), StateError> {
        let store = Self {
            state: state.clone(),
        };
        let _lock = store.lock()?;
        state.remove(FILE).map(drop)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Vec<Peer>) -> T) -> Result<T, StateError> {
        let change = |peers: &mut Vec<Peer>| Ok::<_, std::convert::Infallible>(change(peers));
        let Ok(result) = self.try_change(change)?;
        Ok(result)
    }

    /// Writes nothing when `change` fails.
    fn try_change<T, E>(
        &self,
        change: impl FnOnce(&mut Vec<Peer>) -> Result<T, E>,
    ) -> Result<Result<T, E>, StateError> {
        let _lock = self.lock()?;
        let mut content = self.read()?;
        let result = match change(&mut content.peers) {
            Ok(result) => result,
            Err(refused) => return Ok(Err(refused)),
        };
        if content.peers.len() > MAX_PEERS {
            return Err(self.corrupt(format!("has more than {MAX_PEERS} peers")));
        }
        content
            .peers
            .sort_by(|a, b| (&a.name, a.fingerprint).cmp(&(&b.name, b.fingerprint)));
        self.state
            .replace(FILE, self.text_of(&content)?.as_bytes())?;
        Ok(Ok(result))
    }

    fn text_of(&self, content: &Content) -> Result<String, StateError> {
        let text = serde_json::to_string_pretty(content)
            .map_err(|e| self.corrupt(format!("cannot be written as JSON ({e})")))?;
        Ok(text + "\n")
    }

    /// The lock is a file of its own: the store itself is replaced by every change.
    fn lock(&self) -> Result<File, StateError> {
        let path = self.state.file(LOCK);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|e| StateError::io(&path, "open", e))?;
        self.state.own(&file, &path)?;
        file.lock().map_err(|e| StateError::io(&path, "lock", e))?;
        Ok(file)
    }

    fn read(&self) -> Result<Content, StateError> {
        let Some(text) = self.state.read(FILE)? else {
            return Ok(Content::default());
        };
        Self::content(&text).map_err(|reason| self.corrupt(reason))
    }

    fn content(text: &[u8]) -> Result<Content, String> {
        let content: Content =
            serde_json::from_slice(text).map_err(|e| format!("is not a list of peers ({e})"))?;
        if content.version != VERSION {
            let version = content.version;
            return Err(format!(
                "has version {version}, this program reads {VERSION}"
            ));
        }
        if content.peers.len() > MAX_PEERS {
            return Err(format!("has more than {MAX_PEERS} peers"));
        }
        Ok(content)
    }

    fn corrupt(&self, reason: String) -> StateError {
        StateError::Corrupt {
            path: self.state.file(FILE),
            reason,
            cost: "every peer has to pair again",
        }
    }
}

fn remove_from(peers: &mut Vec<Peer>, fingerprint: &Fingerprint) -> Option<Peer> {
    let index = peers.iter().position(|p| p.fingerprint == *fingerprint)?;
    Some(peers.remove(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, PeerStore) {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open(root.path().join("s")).unwrap();
        (root, PeerStore::open(&state).unwrap())
    }

    fn peer(name: &str, key: u8) -> Peer {
        Peer {
            name: PeerName::new(name).unwrap(),
            fingerprint: Fingerprint::from_bytes([key; 32]),
            role: Role::Admin,
            paired_at: "2026-11-22".into(),
            address: None,
        }
    }

    #[test]
    fn peers_are_kept_by_key() {
        let (_root, store) = store();
        assert_eq!(store.list().unwrap(), []);
        store.add(peer("rack", 1)).unwrap();
        store.add(peer("desk", 2)).unwrap();
        store.add(peer("desk", 3)).unwrap();
        let again = PeerStore::open(&store.state).unwrap();
        assert_eq!(again.find_name("DESK").unwrap().len(), 2);
        let rack = Fingerprint::from_bytes([1; 32]);
        again.set_address(&rack, "192.0.2.1:7755").unwrap();
        store.add(peer("rack two", 1)).unwrap();
        let found = again.find(&rack).unwrap().unwrap();
        assert_eq!(found.name.as_str(), "rack two");
        assert_eq!(found.address.as_deref(), Some("192.0.2.1:7755"));
        assert_eq!(again.remove(&rack).unwrap(), Some(found));
        assert_eq!(store.find(&rack).unwrap(), None);
        assert_eq!(store.remove(&rack).unwrap(), None);
        assert_eq!(store.list().unwrap().len(), 2);
    }

    #[test]
    fn processes_that_write_together_lose_nothing() {
        let (_root, store) = store();
        std::thread::scope(|scope| {
            for key in 1..=16 {
                let store = store.clone();
                scope.spawn(move || store.add(peer("x", key)).unwrap());
            }
        });
        assert_eq!(store.list().unwrap().len(), 16);
    }

    #[test]
    fn pins_of_before_roles_stay_and_the_first_client_is_admin() {
        let (_root, store) = store();
        let key = "01".repeat(32);
        for (role, expected) in [("", Role::Control), (r#""role":"admin","#, Role::Admin)] {
            let text = format!(
                r#"{{"version":1,"peers":[{{"name":"old","fingerprint":"{key}",{role}"paired_at":"2026-11-22"}}]}}"#
            );
            store.state.replace(FILE, text.as_bytes()).unwrap();
            let old = store.list().unwrap().pop().unwrap();
            assert_eq!((old.name.as_str(), old.role), ("old", expected));
        }
        store.remove(&Fingerprint::from_bytes([1; 32])).unwrap();
        assert_eq!(store.add_paired(peer("a", 1), None).unwrap(), Role::Admin);
        assert_eq!(store.add_paired(peer("b", 2), None).unwrap(), Role::Control);
        let view = ClientsRequest::Role {
            client: "b".to_owned(),
            role: Role::View,
        };
        store.manage(By::Console, &view).unwrap();
        assert_eq!(store.add_paired(peer("b", 2), None).unwrap(), Role::View);
        let before = store.state.read(FILE).unwrap().unwrap();
        let by = By::Client(Fingerprint::from_bytes([2; 32]), Role::View);
        let refused = store.manage(by, &view).unwrap_err();
        assert!(matches!(refused, ManageError::Refused(Refusal::NotAdmin)));
        assert_eq!(store.state.read(FILE).unwrap().unwrap(), before);
    }

    #[test]
    fn a_pin_follows_to_the_next_key_and_the_old_one_is_a_stranger() {
        let (_root, store) = store();
        let key = |byte| Fingerprint::from_bytes([byte; 32]);
        store.add(peer("rack", 1)).unwrap();
        store.add(peer("desk", 9)).unwrap();
        assert_eq!(store.follow(&[], key(2)).unwrap(), None);
        assert_eq!(store.follow(&[key(7)], key(2)).unwrap(), None);
        assert_eq!(store.follow(&[key(1)], key(9)).unwrap(), None);
        let (now, before) = store.follow(&[key(7), key(1)], key(2)).unwrap().unwrap();
        assert_eq!(before, key(1));
        let expected = Peer {
            fingerprint: key(2),
            ..peer("rack", 1)
        };
        assert_eq!(now, expected);
        assert_eq!(store.find(&key(2)).unwrap(), Some(expected));
        assert_eq!(store.find(&key(1)).unwrap(), None);
        assert_eq!(store.list().unwrap().len(), 2);
    }

    #[test]
    fn a_damaged_store_is_refused_and_kept() {
        let (_root, store) = store();
        store.add(peer("rack", 1)).unwrap();
        let good = store.state.read(FILE).unwrap().unwrap();
        let text = std::str::from_utf8(&good).unwrap();
        for bad in [
            "",
            "{}",
            &text[..text.len() / 2],
            &text.replace("\"version\": 1", "\"version\": 2"),
            &text.replace("0101", "01"),
            &text.replace("rack", "\\u001b[2J"),
        ] {
            store.state.replace(FILE, bad.as_bytes()).unwrap();
            for error in [
                store.list().unwrap_err(),
                store.add(peer("desk", 2)).unwrap_err(),
            ] {
                assert!(matches!(error, StateError::Corrupt { .. }), "{error}");
            }
            let kept = store.state.read(FILE).unwrap().unwrap();
            assert_eq!(kept.as_slice(), bad.as_bytes());
        }
    }
}
