//! Memory that devices share: mappings of it, and access by the CPU between devices.

mod mapping;

pub use mapping::{Access, Mapping};
