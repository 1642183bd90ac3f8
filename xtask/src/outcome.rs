//! Counting tests from what the harnesses print.

use std::collections::BTreeMap;
use std::fmt;

/// Numbers of tests. Its text is the last line of `cargo xtask test` and `.ci/run`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl Counts {
    pub(crate) fn total(self) -> usize {
        self.passed + self.failed + self.skipped
    }

    /// Reads a line that is such a text and nothing else.
    pub(crate) fn read(line: &str) -> Option<Self> {
        let mut parts = line.split(", ");
        let mut number = |what| -> Option<usize> {
            let part = parts.next()?.strip_suffix(what)?;
            part.trim_end().parse().ok()
        };
        let found = Self {
            passed: number("passed")?,
            failed: number("failed")?,
            skipped: number("skipped")?,
        };
        (line == found.to_string()).then_some(found)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// Reads the lines of one run of libtest or libtest-mimic.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    counts: Counts,
    results: usize,
    /// Ignored tests with their reasons.
    ignored: BTreeMap<String, String>,
    /// Names in the newest list of failures.
    failed: Vec<String>,
    in_failures: bool,
}

/// What one run of a test program said.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) counts: Counts,
    /// Ignored tests with their reasons.
    pub(crate) ignored: BTreeMap<String, String>,
    /// Failed tests by name; fewer than counted when the program crashed.
    pub(crate) failed: Vec<String>,
}

impl Reader {
    /// Takes a line without its end.
    pub(crate) fn line(&mut self, line: &str) {
        if let Some(counts) = result(line) {
            self.counts += counts;
            self.results += 1;
            self.in_failures = false;
        } else if line == "failures:" {
            // Both harnesses print what the tests said under one such line and their names under the next.
            self.failed.clear();
            self.in_failures = true;
        } else if self.in_failures
            && let Some(name) = line.strip_prefix("    ")
            && !name.contains(char::is_whitespace)
        {
            self.failed.push(name.to_owned());
        } else if let Some((name, reason)) = ignored(line) {
            self.ignored.insert(name.to_owned(), reason.to_owned());
        }
    }

    /// The counts of the run. A run that fails without naming a failed test, by a crash or because it could
    /// not be built, counts as one failure.
    pub(crate) fn finish(self, success: bool) -> Outcome {
        let mut counts = self.counts;
        if !success && (counts.failed == 0 || self.results == 0) {
            counts.failed += 1;
        }
        Outcome {
            counts,
            ignored: self.ignored,
            failed: self.failed,
        }
    }
}

/// `test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out; …`
fn result(line: &str) -> Option<Counts> {
    let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut counts = Counts::default();
    for part in numbers.split(';') {
        let Some((number, what)) = part.trim().split_once(' ') else {
            continue;
        };
        let Ok(number) = number.parse() else { continue };
        match what {
            "passed" => counts.passed = number,
            "failed" => counts.failed = number,
            "ignored" => counts.skipped = number,
            _ => {}
        }
    }
    Some(counts)
}

/// `test NAME ... ignored, REASON` of libtest and `test NAME ... ignored (REASON)` of libtest-mimic.
fn ignored(line: &str) -> Option<(&str, &str)> {
    let (name, reason) = line.strip_prefix("test ")?.split_once(" ... ignored")?;
    let reason = reason.trim_start_matches([',', ' ']);
    let reason = reason
        .strip_prefix('(')
        .and_then(|inner| inner.strip_suffix(')'))
        .unwrap_or(reason);
    Some((name.trim(), reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, success: bool) -> Outcome {
        let mut reader = Reader::default();
        text.lines().for_each(|line| reader.line(line));
        reader.finish(success)
    }

    #[test]
    fn reads_its_own_text_and_nothing_else() {
        let found = Counts::read("239 passed, 1 failed, 2 skipped").expect("it is one");
        assert_eq!((found.passed, found.failed, found.skipped), (239, 1, 2));
        for other in [
            "",
            "1 passed",
            "a passed, 0 failed, 0 skipped",
            "1 passed, 0 failed, 0 skipped, 1 more",
            "test result: ok. 2 passed; 0 failed",
        ] {
            assert_eq!(Counts::read(other), None, "{other}");
        }
    }

    #[test]
    fn sums_several_results() {
        let text = "running 2 tests\ntest a ... ok\n\
            test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            test result: FAILED. 3 passed; 4 failed; 0 ignored; 0 measured; 9 filtered out; finished in 1.00s\n";
        let counts = read(text, false).counts;
        assert_eq!(
            counts,
            Counts {
                passed: 5,
                failed: 4,
                skipped: 1
            }
        );
        assert_eq!(counts.to_string(), "5 passed, 4 failed, 1 skipped");
    }

    #[test]
    fn reasons_of_both_harnesses() {
        let text = "test a::b ... ignored, needs Xvfb\ntest wire       ... ignored (no kernel)\ntest c ... ignored\n";
        let ignored = read(text, true).ignored;
        assert_eq!(ignored["a::b"], "needs Xvfb");
        assert_eq!(ignored["wire"], "no kernel");
        assert_eq!(ignored["c"], "");
    }

    #[test]
    fn failed_tests_are_named() {
        let text = "test a::b ... FAILED\n\nfailures:\n\n---- a::b stdout ----\n    left\n\n\nfailures:\n    a::b\n    \
            wire\n\ntest result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured\n    later\n";
        assert_eq!(read(text, false).failed, ["a::b", "wire"]);
        assert_eq!(read("test a ... ok\n", true).failed, [""; 0]);
    }

    #[test]
    fn a_crash_is_a_failure() {
        assert_eq!(
            read("running 3 tests\ntest a ... ok\n", false)
                .counts
                .failed,
            1
        );
        let text = "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(read(text, false).counts.failed, 1);
        assert_eq!(read("", true).counts, Counts::default());
    }

    #[test]
    fn output_of_inner_runs_does_not_count() {
        let text = "  | test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured\n";
        assert_eq!(read(text, true).counts, Counts::default());
    }
}
