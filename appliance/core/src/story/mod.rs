//! The process network: `story.jsonnet`.
