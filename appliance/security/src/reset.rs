//! As new.

use crate::{Identity, PeerStore, StateDir, StateError};

/// Forgets the key and all peers of this machine; the next start makes a new key. The audit log stays. Says whether there was
/// a key.
///
/// # Errors
///
/// A file cannot be removed; the peers go first, so that nobody is trusted by half a reset.
pub fn factory_reset(state: &StateDir) -> Result<bool, StateError> {
    PeerStore::remove_all(state)?;
    Identity::remove(state)
}
