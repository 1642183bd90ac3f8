//! Where the operator's input goes: chords and screen edges choose among the servers and the own machine.

use std::sync::Arc;

use soft_kvm_core::MonoTime;
use soft_kvm_input::{
    Action, Binding, ChordDetector, EdgeDetector, EdgeRule, Place, Switch, Touches, bindings,
};
use soft_kvm_protocol::input::codes::abs;
use soft_kvm_protocol::input::{
    DeviceDescriptor, DeviceId, EventReport, EventType, InputEvent, KeyCode, Springs,
};
use soft_kvm_service::console;

use crate::remote::Remote;
use crate::run::Shared;
use crate::session::link::InputLink;
use crate::session::outputs::lock;

/// The screen until a server has told its size.
const SCREEN: (u32, u32) = (1920, 1080);

/// What an event asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Turn {
    /// A chord, by its place among the bindings.
    Chord(usize),
    /// The pointer was pushed against an edge.
    Edge(Action),
}

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
    chords: ChordDetector<usize>,
    edges: Option<EdgeDetector>,
    switch: Switch,
    springs: Springs,
    /// Of devices that were ever touched.
    touches: Vec<Touches>,
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
        let numbered = bindings.iter().map(|binding| &binding.chord).cloned();
        Ok(Self {
            chords: ChordDetector::new(numbered.zip(0..).collect()),
            switch: Switch::new(shared.remotes.len()),
            springs: Springs::default(),
            touches: Vec::new(),
            edges: (!edges.is_empty())
                .then(|| EdgeDetector::new(edges.to_vec(), SCREEN.0, SCREEN.1)),
            shared,
            bindings,
        })
    }

    /// The chords of an action, for people.
    pub(crate) fn chords_of(&self, action: Action) -> String {
        let chords = self
            .bindings
            .iter()
            .filter(|binding| binding.action == action)
            .map(|binding| binding.chord.to_string());
        let text: Vec<_> = chords.collect();
        text.join(self.shared.lang.pick(" or ", " または "))
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
        let lang = self.shared.lang;
        console::err(format!(
            "{} {}",
            self.chords_of(Action::Panic),
            lang.pick(
                "gives keyboard and mouse back at any moment.",
                "で、いつでもキーボードとマウスを取り戻せます。"
            )
        ));
        let count = self.shared.remotes.len();
        if count < 2 {
            return;
        }
        let lines = [
            (Action::Next, lang.pick("next server", "次のサーバー")),
            (
                Action::Previous,
                lang.pick("previous server", "前のサーバー"),
            ),
            (Action::Local, lang.pick("this machine", "このマシン")),
        ];
        for (action, what) in lines {
            console::err(format!("{}: {what}", self.chords_of(action)));
        }
        for (number, remote) in (1..=9).zip(&self.shared.remotes) {
            let chord = self.chords_of(Action::Server(number));
            console::err(format!("{chord}: {}", remote.target.text));
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
        let mut turn = None;
        for event in report.events {
            self.springs.follow(report.device, *event);
            self.follow_touch(report.device, *event);
            if let Some(chord) = self.chords.follow(report.device, *event) {
                turn = Some(Turn::Chord(chord));
            }
            if let Some(edges) = &mut self.edges {
                let dragging = self.chords.held().iter().any(|(_, key)| is_button(key));
                let action = edges.follow(*event, dragging);
                turn = turn.or(action.map(Turn::Edge));
            }
        }
        turn
    }

    /// Whether a key only tells of fingers on a touch device.
    fn is_contact(&self, device: DeviceId, key: KeyCode) -> bool {
        /// `BTN_DIGI` to `BTN_TOOL_QUADTAP` of linux/input-event-codes.h.
        const CONTACTS: std::ops::RangeInclusive<u16> = 0x140..=0x14f;
        CONTACTS.contains(&key.0) && self.touches.iter().any(|one| one.device() == device)
    }

    fn follow_touch(&mut self, device: DeviceId, event: InputEvent) {
        let is_contact = matches!(event.code, abs::MT_SLOT | abs::MT_TRACKING_ID);
        if event.kind != EventType::ABS || !is_contact {
            return;
        }
        match self.touches.iter_mut().find(|one| one.device() == device) {
            Some(touches) => touches.follow(event),
            None => {
                let mut touches = Touches::new(device);
                touches.follow(event);
                self.touches.push(touches);
            }
        }
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
                for (device, key) in self.chords.held().iter() {
                    // Nobody wants to type the chord there, and fingers touch it only when they come down anew.
                    let typed = chord
                        .as_ref()
                        .is_some_and(|chord| chord.keys().contains(&key));
                    if !typed && !self.is_contact(device, key) {
                        press(&link, now, device, key);
                    }
                }
            }
        }
        Outcome::Moved
    }

    /// Looks how large the screen is. To be called now and then.
    pub(crate) fn look_at_screen(&mut self) {
        if let Some(edges) = &mut self.edges
            && let Some((width, height)) = screen(&self.shared)
        {
            edges.resize(width, height);
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
        for device in self.springs.away() {
            let events: Vec<_> = self.springs.release(device).collect();
            link.push(now, made_up(now, device, &events));
        }
        for touches in self.touches.iter_mut().filter(|one| one.is_touched()) {
            let mut events = Vec::new();
            touches.lift(&mut events);
            touches.set_lifted();
            link.push(now, made_up(now, touches.device(), &events));
        }
        link.release_all(now);
    }

    /// A device that is there from now on.
    pub(crate) fn add_device(&mut self, device: &DeviceDescriptor) {
        self.springs.add_device(device);
    }

    /// A device that is gone.
    pub(crate) fn unplugged(&mut self, device: DeviceId) {
        self.remove_device(device);
        self.springs.remove_device(device);
        self.touches.retain(|touches| touches.device() != device);
    }

    /// A device's keys are up.
    pub(crate) fn remove_device(&mut self, device: DeviceId) {
        self.chords.remove_device(device);
    }

    /// The devices go back to the own machine.
    pub(crate) fn give_back(&mut self, now: MonoTime) {
        if let Some(link) = self.link() {
            self.let_go(&link, now);
        }
        self.switch.act(Action::Local);
    }
}

fn press(link: &InputLink, now: MonoTime, device: DeviceId, key: KeyCode) {
    link.push(now, made_up(now, device, &[InputEvent::key(key, true)]));
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

fn is_button(key: KeyCode) -> bool {
    (KeyCode::BTN_MISC.0..KeyCode::BTN_TOOL_PEN.0).contains(&key.0) || key == KeyCode::BTN_TOUCH
}

/// The size of the picture that is shown; none before the server has told it.
fn screen(shared: &Shared) -> Option<(u32, u32)> {
    let stats = lock(&shared.shown()?.stats);
    let size = stats.video.as_ref()?.size;
    Some((size.width, size.height))
}
