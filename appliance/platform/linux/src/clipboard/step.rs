//! How far a text has come, and how long another program is waited for.

use std::time::{Duration, Instant};

use nix::poll::PollTimeout;

use super::ClipboardEvent;

/// What a step of reading has led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// There is more to come.
    More,
    /// The text.
    Text(String),
    /// It is longer than asked for.
    TooLong,
    /// Its owner marks it as a secret.
    Secret,
    /// What was copied is no text.
    NoText,
}

impl Step {
    /// The text that these bytes are.
    pub(crate) fn utf8(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes).map_or(Self::NoText, Self::Text)
    }

    /// What is to be told of it.
    pub(crate) fn event(self) -> Option<ClipboardEvent> {
        match self {
            Self::Text(text) => Some(ClipboardEvent::Text(text)),
            Self::TooLong => Some(ClipboardEvent::TooLong),
            Self::Secret => Some(ClipboardEvent::Secret),
            Self::More | Self::NoText => None,
        }
    }
}

/// A program that has not given or taken its text in this time is not waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a program is still waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Patience(Instant);

impl Patience {
    /// From now on.
    pub(crate) fn begin() -> Self {
        Self(Instant::now() + PATIENCE)
    }

    /// It is not waited for any more.
    pub(crate) fn is_over(self) -> bool {
        self.0 <= Instant::now()
    }

    /// For `poll(2)`; without an end if `None`.
    pub(crate) fn timeout(this: Option<Self>) -> PollTimeout {
        this.map_or(PollTimeout::NONE, |Self(end)| {
            let left = end.saturating_duration_since(Instant::now());
            // Rounded up: a wait that ends early would only come again.
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        })
    }
}
