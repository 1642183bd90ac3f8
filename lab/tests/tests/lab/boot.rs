//! The lab itself: devices, unplugging, namespaces.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use soft_kvm_lab_tests::guest::{self, Namespace};

const SOON: Duration = Duration::from_secs(5);

/// The kernel is up, has uinput and a video device, and the video device can be unplugged.
pub(crate) fn kernel() -> anyhow::Result<()> {
    ensure!(Path::new("/dev/uinput").exists(), "no /dev/uinput");
    let video = Path::new("/dev/video0");
    guest::wait_for("/dev/video0", SOON, || video.exists().then_some(()))?;
    guest::unbind("vivid", "vivid.0")?;
    guest::wait_for("/dev/video0 to go", SOON, || {
        (!video.exists()).then_some(())
    })?;
    guest::bind("vivid", "vivid.0")?;
    guest::wait_for("/dev/video0 to come back", SOON, || {
        video.exists().then_some(())
    })?;
    let folder = guest::folder("state")?;
    fs::write(folder.join("file"), "writable")?;
    Ok(())
}

/// Two namespaces hear each other over their cable, and not when it loses everything.
pub(crate) fn namespaces() -> anyhow::Result<()> {
    let (left, right) = (Namespace::new("left")?, Namespace::new("right")?);
    Namespace::cable((&left, "10.1.0.1/24"), (&right, "10.1.0.2/24"))?;
    let reaches = || guest::run(left.command("ip").args(["route", "get", "10.1.0.2"]));
    ensure!(
        reaches()?.contains("dev right"),
        "the cable is not the way: {}",
        reaches()?
    );
    left.disturb(&right, &["loss", "100%"])?;
    let queue = guest::run(left.command("tc").args(["qdisc", "show", "dev", "right"]))?;
    ensure!(
        queue.contains("netem") && queue.contains("loss 100%"),
        "no disturbance: {queue}"
    );
    left.disturb(&right, &[])?;
    // The default namespace does not see them.
    ensure!(guest::run(Command::new("ip").args(["route", "get", "10.1.0.2"])).is_err());
    let own: SocketAddr = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
    ensure!(own.port() != 0);
    Ok(())
}
