//! .

pub mod netem;
