//! Input: the key ledger, chords, and the traits of sources and sinks.
//!
//! On the target: [`TargetSession`] takes datagrams and records, keeps the [`Ledger`] and calls an [`InputSink`]. On the
//! operator's side: an [`InputSource`] gives reports to [`soft_kvm_protocol::input::InputSender`], past the
//! [`ChordDetector`].
#![forbid(unsafe_code)]

pub mod chord;
pub mod echo;
pub mod edge;
pub mod force;
pub mod hid;
pub mod ledger;
pub mod pacing;
pub mod session;
pub mod sink;
pub mod source;
pub mod switch;
pub mod text;
pub mod touches;

pub use chord::{Chord, ChordDetector, ChordParseError};
pub use echo::{EchoSink, EchoState};
pub use edge::{Edge, EdgeDetector, EdgeRule};
pub use ledger::Ledger;
pub use pacing::{Paced, Pacer};
pub use session::{SessionError, TargetSession};
pub use sink::{InputSink, SinkError, SinkFeedback};
pub use source::{DeviceClass, InputSource, SourceError, SourceEvent, Waker};
pub use switch::{Action, Binding, BindingError, Place, Switch, Wish, bindings};
pub use touches::Touches;
