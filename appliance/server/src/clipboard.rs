//! The clipboard of the desktop session whose screen is captured, shared with the clients that may control. While nobody shares
//! it, nothing looks at it.

use std::sync::{Arc, Mutex, Weak};

use async_channel::Sender;
use soft_kvm_core::story::{CaptureDriver, CaptureParams, ClipboardMode};
use soft_kvm_platform::os::clipboard::{Clipboard, ClipboardEvent, ClipboardOptions, Desktop};
use soft_kvm_platform::os::probe::Choice;
use soft_kvm_protocol::clipboard::{
    ClipboardNews, ClipboardRefusal, ClipboardRule, ClipboardText, Echo, MAX_TEXT,
};
use soft_kvm_security::handover::SessionId;

use crate::context::lock;

/// The clipboard for all sessions of a server.
#[derive(Debug, Default)]
pub struct Clipboards(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    rule: Option<ClipboardRule>,
    screen: Screen,
    /// In use, under this number.
    clipboard: Option<Clipboard>,
    number: u64,
    /// Where each session is told; the newest text replaces one that waits.
    sharers: Vec<(SessionId, Sender<ClipboardNews>)>,
    /// From a client, until it is known what is captured.
    waiting: Option<ClipboardText>,
    echo: Echo,
}

/// What is captured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Screen {
    /// Nobody has watched yet.
    #[default]
    Unknown,
    /// That of a desktop session.
    Desktop(Desktop),
    /// Something without a clipboard.
    Other,
}

/// What the story says, as clients are told.
#[must_use]
pub fn rule(mode: ClipboardMode) -> Option<ClipboardRule> {
    match mode {
        ClipboardMode::Off => None,
        ClipboardMode::Both => Some(ClipboardRule::Both),
        ClipboardMode::ToServer => Some(ClipboardRule::ToServer),
        ClipboardMode::FromServer => Some(ClipboardRule::FromServer),
    }
}

impl Screen {
    /// What this source captures. A screen by way of the kernel shows the session that this server runs in, if it runs in one.
    #[must_use]
    pub fn of(source: &Choice) -> Self {
        let desktop = match source {
            Choice::X11 { display } => Some(Desktop::of_display(display.clone())),
            Choice::Kms { .. } => Desktop::of_environment(),
            Choice::V4l2 { .. } | Choice::Testcard => None,
        };
        desktop.map_or(Self::Other, Self::Desktop)
    }
}

/// Whether this source may show a desktop session; `own` is the one that this server runs in.
#[must_use]
pub fn may_have_clipboard(capture: &CaptureParams, own: Option<&Desktop>) -> bool {
    match capture.driver {
        CaptureDriver::X11 => true,
        CaptureDriver::Auto | CaptureDriver::Kms => own.is_some(),
        CaptureDriver::V4l2 | CaptureDriver::Testcard => false,
    }
}

impl Clipboards {
    /// Changes which ways it goes.
    pub fn set_rule(self: &Arc<Self>, rule: Option<ClipboardRule>) {
        let mut state = lock(&self.0);
        state.rule = rule;
        state.settle(self);
    }

    /// Another source, or another display, is captured.
    pub fn captured(self: &Arc<Self>, screen: Screen) {
        let mut state = lock(&self.0);
        if state.screen != screen {
            state.screen = screen;
            state.clipboard = None;
        }
        state.settle(self);
    }

    /// Tells a session what is copied from now on.
    pub fn share(self: &Arc<Self>, session: SessionId, news: Sender<ClipboardNews>) {
        let mut state = lock(&self.0);
        state.sharers.retain(|(other, _)| *other != session);
        state.sharers.push((session, news));
        state.settle(self);
    }

    /// Tells it no more.
    pub fn unshare(self: &Arc<Self>, session: SessionId) {
        let mut state = lock(&self.0);
        state.sharers.retain(|(other, _)| *other != session);
        state.settle(self);
    }

    /// Puts a client's text into the clipboard; who may is checked by the caller.
    ///
    /// # Errors
    /// The story does not let texts in, or what is captured has no clipboard.
    pub fn set(self: &Arc<Self>, text: ClipboardText) -> Result<(), ClipboardRefusal> {
        let mut state = lock(&self.0);
        if !state.rule.is_some_and(ClipboardRule::to_server) {
            return Err(ClipboardRefusal::Off);
        }
        if state.screen == Screen::Other {
            return Err(ClipboardRefusal::NoClipboard);
        }
        state.echo.came(&text);
        state.waiting = Some(text);
        state.settle(self);
        Ok(())
    }

    fn happened(&self, number: u64, event: ClipboardEvent) {
        let mut state = lock(&self.0);
        // One that is left serves its last text a while longer.
        if number != state.number {
            return;
        }
        let news = match event {
            ClipboardEvent::Text(text) => match ClipboardText::from_local(&text) {
                Ok(Some(text)) if !state.echo.is_echo(&text) => ClipboardNews::Text { text },
                Ok(_) => return,
                Err(_) => TOO_LONG,
            },
            ClipboardEvent::TooLong => TOO_LONG,
            ClipboardEvent::Secret => SECRET,
            ClipboardEvent::Fallback(why) => {
                tracing::warn!("the clipboard is shared through the X display: {why}");
                return;
            }
            ClipboardEvent::Ended(why) => {
                tracing::warn!("the clipboard is not shared: {why}");
                state.clipboard = None;
                // Tried again when it is captured anew.
                state.screen = Screen::Unknown;
                return;
            }
        };
        if state.rule.is_some_and(ClipboardRule::from_server) {
            for (_, sharer) in &state.sharers {
                // Closed is a session that ends.
                let _ = sharer.force_send(news.clone());
            }
        }
    }
}

const TOO_LONG: ClipboardNews = ClipboardNews::Refused {
    why: ClipboardRefusal::ServersTooLong,
};
const SECRET: ClipboardNews = ClipboardNews::Refused {
    why: ClipboardRefusal::ServersSecret,
};

impl State {
    /// Uses the clipboard while somebody wants it, and leaves it otherwise.
    fn settle(&mut self, all: &Arc<Clipboards>) {
        let wanted = !self.sharers.is_empty() || self.waiting.is_some();
        let (Some(rule), Screen::Desktop(desktop), true) = (self.rule, &self.screen, wanted) else {
            self.clipboard = None;
            self.number += 1;
            if self.screen == Screen::Other || self.rule.is_none() {
                self.waiting = None;
            }
            return;
        };
        if self.clipboard.is_none() {
            self.number += 1;
            self.clipboard = start(desktop.clone(), self.number, Arc::downgrade(all));
        }
        let Some(clipboard) = &self.clipboard else {
            return;
        };
        // One that has ended says so by its last event.
        let _ = clipboard.read(rule.from_server() && !self.sharers.is_empty());
        if let Some(text) = self.waiting.take() {
            let _ = clipboard.set(text.to_shared());
        }
        if self.sharers.is_empty() {
            self.clipboard = None;
            self.number += 1;
        }
    }
}

fn start(desktop: Desktop, number: u64, all: Weak<Clipboards>) -> Option<Clipboard> {
    let options = ClipboardOptions {
        desktop,
        longest: MAX_TEXT,
        current: false,
    };
    let started = Clipboard::start(options, move |event| {
        if let Some(all) = all.upgrade() {
            all.happened(number, event);
        }
    });
    match started {
        Ok(clipboard) => Some(clipboard),
        Err(error) => {
            tracing::warn!(%error, "the clipboard is not shared");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use soft_kvm_core::story::Story;

    use super::*;

    fn text(text: &str) -> ClipboardText {
        ClipboardText::from_local(text)
            .expect("short")
            .expect("not empty")
    }

    #[test]
    fn screens_of_sessions_only_have_one() {
        let mut capture = Story::embedded().capture().clone();
        let own = Desktop {
            wayland: Some("/run/user/1000/wayland-0".into()),
            display: None,
        };
        for (driver, within, outside) in [
            (CaptureDriver::X11, true, true),
            (CaptureDriver::Auto, true, false),
            (CaptureDriver::Kms, true, false),
            (CaptureDriver::V4l2, false, false),
            (CaptureDriver::Testcard, false, false),
        ] {
            capture.driver = driver;
            assert_eq!(may_have_clipboard(&capture, Some(&own)), within, "{driver}");
            assert_eq!(may_have_clipboard(&capture, None), outside, "{driver}");
        }
        assert_eq!(Screen::of(&Choice::Testcard), Screen::Other);
        let named = Choice::X11 {
            display: Some(":no-such-display".to_owned()),
        };
        assert!(matches!(Screen::of(&named), Screen::Desktop(_)));
    }

    #[test]
    fn the_story_decides_which_ways_texts_go() {
        for (mode, to_server, from_server) in [
            (ClipboardMode::Off, false, false),
            (ClipboardMode::Both, true, true),
            (ClipboardMode::ToServer, true, false),
            (ClipboardMode::FromServer, false, true),
        ] {
            let all = Arc::new(Clipboards::default());
            all.set_rule(rule(mode));
            let expected = to_server.then_some(()).ok_or(ClipboardRefusal::Off);
            assert_eq!(all.set(text("a")), expected, "{mode}");
            let (news, heard) = async_channel::bounded(1);
            lock(&all.0).sharers.push((1, news));
            let number = lock(&all.0).number;
            for copied in ["a", "b", "c"] {
                all.happened(number, ClipboardEvent::Text(copied.to_owned()));
            }
            // What a client sent does not go back, and the newest replaces what waits.
            let newest = ClipboardNews::Text { text: text("c") };
            let expected = from_server.then_some(newest);
            assert_eq!(heard.try_recv().ok(), expected, "{mode}");
            all.happened(number, ClipboardEvent::Text("d".repeat(MAX_TEXT + 1)));
            let expected = from_server.then_some(TOO_LONG);
            assert_eq!(heard.try_recv().ok(), expected, "{mode}");
            all.happened(number, ClipboardEvent::Secret);
            let expected = from_server.then_some(SECRET);
            assert_eq!(heard.try_recv().ok(), expected, "{mode}");
        }
    }

    #[test]
    fn a_text_waits_until_it_is_known_what_is_captured() {
        let all = Arc::new(Clipboards::default());
        all.set_rule(Some(ClipboardRule::Both));
        assert_eq!(all.set(text("a")), Ok(()));
        assert_eq!(all.set(text("b")), Ok(()));
        assert_eq!(lock(&all.0).waiting, Some(text("b")), "the newest");
        all.captured(Screen::Other);
        assert_eq!(lock(&all.0).waiting, None);
        assert_eq!(all.set(text("c")), Err(ClipboardRefusal::NoClipboard));
        all.captured(Screen::Unknown);
        assert_eq!(all.set(text("c")), Ok(()));
        all.set_rule(None);
        assert_eq!(lock(&all.0).waiting, None);
    }

    #[test]
    fn an_event_of_one_that_was_left_tells_nobody() {
        let all = Arc::new(Clipboards::default());
        all.set_rule(Some(ClipboardRule::Both));
        let (news, heard) = async_channel::bounded(1);
        all.share(1, news);
        let number = lock(&all.0).number;
        all.unshare(1);
        all.happened(number, ClipboardEvent::Text("a".to_owned()));
        assert!(heard.try_recv().is_err());
    }
}
