//! Which machine is meant: a name found by mDNS, then the address it had last, or an address.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context as _, bail};
use soft_kvm_platform::os::net;
use soft_kvm_protocol::control::DEFAULT_PORT;
use soft_kvm_security::{Fingerprint, PeerStore, StateError};

/// How long mDNS may take before the last address is tried.
const DISCOVERY: Duration = Duration::from_millis(1_500);

/// A server to connect to.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// As it was given.
    pub(crate) text: String,
    /// Keys that may answer.
    pub(crate) pins: Vec<Fingerprint>,
}

impl Target {
    /// Finds the paired keys for a name or address.
    ///
    /// # Errors
    /// Nothing is paired at all, or nothing under this name.
    pub(crate) fn new(text: &str, peers: &PeerStore) -> anyhow::Result<Self> {
        if text.trim().is_empty() {
            bail!("which server? its name or address is empty");
        }
        check_port(text)?;
        let all = peers.list()?;
        if all.is_empty() {
            bail!("no server is paired yet: run soft-kvm-client pair {text}");
        }
        let named = peers.find_name(text)?;
        let pins = if named.is_empty() {
            if literal(text).is_none() {
                tracing::info!("{text} is no paired server's name: taken as a host name");
            }
            all
        } else {
            named
        };
        let pins = pins.iter().map(|peer| peer.fingerprint).collect();
        Ok(Self {
            text: text.to_owned(),
            pins,
        })
    }

    /// Addresses to try, the best first. Blocks on the network.
    ///
    /// # Errors
    /// The name is not found by mDNS, was never reached before, and is no host name either.
    pub(crate) fn resolve(&self, peers: &PeerStore) -> anyhow::Result<Vec<SocketAddr>> {
        if let Some(address) = literal(&self.text) {
            return Ok(vec![address]);
        }
        // The address of the last time first: it is right nearly always, and the pin tells when it is not.
        let mut addresses: Vec<SocketAddr> = peers
            .find_name(&self.text)?
            .iter()
            .filter_map(|peer| peer.address.as_ref()?.parse().ok())
            .collect();
        match soft_kvm_discovery::resolve(&self.text, DISCOVERY) {
            Ok(server) => {
                addresses.splice(0..0, server.addresses);
            }
            Err(error) if addresses.is_empty() => return self.by_host_name().context(error),
            Err(error) => tracing::info!("{error}: trying its last address"),
        }
        let mut seen = Vec::new();
        addresses.retain(|address| {
            let new = !seen.contains(address);
            seen.push(*address);
            new
        });
        Ok(addresses)
    }

    fn by_host_name(&self) -> anyhow::Result<Vec<SocketAddr>> {
        host_addresses(&self.text)
            .with_context(|| format!("{:?} is no name that mDNS or the resolver knows", self.text))
    }
}

/// A port that is too large would make a host name of an address. No group of an IPv6 address is as long.
fn check_port(text: &str) -> anyhow::Result<()> {
    let port = text.rsplit_once(':').map_or("", |(_, port)| port);
    let number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if number && port.parse::<u16>().is_err() {
        bail!("{text}: {port} is no port: those go up to {}", u16::MAX);
    }
    Ok(())
}

/// Whether the key of a server is kept; an address may be any of the paired ones.
///
/// # Errors
/// The list cannot be read.
pub(crate) fn is_paired(text: &str, peers: &PeerStore) -> Result<bool, StateError> {
    let named = !peers.find_name(text)?.is_empty();
    Ok(named || (literal(text).is_some() && !peers.list()?.is_empty()))
}

/// Addresses of a server that is not paired yet.
///
/// # Errors
/// As [`Target::resolve`].
pub(crate) fn resolve_unpaired(text: &str) -> anyhow::Result<Vec<SocketAddr>> {
    check_port(text)?;
    if let Some(address) = literal(text) {
        return Ok(vec![address]);
    }
    match soft_kvm_discovery::resolve(text, DISCOVERY * 2) {
        Ok(server) => Ok(server.addresses),
        Err(error) => host_addresses(text).map_err(|_| {
            anyhow::anyhow!("{error}. Is the server running, and on this network? soft-kvm-client discover lists them")
        }),
    }
}

/// `ADDRESS`, `ADDRESS:PORT`, `[IPv6]:PORT`, link-local ones with the interface's name or number (`fe80::1%eth0`).
fn literal(text: &str) -> Option<SocketAddr> {
    if let Some((address, rest)) = text.split_once('%') {
        let end = rest.find(']').unwrap_or(rest.len());
        let (zone, port) = rest.split_at_checked(end)?;
        let number = zone.parse().ok().or_else(|| net::interface_index(zone))?;
        return numbered(&format!("{address}{port}"), number);
    }
    numbered(text, 0)
}

/// `scope` is the number of the interface (RFC 4007 §11).
fn numbered(text: &str, scope: u32) -> Option<SocketAddr> {
    let mut address = plain(text)?;
    if let SocketAddr::V6(v6) = &mut address {
        v6.set_scope_id(scope);
    }
    Some(address)
}

fn plain(text: &str) -> Option<SocketAddr> {
    text.parse().ok().or_else(|| {
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(text);
        Some(SocketAddr::new(bare.parse().ok()?, DEFAULT_PORT))
    })
}

fn host_addresses(text: &str) -> std::io::Result<Vec<SocketAddr>> {
    let with_port = text
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let addresses = if with_port {
        text.to_socket_addrs()?
    } else {
        (text, DEFAULT_PORT).to_socket_addrs()?
    };
    Ok(addresses.collect())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV6;

    use super::*;

    #[test]
    fn a_port_that_is_too_large_is_told_and_an_address_is_none() {
        for wrong in ["10.0.0.1:65536", "rack-1:99999", "[::1]:123456"] {
            let told = check_port(wrong).expect_err(wrong).to_string();
            assert!(told.contains("is no port"), "{told}");
        }
        for right in [
            "rack-1",
            "10.0.0.1:65535",
            "fe80::9999",
            "[::1]",
            "::1",
            "a:b",
        ] {
            check_port(right).expect(right);
        }
    }

    #[test]
    fn addresses_with_and_without_port() {
        assert_eq!(
            literal("10.0.0.1"),
            Some(SocketAddr::from(([10, 0, 0, 1], DEFAULT_PORT)))
        );
        assert_eq!(
            literal("10.0.0.1:99"),
            Some(SocketAddr::from(([10, 0, 0, 1], 99)))
        );
        assert_eq!(literal("[::1]:99"), "[::1]:99".parse().ok());
        assert_eq!(
            literal("::1").map(|address| address.port()),
            Some(DEFAULT_PORT)
        );
        assert_eq!(literal("rack-1"), None);
        let local = |scope| {
            let ip = "fe80::1".parse().expect("an address");
            Some(SocketAddr::V6(SocketAddrV6::new(ip, 99, 0, scope)))
        };
        assert_eq!(literal("[fe80::1%7]:99"), local(7));
        // Every machine has a loopback interface, the first.
        assert_eq!(literal("[fe80::1%lo]:99"), local(1));
        assert_eq!(literal("[fe80::1%no-such]:99"), None);
    }
}
