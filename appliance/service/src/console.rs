//! Where the command-line front ends print; the only place that does.
#![expect(
    clippy::disallowed_macros,
    reason = "this module is where a person at the console is talked to"
)]

use std::io::Write;
use std::path::{Path, PathBuf};

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

/// Asks a question; the answer follows on the same line.
pub fn prompt(question: &str) {
    let mut out = std::io::stdout().lock();
    let _ = write!(out, "{question}").and_then(|()| out.flush());
}

/// Prints a program's completion script.
pub fn completions<C: clap::CommandFactory>(shell: clap_complete::Shell, program: &str) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut C::command(), program, &mut script);
    out(String::from_utf8_lossy(&script).trim_end());
}

/// Prints a program's manual page as roff.
///
/// # Errors
/// Never in practice: it is written to memory.
pub fn manual<C: clap::CommandFactory>() -> std::io::Result<()> {
    let mut page = Vec::new();
    clap_mangen::Man::new(C::command()).render(&mut page)?;
    out(String::from_utf8_lossy(&page).trim_end());
    Ok(())
}

/// Starts logging: what `SOFT_KVM_LOG` says, or `info`; to the journal with fields where standard error goes there, else to
/// standard error.
pub fn start_logging() {
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;
    use tracing_subscriber::{EnvFilter, fmt};

    let filter = EnvFilter::try_from_env("SOFT_KVM_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,mdns_sd=error"));
    let registry = tracing_subscriber::registry().with(filter);
    // A second call in one process, as in tests, keeps the first subscriber.
    #[cfg(unix)]
    if let Some(journal) = crate::journal::Journal::connect() {
        let _ = registry.with(journal).try_init();
        return;
    }
    let console = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    let _ = registry.with(console).try_init();
}

/// The folder where a program keeps its state: as given, `$STATE_DIRECTORY` of systemd, or `soft-kvm/NAME` in the
/// user's state folder (XDG base directory specification).
///
/// # Errors
/// None of them is known.
pub fn state_path(given: Option<&Path>, name: &str) -> Result<PathBuf, NoStatePath> {
    let set = |variable| std::env::var_os(variable).filter(|value| !value.is_empty());
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    if let Some(path) = set("STATE_DIRECTORY") {
        return Ok(path.into());
    }
    let base = match (set("XDG_STATE_HOME"), set("HOME")) {
        (Some(base), _) => PathBuf::from(base),
        (None, Some(home)) => PathBuf::from(home).join(".local/state"),
        (None, None) => return Err(NoStatePath),
    };
    Ok(base.join("soft-kvm").join(name))
}

/// The date at a time since the Unix epoch, UTC, for people only.
#[must_use]
pub fn today(since_epoch: std::time::Duration) -> String {
    i64::try_from(since_epoch.as_secs())
        .ok()
        .and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok())
        .map_or_else(String::new, |now| now.date().to_string())
}

/// A time since the Unix epoch as RFC 3339 has it, UTC, whole seconds, for people only.
#[must_use]
pub fn timestamp(since_epoch: std::time::Duration) -> String {
    use time::format_description::well_known::Rfc3339;

    i64::try_from(since_epoch.as_secs())
        .ok()
        .and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|now| now.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// There is no place for a program's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no place for the key: HOME is not set; give --state-dir")]
pub struct NoStatePath;

/// An error with its causes, for people; a cause that the text already ends with is not told twice.
#[must_use]
pub fn with_causes(error: &anyhow::Error) -> String {
    error
        .chain()
        .skip(1)
        .fold(error.to_string(), |text, cause| {
            let cause = cause.to_string();
            if text.ends_with(&cause) {
                text
            } else {
                format!("{text}: {cause}")
            }
        })
}

/// Prints an error or a warning for people.
pub fn err(line: impl std::fmt::Display) {
    eprintln!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cause_is_told_twice() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot open: {source}")]
        struct Open {
            source: std::io::Error,
        }
        let source = std::io::Error::other("no such file");
        let error = anyhow::Error::from(Open { source }).context("reading the story");
        assert_eq!(
            with_causes(&error),
            "reading the story: cannot open: no such file"
        );
        let plain = anyhow::anyhow!("inner").context("outer");
        assert_eq!(with_causes(&plain), "outer: inner");
    }
}
