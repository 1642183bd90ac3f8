//! Socket addresses as the kernel has them.

use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use nix::sys::socket::AddressFamily;

/// A `struct sockaddr_in` or `struct sockaddr_in6`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) union RawAddress {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the kernel's own constants fit their types"
)]
const V4: libc::sa_family_t = libc::AF_INET as libc::sa_family_t;
#[expect(
    clippy::cast_possible_truncation,
    reason = "the kernel's own constants fit their types"
)]
const V6: libc::sa_family_t = libc::AF_INET6 as libc::sa_family_t;
#[expect(clippy::cast_possible_truncation, reason = "16 and 28 bytes")]
const V4_LEN: libc::socklen_t = size_of::<libc::sockaddr_in>() as libc::socklen_t;
#[expect(clippy::cast_possible_truncation, reason = "16 and 28 bytes")]
const V6_LEN: libc::socklen_t = size_of::<libc::sockaddr_in6>() as libc::socklen_t;

impl RawAddress {
    /// Room for an address.
    pub(super) fn empty() -> Self {
        Self {
            // SAFETY: the structure is plain numbers; all zeros is a value of it (family AF_UNSPEC).
            v6: unsafe { zeroed() },
        }
    }

    /// `address` for a socket of `family`: an IPv4 address becomes an IPv4-mapped one on an IPv6 socket.
    pub(super) fn new(address: SocketAddr, family: AddressFamily) -> Self {
        let mut raw = Self::empty();
        match (address, family) {
            (SocketAddr::V4(v4), AddressFamily::Inet) => {
                raw.v4 = libc::sockaddr_in {
                    sin_family: V4,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(v4.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
            }
            (SocketAddr::V4(v4), _) => {
                raw.v6 = v6_of(SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0));
            }
            (SocketAddr::V6(v6), _) => raw.v6 = v6_of(v6),
        }
        raw
    }

    /// What the kernel wrote; `None` for another family. IPv4-mapped addresses come back as IPv4.
    pub(super) fn to_address(self) -> Option<SocketAddr> {
        // SAFETY: every variant begins with the family, and all bytes are initialised.
        match unsafe { self.family } {
            V4 => {
                // SAFETY: the family says so, and any bytes are a value.
                let v4 = unsafe { self.v4 };
                let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Some((ip, u16::from_be(v4.sin_port)).into())
            }
            V6 => {
                // SAFETY: the family says so, and any bytes are a value.
                let v6 = unsafe { self.v6 };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                let port = u16::from_be(v6.sin6_port);
                Some(match ip.to_ipv4_mapped() {
                    Some(v4) => (v4, port).into(),
                    None => SocketAddrV6::new(ip, port, 0, v6.sin6_scope_id).into(),
                })
            }
            _ => None,
        }
    }

    pub(super) fn as_ptr(&self) -> *const libc::sockaddr {
        std::ptr::from_ref(self).cast()
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut libc::sockaddr {
        std::ptr::from_mut(self).cast()
    }

    /// Bytes that the address uses.
    pub(super) fn len(&self) -> libc::socklen_t {
        // SAFETY: every variant begins with the family, and all bytes are initialised.
        if unsafe { self.family } == V4 {
            V4_LEN
        } else {
            V6_LEN
        }
    }

    /// Bytes that the kernel may write.
    #[expect(clippy::unused_self, reason = "reads as a property of the value")]
    pub(super) fn capacity(&self) -> libc::socklen_t {
        V6_LEN
    }
}

fn v6_of(v6: SocketAddrV6) -> libc::sockaddr_in6 {
    libc::sockaddr_in6 {
        sin6_family: V6,
        sin6_port: v6.port().to_be(),
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr {
            s6_addr: v6.ip().octets(),
        },
        sin6_scope_id: v6.scope_id(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn addresses_survive(ip: u128, v4: u32, port: u16, scope: u32) {
            let v4 = SocketAddr::from((Ipv4Addr::from(v4), port));
            prop_assert_eq!(RawAddress::new(v4, AddressFamily::Inet).to_address(), Some(v4));
            prop_assert_eq!(RawAddress::new(v4, AddressFamily::Inet6).to_address(), Some(v4));
            let ip = Ipv6Addr::from(ip);
            if ip.to_ipv4_mapped().is_none() {
                let v6 = SocketAddr::from(SocketAddrV6::new(ip, port, 0, scope));
                prop_assert_eq!(RawAddress::new(v6, AddressFamily::Inet6).to_address(), Some(v6));
            }
        }
    }
}
