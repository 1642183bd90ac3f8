//! How long a keystroke takes: inside one process over real sockets and SRTP, between two processes, and in the device lab
//! from the operator's device to the target's.

mod in_process;
mod lab;

use anyhow::Context as _;
use clap::Parser;
use serde::Serialize;
use soft_kvm_benches::ending::Ending;
use soft_kvm_benches::goals::{Goal, Outcome};
use soft_kvm_benches::machine::{self, Machine};
use soft_kvm_benches::programs::{Profile, Programs};
use soft_kvm_benches::rig::Picture;
use soft_kvm_benches::run::{Run, measure};
use soft_kvm_benches::table;

use in_process::InProcess;
use lab::Phase;

/// Reports in a second: an eager gaming mouse.
const RATE: u32 = 1_000;

/// Time of a keystroke from the operator's side to the target's.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    ending: Ending,
    /// Shorter: shows that it works, the figures are of little use.
    #[arg(long)]
    quick: bool,
    /// Events of each part, 1000 in a second.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    events: u32,
    /// Leave out the part from device to device, which needs the lab's kernel (cargo xtask lab setup).
    #[arg(long)]
    no_lab: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    in_process: InProcess,
    processes: Run,
    /// Empty without the lab.
    device_to_device: Vec<Phase>,
    outcomes: Vec<Outcome>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let events = if arguments.quick {
        2_000
    } else {
        arguments.events
    };
    let programs = Programs::build(Profile::Release)?;
    let machine = Machine::read();
    println!("{machine}");
    println!();
    let in_process = InProcess::measure(events)?;
    in_process.print();
    println!("load {}", machine::load());

    let picture = Picture::default();
    println!();
    // Some of the first second go before the first picture, and the last are still under way at the end.
    let seconds = events.div_ceil(RATE) + 3;
    println!(
        "two processes over 127.0.0.1, {RATE} keys down or up in a second for {seconds} s, with video at {} {}/s beside them",
        picture.size, picture.fps
    );
    for line in table::legend(table::INPUT) {
        println!("{line}");
    }
    println!("The sink is the test card's echo.");
    let processes = measure(&programs, &picture, seconds, Some(RATE))?;
    println!("{}", table::heading("stage"));
    for line in table::rows(table::INPUT, &processes.report.input) {
        println!("{line}");
    }
    println!("load {}", processes.load);

    println!();
    let device_to_device = if arguments.no_lab {
        println!("device to device: left out");
        Vec::new()
    } else {
        lab::measure(events)?
    };
    let injected = processes.report.input.get("to_injected_ms");
    let injected = injected.filter(|summary| summary.count > 0);
    let outcomes =
        vec![Goal::Input.measured(injected.context("no keystroke was acknowledged")?.p99)];
    arguments.ending.print("", &outcomes);
    arguments.ending.write(&Report {
        machine,
        in_process,
        processes,
        device_to_device,
        outcomes,
    })
}
