//! A machine's key and pins in one file, encrypted with a passphrase.
//!
//! ```text
//! offset size
//!      0   16  "SOFT-KVM BACKUP1"
//!     16    4  memory for Argon2id in KiB, big endian
//!     20    4  passes over it, big endian
//!     24   16  salt
//!     40   12  nonce
//!     52    …  ChaCha20-Poly1305 (RFC 8439) of the content as JSON, with the 52 bytes before as associated data
//! ```
//!
//! The 32 bytes of the cipher's key are Argon2id (RFC 9106) of the passphrase and the salt, with one lane.

use argon2::{Algorithm, Argon2, Params, Version};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use crate::{Fingerprint, Identity, PeerStore, StateDir, StateError};

const MAGIC: &[u8; 16] = b"SOFT-KVM BACKUP1";
const HEADER: usize = 52;
/// Shortest passphrase, in characters.
pub const MIN_PASSPHRASE: usize = 8;
/// Longest backup that is read, in bytes.
pub const MAX_LEN: usize = 4 * 1024 * 1024;
/// RFC 9106 §4, for where 2 GiB are too much: 64 MiB, three passes.
const COST: Cost = Cost {
    memory: 64 * 1024,
    passes: 3,
};
/// What a file may ask for: nobody's memory or afternoon.
const MAX_COST: Cost = Cost {
    memory: 1024 * 1024,
    passes: 16,
};

#[derive(Clone, Copy)]
struct Cost {
    /// In KiB.
    memory: u32,
    passes: u32,
}

/// Why a backup was not made or not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// Too short.
    #[error("the passphrase has to have at least {MIN_PASSPHRASE} characters")]
    Passphrase,
    /// Another file, or a damaged one.
    #[error("this is no backup of Soft KVM, or not one that this version reads")]
    Unknown,
    /// Cannot be told apart.
    #[error("the passphrase is wrong, or the file is damaged")]
    Wrong,
    /// Of the other program.
    #[error("this is a backup of a {there}, not of a {here}")]
    Program {
        /// `server` or `client`, as in the file.
        there: String,
        /// What is asked for.
        here: &'static str,
    },
    /// The state folder has another key.
    #[error("{0} is this machine's key already: --force puts the backup in its place")]
    Occupied(Fingerprint),
    /// Its content cannot be used.
    #[error("the backup's {0}")]
    Content(String),
    /// A state file cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
}

/// What is kept.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    /// `server` or `client`.
    program: String,
    made_at: String,
    identity: String,
    peers: String,
}

impl Drop for Content {
    fn drop(&mut self) {
        self.identity.zeroize();
    }
}

/// What is in a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The machine's key.
    pub key: Fingerprint,
    /// How many peers are pinned.
    pub peers: usize,
    /// When it was made, by the wall clock of that day.
    pub made_at: String,
}

/// The key and the pins in `state` as an encrypted backup of `program` (`server`, `client`).
///
/// # Errors
///
/// The passphrase is too short, or a file cannot be read.
pub fn seal(
    state: &StateDir,
    program: &'static str,
    made_at: &str,
    passphrase: &str,
) -> Result<(Vec<u8>, Summary), BackupError> {
    seal_at(COST, state, program, made_at, passphrase)
}

fn seal_at(
    cost: Cost,
    state: &StateDir,
    program: &'static str,
    made_at: &str,
    passphrase: &str,
) -> Result<(Vec<u8>, Summary), BackupError> {
    if passphrase.chars().count() < MIN_PASSPHRASE {
        return Err(BackupError::Passphrase);
    }
    let identity = Identity::load_or_create(state)?;
    let peers = PeerStore::open(state)?;
    let summary = Summary {
        key: identity.fingerprint(),
        peers: peers.list()?.len(),
        made_at: made_at.to_owned(),
    };
    let content = Content {
        version: 1,
        program: program.to_owned(),
        made_at: made_at.to_owned(),
        identity: (*Identity::text(state)?).clone(),
        peers: peers.text()?,
    };
    let random = |buffer: &mut [u8]| {
        let failed = |_| StateError::Key("no random numbers".to_owned());
        SystemRandom::new().fill(buffer).map_err(failed)
    };
    let json = serde_json::to_vec(&content).map_err(|e| BackupError::Content(e.to_string()))?;
    let mut body = Zeroizing::new(json);
    let mut sealed = Vec::with_capacity(HEADER + body.len() + CHACHA20_POLY1305.tag_len());
    sealed.extend_from_slice(MAGIC);
    sealed.extend_from_slice(&cost.memory.to_be_bytes());
    sealed.extend_from_slice(&cost.passes.to_be_bytes());
    let (mut salt, mut nonce) = ([0; 16], [0; 12]);
    random(&mut salt)?;
    random(&mut nonce)?;
    sealed.extend_from_slice(&salt);
    sealed.extend_from_slice(&nonce);
    let key = key(passphrase, &salt, cost)?;
    let (nonce, header) = (Nonce::assume_unique_for_key(nonce), Aad::from(&sealed));
    key.seal_in_place_append_tag(nonce, header, &mut *body)
        .map_err(|_| BackupError::Wrong)?;
    sealed.extend_from_slice(&body);
    Ok((sealed, summary))
}

/// Puts the key and the pins of a backup into `state`; a key that is there already only by `force`.
///
/// # Errors
///
/// Nothing was changed, unless a file could not be written: then the key is still the old one.
pub fn restore(
    state: &StateDir,
    program: &'static str,
    sealed: &[u8],
    passphrase: &str,
    force: bool,
) -> Result<Summary, BackupError> {
    let content = open(sealed, passphrase)?;
    if content.program != program {
        return Err(BackupError::Program {
            there: content.program.chars().take(32).collect(),
            here: program,
        });
    }
    let identity = Identity::parse(content.identity.as_bytes()).map_err(BackupError::Content)?;
    let peers = PeerStore::parse(content.peers.as_bytes()).map_err(BackupError::Content)?;
    if !force
        && let Some(there) = Identity::load(state)?
        && there.fingerprint() != identity.fingerprint()
    {
        return Err(BackupError::Occupied(there.fingerprint()));
    }
    PeerStore::replace(state, &content.peers)?;
    Identity::replace(state, &content.identity)?;
    Ok(Summary {
        key: identity.fingerprint(),
        peers,
        made_at: content.made_at.clone(),
    })
}

fn open(sealed: &[u8], passphrase: &str) -> Result<Content, BackupError> {
    let (header, body) = sealed
        .split_at_checked(HEADER)
        .filter(|(header, _)| header.starts_with(MAGIC) && sealed.len() <= MAX_LEN)
        .ok_or(BackupError::Unknown)?;
    let number = |at| {
        header
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u32::from_be_bytes)
    };
    let cost = Cost {
        memory: number(16),
        passes: number(20),
    };
    if cost.memory > MAX_COST.memory || cost.passes > MAX_COST.passes {
        return Err(BackupError::Unknown);
    }
    let salt = header.get(24..40).unwrap_or_default();
    let nonce = header.get(40..HEADER).unwrap_or_default();
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| BackupError::Unknown)?;
    let mut body = Zeroizing::new(body.to_vec());
    let json = key(passphrase, salt, cost)?
        .open_in_place(nonce, Aad::from(header), &mut body)
        .map_err(|_| BackupError::Wrong)?;
    let content: Content =
        serde_json::from_slice(json).map_err(|e| BackupError::Content(e.to_string()))?;
    (content.version == 1)
        .then_some(content)
        .ok_or(BackupError::Unknown)
}

fn key(passphrase: &str, salt: &[u8], cost: Cost) -> Result<LessSafeKey, BackupError> {
    let mut key = Zeroizing::new([0; 32]);
    let parameters = Params::new(cost.memory, cost.passes, 1, Some(key.len()))
        .map_err(|_| BackupError::Unknown)?;
    Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters)
        .hash_password_into(passphrase.as_bytes(), salt, key.as_mut())
        .map_err(|_| BackupError::Unknown)?;
    let key = UnboundKey::new(&CHACHA20_POLY1305, key.as_ref());
    key.map(LessSafeKey::new).map_err(|_| BackupError::Unknown)
}

#[cfg(test)]
mod tests {
    use soft_kvm_protocol::pairing::PeerName;
    use soft_kvm_protocol::roles::Role;

    use super::*;
    use crate::Peer;

    const CHEAP: Cost = Cost {
        memory: 64,
        passes: 1,
    };
    const SECRET: &str = "correct horse";

    fn state() -> (tempfile::TempDir, StateDir) {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open(root.path().join("s")).unwrap();
        (root, state)
    }

    fn paired() -> (tempfile::TempDir, StateDir, Peer) {
        let (root, state) = state();
        Identity::load_or_create(&state).unwrap();
        Identity::rotate(&state).unwrap();
        let peer = Peer {
            name: PeerName::new("desk").unwrap(),
            fingerprint: Fingerprint::from_bytes([7; 32]),
            role: Role::View,
            paired_at: "2026-11-25".to_owned(),
            address: None,
        };
        PeerStore::open(&state).unwrap().add(peer.clone()).unwrap();
        (root, state, peer)
    }

    #[test]
    fn another_machine_becomes_this_one() {
        let (_root, old, peer) = paired();
        let identity = Identity::load_or_create(&old).unwrap();
        let (sealed, summary) = seal_at(CHEAP, &old, "server", "2026-11-25", SECRET).unwrap();
        let named = |text: &str| sealed.windows(text.len()).any(|w| w == text.as_bytes());
        assert!(!named("PRIVATE") && !named("desk"));
        let (_other, new) = state();
        let restored = restore(&new, "server", &sealed, SECRET, false).unwrap();
        assert_eq!(restored, summary);
        let again = Identity::load_or_create(&new).unwrap();
        assert_eq!(again.chain(), identity.chain());
        assert_eq!(PeerStore::open(&new).unwrap().list().unwrap(), [peer]);
        // Once more changes nothing; another key is not overwritten by mistake.
        restore(&new, "server", &sealed, SECRET, false).unwrap();
        let (_third, other) = state();
        let kept = Identity::load_or_create(&other).unwrap().fingerprint();
        let error = restore(&other, "server", &sealed, SECRET, false).unwrap_err();
        assert!(matches!(error, BackupError::Occupied(key) if key == kept));
        assert_eq!(PeerStore::open(&other).unwrap().list().unwrap(), []);
        restore(&other, "server", &sealed, SECRET, true).unwrap();
        let now = Identity::load_or_create(&other).unwrap().fingerprint();
        assert_eq!(now, identity.fingerprint());
    }

    #[test]
    fn nothing_is_read_without_the_passphrase_or_from_a_changed_file() {
        let (_root, old, _) = paired();
        let (sealed, _) = seal_at(CHEAP, &old, "client", "2026-11-25", SECRET).unwrap();
        let (_other, new) = state();
        let refused = |sealed: &[u8], secret: &str, program| {
            let error = restore(&new, program, sealed, secret, true).unwrap_err();
            assert!(Identity::load(&new).unwrap().is_none());
            error
        };
        let error = refused(&sealed, "correct house", "client");
        assert!(matches!(error, BackupError::Wrong));
        let error = refused(&sealed, SECRET, "server");
        assert!(matches!(error, BackupError::Program { .. }));
        for at in (0..HEADER).chain((HEADER..sealed.len()).step_by(11)) {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            let error = refused(&changed, SECRET, "client");
            assert!(
                matches!(error, BackupError::Wrong | BackupError::Unknown),
                "{at}: {error}"
            );
        }
        for length in [0, 16, HEADER - 1, HEADER, HEADER + 15, sealed.len() - 1] {
            refused(&sealed[..length], SECRET, "client");
        }
        // A file that asks for a terabyte.
        let mut greedy = sealed.clone();
        greedy[16..20].copy_from_slice(&[0x3f, 0, 0, 0]);
        assert!(matches!(
            refused(&greedy, SECRET, "client"),
            BackupError::Unknown
        ));
        let error = seal_at(CHEAP, &old, "client", "", "short").unwrap_err();
        assert!(matches!(error, BackupError::Passphrase));
    }

    #[test]
    fn the_real_cost_works() {
        let (_root, old, _) = paired();
        let (sealed, summary) = seal(&old, "server", "2026-11-25", SECRET).unwrap();
        let (_other, new) = state();
        let restored = restore(&new, "server", &sealed, SECRET, false).unwrap();
        assert_eq!(restored, summary);
    }
}
