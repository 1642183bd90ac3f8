//! The client's window under an X server and a Wayland compositor without a screen.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use soft_kvm_tests::media::Rgb;
use soft_kvm_tests::programs::{json, number};
use soft_kvm_tests::weston::Weston;
use soft_kvm_tests::xvfb::Xvfb;
use soft_kvm_tests::{Need, Server, Stage, TESTCARD, Test, until};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "window::it_shows_the_picture_and_sends_what_is_typed",
        needs: &[Need::Program("Xvfb"), Need::Program("xdotool")],
        run: it_shows_the_picture_and_sends_what_is_typed,
    },
    Test {
        name: "window::the_overlay_comes_and_goes_by_its_keys",
        needs: &[Need::Program("Xvfb"), Need::Program("xdotool")],
        run: the_overlay_comes_and_goes_by_its_keys,
    },
    Test {
        name: "window::it_shows_the_picture_under_wayland",
        needs: &[Need::Program("weston")],
        run: it_shows_the_picture_under_wayland,
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
    let before = reports(stage, &server)?;
    let window = screen.focus(stage)?;
    screen.xdotool(stage, &["mousemove", "--window", &window, "100", "100"])?;
    screen.xdotool(stage, &["type", "--delay", "50", "hello"])?;
    // Five keys, down and up.
    until("the test card has counted the keys", LIMIT, || {
        Ok(reports(stage, &server)?.wrapping_sub(before) >= 10)
    })?;
    screen.close(window.trim().parse()?)?;
    client.wait(LIMIT)?.success()?;
    Ok(())
}

/// The overlay is a black box with white letters over a picture that is nowhere quite black.
fn the_overlay_comes_and_goes_by_its_keys(stage: &Stage) -> anyhow::Result<()> {
    const BLACK: [u8; 3] = [0; 3];
    const BOX: usize = 10_000;
    let screen = Xvfb::start(stage, "1024x768x24")?;
    let server = Server::start(stage, TESTCARD)?;
    server.pair(stage)?;
    let mut command = server.client(stage, &["--view", "window", "--once"])?;
    let _client = stage.start("client", screen.on(&mut command))?;
    until("the window shows the picture", LIMIT, || {
        Ok(screen.picture()?.colors() > 4)
    })?;
    // What of the screen is not under the window.
    let around = screen.picture()?.count(BLACK);
    screen.focus(stage)?;
    for (shown, what) in [(true, "the overlay is shown"), (false, "it is gone")] {
        screen.xdotool(stage, &["key", "ctrl+alt+shift+s"])?;
        until(what, LIMIT, || {
            Ok((screen.picture()?.count(BLACK) > around + BOX) == shown)
        })
        .with_context(|| format!("{around} black pixels around"))?;
    }
    Ok(())
}

fn it_shows_the_picture_under_wayland(stage: &Stage) -> anyhow::Result<()> {
    let server = Server::start(stage, TESTCARD)?;
    server.pair(stage)?;
    let mut tries = 0;
    loop {
        let mut screen = Weston::start(stage)?;
        let shown = shows_under(&mut screen, &server, stage);
        tries += 1;
        // A compositor that crashes says nothing about the window.
        if shown.is_ok() || tries == 4 || screen.is_running()? {
            return shown;
        }
    }
}

fn shows_under(screen: &mut Weston, server: &Server, stage: &Stage) -> anyhow::Result<()> {
    let figures = stage.file("figures.json");
    let mut command = server.client(stage, &["--view", "window", "--once"])?;
    let client = stage.start(
        "client",
        screen.on(command.arg("--stats-json").arg(&figures)),
    )?;
    client.says("connected", LIMIT)?;
    // The test card's ground and bars, which Weston's own desktop does not have.
    let mut first = None;
    until("the picture is on the compositor's screen", LIMIT, || {
        ensure!(screen.is_running()?, "Weston has crashed");
        // A busy compositor refuses now and then.
        let seen = screen.picture(stage).ok();
        first = seen.filter(|picture| {
            picture.count([19, 31, 51]) > 10_000 && picture.count([46, 75, 98]) > 100
        });
        Ok(first.is_some())
    })?;
    until("the picture moves", LIMIT, || {
        ensure!(screen.is_running()?, "Weston has crashed");
        let seen = screen.picture(stage).ok();
        Ok(seen.is_some() && seen != first)
    })?;
    client.interrupt()?.success()?;
    let presented = number(&json(&figures)?, "/video/present_ms/count")?;
    ensure!(presented > 1.0, "{presented} pictures were presented");
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
