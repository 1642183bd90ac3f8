//! A sender and a receiver over a lossy network in virtual time.

use std::time::Duration;

use soft_kvm_core::MonoTime;
use soft_kvm_protocol::media::{
    AccessUnit, AccessUnitInfo, Batch, CodedFormat, DatagramKind, Opener, Pushed, ReceiverConfig,
    Sealer, SenderConfig, SrtpKeys, Ssrc, VideoReceiver, VideoSender, classify,
};
use soft_kvm_testkit::netem::{Netem, NetemConfig, Random};

const VIDEO: Ssrc = Ssrc(0x1111_0001);
const RECEIVER: Ssrc = Ssrc(0x2222_0002);
const NTP_MINUS_MONO: u64 = 3_900_000_000_000_000_000;
const FRAME: Duration = Duration::from_millis(33);

struct Pair {
    now: MonoTime,
    sender: VideoSender,
    receiver: VideoReceiver,
    down: Netem,
    up: Netem,
    batch: Batch,
    key_frame: bool,
    sent: Vec<(Vec<u8>, bool, MonoTime)>,
    /// Frame number, delay from capture to delivery.
    got: Vec<(u32, Duration)>,
}

impl Pair {
    fn new(loss: f64, seed: u64) -> Self {
        let network = NetemConfig {
            loss,
            duplicate: loss / 4.0,
            reorder: loss / 2.0,
            reorder_by: Duration::from_millis(1),
            delay: Duration::from_micros(300),
        };
        let keys = SrtpKeys::from_exporter(&[seed.to_le_bytes()[0]; 56]);
        let config = SenderConfig {
            // The sequence numbers wrap within the first seconds.
            first_sequence: 0x7ff0,
            timestamp_offset: u32::MAX - 1_000,
            ntp_minus_mono_ns: NTP_MINUS_MONO,
            ..SenderConfig::default()
        };
        let receiver = ReceiverConfig {
            ntp_minus_mono_ns: NTP_MINUS_MONO,
            ..ReceiverConfig::default()
        };
        Self {
            now: MonoTime::from_nanos(5_000_000_000),
            sender: VideoSender::new(
                config,
                Sealer::new(keys.server(), VIDEO),
                Opener::new(keys.client(), RECEIVER),
            ),
            receiver: VideoReceiver::new(
                receiver,
                Opener::new(keys.server(), VIDEO),
                Sealer::new(keys.client(), RECEIVER),
            ),
            down: Netem::new(network, seed),
            up: Netem::new(network, !seed),
            batch: Batch::new(),
            key_frame: true,
            sent: Vec::new(),
            got: Vec::new(),
        }
    }

    fn push(&mut self, random: &mut Random) {
        let idr = std::mem::take(&mut self.key_frame);
        let mut data = Vec::new();
        let size = if idr {
            data.extend([
                0, 0, 0, 1, 0x67, 0x42, 0xc0, 0x28, 0, 0, 0, 1, 0x68, 1, 2, 3,
            ]);
            100_000
        } else {
            1 + random.below(20_000)
        };
        data.extend([0, 0, 0, 1, if idr { 0x65 } else { 0x41 }]);
        data.extend((0..size).map(|_| random.below(250).to_le_bytes()[0] + 2));
        let info = AccessUnitInfo {
            format: CodedFormat::H264,
            frame: u32::try_from(self.sent.len()).expect("few frames"),
            captured: self.now,
            converted: self.now,
            encoded: self.now,
            idr,
        };
        let unit = AccessUnit { data: &data, info };
        assert!(matches!(
            self.sender.push(self.now, &unit),
            Pushed::Queued(_)
        ));
        self.sent.push((data, idr, self.now));
    }

    /// Lets everything happen up to `end`.
    fn run_until(&mut self, end: MonoTime) {
        let mut steps = 0;
        loop {
            steps += 1;
            assert!(steps < 100_000, "the pair spins at {}", self.now);
            while let Some(mut datagram) = self.down.receive(self.now) {
                match classify(&datagram) {
                    Some(DatagramKind::Rtp { .. }) => {
                        let _ = self.receiver.handle_rtp(self.now, &mut datagram);
                    }
                    Some(DatagramKind::Rtcp { .. }) => {
                        let _ = self.receiver.handle_rtcp(self.now, &mut datagram);
                    }
                    None => panic!("unknown datagram"),
                }
            }
            while let Some(unit) = self.receiver.poll_access_unit() {
                let (data, idr, captured) = &self.sent[unit.frame as usize];
                assert_eq!((unit.data, unit.idr), (&data[..], *idr));
                assert_eq!(unit.captured, *captured);
                self.got.push((unit.frame, self.now.since(*captured)));
            }
            let mut out = Vec::new();
            while self.receiver.poll_transmit(self.now, &mut out) {
                self.up.send(self.now, out.clone());
            }
            while let Some(mut datagram) = self.up.receive(self.now) {
                if let Ok(feedback) = self.sender.handle_rtcp(self.now, &mut datagram) {
                    self.key_frame |= feedback.key_frame;
                }
            }
            while self.sender.poll_transmit(self.now, &mut self.batch) {
                for datagram in self.batch.datagrams() {
                    assert!(datagram.len() <= 1_200);
                    self.down.send(self.now, datagram.to_vec());
                }
            }
            let next = [
                self.down.next_arrival(),
                self.up.next_arrival(),
                self.sender.poll_timeout(),
                self.receiver.poll_timeout(),
            ]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(end)
            .max(self.now + Duration::from_nanos(1));
            if next > end {
                self.now = end;
                return;
            }
            self.now = next;
        }
    }
}

fn run(loss: f64, seed: u64) -> Pair {
    let mut pair = Pair::new(loss, seed);
    let mut random = Random::new(seed ^ 0xabcd);
    for _ in 0..300 {
        pair.push(&mut random);
        pair.run_until(pair.now + FRAME);
    }
    pair.run_until(pair.now + Duration::from_secs(1));
    assert!(pair.got.is_sorted_by(|a, b| a.0 < b.0), "order");
    pair
}

#[test]
fn nothing_is_lost_without_loss() {
    for seed in 0..3 {
        let pair = run(0.0, seed);
        assert_eq!(pair.got.len(), pair.sent.len());
        let worst = pair.got.iter().map(|(_, delay)| *delay).max().unwrap();
        assert!(worst < Duration::from_millis(17), "{worst:?}");
        let stats = pair.receiver.stats();
        assert_eq!(
            (stats.lost, stats.nacks, stats.late),
            (0, 0, 0),
            "{stats:?}"
        );
    }
}

#[test]
fn lost_packets_are_repaired_in_time() {
    for (loss, seeds) in [(0.02, 0..6), (0.1, 0..6)] {
        for seed in seeds {
            let pair = run(loss, seed);
            let stats = pair.receiver.stats();
            assert!(pair.down.lost() > 0 && stats.recovered > 0);
            // Frames come back in repairs or after a key frame, never later than the deadline and a retry.
            let worst = pair.got.iter().map(|(_, delay)| *delay).max().unwrap();
            assert!(
                worst <= Duration::from_millis(150),
                "loss {loss} seed {seed}: {worst:?}"
            );
            let gaps = pair
                .got
                .windows(2)
                .map(|two| two[1].0 - two[0].0)
                .max()
                .unwrap();
            assert!(
                gaps <= 20,
                "loss {loss} seed {seed}: {gaps} frames, {stats:?}"
            );
            assert!(
                pair.got.len() * 100 >= pair.sent.len() * 90,
                "loss {loss} seed {seed}: {} of {}, {stats:?}",
                pair.got.len(),
                pair.sent.len()
            );
            assert_eq!(pair.got.last().unwrap().0 as usize, pair.sent.len() - 1);
        }
    }
}

#[test]
fn an_outage_ends_with_one_key_frame() {
    let mut pair = Pair::new(0.0, 1);
    let mut random = Random::new(1);
    for frame in 0..120 {
        let loss = if (30..60).contains(&frame) { 1.0 } else { 0.0 };
        pair.down.set_config(NetemConfig {
            loss,
            ..NetemConfig::default()
        });
        pair.push(&mut random);
        pair.run_until(pair.now + FRAME);
    }
    let after = pair.got.iter().find(|(frame, _)| *frame >= 60).unwrap();
    assert!(after.0 <= 70, "{after:?}");
    assert_eq!(pair.got.last().unwrap().0, 119);
    assert!(pair.sent.iter().filter(|(_, idr, _)| *idr).count() <= 6);
}

#[test]
fn a_report_comes_back_with_the_round_trip() {
    let pair = run(0.0, 9);
    let round_trip = pair.sender.round_trip();
    assert!(
        (Duration::from_micros(550)..Duration::from_micros(700)).contains(&round_trip),
        "{round_trip:?}"
    );
}
