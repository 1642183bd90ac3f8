//! `relay`: the decrypted packets to a local player.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use soft_kvm_core::MonoTime;
use soft_kvm_protocol::media::{ParameterSets, SdpParameters};

/// A player on another machine that joins waits no longer than this for a picture: nothing tells that it has joined.
const KEY_FRAME_INTERVAL: Duration = Duration::from_secs(10);
/// Packets in a row that the player's port has to take before somebody is believed to listen.
const TAKEN: u32 = 2;

/// Sends RTP to a port and RTCP to the one after it, and describes the stream in a file.
#[derive(Debug)]
pub(crate) struct Relay {
    rtp: SocketAddr,
    to_rtp: UdpSocket,
    to_rtcp: UdpSocket,
    sdp: PathBuf,
    written: Option<ParameterSets>,
    ready: bool,
    /// Packets taken since the port was closed; `None` while it is known to be open.
    taken: Option<u32>,
    next_key_frame: Option<MonoTime>,
}

impl Relay {
    /// # Errors
    /// No socket, or no port above the given one.
    pub(crate) fn new(rtp: SocketAddr, sdp: &Path) -> anyhow::Result<Self> {
        let port = rtp
            .port()
            .checked_add(1)
            .context("--rtp: RTCP needs the port after it")?;
        Ok(Self {
            rtp,
            to_rtp: connected(rtp)?,
            to_rtcp: connected(SocketAddr::new(rtp.ip(), port))?,
            sdp: sdp.to_owned(),
            written: None,
            ready: false,
            taken: Some(0),
            next_key_frame: None,
        })
    }

    /// Passes a plain RTP packet on. A player that does not listen (yet) is no error.
    pub(crate) fn rtp(&mut self, packet: &[u8]) {
        match self.to_rtp.send(packet) {
            // The ICMP error of the packet before, told instead of sending this one.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                self.taken = Some(0);
                let _ = self.to_rtp.send(packet);
            }
            _ => self.taken = self.taken.map(|taken| taken.saturating_add(1)),
        }
    }

    /// Passes a plain compound RTCP packet on.
    pub(crate) fn rtcp(&self, packet: &[u8]) {
        if self.to_rtcp.send(packet).is_err() {
            let _ = self.to_rtcp.send(packet);
        }
    }

    /// Whether the server has to be asked for a key frame: a player on this machine has begun to listen, or it is
    /// time for one. Without one a player that joins late would have to wait for ever: the server sends none by itself.
    pub(crate) fn wants_key_frame(&mut self, now: MonoTime) -> bool {
        let joined = self.rtp.ip().is_loopback() && self.taken.is_some_and(|taken| taken > TAKEN);
        if joined {
            self.taken = None;
        }
        let due = *self.next_key_frame.get_or_insert(now + KEY_FRAME_INTERVAL) <= now;
        if joined || due {
            self.next_key_frame = Some(now + KEY_FRAME_INTERVAL);
        }
        joined || due
    }

    /// Writes the description when the parameter sets are new; true when that made it complete for the first time.
    pub(crate) fn describe(&mut self, access_unit: &[u8], name: &str) -> anyhow::Result<bool> {
        let Some(sets) = ParameterSets::find(access_unit) else {
            return Ok(false);
        };
        if self.written.as_ref() == Some(&sets) {
            return Ok(false);
        }
        let sdp = SdpParameters {
            address: self.rtp.ip(),
            port: self.rtp.port(),
            name: name.to_owned(),
            parameter_sets: Some(sets.clone()),
        };
        let part = self.sdp.with_extension("part");
        std::fs::write(&part, sdp.to_string())
            .and_then(|()| std::fs::rename(&part, &self.sdp))
            .with_context(|| format!("cannot write {}", self.sdp.display()))?;
        self.written = Some(sets);
        Ok(!std::mem::replace(&mut self.ready, true))
    }
}

/// A socket that is told when nobody listens at `to`.
fn connected(to: SocketAddr) -> anyhow::Result<UdpSocket> {
    let any: SocketAddr = if to.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let open = || -> std::io::Result<UdpSocket> {
        let socket = UdpSocket::bind(any)?;
        socket.connect(to)?;
        // A slow player must not hold up the receiver.
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    open().with_context(|| format!("a socket for the relay to {to}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_player_that_joins_late_gets_a_key_frame() {
        let player = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let to = player.local_addr().expect("a bound socket has an address");
        drop(player);
        let mut relay = Relay::new(to, Path::new("unused.sdp")).expect("two sockets");
        let at = |seconds: u64| MonoTime::from_nanos(seconds * 1_000_000_000);
        assert!(!relay.wants_key_frame(at(1)));
        for _ in 0..20 {
            relay.rtp(b"nobody listens");
            assert!(!relay.wants_key_frame(at(2)));
        }
        let _player = UdpSocket::bind(to).expect("the port is still free");
        for _ in 0..TAKEN + 2 {
            relay.rtp(b"somebody listens");
        }
        assert!(relay.wants_key_frame(at(3)));
        relay.rtp(b"somebody listens");
        assert!(!relay.wants_key_frame(at(4)), "one is enough");
        assert!(relay.wants_key_frame(at(13)), "for players elsewhere");
    }
}
