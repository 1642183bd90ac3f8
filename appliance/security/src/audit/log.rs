//! The audit log's files: the newest lines, older ones beside them, and the head.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::{Broken, Event, Head, MAX_LINE, check, seal};
use crate::{StateDir, StateError, mode};

const FILE: &str = "audit.jsonl";
const HEAD: &str = "audit.head";
const LOCK: &str = "audit.lock";
/// From this size on a file is put aside, in bytes.
const ROTATE: u64 = 1024 * 1024;
/// How many are kept aside.
const KEPT: u32 = 8;

/// The log in a state folder; several processes may append.
#[derive(Clone, Debug)]
pub struct AuditLog {
    state: StateDir,
    rotate: u64,
}

/// What [`AuditLog::verify`] found to be whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole {
    /// The oldest line that is kept.
    pub first: u64,
    /// The newest.
    pub head: Head,
}

/// Why a log cannot be trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// A line.
    #[error("{path}, line {line}: {broken}")]
    Line {
        /// Its file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        broken: Broken,
    },
    /// The oldest lines are missing.
    #[error("{path}: the oldest lines are missing: the log begins with number {first}")]
    Start {
        /// The newest file.
        path: PathBuf,
        /// The first number.
        first: u64,
    },
    /// The newest lines are missing.
    #[error(
        "{path}: the newest lines are missing: it ends with number {n}, and {head} have been written"
    )]
    End {
        /// The newest file.
        path: PathBuf,
        /// Its last number.
        n: u64,
        /// The last number that was written.
        head: u64,
    },
    /// The files cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
}

impl AuditLog {
    /// The log in `state`.
    #[must_use]
    pub fn new(state: &StateDir) -> Self {
        Self {
            state: state.clone(),
            rotate: ROTATE,
        }
    }

    /// Writes events that happened at `at` (a time for people), through to the disk, and gives the head after them.
    ///
    /// # Errors
    /// The files cannot be written; what the log had is still there, whole.
    pub fn append(&self, at: &str, events: &[Event]) -> Result<Head, StateError> {
        let _lock = self.lock()?;
        let path = self.state.file(FILE);
        let io = |action| move |error| (action, error);
        let outcome = || -> Result<Head, (&'static str, io::Error)> {
            let mut file = mode::private(OpenOptions::new().read(true).append(true).create(true))
                .open(&path)
                .map_err(io("open"))?;
            mode::give_to_owner(&file, self.state.path()).map_err(io("hand over"))?;
            let (mut head, torn) = self.end(&mut file).map_err(io("read"))?;
            let length = file.metadata().map_err(io("look at"))?.len() - torn;
            if torn > 0 {
                file.set_len(length).map_err(io("shorten"))?;
            }
            let torn = (torn > 0).then_some(Event::Torn { bytes: torn });
            let mut text = String::new();
            for event in torn.iter().chain(events) {
                // Names are bounded where they come in, so all fit.
                if let Ok((line, next)) = seal(&head, at, event) {
                    text += &line;
                    text.push('\n');
                    head = next;
                }
            }
            let write = file
                .write_all(text.as_bytes())
                .and_then(|()| file.sync_data());
            if let Err(error) = write {
                // A part of a line is worth nothing; if this fails too, the next call takes it off.
                let _ = file.set_len(length);
                return Err(("write", error));
            }
            if length + text.len() as u64 >= self.rotate {
                self.put_aside().map_err(io("put aside"))?;
            }
            Ok(head)
        };
        let head = outcome().map_err(|(action, error)| StateError::io(&path, action, error))?;
        // Strings and numbers only: JSON can say them.
        let text = serde_json::to_vec(&head).unwrap_or_default();
        self.state.replace(HEAD, &text)?;
        Ok(head)
    }

    /// Follows the chain through all files that are kept.
    ///
    /// # Errors
    /// Where it breaks, or the files cannot be read. An empty log is [`Head::START`].
    pub fn verify(&self) -> Result<Whole, VerifyError> {
        let _lock = self.lock()?;
        let written = self.written()?;
        let (mut head, mut first) = (None, 0);
        for path in self.files() {
            let mut number = 0;
            let read = each_line(&path, |line| {
                number += 1;
                let next = check(head.as_ref(), line);
                if let Ok(next) = &next {
                    if head.is_none() {
                        first = next.n;
                    }
                    head = Some(*next);
                }
                next.map(drop)
            });
            let broken = read.map_err(|error| StateError::io(&path, "read", error))?;
            if let Err(broken) = broken {
                return Err(VerifyError::Line {
                    path,
                    line: number,
                    broken,
                });
            }
        }
        // Only what was put aside too often is gone by right.
        if first > 1 && !self.aside(KEPT).exists() {
            return Err(VerifyError::Start {
                path: self.state.file(FILE),
                first,
            });
        }
        let head = head.unwrap_or(Head::START);
        if let Some(written) = written
            && (head.n < written.n || head.n == written.n && head.hash != written.hash)
        {
            return Err(VerifyError::End {
                path: self.state.file(FILE),
                n: head.n,
                head: written.n,
            });
        }
        Ok(Whole { first, head })
    }

    /// All lines that are kept, the oldest first, and later those that are written meanwhile.
    #[must_use]
    pub fn follow(&self) -> Follower {
        Follower {
            log: self.clone(),
            files: self.files().into(),
            open: None,
            part: Vec::new(),
        }
    }

    /// Where the chain goes on, and how many bytes at the end of the newest file are no whole line. Lines that were written
    /// and are gone leave a gap in the numbers, which shows.
    fn end(&self, file: &mut File) -> io::Result<(Head, u64)> {
        let (last, torn) = last_line(file)?;
        let last = match last {
            None => File::open(self.aside(1))
                .and_then(|mut file| last_line(&mut file))
                .map_or(None, |(last, _)| last),
            last => last,
        };
        let written = self.written().ok().flatten();
        let newest = last.into_iter().chain(written).max_by_key(|head| head.n);
        Ok((newest.unwrap_or(Head::START), torn))
    }

    fn written(&self) -> Result<Option<Head>, StateError> {
        let Some(text) = self.state.read(HEAD)? else {
            return Ok(None);
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| StateError::Corrupt {
                path: self.state.file(HEAD),
                reason: format!("is no end of an audit log ({error})"),
                cost: "missing lines at the end of the audit log do not show",
            })
    }

    fn put_aside(&self) -> io::Result<()> {
        for number in (1..KEPT).rev() {
            match fs::rename(self.aside(number), self.aside(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(self.state.file(FILE), self.aside(1))
    }

    fn aside(&self, number: u32) -> PathBuf {
        self.state.file(&format!("audit.{number}.jsonl"))
    }

    /// Those that are there, the oldest first.
    fn files(&self) -> Vec<PathBuf> {
        let aside = (1..=KEPT).rev().map(|number| self.aside(number));
        aside
            .chain([self.state.file(FILE)])
            .filter(|path| path.exists())
            .collect()
    }

    fn lock(&self) -> Result<File, StateError> {
        let path = self.state.file(LOCK);
        let file = mode::private(OpenOptions::new().create(true).truncate(false).write(true))
            .open(&path)
            .map_err(|error| StateError::io(&path, "open", error))?;
        self.state.own(&file, &path)?;
        file.lock()
            .map_err(|error| StateError::io(&path, "lock", error))?;
        Ok(file)
    }
}

/// The last line's head if it is one of ours, and how many bytes behind it are no whole line.
fn last_line(file: &mut File) -> io::Result<(Option<Head>, u64)> {
    let length = file.metadata()?.len();
    let window = length.min(2 * MAX_LINE as u64 + 2);
    file.seek(SeekFrom::Start(length - window))?;
    let mut tail = Vec::new();
    Read::take(&mut *file, window).read_to_end(&mut tail)?;
    let end = tail.iter().rposition(|byte| *byte == b'\n');
    let (lines, torn) = tail.split_at(end.map_or(0, |at| at + 1));
    let last = lines
        .split(|byte| *byte == b'\n')
        .rfind(|line| !line.is_empty());
    let read = |line: &[u8]| check(None, std::str::from_utf8(line).ok()?).ok();
    Ok((last.and_then(read), torn.len() as u64))
}

/// Calls `each` for the lines of a file until it fails; one that is too long is cut, which no check passes.
fn each_line<E>(
    path: &Path,
    mut each: impl FnMut(&str) -> Result<(), E>,
) -> io::Result<Result<(), E>> {
    let mut reader = BufReader::new(File::open(path)?);
    loop {
        let mut line = Vec::new();
        let limit = MAX_LINE as u64 + 2;
        if Read::take(&mut reader, limit).read_until(b'\n', &mut line)? == 0 {
            return Ok(Ok(()));
        }
        let text = String::from_utf8_lossy(&line);
        if let Err(error) = each(text.trim_end_matches('\n')) {
            return Ok(Err(error));
        }
    }
}

/// Reads a log as it grows, over its rotation.
#[derive(Debug)]
pub struct Follower {
    log: AuditLog,
    files: VecDeque<PathBuf>,
    open: Option<File>,
    part: Vec<u8>,
}

impl Follower {
    /// Lines that have come since the last call.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn read(&mut self) -> Result<Vec<String>, StateError> {
        let mut lines = Vec::new();
        loop {
            if self.open.is_none() {
                let next = self.files.pop_front();
                let path = next.unwrap_or_else(|| self.log.state.file(FILE));
                match File::open(&path) {
                    Ok(file) => self.open = Some(file),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(lines),
                    Err(error) => return Err(StateError::io(&path, "open", error)),
                }
            }
            let Some(file) = &mut self.open else {
                return Ok(lines);
            };
            // Asked before reading: what is put aside grows no more.
            let current = self.files.is_empty() && mode::is_file(file, &self.log.state.file(FILE));
            file.read_to_end(&mut self.part)
                .map_err(|error| StateError::io(&self.log.state.file(FILE), "read", error))?;
            while let Some(end) = self.part.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.part.drain(..=end).collect();
                lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            if current {
                return Ok(lines);
            }
            self.open = None;
            self.part.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: &str = "2026-11-25T12:00:00Z";

    fn log(rotate: u64) -> (tempfile::TempDir, AuditLog) {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open(root.path().join("s")).unwrap();
        let log = AuditLog { state, rotate };
        (root, log)
    }

    fn event(number: u64) -> Event {
        Event::Story {
            story: number.to_string(),
        }
    }

    #[test]
    fn the_chain_goes_on_over_restarts_and_rotation() {
        let (_root, log) = log(1_000);
        assert_eq!(log.verify().unwrap().head, Head::START);
        let mut follower = log.follow();
        let mut seen = Vec::new();
        for number in 1..=12 {
            let again = AuditLog {
                state: log.state.clone(),
                ..log
            };
            assert_eq!(again.append(AT, &[event(number)]).unwrap().n, number);
            seen.extend(follower.read().unwrap());
        }
        let whole = log.verify().unwrap();
        assert_eq!((whole.first, whole.head.n), (1, 12));
        assert!(log.files().len() > 2, "{:?}", log.files());
        assert_eq!(seen.len(), 12);
        assert_eq!(log.follow().read().unwrap(), seen);
        for number in 13..=200 {
            log.append(AT, &[event(number)]).unwrap();
        }
        let whole = log.verify().unwrap();
        assert!(whole.first > 1 && whole.head.n == 200, "{whole:?}");
        assert!(log.files().len() <= 9);
    }

    #[test]
    fn what_is_missing_shows_wherever_it_was() {
        let (_root, log) = log(ROTATE);
        log.append(AT, &[event(1), event(2), event(3), event(4)])
            .unwrap();
        let path = log.state.file(FILE);
        let good = fs::read_to_string(&path).unwrap();
        let head = fs::read(log.state.file(HEAD)).unwrap();
        let lines: Vec<&str> = good.lines().collect();
        for missing in 1..4 {
            let mut left = lines.clone();
            left.remove(missing);
            fs::write(&path, left.join("\n") + "\n").unwrap();
            let error = log.verify().unwrap_err();
            let shown = matches!(error, VerifyError::Line { .. } | VerifyError::End { .. });
            assert!(shown, "{missing}: {error}");
        }
        // What is written afterwards does not cover it up.
        for (left, go_on) in [("", false), (lines[0], true), ("", true), (lines[3], true)] {
            let left = format!("{left}{}", if left.is_empty() { "" } else { "\n" });
            fs::write(&path, left).unwrap();
            log.state.replace(HEAD, &head).unwrap();
            if go_on {
                log.append(AT, &[event(5)]).unwrap();
            }
            assert!(log.verify().is_err(), "{go_on}");
        }
        log.state.replace(HEAD, &head).unwrap();
        fs::write(&path, good.replace("\"story\":\"2\"", "\"story\":\"9\"")).unwrap();
        let error = log.verify().unwrap_err().to_string();
        assert!(
            error.contains("line 2") && error.contains("changed"),
            "{error}"
        );
    }

    #[test]
    fn a_power_cut_between_putting_aside_and_the_head_breaks_nothing() {
        let (_root, log) = log(300);
        log.append(AT, &[event(1)]).unwrap();
        let head = fs::read(log.state.file(HEAD)).unwrap();
        log.append(AT, &[event(2), event(3)]).unwrap();
        assert!(!log.state.file(FILE).exists(), "put aside");
        log.state.replace(HEAD, &head).unwrap();
        assert_eq!(log.append(AT, &[event(4)]).unwrap().n, 4);
        assert_eq!(log.verify().unwrap().head.n, 4);
    }

    #[test]
    fn a_torn_line_is_taken_off_and_told() {
        let (_root, log) = log(ROTATE);
        log.append(AT, &[event(1)]).unwrap();
        let path = log.state.file(FILE);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(br#"{"n":2,"at"#).unwrap();
        assert!(log.verify().is_err());
        assert_eq!(log.append(AT, &[event(2)]).unwrap().n, 3);
        assert_eq!(log.verify().unwrap().head.n, 3);
        let lines = log.follow().read().unwrap();
        assert!(lines[1].contains("\"event\":\"torn\"") && lines[1].contains("\"bytes\":10"));
    }

    #[test]
    fn processes_that_append_together_make_one_chain() {
        let (_root, log) = log(2_000);
        std::thread::scope(|scope| {
            for number in 0..8 {
                let log = log.clone();
                scope.spawn(move || {
                    for more in 0..5 {
                        log.append(AT, &[event(number * 10 + more)]).unwrap();
                    }
                });
            }
        });
        assert_eq!(log.verify().unwrap().head.n, 40);
    }
}
