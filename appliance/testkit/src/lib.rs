//! For tests and benchmarks: a lossy network in virtual time, hostile hosts on a real one, a desktop that is typed at.
#![forbid(unsafe_code)]

pub mod attack;
pub mod keyboard;
pub mod netem;
