//! Loading a story within limits, and `soft-kvm-server story check|id|dot|show [FILE]`.
//!
//! Jsonnet is a programming language: a story can loop for ever or fill the memory. So a user's file is evaluated by this
//! same executable in a child process under limits, in the role that [`maybe_run_as_evaluator`] plays.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use soft_kvm_core::Lang;
use soft_kvm_core::story::{
    Evaluated, MAX_VALUE, Story, StoryError, StoryErrors, Text, canonical, evaluate,
};
use soft_kvm_platform::os::confine::{self, ConfineError, Limits};

/// The environment variable that makes this executable the evaluator.
const ROLE: &str = "SOFT_KVM_EVAL";

/// An error within a second and 256 MB, with room for starting and ending the child. On a machine so busy that the child
/// hardly gets a processor, a story that is right still loads.
const LIMITS: Limits = Limits {
    memory: 200 * 1024 * 1024,
    cpu: Duration::from_millis(900),
    wall: Duration::from_secs(10),
    // The value, and the names of its files.
    output: 4 * MAX_VALUE,
};

/// Check, identify, draw or show a story.
#[derive(Args, Clone, Debug)]
pub struct StoryArgs {
    /// What to do with the story.
    #[command(subcommand)]
    pub command: StoryCommand,
}

/// What to do with a story.
#[derive(Clone, Debug, Subcommand)]
pub enum StoryCommand {
    /// Say "ok" and the root id, or everything that is wrong with file, line and a hint.
    Check {
        /// The story; the built-in one if left out.
        file: Option<PathBuf>,
    },
    /// Print the root id, which is equal on every machine that runs an equal network.
    Id {
        /// The story; the built-in one if left out.
        file: Option<PathBuf>,
        /// Print each node's id too.
        #[arg(long)]
        nodes: bool,
    },
    /// Draw the network for Graphviz: `… story dot | dot -Tsvg >story.svg`.
    Dot {
        /// The story; the built-in one if left out.
        file: Option<PathBuf>,
    },
    /// Print the story as JSON with everything imported and every default filled in.
    Show {
        /// The story; the built-in one if left out.
        file: Option<PathBuf>,
        /// Print canonical JSON (RFC 8785) on one line.
        #[arg(long)]
        canonical: bool,
    },
}

/// A story and the files it was made from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The checked story.
    pub story: Story,
    /// The story's file first, then what it imported; empty for the built-in story. Load again when one changes.
    pub files: Vec<PathBuf>,
}

/// Plays the evaluator and ends the process, if this process was started for it. Call it first in `main`, before any
/// thread exists.
pub fn maybe_run_as_evaluator() {
    if std::env::var_os(ROLE).is_none_or(|value| value != "1") {
        return;
    }
    // Without limits nothing is evaluated.
    if LIMITS.enter().is_err() {
        std::process::exit(2);
    }
    let path = std::env::args_os().nth(1).map(PathBuf::from);
    let answer = evaluate(&path.unwrap_or_default());
    let written = serde_json::to_vec(&answer)
        .map_err(io::Error::from)
        .and_then(|json| io::stdout().write_all(&json));
    std::process::exit(if written.is_ok() { 0 } else { 2 });
}

/// Loads a user's story, or the built-in one. Takes at most a second of processor time.
///
/// # Errors
///
/// Everything that is wrong with it, or that it takes more than it may.
pub fn load(path: Option<&Path>) -> Result<Story, StoryErrors> {
    load_with_files(path).map(|loaded| loaded.story)
}

/// As [`load`], with the files to watch.
///
/// # Errors
///
/// As [`load`].
pub fn load_with_files(path: Option<&Path>) -> Result<Loaded, StoryErrors> {
    let Some(path) = path else {
        return Ok(Loaded {
            story: Story::embedded(),
            files: Vec::new(),
        });
    };
    load_by(&confine::own_executable(), path)
}

/// Loads a user's story with `evaluator` as the executable that evaluates it.
fn load_by(evaluator: &Path, path: &Path) -> Result<Loaded, StoryErrors> {
    let shown = path.display().to_string();
    let refuse = |(what, hint)| StoryErrors::one(StoryError::in_file(&shown, what, hint));
    let output = confine::run(evaluator, ROLE, OsStr::new(path), &LIMITS)
        .map_err(|error| refuse(explain(&error)))?;
    let answer: Result<Evaluated, StoryErrors> =
        serde_json::from_slice(&output).map_err(|error| {
            let what = Text::new(
                format!("the evaluator's answer can't be read: {error}"),
                format!("評価プロセスの答えを読めません: {error}"),
            );
            refuse((what, None))
        })?;
    let Evaluated { value, files } = answer?;
    // Checked again here: the child's word is not enough.
    let story = Story::from_value(&value, &shown)?;
    Ok(Loaded { story, files })
}

fn explain(error: &ConfineError) -> (Text, Option<Text>) {
    let endless = || {
        Some(Text::new(
            "look for a recursion, a comprehension or a std.repeat without a bound",
            "終わりのない再帰、内包表記、std.repeat などがないか調べてください",
        ))
    };
    match error {
        ConfineError::Cpu(limit) => {
            let limit = limit.as_millis();
            let what = Text::new(
                format!("takes more than {limit} ms of processor time to evaluate"),
                format!("評価に CPU 時間が {limit} ミリ秒より多くかかります"),
            );
            (what, endless())
        }
        ConfineError::Wall(limit) => {
            let limit = limit.as_secs();
            let what = Text::new(
                format!("was not evaluated within {limit} s"),
                format!("{limit} 秒以内に評価が終わりませんでした"),
            );
            let hint = Text::new(
                "look whether the file and what it imports can be read, and whether this machine is overloaded",
                "ファイルとそのインポート先が読めるか、マシンが過負荷でないか調べてください",
            );
            (what, Some(hint))
        }
        ConfineError::Ended { memory, status } => {
            let limit = memory / (1024 * 1024);
            let what = Text::new(
                format!(
                    "takes more than {limit} MiB to evaluate, or broke the evaluator ({status})"
                ),
                format!(
                    "評価に {limit} MiB より多くのメモリが要るか、評価プロセスが壊れました ({status})"
                ),
            );
            (what, endless())
        }
        ConfineError::Output(limit) => {
            let what = Text::new(
                format!("evaluates to more than {limit} bytes"),
                format!("評価結果が {limit} バイトを超えます"),
            );
            (what, None)
        }
        ConfineError::Run { .. } => {
            let what = Text::new(
                format!("the evaluator does not start: {error}"),
                format!("評価プロセスを起動できません: {error}"),
            );
            (what, None)
        }
    }
}

/// Runs the subcommand. Exit code 1 means that the story is wrong.
#[must_use]
pub fn run(args: &StoryArgs, lang: Lang) -> ExitCode {
    let file = match &args.command {
        StoryCommand::Check { file }
        | StoryCommand::Id { file, .. }
        | StoryCommand::Dot { file }
        | StoryCommand::Show { file, .. } => file.as_deref(),
    };
    // A reader that stops reading, such as `head`, is no failure of ours, so results of writing are not looked at.
    match load(file) {
        Ok(story) => {
            let _ = io::stdout().write_all(answer(&args.command, &story, lang).as_bytes());
            ExitCode::SUCCESS
        }
        Err(errors) => {
            let _ = writeln!(io::stderr(), "{}", errors.render(lang));
            ExitCode::from(1)
        }
    }
}

fn answer(command: &StoryCommand, story: &Story, lang: Lang) -> String {
    match command {
        StoryCommand::Check { .. } => {
            let (nodes, root) = (story.nodes().len(), story.root());
            match lang {
                Lang::English => format!("ok: {nodes} nodes, root {root}\n"),
                Lang::Japanese => format!("ok: ノード {nodes} 個、ルート {root}\n"),
            }
        }
        StoryCommand::Id { nodes, .. } => {
            let mut text = format!("{}\n", story.root());
            if *nodes {
                for node in story.nodes() {
                    text.push_str(&format!("{} {} {}\n", node.id(), node.kind(), node.name()));
                }
            }
            text
        }
        StoryCommand::Dot { .. } => story.to_dot(),
        StoryCommand::Show {
            canonical: true, ..
        } => {
            format!("{}\n", canonical(&story.to_value()))
        }
        // `{:#}` of a JSON value is its indented text.
        StoryCommand::Show { .. } => format!("{:#}\n", story.to_value()),
    }
}
