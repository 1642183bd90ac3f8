//! Bodies of the fuzz targets, kept here so that they compile with the code they test.

use soft_kvm_core::MonoTime;

use super::datagram::Ack;
use super::{
    DeviceId, EventReport, HeldKeys, InputHandler, InputReceiver, InputSender, Record, message_kind,
};

#[derive(Default)]
struct Sink(u64);

impl InputHandler for Sink {
    fn accepts(&mut self, device: DeviceId) -> bool {
        !device.0.is_multiple_of(7)
    }

    fn reconcile(&mut self, held: &HeldKeys) {
        self.0 += held.len() as u64;
    }

    fn report(&mut self, report: EventReport<'_>) {
        self.0 += report.events.len() as u64;
    }
}

/// Any bytes as datagrams (16-bit length before each) to a receiver: it stays within its bounds and answers.
pub fn input_datagrams(mut data: &[u8]) {
    let mut receiver = InputReceiver::new();
    let mut sink = Sink::default();
    let mut answer = Vec::new();
    while let Some((length, rest)) = data.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (payload, tail) = rest.split_at(length);
        data = tail;
        let before = receiver.next();
        let now = MonoTime::from_nanos(data.len() as u64);
        if let Ok(received) = receiver.handle_datagram(now, payload, &mut sink) {
            assert!(
                received.restarted || receiver.next() == before + u64::from(received.applied),
                "a report was skipped or repeated"
            );
        }
        if receiver.poll_transmit(now, &mut answer) {
            assert!(Ack::parse(&answer).is_ok(), "our own answer is not valid");
        }
    }
}

/// Any bytes as a record or an acknowledgement; what is understood is written back as it was.
pub fn input_records(data: &[u8]) {
    let _ = message_kind(data);
    if let Ok(record) = Record::parse(data) {
        let mut again = Vec::new();
        record.encode(&mut again);
        assert_eq!(again, data, "a record has two forms");
    }
    if let Ok(ack) = Ack::parse(data) {
        let mut again = Vec::new();
        ack.encode(&mut again);
        assert_eq!(again, data, "an acknowledgement has two forms");
    }
    let _ = InputSender::new().handle_ack(MonoTime::ZERO, data);
}
