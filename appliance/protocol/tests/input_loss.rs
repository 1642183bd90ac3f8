//! Sender and receiver over a network that loses, doubles, delays and reorders, in virtual time.

use std::collections::BTreeMap;

use proptest::prelude::*;
use soft_kvm_core::MonoTime;
use soft_kvm_protocol::input::{
    DeviceId, EventReport, HeldKeys, InputEvent, InputHandler, InputReceiver, InputSender, KeyCode,
};

#[derive(Default)]
struct Target {
    held: HeldKeys,
    reports: Vec<Vec<InputEvent>>,
}

impl InputHandler for Target {
    fn accepts(&mut self, _: DeviceId) -> bool {
        true
    }
    fn reconcile(&mut self, held: &HeldKeys) {
        self.held.copy_from(held);
    }
    fn report(&mut self, report: EventReport<'_>) {
        for event in report.events {
            self.held.apply(report.device, *event);
        }
        self.reports.push(report.events.to_vec());
    }
}

proptest! {
    #[test]
    fn every_report_arrives_once_and_in_order(
        keys in prop::collection::vec((1_u16..120, any::<bool>(), 0_u64..20_000_000), 1..120),
        fates in prop::collection::vec((0_u8..100, 0_u64..8_000_000), 64),
    ) {
        let (mut sender, mut receiver) = (InputSender::new(), InputReceiver::new());
        let mut target = Target::default();
        let mut wire: BTreeMap<(u64, u64), (bool, Vec<u8>)> = BTreeMap::new();
        let (mut now, mut count, mut sent) = (0_u64, 0_u64, Vec::new());
        let mut keys = keys.into_iter().peekable();
        let mut next_key = 0;
        let mut buffer = Vec::new();
        for _ in 0..100_000 {
            let clock = MonoTime::from_nanos(now);
            if keys.peek().is_some() && now >= next_key {
                let (code, down, gap) = keys.next().expect("peeked");
                let events = [InputEvent::key(KeyCode(code), down)];
                sender.push(clock, EventReport { device: DeviceId(1), time: clock, unfinished: false, events: &events });
                sent.push(events.to_vec());
                next_key = now + gap;
            }
            let mut post = |to_target, bytes: &[u8]| {
                let (fate, delay) = fates[usize::try_from(count).expect("small") % fates.len()];
                count += 1;
                // A fifth is lost, a tenth comes twice.
                if fate >= 20 {
                    wire.insert((now + delay, count), (to_target, bytes.to_vec()));
                }
                if fate >= 90 {
                    wire.insert((now + 2 * delay, count), (to_target, bytes.to_vec()));
                }
            };
            while sender.poll_transmit(clock, &mut buffer) {
                post(true, &buffer);
            }
            if receiver.poll_transmit(clock, &mut buffer) {
                post(false, &buffer);
            }
            while let Some(entry) = wire.first_entry().filter(|entry| entry.key().0 <= now) {
                let (to_target, bytes) = entry.remove();
                if to_target {
                    receiver.handle_datagram(clock, &bytes, &mut target).expect("our own bytes");
                } else {
                    sender.handle_ack(clock, &bytes).expect("our own bytes");
                }
            }
            if keys.peek().is_none() && sender.unconfirmed() == 0 {
                break;
            }
            now += 500_000;
        }
        prop_assert_eq!(sender.unconfirmed(), 0);
        prop_assert_eq!(&target.reports, &sent);
        prop_assert_eq!(&target.held, sender.held());
    }
}
