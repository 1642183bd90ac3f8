//! A client that means harm, or is broken: what is wrong is refused with a reason, and memory stays bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use soft_kvm_core::MonoTime;
use soft_kvm_input::{InputSink, SinkError, SinkFeedback, TargetSession};
use soft_kvm_protocol::control::FromServer;
use soft_kvm_protocol::input::{
    AbsoluteAxis, DeviceDescriptor, DeviceId, EventReport, EventType, InputEvent, InputSender,
    KeyCode, MAX_DEVICES, Record,
};

/// What one session may keep for its operator at most, in bytes.
const BOUND: u64 = 256 * 1024;

/// A sink that counts its devices.
#[derive(Clone, Debug, Default)]
struct Count(Arc<AtomicUsize>);

impl InputSink for Count {
    fn add_device(&mut self, _: &DeviceDescriptor) -> Result<String, SinkError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok("test".to_owned())
    }

    fn remove_device(&mut self, _: DeviceId) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    fn apply(
        &mut self,
        _: MonoTime,
        _: DeviceId,
        _: &[InputEvent],
        _: bool,
    ) -> Result<(), SinkError> {
        Ok(())
    }

    fn poll_feedback(&mut self, _: &mut dyn FnMut(SinkFeedback)) {}

    fn kind(&self) -> &'static str {
        "test"
    }
}

fn at(millis: u64) -> MonoTime {
    MonoTime::ZERO + Duration::from_millis(millis)
}

fn axes(codes: std::ops::Range<u16>, minimum: i32, maximum: i32) -> Vec<AbsoluteAxis> {
    let axis = |code| AbsoluteAxis {
        code,
        minimum,
        maximum,
        ..AbsoluteAxis::default()
    };
    codes.map(axis).collect()
}

fn device(id: u16) -> DeviceDescriptor {
    DeviceDescriptor {
        id: DeviceId(id),
        name: "keyboard".to_owned(),
        keys: vec![KeyCode::A],
        ..DeviceDescriptor::default()
    }
}

/// What the session answers to a device: what it became, or why not.
fn announce(
    session: &mut TargetSession<Count>,
    device: DeviceDescriptor,
) -> Result<String, String> {
    let mut message = Vec::new();
    Record::DeviceAdd(Box::new(device)).encode(&mut message);
    match session.handle_record(MonoTime::ZERO, &message) {
        Ok(Some(FromServer::Device { result, .. })) => result,
        Ok(other) => panic!("{other:?} is no answer"),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn absurd_devices_are_refused_with_a_reason() {
    let sink = Count::default();
    let mut session = TargetSession::new(sink.clone());
    let all = DeviceDescriptor {
        keys: (0..=KeyCode::MAX.0).map(KeyCode).collect(),
        relative: (0..16).collect(),
        absolute: axes(0..0x2f, i32::MIN, i32::MAX),
        properties: (0..32).collect(),
        ..device(1)
    };
    assert_eq!(announce(&mut session, all), Ok("test".to_owned()));
    let with = |absolute| DeviceDescriptor {
        absolute,
        ..device(2)
    };
    let strange = [
        (with(axes(0..0x41, 0, 1)), "absolute axis"),
        (with(axes(0..1, 5, -5)), "range of an axis"),
        (with(axes(0x2f..0x30, 0, i32::MAX)), "count of contacts"),
        (with(axes(0x2f..0x30, -7, 3)), "count of contacts"),
        (
            DeviceDescriptor {
                keys: (0..2_000).map(KeyCode).collect(),
                ..device(3)
            },
            "key code",
        ),
    ];
    for (device, reason) in strange {
        let error = announce(&mut session, device).expect_err(reason);
        assert!(error.contains(reason), "{error:?} does not name {reason:?}");
    }
    assert_eq!(sink.0.load(Ordering::Relaxed), 1);
}

#[test]
fn a_thousand_devices_are_bounded() {
    let sink = Count::default();
    let mut session = TargetSession::new(sink.clone());
    let kept = allocation_counter::measure(|| {
        for id in 1..=1_000 {
            let result = announce(&mut session, device(id));
            if usize::from(id) <= MAX_DEVICES {
                assert!(result.is_ok(), "{result:?}");
            } else {
                let error = result.expect_err("too many");
                assert!(error.contains("more than"), "{error}");
            }
        }
    });
    assert_eq!(sink.0.load(Ordering::Relaxed), MAX_DEVICES);
    let kept = u64::try_from(kept.bytes_current).unwrap_or(0);
    assert!(kept < BOUND, "{kept} bytes");

    // Plugged in and out for ever.
    let mut session = TargetSession::new(sink);
    let kept = allocation_counter::measure(|| {
        let mut refusals = 0;
        for id in 1..=20_000 {
            let result = announce(&mut session, device(id));
            refusals += usize::from(result.is_err_and(|error| error.contains("reconnect")));
            let mut message = Vec::new();
            Record::DeviceRemove(DeviceId(id)).encode(&mut message);
            session
                .handle_record(MonoTime::ZERO, &message)
                .expect("a record");
        }
        assert!(refusals > 10_000, "{refusals}");
    });
    let kept = u64::try_from(kept.bytes_current).unwrap_or(0);
    assert!(kept < BOUND, "{kept} bytes");
}

#[test]
fn another_version_is_refused_by_number() {
    let mut session = TargetSession::new(Count::default());
    let mut message = Vec::new();
    Record::DeviceAdd(Box::new(device(1))).encode(&mut message);
    *message.first_mut().expect("a version") = 9;
    let error = session.handle_record(MonoTime::ZERO, &message);
    let error = error.expect_err("version 9").to_string();
    assert!(error.contains('9'), "{error}");
    let mut sender = InputSender::new();
    let mut datagram = Vec::new();
    assert!(sender.poll_transmit(MonoTime::ZERO, &mut datagram));
    *datagram.first_mut().expect("a version") = 9;
    let error = session.handle_datagram(MonoTime::ZERO, &datagram);
    let error = error.expect_err("version 9").to_string();
    assert!(error.contains('9'), "{error}");
}

#[test]
fn floods_keep_nothing() {
    let mut session = TargetSession::new(Count::default());
    announce(&mut session, device(1)).expect("a device");
    let mut sender = InputSender::new();
    let (mut datagram, mut answer) = (Vec::new(), Vec::new());
    let mut flood = |millis: std::ops::Range<u64>| {
        for now in millis {
            // Many more than the device has, of types and devices that it does not have.
            let events: Vec<_> = (0..60)
                .map(|code| InputEvent::new(EventType::ABS, code, i32::MAX))
                .collect();
            for id in [1, 2] {
                let report = EventReport {
                    device: DeviceId(id),
                    time: at(now),
                    unfinished: true,
                    events: &events,
                };
                sender.push(at(now), report);
            }
            while sender.poll_transmit(at(now), &mut datagram) {
                let handled = session.handle_datagram(at(now), &datagram);
                handled.expect("well-formed");
                // Cut short and turned over.
                let half = datagram.len() / 2;
                let _ = session.handle_datagram(at(now), datagram.get(..half).unwrap_or(&[]));
                datagram.reverse();
                let _ = session.handle_datagram(at(now), &datagram);
            }
            while session.poll_transmit(at(now), &mut answer) {
                sender.handle_ack(at(now), &answer).expect("ours");
            }
        }
    };
    flood(1..2_000);
    let kept = allocation_counter::measure(|| flood(2_000..12_000));
    assert!(kept.bytes_current < 4_096, "{kept:?}");
}
