//! `soft-kvm-server devices`: what there is, what would be chosen, and why others would not.

use serde::Serialize;
use soft_kvm_core::Lang;
use soft_kvm_platform::os::{probe, uinput};
use soft_kvm_service::console;

#[derive(Debug, Serialize)]
struct Report {
    sources: Vec<probe::Candidate>,
    encoders: Vec<Encoder>,
    sinks: Vec<Sink>,
}

#[derive(Debug, Serialize)]
struct Encoder {
    name: &'static str,
    version: String,
    chosen: bool,
    why: String,
}

#[derive(Debug, Serialize)]
struct Sink {
    name: &'static str,
    chosen: bool,
    why: String,
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
    console::out(lang.pick("Encoders", "エンコーダー"));
    for encoder in &report.encoders {
        line(encoder.chosen, encoder.name, &encoder.version, &encoder.why);
    }
    console::out(lang.pick("Input sinks", "入力の出力先"));
    for sink in &report.sinks {
        line(sink.chosen, sink.name, "", &sink.why);
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

const fn driver(choice: &probe::Choice) -> &'static str {
    match choice {
        probe::Choice::V4l2 { .. } => "v4l2",
        probe::Choice::Kms { .. } => "kms",
        probe::Choice::X11 { .. } => "x11",
        probe::Choice::Testcard => "testcard",
    }
}

fn report() -> Report {
    let uinput = uinput::probe();
    let openh264 = Encoder {
        name: "openh264",
        version: soft_kvm_platform::openh264::version(),
        chosen: true,
        why: "software; the only encoder so far".to_owned(),
    };
    let sinks = vec![
        Sink {
            name: "uinput",
            chosen: uinput.is_ok(),
            why: uinput.as_ref().map_or_else(ToString::to_string, |()| {
                "virtual devices in this machine's kernel".to_owned()
            }),
        },
        Sink {
            name: "echo",
            chosen: uinput.is_err(),
            why: "drawn on the test card".to_owned(),
        },
    ];
    Report {
        sources: probe::probe(),
        encoders: vec![openh264],
        sinks,
    }
}
