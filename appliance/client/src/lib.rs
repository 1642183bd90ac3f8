//! The client: finds, pairs, grabs, shows, records, measures.
#![forbid(unsafe_code)]

mod chords;
pub mod cli;
mod clipboard;
mod control;
mod desk;
pub mod devices;
pub mod doctor;
mod force;
mod grab;
pub mod keys_cmd;
pub mod record;
mod remote;
pub mod run;
pub mod screenshot;
mod session;
mod steer;
pub mod typing;
pub mod view;
mod window;
