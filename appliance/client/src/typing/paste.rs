//! The local clipboard's text, typed on the server by the window's keyboard.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use soft_kvm_core::Lang;
use soft_kvm_input::text::{Plan, TypingLayout, place_after};
use soft_kvm_protocol::input::EventReport;
use soft_kvm_service::console;

use super::Lamps;
use super::keyboard::{self, KeyboardChoice, LayoutName};
use super::typist::{End, Typist};
use crate::remote::Remote;
use crate::run::Shared;
use crate::session::link::InputLink;
use crate::window::KEYBOARD;

/// Keys in a second.
const RATE: u32 = 50;
/// Longer texts are files: `soft-kvm-client type` takes them.
const LONGEST: usize = 64 << 10;
/// Characters that are named when they cannot be typed.
const NAMED: usize = 5;
/// Dead keys as most systems know them.
const LOCALE: &str = "en_US.UTF-8";
/// How long a refusal stands over the picture.
const SHOWN: Duration = Duration::from_secs(6);

/// Pastes of one window, one at a time.
#[derive(Debug)]
pub(crate) struct Paste {
    shared: Arc<Shared>,
    layout: LayoutName,
    /// Stops the paste that is going on, while there is one.
    stop: Weak<AtomicBool>,
}

impl Paste {
    pub(crate) const fn new(shared: Arc<Shared>, layout: LayoutName) -> Self {
        Self {
            shared,
            layout,
            stop: Weak::new(),
        }
    }

    /// Types what is in the clipboard now on this server; while a paste is going on, ends it instead.
    pub(crate) fn start(&mut self, remote: Option<&Arc<Remote>>) {
        if self.cancel() {
            return;
        }
        let Some((remote, link)) =
            remote.and_then(|remote| Some((Arc::clone(remote), remote.link()?)))
        else {
            return;
        };
        let stop = Arc::new(AtomicBool::new(false));
        self.stop = Arc::downgrade(&stop);
        let (shared, layout) = (Arc::clone(&self.shared), self.layout.clone());
        // Another program is asked for the text, which can take its time.
        let started = std::thread::Builder::new()
            .name("paste".into())
            .spawn(move || paste(&shared, &layout, (&remote.lamps, &link), stop));
        if let Err(error) = started {
            tracing::error!(%error, "no thread for pasting");
        }
    }

    /// The operator's next key ends the paste.
    pub(crate) fn follow(&mut self, report: &EventReport<'_>) {
        let mut keys = report.events.iter().filter_map(|event| event.as_key());
        if keys.any(|(_, down)| down) {
            self.cancel();
        }
    }

    fn cancel(&self) -> bool {
        let stop = self.stop.upgrade();
        if let Some(stop) = &stop {
            stop.store(true, Ordering::Release);
        }
        stop.is_some()
    }
}

fn paste(
    shared: &Shared,
    layout: &LayoutName,
    keyboard: (&Lamps, &InputLink),
    stop: Arc<AtomicBool>,
) {
    let show = |text: &str| {
        if let Some(viewport) = &shared.viewport {
            viewport.set_status(text);
        }
    };
    let outcome = type_clipboard(shared.lang, layout, keyboard, &stop, &show);
    drop(stop);
    if let Err(problem) = outcome {
        console::err(format!("soft-kvm-client: {problem}"));
        show(&problem);
        std::thread::sleep(SHOWN);
    }
    show("");
}

fn type_clipboard(
    lang: Lang,
    name: &LayoutName,
    (lamps, link): (&Lamps, &InputLink),
    stop: &Arc<AtomicBool>,
    show: &impl Fn(&str),
) -> Result<(), String> {
    let text = arboard::Clipboard::new()
        .and_then(|mut clipboard| clipboard.get_text())
        .map_err(|error| {
            let what = lang.pick(
                "no text in the clipboard",
                "クリップボードに文字がありません",
            );
            format!("{what}: {error}")
        })?;
    if text.len() > LONGEST {
        return Err(lang
            .pick(
                "the clipboard's text is longer than 64 KiB: use soft-kvm-client type",
                "クリップボードが64 KiBを超えています。soft-kvm-client type をお使いください",
            )
            .to_owned());
    }
    let layout = keyboard::load(&KeyboardChoice {
        layout: name.clone(),
        options: Vec::new(),
        compose: Some(LOCALE.to_owned()),
    })
    .map_err(|error| error.to_string())?;
    let plan = Plan::new(&layout, &text);
    if !plan.untypable.is_empty() {
        return Err(untypable(&plan, name, lang));
    }
    let typist = Typist::on(KEYBOARD, plan, RATE, Arc::clone(stop));
    let tell = |typed, all| {
        show(&format!(
            "{} {typed}/{all}\n{}",
            lang.pick("typing the clipboard:", "クリップボードを入力中:"),
            lang.pick("any key stops it", "どのキーでも止まります")
        ));
    };
    tell(0, typist.progress().1);
    async_io::block_on(typist.run(link, lamps, tell));
    match typist.end() {
        Some(End::Done) => Ok(()),
        Some(End::CapsLock) => Err(End::caps_lock(lang).to_owned()),
        _ => Err(stopped(&typist, &layout, &text, lang)),
    }
}

fn stopped(typist: &Typist, layout: &TypingLayout, text: &str, lang: Lang) -> String {
    let (typed, all) = typist.progress();
    let place = place_after(layout, text, typed);
    let what = lang.pick(
        "pasting has stopped, all keys are let go:",
        "貼り付けを止めました。キーはすべて離しました:",
    );
    format!("{what} {typed}/{all} ({place})")
}

fn untypable(plan: &Plan, layout: &LayoutName, lang: Lang) -> String {
    let named = plan.untypable.iter().take(NAMED);
    let named: Vec<String> = named
        .map(|one| format!("{} {}", one.place, one.character.escape_default()))
        .collect();
    let more = plan.untypable.len().saturating_sub(NAMED);
    let more = if more > 0 {
        format!(" +{more}")
    } else {
        String::new()
    };
    format!(
        "{} {layout}: {}{more}",
        lang.pick(
            "nothing was typed: characters that are not on the server's layout",
            "何も入力していません。サーバーの配列にない文字"
        ),
        named.join(", ")
    )
}
