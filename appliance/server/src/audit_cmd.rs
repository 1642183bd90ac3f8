//! `soft-kvm-server audit`: shows, follows and verifies the audit log.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use soft_kvm_core::Lang;
use soft_kvm_security::audit::AuditLog;
use soft_kvm_service::console;

use crate::control::local;

/// Time between two looks at a log that is followed.
const LOOK: Duration = Duration::from_millis(300);

/// What to do with the log.
#[derive(Args, Clone, Debug)]
pub struct AuditArgs {
    /// Check that no line was changed or taken out, instead of showing them.
    #[arg(long, conflicts_with = "follow")]
    verify: bool,
    /// Go on with what is written from now on, until Ctrl-C.
    #[arg(long)]
    follow: bool,
    /// The server's state folder.
    #[arg(long, value_name = "DIR", env = "SOFT_KVM_STATE")]
    state_dir: Option<PathBuf>,
}

/// Prints the lines as they are (JSON), or what the check found.
///
/// # Errors
/// There is no log, it cannot be read, or it is not whole.
pub fn run(args: &AuditArgs, lang: Lang) -> anyhow::Result<()> {
    let path = console::state_path(args.state_dir.as_deref(), "server")?;
    let log = AuditLog::new(&local::used_state(&path)?);
    if args.verify {
        let whole = log.verify()?;
        let (first, last) = (whole.first, whole.head.n);
        let words = lang.pick("lines, whole from", "行、完全です。範囲:");
        let count = if last == 0 { 0 } else { last - first + 1 };
        console::out(format!("{count} {words} {first}–{last}"));
        console::out(whole.head.digits());
        return Ok(());
    }
    let mut follower = log.follow();
    loop {
        for line in follower.read()? {
            console::out(line);
        }
        if !args.follow {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
}
