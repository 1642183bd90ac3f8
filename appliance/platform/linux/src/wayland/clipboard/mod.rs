//! A Wayland compositor's selection, by `ext-data-control-v1` or `wlr-data-control-unstable-v1`: the protocols for programs that
//! have no window and so never have the focus.

mod incoming;
mod kinds;
mod outgoing;
mod protocol;
mod state;
mod worker;

pub(crate) use worker::Worker;
