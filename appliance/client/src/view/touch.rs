//! Fingers on the window as a touch screen of Linux: protocol B of the kernel's Documentation/input/multi-touch-protocol.rst.

use soft_kvm_core::MonoTime;
use soft_kvm_protocol::input::codes::abs;
use soft_kvm_protocol::input::{
    AbsoluteAxis, DeviceDescriptor, DeviceId, EventReport, EventType, InputEvent, KeyCode,
};

use super::input::{ABSOLUTE_MAX, report};

/// `INPUT_PROP_DIRECT` of linux/input-event-codes.h: the fingers are on the picture itself.
const DIRECT: u16 = 0x01;
/// Fingers at once, as most touch screens have it; more are not followed.
pub(super) const FINGERS: usize = 10;
/// Largest tracking id before they begin anew, as the kernel's drivers have it (`TRKID_MAX`).
const LAST_TRACKING_ID: i32 = 0xffff;
/// Events of a report in which every finger moves: slot, two positions; and the oldest one's place for programs that know only
/// one finger.
const MOST_EVENTS: usize = 3 * FINGERS + 4;

/// The window as a touch screen: 0..=65535 over the picture, ten fingers.
#[must_use]
pub fn window_touch(id: DeviceId) -> DeviceDescriptor {
    let axis = |code, maximum| AbsoluteAxis {
        code,
        minimum: 0,
        maximum,
        ..AbsoluteAxis::default()
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "ten fingers"
    )]
    let last_slot = FINGERS as i32 - 1;
    DeviceDescriptor {
        id,
        name: "Soft KVM window touch screen".to_owned(),
        keys: vec![KeyCode::BTN_TOUCH],
        absolute: vec![
            axis(abs::X, ABSOLUTE_MAX),
            axis(abs::Y, ABSOLUTE_MAX),
            axis(abs::MT_SLOT, last_slot),
            axis(abs::MT_POSITION_X, ABSOLUTE_MAX),
            axis(abs::MT_POSITION_Y, ABSOLUTE_MAX),
            axis(abs::MT_TRACKING_ID, LAST_TRACKING_ID),
        ],
        properties: vec![DIRECT],
        ..DeviceDescriptor::default()
    }
}

/// The fingers that are down, and in which slots.
///
/// Places are those of [`window_touch`]. Once made, nothing allocates.
#[derive(Debug)]
pub(super) struct Touches {
    device: DeviceId,
    slots: [Option<Finger>; FINGERS],
    /// The tracking id of the next finger.
    next: i32,
    /// Fingers since the start, to tell the oldest.
    count: u64,
    events: Vec<InputEvent>,
}

#[derive(Clone, Copy, Debug)]
struct Finger {
    /// The window system's number.
    number: u64,
    age: u64,
    at: (i32, i32),
    /// Not told yet.
    moved: bool,
}

impl Touches {
    pub(super) fn new(device: DeviceId) -> Self {
        Self {
            device,
            slots: [None; FINGERS],
            next: 0,
            count: 0,
            events: Vec::with_capacity(MOST_EVENTS),
        }
    }

    fn is_empty(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }

    /// A finger came down at a place.
    pub(super) fn down(
        &mut self,
        number: u64,
        at: (i32, i32),
        time: MonoTime,
        send: &mut impl FnMut(EventReport<'_>),
    ) {
        // One whose end was lost on the way.
        self.up(number, time, send);
        self.flush(time, send);
        let first = self.is_empty();
        let Some((slot, place)) = (0..).zip(&mut self.slots).find(|(_, slot)| slot.is_none())
        else {
            return;
        };
        *place = Some(Finger {
            number,
            age: self.count,
            at,
            moved: false,
        });
        self.count += 1;
        self.events.clear();
        self.tell(abs::MT_SLOT, slot);
        self.tell(abs::MT_TRACKING_ID, self.next);
        self.tell(abs::MT_POSITION_X, at.0);
        self.tell(abs::MT_POSITION_Y, at.1);
        self.next = match self.next {
            LAST_TRACKING_ID => 0,
            id => id + 1,
        };
        if first {
            self.events.push(InputEvent::key(KeyCode::BTN_TOUCH, true));
        }
        self.end(time, send);
    }

    /// A finger is at another place; told by [`Touches::flush`].
    pub(super) fn moved(&mut self, number: u64, at: (i32, i32)) {
        let mut fingers = self.slots.iter_mut().flatten();
        if let Some(finger) = fingers.find(|finger| finger.number == number) {
            finger.moved |= finger.at != at;
            finger.at = at;
        }
    }

    /// A finger was lifted, or the window system took it away.
    pub(super) fn up(
        &mut self,
        number: u64,
        time: MonoTime,
        send: &mut impl FnMut(EventReport<'_>),
    ) {
        let is_it = |finger: &Option<Finger>| finger.is_some_and(|finger| finger.number == number);
        if !self.slots.iter().any(is_it) {
            return;
        }
        self.flush(time, send);
        self.raise(is_it, time, send);
    }

    /// Every finger up.
    pub(super) fn lift(&mut self, time: MonoTime, send: &mut impl FnMut(EventReport<'_>)) {
        if !self.is_empty() {
            self.raise(Option::is_some, time, send);
        }
    }

    fn raise(
        &mut self,
        chosen: impl Fn(&Option<Finger>) -> bool,
        time: MonoTime,
        send: &mut impl FnMut(EventReport<'_>),
    ) {
        self.events.clear();
        for (slot, place) in (0..).zip(&mut self.slots).filter(|(_, slot)| chosen(slot)) {
            *place = None;
            self.events.push(at(abs::MT_SLOT, slot));
            self.events.push(at(abs::MT_TRACKING_ID, -1));
        }
        if self.is_empty() {
            self.events.push(InputEvent::key(KeyCode::BTN_TOUCH, false));
        }
        self.end(time, send);
    }

    /// Tells where fingers have moved to.
    pub(super) fn flush(&mut self, time: MonoTime, send: &mut impl FnMut(EventReport<'_>)) {
        self.events.clear();
        for (slot, finger) in (0..).zip(&mut self.slots) {
            if let Some(finger) = finger.as_mut().filter(|finger| finger.moved) {
                finger.moved = false;
                self.events.push(at(abs::MT_SLOT, slot));
                self.events.push(at(abs::MT_POSITION_X, finger.at.0));
                self.events.push(at(abs::MT_POSITION_Y, finger.at.1));
            }
        }
        if !self.events.is_empty() {
            self.end(time, send);
        }
    }

    /// Ends a report with the oldest finger's place, as the kernel does for programs that know only one.
    fn end(&mut self, time: MonoTime, send: &mut impl FnMut(EventReport<'_>)) {
        let oldest = self.slots.iter().flatten().min_by_key(|finger| finger.age);
        if let Some((x, y)) = oldest.map(|finger| finger.at) {
            self.tell(abs::X, x);
            self.tell(abs::Y, y);
        }
        send(report(self.device, time, &self.events));
    }

    fn tell(&mut self, code: u16, value: i32) {
        self.events.push(at(code, value));
    }
}

const fn at(code: u16, value: i32) -> InputEvent {
    InputEvent::new(EventType::ABS, code, value)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use soft_kvm_input::DeviceClass;

    use super::*;

    const SCREEN: DeviceId = DeviceId(3);

    /// What a program on the target makes of the reports.
    #[derive(Debug, Default)]
    struct Seen {
        slot: i32,
        /// Tracking id and place, by slot.
        fingers: BTreeMap<i32, (i32, (i32, i32))>,
        touched: bool,
        single: (i32, i32),
        reports: usize,
        begun: usize,
    }

    impl Seen {
        fn follow(&mut self, report: &EventReport<'_>) {
            assert_eq!(report.device, SCREEN);
            assert!(!report.events.is_empty() && report.events.len() <= MOST_EVENTS);
            self.reports += 1;
            for event in report.events {
                let finger = self.fingers.get_mut(&self.slot);
                match (event.kind, event.code) {
                    (EventType::KEY, code) => {
                        assert_eq!(KeyCode(code), KeyCode::BTN_TOUCH);
                        assert_ne!(self.touched, event.value == 1, "told twice");
                        self.touched = event.value == 1;
                    }
                    (_, abs::MT_SLOT) => self.slot = event.value,
                    (_, abs::MT_TRACKING_ID) if event.value < 0 => {
                        let lifted = self.fingers.remove(&self.slot);
                        assert!(lifted.is_some(), "lifted twice");
                    }
                    (_, abs::MT_TRACKING_ID) => {
                        let known = self.fingers.values().any(|(id, _)| *id == event.value);
                        assert!(!known && event.value <= LAST_TRACKING_ID, "an id twice");
                        let before = self.fingers.insert(self.slot, (event.value, (-1, -1)));
                        assert!(before.is_none(), "a slot twice");
                        self.begun += 1;
                    }
                    (_, abs::MT_POSITION_X) => finger.expect("a finger").1.0 = event.value,
                    (_, abs::MT_POSITION_Y) => finger.expect("a finger").1.1 = event.value,
                    (_, abs::X) => self.single.0 = event.value,
                    (_, abs::Y) => self.single.1 = event.value,
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(self.touched, !self.fingers.is_empty());
        }

        fn places(&self) -> Vec<(i32, i32)> {
            let mut places: Vec<_> = self.fingers.values().map(|(_, place)| *place).collect();
            places.sort_unstable();
            places
        }
    }

    #[test]
    fn it_is_a_touch_screen_and_valid() {
        let device = window_touch(SCREEN);
        assert_eq!(DeviceClass::of(&device), DeviceClass::Touchscreen);
        let slots = device.axis(abs::MT_SLOT).expect("slots");
        assert!(slots.maximum >= 4, "five fingers at least");
        let codes: Vec<_> = device.absolute.iter().map(|axis| axis.code).collect();
        assert!(codes.is_sorted());
    }

    #[test]
    fn two_fingers_and_the_older_goes() {
        let (mut touches, mut sent) = (Touches::new(SCREEN), Vec::new());
        let mut send = |report: EventReport<'_>| sent.push(report.events.to_vec());
        let now = MonoTime::ZERO;
        touches.down(70, (10, 20), now, &mut send);
        touches.down(71, (30, 40), now, &mut send);
        touches.moved(71, (31, 41));
        touches.moved(70, (10, 20));
        touches.up(70, now, &mut send);
        touches.up(71, now, &mut send);
        touches.up(71, now, &mut send);
        let touch = |down| InputEvent::key(KeyCode::BTN_TOUCH, down);
        let begin = |slot, id, x, y| {
            [
                at(abs::MT_SLOT, slot),
                at(abs::MT_TRACKING_ID, id),
                at(abs::MT_POSITION_X, x),
                at(abs::MT_POSITION_Y, y),
            ]
        };
        let end = |slot| [at(abs::MT_SLOT, slot), at(abs::MT_TRACKING_ID, -1)];
        let single = |x, y| [at(abs::X, x), at(abs::Y, y)];
        let moved = [
            at(abs::MT_SLOT, 1),
            at(abs::MT_POSITION_X, 31),
            at(abs::MT_POSITION_Y, 41),
        ];
        assert_eq!(
            sent,
            [
                [&begin(0, 0, 10, 20)[..], &[touch(true)], &single(10, 20)].concat(),
                [&begin(1, 1, 30, 40)[..], &single(10, 20)].concat(),
                [&moved[..], &single(10, 20)].concat(),
                [&end(0)[..], &single(31, 41)].concat(),
                [&end(1)[..], &[touch(false)]].concat(),
            ]
        );
    }

    #[test]
    fn tracking_ids_begin_anew() {
        let (mut touches, mut seen) = (Touches::new(SCREEN), Seen::default());
        let mut send = |report: EventReport<'_>| seen.follow(&report);
        for number in 0..70_000 {
            touches.down(number, (1, 1), MonoTime::ZERO, &mut send);
            touches.up(number, MonoTime::ZERO, &mut send);
        }
        assert_eq!((seen.begun, seen.touched), (70_000, false));
    }

    proptest! {
        #[test]
        fn the_target_has_the_fingers_that_are_down(
            steps in prop::collection::vec((0_u8..8, 0_u64..14, 0_i32..5, 0_i32..5), 0..120)
        ) {
            let (mut touches, mut seen) = (Touches::new(SCREEN), Seen::default());
            // By number, in the order in which they came.
            let mut down: Vec<(u64, (i32, i32))> = Vec::new();
            let now = MonoTime::ZERO;
            for (what, number, x, y) in steps {
                let mut send = |report: EventReport<'_>| seen.follow(&report);
                match what {
                    0..=2 => {
                        touches.down(number, (x, y), now, &mut send);
                        down.retain(|(other, _)| *other != number);
                        if down.len() < FINGERS {
                            down.push((number, (x, y)));
                        }
                    }
                    3..=4 => {
                        touches.moved(number, (x, y));
                        let found = down.iter_mut().find(|(other, _)| *other == number);
                        if let Some((_, at)) = found {
                            *at = (x, y);
                        }
                    }
                    5..=6 => {
                        touches.up(number, now, &mut send);
                        down.retain(|(other, _)| *other != number);
                    }
                    _ => {
                        touches.lift(now, &mut send);
                        down.clear();
                    }
                }
                touches.flush(now, &mut send);
                let reports = seen.reports;
                touches.flush(now, &mut |report: EventReport<'_>| seen.follow(&report));
                prop_assert_eq!(seen.reports, reports, "nothing new to tell");
                let mut places: Vec<_> = down.iter().map(|(_, place)| *place).collect();
                places.sort_unstable();
                prop_assert_eq!(seen.places(), places);
                if let Some((_, oldest)) = down.first() {
                    prop_assert_eq!(seen.single, *oldest);
                }
            }
            touches.lift(now, &mut |report: EventReport<'_>| seen.follow(&report));
            prop_assert!(!seen.touched);
        }
    }
}
