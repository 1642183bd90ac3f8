//! The messages of `fixtures/input`: each is decoded to what its file says it means, and what it means is encoded to its
//! bytes. The bytes were written by an encoder of their own after `docs/WIRE.md`.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use soft_kvm_core::MonoTime;
use soft_kvm_protocol::input::datagram::{Ack, DatagramWriter, InputDatagram};
use soft_kvm_protocol::input::device::{Bus, DeviceVersion, Product, Vendor};
use soft_kvm_protocol::input::force::{Condition, Envelope, Resistance, Waveform};
use soft_kvm_protocol::input::{
    AbsoluteAxis, DeviceDescriptor, DeviceId, Effect, EffectId, EffectKind, EventType,
    ForceAbilities, ForceChange, HeldKeys, InputEvent, KeyCode, LedState, MessageKind, Record,
    Repeat, message_kind,
};

#[test]
fn every_vector_in_both_directions() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/input");
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).expect("the folder of the vectors") {
        let path = entry.expect("a file").path();
        let text = std::fs::read_to_string(&path).expect("a vector");
        let vector: Value = serde_json::from_str(&text).expect("JSON");
        let bytes = from_hex(vector["hex"].as_str().expect("hex"));
        let meaning = &vector["message"];
        assert_eq!(&decode(&bytes), meaning, "{}", path.display());
        assert_eq!(encode(meaning), bytes, "{}", path.display());
        // What is left of a device without its force feedback is a device that has none.
        let mut without = meaning.clone();
        without.as_object_mut().expect("an object").remove("force");
        let whole = (meaning["kind"] == "device_added").then(|| encode(&without).len());
        for cut in 0..bytes.len() {
            let parses = parses(&bytes[..cut]);
            assert_eq!(
                parses,
                whole == Some(cut),
                "{} cut at {cut}",
                path.display()
            );
        }
        let mut other = bytes.clone();
        other[0] = 2;
        assert!(!parses(&other), "{} of another version", path.display());
        count += 1;
    }
    assert!(count >= 20, "only {count} vectors");
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text
        .chars()
        .map(|digit| digit.to_digit(16).expect("a digit"))
        .collect();
    assert_eq!(digits.len() % 2, 0, "half a byte");
    let byte = |pair: &[u32]| u8::try_from(pair[0] * 16 + pair[1]).expect("two digits");
    digits.chunks(2).map(byte).collect()
}

fn parses(bytes: &[u8]) -> bool {
    InputDatagram::parse(bytes).is_ok() || Ack::parse(bytes).is_ok() || Record::parse(bytes).is_ok()
}

fn decode(bytes: &[u8]) -> Value {
    match message_kind(bytes).expect("a kind") {
        MessageKind::Input => decode_input(bytes),
        MessageKind::Ack => {
            let ack = Ack::parse(bytes).expect("an acknowledgement");
            json!({
                "kind": "acknowledgement", "epoch": ack.epoch, "next": ack.next,
                "echo_ns": ack.echo.as_nanos(), "received_ns": ack.received.as_nanos(),
                "applied_ns": ack.applied.as_nanos(),
                "held_us": u64::try_from(ack.held.as_micros()).expect("32 bits"),
                "leds_known": ack.leds_known, "leds_lit": ack.leds_lit,
            })
        }
        _ => decode_record(&Record::parse(bytes).expect("a record")),
    }
}

fn decode_input(bytes: &[u8]) -> Value {
    let datagram = InputDatagram::parse(bytes).expect("an input datagram");
    let mut held = HeldKeys::new();
    let held = datagram.snapshot(&mut held).then(|| {
        let keys: Vec<_> = held.iter().collect();
        keys.chunk_by(|left, right| left.0 == right.0)
            .map(|group| {
                let codes: Vec<_> = group.iter().map(|(_, key)| key.0).collect();
                json!({"device": group[0].0.0, "keys": codes})
            })
            .collect::<Vec<_>>()
    });
    let mut reports = Vec::new();
    datagram.for_each_report(&mut Vec::new(), |_, report| {
        let events: Vec<_> = report
            .events
            .iter()
            .map(|event| json!([event.kind.0, event.code, event.value]))
            .collect();
        let age = datagram.sent.since(report.time).as_micros();
        reports.push(json!({
            "device": report.device.0, "age_us": u64::try_from(age).expect("32 bits"),
            "unfinished": report.unfinished, "events": events,
        }));
    });
    json!({
        "kind": "input", "epoch": datagram.epoch, "first": datagram.first,
        "sent_ns": datagram.sent.as_nanos(), "held_before": held, "reports": reports,
    })
}

fn decode_record(record: &Record) -> Value {
    match record {
        Record::DeviceAdd(device) => {
            let axes: Vec<_> = device
                .absolute
                .iter()
                .map(|axis| {
                    json!({
                        "code": axis.code, "minimum": axis.minimum, "maximum": axis.maximum,
                        "fuzz": axis.fuzz, "flat": axis.flat, "resolution": axis.resolution,
                    })
                })
                .collect();
            let repeat = device
                .repeat
                .map(|repeat| json!({"delay_ms": repeat.delay_ms, "period_ms": repeat.period_ms}));
            let mut added = json!({
                "kind": "device_added", "id": device.id.0, "bus": device.bus.0,
                "vendor": device.vendor.0, "product": device.product.0,
                "version": device.version.0, "name": device.name,
                "keys": device.keys.iter().map(|key| key.0).collect::<Vec<_>>(),
                "relative": device.relative, "absolute": axes, "misc": device.misc,
                "switches": device.switches, "leds": device.leds,
                "properties": device.properties, "repeat": repeat,
            });
            if let Some(force) = &device.force {
                added["force"] = json!({"effects": force.effects, "codes": force.codes});
            }
            added
        }
        Record::DeviceRemove(id) => json!({"kind": "device_removed", "id": id.0}),
        Record::Leds(id, leds) => {
            json!({"kind": "leds", "id": id.0, "known": leds.known, "lit": leds.lit})
        }
        Record::Repeat(id, repeat) => json!({
            "kind": "repeat", "id": id.0, "delay_ms": repeat.delay_ms, "period_ms": repeat.period_ms,
        }),
        Record::Force(id, change) => decode_force(id.0, change),
        other => panic!("{other:?} has no vector"),
    }
}

fn decode_force(id: u16, change: &ForceChange) -> Value {
    let effect = match change {
        ForceChange::Upload(effect) => effect,
        ForceChange::Erase(effect) => {
            return json!({"kind": "effect_erased", "id": id, "effect": effect.number()});
        }
        ForceChange::Play(effect, count) => {
            return json!({
                "kind": "effect_played", "id": id, "effect": effect.number(), "count": count,
            });
        }
        ForceChange::Gain(value) => {
            return json!({"kind": "force_strength", "id": id, "setting": 0x60, "value": value});
        }
        ForceChange::AutoCentre(value) => {
            return json!({"kind": "force_strength", "id": id, "setting": 0x61, "value": value});
        }
    };
    let envelope = |envelope: Envelope| {
        json!({
            "attack_length": envelope.attack_length, "attack_level": envelope.attack_level,
            "fade_length": envelope.fade_length, "fade_level": envelope.fade_level,
        })
    };
    let force = match effect.kind {
        EffectKind::Rumble { strong, weak } => {
            json!({"type": "rumble", "strong": strong, "weak": weak})
        }
        EffectKind::Constant { level, envelope: e } => {
            json!({"type": "constant", "level": level, "envelope": envelope(e)})
        }
        EffectKind::Ramp {
            start,
            end,
            envelope: e,
        } => json!({"type": "ramp", "start": start, "end": end, "envelope": envelope(e)}),
        EffectKind::Periodic {
            waveform,
            period,
            magnitude,
            offset,
            phase,
            envelope: e,
        } => json!({
            "type": "periodic", "waveform": waveform.code(), "period": period,
            "magnitude": magnitude, "offset": offset, "phase": phase, "envelope": envelope(e),
        }),
        EffectKind::Resistance(kind, axes) => json!({
            "type": kind.code(),
            "axes": axes.map(|axis| json!({
                "right_saturation": axis.right_saturation, "left_saturation": axis.left_saturation,
                "right_coefficient": axis.right_coefficient,
                "left_coefficient": axis.left_coefficient,
                "dead_band": axis.dead_band, "centre": axis.centre,
            })),
        }),
    };
    json!({
        "kind": "effect", "id": id, "effect": effect.id.number(), "direction": effect.direction,
        "trigger_button": effect.trigger_button, "trigger_interval": effect.trigger_interval,
        "length": effect.length, "delay": effect.delay, "force": force,
    })
}

/// A number of any width.
fn number<T: TryFrom<i64>>(value: &Value) -> T {
    let wide = value.as_i64().expect("a number");
    T::try_from(wide).ok().expect("a number in range")
}

fn list<T>(value: &Value, each: impl Fn(&Value) -> T) -> Vec<T> {
    value.as_array().expect("a list").iter().map(each).collect()
}

fn time(value: &Value) -> MonoTime {
    MonoTime::from_nanos(number(value))
}

fn encode(meaning: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    match meaning["kind"].as_str().expect("a kind") {
        "input" => encode_input(meaning, &mut out),
        "acknowledgement" => Ack {
            epoch: number(&meaning["epoch"]),
            next: number(&meaning["next"]),
            echo: time(&meaning["echo_ns"]),
            received: time(&meaning["received_ns"]),
            applied: time(&meaning["applied_ns"]),
            held: Duration::from_micros(number(&meaning["held_us"])),
            leds_known: number(&meaning["leds_known"]),
            leds_lit: number(&meaning["leds_lit"]),
        }
        .encode(&mut out),
        kind => record(kind, meaning).encode(&mut out),
    }
    out
}

fn encode_input(meaning: &Value, out: &mut Vec<u8>) {
    let mut held = HeldKeys::new();
    let snapshot = meaning["held_before"].as_array().map(|groups| {
        for group in groups {
            for key in list(&group["keys"], number) {
                held.press(DeviceId(number(&group["device"])), KeyCode(key));
            }
        }
        &held
    });
    let sent = time(&meaning["sent_ns"]);
    let (epoch, first) = (number(&meaning["epoch"]), number(&meaning["first"]));
    let mut writer = DatagramWriter::begin(out, epoch, first, sent, snapshot);
    for report in meaning["reports"].as_array().expect("reports") {
        let events = list(&report["events"], |event| InputEvent {
            kind: EventType(number(&event[0])),
            code: number(&event[1]),
            value: number(&event[2]),
        });
        let fits = writer.push(
            DeviceId(number(&report["device"])),
            sent - Duration::from_micros(number(&report["age_us"])),
            report["unfinished"].as_bool().expect("a truth value"),
            events.iter(),
        );
        assert!(fits);
    }
}

fn record(kind: &str, meaning: &Value) -> Record {
    let id = DeviceId(number(&meaning["id"]));
    let repeat = |value: &Value| Repeat {
        delay_ms: number(&value["delay_ms"]),
        period_ms: number(&value["period_ms"]),
    };
    match kind {
        "device_added" => Record::DeviceAdd(Box::new(DeviceDescriptor {
            id,
            name: meaning["name"].as_str().expect("a name").to_owned(),
            bus: Bus(number(&meaning["bus"])),
            vendor: Vendor(number(&meaning["vendor"])),
            product: Product(number(&meaning["product"])),
            version: DeviceVersion(number(&meaning["version"])),
            keys: list(&meaning["keys"], |key| KeyCode(number(key))),
            relative: list(&meaning["relative"], number),
            absolute: list(&meaning["absolute"], |axis| AbsoluteAxis {
                code: number(&axis["code"]),
                minimum: number(&axis["minimum"]),
                maximum: number(&axis["maximum"]),
                fuzz: number(&axis["fuzz"]),
                flat: number(&axis["flat"]),
                resolution: number(&axis["resolution"]),
            }),
            misc: list(&meaning["misc"], number),
            switches: list(&meaning["switches"], number),
            leds: list(&meaning["leds"], number),
            properties: list(&meaning["properties"], number),
            repeat: (!meaning["repeat"].is_null()).then(|| repeat(&meaning["repeat"])),
            force: meaning.get("force").map(|force| ForceAbilities {
                effects: number(&force["effects"]),
                codes: list(&force["codes"], number),
            }),
        })),
        "device_removed" => Record::DeviceRemove(id),
        "leds" => Record::Leds(
            id,
            LedState {
                known: number(&meaning["known"]),
                lit: number(&meaning["lit"]),
            },
        ),
        "repeat" => Record::Repeat(id, repeat(meaning)),
        "effect" => Record::Force(id, ForceChange::Upload(effect(meaning))),
        "effect_erased" => Record::Force(id, ForceChange::Erase(effect_id(meaning))),
        "effect_played" => Record::Force(
            id,
            ForceChange::Play(effect_id(meaning), number(&meaning["count"])),
        ),
        "force_strength" => {
            let value = number(&meaning["value"]);
            let gain = meaning["setting"] == 0x60;
            let change = if gain {
                ForceChange::Gain(value)
            } else {
                ForceChange::AutoCentre(value)
            };
            Record::Force(id, change)
        }
        other => panic!("no record is called {other}"),
    }
}

fn effect_id(meaning: &Value) -> EffectId {
    EffectId::new(number(&meaning["effect"])).expect("below 16")
}

fn effect(meaning: &Value) -> Effect {
    let force = &meaning["force"];
    let envelope = || Envelope {
        attack_length: number(&force["envelope"]["attack_length"]),
        attack_level: number(&force["envelope"]["attack_level"]),
        fade_length: number(&force["envelope"]["fade_length"]),
        fade_level: number(&force["envelope"]["fade_level"]),
    };
    let axis = |index: usize| {
        let axis = &force["axes"][index];
        Condition {
            right_saturation: number(&axis["right_saturation"]),
            left_saturation: number(&axis["left_saturation"]),
            right_coefficient: number(&axis["right_coefficient"]),
            left_coefficient: number(&axis["left_coefficient"]),
            dead_band: number(&axis["dead_band"]),
            centre: number(&axis["centre"]),
        }
    };
    let kind = match force["type"].as_str() {
        Some("rumble") => EffectKind::Rumble {
            strong: number(&force["strong"]),
            weak: number(&force["weak"]),
        },
        Some("constant") => EffectKind::Constant {
            level: number(&force["level"]),
            envelope: envelope(),
        },
        Some("ramp") => EffectKind::Ramp {
            start: number(&force["start"]),
            end: number(&force["end"]),
            envelope: envelope(),
        },
        Some("periodic") => EffectKind::Periodic {
            waveform: Waveform::from_code(number(&force["waveform"])).expect("a waveform"),
            period: number(&force["period"]),
            magnitude: number(&force["magnitude"]),
            offset: number(&force["offset"]),
            phase: number(&force["phase"]),
            envelope: envelope(),
        },
        _ => {
            let mut kinds = Resistance::ALL.into_iter();
            let kind = kinds.find(|kind| force["type"] == kind.code());
            EffectKind::Resistance(kind.expect("a type"), [axis(0), axis(1)])
        }
    };
    Effect {
        id: effect_id(meaning),
        direction: number(&meaning["direction"]),
        trigger_button: number(&meaning["trigger_button"]),
        trigger_interval: number(&meaning["trigger_interval"]),
        length: number(&meaning["length"]),
        delay: number(&meaning["delay"]),
        kind,
    }
}
