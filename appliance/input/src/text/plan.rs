//! From text to key transitions.

use std::fmt;

use soft_kvm_protocol::input::KeyCode;

use super::layout::{Stroke, TypingLayout};

/// A place in a text, both counted from 1 in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: u32,
    /// The character in the line.
    pub column: u32,
}

impl Place {
    const START: Self = Self { line: 1, column: 1 };

    const fn after(self, character: char) -> Self {
        if character == '\n' {
            Self {
                line: self.line.saturating_add(1),
                column: 1,
            }
        } else {
            Self {
                line: self.line,
                column: self.column.saturating_add(1),
            }
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A character that the layout cannot type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Untypable {
    /// The character.
    pub character: char,
    /// Where it stands.
    pub place: Place,
}

/// A key goes down or up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The key.
    pub key: KeyCode,
    /// Down, or up.
    pub down: bool,
    /// How many characters are typed when it is done.
    pub typed: u32,
}

/// All key transitions of a text. In the end every key is up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What to do, in order.
    pub steps: Vec<Step>,
    /// Characters that the steps type.
    pub characters: u32,
    /// What is left out, in order.
    pub untypable: Vec<Untypable>,
}

impl Plan {
    /// Plans a text. Line ends may be `\n` or `\r\n`; a byte order mark at the beginning is no character.
    #[must_use]
    pub fn new(layout: &TypingLayout, text: &str) -> Self {
        let mut plan = Self::default();
        let mut held: Vec<KeyCode> = Vec::new();
        let mut place = Place::START;
        for character in characters(text) {
            match layout.way(character) {
                Some(strokes) => {
                    for stroke in strokes {
                        plan.stroke(&mut held, stroke);
                    }
                    plan.characters = plan.characters.saturating_add(1);
                    if let Some(last) = plan.steps.last_mut() {
                        last.typed = plan.characters;
                    }
                }
                None => plan.untypable.push(Untypable { character, place }),
            }
            place = place.after(character);
        }
        plan.hold(&mut held, &[]);
        plan
    }

    fn stroke(&mut self, held: &mut Vec<KeyCode>, stroke: &Stroke) {
        self.hold(held, &stroke.modifiers);
        self.step(stroke.key, true);
        self.step(stroke.key, false);
    }

    /// Lets modifiers go and presses others, so that those down were pressed in the order wanted.
    fn hold(&mut self, held: &mut Vec<KeyCode>, wanted: &[KeyCode]) {
        let common = held.iter().zip(wanted).take_while(|(a, b)| a == b).count();
        for key in held.drain(common..).rev() {
            self.step(key, false);
        }
        for &key in wanted.iter().skip(common) {
            self.step(key, true);
            held.push(key);
        }
    }

    fn step(&mut self, key: KeyCode, down: bool) {
        self.steps.push(Step {
            key,
            down,
            typed: self.characters,
        });
    }
}

/// The characters of a text as they are typed.
fn characters(text: &str) -> impl Iterator<Item = char> + '_ {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut rest = text.chars().peekable();
    std::iter::from_fn(move || match rest.next()? {
        '\r' => rest.next_if_eq(&'\n').or(Some('\r')),
        character => Some(character),
    })
}

/// Where a text goes on after its first `typed` characters that the layout can type.
#[must_use]
pub fn place_after(layout: &TypingLayout, text: &str, typed: u32) -> Place {
    let (mut place, mut left) = (Place::START, typed);
    for character in characters(text) {
        if layout.way(character).is_some() {
            if left == 0 {
                break;
            }
            left -= 1;
        }
        place = place.after(character);
    }
    place
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHIFT: KeyCode = KeyCode::LEFTSHIFT;
    const ALTGR: KeyCode = KeyCode::RIGHTALT;
    const DEAD: KeyCode = KeyCode(41);

    fn layout() -> TypingLayout {
        let mut layout = TypingLayout::new();
        let mut one = |character, modifiers: &[KeyCode], key| {
            layout.offer(character, &[Stroke::new(modifiers.to_vec(), KeyCode(key))]);
        };
        one('a', &[], 30);
        one('A', &[SHIFT], 30);
        one('B', &[SHIFT], 48);
        one('@', &[ALTGR], 16);
        one('Ω', &[ALTGR, SHIFT], 16);
        one('\n', &[], 28);
        layout.offer(
            'â',
            &[Stroke::new(vec![], DEAD), Stroke::new(vec![], KeyCode(30))],
        );
        layout
    }

    fn steps(text: &str) -> Vec<(u16, bool, u32)> {
        let plan = Plan::new(&layout(), text);
        let steps = plan.steps.iter();
        steps
            .map(|step| (step.key.0, step.down, step.typed))
            .collect()
    }

    #[test]
    fn modifiers_stay_down_as_long_as_they_serve() {
        assert_eq!(
            steps("ABa"),
            [
                (42, true, 0),
                (30, true, 0),
                (30, false, 1),
                (48, true, 1),
                (48, false, 2),
                (42, false, 2),
                (30, true, 2),
                (30, false, 3),
            ]
        );
        assert_eq!(
            steps("@ΩA"),
            [
                (100, true, 0),
                (16, true, 0),
                (16, false, 1),
                (42, true, 1),
                (16, true, 1),
                (16, false, 2),
                (42, false, 2),
                (100, false, 2),
                (42, true, 2),
                (30, true, 2),
                (30, false, 3),
                (42, false, 3),
            ]
        );
    }

    #[test]
    fn a_character_of_two_strokes_counts_once() {
        assert_eq!(
            steps("â"),
            [(41, true, 0), (41, false, 0), (30, true, 0), (30, false, 1)]
        );
    }

    #[test]
    fn line_ends_and_places() {
        let text = "\u{feff}a\r\nä\na\raé";
        let plan = Plan::new(&layout(), text);
        let missing: Vec<_> = plan
            .untypable
            .iter()
            .map(|one| (one.character, one.place.to_string()))
            .collect();
        assert_eq!(
            missing,
            [
                ('ä', "2:1".to_owned()),
                ('\r', "3:2".to_owned()),
                ('é', "3:4".to_owned())
            ]
        );
        assert_eq!(plan.characters, 5);
        let after = |typed| place_after(&layout(), text, typed).to_string();
        assert_eq!(after(0), "1:1");
        assert_eq!(after(2), "2:2", "what is left out is behind");
        assert_eq!(after(4), "3:3");
        assert_eq!(after(99), "3:5");
    }

    proptest! {
        #[test]
        fn every_key_goes_down_once_and_up_again(text in "[aAB@Ωâx\n]{0,60}") {
            let plan = Plan::new(&layout(), &text);
            let mut held = Vec::new();
            for step in &plan.steps {
                if step.down {
                    prop_assert!(!held.contains(&step.key));
                    held.push(step.key);
                } else {
                    prop_assert_eq!(held.iter().rposition(|key| *key == step.key), Some(held.len() - 1));
                    held.pop();
                }
            }
            prop_assert!(held.is_empty());
            let (typed, left_out): (Vec<char>, Vec<char>) = text.chars().partition(|c| *c != 'x');
            prop_assert_eq!(plan.characters as usize, typed.len());
            prop_assert_eq!(plan.untypable.len(), left_out.len());
            prop_assert!(plan.steps.windows(2).all(|pair| pair[0].typed <= pair[1].typed));
        }
    }
}
