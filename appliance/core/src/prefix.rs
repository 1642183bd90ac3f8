//! Prefixes of IP addresses: links of a machine, and the lists of who may come in.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::units::ParseUnitError;

/// An address and how many of its leading bits count (RFC 4632 §3.1, RFC 4291 §2.3); IPv4-mapped addresses are IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IpPrefix {
    /// Any address of the prefix, such as that of a machine on the link.
    pub address: IpAddr,
    /// Leading bits that all addresses share: at most 32 for IPv4, 128 for IPv6.
    pub length: u8,
}

impl IpPrefix {
    /// Whether an address has these leading bits. Never true across the two families.
    #[must_use]
    pub fn contains(self, other: IpAddr) -> bool {
        let shift = |bits: u32| bits.saturating_sub(self.length.into());
        match (self.address, other.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differing = u32::from(own) ^ u32::from(other);
                differing.checked_shr(shift(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differing = u128::from(own) ^ u128::from(other);
                differing.checked_shr(shift(128)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }

    /// Bits of an address of this family.
    fn bits(address: IpAddr) -> u8 {
        if address.is_ipv4() { 32 } else { 128 }
    }
}

/// `ADDRESS/LENGTH` with the bits behind the prefix at zero, or the address alone where all bits count: one way to write one prefix.
impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let behind = u32::from(Self::bits(self.address).saturating_sub(self.length));
        let first = match self.address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(behind).unwrap_or(0);
                IpAddr::V4((u32::from(v4) & mask).into())
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(behind).unwrap_or(0);
                IpAddr::V6((u128::from(v6) & mask).into())
            }
        };
        if behind == 0 {
            write!(f, "{first}")
        } else {
            write!(f, "{first}/{}", self.length)
        }
    }
}

impl FromStr for IpPrefix {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, length) = text.split_once('/').unzip();
        let parsed = address.unwrap_or(text).parse::<IpAddr>().ok();
        let prefix = parsed
            .map(|address| address.to_canonical())
            .and_then(|address| {
                let length = match length {
                    Some(length) => length.parse().ok()?,
                    None => Self::bits(address),
                };
                (length <= Self::bits(address)).then_some(Self { address, length })
            });
        prefix.ok_or_else(|| ParseUnitError {
            text: text.to_owned(),
            expected: "an address or ADDRESS/LENGTH, such as 192.168.1.0/24",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> IpPrefix {
        text.parse().expect("a prefix")
    }

    #[test]
    fn one_prefix_is_written_in_one_way() {
        for (given, written) in [
            ("192.168.1.77/24", "192.168.1.0/24"),
            ("10.0.0.1", "10.0.0.1"),
            ("10.0.0.1/32", "10.0.0.1"),
            ("1.2.3.4/0", "0.0.0.0/0"),
            ("fd00:1::99/64", "fd00:1::/64"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("fe80::1", "fe80::1"),
        ] {
            assert_eq!(prefix(given).to_string(), written);
        }
        for wrong in [
            "",
            "10.0.0.1/33",
            "fd00::/129",
            "10.0.0/8",
            "10.0.0.0/",
            "10.0.0.0/-1",
            "lan",
            "::ffff:10.0.0.1/99",
        ] {
            assert!(wrong.parse::<IpPrefix>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn families_are_apart_and_mapped_addresses_are_ipv4() {
        let mapped = "::ffff:10.0.0.9".parse().expect("an address");
        assert!(prefix("10.0.0.0/24").contains(mapped));
        assert!(!prefix("::/0").contains(mapped));
    }
}
