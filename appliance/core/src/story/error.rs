//! What is wrong with a story: where, what, and what to do.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Lang;

/// A message in both languages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    /// English.
    pub en: String,
    /// Japanese.
    pub ja: String,
}

impl Text {
    /// A message in both languages.
    pub fn new(en: impl Into<String>, ja: impl Into<String>) -> Self {
        Self {
            en: en.into(),
            ja: ja.into(),
        }
    }

    /// The message in one language.
    #[must_use]
    pub fn get(&self, lang: Lang) -> &str {
        lang.pick(&self.en, &self.ja)
    }
}

/// A place in a source file, both counted from 1; the column counts characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Line.
    pub line: u32,
    /// Character in the line.
    pub column: u32,
}

impl Position {
    /// The position of byte `offset` in `text`; offsets behind the end count as the end.
    #[must_use]
    pub fn of(text: &[u8], offset: usize) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
        let start = before
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |newline| newline + 1);
        let in_line = before.get(start..).unwrap_or_default();
        let column = String::from_utf8_lossy(in_line).chars().count() + 1;
        Self {
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(column).unwrap_or(u32::MAX),
        }
    }
}

/// One thing that is wrong with a story.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoryError {
    /// The file that says so, as the user named it or relative to the story's folder.
    pub file: String,
    /// Where in the file; `None` when the value was computed and no single place set it.
    pub at: Option<Position>,
    /// What is wrong.
    pub what: Text,
    /// What to do about it.
    pub hint: Option<Text>,
}

impl StoryError {
    /// An error about a file as a whole.
    pub fn in_file(file: impl Into<String>, what: Text, hint: Option<Text>) -> Self {
        Self {
            file: file.into(),
            at: None,
            what,
            hint,
        }
    }

    /// `file:line:column: what`, and the hint on a line of its own.
    #[must_use]
    pub fn render(&self, lang: Lang) -> String {
        let mut text = self.file.clone();
        if let Some(at) = self.at {
            text.push_str(&format!(":{}:{}", at.line, at.column));
        }
        text.push_str(": ");
        text.push_str(self.what.get(lang));
        if let Some(hint) = &self.hint {
            text.push_str(lang.pick("\n    hint: ", "\n    ヒント: "));
            text.push_str(hint.get(lang));
        }
        text
    }
}

/// Everything that is wrong with a story; never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(transparent)]
pub struct StoryErrors(Vec<StoryError>);

impl StoryErrors {
    /// One error.
    #[must_use]
    pub fn one(error: StoryError) -> Self {
        Self(vec![error])
    }

    /// `Ok` if there is none.
    pub(super) fn check(errors: Vec<StoryError>) -> Result<(), Self> {
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Self(errors))
        }
    }

    /// The errors, in the order of the files' text where it is known.
    #[must_use]
    pub fn all(&self) -> &[StoryError] {
        &self.0
    }

    /// One error after the other, each as [`StoryError::render`] writes it.
    #[must_use]
    pub fn render(&self, lang: Lang) -> String {
        let lines: Vec<_> = self.0.iter().map(|error| error.render(lang)).collect();
        lines.join("\n")
    }
}

impl fmt::Display for StoryErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Lang::English))
    }
}

/// Something wrong with a value, before its place in a file is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// Member names and list indices from the top of the story to the value at fault.
    pub(super) path: Vec<String>,
    /// Whether the member's name is wrong rather than its value.
    pub(super) on_key: bool,
    pub(super) what: Text,
    pub(super) hint: Option<Text>,
}

impl Fault {
    pub(super) fn new(path: &[&str], what: Text, hint: Option<Text>) -> Self {
        Self {
            path: path.iter().map(|&step| step.to_owned()).collect(),
            on_key: false,
            what,
            hint,
        }
    }

    pub(super) fn on_key(mut self) -> Self {
        self.on_key = true;
        self
    }

    /// The error without a place.
    pub(super) fn in_file(self, file: &str) -> StoryError {
        StoryError::in_file(file, self.what, self.hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_from_one() {
        let text = "a\n火b".as_bytes();
        let at = |offset| {
            let Position { line, column } = Position::of(text, offset);
            (line, column)
        };
        assert_eq!(at(0), (1, 1));
        assert_eq!(at(1), (1, 2));
        assert_eq!(at(2), (2, 1));
        assert_eq!(at(5), (2, 2));
        assert_eq!(at(99), (2, 3));
    }

    #[test]
    fn errors_read_well_in_both_languages() {
        let error = StoryError {
            file: "story.jsonnet".to_owned(),
            at: Some(Position { line: 3, column: 7 }),
            what: Text::new("bad", "だめ"),
            hint: Some(Text::new("do", "して")),
        };
        assert_eq!(
            error.render(Lang::English),
            "story.jsonnet:3:7: bad\n    hint: do"
        );
        assert_eq!(
            error.render(Lang::Japanese),
            "story.jsonnet:3:7: だめ\n    ヒント: して"
        );
    }
}
