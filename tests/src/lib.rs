//! Library of the loopback tests: the real programs as processes, third-party peers beside them.
//!
//! [`harness::main`] lists the tests and runs them one after the other: most look at what comes within seconds, and
//! the machine may have two processors. A test that needs a program, root or a GStreamer element that is not there is
//! ignored and says what it needs. Each test gets a [`Stage`]: a folder for everything that its processes write, shown
//! when the test fails.
#![forbid(unsafe_code)]

pub mod harness;
pub mod media;
pub mod need;
pub mod process;
pub mod programs;
pub mod stage;
pub mod sway;
pub mod weston;
pub mod xvfb;

pub use harness::Test;
pub use need::Need;
pub use process::{Ended, Process, until};
pub use programs::{Server, TESTCARD};
pub use stage::Stage;
