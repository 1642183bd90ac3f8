//! `soft-kvm-server devices`: what there is, what would be chosen, and why others would not.

use serde::Serialize;
use soft_kvm_core::Lang;
use soft_kvm_core::story::{EncoderDriver, InputDriver};
use soft_kvm_platform::os::m2m::{self, M2mKind};
use soft_kvm_platform::os::{gadget, gpu, probe, uinput, vaapi};
use soft_kvm_service::console;

use crate::pipeline::makes_h264;

#[derive(Debug, Serialize)]
struct Report {
    sources: Vec<probe::Candidate>,
    /// What makes tiled and compressed framebuffers linear.
    gpus: Vec<gpu::GpuNode>,
    encoders: Vec<Encoder>,
    sinks: Vec<Sink>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Encoder {
    pub(crate) name: &'static str,
    /// Its node, or the library's version.
    pub(crate) device: String,
    pub(crate) chosen: bool,
    /// Whether the automatic choice may take it.
    #[serde(skip)]
    pub(crate) usable: bool,
    pub(crate) why: String,
}

impl Encoder {
    /// Whether it needs no device.
    pub(crate) fn is_software(&self) -> bool {
        self.name == EncoderDriver::Openh264.as_str()
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Sink {
    pub(crate) name: &'static str,
    /// The USB device controller of a gadget.
    pub(crate) device: String,
    pub(crate) chosen: bool,
    /// Whether it could be opened.
    #[serde(skip)]
    pub(crate) usable: bool,
    pub(crate) why: String,
}

/// Prints the list.
///
/// # Errors
/// Only when the list cannot be written as JSON.
pub fn run(json: bool, lang: Lang) -> anyhow::Result<()> {
    let report = report();
    if json {
        console::out(serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    console::out(lang.pick("Video sources", "映像ソース"));
    for device in &report.sources {
        line(
            device.chosen,
            driver(&device.choice),
            &device.name,
            &device.reason,
        );
    }
    if !report.gpus.is_empty() {
        console::out(lang.pick(
            "GPUs, for tiled and compressed screens",
            "GPU（タイル形式・圧縮形式の画面用）",
        ));
    }
    for gpu in &report.gpus {
        let imports = || {
            let imports = lang.pick("formats are imported", "形式を読み取れます");
            format!("{}: {} {imports}", gpu.renderer, gpu.formats)
        };
        let why = gpu.unusable.clone().unwrap_or_else(imports);
        let usable = gpu.unusable.is_none();
        line(usable, "egl", &gpu.path.display().to_string(), &why);
    }
    console::out(lang.pick("Encoders", "エンコーダー"));
    for encoder in &report.encoders {
        line(encoder.chosen, encoder.name, &encoder.device, &encoder.why);
    }
    console::out(lang.pick("Input sinks", "入力の出力先"));
    for sink in &report.sinks {
        line(sink.chosen, sink.name, &sink.device, &sink.why);
    }
    console::out(lang.pick("* is what 'auto' chooses.", "* は auto が選ぶものです。"));
    Ok(())
}

fn line(chosen: bool, driver: &str, device: &str, why: &str) {
    console::out(format!(
        "  {} {driver:<9} {device:<16} {why}",
        if chosen { '*' } else { ' ' }
    ));
}

pub(crate) const fn driver(choice: &probe::Choice) -> &'static str {
    match choice {
        probe::Choice::V4l2 { .. } => "v4l2",
        probe::Choice::Kms { .. } => "kms",
        probe::Choice::X11 { .. } => "x11",
        probe::Choice::Testcard => "testcard",
    }
}

/// Hardware encoders and the software, in the order in which they are tried.
pub(crate) fn encoders() -> Vec<Encoder> {
    let software = Encoder {
        name: EncoderDriver::Openh264.as_str(),
        device: soft_kvm_platform::openh264::version(),
        chosen: false,
        usable: true,
        why: "software; taken when no other encoder works".to_owned(),
    };
    let mut all = [m2m_encoders(), vaapi_encoders(), vec![software]].concat();
    if let Some(first) = all.iter_mut().find(|one| one.usable) {
        first.chosen = true;
    }
    all
}

fn m2m_encoders() -> Vec<Encoder> {
    let encoder = |node: m2m::M2mNode| {
        let usable = makes_h264(&node);
        let why = match (node.unusable, node.kind) {
            (_, Some(M2mKind::Decoder | M2mKind::Converter)) => return None,
            (Some(why), _) => why,
            (None, _) if usable => node.card,
            (None, _) => format!(
                "{}; makes {}: taken only when the story names it, for viewers with the same codec",
                node.card,
                node.output.join(", ")
            ),
        };
        Some(Encoder {
            name: EncoderDriver::V4l2m2m.as_str(),
            device: node.path.display().to_string(),
            chosen: false,
            usable,
            why,
        })
    };
    m2m::probe().into_iter().filter_map(encoder).collect()
}

/// A line for each graphics device, or the reason why there is none.
fn vaapi_encoders() -> Vec<Encoder> {
    let encoder = |device: String, usable, why| Encoder {
        name: EncoderDriver::Vaapi.as_str(),
        device,
        chosen: false,
        usable,
        why,
    };
    let nodes = vaapi::probe();
    if nodes.is_empty() {
        let why = vaapi::available().err();
        let why = why.unwrap_or_else(|| "no graphics device (/dev/dri/renderD…)".to_owned());
        return vec![encoder(String::new(), false, why)];
    }
    let line = |node: vaapi::VaapiNode| {
        let usable = node.unusable.is_none();
        let why = node.unusable.unwrap_or(node.driver);
        encoder(node.path.display().to_string(), usable, why)
    };
    nodes.into_iter().map(line).collect()
}

/// A line for each USB device controller, or the reason why there is none.
pub(crate) fn gadgets() -> Vec<Sink> {
    let sink = |device: String| {
        let controller = gadget::choose((!device.is_empty()).then_some(device.as_str()));
        let usable = controller.is_ok();
        let why = match controller {
            Ok(_) => "keyboard and mouse of the machine at this USB port; taken when the story \
                      says driver: 'gadget'"
                .to_owned(),
            Err(error) => error.to_string(),
        };
        Sink {
            name: InputDriver::Gadget.as_str(),
            device,
            chosen: false,
            usable,
            why,
        }
    };
    let names: Vec<_> = gadget::controllers()
        .into_iter()
        .map(|one| one.name)
        .collect();
    if names.is_empty() {
        return vec![sink(String::new())];
    }
    names.into_iter().map(sink).collect()
}

fn report() -> Report {
    let uinput = uinput::probe();
    let mut sinks = vec![
        Sink {
            name: "uinput",
            device: String::new(),
            chosen: uinput.is_ok(),
            usable: uinput.is_ok(),
            why: uinput.as_ref().map_or_else(ToString::to_string, |()| {
                "virtual devices in this machine's kernel".to_owned()
            }),
        },
        Sink {
            name: "echo",
            device: String::new(),
            chosen: uinput.is_err(),
            usable: true,
            why: "drawn on the test card".to_owned(),
        },
    ];
    sinks.extend(gadgets());
    Report {
        sources: probe::probe(),
        gpus: gpu::probe(),
        encoders: encoders(),
        sinks,
    }
}
