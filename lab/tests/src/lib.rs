//! The device lab's test library: one binary that is host and guest.
//!
//! On the host, [`host::main`] lists the tests and boots one kernel for each (two, joined by a wire, for
//! tests with two machines). Inside, the same binary runs the test's function with the helpers of [`guest`].
//! `lab/README.md` shows how to write a test.
#![forbid(unsafe_code)]

pub mod guest;
pub mod host;
mod platform;

use std::time::Duration;

/// One test: what has to be loaded, and what each kernel runs.
#[derive(Clone, Copy, Debug)]
pub struct LabTest {
    /// The name on the command line and in the results.
    pub name: &'static str,
    /// Kernel modules loaded before the test, without parameters; [`guest::modprobe`] takes parameters.
    pub modules: &'static [&'static str],
    /// The lab's own kernel modules (folders of `lab/modules`) that [`guest::insmod`] loads; the test is skipped
    /// where they are not built.
    pub own_modules: &'static [&'static str],
    /// Whether libva loads the lab's virtual VA driver (`lab/va-virtual`); the test is skipped where it is not built.
    pub va_driver: bool,
    /// Programs that have to be installed; the test is skipped without them.
    pub programs: &'static [&'static str],
    /// Whether udev runs inside (1 s more).
    pub udev: bool,
    /// Whether systemd is PID 1, with udev, journald and a writable root that nothing is kept of (2 s more). The
    /// packages of [`guest::package`] are there.
    pub systemd: bool,
    /// The kernel is killed after this.
    pub timeout: Duration,
    /// What each kernel runs as root. Two of them are joined by a wire: interface `vec0` in each.
    pub machines: &'static [fn() -> anyhow::Result<()>],
}

impl LabTest {
    /// A test on one kernel: nothing loaded, a minute at most. Fields that differ are given by struct update.
    #[must_use]
    pub const fn new(name: &'static str, machines: &'static [fn() -> anyhow::Result<()>]) -> Self {
        Self {
            name,
            modules: &[],
            own_modules: &[],
            va_driver: false,
            programs: &[],
            udev: false,
            systemd: false,
            timeout: Duration::from_secs(60),
            machines,
        }
    }
}
