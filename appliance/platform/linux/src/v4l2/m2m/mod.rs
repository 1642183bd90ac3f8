//! Memory-to-memory devices: hardware encoders, decoders and converters.
//!
//! The kernel wants its calls in one order; the types keep it: `device::Device` (opened; formats, then rate and
//! controls set) → `device::Running` (buffers made on both queues, `STREAMON`), whose end is the drain sequence and
//! `STREAMOFF`.

mod abi;
mod converter;
mod copy;
mod decoder;
mod device;
mod encoder;
mod exports;
mod fwht;
pub(crate) mod h264;
mod ioctl;
mod layout;
mod probe;
mod quirks;
mod setup;

pub use converter::M2mConverter;
pub use copy::M2mCopyEncoder;
pub use decoder::M2mDecoder;
pub use encoder::M2mEncoder;
pub use layout::Nv12Layout;
pub use probe::{M2mKind, M2mNode, probe};
