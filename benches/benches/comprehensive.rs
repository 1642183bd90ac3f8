//! The five lines of the user's page: a desktop at 1080p30 with somebody typing, and twenty connections.

use anyhow::{Context as _, ensure};
use clap::Parser;
use serde::Serialize;
use soft_kvm_benches::ending::Ending;
use soft_kvm_benches::goals::{Goal, Outcome};
use soft_kvm_benches::machine::Machine;
use soft_kvm_benches::programs::{Profile, Programs};
use soft_kvm_benches::report::Summary;
use soft_kvm_benches::rig::Picture;
use soft_kvm_benches::run::{Run, SAMPLE, connections, measure};
use soft_kvm_benches::table;

/// Video, input, CPU, memory and connection time against the goals.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    ending: Ending,
    /// Shorter: shows that it works, the figures are of little use.
    #[arg(long)]
    quick: bool,
    /// Seconds of video and typing.
    #[arg(long, value_name = "N", default_value_t = 30)]
    seconds: u32,
    /// Connections to make.
    #[arg(long, value_name = "N", default_value_t = 20)]
    connections: usize,
    /// Content of the test card: typing, scroll, motion, static.
    #[arg(long, value_name = "CONTENT", default_value = "typing")]
    content: String,
}

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    run: Run,
    connect_ms: Summary,
    outcomes: Vec<Outcome>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let programs = Programs::build(Profile::Release)?;
    let machine = Machine::read();
    let seconds = if arguments.quick {
        5
    } else {
        arguments.seconds
    };
    let times = if arguments.quick {
        5
    } else {
        arguments.connections
    };
    let picture = Picture {
        content: arguments.content.clone(),
        ..Picture::default()
    };
    println!("{machine}");
    println!(
        "{} at {}/s, {}, 20 keystrokes in a second, {seconds} s; then {times} connections; two processes over 127.0.0.1",
        picture.size, picture.fps, picture.content
    );
    println!("clocks:");
    for line in table::legend(table::VIDEO)
        .into_iter()
        .chain(table::legend(table::INPUT))
    {
        println!("{line}");
    }
    println!(
        "  connect              a paired client begins to connect -> its first decoded picture; the server opens source and encoder anew"
    );
    println!(
        "  CPU, memory          the server's process every {} ms, in percent of one core and MB; drawing the test card is in it",
        SAMPLE.as_millis()
    );
    let run = measure(&programs, &picture, seconds, Some(20))?;
    println!();
    println!("{}", table::heading("stage"));
    for line in table::rows(table::VIDEO, &run.report.video)
        .into_iter()
        .chain(table::rows(table::INPUT, &run.report.input))
    {
        println!("{line}");
    }
    let connect_ms = connections(&programs, &picture, times, |_| {})?;
    println!("{}", table::row("connect", &connect_ms));
    println!(
        "server: {:.1} % of a core in the mean ({:.1} % of this machine), load {}",
        run.server.cpu_mean,
        run.server.cpu_mean / f64::from(u32::try_from(machine.cores).unwrap_or(1)),
        run.load
    );
    let p99 = |summaries: &soft_kvm_benches::report::Summaries, name: &str| {
        let summary = summaries.get(name).filter(|summary| summary.count > 0);
        summary
            .map(|summary| summary.p99)
            .with_context(|| format!("nothing was measured of {name}"))
    };
    ensure!(connect_ms.count > 0, "no connection showed a picture");
    let outcomes = vec![
        Goal::Video.measured(p99(&run.report.video, "capture_to_decoded_ms")?),
        Goal::Input.measured(p99(&run.report.input, "to_injected_ms")?),
        Goal::Cpu.measured(run.server.cpu_p99),
        Goal::Memory.measured(run.server.memory_p99),
        Goal::Connection.measured(connect_ms.p95),
    ];
    arguments.ending.print("", &outcomes);
    arguments.ending.write(&Report {
        machine,
        run,
        connect_ms,
        outcomes,
    })
}
