//! Text typed on the target, by the keys of its layout: `soft-kvm-client type`, and pasting into the window.
//!
//! [`keyboard`] reads what a layout can type, [`soft_kvm_input::text`] plans the keys, the typist sends them.

mod command;
pub mod keyboard;
mod lamps;
mod paste;
mod typist;

pub use command::run;
pub(crate) use lamps::Lamps;
pub(crate) use paste::Paste;
pub(crate) use typist::Typist;
