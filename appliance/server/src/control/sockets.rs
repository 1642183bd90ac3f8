//! Where the control port is listened at: this machine's private addresses as they come and go, and no other, unless somebody asks.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use anyhow::Context as _;
use soft_kvm_platform::os::{activation, net};

use crate::lan;

/// Free ports to try where any will do: one that is free at the first address may be in use at another.
const TRIES: usize = 16;

/// What says at which addresses there is a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The service manager listens.
    Given,
    /// At this address, or at all addresses of both families.
    Asked(Option<IpAddr>),
    /// At each private address.
    Private,
}

impl Scope {
    /// `--listen` and `allow_routed` decide.
    pub(super) fn of(listen: Option<IpAddr>, allow_routed: bool) -> Self {
        if listen.is_some() || allow_routed {
            Self::Asked(listen)
        } else {
            Self::Private
        }
    }
}

/// Sockets that listen at one port.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(super) scope: Scope,
    /// In host byte order, never 0.
    pub(crate) port: u16,
    pub(super) listeners: Vec<TcpListener>,
}

impl Sockets {
    /// At the start: takes the socket that the service manager listens with, if it is for this port; else as [`Self::open`].
    ///
    /// # Errors
    /// In words for the console.
    pub(crate) fn first(
        listen: Option<IpAddr>,
        port: u16,
        allow_routed: bool,
    ) -> anyhow::Result<Self> {
        let scope = Scope::of(listen, allow_routed);
        let Some(given) = activation::take_tcp_listener() else {
            return Self::open(scope, port, allow_routed);
        };
        let at = given.local_addr().context("the service manager's socket")?;
        if at.port() != port || listen.is_some_and(|address| address != at.ip()) {
            tracing::warn!(
                port,
                "the service manager listens at {at}, which the story does not: systemctl edit soft-kvm.socket"
            );
            return Self::open(scope, port, allow_routed);
        }
        tracing::info!("the service manager has listened at {at} for this server");
        Self {
            scope: Scope::Given,
            port,
            listeners: vec![given],
        }
        .confined(allow_routed)
    }

    /// Listens where `scope` says; port 0 is any free one.
    ///
    /// # Errors
    /// In words for the console.
    pub(super) fn open(scope: Scope, port: u16, allow_routed: bool) -> anyhow::Result<Self> {
        let listeners = match scope {
            Scope::Asked(Some(address)) => one((address, port).into()),
            Scope::Asked(None) | Scope::Given => everywhere(port),
            Scope::Private => private(port),
        };
        let listeners = listeners.map_err(|error| explain(error, scope, port))?;
        let port = match listeners.first() {
            Some(listener) => listener.local_addr()?.port(),
            None if port == 0 => anyhow::bail!(
                "this machine has no private address to find a free port at: give --listen or --port"
            ),
            // The network comes later.
            None => port,
        };
        Self {
            scope,
            port,
            listeners,
        }
        .confined(allow_routed)
    }

    fn confined(self, allow_routed: bool) -> anyhow::Result<Self> {
        for listener in &self.listeners {
            lan::confine(listener, allow_routed).context("keeping answers on the link")?;
        }
        Ok(self)
    }
}

fn one(at: SocketAddr) -> io::Result<Vec<TcpListener>> {
    TcpListener::bind(at).map(|listener| vec![listener])
}

fn everywhere(port: u16) -> io::Result<Vec<TcpListener>> {
    // Without IPv6 in the kernel the unspecified IPv6 address cannot be bound.
    one((Ipv6Addr::UNSPECIFIED, port).into()).or_else(|error| {
        if error.kind() == ErrorKind::AddrInUse {
            Err(error)
        } else {
            one((Ipv4Addr::UNSPECIFIED, port).into())
        }
    })
}

fn private(port: u16) -> io::Result<Vec<TcpListener>> {
    let addresses = lan::Addresses::now()?;
    let mut tries = if port == 0 { TRIES } else { 1 };
    loop {
        tries -= 1;
        match at_each(&addresses, port) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && tries > 0 => {}
            outcome => return outcome,
        }
    }
}

/// At each of them with the port that the first one got.
fn at_each(addresses: &lan::Addresses, mut port: u16) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for mut at in addresses.private.iter().copied() {
        at.set_port(port);
        let listener = net::listen_early(at)?;
        port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    Ok(listeners)
}

fn explain(error: io::Error, scope: Scope, port: u16) -> anyhow::Error {
    let what = match (scope, error.kind()) {
        (Scope::Asked(Some(address)), ErrorKind::AddrNotAvailable) => format!(
            "{address} is no address of this machine: give --listen one that `ip address` shows, or leave it out"
        ),
        (_, ErrorKind::PermissionDenied) => {
            format!("TCP port {port} is for root only: give --port 1024 or higher")
        }
        (_, ErrorKind::AddrInUse) => format!(
            "TCP port {port} cannot be used: stop the program that has it (another soft-kvm-server?), \
             or give --port"
        ),
        _ => format!("cannot listen at TCP port {port}"),
    };
    anyhow::Error::new(error).context(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_private_addresses_get_the_same_port() {
        let sockets = Sockets::open(Scope::Private, 0, false).expect("loopback at least");
        let addresses: Vec<_> = sockets
            .listeners
            .iter()
            .map(|listener| listener.local_addr().expect("bound"))
            .collect();
        assert!(addresses.iter().all(|at| at.port() == sockets.port));
        assert!(addresses.iter().all(|at| lan::is_private(at.ip())));
        assert!(addresses.contains(&(Ipv4Addr::LOCALHOST, sockets.port).into()));
        let taken = Sockets::open(Scope::Private, sockets.port, false).expect_err("in use");
        assert!(format!("{taken:#}").contains("cannot be used"), "{taken:#}");
    }

    #[test]
    fn an_address_of_another_machine_is_said_to_be_one() {
        let address = "192.0.2.1".parse().expect("an address");
        let error = Sockets::open(Scope::Asked(Some(address)), 0, false).expect_err("not ours");
        let text = format!("{error:#}");
        assert!(text.contains("192.0.2.1 is no address"), "{text}");
    }
}
