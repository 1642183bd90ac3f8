//! Memory that devices share: mappings of it, access by the CPU between devices, and buffers for them to import.

mod mapping;
mod shared;
mod sync;

pub use mapping::{Access, Mapping};
pub use shared::{Pool, Shared};
pub(crate) use sync::{END as SYNC_END, READ as SYNC_READ, sync};
