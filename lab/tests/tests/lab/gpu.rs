//! Screens that go through a GPU, which in the lab is Mesa's software renderer. It knows linear memory only, so the story
//! says that the GPU takes that too.

use std::fs;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use soft_kvm_lab_tests::guest;
use soft_kvm_platform::os::m2m::M2mKind;

use crate::kvm::{self, Host, SOON, Seat, Server, TARGET};
use crate::picture::Picture;
use crate::routes::{self, AS_NOBODY};
use crate::{convert, ladder, m2m, privsep, vaapi};

/// Who renders in software.
const RENDERER: &str = "llvmpipe";

/// The story of a server whose GPU takes every framebuffer.
fn always() -> anyhow::Result<String> {
    let story = guest::folder("story")?.join("gpu.jsonnet");
    let change = "capture+: { gpu: 'always', fps: 10 }, discovery+: { enabled: false }";
    fs::write(
        &story,
        format!("(import 'default.jsonnet') + {{ {change} }}"),
    )?;
    Ok(format!("--story={}", story.display()))
}

/// As root.
pub(crate) fn screen() -> anyhow::Result<()> {
    through_the_gpu(&[])
}

/// As `nobody`: the broker opens the card for the GPU as it does for the capture.
pub(crate) fn screen_by_broker() -> anyhow::Result<()> {
    through_the_gpu(AS_NOBODY)
}

/// The screen's picture, drawn by the GPU, is what the other host decodes; log, metrics and overlay tell the route.
fn through_the_gpu(rights: &[&str]) -> anyhow::Result<()> {
    let why = |gpu: &str| format!("{gpu} makes the screen's memory linear");
    let seen = watch(rights, ["openh264", "openh264"], why)?;
    let Seen {
        gpu, decoded, user, ..
    } = seen;
    guest::tell(format!(
        "as {user}: vkms RGB565 → GPU ({gpu}) → CPU → OpenH264 → another host: {decoded} frames decoded, the picture is right"
    ));
    Ok(())
}

/// An encoder that takes NV12 only, and no converter: the GPU makes it, as root.
pub(crate) fn to_m2m() -> anyhow::Result<()> {
    converted_by_the_gpu(&[])
}

/// The same as `nobody`: the broker opens card and encoder.
pub(crate) fn to_m2m_by_broker() -> anyhow::Result<()> {
    converted_by_the_gpu(AS_NOBODY)
}

fn converted_by_the_gpu(rights: &[&str]) -> anyhow::Result<()> {
    // Lines of 640 bytes are not what it takes.
    guest::insmod(m2m::MODULE, &["stride_align=256"])?;
    let encoder = routes::device(m2m::MODULE, M2mKind::Encoder)?;
    let why = |gpu: &str| format!("GPU {gpu} converts the source's memory for it");
    let seen = watch(rights, [&encoder, "v4l2m2m"], why)?;
    let Seen { decoded, user, .. } = seen;
    let touched = kvm::number(&seen.server, "/cpu_pixel_bytes")?;
    ensure!(touched == 0, "{touched} bytes: {}", seen.server);
    let imports = m2m::seen("seen_imports")?;
    ensure!(imports >= decoded, "{imports} of {decoded} imported");
    guest::tell(format!(
        "as {user}: vkms RGB565 → GPU (linear, then NV12 in lines of 768 bytes) → virtual H.264 encoder → another host: \
         {decoded} frames decoded, the picture is right, 0 bytes of pixels touched by the server's CPU beside the software \
         renderer"
    ));
    Ok(())
}

/// What came of a screen that goes through the GPU.
struct Seen {
    gpu: String,
    decoded: u64,
    server: Value,
    user: &'static str,
}

/// Watches it from another host until there is a screenshot, and checks that. `encoder` is how it is named for the server and in
/// the metrics, `why` what is told of it.
fn watch(
    rights: &[&str],
    [encoder, name]: [&str; 2],
    why: impl Fn(&str) -> String,
) -> anyhow::Result<Seen> {
    let _screen = convert::screen_of_vkms()?;
    let story = always()?;
    let (target, near) = kvm::two_hosts()?;
    let arguments = ["--source", "kms", "--encoder", encoder, &story];
    let arguments = [rights, &arguments].concat();
    let server = Server::start(Host::Namespace(&target), &arguments)?;
    let seat = Seat::new(Host::Namespace(&near))?;
    seat.pair(TARGET, server.code()?)?;
    let shot = seat.file("gpu.png");
    let shown = shot.to_string_lossy();
    let client = seat.connect(TARGET, &["--decoder", "software", "--screenshot", &shown])?;
    guest::wait_for("the screenshot", SOON, || shot.exists().then_some(()))?;
    let gpu = renderer(&server.process.output())?;
    ladder::told(&server, &client, name, &why(&gpu))?;
    if rights == AS_NOBODY {
        privsep::check_powerless(server.process.id())?;
    }
    let shown = client.stop()?;
    let server = server.stop()?;
    convert::check_screenshot(&Picture::read(&shot)?)?;
    ensure!(kvm::number(&shown, "/dropped/decoder")? == 0, "{shown}");
    let user = if rights == AS_NOBODY {
        "nobody"
    } else {
        "root"
    };
    Ok(Seen {
        gpu,
        decoded: kvm::number(&shown, "/frames/decoded")?,
        server,
        user,
    })
}

/// The GPU's name, as the log tells it.
fn renderer(log: &str) -> anyhow::Result<String> {
    let mut lines = log.lines();
    let line = lines.find(|line| line.contains("the GPU makes framebuffers linear"));
    let line = line.with_context(|| format!("the log does not tell of the GPU: {log}"))?;
    let name = line
        .split("gpu=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    let name = name.with_context(|| line.to_owned())?;
    ensure!(name.starts_with(RENDERER), "{line}");
    Ok(name.to_owned())
}

/// What the GPU has drawn is a DMA-BUF like others: VAAPI imports it, and no pixel is touched by the server's own code.
pub(crate) fn to_vaapi() -> anyhow::Result<()> {
    guest::va_faults(&[])?;
    let _screen = convert::screen_of_vkms()?;
    let story = always()?;
    let encoder = format!("vaapi:{}", vaapi::node()?.display());
    // vgem has a card without a screen.
    let source = format!("kms:{}", convert::vkms()?.display());
    let arguments = ["--source", &source, "--encoder", &encoder, &story];
    let seen = routes::watch(&arguments, &["--decoder", "software"])?;
    let decoded = seen.check(&encoder.replacen(':', " ", 1), "openh264", "h264")?;
    convert::check_screenshot(&seen.picture)?;
    renderer(&seen.log)?;
    guest::tell(format!(
        "vkms RGB565 → GPU → VAAPI (virtual driver) → another host: {decoded} frames decoded, the picture is right, \
         0 bytes of pixels touched by the server's CPU beside the software renderer"
    ));
    Ok(())
}

/// With the story as it comes, a software renderer converts nothing: the CPU does it better itself.
pub(crate) fn not_in_software() -> anyhow::Result<()> {
    guest::insmod(m2m::MODULE, &[])?;
    let _screen = convert::screen_of_vkms()?;
    let encoder = routes::device(m2m::MODULE, M2mKind::Encoder)?;
    let arguments = ["--source", "kms", "--fps", "10", "--encoder", &encoder];
    let seen = routes::watch(&arguments, &["--decoder", "software"])?;
    convert::check_screenshot(&seen.picture)?;
    ensure!(seen.log.contains("pictures are copied"), "{}", seen.log);
    ensure!(!seen.log.contains(RENDERER), "{}", seen.log);
    let touched = kvm::number(&seen.server, "/cpu_pixel_bytes")?;
    ensure!(touched > 0, "{}", seen.server);
    guest::tell(format!(
        "with gpu: 'auto' the CPU converts: {touched} bytes of pixels touched, {RENDERER} not used"
    ));
    Ok(())
}

/// Where EGL is missing, `devices` says what to install, and a linear screen is shown although the story wants the GPU.
pub(crate) fn without_egl() -> anyhow::Result<()> {
    let gpus = |listed: &Value| listed.get("gpus").and_then(Value::as_array).cloned();
    let listed = kvm::devices()?;
    let before = gpus(&listed).context("no gpus")?;
    let works = |one: &Value| {
        let renderer = one.get("renderer").and_then(Value::as_str);
        renderer.is_some_and(|name| name.starts_with(RENDERER))
    };
    ensure!(before.iter().any(works), "{listed}");

    kvm::hide_library("libEGL.so.1")?;
    let listed = kvm::devices()?;
    let after = gpus(&listed).context("no gpus")?;
    let why = after.first().and_then(|one| one.get("unusable")?.as_str());
    let why = why.with_context(|| format!("a GPU without EGL: {listed}"))?;
    ensure!(
        why.contains("libEGL.so.1") && why.contains("libegl1"),
        "{why}"
    );

    let _screen = convert::screen_of_vkms()?;
    let story = always()?;
    let seen = routes::watch(&["--source", "kms", &story], &[])?;
    convert::check_screenshot(&seen.picture)?;
    let warned = seen
        .log
        .contains("no GPU, though the story wants one always");
    ensure!(
        warned && seen.log.contains("libEGL.so.1 is not there"),
        "{}",
        seen.log
    );
    guest::tell(format!(
        "without EGL: {} frames of the linear screen decoded; devices: {why}",
        kvm::number(&seen.client, "/frames/decoded")?
    ));
    Ok(())
}
