//! Messages of the control channel: JSON texts in WebSocket messages, over TLS 1.3.
//!
//! The first message each way is [`FromClient::Hello`] and [`FromServer::Welcome`]; anything else first ends the
//! connection. Unknown fields are ignored so that a later version can add some; an unknown `type` is an error that
//! the peer is told about.

use serde::{Deserialize, Serialize};
use soft_kvm_core::time::ClockOffset;
use soft_kvm_core::{FrameRate, MonoTime, Size};

use crate::clipboard::{ClipboardNews, ClipboardRequest, ClipboardRule};
use crate::cursor::CursorShape;
use crate::handover::{ControlAnswer, ControlRequest, ControlState};
use crate::media::CodedFormat;
use crate::roles::{ClientsAnswer, ClientsRequest, Role};

/// Version of the control messages, the media header extensions and the input records together.
pub const PROTOCOL_VERSION: u32 = 1;

/// The TCP port that a server listens on unless its story says otherwise.
pub const DEFAULT_PORT: u16 = 7755;

/// WebSocket subprotocol of the control channel.
pub const SUBPROTOCOL: &str = "soft-kvm.v1";

/// The path of the control channel; paired clients only.
pub const CONTROL_PATH: &str = "/control";

/// The path of the pairing exchange; anyone on the link, while a pairing window is open.
pub const PAIR_PATH: &str = "/pair";

/// Largest control message that either side reads, in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// Most numbers in one [`FromClient::Ages`].
pub const MAX_AGES: usize = 256;

/// RFC 8446 §7.5 exporter label of the SRTP master keys; the context is the session id's 16 bytes.
pub const SRTP_EXPORTER_LABEL: &[u8] = b"EXPORTER-soft-kvm-srtp";

/// What a client says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum FromClient {
    /// First message.
    Hello {
        /// [`PROTOCOL_VERSION`] of the client.
        version: u32,
        /// The client's name for people, at most 64 characters.
        name: String,
    },
    /// Start sending video.
    Watch {},
    /// Stop sending video.
    Unwatch {},
    /// A clock probe.
    Ping {
        /// Sender's clock.
        t0: MonoTime,
    },
    /// How the server's clock relates to the client's, as measured by the client.
    Clock(ClockOffset),
    /// Capture to decoded, of the frames since the last such message, in microseconds; at most [`MAX_AGES`].
    /// The server's metrics show them: it cannot measure this itself.
    Ages {
        /// One number for each decoded frame.
        micros: Vec<u32>,
    },
    /// Something about the paired clients; from admins.
    Clients(ClientsRequest),
    /// Who has keyboard and mouse is to change.
    Control(ControlRequest),
    /// Something about the clipboard.
    Clipboard(ClipboardRequest),
    /// Going away.
    Bye {},
}

/// What a server says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum FromServer {
    /// Answer to [`FromClient::Hello`].
    Welcome(Welcome),
    /// What the picture is, sent before its first frame and at every change.
    Video(VideoInfo),
    /// Answer to [`FromClient::Ping`].
    Pong {
        /// The client's clock, as it was sent.
        t0: MonoTime,
        /// The server's clock when the probe arrived.
        t1: MonoTime,
        /// The server's clock when this left.
        t2: MonoTime,
    },
    /// A device that the client announced can be used, or not.
    Device {
        /// The client's id for it.
        id: u16,
        /// What the device became on the server, e.g. `/dev/input/event7`; or why not.
        result: Result<String, String>,
    },
    /// A cursor's picture, sent before the first position that names it.
    Cursor(CursorShape),
    /// Answer to [`FromClient::Clients`].
    Clients {
        /// What came of it.
        answer: ClientsAnswer,
    },
    /// Who has keyboard and mouse, at the start and at every change.
    Control {
        /// As it is now.
        state: ControlState,
    },
    /// Answer to [`FromClient::Control`]; a refusal also comes later, when who has keyboard and mouse keeps them.
    ControlAnswer {
        /// What came of it.
        answer: ControlAnswer,
    },
    /// Something about the clipboard.
    Clipboard(ClipboardNews),
    /// The server refuses or leaves.
    Error {
        /// A stable word, e.g. `version`, `busy`, `revoked`.
        code: String,
        /// For people.
        message: String,
    },
    /// Going away.
    Bye {},
}

/// The session, as the server set it up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// [`PROTOCOL_VERSION`] of the server.
    pub version: u32,
    /// The server's name for people.
    pub name: String,
    /// 16 random bytes in hexadecimal: the exporter's context.
    pub session: String,
    /// Root id of the server's story, in hexadecimal.
    pub story: String,
    /// UDP port of the server for this session.
    pub udp_port: u16,
    /// Stream identifiers, RFC 3550 §8.
    pub ssrc: Ssrcs,
    /// Difference between the server's wall clock (NTP, 32.32) and its monotonic clock, in nanoseconds:
    /// `absolute capture time = monotonic + this`.
    pub ntp_minus_mono_ns: u64,
    /// Where the input goes: `uinput`, `gadget`, `echo`.
    pub sink: String,
    /// What the client may do; servers before roles don't say, and let every client do everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// The server also talks to clients beyond its own network.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub routed: bool,
    /// Devices may be announced with force feedback, which is passed on from the programs there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Which ways the clipboard goes for this client; none if left out, as by servers before clipboards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clipboard: Option<ClipboardRule>,
}

/// Synchronization sources of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ssrcs {
    /// Server to client: H.264 and its sender reports.
    pub video: u32,
    /// Server to client: input acknowledgements.
    pub feedback: u32,
    /// Client to server: receiver reports, NACK, PLI.
    pub receiver: u32,
    /// Client to server: input.
    pub input: u32,
    /// Server to client: cursor positions.
    pub cursor: u32,
}

/// What the picture is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VideoInfo {
    /// Size in pixels.
    pub size: Size,
    /// Frames in a second at most.
    pub rate: FrameRate,
    /// Source driver and device, e.g. `v4l2 /dev/video0`.
    pub source: String,
    /// Encoder, e.g. `openh264`.
    pub encoder: String,
    /// Why this encoder, for the overlay.
    pub why: String,
    /// What the access units are; each RTP packet tells by its payload type, too.
    #[serde(default)]
    pub codec: CodedFormat,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_documented_form() {
        let text = serde_json::to_string(&FromClient::Ping {
            t0: MonoTime::from_nanos(7),
        })
        .unwrap();
        assert_eq!(text, r#"{"type":"ping","t0":7}"#);
        let clock = FromClient::Clock(ClockOffset {
            offset_ns: -3,
            error_ns: 4,
        });
        let text = serde_json::to_string(&clock).unwrap();
        assert_eq!(text, r#"{"type":"clock","offset_ns":-3,"error_ns":4}"#);
        assert_eq!(serde_json::from_str::<FromClient>(&text).unwrap(), clock);
        let text = serde_json::to_string(&FromServer::Device {
            id: 1,
            result: Err("no".into()),
        })
        .unwrap();
        assert_eq!(text, r#"{"type":"device","id":1,"result":{"Err":"no"}}"#);
    }

    #[test]
    fn later_fields_are_ignored_and_unknown_types_are_errors() {
        assert_eq!(
            serde_json::from_str::<FromClient>(r#"{"type":"watch","later":1}"#).unwrap(),
            FromClient::Watch {}
        );
        assert!(serde_json::from_str::<FromClient>(r#"{"type":"format_disk"}"#).is_err());
    }
}
