//! The story: the one configuration, a network of nodes with content ids.
//!
//! A story is Jsonnet (or plain JSON): an object of nodes, each `{ kind, inputs, …parameters }`. Checking fills in the
//! defaults, so two stories that mean the same network have the same ids however they are written. A node's id is the
//! SHA-256 of its canonical JSON (RFC 8785) with its inputs replaced by their ids, a Merkle DAG: on reload only the
//! nodes whose id changed restart ([`diff()`]).
//!
//! Each kind occurs at most once so far; `source`, `encoder`, `transport` and `control` are required. A node
//! set to `null` is a node that is not there: without a `sink` the server is view-only, without `discovery` it is not
//! announced, without `metrics` there is no metrics page.
//!
//! Evaluating Jsonnet has no limits of its own, so a user's file is evaluated by [`evaluate`] in a confined child
//! process (the server's `story_cmd`), and only its value comes back, through [`Story::from_value`].

mod canonical;
mod diff;
mod error;
mod eval;
mod folder;
mod graph;
mod id;
mod jsonnet_text;
mod locate;
mod params;
mod read;

pub use canonical::canonical;
pub use diff::{Change, NodeChange, diff};
pub use error::{Position, StoryError, StoryErrors, Text};
pub use eval::{Evaluated, MAX_VALUE, evaluate};
pub use folder::MAX_FILE;
pub use graph::Node;
pub use id::{NodeId, RootId};
pub use params::{
    CaptureDriver, CaptureParams, ClipboardMode, ControlParams, DiscoveryParams, EncoderDriver,
    GpuMode, HandoverMode, InputDriver, InputParams, Kind, MetricsParams, Params, RtpParams,
    TestcardContent, VideoParams,
};

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

/// The text of the built-in story, as `import 'default.jsonnet'` gives it.
pub const DEFAULT: &str = include_str!("../../../../story.jsonnet");

/// The name of the built-in story for imports and in messages. It is never read from disk.
pub const DEFAULT_NAME: &str = "default.jsonnet";

/// A checked network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Story {
    nodes: Vec<Node>,
    capture: CaptureParams,
    video: VideoParams,
    rtp: RtpParams,
    input: Option<InputParams>,
    control: ControlParams,
    discovery: Option<DiscoveryParams>,
    metrics: Option<MetricsParams>,
    root: RootId,
}

impl Story {
    /// The built-in story.
    ///
    /// # Panics
    ///
    /// Never in a build whose tests pass: the text is part of the program.
    #[must_use]
    pub fn embedded() -> Self {
        eval::evaluate_embedded()
            .and_then(|value| Self::from_value(&value, DEFAULT_NAME))
            .expect("the built-in story is checked by a test")
    }

    /// Checks the value of a story; `file` is what errors name.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, without positions: a value no longer knows its text. [`evaluate`] does.
    pub fn from_value(value: &Value, file: &str) -> Result<Self, StoryErrors> {
        Self::check(value).map_err(|faults| {
            let errors = faults
                .into_iter()
                .map(|fault| fault.in_file(file))
                .collect();
            // `check` returns at least one fault when it returns any.
            StoryErrors::check(errors).expect_err("there is a fault")
        })
    }

    fn check(value: &Value) -> Result<Self, Vec<error::Fault>> {
        let nodes = graph::check(value)?;
        let mut capture = None;
        let mut video = None;
        let mut rtp = None;
        let mut input = None;
        let mut control = None;
        let mut discovery = None;
        let mut metrics = None;
        for node in &nodes {
            match node.params.clone() {
                Params::Source(params) => capture = Some(params),
                Params::Encoder(params) => video = Some(params),
                Params::Transport(params) => rtp = Some(params),
                Params::Sink(params) => input = Some(params),
                Params::Control(params) => control = Some(params),
                Params::Discovery(params) => discovery = Some(params),
                Params::Metrics(params) => metrics = Some(params),
            }
        }
        let (Some(capture), Some(video), Some(rtp), Some(control)) = (capture, video, rtp, control)
        else {
            // `graph::check` refuses such a story first.
            let what = Text::new("a required node is missing", "必要なノードがありません");
            return Err(vec![error::Fault::new(&[], what, None)]);
        };
        let root = RootId::of(nodes.iter().map(Node::id));
        Ok(Self {
            nodes,
            capture,
            video,
            rtp,
            input,
            control,
            discovery,
            metrics,
            root,
        })
    }

    /// This story with one parameter of the node of `kind` replaced, as by a command-line option. The ids follow.
    ///
    /// # Errors
    ///
    /// No such node, an unknown key or a value that the key does not take; the file named is `origin`, e.g. `--fps`.
    pub fn with(
        &self,
        kind: Kind,
        key: &str,
        value: Value,
        origin: &str,
    ) -> Result<Self, StoryErrors> {
        let mut story = self.to_value();
        let name = self.node(kind).map(Node::name);
        let member = name
            .and_then(|name| story.get_mut(name))
            .and_then(Value::as_object_mut);
        let Some(member) = member else {
            let what = Text::new(
                format!("the story has no node of kind '{kind}'"),
                format!("kind が '{kind}' のノードがありません"),
            );
            return Err(StoryErrors::one(StoryError::in_file(origin, what, None)));
        };
        member.insert(key.to_owned(), value);
        Self::from_value(&story, origin)
    }

    /// Where pictures come from.
    #[must_use]
    pub fn capture(&self) -> &CaptureParams {
        &self.capture
    }

    /// How they are coded.
    #[must_use]
    pub fn video(&self) -> &VideoParams {
        &self.video
    }

    /// How coded video is sent.
    #[must_use]
    pub fn rtp(&self) -> &RtpParams {
        &self.rtp
    }

    /// Where input goes; `None` if the server is view-only.
    #[must_use]
    pub fn input(&self) -> Option<&InputParams> {
        self.input.as_ref()
    }

    /// How clients come in.
    #[must_use]
    pub fn control(&self) -> &ControlParams {
        &self.control
    }

    /// How the server is announced; `None` if it is not, by a missing node or `enabled: false`.
    #[must_use]
    pub fn discovery(&self) -> Option<&DiscoveryParams> {
        self.discovery.as_ref().filter(|params| params.enabled)
    }

    /// Where the metrics page is; `None` if there is none, by a missing node or `enabled: false`.
    #[must_use]
    pub fn metrics(&self) -> Option<&MetricsParams> {
        self.metrics.as_ref().filter(|params| params.enabled)
    }

    /// All nodes, sorted by name.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of a kind.
    #[must_use]
    pub fn node(&self, kind: Kind) -> Option<&Node> {
        self.nodes.iter().find(|node| node.kind == kind)
    }

    /// The id of the whole network.
    #[must_use]
    pub fn root(&self) -> RootId {
        self.root
    }

    /// The story as JSON, defaults filled in.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut story = Map::new();
        for node in &self.nodes {
            let mut member = node.effective.clone();
            member.insert("kind".to_owned(), Value::from(node.kind.as_str()));
            if !node.inputs.is_empty() {
                member.insert("inputs".to_owned(), json!(node.inputs));
            }
            story.insert(node.name.clone(), Value::Object(member));
        }
        Value::Object(story)
    }

    /// The network as a Graphviz drawing.
    #[must_use]
    pub fn to_dot(&self) -> String {
        let mut dot = format!(
            "digraph story {{\n  label=\"story {}\";\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n",
            self.root.short()
        );
        for node in &self.nodes {
            let mut label = format!("{}\\n{} {}\\n", node.name, node.kind, node.id.short());
            for (key, value) in &node.effective {
                if !value.is_null() {
                    let text = format!("{key}: {}", read::brief(value));
                    label.push_str(&text.replace('\\', "\\\\").replace('"', "\\\""));
                    label.push_str("\\l");
                }
            }
            // Writing to a string can't fail.
            let _ = writeln!(dot, "  \"{}\" [label=\"{label}\"];", node.name);
            for input in &node.inputs {
                let _ = writeln!(dot, "  \"{input}\" -> \"{}\";", node.name);
            }
        }
        dot.push_str("}\n");
        dot
    }
}

/// Body of the fuzz target: any bytes, as JSON, are a story or a list of faults, and a story survives its own
/// canonical text.
#[doc(hidden)]
pub fn fuzz_story(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(data) else {
        return;
    };
    let text = canonical(&value);
    assert!(
        serde_json::from_str::<Value>(&text).is_ok(),
        "canonical JSON is JSON: {text}"
    );
    match Story::from_value(&value, "fuzz") {
        Ok(story) => {
            let again = Story::from_value(&story.to_value(), "again");
            assert_eq!(again.as_ref(), Ok(&story), "checking is idempotent");
            let _ = story.to_dot();
        }
        Err(errors) => assert!(!errors.all().is_empty(), "an error says something"),
    }
}
