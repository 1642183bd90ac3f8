//! The story from its text to its ids.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use soft_kvm_core::Lang;
use soft_kvm_core::story::{Change, Kind, Story, StoryErrors, diff, evaluate, fuzz_story};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/stories")
        .join(name)
}

fn load(path: &Path) -> Result<Story, StoryErrors> {
    let evaluated = evaluate(path)?;
    Story::from_value(&evaluated.value, "test")
}

/// The errors of a story's text, in English, with `story` for its path.
fn mistakes(text: &str) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("story.jsonnet");
    fs::write(&path, text).expect("a temporary file is written");
    let shown = path.display().to_string();
    match load(&path) {
        Ok(story) => panic!("no mistake found in {text}: {story:?}"),
        Err(errors) => errors
            .all()
            .iter()
            .map(|error| error.render(Lang::English).replace(&shown, "story"))
            .collect(),
    }
}

fn check(changes: &str, expected: &[&str]) {
    let text = format!("(import 'default.jsonnet') + {changes}");
    let found = mistakes(&text);
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "{found}\nhas no\n{expected}");
    }
}

#[test]
fn golden_ids() {
    let roots = [
        ("built-in", Story::embedded()),
        ("bitrate", load(&fixture("bitrate.jsonnet")).expect("valid")),
        ("plain", load(&fixture("plain.json")).expect("valid")),
        ("imports", load(&fixture("imports.jsonnet")).expect("valid")),
    ]
    .map(|(name, story)| format!("{name} {}", story.root()));
    assert_eq!(roots, GOLDEN);
}

const GOLDEN: [&str; 4] = [
    "built-in 3e9b7eec38f7d988db56d3c0996451370fa2f9430647140d356a5d0ea3c64b84",
    "bitrate f65d8e0ea10cf940ac972c892ffe60777b27d0c69cefb44600c9550431c0a00d",
    "plain 2e2288adeb84896ab46be05917c9d0e52a1cf5e077e707890c397b7713392179",
    "imports 0c3e1d1de7ffbabe64e9640c3e24e483d9f5017c3e5c33be778ed88c4cdbe45a",
];

#[test]
fn the_built_in_story_writes_out_the_defaults() {
    let bare = json!({
        "a": { "kind": "source" },
        "b": { "kind": "encoder", "inputs": ["a"] },
        "c": { "kind": "transport", "inputs": ["b"] },
        "d": { "kind": "sink" },
        "e": { "kind": "control" },
        "f": { "kind": "discovery", "inputs": ["e"] },
        "g": { "kind": "metrics" },
    });
    let bare = Story::from_value(&bare, "bare").expect("valid");
    assert_eq!(bare.root(), Story::embedded().root());
}

#[test]
fn a_plain_json_story_has_typed_parameters() {
    let story = load(&fixture("plain.json")).expect("valid");
    assert_eq!(story.capture().fps.as_hz(), 60);
    assert_eq!(
        story.capture().size.map(|size| size.to_string()).as_deref(),
        Some("1280x720")
    );
    assert_eq!(story.rtp().mtu, 1000);
    assert_eq!(story.control().name.as_deref(), Some("bench"));
    assert!(story.input().is_none() && story.metrics().is_none() && story.discovery().is_none());
}

#[test]
fn imports_are_read_from_the_folder_and_listed() {
    let evaluated = evaluate(&fixture("imports.jsonnet")).expect("valid");
    let names: Vec<_> = evaluated
        .files
        .iter()
        .filter_map(|file| file.file_name()?.to_str())
        .collect();
    assert_eq!(names, ["imports.jsonnet", "site.libsonnet"]);
    let story = Story::from_value(&evaluated.value, "test").expect("valid");
    assert_eq!(story.control().name.as_deref(), Some("シェルフ 3"));
    assert!(story.metrics().is_none());
}

#[test]
fn each_kind_of_mistake_is_told_with_its_place() {
    check(
        "{ video+: { bitrat_kbps: 1 } }",
        &[
            "story:1:42: unknown key 'bitrat_kbps' in node 'video'\n    hint: did you mean 'bitrate_kbps'?",
        ],
    );
    check(
        "{\n  video+: { bitrate_kbps: '8' },\n}",
        &[
            "story:2:27: 'bitrate_kbps' of node 'video' is '8'; it has to be a whole number from 100 to 100000\n    hint: the default is 6000",
        ],
    );
    check(
        "{ capture+: { fps: 0 } }",
        &["story:1:49: 'fps' of node 'capture' is 0; it has to be a whole number from 1 to 240"],
    );
    check(
        "{ capture+: { fps: 29.97 } }",
        &["is 29.97; it has to be a whole number"],
    );
    check(
        "{ capture+: { driver: 'hdmi' } }",
        &["has to be one of 'auto', 'v4l2', 'kms', 'x11', 'testcard'"],
    );
    check("{ capture+: { size: '9x9' } }", &["'WIDTHxHEIGHT'"]);
    check(
        "{ metrics+: { address: 'localhost' } }",
        &["an IPv4 or IPv6 address"],
    );
    check("{ metrics+: { enabled: 1 } }", &["true or false"]);
    check(
        "{ vidoe+: { bitrate_kbps: 1000 } }",
        &["story:1:32: node 'vidoe' has no 'kind'"],
    );
    check(
        "{ video+: { kind: 'encodr' } }",
        &[
            "story:1:48: node 'video' has the unknown kind 'encodr'\n    hint: did you mean 'encoder'?",
        ],
    );
    check(
        "{ video+: { inputs: ['captur'] } }",
        &[
            "story:1:51: node 'video' has the input 'captur', which does not exist\n    hint: did you mean 'capture'?",
        ],
    );
    check(
        "{ video+: { inputs: ['control'] } }",
        &["needs a 'source' as input; 'control' is a 'control'"],
    );
    check(
        "{ video+: { inputs: [] } }",
        &["has 0 inputs, but a 'encoder' takes exactly one 'source'"],
    );
    check(
        "{ video+: { inputs: 'capture' } }",
        &["has to be a list of node names"],
    );
    check(
        "{ input+: { inputs: ['video'] } }",
        &["a 'sink' takes none"],
    );
    check(
        "{ control: null, discovery: null }",
        &["the story has no node of kind 'control'"],
    );
    check(
        "{ second: { kind: 'source' } }",
        &["node 'second' is a second 'source' beside 'capture'"],
    );
    check(
        "{ 'two words': { kind: 'sink' }, input: null }",
        &["'two words' can't be the name of a node"],
    );
    check(
        "{ video: 5, rtp: null }",
        &["node 'video' has to be an object, not 5"],
    );
}

#[test]
fn cycles_are_told() {
    let found = mistakes("(import 'default.jsonnet') + { video+: { inputs: ['rtp'] } }");
    assert!(
        found
            .iter()
            .any(|error| error.contains("depend on themselves: 'rtp' ← 'video' ← 'rtp'")),
        "{found:#?}"
    );
}

#[test]
fn all_mistakes_are_told_at_once_in_their_order() {
    check(
        "{\n capture+: { fps: 0, devise: 'x' },\n video+: { refresh_ms: 1 },\n}",
        &[
            "story:2:19: 'fps'",
            "story:2:22: unknown key 'devise'",
            "story:3:24: 'refresh_ms'",
        ],
    );
}

#[test]
fn jsonnet_mistakes_have_places() {
    for (text, expected) in [
        ("{\n  a: \n}", "story:3:1: syntax error: found '}'"),
        ("{ a: 'x", "story:1:6: the string has no end"),
        ("{ a: b }", "story:1:6: unknown variable 'b'"),
        ("{ a: 1,\n a: 2 }", "story:2:2: 'a' occurs twice"),
        ("{ a: error 'my reason' }", "story:1:6: error: my reason"),
        (
            "{ a: (import 'no.jsonnet') }",
            "story:1:7: import 'no.jsonnet': can't be read",
        ),
        (
            "{ a: importstr '../x' }",
            "imports stay inside the story's own folder",
        ),
        ("5", "story:1:1: a story is an object of nodes, not 5"),
        ("", "syntax error: found end of file"),
    ] {
        let found = mistakes(text);
        assert!(
            found.len() == 1 && found[0].contains(expected),
            "{text}: {found:#?}"
        );
    }
}

#[test]
fn a_place_is_found_through_locals_imports_and_branches() {
    for (text, place) in [
        (
            "local fast = { video+: { bitrate_kbps: 1 } };\n(import 'default.jsonnet') + fast",
            "story:1:40:",
        ),
        (
            "local o = { f: { video+: { mad: 1 } } };\n(import 'default.jsonnet') + o.f",
            "story:1:28:",
        ),
        (
            "(import 'default.jsonnet') { video+: { mad: 1 } }",
            "story:1:40:",
        ),
        (
            "(import 'default.jsonnet') + { ['video']+: { mad: 1 } }",
            "story:1:46:",
        ),
        (
            "(import 'default.jsonnet') + (if true then { video+: { mad: 1 } } else {})",
            "story:1:56:",
        ),
    ] {
        let found = mistakes(text);
        assert!(
            found.len() == 1 && found[0].starts_with(place),
            "{text}: {found:#?}"
        );
    }
}

#[test]
fn a_new_bitrate_touches_the_encoder_and_what_it_feeds() {
    let old = Story::embedded();
    let new = load(&fixture("bitrate.jsonnet")).expect("valid");
    let changes: Vec<_> = diff(&old, &new)
        .into_iter()
        .map(|change| (change.kind, change.change))
        .collect();
    assert_eq!(
        changes,
        [
            (Kind::Encoder, Change::Parameters),
            (Kind::Transport, Change::Inputs)
        ]
    );
    assert!(diff(&old, &old).is_empty());
}

#[test]
fn a_command_line_option_changes_the_ids() {
    let story = Story::embedded();
    let same = story
        .with(Kind::Source, "fps", json!(30), "--fps")
        .expect("valid");
    assert_eq!(story.root(), same.root());
    let other = story
        .with(Kind::Source, "fps", json!(60), "--fps")
        .expect("valid");
    assert_ne!(story.root(), other.root());
    let error = story.with(Kind::Source, "fps", json!(0), "--fps");
    assert!(error.is_err_and(|error| error.to_string().starts_with("--fps: ")));
}

#[test]
fn the_manual_lists_every_key_with_its_default() {
    let manual = include_str!("../../../docs/STORY.md");
    for node in Story::embedded().nodes() {
        let section = manual
            .split("### ")
            .find(|section| section.starts_with(&format!("`{}`", node.kind())))
            .unwrap_or_else(|| panic!("no section about {}", node.kind()));
        for (key, value) in node.parameters() {
            let value = value.to_string().replace('"', "'");
            let row = format!("| `{key}` | `{value}` |");
            assert!(section.contains(&row), "{} has no {row}", node.kind());
        }
    }
}

/// Another valid value of every parameter.
fn changes() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("capture", "driver", json!("testcard")),
        ("capture", "device", json!("/dev/video7")),
        ("capture", "connector", json!("DP-1")),
        ("capture", "gpu", json!("off")),
        ("capture", "edid", json!("720p60")),
        ("capture", "size", json!("640x480")),
        ("capture", "fps", json!(31)),
        ("capture", "content", json!("motion")),
        ("video", "driver", json!("openh264")),
        ("video", "bitrate_kbps", json!(6001)),
        ("video", "device", json!("/dev/video11")),
        ("video", "refresh_ms", json!(999)),
        ("video", "retry_s", json!(5)),
        ("video", "intra_refresh", json!(30)),
        ("rtp", "mtu", json!(1201)),
        ("rtp", "pacing_mbps", json!(201)),
        ("input", "driver", json!("echo")),
        ("input", "device", json!("dummy_udc.0")),
        ("input", "lease_ms", json!(249)),
        ("control", "port", json!(7756)),
        ("control", "name", json!("n")),
        ("control", "max_clients", json!(9)),
        ("control", "allow_routed", json!(true)),
        ("control", "handover", json!("ask")),
        ("control", "clipboard", json!("to-server")),
        ("control", "pair_button", json!("gpio-keys")),
        ("control", "pair_key", json!("KEY_CONFIG")),
        ("control", "pair_screen", json!("HDMI-A-1")),
        ("control", "allow", json!(["10.0.0.0/8"])),
        ("control", "deny", json!(["fd00::5"])),
        ("discovery", "enabled", json!(false)),
        ("metrics", "address", json!("::1")),
        ("metrics", "port", json!(9091)),
        ("metrics", "enabled", json!(false)),
    ]
}

fn with_dependents(name: &str) -> BTreeSet<&str> {
    match name {
        "capture" => ["capture", "video", "rtp"].into(),
        "video" => ["video", "rtp"].into(),
        "control" => ["control", "discovery"].into(),
        other => [other].into(),
    }
}

#[test]
fn one_changed_parameter_changes_its_node_and_the_dependents_only() {
    let old = Story::embedded();
    let mut tried = BTreeSet::new();
    for (node, key, value) in changes() {
        let mut text = old.to_value();
        text[node][key] = value;
        let new = Story::from_value(&text, "test").expect("valid");
        let changed: BTreeSet<&str> = old
            .nodes()
            .iter()
            .zip(new.nodes())
            .filter(|(before, after)| before.id() != after.id())
            .map(|(before, _)| before.name())
            .collect();
        assert_eq!(changed, with_dependents(node), "{node}.{key}");
        assert_ne!(old.root(), new.root());
        tried.insert((node, key));
    }
    let parameters: usize = old.nodes().iter().map(|node| node.parameters().len()).sum();
    assert_eq!(tried.len(), parameters, "every parameter is tried");
}

/// JSON text with the members of every object in the order that `shuffle` gives.
fn shuffled(value: &Value, shuffle: &mut impl FnMut(&mut Vec<(String, String)>)) -> String {
    let Value::Object(members) = value else {
        return value.to_string();
    };
    let mut members: Vec<(String, String)> = members
        .iter()
        .map(|(key, value)| (key.clone(), shuffled(value, shuffle)))
        .collect();
    shuffle(&mut members);
    let members: Vec<String> = members
        .into_iter()
        .map(|(key, value)| format!("{}: {value}", Value::from(key)))
        .collect();
    format!("{{{}}}", members.join(",\n"))
}

fn renamed(story: &Value, names: &[String]) -> Value {
    let members = story.as_object().expect("a story is an object");
    let new_name = |old: &str| {
        let index = members
            .keys()
            .position(|name| name == old)
            .expect("it exists");
        names[index].clone()
    };
    let mut renamed = Map::new();
    for (name, node) in members {
        let mut node = node.clone();
        if let Some(inputs) = node.get_mut("inputs").and_then(Value::as_array_mut) {
            for input in inputs {
                *input = Value::from(new_name(input.as_str().expect("a name")));
            }
        }
        renamed.insert(new_name(name), node);
    }
    Value::Object(renamed)
}

proptest! {
    #[test]
    fn names_and_order_do_not_matter(
        names in prop::collection::btree_set("[a-zA-Z][a-zA-Z0-9_-]{0,20}", 7),
        picks in prop::collection::vec(0..20usize, 0..6),
        seed in any::<u64>(),
    ) {
        let all = changes();
        let mut value = Story::embedded().to_value();
        for pick in picks {
            let (node, key, change) = &all[pick];
            value[*node][*key] = change.clone();
        }
        let original = Story::from_value(&value, "original").expect("valid");
        let names: Vec<String> = names.into_iter().collect();
        let mut state = seed;
        let text = shuffled(&renamed(&value, &names), &mut |members| {
            for index in (1..members.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let other = usize::try_from(state >> 33).unwrap_or(0) % (index + 1);
                members.swap(index, other);
            }
        });
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("story.json");
        fs::write(&path, text).expect("a temporary file is written");
        let other = load(&path).expect("valid");
        prop_assert_eq!(original.root(), other.root());
        prop_assert!(diff(&original, &other).is_empty());
    }

    #[test]
    fn any_bytes_are_a_story_or_a_list_of_mistakes(data in prop::collection::vec(any::<u8>(), 0..200)) {
        fuzz_story(&data);
    }
}

#[test]
fn odd_json_is_refused_without_a_panic() {
    for text in [
        "null",
        "[]",
        "{\"\":{}}",
        "{\"a\":{\"kind\":[]}}",
        "{\"a\":{\"kind\":\"sink\",\"inputs\":{}}}",
        "1e308",
    ] {
        fuzz_story(text.as_bytes());
    }
    fuzz_story(Story::embedded().to_value().to_string().as_bytes());
}
