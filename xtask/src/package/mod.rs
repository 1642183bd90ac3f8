//! `cargo xtask package`: a Debian package with both programs. The device lab gets two of the test build's.
//!
//! The texts lie in `packaging/debian/`. The files are staged in a tree and packed by dpkg-deb, so the same programs
//! give the same package, byte for byte.

mod control;
mod notices;
mod stage;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueEnum};
use soft_kvm_benches::programs::{Profile, Programs};

use crate::{metadata, setup, shell};

/// Debian's checker of packages.
pub(crate) const LINTIAN: &str = "lintian";
/// Where the texts lie.
const TEXTS: &str = "packaging/debian";

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// For which machines; this one's kind unless given
    #[arg(long, value_enum)]
    arch: Option<Architecture>,
    /// Where the package goes; target/package unless given
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// What packages are made for, by Debian's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Architecture {
    Amd64,
    Arm64,
}

impl Architecture {
    fn native() -> anyhow::Result<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => bail!("no packages for {other}: name another with --arch"),
        }
    }

    fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// As compilers' names begin.
    fn machine(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    /// `e_machine` of its ELF files.
    fn elf(self) -> u16 {
        match self {
            Self::Amd64 => 62,
            Self::Arm64 => 183,
        }
    }

    fn is_native(self) -> bool {
        self.machine() == std::env::consts::ARCH
    }

    pub(crate) fn triple(self) -> String {
        format!("{}-unknown-linux-gnu", self.machine())
    }

    /// A tool of GNU's for this architecture.
    fn tool(self, name: &str) -> String {
        if self.is_native() {
            name.to_owned()
        } else {
            format!("{}-linux-gnu-{name}", self.machine())
        }
    }

    /// Makes cargo build for it, unless it is this machine's.
    pub(crate) fn cross(self, command: &mut Command) {
        if self.is_native() {
            return;
        }
        command.args(["--target", &self.triple()]);
        let triple = self.triple().replace('-', "_");
        let tools = [
            (self.variable("LINKER"), "gcc"),
            (format!("CC_{triple}"), "gcc"),
            (format!("CXX_{triple}"), "g++"),
            (format!("AR_{triple}"), "ar"),
        ];
        for (variable, tool) in tools {
            if std::env::var_os(&variable).is_none() {
                command.env(variable, self.tool(tool));
            }
        }
    }

    /// The words before a program that make it run here.
    pub(crate) fn runner(self) -> Vec<String> {
        if self.is_native() {
            return Vec::new();
        }
        match std::env::var(self.variable("RUNNER")) {
            Ok(words) => words.split_whitespace().map(str::to_owned).collect(),
            Err(_) => {
                let mut words = vec![format!("qemu-{}-static", self.machine())];
                if let Some(root) = self.cross_libraries() {
                    words.extend(["-L".to_owned(), root.display().to_string()]);
                }
                words
            }
        }
    }

    /// Where Debian's cross compiler has the C library of another architecture than this machine's.
    fn cross_libraries(self) -> Option<PathBuf> {
        (!self.is_native()).then(|| format!("/usr/{}-linux-gnu", self.machine()).into())
    }

    /// The variable that tells cargo something about this architecture.
    fn variable(self, what: &str) -> String {
        let triple = self.triple().replace('-', "_").to_uppercase();
        format!("CARGO_TARGET_{triple}_{what}")
    }
}

/// Builds, packs, and asks lintian where it is installed.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    setup::try_run(setup::Purpose::Package);
    let architecture = options.arch.map_or_else(Architecture::native, Ok)?;
    let work = metadata::read("Cargo.toml")?
        .target_directory
        .join("package");
    let out = match &options.out {
        Some(folder) => std::path::absolute(folder)?,
        None => work.clone(),
    };
    has_tools(architecture)?;
    shell::headline("building");
    let built = build(architecture, Profile::Release, |_| {})?;
    shell::headline("packing");
    let work = work.join(architecture.debian());
    let package = make(architecture, &built, &work, &out, "xz")?;
    shell::headline("checking");
    if shell::which(LINTIAN).is_some() {
        shell::run(&mut lint(&package))?;
    } else {
        println!("{LINTIAN} is not installed: not asked");
    }
    println!("{}", package.display());
    Ok(())
}

/// A package of a test build, where `more` adds to cargo's command. It is not compressed, for it is unpacked once.
pub(crate) fn for_tests(
    architecture: Architecture,
    out: &Path,
    more: impl FnOnce(&mut Command),
) -> anyhow::Result<PathBuf> {
    let built = build(architecture, Profile::Dev, more)?;
    make(architecture, &built, &out.join("work"), out, "none")
}

/// Packs what was built into `out`.
fn make(
    architecture: Architecture,
    built: &Programs,
    work: &Path,
    out: &Path,
    compression: &str,
) -> anyhow::Result<PathBuf> {
    let (content, libraries) = content(architecture, built, work)?;
    let about = control::About {
        version: control::version(&text("changelog")?)?,
        architecture: architecture.debian(),
        libraries,
    };
    let tree = work.join("tree");
    pack(&content, &about, &tree, out, &epoch()?, compression)
}

/// What goes into the package, and the libraries that the programs are linked to.
fn content(
    architecture: Architecture,
    built: &Programs,
    work: &Path,
) -> anyhow::Result<(stage::Content, String)> {
    let programs = [
        ("soft-kvm-server", &built.server),
        ("soft-kvm-client", &built.client),
    ];
    let programs = programs.map(|(name, file)| program(architecture, name, file, work));
    let programs = programs
        .into_iter()
        .collect::<anyhow::Result<Vec<stage::Program>>>()?;
    let files: Vec<_> = programs.iter().map(|one| one.file.as_path()).collect();
    let cross = architecture.cross_libraries().map(|root| root.join("lib"));
    let libraries = control::libraries(architecture.debian(), cross.as_deref(), &files, work)?;
    let content = stage::Content {
        programs,
        notices: notices::collect(&architecture.triple())?,
    };
    Ok((content, libraries))
}

/// The packages that the lab installs, of the programs in the folder `built`: `old.deb`, and `new.deb` with a higher
/// version. They are not compressed, for each is unpacked once. Does nothing while they are newer than what is in them.
pub(crate) fn for_lab(built: &Path, out: &Path) -> anyhow::Result<()> {
    let architecture = Architecture::native()?;
    let built_programs = Programs {
        server: built.join("soft-kvm-server"),
        client: built.join("soft-kvm-client"),
    };
    let mut parts = vec![built_programs.server.clone(), built_programs.client.clone()];
    // What packs may have changed itself. Not by its own path: building the tests puts another file there.
    parts.push(built.join("xtask"));
    parts.extend(stage::sources());
    parts.extend(
        stage::files(&shell::root().join(TEXTS))?
            .into_iter()
            .map(|file| shell::root().join(TEXTS).join(file)),
    );
    let newest = parts
        .iter()
        .map(|file| modified(file))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let made = modified(&out.join("new.deb")).ok();
    if made.is_some() && made >= newest.into_iter().max() {
        return Ok(());
    }
    let work = out.join("work");
    let (content, libraries) = content(architecture, &built_programs, &work)?;
    let version = control::version(&text("changelog")?)?;
    for (name, behind) in [("old.deb", "~lab1"), ("new.deb", "~lab2")] {
        let about = control::About {
            version: format!("{version}{behind}"),
            architecture: architecture.debian(),
            libraries: libraries.clone(),
        };
        let package = pack(
            &content,
            &about,
            &work.join("tree"),
            &work,
            &epoch()?,
            "none",
        )?;
        fs::rename(&package, out.join(name))
            .with_context(|| format!("moving {}", package.display()))?;
    }
    Ok(())
}

fn modified(file: &Path) -> anyhow::Result<SystemTime> {
    let read = fs::metadata(file).and_then(|about| about.modified());
    read.with_context(|| format!("reading {}", file.display()))
}

/// Another architecture's tools are not installed by themselves: they are large.
pub(crate) fn has_tools(architecture: Architecture) -> anyhow::Result<()> {
    if architecture.is_native() {
        return Ok(());
    }
    let missing = ["gcc", "g++", "strip"].map(|name| architecture.tool(name));
    let missing: Vec<_> = missing
        .into_iter()
        .filter(|tool| shell::which(tool).is_none())
        .collect();
    // As Debian writes it in names of packages.
    let machine = architecture.machine().replace('_', "-");
    ensure!(
        missing.is_empty(),
        "{} not found: install gcc-{machine}-linux-gnu, g++-{machine}-linux-gnu and qemu-user-static, and run \
         'rustup target add {}'",
        missing.join(", "),
        architecture.triple()
    );
    Ok(())
}

/// Builds both programs; `more` adds to cargo's command.
fn build(
    architecture: Architecture,
    profile: Profile,
    more: impl FnOnce(&mut Command),
) -> anyhow::Result<Programs> {
    let programs = Programs::build_with(profile, |command| {
        architecture.cross(command);
        more(command);
    })?;
    for file in [&programs.server, &programs.client] {
        let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        let found = bytes.get(18..20).and_then(|field| field.try_into().ok());
        ensure!(
            bytes.starts_with(b"\x7fELF")
                && found.map(u16::from_le_bytes) == Some(architecture.elf()),
            "{} is no program for {}",
            file.display(),
            architecture.debian()
        );
    }
    Ok(programs)
}

/// A program without its symbols, and what it tells of itself.
fn program(
    architecture: Architecture,
    name: &'static str,
    file: &Path,
    work: &Path,
) -> anyhow::Result<stage::Program> {
    fs::create_dir_all(work)?;
    let stripped = work.join(name);
    shell::run(
        Command::new(architecture.tool("strip"))
            .args(["--strip-all", "--remove-section=.comment", "-o"])
            .args([&stripped, file]),
    )?;
    stage::Program::ask(name, stripped, &architecture.runner())
}

/// The time of the last commit, unless the environment gives one.
fn epoch() -> anyhow::Result<String> {
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        return Ok(epoch);
    }
    let git = shell::output(Command::new("git").current_dir(shell::root()).args([
        "log",
        "-1",
        "--format=%ct",
    ]));
    let epoch = git.context("no time of a commit: set SOURCE_DATE_EPOCH")?;
    Ok(epoch.trim().to_owned())
}

/// Stages everything in a new folder `tree` and packs it into `out`.
fn pack(
    content: &stage::Content,
    about: &control::About,
    tree: &Path,
    out: &Path,
    epoch: &str,
    compression: &str,
) -> anyhow::Result<PathBuf> {
    if tree.exists() {
        fs::remove_dir_all(tree).with_context(|| format!("emptying {}", tree.display()))?;
    }
    stage::stage(content, tree)?;
    control::write(about, tree)?;
    fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
    let name = format!("soft-kvm_{}_{}.deb", about.version, about.architecture);
    let package = out.join(name);
    shell::output(
        Command::new("dpkg-deb")
            .args(["--root-owner-group", &format!("-Z{compression}"), "--build"])
            .args([tree, &package])
            .env("SOURCE_DATE_EPOCH", epoch)
            // The number of threads shows in what xz writes.
            .env("DPKG_DEB_THREADS_MAX", "1"),
    )?;
    Ok(package)
}

/// Lintian's errors are ours, but those of the packages of tests: they are not compressed.
pub(crate) fn lint(package: &Path) -> Command {
    const NOT_COMPRESSED: &str =
        "uses-no-compression-for-control-tarball,uses-no-compression-for-data-tarball";
    let mut command = Command::new(LINTIAN);
    command.args(["--allow-root", "--fail-on", "error"]);
    command.args(["--suppress-tags", NOT_COMPRESSED]);
    command.arg(package).env("LC_ALL", "C.UTF-8");
    command
}

/// One of the texts.
fn text(name: &str) -> anyhow::Result<String> {
    let path = Path::new(TEXTS).join(name);
    fs::read_to_string(shell::root().join(&path))
        .with_context(|| format!("reading {}", path.display()))
}
