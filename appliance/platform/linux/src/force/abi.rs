//! `struct ff_effect` and what it means.

use std::mem::offset_of;
use std::os::raw::c_void;

use soft_kvm_protocol::input::codes::ff;
use soft_kvm_protocol::input::force::{Condition, Envelope, Resistance, Waveform};
use soft_kvm_protocol::input::{Effect, EffectId, EffectKind};

/// `struct ff_effect`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct RawEffect {
    kind: u16,
    pub(super) id: i16,
    direction: u16,
    button: u16,
    interval: u16,
    length: u16,
    delay: u16,
    force: RawForce,
}

/// The union of `struct ff_effect` as words of 16 bits: every member is made of such, but for data of a program's own.
#[derive(Clone, Copy)]
#[repr(C)]
union RawForce {
    words: [u16; WORDS],
    /// As in `struct ff_periodic_effect`, for the size and the alignment.
    _periodic: RawPeriodic,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct RawPeriodic {
    _words: [u16; 9],
    _count: u32,
    _data: *mut c_void,
}

/// Words of two `struct ff_condition_effect`, the longest member.
const WORDS: usize = 12;

impl RawEffect {
    pub(super) const EMPTY: Self = Self {
        kind: 0,
        id: -1,
        direction: 0,
        button: 0,
        interval: 0,
        length: 0,
        delay: 0,
        force: RawForce {
            _periodic: RawPeriodic {
                _words: [0; 9],
                _count: 0,
                _data: std::ptr::null_mut(),
            },
        },
    };

    /// As the kernel wants it for an effect that it keeps under `id`; -1: a new one.
    pub(super) fn new(effect: &Effect, id: i16) -> Self {
        let mut raw = Self {
            kind: effect.kind.code(),
            id,
            direction: effect.direction,
            button: effect.trigger_button,
            interval: effect.trigger_interval,
            length: effect.length,
            delay: effect.delay,
            ..Self::EMPTY
        };
        let mut words = Words([0; WORDS], 0);
        match effect.kind {
            EffectKind::Rumble { strong, weak } => words.put([strong, weak]),
            EffectKind::Constant { level, envelope } => {
                words.put([unsigned(level)]);
                words.put_envelope(envelope);
            }
            EffectKind::Ramp {
                start,
                end,
                envelope,
            } => {
                words.put([start, end].map(unsigned));
                words.put_envelope(envelope);
            }
            EffectKind::Periodic {
                waveform,
                period,
                magnitude,
                offset,
                phase,
                envelope,
            } => {
                words.put([waveform.code(), period]);
                words.put([magnitude, offset].map(unsigned));
                words.put([phase]);
                words.put_envelope(envelope);
            }
            EffectKind::Resistance(_, axes) => {
                for axis in axes {
                    words.put([axis.right_saturation, axis.left_saturation]);
                    words.put([axis.right_coefficient, axis.left_coefficient].map(unsigned));
                    words.put([axis.dead_band, unsigned(axis.centre)]);
                }
            }
        }
        // The address of a program's own data, behind the words, stays 0. Its count lies in the last two words, which only
        // resistances have, for which the kernel reads no count.
        raw.force.words = words.0;
        raw
    }

    /// What it means; none for what is not passed on.
    pub(super) fn read(&self) -> Option<Effect> {
        let id = EffectId::new(u8::try_from(self.id).ok()?)?;
        // SAFETY: all bytes of the words are written wherever such an effect is made: by the kernel, which copies the whole
        // structure, or by `EMPTY` and `new`. Integers have no invalid values.
        let words = unsafe { self.force.words };
        let [a, b, c, d, e, ..] = words;
        let kind = match self.kind {
            ff::RUMBLE => EffectKind::Rumble { strong: a, weak: b },
            ff::CONSTANT => EffectKind::Constant {
                level: signed(a),
                envelope: envelope(&words, 1),
            },
            ff::RAMP => EffectKind::Ramp {
                start: signed(a),
                end: signed(b),
                envelope: envelope(&words, 2),
            },
            ff::PERIODIC => EffectKind::Periodic {
                waveform: Waveform::from_code(a)?,
                period: b,
                magnitude: signed(c),
                offset: signed(d),
                phase: e,
                envelope: envelope(&words, 5),
            },
            other => {
                let mut kinds = Resistance::ALL.into_iter();
                let kind = kinds.find(|kind| kind.code() == other)?;
                EffectKind::Resistance(kind, [condition(&words, 0), condition(&words, 6)])
            }
        };
        Some(Effect {
            id,
            direction: self.direction,
            trigger_button: self.button,
            trigger_interval: self.interval,
            length: self.length,
            delay: self.delay,
            kind,
        })
    }
}

struct Words([u16; WORDS], usize);

impl Words {
    fn put<const N: usize>(&mut self, values: [u16; N]) {
        for (place, value) in self.0.iter_mut().skip(self.1).zip(values) {
            *place = value;
        }
        self.1 += N;
    }

    fn put_envelope(&mut self, envelope: Envelope) {
        self.put([
            envelope.attack_length,
            envelope.attack_level,
            envelope.fade_length,
            envelope.fade_level,
        ]);
    }
}

fn word(words: &[u16; WORDS], at: usize) -> u16 {
    words.get(at).copied().unwrap_or(0)
}

fn envelope(words: &[u16; WORDS], at: usize) -> Envelope {
    Envelope {
        attack_length: word(words, at),
        attack_level: word(words, at + 1),
        fade_length: word(words, at + 2),
        fade_level: word(words, at + 3),
    }
}

fn condition(words: &[u16; WORDS], at: usize) -> Condition {
    Condition {
        right_saturation: word(words, at),
        left_saturation: word(words, at + 1),
        right_coefficient: signed(word(words, at + 2)),
        left_coefficient: signed(word(words, at + 3)),
        dead_band: word(words, at + 4),
        centre: signed(word(words, at + 5)),
    }
}

const fn signed(value: u16) -> i16 {
    i16::from_ne_bytes(value.to_ne_bytes())
}

const fn unsigned(value: i16) -> u16 {
    u16::from_ne_bytes(value.to_ne_bytes())
}

// The places of linux/input.h: the union is aligned as a pointer is.
const _: () = {
    assert!(offset_of!(RawEffect, id) == 2 && offset_of!(RawEffect, direction) == 4);
    assert!(offset_of!(RawEffect, button) == 6 && offset_of!(RawEffect, length) == 10);
    assert!(offset_of!(RawEffect, force) == 16);
    assert!(size_of::<RawForce>() == 24 + size_of::<usize>());
};

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(kind: EffectKind) -> Effect {
        Effect {
            id: EffectId::new(3).expect("below 16"),
            direction: 0x4000,
            trigger_button: 0x130,
            trigger_interval: 70,
            length: 500,
            delay: 20,
            kind,
        }
    }

    /// That they are where others look for them is the lab test `force-feedback`.
    #[test]
    fn effects_mean_what_they_were_made_of() {
        let envelope = Envelope {
            attack_length: 1,
            attack_level: 2,
            fade_length: 3,
            fade_level: 4,
        };
        let condition = |number| Condition {
            right_saturation: number,
            left_saturation: number + 1,
            right_coefficient: -3,
            left_coefficient: 4,
            dead_band: number + 4,
            centre: -6,
        };
        let kinds = [
            EffectKind::Rumble {
                strong: 0xc000,
                weak: 0x1234,
            },
            EffectKind::Constant {
                level: -0x7fff,
                envelope,
            },
            EffectKind::Ramp {
                start: -5,
                end: 0x7fff,
                envelope,
            },
            EffectKind::Periodic {
                waveform: Waveform::Sine,
                period: 100,
                magnitude: 0x4000,
                offset: -7,
                phase: 90,
                envelope,
            },
            EffectKind::Resistance(Resistance::Spring, [condition(10), condition(20)]),
            EffectKind::Resistance(Resistance::Damper, [condition(30), condition(40)]),
        ];
        for kind in kinds {
            let effect = sample(kind);
            assert_eq!(RawEffect::new(&effect, 3).read(), Some(effect));
        }
    }

    #[test]
    fn what_is_not_passed_on_means_nothing() {
        let rumble = sample(EffectKind::Rumble { strong: 1, weak: 2 });
        for id in [-1, 16] {
            assert_eq!(RawEffect::new(&rumble, id).read(), None);
        }
        let mut other = RawEffect::new(&rumble, 0);
        other.kind = 0x5f;
        assert_eq!(other.read(), None);
    }
}
