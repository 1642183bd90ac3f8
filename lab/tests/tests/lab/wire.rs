//! Two kernels on a virtual wire exchange datagrams.

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use soft_kvm_lab_tests::guest;

const LEFT: &str = "10.9.0.1";
const RIGHT: &str = "10.9.0.2";
const PORT: u16 = 7000;
const SOON: Duration = Duration::from_secs(20);

/// Answers until the other side has had enough.
pub(crate) fn left() -> anyhow::Result<()> {
    guest::wire_up(&format!("{LEFT}/24"))?;
    let socket = UdpSocket::bind((LEFT, PORT))?;
    socket.set_read_timeout(Some(SOON))?;
    guest::signal("listening")?;
    let mut bytes = [0; 64];
    let (length, peer) = socket
        .recv_from(&mut bytes)
        .context("no datagram over the wire")?;
    socket.send_to(bytes.get(..length).unwrap_or_default(), peer)?;
    guest::await_signal("answered", SOON)
}

/// Asks and checks the echo.
pub(crate) fn right() -> anyhow::Result<()> {
    guest::wire_up(&format!("{RIGHT}/24"))?;
    guest::await_signal("listening", SOON)?;
    let socket = UdpSocket::bind((RIGHT, 0))?;
    socket.set_read_timeout(Some(SOON))?;
    socket.send_to(b"over the wire", (LEFT, PORT))?;
    let mut bytes = [0; 64];
    let (length, peer) = socket
        .recv_from(&mut bytes)
        .context("no echo over the wire")?;
    ensure!(
        bytes.get(..length) == Some(b"over the wire".as_slice()),
        "another echo"
    );
    ensure!(peer.ip().to_string() == LEFT, "an echo from {peer}");
    guest::signal("answered")
}
