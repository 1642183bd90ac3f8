use proptest::prelude::*;

use super::*;

const KEYBOARD: Owner = owner(1);
const MOUSE: Owner = owner(2);
const TABLET: Owner = owner(3);

const fn owner(device: u16) -> Owner {
    Owner {
        session: 7,
        device: DeviceId(device),
    }
}

fn axis(code: u16, minimum: i32, maximum: i32) -> AbsoluteAxis {
    AbsoluteAxis {
        code,
        minimum,
        maximum,
        ..AbsoluteAxis::default()
    }
}

fn composite() -> Composite {
    let mut composite = Composite::default();
    let keys = |codes: std::ops::Range<u16>| codes.map(KeyCode).collect();
    let described = [
        (
            KEYBOARD,
            DeviceDescriptor {
                keys: keys(1..256),
                ..DeviceDescriptor::default()
            },
        ),
        (
            MOUSE,
            DeviceDescriptor {
                keys: keys(0x110..0x118),
                relative: vec![rel::X, rel::Y, rel::WHEEL],
                ..DeviceDescriptor::default()
            },
        ),
        (
            TABLET,
            DeviceDescriptor {
                keys: keys(0x14a..0x14c),
                absolute: vec![axis(abs::X, -100, 100), axis(abs::Y, 0, 65_535)],
                ..DeviceDescriptor::default()
            },
        ),
    ];
    for (owner, device) in described {
        assert!(composite.add_device(owner, &device));
    }
    composite
}

fn key(composite: &mut Composite, owner: Owner, code: u16, down: bool) {
    assert!(composite.apply(owner, &[InputEvent::key(KeyCode(code), down)], false));
}

/// Everything that waits, as the host would fetch it.
fn drain(composite: &mut Composite, function: Function) -> Vec<Vec<u8>> {
    let mut reports = Vec::new();
    while let Some(report) = composite.next(function) {
        assert_eq!(report.as_bytes().len(), function.report_length());
        reports.push(report.as_bytes().to_vec());
        composite.sent(function);
    }
    reports
}

#[test]
fn a_typed_letter_is_two_boot_reports() {
    let mut composite = composite();
    for (code, down) in [(42, true), (30, true), (30, false), (42, false)] {
        key(&mut composite, KEYBOARD, code, down);
    }
    let wanted: [[u8; 8]; 4] = [
        [2, 0, 0, 0, 0, 0, 0, 0],
        [2, 0, 4, 0, 0, 0, 0, 0],
        [2, 0, 0, 0, 0, 0, 0, 0],
        [0; 8],
    ];
    assert_eq!(drain(&mut composite, Function::Keyboard), wanted);
    assert!(drain(&mut composite, Function::Mouse).is_empty());
    assert!(drain(&mut composite, Function::Pointer).is_empty());
}

#[test]
fn a_seventh_key_is_an_error_of_roll_over_and_modifiers_stay() {
    let mut composite = composite();
    for code in [29, 30, 31, 32, 33, 34, 35, 36] {
        key(&mut composite, KEYBOARD, code, true);
    }
    let reports = drain(&mut composite, Function::Keyboard);
    assert_eq!(reports.last(), Some(&vec![1, 0, 1, 1, 1, 1, 1, 1]));
    key(&mut composite, KEYBOARD, 30, false);
    let reports = drain(&mut composite, Function::Keyboard);
    assert_eq!(reports, [vec![1, 0, 0x16, 7, 9, 10, 11, 13]]);
}

#[test]
fn consumer_keys_go_their_own_way() {
    let mut composite = composite();
    for (code, down) in [(115, true), (114, true), (114, false), (115, false)] {
        key(&mut composite, KEYBOARD, code, down);
    }
    let wanted = [[0xe9, 0], [0xea, 0], [0xe9, 0], [0, 0]];
    assert_eq!(drain(&mut composite, Function::Consumer), wanted);
    assert!(drain(&mut composite, Function::Keyboard).is_empty());
}

#[test]
fn an_absolute_device_is_scaled_and_its_contact_is_the_left_button() {
    let mut composite = composite();
    let events = [
        InputEvent::new(EventType::ABS, abs::X, 100),
        InputEvent::new(EventType::ABS, abs::Y, 0),
        InputEvent::key(KeyCode::BTN_TOUCH, true),
    ];
    assert!(composite.apply(TABLET, &events, false));
    assert_eq!(
        drain(&mut composite, Function::Pointer),
        [[1, 0xff, 0x7f, 0, 0]]
    );
    assert!(drain(&mut composite, Function::Mouse).is_empty());
}

#[test]
fn a_touchpad_moves_the_mouse_only_while_touched() {
    let mut composite = Composite::default();
    let touchpad = DeviceDescriptor {
        keys: vec![KeyCode::BTN_LEFT, KeyCode::BTN_TOUCH],
        absolute: vec![axis(abs::X, 0, 1_200), axis(abs::Y, 0, 1_200)],
        properties: vec![PROP_POINTER],
        ..DeviceDescriptor::default()
    };
    assert!(composite.add_device(TABLET, &touchpad));
    for (touch, x) in [
        (Some(true), 100),
        (None, 110),
        (Some(false), 110),
        (Some(true), 900),
        (None, 895),
    ] {
        let touch = touch.map(|down| InputEvent::key(KeyCode::BTN_TOUCH, down));
        let place = InputEvent::new(EventType::ABS, abs::X, x);
        let events: Vec<_> = touch.into_iter().chain([place]).collect();
        assert!(composite.apply(TABLET, &events, false));
    }
    assert_eq!(drain(&mut composite, Function::Mouse), [[0, 5, 0, 0, 0]]);
    assert!(drain(&mut composite, Function::Pointer).is_empty());
}

#[test]
fn what_goes_away_lifts_its_keys_and_only_those() {
    let mut composite = composite();
    let other = owner(9);
    assert!(composite.add_device(
        other,
        &DeviceDescriptor {
            keys: vec![KeyCode::A],
            ..DeviceDescriptor::default()
        }
    ));
    key(&mut composite, KEYBOARD, 30, true);
    key(&mut composite, other, 30, true);
    key(&mut composite, KEYBOARD, 31, true);
    composite.remove_device(KEYBOARD);
    let last = drain(&mut composite, Function::Keyboard).pop();
    assert_eq!(last, Some(vec![0, 0, 4, 0, 0, 0, 0, 0]));
    composite.remove_session(7);
    assert_eq!(drain(&mut composite, Function::Keyboard), [[0; 8]]);
    assert!(!composite.apply(other, &[], false));
}

#[test]
fn after_a_restart_only_the_present_counts() {
    let mut composite = composite();
    for code in [30, 31] {
        key(&mut composite, KEYBOARD, code, true);
        key(&mut composite, KEYBOARD, code, false);
    }
    key(&mut composite, KEYBOARD, 32, true);
    composite.restart();
    assert_eq!(
        drain(&mut composite, Function::Keyboard),
        [[0, 0, 7, 0, 0, 0, 0, 0]]
    );
    assert!(drain(&mut composite, Function::Pointer).is_empty());
}

#[test]
fn a_gamepad_is_refused() {
    let gamepad = DeviceDescriptor {
        keys: vec![KeyCode::BTN_GAMEPAD],
        absolute: vec![axis(abs::X, 0, 255), axis(abs::Y, 0, 255)],
        ..DeviceDescriptor::default()
    };
    assert!(!Composite::default().add_device(MOUSE, &gamepad));
}

#[test]
fn nothing_is_allocated_once_warm() {
    let mut composite = composite();
    let mut round = |count: usize| {
        for number in 0..count {
            let owner = if number % 2 == 0 { KEYBOARD } else { MOUSE };
            key(&mut composite, owner, 30, number % 4 < 2);
            let motion = InputEvent::new(EventType::REL, rel::X, 1);
            assert!(composite.apply(MOUSE, &[motion], false));
            if number % 100 == 0 {
                for function in Function::ALL {
                    while composite.next(function).is_some() {
                        composite.sent(function);
                    }
                }
            }
        }
    };
    round(1_000);
    assert_eq!(allocation_counter::measure(|| round(10_000)).count_total, 0);
}

/// What a host makes of boot reports: the usages that are down; a roll-over changes nothing.
fn follow(down: &mut Vec<u8>, report: &[u8]) {
    if report[2..].contains(&ROLL_OVER) {
        return;
    }
    *down = report[2..]
        .iter()
        .copied()
        .filter(|usage| *usage != 0)
        .collect();
    down.extend(
        (0..8)
            .filter(|bit| report[0] & (1 << bit) != 0)
            .map(|bit| 0xe0 + bit),
    );
    down.sort_unstable();
}

proptest! {
    #[test]
    fn the_host_ends_with_the_keys_that_are_held(
        steps in prop::collection::vec((1_u16..128, any::<bool>(), any::<bool>()), 0..300),
    ) {
        let mut composite = composite();
        let (mut held, mut host) = (Vec::new(), Vec::new());
        for (code, down, fetch) in steps {
            held.retain(|key| *key != code);
            if down {
                held.push(code);
            }
            key(&mut composite, KEYBOARD, code, down);
            if fetch {
                for report in drain(&mut composite, Function::Keyboard) {
                    follow(&mut host, &report);
                }
            }
        }
        let too_many = held.split_off(held.len().min(6));
        for code in too_many {
            key(&mut composite, KEYBOARD, code, false);
        }
        for report in drain(&mut composite, Function::Keyboard) {
            follow(&mut host, &report);
        }
        let mut wanted: Vec<_> = held
            .iter()
            .filter_map(|code| match usage(KeyCode(*code))? {
                Usage::Modifier(bit) => Some(0xe0 + bit),
                Usage::Keyboard(usage) => Some(usage),
                Usage::Consumer(_) => None,
            })
            .collect();
        wanted.sort_unstable();
        prop_assert_eq!(&host, &wanted);
        composite.remove_device(KEYBOARD);
        for report in drain(&mut composite, Function::Keyboard) {
            follow(&mut host, &report);
        }
        prop_assert_eq!(host, Vec::<u8>::new());
    }

    #[test]
    fn motion_adds_up_whatever_the_host_fetches(
        steps in prop::collection::vec((-3_000_i32..3_000, -40_i32..40, 0_u8..3, 0_usize..4), 0..100),
    ) {
        let mut composite = composite();
        let (mut wanted, mut got, mut buttons) = ([0_i64; 2], [0_i64; 2], 0);
        let fetch = |composite: &mut Composite, got: &mut [i64; 2], most: usize| {
            let mut buttons = None;
            for _ in 0..most {
                let Some(report) = composite.next(Function::Mouse) else { break };
                let bytes = report.as_bytes();
                got[0] += i64::from(bytes[1].cast_signed());
                got[1] += i64::from(bytes[3].cast_signed());
                buttons = Some(bytes[0]);
                composite.sent(Function::Mouse);
            }
            buttons
        };
        for (x, wheel, button, fetched) in steps {
            wanted[0] += i64::from(x);
            wanted[1] += i64::from(wheel);
            let code = KeyCode::BTN_LEFT.0 + u16::from(button);
            buttons ^= 1 << button;
            let events = [
                InputEvent::new(EventType::REL, rel::X, x),
                InputEvent::new(EventType::REL, rel::WHEEL, wheel),
                InputEvent::key(KeyCode(code), buttons & (1 << button) != 0),
            ];
            prop_assert!(composite.apply(MOUSE, &events, false));
            fetch(&mut composite, &mut got, fetched);
        }
        let last = fetch(&mut composite, &mut got, usize::MAX);
        prop_assert_eq!(got, wanted);
        prop_assert!(last.is_none_or(|last| last == buttons));
    }

    #[test]
    fn any_event_and_any_axis_is_survived(
        range in (any::<i32>(), any::<i32>()),
        touchpad in any::<bool>(),
        events in prop::collection::vec((0_u8..6, any::<u16>(), any::<i32>()), 0..100),
    ) {
        let (minimum, maximum) = (range.0.min(range.1), range.0.max(range.1));
        let device = DeviceDescriptor {
            absolute: vec![axis(abs::X, minimum, maximum), axis(abs::Y, minimum, maximum)],
            properties: if touchpad { vec![PROP_POINTER] } else { Vec::new() },
            ..DeviceDescriptor::default()
        };
        let mut composite = Composite::default();
        prop_assert!(composite.add_device(TABLET, &device));
        prop_assert!(composite.apply(TABLET, &[InputEvent::key(KeyCode::BTN_TOUCH, true)], false));
        for (kind, code, value) in events {
            let event = InputEvent::new(EventType(kind), code % 16, value);
            prop_assert!(composite.apply(TABLET, &[event], false));
        }
        for function in Function::ALL {
            for _ in 0..10_000 {
                composite.sent(function);
            }
        }
    }
}
