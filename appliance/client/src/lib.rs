//! The client: finds, pairs, grabs, shows, records, measures.
#![forbid(unsafe_code)]

pub mod cli;
mod control;
pub mod devices;
mod grab;
pub mod record;
pub mod run;
pub mod screenshot;
mod session;
pub mod view;
mod window;
