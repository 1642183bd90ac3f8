//! "LAN only": which connections are answered.

use std::net::{IpAddr, SocketAddr, TcpListener};

use soft_kvm_core::IpPrefix;
use soft_kvm_core::story::ControlParams;
use soft_kvm_platform::os::net;
use soft_kvm_security::lan::{self, Refusal};

/// TTL and hop limit of everything that is sent on the LAN.
const HOPS: u8 = 1;

/// TTL and hop limit of what is sent.
pub(crate) fn hops(allow_routed: bool) -> Option<u8> {
    (!allow_routed).then_some(HOPS)
}

/// Keeps a listener's answers on the link, or lets them go further again.
pub(crate) fn confine(listener: &TcpListener, allow_routed: bool) -> std::io::Result<()> {
    let v6 = listener.local_addr()?.is_ipv6();
    net::limit_hops(listener, v6, hops(allow_routed))
}

/// Tells at which addresses of this machine nobody is answered.
pub(crate) fn tell_unserved() {
    for interface in if_addrs::get_if_addrs().unwrap_or_default() {
        let address = interface.ip();
        if lan::is_private(address) {
            continue;
        }
        let what = format!(
            "{}: nobody is answered at {address}, a public address (allow_routed)",
            interface.name
        );
        // One of IPv6 is usual beside a private one.
        if address.is_ipv4() {
            tracing::warn!("{what}");
        } else {
            tracing::info!("{what}");
        }
    }
}

/// Whether a connection to `local` from `remote` is talked to: by the story's lists, and by the addresses that the machine has at
/// this moment unless routed clients are welcome.
pub(crate) fn admit(
    local: SocketAddr,
    remote: SocketAddr,
    params: &ControlParams,
) -> Result<(), Refusal> {
    lan::listed(remote.ip(), &params.allow, &params.deny)?;
    if params.allow_routed {
        return Ok(());
    }
    // Without a list nobody but loopback and link-local peers gets in.
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let links: Vec<_> = interfaces.iter().map(prefix).collect();
    lan::check(local.ip(), remote.ip(), &links)
}

fn prefix(interface: &if_addrs::Interface) -> IpPrefix {
    let (address, length) = match &interface.addr {
        if_addrs::IfAddr::V4(v4) => (IpAddr::V4(v4.ip), v4.prefixlen),
        if_addrs::IfAddr::V6(v6) => (IpAddr::V6(v6.ip), v6.prefixlen),
    };
    IpPrefix { address, length }
}
