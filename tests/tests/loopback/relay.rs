//! `soft-kvm-client relay`: players and analysers that know nothing of us take the decrypted stream.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use nix::sys::signal::Signal;
use soft_kvm_tests::stage::port_pair;
use soft_kvm_tests::{Need, Process, Server, Stage, TESTCARD, Test, until};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "relay::ffmpeg_plays_it",
        needs: &[Need::Program("ffmpeg")],
        run: ffmpeg_plays_it,
    },
    Test {
        name: "relay::gstreamer_plays_it",
        needs: &[
            Need::Program("gst-launch-1.0"),
            Need::GStreamer("sdpdemux"),
            Need::GStreamer("rtph264depay"),
            Need::GStreamer("avdec_h264"),
        ],
        run: gstreamer_plays_it,
    },
    Test {
        name: "relay::tshark_finds_nothing_malformed",
        needs: &[Need::Program("tshark"), Need::Root],
        run: tshark_finds_nothing_malformed,
    },
    Test {
        name: "relay::an_unusable_description_file_is_an_error",
        needs: &[],
        run: an_unusable_description_file_is_an_error,
    },
];

/// Time for the description, and for a player to have its pictures.
const LIMIT: Duration = Duration::from_secs(20);

struct Relayed {
    _server: Server,
    relay: Process,
    port: u16,
    sdp: PathBuf,
}

fn relayed(stage: &Stage) -> anyhow::Result<Relayed> {
    let server = Server::start(stage, TESTCARD)?;
    server.pair(stage)?;
    let port = port_pair()?;
    let sdp = stage.file("stream.sdp");
    let mut command = relay_command(stage, &server, port)?;
    let relay = stage.start("relay", command.arg("--sdp").arg(&sdp))?;
    until("the description is written", LIMIT, || Ok(sdp.exists()))?;
    Ok(Relayed {
        _server: server,
        relay,
        port,
        sdp,
    })
}

fn relay_command(stage: &Stage, server: &Server, port: u16) -> anyhow::Result<Command> {
    let address = server.address()?;
    let rtp = format!("127.0.0.1:{port}");
    let words = ["relay", "--server", &address, "--rtp", &rtp];
    soft_kvm_tests::programs::client_command(stage, "client", &words)
}

fn ffmpeg_plays_it(stage: &Stage) -> anyhow::Result<()> {
    let relayed = relayed(stage)?;
    let mut command = Command::new("ffmpeg");
    command
        .args(["-nostdin", "-hide_banner", "-loglevel", "warning"])
        .args(["-protocol_whitelist", "file,udp,rtp", "-i"])
        .arg(&relayed.sdp)
        // Stamps as they came: in steps of the frame rate that it guesses, two frames may share one.
        .args(["-enc_time_base", "1:90000"])
        .args(["-frames:v", "60", "-progress", "pipe:1", "-f", "null", "-"]);
    let played = stage.run("ffmpeg", LIMIT, &mut command)?.success()?;
    ensure!(played.stdout.contains("frame=60\n"), "{}", played.stdout);
    ensure!(played.stderr.is_empty(), "{}", played.stderr);
    relayed.relay.interrupt()?.success()?;
    Ok(())
}

fn gstreamer_plays_it(stage: &Stage) -> anyhow::Result<()> {
    let relayed = relayed(stage)?;
    let mut command = Command::new("gst-launch-1.0");
    command
        .args(["--verbose", "filesrc"])
        .arg(format!("location={}", relayed.sdp.display()))
        .args("! sdpdemux ! rtph264depay ! avdec_h264 ! identity eos-after=61".split(' '))
        .args("! fakesink name=shown silent=false sync=false".split(' '));
    let played = stage.run("gstreamer", LIMIT, &mut command)?.success()?;
    let frames = played
        .stdout
        .matches("chain   ******* (shown:sink)")
        .count();
    ensure!(frames >= 60, "{frames} frames:\n{}", played.stdout);
    for line in played.text().lines() {
        ensure!(!line.contains("ERROR") && !line.contains("WARN"), "{line}");
    }
    relayed.relay.interrupt()?.success()?;
    Ok(())
}

fn tshark_finds_nothing_malformed(stage: &Stage) -> anyhow::Result<()> {
    let relayed = relayed(stage)?;
    let file = stage.file("relay.pcapng");
    let (rtp, rtcp) = (relayed.port, relayed.port + 1);
    let mut capture = Command::new("tshark");
    capture
        .args(["-Q", "-i", "lo", "-f"])
        .arg(format!("udp portrange {rtp}-{rtcp}"))
        .args(["-a", "duration:5", "-w"])
        .arg(&file);
    stage.run("capture", LIMIT, &mut capture)?.success()?;
    relayed.relay.signal(Signal::SIGINT)?;
    let count = |filter: &str| -> anyhow::Result<usize> {
        let mut read = Command::new("tshark");
        read.args(["-r"]).arg(&file);
        read.args(["-d", &format!("udp.port=={rtp},rtp")]);
        read.args(["-d", &format!("udp.port=={rtcp},rtcp")]);
        read.args(["-o", "rtp.heuristic_rtp:FALSE", "-d", "rtp.pt==96,h264"]);
        // Nobody listens on the ports: the ICMP errors quote packets that are cut off.
        read.args(["-Y", &format!("({filter}) && !icmp")]);
        read.args([
            "-T",
            "fields",
            "-e",
            "frame.number",
            "-e",
            "_ws.expert.message",
        ]);
        let read = stage.run("tshark", LIMIT, &mut read)?.success()?;
        Ok(read.stdout.lines().count())
    };
    let (pictures, reports) = (count("rtp && h264")?, count("rtcp.pt == 200")?);
    ensure!(pictures > 30, "{pictures} RTP packets with H.264");
    ensure!(reports >= 3, "{reports} sender reports");
    ensure!(
        count("rtp")? + count("rtcp")? == count("udp")?,
        "some packets are neither"
    );
    // Warnings and worse. Group 5, "undecoded", is what tshark says of the slices that it does not look into.
    let bad = count(
        "_ws.malformed || (_ws.expert.severity >= 0x600000 && !(_ws.expert.group == 0x05000000))",
    )?;
    ensure!(bad == 0, "tshark complains about {bad} packets");
    Ok(())
}

fn an_unusable_description_file_is_an_error(stage: &Stage) -> anyhow::Result<()> {
    let server = Server::start(stage, TESTCARD)?;
    server.pair(stage)?;
    let mut command = relay_command(stage, &server, port_pair()?)?;
    command.args(["--seconds", "3"]);
    command.arg("--sdp").arg(stage.file("no-such-folder/x.sdp"));
    stage
        .run("relay", LIMIT, &mut command)?
        .refuses(&["cannot write", "no-such-folder/x.sdp"])?;
    Ok(())
}
