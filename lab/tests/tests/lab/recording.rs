//! Recordings of input devices in the text form of evemu 1.3 (evemu's `README.md`, "Device description"), under
//! `fixtures/input`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use evdevil::event::{Abs, EventType, Key, Led, Misc, Rel, Switch};
use evdevil::uinput::{AbsSetup, UinputDevice};
use evdevil::{AbsInfo, Bus, InputId, InputProp};
use soft_kvm_protocol::input::device::{self, DeviceVersion, Product, Vendor};
use soft_kvm_protocol::input::{AbsoluteAxis, DeviceDescriptor, KeyCode, Repeat};

use crate::input::Event;

/// What the kernel sets for a device that repeats by itself.
const KERNEL_REPEAT: Repeat = Repeat {
    delay_ms: 250,
    period_ms: 33,
};

/// A device and what it reported.
#[derive(Debug)]
pub(crate) struct Recording {
    /// What it can do; its id is 0.
    pub(crate) device: DeviceDescriptor,
    /// Each report without its `SYN_REPORT`, and the time since the start.
    pub(crate) reports: Vec<(Duration, Vec<Event>)>,
}

/// All recordings, by the name of their file.
pub(crate) fn all() -> anyhow::Result<Vec<(String, Recording)>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/input");
    let mut all = Vec::new();
    for entry in folder
        .read_dir()
        .with_context(|| format!("reading {}", folder.display()))?
    {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "evemu") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let text = std::fs::read_to_string(&path)?;
            let recording =
                Recording::parse(&text).with_context(|| format!("reading {}", path.display()))?;
            all.push((name.into_owned(), recording));
        }
    }
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(all)
}

impl Recording {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut device = DeviceDescriptor::default();
        let (mut bits, mut properties) = (BTreeMap::<u16, Vec<u8>>::new(), Vec::new());
        let (mut reports, mut report) = (Vec::new(), Vec::new());
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let Some((tag, rest)) = line.split_once(':') else {
                continue;
            };
            let words: Vec<_> = rest.split_whitespace().collect();
            let mut take = || -> anyhow::Result<()> {
                match tag {
                    "N" => rest.trim().clone_into(&mut device.name),
                    "I" => {
                        (device.bus, device.vendor, device.product, device.version) = ids(&words)?
                    }
                    "P" => properties.extend(bytes(&words)?),
                    "B" => {
                        let (kind, mask) = words.split_first().context("no event type")?;
                        bits.entry(hex(kind)?).or_default().extend(bytes(mask)?);
                    }
                    "A" => device.absolute.push(axis(&words)?),
                    "E" => {
                        let (time, event) = event(&words)?;
                        if event.is_end() {
                            reports.push((time, std::mem::take(&mut report)));
                        } else {
                            report.push(event);
                        }
                    }
                    _ => bail!("unknown tag {tag}"),
                }
                Ok(())
            };
            take().with_context(|| format!("line {}", index + 1))?;
        }
        let set = |kind: EventType| codes(bits.get(&kind.raw()).map_or(&[][..], Vec::as_slice));
        device.properties = codes(&properties);
        device.keys = set(EventType::KEY).into_iter().map(KeyCode).collect();
        device.relative = set(EventType::REL);
        device.misc = set(EventType::MSC);
        device.switches = set(EventType::SW);
        device.leds = set(EventType::LED);
        device.repeat = (!set(EventType::REP).is_empty()).then_some(KERNEL_REPEAT);
        device.absolute.sort_by_key(|axis| axis.code);
        let axes: Vec<_> = device.absolute.iter().map(|axis| axis.code).collect();
        ensure!(axes == set(EventType::ABS), "not each axis has its range");
        ensure!(!device.name.is_empty() && !reports.is_empty(), "no device");
        ensure!(report.is_empty(), "the last report has no end");
        Ok(Self { device, reports })
    }

    /// The device that was recorded, as the kernel makes it.
    pub(crate) fn plug(&self) -> anyhow::Result<UinputDevice> {
        let device = &self.device;
        let id = InputId::new(
            Bus::from_raw(device.bus.0),
            device.vendor.0,
            device.product.0,
            device.version.0,
        );
        let properties = device.properties.iter().map(|code| u8::try_from(*code));
        let properties: Vec<_> = properties.collect::<Result<_, _>>()?;
        let mut builder = UinputDevice::builder()?
            .with_input_id(id)?
            .with_props(properties.into_iter().map(InputProp::from_raw))?;
        // An empty list would announce its event type.
        if !device.keys.is_empty() {
            builder = builder.with_keys(device.keys.iter().map(|key| Key::from_raw(key.0)))?;
        }
        if !device.relative.is_empty() {
            let axes = device.relative.iter().map(|code| Rel::from_raw(*code));
            builder = builder.with_rel_axes(axes)?;
        }
        if !device.absolute.is_empty() {
            builder = builder.with_abs_axes(device.absolute.iter().map(setup))?;
        }
        if !device.misc.is_empty() {
            builder = builder.with_misc(device.misc.iter().map(|code| Misc::from_raw(*code)))?;
        }
        if !device.switches.is_empty() {
            let switches = device.switches.iter().map(|code| Switch::from_raw(*code));
            builder = builder.with_switches(switches)?;
        }
        if !device.leds.is_empty() {
            builder = builder.with_leds(device.leds.iter().map(|code| Led::from_raw(*code)))?;
        }
        if device.repeat.is_some() {
            builder = builder.with_key_repeat()?;
        }
        Ok(builder.build(&device.name)?)
    }
}

fn setup(axis: &AbsoluteAxis) -> AbsSetup {
    let info = AbsInfo::new(axis.minimum, axis.maximum)
        .with_fuzz(axis.fuzz)
        .with_flat(axis.flat)
        .with_resolution(axis.resolution);
    AbsSetup::new(Abs::from_raw(axis.code), info)
}

/// `bus vendor product version`, hexadecimal.
fn ids(words: &[&str]) -> anyhow::Result<(device::Bus, Vendor, Product, DeviceVersion)> {
    let [bus, vendor, product, version] = words else {
        bail!("not four ids");
    };
    Ok((
        device::Bus(hex(bus)?),
        Vendor(hex(vendor)?),
        Product(hex(product)?),
        DeviceVersion(hex(version)?),
    ))
}

/// `code minimum maximum fuzz flat resolution`, the code hexadecimal.
fn axis(words: &[&str]) -> anyhow::Result<AbsoluteAxis> {
    let (code, numbers) = words.split_first().context("no axis")?;
    let numbers: Vec<i32> = numbers
        .iter()
        .map(|word| word.parse())
        .collect::<Result<_, _>>()?;
    let [minimum, maximum, fuzz, flat, resolution] = numbers[..] else {
        bail!("not five numbers");
    };
    Ok(AbsoluteAxis {
        code: hex(code)?,
        minimum,
        maximum,
        fuzz,
        flat,
        resolution,
    })
}

/// `seconds.microseconds type code value`, type and code hexadecimal.
fn event(words: &[&str]) -> anyhow::Result<(Duration, Event)> {
    let [time, kind, code, value] = words else {
        bail!("not four words");
    };
    let (seconds, micros) = time.split_once('.').context("no time")?;
    let time = Duration::from_secs(seconds.parse()?) + Duration::from_micros(micros.parse()?);
    let event = Event::new(EventType::from_raw(hex(kind)?), hex(code)?, value.parse()?);
    Ok((time, event))
}

fn hex(word: &str) -> anyhow::Result<u16> {
    u16::from_str_radix(word, 16).with_context(|| format!("{word:?} is no hexadecimal number"))
}

fn bytes(words: &[&str]) -> anyhow::Result<Vec<u8>> {
    let byte = |word: &&str| Ok(u8::try_from(hex(word)?)?);
    words.iter().map(byte).collect()
}

/// The bits that are set, counted from the lowest of the first byte.
fn codes(mask: &[u8]) -> Vec<u16> {
    let bits = mask
        .iter()
        .flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
    (0..)
        .zip(bits)
        .filter(|(_, set)| *set)
        .map(|(code, _)| code)
        .collect()
}
