//! The encoder ladder of the real server on a kernel device that fails on command.

use std::fs;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use soft_kvm_lab_tests::guest;

use crate::kvm::{self, Client, Host, SOON, Seat, Server, TARGET};

const MODULE: &str = "virtual-h264";
/// An input without timings: the size is asked for.
const DONGLE: &[&str] = &[
    "n_devs=1",
    "node_types=0x1",
    "num_inputs=1",
    "input_types=0x0",
];
/// The longest time that may pass from one picture to the next, in milliseconds.
const GAP: f64 = 1_000.0;

/// Sets a fault of the virtual encoder.
fn fault(name: &str, value: &str) -> anyhow::Result<()> {
    let path = format!("/sys/module/virtual_h264/parameters/{name}");
    fs::write(&path, value).with_context(|| path.clone())
}

/// A server that captures vivid and tries hardware, with a retry after two seconds, and a client that watches.
fn watched() -> anyhow::Result<(Server, Client)> {
    watched_by("v4l2m2m")
}

/// The same, beginning with another driver.
fn watched_by(driver: &str) -> anyhow::Result<(Server, Client)> {
    let (target, near) = kvm::two_hosts()?;
    let story = guest::folder("story")?.join("story.jsonnet");
    let change =
        format!("video+: {{ driver: '{driver}', retry_s: 2 }}, discovery+: {{ enabled: false }}");
    let capture = "capture+: { driver: 'v4l2', device: '/dev/video0', size: '640x480' }";
    let text = format!("(import 'default.jsonnet') + {{ {change}, {capture} }}");
    fs::write(&story, text)?;
    let server = Server::start(
        Host::Namespace(&target),
        &["--story", &story.to_string_lossy()],
    )?;
    let seat = Seat::new(Host::Namespace(&near))?;
    seat.pair(TARGET, server.code()?)?;
    let client = seat.connect(TARGET, &[])?;
    Ok((server, client))
}

/// Waits until the client is told that this encoder runs, for the `count`th time.
fn encoder(client: &Client, name: &str, count: usize) -> anyhow::Result<()> {
    let word = format!("encoder=\"{name}");
    let wait = guest::wait_for(&format!("{name}, {count} times"), SOON, || {
        (client.process.output().matches(&word).count() >= count).then_some(())
    });
    wait.with_context(|| client.process.output())
}

/// Waits until the server's page, and the client (whose overlay shows the same words), say that this encoder runs and
/// why.
pub(crate) fn told(server: &Server, client: &Client, name: &str, why: &str) -> anyhow::Result<()> {
    let metric = format!("soft_kvm_encoder_info{{encoder=\"{name}\",why=\"");
    let page = || server.metrics().unwrap_or_default();
    let waited = guest::wait_for(&format!("{name} and {why:?} in the metrics"), SOON, || {
        let page = page();
        let mut lines = page.lines();
        lines
            .any(|line| line.starts_with(&metric) && line.contains(why) && line.ends_with(" 1"))
            .then_some(())
    });
    waited.with_context(page)?;
    let shown = client.process.output();
    let mut lines = shown.lines();
    let seen = lines.any(|line| line.contains(&format!("encoder=\"{name}")) && line.contains(why));
    ensure!(
        seen,
        "the client is not told of {name} and {why:?}: {shown}"
    );
    Ok(())
}

/// The longest time from one picture to the next on the client, in milliseconds.
pub(crate) fn longest_gap(shown: &Value) -> anyhow::Result<f64> {
    let interval = shown
        .pointer("/video/interval_ms")
        .context("no intervals")?;
    let longest = interval.get("max").and_then(Value::as_f64);
    longest.context("no maximum")
}

/// Errors and a hang in the middle of a stream: software takes over, the picture goes on, and the hardware comes back.
pub(crate) fn falls_and_climbs() -> anyhow::Result<()> {
    guest::modprobe("vivid", DONGLE)?;
    guest::insmod(MODULE, &[])?;
    let (server, client) = watched()?;
    encoder(&client, "v4l2m2m", 1)?;
    for (round, (name, value)) in [("error_after", "5"), ("hang_after", "5")]
        .iter()
        .enumerate()
    {
        fault(name, value)?;
        encoder(&client, "openh264", round + 1)?;
        fault(name, "0")?;
        // It was opened once more before it was left, and is again after its rest.
        encoder(&client, "v4l2m2m", 3 + 2 * round)?;
    }
    let shown = client.stop()?;
    let served = server.stop()?;
    let falls = kvm::number(&served, "/encoder_falls")?;
    ensure!(falls == 2, "{falls} falls: {served}");
    let gap = longest_gap(&shown)?;
    ensure!(gap < GAP, "{gap} ms without a picture: {shown}");
    let undecodable = kvm::number(&shown, "/dropped/decoder")?;
    ensure!(undecodable == 0, "{shown}");
    guest::tell(format!(
        "an error and a hang in the stream: {falls} falls to software and back, {} frames, longest gap {gap:.0} ms",
        kvm::number(&shown, "/frames/decoded")?
    ));
    Ok(())
}

/// An encoder that cannot be opened, or imports nothing, at the start: the picture comes all the same, and why is told.
pub(crate) fn falls_at_the_start() -> anyhow::Result<()> {
    guest::modprobe("vivid", DONGLE)?;
    guest::insmod(MODULE, &["fail_open=16"])?;
    let (server, client) = watched()?;
    encoder(&client, "openh264", 1)?;
    ensure!(
        server.process.output().contains("in use"),
        "{}",
        server.process.output()
    );
    fault("no_dmabuf", "1")?;
    fault("fail_open", "0")?;
    encoder(&client, "v4l2m2m", 1)?;
    let why = "pictures are copied";
    guest::wait_for("the reason", SOON, || {
        server.process.output().contains(why).then_some(())
    })?;
    client.stop()?;
    let served = server.stop()?;
    let copied = kvm::number(&served, "/cpu_pixel_bytes")?;
    ensure!(copied > 0, "{served}");
    guest::tell(format!(
        "an encoder in use: software; one that imports nothing: {copied} bytes of pixels through the CPU"
    ));
    Ok(())
}

/// Three rungs: M2M fails and VAAPI takes over, that fails or hangs and software does, and back up, without a gap.
pub(crate) fn vaapi_between() -> anyhow::Result<()> {
    guest::modprobe("vivid", DONGLE)?;
    guest::insmod(MODULE, &[])?;
    guest::va_faults(&[])?;
    let listed = kvm::devices()?;
    let encoders = listed.get("encoders").and_then(Value::as_array);
    let rows: Vec<(&str, bool)> = encoders
        .into_iter()
        .flatten()
        .filter_map(|row| Some((row.get("name")?.as_str()?, row.get("chosen")?.as_bool()?)))
        .collect();
    let wanted = [("v4l2m2m", true), ("vaapi", false), ("openh264", false)];
    ensure!(rows == wanted, "devices: {listed}");

    let (server, client) = watched_by("auto")?;
    encoder(&client, "v4l2m2m", 1)?;
    // It errs, and cannot be opened again.
    fault("fail_open", "16")?;
    fault("error_after", "1")?;
    encoder(&client, "vaapi", 1)?;
    told(&server, &client, "vaapi", "v4l2m2m")?;
    told(&server, &client, "vaapi", "in use")?;
    for (round, (name, why)) in [
        ("error_after", "vaSyncSurface"),
        ("hang_after", "longer than 400 ms"),
    ]
    .into_iter()
    .enumerate()
    {
        guest::va_faults(&[(name, 3)])?;
        encoder(&client, "openh264", round + 1)?;
        told(&server, &client, "openh264", why)?;
        guest::va_faults(&[])?;
        // It was opened once more before it was left, and is again after its rest.
        encoder(&client, "vaapi", 3 + 2 * round)?;
    }
    fault("error_after", "0")?;
    fault("fail_open", "0")?;
    encoder(&client, "v4l2m2m", 2)?;
    told(
        &server,
        &client,
        "v4l2m2m",
        "reads the source's memory itself",
    )?;
    let log = server.process.output();
    for why in ["in use", "vaSyncSurface", "longer than 400 ms"] {
        ensure!(log.contains(why), "it does not say {why:?}: {log}");
    }
    let shown = client.stop()?;
    let served = server.stop()?;
    let falls = kvm::number(&served, "/encoder_falls")?;
    ensure!(falls >= 3, "{falls} falls: {served}");
    let gap = longest_gap(&shown)?;
    ensure!(gap < GAP, "{gap} ms without a picture: {shown}");
    let undecodable = kvm::number(&shown, "/dropped/decoder")?;
    ensure!(undecodable == 0, "{shown}");
    guest::tell(format!(
        "M2M fails, VAAPI errs and hangs, software, and back up to M2M: {falls} falls, {} frames, longest gap {gap:.0} ms",
        kvm::number(&shown, "/frames/decoded")?
    ));
    Ok(())
}

/// VAAPI that cannot be opened, or imports nothing, at the start: the picture comes all the same, and why is told.
pub(crate) fn vaapi_at_the_start() -> anyhow::Result<()> {
    guest::modprobe("vivid", DONGLE)?;
    guest::va_faults(&[("fail_create", 1)])?;
    let (server, client) = watched_by("vaapi")?;
    encoder(&client, "openh264", 1)?;
    guest::va_faults(&[("no_import", 1)])?;
    encoder(&client, "vaapi", 1)?;
    told(&server, &client, "vaapi", "pictures are copied")?;
    for why in ["vaCreateContext", "pictures are copied"] {
        guest::wait_for(why, SOON, || {
            server.process.output().contains(why).then_some(())
        })?;
    }
    client.stop()?;
    let copied = kvm::number(&server.stop()?, "/cpu_pixel_bytes")?;
    ensure!(copied > 0, "nothing was copied");
    guest::tell(format!(
        "VAAPI that cannot be opened: software; one that imports nothing: {copied} bytes of pixels through the CPU"
    ));
    Ok(())
}
