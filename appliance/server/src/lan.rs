//! "LAN only": which connections are answered.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6, TcpListener};

use soft_kvm_core::IpPrefix;
use soft_kvm_core::story::ControlParams;
use soft_kvm_platform::os::net;
use soft_kvm_security::lan::{self, Refusal};

pub(crate) use soft_kvm_security::lan::is_private;

/// TTL and hop limit of everything that is sent on the LAN.
const HOPS: u8 = 1;
/// Where Debian's `/etc/hosts` has a machine's own name.
const OWN_NAME: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);

/// TTL and hop limit of what is sent.
pub(crate) fn hops(allow_routed: bool) -> Option<u8> {
    (!allow_routed).then_some(HOPS)
}

/// Keeps a listener's answers on the link, or lets them go further again.
pub(crate) fn confine(listener: &TcpListener, allow_routed: bool) -> std::io::Result<()> {
    let v6 = listener.local_addr()?.is_ipv6();
    net::limit_hops(listener, v6, hops(allow_routed))
}

/// The addresses that this machine has at a moment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// Those that only its links reach, with the scope of link-local ones, and port 0.
    pub(crate) private: BTreeSet<SocketAddr>,
    /// The others, and whose they are.
    public: Vec<(IpAddr, String)>,
}

impl Addresses {
    /// # Errors
    /// The kernel's.
    pub(crate) fn now() -> std::io::Result<Self> {
        Ok(Self::of(&if_addrs::get_if_addrs()?))
    }

    fn of(interfaces: &[if_addrs::Interface]) -> Self {
        let mut addresses = Self::default();
        for interface in interfaces {
            let address = interface.ip();
            if !is_private(address) {
                addresses.public.push((address, interface.name.clone()));
                continue;
            }
            addresses.private.insert(match address {
                IpAddr::V6(v6) if v6.is_unicast_link_local() => {
                    SocketAddrV6::new(v6, 0, 0, interface.index.unwrap_or(0)).into()
                }
                _ => (address, 0).into(),
            });
            if address == Ipv4Addr::LOCALHOST {
                addresses.private.insert((OWN_NAME, 0).into());
            }
        }
        addresses
    }

    /// The private ones, with a port.
    pub(crate) fn private_at(&self, port: u16) -> impl Iterator<Item = SocketAddr> {
        self.private.iter().map(move |&address| {
            let mut at = address;
            at.set_port(port);
            at
        })
    }

    /// Tells at which addresses nobody is answered, but not twice of the same.
    pub(crate) fn tell_public(&self, told: &mut BTreeSet<IpAddr>) {
        for (address, name) in &self.public {
            if !told.insert(*address) {
                continue;
            }
            let what =
                format!("{name}: nobody is answered at {address}, a public address (allow_routed)");
            // One of IPv6 is usual beside a private one.
            if address.is_ipv4() {
                tracing::warn!("{what}");
            } else {
                tracing::info!("{what}");
            }
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

#[cfg(test)]
mod tests {
    use if_addrs::{IfAddr, IfOperStatus, Ifv4Addr, Ifv6Addr, Interface};

    use super::*;

    fn interface(name: &str, index: u32, address: &str) -> Interface {
        let addr = match address.parse().expect("an address") {
            IpAddr::V4(ip) => IfAddr::V4(Ifv4Addr {
                ip,
                netmask: Ipv4Addr::BROADCAST,
                prefixlen: 32,
                broadcast: None,
            }),
            IpAddr::V6(ip) => IfAddr::V6(Ifv6Addr {
                ip,
                netmask: std::net::Ipv6Addr::UNSPECIFIED,
                prefixlen: 128,
                broadcast: None,
            }),
        };
        Interface {
            name: name.to_owned(),
            addr,
            index: Some(index),
            oper_status: IfOperStatus::Up,
            is_p2p: false,
        }
    }

    #[test]
    fn there_is_a_listener_at_each_private_address_and_at_no_public_one() {
        let addresses = Addresses::of(&[
            interface("lo", 1, "127.0.0.1"),
            interface("lo", 1, "::1"),
            interface("eth0", 2, "192.168.1.5"),
            interface("eth0", 2, "203.0.113.7"),
            interface("eth0", 2, "fe80::1"),
            interface("eth1", 3, "fe80::1"),
            interface("eth1", 3, "2001:db8::1"),
            interface("eth1", 3, "fd00::1"),
        ]);
        let at: Vec<_> = addresses
            .private_at(7755)
            .map(|at| at.to_string())
            .collect();
        assert_eq!(
            at,
            [
                "127.0.0.1:7755",
                "127.0.1.1:7755",
                "192.168.1.5:7755",
                "[::1]:7755",
                "[fd00::1]:7755",
                "[fe80::1%2]:7755",
                "[fe80::1%3]:7755",
            ]
        );
        let mut told = BTreeSet::new();
        addresses.tell_public(&mut told);
        let public = ["203.0.113.7", "2001:db8::1"].map(|text| text.parse().expect("an address"));
        assert_eq!(told, BTreeSet::from(public));
    }
}
