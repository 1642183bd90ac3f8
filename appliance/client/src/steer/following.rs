//! What the operator's devices do: chords, edges, what is held, pushed and touched. Once warm, following allocates nothing.

use soft_kvm_input::{Action, Binding, ChordDetector, EdgeDetector, EdgeRule, Touches};
use soft_kvm_protocol::input::codes::abs;
use soft_kvm_protocol::input::{
    DeviceDescriptor, DeviceId, EventReport, EventType, InputEvent, KeyCode, Springs,
};

/// The screen until a server has told its size.
const SCREEN: (u32, u32) = (1920, 1080);

/// What an event asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// A chord, by its place among the bindings.
    Chord(usize),
    /// The pointer was pushed against an edge.
    Edge(Action),
}

/// The state of all devices of the operator, as their reports tell it.
#[derive(Debug)]
pub(super) struct Following {
    chords: ChordDetector<usize>,
    edges: Option<EdgeDetector>,
    springs: Springs,
    /// Of devices that were ever touched.
    touches: Vec<Touches>,
}

impl Following {
    pub(super) fn new(bindings: &[Binding], edges: &[EdgeRule]) -> Self {
        let chords = bindings.iter().map(|binding| &binding.chord).cloned();
        Self {
            chords: ChordDetector::new(chords.zip(0..).collect()),
            edges: (!edges.is_empty())
                .then(|| EdgeDetector::new(edges.to_vec(), SCREEN.0, SCREEN.1)),
            springs: Springs::default(),
            touches: Vec::new(),
        }
    }

    /// Follows a report; answers what it asks for.
    pub(super) fn follow(&mut self, report: &EventReport<'_>) -> Option<Turn> {
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

    /// Keys that are down, without those that only tell of fingers: they touch another machine when they come down anew.
    pub(super) fn held(&self) -> impl Iterator<Item = (DeviceId, KeyCode)> {
        let all = self.chords.held().iter();
        all.filter(|(device, key)| !self.is_contact(*device, *key))
    }

    /// Whether a key only tells of fingers on a touch device.
    fn is_contact(&self, device: DeviceId, key: KeyCode) -> bool {
        /// `BTN_DIGI` to `BTN_TOOL_QUADTAP` of linux/input-event-codes.h.
        const CONTACTS: std::ops::RangeInclusive<u16> = 0x140..=0x14f;
        CONTACTS.contains(&key.0) && self.touches.iter().any(|one| one.device() == device)
    }

    /// Gives `push` what brings sticks back to the middle and lifts fingers, device by device.
    pub(super) fn let_go(&mut self, mut push: impl FnMut(DeviceId, &[InputEvent])) {
        for device in self.springs.away() {
            let events: Vec<_> = self.springs.release(device).collect();
            push(device, &events);
        }
        for touches in self.touches.iter_mut().filter(|one| one.is_touched()) {
            let mut events = Vec::new();
            touches.lift(&mut events);
            touches.set_lifted();
            push(touches.device(), &events);
        }
    }

    pub(super) const fn heeds_edges(&self) -> bool {
        self.edges.is_some()
    }

    /// The screen that the pointer moves on has this size.
    pub(super) fn resize(&mut self, width: u32, height: u32) {
        if let Some(edges) = &mut self.edges {
            edges.resize(width, height);
        }
    }

    /// A device that is there from now on.
    pub(super) fn add_device(&mut self, device: &DeviceDescriptor) {
        self.springs.add_device(device);
    }

    /// A device that is gone.
    pub(super) fn unplugged(&mut self, device: DeviceId) {
        self.remove_device(device);
        self.springs.remove_device(device);
        self.touches.retain(|touches| touches.device() != device);
    }

    /// A device's keys are up.
    pub(super) fn remove_device(&mut self, device: DeviceId) {
        self.chords.remove_device(device);
    }
}

fn is_button(key: KeyCode) -> bool {
    (KeyCode::BTN_MISC.0..KeyCode::BTN_TOOL_PEN.0).contains(&key.0) || key == KeyCode::BTN_TOUCH
}

#[cfg(test)]
mod tests {
    use soft_kvm_core::MonoTime;
    use soft_kvm_input::bindings;
    use soft_kvm_protocol::input::AbsoluteAxis;

    use super::*;

    const KEYBOARD: DeviceId = DeviceId(1);
    const MOUSE: DeviceId = DeviceId(2);
    const STICK: DeviceId = DeviceId(3);
    const PANEL: DeviceId = DeviceId(4);

    fn following() -> Following {
        let edges = ["left=previous".parse().expect("a rule")];
        let mut following = Following::new(&bindings(&[]).expect("no conflict"), &edges);
        following.add_device(&DeviceDescriptor {
            id: STICK,
            keys: vec![KeyCode::BTN_GAMEPAD],
            absolute: vec![AbsoluteAxis {
                code: abs::X,
                minimum: -100,
                maximum: 100,
                ..AbsoluteAxis::default()
            }],
            ..DeviceDescriptor::default()
        });
        following
    }

    fn follow(following: &mut Following, device: DeviceId, events: &[InputEvent]) -> Option<Turn> {
        following.follow(&EventReport {
            device,
            time: MonoTime::ZERO,
            unfinished: false,
            events,
        })
    }

    fn absolute(code: u16, value: i32) -> InputEvent {
        InputEvent::new(EventType::ABS, code, value)
    }

    #[test]
    fn once_warm_no_event_allocates() {
        let mut following = following();
        let mut second = || {
            for step in 0..1_000 {
                let down = step % 2 == 0;
                let key = InputEvent::key(KeyCode(30 + step % 20 / 2), down);
                let motion = [
                    InputEvent::new(EventType::REL, 0, 3),
                    InputEvent::new(EventType::REL, 1, -2),
                ];
                let finger = [
                    absolute(abs::MT_SLOT, i32::from(step % 4 / 2)),
                    absolute(abs::MT_TRACKING_ID, if down { 7 } else { -1 }),
                ];
                let stick = [absolute(abs::X, i32::from(step % 100))];
                for (device, events) in [
                    (KEYBOARD, &[key][..]),
                    (MOUSE, &motion),
                    (PANEL, &finger),
                    (STICK, &stick),
                ] {
                    follow(&mut following, device, events);
                }
            }
        };
        second();
        let counted = allocation_counter::measure(second);
        assert_eq!(counted.count_total, 0, "{counted:?}");
    }

    #[test]
    fn what_is_held_goes_along_but_fingers_do_not() {
        let mut following = following();
        let touch = [
            absolute(abs::MT_SLOT, 0),
            absolute(abs::MT_TRACKING_ID, 5),
            InputEvent::key(KeyCode::BTN_TOUCH, true),
        ];
        follow(&mut following, PANEL, &touch);
        follow(
            &mut following,
            KEYBOARD,
            &[InputEvent::key(KeyCode::A, true)],
        );
        follow(&mut following, STICK, &[absolute(abs::X, 90)]);
        assert_eq!(
            following.held().collect::<Vec<_>>(),
            [(KEYBOARD, KeyCode::A)]
        );
        let mut released = Vec::new();
        following.let_go(|device, events| released.push((device, events.to_vec())));
        let of = |device| {
            let found = released.iter().find(|(one, _)| *one == device);
            found
                .map(|(_, events)| events.as_slice())
                .unwrap_or_default()
        };
        assert_eq!(of(STICK), [absolute(abs::X, 0)]);
        assert!(of(PANEL).contains(&absolute(abs::MT_TRACKING_ID, -1)));
        let mut again = 0;
        following.let_go(|device, _| again += u32::from(device == PANEL));
        assert_eq!(again, 0, "fingers are lifted once");
    }
}
