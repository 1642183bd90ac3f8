//! The window's keyboard, pointer and fingers as input devices of Linux.

use soft_kvm_core::MonoTime;
use soft_kvm_input::Wish;
use soft_kvm_protocol::input::codes::{abs, led, rel};
use soft_kvm_protocol::input::{
    AbsoluteAxis, DeviceDescriptor, DeviceId, EventReport, EventType, InputEvent, KeyCode, Repeat,
};
use winit::event::{MouseButton, MouseScrollDelta, TouchPhase};
use winit::keyboard::PhysicalKey;
use winit::platform::scancode::PhysicalKeyExtScancode as _;

use super::touch::Touches;

/// `REL_HWHEEL` of linux/input-event-codes.h.
const REL_HWHEEL: u16 = 0x06;
/// `REL_HWHEEL_HI_RES` of linux/input-event-codes.h.
const REL_HWHEEL_HI_RES: u16 = 0x0c;
/// `INPUT_PROP_DIRECT` is for touch screens; an absolute pointer without it is a tablet-like mouse, as virtual
/// machines have it.
pub(super) const ABSOLUTE_MAX: i32 = 65_535;
/// Largest keyboard code of the window's keyboard (`KEY_MICMUTE`); X11 has no more.
const LAST_KEY: u16 = 248;
/// High-resolution units of a wheel's detent.
const DETENT: f64 = 120.0;
/// Pixels that a touchpad moves for what a wheel's detent does (libinput's 15 degrees).
const PIXELS_PER_DETENT: f64 = 15.0;

/// The window's keyboard.
#[must_use]
pub fn window_keyboard(id: DeviceId) -> DeviceDescriptor {
    DeviceDescriptor {
        id,
        name: "Soft KVM window keyboard".to_owned(),
        keys: (1..=LAST_KEY).map(KeyCode).collect(),
        repeat: Some(Repeat {
            delay_ms: 250,
            period_ms: 33,
        }),
        leds: vec![led::NUM_LOCK, led::CAPS_LOCK, led::SCROLL_LOCK],
        ..DeviceDescriptor::default()
    }
}

/// The window's pointer: absolute, 0..=65535 over the picture, with five buttons and two wheels.
#[must_use]
pub fn window_pointer(id: DeviceId) -> DeviceDescriptor {
    let axis = |code| AbsoluteAxis {
        code,
        minimum: 0,
        maximum: ABSOLUTE_MAX,
        ..AbsoluteAxis::default()
    };
    DeviceDescriptor {
        id,
        name: "Soft KVM window pointer".to_owned(),
        keys: (0x110..=0x114).map(KeyCode).collect(),
        relative: vec![REL_HWHEEL, rel::WHEEL, rel::WHEEL_HI_RES, REL_HWHEEL_HI_RES],
        absolute: vec![axis(abs::X), axis(abs::Y)],
        ..DeviceDescriptor::default()
    }
}

/// The evdev code of a key on X11 and Wayland.
pub(super) fn key_code(key: PhysicalKey) -> Option<KeyCode> {
    let code = u16::try_from(key.to_scancode()?).ok()?;
    (1..=LAST_KEY).contains(&code).then_some(KeyCode(code))
}

/// What the window does itself with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hotkey {
    Overlay,
    SendInput,
    FullScreen,
    Paste,
    Control(Wish),
    Quit,
}

/// What is held down, what was sent, and what is not yet a whole detent.
#[derive(Debug)]
pub(super) struct WindowInput {
    keyboard: DeviceId,
    pointer: DeviceId,
    sending: bool,
    /// Held on the operator's keyboard, sent or not.
    held: Vec<KeyCode>,
    /// Down on the target, with the device that they belong to.
    sent: Vec<(DeviceId, KeyCode)>,
    position: Option<(i32, i32)>,
    inside: bool,
    moved: bool,
    wheel: Wheel,
    horizontal: Wheel,
    touches: Touches,
}

#[derive(Debug, Default)]
struct Wheel {
    /// Part of a high-resolution unit.
    fraction: f64,
    /// Units since the last whole detent.
    units: i32,
}

impl Wheel {
    /// High-resolution units and whole detents of a movement.
    fn turn(&mut self, units: f64) -> (i32, i32) {
        let total = (self.fraction + units).clamp(-1e6, 1e6);
        self.fraction = total.fract();
        #[expect(clippy::cast_possible_truncation, reason = "clamped to a million")]
        let whole = total.trunc() as i32;
        self.units += whole;
        let detents = self.units / 120;
        self.units %= 120;
        (whole, detents)
    }
}

impl WindowInput {
    pub(super) fn new(
        keyboard: DeviceId,
        pointer: DeviceId,
        touch: DeviceId,
        sending: bool,
    ) -> Self {
        Self {
            keyboard,
            pointer,
            sending,
            held: Vec::with_capacity(16),
            sent: Vec::with_capacity(16),
            position: None,
            inside: false,
            moved: false,
            wheel: Wheel::default(),
            horizontal: Wheel::default(),
            touches: Touches::new(touch),
        }
    }

    pub(super) fn is_sending(&self) -> bool {
        self.sending
    }

    /// A key of the window went down or up (not by auto-repeat). `Some` when the window takes it for itself.
    pub(super) fn key(
        &mut self,
        key: KeyCode,
        down: bool,
        time: MonoTime,
        send: &mut impl FnMut(EventReport<'_>),
    ) -> Option<Hotkey> {
        let was_held = self.held.contains(&key);
        if down == was_held {
            return None;
        }
        if down {
            self.held.push(key);
            if let Some(hotkey) = self.hotkey(key) {
                return Some(hotkey);
            }
        } else {
            self.held.retain(|&held| held != key);
        }
        self.flush(time, send);
        self.press(self.keyboard, key, down, time, send);
        None
    }

    fn hotkey(&self, key: KeyCode) -> Option<Hotkey> {
        /// Codes of linux/input-event-codes.h.
        const Q: KeyCode = KeyCode(16);
        const S: KeyCode = KeyCode(31);
        const Z: KeyCode = KeyCode(44);
        const X: KeyCode = KeyCode(45);
        const V: KeyCode = KeyCode(47);
        const F11: KeyCode = KeyCode(87);
        let any = |keys: [KeyCode; 2]| keys.iter().any(|key| self.held.contains(key));
        let all_modifiers = any([KeyCode::LEFTCTRL, KeyCode::RIGHTCTRL])
            && any([KeyCode::LEFTALT, KeyCode::RIGHTALT])
            && any([KeyCode::LEFTSHIFT, KeyCode::RIGHTSHIFT]);
        match key {
            S if all_modifiers => Some(Hotkey::Overlay),
            Z if all_modifiers => Some(Hotkey::SendInput),
            X if all_modifiers => Some(Hotkey::FullScreen),
            V if all_modifiers && self.sending => Some(Hotkey::Paste),
            Q if all_modifiers => Some(Hotkey::Quit),
            F11 if !self.sending => Some(Hotkey::FullScreen),
            _ if all_modifiers => Wish::of_key(key).map(Hotkey::Control),
            _ => None,
        }
    }

    /// Switches sending on or off, with all keys up.
    pub(super) fn set_sending(
        &mut self,
        sending: bool,
        time: MonoTime,
        send: &mut impl FnMut(EventReport<'_>),
    ) {
        self.lift(time, send);
        self.sending = sending;
        self.moved = false;
    }

    /// The window has lost the keyboard: nothing is known of what is held.
    pub(super) fn focus_lost(&mut self, time: MonoTime, send: &mut impl FnMut(EventReport<'_>)) {
        self.flush(time, send);
        self.lift(time, send);
        self.held.clear();
    }

    /// All keys and fingers up on the target; those still held go up without a word.
    pub(super) fn lift(&mut self, time: MonoTime, send: &mut impl FnMut(EventReport<'_>)) {
        while let Some(&(device, key)) = self.sent.last() {
            self.press(device, key, false, time, send);
        }
        self.touches.lift(time, send);
    }

    /// The pointer is at this place over the picture; sent by [`WindowInput::flush`], so that a fast mouse does not make a report
    /// for every one of its steps.
    pub(super) fn pointer_moved(&mut self, (x, y, inside): (i32, i32, bool)) {
        self.inside = inside;
        if self.position.replace((x, y)) != Some((x, y)) {
            self.moved = true;
        }
    }

    /// A finger touches the picture, moves or goes. One that comes down beside the picture is not followed; one that moves out
    /// stays at its edge.
    pub(super) fn touch(
        &mut self,
        phase: TouchPhase,
        finger: u64,
        (x, y, inside): (i32, i32, bool),
        time: MonoTime,
        send: &mut impl FnMut(EventReport<'_>),
    ) {
        // X11 moves the pointer with the first finger.
        self.moved = false;
        match phase {
            TouchPhase::Started if self.sending && inside => {
                self.touches.down(finger, (x, y), time, send);
            }
            TouchPhase::Started => {}
            TouchPhase::Moved => self.touches.moved(finger, (x, y)),
            TouchPhase::Ended | TouchPhase::Cancelled => self.touches.up(finger, time, send),
        }
    }

    /// Sends the pointer's place and those of fingers if they changed.
    pub(super) fn flush(&mut self, time: MonoTime, send: &mut impl FnMut(EventReport<'_>)) {
        if let (true, true, Some((x, y))) = (self.sending, self.moved, self.position) {
            let events = [
                InputEvent::new(EventType::ABS, abs::X, x),
                InputEvent::new(EventType::ABS, abs::Y, y),
            ];
            send(report(self.pointer, time, &events));
        }
        self.moved = false;
        self.touches.flush(time, send);
    }

    pub(super) fn button(
        &mut self,
        button: MouseButton,
        down: bool,
        time: MonoTime,
        send: &mut impl FnMut(EventReport<'_>),
    ) {
        let key = match button {
            MouseButton::Left => KeyCode::BTN_LEFT,
            MouseButton::Right => KeyCode::BTN_RIGHT,
            MouseButton::Middle => KeyCode::BTN_MIDDLE,
            MouseButton::Back => KeyCode(0x113),
            MouseButton::Forward => KeyCode(0x114),
            MouseButton::Other(_) => return,
        };
        self.flush(time, send);
        if self.inside || !down {
            self.press(self.pointer, key, down, time, send);
        }
    }

    pub(super) fn scroll(
        &mut self,
        delta: MouseScrollDelta,
        scale: f64,
        time: MonoTime,
        send: &mut impl FnMut(EventReport<'_>),
    ) {
        if !self.sending || !self.inside {
            return;
        }
        let (x, y) = match delta {
            MouseScrollDelta::LineDelta(x, y) => (f64::from(x) * DETENT, f64::from(y) * DETENT),
            MouseScrollDelta::PixelDelta(pixels) => {
                let factor = DETENT / (PIXELS_PER_DETENT * scale.max(0.1));
                (pixels.x * factor, pixels.y * factor)
            }
        };
        self.flush(time, send);
        // winit counts what moves, the picture to the right; the kernel counts the wheel, which then turns left.
        let (right, right_detents) = self.horizontal.turn(-x);
        let (up, up_detents) = self.wheel.turn(y);
        let all = [
            (rel::WHEEL, up_detents),
            (rel::WHEEL_HI_RES, up),
            (REL_HWHEEL, right_detents),
            (REL_HWHEEL_HI_RES, right),
        ];
        let mut events = [InputEvent::SYN_REPORT; 4];
        let mut count = 0;
        let turned = all.into_iter().filter(|&(_, value)| value != 0);
        for (event, (code, value)) in events.iter_mut().zip(turned) {
            *event = InputEvent::new(EventType::REL, code, value);
            count += 1;
        }
        if let Some(events) = events.get(..count).filter(|events| !events.is_empty()) {
            send(report(self.pointer, time, events));
        }
    }

    fn press(
        &mut self,
        device: DeviceId,
        key: KeyCode,
        down: bool,
        time: MonoTime,
        send: &mut impl FnMut(EventReport<'_>),
    ) {
        let was_sent = self.sent.contains(&(device, key));
        if down {
            if was_sent || !self.sending {
                return;
            }
            self.sent.push((device, key));
        } else {
            if !was_sent {
                return;
            }
            self.sent.retain(|&sent| sent != (device, key));
        }
        send(report(device, time, &[InputEvent::key(key, down)]));
    }
}

pub(super) fn report(device: DeviceId, time: MonoTime, events: &[InputEvent]) -> EventReport<'_> {
    EventReport {
        device,
        time,
        unfinished: false,
        events,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use winit::keyboard::KeyCode as WinitKey;

    use super::*;

    const KEYBOARD: DeviceId = DeviceId(1);
    const POINTER: DeviceId = DeviceId(2);
    const TOUCH: DeviceId = DeviceId(3);
    const CTRL: KeyCode = KeyCode::LEFTCTRL;
    const ALT: KeyCode = KeyCode::LEFTALT;
    const SHIFT: KeyCode = KeyCode::RIGHTSHIFT;

    type Sent = Vec<(DeviceId, Vec<InputEvent>)>;

    fn sink(sent: &mut Sent) -> impl FnMut(EventReport<'_>) {
        |report| sent.push((report.device, report.events.to_vec()))
    }

    fn input(sending: bool) -> WindowInput {
        WindowInput::new(KEYBOARD, POINTER, TOUCH, sending)
    }

    fn type_keys(input: &mut WindowInput, keys: &[(KeyCode, bool)]) -> (Vec<Hotkey>, Sent) {
        let mut sent = Vec::new();
        let mut send = sink(&mut sent);
        let hotkeys = keys
            .iter()
            .filter_map(|&(key, down)| input.key(key, down, MonoTime::ZERO, &mut send))
            .collect();
        drop(send);
        (hotkeys, sent)
    }

    #[test]
    fn physical_keys_have_the_kernels_codes() {
        for (key, code) in [
            (WinitKey::KeyA, 30),
            (WinitKey::Enter, 28),
            (WinitKey::NumpadEnter, 96),
            (WinitKey::ArrowUp, 103),
            (WinitKey::Delete, 111),
            (WinitKey::F12, 88),
            (WinitKey::SuperLeft, 125),
            (WinitKey::IntlRo, 89),
            (WinitKey::IntlYen, 124),
            (WinitKey::Convert, 92),
            (WinitKey::PrintScreen, 99),
        ] {
            assert_eq!(
                key_code(PhysicalKey::Code(key)),
                Some(KeyCode(code)),
                "{key:?}"
            );
        }
    }

    #[test]
    fn every_code_comes_back_from_the_windowing_crate() {
        let lost: Vec<u16> = (1..=LAST_KEY)
            .filter(|&code| {
                key_code(PhysicalKey::from_scancode(u32::from(code))) != Some(KeyCode(code))
            })
            .collect();
        assert!(lost.is_empty(), "{lost:?}");
    }

    #[test]
    fn the_windows_own_keys_are_not_sent() {
        let mut input = input(true);
        let s = KeyCode(31);
        let (hotkeys, sent) = type_keys(
            &mut input,
            &[
                (CTRL, true),
                (ALT, true),
                (SHIFT, true),
                (s, true),
                (s, false),
                (s, true),
            ],
        );
        assert_eq!(hotkeys, [Hotkey::Overlay, Hotkey::Overlay]);
        assert_eq!(sent.len(), 3);
        let mut lifted = Vec::new();
        input.focus_lost(MonoTime::ZERO, &mut sink(&mut lifted));
        let up: Vec<_> = lifted.iter().flat_map(|(_, events)| events).collect();
        assert_eq!(up.len(), 3);
        assert!(up.iter().all(|event| event.value == 0));
    }

    #[test]
    fn f11_belongs_to_the_target_while_input_is_sent() {
        let f11 = KeyCode(87);
        let (hotkeys, sent) = type_keys(&mut input(true), &[(f11, true), (f11, false)]);
        assert_eq!((hotkeys.len(), sent.len()), (0, 2));
        let (hotkeys, sent) = type_keys(&mut input(false), &[(f11, true), (f11, false)]);
        assert_eq!((hotkeys, sent.len()), (vec![Hotkey::FullScreen], 0));
    }

    #[test]
    fn a_click_comes_after_the_movement_to_its_place() {
        let mut input = input(true);
        let mut sent = Vec::new();
        let mut send = sink(&mut sent);
        input.pointer_moved((5, 6, true));
        input.pointer_moved((7, 8, true));
        input.button(MouseButton::Left, true, MonoTime::ZERO, &mut send);
        input.pointer_moved((9, 9, false));
        input.button(MouseButton::Right, true, MonoTime::ZERO, &mut send);
        input.button(MouseButton::Left, false, MonoTime::ZERO, &mut send);
        drop(send);
        let values: Vec<i32> = sent.iter().flat_map(|(_, e)| e).map(|e| e.value).collect();
        assert_eq!(values, [7, 8, 1, 9, 9, 0]);
        assert!(sent.iter().all(|(device, _)| *device == POINTER));
    }

    #[test]
    fn fingers_are_followed_on_the_picture_and_lifted_with_the_keys() {
        let mut input = input(true);
        let mut sent = Vec::new();
        let mut send = sink(&mut sent);
        let time = MonoTime::ZERO;
        let (began, moved) = (TouchPhase::Started, TouchPhase::Moved);
        input.touch(began, 1, (0, 9, false), time, &mut send);
        input.touch(moved, 1, (5, 9, true), time, &mut send);
        input.flush(time, &mut send);
        // As X11 tells it: the pointer goes with the first finger.
        input.pointer_moved((5, 6, true));
        input.touch(began, 2, (5, 6, true), time, &mut send);
        input.touch(began, 3, (7, 8, true), time, &mut send);
        input.touch(TouchPhase::Cancelled, 3, (7, 8, true), time, &mut send);
        input.touch(moved, 2, (65_535, 6, false), time, &mut send);
        input.set_sending(false, time, &mut send);
        input.touch(began, 4, (5, 6, true), time, &mut send);
        input.touch(moved, 2, (6, 6, true), time, &mut send);
        input.flush(time, &mut send);
        drop(send);
        assert!(sent.iter().all(|(device, _)| *device == TOUCH));
        let of = |wanted| -> Vec<i32> {
            let events = sent.iter().flat_map(|(_, events)| events);
            let of = events.filter(|event| event.code == wanted);
            of.map(|event| event.value).collect()
        };
        assert_eq!(of(abs::MT_TRACKING_ID), [0, 1, -1, -1]);
        assert_eq!(of(KeyCode::BTN_TOUCH.0), [1, 0]);
        assert_eq!(of(abs::MT_POSITION_X), [5, 7]);
    }

    #[test]
    fn wheels_count_parts_of_a_detent() {
        let mut input = input(true);
        let mut sent = Vec::new();
        let mut send = sink(&mut sent);
        input.pointer_moved((1, 1, true));
        input.flush(MonoTime::ZERO, &mut send);
        for _ in 0..3 {
            let half = MouseScrollDelta::LineDelta(0.0, 0.5);
            input.scroll(half, 1.0, MonoTime::ZERO, &mut send);
        }
        input.scroll(
            MouseScrollDelta::LineDelta(1.0, 0.0),
            1.0,
            MonoTime::ZERO,
            &mut send,
        );
        drop(send);
        let wheel: Vec<_> = sent
            .iter()
            .skip(1)
            .flat_map(|(_, e)| e)
            .map(|e| (e.code, e.value))
            .collect();
        assert_eq!(
            wheel,
            [
                (rel::WHEEL_HI_RES, 60),
                (rel::WHEEL, 1),
                (rel::WHEEL_HI_RES, 60),
                (rel::WHEEL_HI_RES, 60),
                (REL_HWHEEL, -1),
                (REL_HWHEEL_HI_RES, -120),
            ]
        );
    }

    proptest! {
        #[test]
        fn no_key_stays_down(steps in prop::collection::vec((0u8..5, 0u16..6, any::<bool>()), 0..60)) {
            let mut input = input(true);
            let mut down = std::collections::BTreeSet::new();
            let mut send = |report: EventReport<'_>| {
                for event in report.events {
                    if let Some((key, pressed)) = event.as_key() {
                        let changed = if pressed {
                            down.insert((report.device, key))
                        } else {
                            down.remove(&(report.device, key))
                        };
                        assert!(changed, "a key goes down or up twice");
                    }
                }
            };
            let time = MonoTime::ZERO;
            for (what, key, pressed) in steps {
                let key = [CTRL, ALT, SHIFT, KeyCode::A, KeyCode(31), KeyCode(44)][usize::from(key)];
                match what {
                    0 => input.focus_lost(time, &mut send),
                    1 => input.set_sending(pressed, time, &mut send),
                    2 => {
                        input.pointer_moved((1, 1, true));
                        input.button(MouseButton::Left, pressed, time, &mut send);
                    }
                    _ => drop(input.key(key, pressed, time, &mut send)),
                }
            }
            input.focus_lost(time, &mut send);
            prop_assert!(down.is_empty());
        }
    }
}
