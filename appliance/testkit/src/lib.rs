//! Fakes and a lossy network in virtual time, for tests.
#![forbid(unsafe_code)]

pub mod netem;
