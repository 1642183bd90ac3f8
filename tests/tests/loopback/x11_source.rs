//! The server takes an X screen's picture.

use std::time::Duration;

use anyhow::ensure;
use soft_kvm_tests::media::Rgb;
use soft_kvm_tests::programs::server_command;
use soft_kvm_tests::xvfb::Xvfb;
use soft_kvm_tests::{Need, Server, Stage, Test};

pub(crate) const TESTS: &[Test] = &[Test {
    name: "x11_source::the_client_sees_what_is_on_the_screen",
    needs: &[Need::Program("Xvfb")],
    run: the_client_sees_what_is_on_the_screen,
}];

const LIMIT: Duration = Duration::from_secs(20);

/// Rectangles: x, y, width, height, color.
const PATTERN: &[(i16, i16, u16, u16, u32)] = &[
    (0, 0, 640, 480, 0x20_40_80),
    (0, 0, 320, 240, 0xe0_20_20),
    (320, 240, 320, 240, 0x20_d0_40),
    (40, 300, 100, 100, 0xf0_f0_f0),
];

fn the_client_sees_what_is_on_the_screen(stage: &Stage) -> anyhow::Result<()> {
    let screen = Xvfb::start(stage, "640x480x24")?;
    screen.draw(PATTERN)?;
    let mut command = server_command(stage, "server")?;
    command.args(["--listen", "127.0.0.1", "--no-discovery", "--source", "x11"]);
    screen.on(&mut command);
    let server = Server::ready(stage, "server", command)?;
    server.pair(stage)?;
    let file = stage.file("shot.png");
    let mut client = server.watch(stage, 2, &[])?;
    stage
        .run("client", LIMIT, client.arg("--screenshot").arg(&file))?
        .success()?;
    let picture = Rgb::read_png(&file)?;
    let size = (picture.size.width, picture.size.height);
    ensure!(size == (640, 480), "{}", picture.size);
    for (x, y, color) in [
        (100, 100, [0xe0, 0x20, 0x20]),
        (500, 400, [0x20, 0xd0, 0x40]),
        (500, 100, [0x20, 0x40, 0x80]),
        (90, 350, [0xf0, 0xf0, 0xf0]),
    ] {
        let shown = picture.at(x, y);
        let near = shown.iter().zip(color).all(|(a, b)| a.abs_diff(b) <= 24);
        ensure!(near, "{shown:?} instead of {color:?} at {x},{y}");
    }
    Ok(())
}
