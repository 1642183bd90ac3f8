//! H.264 by VAAPI: graphics of Intel and AMD, through libva, which is loaded when it is asked for.
//!
//! A `session` is one stream: the driver's surfaces and buffers, in the order of calls that libva wants. It lives on a
//! thread of its own (`worker`), because drivers wait for their hardware. `docs/decisions/own-vaapi-layer.md` says
//! why this is no crate of others.

mod abi;
mod display;
mod encoder;
mod headers;
mod import;
mod library;
mod probe;
mod session;
mod worker;

use soft_kvm_video::codec::CodecError;

pub use encoder::{VaapiCopyEncoder, VaapiEncoder};
pub use probe::{VaapiNode, available, probe};

/// Name of the codec in the story and the metrics.
const NAME: &str = "vaapi";

fn error(what: impl Into<String>) -> CodecError {
    CodecError {
        codec: NAME,
        what: what.into(),
    }
}
