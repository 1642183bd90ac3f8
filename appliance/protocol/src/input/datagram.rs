//! The datagrams of the input path: events one way, acknowledgements the other. Big endian; `docs/WIRE.md`, "Input".

use std::time::Duration;

use soft_kvm_core::MonoTime;

use super::codes::{EventType, KeyCode};
use super::event::{DeviceId, EventReport, InputEvent};
use super::held::HeldKeys;
use super::wire::{DecodeError, Reader, expect_kind, put_i32, put_u16, put_u32, put_u64};
use super::{INPUT_VERSION, MAX_DATAGRAM, MAX_DEVICES, MAX_EVENTS, MAX_HELD};

/// Second byte of an input datagram.
pub const KIND_INPUT: u8 = 1;

/// Second byte of an acknowledgement.
pub const KIND_ACK: u8 = 2;

/// Bytes before the snapshot: version, kind, flags, epoch, first, send time, count of reports.
pub const HEADER_LEN: usize = 24;

const FLAG_SNAPSHOT: u8 = 0x01;
const UNFINISHED: u8 = 0x80;
const REPORT_HEADER_LEN: usize = 7;
const EVENT_LEN: usize = 7;

/// Encoded length of a report with `events` events, in bytes.
#[must_use]
pub const fn report_len(events: usize) -> usize {
    REPORT_HEADER_LEN + events * EVENT_LEN
}

/// A received input datagram; the whole of it is checked before this exists.
#[derive(Clone, Debug)]
pub struct InputDatagram<'a> {
    /// Counts the sender's fresh starts: sequence numbers of different epochs have nothing in common.
    pub epoch: u32,
    /// Sequence number of the first report, or of the next one to come when there are none.
    pub first: u64,
    /// The operator's clock when this left.
    pub sent: MonoTime,
    /// How many reports there are.
    pub count: u8,
    snapshot: Option<(u8, &'a [u8])>,
    reports: &'a [u8],
}

impl<'a> InputDatagram<'a> {
    /// Reads and checks a datagram's payload.
    ///
    /// # Errors
    /// On any byte that is not as `docs/WIRE.md` says.
    pub fn parse(payload: &'a [u8]) -> Result<Self, DecodeError> {
        if payload.len() > MAX_DATAGRAM {
            return Err(DecodeError::Long {
                extra: payload.len() - MAX_DATAGRAM,
            });
        }
        let mut reader = Reader::new(payload);
        expect_kind(&mut reader, KIND_INPUT)?;
        let flags = reader.u8()?;
        if flags & !FLAG_SNAPSHOT != 0 {
            return Err(bad("flags", flags));
        }
        let epoch = reader.u32()?;
        let first = reader.u64()?;
        let sent = MonoTime::from_nanos(reader.u64()?);
        let count = reader.u8()?;
        let snapshot = if flags & FLAG_SNAPSHOT == 0 {
            None
        } else {
            let groups = reader.u8()?;
            let start = reader.rest();
            check_snapshot(&mut reader, groups)?;
            Some((groups, start))
        };
        let reports = reader.rest();
        for _ in 0..count {
            check_report(&mut reader)?;
        }
        reader.finish()?;
        first
            .checked_add(u64::from(count))
            .ok_or(DecodeError::Field {
                field: "sequence number",
                value: -1,
            })?;
        Ok(Self {
            epoch,
            first,
            sent,
            count,
            snapshot,
            reports,
        })
    }

    /// Sequence number after the last report.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.first + self.count as u64
    }

    /// Whether the keys held before the first report are told.
    #[must_use]
    pub const fn has_snapshot(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Writes the keys held before the first report to `held`; `false` when the datagram does not tell.
    pub fn snapshot(&self, held: &mut HeldKeys) -> bool {
        let Some((groups, bytes)) = self.snapshot else {
            return false;
        };
        held.clear();
        let mut reader = Reader::new(bytes);
        let mut read = || {
            for _ in 0..groups {
                let device = DeviceId(reader.u16()?);
                for _ in 0..reader.u8()? {
                    held.press(device, KeyCode(reader.u16()?));
                }
            }
            Ok::<(), DecodeError>(())
        };
        // Parsing has checked the same bytes.
        read().is_ok()
    }

    /// The reports in order; the events of each are written to `scratch`, which the caller keeps between datagrams.
    pub fn for_each_report(
        &self,
        scratch: &mut Vec<InputEvent>,
        mut each: impl FnMut(u64, EventReport<'_>),
    ) {
        let mut reader = Reader::new(self.reports);
        for sequence in self.first..self.end() {
            // Parsing has checked the same bytes.
            let Ok((device, age, unfinished)) = read_report(&mut reader, scratch) else {
                return;
            };
            each(
                sequence,
                EventReport {
                    device,
                    time: self.sent - Duration::from_micros(u64::from(age)),
                    unfinished,
                    events: scratch,
                },
            );
        }
    }
}

fn bad(field: &'static str, value: impl Into<i64>) -> DecodeError {
    DecodeError::Field {
        field,
        value: value.into(),
    }
}

fn check_snapshot(reader: &mut Reader<'_>, groups: u8) -> Result<(), DecodeError> {
    if usize::from(groups) > MAX_DEVICES {
        return Err(bad("count of devices", groups));
    }
    let mut total = 0;
    for _ in 0..groups {
        reader.u16()?;
        let keys = reader.u8()?;
        total += usize::from(keys);
        if total > MAX_HELD {
            return Err(bad("count of held keys", keys));
        }
        for _ in 0..keys {
            check_key(reader.u16()?)?;
        }
    }
    Ok(())
}

fn check_key(code: u16) -> Result<(), DecodeError> {
    if code > KeyCode::MAX.0 {
        return Err(bad("key code", code));
    }
    Ok(())
}

fn check_report(reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    reader.u16()?;
    reader.u32()?;
    let count = reader.u8()? & !UNFINISHED;
    if usize::from(count) > MAX_EVENTS {
        return Err(bad("count of events", count));
    }
    for _ in 0..count {
        check_event(read_event(reader)?)?;
    }
    Ok(())
}

/// Whether an operator may send this event.
fn check_event(event: InputEvent) -> Result<(), DecodeError> {
    let limit = match event.kind {
        // SYN_REPORT is implied and SYN_DROPPED is between a process and its own kernel.
        EventType::SYN if event.code == 0 || event.code == 3 => {
            return Err(bad("code of EV_SYN", event.code));
        }
        EventType::SYN => 0x0f,
        EventType::KEY => {
            if !(0..=1).contains(&event.value) {
                return Err(bad("value of a key", event.value));
            }
            KeyCode::MAX.0
        }
        EventType::REL => super::codes::rel::MAX,
        EventType::ABS => super::codes::abs::MAX,
        EventType::MSC => 0x07,
        EventType::SW => 0x1f,
        EventType(other) => return Err(bad("event type", other)),
    };
    if event.code > limit {
        return Err(bad("event code", event.code));
    }
    Ok(())
}

fn read_event(reader: &mut Reader<'_>) -> Result<InputEvent, DecodeError> {
    Ok(InputEvent {
        kind: EventType(reader.u8()?),
        code: reader.u16()?,
        value: reader.i32()?,
    })
}

fn read_report(
    reader: &mut Reader<'_>,
    events: &mut Vec<InputEvent>,
) -> Result<(DeviceId, u32, bool), DecodeError> {
    let device = DeviceId(reader.u16()?);
    let age = reader.u32()?;
    let count = reader.u8()?;
    events.clear();
    for _ in 0..count & !UNFINISHED {
        events.push(read_event(reader)?);
    }
    Ok((device, age, count & UNFINISHED != 0))
}

/// Writes one input datagram, report by report, into a buffer that the caller keeps.
#[derive(Debug)]
pub struct DatagramWriter<'a> {
    out: &'a mut Vec<u8>,
    sent: MonoTime,
    count: u8,
}

const COUNT_AT: usize = HEADER_LEN - 1;

impl<'a> DatagramWriter<'a> {
    /// Starts a datagram; `out` is emptied.
    pub fn begin(
        out: &'a mut Vec<u8>,
        epoch: u32,
        first: u64,
        sent: MonoTime,
        snapshot: Option<&HeldKeys>,
    ) -> Self {
        out.clear();
        out.reserve(MAX_DATAGRAM);
        out.push(INPUT_VERSION);
        out.push(KIND_INPUT);
        out.push(if snapshot.is_some() { FLAG_SNAPSHOT } else { 0 });
        put_u32(out, epoch);
        put_u64(out, first);
        put_u64(out, sent.as_nanos());
        out.push(0);
        if let Some(held) = snapshot {
            let groups = out.len();
            out.push(0);
            for keys in held.by_device() {
                let Some((device, _)) = keys.first() else {
                    continue;
                };
                put_u16(out, device.0);
                out.push(u8::try_from(keys.len()).unwrap_or(u8::MAX));
                for (_, key) in keys {
                    put_u16(out, key.0);
                }
                bump(out, groups);
            }
        }
        Self {
            out,
            sent,
            count: 0,
        }
    }

    /// Adds a report, or says `false` when it does not fit in this datagram any more.
    pub fn push<'e>(
        &mut self,
        device: DeviceId,
        time: MonoTime,
        unfinished: bool,
        events: impl ExactSizeIterator<Item = &'e InputEvent>,
    ) -> bool {
        let Ok(count) = u8::try_from(events.len()) else {
            return false;
        };
        if self.count == u8::MAX || self.out.len() + report_len(events.len()) > MAX_DATAGRAM {
            return false;
        }
        put_u16(self.out, device.0);
        let age = self.sent.since(time).as_micros();
        put_u32(self.out, u32::try_from(age).unwrap_or(u32::MAX));
        self.out
            .push(count | if unfinished { UNFINISHED } else { 0 });
        for event in events {
            self.out.push(event.kind.0);
            put_u16(self.out, event.code);
            put_i32(self.out, event.value);
        }
        self.count += 1;
        bump(self.out, COUNT_AT);
        true
    }

    /// How many reports are in.
    #[must_use]
    pub const fn count(&self) -> u8 {
        self.count
    }
}

fn bump(out: &mut [u8], at: usize) {
    if let Some(byte) = out.get_mut(at) {
        *byte = byte.saturating_add(1);
    }
}

/// The target's answer to input datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The epoch that this is about.
    pub epoch: u32,
    /// Sequence number that the target expects next: all before it are applied.
    pub next: u64,
    /// Send time of the newest datagram seen, by the operator's clock, given back for the round trip.
    pub echo: MonoTime,
    /// The target's clock when that datagram arrived.
    pub received: MonoTime,
    /// The target's clock when its events had been applied.
    pub applied: MonoTime,
    /// Time from its arrival to this answer, in whole microseconds on the wire.
    pub held: Duration,
    /// LEDs that the target has ever set, bit `n` for `LED_*` code `n`.
    pub leds_known: u16,
    /// LEDs that are lit, in the same way.
    pub leds_lit: u16,
}

impl Ack {
    /// Writes the payload; `out` is emptied.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        out.push(INPUT_VERSION);
        out.push(KIND_ACK);
        put_u32(out, self.epoch);
        put_u64(out, self.next);
        put_u64(out, self.echo.as_nanos());
        put_u64(out, self.received.as_nanos());
        put_u64(out, self.applied.as_nanos());
        let held = u32::try_from(self.held.as_micros()).unwrap_or(u32::MAX);
        put_u32(out, held);
        put_u16(out, self.leds_known);
        put_u16(out, self.leds_lit);
    }

    /// Reads and checks a payload.
    ///
    /// # Errors
    /// On any byte that is not as `docs/WIRE.md` says.
    pub fn parse(payload: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        expect_kind(&mut reader, KIND_ACK)?;
        let ack = Self {
            epoch: reader.u32()?,
            next: reader.u64()?,
            echo: MonoTime::from_nanos(reader.u64()?),
            received: MonoTime::from_nanos(reader.u64()?),
            applied: MonoTime::from_nanos(reader.u64()?),
            held: Duration::from_micros(u64::from(reader.u32()?)),
            leds_known: reader.u16()?,
            leds_lit: reader.u16()?,
        };
        reader.finish()?;
        Ok(ack)
    }
}
