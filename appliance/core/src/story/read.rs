//! Reads one node's parameters out of JSON: types, ranges, defaults and unknown keys.

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::error::{Fault, Text};
use crate::IpPrefix;

/// The longest text that a parameter may have, in characters.
const MAX_TEXT: usize = 255;

/// The longest list that a parameter may be.
const MAX_LIST: usize = 64;

/// A parameter with a fixed set of words.
pub(super) trait Choice: Copy + PartialEq + 'static {
    /// Every value with its word.
    const ALL: &'static [(&'static str, Self)];

    /// The word of this value.
    fn word(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, value)| *value == self)
            .map_or("", |(word, _)| word)
    }
}

/// Declares an enum whose values are words in the story.
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_meta])* $variant,)+ }

        impl $crate::story::read::Choice for $name {
            const ALL: &'static [(&'static str, Self)] = &[$(($word, Self::$variant)),+];
        }

        impl $name {
            /// The word for it in a story.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                $crate::story::read::Choice::word(self)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::units::ParseUnitError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                <Self as $crate::story::read::Choice>::ALL
                    .iter()
                    .find(|(word, _)| *word == text)
                    .map(|(_, value)| *value)
                    .ok_or_else(|| $crate::units::ParseUnitError {
                        text: text.to_owned(),
                        expected: concat!("one of:", $(" ", $word),+),
                    })
            }
        }
    };
}
pub(super) use choice;

/// Reads one node. Every parameter that is asked for becomes a known key; what is wrong is noted and the default
/// returned, so that one pass finds every fault.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    node: &'a str,
    given: &'a Map<String, Value>,
    known: Vec<&'static str>,
    /// Every parameter with the value that counts, defaults filled in.
    effective: Map<String, Value>,
    faults: &'a mut Vec<Fault>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        node: &'a str,
        given: &'a Map<String, Value>,
        faults: &'a mut Vec<Fault>,
    ) -> Self {
        Self {
            node,
            given,
            known: vec!["kind", "inputs"],
            effective: Map::new(),
            faults,
        }
    }

    /// Whole number in a range.
    pub(super) fn integer(
        &mut self,
        key: &'static str,
        default: u32,
        range: RangeInclusive<u32>,
    ) -> u32 {
        let (low, high) = (*range.start(), *range.end());
        let read = |value: &Value| {
            let number = whole(value).and_then(|number| u32::try_from(number).ok());
            number
                .filter(|number| range.contains(number))
                .ok_or_else(|| {
                    Text::new(
                        format!("a whole number from {low} to {high}"),
                        format!("{low} から {high} までの整数"),
                    )
                })
        };
        self.read(key, default, read, |number| Value::from(*number))
    }

    /// A TCP or UDP port; 0 lets the system choose.
    pub(super) fn port(&mut self, key: &'static str, default: u16) -> u16 {
        let port = self.integer(key, u32::from(default), 0..=u32::from(u16::MAX));
        u16::try_from(port).unwrap_or(default)
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        let read = |value: &Value| {
            value
                .as_bool()
                .ok_or_else(|| Text::new("true or false", "true か false"))
        };
        self.read(key, default, read, |value| Value::from(*value))
    }

    /// One of a set of words.
    pub(super) fn choice<C: Choice>(&mut self, key: &'static str, default: C) -> C {
        let read = |value: &Value| {
            let found = value.as_str().and_then(|given| {
                C::ALL
                    .iter()
                    .find(|(word, _)| *word == given)
                    .map(|(_, choice)| *choice)
            });
            found.ok_or_else(|| {
                let words: Vec<_> = C::ALL.iter().map(|(word, _)| format!("'{word}'")).collect();
                let words = words.join(", ");
                Text::new(format!("one of {words}"), format!("{words} のどれか"))
            })
        };
        self.read(key, default, read, |choice| Value::from(choice.word()))
    }

    /// An IP address.
    pub(super) fn address(&mut self, key: &'static str, default: IpAddr) -> IpAddr {
        let read = |value: &Value| {
            value
                .as_str()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| Text::new("an IPv4 or IPv6 address", "IPv4 か IPv6 のアドレス"))
        };
        self.read(key, default, read, |address| {
            Value::from(address.to_string())
        })
    }

    /// A list of IP prefixes, empty by default; kept as they are written in one way.
    pub(super) fn prefixes(&mut self, key: &'static str) -> Vec<IpPrefix> {
        let read = |value: &Value| {
            let prefixes = value.as_array().filter(|list| list.len() <= MAX_LIST);
            let prefixes = prefixes.and_then(|list| {
                let parse = |item: &Value| item.as_str()?.parse().ok();
                list.iter().map(parse).collect()
            });
            prefixes.ok_or_else(|| {
                Text::new(
                    format!("a list of up to {MAX_LIST} addresses and prefixes, such as ['192.168.1.0/24', 'fd00::5']"),
                    format!("{MAX_LIST} 個までのアドレスかプレフィックスの配列（例: ['192.168.1.0/24', 'fd00::5']）"),
                )
            })
        };
        self.read(key, Vec::new(), read, |prefixes: &Vec<IpPrefix>| {
            prefixes.iter().map(ToString::to_string).collect()
        })
    }

    /// A text that is not empty, or null.
    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        let expected = || {
            Text::new(
                format!("null or a text of 1 to {MAX_TEXT} characters without control characters"),
                format!("null か、制御文字を含まない 1 から {MAX_TEXT} 文字の文字列"),
            )
        };
        self.parsed(key, expected, |text| {
            let fits = !text.is_empty()
                && text.chars().count() <= MAX_TEXT
                && !text.chars().any(char::is_control);
            fits.then(|| text.to_owned())
        })
    }

    /// A text that `parse` understands, or null; kept as its `Display` writes it, so that two ways of writing one
    /// value are one value.
    pub(super) fn parsed<T: Display>(
        &mut self,
        key: &'static str,
        expected: impl Fn() -> Text,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let read = |value: &Value| match value {
            Value::Null => Ok(None),
            Value::String(text) => parse(text).map(Some).ok_or_else(&expected),
            _ => Err(expected()),
        };
        self.read(key, None, read, |value| {
            value
                .as_ref()
                .map_or(Value::Null, |value| Value::from(value.to_string()))
        })
    }

    fn read<T>(
        &mut self,
        key: &'static str,
        default: T,
        read: impl Fn(&Value) -> Result<T, Text>,
        write: impl Fn(&T) -> Value,
    ) -> T {
        self.known.push(key);
        let value = match self.given.get(key).map(|value| (value, read(value))) {
            None => default,
            Some((_, Ok(value))) => value,
            Some((value, Err(expected))) => {
                let given = brief(value);
                let what = Text::new(
                    format!(
                        "'{key}' of node '{}' is {given}; it has to be {}",
                        self.node, expected.en
                    ),
                    format!(
                        "ノード '{}' の '{key}' が {given} です。{}でなければなりません",
                        self.node, expected.ja
                    ),
                );
                let hint = write(&default);
                let hint = Text::new(
                    format!("the default is {}", brief(&hint)),
                    format!("既定値は {} です", brief(&hint)),
                );
                self.faults
                    .push(Fault::new(&[self.node, key], what, Some(hint)));
                default
            }
        };
        self.effective.insert(key.to_owned(), write(&value));
        value
    }

    /// Notes the keys that nobody asked for and returns all parameters, defaults filled in.
    pub(super) fn finish(self) -> Map<String, Value> {
        for key in self.given.keys() {
            if self.known.contains(&key.as_str()) {
                continue;
            }
            let shown = brief(&Value::from(key.as_str()));
            let what = Text::new(
                format!("unknown key {shown} in node '{}'", self.node),
                format!("ノード '{}' に不明なキー {shown} があります", self.node),
            );
            let hint = did_you_mean(key, &self.known);
            self.faults
                .push(Fault::new(&[self.node, key], what, Some(hint)).on_key());
        }
        self.effective
    }
}

/// A JSON number without a fraction, exact in a double.
pub(super) fn whole(value: &Value) -> Option<i64> {
    if let Some(number) = value.as_i64() {
        return Some(number);
    }
    let double = value.as_f64()?;
    // The text of a double without fraction and exponent is an integer's.
    (double.fract() == 0.0 && double.abs() < 1e15)
        .then(|| format!("{double:.0}").parse().ok())
        .flatten()
}

/// The closest known word, or all of them.
pub(super) fn did_you_mean(given: &str, known: &[&str]) -> Text {
    let short: String = given.chars().take(64).collect();
    let closest = known
        .iter()
        .map(|word| (strsim::damerau_levenshtein(&short, word), *word))
        .min();
    match closest {
        Some((distance, word)) if distance <= 2.max(word.len() / 3) => Text::new(
            format!("did you mean '{word}'?"),
            format!("'{word}' の間違いではありませんか"),
        ),
        _ => Text::new(
            format!("known are: {}", known.join(", ")),
            format!("使えるもの: {}", known.join(", ")),
        ),
    }
}

/// A value as a message shows it: short, on one line.
pub(super) fn brief(value: &Value) -> String {
    match value {
        Value::Array(_) => "[…]".to_owned(),
        Value::Object(_) => "{…}".to_owned(),
        Value::String(text) => {
            let mut shown: String = text.chars().take(40).flat_map(char::escape_debug).collect();
            if text.chars().nth(40).is_some() {
                shown.push('…');
            }
            format!("'{shown}'")
        }
        other => other.to_string(),
    }
}
