//! The media wire: RTP, RTCP, SRTP, H.264 and FWHT packets, repair and pacing, without sockets and clocks.
//!
//! The server holds one [`VideoSender`] for each viewer, the client one [`VideoReceiver`] for each server. Both are
//! driven the same way:
//!
//! * hand in what happened: [`VideoSender::push`], [`VideoSender::handle_rtcp`], [`VideoReceiver::handle_rtp`],
//!   [`VideoReceiver::handle_rtcp`];
//! * then call `poll_transmit` until it says `false`, and send what it gave each time;
//! * on the receiver call [`VideoReceiver::poll_access_unit`] until it says `None`;
//! * call `poll_transmit` again at `poll_timeout`, at the latest.
//!
//! [`classify`] tells which of them a datagram is for. Every byte is described in `docs/WIRE.md`.

mod batch;
mod clock;
mod colours;
mod depacketize;
mod format;
#[doc(hidden)]
pub mod fuzzing;
mod fwht;
mod h264;
mod history;
mod keys;
mod pacing;
mod receiver;
mod reorder;
mod reports;
pub mod rtcp;
mod rtp;
mod sdp;
mod sender;
mod sps;
mod srtp;

pub use batch::Batch;
pub use clock::ClockEstimator;
pub use colours::ColourDescription;
pub use depacketize::{AccessUnitAssembler, DepacketizeError, announces_idr};
pub use format::CodedFormat;
pub use fwht::FwhtPacketizer;
pub use h264::{NalUnits, Packetizer, ParameterSets, Payload, nal_units};
pub use keys::{EXPORT_LEN, KEY_LEN, MasterKey, SALT_LEN, SrtpKeys};
pub use pacing::Pacer;
pub use receiver::{
    DropReason, ReceiveError, ReceivedAccessUnit, ReceivedRtp, ReceiverConfig, ReceiverStats,
    VideoReceiver,
};
pub use rtp::{
    DatagramKind, EXTENSIONS_LEN, FWHT_PAYLOAD_TYPE, FrameExtensions, H264_PAYLOAD_TYPE,
    HEADER_LEN, Header, INPUT_PAYLOAD_TYPE, NtpTime, Ssrc, Stages, VIDEO_CLOCK_HZ, classify,
    header_len,
};
pub use sdp::SdpParameters;
pub use sender::{
    AccessUnit, AccessUnitInfo, Feedback, FeedbackError, Pushed, Report, SenderConfig, SenderStats,
    VideoSender,
};
pub use sps::{Crop, SequenceParameterSet};
pub use srtp::{Opener, REPLAY_WINDOW, RTCP_OVERHEAD, RTP_OVERHEAD, Sealer, SrtpError, TAG_LEN};
