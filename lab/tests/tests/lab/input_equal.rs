//! One recorded device of each class: its twin on the target is the same device and reports the same, for the kernel
//! and for libinput.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use soft_kvm_lab_tests::guest::{self, Namespace, Process};
use soft_kvm_platform::os::evdev::{self, FoundDevice};
use soft_kvm_protocol::input::{AbsoluteAxis, DeviceDescriptor, DeviceId};

use crate::input::{self, Event, Hardware, Reader};
use crate::keyboard::{SMALL, await_grabs};
use crate::kvm::{self, Client, Host, SOON, Seat, Server, TARGET};
use crate::recording::{self, Recording};

/// How much faster than recorded.
const HASTE: u32 = 4;

/// All recorded devices, taken by a client whose server is on the same kernel.
pub(crate) struct Scene {
    devices: Vec<Device>,
    pub(crate) client: Client,
    server: Server,
    _hosts: (Namespace, Namespace),
}

pub(crate) struct Device {
    class: String,
    pub(crate) recording: Recording,
    pub(crate) hardware: Hardware,
    pub(crate) twin: PathBuf,
}

impl Scene {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let mut plugged = Vec::new();
        for (class, recording) in recording::all()? {
            let hardware = Hardware::plugged(recording.plug()?, &recording.device.name)?;
            plugged.push((class, recording, hardware));
        }
        let hosts = kvm::two_hosts()?;
        let server = Server::start(Host::Namespace(&hosts.0), SMALL)?;
        let seat = Seat::new(Host::Namespace(&hosts.1))?;
        seat.pair(TARGET, server.code()?)?;
        let mut client = seat.connect(TARGET, &["--grab", "all"])?;
        await_grabs(&mut client, plugged.len())?;
        let mut devices = Vec::new();
        for (class, recording, hardware) in plugged {
            let twin = input::twin(&recording.device.name)?;
            devices.push(Device {
                class,
                recording,
                hardware,
                twin,
            });
        }
        Ok(Self {
            devices,
            client,
            server,
            _hosts: hosts,
        })
    }

    pub(crate) fn device(&self, class: &str) -> anyhow::Result<&Device> {
        let mut devices = self.devices.iter();
        devices
            .find(|device| device.class == class)
            .with_context(|| format!("no recording {class}"))
    }

    pub(crate) fn end(self) -> anyhow::Result<()> {
        self.client.stop()?;
        self.server.stop().map(drop)
    }
}

impl Device {
    /// Moves it as it was moved when it was recorded, [`HASTE`] times faster.
    fn replay(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        for (time, report) in &self.recording.reports {
            std::thread::sleep((*time / HASTE).saturating_sub(start.elapsed()));
            self.hardware.report(report)?;
        }
        Ok(())
    }
}

/// Each device's twin has its ids, name, properties, codes, ranges and lamps, and reports event for event the same.
pub(crate) fn events() -> anyhow::Result<()> {
    let scene = Scene::new()?;
    let found: Vec<FoundDevice> = evdev::list().into_iter().collect::<Result<_, _>>()?;
    for device in &scene.devices {
        let twin = found.iter().find(|found| found.path == device.twin);
        let twin = twin.context("the twin is not listed")?;
        ensure!(twin.ours, "{} is not marked as ours", device.class);
        let wanted = expected(&device.recording.device);
        let got = DeviceDescriptor {
            id: wanted.id,
            ..twin.descriptor.clone()
        };
        ensure!(
            got == wanted,
            "{}:\n{got:?}\nis not\n{wanted:?}",
            device.class
        );
    }
    let readers: Vec<_> = scene
        .devices
        .iter()
        .map(|device| Reader::start(&device.twin))
        .collect::<Result<_, _>>()?;
    // All at once, as hands do.
    std::thread::scope(|scope| {
        let players: Vec<_> = scene
            .devices
            .iter()
            .map(|device| scope.spawn(|| device.replay()))
            .collect();
        players.into_iter().try_for_each(|player| {
            player
                .join()
                .map_err(|_| anyhow::anyhow!("a player panicked"))?
        })
    })?;
    for (device, reader) in scene.devices.iter().zip(&readers) {
        let wanted: Vec<_> = device
            .recording
            .reports
            .iter()
            .map(|(_, report)| report.clone())
            .collect();
        equal(reader, &wanted).with_context(|| device.class.clone())?;
        ensure!(input::down(&reader.events()).is_empty(), "left down");
        guest::log(format!("{}: {} reports", device.class, wanted.len()));
    }
    scene.end()
}

/// A twin has no `fuzz`: the operator's kernel has filtered the noise.
fn expected(recorded: &DeviceDescriptor) -> DeviceDescriptor {
    let absolute = recorded.absolute.iter();
    DeviceDescriptor {
        id: DeviceId(0),
        absolute: absolute
            .map(|axis| AbsoluteAxis { fuzz: 0, ..*axis })
            .collect(),
        ..recorded.clone()
    }
}

/// Event for event, but that a sender that is behind may have added up motion that follows on motion.
fn equal(reader: &Reader, wanted: &[Vec<Event>]) -> anyhow::Result<()> {
    let wanted = merged(wanted.to_vec());
    guest::wait_for("all events", SOON, || {
        (merged(reader.reports()).len() >= wanted.len()).then_some(())
    })
    .or_else(|error| differ(reader, &wanted).and(Err(error)))?;
    std::thread::sleep(Duration::from_millis(50));
    differ(reader, &wanted)
}

fn differ(reader: &Reader, wanted: &[Vec<Event>]) -> anyhow::Result<()> {
    let got = merged(reader.reports());
    let place =
        (0..got.len().max(wanted.len())).find(|place| got.get(*place) != wanted.get(*place));
    if let Some(place) = place {
        let (got, wanted) = (got.get(place), wanted.get(place));
        anyhow::bail!("report {place} is {got:?}, not {wanted:?}");
    }
    Ok(())
}

/// Adds up reports of nothing but relative motion that follow on each other.
fn merged(reports: Vec<Vec<Event>>) -> Vec<Vec<Event>> {
    let only_motion = |report: &[Event]| {
        !report.is_empty() && report.iter().all(|event| event.as_motion().is_some())
    };
    let mut merged: Vec<Vec<Event>> = Vec::new();
    for report in reports {
        match merged
            .last_mut()
            .filter(|last| only_motion(last) && only_motion(&report))
        {
            Some(last) => {
                let mut sums: BTreeMap<u16, i32> = BTreeMap::new();
                let steps = last
                    .iter()
                    .chain(&report)
                    .filter_map(|event| event.as_motion());
                for (axis, step) in steps {
                    *sums.entry(axis).or_default() += step;
                }
                let steps = sums
                    .into_iter()
                    .map(|(axis, step)| Event::motion(axis, step));
                *last = steps.collect();
            }
            None => merged.push(report),
        }
    }
    merged
}

/// Kinds that `libinput list-devices` gives each class; libinput has none for joysticks, which udev tells.
const CAPABILITIES: &[(&str, &[&str])] = &[
    ("keyboard", &["keyboard"]),
    ("media-keys", &["keyboard", "pointer"]),
    ("mouse", &["pointer"]),
    ("pen", &["tablet"]),
    ("touchpad", &["pointer", "gesture"]),
    ("touchscreen", &["touch"]),
];

/// What `libinput debug-events` has to see of each class.
const SEEN: &[(&str, &[&str])] = &[
    ("keyboard", &["KEYBOARD_KEY"]),
    ("media-keys", &["KEYBOARD_KEY"]),
    (
        "mouse",
        &["POINTER_MOTION", "POINTER_BUTTON", "POINTER_SCROLL_WHEEL"],
    ),
    (
        "pen",
        &[
            "TABLET_TOOL_PROXIMITY",
            "TABLET_TOOL_TIP",
            "TABLET_TOOL_AXIS",
            "TABLET_TOOL_BUTTON",
        ],
    ),
    (
        "touchpad",
        &[
            "POINTER_MOTION",
            "POINTER_SCROLL_FINGER",
            "GESTURE_SWIPE_BEGIN",
            "POINTER_BUTTON",
        ],
    ),
    ("touchscreen", &["TOUCH_DOWN", "TOUCH_MOTION", "TOUCH_UP"]),
];

/// libinput on the target takes each twin for what the device itself is, and hears its keys, pointer, touches and pen.
pub(crate) fn libinput() -> anyhow::Result<()> {
    let scene = Scene::new()?;
    let settled = || guest::run(Command::new("udevadm").arg("settle"));
    settled()?;
    let listed = guest::run(Command::new("libinput").arg("list-devices"))?;
    for (class, kinds) in CAPABILITIES {
        let device = scene.device(class)?;
        let original = described(&listed, device.hardware.node())?;
        let twin = described(&listed, &device.twin)?;
        ensure!(
            twin == original,
            "{class}:\n{twin:#?}\nis not\n{original:#?}"
        );
        let given = twin.get("Capabilities").context("no capabilities")?;
        ensure!(
            given.split_whitespace().eq(kinds.iter().copied()),
            "{class} has {given}"
        );
    }

    for device in &scene.devices {
        let (original, twin) = (classes(device.hardware.node())?, classes(&device.twin)?);
        let class = &device.class;
        ensure!(
            twin == original,
            "{class}: udev has {twin:?}, not {original:?}"
        );
        let plays = twin.iter().any(|line| line == "ID_INPUT_JOYSTICK=1");
        let is_joystick = ["gamepad", "joystick", "wheel"].contains(&class.as_str());
        ensure!(plays == is_joystick, "{class}: {twin:?}");
    }

    let mut watcher = Process::start(
        "libinput",
        Command::new("libinput").args(["debug-events", "--show-keycodes"]),
    )?;
    for (class, _) in SEEN {
        watcher.wait_line(&node_name(&scene.device(class)?.twin), SOON)?;
    }
    scene.devices.iter().try_for_each(Device::replay)?;
    // Ends a swipe, which libinput waits for.
    std::thread::sleep(Duration::from_millis(500));
    watcher.send_signal("INT")?;
    watcher.wait(SOON)?;
    let seen = watcher.output();
    for (class, kinds) in SEEN {
        let node = node_name(&scene.device(class)?.twin);
        for kind in *kinds {
            let mut lines = seen.lines();
            let is_seen = lines.any(|line| {
                let mut words = line.trim_start_matches(['-', ' ']).split_whitespace();
                words.next() == Some(node.as_str()) && words.next() == Some(kind)
            });
            ensure!(is_seen, "no {kind} of the {class} ({node}) in\n{seen}");
        }
    }
    scene.end()
}

/// What udev's `input_id` says of a node.
fn classes(node: &Path) -> anyhow::Result<Vec<String>> {
    let mut ask = Command::new("udevadm");
    let told = guest::run(ask.args(["info", "--query=property"]).arg(node))?;
    let lines = told.lines().filter(|line| line.starts_with("ID_INPUT"));
    Ok(lines.map(str::to_owned).collect())
}

fn node_name(node: &Path) -> String {
    node.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// What `libinput list-devices` says of a node, but which node it is.
fn described<'a>(listed: &'a str, node: &Path) -> anyhow::Result<BTreeMap<&'a str, &'a str>> {
    let blocks = listed.split("\n\n").map(|block| {
        let lines = block.lines().filter_map(|line| line.split_once(':'));
        lines
            .map(|(key, value)| (key.trim(), value.trim()))
            .collect::<BTreeMap<_, _>>()
    });
    let mut found = blocks
        .into_iter()
        .find(|block| {
            block
                .get("Kernel")
                .is_some_and(|kernel| Path::new(kernel) == node)
        })
        .with_context(|| format!("{} is not in\n{listed}", node.display()))?;
    for place in ["Kernel", "Group"] {
        found.remove(place);
    }
    Ok(found)
}
