//! What is wrong with a machine, and the command that mends it: the findings of `doctor`.
//!
//! Checks are pure: facts in, findings out. [`Machine`] reads the facts from `/proc`, `/sys`, `/dev` and `/etc` under
//! a root that tests replace.

pub mod access;
pub mod clock;
pub mod firewall;
pub mod lock_in;
mod machine;
pub mod modules;
pub mod network;
pub mod ports;
pub mod state;

use serde::Serialize;
use soft_kvm_core::Lang;

pub use machine::{Access, Machine, Node};

use crate::console;

/// How one thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    Ok,
    /// Could not be read from here.
    NotCheckable,
    /// Works, but worse than it could.
    Warning,
    /// Does not work.
    Wrong,
}

impl State {
    /// The word for people, as wide as the others.
    const fn word(self, lang: Lang) -> &'static str {
        match (self, lang) {
            (Self::Ok, Lang::English) => "ok           ",
            (Self::NotCheckable, Lang::English) => "not checkable",
            (Self::Warning, Lang::English) => "warning      ",
            (Self::Wrong, Lang::English) => "wrong        ",
            (Self::Ok, Lang::Japanese) => "正常    ",
            (Self::NotCheckable, Lang::Japanese) => "確認不可",
            (Self::Warning, Lang::Japanese) => "注意    ",
            (Self::Wrong, Lang::Japanese) => "異常    ",
        }
    }
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was checked: a fixed name, for scripts.
    pub check: &'static str,
    /// How it is.
    pub state: State,
    /// What is so, or what is wrong and why, in the operator's language.
    pub message: String,
    /// The command that mends it.
    pub mend: Option<String>,
}

impl Finding {
    /// A finding without a command.
    #[must_use]
    pub fn new(check: &'static str, state: State, message: impl Into<String>) -> Self {
        Self {
            check,
            state,
            message: message.into(),
            mend: None,
        }
    }

    /// With the command that mends it.
    #[must_use]
    pub fn mend(self, command: impl Into<String>) -> Self {
        Self {
            mend: Some(command.into()),
            ..self
        }
    }
}

/// Who reads the findings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// The language.
    pub lang: Lang,
    /// Whether commands run as root without `sudo`.
    pub root: bool,
}

impl Reader {
    /// The text in the reader's language.
    #[must_use]
    pub fn say(&self, english: impl Into<String>, japanese: impl Into<String>) -> String {
        match self.lang {
            Lang::English => english.into(),
            Lang::Japanese => japanese.into(),
        }
    }

    /// A command written with `sudo`; root needs none, and may not even have it.
    #[must_use]
    pub fn command(&self, command: &str) -> String {
        if self.root {
            command.replace("sudo ", "")
        } else {
            command.to_owned()
        }
    }
}

/// The command that asks again as root; `name` is the program's where the system does not tell its path.
#[must_use]
pub fn as_root(name: &str) -> String {
    let program = std::env::current_exe().unwrap_or_else(|_| name.into());
    format!("sudo {} doctor", quoted(&program.to_string_lossy()))
}

/// A word as the shell takes it.
#[must_use]
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// All findings of one program.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Which program asked.
    pub program: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The worst state of all findings.
    pub state: State,
    /// In the order in which they are checked.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Sums findings up.
    #[must_use]
    pub fn new(program: &'static str, version: &'static str, findings: Vec<Finding>) -> Self {
        let worst = findings.iter().map(|finding| finding.state).max();
        Self {
            program,
            version,
            state: worst.unwrap_or(State::Ok),
            findings,
        }
    }

    /// Whether anything does not work.
    #[must_use]
    pub fn is_wrong(&self) -> bool {
        self.state == State::Wrong
    }

    /// Prints it.
    ///
    /// # Errors
    /// Only when it cannot be written as JSON.
    pub fn print(&self, json: bool, lang: Lang) -> Result<(), serde_json::Error> {
        if json {
            console::out(serde_json::to_string_pretty(self)?);
        } else {
            console::out(self.text(lang));
        }
        Ok(())
    }

    fn text(&self, lang: Lang) -> String {
        let mut lines = Vec::new();
        for finding in &self.findings {
            let (word, check) = (finding.state.word(lang), finding.check);
            lines.push(format!("{word}  {check:<12} {}", finding.message));
            if let Some(mend) = &finding.mend {
                lines.push(format!("{}  {:<12} $ {mend}", " ".repeat(width(lang)), ""));
            }
        }
        let count = |state| self.findings.iter().filter(|f| f.state == state).count();
        let (wrong, warnings) = (count(State::Wrong), count(State::Warning));
        lines.push(match lang {
            Lang::English => format!("{wrong} wrong, {warnings} to look at; lines with $ mend."),
            Lang::Japanese => {
                format!("異常 {wrong} 件、注意 {warnings} 件。$ の行のコマンドで直せます。")
            }
        });
        lines.join("\n")
    }
}

/// Columns of [`State::word`] on a terminal.
const fn width(lang: Lang) -> usize {
    match lang {
        Lang::English => 13,
        Lang::Japanese => 8,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Asks a check in both languages: same findings and commands, other words.
    pub(crate) fn in_both(check: impl Fn(&Reader) -> Vec<Finding>) -> Vec<Finding> {
        let ask = |lang| check(&Reader { lang, root: false });
        let (english, japanese) = (ask(Lang::English), ask(Lang::Japanese));
        assert_eq!(english.len(), japanese.len());
        for (one, other) in english.iter().zip(&japanese) {
            assert_eq!((one.check, one.state), (other.check, other.state));
            assert_eq!(one.mend, other.mend);
            assert!(
                one.message.is_ascii() && !other.message.is_ascii(),
                "{one:?} {other:?}"
            );
        }
        english
    }

    #[test]
    fn the_worst_finding_is_the_result() {
        let report = |states: &[State]| {
            let findings = states.iter().map(|state| Finding::new("x", *state, "y"));
            Report::new("p", "1", findings.collect())
        };
        assert!(!report(&[]).is_wrong());
        assert!(!report(&[State::Ok, State::Warning, State::NotCheckable]).is_wrong());
        assert!(report(&[State::Ok, State::Wrong, State::Warning]).is_wrong());
        assert_eq!(
            report(&[State::NotCheckable, State::Warning]).state,
            State::Warning
        );
    }

    #[test]
    fn text_has_the_command_below_its_finding() {
        let finding =
            Finding::new("uinput", State::Wrong, "no module").mend("sudo modprobe uinput");
        let report = Report::new("p", "1", vec![finding]);
        let text = report.text(Lang::English);
        let lines: Vec<_> = text.lines().collect();
        assert!(
            lines[0].starts_with("wrong          uinput       no module"),
            "{text}"
        );
        assert!(lines[1].ends_with("$ sudo modprobe uinput"), "{text}");
        assert!(report.text(Lang::Japanese).starts_with("異常"));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["state"], "wrong");
        assert_eq!(json["findings"][0]["mend"], "sudo modprobe uinput");
    }

    #[test]
    fn commands_for_root_need_no_sudo_and_names_are_quoted() {
        let reader = Reader {
            lang: Lang::English,
            root: true,
        };
        assert_eq!(reader.command("echo x | sudo tee y"), "echo x | tee y");
        assert_eq!(quoted("/var/lib/x-1"), "/var/lib/x-1");
        assert_eq!(quoted("it's a $HOME"), r"'it'\''s a $HOME'");
    }
}
