//! The ways to type each character of a keyboard layout.

use std::collections::BTreeMap;

use soft_kvm_protocol::input::KeyCode;

/// One key pressed while modifiers are held.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stroke {
    /// Held meanwhile, pressed in this order: with some layouts the other order means something else.
    pub modifiers: Vec<KeyCode>,
    /// Pressed and let go.
    pub key: KeyCode,
}

impl Stroke {
    /// A key with modifiers.
    #[must_use]
    pub const fn new(modifiers: Vec<KeyCode>, key: KeyCode) -> Self {
        Self { modifiers, key }
    }
}

/// What a layout can type: the cheapest way to each character.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypingLayout {
    ways: BTreeMap<char, Vec<Stroke>>,
}

impl TypingLayout {
    /// A layout that types nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            ways: BTreeMap::new(),
        }
    }

    /// A way to type a character: one stroke, or several with dead keys and compose. It is kept when it is shorter than
    /// the one known, or as long with fewer modifiers. A line end is `'\n'`.
    pub fn offer(&mut self, character: char, strokes: &[Stroke]) {
        if strokes.is_empty() {
            return;
        }
        let known = self.ways.entry(character).or_default();
        if known.is_empty() || cost(strokes) < cost(known) {
            *known = strokes.to_vec();
        }
    }

    /// How to type a character; `None` when the layout cannot.
    #[must_use]
    pub fn way(&self, character: char) -> Option<&[Stroke]> {
        self.ways.get(&character).map(Vec::as_slice)
    }

    /// All characters that it types, in their order.
    pub fn characters(&self) -> impl Iterator<Item = char> + '_ {
        self.ways.keys().copied()
    }
}

fn cost(strokes: &[Stroke]) -> (usize, usize) {
    let modifiers = strokes.iter().map(|stroke| stroke.modifiers.len());
    (strokes.len(), modifiers.sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheapest_way_is_kept_and_the_first_of_equals() {
        let stroke = |modifiers: &[u16], key| {
            let modifiers = modifiers.iter().copied().map(KeyCode).collect();
            Stroke::new(modifiers, KeyCode(key))
        };
        let mut layout = TypingLayout::new();
        layout.offer('x', &[]);
        assert_eq!(layout.way('x'), None);
        layout.offer('x', &[stroke(&[], 1), stroke(&[], 2)]);
        layout.offer('x', &[stroke(&[42, 100], 3)]);
        layout.offer('x', &[stroke(&[42], 4)]);
        layout.offer('x', &[stroke(&[100], 5)]);
        layout.offer('x', &[stroke(&[42, 100], 6)]);
        assert_eq!(layout.way('x'), Some([stroke(&[42], 4)].as_slice()));
        assert_eq!(layout.characters().collect::<Vec<_>>(), ['x']);
    }
}
