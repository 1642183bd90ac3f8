//! The five lines of the user's page, with their targets.

use std::fmt;

use serde::Serialize;

/// What a goal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// Capture to decoded.
    Video,
    /// The operator's event to the target's kernel.
    Input,
    /// The server's process, in percent of one core.
    Cpu,
    /// The server's process, resident.
    Memory,
    /// Start of the connection to first decoded frame.
    Connection,
}

/// A goal and what was measured.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Outcome {
    /// What it is about.
    pub goal: Goal,
    /// In the goal's unit: ms, % or MB.
    pub measured: f64,
    /// To stay below, in the same unit.
    pub target: f64,
    /// Whether it does.
    pub met: bool,
}

impl Goal {
    /// Compares with the target.
    #[must_use]
    pub fn measured(self, measured: f64) -> Outcome {
        let target = match self {
            Self::Video => 50.0,
            Self::Input => 10.0,
            Self::Cpu => 15.0,
            Self::Memory => 256.0,
            Self::Connection => 1000.0,
        };
        Outcome {
            goal: self,
            measured,
            target,
            met: measured < target,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, digits, unit) = match self.goal {
            Goal::Video => ("Video Latency p99", 1, "ms"),
            Goal::Input => ("Input Latency p99", 1, "ms"),
            Goal::Cpu => ("CPU Usage p99", 1, "%"),
            Goal::Memory => ("Memory Usage p99", 0, "MB"),
            Goal::Connection => ("Connection Time p95", 0, "ms"),
        };
        let Self {
            measured,
            target,
            met,
            ..
        } = self;
        let mark = if *met { '✓' } else { '✗' };
        write!(
            f,
            "{name}: {measured:.digits$}{unit} (Target: <{target}{unit}) {mark}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_lines_of_the_page() {
        for (goal, measured, line) in [
            (
                Goal::Video,
                42.3,
                "Video Latency p99: 42.3ms (Target: <50ms) ✓",
            ),
            (
                Goal::Input,
                8.7,
                "Input Latency p99: 8.7ms (Target: <10ms) ✓",
            ),
            (Goal::Cpu, 12.4, "CPU Usage p99: 12.4% (Target: <15%) ✓"),
            (
                Goal::Memory,
                198.0,
                "Memory Usage p99: 198MB (Target: <256MB) ✓",
            ),
            (
                Goal::Connection,
                856.0,
                "Connection Time p95: 856ms (Target: <1000ms) ✓",
            ),
            (Goal::Cpu, 15.0, "CPU Usage p99: 15.0% (Target: <15%) ✗"),
        ] {
            assert_eq!(goal.measured(measured).to_string(), line);
        }
    }
}
