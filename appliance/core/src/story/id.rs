//! Content ids: SHA-256 over canonical JSON.

use std::fmt;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::canonical::canonical;

/// Goes into every root id; a new way of making ids gets a new tag.
const VERSION: &str = "soft-kvm-story-1";

macro_rules! id {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The hash's bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first 12 hexadecimal digits, for people and labels.
            #[must_use]
            pub fn short(&self) -> String {
                self.to_string().chars().take(12).collect()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }
    };
}

id! {
    /// Identifies a node: its kind, its parameters and everything upstream of it, but not its name.
    NodeId
}

id! {
    /// Identifies a whole story. Equal networks have equal root ids on every machine.
    RootId
}

impl NodeId {
    /// SHA-256 of the canonical JSON of the node's parameters with `kind` and, as `inputs`, the sorted ids of its inputs.
    pub(super) fn of(kind: &str, parameters: &Map<String, Value>, inputs: &[Self]) -> Self {
        let mut inputs = inputs.to_vec();
        inputs.sort_unstable();
        let inputs: Vec<_> = inputs.iter().map(ToString::to_string).collect();
        let mut node = parameters.clone();
        node.insert("kind".to_owned(), Value::from(kind));
        node.insert("inputs".to_owned(), Value::from(inputs));
        Self(hash(&Value::Object(node)))
    }
}

impl RootId {
    /// SHA-256 of the canonical JSON of `{"nodes": [sorted ids], "version": tag}`.
    pub(super) fn of(nodes: impl Iterator<Item = NodeId>) -> Self {
        let mut nodes: Vec<_> = nodes.map(|id| id.to_string()).collect();
        nodes.sort_unstable();
        Self(hash(&json!({ "nodes": nodes, "version": VERSION })))
    }
}

fn hash(value: &Value) -> [u8; 32] {
    Sha256::digest(canonical(value)).into()
}
