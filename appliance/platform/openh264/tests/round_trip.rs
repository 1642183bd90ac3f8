//! Test card → converter → encoder → decoder.

use proptest::prelude::*;
use soft_kvm_core::{Bitrate, FrameRate, MonoTime, Size};
use soft_kvm_platform_openh264::{Decoder, Encoder};
use soft_kvm_protocol::input::echo::EchoSnapshot;
use soft_kvm_video::barcode::Barcode;
use soft_kvm_video::codec::{EncoderConfig, I420Ref, VideoDecoder, VideoEncoder};
use soft_kvm_video::convert::Converter;
use soft_kvm_video::frame::Colorimetry;
use soft_kvm_video::measure::psnr;
use soft_kvm_video::source::Content;
use soft_kvm_video::testcard::{TestCard, TestCardConfig};

const RATE: u32 = 30;

/// A source, its pictures and an encoder for them.
struct Sender {
    card: TestCard,
    converter: Converter,
    encoder: Encoder,
    echo: EchoSnapshot,
    frames: u64,
}

impl Sender {
    fn new(size: Size, content: Content, bitrate: Bitrate) -> Self {
        let rate = FrameRate::hz(RATE);
        let config = TestCardConfig {
            size,
            rate,
            content,
            name: "test".to_owned(),
            still: false,
        };
        Self {
            card: TestCard::new(config),
            converter: Converter::new(),
            encoder: Encoder::open(EncoderConfig {
                size,
                rate,
                bitrate,
                intra_refresh: 0,
            })
            .expect("the size is supported"),
            echo: EchoSnapshot::default(),
            frames: 0,
        }
    }

    /// Draws and encodes the next picture; returns whether it became an IDR.
    fn next(&mut self, idr: bool, out: &mut Vec<u8>) -> bool {
        let now = MonoTime::from_nanos(self.frames * 1_000_000_000 / u64::from(RATE));
        self.frames += 1;
        self.echo.reports = u32::try_from(self.frames * 7).expect("few frames");
        let frame = self
            .card
            .draw_frame(now, &self.echo)
            .expect("a buffer is free");
        self.converter
            .update(&frame)
            .expect("the card's frames are whole");
        let encoded = self.encoder.encode(self.converter.picture(), idr, out);
        encoded.expect("the encoder works").idr
    }

    fn picture(&self) -> I420Ref<'_> {
        self.converter.picture()
    }
}

fn units(access_unit: &[u8]) -> Vec<u8> {
    let windows = access_unit
        .windows(4)
        .filter(|window| window[..3] == [0, 0, 1]);
    windows.map(|window| window[3] & 0x1F).collect()
}

fn luma_psnr(a: I420Ref<'_>, b: I420Ref<'_>) -> f64 {
    psnr(a, b).expect("same size")[0]
}

#[test]
fn text_comes_out_sharp_and_the_barcode_readable() {
    let mut sender = Sender::new(Size::new(1280, 720), Content::Typing, Bitrate::kbps(8_000));
    let mut decoder = Decoder::open().expect("decoder");
    let mut unit = Vec::new();
    for index in 0..20 {
        assert_eq!(
            sender.next(false, &mut unit),
            index == 0,
            "IDR only at the start"
        );
        let picture = decoder
            .decode(&unit)
            .expect("sound")
            .expect("a picture at once");
        let quality = luma_psnr(picture, sender.picture());
        assert!(quality > 34.0, "frame {index}: {quality:.1} dB");
        let code = Barcode {
            frame: index,
            reports: (index + 1) * 7,
        };
        assert_eq!(Barcode::read(picture), Some(code));
    }
}

#[test]
fn the_barcode_survives_a_low_bitrate() {
    for content in [Content::Motion, Content::Scroll] {
        let mut sender = Sender::new(Size::new(640, 480), content, Bitrate::kbps(100));
        let mut decoder = Decoder::open().expect("decoder");
        let mut unit = Vec::new();
        for index in 0..40 {
            sender.next(false, &mut unit);
            let picture = decoder
                .decode(&unit)
                .expect("sound")
                .expect("a picture at once");
            let frame = Barcode::read(picture).map(|code| code.frame);
            assert_eq!(frame, Some(index), "{content}");
        }
    }
}

#[test]
fn a_still_picture_gets_better_with_refreshes() {
    let mut sender = Sender::new(Size::new(1280, 720), Content::Typing, Bitrate::kbps(2_000));
    let mut decoder = Decoder::open().expect("decoder");
    let mut unit = Vec::new();
    sender.next(false, &mut unit);
    let first = decoder.decode(&unit).expect("sound").expect("a picture");
    let first = luma_psnr(first, sender.picture());
    let mut last = 0.0;
    for _ in 0..20 {
        sender
            .encoder
            .encode(sender.converter.picture(), false, &mut unit)
            .expect("works");
        let picture = decoder.decode(&unit).expect("sound").expect("a picture");
        last = luma_psnr(picture, sender.picture());
    }
    assert!(
        last > first + 1.0 || last > 45.0,
        "{first:.1} dB, then {last:.1} dB"
    );
}

#[test]
fn an_idr_comes_on_request_only_and_with_its_parameter_sets() {
    let mut sender = Sender::new(Size::new(320, 240), Content::Motion, Bitrate::kbps(1_000));
    let mut unit = Vec::new();
    for index in 0..100 {
        let wanted = index % 40 == 25;
        let idr = sender.next(wanted, &mut unit);
        assert_eq!(idr, wanted || index == 0, "frame {index}");
        let expected: &[u8] = if idr { &[7, 8, 5] } else { &[1] };
        assert_eq!(
            units(&unit),
            expected,
            "one slice, and SPS and PPS before an IDR"
        );
    }
}

#[test]
fn the_stream_is_constrained_baseline_with_its_level() {
    let mut sender = Sender::new(Size::new(1280, 720), Content::Static, Bitrate::kbps(8_000));
    let mut unit = Vec::new();
    sender.next(false, &mut unit);
    let sps = unit
        .windows(4)
        .position(|window| window[..3] == [0, 0, 1])
        .expect("an SPS");
    let [profile, constraints, level] = unit[sps + 4..sps + 7] else {
        unreachable!("three bytes were asked for")
    };
    assert_eq!((profile, level), (66, 31));
    assert_eq!(constraints & 0x40, 0x40, "constraint_set1_flag");
}

#[test]
fn a_decoder_follows_a_new_size() {
    let mut decoder = Decoder::open().expect("decoder");
    let mut unit = Vec::new();
    for (width, height) in [(640, 480), (1280, 720), (322, 242), (640, 480)] {
        let size = Size::new(width, height);
        let mut sender = Sender::new(size, Content::Typing, Bitrate::kbps(4_000));
        for _ in 0..3 {
            sender.next(false, &mut unit);
            let picture = decoder.decode(&unit).expect("sound").expect("a picture");
            assert_eq!(picture.size, size);
            assert!(luma_psnr(picture, sender.picture()) > 30.0);
        }
    }
}

#[test]
fn after_a_lost_picture_nothing_is_shown_until_an_idr() {
    let mut sender = Sender::new(Size::new(640, 480), Content::Motion, Bitrate::kbps(2_000));
    let mut decoder = Decoder::open().expect("decoder");
    let mut unit = Vec::new();
    for _ in 0..3 {
        sender.next(false, &mut unit);
        assert!(decoder.decode(&unit).is_ok());
    }
    sender.next(false, &mut unit);
    for _ in 0..3 {
        sender.next(false, &mut unit);
        assert!(
            decoder.decode(&unit).is_err(),
            "shown without what it is predicted from"
        );
    }
    sender.next(true, &mut unit);
    let picture = decoder
        .decode(&unit)
        .expect("an IDR heals")
        .expect("a picture");
    assert!(luma_psnr(picture, sender.picture()) > 25.0);
    sender.next(false, &mut unit);
    assert!(decoder.decode(&unit).is_ok());
}

#[test]
fn a_decoder_waits_for_an_idr_to_begin_with() {
    let mut sender = Sender::new(Size::new(320, 240), Content::Typing, Bitrate::kbps(500));
    let mut unit = Vec::new();
    sender.next(false, &mut unit);
    sender.next(false, &mut unit);
    let mut decoder = Decoder::open().expect("decoder");
    assert!(decoder.decode(&unit).is_err());
    assert_eq!(
        decoder.decode(&[]).map(|picture| picture.is_none()),
        Ok(true)
    );
}

#[test]
fn a_cut_access_unit_is_an_error_not_a_picture() {
    let mut sender = Sender::new(Size::new(640, 480), Content::Motion, Bitrate::kbps(2_000));
    let mut decoder = Decoder::open().expect("decoder");
    let (mut idr, mut next, mut other) = (Vec::new(), Vec::new(), Vec::new());
    sender.next(true, &mut idr);
    sender.next(false, &mut next);
    sender.next(true, &mut other);
    for part in [1, 2, 3, 5, 7, 9] {
        let cut = idr.len() * part / 10;
        assert!(
            !matches!(decoder.decode(&idr[..cut]), Ok(Some(_))),
            "IDR cut at {cut}"
        );
        assert!(decoder.decode(&idr).is_ok_and(|picture| picture.is_some()));
        let cut = next.len() * part / 10;
        assert!(
            !matches!(decoder.decode(&next[..cut]), Ok(Some(_))),
            "cut at {cut}"
        );
        assert!(decoder.decode(&next).is_err(), "an IDR is needed first");
        assert!(
            decoder
                .decode(&other)
                .is_ok_and(|picture| picture.is_some())
        );
    }
}

#[test]
fn a_new_bitrate_takes_effect() {
    let mut sender = Sender::new(Size::new(640, 480), Content::Motion, Bitrate::kbps(4_000));
    let mut unit = Vec::new();
    let mut second = |sender: &mut Sender| -> usize {
        let sizes = (0..RATE).map(|_| {
            sender.next(false, &mut unit);
            unit.len()
        });
        sizes.sum()
    };
    second(&mut sender);
    let high = second(&mut sender);
    sender
        .encoder
        .set_bitrate(Bitrate::kbps(1_000))
        .expect("accepted");
    assert_eq!(sender.encoder.config().bitrate, Bitrate::kbps(1_000));
    second(&mut sender);
    let low = second(&mut sender);
    assert!(low * 2 < high, "{high} bytes in a second, then {low}");
    sender
        .encoder
        .set_bitrate(Bitrate::kbps(4_000))
        .expect("accepted");
    second(&mut sender);
    let again = second(&mut sender);
    assert!(again > low * 2, "{low} bytes in a second, then {again}");
}

#[test]
fn wrong_sizes_are_refused() {
    let config = |width, height| EncoderConfig {
        size: Size::new(width, height),
        rate: FrameRate::hz(30),
        bitrate: Bitrate::kbps(1_000),
        intra_refresh: 0,
    };
    for (width, height) in [(0, 0), (15, 16), (321, 240), (4096, 2160)] {
        assert!(
            Encoder::open(config(width, height)).is_err(),
            "{width}x{height}"
        );
    }
    let mut encoder = Encoder::open(config(64, 64)).expect("a fine size");
    let (y, c) = (vec![16; 64 * 64], vec![128; 32 * 32]);
    let picture = I420Ref {
        size: Size::new(64, 64),
        planes: [&y, &c, &c],
        strides: [64, 32, 32],
        color: Colorimetry::default(),
    };
    let mut out = Vec::new();
    assert!(encoder.encode(picture, false, &mut out).is_ok());
    let short = I420Ref {
        planes: [&y[1..], &c, &c],
        ..picture
    };
    assert!(encoder.encode(short, false, &mut out).is_err());
    let other = I420Ref {
        size: Size::new(32, 64),
        ..picture
    };
    assert!(encoder.encode(other, false, &mut out).is_err());
    assert!(encoder.encode(picture, false, &mut out).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn garbage_gives_errors_and_an_idr_still_heals(
        garbage in proptest::collection::vec(any::<u8>(), 0..2000),
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), 1..=255_u8), 1..30),
    ) {
        let mut sender = Sender::new(Size::new(320, 240), Content::Motion, Bitrate::kbps(1_000));
        let (mut idr, mut next) = (Vec::new(), Vec::new());
        sender.next(true, &mut idr);
        sender.next(false, &mut next);
        let mut decoder = Decoder::open().expect("decoder");
        let _ = decoder.decode(&garbage);
        for header in [0x67, 0x68, 0x65, 0x41, 0x06] {
            let mut unit = vec![0, 0, 0, 1, header];
            unit.extend(&garbage);
            let _ = decoder.decode(&unit);
        }
        for unit in [&idr, &next] {
            let mut damaged = unit.clone();
            for (index, flip) in &flips {
                *index.get_mut(&mut damaged) ^= flip;
            }
            let _ = decoder.decode(&damaged);
        }
        prop_assert!(decoder.decode(&idr).is_ok_and(|picture| picture.is_some()));
        prop_assert!(decoder.decode(&next).is_ok_and(|picture| picture.is_some()));
    }
}
