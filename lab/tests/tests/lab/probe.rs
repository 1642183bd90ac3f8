//! The wire's own times: plain datagrams there and back beside what is measured.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::kvm::Host;

const PORT: u16 = 7_001;
/// Time between two probes.
const INTERVAL: Duration = Duration::from_millis(10);

/// Stamps of one probe: sent and back on our clock, arrived on the other side's; in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Probe {
    sent: u64,
    arrived: u64,
    back: u64,
}

/// What the probes of one phase told.
#[derive(Debug)]
pub(crate) struct Wire(Vec<Probe>);

impl Wire {
    /// How far the other side's clock is ahead of ours, from the fastest probe.
    pub(crate) fn ahead(&self) -> i64 {
        let fastest = self.0.iter().min_by_key(|probe| probe.back - probe.sent);
        fastest.map_or(0, |probe| {
            let middle = probe.sent + (probe.back - probe.sent) / 2;
            probe.arrived.cast_signed() - middle.cast_signed()
        })
    }

    /// Times there, in milliseconds.
    pub(crate) fn one_way(&self, ahead: i64) -> Vec<f64> {
        let there =
            |probe: &Probe| millis(probe.arrived.cast_signed() - ahead - probe.sent.cast_signed());
        self.0.iter().map(there).collect()
    }

    /// Times there and back, in milliseconds.
    pub(crate) fn round_trips(&self) -> Vec<f64> {
        let both = |probe: &Probe| millis((probe.back - probe.sent).cast_signed());
        self.0.iter().map(both).collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "times of a test are short")]
fn millis(nanos: i64) -> f64 {
    nanos as f64 / 1e6
}

/// A socket on a host.
fn socket(host: Host<'_>, port: u16) -> anyhow::Result<UdpSocket> {
    let path = match host {
        Host::Kernel => None,
        Host::Namespace(namespace) => Some(namespace.path()),
    };
    // A namespace is a thread's: this one ends with it.
    let bound = thread::spawn(move || -> anyhow::Result<UdpSocket> {
        if let Some(path) = path {
            let file = std::fs::File::open(path)?;
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?;
        }
        Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?)
    });
    bound
        .join()
        .map_err(|_| anyhow::anyhow!("the binding thread panicked"))?
        .context("a socket for probes")
}

/// Answers probes on a thread that lives as long as the kernel.
pub(crate) fn echo(host: Host<'_>, epoch: Instant) -> anyhow::Result<()> {
    let socket = socket(host, PORT)?;
    thread::spawn(move || {
        let mut bytes = [0; 16];
        while let Ok((8, from)) = socket.recv_from(&mut bytes) {
            let arrived = nanos(epoch).to_be_bytes();
            bytes[8..].copy_from_slice(&arrived);
            // Lost like any other.
            let _ = socket.send_to(&bytes, from);
        }
    });
    Ok(())
}

/// Nanoseconds since `epoch`.
pub(crate) fn nanos(epoch: Instant) -> u64 {
    u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Sends probes.
#[derive(Debug)]
pub(crate) struct Prober(UdpSocket);

impl Prober {
    pub(crate) fn new(host: Host<'_>, to: [u8; 4]) -> anyhow::Result<Self> {
        let socket = socket(host, 0)?;
        socket.connect(SocketAddrV4::new(to.into(), PORT))?;
        socket.set_read_timeout(Some(20 * INTERVAL))?;
        Ok(Self(socket))
    }

    /// One each 10 ms for so long; gives those that came back.
    pub(crate) fn run(&self, epoch: Instant, time: Duration) -> anyhow::Result<Wire> {
        let (done, end) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let answers = scope.spawn(move || {
                let (mut probes, mut bytes) = (Vec::new(), [0; 16]);
                loop {
                    match self.0.recv(&mut bytes) {
                        Ok(16) => {
                            let back = nanos(epoch);
                            let word = |at: usize| {
                                let word = bytes.get(at..at + 8)?.try_into().ok()?;
                                Some(u64::from_be_bytes(word))
                            };
                            let (sent, arrived) = (word(0)?, word(8)?);
                            probes.push(Probe {
                                sent,
                                arrived,
                                back,
                            });
                        }
                        _ if end.try_recv() == Err(mpsc::TryRecvError::Disconnected) => {
                            return Some(probes);
                        }
                        _ => {}
                    }
                }
            });
            let started = Instant::now();
            while started.elapsed() < time {
                let _ = self.0.send(&nanos(epoch).to_be_bytes());
                thread::sleep(INTERVAL);
            }
            drop(done);
            let probes = answers.join();
            let probes = probes.map_err(|_| anyhow::anyhow!("the reading thread panicked"))?;
            probes.map(Wire).context("an answer is cut short")
        })
    }
}
