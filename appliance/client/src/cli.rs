//! What can be said on the command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use soft_kvm_input::{Binding, EdgeRule};
use soft_kvm_service::clients::ClientsCommand;
use soft_kvm_service::keys::KeyCommand;

pub use crate::session::decode::DecoderChoice;
use crate::typing::keyboard::LayoutName;

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

/// Which server, and whose key, for one stream.
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
    /// Server by its name (found by mDNS, then at its last address) or by `HOST` or `HOST:PORT`; several times for
    /// several servers that are all kept connected.
    #[arg(long = "server", short, value_name = "NAME|ADDR")]
    pub servers: Vec<String>,
    /// Folder of the key and the paired servers.
    #[arg(long, value_name = "DIR", env = "SOFT_KVM_CLIENT_STATE")]
    pub state_dir: Option<PathBuf>,
    /// Where the picture goes.
    #[arg(long, value_enum, default_value_t = ViewKind::Window)]
    pub view: ViewKind,
    /// Monitor for `--view kms`, e.g. HDMI-A-1; the first that is connected if left out.
    #[arg(long, value_name = "CONNECTOR")]
    pub screen: Option<String>,
    /// Begin with the figures shown over the picture.
    #[arg(long)]
    pub overlay: bool,
    /// Take keyboards and mice for the server alone: all, none, or /dev/input/eventN (several times).
    ///
    /// LeftCtrl+RightCtrl held together with Esc gives them back at any moment, also when the network hangs.
    #[arg(long, value_name = "all|none|DEVICE", default_value = "none")]
    pub grab: Vec<String>,
    /// Give grabbed devices back after this time unless a chord confirms that all is well (LeftCtrl+RightCtrl+Enter).
    #[arg(long, value_name = "15s", value_parser = seconds)]
    pub trial: Option<Duration>,
    /// Another chord for an action: panic, next, previous, local, keep, a server's number from 1 to 9; or request, grant,
    /// refuse, release, take, where several share a server.
    ///
    /// The default ones are LeftCtrl+RightCtrl with Esc, Tab, Backspace, 0, Enter, 1 to 9; and R, G, N, L, T.
    #[arg(long, value_name = "ACTION=KEY+KEY")]
    pub chord: Vec<Binding>,
    /// Switch when the grabbed mouse is pushed against an edge (left, right, top, bottom), e.g. right=next.
    #[arg(long, value_name = "EDGE=ACTION")]
    pub edge: Vec<EdgeRule>,
    /// What decodes the picture: auto, software, v4l2m2m, optionally with a device (v4l2m2m:/dev/video10).
    ///
    /// Where hardware fails, software goes on.
    #[arg(long, value_name = "DECODER", default_value = "auto")]
    pub decoder: DecoderChoice,
    /// The layout that the server's keyboard has, for typing the clipboard's text (Ctrl+Alt+Shift+V in the window).
    #[arg(long, value_name = "NAME[:VARIANT]", default_value_t)]
    pub layout: LayoutName,
    /// Do not share the clipboard's text with the server that the window shows.
    #[arg(long)]
    pub no_clipboard: bool,
    /// Do not send keys and pointer from the window, nor share the clipboard.
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

/// What to type, and how.
#[derive(Args, Clone, Debug)]
pub struct TypeArgs {
    /// Where.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Text in UTF-8; standard input if left out, or `-`.
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The layout that the target's keyboard has, as for setxkbmap: us, gb, de, fr, jp, es, it, br, se, ch, us:intl, …
    #[arg(long, value_name = "NAME[:VARIANT]", default_value_t)]
    pub layout: LayoutName,
    /// An option of the target's layout, as for `setxkbmap -option`, e.g. compose:ralt (several times).
    #[arg(long, value_name = "OPTION")]
    pub option: Vec<String>,
    /// The locale whose dead keys and compose sequences the target knows; none is without them.
    #[arg(long, value_name = "LOCALE|none", default_value = "en_US.UTF-8")]
    pub compose: String,
    /// Keys in a second, the modifiers' counted too.
    #[arg(long, value_name = "KEYS/S", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rate: u32,
    /// Seconds between plugging the keyboard in and the first key, for the target's programs to find it.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=60))]
    pub wait: u64,
    /// Leave out what the layout cannot type, instead of typing nothing.
    #[arg(long)]
    pub skip_untypable: bool,
    /// Only say what could be typed and how long it takes.
    #[arg(long)]
    pub dry_run: bool,
}

/// `15s` or `15`.
fn seconds(text: &str) -> Result<Duration, String> {
    match text.strip_suffix('s').unwrap_or(text).parse() {
        Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err("a number of seconds from 1 to 86400, e.g. 15s".to_owned()),
    }
}

/// Where the picture goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ViewKind {
    /// Decoded and measured, but not shown.
    None,
    /// A window, under X11 or Wayland.
    #[default]
    Window,
    /// Full screen on a monitor, without a window system: from a text console, with `--grab all`.
    Kms,
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
    /// List a server's paired clients, say what each may do, revoke or rename one; for its admins.
    Clients {
        /// Server by its name or by `HOST` or `HOST:PORT`.
        #[arg(long, short, value_name = "NAME|ADDR", global = true)]
        server: Option<String>,
        /// Folder of the key and the paired servers.
        #[arg(long, value_name = "DIR", env = "SOFT_KVM_CLIENT_STATE", global = true)]
        state_dir: Option<PathBuf>,
        /// What to do.
        #[command(subcommand)]
        command: ClientsCommand,
    },
    /// Show who has a server's keyboard and mouse, and pass them on: for a seat whose client is connected.
    Control {
        /// Server by its name or by `HOST` or `HOST:PORT`.
        #[arg(long, short, value_name = "NAME|ADDR", global = true)]
        server: Option<String>,
        /// Folder of the key and the paired servers.
        #[arg(long, value_name = "DIR", env = "SOFT_KVM_CLIENT_STATE", global = true)]
        state_dir: Option<PathBuf>,
        /// What to do.
        #[command(subcommand)]
        command: ControlCommand,
    },
    /// Type a text on the server with the keys of its layout.
    ///
    /// What the layout cannot type is listed with line and column before anything is typed. Ctrl-C stops with all keys up.
    Type(TypeArgs),
    /// List the keyboards, mice and other input devices that `--grab` can take.
    Devices {
        /// Machine-readable output.
        #[arg(long)]
        json: bool,
    },
    /// Check this machine as a seat, and the way to a server: what is wrong, and the command that mends it. Ends with 1
    /// when something is wrong.
    Doctor {
        /// Which server to look for.
        #[command(flatten)]
        target: TargetArgs,
        /// Machine-readable output.
        #[arg(long)]
        json: bool,
    },
    /// Gives grabbed devices back when the program that took them hangs; started by the client itself.
    #[command(hide = true)]
    Guard,
    /// Puts the screen's old picture back when the program that took it is killed; started by the client itself.
    #[command(hide = true)]
    ScreenKeeper {
        /// The CRTC's number.
        crtc: u32,
        /// The connector's.
        connector: u32,
    },
    /// Show, rotate, back up or restore this machine's key.
    Key {
        /// What to do.
        #[command(subcommand)]
        command: KeyCommand,
        /// Folder of the key and the paired servers.
        #[arg(long, value_name = "DIR", env = "SOFT_KVM_CLIENT_STATE", global = true)]
        state_dir: Option<PathBuf>,
    },
    /// Forget this machine's key and all paired servers for good, as before the first start.
    FactoryReset {
        /// Do not ask.
        #[arg(long)]
        yes: bool,
        /// Folder of the key and the paired servers.
        #[arg(long, value_name = "DIR", env = "SOFT_KVM_CLIENT_STATE")]
        state_dir: Option<PathBuf>,
    },
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Print the manual page (roff).
    Man,
}

/// What to do with keyboard and mouse.
#[derive(Clone, Debug, Subcommand)]
pub enum ControlCommand {
    /// Show who has keyboard and mouse, and who asks for them.
    Show {
        /// Machine-readable output.
        #[arg(long)]
        json: bool,
        /// Go on with every change, until Ctrl-C.
        #[arg(long)]
        follow: bool,
    },
    /// Ask for keyboard and mouse, and wait for the answer; where nobody uses them they come at once.
    Request {
        /// Seconds to wait for the answer.
        #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3_600))]
        wait: u64,
    },
    /// Give keyboard and mouse to one who asks.
    Grant {
        /// Its name, or the first eight or more digits of its fingerprint; the first who has asked if left out.
        client: Option<String>,
    },
    /// Keep keyboard and mouse though one asks.
    Refuse {
        /// Its name, or the first eight or more digits of its fingerprint; the first who has asked if left out.
        client: Option<String>,
    },
    /// Have keyboard and mouse no more, or ask no more.
    Release,
    /// Have keyboard and mouse at once, whoever has them; for admins.
    Take,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_with_and_without_unit() {
        assert_eq!(seconds("15s"), Ok(Duration::from_secs(15)));
        assert_eq!(seconds("15"), Ok(Duration::from_secs(15)));
        assert!(seconds("0s").is_err());
        assert!(seconds("15m").is_err());
    }
}
