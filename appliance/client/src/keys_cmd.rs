//! `soft-kvm-client key` and `factory-reset`: done on the state folder.

use std::path::Path;

use soft_kvm_security::StateDir;
use soft_kvm_service::console;
use soft_kvm_service::keys::{Changed, Place};

/// Lets `act` do something with the client's key. A client that runs goes on with the key of its start: whoever sits at it asks
/// for this.
///
/// # Errors
/// In words for the console.
pub fn run(
    state_dir: Option<&Path>,
    act: impl FnOnce(Place<'_>) -> anyhow::Result<Changed>,
) -> anyhow::Result<()> {
    let state = StateDir::open(console::state_path(state_dir, "client")?)?;
    let place = Place {
        program: "client",
        state: &state,
        running: false,
    };
    act(place).map(drop)
}
