//! One connection's media: datagrams in and out, decoding, and what is done with the pictures.

pub(crate) mod cursor;
pub(crate) mod decode;
pub(crate) mod link;
pub(crate) mod media;
pub(crate) mod outputs;
pub(crate) mod probe;
pub(crate) mod relay;
pub(crate) mod stats;
