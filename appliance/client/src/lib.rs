//! .

pub mod record;
pub mod screenshot;
pub mod view;
