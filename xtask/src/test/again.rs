//! A second try for tests that failed, each by itself.
//!
//! Many of our tests watch real kernels and clocks on machines that others load at the same time. A test that passes
//! alone counts as passed and is listed as flaky; one that is really broken fails twice.

use crate::outcome::Outcome;

/// More failures than this are no accident: nothing is tried again.
const MOST: usize = 5;

/// Runs each failed test again by `run`, which takes a program's arguments; `words` were those of the first run. Gives
/// the tests that pass now.
pub(super) fn passing(
    outcome: &Outcome,
    words: &[String],
    mut run: impl FnMut(&[String]) -> anyhow::Result<Outcome>,
) -> anyhow::Result<Vec<String>> {
    let mut passed = Vec::new();
    // A failure without a name is a crash, which is never an accident.
    if outcome.failed.len() != outcome.counts.failed || outcome.failed.len() > MOST {
        return Ok(passed);
    }
    for name in &outcome.failed {
        println!("--- once more: {name}");
        let mut arguments = vec!["--exact".to_owned(), name.clone()];
        arguments.extend(words.iter().filter(|word| *word == "--ignored").cloned());
        let again = run(&arguments)?.counts;
        if (again.passed, again.failed) == (1, 0) {
            passed.push(name.clone());
        }
    }
    Ok(passed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Counts;

    fn outcome(passed: usize, failed: &[&str]) -> Outcome {
        Outcome {
            counts: Counts {
                passed,
                failed: failed.len(),
                skipped: 0,
            },
            failed: failed.iter().map(|name| (*name).to_owned()).collect(),
            ..Outcome::default()
        }
    }

    fn try_again(first: &Outcome, answers: &[(&str, Outcome)]) -> (Vec<String>, usize) {
        let mut runs = 0;
        let passed = passing(first, &["--ignored".to_owned()], |words| {
            runs += 1;
            assert_eq!(words[0], "--exact");
            assert_eq!(words[2], "--ignored");
            let answer = answers.iter().find(|(name, _)| *name == words[1]);
            let (_, answer) = answer.expect("a test that failed is tried again");
            Ok(Outcome {
                counts: answer.counts,
                ..Outcome::default()
            })
        });
        (passed.expect("it runs"), runs)
    }

    #[test]
    fn what_fails_twice_has_failed() {
        let answers = [
            ("flaky", outcome(1, &[])),
            ("broken", outcome(0, &["broken"])),
            ("unknown", outcome(0, &[])),
        ];
        let first = outcome(7, &["flaky", "broken", "unknown"]);
        assert_eq!(try_again(&first, &answers), (vec!["flaky".to_owned()], 3));
    }

    #[test]
    fn crashes_and_many_failures_are_no_accident() {
        let mut crashed = outcome(3, &["named"]);
        crashed.counts.failed = 2;
        assert_eq!(try_again(&crashed, &[]), (Vec::new(), 0));
        assert_eq!(
            try_again(&outcome(0, &["a", "b", "c", "d", "e", "f"]), &[]),
            (Vec::new(), 0)
        );
    }
}
