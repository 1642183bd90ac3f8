//! What a hostile host on the link does to a server's ports. On one machine every attack comes from loopback addresses of its
//! own, so that the server can tell attackers and operators apart as it would on a network.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socket2::{Domain, Socket, Type};
use soft_kvm_security::{Identity, tls};

/// Connections that [`Attack::HalfOpen`] holds.
const HELD: usize = 200;
/// Hosts that an attack comes from.
const HOSTS: u8 = 20;
/// Datagrams in one burst, and the pause behind it.
const BURST: usize = 32;
const PAUSE: Duration = Duration::from_millis(1);
const LIMIT: Duration = Duration::from_millis(500);

/// One way to be hostile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// Connections that say a little of a TLS handshake now and then, and come back when they are closed (slowloris).
    HalfOpen,
    /// Connections that close at once.
    Connects,
    /// Whole TLS handshakes with a key that nobody knows, and a request.
    Handshakes,
    /// Datagrams that look like RTP, RTCP and input, or like nothing.
    Datagrams,
}

impl Attack {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::HalfOpen,
        Self::Connects,
        Self::Handshakes,
        Self::Datagrams,
    ];

    /// A word for tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HalfOpen => "half-open",
            Self::Connects => "connects",
            Self::Handshakes => "handshakes",
            Self::Datagrams => "datagrams",
        }
    }

    /// Attacks the server at `port` of this machine until `stop` is set, or `most` connections or datagrams were made; gives
    /// their number.
    #[must_use]
    pub fn run(self, port: u16, most: u64, stop: &AtomicBool) -> u64 {
        let hosts: Vec<Ipv4Addr> = (0..usize::from(HOSTS))
            .map(|turn| self.host(turn))
            .collect();
        let server = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        self.run_from(&hosts, server, most, stop)
    }

    /// The same from addresses that this host has, one at least, to any server.
    #[must_use]
    pub fn run_from(
        self,
        hosts: &[Ipv4Addr],
        server: SocketAddrV4,
        most: u64,
        stop: &AtomicBool,
    ) -> u64 {
        let way = Way { hosts, server };
        let mut made = 0;
        let mut go = || {
            let on = made < most && !stop.load(Ordering::Relaxed);
            made += u64::from(on);
            on
        };
        match self {
            Self::HalfOpen => half_open(way, &mut go),
            Self::Connects => connects(way, &mut go),
            Self::Handshakes => handshakes(way, &mut go),
            Self::Datagrams => datagrams(way, &mut go),
        }
        made
    }

    /// The attacking hosts, in turn.
    fn host(self, turn: usize) -> Ipv4Addr {
        let network = match self {
            Self::HalfOpen => 101,
            Self::Connects => 102,
            Self::Handshakes => 103,
            Self::Datagrams => 104,
        };
        let host = u8::try_from(turn % usize::from(HOSTS)).unwrap_or(0);
        Ipv4Addr::new(127, 0, network, host + 1)
    }
}

/// From where to where.
#[derive(Clone, Copy)]
struct Way<'a> {
    hosts: &'a [Ipv4Addr],
    server: SocketAddrV4,
}

impl Way<'_> {
    /// The attacking hosts, in turn.
    fn host(self, turn: usize) -> Ipv4Addr {
        let host = self.hosts.get(turn % self.hosts.len().max(1));
        host.copied().unwrap_or(Ipv4Addr::UNSPECIFIED)
    }

    fn connect(self, turn: usize) -> std::io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(IpAddr::V4(self.host(turn)), 0).into())?;
        socket.connect_timeout(&self.server.into(), LIMIT)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok(stream)
    }
}

fn half_open(way: Way<'_>, go: &mut impl FnMut() -> bool) {
    // A record header that promises 512 bytes of a client hello (RFC 8446 §5.1), which come one by one.
    const HELLO: [u8; 9] = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc];
    let mut held: Vec<Option<(TcpStream, usize)>> = (0..HELD).map(|_| None).collect();
    loop {
        for (turn, slot) in held.iter_mut().enumerate() {
            match slot {
                Some((stream, said)) => {
                    let byte = HELLO.get(*said).copied().unwrap_or(0);
                    *said += 1;
                    if stream.write_all(&[byte]).is_err() {
                        *slot = None;
                    }
                }
                None => {
                    if !go() {
                        return;
                    }
                    *slot = way.connect(turn).ok().map(|stream| (stream, 0));
                }
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn connects(way: Way<'_>, go: &mut impl FnMut() -> bool) {
    let mut turn = 0;
    while go() {
        turn += 1;
        drop(way.connect(turn));
    }
}

fn handshakes(way: Way<'_>, go: &mut impl FnMut() -> bool) {
    // Fails only without random numbers, and then there is no attack to make.
    let Some(config) = Identity::ephemeral()
        .ok()
        .and_then(|identity| tls::unpinned_client_config(&identity).ok())
    else {
        return;
    };
    let mut turn = 0;
    while go() {
        turn += 1;
        // Whatever the server answers, the next one follows.
        let _ = handshake(way, turn, &config);
    }
}

fn handshake(way: Way<'_>, turn: usize, config: &Arc<ClientConfig>) -> std::io::Result<()> {
    const REQUEST: &[u8] =
        b"GET /control HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let stream = way.connect(turn)?;
    let session = ClientConnection::new(Arc::clone(config), tls::server_name())
        .map_err(std::io::Error::other)?;
    let mut stream = StreamOwned::new(session, stream);
    stream.write_all(REQUEST)?;
    let _ = stream.read(&mut [0; 512])?;
    Ok(())
}

fn datagrams(way: Way<'_>, go: &mut impl FnMut() -> bool) {
    const STARTS: [&[u8]; 4] = [&[], &[0x80, 96], &[0x90, 97, 0, 1], &[0x81, 201, 0, 7]];
    let sockets: Vec<UdpSocket> = (0..4)
        .filter_map(|turn| UdpSocket::bind((way.host(turn), 0)).ok())
        .collect();
    let mut noise = Noise::default();
    let mut turn = 0_usize;
    while go() {
        turn += 1;
        let length = usize::from(noise.next_byte()) * 5 + 12;
        let mut datagram: Vec<u8> = (0..length).map(|_| noise.next_byte()).collect();
        for (to, from) in datagram.iter_mut().zip(STARTS[turn % STARTS.len()]) {
            *to = *from;
        }
        if let Some(socket) = sockets.get(turn % sockets.len().max(1)) {
            // A full socket is as good as a lost datagram.
            let _ = socket.send_to(&datagram, way.server);
        }
        if turn.is_multiple_of(BURST) {
            std::thread::sleep(PAUSE);
        }
    }
}

/// Bytes that look random, the same in every run (xorshift).
#[derive(Debug)]
struct Noise(u64);

impl Default for Noise {
    fn default() -> Self {
        Self(0x2545_f491_4f6c_dd1d)
    }
}

impl Noise {
    fn next_byte(&mut self) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.to_le_bytes()[3]
    }
}
