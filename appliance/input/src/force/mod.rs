//! Force feedback on its way from the programs on the target to the operator's device.
//!
//! On the target an [`Outbox`] merges what programs do and sends no more than a device needs; on the operator's side a
//! [`Player`] knows what each server wants of each device, and lets only the server that has the input do it.

mod outbox;
mod pending;
mod player;

pub use outbox::Outbox;
pub use pending::Pending;
pub use player::{ForceDevice, LocalEffect, Player};
