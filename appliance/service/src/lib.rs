//! What the operating system asks of a running program, and what it tells its service manager.
#![forbid(unsafe_code)]

pub mod clients;
pub mod console;
#[cfg(unix)]
pub mod doctor;
#[cfg(unix)]
pub mod install;
#[cfg(unix)]
mod journal;
#[cfg(unix)]
pub mod keys;
#[cfg(unix)]
mod notify;
pub mod qr;
#[cfg(unix)]
mod signals;

#[cfg(unix)]
pub use notify::Notifier;
#[cfg(unix)]
pub use signals::{Request, SignalError, Signals};
