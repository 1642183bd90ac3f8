//! Who has keyboard and mouse of a server, in words: over the picture, on the console, and for `soft-kvm-client control`.

use std::time::Duration;

use soft_kvm_core::{Lang, MonoTime};
use soft_kvm_protocol::handover::{ControlState, Standing};

/// How long a change is shown over the picture.
const SHOWN: Duration = Duration::from_secs(5);

/// What a server has told about keyboard and mouse.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    state: Option<ControlState>,
    /// The server also talks to clients beyond its own network.
    routed: bool,
    /// What is shown until when.
    note: Option<(String, MonoTime)>,
}

impl Desk {
    /// Of a server that has not told yet who has keyboard and mouse.
    pub(crate) fn new(routed: bool) -> Self {
        Self {
            routed,
            ..Self::default()
        }
    }

    /// Takes a new state over; a line for the console when others have to do with it.
    pub(crate) fn set(&mut self, state: ControlState, now: MonoTime, lang: Lang) -> Option<String> {
        let before = self.state.replace(state);
        let state = self.state.as_ref()?;
        let touched = concerns_others(state) || before.as_ref().is_some_and(concerns_others);
        if !touched || before.as_ref() == Some(state) {
            return None;
        }
        // The fonts of the picture have Latin letters only.
        self.note = Some((line(state, Lang::English), now + SHOWN));
        Some(line(state, lang))
    }

    /// Whether this seat has keyboard and mouse.
    pub(crate) fn controls(&self) -> bool {
        let you = self.state.as_ref().map(|state| state.you);
        you == Some(Standing::Controls)
    }

    /// Shows something else for a while.
    pub(crate) fn note(&mut self, text: String, now: MonoTime) {
        self.note = Some((text, now + SHOWN));
    }

    /// What is to be shown over the picture at this moment, if anything.
    pub(crate) fn notice(&self, now: MonoTime) -> String {
        let asked = |state: &&ControlState| !state.asking.is_empty();
        match (&self.note, self.state.as_ref().filter(asked)) {
            (Some((text, until)), _) if now < *until => text.clone(),
            (_, Some(state)) => line(state, Lang::English),
            _ => String::new(),
        }
    }

    /// Lines of the overlay.
    pub(crate) fn overlay(&self) -> Vec<String> {
        let state = self.state.iter().map(|state| line(state, Lang::English));
        let routed = self.routed.then(|| ROUTED.0.to_owned());
        state.chain(routed).collect()
    }
}

/// Said of a server with `--allow-routed`.
pub(crate) const ROUTED: (&str, &str) = (
    "the server is reachable beyond this network (--allow-routed)",
    "サーバーはこのネットワークの外からも接続できます（--allow-routed）",
);

/// Somebody else has keyboard and mouse, or somebody asks for them.
fn concerns_others(state: &ControlState) -> bool {
    let other = state.controller.is_some() && state.you != Standing::Controls;
    other || !state.asking.is_empty()
}

/// Who has keyboard and mouse, and who asks.
pub(crate) fn line(state: &ControlState, lang: Lang) -> String {
    let has = match (&state.controller, state.you) {
        (_, Standing::Controls) => lang
            .pick(
                "this seat has keyboard and mouse",
                "この席がキーボードとマウスを使っています",
            )
            .to_owned(),
        (Some(seat), _) => format!(
            "{} {}",
            seat.name,
            lang.pick(
                "has keyboard and mouse",
                "がキーボードとマウスを使っています"
            )
        ),
        (None, _) => lang
            .pick(
                "nobody has keyboard and mouse",
                "キーボードとマウスは空いています",
            )
            .to_owned(),
    };
    if state.asking.is_empty() {
        return has;
    }
    let names: Vec<_> = state.asking.iter().map(|seat| seat.name.as_str()).collect();
    let names = names.join(", ");
    let asks = lang.pick("asks for them", "が交代を求めています");
    if state.you == Standing::Controls {
        let how = lang.pick(
            "(Ctrl+Alt+Shift+G gives them, N keeps them)",
            "（Ctrl+Alt+Shift+G で渡し、N で断ります）",
        );
        return format!("{has}; {names} {asks} {how}");
    }
    format!("{has}; {names} {asks}")
}

#[cfg(test)]
mod tests {
    use soft_kvm_protocol::handover::{HandoverRule, Seat};
    use soft_kvm_protocol::pairing::PeerName;

    use super::*;

    fn state(controller: Option<&str>, asking: &[&str], you: Standing) -> ControlState {
        let seat = |name: &&str| Seat {
            name: PeerName::new(name).expect("a name"),
            key: "00".repeat(8),
        };
        ControlState {
            controller: controller.as_ref().map(seat),
            asking: asking.iter().map(seat).collect(),
            you,
            rule: HandoverRule::Still,
        }
    }

    #[test]
    fn a_seat_alone_hears_nothing_and_others_are_named() {
        let (mut desk, now) = (Desk::new(true), MonoTime::ZERO);
        let mut set = |state, now| desk.set(state, now, Lang::English);
        assert_eq!(set(state(None, &[], Standing::May), now), None);
        assert_eq!(set(state(Some("me"), &[], Standing::Controls), now), None);
        let asked = set(state(Some("me"), &["tv"], Standing::Controls), now);
        assert!(asked.is_some_and(|text| text.contains("tv asks") && text.contains("gives them")));
        let later = now + SHOWN + SHOWN;
        assert!(desk.notice(later).contains("tv asks"), "while it asks");
        let given = desk.set(state(Some("tv"), &[], Standing::May), later, Lang::English);
        assert_eq!(given.as_deref(), Some("tv has keyboard and mouse"));
        assert_eq!(desk.notice(later), "tv has keyboard and mouse");
        assert_eq!(desk.notice(later + SHOWN), "");
        assert_eq!(desk.overlay().len(), 2);
    }
}
