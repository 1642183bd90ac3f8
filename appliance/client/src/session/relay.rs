//! `relay`: the decrypted packets to a local player.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use soft_kvm_platform::os::net::{UdpOptions, UdpSocket};
use soft_kvm_protocol::media::{ParameterSets, SdpParameters};

/// Sends RTP to a port and RTCP to the one after it, and describes the stream in a file.
#[derive(Debug)]
pub(crate) struct Relay {
    socket: UdpSocket,
    rtp: SocketAddr,
    rtcp: SocketAddr,
    sdp: PathBuf,
    written: Option<ParameterSets>,
    ready: bool,
}

impl Relay {
    /// # Errors
    /// No socket, or no port above the given one.
    pub(crate) fn new(rtp: SocketAddr, sdp: &Path) -> anyhow::Result<Self> {
        let port = rtp
            .port()
            .checked_add(1)
            .context("--rtp: RTCP needs the port after it")?;
        let any = if rtp.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let socket =
            UdpSocket::bind(any, &UdpOptions::default()).context("a socket for the relay")?;
        Ok(Self {
            socket,
            rtp,
            rtcp: SocketAddr::new(rtp.ip(), port),
            sdp: sdp.to_owned(),
            written: None,
            ready: false,
        })
    }

    /// Passes a plain RTP packet on. A player that does not listen (yet) is no error.
    pub(crate) fn rtp(&self, packet: &[u8]) {
        let _ = self.socket.send(self.rtp, packet);
    }

    /// Passes a plain compound RTCP packet on.
    pub(crate) fn rtcp(&self, packet: &[u8]) {
        let _ = self.socket.send(self.rtcp, packet);
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
