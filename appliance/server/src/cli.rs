//! What can be said on the command line.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use soft_kvm_core::Size;
use soft_kvm_protocol::roles::Role;
use soft_kvm_service::clients::ClientsCommand;
use soft_kvm_service::keys::KeyCommand;

use crate::audit_cmd::AuditArgs;
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
    /// Install this program as a service of this machine: unit, device permissions, folders. Run as root.
    #[arg(long, group = "service")]
    pub install_service: bool,
    /// Take away what --install-service has written; keys, paired clients and stories stay.
    #[arg(long, group = "service")]
    pub uninstall_service: bool,
    /// Root of the system to install into or take away from, e.g. a mounted card.
    #[arg(long, value_name = "DIR", default_value = "/", requires = "service")]
    pub root: PathBuf,
    /// How to run.
    #[command(flatten)]
    pub run: RunArgs,
}

/// How to run the server.
#[derive(Args, Clone, Debug, Default)]
pub struct RunArgs {
    /// Story (configuration) to run; if left out /etc/soft-kvm/story.jsonnet, or the built-in one. Read again on SIGHUP and
    /// when it changes.
    #[arg(long, value_name = "FILE", env = "SOFT_KVM_STORY")]
    pub story: Option<PathBuf>,
    /// Folder of the key, the paired clients and the control socket.
    #[arg(long, value_name = "DIR", env = "SOFT_KVM_STATE")]
    pub state_dir: Option<PathBuf>,
    /// Video source instead of the story's: auto, v4l2, kms, x11, testcard, optionally with a device (v4l2:/dev/video0).
    #[arg(long, value_name = "DRIVER[:DEVICE]")]
    pub source: Option<String>,
    /// Encoder instead of the story's: auto, v4l2m2m, vaapi, openh264, optionally with a device (v4l2m2m:/dev/video11).
    #[arg(long, value_name = "DRIVER[:DEVICE]")]
    pub encoder: Option<String>,
    /// Picture size wanted from the source, instead of the story's.
    #[arg(long, value_name = "WxH")]
    pub size: Option<Size>,
    /// Frames in a second wanted from the source, instead of the story's.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=240))]
    pub fps: Option<u32>,
    /// What the test card shows: typing, scroll, motion, static.
    #[arg(long, value_name = "CONTENT")]
    pub content: Option<String>,
    /// Address to listen on (:: for all); this machine's private addresses if left out.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<IpAddr>,
    /// Also talk to clients behind routers and on public addresses, instead of this machine's own links only.
    #[arg(long)]
    pub allow_routed: bool,
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
    /// Become this user once the devices are in the hands of a broker process; to be started as root.
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// Let the broker that listens at this socket open the devices, instead of this process.
    #[arg(long, value_name = "SOCKET", conflicts_with = "user")]
    pub broker: Option<PathBuf>,
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

/// What the broker goes by: the server's own options.
#[derive(Args, Clone, Debug, Default)]
pub struct BrokerArgs {
    /// The server's story.
    #[arg(long, value_name = "FILE", env = "SOFT_KVM_STORY")]
    pub story: Option<PathBuf>,
    /// Video source instead of the story's.
    #[arg(long, value_name = "DRIVER[:DEVICE]")]
    pub source: Option<String>,
    /// Encoder instead of the story's.
    #[arg(long, value_name = "DRIVER[:DEVICE]")]
    pub encoder: Option<String>,
    /// Answer, instead of keeping a broker alive that does.
    #[arg(long)]
    pub worker: bool,
}

/// What `doctor` looks at.
#[derive(Args, Clone, Debug, Default)]
pub struct DoctorArgs {
    /// Machine-readable output.
    #[arg(long)]
    pub json: bool,
    /// Story that would run; if left out /etc/soft-kvm/story.jsonnet, or the built-in one.
    #[arg(long, value_name = "FILE", env = "SOFT_KVM_STORY")]
    pub story: Option<PathBuf>,
    /// Folder of the key, the paired clients and the control socket.
    #[arg(long, value_name = "DIR", env = "SOFT_KVM_STATE")]
    pub state_dir: Option<PathBuf>,
    /// Video source instead of the story's.
    #[arg(long, value_name = "DRIVER[:DEVICE]")]
    pub source: Option<String>,
    /// TCP and UDP port instead of the story's.
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Port of /metrics instead of the story's.
    #[arg(long, value_name = "PORT")]
    pub metrics_port: Option<u16>,
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
    /// Check this machine as a server: what is wrong, and the command that mends it. Ends with 1 when something is wrong.
    Doctor(DoctorArgs),
    /// Ask the running server for a pairing code.
    Pair {
        /// What the client that pairs may do: view, control or admin. If left out the first one is admin, later ones may
        /// control, and one that was paired before keeps its role.
        #[arg(long)]
        role: Option<Role>,
        /// The running server's state folder.
        #[arg(long, value_name = "DIR", env = "SOFT_KVM_STATE")]
        state_dir: Option<PathBuf>,
    },
    /// List the paired clients, say what each may do, revoke or rename one; the running server obeys at once.
    Clients {
        /// What to do.
        #[command(subcommand)]
        command: ClientsCommand,
        /// The server's state folder.
        #[arg(long, value_name = "DIR", env = "SOFT_KVM_STATE", global = true)]
        state_dir: Option<PathBuf>,
    },
    /// Show who connected, paired, took control and changed what: JSON lines in a chain, so that a missing one shows.
    Audit(AuditArgs),
    /// Check, identify, draw or show a story.
    Story(StoryArgs),
    /// Show, rotate, back up or restore this machine's key.
    Key {
        /// What to do.
        #[command(subcommand)]
        command: KeyCommand,
        /// Folder of the key, the paired clients and the control socket.
        #[arg(long, value_name = "DIR", env = "SOFT_KVM_STATE", global = true)]
        state_dir: Option<PathBuf>,
    },
    /// Forget this machine's key and all paired clients for good, as before the first start.
    FactoryReset {
        /// Do not ask.
        #[arg(long)]
        yes: bool,
        /// Folder of the key, the paired clients and the control socket.
        #[arg(long, value_name = "DIR", env = "SOFT_KVM_STATE")]
        state_dir: Option<PathBuf>,
    },
    /// Open the devices that the story names for the server at the other end of standard input. Started by `--user`, and by
    /// systemd with a socket that listens.
    #[command(hide = true)]
    Broker(BrokerArgs),
    /// Unplug the USB keyboard and mouse when the server at the other end of standard input has died. Started by it.
    #[command(hide = true)]
    GadgetKeeper,
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
