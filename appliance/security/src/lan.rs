//! Who is on the local network: the address rules of "LAN only".
//!
//! The server's sockets send with a TTL of 1 besides, so that an answer cannot leave the link even if a rule is wrong.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use soft_kvm_core::IpPrefix;

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The peer's address is in no prefix of this machine: there is a router between.
    Routed(IpAddr),
    /// The connection came to an address that the whole world can reach.
    Public(IpAddr),
    /// The story's list of denied addresses has the peer's.
    Denied(IpAddr),
    /// The story's list of allowed addresses has not the peer's.
    NotAllowed(IpAddr),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Routed(remote) => write!(f, "{remote} is not on this machine's links"),
            Self::Public(local) => write!(f, "{local} is a public address of this machine"),
            Self::Denied(remote) => write!(f, "{remote} is denied by the story"),
            Self::NotAllowed(remote) => write!(f, "{remote} is not among what the story allows"),
        }
    }
}

impl std::error::Error for Refusal {}

/// Whether a peer may talk to this machine: loopback, link-local addresses, and addresses in the prefix of a link, where the
/// connection came to a private address (RFC 1918, RFC 3927, RFC 4193) of this machine. IPv4-mapped addresses count as IPv4.
///
/// # Errors
/// [`Refusal`].
pub fn check(local: IpAddr, remote: IpAddr, links: &[IpPrefix]) -> Result<(), Refusal> {
    let (local, remote) = (local.to_canonical(), remote.to_canonical());
    if remote.is_loopback() {
        return Ok(());
    }
    if !is_private(local) {
        return Err(Refusal::Public(local));
    }
    if is_link_local(remote) || links.iter().any(|link| link.contains(remote)) {
        return Ok(());
    }
    Err(Refusal::Routed(remote))
}

/// Whether the story's lists let a peer in: it is not denied, and it is allowed where a list says who is.
///
/// # Errors
/// [`Refusal`].
pub fn listed(remote: IpAddr, allow: &[IpPrefix], deny: &[IpPrefix]) -> Result<(), Refusal> {
    let has = |list: &[IpPrefix]| list.iter().any(|prefix| prefix.contains(remote));
    if has(deny) {
        return Err(Refusal::Denied(remote.to_canonical()));
    }
    if allow.is_empty() || has(allow) {
        return Ok(());
    }
    Err(Refusal::NotAllowed(remote.to_canonical()))
}

/// Whether an address of this machine can be reached from its links only, by the rules for addresses: RFC 1918, RFC 3927,
/// RFC 4193, link-local and loopback ones.
#[must_use]
pub fn is_private(address: IpAddr) -> bool {
    is_link_local(address)
        || match address {
            IpAddr::V4(v4) => v4.is_private() || v4.is_loopback(),
            IpAddr::V6(v6) => v6.is_unique_local() || v6.is_loopback(),
        }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => Ipv6Addr::is_unicast_link_local(&v6),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn links() -> [IpPrefix; 4] {
        [
            ("192.168.1.5", 24),
            ("10.9.0.1", 30),
            ("fd00:1::5", 64),
            ("203.0.113.7", 24),
        ]
        .map(|(address, length)| IpPrefix {
            address: ip(address),
            length,
        })
    }

    #[test]
    fn the_link_is_let_in_and_what_is_behind_a_router_is_not() {
        let judge = |local: &str, remote: &str| check(ip(local), ip(remote), &links());
        for (local, remote) in [
            ("192.168.1.5", "192.168.1.200"),
            ("::ffff:192.168.1.5", "::ffff:192.168.1.200"),
            ("10.9.0.1", "10.9.0.2"),
            ("fd00:1::5", "fd00:1::99"),
            ("fe80::1", "fe80::2"),
            ("169.254.3.3", "169.254.1.1"),
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "::1"),
        ] {
            assert_eq!(judge(local, remote), Ok(()), "{local} {remote}");
        }
        for (local, remote) in [
            ("192.168.1.5", "192.168.2.1"),
            ("::ffff:192.168.1.5", "::ffff:192.168.2.1"),
            ("10.9.0.1", "10.9.0.5"),
            ("fd00:1::5", "fd00:2::1"),
            ("192.168.1.5", "8.8.8.8"),
        ] {
            let routed = Err(Refusal::Routed(ip(remote).to_canonical()));
            assert_eq!(judge(local, remote), routed, "{local} {remote}");
        }
        // On the link of a public address: whoever shares it is no friend by that.
        let public = judge("203.0.113.7", "203.0.113.8");
        assert_eq!(public, Err(Refusal::Public(ip("203.0.113.7"))));
    }

    #[test]
    fn the_lists_say_who_else_stays_out() {
        let list = |texts: &[&str]| -> Vec<IpPrefix> {
            texts
                .iter()
                .map(|text| text.parse().expect("a prefix"))
                .collect()
        };
        let (allow, deny) = (list(&["192.168.1.0/24", "fd00::5"]), list(&["192.168.1.9"]));
        for remote in ["192.168.1.8", "::ffff:192.168.1.8", "fd00::5"] {
            assert_eq!(listed(ip(remote), &allow, &deny), Ok(()), "{remote}");
        }
        let denied = Err(Refusal::Denied(ip("192.168.1.9")));
        assert_eq!(listed(ip("::ffff:192.168.1.9"), &allow, &deny), denied);
        assert_eq!(listed(ip("192.168.1.9"), &[], &deny), denied);
        for remote in ["192.168.2.8", "fd00::6", "127.0.0.1"] {
            let outside = Err(Refusal::NotAllowed(ip(remote)));
            assert_eq!(listed(ip(remote), &allow, &deny), outside, "{remote}");
        }
        assert_eq!(listed(ip("10.0.0.1"), &[], &[]), Ok(()));
    }

    proptest! {
        #[test]
        fn a_prefix_holds_what_its_bits_say(own: u32, other: u32, length in 0_u8..=32) {
            let link = IpPrefix { address: IpAddr::V4(own.into()), length };
            let same = (0..u32::from(length)).all(|bit| (own ^ other) >> (31 - bit) & 1 == 0);
            prop_assert_eq!(link.contains(IpAddr::V4(other.into())), same);
        }

        #[test]
        fn any_prefix_length_is_harmless(own: u128, other: u128, length: u8) {
            let link = IpPrefix { address: IpAddr::V6(own.into()), length };
            let _ = link.contains(IpAddr::V6(other.into()));
        }
    }
}
