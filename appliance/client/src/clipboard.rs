//! The clipboard of the operator's session, shared with the server that is shown.
//!
//! What is copied here goes to the server once this seat has its keyboard and mouse; what is copied there comes here.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use async_channel::{Receiver, Sender};
use soft_kvm_core::Lang;
use soft_kvm_platform::os::clipboard::{Clipboard, ClipboardEvent, ClipboardOptions, Desktop};
use soft_kvm_platform::os::clock;
use soft_kvm_protocol::clipboard::{
    ClipboardNews, ClipboardRefusal, ClipboardRequest, ClipboardRule, ClipboardText, Echo, MAX_TEXT,
};
use soft_kvm_service::console;

use crate::remote::Remote;
use crate::session::outputs::lock;
use crate::view::Viewport;

/// This session's clipboard, for all servers of the client.
#[derive(Debug)]
pub(crate) struct Seat {
    lang: Lang,
    remotes: Vec<Arc<Remote>>,
    viewport: Option<Arc<Viewport>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// In use, under this number.
    clipboard: Option<Clipboard>,
    number: u64,
    /// The server that it is used for.
    of: Option<Weak<Remote>>,
    echo: Echo,
    /// What was copied last, here or on a server, and how often something was.
    newest: Option<ClipboardText>,
    count: u64,
    /// The first text is what the clipboard has had when its use began.
    begins: bool,
    /// The operator has been told about the window system.
    told: bool,
}

/// A server's part of it.
#[derive(Debug)]
pub(crate) struct Copied {
    /// Something is to be looked at: a text has been copied, or this seat has got keyboard and mouse.
    wake: (Sender<()>, Receiver<()>),
    /// Texts up to this one need not be sent to it.
    sent: AtomicU64,
}

impl Default for Copied {
    fn default() -> Self {
        Self {
            wake: async_channel::bounded(1),
            sent: AtomicU64::new(0),
        }
    }
}

impl Copied {
    /// There is something to look at.
    pub(crate) fn wake(&self) {
        // One that is waiting already is enough.
        let _ = self.wake.0.try_send(());
    }

    /// Waits until there is.
    pub(crate) async fn woken(&self) {
        // Never closed: this has both ends.
        let _ = self.wake.1.recv().await;
    }
}

impl Seat {
    /// Nothing is used yet.
    pub(crate) fn new(
        lang: Lang,
        remotes: Vec<Arc<Remote>>,
        viewport: Option<Arc<Viewport>>,
    ) -> Self {
        Self {
            lang,
            remotes,
            viewport,
            state: Mutex::default(),
        }
    }

    fn follow(self: &Arc<Self>, remote: &Arc<Remote>, rule: ClipboardRule) {
        let mut state = lock(&self.state);
        state.of = Some(Arc::downgrade(remote));
        if state.clipboard.is_none() {
            state.number += 1;
            state.begins = true;
            let desktop = Desktop::of_environment();
            if desktop.is_none() && !std::mem::replace(&mut state.told, true) {
                self.say(NO_DISPLAY.0, NO_DISPLAY.1);
            }
            state.clipboard = desktop.and_then(|desktop| self.start(state.number, desktop));
        }
        if let Some(clipboard) = &state.clipboard {
            // One that has ended says so by its last event.
            let _ = clipboard.read(rule.to_server());
        }
    }

    fn start(self: &Arc<Self>, number: u64, desktop: Desktop) -> Option<Clipboard> {
        let options = ClipboardOptions {
            desktop,
            longest: MAX_TEXT,
            current: true,
        };
        let seat = Arc::downgrade(self);
        let started = Clipboard::start(options, move |event| {
            if let Some(seat) = seat.upgrade() {
                seat.happened(number, event);
            }
        });
        started
            .inspect_err(|error| tracing::warn!(%error, "the clipboard is not shared"))
            .ok()
    }

    fn leave(&self, remote: &Arc<Remote>) {
        let mut state = lock(&self.state);
        let of = state.of.as_ref().map(Weak::as_ptr);
        if of == Some(Arc::as_ptr(remote)) {
            state.of = None;
            state.clipboard = None;
            state.number += 1;
        }
    }

    fn happened(&self, number: u64, event: ClipboardEvent) {
        let mut state = lock(&self.state);
        // One that is left serves its last text a while longer.
        if number != state.number {
            return;
        }
        let text = match event {
            ClipboardEvent::Text(text) => ClipboardText::from_local(&text),
            ClipboardEvent::TooLong => Err(ClipboardRefusal::TooLong),
            ClipboardEvent::Secret => Err(ClipboardRefusal::Secret),
            ClipboardEvent::Fallback(why) => {
                tracing::info!("the clipboard is shared through Xwayland: {why}");
                if !std::mem::replace(&mut state.told, true) {
                    drop(state);
                    self.say(XWAYLAND.0, XWAYLAND.1);
                }
                return;
            }
            ClipboardEvent::Ended(why) => {
                state.clipboard = None;
                drop(state);
                let what = "the clipboard is not shared";
                let words = self.lang.pick(what, "クリップボードは共有されません");
                console::err(format!("soft-kvm-client: {words}: {why}"));
                return;
            }
        };
        let begins = std::mem::take(&mut state.begins);
        match text {
            Ok(Some(text)) => {
                let known = begins && state.newest.as_ref() == Some(&text);
                if known || state.echo.is_echo(&text) {
                    return;
                }
                state.newest = Some(text);
                state.count += 1;
                drop(state);
                self.remotes.iter().for_each(|remote| remote.copied.wake());
            }
            Ok(None) => {}
            Err(why) => {
                drop(state);
                let (english, japanese) = words(why);
                self.say(english, japanese);
            }
        }
    }

    /// A text that this server does not have yet; it counts as sent from now on.
    fn take_unsent(&self, remote: &Remote) -> Option<ClipboardText> {
        let state = lock(&self.state);
        let before = remote.copied.sent.swap(state.count, Ordering::AcqRel);
        state.newest.clone().filter(|_| before < state.count)
    }

    /// The server has not taken what was sent last.
    fn not_taken(&self, remote: &Remote) {
        let count = lock(&self.state).count;
        let before = count.saturating_sub(1);
        remote.copied.sent.store(before, Ordering::Release);
    }

    /// Puts a server's text into the clipboard; the other servers get it when they are shown.
    fn came(&self, remote: &Remote, text: ClipboardText) {
        let mut state = lock(&self.state);
        state.echo.came(&text);
        state.count += 1;
        remote.copied.sent.store(state.count, Ordering::Release);
        if let Some(clipboard) = &state.clipboard {
            let _ = clipboard.set(text.to_shared());
        }
        state.newest = Some(text);
    }

    /// Tells the operator, on the console and over the picture.
    fn say(&self, english: &str, japanese: &str) {
        let text = self.lang.pick(english, japanese);
        console::err(format!("soft-kvm-client: {text}"));
        let shown = self.remotes.iter().find(|remote| remote.is_shown());
        if let (Some(remote), Some(viewport)) = (shown, &self.viewport) {
            let mut desk = lock(&remote.desk);
            // The fonts of the picture have Latin letters only.
            desk.note(english.to_owned(), clock::now());
            viewport.set_notice(&desk.notice(clock::now()));
        }
    }
}

/// The clipboard on one connection; dropping it ends its use.
pub(crate) struct Sharing<'a> {
    seat: &'a Arc<Seat>,
    remote: &'a Arc<Remote>,
    rule: ClipboardRule,
    refused: Cell<Option<ClipboardRefusal>>,
}

impl<'a> Sharing<'a> {
    /// As the server's `welcome` said.
    pub(crate) fn new(seat: &'a Arc<Seat>, remote: &'a Arc<Remote>, rule: ClipboardRule) -> Self {
        Self {
            seat,
            remote,
            rule,
            refused: Cell::new(None),
        }
    }

    /// The server is shown, or no more: what it is to be told.
    pub(crate) fn turned(&self) -> ClipboardRequest {
        if self.remote.is_shown() {
            self.seat.follow(self.remote, self.rule);
            self.remote.copied.wake();
            ClipboardRequest::Share {}
        } else {
            self.seat.leave(self.remote);
            ClipboardRequest::Unshare {}
        }
    }

    /// What is to be sent now, if anything.
    pub(crate) fn unsent(&self) -> Option<ClipboardRequest> {
        // Else the server would refuse it: it goes when this seat gets keyboard and mouse.
        let may = self.rule.to_server() && self.remote.is_shown();
        if !may || !lock(&self.remote.desk).controls() {
            return None;
        }
        let text = self.seat.take_unsent(self.remote)?;
        tracing::info!(bytes = text.as_str().len(), "clipboard: sent");
        Some(ClipboardRequest::Text { text })
    }

    /// The server has said something about it.
    pub(crate) fn heard(&self, news: ClipboardNews) {
        match news {
            ClipboardNews::Text { text } => {
                if !self.rule.from_server() || !self.remote.is_shown() {
                    return;
                }
                if let Err(error) = text.check() {
                    tracing::warn!(?error, "the server's clipboard is not taken");
                    return;
                }
                tracing::info!(bytes = text.as_str().len(), "clipboard: came");
                self.seat.came(self.remote, text);
            }
            ClipboardNews::Refused {
                why: ClipboardRefusal::Turn,
            } => self.seat.not_taken(self.remote),
            ClipboardNews::Refused { why } => {
                let of_this_text = matches!(
                    why,
                    ClipboardRefusal::TooLong
                        | ClipboardRefusal::ServersTooLong
                        | ClipboardRefusal::ServersSecret
                );
                // What stays so is told once.
                if self.refused.replace(Some(why)) != Some(why) || of_this_text {
                    let (english, japanese) = words(why);
                    self.seat.say(english, japanese);
                }
            }
            other => tracing::debug!(?other, "message out of turn"),
        }
    }
}

impl Drop for Sharing<'_> {
    fn drop(&mut self) {
        self.seat.leave(self.remote);
    }
}

const NO_DISPLAY: (&str, &str) = (
    "the clipboard is not shared: this session has no display (neither WAYLAND_DISPLAY nor DISPLAY is set)",
    "クリップボードは共有されません：このセッションにディスプレイがありません（WAYLAND_DISPLAY も DISPLAY も未設定）",
);

const XWAYLAND: (&str, &str) = (
    "the clipboard is shared through Xwayland, for the compositor has no data-control: perhaps only while an X11 window has the focus",
    "コンポジターに data-control がないため、クリップボードは Xwayland 経由で共有されます。X11 のウィンドウがフォーカスを持つ間だけ渡すコンポジターもあります",
);

/// Why a text was not passed on.
fn words(why: ClipboardRefusal) -> (&'static str, &'static str) {
    match why {
        ClipboardRefusal::TooLong => (
            "the copied text is longer than 60 KiB and was not sent to the server's clipboard",
            "コピーした文字が60 KiBを超えるため、サーバーのクリップボードへ送りませんでした",
        ),
        ClipboardRefusal::ServersTooLong => (
            "the text copied on the server is longer than 60 KiB and did not come here",
            "サーバーでコピーされた文字は60 KiBを超えるため、こちらへ渡されませんでした",
        ),
        ClipboardRefusal::Secret => (
            "what was copied is marked as a secret and was not sent to the server's clipboard; Ctrl+Alt+Shift+V types it",
            "コピーした内容は秘密とされているため、サーバーのクリップボードへ送りませんでした。Ctrl+Alt+Shift+V で入力できます",
        ),
        ClipboardRefusal::ServersSecret => (
            "what was copied on the server is marked as a secret and did not come here",
            "サーバーでコピーされた内容は秘密とされているため、こちらへ渡されませんでした",
        ),
        ClipboardRefusal::Off => (
            "the server's story lets no text into its clipboard",
            "サーバーの設定により、クリップボードへは送れません",
        ),
        ClipboardRefusal::NoClipboard => (
            "the clipboard is not shared: what the server shows is no desktop session of its own",
            "クリップボードは共有されません：サーバーの画面はサーバー自身のデスクトップではありません",
        ),
        ClipboardRefusal::Role => (
            "the server lets this client only watch: the clipboard is not shared",
            "このクライアントは閲覧のみのため、クリップボードは共有されません",
        ),
        ClipboardRefusal::TooOften => (
            "texts were copied too often: the last one was not sent to the server's clipboard",
            "コピーの回数が多すぎるため、最後の文字をサーバーへ送りませんでした",
        ),
        _ => (
            "the server did not take the copied text",
            "サーバーはコピーした文字を受け取りませんでした",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::target::Target;
    use crate::force;

    fn text(text: &str) -> ClipboardText {
        ClipboardText::from_local(text)
            .expect("short")
            .expect("not empty")
    }

    fn seat(servers: usize) -> Seat {
        let remotes = (0..servers).map(|number| {
            let target = Target {
                text: format!("server {number}"),
                pins: Vec::new(),
            };
            let force = force::Server::new(Arc::default(), number);
            Arc::new(Remote::new(target, number == 0, force))
        });
        Seat::new(Lang::English, remotes.collect(), None)
    }

    fn copy(seat: &Seat, text: &str) {
        seat.happened(0, ClipboardEvent::Text(text.to_owned()));
    }

    #[test]
    fn each_text_goes_once_and_never_back() {
        let seat = seat(1);
        let remote = &seat.remotes[0];
        assert_eq!(seat.take_unsent(remote), None);
        copy(&seat, "a");
        copy(&seat, "b");
        assert_eq!(seat.take_unsent(remote), Some(text("b")), "the newest");
        assert_eq!(seat.take_unsent(remote), None);
        seat.not_taken(remote);
        assert_eq!(seat.take_unsent(remote), Some(text("b")));
        seat.came(remote, text("c"));
        assert_eq!(seat.take_unsent(remote), None);
        copy(&seat, "c");
        assert_eq!(seat.take_unsent(remote), None, "a clipboard manager");
        copy(&seat, "b");
        assert_eq!(seat.take_unsent(remote), Some(text("b")), "copied again");
        // Too long, or a secret: the server keeps what it has.
        copy(&seat, &"x".repeat(MAX_TEXT + 1));
        assert_eq!(seat.take_unsent(remote), None);
        seat.happened(0, ClipboardEvent::Secret);
        assert_eq!(seat.take_unsent(remote), None);
    }

    #[test]
    fn a_text_of_one_server_goes_to_the_next_that_is_shown() {
        let seat = seat(2);
        seat.came(&seat.remotes[0], text("a"));
        assert_eq!(seat.take_unsent(&seat.remotes[0]), None);
        assert_eq!(seat.take_unsent(&seat.remotes[1]), Some(text("a")));
    }

    #[test]
    fn what_a_clipboard_has_had_before_is_no_news() {
        let seat = seat(1);
        copy(&seat, "a");
        assert_eq!(seat.take_unsent(&seat.remotes[0]), Some(text("a")));
        lock(&seat.state).begins = true;
        copy(&seat, "a");
        assert_eq!(seat.take_unsent(&seat.remotes[0]), None, "connected anew");
        copy(&seat, "a");
        assert_eq!(seat.take_unsent(&seat.remotes[0]), Some(text("a")));
    }

    #[test]
    fn only_the_server_that_is_shown_uses_the_clipboard() {
        let seat = Arc::new(seat(2));
        let number = lock(&seat.state).number;
        lock(&seat.state).of = Some(Arc::downgrade(&seat.remotes[1]));
        seat.leave(&seat.remotes[0]);
        assert_eq!(lock(&seat.state).number, number, "another's");
        seat.leave(&seat.remotes[1]);
        copy(&seat, "a");
        assert_eq!(seat.take_unsent(&seat.remotes[1]), None, "nobody's");
    }
}
