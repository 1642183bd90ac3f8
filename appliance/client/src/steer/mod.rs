//! Where the operator's input goes: chords and screen edges choose among the servers and the own machine.

mod following;

use std::sync::Arc;

use soft_kvm_core::MonoTime;
use soft_kvm_input::{Action, Binding, EdgeRule, Place, Switch, bindings};
use soft_kvm_protocol::input::{DeviceDescriptor, DeviceId, EventReport, InputEvent};
use soft_kvm_service::console;

use crate::chords;
use crate::remote::Remote;
use crate::run::Shared;
use crate::session::link::InputLink;
use crate::session::outputs::lock;

use following::Following;
pub(crate) use following::Turn;

/// What a turn did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The input stays where it is.
    Stays,
    /// A trial has been confirmed.
    Kept,
    /// It goes elsewhere from now on.
    Moved,
}

/// Follows the operator's input and chooses where it goes.
#[derive(Debug)]
pub(crate) struct Steering {
    shared: Arc<Shared>,
    bindings: Vec<Binding>,
    following: Following,
    switch: Switch,
}

impl Steering {
    /// With these chords and the default ones for what they leave out, at the first server.
    ///
    /// # Errors
    /// Chords that cannot be told apart.
    pub(crate) fn new(
        shared: Arc<Shared>,
        chords: &[Binding],
        edges: &[EdgeRule],
    ) -> anyhow::Result<Self> {
        let bindings = bindings(chords)?;
        Ok(Self {
            following: Following::new(&bindings, edges),
            switch: Switch::new(shared.remotes.len()),
            shared,
            bindings,
        })
    }

    /// The chords of an action, for people.
    pub(crate) fn chords_of(&self, action: Action) -> String {
        chords::of(&self.bindings, action, self.shared.lang)
    }

    /// The panic chords.
    pub(crate) fn panic(&self) -> Vec<soft_kvm_input::Chord> {
        self.bindings
            .iter()
            .filter(|binding| binding.action == Action::Panic)
            .map(|binding| binding.chord.clone())
            .collect()
    }

    /// Says which chords there are.
    pub(crate) fn introduce(&self) {
        let remotes = self.shared.remotes.iter();
        let servers: Vec<_> = remotes.map(|remote| remote.target.text.as_str()).collect();
        for line in chords::introduction(&self.bindings, &servers, self.shared.lang) {
            console::err(line);
        }
    }

    /// Whose the input is.
    pub(crate) fn place(&self) -> Place {
        self.switch.place()
    }

    /// The way to the server that the input belongs to; none while that is not connected, or for the own machine.
    pub(crate) fn link(&self) -> Option<Arc<InputLink>> {
        self.remote()?.link()
    }

    /// The server that the input belongs to; none for the own machine.
    pub(crate) fn remote(&self) -> Option<&Arc<Remote>> {
        match self.switch.place() {
            Place::Local => None,
            Place::Server(index) => self.shared.remotes.get(index),
        }
    }

    /// Follows a report; answers what it asks for. Such a report is not to be sent on.
    pub(crate) fn follow(&mut self, report: &EventReport<'_>) -> Option<Turn> {
        self.following.follow(report)
    }

    /// As [`follow`](Self::follow) for a window: its input is never taken from the own machine, so only servers are
    /// chosen among.
    pub(crate) fn follow_window(&mut self, report: &EventReport<'_>) -> Option<Turn> {
        let turn = self.follow(report)?;
        let Turn::Chord(index) = turn else {
            return None;
        };
        let action = self.bindings.get(index)?.action;
        let chooses = matches!(action, Action::Next | Action::Previous | Action::Server(_));
        let wishes = matches!(action, Action::Wish(_));
        (wishes || chooses && self.shared.remotes.len() > 1).then_some(turn)
    }

    /// Does what was asked for: keys go up where the input was, and those still held go down where it goes.
    pub(crate) fn turn(&mut self, turn: Turn, now: MonoTime) -> Outcome {
        let (action, chord) = match turn {
            Turn::Edge(action) => (action, None),
            Turn::Chord(index) => match self.bindings.get(index) {
                Some(binding) => (binding.action, Some(binding.chord.clone())),
                None => return Outcome::Stays,
            },
        };
        if action == Action::Keep {
            return Outcome::Kept;
        }
        if let Action::Wish(wish) = action {
            self.shared.wish(wish.into());
        }
        let before = self.link();
        if !self.switch.act(action) {
            return Outcome::Stays;
        }
        if let Some(before) = before {
            self.let_go(&before, now);
        }
        if let Place::Server(index) = self.switch.place() {
            self.shared.show(index);
            if let Some(link) = self.link() {
                for (device, key) in self.following.held() {
                    // Nobody wants to type the chord there.
                    let typed = chord
                        .as_ref()
                        .is_some_and(|chord| chord.keys().contains(&key));
                    if !typed {
                        link.push(now, made_up(now, device, &[InputEvent::key(key, true)]));
                    }
                }
            }
        }
        Outcome::Moved
    }

    /// Looks how large the screen is. To be called now and then.
    pub(crate) fn look_at_screen(&mut self) {
        if self.following.heeds_edges()
            && let Some((width, height)) = screen(&self.shared)
        {
            self.following.resize(width, height);
        }
    }

    /// Says where the input goes now. Not on the way of an event: a terminal can be slow.
    pub(crate) fn tell_place(&self) {
        let lang = self.shared.lang;
        match self.switch.place() {
            Place::Local => console::err(format!(
                "{} {} {}",
                lang.pick(
                    "Keyboard and mouse are yours again.",
                    "キーボードとマウスを返しました。"
                ),
                self.chords_of(Action::Next),
                lang.pick("takes them again.", "で、もう一度占有します。")
            )),
            Place::Server(index) => {
                let Some(remote) = self.shared.remotes.get(index) else {
                    return;
                };
                let name = &remote.target.text;
                let text = if remote.link().is_some() {
                    lang.pick("keyboard and mouse are its own now", "に切り替えました")
                } else {
                    lang.pick(
                        "not connected: keyboard and mouse are yours until it is",
                        "未接続です。接続するまでキーボードとマウスはこのマシンのものです",
                    )
                };
                console::err(format!("{name}: {text}"));
            }
        }
    }

    /// A server is left: no key stays down there, no stick pushed and nothing touched.
    pub(crate) fn let_go(&mut self, link: &InputLink, now: MonoTime) {
        self.following.let_go(|device, events| {
            link.push(now, made_up(now, device, events));
        });
        link.release_all(now);
    }

    /// A device that is there from now on.
    pub(crate) fn add_device(&mut self, device: &DeviceDescriptor) {
        self.following.add_device(device);
    }

    /// A device that is gone.
    pub(crate) fn unplugged(&mut self, device: DeviceId) {
        self.following.unplugged(device);
    }

    /// A device's keys are up.
    pub(crate) fn remove_device(&mut self, device: DeviceId) {
        self.following.remove_device(device);
    }

    /// The devices go back to the own machine.
    pub(crate) fn give_back(&mut self, now: MonoTime) {
        if let Some(link) = self.link() {
            self.let_go(&link, now);
        }
        self.switch.act(Action::Local);
    }
}

/// A report that no device made.
const fn made_up(time: MonoTime, device: DeviceId, events: &[InputEvent]) -> EventReport<'_> {
    EventReport {
        device,
        time,
        unfinished: false,
        events,
    }
}

/// The size of the picture that is shown; none before the server has told it.
fn screen(shared: &Shared) -> Option<(u32, u32)> {
    let stats = lock(&shared.shown()?.stats);
    let size = stats.video.as_ref()?.size;
    Some((size.width, size.height))
}
