//! The `media-rx` thread of one connection.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use async_channel::Sender;
use soft_kvm_core::{Lang, MonoTime};
use soft_kvm_platform::os::clock;
use soft_kvm_platform::os::net::{Batch, UdpOptions, UdpSocket};
use soft_kvm_platform::os::waker::Waker;
use soft_kvm_protocol::control::Welcome;
use soft_kvm_protocol::input::carrier::{self, InputSealer};
use soft_kvm_protocol::media::{
    DatagramKind, Opener, ReceiverConfig, Sealer, SrtpKeys, Ssrc, VideoReceiver, classify,
};
use soft_kvm_video::codec::{CodecError, CodedFormat};

use super::decode::{DecoderChoice, Decoders};
use super::link::{Ends, InputLink, InputNet};
use super::outputs::{Outputs, lock};
use super::stats::Decoded;
use crate::remote::Remote;

/// Room for bursts of several key frames.
pub(crate) const RECEIVE_BUFFER: usize = 4 << 20;
/// Longest sleep.
const IDLE: Duration = Duration::from_millis(200);

/// One connection's media; dropping it stops and joins the thread.
#[derive(Debug)]
pub(crate) struct Media {
    input: InputNet,
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Media {
    /// Opens the sockets and starts the threads; `control` takes input where UDP does not get through.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn start(
        server: SocketAddr,
        welcome: &Welcome,
        keys: &SrtpKeys,
        (outputs, remote): (Arc<Mutex<Outputs>>, Arc<Remote>),
        control: Sender<Vec<u8>>,
        decoder: DecoderChoice,
        lang: Lang,
    ) -> anyhow::Result<Self> {
        let to = SocketAddr::new(server.ip(), welcome.udp_port);
        let to = match (server, to) {
            // The scope id of a link-local address.
            (SocketAddr::V6(control), SocketAddr::V6(mut media)) => {
                media.set_scope_id(control.scope_id());
                SocketAddr::V6(media)
            }
            (_, to) => to,
        };
        let any: SocketAddr = if to.is_ipv4() {
            (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let options = UdpOptions {
            receive_buffer: Some(RECEIVE_BUFFER),
            dscp: Some(46),
            ..UdpOptions::default()
        };
        let socket = UdpSocket::bind(any, &options).context("a socket for the media")?;
        let ssrc = welcome.ssrc;
        let receiver = VideoReceiver::new(
            ReceiverConfig {
                ntp_minus_mono_ns: welcome.ntp_minus_mono_ns,
                datagram_max: 9_000,
                reorder_packets: 1_024,
                ..ReceiverConfig::default()
            },
            Opener::new(keys.server(), Ssrc(ssrc.video)),
            Sealer::new(keys.client(), Ssrc(ssrc.receiver)),
        );
        let (stop, waker) = (Arc::new(AtomicBool::new(false)), Waker::new()?);
        let options = UdpOptions {
            dscp: Some(46),
            ..UdpOptions::default()
        };
        let ends = Ends {
            socket: UdpSocket::bind(any, &options).context("a socket for the input")?,
            to,
            sealer: InputSealer::new(Sealer::new(keys.client(), Ssrc(ssrc.input))),
            opener: Opener::new(keys.server(), Ssrc(ssrc.feedback)),
            control,
        };
        let input = InputNet::start(ends, Arc::clone(&remote.stats), lang)?;
        let frames = lock(&outputs).frames;
        let mut worker = Worker {
            socket,
            to,
            receiver,
            decoders: Decoders::new(decoder, frames),
            outputs,
            remote,
            cursor: (Opener::new(keys.server(), Ssrc(ssrc.cursor)), ssrc.cursor),
            server: welcome.name.clone(),
            rtcp: Vec::new(),
            begun: Some(clock::now()),
        };
        let (stopped, woken) = (Arc::clone(&stop), waker.clone());
        let thread = std::thread::Builder::new()
            .name("media-rx".into())
            .spawn(move || worker.run(&stopped, &woken))?;
        Ok(Self {
            input,
            stop,
            waker,
            thread: Some(thread),
        })
    }

    /// The input's way to the server.
    pub(crate) fn link(&self) -> &Arc<InputLink> {
        self.input.link()
    }
}

impl Drop for Media {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the media-rx thread panicked");
        }
    }
}

struct Worker {
    socket: UdpSocket,
    to: SocketAddr,
    receiver: VideoReceiver,
    decoders: Decoders,
    outputs: Arc<Mutex<Outputs>>,
    remote: Arc<Remote>,
    /// The stream of cursor positions.
    cursor: (Opener, u32),
    server: String,
    rtcp: Vec<u8>,
    /// When the connection was made; `None` after the first picture.
    begun: Option<MonoTime>,
}

impl Worker {
    fn run(&mut self, stop: &AtomicBool, waker: &Waker) {
        let mut batch = Batch::new(9_000);
        let outputs = Arc::clone(&self.outputs);
        if lock(&outputs).decode && self.remote.is_shown() {
            // What nearly all servers send.
            self.decoders.prepare(CodedFormat::H264);
        }
        let mut timeout = Duration::ZERO;
        while !stop.load(Ordering::Acquire) {
            if let Err(error) = self.socket.wait(timeout, false, Some(waker)) {
                tracing::error!(%error, "waiting for datagrams");
                std::thread::sleep(Duration::from_millis(20));
            }
            // The server that was shown before may be finishing a picture.
            let mut outputs = lock(&outputs);
            loop {
                match self.socket.receive(&mut batch) {
                    Ok(0) => break,
                    Ok(_) => batch.for_each_mut(|_, data| self.datagram(data, &mut outputs)),
                    // An ICMP error: the server is gone, which the control channel tells too.
                    Err(error) => tracing::trace!(%error, "receiving"),
                }
                self.pictures(&mut outputs);
            }
            self.pictures(&mut outputs);
            let now = clock::now();
            if outputs
                .relay
                .as_mut()
                .is_some_and(|relay| relay.wants_key_frame(now))
            {
                self.receiver.request_key_frame(now);
            }
            timeout = self.transmit().since(clock::now()).min(IDLE);
            let mut stats = lock(&self.remote.stats);
            stats.set_received(self.receiver.stats());
            stats.decoder = self.decoders.name().or(stats.decoder);
        }
        lock(&self.remote.stats).end_connection();
    }

    fn datagram(&mut self, data: &mut [u8], outputs: &mut Outputs) {
        let now = clock::now();
        let outcome = match classify(data) {
            Some(DatagramKind::Rtp { ssrc, .. }) if ssrc.0 == self.cursor.1 => {
                match carrier::open(&mut self.cursor.0, data) {
                    Ok(payload) => {
                        if self.remote.cursor.position(payload) && self.remote.is_shown() {
                            outputs.cursor(self.remote.cursor.shown());
                        }
                    }
                    Err(error) => tracing::trace!(%error, "cursor position dropped"),
                }
                return;
            }
            Some(DatagramKind::Rtp { .. }) => self.receiver.handle_rtp(now, data).map(|received| {
                // Players know nothing of other formats.
                if let Some(relay) = outputs.relay.as_mut()
                    && received.format == CodedFormat::H264
                {
                    relay.rtp(received.packet);
                }
            }),
            Some(DatagramKind::Rtcp { .. }) => self.receiver.handle_rtcp(now, data).map(|packet| {
                if let Some(relay) = outputs.relay.as_ref() {
                    relay.rtcp(packet);
                }
            }),
            None => return,
        };
        if let Err(error) = outcome {
            tracing::trace!(%error, "datagram dropped");
        }
    }

    fn pictures(&mut self, outputs: &mut Outputs) {
        loop {
            let Some(unit) = self.receiver.poll_access_unit() else {
                return;
            };
            if !self.remote.is_shown() {
                // What was on its way when another server was chosen.
                continue;
            }
            outputs.unit(&unit, &self.server);
            if !outputs.decode {
                continue;
            }
            let started = clock::now();
            let format = unit.format;
            let read = outputs.read();
            let failed = match self.decoders.decode(format, unit.data, read, started) {
                Ok(Some(picture)) => {
                    let done = clock::now();
                    let decoded = Decoded { started, done };
                    if let Some(begun) = self.begun.take() {
                        let after = done.since(begun).as_millis();
                        tracing::info!(server = self.server, after_ms = after, "the first picture");
                    }
                    outputs.picture(picture, &unit, decoded, &self.remote);
                    None
                }
                Ok(None) => None,
                Err(error) => Some(error),
            };
            if let Some(error) = failed {
                self.decoder_failed(format, &error);
            }
        }
    }

    fn decoder_failed(&mut self, format: CodedFormat, error: &CodecError) {
        tracing::warn!("{error}: a key frame is asked for");
        lock(&self.remote.stats).decoder_errors += 1;
        let now = clock::now();
        self.decoders.failed(format, now);
        self.receiver.request_key_frame(now);
    }

    /// Sends what is due; says when to come back.
    fn transmit(&mut self) -> MonoTime {
        let now = clock::now();
        self.rtcp.clear();
        while self.receiver.poll_transmit(now, &mut self.rtcp) {
            if let Err(error) = self.socket.send(self.to, &self.rtcp) {
                tracing::trace!(%error, "sending feedback");
            }
            self.rtcp.clear();
        }
        self.receiver.poll_timeout().unwrap_or(now + IDLE)
    }
}
