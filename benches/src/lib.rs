//! Runs both programs against each other on this machine and measures them: what `cargo xtask demo` and the
//! benchmarks share.
//!
//! Server and client are processes of their own with real sockets between them; what they measured they
//! write themselves, what they cost is read from `/proc`.
#![forbid(unsafe_code)]

pub mod ending;
pub mod goals;
pub mod machine;
pub mod programs;
pub mod report;
pub mod rig;
pub mod run;
pub mod sampler;
pub mod table;
