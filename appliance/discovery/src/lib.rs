//! Servers announce themselves on the link, clients find them: `_soft-kvm._tcp.local` (RFC 6762, RFC 6763).
//!
//! What is found is a hint and never a reason to trust: whoever is on the link can announce any name. Trust is in
//! the pinned keys.
#![forbid(unsafe_code)]

mod announce;
mod browse;

use std::time::Duration;

use mdns_sd::{IfKind, ServiceDaemon};

/// Bodies of the fuzz targets in `fuzz/`. Not a public interface.
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::browse::fuzzing::announcements;
}

pub use announce::{Announcement, Txt};
pub use browse::{Server, browse, resolve};

/// The service type.
pub const SERVICE_TYPE: &str = "_soft-kvm._tcp.local.";

/// Seconds between two looks at the interfaces; a new one is announced within this.
const INTERFACE_CHECK_SECONDS: u32 = 2;

/// How long a goodbye may take.
const SHUTDOWN_LIMIT: Duration = Duration::from_millis(500);

/// Why nothing can be announced or found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoveryError {
    /// The machine has no address but its own loopback.
    #[error(
        "no network: every interface but loopback is down or has no address; give the server's address instead of its name"
    )]
    NoNetwork,
    /// The responder failed.
    #[error("mDNS: {0}; check that UDP port 5353 is not held by a program that does not share it")]
    Mdns(#[from] mdns_sd::Error),
    /// Nobody with this name answered.
    #[error(
        "no server named {name:?} answered within {seconds:.1} s: check that it runs and is on this link, or give its address"
    )]
    NotFound {
        /// The name.
        name: String,
        /// How long it was waited for.
        seconds: f32,
    },
}

/// Whether there is an interface to talk through.
#[must_use]
pub fn has_network() -> bool {
    if_addrs::get_if_addrs().is_ok_and(|interfaces| {
        interfaces
            .iter()
            .any(|i| !i.is_loopback() && i.is_oper_up())
    })
}

/// The responder's thread, without loopback: what is only for this machine is reached by address.
fn daemon() -> Result<ServiceDaemon, mdns_sd::Error> {
    let daemon = ServiceDaemon::new()?;
    daemon.disable_interface(vec![IfKind::LoopbackV4, IfKind::LoopbackV6])?;
    daemon.set_ip_check_interval(INTERFACE_CHECK_SECONDS)?;
    Ok(daemon)
}

/// Ends the responder's thread, after its goodbyes.
fn shut_down(daemon: &ServiceDaemon) {
    if let Ok(done) = daemon.shutdown() {
        let _ = done.recv_timeout(SHUTDOWN_LIMIT);
    }
}
