//! `cargo xtask test`: builds everything once, runs the tiers and counts.
//!
//! The whole workspace is built by one command, so that every dependency is compiled once with one set of
//! features, and the test programs are run from here, so that each can be counted, timed and blamed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::outcome::{Counts, Outcome, Reader};
use crate::{lab, metadata, package, setup, shell};

mod again;
mod arm64;
mod beside;
mod debian;

/// A test program that runs longer than this is killed and counts as failed.
const LIMIT_SECONDS: &str = "1500";
const LOOPBACK: &str = "soft-kvm-tests";
const LAB: &str = "soft-kvm-lab-tests";
/// Its ignored integration tests need drivers, so they run in the lab.
const PLATFORM: &str = "soft-kvm-platform-linux";

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Only this tier (may be given several times)
    #[arg(long, value_enum)]
    tier: Vec<Tier>,
    /// Only tests with one of these words in their names
    names: Vec<String>,
}

impl Options {
    pub(crate) fn lab(names: Vec<String>) -> Self {
        Self {
            tier: vec![Tier::Lab],
            names,
        }
    }

    /// Whether a test of this name is wanted.
    fn names(&self, test: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|word| test.contains(word.as_str()))
    }

    fn runs(&self, tier: Tier) -> bool {
        self.tier.is_empty() || self.tier.contains(&tier)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Tier {
    /// No privileges, no devices, no network
    Unit,
    /// Real sockets, codecs and third-party peers on this machine
    Loopback,
    /// Inside the device lab's kernel
    Lab,
    /// The libraries that are the same everywhere, and the package, on an emulated arm64 machine
    Arm64,
    /// The package in fresh roots of Debian's releases
    Debian,
}

/// A built test program.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Program {
    package: String,
    folder: PathBuf,
    target: String,
    /// Whether it is an integration test.
    integration: bool,
    path: PathBuf,
    /// What runs it, with its arguments; nothing for programs of this machine.
    runner: Vec<OsString>,
}

/// Counts so far, and what there is to say at the end.
#[derive(Debug, Default)]
struct Ledger {
    counts: Counts,
    failures: Vec<String>,
    /// Tests that failed once and passed by themselves.
    flaky: Vec<String>,
    skips: BTreeMap<String, BTreeSet<String>>,
}

impl Ledger {
    fn fail(&mut self, what: String) {
        self.counts.failed += 1;
        self.failures.push(what);
    }

    /// Adds what a program said. Gives the ignored tests with their reasons.
    fn take(&mut self, what: &str, outcome: Outcome, status: &str) -> BTreeMap<String, String> {
        self.counts += outcome.counts;
        if outcome.counts.failed > 0 {
            self.failures.push(format!(
                "{what}: {} ({status}) {}",
                outcome.counts.failed,
                outcome.failed.join(" ")
            ));
        }
        for (name, reason) in &outcome.ignored {
            self.skips
                .entry(reason.clone())
                .or_default()
                .insert(name.clone());
        }
        outcome.ignored
    }

    /// A test that is no program's: tells and counts how it went; what it said is shown if it failed.
    fn test(&mut self, name: &str, passed: bool, said: &[String]) {
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if passed {
            self.counts.passed += 1;
        } else {
            said.iter().for_each(|line| println!("  | {line}"));
            self.fail(name.to_owned());
        }
    }

    /// A test that cannot run here.
    fn skip(&mut self, name: &str, reason: &str) {
        println!("test {name} ... ignored ({reason})");
        self.counts.skipped += 1;
        let skipped = self.skips.entry(reason.to_owned()).or_default();
        skipped.insert(name.to_owned());
    }

    /// Takes back a skip that counts elsewhere.
    fn unskip(&mut self, name: &str, reason: &str) {
        self.counts.skipped = self.counts.skipped.saturating_sub(1);
        if let Some(names) = self.skips.get_mut(reason) {
            names.remove(name);
        }
        self.skips.retain(|_, names| !names.is_empty());
    }
}

/// Runs the tiers; true when nothing failed.
pub(crate) fn run(options: &Options) -> anyhow::Result<bool> {
    setup::try_run(setup::Purpose::Test);
    let mut ledger = Ledger::default();
    let mut beside = Vec::new();
    let mut start_beside = |tier| -> anyhow::Result<()> {
        // Alone, or where it may have no such test, it shows what it does at once.
        let alone = options.tier == [tier] || !options.names.is_empty();
        if options.runs(tier) && !alone {
            beside.push((tier, beside::Beside::start(tier)?));
        }
        Ok(())
    };
    shell::headline("building");
    let mut command = shell::cargo();
    command.args(["build", "--workspace", "--all-targets", "--keep-going"]);
    let programs = build(command, &mut ledger)?;
    // They want what has been built.
    start_beside(Tier::Debian)?;
    start_beside(Tier::Arm64)?;
    for (tier, name, run_tier) in TIERS {
        if !options.runs(tier) || beside.iter().any(|(other, _)| *other == tier) {
            continue;
        }
        shell::headline(&format!("{name} tests"));
        let start = Instant::now();
        let before = ledger.counts.total();
        run_tier(&programs, options, &mut ledger)?;
        if ledger.counts.total() == before && options.names.is_empty() {
            ledger.fail(format!("the {name} tier ran no tests"));
        }
        println!("{name} tests took {} s", start.elapsed().as_secs());
    }
    for (tier, beside) in beside {
        let name = TIERS.iter().find(|(other, ..)| *other == tier);
        let name = name.map_or("", |(_, name, _)| *name);
        shell::headline(&format!("{name} tests, beside the others"));
        let start = Instant::now();
        beside.finish(name, &mut ledger)?;
        println!("waited {} s for {name} tests", start.elapsed().as_secs());
    }
    if ledger.counts.total() == 0 {
        ledger.fail("no test has such a name".to_owned());
    }
    report(&ledger);
    Ok(ledger.counts.failed == 0)
}

const TIERS: [(Tier, &str, RunTier); 5] = [
    (Tier::Unit, "unit", unit),
    (Tier::Loopback, "loopback", loopback),
    (Tier::Lab, "lab", lab_tier),
    (Tier::Arm64, "arm64", arm64::run),
    (Tier::Debian, "debian", debian::run),
];

type RunTier = fn(&[Program], &Options, &mut Ledger) -> anyhow::Result<()>;

fn report(ledger: &Ledger) {
    println!();
    for (reason, names) in &ledger.skips {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        println!(
            "skipped: {} ({})",
            names.join(", "),
            if reason.is_empty() {
                "no reason given"
            } else {
                reason
            }
        );
    }
    for test in &ledger.flaky {
        println!("flaky: {test} failed, then passed by itself");
    }
    for failure in &ledger.failures {
        println!("failed: {failure}");
    }
    println!("{}", ledger.counts);
}

/// Runs cargo's `command`, which builds test programs. What does not compile counts as failed, the rest goes on.
fn build(mut command: Command, ledger: &mut Ledger) -> anyhow::Result<Vec<Program>> {
    let names = metadata::read("Cargo.toml")?
        .packages
        .into_iter()
        .map(|package| (package.manifest_path, package.name))
        .collect();
    let mut child = command
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped())
        .spawn()
        .context("starting cargo build")?;
    let mut programs = Vec::new();
    let stdout = child.stdout.take().context("cargo's standard output")?;
    shell::each_line(stdout, &mut |line| programs.extend(program(line, &names)))?;
    if !child.wait()?.success() {
        ledger.fail(format!("this does not compile: {command:?}"));
    }
    programs
        .sort_by(|left, right| (&left.package, &left.target).cmp(&(&right.package, &right.target)));
    Ok(programs)
}

/// Reads one of cargo's messages, if it announces a test program.
fn program(message: &str, names: &BTreeMap<PathBuf, String>) -> Option<Program> {
    let message: Value = serde_json::from_str(message).ok()?;
    let path = PathBuf::from(message.get("executable")?.as_str()?);
    let target = message.get("target")?;
    let kinds: Vec<&str> = target
        .get("kind")?
        .as_array()?
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let is_test = message.get("profile")?.get("test")?.as_bool()?;
    if !is_test || kinds.contains(&"bench") || kinds.contains(&"example") {
        return None;
    }
    let manifest = Path::new(message.get("manifest_path")?.as_str()?);
    Some(Program {
        package: names.get(manifest)?.clone(),
        folder: manifest.parent()?.to_owned(),
        target: target.get("name")?.as_str()?.to_owned(),
        integration: kinds.contains(&"test"),
        path,
        runner: Vec::new(),
    })
}

/// Runs one test program and counts; tests that fail get a second try. Gives the ignored tests with their reasons.
fn run_program(
    program: &Program,
    words: &[String],
    variables: &[(&str, PathBuf)],
    ledger: &mut Ledger,
) -> anyhow::Result<BTreeMap<String, String>> {
    println!("--- {} {}", program.package, program.target);
    let command = |words: &[String]| {
        let mut command = Command::new("timeout");
        command
            .args(["-s", "KILL", LIMIT_SECONDS])
            .args(&program.runner)
            .arg(&program.path)
            .args(words);
        // As cargo would: in the package's folder.
        command
            .current_dir(&program.folder)
            .env("CARGO_MANIFEST_DIR", &program.folder);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        command
    };
    let what = format!("{} {}", program.package, program.target);
    let (mut outcome, status) = watch(command(words))?;
    for name in again::passing(&outcome, words, |words| Ok(watch(command(words))?.0))? {
        outcome.counts.failed -= 1;
        outcome.counts.passed += 1;
        outcome.failed.retain(|failed| *failed != name);
        ledger.flaky.push(format!("{what}: {name}"));
    }
    Ok(ledger.take(&what, outcome, &status.to_string()))
}

/// A command as one test.
fn attempt(name: &str, command: Command, ledger: &mut Ledger) -> anyhow::Result<()> {
    let mut said = Vec::new();
    let status = shell::lines(command, |line| said.push(line.to_owned()))?;
    ledger.test(name, status.success(), &said);
    Ok(())
}

/// Lintian about a package, as one test.
fn lint(name: &str, deb: &Path, ledger: &mut Ledger) -> anyhow::Result<()> {
    if shell::which(package::LINTIAN).is_none() {
        ledger.skip(name, "needs lintian");
        return Ok(());
    }
    attempt(name, package::lint(deb), ledger)
}

/// Runs a command that tests, shows what it prints and counts.
fn count(command: Command, what: &str, ledger: &mut Ledger) -> anyhow::Result<()> {
    let (outcome, status) = watch(command)?;
    ledger.take(what, outcome, &status.to_string());
    Ok(())
}

fn watch(command: Command) -> anyhow::Result<(Outcome, ExitStatus)> {
    let mut reader = Reader::default();
    let status = shell::lines(command, |line| {
        println!("{line}");
        reader.line(line);
    })?;
    Ok((reader.finish(status.success()), status))
}

fn unit(programs: &[Program], options: &Options, ledger: &mut Ledger) -> anyhow::Result<()> {
    for program in programs {
        let whole = program.package != LOOPBACK && program.package != LAB;
        // The libraries of the other tiers have unit tests too.
        if !whole && program.integration {
            continue;
        }
        let ignored = run_program(program, &options.names, &[], ledger)?;
        for (name, reason) in &ignored {
            let elsewhere = match home(program, reason) {
                Home::Helper => true,
                // Counted by the tier that runs it.
                Home::Tier(tier) => options.runs(tier),
                Home::None => false,
            };
            if elsewhere {
                ledger.unskip(name, reason);
            }
        }
    }
    println!("--- documentation");
    let mut command = shell::cargo();
    command
        .args(["test", "--workspace", "--doc", "--no-fail-fast", "--"])
        .args(&options.names);
    count(command, "documentation tests", ledger)?;
    Ok(())
}

/// Where an ignored test runs after all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    /// Another test runs it in a process of its own: no test to count.
    Helper,
    /// A tier that has what it needs.
    Tier(Tier),
    /// Nowhere by itself.
    None,
}

/// Reads the reason of `#[ignore = "needs PROGRAM…"]`, `"needs root…"` or `"run by another test…"`.
fn home(program: &Program, reason: &str) -> Home {
    if reason.starts_with("run by another test") {
        Home::Helper
    } else if program.package == PLATFORM && program.integration && !needs_display(reason) {
        Home::Tier(Tier::Lab)
    } else if reason.starts_with("needs ") {
        Home::Tier(Tier::Loopback)
    } else {
        Home::None
    }
}

/// It needs a window system, and nothing of the lab's kernel.
fn needs_display(reason: &str) -> bool {
    ["Xvfb", "sway", "weston"]
        .iter()
        .any(|program| reason.contains(program))
}

/// What a test with this reason would still need here.
fn unmet(reason: &str) -> Option<String> {
    let needs = reason
        .strip_prefix("needs ")?
        .split([':', ';', '('])
        .next()?;
    let met = needs.split(", ").all(|need| match need.split(' ').next() {
        Some("root") => shell::is_root(),
        Some(program) => shell::which(program).is_some(),
        None => true,
    });
    (!met).then(|| reason.to_owned())
}

fn loopback(programs: &[Program], options: &Options, ledger: &mut Ledger) -> anyhow::Result<()> {
    for program in programs {
        if program.package == LOOPBACK && program.integration {
            run_named(program, options, &[], ledger)?;
        }
    }
    for program in programs {
        if program.package != LOOPBACK && program.package != LAB {
            with_needs(program, options, ledger)?;
        }
    }
    Ok(())
}

/// libtest-mimic takes one name only.
fn run_named(
    program: &Program,
    options: &Options,
    variables: &[(&str, PathBuf)],
    ledger: &mut Ledger,
) -> anyhow::Result<()> {
    if options.names.is_empty() {
        run_program(program, &[], variables, ledger)?;
    }
    for name in &options.names {
        run_program(program, std::slice::from_ref(name), variables, ledger)?;
    }
    Ok(())
}

/// Runs a program's ignored tests whose need is met on this machine.
fn with_needs(program: &Program, options: &Options, ledger: &mut Ledger) -> anyhow::Result<()> {
    let ask = |words: &[String]| shell::output(Command::new(&program.path).args(words));
    let listed = ask(&["--list", "--ignored", "--format=terse"].map(str::to_owned))?;
    let mut words = vec!["--exact".to_owned()];
    words.extend(
        listed
            .lines()
            .filter_map(|line| line.strip_suffix(": test"))
            .filter(|name| {
                options.names.is_empty() || options.names.iter().any(|word| name.contains(word))
            })
            .map(str::to_owned),
    );
    if words.len() == 1 {
        return Ok(());
    }
    // Without --ignored this runs none of them, and says why each is ignored.
    let mut reader = Reader::default();
    ask(&words)?.lines().for_each(|line| reader.line(line));
    let ignored = reader.finish(true).ignored;
    let mut chosen = Vec::new();
    for (name, reason) in ignored {
        if home(program, &reason) != Home::Tier(Tier::Loopback) {
            continue;
        }
        match unmet(&reason) {
            None => chosen.push(name),
            Some(reason) => {
                ledger.counts.skipped += 1;
                ledger.skips.entry(reason).or_default().insert(name);
            }
        }
    }
    if !chosen.is_empty() {
        let words = ["--ignored", "--exact", "--test-threads=1"].map(str::to_owned);
        run_program(program, &[words.to_vec(), chosen].concat(), &[], ledger)?;
    }
    Ok(())
}

fn lab_tier(programs: &[Program], options: &Options, ledger: &mut Ledger) -> anyhow::Result<()> {
    let kernel = match lab::ready()? {
        Some(kernel) => Some(kernel),
        None => {
            println!(
                "The device lab has no kernel yet; building one takes 10 to 15 minutes, once."
            );
            println!(
                "SOFT_KVM_LAB_KERNEL=none skips it, SOFT_KVM_LAB_KERNEL=DIR names a ready one."
            );
            if let Err(error) = lab::build() {
                eprintln!("warning: no lab kernel: {error:#}");
            }
            lab::ready()?
        }
    };
    if let Some(kernel) = &kernel
        && let Err(error) = lab::modules(kernel)
    {
        eprintln!("warning: the lab's own kernel modules are not built: {error:#}");
    }
    if kernel.is_some()
        && let Err(error) = lab::va_driver()
    {
        eprintln!("warning: the lab's virtual VA driver is not built: {error:#}");
    }
    if kernel.is_some()
        && let Err(error) = lab::packages()
    {
        eprintln!("warning: the lab's packages are not made: {error:#}");
    }
    let binaries: Vec<&Path> = programs
        .iter()
        .filter(|program| program.package == PLATFORM && program.integration)
        .map(|program| program.path.as_path())
        .collect();
    let mut variables = vec![(
        "SOFT_KVM_LAB_BINARIES",
        PathBuf::from(std::env::join_paths(binaries)?),
    )];
    variables.extend(kernel.map(|kernel| ("SOFT_KVM_LAB_KERNEL", kernel)));
    let harness: Vec<&Program> = programs
        .iter()
        .filter(|program| program.package == LAB && program.integration)
        .collect();
    if harness.is_empty() {
        bail!("the lab's tests are not built");
    }
    for program in harness {
        run_named(program, options, &variables, ledger)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> BTreeMap<PathBuf, String> {
        BTreeMap::from([(
            PathBuf::from("/x/core/Cargo.toml"),
            "soft-kvm-core".to_owned(),
        )])
    }

    fn message(kind: &str, test: bool, executable: &str) -> String {
        format!(
            r#"{{"reason":"compiler-artifact","manifest_path":"/x/core/Cargo.toml","target":{{"kind":["{kind}"],"name":"t"}},"profile":{{"test":{test}}},"executable":{executable}}}"#
        )
    }

    #[test]
    fn finds_test_programs_only() {
        let found = program(&message("test", true, "\"/x/t-1\""), &names());
        let found = found.expect("a test program is found");
        assert_eq!(found.package, "soft-kvm-core");
        assert_eq!(found.folder, Path::new("/x/core"));
        assert!(found.integration);
        assert!(
            !program(&message("lib", true, "\"/x/t-1\""), &names())
                .expect("found")
                .integration
        );
        for other in [
            message("bin", false, "\"/x/t\""),
            message("bench", true, "\"/x/t\""),
            message("lib", true, "null"),
            "not JSON".to_owned(),
        ] {
            assert_eq!(program(&other, &names()), None, "{other}");
        }
    }

    #[test]
    fn a_failing_program_is_a_failure_whatever_it_prints() {
        let mut ledger = Ledger::default();
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "echo 'running 2 tests' >&2; echo 'test a ... ok'; exit 101",
        ]);
        count(command, "crashing", &mut ledger).expect("it starts");
        assert_eq!(
            ledger.counts,
            Counts {
                passed: 0,
                failed: 1,
                skipped: 0
            }
        );
        assert_eq!(ledger.failures.len(), 1);
    }

    #[test]
    fn reasons_decide_the_tier() {
        let program = |package: &str, integration| Program {
            package: package.to_owned(),
            folder: PathBuf::new(),
            target: String::new(),
            integration,
            path: PathBuf::new(),
            runner: Vec::new(),
        };
        let platform = program(PLATFORM, true);
        assert_eq!(
            home(&platform, "needs Xvfb on the path"),
            Home::Tier(Tier::Loopback)
        );
        assert_eq!(
            home(&platform, "needs wl-copy, sway"),
            Home::Tier(Tier::Loopback)
        );
        assert_eq!(
            home(&platform, "needs the lab: vivid"),
            Home::Tier(Tier::Lab)
        );
        let other = program("soft-kvm-security", false);
        assert_eq!(
            home(&other, "needs root: mounts"),
            Home::Tier(Tier::Loopback)
        );
        assert_eq!(
            home(&other, "run by another test in its process"),
            Home::Helper
        );
        assert_eq!(home(&other, "slow"), Home::None);
    }

    #[test]
    fn needs_name_a_program() {
        assert_eq!(unmet("needs sh (a shell)"), None);
        assert_eq!(unmet("needs sh, env"), None);
        assert!(unmet("needs sh, nothing-like-it").is_some());
        assert_eq!(
            unmet("needs nothing-like-it: x"),
            Some("needs nothing-like-it: x".to_owned())
        );
    }

    #[test]
    fn a_skip_can_be_taken_back() {
        let mut ledger = Ledger::default();
        let mut command = Command::new("printf");
        command
            .arg("test a ... ignored, needs x\ntest result: ok. 1 passed; 0 failed; 1 ignored\n");
        count(command, "printed", &mut ledger).expect("it starts");
        assert_eq!(
            ledger.counts,
            Counts {
                passed: 1,
                failed: 0,
                skipped: 1
            }
        );
        ledger.unskip("a", "needs x");
        assert_eq!(
            ledger.counts,
            Counts {
                passed: 1,
                failed: 0,
                skipped: 0
            }
        );
        assert!(ledger.skips.is_empty());
    }
}
