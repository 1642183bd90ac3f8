//! The `media-rx` thread of one connection.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use soft_kvm_core::MonoTime;
use soft_kvm_platform::openh264;
use soft_kvm_platform::os::clock;
use soft_kvm_platform::os::net::{Batch, UdpOptions, UdpSocket};
use soft_kvm_platform::os::waker::Waker;
use soft_kvm_protocol::control::Welcome;
use soft_kvm_protocol::input::carrier::InputSealer;
use soft_kvm_protocol::media::{
    DatagramKind, Opener, ReceiverConfig, Sealer, SrtpKeys, Ssrc, VideoReceiver, classify,
};
use soft_kvm_video::codec::{CodecError, VideoDecoder};

use super::link::InputLink;
use super::outputs::{Outputs, lock};
use super::stats::Decoded;

/// Room for bursts of several key frames.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Longest sleep.
const IDLE: Duration = Duration::from_millis(200);

/// One connection's media; dropping it stops and joins the thread.
#[derive(Debug)]
pub(crate) struct Media {
    link: Arc<InputLink>,
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Media {
    /// Opens the socket and starts the thread.
    ///
    /// # Errors
    /// The operating system's, or the decoder's at start.
    pub(crate) fn start(
        server: SocketAddr,
        welcome: &Welcome,
        keys: &SrtpKeys,
        outputs: Arc<Mutex<Outputs>>,
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
        let socket = Arc::new(UdpSocket::bind(any, &options).context("a socket for the media")?);
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
        let link = Arc::new(InputLink::new(
            Arc::clone(&socket),
            to,
            waker.clone(),
            InputSealer::new(Sealer::new(keys.client(), Ssrc(ssrc.input))),
            Opener::new(keys.server(), Ssrc(ssrc.feedback)),
        ));
        let mut worker = Worker {
            socket,
            to,
            receiver,
            decoder: openh264::Decoder::open()?,
            outputs,
            link: Arc::clone(&link),
            feedback: ssrc.feedback,
            server: welcome.name.clone(),
            rtcp: Vec::new(),
        };
        let (stopped, woken) = (Arc::clone(&stop), waker.clone());
        let thread = std::thread::Builder::new()
            .name("media-rx".into())
            .spawn(move || worker.run(&stopped, &woken))?;
        Ok(Self {
            link,
            stop,
            waker,
            thread: Some(thread),
        })
    }

    /// The input's way to the server.
    pub(crate) fn link(&self) -> &Arc<InputLink> {
        &self.link
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
    socket: Arc<UdpSocket>,
    to: SocketAddr,
    receiver: VideoReceiver,
    decoder: openh264::Decoder,
    outputs: Arc<Mutex<Outputs>>,
    link: Arc<InputLink>,
    feedback: u32,
    server: String,
    rtcp: Vec<u8>,
}

impl Worker {
    fn run(&mut self, stop: &AtomicBool, waker: &Waker) {
        let mut batch = Batch::new(9_000);
        let outputs = Arc::clone(&self.outputs);
        // Only the thread of the current connection uses the outputs.
        let mut outputs = lock(&outputs);
        let mut timeout = Duration::ZERO;
        while !stop.load(Ordering::Acquire) {
            if let Err(error) = self.socket.wait(timeout, false, Some(waker)) {
                tracing::error!(%error, "waiting for datagrams");
                std::thread::sleep(Duration::from_millis(20));
            }
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
            lock(&outputs.stats).set_received(self.receiver.stats());
        }
        lock(&outputs.stats).end_connection();
    }

    fn datagram(&mut self, data: &mut [u8], outputs: &mut Outputs) {
        let now = clock::now();
        let outcome = match classify(data) {
            Some(DatagramKind::Rtp { ssrc, .. }) if ssrc.0 == self.feedback => {
                if let Some(summary) = self.link.handle_ack(now, data)
                    && let Some(stamp) = summary.newest
                {
                    lock(&outputs.stats).acknowledged(stamp, summary.ack.applied, now);
                }
                return;
            }
            Some(DatagramKind::Rtp { .. }) => self.receiver.handle_rtp(now, data).map(|received| {
                if let Some(relay) = outputs.relay.as_mut() {
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
            outputs.unit(&unit, &self.server);
            if !outputs.decode {
                continue;
            }
            let started = clock::now();
            let failed = match self.decoder.decode(unit.data) {
                Ok(Some(picture)) => {
                    let done = clock::now();
                    outputs.picture(picture, &unit, Decoded { started, done });
                    None
                }
                Ok(None) => None,
                Err(error) => Some(error),
            };
            if let Some(error) = failed {
                self.decoder_failed(&error, outputs);
            }
        }
    }

    fn decoder_failed(&mut self, error: &CodecError, outputs: &Outputs) {
        tracing::warn!("{error}: a key frame is asked for");
        lock(&outputs.stats).decoder_errors += 1;
        self.receiver.request_key_frame(clock::now());
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
        let input = self.link.tick(now);
        self.receiver
            .poll_timeout()
            .map_or(input, |video| video.min(input))
    }
}
