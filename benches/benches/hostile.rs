//! The paired operator's latencies while strangers attack the server's ports.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use clap::Parser;
use serde::Serialize;
use soft_kvm_benches::ending::Ending;
use soft_kvm_benches::goals::{Goal, Outcome};
use soft_kvm_benches::machine::Machine;
use soft_kvm_benches::programs::{Profile, Programs};
use soft_kvm_benches::rig::Picture;
use soft_kvm_benches::run::{Run, measure, measure_beside};
use soft_kvm_benches::table;
use soft_kvm_testkit::attack::Attack;

/// Keystrokes in a second.
const PROBES: u32 = 100;
/// Connections of the attack that the issue names; the others go on until the end.
const CONNECTS: u64 = 10_000;
/// How an attacker is told what to do.
const ROLE: &str = "SOFT_KVM_BENCH_ATTACK";

/// Input and video of a paired client in quiet and under each attack.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    ending: Ending,
    /// Shorter: shows that it works, the figures are of little use.
    #[arg(long)]
    quick: bool,
    /// Seconds of each attack.
    #[arg(long, value_name = "N", default_value_t = 15)]
    seconds: u32,
}

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    quiet: Run,
    attacks: Vec<(&'static str, Run)>,
    outcomes: Vec<Outcome>,
}

/// Another host: a process with the lowest priority, so that what it costs to attack is not counted against the server.
#[derive(Debug)]
struct Attacker(Child);

impl Attacker {
    fn start(attack: Attack, port: u16) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("this program's own path")?;
        let child = Command::new("nice")
            .args(["-n", "19"])
            .arg(own)
            .env(ROLE, format!("{} {port}", attack.as_str()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("starting an attacker")?;
        Ok(Self(child))
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() -> anyhow::Result<()> {
    if let Ok(role) = std::env::var(ROLE) {
        return attack(&role);
    }
    let arguments = Arguments::parse();
    let seconds = if arguments.quick {
        3
    } else {
        arguments.seconds
    };
    let programs = Programs::build(Profile::Release)?;
    let machine = Machine::read();
    println!("{machine}");
    let picture = Picture::default();
    println!(
        "{} at {}/s, {}, {PROBES} keystrokes in a second, {seconds} s each; attackers from other loopback addresses, with the lowest priority",
        picture.size, picture.fps, picture.content
    );
    for line in table::legend(table::VIDEO)
        .iter()
        .chain(&table::legend(table::INPUT))
    {
        println!("{line}");
    }
    let quiet = measure(&programs, &picture, seconds, Some(PROBES))?;
    show("quiet", &quiet);
    let mut attacks = Vec::new();
    for attack in Attack::ALL {
        let beside = |port| Attacker::start(attack, port);
        let run = measure_beside(&programs, &picture, seconds, Some(PROBES), beside)?;
        show(attack.as_str(), &run);
        attacks.push((attack.as_str(), run));
    }
    let worst = |side: fn(&Run) -> Option<f64>| {
        let figures = attacks.iter().filter_map(|(_, run)| side(run));
        figures
            .max_by(f64::total_cmp)
            .context("nothing was measured under attack")
    };
    let outcomes = vec![
        Goal::Video.measured(worst(|run| {
            Some(run.report.video.get("capture_to_decoded_ms")?.p99)
        })?),
        Goal::Input.measured(worst(|run| {
            Some(run.report.input.get("to_injected_ms")?.p99)
        })?),
    ];
    arguments.ending.print("under the worst attack:", &outcomes);
    arguments.ending.write(&Report {
        machine,
        quiet,
        attacks,
        outcomes,
    })
}

fn show(what: &str, run: &Run) {
    println!("\n{}", table::heading(what));
    let (video, input) = (&run.report.video, &run.report.input);
    for line in table::rows(table::INPUT, input)
        .iter()
        .chain(&table::rows(table::VIDEO, video))
    {
        println!("{line}");
    }
    println!(
        "server: {:.1} % of a core in the mean, {:.0} MB, load {}",
        run.server.cpu_mean, run.server.memory_p99, run.load
    );
}

fn attack(role: &str) -> anyhow::Result<()> {
    let (word, port) = role.split_once(' ').context("ATTACK PORT")?;
    let attack = Attack::ALL
        .into_iter()
        .find(|attack| attack.as_str() == word);
    let attack = attack.with_context(|| format!("no attack is called {word}"))?;
    let most = match attack {
        Attack::Connects => CONNECTS,
        _ => u64::MAX,
    };
    let _ = attack.run(port.parse()?, most, &AtomicBool::new(false));
    Ok(())
}
