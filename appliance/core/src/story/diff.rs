//! What a reload changes.

use super::params::Kind;
use super::{Node, Story};

/// How a node differs between two stories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// Its own parameters changed.
    Parameters,
    /// Only something that it depends on changed.
    Inputs,
}

/// One node that a reload has to touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeChange {
    /// What the node is; each kind occurs at most once.
    pub kind: Kind,
    /// Its name in the new story, or in the old one if it is gone.
    pub name: String,
    /// How it differs.
    pub change: Change,
}

/// The nodes whose id is not the same in both stories, by kind. A node that was only renamed is not among them.
#[must_use]
pub fn diff(old: &Story, new: &Story) -> Vec<NodeChange> {
    let mut kinds: Vec<Kind> = old
        .nodes()
        .iter()
        .chain(new.nodes())
        .map(Node::kind)
        .collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
        .into_iter()
        .filter_map(|kind| {
            let (change, node) = match (old.node(kind), new.node(kind)) {
                (Some(before), Some(after)) if before.id() == after.id() => return None,
                (Some(before), Some(after)) if before.parameters() == after.parameters() => {
                    (Change::Inputs, after)
                }
                (Some(_), Some(after)) => (Change::Parameters, after),
                (None, Some(after)) => (Change::Added, after),
                (Some(before), None) => (Change::Removed, before),
                (None, None) => return None,
            };
            Some(NodeChange {
                kind,
                name: node.name().to_owned(),
                change,
            })
        })
        .collect()
}
