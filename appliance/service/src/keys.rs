//! `key` and `factory-reset` of both programs: the words, the passphrase, and what is printed.

use std::fs::{self, File};
use std::io::{self, BufRead as _, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context as _, bail, ensure};
use clap::{Args, Subcommand};
use soft_kvm_core::Lang;
use soft_kvm_security::backup::{self, Summary};
use soft_kvm_security::{Fingerprint, Identity, PeerStore, StateDir, factory_reset};
use zeroize::Zeroizing;

use crate::console;

/// Longest passphrase that is read, in bytes.
const MAX_PASSPHRASE: u64 = 4096;

/// What to do with this machine's key.
#[derive(Clone, Debug, Subcommand)]
pub enum KeyCommand {
    /// Show the key's fingerprint, and the earlier keys that vouch for it.
    Show {
        /// Machine-readable output.
        #[arg(long)]
        json: bool,
    },
    /// Make a new key, signed by the old one: whoever has paired follows to it by itself and trusts the old one no more.
    ///
    /// For a key that somebody else may have, this is not enough: revoke it, or reset and pair again.
    Rotate,
    /// Write the key and the pairings to a file, encrypted with a passphrase.
    Backup {
        /// The file; it must not exist.
        file: PathBuf,
        /// Where the passphrase comes from.
        #[command(flatten)]
        passphrase: PassphraseArgs,
    },
    /// Take the key and the pairings from a backup, so that this machine is that one.
    Restore {
        /// The file.
        file: PathBuf,
        /// Where the passphrase comes from.
        #[command(flatten)]
        passphrase: PassphraseArgs,
        /// Put it in place of this machine's own key and pairings.
        #[arg(long)]
        force: bool,
    },
}

/// Where a passphrase comes from.
#[derive(Args, Clone, Debug)]
pub struct PassphraseArgs {
    /// Read the passphrase from the first line of a file, or of standard input (`-`); asked for if left out.
    #[arg(long, value_name = "FILE|-")]
    passphrase_file: Option<PathBuf>,
}

/// What changed, for the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Nothing.
    Nothing,
    /// A new key.
    Rotated(Fingerprint),
    /// Key and pairings of a backup.
    Restored(Fingerprint),
    /// No key and no pairings.
    Reset,
}

/// The program and its state.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// `server` or `client`.
    pub program: &'static str,
    /// Its state folder.
    pub state: &'a StateDir,
    /// It runs now, with the key of its start.
    pub running: bool,
}

impl Place<'_> {
    fn ensure_stopped(&self, lang: Lang) -> anyhow::Result<()> {
        let program = self.program;
        let words = lang.pick("runs: stop it first", "が動いています。先に止めてください");
        ensure!(
            !self.running,
            "soft-kvm-{program} {words} (systemctl stop soft-kvm)"
        );
        Ok(())
    }
}

/// Does it, and prints what was done.
///
/// # Errors
/// In words for the console.
pub fn run(command: &KeyCommand, place: Place<'_>, lang: Lang) -> anyhow::Result<Changed> {
    let Place { program, state, .. } = place;
    match command {
        KeyCommand::Show { json } => {
            show(&Identity::load_or_create(state)?, *json, lang);
            Ok(Changed::Nothing)
        }
        KeyCommand::Rotate => {
            let new = Identity::rotate(state)?.fingerprint();
            let words = lang.pick("New key:", "新しい鍵:");
            console::out(format!("{words} {new}"));
            if place.running {
                let words = lang.pick(
                    "runs with the old one until it starts again",
                    "は再起動するまで古い鍵を使います",
                );
                console::out(format!(
                    "soft-kvm-{program} {words}: systemctl restart soft-kvm"
                ));
            }
            Ok(Changed::Rotated(new))
        }
        KeyCommand::Backup { file, passphrase } => {
            ensure!(!file.exists(), "{}: exists already", file.display());
            let secret = passphrase.read(true, lang)?;
            let at = console::today(UNIX_EPOCH.elapsed().unwrap_or_default());
            let (sealed, summary) = backup::seal(state, program, &at, &secret)?;
            write_new(file, &sealed).with_context(|| file.display().to_string())?;
            let words = lang.pick("Backup of", "バックアップしました:");
            console::out(format!("{words} {}", told(&summary, lang)));
            Ok(Changed::Nothing)
        }
        KeyCommand::Restore {
            file,
            passphrase,
            force,
        } => {
            place.ensure_stopped(lang)?;
            let sealed = read_backup(file).with_context(|| file.display().to_string())?;
            let secret = passphrase.read(false, lang)?;
            let summary = backup::restore(state, program, &sealed, &secret, *force)
                .with_context(|| file.display().to_string())?;
            let words = lang.pick("Restored", "復元しました:");
            console::out(format!("{words} {}", told(&summary, lang)));
            Ok(Changed::Restored(summary.key))
        }
    }
}

/// Forgets key and pairings, after asking unless `yes`.
///
/// # Errors
/// In words for the console.
pub fn reset(yes: bool, place: Place<'_>, lang: Lang) -> anyhow::Result<Changed> {
    place.ensure_stopped(lang)?;
    // A damaged list is no reason to keep it.
    let peers = PeerStore::open(place.state).and_then(|store| store.list());
    let peers = peers.map_or(0, |peers| peers.len());
    if !yes {
        let question = lang.pick(
            "Forget this machine's key and its pairings for good?",
            "このマシンの鍵とペアリングを完全に消しますか?",
        );
        console::prompt(&format!("{question} ({peers}; yes/no) "));
        let mut answer = String::new();
        io::stdin().lock().take(64).read_line(&mut answer)?;
        ensure!(
            ["yes", "はい"].contains(&answer.trim()),
            "{}",
            lang.pick("nothing was changed", "何も変更していません")
        );
    }
    factory_reset(place.state)?;
    console::out(lang.pick(
        "Key and pairings are gone; the next start makes a new key.",
        "鍵とペアリングを消しました。次の起動で新しい鍵ができます。",
    ));
    Ok(Changed::Reset)
}

fn show(identity: &Identity, json: bool, lang: Lang) {
    let (key, before) = (identity.fingerprint(), identity.predecessors());
    if json {
        let before: Vec<_> = before.iter().map(ToString::to_string).collect();
        let shown = serde_json::json!({ "fingerprint": key.to_string(), "predecessors": before });
        console::out(format!("{shown:#}"));
        return;
    }
    console::out(key);
    for key in before {
        console::out(format!("  {} {key}", lang.pick("after", "以前の鍵:")));
    }
}

fn told(summary: &Summary, lang: Lang) -> String {
    let Summary {
        key,
        peers,
        made_at,
    } = summary;
    let (key, pairings) = (key.short(), lang.pick("pairings", "件のペアリング"));
    format!("{key}, {peers} {pairings}, {made_at}")
}

impl PassphraseArgs {
    fn read(&self, twice: bool, lang: Lang) -> anyhow::Result<Zeroizing<String>> {
        let question = lang.pick("Passphrase: ", "パスフレーズ: ");
        match &self.passphrase_file {
            Some(path) if path != Path::new("-") => {
                let line = File::open(path).and_then(|file| first_line(io::BufReader::new(file)));
                line.with_context(|| path.display().to_string())
            }
            None if io::stdin().is_terminal() => {
                let ask = |question| rpassword::prompt_password(question).map(Zeroizing::new);
                let first = ask(question)?;
                if twice && ask(lang.pick("Once more: ", "もう一度: "))? != first {
                    bail!(lang.pick(
                        "the two are not the same",
                        "二つのパスフレーズが一致しません"
                    ));
                }
                Ok(first)
            }
            _ => Ok(first_line(io::stdin().lock())?),
        }
    }
}

fn first_line(source: impl io::BufRead) -> io::Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(String::new());
    source.take(MAX_PASSPHRASE).read_line(&mut line)?;
    let length = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(length);
    Ok(line)
}

/// For the owner only, whole or not at all.
fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    let mut options = File::options();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half a backup is worse than none.
        let _ = fs::remove_file(path);
    }
    written
}

fn read_backup(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let limit = u64::try_from(backup::MAX_LEN).unwrap_or(u64::MAX);
    File::open(path)?
        .take(limit.saturating_add(1))
        .read_to_end(&mut content)?;
    Ok(content)
}
