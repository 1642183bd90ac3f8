//! `soft-kvm-server key` and `factory-reset`: done on the state folder, and kept in the audit log.

use std::path::Path;

use soft_kvm_platform::os::clock;
use soft_kvm_security::StateDir;
use soft_kvm_security::audit::{AuditLog, Event};
use soft_kvm_service::console;
use soft_kvm_service::keys::{Changed, Place};

use crate::control::local;

/// Lets `act` do something with the server's key, and keeps what changed in the audit log.
///
/// # Errors
/// In words for the console.
pub fn run(
    state_dir: Option<&Path>,
    act: impl FnOnce(Place<'_>) -> anyhow::Result<Changed>,
) -> anyhow::Result<()> {
    let path = console::state_path(state_dir, "server")?;
    let state = StateDir::open(&path)?;
    let changed = act(Place {
        program: "server",
        state: &state,
        running: local::is_running(&path),
    })?;
    let event = match changed {
        Changed::Nothing => return Ok(()),
        Changed::Rotated(key) => Event::KeyRotated {
            key: key.to_string(),
        },
        Changed::Restored(key) => Event::Restored {
            key: key.to_string(),
        },
        Changed::Reset => Event::FactoryReset {},
    };
    let at = console::timestamp(clock::wall());
    AuditLog::new(&state).append(&at, &[event])?;
    Ok(())
}
