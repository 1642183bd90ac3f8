//! GStreamer's libsrtp opens what our sealer seals (AEAD_AES_128_GCM, RFC 7714).

use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use soft_kvm_core::MonoTime;
use soft_kvm_protocol::media::{
    AccessUnit, AccessUnitInfo, Batch, CodedFormat, MasterKey, Opener, Sealer, SenderConfig, Ssrc,
    VideoSender, nal_units,
};
use soft_kvm_tests::stage::port_pair;
use soft_kvm_tests::{Need, Server, Stage, TESTCARD, Test, until};

pub(crate) const TESTS: &[Test] = &[Test {
    name: "srtp::gstreamer_decrypts_our_packets",
    needs: &[
        Need::Program("ffmpeg"),
        Need::Program("gst-launch-1.0"),
        Need::GStreamer("srtpdec"),
        Need::GStreamer("rtph264depay"),
        Need::GStreamer("avdec_h264"),
    ],
    run: gstreamer_decrypts_our_packets,
}];

const LIMIT: Duration = Duration::from_secs(20);
const SSRC: u32 = 0x5eed_0001;
const FRAME: Duration = Duration::from_millis(33);

fn gstreamer_decrypts_our_packets(stage: &Stage) -> anyhow::Result<()> {
    let stream = recorded_stream(stage)?;
    let units = access_units(&stream);
    ensure!(units.len() > 30, "{} pictures were recorded", units.len());
    let key: [u8; 16] = std::array::from_fn(|i| u8::try_from(i * 7 + 1).unwrap_or(0));
    let salt: [u8; 12] = std::array::from_fn(|i| u8::try_from(i * 5 + 3).unwrap_or(0));
    let hex: String = key
        .iter()
        .chain(&salt)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let port = port_pair()?;
    let caps = format!(
        "application/x-srtp,media=(string)video,clock-rate=(int)90000,encoding-name=(string)H264,payload=(int)96,\
         ssrc=(uint){SSRC},srtp-key=(buffer){hex},srtp-cipher=(string)aes-128-gcm,srtp-auth=(string)null,\
         srtcp-cipher=(string)aes-128-gcm,srtcp-auth=(string)null"
    );
    let mut command = Command::new("gst-launch-1.0");
    command
        .args(["--verbose", "udpsrc", "address=127.0.0.1"])
        .args([format!("port={port}"), format!("caps={caps}")])
        .args("! srtpdec ! rtph264depay ! avdec_h264".split(' '))
        .args("! fakesink name=shown silent=false sync=false".split(' '));
    let player = stage.start("gstreamer", &mut command)?;
    until("GStreamer plays", LIMIT, || {
        Ok(player.stdout().contains("Setting pipeline to PLAYING") || port_is_open(port))
    })?;
    send(&units, port, &MasterKey::new(key, salt))?;
    let frames = || {
        player
            .stdout()
            .matches("chain   ******* (shown:sink)")
            .count()
    };
    until("GStreamer has shown the pictures", LIMIT, || {
        Ok(frames() + 3 >= units.len())
    })?;
    for line in format!("{}{}", player.stderr(), player.stdout()).lines() {
        ensure!(!line.contains("ERROR") && !line.contains("WARN"), "{line}");
    }
    Ok(())
}

/// Whether somebody on this machine has the UDP port.
fn port_is_open(port: u16) -> bool {
    UdpSocket::bind(("127.0.0.1", port)).is_err()
}

/// A stream as our server makes it, in Annex B form.
fn recorded_stream(stage: &Stage) -> anyhow::Result<Vec<u8>> {
    let server = Server::start(stage, TESTCARD)?;
    server.pair(stage)?;
    let file = stage.file("stream.mp4");
    let mut client = server.watch(stage, 3, &[])?;
    stage
        .run("client", LIMIT, client.arg("--record").arg(&file))?
        .success()?;
    let stream = stage.file("stream.h264");
    let mut convert = Command::new("ffmpeg");
    convert
        .args(["-nostdin", "-v", "error", "-i"])
        .arg(&file)
        .args(["-c", "copy", "-bsf:v", "h264_mp4toannexb"])
        .arg(&stream);
    stage.run("ffmpeg", LIMIT, &mut convert)?.success()?;
    Ok(std::fs::read(stream)?)
}

/// Our encoder gives each picture one slice: what stands before a slice belongs to its picture.
fn access_units(stream: &[u8]) -> Vec<(Vec<u8>, bool)> {
    let mut units = Vec::new();
    let mut unit = Vec::new();
    for nal in nal_units(stream) {
        let kind = nal.first().map_or(0, |byte| byte & 0x1f);
        unit.extend_from_slice(&[0, 0, 0, 1]);
        unit.extend_from_slice(nal);
        if kind == 1 || kind == 5 {
            units.push((std::mem::take(&mut unit), kind == 5));
        }
    }
    units
}

fn send(units: &[(Vec<u8>, bool)], port: u16, key: &MasterKey) -> anyhow::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let config = SenderConfig {
        first_sequence: 0x7ff0,
        ..SenderConfig::default()
    };
    let client = MasterKey::new([9; 16], [9; 12]);
    let mut sender = VideoSender::new(
        config,
        Sealer::new(key, Ssrc(SSRC)),
        Opener::new(&client, Ssrc(2)),
    );
    let mut batch = Batch::new();
    let mut now = MonoTime::from_nanos(1_000_000_000);
    for (number, (data, idr)) in (0..).zip(units) {
        let info = AccessUnitInfo {
            format: CodedFormat::H264,
            frame: number,
            captured: now,
            converted: now,
            encoded: now,
            idr: *idr,
        };
        sender.push(now, &AccessUnit { data, info });
        let next = now + FRAME;
        while now < next {
            while sender.poll_transmit(now, &mut batch) {
                for datagram in batch.datagrams() {
                    // Reports go to another port: this player has none for them.
                    if datagram.get(1).is_some_and(|kind| kind & 0x7f == 96) {
                        socket.send_to(datagram, ("127.0.0.1", port))?;
                    }
                }
            }
            now = now + Duration::from_millis(1);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
