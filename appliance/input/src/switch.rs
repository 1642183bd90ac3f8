//! Which machine the operator's devices belong to, and the chords that change it.

use std::fmt;
use std::str::FromStr;

use soft_kvm_protocol::handover::ControlRequest;
use soft_kvm_protocol::input::KeyCode;

use crate::chord::{Chord, ChordParseError};

/// What a chord does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Ends a trial: the devices stay taken.
    Keep,
    /// The devices go back to the operator's own machine.
    Local,
    /// To the next server; from the own machine, to the one before.
    Next,
    /// The devices go back, whatever hangs.
    Panic,
    /// To the server before this one; from the own machine, to the one before.
    Previous,
    /// To a server by its place on the command line, from 1 to 9.
    Server(u8),
    /// Keyboard and mouse are passed on between the clients of a server.
    Wish(Wish),
}

/// What an operator wants with keyboard and mouse where several share a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wish {
    /// To have them.
    Request,
    /// To give them to who has asked first.
    Grant,
    /// To keep them though one has asked.
    Refuse,
    /// To have them no more.
    Release,
    /// To have them at once, as an admin.
    Take,
}

impl Wish {
    /// Each of them.
    pub const ALL: [Self; 5] = [
        Self::Request,
        Self::Grant,
        Self::Refuse,
        Self::Release,
        Self::Take,
    ];

    /// Each with the key that means it: R, G, N, L, T.
    const KEYS: [(Self, KeyCode); 5] = [
        (Self::Request, KeyCode(19)),
        (Self::Grant, KeyCode(34)),
        (Self::Refuse, KeyCode(49)),
        (Self::Release, KeyCode(38)),
        (Self::Take, KeyCode(20)),
    ];

    /// What this key means beside the modifiers of a chord.
    #[must_use]
    pub fn of_key(key: KeyCode) -> Option<Self> {
        let found = Self::KEYS.iter().find(|(_, meant)| *meant == key);
        found.map(|(wish, _)| *wish)
    }

    fn of_word(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|wish| wish.word() == text)
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Grant => "grant",
            Self::Refuse => "refuse",
            Self::Release => "release",
            Self::Take => "take",
        }
    }
}

impl From<Wish> for ControlRequest {
    fn from(wish: Wish) -> Self {
        match wish {
            Wish::Request => Self::Request {},
            Wish::Grant => Self::Grant { client: None },
            Wish::Refuse => Self::Refuse { client: None },
            Wish::Release => Self::Release {},
            Wish::Take => Self::Take {},
        }
    }
}

impl FromStr for Action {
    type Err = BindingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "keep" => Self::Keep,
            "local" => Self::Local,
            "next" => Self::Next,
            "panic" => Self::Panic,
            "previous" => Self::Previous,
            other => match (Wish::of_word(other), other.parse()) {
                (Some(wish), _) => Self::Wish(wish),
                (None, Ok(number @ 1..=9)) => Self::Server(number),
                _ => return Err(BindingError::Action(text.to_owned())),
            },
        })
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep => f.write_str("keep"),
            Self::Local => f.write_str("local"),
            Self::Next => f.write_str("next"),
            Self::Panic => f.write_str("panic"),
            Self::Previous => f.write_str("previous"),
            Self::Server(number) => write!(f, "{number}"),
            Self::Wish(wish) => f.write_str(wish.word()),
        }
    }
}

/// A chord and what it does, written `ACTION=KEY+KEY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// What it does.
    pub action: Action,
    /// The keys.
    pub chord: Chord,
}

/// Why a binding can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BindingError {
    /// Not `ACTION=KEYS`.
    #[error("{0:?} is no chord: write ACTION=KEYS, e.g. next=LEFTCTRL+RIGHTCTRL+N")]
    Form(String),
    /// Not `EDGE=ACTION`.
    #[error("{0:?} is no edge: write left, right, top or bottom and what it does, e.g. right=next")]
    Edge(String),
    /// An action that does not exist.
    #[error(
        "{0:?} is no action: panic, next, previous, local, keep, request, grant, refuse, release, take, or a server's number from 1 to 9"
    )]
    Action(String),
    /// The keys are no chord.
    #[error(transparent)]
    Chord(#[from] ChordParseError),
    /// Keys that already do something else.
    #[error("{chord} cannot be both {first} and {second}: every key of one is in the other")]
    Conflict {
        /// The chord that can't be told apart.
        chord: Chord,
        /// What one does.
        first: Action,
        /// What the other does.
        second: Action,
    },
}

impl FromStr for Binding {
    type Err = BindingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (action, keys) = text
            .split_once('=')
            .ok_or_else(|| BindingError::Form(text.to_owned()))?;
        Ok(Self {
            action: action.trim().parse()?,
            chord: keys.parse()?,
        })
    }
}

/// All bindings: those given, and the default chords of every action that is not among them. There is always a panic
/// chord.
///
/// The default ones need both Control keys (panic also goes with both Shift keys), which no common desktop uses.
///
/// # Errors
/// Two chords for different actions that cannot be told apart.
pub fn bindings(given: &[Binding]) -> Result<Vec<Binding>, BindingError> {
    let mut all = given.to_vec();
    let mut add = |action, chord| {
        if !given.iter().any(|binding| binding.action == action) {
            all.push(Binding { action, chord });
        }
    };
    for chord in Chord::default_panic() {
        add(Action::Panic, chord);
    }
    let keys = [
        (Action::Next, KeyCode::TAB),
        (Action::Previous, KeyCode::BACKSPACE),
        (Action::Local, KeyCode(11)),
        (Action::Keep, KeyCode::ENTER),
    ];
    for (action, key) in keys {
        add(action, Chord::both_controls(key));
    }
    // KEY_1 to KEY_9 are 2 to 10, KEY_0 is 11.
    for number in 1..=9 {
        let key = KeyCode(u16::from(number) + 1);
        add(Action::Server(number), Chord::both_controls(key));
    }
    // Keys that somebody has given another meaning keep that.
    for (wish, key) in Wish::KEYS {
        let chord = Chord::both_controls(key);
        let taken =
            |binding: &Binding| binding.action == Action::Wish(wish) || binding.chord == chord;
        if !all.iter().any(taken) {
            let action = Action::Wish(wish);
            all.push(Binding { action, chord });
        }
    }
    for (index, one) in all.iter().enumerate() {
        for other in all.iter().skip(index + 1) {
            let (small, large) = if one.chord.keys().len() <= other.chord.keys().len() {
                (one, other)
            } else {
                (other, one)
            };
            let within = |key| large.chord.keys().contains(key);
            if one.action != other.action && small.chord.keys().iter().all(within) {
                return Err(BindingError::Conflict {
                    chord: small.chord.clone(),
                    first: one.action,
                    second: other.action,
                });
            }
        }
    }
    Ok(all)
}

/// Whose the devices are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The operator's own machine's.
    Local,
    /// A server's, counted from 0.
    Server(usize),
}

/// Follows which server the devices belong to.
#[derive(Clone, Copy, Debug)]
pub struct Switch {
    servers: usize,
    place: Place,
    last: usize,
}

impl Switch {
    /// Among this many servers, at the first.
    #[must_use]
    pub const fn new(servers: usize) -> Self {
        Self {
            servers,
            place: Place::Server(0),
            last: 0,
        }
    }

    /// Where the devices belong now.
    #[must_use]
    pub const fn place(&self) -> Place {
        self.place
    }

    /// Acts; tells whether the place has changed. A server that does not exist changes nothing.
    pub fn act(&mut self, action: Action) -> bool {
        let count = self.servers.max(1);
        let to = match (action, self.place) {
            (Action::Keep | Action::Wish(_), place) => place,
            (Action::Local | Action::Panic, _) => Place::Local,
            (Action::Next | Action::Previous, Place::Local) => Place::Server(self.last),
            (Action::Next, Place::Server(here)) => Place::Server((here + 1) % count),
            (Action::Previous, Place::Server(here)) => Place::Server((here + count - 1) % count),
            (Action::Server(number), place) => match usize::from(number).checked_sub(1) {
                Some(index) if index < self.servers => Place::Server(index),
                _ => place,
            },
        };
        if let Place::Server(index) = to {
            self.last = index;
        }
        std::mem::replace(&mut self.place, to) != to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_do_not_collide_and_are_replaced_by_action() {
        let defaults = bindings(&[]).expect("the default chords");
        assert_eq!(defaults.len(), 2 + 4 + 9 + 5);
        let given: Binding = "next=LeftCtrl+RightCtrl+N".parse().expect("a binding");
        let all = bindings(std::slice::from_ref(&given)).expect("no conflict");
        let next: Vec<_> = all
            .iter()
            .filter(|binding| binding.action == Action::Next)
            .collect();
        assert_eq!(next, [&given]);
        let refuses = |binding: &Binding| binding.action == Action::Wish(Wish::Refuse);
        assert!(defaults.iter().any(refuses) && !all.iter().any(refuses));
        let wish: Binding = "take=LEFTMETA+T".parse().expect("a binding");
        assert_eq!(wish.action, Action::Wish(Wish::Take));
        let number: Binding = "3=LEFTMETA+F3".parse().expect("a binding");
        assert_eq!(number.action, Action::Server(3));
    }

    #[test]
    fn what_cannot_be_told_apart_is_refused() {
        for text in [
            "next=LEFTCTRL+RIGHTCTRL+ESC",
            "local=LEFTCTRL+RIGHTCTRL",
            "1=LEFTCTRL+RIGHTCTRL+2",
        ] {
            let given: Binding = text.parse().expect("a binding");
            let error = bindings(&[given]).expect_err(text);
            assert!(matches!(error, BindingError::Conflict { .. }), "{error}");
        }
        let error = |text: &str| text.parse::<Binding>().expect_err(text);
        assert_eq!(error("next"), BindingError::Form("next".into()));
        assert_eq!(error("10=A+B"), BindingError::Action("10".into()));
        assert_eq!(
            error("next=A+B"),
            BindingError::Chord(ChordParseError::NoModifier)
        );
    }

    #[test]
    fn around_and_home_and_back() {
        let mut switch = Switch::new(3);
        assert!(switch.act(Action::Next));
        assert!(switch.act(Action::Local));
        assert!(!switch.act(Action::Panic), "local already");
        assert!(switch.act(Action::Next));
        assert_eq!(switch.place(), Place::Server(1), "where it was");
        assert!(switch.act(Action::Server(3)));
        assert!(switch.act(Action::Next));
        assert_eq!(switch.place(), Place::Server(0));
        assert!(switch.act(Action::Previous));
        assert_eq!(switch.place(), Place::Server(2));
        assert!(!switch.act(Action::Server(4)));
        assert!(!switch.act(Action::Keep));
        assert!(!Switch::new(1).act(Action::Next));
    }
}
