//! How a benchmark ends: the lines of the goals, and all figures in a file.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use crate::goals::Outcome;

/// The options that the benchmarks of the goals share.
#[derive(Clone, Debug, Args)]
pub struct Ending {
    /// End with the lines of the goals.
    #[arg(long)]
    p99: bool,
    /// Write all figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Ending {
    /// Prints the goals if that was asked for, under a heading that may be empty.
    pub fn print(&self, heading: &str, outcomes: &[Outcome]) {
        if !self.p99 {
            return;
        }
        println!();
        if !heading.is_empty() {
            println!("{heading}");
        }
        for outcome in outcomes {
            println!("{outcome}");
        }
    }

    /// Writes the report if that was asked for.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, report: &impl Serialize) -> anyhow::Result<()> {
        let Some(path) = &self.json else {
            return Ok(());
        };
        fs::write(path, serde_json::to_string_pretty(report)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))
    }
}
