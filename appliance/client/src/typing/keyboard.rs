//! What a keyboard layout of X can type: xkb keymaps and compose tables, read from this machine's files.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use kbvm::lookup::LookupTable;
use kbvm::state_machine::{Direction, StateMachine};
use kbvm::xkb::Context;
use kbvm::xkb::compose::ComposeTable;
use kbvm::xkb::diagnostic::{Diagnostic, DiagnosticKind};
use kbvm::xkb::rmlvo::Group;
use kbvm::{Components, GroupIndex, Keycode, Keysym, ModifierMask, syms};
use soft_kvm_input::text::{Stroke, TypingLayout};
use soft_kvm_protocol::input::KeyCode;

/// The environment that counts: where the files are, but not this user's own layout and compose sequences.
const ENVIRONMENT: [&str; 3] = ["XKB_CONFIG_ROOT", "XKB_CONFIG_EXTRA_PATH", "XLOCALEDIR"];
/// The keys that carry characters: those of the letters' block. The others are no layout's, or hang on Num Lock.
const BLOCK: [std::ops::RangeInclusive<u16>; 8] = [
    2..=13,
    15..=28,
    30..=41,
    43..=53,
    57..=57,
    86..=86,
    89..=89,
    124..=124,
];
/// All keys that X knows.
const KEYS: std::ops::RangeInclusive<u16> = 1..=247;
/// Keys that some layout uses as a modifier, the usual ones first: Shift, Alt Gr, Control, Caps Lock, the backslash and
/// the key beside the left Shift, Alt, the keys of the system and of menus.
const HOLDABLE: [u16; 11] = [42, 100, 97, 58, 43, 86, 56, 125, 126, 127, 54];
/// More modifiers than these at once are no way to type.
const MODIFIERS: usize = 3;
/// Modifiers that start something other than a character.
const COMMANDS: [ModifierMask; 5] = [
    ModifierMask::LOCK,
    ModifierMask::CONTROL,
    ModifierMask::ALT,
    ModifierMask::NUM_LOCK,
    ModifierMask::SUPER,
];

/// A layout by the names that `setxkbmap` takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayoutName {
    layout: String,
    variant: String,
}

impl Default for LayoutName {
    fn default() -> Self {
        Self {
            layout: "us".to_owned(),
            variant: String::new(),
        }
    }
}

impl FromStr for LayoutName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (layout, variant) = match text.strip_suffix(')') {
            Some(text) => text.split_once('(').unwrap_or((text, "")),
            None => text.split_once(':').unwrap_or((text, "")),
        };
        let word = |word: &str| {
            word.chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        };
        if layout.is_empty() || !word(layout) || !word(variant) {
            return Err("a layout of setxkbmap, e.g. de, gb or us:intl".to_owned());
        }
        let layout = if layout == "pt-br" { "br" } else { layout };
        Ok(Self {
            layout: layout.to_owned(),
            variant: variant.to_owned(),
        })
    }
}

impl fmt::Display for LayoutName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.layout)?;
        if !self.variant.is_empty() {
            write!(f, ":{}", self.variant)?;
        }
        Ok(())
    }
}

/// Why a layout cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// Not even the usual layout is there.
    #[error("the keyboard layouts of X are not on this machine: install xkb-data")]
    NotInstalled,
    /// Its files do not know it.
    #[error(
        "{0}: no such keyboard layout; layouts and variants are named as for setxkbmap, e.g. de, gb, us:intl"
    )]
    Unknown(LayoutName),
    /// The compose table is not there.
    #[error(
        "no compose table for the locale {0}: install libx11-data, name another locale, or give --compose none"
    )]
    NoCompose(String),
}

/// Which keyboard the target believes to have.
#[derive(Clone, Debug, Default)]
pub struct KeyboardChoice {
    /// The layout.
    pub layout: LayoutName,
    /// Options as of `setxkbmap -option`, e.g. `compose:ralt`.
    pub options: Vec<String>,
    /// The locale whose compose table the target uses, for dead keys and the compose key; none is without them.
    pub compose: Option<String>,
}

/// Reads what a keyboard can type.
///
/// # Errors
/// [`LayoutError`].
pub fn load(choice: &KeyboardChoice) -> Result<TypingLayout, LayoutError> {
    let context = context();
    let (machine, table) = keymap(&context, &choice.layout, &choice.options)?;
    let compose = choice
        .compose
        .as_deref()
        .map(|locale| compose(&context, locale))
        .transpose()?;
    Ok(typing_layout(&machine, &table, compose.as_ref()))
}

fn context() -> Context {
    let mut builder = Context::builder();
    builder.enable_environment(true);
    builder.environment_accessor(|name| {
        let known = ENVIRONMENT.contains(&name);
        known.then(|| std::env::var(name).ok()).flatten()
    });
    builder.build()
}

fn keymap(
    context: &Context,
    name: &LayoutName,
    options: &[String],
) -> Result<(StateMachine, LookupTable), LayoutError> {
    let read = |name: &LayoutName| {
        let group = [Group {
            layout: &name.layout,
            variant: &name.variant,
        }];
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let mut missing: Vec<Diagnostic> = Vec::new();
        let keymap = context.keymap_from_names(
            // What else it says is about odd lines in the files of the distribution.
            (&mut missing, |kind, _| kind == DiagnosticKind::FileNotFound),
            Some("evdev"),
            Some("pc105"),
            Some(&group),
            Some(&options),
        );
        missing.is_empty().then_some(keymap)
    };
    let keymap = read(name).ok_or_else(|| match read(&LayoutName::default()) {
        Some(_) => LayoutError::Unknown(name.clone()),
        None => LayoutError::NotInstalled,
    })?;
    let builder = keymap.to_builder();
    Ok((builder.build_state_machine(), builder.build_lookup_table()))
}

fn compose(context: &Context, locale: &str) -> Result<ComposeTable, LayoutError> {
    let mut builder = context.compose_table_builder();
    builder.locale(locale);
    // What is wrong with single lines only makes less typable.
    let mut said: Vec<Diagnostic> = Vec::new();
    let table = builder.build(&mut said);
    for diagnostic in &said {
        tracing::debug!(locale, "compose table: {diagnostic}");
    }
    table.ok_or_else(|| LayoutError::NoCompose(locale.to_owned()))
}

/// Everything that one stroke or a compose sequence types.
fn typing_layout(
    machine: &StateMachine,
    table: &LookupTable,
    compose: Option<&ComposeTable>,
) -> TypingLayout {
    let strokes = strokes(machine, table);
    let mut layout = TypingLayout::new();
    let mut opens: Vec<Keysym> = Vec::new();
    if let Some(compose) = compose {
        let mut rules = compose.iter();
        while let Some(rule) = rules.next() {
            let steps = rule.steps();
            if let Some(first) = steps.first()
                && opens.last() != Some(&first.keysym())
            {
                opens.push(first.keysym());
            }
            let way: Option<Vec<Stroke>> = steps
                .iter()
                .map(|step| strokes.get(&step.keysym().0).cloned())
                .collect();
            let character = rule.string().and_then(only_character);
            if let (Some(way), Some(character)) =
                (way.filter(|way| stays_open(table, way)), character)
            {
                layout.offer(character, &way);
            }
        }
    }
    for (&keysym, stroke) in &strokes {
        let keysym = Keysym(keysym);
        let character = match keysym {
            syms::Return => Some('\n'),
            syms::Tab => Some('\t'),
            keysym => keysym.char().filter(|c| !c.is_control()),
        };
        // A key that opens a sequence types nothing by itself.
        if let Some(character) = character.filter(|_| !opens.contains(&keysym)) {
            layout.offer(character, std::slice::from_ref(stroke));
        }
    }
    layout
}

/// Whether no modifier ends the sequence before its time: toolkits pass over those that they know as such, and the fifth
/// level's came late.
fn stays_open(table: &LookupTable, way: &[Stroke]) -> bool {
    let mut modifiers = way.iter().skip(1).flat_map(|stroke| &stroke.modifiers);
    modifiers.all(|&key| {
        let keysyms = table.lookup(GroupIndex::ZERO, ModifierMask::NONE, keycode(key));
        keysyms.into_iter().all(|props| {
            let keysym = props.keysym();
            (syms::Shift_L..=syms::Hyper_R).contains(&keysym)
                || (syms::ISO_Lock..=syms::ISO_Last_Group_Lock).contains(&keysym)
                || keysym == syms::Mode_switch
        })
    })
}

fn only_character(text: &str) -> Option<char> {
    let mut characters = text.chars();
    let first = characters.next()?;
    (characters.next().is_none() && !first.is_control()).then_some(first)
}

/// The cheapest stroke for each key symbol.
fn strokes(machine: &StateMachine, table: &LookupTable) -> BTreeMap<u32, Stroke> {
    let modifiers = modifiers(machine);
    let mut found = BTreeMap::new();
    for (held, components) in holds(machine, &modifiers) {
        for key in KEYS {
            let in_block = BLOCK.iter().any(|range| range.contains(&key));
            let key = KeyCode(key);
            if modifiers.iter().any(|(modifier, _)| *modifier == key) {
                continue;
            }
            let lookup = table
                .lookup(components.group, components.mods, keycode(key))
                .with_ctrl_fallback(false)
                .with_ctrl_transform(false)
                .with_caps_transform(false);
            let mut keysyms = lookup.into_iter().map(|props| props.keysym());
            let (Some(keysym), None) = (keysyms.next(), keysyms.next()) else {
                continue;
            };
            if in_block || keysym == syms::Multi_key {
                let stroke = || Stroke::new(held.clone(), key);
                found.entry(keysym.0).or_insert_with(stroke);
            }
        }
    }
    found
}

/// The keys that choose among the characters of other keys while they are held, one for each meaning.
fn modifiers(machine: &StateMachine) -> Vec<(KeyCode, ModifierMask)> {
    let mut found: Vec<(KeyCode, ModifierMask)> = Vec::new();
    for key in HOLDABLE.map(KeyCode) {
        let Some(components) = hold(machine, &[key]) else {
            continue;
        };
        let mask = components.mods;
        let commands = COMMANDS.iter().any(|&command| mask.contains(command));
        let known = found.iter().any(|&(_, other)| other == mask);
        if mask != ModifierMask::NONE && !commands && !known {
            found.push((key, mask));
        }
    }
    found
}

/// All ways to hold some of the modifiers, those with few of them first.
fn holds(
    machine: &StateMachine,
    modifiers: &[(KeyCode, ModifierMask)],
) -> Vec<(Vec<KeyCode>, Components)> {
    let mut all = vec![(Vec::new(), ModifierMask::NONE, Components::default())];
    let mut from = 0;
    for _ in 0..MODIFIERS {
        let end = all.len();
        for index in from..end {
            for &(key, mask) in modifiers {
                let (held, before) = match all.get(index) {
                    Some((held, mask, _)) => (held, *mask),
                    None => continue,
                };
                let mut held = held.clone();
                if held.contains(&key) {
                    continue;
                }
                held.push(key);
                let wanted = before | mask;
                let known = all.iter().any(|&(_, mask, _)| mask == wanted);
                // In some orders a modifier becomes another key.
                if let Some(components) = hold(machine, &held).filter(|_| !known)
                    && components.mods == wanted
                {
                    all.push((held, wanted, components));
                }
            }
        }
        from = end;
    }
    all.into_iter()
        .map(|(held, _, components)| (held, components))
        .collect()
}

/// The state while these keys are held; none when something is left of it afterwards.
fn hold(machine: &StateMachine, keys: &[KeyCode]) -> Option<Components> {
    let (mut state, mut events) = (machine.create_state(), Vec::new());
    let mut press = |key: KeyCode, direction| {
        machine.handle_key(&mut state, &mut events, keycode(key), direction);
    };
    let mut components = Components::default();
    keys.iter().for_each(|&key| press(key, Direction::Down));
    let pressed = std::mem::take(&mut events);
    pressed.into_iter().for_each(|event| {
        components.apply_event(event);
    });
    let mut after = components;
    let mut release = |key: KeyCode| {
        machine.handle_key(&mut state, &mut events, keycode(key), Direction::Up);
    };
    keys.iter().rev().for_each(|&key| release(key));
    events.into_iter().for_each(|event| {
        after.apply_event(event);
    });
    (after == Components::default()).then_some(components)
}

fn keycode(key: KeyCode) -> Keycode {
    Keycode::from_evdev(u32::from(key.0))
}
