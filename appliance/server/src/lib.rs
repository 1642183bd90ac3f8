//! The server: wiring of sources, encoder, transport, control and input.
#![forbid(unsafe_code)]

pub mod cli;
pub mod context;
pub mod control;
pub mod devices;
mod network;
pub mod pipeline;
pub mod run;
pub mod session;
mod settings;
mod stats;
pub mod story_cmd;
