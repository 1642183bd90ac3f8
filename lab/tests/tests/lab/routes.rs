//! Whole ways of a picture through the real programs, on the kernel's virtual devices: source, converter, encoder on
//! one host, decoder on another.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use soft_kvm_core::Size;
use soft_kvm_lab_tests::guest::{self, Namespace};
use soft_kvm_platform::os::m2m::{M2mKind, probe};
use soft_kvm_platform::os::v4l2::{DeviceKind, inspect};

use crate::convert;
use crate::kvm::{self, Host, Seat, Server, TARGET};
use crate::picture::Picture;
use crate::{m2m, privsep, vaapi, vivid};

/// A server that leaves root.
pub(crate) const AS_NOBODY: &[&str] = &["--user", "nobody"];

/// A driver's node of a kind, as `--encoder` and `--decoder` want it.
pub(crate) fn device(driver: &str, kind: M2mKind) -> anyhow::Result<String> {
    let nodes = probe();
    let found = nodes
        .iter()
        .find(|node| node.driver == driver && node.kind == Some(kind));
    let found = found.with_context(|| format!("no {kind:?} of {driver}: {nodes:?}"))?;
    Ok(format!("v4l2m2m:{}", found.path.display()))
}

/// What the client and the server tell at the end, and the client's screenshot.
pub(crate) struct Seen {
    pub(crate) client: Value,
    pub(crate) server: Value,
    /// What the server said.
    pub(crate) log: String,
    pub(crate) picture: Picture,
}

impl Seen {
    /// The CPU of the server touched no pixel, and `encoder` and `decoder` were used.
    pub(crate) fn check(&self, encoder: &str, decoder: &str, codec: &str) -> anyhow::Result<u64> {
        let Self {
            client,
            server,
            log,
            ..
        } = self;
        let text = |path: &str| client.pointer(path).and_then(Value::as_str).unwrap_or("");
        ensure!(
            text("/encoder") == encoder,
            "not {encoder}: {client}\n{log}"
        );
        ensure!(text("/decoder") == decoder, "not {decoder}: {client}");
        ensure!(text("/codec") == codec, "not {codec}: {client}");
        ensure!(kvm::number(client, "/dropped/decoder")? == 0, "{client}");
        let copied = kvm::number(server, "/cpu_pixel_bytes")?;
        ensure!(copied == 0, "{copied} bytes touched by the CPU: {server}");
        let decoded = kvm::number(client, "/frames/decoded")?;
        ensure!(decoded >= 10, "only {decoded} decoded: {client}\n{server}");
        Ok(decoded)
    }
}

/// Runs server and client on two hosts for some seconds.
pub(crate) fn watch(server: &[&str], client: &[&str]) -> anyhow::Result<Seen> {
    watch_named("", &kvm::two_hosts()?, server, client)
}

/// One of several runs on a kernel.
fn watch_named(
    name: &str,
    (target, near): &(Namespace, Namespace),
    server: &[&str],
    client: &[&str],
) -> anyhow::Result<Seen> {
    let arguments = [&["--no-discovery"], server].concat();
    let running = Server::start_named(
        &format!("server{name}"),
        Host::Namespace(target),
        &arguments,
    )?;
    let seat = Seat::named(&format!("client{name}"), Host::Namespace(near))?;
    seat.pair(TARGET, running.code()?)?;
    let screenshot = seat.file("picture.png");
    let path = screenshot.to_string_lossy();
    let arguments = [&["--seconds", "3", "--screenshot", &path], client].concat();
    let client = seat.connect(TARGET, &arguments)?;
    if server.starts_with(AS_NOBODY) {
        privsep::check_powerless(running.process.id())?;
    }
    let client = client.finish();
    let log = running.process.output();
    let client = client.with_context(|| log.clone())?;
    let server = running.stop()?;
    let picture = Picture::read(&screenshot).with_context(|| format!("{client}\n{server}"))?;
    Ok(Seen {
        client,
        server,
        log,
        picture,
    })
}

/// vivid → vicodec by DMA-BUF → FWHT over the network → vicodec → the colour bars.
pub(crate) fn vicodec_to_vicodec() -> anyhow::Result<()> {
    guest::modprobe("vivid", vivid::WEBCAM)?;
    guest::modprobe("vicodec", &[])?;
    let encoder = device("vicodec", M2mKind::Encoder)?;
    let seen = watch(
        &[
            "--source",
            "v4l2:/dev/video0",
            "--size",
            "640x480",
            "--encoder",
            &encoder,
        ],
        &[],
    )?;
    let name = encoder.replacen(':', " ", 1);
    let decoded = seen.check(&name, "v4l2m2m", "fwht")?;
    seen.picture.check_bars()?;
    guest::tell(format!(
        "vivid → vicodec → another host → vicodec: {decoded} frames of FWHT decoded, the colour bars are right, \
         0 bytes of pixels touched by the server's CPU"
    ));
    Ok(())
}

/// A screen whose format the encoder does not take: a converter stands between them.
pub(crate) fn screen_through_a_converter() -> anyhow::Result<()> {
    through_a_converter(&[])
}

/// The same as `nobody`: screen, converter and encoder are opened by the broker.
pub(crate) fn converted_by_broker() -> anyhow::Result<()> {
    through_a_converter(AS_NOBODY)
}

fn through_a_converter(rights: &[&str]) -> anyhow::Result<()> {
    let _screen = convert::screen_of_vkms()?;
    let encoder = device("vicodec", M2mKind::Encoder)?;
    let arguments = ["--source", "kms", "--fps", "10", "--encoder", &encoder];
    let seen = watch(&[rights, &arguments].concat(), &[])?;
    let name = encoder.replacen(':', " ", 1);
    let decoded = seen.check(&name, "v4l2m2m", "fwht")?;
    let Size { width, height } = convert::SIZE;
    ensure!(
        seen.picture.size() == (width as usize, height as usize),
        "{:?}",
        seen.picture.size()
    );
    convert::check_screenshot(&seen.picture)?;
    guest::tell(format!(
        "vkms RGB565 → vim2m → vicodec → another host → vicodec: {decoded} frames decoded, the picture is right, \
         0 bytes of pixels touched by the server's CPU"
    ));
    Ok(())
}

/// A screen whose format the encoder does not take, and no converter: as `nobody`, the CPU converts it into memory of a heap
/// that the broker opens, and the encoder imports that.
pub(crate) fn by_cpu_into_imported_memory() -> anyhow::Result<()> {
    guest::insmod(m2m::MODULE, &[])?;
    let _screen = convert::screen_of_vkms()?;
    let encoder = device(m2m::MODULE, M2mKind::Encoder)?;
    let arguments = ["--source", "kms", "--fps", "10", "--encoder", &encoder];
    let seen = watch(&[AS_NOBODY, &arguments].concat(), &[])?;
    convert::check_screenshot(&seen.picture)?;
    let Seen { client, log, .. } = &seen;
    ensure!(kvm::number(client, "/dropped/decoder")? == 0, "{client}");
    ensure!(log.contains("memory=\"DMA heap\""), "{log}");
    let (decoded, imports) = (
        kvm::number(client, "/frames/decoded")?,
        m2m::seen("seen_imports")?,
    );
    // The screen stands still: each second it is encoded again.
    ensure!(decoded >= 2 && imports >= decoded, "{imports}: {client}");
    let touched = kvm::number(&seen.server, "/cpu_pixel_bytes")?;
    // It is read from the canvas and written for the encoder, into each of its two buffers.
    let least = u64::try_from(convert::SIZE.pixels() * 3 * 2)?;
    ensure!(touched >= least, "{touched} bytes: {}", seen.server);
    guest::tell(format!(
        "as nobody: vkms RGB565 → CPU → DMA heap by the broker → virtual H.264 encoder: {imports} pictures imported, \
         {decoded} decoded on another host, the picture is right, {touched} bytes of pixels touched by the server's CPU"
    ));
    Ok(())
}

/// The same screen through a graphics device: imported, converted and encoded behind libva.
pub(crate) fn screen_through_vaapi() -> anyhow::Result<()> {
    through_vaapi(&[])
}

/// The same as `nobody`, who may use the graphics device as udev lets its group; the screen is opened by the broker.
pub(crate) fn vaapi_by_broker() -> anyhow::Result<()> {
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(vaapi::node()?, everybody)?;
    through_vaapi(AS_NOBODY)
}

fn through_vaapi(rights: &[&str]) -> anyhow::Result<()> {
    guest::va_faults(&[])?;
    let _screen = convert::screen_of_vkms()?;
    let node = vaapi::node()?;
    let encoder = format!("vaapi:{}", node.display());
    // vgem has a card without a screen.
    let source = format!("kms:{}", convert::vkms()?.display());
    let arguments = ["--source", &source, "--fps", "10", "--encoder", &encoder];
    let arguments = [rights, &arguments].concat();
    let seen = watch(&arguments, &["--decoder", "software"])?;
    let decoded = seen.check(&encoder.replacen(':', " ", 1), "openh264", "h264")?;
    convert::check_screenshot(&seen.picture)?;
    ensure!(
        seen.log
            .contains("video processing of Soft KVM virtual driver"),
        "{}",
        seen.log
    );
    guest::tell(format!(
        "vkms RGB565 → VAAPI (virtual driver), converted by its video processing → another host: {decoded} frames \
         decoded, the picture is right, 0 bytes of pixels touched by the server's CPU"
    ));
    Ok(())
}

/// A way of pictures from a source to the network.
struct Route {
    name: &'static str,
    source: String,
    encoder: String,
    /// The CPU touches no pixel on it.
    zero_copy: bool,
}

/// What the CPU does for a picture on each route, side by side. User-mode kernels are slow and virtual devices are
/// programs: only how the routes compare means something.
pub(crate) fn side_by_side() -> anyhow::Result<()> {
    guest::modprobe("vivid", vivid::WEBCAM)?;
    guest::insmod("virtual-h264", &[])?;
    guest::va_faults(&[])?;
    let _screen = convert::screen_of_vkms()?;
    let vivid = probe_video("vivid")?;
    let vkms = format!("kms:{}", convert::vkms()?.display());
    let vicodec = device("vicodec", M2mKind::Encoder)?;
    let h264 = device("virtual-h264", M2mKind::Encoder)?;
    let vaapi = format!("vaapi:{}", vaapi::node()?.display());
    let software = "openh264".to_owned();
    let row = |name, source: &String, encoder: &String| Route {
        name,
        source: source.clone(),
        encoder: encoder.clone(),
        zero_copy: *encoder != software,
    };
    let routes = [
        row("vivid → virtual H.264 encoder", &vivid, &h264),
        row("vivid → vicodec (FWHT)", &vivid, &vicodec),
        row("vivid → VAAPI (virtual driver)", &vivid, &vaapi),
        row("vivid → CPU → OpenH264", &vivid, &software),
        row("vkms → vim2m → vicodec (FWHT)", &vkms, &vicodec),
        row("vkms → VAAPI (virtual driver)", &vkms, &vaapi),
    ];
    let mut table = vec![
        "| route | frames | bytes of pixels touched by the CPU, per frame | CPU of capture and encode, ms per frame | \
         CPU of the server, ms per frame |"
            .to_owned(),
        "|---|---|---|---|---|".to_owned(),
    ];
    let hosts = kvm::two_hosts()?;
    for (number, route) in routes.iter().enumerate() {
        let line = route
            .measure(number, &hosts)
            .with_context(|| route.name.to_owned())?;
        table.push(line);
    }
    guest::tell(table.join("\n"));
    Ok(())
}

impl Route {
    fn measure(&self, number: usize, hosts: &(Namespace, Namespace)) -> anyhow::Result<String> {
        let Self { name, .. } = self;
        let mut server = vec!["--source", &self.source, "--fps", "10"];
        server.extend(["--encoder", &self.encoder]);
        if self.source.starts_with("v4l2") {
            server.extend(["--size", "640x480"]);
        }
        let seen = watch_named(&number.to_string(), hosts, &server, &[])?;
        let Seen { server, log, .. } = &seen;
        let count = |path: &str| kvm::number(server, path);
        let seconds = |path: &str| {
            let value = server.pointer(path).and_then(Value::as_f64);
            value.with_context(|| format!("no {path}: {server}"))
        };
        let client = seen.client.get("encoder").and_then(Value::as_str);
        ensure!(
            client == Some(&self.encoder.replacen(':', " ", 1)),
            "encoded by {client:?}\n{log}"
        );
        let (frames, touched) = (count("/frames/encoded")?, count("/cpu_pixel_bytes")?);
        ensure!(frames >= 10, "only {frames} encoded: {server}\n{log}");
        ensure!(
            (touched == 0) == self.zero_copy,
            "{touched} bytes: {server}"
        );
        let (capture, encode) = (seconds("/cpu/capture_s")?, seconds("/cpu/encode_s")?);
        let other = seconds("/cpu/other_s")?;
        ensure!(capture > 0.0 && encode > 0.0, "no time: {server}");
        let per_frame = seconds("/cpu/ms_per_frame")?;
        #[expect(clippy::cast_precision_loss, reason = "a few frames")]
        let whole = (capture + encode + other) * 1e3 / frames as f64;
        ensure!(per_frame > 0.0 && per_frame <= whole, "{server}");
        let touched = touched / frames;
        Ok(format!(
            "| {name} | {frames} | {touched} | {per_frame:.2} | {whole:.2} |"
        ))
    }
}

/// The node of a driver that captures, as `--source` wants it.
fn probe_video(driver: &str) -> anyhow::Result<String> {
    let mut nodes = (0..64).map(|number| PathBuf::from(format!("/dev/video{number}")));
    let found = nodes.find(|path| {
        inspect(path).is_ok_and(|facts| facts.driver == driver && facts.kind == DeviceKind::Capture)
    });
    let found = found.with_context(|| format!("{driver} is loaded"))?;
    Ok(format!("v4l2:{}", found.display()))
}
