//! The operator's devices as one USB HID composite: boot keyboard, boot mouse, absolute pointer, consumer keys.
//!
//! Pure: events in, reports out. What writes them is the gadget of the platform.

mod descriptor;
mod report;
pub mod usage;

use soft_kvm_protocol::input::codes::{abs, led, rel};
use soft_kvm_protocol::input::{
    AbsoluteAxis, DeviceDescriptor, DeviceId, EventType, InputEvent, KeyCode, LedState,
};

use report::{Consumer, Keyboard, Mouse, Pointer, Queue};
pub use report::{REPORT_MAX, Report};
use usage::{Usage, usage};

/// Largest coordinate of the absolute pointer.
pub const POSITION_MAX: u16 = 32_767;

/// `REL_HWHEEL` of linux/input-event-codes.h.
const REL_HWHEEL: u16 = 0x06;
/// `INPUT_PROP_POINTER`: the surface of a touchpad, not of a screen.
const PROP_POINTER: u16 = 0;
/// `ErrorRollOver` of the keyboard page: more keys are down than the report has places.
const ROLL_OVER: u8 = 1;
/// Steps of a mouse for a finger's way over a whole touchpad.
const TOUCHPAD_STEPS: i64 = 1_200;

/// One function of the composite; each has its own endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// Boot keyboard with LEDs.
    Keyboard,
    /// Boot mouse with wheels.
    Mouse,
    /// Absolute pointer.
    Pointer,
    /// Media and system keys.
    Consumer,
}

impl Function {
    /// Every function, in the order of the USB interfaces.
    pub const ALL: [Self; 4] = [Self::Keyboard, Self::Mouse, Self::Pointer, Self::Consumer];

    /// `bInterfaceSubClass` and `bInterfaceProtocol` (HID 1.11, §4.2 and §4.3): what firmware looks for.
    #[must_use]
    pub const fn boot_protocol(self) -> (u8, u8) {
        match self {
            Self::Keyboard => (1, 1),
            Self::Mouse => (1, 2),
            Self::Pointer | Self::Consumer => (0, 0),
        }
    }

    /// The report descriptor.
    #[must_use]
    pub const fn report_descriptor(self) -> &'static [u8] {
        match self {
            Self::Keyboard => descriptor::KEYBOARD,
            Self::Mouse => descriptor::MOUSE,
            Self::Pointer => descriptor::POINTER,
            Self::Consumer => descriptor::CONSUMER,
        }
    }

    /// Bytes of a report.
    #[must_use]
    pub const fn report_length(self) -> usize {
        match self {
            Self::Keyboard => 8,
            Self::Mouse => 5,
            Self::Pointer => 5,
            Self::Consumer => 2,
        }
    }
}

/// The LEDs of an output report of the keyboard (HID 1.11, appendix B.1).
#[must_use]
pub fn leds(output: u8) -> LedState {
    let mut state = LedState::default();
    for (bit, code) in [led::NUM_LOCK, led::CAPS_LOCK, led::SCROLL_LOCK]
        .into_iter()
        .enumerate()
    {
        state.set(code, output & (1 << bit) != 0);
    }
    state
}

/// A device of one of several operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Number of the operator's session, unique for the composite.
    pub session: u64,
    /// The operator's id for it.
    pub device: DeviceId,
}

#[derive(Debug)]
struct Device {
    owner: Owner,
    /// Horizontal and vertical axis of an absolute device.
    axes: Option<[AbsoluteAxis; 2]>,
    touchpad: bool,
    /// Where a touchpad's finger was.
    finger: [Option<i32>; 2],
    touching: bool,
    /// Motion below one step, in steps times the axis' range.
    fraction: [i64; 2],
    /// Motion of a report whose end has not come.
    motion: [i32; 4],
}

/// The composite: what is held by whom, and the reports that wait for the host.
///
/// A key that two devices hold is up when both have let it go. Once warm, no call allocates.
#[derive(Debug)]
pub struct Composite {
    devices: Vec<Device>,
    held: Vec<(Owner, KeyCode)>,
    position: [u16; 2],
    keyboard: Queue<Keyboard>,
    mouse: Queue<Mouse>,
    pointer: Queue<Pointer>,
    consumer: Queue<Consumer>,
}

impl Default for Composite {
    fn default() -> Self {
        Self {
            devices: Vec::new(),
            held: Vec::with_capacity(64),
            position: [0; 2],
            keyboard: Queue::new(),
            mouse: Queue::new(),
            pointer: Queue::new(),
            consumer: Queue::new(),
        }
    }
}

impl Composite {
    /// Lets a device take part; false if it has nothing that the composite could say, as gamepads.
    #[must_use]
    pub fn add_device(&mut self, owner: Owner, device: &DeviceDescriptor) -> bool {
        let gamepad = (KeyCode::BTN_JOYSTICK.0..KeyCode::BTN_TOOL_PEN.0)
            .any(|code| device.has_key(KeyCode(code)));
        let axes = match (device.axis(abs::X), device.axis(abs::Y)) {
            (Some(x), Some(y)) if !gamepad => Some([*x, *y]),
            _ => None,
        };
        let speaks = device.keys.iter().any(|key| usage(*key).is_some())
            || device.relative.contains(&rel::X)
            || axes.is_some();
        if speaks {
            self.devices.push(Device {
                owner,
                axes,
                touchpad: device.properties.contains(&PROP_POINTER),
                finger: [None; 2],
                touching: false,
                fraction: [0; 2],
                motion: [0; 4],
            });
        }
        speaks
    }

    /// A device is gone: its keys and buttons go up.
    pub fn remove_device(&mut self, owner: Owner) {
        self.devices.retain(|device| device.owner != owner);
        self.held.retain(|(holder, _)| *holder != owner);
        self.push([0; 4]);
    }

    /// All devices of a session are gone.
    pub fn remove_session(&mut self, session: u64) {
        self.devices
            .retain(|device| device.owner.session != session);
        self.held.retain(|(holder, _)| holder.session != session);
        self.push([0; 4]);
    }

    /// Applies one report, or a part of one that is `unfinished`; false if the device is unknown.
    #[must_use]
    pub fn apply(&mut self, owner: Owner, events: &[InputEvent], unfinished: bool) -> bool {
        let Some(device) = self.devices.iter_mut().find(|one| one.owner == owner) else {
            return false;
        };
        for event in events {
            match event.kind {
                EventType::KEY => {
                    let Some((key, down)) = event.as_key() else {
                        continue;
                    };
                    device.touch(key, down);
                    self.held.retain(|held| *held != (owner, key));
                    if down && self.held.len() < self.held.capacity() {
                        self.held.push((owner, key));
                    }
                }
                EventType::REL => device.moved(*event),
                EventType::ABS => device.placed(*event, &mut self.position),
                _ => {}
            }
        }
        if !unfinished {
            let motion = std::mem::take(&mut device.motion);
            self.push(motion);
        }
        true
    }

    /// Whether any key or button is down.
    #[must_use]
    pub fn is_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// What a function has to send next.
    #[must_use]
    pub fn next(&self, function: Function) -> Option<Report> {
        match function {
            Function::Keyboard => self.keyboard.next(),
            Function::Mouse => self.mouse.next(),
            Function::Pointer => self.pointer.next(),
            Function::Consumer => self.consumer.next(),
        }
    }

    /// The report of [`next`](Self::next) is on its way.
    pub fn sent(&mut self, function: Function) {
        match function {
            Function::Keyboard => self.keyboard.sent(),
            Function::Mouse => self.mouse.sent(),
            Function::Pointer => self.pointer.sent(),
            Function::Consumer => self.consumer.sent(),
        }
    }

    /// The host fetches nothing, or another one comes: what waits is forgotten, what is held is told.
    pub fn restart(&mut self) {
        self.keyboard.restart(self.keyboard_now());
        self.mouse.restart(self.mouse_now());
        // A host that was never told a position keeps its own.
        if self.pointer_now() != Pointer::default() {
            self.pointer.restart(self.pointer_now());
        }
        self.consumer.restart(self.consumer_now());
    }

    /// Queues what is new; `motion` is right, down, wheel up, wheel right.
    fn push(&mut self, motion: [i32; 4]) {
        self.keyboard.push(self.keyboard_now());
        self.consumer.push(self.consumer_now());
        let mouse = Mouse {
            motion,
            ..self.mouse_now()
        };
        self.mouse.push(mouse);
        self.pointer.push(self.pointer_now());
    }

    fn keyboard_now(&self) -> Keyboard {
        let mut report = [0_u8; 8];
        let mut count = 0;
        for (_, key) in &self.held {
            match usage(*key) {
                Some(Usage::Modifier(bit)) => {
                    if let Some(modifiers) = report.first_mut() {
                        *modifiers |= 1 << bit;
                    }
                }
                Some(Usage::Keyboard(usage)) => {
                    let places = report.get_mut(2..).unwrap_or_default();
                    if places.contains(&usage) {
                        continue;
                    }
                    match places.get_mut(count) {
                        Some(place) => *place = usage,
                        None => places.fill(ROLL_OVER),
                    }
                    count += 1;
                }
                _ => {}
            }
        }
        Keyboard(report)
    }

    fn consumer_now(&self) -> Consumer {
        let newest = self
            .held
            .iter()
            .rev()
            .find_map(|(_, key)| match usage(*key) {
                Some(Usage::Consumer(usage)) => Some(usage),
                _ => None,
            });
        Consumer(newest.unwrap_or_default())
    }

    fn mouse_now(&self) -> Mouse {
        Mouse {
            buttons: self.buttons(false),
            motion: [0; 4],
        }
    }

    fn pointer_now(&self) -> Pointer {
        Pointer {
            buttons: self.buttons(true),
            position: self.position,
        }
    }

    /// The buttons that are down on absolute or on all other devices.
    fn buttons(&self, absolute: bool) -> u8 {
        let of = |owner: &Owner| self.devices.iter().find(|device| device.owner == *owner);
        self.held
            .iter()
            .filter(|(owner, _)| of(owner).is_some_and(|device| device.is_absolute() == absolute))
            .filter_map(|(_, key)| button(*key, absolute))
            .fold(0, |buttons, bit| buttons | 1 << bit)
    }
}

/// The bit of a button; on absolute devices contact is the left button and those of a pen are the next ones.
fn button(key: KeyCode, absolute: bool) -> Option<u8> {
    match key {
        KeyCode::BTN_TOUCH if absolute => Some(0),
        KeyCode::BTN_STYLUS if absolute => Some(1),
        _ => (KeyCode::BTN_LEFT.0..=KeyCode::BTN_TASK.0)
            .contains(&key.0)
            .then(|| u8::try_from(key.0 - KeyCode::BTN_LEFT.0).ok())
            .flatten(),
    }
}

impl Device {
    const fn is_absolute(&self) -> bool {
        self.axes.is_some() && !self.touchpad
    }

    fn touch(&mut self, key: KeyCode, down: bool) {
        if key == KeyCode::BTN_TOUCH {
            self.touching = down;
            self.finger = [None; 2];
        }
    }

    fn moved(&mut self, event: InputEvent) {
        let [x, y, wheel, pan] = &mut self.motion;
        let axis = match event.code {
            rel::X => x,
            rel::Y => y,
            rel::WHEEL => wheel,
            REL_HWHEEL => pan,
            _ => return,
        };
        *axis = axis.saturating_add(event.value);
    }

    fn placed(&mut self, event: InputEvent, position: &mut [u16; 2]) {
        let Some(axes) = &self.axes else {
            return;
        };
        let Some(index) = [abs::X, abs::Y].iter().position(|code| *code == event.code) else {
            return;
        };
        let Some(axis) = axes.get(index) else {
            return;
        };
        let range = i64::from(axis.maximum) - i64::from(axis.minimum);
        if range <= 0 {
            return;
        }
        if !self.touchpad {
            let from_start =
                i64::from(event.value.clamp(axis.minimum, axis.maximum)) - i64::from(axis.minimum);
            let scaled = (from_start * i64::from(POSITION_MAX) + range / 2) / range;
            if let Some(place) = position.get_mut(index) {
                *place = u16::try_from(scaled).unwrap_or(POSITION_MAX);
            }
            return;
        }
        if !self.touching {
            return;
        }
        let (Some(finger), Some(fraction), Some(motion)) = (
            self.finger.get_mut(index),
            self.fraction.get_mut(index),
            self.motion.get_mut(index),
        ) else {
            return;
        };
        if let Some(before) = finger.replace(event.value) {
            let way = (i64::from(event.value) - i64::from(before)) * TOUCHPAD_STEPS + *fraction;
            *fraction = way % range;
            let steps = i32::try_from(way / range).unwrap_or_default();
            *motion = motion.saturating_add(steps);
        }
    }
}

#[cfg(test)]
mod tests;
