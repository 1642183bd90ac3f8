//! Asks the programs that can read the rules.

use std::io;
use std::process::Command;

use super::super::Machine;
use super::{Chains, iptables, nft};

/// Why rules cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Not by this user.
    Denied,
    /// The program is not installed.
    NoProgram,
    /// Another reason.
    Other(String),
}

/// What the programs say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readings {
    /// `nft -j list ruleset`.
    pub nft: Result<String, Unreadable>,
    /// `iptables-save`.
    pub iptables: Result<String, Unreadable>,
    /// `ip6tables-save`.
    pub ip6tables: Result<String, Unreadable>,
    /// Whether the kernel has rules of the older kind, which nft does not list.
    pub legacy: bool,
}

impl Readings {
    /// Asks them.
    #[must_use]
    pub fn ask(machine: &Machine) -> Self {
        let names = |file: &str| machine.word(&format!("/proc/net/{file}"));
        let some = |file: &str| names(file).is_some_and(|names| !names.is_empty());
        let (old4, old6) = (some("ip_tables_names"), some("ip6_tables_names"));
        let save = |program: &'static str, legacy: &'static str, old: bool| {
            ask(if old { legacy } else { program }, &[])
        };
        Self {
            nft: ask("nft", &["-j", "list", "ruleset"]),
            iptables: save("iptables-save", "iptables-legacy-save", old4),
            ip6tables: save("ip6tables-save", "ip6tables-legacy-save", old6),
            legacy: old4 || old6,
        }
    }

    /// All chains. What nft cannot name in rules of iptables, iptables says itself.
    pub(super) fn chains(&self) -> Result<Chains, Unreadable> {
        let (mut chains, foreign) = match &self.nft {
            Ok(text) => nft::parse(text).map_err(Unreadable::Other)?,
            Err(Unreadable::NoProgram) => {
                if let Err(why) = &self.iptables {
                    return Err(why.clone());
                }
                (Chains::new(), true)
            }
            Err(why) => return Err(why.clone()),
        };
        if foreign || self.legacy {
            for (saved, v6) in [(&self.iptables, false), (&self.ip6tables, true)] {
                if let Ok(text) = saved {
                    iptables::parse(text, v6, &mut chains);
                }
            }
        }
        Ok(chains)
    }
}

fn ask(program: &str, words: &[&str]) -> Result<String, Unreadable> {
    // Not in the path of users on Debian.
    let folders = ["", "/usr/sbin/", "/sbin/"];
    let asked = folders.iter().find_map(|folder| {
        let mut command = Command::new(format!("{folder}{program}"));
        match command.args(words).env("LC_ALL", "C").output() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            asked => Some(asked),
        }
    });
    let output = match asked {
        None => return Err(Unreadable::NoProgram),
        Some(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(Unreadable::Denied);
        }
        Some(Err(error)) => return Err(Unreadable::Other(format!("{program}: {error}"))),
        Some(Ok(output)) => output,
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if ["not permitted", "ermission denied", "must be root"]
        .iter()
        .any(|word| said.contains(word))
    {
        return Err(Unreadable::Denied);
    }
    let line = said.lines().next().unwrap_or_default();
    Err(Unreadable::Other(format!("{program}: {line}")))
}
