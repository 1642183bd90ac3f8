//! The server: wiring of sources, encoder, transport, control and input.
#![forbid(unsafe_code)]

pub mod audit;
pub mod audit_cmd;
pub mod broker;
pub mod cli;
pub mod clipboard;
pub mod context;
pub mod control;
pub mod devices;
pub mod doctor;
mod front;
pub mod keys_cmd;
mod lan;
mod lock;
mod network;
pub mod pipeline;
pub mod run;
pub mod session;
mod settings;
mod stats;
pub mod story_cmd;
