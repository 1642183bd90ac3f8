//! The control plane: one TCP port, TLS 1.3, HTTP/1.1 with WebSocket upgrades, on the `control` thread.

pub(crate) mod clients;
mod clipboard;
mod door;
pub mod listener;
pub mod local;
pub mod metrics_http;
mod pair;
mod session;
mod sockets;
mod thread;
mod websocket;

pub(crate) use sockets::Sockets;
pub(crate) use thread::{Control, Listening};
