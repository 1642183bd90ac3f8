//! What the planner says it types is what libxkbcommon, which desktops use, makes of the keys.

use proptest::prelude::*;
use soft_kvm_client::typing::keyboard::{KeyboardChoice, LayoutName, load};
use soft_kvm_input::text::{Plan, TypingLayout};
use soft_kvm_testkit::keyboard::TextField;

const LOCALE: &str = "en_US.UTF-8";
/// The layouts that the documentation names.
const NAMED: [&str; 10] = ["us", "gb", "de", "fr", "jp", "es", "it", "br", "se", "ch"];
/// Others, each peculiar in its own way.
const OTHERS: [&str; 12] = [
    "us:intl",
    "us:altgr-intl",
    "us:dvorak",
    "de:neo",
    "de:nodeadkeys",
    "fr:bepo",
    "ch:fr",
    "ca",
    "pt",
    "pl",
    "tr",
    "ru",
];

/// What a desktop makes of the plan's keys.
fn typed(layout: &str, options: &str, plan: &Plan) -> String {
    let mut field = TextField::new(layout, options, LOCALE).expect("a known layout");
    for step in &plan.steps {
        field.key(step.key.0, step.down);
    }
    assert!(!field.has_modifiers(), "{layout}");
    field.text().to_owned()
}

fn choice(layout: &str, options: &[&str], compose: &str) -> KeyboardChoice {
    KeyboardChoice {
        layout: layout.parse().expect("a name"),
        options: options.iter().map(|&option| option.to_owned()).collect(),
        compose: Some(compose.to_owned()),
    }
}

fn typing(layout: &str, options: &[&str]) -> TypingLayout {
    load(&choice(layout, options, LOCALE)).expect("a layout")
}

#[test]
fn every_character_of_every_layout_comes_out_as_itself() {
    for name in NAMED.into_iter().chain(OTHERS) {
        let layout = typing(name, &[]);
        let all: String = layout.characters().collect();
        let plan = Plan::new(&layout, &all);
        assert_eq!(plan.untypable, [], "{name}");
        let got = typed(name, "", &plan);
        let pairs = all.chars().zip(got.chars());
        let wrong: Vec<_> = pairs.filter(|(a, b)| a != b).take(9).collect();
        assert_eq!(wrong, [], "{name}");
        assert_eq!(got, all, "{name}");
    }
}

#[test]
fn layouts_type_what_is_on_their_keys_and_more_by_dead_keys() {
    let ascii: String = (' '..='~').chain(['\n', '\t']).collect();
    for (name, more) in [
        ("us", ""),
        ("gb", "£€"),
        ("de", "äöüÄÖÜß€µéèê"),
        ("fr", "éèçàùêëïô€"),
        ("jp", ""),
        ("es", "ñÑ¿¡áéíóúü€ç"),
        ("it", "àèéìòùç€"),
        ("br", "çãõáéíóúâêôà"),
        ("se", "åäöÅÄÖ€é"),
        ("ch", "äöüàéè€ç"),
    ] {
        let layout = typing(name, &[]);
        let text = format!("{ascii}{more}");
        let missing = Plan::new(&layout, &text).untypable;
        let missing: String = missing.iter().map(|one| one.character).collect();
        assert_eq!(missing, "", "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_comes_out_as_itself_or_is_reported(
        name in prop::sample::select(NAMED.to_vec()),
        text in "[ -~\n\t¡-ſ€„“”–…äöüßéèçñ¥漢Ωя]{0,80}",
    ) {
        let layout = typing(name, &[]);
        let plan = Plan::new(&layout, &text);
        let mut expected = String::new();
        let (mut line, mut column, mut missing) = (1, 1, plan.untypable.iter());
        for character in text.chars() {
            if layout.way(character).is_some() {
                expected.push(character);
            } else {
                let one = missing.next().expect("a report");
                prop_assert_eq!(one.character, character);
                prop_assert_eq!((one.place.line, one.place.column), (line, column));
            }
            (line, column) = if character == '\n' { (line + 1, 1) } else { (line, column + 1) };
        }
        prop_assert!(missing.next().is_none());
        prop_assert_eq!(typed(name, "", &plan), expected, "{}", name);
    }
}

#[test]
fn the_compose_key_types_what_no_key_has() {
    let plain = typing("us", &[]);
    assert_eq!((plain.way('é'), plain.way('™')), (None, None));
    let option = "compose:ralt";
    let layout = typing("us", &[option]);
    let text = "déjà vu™ €5 ½";
    let plan = Plan::new(&layout, text);
    assert_eq!(plan.untypable, []);
    assert_eq!(typed("us", option, &plan), text);
}

#[test]
fn unknown_layouts_and_locales_are_refused_with_their_names() {
    let refused = |layout, compose| {
        let error = load(&choice(layout, &[], compose)).expect_err("refused");
        error.to_string()
    };
    assert!(refused("klingon", LOCALE).starts_with("klingon: no such keyboard layout"));
    assert!(refused("de:cursive", LOCALE).starts_with("de:cursive: no such keyboard layout"));
    assert!(refused("de", "tlh_QO").contains("tlh_QO"));
    for bad in ["", "../de", "de:../x", "a b", "de(x"] {
        assert!(bad.parse::<LayoutName>().is_err(), "{bad}");
    }
}

#[test]
fn every_layout_that_the_distribution_lists_can_be_read() {
    let list = std::fs::read_to_string("/usr/share/X11/xkb/rules/evdev.lst").expect("xkb-data");
    let mut section = "";
    let (mut layouts, mut wrong) = (0, Vec::new());
    for line in list.lines() {
        if let Some(name) = line.strip_prefix("! ") {
            section = name;
            continue;
        }
        let mut words = line.split_whitespace();
        let name = match (section, words.next(), words.next()) {
            ("layout", Some(layout), _) if layout != "custom" => layout.to_owned(),
            ("variant", Some(variant), Some(layout)) => {
                format!("{}:{variant}", layout.trim_end_matches(':'))
            }
            _ => continue,
        };
        layouts += 1;
        match name.parse().map(|layout| KeyboardChoice {
            layout,
            ..KeyboardChoice::default()
        }) {
            Ok(choice) => match load(&choice) {
                Ok(layout) if layout.way(' ').is_some() && layout.way('\n').is_some() => {}
                Ok(_) => wrong.push(format!("{name}: no space or no line end")),
                Err(error) => wrong.push(error.to_string()),
            },
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    assert!(layouts > 300, "{layouts}");
    assert!(wrong.is_empty(), "{wrong:?}");
}
