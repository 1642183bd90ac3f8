//! From a JSON value to a checked network: kinds, edges, cycles, how many of each.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::error::{Fault, Text};
use super::id::NodeId;
use super::params::{Kind, Params};
use super::read::{Choice, Reader, brief, did_you_mean};

/// How many nodes a story may have.
const MAX_NODES: usize = 64;

/// One node of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) inputs: Vec<String>,
    pub(super) params: Params,
    pub(super) effective: Map<String, Value>,
    pub(super) id: NodeId,
}

impl Node {
    /// The node's name; it has no meaning and is not part of the id.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the node is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Names of the nodes that this one gets its data from.
    #[must_use]
    pub fn inputs(&self) -> &[String] {
        &self.inputs
    }

    /// The node's parameters, typed.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The node's parameters as JSON, defaults filled in.
    #[must_use]
    pub fn parameters(&self) -> &Map<String, Value> {
        &self.effective
    }

    /// The node's content id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.id
    }
}

/// What a kind of node must be connected to, and how often it may occur.
struct Rule {
    /// The kind of its one input; `None` for a node without inputs.
    input: Option<Kind>,
    required: bool,
}

fn rule(kind: Kind) -> Rule {
    let (input, required) = match kind {
        Kind::Source | Kind::Control => (None, true),
        Kind::Encoder => (Some(Kind::Source), true),
        Kind::Transport => (Some(Kind::Encoder), true),
        Kind::Sink | Kind::Metrics => (None, false),
        Kind::Discovery => (Some(Kind::Control), false),
    };
    Rule { input, required }
}

/// A node before its id is known.
struct Draft {
    kind: Kind,
    inputs: Vec<String>,
    params: Params,
    effective: Map<String, Value>,
}

/// Checks a story's value. All faults are found in one pass; without any, the nodes come sorted by name.
pub(super) fn check(story: &Value) -> Result<Vec<Node>, Vec<Fault>> {
    let mut faults = Vec::new();
    let Value::Object(members) = story else {
        let shown = brief(story);
        return Err(vec![Fault::new(
            &[],
            Text::new(
                format!("a story is an object of nodes, not {shown}"),
                format!("ストーリーはノードのオブジェクトでなければなりませんが、{shown} です"),
            ),
            Some(Text::new(
                "begin with (import 'default.jsonnet') + { … }",
                "(import 'default.jsonnet') + { … } から始めてください",
            )),
        )]);
    };
    // A node set to null is a node taken out of an imported story.
    let members: BTreeMap<&str, &Value> = members
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| (name.as_str(), value))
        .collect();
    if members.len() > MAX_NODES {
        let what = Text::new(
            format!(
                "{} nodes are more than the {MAX_NODES} allowed",
                members.len()
            ),
            format!(
                "ノードが {} 個あります。上限は {MAX_NODES} 個です",
                members.len()
            ),
        );
        return Err(vec![Fault::new(&[], what, None)]);
    }

    // `None` is a node that exists but could not be read; edges to it are not faults of their own.
    let mut drafts: BTreeMap<&str, Option<Draft>> = BTreeMap::new();
    for (name, value) in &members {
        check_name(name, &mut faults);
        drafts.insert(name, read_node(name, value, &mut faults));
    }
    check_counts(&drafts, &mut faults);
    check_edges(&drafts, &mut faults);
    let order = sort(&drafts, &mut faults);
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(identify(drafts, &order))
}

fn check_name(name: &str, faults: &mut Vec<Fault>) {
    let mut characters = name.chars();
    let starts = characters
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic());
    let fits = starts
        && name.len() <= 64
        && characters.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if !fits {
        let shown = brief(&Value::from(name));
        let what = Text::new(
            format!("{shown} can't be the name of a node"),
            format!("{shown} はノードの名前にできません"),
        );
        let hint = Text::new(
            "a name has 1 to 64 ASCII letters, digits, '_' and '-', and begins with a letter",
            "名前は英字で始まる、英数字と '_' と '-' の 1 から 64 文字です",
        );
        faults.push(Fault::new(&[name], what, Some(hint)).on_key());
    }
}

fn read_node(name: &str, value: &Value, faults: &mut Vec<Fault>) -> Option<Draft> {
    let kinds: Vec<&str> = Kind::ALL.iter().map(|(word, _)| *word).collect();
    let Value::Object(given) = value else {
        let shown = brief(value);
        let what = Text::new(
            format!("node '{name}' has to be an object, not {shown}"),
            format!("ノード '{name}' はオブジェクトでなければなりませんが、{shown} です"),
        );
        faults.push(Fault::new(&[name], what, None));
        return None;
    };
    let Some(kind) = given.get("kind") else {
        let what = Text::new(
            format!("node '{name}' has no 'kind'"),
            format!("ノード '{name}' に 'kind' がありません"),
        );
        // Most often the name of an inherited node, misspelt.
        let hint = Text::new(
            format!(
                "kinds are: {}; to change an inherited node, spell its name as the inherited story does",
                kinds.join(", ")
            ),
            format!(
                "kind は {} です。継承したノードを変えるには、その名前を正しく書いてください",
                kinds.join(", ")
            ),
        );
        faults.push(Fault::new(&[name], what, Some(hint)));
        return None;
    };
    let Some(kind) = kind.as_str().and_then(|word| word.parse::<Kind>().ok()) else {
        let shown = brief(kind);
        let what = Text::new(
            format!("node '{name}' has the unknown kind {shown}"),
            format!("ノード '{name}' の kind {shown} は不明です"),
        );
        let hint = did_you_mean(kind.as_str().unwrap_or_default(), &kinds);
        faults.push(Fault::new(&[name, "kind"], what, Some(hint)));
        return None;
    };
    let inputs = read_inputs(name, given.get("inputs"), faults);
    let mut reader = Reader::new(name, given, faults);
    let params = Params::read(kind, &mut reader);
    Some(Draft {
        kind,
        inputs,
        params,
        effective: reader.finish(),
    })
}

fn read_inputs(name: &str, given: Option<&Value>, faults: &mut Vec<Fault>) -> Vec<String> {
    let Some(given) = given else {
        return Vec::new();
    };
    let names: Option<Vec<String>> = given.as_array().and_then(|items| {
        items
            .iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect()
    });
    names.unwrap_or_else(|| {
        let what = Text::new(
            format!("'inputs' of node '{name}' has to be a list of node names"),
            format!("ノード '{name}' の 'inputs' はノード名のリストでなければなりません"),
        );
        let hint = Text::new(
            "for example: inputs: ['capture']",
            "例: inputs: ['capture']",
        );
        faults.push(Fault::new(&[name, "inputs"], what, Some(hint)));
        Vec::new()
    })
}

fn check_counts(drafts: &BTreeMap<&str, Option<Draft>>, faults: &mut Vec<Fault>) {
    // With an unreadable node its kind isn't known, and a "missing" one may be just that.
    let all_readable = drafts.values().all(Option::is_some);
    for &(word, kind) in Kind::ALL {
        let of_kind: Vec<&str> = drafts
            .iter()
            .filter(|(_, draft)| draft.as_ref().is_some_and(|draft| draft.kind == kind))
            .map(|(name, _)| *name)
            .collect();
        if of_kind.is_empty() && rule(kind).required && all_readable {
            let what = Text::new(
                format!("the story has no node of kind '{word}'"),
                format!("kind が '{word}' のノードがありません"),
            );
            let hint = Text::new(
                "begin with (import 'default.jsonnet') + { … } to inherit one",
                "(import 'default.jsonnet') + { … } から始めると継承できます",
            );
            faults.push(Fault::new(&[], what, Some(hint)));
        }
        if let [first, more @ ..] = of_kind.as_slice() {
            for extra in more {
                let what = Text::new(
                    format!("node '{extra}' is a second '{word}' beside '{first}'"),
                    format!("ノード '{extra}' は '{first}' に続く二つ目の '{word}' です"),
                );
                let hint = Text::new(
                    format!(
                        "one of each kind is supported so far; take one out with {extra}: null"
                    ),
                    format!("今は各 kind に一つだけです。{extra}: null で外してください"),
                );
                faults.push(Fault::new(&[extra], what, Some(hint)).on_key());
            }
        }
    }
}

fn check_edges(drafts: &BTreeMap<&str, Option<Draft>>, faults: &mut Vec<Fault>) {
    let names: Vec<&str> = drafts.keys().copied().collect();
    for (name, draft) in drafts {
        let Some(draft) = draft else { continue };
        let wanted = rule(draft.kind).input;
        for (index, input) in draft.inputs.iter().enumerate() {
            let index = index.to_string();
            let path = [*name, "inputs", index.as_str()];
            let shown = brief(&Value::from(input.as_str()));
            match (drafts.get(input.as_str()), wanted) {
                (None, _) => {
                    let what = Text::new(
                        format!("node '{name}' has the input {shown}, which does not exist"),
                        format!("ノード '{name}' の入力 {shown} は存在しません"),
                    );
                    let hint = did_you_mean(input, &names);
                    faults.push(Fault::new(&path, what, Some(hint)));
                }
                (Some(Some(from)), Some(wanted)) if from.kind != wanted => {
                    let what = Text::new(
                        format!(
                            "node '{name}' needs a '{wanted}' as input; {shown} is a '{}'",
                            from.kind
                        ),
                        format!(
                            "ノード '{name}' の入力は '{wanted}' でなければなりませんが、{shown} は '{}' です",
                            from.kind
                        ),
                    );
                    faults.push(Fault::new(&path, what, None));
                }
                _ => {}
            }
        }
        // A list that could not be read is one fault, not two; it was noted when it was read.
        let unreadable = faults.iter().any(|fault| fault.path == [*name, "inputs"]);
        if unreadable {
            continue;
        }
        let count = draft.inputs.len();
        let kind = draft.kind;
        let message = match (wanted, count) {
            (None, 0) | (Some(_), 1) => continue,
            (None, _) => (
                Text::new(
                    format!("node '{name}' has {count} input(s), but a '{kind}' takes none"),
                    format!(
                        "ノード '{name}' に入力が {count} 個ありますが、'{kind}' に入力はありません"
                    ),
                ),
                Text::new("leave 'inputs' out", "'inputs' を消してください"),
            ),
            (Some(wanted), _) => (
                Text::new(
                    format!(
                        "node '{name}' has {count} inputs, but a '{kind}' takes exactly one '{wanted}'"
                    ),
                    format!(
                        "ノード '{name}' の入力は {count} 個ですが、'{kind}' には '{wanted}' がちょうど一つ必要です"
                    ),
                ),
                Text::new(
                    format!("write inputs: ['NAME'] with the name of the '{wanted}'"),
                    format!("inputs: ['名前'] に '{wanted}' の名前を書いてください"),
                ),
            ),
        };
        faults.push(Fault::new(&[name, "inputs"], message.0, Some(message.1)));
    }
}

/// The nodes' names, inputs before the nodes that need them. Each cycle is one fault.
fn sort<'a>(drafts: &BTreeMap<&'a str, Option<Draft>>, faults: &mut Vec<Fault>) -> Vec<&'a str> {
    let mut order: Vec<&'a str> = Vec::new();
    let mut left: Vec<&'a str> = drafts.keys().copied().collect();
    let inputs = |name: &str| -> &[String] {
        drafts
            .get(name)
            .and_then(Option::as_ref)
            .map_or(&[], |draft| draft.inputs.as_slice())
    };
    loop {
        let before = left.len();
        left.retain(|&name| {
            let waits = inputs(name).iter().any(|input| {
                drafts.contains_key(input.as_str()) && !order.contains(&input.as_str())
            });
            if !waits {
                order.push(name);
            }
            waits
        });
        if left.is_empty() {
            return order;
        }
        if left.len() == before {
            break;
        }
    }
    // Everything left is on a cycle or behind one: walk up until a name repeats.
    let mut seen: Vec<&str> = Vec::new();
    for &start in &left {
        if seen.contains(&start) {
            continue;
        }
        let mut walk: Vec<&str> = Vec::new();
        let mut at = start;
        while !walk.contains(&at) && !seen.contains(&at) {
            walk.push(at);
            let next = inputs(at)
                .iter()
                .find_map(|input| left.iter().find(|name| *name == input));
            match next {
                Some(next) => at = next,
                None => break,
            }
        }
        if let Some(first) = walk.iter().position(|name| *name == at) {
            let cycle = walk.get(first..).unwrap_or_default();
            let arrows = cycle
                .iter()
                .chain([&at])
                .map(|name| format!("'{name}'"))
                .collect::<Vec<_>>()
                .join(" ← ");
            let what = Text::new(
                format!("nodes depend on themselves: {arrows}"),
                format!("ノードが自分自身に依存しています: {arrows}"),
            );
            faults.push(Fault::new(&[at, "inputs"], what, None));
        }
        seen.extend(walk);
    }
    order
}

/// Computes the ids of a network without faults.
fn identify(mut drafts: BTreeMap<&str, Option<Draft>>, order: &[&str]) -> Vec<Node> {
    let mut nodes: BTreeMap<&str, Node> = BTreeMap::new();
    for &name in order {
        let Some(draft) = drafts.remove(name).flatten() else {
            continue;
        };
        let inputs: Vec<NodeId> = draft
            .inputs
            .iter()
            .filter_map(|input| nodes.get(input.as_str()).map(|node| node.id))
            .collect();
        let id = NodeId::of(draft.kind.as_str(), &draft.effective, &inputs);
        nodes.insert(
            name,
            Node {
                name: name.to_owned(),
                kind: draft.kind,
                inputs: draft.inputs,
                params: draft.params,
                effective: draft.effective,
                id,
            },
        );
    }
    nodes.into_values().collect()
}
