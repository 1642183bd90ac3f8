//! `--record` and `--screenshot` of a live stream.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use soft_kvm_tests::media::Rgb;
use soft_kvm_tests::programs::{json, number};
use soft_kvm_tests::{Need, Server, Stage, TESTCARD, Test, until};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "record::the_file_has_every_picture",
        needs: &[Need::Program("ffprobe"), Need::Program("ffmpeg")],
        run: the_file_has_every_picture,
    },
    Test {
        name: "record::the_file_plays_after_a_crash",
        needs: &[Need::Program("ffprobe"), Need::Program("ffmpeg")],
        run: the_file_plays_after_a_crash,
    },
    Test {
        name: "record::a_full_disk_ends_the_recording_only",
        needs: &[],
        run: a_full_disk_ends_the_recording_only,
    },
    Test {
        name: "record::existing_files_are_kept",
        needs: &[],
        run: existing_files_are_kept,
    },
    Test {
        name: "record::a_screenshot_shows_the_test_card",
        needs: &[],
        run: a_screenshot_shows_the_test_card,
    },
];

const LIMIT: Duration = Duration::from_secs(20);

fn the_file_has_every_picture(stage: &Stage) -> anyhow::Result<()> {
    let server = Server::start(stage, TESTCARD)?;
    server.pair(stage)?;
    let (file, stats) = (stage.file("a.mp4"), stage.file("client.json"));
    let mut client = server.watch(stage, 4, &[])?;
    client
        .arg("--record")
        .arg(&file)
        .arg("--stats-json")
        .arg(&stats);
    stage.run("client", LIMIT, &mut client)?.success()?;
    let decoded = number(&json(&stats)?, "/frames/decoded")?;
    ensure!(decoded > 30.0, "{decoded} pictures were decoded");
    let recorded = pictures(stage, &file)?;
    ensure!(
        (f64::from(recorded) - decoded).abs() <= 1.0,
        "{recorded} of {decoded} recorded"
    );
    Ok(())
}

fn the_file_plays_after_a_crash(stage: &Stage) -> anyhow::Result<()> {
    let server = Server::start(stage, TESTCARD)?;
    server.pair(stage)?;
    let file = stage.file("a.mp4");
    let mut command = server.watch(stage, 60, &[])?;
    let client = stage.start("client", command.arg("--record").arg(&file))?;
    // Some fragments of a second each.
    until("a part of the recording is on the disk", LIMIT, || {
        Ok(std::fs::metadata(&file).is_ok_and(|file| file.len() > 40_000))
    })?;
    std::thread::sleep(Duration::from_millis(1_500));
    client.signal(Signal::SIGKILL)?;
    client.wait(LIMIT)?;
    let recorded = pictures(stage, &file)?;
    ensure!(recorded > 20, "{recorded} pictures are left");
    Ok(())
}

/// Decodes the whole file; the number of its pictures.
fn pictures(stage: &Stage, file: &Path) -> anyhow::Result<u32> {
    let mut decode = Command::new("ffmpeg");
    decode
        .args(["-nostdin", "-v", "error", "-i"])
        .arg(file)
        .args(["-f", "null", "-"]);
    let decoded = stage.run("ffmpeg", LIMIT, &mut decode)?.success()?;
    ensure!(decoded.stderr.is_empty(), "{}", decoded.stderr);
    let mut count = Command::new("ffprobe");
    count
        .args(["-v", "error", "-count_frames", "-select_streams", "v:0"])
        .args(["-show_entries", "stream=nb_read_frames", "-of", "csv=p=0"])
        .arg(file);
    let counted = stage.run("ffprobe", LIMIT, &mut count)?.success()?;
    ensure!(counted.stderr.is_empty(), "{}", counted.stderr);
    let number = counted.stdout.trim().trim_end_matches(',');
    number
        .parse()
        .with_context(|| format!("ffprobe says {number:?}"))
}

fn a_full_disk_ends_the_recording_only(stage: &Stage) -> anyhow::Result<()> {
    let server = Server::start(stage, TESTCARD)?;
    server.pair(stage)?;
    let stats = stage.file("client.json");
    let mut client = server.watch(stage, 4, &["--record", "/dev/full", "--force"])?;
    client.arg("--stats-json").arg(&stats);
    stage.run("client", LIMIT, &mut client)?.refuses(&[
        "/dev/full",
        "the recording stopped",
        "No space left",
    ])?;
    let decoded = number(&json(&stats)?, "/frames/decoded")?;
    ensure!(decoded > 30.0, "the session goes on: {decoded} pictures");
    Ok(())
}

fn existing_files_are_kept(stage: &Stage) -> anyhow::Result<()> {
    let server = Server::start(stage, TESTCARD)?;
    server.pair(stage)?;
    for option in ["--record", "--screenshot"] {
        let file = stage.write("mine", "mine")?;
        let mut client = server.watch(stage, 2, &[])?;
        stage
            .run("client", LIMIT, client.arg(option).arg(&file))?
            .refuses(&["mine", "exists"])?;
        ensure!(std::fs::read(&file)? == b"mine", "{option} overwrote it");
        let mut client = server.watch(stage, 2, &["--force"])?;
        stage
            .run("client", LIMIT, client.arg(option).arg(&file))?
            .success()?;
        ensure!(
            std::fs::metadata(&file)?.len() > 1_000,
            "{option} --force wrote nothing"
        );
    }
    Ok(())
}

fn a_screenshot_shows_the_test_card(stage: &Stage) -> anyhow::Result<()> {
    let server = Server::start(stage, TESTCARD)?;
    server.pair(stage)?;
    let file = stage.file("shot.png");
    let mut client = server.watch(stage, 2, &[])?;
    stage
        .run("client", LIMIT, client.arg("--screenshot").arg(&file))?
        .success()?;
    let picture = Rgb::read_png(&file)?;
    ensure!(
        (picture.size.width, picture.size.height) == (640, 360),
        "{}",
        picture.size
    );
    ensure!(picture.barcode().is_some(), "the code can be read");
    Ok(())
}
