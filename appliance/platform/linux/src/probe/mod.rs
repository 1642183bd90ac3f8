//! Which picture sources this machine has, which one is chosen, and why not the others.

mod dongles;

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use soft_kvm_core::story::GpuMode;
use soft_kvm_core::{FrameRate, Size};
use soft_kvm_video::source::{SourceError, VideoSource};

use crate::kms::{self, KmsOptions, KmsSource};
use crate::v4l2::{self, DeviceFacts, DeviceKind, Edid, V4l2Options, V4l2Source};
use crate::x11::{X11Options, X11Source};

pub use dongles::is_hdmi_dongle;

/// A picture source that can be opened, or the test card, which its own crate draws.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "driver", rename_all = "snake_case")]
pub enum Choice {
    /// A V4L2 node.
    V4l2 {
        /// The node.
        device: PathBuf,
    },
    /// A screen of a DRM card.
    Kms {
        /// The card's node.
        device: PathBuf,
        /// Connector, e.g. `HDMI-A-1`; by default the first that shows something.
        connector: Option<String>,
    },
    /// An X display.
    X11 {
        /// Its name, e.g. `:0`; by default the environment's.
        display: Option<String>,
    },
    /// The test card.
    Testcard,
}

/// One device, and what the automatic choice thinks of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// What to open.
    pub choice: Choice,
    /// The device for people: node or display, and the name that it has for itself.
    pub name: String,
    /// Facts of a V4L2 node.
    pub v4l2: Option<DeviceFacts>,
    /// Facts of a DRM card: its driver.
    pub drm_driver: Option<String>,
    /// Connectors of a DRM card that show something.
    pub connectors: Vec<String>,
    /// Whether the automatic choice may take it.
    pub usable: bool,
    /// Whether the automatic choice takes it.
    pub chosen: bool,
    /// Why, or why not and what to do about it.
    pub reason: String,
}

/// All picture sources, in the order of the automatic choice: HDMI inputs, screens, X displays, the test
/// card. Exactly one is chosen.
#[must_use]
pub fn probe() -> Vec<Candidate> {
    let mut found: Vec<_> = nodes("/dev", "video")
        .iter()
        .map(|path| v4l2_node(path))
        .collect();
    found.extend(drm_cards().iter().map(|path| drm_card(path)));
    found.push(x_display());
    found.push(Candidate {
        usable: true,
        reason: "needs no device".to_owned(),
        ..candidate(Choice::Testcard, "test card")
    });
    choose(&mut found);
    found
}

/// What [`probe`] has chosen.
#[must_use]
pub fn chosen(candidates: &[Candidate]) -> Choice {
    let found = candidates.iter().find(|candidate| candidate.chosen);
    found.map_or(Choice::Testcard, |candidate| candidate.choice.clone())
}

/// The V4L2 node to open where the story names none: what `auto` would take before anything else that captures, such as a
/// webcam.
#[must_use]
pub fn first_capture(candidates: &[Candidate]) -> Option<Choice> {
    let captures = |one: &&Candidate| {
        let kind = one.v4l2.as_ref().map(|facts| facts.kind);
        kind == Some(DeviceKind::Capture)
    };
    let usable = candidates.iter().filter(captures).find(|one| one.usable);
    let found = usable.or_else(|| candidates.iter().find(captures));
    found.map(|one| one.choice.clone())
}

/// The DRM card to open where the story names none: the one that has the wanted connector, else one that shows something,
/// else one that could. Many boards have a card for their graphics processor before the one with the connectors.
#[must_use]
pub fn first_card(candidates: &[Candidate], wanted: Option<&str>) -> Option<PathBuf> {
    first_card_by(candidates, wanted, |card| {
        let card = format!("{}-", card.file_name()?.to_str()?);
        let entries = fs::read_dir("/sys/class/drm").ok()?.flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let own = names.filter_map(|name| Some(name.strip_prefix(&card)?.to_owned()));
        Some(own.collect())
    })
}

fn first_card_by(
    candidates: &[Candidate],
    wanted: Option<&str>,
    connectors: impl Fn(&Path) -> Option<Vec<String>>,
) -> Option<PathBuf> {
    let cards = candidates.iter().filter_map(|one| match &one.choice {
        Choice::Kms { device, .. } => {
            let all = connectors(device).unwrap_or_default();
            let has = wanted.is_some_and(|wanted| all.iter().any(|name| name == wanted));
            let shows = !one.connectors.is_empty();
            Some((device, (has, shows, !all.is_empty())))
        }
        _ => None,
    });
    // The first of those that are equally good.
    let best = cards.rev().max_by_key(|(_, merits)| *merits);
    best.map(|(device, _)| device.clone())
}

/// What is wanted of a source, where it can choose.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Size in pixels.
    pub size: Option<Size>,
    /// Frames in a second at most.
    pub rate: FrameRate,
    /// A name of [`Edid::NAMES`](v4l2::Edid::NAMES) or a file, for HDMI inputs.
    pub edid: Option<&'a str>,
    /// Which framebuffers go through a GPU, for screens.
    pub gpu: GpuMode,
}

/// Opens a source.
///
/// # Errors
/// [`SourceError`]; also for [`Choice::Testcard`], which is not a device: `soft_kvm_video` draws it.
pub fn open(choice: &Choice, wanted: &Wanted<'_>) -> Result<Box<dyn VideoSource>, SourceError> {
    let Wanted {
        size,
        rate,
        edid,
        gpu,
    } = *wanted;
    Ok(match choice {
        Choice::V4l2 { device } => Box::new(V4l2Source::open(V4l2Options {
            size,
            rate,
            edid: wanted_edid(device, edid)?,
            ..V4l2Options::new(device)
        })?),
        Choice::Kms { device, connector } => Box::new(KmsSource::open(KmsOptions {
            connector: connector.clone(),
            rate,
            gpu,
            ..KmsOptions::new(device)
        })?),
        Choice::X11 { display } => Box::new(X11Source::open(X11Options {
            display: display.clone(),
            rate,
        })?),
        Choice::Testcard => {
            return Err(SourceError::Unsupported {
                device: "testcard".to_owned(),
                what: "is not a device".to_owned(),
            });
        }
    })
}

fn choose(candidates: &mut [Candidate]) {
    let mut taken: Option<String> = None;
    for candidate in candidates.iter_mut().filter(|candidate| candidate.usable) {
        if let Some(before) = &taken {
            candidate.reason = format!("{}; {before} comes first", candidate.reason);
        } else {
            candidate.chosen = true;
            taken = Some(candidate.name.clone());
        }
    }
}

fn wanted_edid(device: &Path, name: Option<&str>) -> Result<Option<Edid>, SourceError> {
    let loaded = name.map(Edid::load).transpose();
    loaded.map_err(|error| SourceError::Unsupported {
        device: device.display().to_string(),
        what: error.to_string(),
    })
}

fn candidate(choice: Choice, name: &str) -> Candidate {
    Candidate {
        choice,
        name: name.to_owned(),
        v4l2: None,
        drm_driver: None,
        connectors: Vec::new(),
        usable: false,
        chosen: false,
        reason: String::new(),
    }
}

fn v4l2_node(path: &Path) -> Candidate {
    let choice = Choice::V4l2 {
        device: path.to_owned(),
    };
    let own = candidate(choice, &path.display().to_string());
    match v4l2::inspect(path) {
        Err(error) => Candidate {
            reason: error.to_string(),
            ..own
        },
        Ok(facts) => {
            let (usable, reason) = judge(&facts);
            Candidate {
                name: format!("{} ({})", facts.path, facts.card),
                usable,
                reason,
                v4l2: Some(facts),
                ..own
            }
        }
    }
}

/// Whether the automatic choice may take a V4L2 node, and why.
fn judge(facts: &DeviceFacts) -> (bool, String) {
    let known = facts.usb.is_some_and(|id| is_hdmi_dongle(id, &facts.card));
    let (usable, reason) = match facts.kind {
        DeviceKind::Capture if facts.dv_timings => (true, "an HDMI input"),
        DeviceKind::Capture if known => (true, "a known HDMI capture dongle"),
        DeviceKind::Capture => (
            false,
            "may be a webcam: name it in the story if it is an HDMI input",
        ),
        DeviceKind::Output => (false, "takes pictures instead of giving them"),
        DeviceKind::Converter => (false, "converts pictures (memory to memory)"),
        DeviceKind::Metadata => (false, "gives metadata, not pictures"),
        DeviceKind::Other => (false, "does not give pictures"),
    };
    (usable, reason.to_owned())
}

fn drm_card(path: &Path) -> Candidate {
    let choice = Choice::Kms {
        device: path.to_owned(),
        connector: None,
    };
    let own = candidate(choice, &path.display().to_string());
    let (driver, connectors) = match kms::active_connectors(path) {
        Ok(facts) => facts,
        Err(error) => {
            return Candidate {
                reason: error.to_string(),
                ..own
            };
        }
    };
    let name = format!("{} ({driver})", own.name);
    let own = Candidate {
        name,
        drm_driver: Some(driver),
        ..own
    };
    if connectors.is_empty() {
        return Candidate {
            reason: "no screen is on".to_owned(),
            ..own
        };
    }
    // Only a try tells whether the kernel shows us the buffer.
    match KmsSource::open(KmsOptions::new(path)) {
        Ok(source) => {
            let by = source
                .converter()
                .map_or_else(String::new, |gpu| format!(", made linear by {gpu}"));
            Candidate {
                usable: true,
                reason: format!("shows a picture on {}{by}", connectors.join(", ")),
                connectors,
                ..own
            }
        }
        Err(error) => Candidate {
            reason: error.to_string(),
            connectors,
            ..own
        },
    }
}

fn x_display() -> Candidate {
    let display = std::env::var("DISPLAY")
        .ok()
        .filter(|name| !name.is_empty());
    let name = display.as_deref().unwrap_or("X display").to_owned();
    let own = candidate(
        Choice::X11 {
            display: display.clone(),
        },
        &name,
    );
    if display.is_none() {
        return Candidate {
            reason: "DISPLAY is not set".to_owned(),
            ..own
        };
    }
    match X11Source::open(X11Options::new(display)) {
        Ok(_) => Candidate {
            usable: true,
            reason: "an X display".to_owned(),
            ..own
        },
        Err(error) => Candidate {
            reason: error.to_string(),
            ..own
        },
    }
}

/// Nodes of the machine's graphics cards, in the order of their numbers.
pub(crate) fn drm_cards() -> Vec<PathBuf> {
    nodes("/dev/dri", "card")
}

/// The cards that have a connector of this name, whatever is at it.
pub(crate) fn cards_with(connector: &str) -> Vec<PathBuf> {
    let mut cards = drm_cards();
    cards.retain(|card| {
        let name = card.file_name().unwrap_or_default().to_string_lossy();
        let mut folders = fs::read_dir("/sys/class/drm")
            .into_iter()
            .flatten()
            .flatten();
        let wanted = format!("{name}-{connector}");
        folders.any(|folder| folder.file_name() == *wanted)
    });
    cards
}

/// The numbered nodes of a folder, by their numbers.
fn nodes(folder: &str, prefix: &str) -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let number = entry
                .file_name()
                .to_str()?
                .strip_prefix(prefix)?
                .parse()
                .ok()?;
            Some((number, entry.path()))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_with_a_screen_comes_before_one_without() {
        let card = |number: u8, lit: &[&str]| Candidate {
            connectors: lit.iter().map(|name| (*name).to_owned()).collect(),
            ..candidate(
                Choice::Kms {
                    device: format!("/dev/dri/card{number}").into(),
                    connector: None,
                },
                "card",
            )
        };
        let known = |card: &Path| {
            let names: &[&str] = match card.to_str()? {
                "/dev/dri/card0" => &[],
                "/dev/dri/card1" => &["HDMI-A-1"],
                _ => &["DP-1", "DP-2"],
            };
            Some(names.iter().map(|name| (*name).to_owned()).collect())
        };
        let first = |lit: &[&str], wanted| {
            let cards = [card(0, &[]), card(1, &[]), card(2, lit)];
            first_card_by(&cards, wanted, known).expect("there are cards")
        };
        assert_eq!(first(&[], None), Path::new("/dev/dri/card1"), "none is lit");
        assert_eq!(first(&["DP-2"], None), Path::new("/dev/dri/card2"));
        assert_eq!(
            first(&["DP-2"], Some("HDMI-A-1")),
            Path::new("/dev/dri/card1")
        );
        assert_eq!(
            first(&[], Some("DP-1")),
            Path::new("/dev/dri/card2"),
            "dark, but there"
        );
        assert_eq!(
            first_card_by(&[card(0, &[])], None, known),
            Some("/dev/dri/card0".into())
        );
        assert_eq!(first_card(&[], None), None);
    }

    fn facts(kind: DeviceKind, dv_timings: bool, usb: Option<(u16, u16)>) -> DeviceFacts {
        DeviceFacts {
            path: "/dev/video0".to_owned(),
            driver: "uvcvideo".to_owned(),
            card: "USB Video".to_owned(),
            bus: "usb-1".to_owned(),
            kind,
            formats: Vec::new(),
            dv_timings,
            usb,
        }
    }

    #[test]
    fn a_webcam_is_never_chosen() {
        let usable = |facts: &DeviceFacts| judge(facts).0;
        assert!(!usable(&facts(
            DeviceKind::Capture,
            false,
            Some((0x046d, 0x085c))
        )));
        assert!(usable(&facts(
            DeviceKind::Capture,
            false,
            Some((0x534d, 0x2109))
        )));
        assert!(usable(&facts(DeviceKind::Capture, true, None)));
        assert!(!usable(&facts(DeviceKind::Converter, true, None)));
        assert!(!usable(&facts(
            DeviceKind::Metadata,
            false,
            Some((0x534d, 0x2109))
        )));
    }

    #[test]
    fn exactly_one_is_chosen_and_it_opens_by_name() {
        let found = probe();
        assert_eq!(found.iter().filter(|candidate| candidate.chosen).count(), 1);
        assert!(found.iter().all(|candidate| !candidate.reason.is_empty()));
        let text = serde_json::to_string(&found).unwrap_or_default();
        assert!(text.contains(r#""driver":"testcard""#), "{text}");
        let wanted = Wanted {
            size: None,
            rate: FrameRate::hz(30),
            edid: None,
            gpu: GpuMode::Auto,
        };
        assert!(open(&Choice::Testcard, &wanted).is_err());
    }
}
