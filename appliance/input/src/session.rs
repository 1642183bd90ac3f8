//! One operator's input on the target: datagrams and records in, calls to a sink and answers out.

use soft_kvm_core::MonoTime;
use soft_kvm_protocol::control::FromServer;
use soft_kvm_protocol::input::{
    DecodeError, DeviceDescriptor, DeviceId, EventReport, HeldKeys, InputEvent, InputHandler,
    InputReceiver, LedState, MAX_DEVICES, MAX_EVENTS, Received, Record,
};

use crate::force::Outbox;
use crate::ledger::Ledger;
use crate::pacing::{Paced, Pacer};
use crate::sink::{InputSink, SinkError, SinkFeedback};

/// Why a session can't take something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// Bytes that are not as `docs/WIRE.md` says.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A record that only the target sends.
    #[error("a record came from the wrong side")]
    Direction,
}

/// One operator's input on the target.
///
/// > Datagrams go to [`handle_datagram`](Self::handle_datagram), records to [`handle_record`](Self::handle_record), the
/// > passing of [`poll_timeout`](Self::poll_timeout) to [`handle_timeout`](Self::handle_timeout), readiness of the sink to
/// > [`poll_feedback`](Self::poll_feedback). After each: send what [`poll_transmit`](Self::poll_transmit) writes.
///
/// Dropping the session, or [`close`](Self::close), lifts all keys.
#[derive(Debug)]
pub struct TargetSession<S: InputSink> {
    receiver: InputReceiver,
    target: Target<S>,
}

#[derive(Debug)]
struct Target<S: InputSink> {
    sink: S,
    ledger: Ledger,
    pacer: Pacer,
    known: Vec<Known>,
    force: Outbox,
    now: MonoTime,
    events: Vec<InputEvent>,
    /// A part of a report was written without its end.
    unfinished: bool,
    report_count: u32,
    written: Written,
}

/// What became of the writes to the sink.
#[derive(Debug, Default)]
struct Written {
    last_report: Option<MonoTime>,
    errors: u32,
    last_error: Option<SinkError>,
}

impl Written {
    fn write(&mut self, sink: &mut impl InputSink, now: MonoTime, report: Paced<'_>) {
        self.last_report = report.stamp.or(self.last_report);
        let written = sink.apply(now, report.device, report.events, report.unfinished);
        if let Err(error) = written {
            self.errors = self.errors.saturating_add(1);
            self.last_error = Some(error);
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Known {
    device: DeviceId,
    live: bool,
    leds: LedState,
}

impl<S: InputSink> TargetSession<S> {
    /// A session that writes to `sink`.
    #[must_use]
    pub fn new(sink: S) -> Self {
        Self {
            receiver: InputReceiver::new(),
            target: Target {
                sink,
                ledger: Ledger::default(),
                pacer: Pacer::new(),
                known: Vec::new(),
                force: Outbox::default(),
                now: MonoTime::ZERO,
                events: Vec::with_capacity(MAX_EVENTS),
                unfinished: false,
                report_count: 0,
                written: Written::default(),
            },
        }
    }

    /// Takes the decrypted payload of a datagram that arrived at `now`.
    ///
    /// # Errors
    /// On bytes that are no input datagram; nothing has been applied then.
    pub fn handle_datagram(
        &mut self,
        now: MonoTime,
        payload: &[u8],
    ) -> Result<Received, SessionError> {
        self.handle_timeout(now);
        let received = self
            .receiver
            .handle_datagram(now, payload, &mut self.target)?;
        if received.alive {
            self.target.ledger.sign_of_life(now);
            if let Some((sent, _)) = self.receiver.newest() {
                self.target.pacer.heard(now, sent);
            }
        }
        Ok(received)
    }

    /// Takes a reliable record; answers what has to be sent on the control channel, if anything.
    ///
    /// # Errors
    /// On bytes that are no record, or one that only a target sends.
    pub fn handle_record(
        &mut self,
        now: MonoTime,
        message: &[u8],
    ) -> Result<Option<FromServer>, SessionError> {
        self.handle_timeout(now);
        match Record::parse(message)? {
            Record::DeviceAdd(device) => Ok(Some(FromServer::Device {
                id: device.id.0,
                result: self.target.add(&device),
            })),
            Record::DeviceRemove(device) => {
                self.target.remove(device);
                Ok(None)
            }
            _ => Err(SessionError::Direction),
        }
    }

    /// Writes what waits for its readers, and lifts all keys when the lease is over.
    pub fn handle_timeout(&mut self, now: MonoTime) {
        self.target.now = now;
        self.target.pace(false);
        if self.target.lift(false) {
            self.receiver.expire();
        }
    }

    /// When the lease is over, while a key is down, an acknowledgement is due, or something that waited is to be written.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<MonoTime> {
        let all = [
            self.target.ledger.poll_timeout(),
            self.receiver.poll_timeout(),
            self.target.pacer.poll_timeout(),
        ];
        all.into_iter().flatten().min()
    }

    /// Asks the sink what the target said; `each` gets the records to send. LEDs go with the next acknowledgement too.
    pub fn poll_feedback(&mut self, mut each: impl FnMut(Record)) {
        let (known, force) = (&mut self.target.known, &mut self.target.force);
        self.target
            .sink
            .poll_feedback(&mut |feedback| match feedback {
                SinkFeedback::Leds(device, leds) => {
                    if let Some(known) = known.iter_mut().find(|known| known.device == device) {
                        known.leds = leds;
                    }
                    each(Record::Leds(device, leds));
                }
                SinkFeedback::Repeat(device, repeat) => each(Record::Repeat(device, repeat)),
                SinkFeedback::Force(device, change) => force.push(device, change),
            });
        let all = known.iter().fold(LedState::default(), |all, one| LedState {
            known: all.known | one.leds.known,
            lit: all.lit | one.leds.lit,
        });
        self.receiver.set_leds(all);
    }

    /// Gives `each` the records of force feedback that may be sent now, at most `room`; what is left waits for the next call.
    pub fn poll_force(&mut self, now: MonoTime, room: usize, each: impl FnMut(Record)) {
        self.target.force.poll(now, room, each);
    }

    /// Writes an acknowledgement datagram, if one is due; `now` is read after the events were applied.
    #[must_use]
    pub fn poll_transmit(&mut self, now: MonoTime, out: &mut Vec<u8>) -> bool {
        self.receiver.poll_transmit(now, out)
    }

    /// Lifts all keys; the sink's devices stay until it is dropped.
    pub fn close(&mut self, now: MonoTime) {
        self.target.now = now;
        self.target.lift(true);
        self.receiver.expire();
    }

    /// Gives the sink what waits for its readers, all of it.
    pub fn write_waiting(&mut self, now: MonoTime) {
        self.target.now = now;
        self.target.pace(true);
    }

    /// Lifts on the target what the operator holds, and goes on following it: another operator is heard next. The sink has
    /// to let these events through; what waits is to be written before.
    pub fn lift_unheard(&mut self) {
        let target = &mut self.target;
        let (sink, now, written) = (&mut target.sink, target.now, &mut target.written);
        target.ledger.lift_unheard(&mut |device, events| {
            written.write(sink, now, made_up(device, events));
        });
    }

    /// The ledger, to look at.
    #[must_use]
    pub const fn ledger(&self) -> &Ledger {
        &self.target.ledger
    }

    /// The sink.
    #[must_use]
    pub const fn sink(&self) -> &S {
        &self.target.sink
    }

    /// The sink, for what only its kind can do, such as giving its file descriptors to a poller.
    pub const fn sink_mut(&mut self) -> &mut S {
        &mut self.target.sink
    }

    /// Reports applied since the start; wraps.
    #[must_use]
    pub const fn report_count(&self) -> u32 {
        self.target.report_count
    }

    /// Takes the operator's kernel stamp of the newest report written since the last call, for the latency histogram.
    pub const fn take_last_report(&mut self) -> Option<MonoTime> {
        self.target.written.last_report.take()
    }

    /// Takes the newest error of the sink and how many there were since the last call.
    pub fn take_errors(&mut self) -> Option<(u32, SinkError)> {
        let count = std::mem::take(&mut self.target.written.errors);
        Some((count, self.target.written.last_error.take()?))
    }
}

impl<S: InputSink> Target<S> {
    fn add(&mut self, device: &DeviceDescriptor) -> Result<String, String> {
        if self.known.iter().any(|known| known.device == device.id) {
            return Err(format!("{} was announced before", device.id));
        }
        if self.known.iter().filter(|known| known.live).count() >= MAX_DEVICES {
            return Err(format!("more than {MAX_DEVICES} input devices"));
        }
        // Ids are not used again, so this list grows with every plugging; a session has its end.
        if self.known.len() >= 16 * MAX_DEVICES {
            return Err("too many devices were plugged in this session: reconnect".to_owned());
        }
        let result = self
            .sink
            .add_device(device)
            .map_err(|error| error.to_string());
        self.known.push(Known {
            device: device.id,
            live: result.is_ok(),
            leds: LedState::default(),
        });
        if result.is_ok() {
            self.ledger.add_device(device.id);
            self.ledger.add_springs(device);
            self.pacer.add_device(device.id);
            if device.force.is_some() {
                self.force.add_device(device.id);
            }
        }
        result
    }

    fn remove(&mut self, device: DeviceId) {
        self.pace(true);
        let (sink, now) = (&mut self.sink, self.now);
        self.ledger.remove_device(device, &mut |events| {
            // The device goes away next, which lifts its keys in any case.
            let _ = sink.apply(now, device, events, false);
        });
        self.sink.remove_device(device);
        self.pacer.remove_device(device);
        self.force.remove_device(device);
        if let Some(known) = self.known.iter_mut().find(|known| known.device == device) {
            known.live = false;
            known.leds = LedState::default();
        }
    }

    /// Writes what waits: all of it, or what its readers have room for.
    fn pace(&mut self, all: bool) {
        let (sink, now, written) = (&mut self.sink, self.now, &mut self.written);
        let mut write = |report: Paced<'_>| written.write(sink, now, report);
        if all {
            self.pacer.flush(now, &mut write);
        } else {
            self.pacer.handle_timeout(now, &mut write);
        }
    }

    /// Lifts all keys, in any case or when the lease is over; says whether it did.
    fn lift(&mut self, always: bool) -> bool {
        if !always && !self.ledger.is_over(self.now) {
            return false;
        }
        // What waits was before.
        self.pace(true);
        let (sink, now, written) = (&mut self.sink, self.now, &mut self.written);
        self.ledger.release_all(&mut |device, events| {
            written.write(sink, now, made_up(device, events));
        });
        true
    }
}

/// A report that the ledger made, not a device.
fn made_up(device: DeviceId, events: &[InputEvent]) -> Paced<'_> {
    Paced {
        device,
        events,
        unfinished: false,
        stamp: None,
    }
}

impl<S: InputSink> InputHandler for Target<S> {
    fn accepts(&mut self, device: DeviceId) -> bool {
        self.known.iter().any(|known| known.device == device)
    }

    fn reconcile(&mut self, held: &HeldKeys) {
        let (sink, now, written) = (&mut self.sink, self.now, &mut self.written);
        let pacer = &mut self.pacer;
        self.ledger.reconcile(held, &mut |device, events| {
            pacer.push(now, made_up(device, events), &mut |report| {
                written.write(sink, now, report);
            });
        });
    }

    fn report(&mut self, report: EventReport<'_>) {
        self.report_count = self.report_count.wrapping_add(1);
        self.events.clear();
        self.events.extend_from_slice(report.events);
        self.ledger.apply(report.device, &mut self.events);
        if self.events.is_empty() && (report.unfinished || !self.unfinished) {
            self.written.last_report = Some(report.time);
            return;
        }
        self.unfinished = report.unfinished;
        let (sink, now, written) = (&mut self.sink, self.now, &mut self.written);
        let paced = Paced {
            device: report.device,
            events: &self.events,
            unfinished: report.unfinished,
            stamp: Some(report.time),
        };
        self.pacer
            .push(now, paced, &mut |report| written.write(sink, now, report));
    }
}

impl<S: InputSink> Drop for Target<S> {
    fn drop(&mut self) {
        self.lift(true);
    }
}
