//! Whether the ports that the server wants are free, and who has them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::access::User;
use super::{Finding, Machine, Reader, State};

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A port that the server wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where; unspecified means all addresses.
    pub address: IpAddr,
    /// Which.
    pub port: u16,
    /// What for, as the option is called that changes it.
    pub option: &'static str,
}

/// A bound socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its number.
    pub inode: u64,
    /// The user that made it.
    pub uid: Option<u32>,
}

/// A process that holds a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its number.
    pub pid: u32,
    /// Its name, 15 bytes at most.
    pub name: String,
    /// The system service that it belongs to.
    pub service: Option<String>,
    /// The user that it runs as.
    pub uid: Option<u32>,
}

/// All bound sockets, and whether the lists could be read.
#[must_use]
pub fn bound(machine: &Machine) -> Option<Vec<Socket>> {
    let lists = [
        ("tcp", Protocol::Tcp),
        ("tcp6", Protocol::Tcp),
        ("udp", Protocol::Udp),
        ("udp6", Protocol::Udp),
    ];
    let mut sockets = Vec::new();
    let mut any = false;
    for (file, protocol) in lists {
        let Some(text) = machine.text(&format!("/proc/net/{file}")) else {
            continue;
        };
        any = true;
        sockets.extend(text.lines().filter_map(|line| parse(line, protocol)));
    }
    any.then_some(sockets)
}

/// A line of `/proc/net/{tcp,udp}{,6}`: number, local address, remote address, state, …, inode.
fn parse(line: &str, protocol: Protocol) -> Option<Socket> {
    /// `TCP_LISTEN`.
    const LISTEN: &str = "0A";
    let fields: Vec<_> = line.split_whitespace().collect();
    let (address, port) = fields.get(1)?.split_once(':')?;
    if protocol == Protocol::Tcp && *fields.get(3)? != LISTEN {
        return None;
    }
    Some(Socket {
        protocol,
        address: parse_address(address)?,
        port: u16::from_str_radix(port, 16).ok()?,
        inode: fields.get(9)?.parse().ok()?,
        uid: fields.get(7)?.parse().ok(),
    })
}

/// 32-bit words as the processor has them.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |index: usize| {
        let digits = text.get(index * 8..index * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    if text.len() == 8 {
        return Some(Ipv4Addr::from(word(0)?).into());
    }
    let mut bytes = [0; 16];
    for (index, chunk) in bytes.chunks_exact_mut(4).enumerate() {
        chunk.copy_from_slice(&word(index)?);
    }
    Some(Ipv6Addr::from(bytes).into())
}

/// The process that has a socket open, if this user may see it.
#[must_use]
pub fn owner(machine: &Machine, inode: u64) -> Option<Owner> {
    let wanted = format!("socket:[{inode}]");
    let numbers = machine.names("/proc");
    let pid = numbers
        .iter()
        .filter_map(|name| name.parse::<u32>().ok())
        .find(|pid| {
            let folder = format!("/proc/{pid}/fd");
            let names = machine.names(&folder);
            names
                .iter()
                .any(|name| machine.link(&format!("{folder}/{name}")).as_deref() == Some(&wanted))
        })?;
    let cgroup = machine
        .text(&format!("/proc/{pid}/cgroup"))
        .unwrap_or_default();
    let status = machine
        .text(&format!("/proc/{pid}/status"))
        .unwrap_or_default();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    Some(Owner {
        pid,
        name: machine
            .word(&format!("/proc/{pid}/comm"))
            .unwrap_or_default(),
        service: service(&cgroup),
        uid: uid.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()),
    })
}

/// `0::/system.slice/nginx.service` is a service of the system.
fn service(cgroup: &str) -> Option<String> {
    let line = cgroup
        .lines()
        .find_map(|line| line.strip_prefix("0::/system.slice/"))?;
    let name = line.split('/').next()?;
    name.ends_with(".service").then(|| name.to_owned())
}

/// The socket that stands in the way.
#[must_use]
pub fn conflict<'a>(wanted: &Wanted, sockets: &'a [Socket]) -> Option<&'a Socket> {
    let meets = |other: IpAddr| {
        // An unspecified IPv6 address takes the IPv4 ones along.
        let all = |ip: IpAddr| ip.is_unspecified();
        all(other) || all(wanted.address) || other == wanted.address
    };
    sockets.iter().find(|socket| {
        socket.protocol == wanted.protocol && socket.port == wanted.port && meets(socket.address)
    })
}

/// What is known of one wanted port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Which.
    pub wanted: Wanted,
    /// Whether the lists of sockets could be read.
    pub readable: bool,
    /// A socket has it.
    pub taken: bool,
    /// The user that made the socket.
    pub uid: Option<u32>,
    /// Its process.
    pub owner: Option<Owner>,
    /// Ports from here on need no capability.
    pub first_free_for_all: u16,
}

impl Facts {
    /// Reads them.
    #[must_use]
    pub fn read(machine: &Machine, wanted: Wanted, sockets: Option<&[Socket]>) -> Self {
        let taken = sockets.and_then(|sockets| conflict(&wanted, sockets));
        let first = machine.number("/proc/sys/net/ipv4/ip_unprivileged_port_start");
        Self {
            wanted,
            readable: sockets.is_some(),
            taken: taken.is_some(),
            uid: taken.and_then(|socket| socket.uid),
            owner: taken.and_then(|socket| owner(machine, socket.inode)),
            first_free_for_all: first.and_then(|port| port.try_into().ok()).unwrap_or(1024),
        }
    }
}

/// Whether the port can be had. `own`: a server with this state folder runs.
#[must_use]
pub fn check(facts: &Facts, user: &User, own: bool, reader: &Reader) -> Finding {
    const CHECK: &str = "ports";
    let Wanted {
        protocol,
        port,
        option,
        ..
    } = facts.wanted;
    let name = format!("{} {port}", protocol.name().to_ascii_uppercase());
    if port < facts.first_free_for_all && port != 0 && !user.may_bind_low_ports() {
        let text = reader.say(
            format!("{name}: only root may listen on it; or choose another with {option}"),
            format!("{name}: root しか使えません。{option} で別の番号も選べます"),
        );
        return Finding::new(CHECK, State::Wrong, text).mend(reader.command(&format!(
            "sudo sysctl -w net.ipv4.ip_unprivileged_port_start={port}"
        )));
    }
    if !facts.readable {
        let text = reader.say(
            format!("{name}: /proc/net cannot be read"),
            format!("{name}: /proc/net を読めません"),
        );
        return Finding::new(CHECK, State::NotCheckable, text);
    }
    if !facts.taken {
        let text = reader.say(format!("{name} is free"), format!("{name} は空いています"));
        return Finding::new(CHECK, State::Ok, text);
    }
    let Some(owner) = &facts.owner else {
        // A server shows its descriptors to root alone.
        if own && facts.uid == Some(user.uid) {
            let text = reader.say(
                format!("{name}: the running server has it"),
                format!("{name}: 動作中のサーバーが使っています"),
            );
            return Finding::new(CHECK, State::Ok, text);
        }
        let text = reader.say(
            format!("{name} is taken by a process that only root can see; or choose another with {option}"),
            format!("{name} は root にしか見えないプロセスが使っています。{option} で別の番号も選べます"),
        );
        let mend = format!("sudo fuser --kill {port}/{}", protocol.name());
        return Finding::new(CHECK, State::Wrong, text).mend(reader.command(&mend));
    };
    let (pid, holder) = (owner.pid, &owner.name);
    if own && holder == "soft-kvm-server" {
        let text = reader.say(
            format!("{name}: the running server has it (process {pid})"),
            format!("{name}: 動作中のサーバーが使っています（プロセス {pid}）"),
        );
        return Finding::new(CHECK, State::Ok, text);
    }
    let text = reader.say(
        format!("{name} is taken by {holder} (process {pid}); or choose another with {option}"),
        format!(
            "{name} は {holder}（プロセス {pid}）が使っています。{option} で別の番号も選べます"
        ),
    );
    let mend = match &owner.service {
        Some(service) => format!("sudo systemctl disable --now {service}"),
        None if owner.uid == Some(user.uid) => format!("kill {pid}"),
        None => format!("sudo kill {pid}"),
    };
    Finding::new(CHECK, State::Wrong, text).mend(reader.command(&mend))
}

#[cfg(test)]
mod tests {
    use super::super::machine::tests::tree;
    use super::super::tests::in_both;
    use super::*;

    /// 127.0.0.1:9090 and an established connection from :7755, as an x86 kernel prints them.
    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   0: 0100007F:2382 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 501 1 0 100 0 0 10 0\n   1: 0100007F:1E4B 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 502 1\n";
    /// [::]:7755.
    const UDP6: &str = "   0: 00000000000000000000000000000000:1E4B 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000  1000        0 503 2 0 0\n";

    fn wanted(protocol: Protocol, address: &str, port: u16) -> Wanted {
        Wanted {
            protocol,
            address: address.parse().unwrap(),
            port,
            option: "--port",
        }
    }

    fn facts(owner: Option<Owner>) -> Facts {
        Facts {
            wanted: wanted(Protocol::Udp, "::", 7755),
            readable: true,
            taken: true,
            uid: Some(1000),
            owner,
            first_free_for_all: 1024,
        }
    }

    fn owner_named(name: &str) -> Owner {
        Owner {
            pid: 42,
            name: name.to_owned(),
            service: None,
            uid: Some(1000),
        }
    }

    fn ask(facts: &Facts, own: bool) -> (State, Option<String>) {
        let user = User {
            uid: 1000,
            ..User::default()
        };
        let found = in_both(|reader| vec![check(facts, &user, own, reader)]).remove(0);
        (found.state, found.mend)
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn sockets_of_the_kernels_lists() {
        let (folder, machine) = tree(&[
            ("proc/net/tcp", TCP),
            ("proc/net/udp6", UDP6),
            ("proc/42/comm", "avahi-daemon\n"),
            ("proc/42/cgroup", "0::/system.slice/avahi.service/x\n"),
            ("proc/42/status", "Uid:\t1000\t107\t107\t107\n"),
            ("proc/42/fd/.keep", ""),
            ("proc/sys/net/ipv4/ip_unprivileged_port_start", "80\n"),
        ]);
        std::os::unix::fs::symlink("socket:[503]", folder.path().join("proc/42/fd/3")).unwrap();
        let sockets = bound(&machine).unwrap();
        assert_eq!(sockets.len(), 2, "{sockets:?}");
        let read = |wanted| Facts::read(&machine, wanted, Some(&sockets));
        let udp = read(wanted(Protocol::Udp, "0.0.0.0", 7755));
        assert_eq!(udp.first_free_for_all, 80);
        let owner = udp.owner.unwrap();
        assert_eq!((owner.pid, owner.uid), (42, Some(107)));
        assert_eq!(owner.service.as_deref(), Some("avahi.service"));
        let metrics = read(wanted(Protocol::Tcp, "127.0.0.1", 9090));
        assert!(metrics.taken && metrics.owner.is_none());
        assert_eq!((metrics.uid, udp.uid), (Some(0), Some(1000)));
        // A connection is no listener, another address is no conflict.
        assert!(!read(wanted(Protocol::Tcp, "::", 7755)).taken);
        assert!(!read(wanted(Protocol::Tcp, "127.0.0.2", 9090)).taken);
        assert!(bound(&Machine::at(folder.path().join("none"))).is_none());
    }

    #[test]
    fn each_holder_has_its_command() {
        let mend = |owner| {
            let (state, mend) = ask(&facts(owner), false);
            assert_eq!(state, State::Wrong);
            mend.unwrap()
        };
        assert_eq!(mend(None), "sudo fuser --kill 7755/udp");
        assert_eq!(mend(Some(owner_named("nc"))), "kill 42");
        let other = Owner {
            uid: Some(0),
            ..owner_named("nc")
        };
        assert_eq!(mend(Some(other)), "sudo kill 42");
        let service = Owner {
            service: Some("x.service".to_owned()),
            ..owner_named("x")
        };
        assert_eq!(
            mend(Some(service)),
            "sudo systemctl disable --now x.service"
        );
    }

    #[test]
    fn the_running_server_may_have_it() {
        let server = facts(Some(owner_named("soft-kvm-server")));
        assert_eq!(ask(&server, true).0, State::Ok);
        assert_eq!(
            ask(&server, false).0,
            State::Wrong,
            "one with another state folder"
        );
        let hidden = facts(None);
        assert_eq!(ask(&hidden, true).0, State::Ok);
        let of_root = Facts {
            uid: Some(0),
            ..hidden
        };
        assert_eq!(ask(&of_root, true).0, State::Wrong);
    }

    #[test]
    fn free_low_and_unreadable() {
        let free = Facts {
            taken: false,
            ..facts(None)
        };
        assert_eq!(ask(&free, false), (State::Ok, None));
        let unreadable = Facts {
            readable: false,
            ..free.clone()
        };
        assert_eq!(ask(&unreadable, false).0, State::NotCheckable);
        let low = Facts {
            wanted: wanted(Protocol::Tcp, "::", 443),
            ..free
        };
        let (state, mend) = ask(&low, false);
        assert_eq!(state, State::Wrong);
        assert!(mend.unwrap().ends_with("ip_unprivileged_port_start=443"));
    }
}
