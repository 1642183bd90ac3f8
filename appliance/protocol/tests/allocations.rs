//! Once warm, no packet of video and no event of input allocates.

use std::time::Duration;

use soft_kvm_core::MonoTime;
use soft_kvm_protocol::input::carrier::{self, InputSealer};
use soft_kvm_protocol::input::{
    DeviceId, EventReport, EventType, HeldKeys, InputEvent, InputHandler, InputReceiver,
    InputSender, KeyCode,
};
use soft_kvm_protocol::media::{
    AccessUnit, AccessUnitInfo, Batch, CodedFormat, DatagramKind, Opener, ReceiverConfig, Sealer,
    SenderConfig, SrtpKeys, Ssrc, VideoReceiver, VideoSender, classify,
};

const WARM: u32 = 60;
const MEASURED: u32 = 300;

fn keys() -> SrtpKeys {
    SrtpKeys::from_exporter(&[7; 56])
}

/// One frame from the encoder's output to the decoder's input, and the feedback on it.
struct Video {
    now: MonoTime,
    sender: VideoSender,
    receiver: VideoReceiver,
    batch: Batch,
    rtcp: Vec<u8>,
    datagram: Vec<u8>,
    unit: Vec<u8>,
    delivered: u32,
    /// RTCP compounds that either side read.
    compounds: u64,
}

impl Video {
    fn new() -> Self {
        let (keys, video, receiver) = (keys(), Ssrc(1), Ssrc(2));
        // An IDR each time: all of it in fragments, and the parameter sets in an aggregate.
        let mut unit = vec![
            0, 0, 0, 1, 0x67, 0x42, 0xc0, 0x28, 0, 0, 0, 1, 0x68, 1, 2, 3,
        ];
        unit.extend([0, 0, 0, 1, 0x65]);
        unit.resize(60_000, 9);
        Self {
            now: MonoTime::from_nanos(1_000_000_000),
            sender: VideoSender::new(
                SenderConfig::default(),
                Sealer::new(keys.server(), video),
                Opener::new(keys.client(), receiver),
            ),
            receiver: VideoReceiver::new(
                ReceiverConfig::default(),
                Opener::new(keys.server(), video),
                Sealer::new(keys.client(), receiver),
            ),
            batch: Batch::new(),
            rtcp: Vec::with_capacity(2_048),
            datagram: vec![0; 2_048],
            unit,
            delivered: 0,
            compounds: 0,
        }
    }

    fn frame(&mut self, number: u32) {
        let now = self.now;
        let info = AccessUnitInfo {
            format: CodedFormat::H264,
            frame: number,
            captured: now,
            converted: now,
            encoded: now,
            idr: true,
        };
        self.sender.push(
            now,
            &AccessUnit {
                data: &self.unit,
                info,
            },
        );
        for step in 0..33_u64 {
            let now = self.now + Duration::from_millis(step);
            while self.sender.poll_transmit(now, &mut self.batch) {
                for packet in self.batch.datagrams() {
                    let datagram = &mut self.datagram[..packet.len()];
                    datagram.copy_from_slice(packet);
                    match classify(datagram) {
                        // Every 40th packet is lost once, so that repair is among what is measured.
                        Some(DatagramKind::Rtp { .. }) if step == 0 && number % 40 == 7 => {}
                        Some(DatagramKind::Rtp { .. }) => {
                            let _ = self.receiver.handle_rtp(now, datagram);
                        }
                        _ => {
                            self.compounds += 1;
                            let _ = self.receiver.handle_rtcp(now, datagram);
                        }
                    }
                }
            }
            while self.receiver.poll_access_unit().is_some() {
                self.delivered += 1;
            }
            self.rtcp.clear();
            while self.receiver.poll_transmit(now, &mut self.rtcp) {
                self.compounds += 1;
                let _ = self.sender.handle_rtcp(now, &mut self.rtcp);
                self.rtcp.clear();
            }
        }
        self.now = self.now + Duration::from_millis(33);
    }
}

#[test]
fn video_packets_do_not_allocate() {
    let mut video = Video::new();
    (0..WARM).for_each(|number| video.frame(number));
    let before = video.compounds;
    let counted = allocation_counter::measure(|| {
        (WARM..WARM + MEASURED).for_each(|number| video.frame(number));
    });
    assert!(
        video.delivered > MEASURED,
        "only {} frames came through",
        video.delivered
    );
    // Reading a source description costs the RTCP library two lists: once a second and for each loss, never for a
    // packet of video.
    let compounds = video.compounds - before;
    assert!(compounds < 40, "{compounds} compounds in ten seconds");
    assert_eq!(counted.count_total, 2 * compounds, "{counted:?}");
}

struct Target(u32);

impl InputHandler for Target {
    fn accepts(&mut self, _: DeviceId) -> bool {
        true
    }

    fn reconcile(&mut self, _: &HeldKeys) {}

    fn report(&mut self, _: EventReport<'_>) {
        self.0 += 1;
    }
}

#[test]
fn input_events_do_not_allocate() {
    let keys = keys();
    let (to, back) = (Ssrc(3), Ssrc(4));
    let mut sender = InputSender::new();
    let mut sealer = InputSealer::new(Sealer::new(keys.client(), to));
    let mut opener = Opener::new(keys.client(), to);
    let mut receiver = InputReceiver::new();
    let mut ack_sealer = InputSealer::new(Sealer::new(keys.server(), back));
    let mut ack_opener = Opener::new(keys.server(), back);
    let mut target = Target(0);
    let (mut payload, mut packet) = (Vec::with_capacity(2_048), Vec::with_capacity(2_048));
    let mut now = MonoTime::from_nanos(1_000_000_000);
    let mut event = |number: u32| {
        now = now + Duration::from_millis(1);
        let key = InputEvent::key(KeyCode(30), number.is_multiple_of(2));
        let motion = [
            InputEvent::new(EventType::REL, 0, 3),
            InputEvent::new(EventType::REL, 1, -2),
        ];
        for events in [&[key][..], &motion] {
            let report = EventReport {
                device: DeviceId(1),
                time: now,
                unfinished: false,
                events,
            };
            sender.push(now, report);
        }
        while sender.poll_transmit(now, &mut payload) {
            packet.clear();
            packet.extend_from_slice(sealer.seal(now, &payload).expect("fits"));
            // Every 50th datagram is lost.
            if number % 50 == 49 {
                continue;
            }
            let plain = carrier::open(&mut opener, &mut packet).expect("authentic");
            receiver
                .handle_datagram(now, plain, &mut target)
                .expect("well formed");
            while receiver.poll_transmit(now, &mut payload) {
                packet.clear();
                packet.extend_from_slice(ack_sealer.seal(now, &payload).expect("fits"));
                let plain = carrier::open(&mut ack_opener, &mut packet).expect("authentic");
                sender.handle_ack(now, plain).expect("well formed");
            }
        }
    };
    (0..1_000).for_each(&mut event);
    let counted = allocation_counter::measure(|| (1_000..5_000).for_each(&mut event));
    assert!(target.0 > 9_000, "only {} reports came through", target.0);
    assert_eq!(counted.count_total, 0, "{counted:?}");
}
