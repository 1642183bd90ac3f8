//! The client's side.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

use mdns_sd::{ResolvedService, ScopedIp, ServiceEvent};
use serde::Serialize;

use crate::{DiscoveryError, SERVICE_TYPE, daemon, has_network, shut_down};

/// Most servers that one look collects, against a link that is flooded with answers.
const MAX_SERVERS: usize = 512;

/// A server as it announces itself. Every text is cleared of control characters and bounded; none is to be trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Server {
    /// Instance name.
    pub name: String,
    /// Host name in the records.
    pub host: String,
    /// Where to connect, the best first: private IPv4, unique local IPv6, link-local ones with their scope id. Public addresses
    /// come last: servers answer there only if they let routed clients in.
    pub addresses: Vec<SocketAddr>,
    /// TCP port, the one in `addresses`.
    pub port: u16,
    /// TXT record: `v`, `name`, `fp`, `story`, `features` and what later versions add.
    pub txt: BTreeMap<String, String>,
}

/// Collects the servers that answer within `timeout`, by name. Blocks.
///
/// # Errors
///
/// There is no network, or the responder cannot be started.
pub fn browse(timeout: Duration) -> Result<Vec<Server>, DiscoveryError> {
    let mut found = look(timeout, |_| false)?;
    found.sort_by(|a, b| (&a.name, &a.host).cmp(&(&b.name, &b.host)));
    Ok(found)
}

/// Finds the server named `name` (ASCII case does not count); returns as soon as it answers. Blocks.
///
/// # Errors
///
/// As [`browse`], or nobody with this name answers within `timeout`.
pub fn resolve(name: &str, timeout: Duration) -> Result<Server, DiscoveryError> {
    let wanted = |server: &Server| {
        server.name.eq_ignore_ascii_case(name)
            || server
                .txt
                .get("name")
                .is_some_and(|n| n.eq_ignore_ascii_case(name))
    };
    look(timeout, wanted)?
        .into_iter()
        .find(wanted)
        .ok_or_else(|| DiscoveryError::NotFound {
            name: name.to_owned(),
            seconds: timeout.as_secs_f32(),
        })
}

fn look(
    timeout: Duration,
    enough: impl Fn(&Server) -> bool,
) -> Result<Vec<Server>, DiscoveryError> {
    if !has_network() {
        return Err(DiscoveryError::NoNetwork);
    }
    let daemon = daemon()?;
    let events = daemon.browse(SERVICE_TYPE)?;
    let deadline = Instant::now() + timeout;
    let mut found: BTreeMap<String, Server> = BTreeMap::new();
    while let Ok(event) = events.recv_deadline(deadline) {
        match event {
            ServiceEvent::ServiceResolved(service) => {
                let server = read(&service);
                let done = enough(&server);
                if found.len() < MAX_SERVERS || found.contains_key(&service.fullname) {
                    found.insert(service.fullname.clone(), server);
                }
                if done {
                    break;
                }
            }
            ServiceEvent::ServiceRemoved(_, fullname) => {
                found.remove(&fullname);
            }
            _ => {}
        }
    }
    shut_down(&daemon);
    Ok(found.into_values().collect())
}

fn read(service: &ResolvedService) -> Server {
    let instance = service
        .fullname
        .strip_suffix(&service.ty_domain)
        .and_then(|label| label.strip_suffix('.'))
        .unwrap_or(&service.fullname);
    let mut addresses: Vec<_> = service
        .addresses
        .iter()
        .map(|address| socket_address(address, service.port))
        .collect();
    addresses.sort_by_key(|address| (rank(address.ip()), *address));
    let txt = service
        .txt_properties
        .iter()
        .take(32)
        .map(|property| (clean(property.key()), clean(property.val_str())))
        .collect();
    Server {
        name: clean(&unescape(instance)),
        host: clean(service.host.trim_end_matches('.')),
        addresses,
        port: service.port,
        txt,
    }
}

fn socket_address(address: &ScopedIp, port: u16) -> SocketAddr {
    match address {
        ScopedIp::V6(v6) if v6.addr().is_unicast_link_local() => {
            SocketAddrV6::new(*v6.addr(), port, 0, v6.scope_id().index).into()
        }
        other => SocketAddr::new(other.to_ip_addr(), port),
    }
}

fn rank(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(v4) if v4.is_private() || v4.is_loopback() => 0,
        IpAddr::V6(v6) if v6.is_unique_local() || v6.is_loopback() => 1,
        IpAddr::V4(v4) if v4.is_link_local() => 2,
        IpAddr::V6(v6) if v6.is_unicast_link_local() => 3,
        IpAddr::V4(_) => 4,
        IpAddr::V6(_) => 5,
    }
}

/// The label's text: dots and backslashes in it are written with a backslash in front.
fn unescape(label: &str) -> String {
    let mut text = String::with_capacity(label.len());
    let mut chars = label.chars();
    while let Some(c) = chars.next() {
        let c = if c == '\\' { chars.next() } else { Some(c) };
        text.extend(c);
    }
    text
}

/// What can be shown on a terminal as it is.
fn clean(text: &str) -> String {
    let acts = |c: &char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().filter(|c| !acts(c)).take(128).collect()
}

/// Bodies of fuzz targets.
pub(crate) mod fuzzing {
    use mdns_sd::ServiceInfo;

    use super::{SERVICE_TYPE, read};

    /// What a server announces, as the packets' parser hands it over: instance name, host name and TXT properties, a line each.
    /// Whatever they hold, a terminal may show what is made of it.
    pub fn announcements(data: &[u8]) {
        let text = String::from_utf8_lossy(data);
        let mut lines = text.split('\n');
        let (instance, host) = (
            lines.next().unwrap_or_default(),
            lines.next().unwrap_or_default(),
        );
        let properties: Vec<_> = lines.filter_map(|line| line.split_once('=')).collect();
        let addresses = "192.0.2.7,2001:db8::1,fe80::1";
        let service = ServiceInfo::new(
            SERVICE_TYPE,
            instance,
            host,
            addresses,
            7755,
            &properties[..],
        );
        let Ok(service) = service else {
            return;
        };
        let server = read(&service.as_resolved_service());
        assert!(server.txt.len() <= 32);
        let txt = server.txt.iter().flat_map(|(key, value)| [key, value]);
        for shown in [&server.name, &server.host].into_iter().chain(txt) {
            assert!(shown.chars().count() <= 128);
            assert!(!shown.contains(char::is_control));
        }
    }
}

#[cfg(test)]
mod tests {
    use mdns_sd::ServiceInfo;

    use super::*;

    #[test]
    fn answers_are_read_best_address_first() {
        let info = ServiceInfo::new(
            SERVICE_TYPE,
            "rack \x1b[2J.1",
            "soft-kvm-1.local.",
            "2001:db8::1,fe80::1,203.0.113.7,fd00::1,192.168.2.7",
            7755,
            &[("v", "1"), ("name", "a\u{202e}b")][..],
        )
        .unwrap();
        let server = read(&info.as_resolved_service());
        assert_eq!(server.name, "rack [2J.1");
        assert_eq!(server.host, "soft-kvm-1.local");
        let addresses: Vec<_> = server.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(
            addresses,
            [
                "192.168.2.7:7755",
                "[fd00::1]:7755",
                "[fe80::1]:7755",
                "203.0.113.7:7755",
                "[2001:db8::1]:7755"
            ]
        );
        assert_eq!(server.txt["name"], "ab");
        let json = serde_json::to_value(&server).unwrap();
        assert_eq!(json["addresses"][0], "192.168.2.7:7755");
    }

    #[test]
    fn announcements_of_any_kind_are_shown_safely() {
        for text in [
            "",
            "rack\nhost.local.\nv=1\nfp=abc",
            "a\u{1b}[2J\u{7}\n\u{202e}\nname=\u{9b}31m\n=\nx=",
            &"é".repeat(500),
            &"k=v\n".repeat(100),
        ] {
            fuzzing::announcements(text.as_bytes());
        }
    }

    #[test]
    fn labels_are_unescaped() {
        assert_eq!(unescape(r"a\.b\\c\"), r"a.b\c");
    }
}
