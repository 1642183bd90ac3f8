//! What can be said on the command line.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use soft_kvm_core::Size;

use crate::story_cmd::StoryArgs;

/// Shares this machine's screen, keyboard and mouse over the LAN, with latency that is measured.
///
/// Without a subcommand the server runs until Ctrl-C. The first start makes a key and prints a pairing code.
#[derive(Debug, Parser)]
#[command(
    name = "soft-kvm-server",
    version,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to run.
    #[command(flatten)]
    pub run: RunArgs,
}

/// How to run the server.
#[derive(Args, Clone, Debug, Default)]
pub struct RunArgs {
    /// Story (configuration) to run; the built-in one if left out. Read again on SIGHUP and when it changes.
    #[arg(long, value_name = "FILE", env = "SOFT_KVM_STORY")]
    pub story: Option<PathBuf>,
    /// Folder of the key, the paired clients and the control socket.
    #[arg(long, value_name = "DIR", env = "SOFT_KVM_STATE")]
    pub state_dir: Option<PathBuf>,
    /// Video source instead of the story's: auto, v4l2, kms, x11, testcard, optionally with a device (v4l2:/dev/video0).
    #[arg(long, value_name = "DRIVER[:DEVICE]")]
    pub source: Option<String>,
    /// Picture size wanted from the source, instead of the story's.
    #[arg(long, value_name = "WxH")]
    pub size: Option<Size>,
    /// Frames in a second wanted from the source, instead of the story's.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=240))]
    pub fps: Option<u32>,
    /// What the test card shows: typing, scroll, motion, static.
    #[arg(long, value_name = "CONTENT")]
    pub content: Option<String>,
    /// Address to listen on; all interfaces if left out.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<IpAddr>,
    /// TCP and UDP port instead of the story's; 0 takes a free one.
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Port of /metrics instead of the story's; 0 takes a free one.
    #[arg(long, value_name = "PORT")]
    pub metrics_port: Option<u16>,
    /// Open a pairing window at start also when clients are paired already.
    #[arg(long)]
    pub pair: bool,
    /// Do not announce this server by mDNS.
    #[arg(long)]
    pub no_discovery: bool,
    /// Write ports, fingerprint and pairing code as JSON (mode 0600) once everything listens; for scripts.
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Write counters and percentiles as JSON at the end.
    #[arg(long, value_name = "FILE")]
    pub stats_json: Option<PathBuf>,
    /// Stop after this many seconds.
    #[arg(long, value_name = "N")]
    pub seconds: Option<u64>,
}

/// What the server program can do besides running.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List capture devices, encoders and input sinks, what would be chosen, and why others would not.
    Devices {
        /// Machine-readable output.
        #[arg(long)]
        json: bool,
    },
    /// Ask the running server for a pairing code.
    Pair {
        /// The running server's state folder.
        #[arg(long, value_name = "DIR", env = "SOFT_KVM_STATE")]
        state_dir: Option<PathBuf>,
    },
    /// Check, identify, draw or show a story.
    Story(StoryArgs),
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Print the manual page (roff).
    Man,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
