//! Ids, units, time, messages and the story: what every other crate of Soft KVM may use.
//!
//! Nothing here reads a clock, opens a socket or starts a thread.
#![forbid(unsafe_code)]

pub mod lang;
pub mod prefix;
pub mod story;
pub mod time;
pub mod units;

pub use lang::Lang;
pub use prefix::IpPrefix;
pub use time::MonoTime;
pub use units::{Bitrate, FourCc, FrameRate, Size};
