//! Reliable records: WebSocket binary messages for what must arrive, in order, and is not urgent.

use super::codes::{KeyCode, abs, led, rel};
use super::device::{
    AbsoluteAxis, Bus, DeviceDescriptor, DeviceVersion, MAX_NAME, Product, Repeat, Vendor,
};
use super::event::DeviceId;
use super::force::{ForceAbilities, ForceChange, is_force};
use super::wire::{DecodeError, Reader, put_i32, put_u16, put_u32, read_head};
use super::{INPUT_VERSION, MAX_RECORD};

const KIND_ADD: u8 = 16;
const KIND_REMOVE: u8 = 17;
const KIND_LEDS: u8 = 18;
const KIND_REPEAT: u8 = 19;

/// LEDs of one device as the target set them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedState {
    /// Bit `n`: the target has set `LED_*` code `n` at least once.
    pub known: u16,
    /// Bit `n`: it is lit.
    pub lit: u16,
}

impl LedState {
    /// Follows one setting of an LED; a code above 15 changes nothing.
    pub fn set(&mut self, code: u16, on: bool) {
        let Some(bit) = 1_u16.checked_shl(u32::from(code)) else {
            return;
        };
        self.known |= bit;
        if on {
            self.lit |= bit;
        } else {
            self.lit &= !bit;
        }
    }
}

/// A reliable record.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Record {
    /// Operator: a device is there. The answer is [`crate::control::FromServer::Device`].
    DeviceAdd(Box<DeviceDescriptor>),
    /// Operator: a device is gone; the target lifts its keys and removes its twin.
    DeviceRemove(DeviceId),
    /// Target: a device's LEDs.
    Leds(DeviceId, LedState),
    /// Target: a device's auto-repeat was set.
    Repeat(DeviceId, Repeat),
    /// Target: what a device's force feedback is to do; only for devices that were announced with some.
    Force(DeviceId, ForceChange),
}

pub(super) const fn is_record(kind: u8) -> bool {
    matches!(kind, KIND_ADD | KIND_REMOVE | KIND_LEDS | KIND_REPEAT)
}

impl Record {
    /// Writes the message; `out` is emptied.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        out.push(INPUT_VERSION);
        match self {
            Self::DeviceAdd(device) => {
                out.push(KIND_ADD);
                put_descriptor(out, device);
            }
            Self::DeviceRemove(id) => {
                out.push(KIND_REMOVE);
                put_u16(out, id.0);
            }
            Self::Leds(id, leds) => {
                out.push(KIND_LEDS);
                put_u16(out, id.0);
                put_u16(out, leds.known);
                put_u16(out, leds.lit);
            }
            Self::Repeat(id, repeat) => {
                out.push(KIND_REPEAT);
                put_u16(out, id.0);
                put_u32(out, repeat.delay_ms);
                put_u32(out, repeat.period_ms);
            }
            Self::Force(id, change) => {
                out.push(change.record_kind());
                put_u16(out, id.0);
                change.put(out);
            }
        }
    }

    /// Reads and checks a message.
    ///
    /// # Errors
    /// On any byte that is not as `docs/WIRE.md` says.
    pub fn parse(message: &[u8]) -> Result<Self, DecodeError> {
        if message.len() > MAX_RECORD {
            return Err(DecodeError::Long {
                extra: message.len() - MAX_RECORD,
            });
        }
        let mut reader = Reader::new(message);
        let record = match read_head(&mut reader)? {
            KIND_ADD => Self::DeviceAdd(Box::new(read_descriptor(&mut reader)?)),
            KIND_REMOVE => Self::DeviceRemove(DeviceId(reader.u16()?)),
            KIND_LEDS => Self::Leds(
                DeviceId(reader.u16()?),
                LedState {
                    known: reader.u16()?,
                    lit: reader.u16()?,
                },
            ),
            KIND_REPEAT => Self::Repeat(DeviceId(reader.u16()?), read_repeat(&mut reader)?),
            kind if is_force(kind) => Self::Force(
                DeviceId(reader.u16()?),
                ForceChange::read(kind, &mut reader)?,
            ),
            kind => return Err(DecodeError::Kind(kind)),
        };
        reader.finish()?;
        Ok(record)
    }
}

fn put_descriptor(out: &mut Vec<u8>, device: &DeviceDescriptor) {
    put_u16(out, device.id.0);
    put_u16(out, device.bus.0);
    put_u16(out, device.vendor.0);
    put_u16(out, device.product.0);
    put_u16(out, device.version.0);
    let name = DeviceDescriptor::clean_name(&device.name);
    out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(name.as_bytes());
    put_codes(out, device.keys.iter().map(|key| key.0));
    put_codes(out, device.relative.iter().copied());
    put_u16(out, count(device.absolute.len()));
    for axis in &device.absolute {
        put_u16(out, axis.code);
        for value in [
            axis.minimum,
            axis.maximum,
            axis.fuzz,
            axis.flat,
            axis.resolution,
        ] {
            put_i32(out, value);
        }
    }
    put_codes(out, device.misc.iter().copied());
    put_codes(out, device.switches.iter().copied());
    put_codes(out, device.leds.iter().copied());
    put_codes(out, device.properties.iter().copied());
    out.push(u8::from(device.repeat.is_some()));
    if let Some(repeat) = device.repeat {
        put_u32(out, repeat.delay_ms);
        put_u32(out, repeat.period_ms);
    }
    // Last and only where there is some: so targets from before it read everything else.
    if let Some(force) = &device.force {
        force.put(out);
    }
}

fn count(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

pub(super) fn put_codes(out: &mut Vec<u8>, codes: impl ExactSizeIterator<Item = u16>) {
    put_u16(out, count(codes.len()));
    for code in codes {
        put_u16(out, code);
    }
}

fn read_descriptor(reader: &mut Reader<'_>) -> Result<DeviceDescriptor, DecodeError> {
    let id = DeviceId(reader.u16()?);
    let bus = Bus(reader.u16()?);
    let vendor = Vendor(reader.u16()?);
    let product = Product(reader.u16()?);
    let version = DeviceVersion(reader.u16()?);
    let length = usize::from(reader.u8()?);
    let name = std::str::from_utf8(reader.take(length)?)
        .ok()
        .filter(|name| (1..=MAX_NAME).contains(&name.len()) && !name.contains(char::is_control))
        .ok_or(DecodeError::Text("device name"))?
        .to_owned();
    let keys = read_codes(reader, "key code", KeyCode::MAX.0)?
        .into_iter()
        .map(KeyCode)
        .collect();
    let relative = read_codes(reader, "relative axis", rel::MAX)?;
    let absolute = read_axes(reader)?;
    let misc = read_codes(reader, "miscellaneous code", 0x07)?;
    let switches = read_codes(reader, "switch", 0x1f)?;
    let leds = read_codes(reader, "LED", led::MAX)?;
    let properties = read_codes(reader, "property", 0x1f)?;
    let repeat = match reader.u8()? {
        0 => None,
        1 => Some(read_repeat(reader)?),
        other => return Err(field("repeat flag", i64::from(other))),
    };
    let force = match reader.rest() {
        [] => None,
        _ => Some(ForceAbilities::read(reader)?),
    };
    Ok(DeviceDescriptor {
        id,
        name,
        bus,
        vendor,
        product,
        version,
        keys,
        relative,
        absolute,
        misc,
        switches,
        leds,
        properties,
        repeat,
        force,
    })
}

const fn field(field: &'static str, value: i64) -> DecodeError {
    DecodeError::Field { field, value }
}

/// Ascending codes of at most `limit`: so the list is bounded and has one form only.
pub(super) fn read_codes(
    reader: &mut Reader<'_>,
    what: &'static str,
    limit: u16,
) -> Result<Vec<u16>, DecodeError> {
    let mut codes = Vec::new();
    for _ in 0..reader.u16()? {
        let code = reader.u16()?;
        if code > limit || codes.last().is_some_and(|last| *last >= code) {
            return Err(field(what, i64::from(code)));
        }
        codes.push(code);
    }
    Ok(codes)
}

fn read_axes(reader: &mut Reader<'_>) -> Result<Vec<AbsoluteAxis>, DecodeError> {
    let mut axes: Vec<AbsoluteAxis> = Vec::new();
    for _ in 0..reader.u16()? {
        let axis = AbsoluteAxis {
            code: reader.u16()?,
            minimum: reader.i32()?,
            maximum: reader.i32()?,
            fuzz: reader.i32()?,
            flat: reader.i32()?,
            resolution: reader.i32()?,
        };
        if axis.code > abs::MAX || axes.last().is_some_and(|last| last.code >= axis.code) {
            return Err(field("absolute axis", i64::from(axis.code)));
        }
        if axis.minimum > axis.maximum {
            return Err(field("range of an axis", i64::from(axis.minimum)));
        }
        // The kernel allocates this many slots.
        if axis.code == abs::MT_SLOT && !(axis.minimum == 0 && axis.maximum < 64) {
            return Err(field("count of contacts", i64::from(axis.maximum)));
        }
        if axis.resolution < 0 {
            return Err(field("resolution", i64::from(axis.resolution)));
        }
        axes.push(axis);
    }
    Ok(axes)
}

fn read_repeat(reader: &mut Reader<'_>) -> Result<Repeat, DecodeError> {
    let repeat = Repeat {
        delay_ms: reader.u32()?,
        period_ms: reader.u32()?,
    };
    // A minute is longer than anyone's, and below the kernel's signed milliseconds.
    for value in [repeat.delay_ms, repeat.period_ms] {
        if value > 60_000 {
            return Err(field("repeat time", i64::from(value)));
        }
    }
    Ok(repeat)
}
