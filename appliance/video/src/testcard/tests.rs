use super::*;
use crate::convert::{Converter, Update};

const SIZES: [(u32, u32); 4] = [(1920, 1080), (1280, 720), (641, 481), (16, 16)];

fn card(content: Content, (width, height): (u32, u32), still: bool) -> TestCard {
    TestCard::new(TestCardConfig {
        size: Size::new(width, height),
        rate: FrameRate::hz(30),
        content,
        name: "bench".to_owned(),
        still,
    })
}

fn at(frame: u64) -> MonoTime {
    MonoTime::from_nanos(frame * 33_333_333)
}

fn echo(reports: u32) -> EchoSnapshot {
    EchoSnapshot {
        keys_held: vec!["KEY_A", "KEY_LEFTSHIFT"],
        pointer: (65_535, 30_000),
        buttons: 1,
        text: "Hello, かな".to_owned(),
        reports,
    }
}

fn pixels(frame: &Frame) -> Vec<u8> {
    frame.plane(0).expect("BGRX has a plane").data.to_vec()
}

/// How many frames a test of motion looks at: long enough for scrolling and dragging where pixels are few.
fn count(size: (u32, u32)) -> u64 {
    if size.0 > 700 { 5 } else { 200 }
}

#[test]
fn the_same_calls_draw_the_same_pictures() {
    for (_, content) in Content::ALL {
        for size in SIZES {
            let (mut left, mut right) = (card(content, size, false), card(content, size, false));
            // One card's frames are dropped at once, the other's are kept for a while: other buffers.
            let mut kept = None;
            for frame in 0..count(size) {
                let echo = echo(u32::try_from(frame / 9).expect("few"));
                let a = left.draw_frame(at(frame), &echo).expect("a free buffer");
                let b = right.draw_frame(at(frame), &echo).expect("a free buffer");
                assert!(
                    pixels(&a) == pixels(&b),
                    "{content} at {size:?}, frame {frame}"
                );
                assert_eq!(a.info(), b.info());
                if frame % 3 != 0 {
                    kept = Some(b);
                }
            }
            drop(kept);
        }
    }
}

#[test]
fn damage_covers_every_changed_pixel() {
    for (_, content) in Content::ALL {
        for size in SIZES {
            let mut card = card(content, size, false);
            let mut before = None;
            for frame in 0..count(size) {
                let echo = echo(u32::try_from(frame / 9).expect("few"));
                let drawn = card.draw_frame(at(frame), &echo).expect("a free buffer");
                let Damage::Within(rect) = drawn.info().damage else {
                    panic!("the card knows what it draws");
                };
                let now = pixels(&drawn);
                if let Some(before) = before.replace(now.clone()) {
                    let lines = now.chunks_exact(size.0 as usize * 4);
                    let old: Vec<u8> = before;
                    for (y, (new, old)) in
                        (0..).zip(lines.zip(old.chunks_exact(size.0 as usize * 4)))
                    {
                        for (x, (new, old)) in
                            (0..).zip(new.chunks_exact(4).zip(old.chunks_exact(4)))
                        {
                            let inside = (rect.x..rect.right()).contains(&x)
                                && (rect.y..rect.bottom()).contains(&y);
                            assert!(inside || new == old, "{content} {size:?} {frame}: {x},{y}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn each_picture_carries_its_number_and_the_reports() {
    for (_, content) in Content::ALL {
        let mut card = card(content, (1280, 720), false);
        let mut converter = Converter::new();
        for frame in 0..4 {
            let drawn = card
                .draw_frame(at(frame.into()), &echo(frame * 5))
                .expect("free");
            converter.update(&drawn).expect("whole");
            let code = Barcode {
                frame,
                reports: frame * 5,
            };
            assert_eq!(Barcode::read(converter.picture()), Some(code), "{content}");
        }
    }
}

#[test]
fn contents_change_as_much_as_they_say() {
    let changed = |content| {
        let mut card = card(content, (1280, 720), false);
        let mut converter = Converter::new();
        let mut tiles = 0;
        for frame in 0..30 {
            let drawn = card
                .draw_frame(at(frame), &EchoSnapshot::default())
                .expect("free");
            let update = converter.update(&drawn).expect("whole");
            if let (Update::Changed { tiles: changed, .. }, 1..) = (update, frame) {
                tiles += changed;
            }
        }
        // In thousandths of the picture.
        tiles * 1_000 / (29 * 20 * 45)
    };
    let [typing, scroll, motion, still] = [
        Content::Typing,
        Content::Scroll,
        Content::Motion,
        Content::Static,
    ]
    .map(changed);
    assert!(
        still < typing && typing < 120,
        "static {still}, typing {typing}"
    );
    assert!((250..700).contains(&scroll), "scroll {scroll}");
    assert!(motion > 750, "motion {motion}");
}

#[test]
fn a_still_card_changes_with_input_only() {
    for (_, content) in Content::ALL {
        let mut card = card(content, (640, 480), true);
        let mut converter = Converter::new();
        let mut updates = Vec::new();
        for (frame, reports) in (0..).zip([1, 1, 1, 2, 2, 3]) {
            let drawn = card.draw_frame(at(frame), &echo(reports)).expect("free");
            updates.push(converter.update(&drawn).expect("whole") != Update::Unchanged);
            let code = Barcode::read(converter.picture()).expect("a code");
            assert_eq!(code.reports, reports);
        }
        assert_eq!(
            updates,
            [true, false, false, true, false, true],
            "{content}"
        );
    }
}

#[test]
fn without_a_free_buffer_there_is_no_frame() {
    let mut card = card(Content::Typing, (320, 240), false);
    let mut draw = |frame| card.draw_frame(at(frame), &EchoSnapshot::default());
    let lent: Vec<_> = (0..3).map(&mut draw).collect();
    assert!(lent.iter().all(Option::is_some));
    assert!(draw(3).is_none());
    drop(lent);
    let next = draw(4).expect("free again");
    assert_eq!(next.info().sequence, 3);
}

#[test]
fn sizes_out_of_bounds_are_replaced() {
    assert_eq!(
        card(Content::Motion, (0, 0), false).config().size,
        Size::new(1280, 720)
    );
}
