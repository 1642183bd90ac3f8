//! The input path on real kernel devices: keyboard (uinput) → grab → twin (uinput) → read back.
//!
//! Runs in the device lab as root: `input_devices --ignored --test-threads=1`.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use evdevil::Evdev;
use evdevil::event::{EventType as RawType, InputEvent as RawEvent, Led};
use soft_kvm_core::MonoTime;
use soft_kvm_input::{DeviceClass, InputSink, InputSource, SinkFeedback, SourceEvent};
use soft_kvm_platform_linux::evdev::{self, Button, EvdevSource, Selection};
use soft_kvm_platform_linux::uinput::UinputSink;
use soft_kvm_protocol::input::codes::{led, rel};
use soft_kvm_protocol::input::{
    DeviceDescriptor, DeviceId, EventType, InputEvent, KeyCode, LedState, MAX_DEVICES, Repeat,
};

const PATIENCE: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(20);

/// The operator's "real" device: a uinput device without our mark.
struct Hardware {
    device: evdevil::uinput::UinputDevice,
    name: String,
}

impl Hardware {
    fn plug(name: &str) -> Self {
        use evdevil::event::{Key, Misc, Rel};
        let builder = evdevil::uinput::UinputDevice::builder()
            .and_then(|builder| {
                builder.with_input_id(evdevil::InputId::new(
                    evdevil::Bus::USB,
                    0x1234,
                    0x5678,
                    0x0111,
                ))
            })
            .and_then(|builder| builder.with_keys((1..128).chain(0x110..0x115).map(Key::from_raw)))
            .and_then(|builder| builder.with_rel_axes([0, 1, 8, 11].map(Rel::from_raw)))
            .and_then(|builder| builder.with_misc([Misc::from_raw(4)]))
            .and_then(|builder| builder.with_leds([0, 1, 2].map(Led::from_raw)))
            .and_then(|builder| builder.with_key_repeat())
            .expect("uinput works in the lab");
        let device = builder.build(name).expect("uinput works in the lab");
        Self {
            device,
            name: name.to_owned(),
        }
    }

    fn report(&self, events: &[InputEvent]) {
        let events: Vec<_> = events
            .iter()
            .map(|event| {
                RawEvent::new(
                    RawType::from_raw(u16::from(event.kind.0)),
                    event.code,
                    event.value,
                )
            })
            .collect();
        self.device.write_events(&events).expect("hardware writes");
    }

    fn source(&self) -> EvdevSource {
        EvdevSource::new(Selection::Named(vec![self.name.clone()])).expect("a source")
    }

    fn node(&self) -> std::path::PathBuf {
        until("the node of the hardware", || {
            evdev::list()
                .into_iter()
                .flatten()
                .find(|found| found.descriptor.name == self.name && !found.ours)
                .map(|found| found.path)
        })
    }
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "{what} did not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What a source told, owned.
#[derive(Debug, Default)]
struct Told {
    added: Vec<DeviceDescriptor>,
    classes: Vec<DeviceClass>,
    grabbed: Vec<DeviceId>,
    removed: Vec<DeviceId>,
    reports: Vec<(MonoTime, Vec<InputEvent>)>,
    problems: Vec<String>,
}

fn wait(source: &mut EvdevSource, told: &mut Told, done: impl Fn(&Told) -> bool) {
    let start = Instant::now();
    while !done(told) {
        assert!(start.elapsed() < PATIENCE, "still only {told:?}");
        pump(source, told);
        assert_eq!(told.problems, [""; 0]);
    }
}

fn pump(source: &mut EvdevSource, told: &mut Told) {
    source
        .wait(Some(STEP), &mut |event| match event {
            SourceEvent::Added { device, class, .. } => {
                told.added.push(device.clone());
                told.classes.push(class);
            }
            SourceEvent::Grabbed(id) => told.grabbed.push(id),
            SourceEvent::Removed(id) => told.removed.push(id),
            SourceEvent::Report(report) => told.reports.push((report.time, report.events.to_vec())),
            SourceEvent::Problem(error) => told.problems.push(error.to_string()),
            _ => {}
        })
        .expect("the source goes on");
}

/// Hardware that is grabbed, and its twin.
struct Twinned {
    source: EvdevSource,
    told: Told,
    device: DeviceDescriptor,
    sink: UinputSink,
    node: String,
}

impl Twinned {
    fn new(hardware: &Hardware) -> Self {
        let mut source = hardware.source();
        let mut told = Told::default();
        source.set_grabbed(true);
        wait(&mut source, &mut told, |told| told.grabbed.len() == 1);
        let device = told.added.first().expect("added before grabbed").clone();
        let mut sink = UinputSink::new().expect("uinput works in the lab");
        let node = sink.add_device(&device).expect("a twin");
        Self {
            source,
            told,
            device,
            sink,
            node,
        }
    }
}

/// A keyboard of one key, as it is announced.
fn one_key(name: &str, delay_ms: u32, period_ms: u32) -> DeviceDescriptor {
    DeviceDescriptor {
        id: DeviceId(7),
        name: name.to_owned(),
        keys: vec![KeyCode::A],
        repeat: Some(Repeat {
            delay_ms,
            period_ms,
        }),
        ..DeviceDescriptor::default()
    }
}

fn read_all(device: &Evdev, count: usize) -> Vec<InputEvent> {
    device.set_nonblocking(true).expect("non-blocking");
    let mut all = Vec::new();
    let start = Instant::now();
    while all.len() < count && start.elapsed() < PATIENCE {
        let mut events = [RawEvent::zeroed(); 64];
        let Ok(read) = device.read_events(&mut events) else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        all.extend(events.iter().take(read).map(|event| {
            let kind = u8::try_from(event.event_type().raw()).expect("a small type");
            InputEvent::new(EventType(kind), event.raw_code(), event.raw_value())
        }));
    }
    all
}

fn key(key: KeyCode, down: bool) -> InputEvent {
    InputEvent::key(key, down)
}

fn sequence() -> Vec<Vec<InputEvent>> {
    let scan = |value| InputEvent::new(EventType::MSC, 4, value);
    let motion = |x, y| {
        vec![
            InputEvent::new(EventType::REL, rel::X, x),
            InputEvent::new(EventType::REL, rel::Y, y),
        ]
    };
    let mut reports = vec![
        vec![scan(0x7_00e1), key(KeyCode::LEFTSHIFT, true)],
        vec![scan(0x7_0004), key(KeyCode::A, true)],
        vec![scan(0x7_0004), key(KeyCode::A, false)],
        vec![key(KeyCode::BTN_LEFT, true)],
    ];
    reports.extend((1..200).map(|step| motion(step % 7 + 1, -(step % 5) - 1)));
    reports.push(vec![
        InputEvent::new(EventType::REL, rel::WHEEL, 1),
        InputEvent::new(EventType::REL, rel::WHEEL_HI_RES, 120),
    ]);
    reports.push(vec![key(KeyCode::BTN_LEFT, false)]);
    reports.push(vec![key(KeyCode::LEFTSHIFT, false)]);
    reports
}

#[test]
#[ignore = "needs /dev/uinput: run in the lab"]
fn equal_event_for_event_and_hidden_from_the_local_system() {
    let hardware = Hardware::plug("Lab Keyboard");
    let local = Evdev::open(hardware.node()).expect("a second reader");
    local.set_nonblocking(true).expect("non-blocking");
    let mut source = hardware.source();
    let mut told = Told::default();
    source.set_grabbed(true);
    wait(&mut source, &mut told, |told| told.grabbed.len() == 1);
    let device = told.added.first().expect("added before grabbed").clone();
    assert_eq!(told.classes, [DeviceClass::of(&device)]);

    let mut sink = UinputSink::new().expect("uinput works in the lab");
    let node = sink.add_device(&device).expect("a twin");
    let target = Evdev::open(&node).expect("the twin's node");
    let twin = evdev::list()
        .into_iter()
        .flatten()
        .find(|found| found.path.to_str() == Some(&node))
        .expect("the twin is listed");
    assert!(twin.ours);
    assert_eq!(
        DeviceDescriptor {
            id: device.id,
            ..twin.descriptor
        },
        device,
        "the twin can do what the original can"
    );

    let reports = sequence();
    let (mut written, mut read) = (Vec::new(), Vec::new());
    for report in &reports {
        let before = told.reports.len();
        hardware.report(report);
        wait(&mut source, &mut told, |told| told.reports.len() > before);
        let (_, events) = told.reports.last().expect("just came").clone();
        sink.apply(MonoTime::ZERO, device.id, &events, false)
            .expect("the twin takes it");
        written.extend_from_slice(report);
        written.push(InputEvent::SYN_REPORT);
        // The kernel queues only 64 events for a reader.
        read.extend(read_all(&target, report.len() + 1));
    }
    let stamps: Vec<_> = told.reports.iter().map(|(time, _)| *time).collect();
    assert!(stamps.is_sorted() && stamps.first() > Some(&MonoTime::ZERO));
    assert!(
        read == written,
        "the twin's events differ from the original's"
    );
    let mut events = [RawEvent::zeroed(); 8];
    assert!(
        local.read_events(&mut events).is_err(),
        "the local system saw a grabbed event"
    );

    // Another source of ours leaves the twin alone, by name and all together.
    let mut second = EvdevSource::new(Selection::All).expect("a source");
    let mut seen = Told::default();
    pump(&mut second, &mut seen);
    assert!(
        seen.added
            .iter()
            .filter(|seen| seen.name == device.name)
            .count()
            <= 1,
        "our own twin was taken up"
    );
}

/// From the operator's kernel to the target's: what reads, and what writes.
#[test]
#[ignore = "needs /dev/uinput: run in the lab"]
fn once_warm_no_event_allocates_from_its_device_to_the_twin() {
    let hardware = Hardware::plug("Lab Counted Keyboard");
    let Twinned {
        mut source,
        told: _,
        device,
        mut sink,
        node: _,
    } = Twinned::new(&hardware);
    let mut applied = 0;
    let mut report = |number: i32| {
        hardware.report(&[
            key(KeyCode::A, number % 2 == 1),
            InputEvent::new(EventType::REL, rel::X, number),
            InputEvent::new(EventType::REL, rel::Y, -number),
        ]);
        let before = applied;
        allocation_counter::measure(|| {
            while applied == before {
                let each = &mut |event: SourceEvent<'_>| {
                    if let SourceEvent::Report(report) = event {
                        sink.apply(report.time, device.id, report.events, false)
                            .expect("the twin takes it");
                        applied += 1;
                    }
                };
                source.wait(Some(STEP), each).expect("the source goes on");
            }
            sink.poll_feedback(&mut |_| {});
        })
        .count_total
    };
    (1..=300).for_each(|number| {
        report(number);
    });
    let allocations: u64 = (301..=2_300).map(&mut report).sum();
    assert_eq!(allocations, 0);
    assert_eq!(applied, 2_300);
}

#[test]
#[ignore = "needs /dev/uinput: run in the lab"]
fn leds_come_back_and_are_shown_and_restored() {
    let hardware = Hardware::plug("Lab LED Keyboard");
    let Twinned {
        mut source,
        told: _,
        device,
        mut sink,
        node,
    } = Twinned::new(&hardware);
    let target = Evdev::open(&node).expect("the twin's node");
    target
        .set_led(Led::from_raw(led::CAPS_LOCK), true)
        .expect("LED");
    let leds = until("the LED", || {
        let mut leds = None;
        sink.poll_feedback(&mut |feedback| {
            if let SinkFeedback::Leds(id, state) = feedback {
                assert_eq!(id, device.id);
                leds = Some(state);
            }
        });
        leds
    });
    assert_eq!(leds, LedState { known: 2, lit: 2 });
    source.set_leds(device.id, leds);
    let original = Evdev::open(hardware.node()).expect("a second reader");
    let lit = || {
        original
            .led_state()
            .expect("LEDs")
            .contains(Led::from_raw(led::CAPS_LOCK))
    };
    assert!(lit());
    source.set_grabbed(false);
    assert!(!lit(), "as it was before the grab");
}

#[test]
#[ignore = "needs /dev/uinput: run in the lab"]
fn the_grab_waits_until_all_keys_are_up() {
    let hardware = Hardware::plug("Lab Held Keyboard");
    let mut source = hardware.source();
    let mut told = Told::default();
    wait(&mut source, &mut told, |told| told.added.len() == 1);
    hardware.report(&[key(KeyCode::ENTER, true)]);
    source.set_grabbed(true);
    for _ in 0..5 {
        pump(&mut source, &mut told);
    }
    assert_eq!(told.grabbed, [], "Enter would stay down locally");
    hardware.report(&[key(KeyCode::ENTER, false)]);
    wait(&mut source, &mut told, |told| told.grabbed.len() == 1);
    hardware.report(&[key(KeyCode::A, true)]);
    wait(&mut source, &mut told, |told| told.reports.len() == 1);
    assert_eq!(
        told.reports.first().map(|(_, events)| events.as_slice()),
        Some(&[key(KeyCode::A, true)][..])
    );
}

#[test]
#[ignore = "needs /dev/uinput: run in the lab"]
fn unplugged_and_plugged_again() {
    let hardware = Hardware::plug("Lab Wandering Keyboard");
    let mut source = hardware.source();
    let mut told = Told::default();
    source.set_grabbed(true);
    wait(&mut source, &mut told, |told| told.grabbed.len() == 1);
    drop(hardware);
    wait(&mut source, &mut told, |told| told.removed.len() == 1);
    assert_eq!(told.removed, told.grabbed);
    let hardware = Hardware::plug("Lab Wandering Keyboard");
    wait(&mut source, &mut told, |told| told.grabbed.len() == 2);
    assert_ne!(told.grabbed.first(), told.grabbed.last(), "a new id");
    hardware.report(&[key(KeyCode::A, true)]);
    wait(&mut source, &mut told, |told| told.reports.len() == 1);
}

#[test]
#[ignore = "needs /dev/uinput: run in the lab"]
fn what_is_not_named_is_left_to_the_local_system() {
    let hardware = Hardware::plug("Lab Named");
    let mut source = hardware.source();
    let mut told = Told::default();
    source.set_grabbed(true);
    wait(&mut source, &mut told, |told| told.grabbed.len() == 1);
    // As a stranger's would that is plugged in meanwhile.
    let other = Hardware::plug("Lab Stranger");
    let reader = Evdev::open(other.node()).expect("its node");
    let pressed = key(KeyCode(30), true);
    other.report(&[pressed, InputEvent::SYN_REPORT]);
    assert_eq!(read_all(&reader, 2), [pressed, InputEvent::SYN_REPORT]);
    // The source has had the time to see it.
    hardware.report(&[pressed, InputEvent::SYN_REPORT]);
    wait(&mut source, &mut told, |told| !told.reports.is_empty());
    pump(&mut source, &mut told);
    assert_eq!(told.added.len(), 1, "{told:?}");
    assert_eq!(told.reports.len(), 1, "{told:?}");
}

#[test]
#[ignore = "needs /dev/uinput: run in the lab"]
fn one_device_too_many_is_told_once_and_taken_when_another_goes() {
    let names: Vec<String> = (0..=MAX_DEVICES)
        .map(|n| format!("Lab Crowd {n}"))
        .collect();
    let mut crowd: Vec<_> = names.iter().map(|name| Hardware::plug(name)).collect();
    let mut source = EvdevSource::new(Selection::Named(names)).expect("a source");
    let mut told = Told::default();
    let start = Instant::now();
    while told.added.len() < MAX_DEVICES || told.problems.is_empty() {
        assert!(start.elapsed() < PATIENCE, "still only {told:?}");
        pump(&mut source, &mut told);
    }
    // Others come and go meanwhile.
    for _ in 0..3 {
        drop(Hardware::plug("Lab Passer-by"));
        pump(&mut source, &mut told);
    }
    let [problem] = told.problems.as_slice() else {
        panic!("not told once: {:?}", told.problems);
    };
    assert!(problem.contains("64 input devices"), "{problem}");
    assert_eq!(told.added.len(), MAX_DEVICES);
    told.problems.clear();
    crowd.remove(3);
    wait(&mut source, &mut told, |told| {
        told.removed.len() == 1 && told.added.len() == MAX_DEVICES + 1
    });
}

#[test]
#[ignore = "needs /dev/uinput: run in the lab"]
fn a_held_key_repeats_at_the_target_by_itself() {
    let mut sink = UinputSink::new().expect("uinput works in the lab");
    let device = one_key("Lab Repeating Twin", 100, 20);
    let node = sink.add_device(&device).expect("a twin");
    let target = Evdev::open(&node).expect("the twin's node");
    let mut set = |down| {
        sink.apply(MonoTime::ZERO, device.id, &[key(KeyCode::A, down)], false)
            .expect("the twin takes it");
    };
    set(true);
    let values = |events: Vec<InputEvent>| -> Vec<i32> {
        let keys = events
            .into_iter()
            .filter(|event| event.kind == EventType::KEY);
        keys.map(|event| event.value).collect()
    };
    // Each with its SYN_REPORT.
    assert_eq!(values(read_all(&target, 12)), [1, 2, 2, 2, 2, 2]);
    set(false);
    let rest = until("the release", || {
        let rest = values(read_all(&target, 1));
        rest.contains(&0).then_some(rest)
    });
    assert_eq!(rest.last(), Some(&0), "nothing after the release: {rest:?}");
    std::thread::sleep(Duration::from_millis(200));
    let mut events = [RawEvent::zeroed(); 8];
    assert!(target.read_events(&mut events).is_err(), "it still repeats");
}

#[test]
#[ignore = "needs /dev/uinput: run in the lab"]
fn lost_events_are_followed_by_the_true_key_state() {
    let hardware = Hardware::plug("Lab Flooded Keyboard");
    let mut source = hardware.source();
    let mut told = Told::default();
    source.set_grabbed(true);
    wait(&mut source, &mut told, |told| told.grabbed.len() == 1);
    hardware.report(&[key(KeyCode::LEFTSHIFT, true)]);
    wait(&mut source, &mut told, |told| told.reports.len() == 1);
    // More than the kernel queues for a reader, with the release among what is lost.
    hardware.report(&[key(KeyCode::LEFTSHIFT, false)]);
    for step in 0..4_000 {
        hardware.report(&[InputEvent::new(EventType::REL, rel::X, step % 3 + 1)]);
    }
    hardware.report(&[key(KeyCode::A, true)]);
    let down = |told: &Told| {
        let mut keys = std::collections::BTreeMap::new();
        for event in told.reports.iter().flat_map(|(_, events)| events) {
            if let Some((key, down)) = event.as_key() {
                keys.insert(key, down);
            }
        }
        keys
    };
    wait(&mut source, &mut told, |told| {
        down(told).get(&KeyCode::A) == Some(&true)
    });
    assert_eq!(down(&told).get(&KeyCode::LEFTSHIFT), Some(&false));
    let motion = told.reports.len();
    assert!(motion < 4_000, "nothing was lost: the test is void");
}

#[test]
#[ignore = "needs /dev/uinput: run in the lab"]
fn lost_events_are_followed_by_the_true_axes() {
    use evdevil::event::{Abs, Key};
    let name = "Lab Flooded Gamepad";
    let (trigger, thumb) = (KeyCode(0x120), KeyCode(0x121));
    let axis = |code, minimum, maximum| {
        let info = evdevil::AbsInfo::new(minimum, maximum)
            .with_fuzz(16)
            .with_flat(128);
        evdevil::uinput::AbsSetup::new(Abs::from_raw(code), info)
    };
    // Two axes of a stick, a throttle, a hat.
    let axes = [
        axis(0, -32_768, 32_767),
        axis(1, -32_768, 32_767),
        axis(6, 0, 1_023),
        axis(16, -64, 64),
    ];
    let device = evdevil::uinput::UinputDevice::builder()
        .and_then(|builder| builder.with_keys([trigger, thumb].map(|key| Key::from_raw(key.0))))
        .and_then(|builder| builder.with_abs_axes(axes))
        .and_then(|builder| builder.build(name))
        .expect("uinput works in the lab");
    let hardware = Hardware {
        device,
        name: name.to_owned(),
    };
    let Twinned {
        mut source,
        mut told,
        device,
        mut sink,
        node,
    } = Twinned::new(&hardware);
    let (original, twin) = (
        Evdev::open(hardware.node()).expect("a second reader"),
        Evdev::open(&node).expect("the twin's node"),
    );
    let state = |device: &Evdev| {
        let value = |code| device.abs_info(Abs::from_raw(code)).expect("an axis");
        let values = [0, 1, 6, 16].map(|code| value(code).value());
        let keys = device.key_state().expect("keys");
        (values, keys.iter().map(Key::raw).collect::<Vec<_>>())
    };
    let at = |code, value| InputEvent::new(EventType::ABS, code, value);
    hardware.report(&[key(trigger, true), at(6, 900)]);
    wait(&mut source, &mut told, |told| {
        told.reports
            .last()
            .is_some_and(|(_, events)| events.contains(&at(6, 900)))
    });
    // Told once, before more than the kernel queues for a reader.
    hardware.report(&[key(trigger, false), key(thumb, true)]);
    hardware.report(&[at(1, -20_000), at(6, 100), at(16, 64)]);
    for step in 0..400 {
        hardware.report(&[at(0, step % 7 * 1_000)]);
    }
    let wanted = state(&original);
    assert_eq!(wanted, ([0, -20_000, 100, 64], vec![thumb.0]));
    wait(&mut source, &mut told, |told| {
        let mut reports = told.reports.iter();
        reports.any(|(_, events)| events.contains(&at(1, -20_000)))
    });
    pump(&mut source, &mut told);
    assert!(
        told.reports.len() < 100,
        "nothing was lost: the test is void"
    );
    for (_, events) in &told.reports {
        sink.apply(MonoTime::ZERO, device.id, events, false)
            .expect("the twin takes it");
    }
    assert_eq!(state(&twin), wanted);
}

#[test]
#[ignore = "needs /dev/uinput: run in the lab"]
fn lost_touches_are_followed_by_the_true_contacts() {
    use evdevil::event::{Abs, Key};
    let name = "Lab Flooded Touchscreen";
    let touch = KeyCode(0x14a);
    let (slot, x, y, id) = (0x2f, 0x35, 0x36, 0x39);
    let axis = |code, maximum| {
        let info = evdevil::AbsInfo::new(0, maximum);
        evdevil::uinput::AbsSetup::new(Abs::from_raw(code), info)
    };
    let axes = [
        axis(0, 4_095),
        axis(1, 4_095),
        axis(slot, 4),
        axis(x, 4_095),
        axis(y, 4_095),
        axis(id, 65_535),
    ];
    let device = evdevil::uinput::UinputDevice::builder()
        .and_then(|builder| builder.with_keys([Key::from_raw(touch.0)]))
        .and_then(|builder| builder.with_props([evdevil::InputProp::DIRECT]))
        .and_then(|builder| builder.with_abs_axes(axes))
        .and_then(|builder| builder.build(name))
        .expect("uinput works in the lab");
    let hardware = Hardware {
        device,
        name: name.to_owned(),
    };
    let Twinned {
        mut source,
        mut told,
        device,
        mut sink,
        node,
    } = Twinned::new(&hardware);
    // Fingers with their places, and the key of all.
    let contacts = |path: &std::path::Path| {
        let device = Evdev::open(path).expect("a reader");
        let down = device.key_state().expect("keys").iter().count();
        let reader = device.into_reader().expect("the state");
        let fingers = reader.valid_slots().map(|slot| {
            let value = |code| reader.slot_state(slot, Abs::from_raw(code));
            (value(id), value(x), value(y))
        });
        (fingers.collect::<Vec<_>>(), down)
    };
    let at = |code, value| InputEvent::new(EventType::ABS, code, value);
    hardware.report(&[
        at(slot, 0),
        at(id, 7),
        at(x, 10),
        at(y, 20),
        key(touch, true),
    ]);
    wait(&mut source, &mut told, |told| {
        let mut reports = told.reports.iter();
        reports.any(|(_, events)| events.contains(&at(id, 7)))
    });
    // The first finger goes and two others come, before more than the kernel queues for a reader.
    hardware.report(&[at(slot, 0), at(id, -1), at(slot, 1), at(id, 8), at(x, 100)]);
    hardware.report(&[at(slot, 2), at(id, 9), at(x, 300), at(y, 400)]);
    for step in 0..400 {
        hardware.report(&[at(slot, 1), at(y, 1_000 + step % 7)]);
    }
    let wanted = contacts(&hardware.node());
    let finger = |id, x, y| (Some(id), Some(x), Some(y));
    assert_eq!(
        wanted,
        (vec![finger(8, 100, 1_000), finger(9, 300, 400)], 1)
    );
    wait(&mut source, &mut told, |told| {
        let mut reports = told.reports.iter();
        reports.any(|(_, events)| events.contains(&at(id, 9)))
    });
    pump(&mut source, &mut told);
    assert!(
        told.reports.len() < 300,
        "nothing was lost: the test is void"
    );
    for (_, events) in &told.reports {
        sink.apply(MonoTime::ZERO, device.id, events, false)
            .expect("the twin takes it");
    }
    assert_eq!(contacts(std::path::Path::new(&node)), wanted);
}

#[test]
#[ignore = "needs /dev/uinput: run in the lab"]
fn noise_is_filtered_by_the_original_only() {
    let name = "Lab Noisy Slider";
    let position = evdevil::event::Abs::from_raw(0);
    let info = evdevil::AbsInfo::new(0, 1_000).with_fuzz(8);
    let device = evdevil::uinput::UinputDevice::builder()
        .and_then(|builder| builder.with_abs_axes([evdevil::uinput::AbsSetup::new(position, info)]))
        .and_then(|builder| builder.build(name))
        .expect("uinput works in the lab");
    let hardware = Hardware {
        device,
        name: name.to_owned(),
    };
    let Twinned {
        mut source,
        mut told,
        device,
        mut sink,
        node,
    } = Twinned::new(&hardware);
    let target = Evdev::open(&node).expect("the twin's node");
    let at = |value| InputEvent::new(EventType::ABS, 0, value);
    let before = told.reports.len();
    for value in [500, 503, 509, 516, 512, 507] {
        hardware.report(&[at(value)]);
        pump(&mut source, &mut told);
    }
    hardware.report(&[at(100)]);
    wait(&mut source, &mut told, |told| {
        told.reports
            .last()
            .is_some_and(|(_, events)| events.contains(&at(100)))
    });
    let mut filtered = Vec::new();
    for (_, events) in told.reports.iter().skip(before) {
        sink.apply(MonoTime::ZERO, device.id, events, false)
            .expect("the twin takes it");
        filtered.extend(events.iter().copied().chain([InputEvent::SYN_REPORT]));
    }
    assert!(filtered.len() > 4 && filtered.len() < 14, "{filtered:?}");
    assert_eq!(read_all(&target, filtered.len()), filtered);
}

#[test]
#[ignore = "needs /dev/uinput: run in the lab"]
fn whoever_controls_this_machine_cannot_press_its_button() {
    const NAME: &str = "Lab Button";
    const KEY: &str = "KEY_A";
    let not_found = |which: &str| Button::open(which, KEY).map_err(|error| error.kind()).err();
    let hardware = Hardware::plug(NAME);
    let Twinned { sink, node, .. } = Twinned::new(&hardware);
    // Only the twin is left, by the button's name and with its key.
    drop(hardware);
    until("the hardware's end", || {
        let mut found = evdev::list().into_iter().flatten();
        let gone = found.all(|found| found.ours || found.descriptor.name != NAME);
        gone.then_some(())
    });
    assert_eq!(not_found(NAME), Some(ErrorKind::NotFound));
    assert_eq!(not_found(&node), Some(ErrorKind::NotFound));

    let hardware = Hardware::plug(NAME);
    hardware.node();
    let mut button = Button::open(NAME, KEY).expect("the real one beside the twin");
    let a = KeyCode(30);
    hardware.report(&[key(a, true), InputEvent::SYN_REPORT]);
    assert!(button.pressed(PATIENCE).expect("it is there"));
    drop(sink);
}

#[test]
#[ignore = "needs /dev/uinput: run in the lab"]
fn a_dropped_sink_removes_its_devices() {
    let mut sink = UinputSink::new().expect("uinput works in the lab");
    let device = one_key("Lab Twin", 400, 40);
    let node = sink.add_device(&device).expect("a twin");
    let target = Evdev::open(&node).expect("the twin's node");
    let repeat = target.key_repeat().expect("repeat").expect("it repeats");
    assert_eq!((repeat.delay(), repeat.period()), (400, 40));
    sink.apply(MonoTime::ZERO, device.id, &[key(KeyCode::A, true)], false)
        .expect("the twin takes it");
    assert_eq!(read_all(&target, 2).len(), 2);
    drop(sink);
    let mut events = [RawEvent::zeroed(); 8];
    let error = target
        .read_events(&mut events)
        .expect_err("the device is gone");
    assert_eq!(error.raw_os_error(), Some(19), "ENODEV");
    until("the node's end", || {
        (!std::path::Path::new(&node).exists()).then_some(())
    });
}
