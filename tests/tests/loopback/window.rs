//! The client's window under an X server without a screen.

use std::time::Duration;

use anyhow::Context as _;
use soft_kvm_tests::media::Rgb;
use soft_kvm_tests::xvfb::Xvfb;
use soft_kvm_tests::{Need, Server, Stage, TESTCARD, Test, until};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "window::it_shows_the_picture_and_sends_what_is_typed",
        needs: &[Need::Program("Xvfb"), Need::Program("xdotool")],
        run: it_shows_the_picture_and_sends_what_is_typed,
    },
    Test {
        name: "window::without_a_screen_it_says_so",
        needs: &[],
        run: without_a_screen_it_says_so,
    },
];

const LIMIT: Duration = Duration::from_secs(20);

fn it_shows_the_picture_and_sends_what_is_typed(stage: &Stage) -> anyhow::Result<()> {
    let screen = Xvfb::start(stage, "1024x768x24")?;
    let server = Server::start(stage, TESTCARD)?;
    server.pair(stage)?;
    let mut command = server.client(stage, &["--view", "window", "--once"])?;
    let client = stage.start("client", screen.on(&mut command))?;
    client.says("connected", LIMIT)?;
    until("the window shows the picture", LIMIT, || {
        Ok(screen.picture()?.colors() > 4)
    })?;
    let window = screen.xdotool(stage, &["search", "--onlyvisible", "--name", "Soft KVM"])?;
    let window = window.lines().next().context("no window")?.to_owned();
    let before = reports(stage, &server)?;
    screen.xdotool(stage, &["mousemove", "--window", &window, "100", "100"])?;
    screen.xdotool(stage, &["windowfocus", "--sync", &window])?;
    screen.xdotool(stage, &["type", "--delay", "50", "hello"])?;
    // Five keys, down and up.
    until("the test card has counted the keys", LIMIT, || {
        Ok(reports(stage, &server)?.wrapping_sub(before) >= 10)
    })?;
    screen.close(window.trim().parse()?)?;
    client.wait(LIMIT)?.success()?;
    Ok(())
}

/// How many input reports the picture shows, as another look at it says.
fn reports(stage: &Stage, server: &Server) -> anyhow::Result<u32> {
    let file = stage.file("look.png");
    let mut look = server.watch(stage, 1, &["--force"])?;
    stage
        .run("look", LIMIT, look.arg("--screenshot").arg(&file))?
        .success()?;
    let code = Rgb::read_png(&file)?.barcode();
    Ok(code.context("no code in the picture")?.reports)
}

fn without_a_screen_it_says_so(stage: &Stage) -> anyhow::Result<()> {
    let server = Server::start(stage, TESTCARD)?;
    server.pair(stage)?;
    let mut command = server.client(stage, &["--view", "window", "--once"])?;
    for variable in ["DISPLAY", "WAYLAND_DISPLAY", "WAYLAND_SOCKET"] {
        command.env_remove(variable);
    }
    stage
        .run("client", LIMIT, &mut command)?
        .refuses(&["--view none"])?;
    Ok(())
}
