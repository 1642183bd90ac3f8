//! How old a picture is when the client has decoded it: server and client as processes over loopback, by content,
//! at three formats, stage by stage.

use clap::Parser;
use serde::Serialize;
use soft_kvm_benches::ending::Ending;
use soft_kvm_benches::goals::{Goal, Outcome};
use soft_kvm_benches::machine::Machine;
use soft_kvm_benches::programs::{Profile, Programs};
use soft_kvm_benches::rig::Picture;
use soft_kvm_benches::run::{Run, measure};
use soft_kvm_benches::table;

const FORMATS: [(&str, u32); 3] = [("1280x720", 30), ("1920x1080", 30), ("1920x1080", 60)];
const CONTENTS: [&str; 4] = ["typing", "scroll", "motion", "static"];
/// The format that the goals are about.
const GOAL: (&str, u32) = ("1920x1080", 30);

/// Age of pictures from capture to decoded, between two processes.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    ending: Ending,
    /// Three seconds each: shows that it works, the figures are of little use.
    #[arg(long)]
    quick: bool,
    /// Seconds for each content at each format.
    #[arg(long, value_name = "N", default_value_t = 15)]
    seconds: u32,
}

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    seconds: u32,
    runs: Vec<Run>,
    outcomes: Vec<Outcome>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let programs = Programs::build(Profile::Release)?;
    let seconds = if arguments.quick {
        3
    } else {
        arguments.seconds
    };
    let machine = Machine::read();
    println!("{machine}");
    println!(
        "server -> UDP on 127.0.0.1 -> client, {seconds} s each; both programs and the test card share this machine"
    );
    println!("clocks:");
    for line in table::legend(table::VIDEO) {
        println!("{line}");
    }
    let mut runs = Vec::new();
    for (size, fps) in FORMATS {
        for content in CONTENTS {
            let picture = Picture {
                size: size.to_owned(),
                fps,
                content: content.to_owned(),
            };
            let run = measure(&programs, &picture, seconds, None)?;
            show(&run);
            runs.push(run);
        }
    }
    let outcomes = outcomes(&runs);
    arguments.ending.print(
        &format!(
            "worst content at {}, {} frames in a second:",
            GOAL.0, GOAL.1
        ),
        &outcomes,
    );
    arguments.ending.write(&Report {
        machine,
        seconds,
        runs,
        outcomes,
    })
}

fn show(run: &Run) {
    let frames = &run.report.frames;
    println!();
    println!(
        "{} at {}/s, {}: {} captured, {} unchanged, {} decoded, {} dropped; server {:.1} % of a core (p99 {:.1}), {:.0} MB; load {}",
        run.size,
        run.fps,
        run.content,
        frames.captured,
        frames.unchanged,
        frames.decoded,
        frames.dropped.values().sum::<u64>(),
        run.server.cpu_mean,
        run.server.cpu_p99,
        run.server.memory_p99,
        run.load,
    );
    println!("{}", table::heading("stage"));
    for line in table::rows(table::VIDEO, &run.report.video) {
        println!("{line}");
    }
}

/// The worst content of the goals' format.
fn outcomes(runs: &[Run]) -> Vec<Outcome> {
    let worst = |value: &dyn Fn(&Run) -> f64| {
        runs.iter()
            .filter(|run| (run.size.as_str(), run.fps) == GOAL)
            .map(value)
            .fold(0.0, f64::max)
    };
    let age = |run: &Run| {
        run.report
            .video
            .get("capture_to_decoded_ms")
            .map_or(0.0, |summary| summary.p99)
    };
    vec![
        Goal::Video.measured(worst(&age)),
        Goal::Cpu.measured(worst(&|run| run.server.cpu_p99)),
        Goal::Memory.measured(worst(&|run| run.server.memory_p99)),
    ]
}
