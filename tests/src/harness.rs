//! Lists, runs and reports.

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::need::Need;
use crate::stage::Stage;

/// One test.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    /// Its name in the results.
    pub name: &'static str,
    /// What the machine has to have; the test is ignored otherwise.
    pub needs: &'static [Need],
    /// What it does.
    pub run: fn(&Stage) -> anyhow::Result<()>,
}

/// The entry of a test binary.
#[must_use]
pub fn main(tests: impl IntoIterator<Item = Test>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    let trials = tests.into_iter().map(trial).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(test: Test) -> Trial {
    Trial::ignorable_test(test.name, move || {
        match test.needs.iter().find_map(|need| need.unmet()) {
            Some(reason) => Ok(Completion::ignored_with(reason)),
            None => run(test).map(|()| Completion::Completed),
        }
    })
}

fn run(test: Test) -> Result<(), Failed> {
    let stage = Stage::new().map_err(|error| Failed::from(format!("{error:#}")))?;
    // The outputs have to be read before the folder is gone, after a panic too.
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| (test.run)(&stage)));
    let error = match outcome {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => "it panicked, see above".to_owned(),
    };
    Err(Failed::from(format!("{error}\n{}", stage.outputs())))
}
