//! Force feedback: what programs on the target make an operator's device do, `struct ff_effect` of linux/input.h.

use super::codes::ff;
use super::wire::{DecodeError, Reader, put_i16, put_u16, put_u32};

/// Most effects that one device keeps at a time.
pub const MAX_EFFECTS: u8 = 16;

/// Most times that an effect is played in a row; the kernel counts in a signed number.
pub const MAX_PLAYS: u32 = i32::MAX as u32;

/// The number of an effect within its device, below [`MAX_EFFECTS`]; the target's kernel chooses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EffectId(u8);

impl EffectId {
    /// Every number that there is.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..MAX_EFFECTS).map(Self)
    }

    /// The effect with this number; none from [`MAX_EFFECTS`] on.
    #[must_use]
    pub fn new(number: u8) -> Option<Self> {
        (number < MAX_EFFECTS).then_some(Self(number))
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Its number as a place in a list of [`MAX_EFFECTS`].
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// What force feedback a device has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForceAbilities {
    /// How many effects it keeps at a time, 1 to [`MAX_EFFECTS`].
    pub effects: u8,
    /// Types of effects, waveforms and settings, `FF_*`, ascending; those of [`ff::is_passed`].
    pub codes: Vec<u16>,
}

impl ForceAbilities {
    /// What of a device's abilities is passed on: at most [`MAX_EFFECTS`] effects, of the codes those of [`ff::is_passed`].
    /// None without an effect that could be played.
    #[must_use]
    pub fn passed(effects: u32, codes: impl IntoIterator<Item = u16>) -> Option<Self> {
        let mut codes: Vec<u16> = codes
            .into_iter()
            .filter(|code| ff::is_passed(*code))
            .collect();
        codes.sort_unstable();
        codes.dedup();
        let effects = u8::try_from(effects).unwrap_or(u8::MAX).min(MAX_EFFECTS);
        let plays = codes.iter().any(|code| ff::is_type(*code));
        (effects > 0 && plays).then_some(Self { effects, codes })
    }

    /// Whether it has this type, waveform or setting.
    #[must_use]
    pub fn has(&self, code: u16) -> bool {
        self.codes.binary_search(&code).is_ok()
    }

    /// Whether it can play an effect.
    #[must_use]
    pub fn can_play(&self, effect: &Effect) -> bool {
        let waveform = match effect.kind {
            EffectKind::Periodic { waveform, .. } => self.has(waveform.code()),
            _ => true,
        };
        effect.id.0 < self.effects && self.has(effect.kind.code()) && waveform
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.push(self.effects);
        super::record::put_codes(out, self.codes.iter().copied());
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let effects = reader.u8()?;
        if !(1..=MAX_EFFECTS).contains(&effects) {
            return Err(field("count of effects", effects.into()));
        }
        let codes = super::record::read_codes(reader, "force feedback code", ff::MAX)?;
        if let Some(other) = codes.iter().find(|code| !ff::is_passed(**code)) {
            return Err(field("force feedback code", (*other).into()));
        }
        Ok(Self { effects, codes })
    }
}

/// How a force begins and ends, `struct ff_envelope`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// Milliseconds of the attack.
    pub attack_length: u16,
    /// Level at the attack's start, 0 to 0x7fff.
    pub attack_level: u16,
    /// Milliseconds of the fade.
    pub fade_length: u16,
    /// Level at the fade's end, 0 to 0x7fff.
    pub fade_level: u16,
}

/// How one axis answers to being moved, `struct ff_condition_effect`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Largest force right of the centre.
    pub right_saturation: u16,
    /// Largest force left of the centre.
    pub left_saturation: u16,
    /// How the force grows to the right.
    pub right_coefficient: i16,
    /// How the force grows to the left.
    pub left_coefficient: i16,
    /// Width without a force around the centre.
    pub dead_band: u16,
    /// Where the centre is.
    pub centre: i16,
}

/// The form of a periodic force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the kernel's")]
pub enum Waveform {
    Square,
    Triangle,
    Sine,
    SawUp,
    SawDown,
}

impl Waveform {
    /// All forms; the kernel's one for data of a program's own is not passed on.
    pub const ALL: [Self; 5] = [
        Self::Square,
        Self::Triangle,
        Self::Sine,
        Self::SawUp,
        Self::SawDown,
    ];

    /// Its `FF_*`.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Square => ff::SQUARE,
            Self::Triangle => ff::TRIANGLE,
            Self::Sine => ff::SINE,
            Self::SawUp => ff::SAW_UP,
            Self::SawDown => ff::SAW_DOWN,
        }
    }

    /// The form with this `FF_*`.
    #[must_use]
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|form| form.code() == code)
    }
}

/// What an axis' answer depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resistance {
    /// How far it is from the centre.
    Spring,
    /// That it is moved.
    Friction,
    /// How fast it is moved.
    Damper,
    /// How its speed changes.
    Inertia,
}

impl Resistance {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Spring, Self::Friction, Self::Damper, Self::Inertia];

    /// Its `FF_*`.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Spring => ff::SPRING,
            Self::Friction => ff::FRICTION,
            Self::Damper => ff::DAMPER,
            Self::Inertia => ff::INERTIA,
        }
    }
}

/// The force itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EffectKind {
    /// Two motors, `FF_RUMBLE`.
    Rumble {
        /// Of the heavy motor.
        strong: u16,
        /// Of the light motor.
        weak: u16,
    },
    /// `FF_CONSTANT`.
    Constant {
        /// Strength; may be negative.
        level: i16,
        /// How it begins and ends.
        envelope: Envelope,
    },
    /// From one strength to another, `FF_RAMP`.
    Ramp {
        /// Strength at the start.
        start: i16,
        /// Strength at the end.
        end: i16,
        /// How it begins and ends.
        envelope: Envelope,
    },
    /// To and fro, `FF_PERIODIC`.
    Periodic {
        /// Its form.
        waveform: Waveform,
        /// Milliseconds of one period.
        period: u16,
        /// Peak.
        magnitude: i16,
        /// Mean, about.
        offset: i16,
        /// Where in the period it starts.
        phase: u16,
        /// How it begins and ends.
        envelope: Envelope,
    },
    /// An answer to being moved, of at most two axes.
    Resistance(Resistance, [Condition; 2]),
}

impl EffectKind {
    /// Its type, `FF_*`.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Rumble { .. } => ff::RUMBLE,
            Self::Constant { .. } => ff::CONSTANT,
            Self::Ramp { .. } => ff::RAMP,
            Self::Periodic { .. } => ff::PERIODIC,
            Self::Resistance(kind, _) => kind.code(),
        }
    }

    /// Whether a device that keeps an effect of the one kind can be told that it is of the other from now on.
    #[must_use]
    pub fn replaces(self, other: Self) -> bool {
        match (self, other) {
            (Self::Periodic { waveform: new, .. }, Self::Periodic { waveform: old, .. }) => {
                new == old
            }
            _ => self.code() == other.code(),
        }
    }
}

/// An effect as a program on the target has made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effect {
    /// Its number within the device.
    pub id: EffectId,
    /// Where the force comes from: 0x0000 down, 0x4000 left, 0x8000 up, 0xC000 right.
    pub direction: u16,
    /// The button that plays it, 0 for none.
    pub trigger_button: u16,
    /// Milliseconds between two such plays.
    pub trigger_interval: u16,
    /// Milliseconds that it lasts; 0: until it is stopped.
    pub length: u16,
    /// Milliseconds before it starts.
    pub delay: u16,
    /// The force.
    pub kind: EffectKind,
}

impl Effect {
    /// Whether it ends by itself once it was played.
    #[must_use]
    pub const fn ends(&self) -> bool {
        self.length != 0
    }
}

/// What a program on the target does with a device's force feedback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForceChange {
    /// An effect is there, or is another one from now on; it goes on when it is being played.
    Upload(Effect),
    /// An effect is gone, and is played no more.
    Erase(EffectId),
    /// An effect is played so many times, at most [`MAX_PLAYS`]; 0 stops it.
    Play(EffectId, u32),
    /// The strength of all effects, 0xffff in full.
    Gain(u16),
    /// How strongly the device centres itself, 0 not at all.
    AutoCentre(u16),
}

/// Kinds of records; all from the target.
pub(super) const KIND_UPLOAD: u8 = 20;
pub(super) const KIND_ERASE: u8 = 21;
pub(super) const KIND_PLAY: u8 = 22;
pub(super) const KIND_STRENGTH: u8 = 23;

pub(super) const fn is_force(kind: u8) -> bool {
    matches!(kind, KIND_UPLOAD..=KIND_STRENGTH)
}

impl ForceChange {
    pub(super) const fn record_kind(&self) -> u8 {
        match self {
            Self::Upload(_) => KIND_UPLOAD,
            Self::Erase(_) => KIND_ERASE,
            Self::Play(..) => KIND_PLAY,
            Self::Gain(_) | Self::AutoCentre(_) => KIND_STRENGTH,
        }
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Upload(effect) => put_effect(out, &effect),
            Self::Erase(id) => out.push(id.0),
            Self::Play(id, count) => {
                out.push(id.0);
                put_u32(out, count.min(MAX_PLAYS));
            }
            Self::Gain(value) => {
                put_u16(out, ff::GAIN);
                put_u16(out, value);
            }
            Self::AutoCentre(value) => {
                put_u16(out, ff::AUTOCENTER);
                put_u16(out, value);
            }
        }
    }

    pub(super) fn read(kind: u8, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match kind {
            KIND_UPLOAD => Self::Upload(read_effect(reader)?),
            KIND_ERASE => Self::Erase(read_id(reader)?),
            KIND_PLAY => {
                let id = read_id(reader)?;
                let count = reader.u32()?;
                if count > MAX_PLAYS {
                    return Err(field("count of plays", count.into()));
                }
                Self::Play(id, count)
            }
            KIND_STRENGTH => match reader.u16()? {
                ff::GAIN => Self::Gain(reader.u16()?),
                ff::AUTOCENTER => Self::AutoCentre(reader.u16()?),
                other => return Err(field("force feedback setting", other.into())),
            },
            other => return Err(DecodeError::Kind(other)),
        })
    }
}

const fn field(field: &'static str, value: i64) -> DecodeError {
    DecodeError::Field { field, value }
}

fn read_id(reader: &mut Reader<'_>) -> Result<EffectId, DecodeError> {
    let number = reader.u8()?;
    EffectId::new(number).ok_or(field("effect", number.into()))
}

fn put_effect(out: &mut Vec<u8>, effect: &Effect) {
    out.push(effect.id.0);
    for value in [
        effect.kind.code(),
        effect.direction,
        effect.trigger_button,
        effect.trigger_interval,
        effect.length,
        effect.delay,
    ] {
        put_u16(out, value);
    }
    match effect.kind {
        EffectKind::Rumble { strong, weak } => {
            put_u16(out, strong);
            put_u16(out, weak);
        }
        EffectKind::Constant { level, envelope } => {
            put_i16(out, level);
            put_envelope(out, envelope);
        }
        EffectKind::Ramp {
            start,
            end,
            envelope,
        } => {
            put_i16(out, start);
            put_i16(out, end);
            put_envelope(out, envelope);
        }
        EffectKind::Periodic {
            waveform,
            period,
            magnitude,
            offset,
            phase,
            envelope,
        } => {
            put_u16(out, waveform.code());
            put_u16(out, period);
            put_i16(out, magnitude);
            put_i16(out, offset);
            put_u16(out, phase);
            put_envelope(out, envelope);
        }
        EffectKind::Resistance(_, axes) => axes.into_iter().for_each(|axis| {
            put_u16(out, axis.right_saturation);
            put_u16(out, axis.left_saturation);
            put_i16(out, axis.right_coefficient);
            put_i16(out, axis.left_coefficient);
            put_u16(out, axis.dead_band);
            put_i16(out, axis.centre);
        }),
    }
}

fn put_envelope(out: &mut Vec<u8>, envelope: Envelope) {
    for value in [
        envelope.attack_length,
        envelope.attack_level,
        envelope.fade_length,
        envelope.fade_level,
    ] {
        put_u16(out, value);
    }
}

fn read_effect(reader: &mut Reader<'_>) -> Result<Effect, DecodeError> {
    let id = read_id(reader)?;
    let code = reader.u16()?;
    Ok(Effect {
        id,
        direction: reader.u16()?,
        trigger_button: reader.u16()?,
        trigger_interval: reader.u16()?,
        length: reader.u16()?,
        delay: reader.u16()?,
        kind: read_kind(code, reader)?,
    })
}

fn read_kind(code: u16, reader: &mut Reader<'_>) -> Result<EffectKind, DecodeError> {
    Ok(match code {
        ff::RUMBLE => EffectKind::Rumble {
            strong: reader.u16()?,
            weak: reader.u16()?,
        },
        ff::CONSTANT => EffectKind::Constant {
            level: reader.i16()?,
            envelope: read_envelope(reader)?,
        },
        ff::RAMP => EffectKind::Ramp {
            start: reader.i16()?,
            end: reader.i16()?,
            envelope: read_envelope(reader)?,
        },
        ff::PERIODIC => {
            let form = reader.u16()?;
            EffectKind::Periodic {
                waveform: Waveform::from_code(form).ok_or(field("waveform", form.into()))?,
                period: reader.u16()?,
                magnitude: reader.i16()?,
                offset: reader.i16()?,
                phase: reader.u16()?,
                envelope: read_envelope(reader)?,
            }
        }
        other => {
            let kind = Resistance::ALL
                .into_iter()
                .find(|kind| kind.code() == other);
            let kind = kind.ok_or(field("type of an effect", other.into()))?;
            EffectKind::Resistance(kind, [read_condition(reader)?, read_condition(reader)?])
        }
    })
}

fn read_envelope(reader: &mut Reader<'_>) -> Result<Envelope, DecodeError> {
    Ok(Envelope {
        attack_length: reader.u16()?,
        attack_level: reader.u16()?,
        fade_length: reader.u16()?,
        fade_level: reader.u16()?,
    })
}

fn read_condition(reader: &mut Reader<'_>) -> Result<Condition, DecodeError> {
    Ok(Condition {
        right_saturation: reader.u16()?,
        left_saturation: reader.u16()?,
        right_coefficient: reader.i16()?,
        left_coefficient: reader.i16()?,
        dead_band: reader.u16()?,
        centre: reader.i16()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_device_only_what_is_passed_on_is_announced() {
        let passed = ForceAbilities::passed(40, [ff::SINE, 0x5d, ff::GAIN, ff::RUMBLE, 0x7f]);
        let passed = passed.expect("it rumbles");
        assert_eq!(passed.effects, MAX_EFFECTS);
        assert_eq!(passed.codes, [ff::RUMBLE, ff::SINE, ff::GAIN]);
        assert_eq!(ForceAbilities::passed(0, [ff::RUMBLE]), None);
        assert_eq!(ForceAbilities::passed(4, [ff::GAIN, ff::SINE]), None);
    }
}
