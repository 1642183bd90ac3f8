//! Switching by pushing the pointer against an edge of the screen.
//!
//! Nobody tells where the target's pointer is, so it is reckoned from the motion: a pointer that has moved a whole
//! screen to the right is at the right edge, wherever it was. With an accelerated pointer it is there sooner.

use std::fmt;
use std::str::FromStr;

use soft_kvm_protocol::input::codes::rel;
use soft_kvm_protocol::input::{EventType, InputEvent};

use crate::switch::{Action, BindingError};

/// How far the pointer has to be pushed beyond the edge, in counts of the mouse: not by accident.
const PUSH: i32 = 300;

/// A side of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Edge {
    Bottom,
    Left,
    Right,
    Top,
}

/// What an edge does, written `EDGE=ACTION`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EdgeRule {
    /// The edge.
    pub edge: Edge,
    /// What pushing against it does.
    pub action: Action,
}

impl FromStr for EdgeRule {
    type Err = BindingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || BindingError::Edge(text.to_owned());
        let (edge, action) = text.split_once('=').ok_or_else(form)?;
        let edge = match edge.trim() {
            "bottom" => Edge::Bottom,
            "left" => Edge::Left,
            "right" => Edge::Right,
            "top" => Edge::Top,
            _ => return Err(form()),
        };
        let action = action.trim().parse()?;
        Ok(Self { edge, action })
    }
}

impl fmt::Display for EdgeRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let edge = match self.edge {
            Edge::Bottom => "bottom",
            Edge::Left => "left",
            Edge::Right => "right",
            Edge::Top => "top",
        };
        write!(f, "{edge}={}", self.action)
    }
}

/// Reckons where the pointer is.
#[derive(Clone, Debug)]
pub struct EdgeDetector {
    rules: Vec<EdgeRule>,
    x: Axis,
    y: Axis,
}

#[derive(Clone, Copy, Debug)]
struct Axis {
    length: i32,
    at: i32,
    /// Counts beyond an end, negative beyond the lower one.
    pushed: i32,
}

impl EdgeDetector {
    /// A detector for a screen of this size in pixels, with the pointer in its middle.
    #[must_use]
    pub const fn new(rules: Vec<EdgeRule>, width: u32, height: u32) -> Self {
        Self {
            rules,
            x: Axis::new(width),
            y: Axis::new(height),
        }
    }

    /// Another screen, or another size of this one: the pointer stays at its part of the way.
    pub fn resize(&mut self, width: u32, height: u32) {
        self.x.resize(width);
        self.y.resize(height);
    }

    /// Follows an event; answers what is to be done, once for each push, and nothing while a button is held (`dragging`).
    /// The pointer is then at the opposite edge of the next screen.
    pub fn follow(&mut self, event: InputEvent, dragging: bool) -> Option<Action> {
        if event.kind != EventType::REL {
            return None;
        }
        let (axis, ends) = match event.code {
            rel::X => (&mut self.x, (Edge::Left, Edge::Right)),
            rel::Y => (&mut self.y, (Edge::Top, Edge::Bottom)),
            _ => return None,
        };
        let upper = axis.follow(event.value)?;
        let edge = if upper { ends.1 } else { ends.0 };
        let rule = self.rules.iter().find(|rule| rule.edge == edge)?;
        if dragging {
            return None;
        }
        axis.at = if upper { 0 } else { axis.length };
        axis.pushed = 0;
        Some(rule.action)
    }
}

impl Axis {
    const fn new(length: u32) -> Self {
        let length = if length > 0xffff { 0xffff } else { length };
        #[expect(clippy::cast_possible_wrap, reason = "at most 65535, see above")]
        let length = length as i32;
        Self {
            length,
            at: length / 2,
            pushed: 0,
        }
    }

    fn resize(&mut self, length: u32) {
        let new = Self::new(length);
        let at = i64::from(self.at) * i64::from(new.length) / i64::from(self.length.max(1));
        self.length = new.length;
        self.at = i32::try_from(at).unwrap_or(new.at);
    }

    /// Moves; tells when an end has been pushed against for long enough, and whether it is the upper one.
    fn follow(&mut self, by: i32) -> Option<bool> {
        let to = self.at.saturating_add(by);
        self.at = to.clamp(0, self.length);
        let beyond = to.saturating_sub(self.at);
        if beyond == 0 || beyond.signum() != self.pushed.signum() && self.pushed != 0 {
            self.pushed = 0;
        }
        let before = self.pushed;
        self.pushed = self.pushed.saturating_add(beyond);
        (before.abs() < PUSH && self.pushed.abs() >= PUSH).then_some(self.pushed > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn motion(code: u16, value: i32) -> InputEvent {
        InputEvent::new(EventType::REL, code, value)
    }

    #[test]
    fn what_is_no_rule_is_told_as_that() {
        for wrong in ["up=next", "right"] {
            let told = wrong.parse::<EdgeRule>().expect_err(wrong).to_string();
            assert!(told.contains("is no edge"), "{told}");
        }
        let told = "right=away".parse::<EdgeRule>().expect_err("an action");
        assert!(told.to_string().contains("is no action"), "{told}");
    }

    #[test]
    fn a_push_acts_once_and_a_touch_does_not() {
        let rules = ["right=next", "left=previous", "top=local"]
            .map(|text| text.parse().expect("a rule"))
            .to_vec();
        let mut edges = EdgeDetector::new(rules, 1_000, 500);
        let mut follow = |code, value| edges.follow(motion(code, value), false);
        assert_eq!(follow(rel::X, 500), None, "to the edge");
        assert_eq!(follow(rel::X, PUSH - 1), None);
        assert_eq!(follow(rel::X, -1), None, "let go");
        assert_eq!(follow(rel::X, PUSH), None);
        assert_eq!(follow(rel::X, 1), Some(Action::Next));
        assert_eq!(follow(rel::X, 1_000), None, "across the next screen");
        assert_eq!(follow(rel::X, PUSH), Some(Action::Next));
        assert_eq!(follow(rel::X, -PUSH), Some(Action::Previous), "and back");
        assert_eq!(follow(rel::Y, i32::MAX), None, "no rule");
        assert_eq!(follow(rel::WHEEL, i32::MIN), None);
        edges.resize(10, 10);
        let far = motion(rel::Y, -400);
        assert_eq!(edges.follow(far, true), None, "dragging");
        assert_eq!(edges.follow(far, false), None, "the same push");
        assert_eq!(edges.follow(motion(rel::Y, 1), false), None);
        assert_eq!(edges.follow(far, false), Some(Action::Local));
    }

    #[test]
    fn texts() {
        let rule: EdgeRule = "left=2".parse().expect("a rule");
        assert_eq!(rule.action, Action::Server(2));
        assert_eq!(rule.to_string(), "left=2");
        assert!("middle=2".parse::<EdgeRule>().is_err());
        assert!("left".parse::<EdgeRule>().is_err());
    }
}
