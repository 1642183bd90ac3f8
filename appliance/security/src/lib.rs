//! Identity, pairing and pinned TLS 1.3 of Soft KVM.
//!
//! A machine *is* its key: [`Identity`] makes one at first start and keeps it, [`Fingerprint`] names it,
//! [`PeerStore`] remembers whose keys are trusted, [`tls`] talks to nobody else, and [`pairing`] turns a six-digit
//! code into an entry in both stores. Dates and host names in certificates mean nothing here.
#![forbid(unsafe_code)]

pub mod admission;
pub mod audit;
pub mod backup;
mod file;
mod fingerprint;
pub mod handover;
mod identity;
pub mod lan;
mod mode;
pub mod pairing;
mod peers;
pub mod policy;
mod reset;
pub mod succession;
pub mod tls;

pub use file::{StateDir, StateError};
pub use fingerprint::Fingerprint;
pub use identity::Identity;
pub use peers::{ManageError, Peer, PeerStore};
pub use reset::factory_reset;
