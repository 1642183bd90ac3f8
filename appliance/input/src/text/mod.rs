//! Text as keystrokes: what a keyboard layout can type, and the key transitions that type it.
//!
//! Nothing is read here: whoever knows the layout [offers](TypingLayout::offer) the ways to each character.

mod layout;
mod plan;

pub use layout::{Stroke, TypingLayout};
pub use plan::{Place, Plan, Step, Untypable, place_after};
