//! The parameters of each kind of node, with their units, defaults and ranges.
//!
//! `docs/STORY.md` says the same to users; a test compares the two.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::error::Text;
use super::read::{Reader, choice};
use crate::{Bitrate, FrameRate, IpPrefix, Size};

choice! {
    /// What a node is.
    Kind {
        /// Gives pictures.
        Source = "source",
        /// Turns pictures into coded video.
        Encoder = "encoder",
        /// Carries coded video to the clients.
        Transport = "transport",
        /// Takes the operator's input.
        Sink = "sink",
        /// Lets clients in.
        Control = "control",
        /// Announces the server on the network.
        Discovery = "discovery",
        /// Tells Prometheus how it goes.
        Metrics = "metrics",
    }
}

choice! {
    /// Where pictures come from.
    CaptureDriver {
        /// The first that works: an HDMI input, `kms`, `x11`, `testcard`.
        Auto = "auto",
        /// A Video4Linux device: HDMI input, capture dongle, camera.
        V4l2 = "v4l2",
        /// The framebuffer of a graphics card.
        Kms = "kms",
        /// An X11 display.
        X11 = "x11",
        /// A picture drawn by the server itself.
        Testcard = "testcard",
    }
}

choice! {
    /// Which framebuffers of a graphics card go through its GPU, which makes them linear, and whether one converts for an
    /// encoder that takes no pictures like the source's, where no converter does.
    GpuMode {
        /// Framebuffers that nothing else reads: tiled and compressed ones. A GPU converts, a software renderer does not.
        Auto = "auto",
        /// All framebuffers, where a GPU can be opened; a software renderer converts too.
        Always = "always",
        /// None: tiled and compressed framebuffers are refused. The CPU converts.
        Off = "off",
    }
}

choice! {
    /// When keyboard and mouse go from one client to another without a word.
    HandoverMode {
        /// To who types, once who has them has been still for a while.
        Still = "still",
        /// Never: they have to be asked for.
        Ask = "ask",
    }
}

choice! {
    /// Which ways the clipboard's text goes.
    ClipboardMode {
        /// None.
        Off = "off",
        /// Both.
        Both = "both",
        /// From the operators to the server only.
        ToServer = "to-server",
        /// From the server to the operators only.
        FromServer = "from-server",
    }
}

choice! {
    /// What the test card shows.
    TestcardContent {
        /// Text being typed: little changes.
        Typing = "typing",
        /// Text that scrolls.
        Scroll = "scroll",
        /// Everything moves.
        Motion = "motion",
        /// Nothing moves but what the input changes.
        Static = "static",
    }
}

choice! {
    /// What turns pictures into H.264.
    EncoderDriver {
        /// The best one that works, the next when it fails.
        Auto = "auto",
        /// A hardware encoder behind the kernel's memory-to-memory interface; the next ones when it fails.
        V4l2m2m = "v4l2m2m",
        /// An encoder in a graphics device of a PC, through libva; software when it fails.
        Vaapi = "vaapi",
        /// Software: Cisco's OpenH264.
        Openh264 = "openh264",
    }
}

choice! {
    /// Where the operator's input goes.
    InputDriver {
        /// `uinput` if it can be opened, `echo` otherwise.
        Auto = "auto",
        /// Virtual devices in this machine's kernel.
        Uinput = "uinput",
        /// A USB keyboard and mouse of the machine that this one's USB device port is plugged into.
        Gadget = "gadget",
        /// The test card draws it.
        Echo = "echo",
    }
}

/// Parameters of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureParams {
    /// Where pictures come from.
    pub driver: CaptureDriver,
    /// Device file (`/dev/video0`, `/dev/dri/card0`) or X11 display (`:0`); chosen by the driver if `None`.
    pub device: Option<String>,
    /// Name of the output to capture with `kms`, e.g. `HDMI-A-1`; the first that is on if `None`.
    pub connector: Option<String>,
    /// Which framebuffers of `kms` go through a GPU, and whether one converts for an encoder.
    pub gpu: GpuMode,
    /// What an HDMI input tells the machine: a built-in EDID's name (`1080p60`, `1080p30`, `720p60`, `4K30`) or the
    /// path of a file; what it has if `None`.
    pub edid: Option<String>,
    /// Size wanted from sources that can choose; theirs if `None`.
    pub size: Option<Size>,
    /// Frames in a second at most.
    pub fps: FrameRate,
    /// What the test card shows.
    pub content: TestcardContent,
}

/// Names of the built-in EDIDs.
const EDIDS: [&str; 4] = ["1080p60", "1080p30", "720p60", "4K30"];

impl CaptureParams {
    fn read(reader: &mut Reader<'_>) -> Self {
        let size = || {
            Text::new(
                "null or 'WIDTHxHEIGHT' from '16x16' to '3840x2160'",
                "null か、'16x16' から '3840x2160' までの '幅x高さ'",
            )
        };
        let edid = || {
            Text::new(
                "null, '1080p60', '1080p30', '720p60', '4K30' or the path of a file from '/' on",
                "null か、'1080p60'、'1080p30'、'720p60'、'4K30'、または '/' から始まるファイルのパス",
            )
        };
        Self {
            driver: reader.choice("driver", CaptureDriver::Auto),
            device: reader.text("device"),
            connector: reader.text("connector"),
            gpu: reader.choice("gpu", GpuMode::Auto),
            edid: reader.parsed("edid", edid, |text| {
                let known = EDIDS.contains(&text) || text.starts_with('/');
                (known && !text.chars().any(char::is_control)).then(|| text.to_owned())
            }),
            size: reader.parsed("size", size, |text| text.parse().ok()),
            fps: FrameRate::hz(reader.integer("fps", 30, 1..=240)),
            content: reader.choice("content", TestcardContent::Typing),
        }
    }
}

/// Parameters of the encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoParams {
    /// What turns pictures into H.264.
    pub driver: EncoderDriver,
    /// Device file of the hardware encoder; every one that fits if `None`.
    pub device: Option<String>,
    /// Bits in a second that the video may take; also the size of what a key frame is held to.
    pub bitrate: Bitrate,
    /// A picture that does not change is encoded again at least this often.
    pub refresh: Duration,
    /// An encoder that failed is tried again after this time.
    pub retry: Duration,
    /// Pictures in which a stripe of intra blocks passes over all of the picture; 0 for none.
    pub intra_refresh: u32,
}

impl VideoParams {
    fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            driver: reader.choice("driver", EncoderDriver::Auto),
            device: reader.text("device"),
            bitrate: Bitrate::kbps(reader.integer("bitrate_kbps", 6_000, 100..=100_000)),
            refresh: milliseconds(reader.integer("refresh_ms", 1_000, 100..=10_000)),
            retry: Duration::from_secs(reader.integer("retry_s", 30, 1..=3_600).into()),
            intra_refresh: reader.integer("intra_refresh", 0, 0..=600),
        }
    }
}

/// Parameters of the RTP transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtpParams {
    /// Largest RTP payload in bytes: what is left of the path's MTU without IP, UDP, RTP and SRTP overhead.
    pub mtu: u16,
    /// How fast the packets of one frame follow each other.
    pub pacing: Bitrate,
}

impl RtpParams {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mtu = reader.integer("mtu", 1_200, 500..=8_900);
        Self {
            mtu: u16::try_from(mtu).unwrap_or(1_200),
            pacing: Bitrate::kbps(reader.integer("pacing_mbps", 200, 1..=10_000) * 1_000),
        }
    }
}

/// Parameters of the input sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputParams {
    /// Where the operator's input goes.
    pub driver: InputDriver,
    /// USB device controller of `gadget`, as `soft-kvm-server devices` names it; the first free one if `None`.
    pub device: Option<String>,
    /// A held key is released this long after the last sign of life of the client.
    pub lease: Duration,
}

impl InputParams {
    fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            driver: reader.choice("driver", InputDriver::Auto),
            device: reader.text("device"),
            lease: milliseconds(reader.integer("lease_ms", 250, 100..=1_000)),
        }
    }
}

/// Parameters of the control channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlParams {
    /// TCP port; 0 takes a free one.
    pub port: u16,
    /// The server's name for people; the host's name if `None`.
    pub name: Option<String>,
    /// How many clients may be connected at once.
    pub max_clients: u32,
    /// Also talk to clients behind routers, and on public addresses.
    pub allow_routed: bool,
    /// If not empty, only clients with these addresses are talked to.
    pub allow: Vec<IpPrefix>,
    /// Clients with these addresses are never talked to.
    pub deny: Vec<IpPrefix>,
    /// When keyboard and mouse go over without a word.
    pub handover: HandoverMode,
    /// Which ways the clipboard of a desktop session goes.
    pub clipboard: ClipboardMode,
    /// evdev device of the button that opens pairing: its node, or its name; no button if `None`.
    pub pair_button: Option<String>,
    /// The button's key, e.g. `KEY_CONFIG`; `KEY_WPS_BUTTON` if `None`.
    pub pair_key: Option<String>,
    /// Connector of the server's own screen that shows the pairing code, e.g. `HDMI-A-1`; none if `None`.
    pub pair_screen: Option<String>,
}

impl ControlParams {
    fn read(reader: &mut Reader<'_>) -> Self {
        let name = || {
            Text::new(
                "null or a text of 1 to 63 bytes without control characters",
                "null か、制御文字を含まない 1 から 63 バイトの文字列",
            )
        };
        let key = || {
            Text::new(
                "null or the kernel's name of a key, such as 'KEY_WPS_BUTTON'",
                "null か、'KEY_WPS_BUTTON' のようなカーネルのキー名",
            )
        };
        Self {
            port: reader.port("port", 7_755),
            // 63 bytes: an mDNS instance name is one DNS label (RFC 6763 §4.1.1).
            name: reader.parsed("name", name, |text| {
                let fits = (1..=63).contains(&text.len()) && !text.chars().any(char::is_control);
                fits.then(|| text.to_owned())
            }),
            max_clients: reader.integer("max_clients", 8, 1..=64),
            allow_routed: reader.boolean("allow_routed", false),
            allow: reader.prefixes("allow"),
            deny: reader.prefixes("deny"),
            handover: reader.choice("handover", HandoverMode::Still),
            clipboard: reader.choice("clipboard", ClipboardMode::Both),
            pair_button: reader.text("pair_button"),
            pair_key: reader.parsed("pair_key", key, |text| {
                let known = text.starts_with("KEY_") || text.starts_with("BTN_");
                let plain = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
                (known && text.len() <= 32 && text.chars().all(plain)).then(|| text.to_owned())
            }),
            pair_screen: reader.text("pair_screen"),
        }
    }
}

/// Parameters of discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiscoveryParams {
    /// Whether the server announces itself by mDNS.
    pub enabled: bool,
}

impl DiscoveryParams {
    fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            enabled: reader.boolean("enabled", true),
        }
    }
}

/// Parameters of the metrics page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsParams {
    /// Address to listen on.
    pub address: IpAddr,
    /// TCP port; 0 takes a free one.
    pub port: u16,
    /// Whether there is a metrics page.
    pub enabled: bool,
}

impl MetricsParams {
    fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            address: reader.address("address", IpAddr::V4(Ipv4Addr::LOCALHOST)),
            port: reader.port("port", 9_090),
            enabled: reader.boolean("enabled", true),
        }
    }
}

/// The parameters of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Params {
    /// Of a [`Kind::Source`].
    Source(CaptureParams),
    /// Of a [`Kind::Encoder`].
    Encoder(VideoParams),
    /// Of a [`Kind::Transport`].
    Transport(RtpParams),
    /// Of a [`Kind::Sink`].
    Sink(InputParams),
    /// Of a [`Kind::Control`].
    Control(ControlParams),
    /// Of a [`Kind::Discovery`].
    Discovery(DiscoveryParams),
    /// Of a [`Kind::Metrics`].
    Metrics(MetricsParams),
}

impl Params {
    pub(super) fn read(kind: Kind, reader: &mut Reader<'_>) -> Self {
        match kind {
            Kind::Source => Self::Source(CaptureParams::read(reader)),
            Kind::Encoder => Self::Encoder(VideoParams::read(reader)),
            Kind::Transport => Self::Transport(RtpParams::read(reader)),
            Kind::Sink => Self::Sink(InputParams::read(reader)),
            Kind::Control => Self::Control(ControlParams::read(reader)),
            Kind::Discovery => Self::Discovery(DiscoveryParams::read(reader)),
            Kind::Metrics => Self::Metrics(MetricsParams::read(reader)),
        }
    }
}

fn milliseconds(value: u32) -> Duration {
    Duration::from_millis(u64::from(value))
}
