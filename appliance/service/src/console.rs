//! Where the command-line front ends print; the only place that does.
#![expect(
    clippy::disallowed_macros,
    reason = "this module is where a person at the console is talked to"
)]

use std::io::Write;

use soft_kvm_core::Lang;

/// The language of the person at the console.
#[must_use]
pub fn lang() -> Lang {
    Lang::from_variables(|name| std::env::var(name).ok())
}

/// Prints a line for people or for the next program in a pipe; a closed pipe is not an error.
pub fn out(line: impl std::fmt::Display) {
    // A reader that left (`| head`) has had what it wanted.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Prints an error or a warning for people.
pub fn err(line: impl std::fmt::Display) {
    eprintln!("{line}");
}
