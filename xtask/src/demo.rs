//! `cargo xtask demo`: the main job on this machine, server and client as two processes.

use std::ffi::OsString;
use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use soft_kvm_benches::programs::{Profile, Programs};
use soft_kvm_benches::report::DemoReport;
use soft_kvm_benches::rig::{Client, Interrupt, Picture, Rig};
use soft_kvm_benches::sampler::Sampler;
use soft_kvm_benches::table;
use soft_kvm_core::Lang;

use crate::{setup, shell};

/// Time between two looks at the processes.
const SAMPLE: Duration = Duration::from_millis(250);
/// Time between two lines of progress where the terminal cannot overwrite one.
const PLAIN_PROGRESS: u64 = 5;

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// No window: measure and print; so it is without a desktop session, too
    #[arg(long)]
    headless: bool,
    /// End after so many seconds; without a window 20 unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    seconds: Option<u32>,
    /// Write the measurements to this file (docs/schema/demo.schema.json)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Size of the test card
    #[arg(long, value_name = "WxH", default_value = "1920x1080")]
    size: String,
    /// Frames in a second
    #[arg(long, value_name = "N", default_value_t = 30)]
    fps: u32,
    /// What the test card shows: typing, scroll, motion, static
    #[arg(long, value_name = "CONTENT", default_value = "typing")]
    content: String,
    /// How the programs are built; figures of `dev` are of no use
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
}

/// Builds, runs and measures; an error when not one picture was decoded.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let lang = Lang::from_variables(|name| std::env::var(name).ok());
    let headless = options.headless || !has_desktop(|name| std::env::var_os(name));
    if headless && !options.headless {
        println!(
            "{}",
            lang.pick(
                "No desktop session (neither WAYLAND_DISPLAY nor DISPLAY is set): without a window, as with --headless.",
                "デスクトップがありません（WAYLAND_DISPLAY も DISPLAY も未設定）。--headless と同じくウィンドウなしで動かします。"
            )
        );
    }
    setup::try_run(setup::Purpose::Demo);
    shell::headline(lang.pick("building", "ビルド中"));
    let programs = Programs::build(options.profile)?;
    shell::headline(lang.pick("starting the server", "サーバーを起動中"));
    let interrupt = Interrupt::catch()?;
    let picture = Picture {
        size: options.size.clone(),
        fps: options.fps,
        content: options.content.clone(),
    };
    let mut rig = Rig::start(&programs, &picture, true)?;
    println!("{}: {}", lang.pick("Address", "アドレス"), rig.address());
    rig.pair()?;
    println!(
        "{}",
        lang.pick(
            "Paired by the code above. Ctrl-C ends both programs.",
            "上のコードでペアリングしました。Ctrl-C で両方のプログラムが終わります。"
        )
    );
    let seconds = options.seconds.or(headless.then_some(20));
    let text = seconds.map(|seconds| seconds.to_string());
    let mut arguments = if headless {
        vec!["--view", "none", "--probe-input", "20"]
    } else {
        vec!["--view", "window"]
    };
    if let Some(text) = &text {
        arguments.extend(["--seconds", text]);
    }
    let mut client = rig.connect(&arguments)?;
    watch(&rig, &mut client, seconds, &interrupt, lang)?;
    let figures = client.finish()?;
    let report = DemoReport::merge(&rig.finish()?, &figures);
    print(&report, lang);
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    ensure!(
        report.frames.decoded > 0,
        "{}",
        lang.pick(
            "not one picture was decoded: the log above says why",
            "映像を一枚も復号できませんでした。理由は上のログにあります"
        )
    );
    Ok(())
}

/// Whether a window could open, as the client's window system reads the environment.
fn has_desktop(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    ["WAYLAND_DISPLAY", "WAYLAND_SOCKET", "DISPLAY"]
        .into_iter()
        .any(|name| variable(name).is_some_and(|value| !value.is_empty()))
}

/// Shows progress until the client has ended.
fn watch(
    rig: &Rig,
    client: &mut Client,
    seconds: Option<u32>,
    interrupt: &Interrupt,
    lang: Lang,
) -> anyhow::Result<()> {
    let server = Sampler::start(rig.server_pid(), SAMPLE)?;
    let viewer = Sampler::start(client.pid(), SAMPLE)?;
    let (started, mut told) = (Instant::now(), 0);
    let terminal = std::io::stdout().is_terminal();
    while client.try_wait()?.is_none() {
        if interrupt.is_set() {
            client.stop()?;
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
        let elapsed = started.elapsed().as_secs();
        if elapsed == told || !terminal && !elapsed.is_multiple_of(PLAIN_PROGRESS) {
            continue;
        }
        told = elapsed;
        let (server, viewer) = (
            server.last().unwrap_or_default(),
            viewer.last().unwrap_or_default(),
        );
        let end = seconds.map_or_else(String::new, |end| format!("/{end}"));
        let line = format!(
            "{elapsed}{end} s, {} {:.0} % CPU {:.0} MB, {} {:.0} % CPU {:.0} MB",
            lang.pick("server", "サーバー"),
            server.cpu_percent,
            server.rss_mb,
            lang.pick("client", "クライアント"),
            viewer.cpu_percent,
            viewer.rss_mb,
        );
        if terminal {
            // Over the line before, whose rest is erased.
            print!("\r{line}\x1b[K");
            std::io::stdout().flush()?;
        } else {
            println!("{line}");
        }
    }
    if terminal {
        println!();
    }
    Ok(())
}

fn print(report: &DemoReport, lang: Lang) {
    let frames = &report.frames;
    println!(
        "{}: {} {}, {} {}, {} {}, {} {}, {} {}, {} {}",
        lang.pick("frames", "フレーム"),
        lang.pick("captured", "取得"),
        frames.captured,
        lang.pick("unchanged", "変化なし"),
        frames.unchanged,
        lang.pick("encoded", "符号化"),
        frames.encoded,
        lang.pick("sent", "送信"),
        frames.sent,
        lang.pick("received", "受信"),
        frames.received,
        lang.pick("decoded", "復号"),
        frames.decoded,
    );
    for (reason, count) in frames.dropped.iter().filter(|(_, count)| **count > 0) {
        println!("{}: {reason} {count}", lang.pick("dropped", "破棄"));
    }
    println!("{}", table::heading(""));
    for line in table::rows(table::VIDEO, &report.video)
        .into_iter()
        .chain(table::rows(table::INPUT, &report.input))
        .chain([table::row("connect", &report.connect_ms)])
    {
        println!("{line}");
    }
    for (name, process) in [
        (lang.pick("server", "サーバー"), report.server),
        (lang.pick("client", "クライアント"), report.client),
    ] {
        println!(
            "{name}: CPU {:.1} % {}, {} {:.0} MB",
            process.cpu_percent,
            lang.pick("of one core", "(1コアに対して)"),
            lang.pick("memory at most", "メモリ最大"),
            process.rss_peak_mb
        );
    }
    if let Some(error) = report.clock_error_ms {
        println!(
            "{} ±{error:.3} ms",
            lang.pick("clocks aligned within", "時計合わせの誤差")
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use soft_kvm_benches::report::{ClientFigures, ServerFigures};

    use super::*;

    fn schema() -> Value {
        let path = shell::root().join("docs/schema/demo.schema.json");
        let text = fs::read_to_string(path).expect("the schema is in the tree");
        serde_json::from_str(&text).expect("the schema is JSON")
    }

    /// The part of JSON Schema that ours uses; panics on a keyword that it does not know.
    fn check(root: &Value, schema: &Value, value: &Value, at: &str, errors: &mut Vec<String>) {
        for (keyword, rule) in schema.as_object().expect("a schema is an object") {
            match keyword.as_str() {
                "$schema" | "$id" | "$defs" | "title" | "description" => {}
                "$ref" => {
                    let name = rule.as_str().and_then(|text| text.strip_prefix("#/$defs/"));
                    let target = &root["$defs"][name.expect("a reference into $defs")];
                    check(root, target, value, at, errors);
                }
                "type" => {
                    let is = |name: &str| match name {
                        "object" => value.is_object(),
                        "integer" => value.is_u64(),
                        "number" => value.is_number(),
                        "null" => value.is_null(),
                        other => panic!("type {other}"),
                    };
                    let fits = match rule {
                        Value::Array(names) => names.iter().any(|name| is(name.as_str().unwrap())),
                        name => is(name.as_str().unwrap()),
                    };
                    if !fits {
                        errors.push(format!("{at}: is not {rule}"));
                    }
                }
                "minimum" => {
                    if value
                        .as_f64()
                        .is_some_and(|number| number < rule.as_f64().unwrap())
                    {
                        errors.push(format!("{at}: is below {rule}"));
                    }
                }
                "required" => {
                    for name in rule.as_array().unwrap() {
                        if value.get(name.as_str().unwrap()).is_none() {
                            errors.push(format!("{at}: lacks {name}"));
                        }
                    }
                }
                "properties" | "additionalProperties" => {
                    let known = schema["properties"].as_object();
                    for (name, inner) in value.as_object().into_iter().flatten() {
                        let at = format!("{at}.{name}");
                        let own = known.and_then(|known| known.get(name));
                        match (keyword.as_str(), own) {
                            ("properties", Some(rule)) => check(root, rule, inner, &at, errors),
                            ("additionalProperties", None) if rule == &json!(false) => {
                                errors.push(format!("{at}: has no place"));
                            }
                            ("additionalProperties", None) => {
                                check(root, rule, inner, &at, errors);
                            }
                            _ => {}
                        }
                    }
                }
                other => panic!("the test does not know {other}"),
            }
        }
    }

    fn violations(value: &Value) -> Vec<String> {
        let (schema, mut errors) = (schema(), Vec::new());
        check(&schema, &schema, value, "demo", &mut errors);
        errors
    }

    fn example() -> Value {
        let server: ServerFigures = serde_json::from_value(json!({
            "frames": {"captured": 60, "unchanged": 20, "encoded": 40, "refreshed": 1, "sent": 40},
            "dropped": {"newer": 1, "encoder": 0, "send": 2},
            "packets": 300, "cpu_percent": 12.5, "rss_peak_mb": 40.0, "seconds": 3.0, "source": null,
        }))
        .expect("the server's figures");
        let summary =
            json!({"count": 40, "p50": 1.0, "p95": 2.0, "p99": 3.0, "p999": 3.5, "max": 4.0});
        let mut video = serde_json::Map::new();
        for (name, _) in table::VIDEO {
            video.insert((*name).to_owned(), summary.clone());
        }
        let client: ClientFigures = serde_json::from_value(json!({
            "frames": {"received": 39, "decoded": 38},
            "dropped": {"incomplete": 1, "no_key_frame": 0, "malformed": 0, "decoder": 0},
            "packets": {"received": 299},
            "video": video,
            "input": {"to_ack_ms": summary, "to_injected_ms": summary, "to_echo_ms": summary},
            "connect_ms": summary, "clock_error_ms": 0.05,
            "process": {"cpu_percent": 5.0, "rss_peak_mb": 30.0, "seconds": 2.0},
        }))
        .expect("the client's figures");
        serde_json::to_value(DemoReport::merge(&server, &client)).expect("plain data")
    }

    #[test]
    fn both_sides_become_one_report() {
        let report = example();
        assert_eq!(violations(&report), Vec::<String>::new());
        assert_eq!(report["frames"]["captured"], 60);
        assert_eq!(report["frames"]["decoded"], 38);
        assert_eq!(report["frames"]["dropped"]["send"], 2);
        assert_eq!(report["frames"]["dropped"]["incomplete"], 1);
        assert_eq!(report["server"]["cpu_percent"], 12.5);
        assert_eq!(report["client"]["rss_peak_mb"], 30.0);
        assert_eq!(report["video"]["capture_to_decoded_ms"]["p99"], 3.0);
    }

    #[test]
    fn the_schema_refuses_what_differs() {
        let mut report = example();
        report["frames"].as_object_mut().unwrap().remove("sent");
        report["video"]["encode_ms"]["p99"] = json!("fast");
        report["video"].as_object_mut().unwrap().remove("decode_ms");
        report["frames"]["dropped"]["newer"] = json!(-1);
        report["other"] = json!(1);
        let errors = violations(&report);
        for word in ["sent", "p99", "decode_ms", "newer", "other"] {
            assert!(
                errors.iter().any(|error| error.contains(word)),
                "{errors:?}"
            );
        }
    }

    #[test]
    #[ignore = "needs cargo: builds both programs and runs the demo for three seconds"]
    fn the_real_thing_writes_what_the_schema_says() {
        let path = std::env::temp_dir().join(format!("soft-kvm-demo-{}.json", std::process::id()));
        let options = Options {
            headless: true,
            seconds: Some(3),
            json: Some(path.clone()),
            size: "1280x720".to_owned(),
            fps: 30,
            content: "typing".to_owned(),
            profile: Profile::Dev,
        };
        run(&options).expect("the demo runs");
        let report: Value =
            serde_json::from_slice(&fs::read(&path).expect("it was written")).expect("JSON");
        fs::remove_file(&path).expect("it is ours");
        assert_eq!(violations(&report), Vec::<String>::new());
        assert!(report["frames"]["decoded"].as_u64() > Some(0), "{report}");
        assert!(
            report["input"]["to_echo_ms"]["count"].as_u64() > Some(0),
            "{report}"
        );
    }
}
