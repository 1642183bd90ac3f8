//! The keys that are trusted.

use std::fs::{File, OpenOptions};

use serde::{Deserialize, Serialize};
use soft_kvm_protocol::pairing::PeerName;

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
    /// What the peer may do: `admin` today.
    pub role: String,
    /// When it paired, by the wall clock of that day; for people only, nothing depends on it.
    pub paired_at: String,
    /// Where a server was last reached, `ADDRESS:PORT`; clients keep it for when mDNS finds nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    peers: Vec<Peer>,
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

    fn change<T>(&self, change: impl FnOnce(&mut Vec<Peer>) -> T) -> Result<T, StateError> {
        let _lock = self.lock()?;
        let mut content = self.read()?;
        let result = change(&mut content.peers);
        if content.peers.len() > MAX_PEERS {
            return Err(self.corrupt(format!("has more than {MAX_PEERS} peers")));
        }
        content
            .peers
            .sort_by(|a, b| (&a.name, a.fingerprint).cmp(&(&b.name, b.fingerprint)));
        content.version = VERSION;
        let mut text = serde_json::to_vec_pretty(&content)
            .map_err(|e| self.corrupt(format!("cannot be written as JSON ({e})")))?;
        text.push(b'\n');
        self.state.replace(FILE, &text)?;
        Ok(result)
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
        file.lock().map_err(|e| StateError::io(&path, "lock", e))?;
        Ok(file)
    }

    fn read(&self) -> Result<Content, StateError> {
        let Some(text) = self.state.read(FILE)? else {
            return Ok(Content::default());
        };
        let content: Content = serde_json::from_slice(&text)
            .map_err(|e| self.corrupt(format!("is not a list of peers ({e})")))?;
        if content.version != VERSION {
            let version = content.version;
            return Err(self.corrupt(format!(
                "has version {version}, this program reads {VERSION}"
            )));
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
            role: "admin".into(),
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
