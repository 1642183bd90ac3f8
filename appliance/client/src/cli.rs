//! What can be said on the command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Finds, shows and controls machines that run soft-kvm-server, and measures every stage.
///
/// `soft-kvm-client --server NAME` opens a window with the picture; keyboard and mouse go to the server while the
/// window has the focus. With `--grab` the operator's devices themselves are taken, on a text console too.
#[derive(Debug, Parser)]
#[command(
    name = "soft-kvm-client",
    version,
    args_conflicts_with_subcommands = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// What to do instead of connecting.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to connect.
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// Which server, and whose key.
#[derive(Args, Clone, Debug, Default)]
pub struct TargetArgs {
    /// Server by its name (found by mDNS, then at its last address) or by `HOST` or `HOST:PORT`.
    #[arg(long, short, value_name = "NAME|ADDR")]
    pub server: Option<String>,
    /// Folder of the key and the paired servers.
    #[arg(long, value_name = "DIR", env = "SOFT_KVM_CLIENT_STATE")]
    pub state_dir: Option<PathBuf>,
}

/// How to show and control.
#[derive(Args, Clone, Debug, Default)]
pub struct ConnectArgs {
    /// Which server.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Where the picture goes.
    #[arg(long, value_enum, default_value_t = ViewKind::Window)]
    pub view: ViewKind,
    /// Take keyboards and mice for the server alone: all, none, or /dev/input/eventN (several times).
    ///
    /// LeftCtrl+RightCtrl held together with Esc gives them back at any moment, also when the network hangs.
    #[arg(long, value_name = "all|none|DEVICE", default_value = "none")]
    pub grab: Vec<String>,
    /// Do not send keys and pointer from the window.
    #[arg(long)]
    pub view_only: bool,
    /// Stop after this many seconds.
    #[arg(long, value_name = "N")]
    pub seconds: Option<u64>,
    /// Give up when the connection is lost instead of connecting again.
    #[arg(long)]
    pub once: bool,
    /// Write counters and percentiles as JSON at the end.
    #[arg(long, value_name = "FILE")]
    pub stats_json: Option<PathBuf>,
    /// Record the stream as it came, without encoding it again.
    #[arg(long, value_name = "FILE.mp4")]
    pub record: Option<PathBuf>,
    /// Write the first complete picture as PNG.
    #[arg(long, value_name = "FILE.png")]
    pub screenshot: Option<PathBuf>,
    /// Overwrite existing recordings and screenshots.
    #[arg(long)]
    pub force: bool,
    /// Type and move by itself at this rate, and measure until the test card shows it.
    #[arg(long, value_name = "HZ", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub probe_input: Option<u32>,
}

/// Where the picture goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ViewKind {
    /// Decoded and measured, but not shown.
    None,
    /// A window, under X11 or Wayland.
    #[default]
    Window,
}

/// What the client program can do besides connecting.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the servers on this network.
    Discover {
        /// Machine-readable output.
        #[arg(long)]
        json: bool,
        /// How long to listen for answers.
        #[arg(long, value_name = "N", default_value_t = 2)]
        seconds: u64,
    },
    /// Exchange keys with a server, by the code that it shows.
    Pair {
        /// Name or address of the server.
        server: String,
        /// The six digits, for scripts; asked for if left out.
        #[arg(long)]
        code: Option<String>,
        /// Folder of the key and the paired servers.
        #[arg(long, value_name = "DIR", env = "SOFT_KVM_CLIENT_STATE")]
        state_dir: Option<PathBuf>,
    },
    /// Send the decrypted RTP and RTCP to a local port, for any player, recorder or analyser.
    Relay {
        /// Which server.
        #[command(flatten)]
        target: TargetArgs,
        /// Where RTP goes; RTCP goes to the port after it.
        #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:5004")]
        rtp: SocketAddr,
        /// Write the session description here, once the stream's parameters are known.
        #[arg(long, value_name = "FILE")]
        sdp: PathBuf,
        /// Stop after this many seconds.
        #[arg(long, value_name = "N")]
        seconds: Option<u64>,
    },
    /// List the keyboards, mice and other input devices that `--grab` can take.
    Devices {
        /// Machine-readable output.
        #[arg(long)]
        json: bool,
    },
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
