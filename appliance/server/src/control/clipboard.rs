//! What a session may do with the clipboard, and what the audit log tells of it.

use std::time::Duration;

use async_channel::Sender;
use soft_kvm_core::MonoTime;
use soft_kvm_platform::os::clipboard::Desktop;
use soft_kvm_platform::os::clock;
use soft_kvm_protocol::clipboard::{ClipboardNews, ClipboardRefusal, ClipboardRequest};
use soft_kvm_protocol::clipboard::{ClipboardRule, ClipboardText};
use soft_kvm_protocol::roles::Role;
use soft_kvm_security::audit::Event;
use soft_kvm_security::policy::{self, Act};

use crate::clipboard::{may_have_clipboard, rule};
use crate::context::Context;
use crate::session::Session;

/// Shortest time between two texts to one client; the newest goes then.
pub(super) const PAUSE: Duration = Duration::from_millis(500);
/// Most texts of one client in [`PER`]: each is written to the audit log. Clients of ours keep [`PAUSE`], too.
const MAX_TEXTS: u32 = 30;
const PER: Duration = Duration::from_secs(10);

/// Which ways it goes for a client with this role, as its `welcome` says.
pub(super) fn offered(context: &Context, role: Role) -> Option<ClipboardRule> {
    let story = context.story();
    let desktop = Desktop::of_environment();
    let possible = may_have_clipboard(story.capture(), desktop.as_ref());
    let offered = policy::may(role, Act::Clipboard) && possible;
    rule(story.control().clipboard).filter(|_| offered)
}

/// One session's part; dropping it ends the sharing.
pub(super) struct Share<'a> {
    context: &'a Context,
    session: &'a Session,
    news: Sender<ClipboardNews>,
    often: Often,
}

impl<'a> Share<'a> {
    /// What is to be told goes to `news`.
    pub(super) fn new(
        context: &'a Context,
        session: &'a Session,
        news: Sender<ClipboardNews>,
    ) -> Self {
        Self {
            context,
            session,
            news,
            often: Often::default(),
        }
    }

    /// Does what the client asks for; it is told through the same queue what was refused.
    pub(super) fn take(&mut self, request: ClipboardRequest) {
        let (clipboards, number) = (&self.context.clipboards, self.session.number());
        let outcome = match request {
            ClipboardRequest::Share {} if !self.session.gate.lets(Act::Clipboard) => {
                Err(ClipboardRefusal::Role)
            }
            ClipboardRequest::Share {} => {
                clipboards.share(number, self.news.clone());
                Ok(())
            }
            ClipboardRequest::Unshare {} => {
                clipboards.unshare(number);
                Ok(())
            }
            ClipboardRequest::Text { text } => self.set(text),
            _ => Ok(()),
        };
        if let Err(why) = outcome {
            tracing::debug!(client = self.session.name, ?why, "clipboard refused");
            // Closed is a session that ends.
            let _ = self.news.force_send(ClipboardNews::Refused { why });
        }
    }

    fn set(&mut self, text: ClipboardText) -> Result<(), ClipboardRefusal> {
        if !self.session.gate.lets(Act::Clipboard) {
            return Err(ClipboardRefusal::Role);
        }
        text.check()?;
        if !self.often.enter(clock::now()) {
            return Err(ClipboardRefusal::TooOften);
        }
        if !self.session.has_turn() {
            return Err(ClipboardRefusal::Turn);
        }
        let bytes = text.as_str().len();
        self.context.clipboards.set(text)?;
        self.record("to-server", bytes);
        Ok(())
    }

    /// What is to be sent of these news: nothing to a client that may not know.
    pub(super) fn passes(&self, news: ClipboardNews) -> Option<ClipboardNews> {
        if let ClipboardNews::Text { text } = &news {
            if !self.session.gate.lets(Act::Clipboard) {
                return None;
            }
            self.record("from-server", text.as_str().len());
        }
        Some(news)
    }

    fn record(&self, way: &'static str, bytes: usize) {
        self.context.record_handovers();
        self.context.audit.record(Event::Clipboard {
            client: self.session.name.clone(),
            key: self.session.peer.to_string(),
            way,
            bytes,
        });
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.context.clipboards.unshare(self.session.number());
    }
}

/// How many texts came lately.
#[derive(Debug, Default)]
struct Often {
    since: Option<MonoTime>,
    count: u32,
}

impl Often {
    fn enter(&mut self, now: MonoTime) -> bool {
        if self.since.is_none_or(|since| now.since(since) >= PER) {
            (self.since, self.count) = (Some(now), 0);
        }
        self.count = self.count.saturating_add(1);
        self.count <= MAX_TEXTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_texts_has_an_end() {
        let mut often = Often::default();
        let at = |seconds| MonoTime::ZERO + Duration::from_secs(seconds);
        let taken = (0..1_000).filter(|_| often.enter(at(1))).count();
        assert_eq!(taken, 30);
        assert!(!often.enter(at(10)));
        assert!(often.enter(at(11)));
    }
}
