//! Which code a picture is in.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::rtp::{FWHT_PAYLOAD_TYPE, H264_PAYLOAD_TYPE};

/// What an encoder makes and a decoder takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CodedFormat {
    /// ITU-T H.264.
    #[default]
    H264,
    /// `V4L2_PIX_FMT_FWHT`, the format of the kernel's virtual codec `vicodec`.
    Fwht,
}

impl CodedFormat {
    /// The RTP payload type that carries it.
    #[must_use]
    pub const fn payload_type(self) -> u8 {
        match self {
            Self::H264 => H264_PAYLOAD_TYPE,
            Self::Fwht => FWHT_PAYLOAD_TYPE,
        }
    }

    /// What an RTP payload type carries; `None` for one that carries no pictures.
    #[must_use]
    pub const fn of_payload_type(payload_type: u8) -> Option<Self> {
        match payload_type {
            H264_PAYLOAD_TYPE => Some(Self::H264),
            FWHT_PAYLOAD_TYPE => Some(Self::Fwht),
            _ => None,
        }
    }
}

impl fmt::Display for CodedFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::H264 => "H.264",
            Self::Fwht => "FWHT",
        })
    }
}
