use proptest::prelude::*;
use soft_kvm_core::MonoTime;

use super::*;
use crate::frame::{Colorimetry, FrameInfo};
use crate::memory::MemoryPool;

const FORMATS: [PixelFormat; 10] = [
    PixelFormat::Nv12,
    PixelFormat::I420,
    PixelFormat::Yuyv,
    PixelFormat::Uyvy,
    PixelFormat::Rgb24,
    PixelFormat::Bgr24,
    PixelFormat::Bgrx,
    PixelFormat::Rgbx,
    PixelFormat::Rgb565,
    PixelFormat::Xrgb2101010,
];

/// A picture in memory with some bytes of padding after each line.
#[derive(Debug)]
struct Padded {
    planes: Vec<(Vec<u8>, usize)>,
}

impl crate::frame::FramePool for Padded {
    fn plane(&self, _buffer: u32, plane: usize) -> Option<Plane<'_>> {
        let (data, stride) = self.planes.get(plane)?;
        Some(Plane {
            data,
            stride: *stride,
        })
    }

    fn release(&self, _buffer: u32) {}
}

fn info(format: PixelFormat, size: Size, sequence: u64, damage: Damage) -> FrameInfo {
    FrameInfo {
        format,
        size,
        sequence,
        captured: MonoTime::ZERO,
        damage,
        cpu_bytes: 0,
        color: match format {
            PixelFormat::Nv12 | PixelFormat::I420 | PixelFormat::Yuyv | PixelFormat::Uyvy => {
                Colorimetry::default()
            }
            _ => Colorimetry::RGB,
        },
    }
}

/// Copies tight planes into lines with padding of junk; the last line has none.
fn padded(planes: &[(Vec<u8>, usize)], padding: usize, info: FrameInfo) -> Frame {
    let planes = planes.iter().map(|(data, line)| {
        let mut out = Vec::new();
        for line in data.chunks_exact(*line) {
            out.extend(line);
            out.extend((0..padding).map(|_| 0xEE));
        }
        out.truncate(out.len() - padding);
        (out, line + padding)
    });
    let planes = planes.collect();
    Frame::new(info, std::sync::Arc::new(Padded { planes }), 0)
}

fn owned(picture: I420Ref<'_>) -> [Vec<u8>; 3] {
    picture.planes.map(<[u8]>::to_vec)
}

/// A frame of one colour, from R, G, B.
fn flat(format: PixelFormat, size: Size, pattern: [&[u8]; 3]) -> Frame {
    let mut pool = MemoryPool::new(format, size, 1);
    for (plane, pattern) in pattern.iter().enumerate() {
        if let Some((data, _)) = pool.plane_mut(0, plane) {
            for (byte, value) in data.iter_mut().zip(pattern.iter().cycle()) {
                *byte = *value;
            }
        }
    }
    pool.lend(0, info(format, size, 0, Damage::Unknown))
        .expect("one buffer")
}

#[test]
fn colours_come_out_as_bt709_says() {
    // 75 % yellow is R 191, G 191, B 0: Y 168, Cb 44, Cr 136.
    let cases: [(PixelFormat, [&[u8]; 3]); 10] = [
        (PixelFormat::Rgb24, [&[191, 191, 0], &[], &[]]),
        (PixelFormat::Bgr24, [&[0, 191, 191], &[], &[]]),
        (PixelFormat::Rgbx, [&[191, 191, 0, 9], &[], &[]]),
        (PixelFormat::Bgrx, [&[0, 191, 191, 9], &[], &[]]),
        // 23, 47, 0 of 31, 63, 31; 766, 766, 0 of 1023.
        (PixelFormat::Rgb565, [&[0xE0, 0xBD], &[], &[]]),
        (
            PixelFormat::Xrgb2101010,
            [&[0x00, 0xF8, 0xEB, 0xEF], &[], &[]],
        ),
        (PixelFormat::Yuyv, [&[168, 44, 168, 136], &[], &[]]),
        (PixelFormat::Uyvy, [&[44, 168, 136, 168], &[], &[]]),
        (PixelFormat::Nv12, [&[168], &[44, 136], &[]]),
        (PixelFormat::I420, [&[168], &[44], &[136]]),
    ];
    for (format, pattern) in cases {
        let mut converter = Converter::new();
        converter
            .update(&flat(format, Size::new(98, 50), pattern))
            .expect("whole");
        let picture = converter.picture();
        for (plane, expected) in picture.planes.iter().zip([168_u8, 44, 136]) {
            assert!(
                plane.iter().all(|&sample| sample.abs_diff(expected) <= 1),
                "{format:?}: {:?} instead of {expected}",
                plane.first()
            );
        }
    }
}

#[test]
fn what_is_shown_is_what_was_drawn() {
    let size = Size::new(66, 34);
    for color in [[255, 255, 255], [0, 0, 0], [200, 30, 60], [10, 220, 120]] {
        let mut converter = Converter::new();
        converter
            .update(&flat(PixelFormat::Rgb24, size, [&color, &[], &[]]))
            .expect("whole");
        let mut rgb = vec![0; 70 * 3 * 34];
        assert!(to_rgb(converter.picture(), &mut rgb, 70 * 3));
        let mut bgrx = vec![0; 66 * 4 * 34];
        assert!(to_bgrx(converter.picture(), &mut bgrx, 66 * 4));
        let last = [
            rgb[33 * 210 + 65 * 3],
            rgb[33 * 210 + 65 * 3 + 1],
            rgb[33 * 210 + 65 * 3 + 2],
        ];
        for (got, want) in last.iter().zip(color) {
            assert!(got.abs_diff(want) <= 4, "{last:?} instead of {color:?}");
        }
        let pixel = &bgrx[33 * 264 + 65 * 4..];
        assert_eq!([pixel[2], pixel[1], pixel[0]], last);
        assert!(!to_bgrx(converter.picture(), &mut bgrx[1..], 66 * 4));
    }
}

#[test]
fn the_first_frame_a_new_size_and_a_new_format_convert_everything() {
    let mut converter = Converter::new();
    assert_eq!(converter.picture().size, Size::default());
    let mut update = |format, width, height| {
        let frame = flat(format, Size::new(width, height), [&[1, 2, 3], &[4], &[5]]);
        converter.update(&frame).expect("whole")
    };
    let whole = |tiles, width, height, resized| Update::Changed {
        tiles,
        rect: Rect::whole(Size::new(width, height)),
        resized,
    };
    assert_eq!(update(PixelFormat::Nv12, 130, 33), whole(6, 130, 32, true));
    assert_eq!(update(PixelFormat::Nv12, 130, 33), Update::Unchanged);
    assert_eq!(
        update(PixelFormat::Rgb24, 130, 33),
        whole(6, 130, 32, false)
    );
    assert_eq!(update(PixelFormat::Rgb24, 64, 17), whole(1, 64, 16, true));
}

#[test]
fn damage_counts_only_in_sequence() {
    let size = Size::new(256, 64);
    let picture = |value: u8, sequence, damage| {
        let planes = vec![(vec![value; 256 * 4 * 64], 256 * 4)];
        padded(&planes, 0, info(PixelFormat::Bgrx, size, sequence, damage))
    };
    let little = Damage::Within(Rect {
        x: 70,
        y: 20,
        width: 2,
        height: 2,
    });
    let tiles = |update| match update {
        Ok(Update::Changed { tiles, .. }) => tiles,
        _ => 0,
    };
    let mut converter = Converter::new();
    assert_eq!(tiles(converter.update(&picture(1, 0, little))), 16);
    assert_eq!(tiles(converter.update(&picture(2, 1, little))), 1);
    assert_eq!(
        tiles(converter.update(&picture(2, 2, Damage::Within(Rect::default())))),
        0
    );
    assert_eq!(
        tiles(converter.update(&picture(2, 4, little))),
        15,
        "frame 3 is missing"
    );
}

#[test]
fn broken_frames_are_refused_and_the_picture_stays() {
    let size = Size::new(64, 32);
    for format in FORMATS {
        let mut converter = Converter::new();
        converter
            .update(&flat(format, size, [&[50], &[60], &[70]]))
            .expect("whole");
        let before = owned(converter.picture());
        let tight: Vec<_> = format
            .planes(size)
            .map(|(line, lines)| (vec![9; line * lines], line))
            .collect();
        for plane in 0..tight.len() {
            let mut short = tight.clone();
            short[plane].0.pop();
            let frame = Frame::new(
                info(format, size, 1, Damage::Unknown),
                std::sync::Arc::new(Padded { planes: short }),
                0,
            );
            let error = ConvertError::Plane {
                plane,
                format,
                size,
            };
            assert_eq!(converter.update(&frame), Err(error));
        }
        let huge = padded(
            &tight,
            0,
            info(format, Size::new(9_999, 9), 1, Damage::Unknown),
        );
        assert!(matches!(
            converter.update(&huge),
            Err(ConvertError::Size { .. })
        ));
        assert_eq!(owned(converter.picture()), before);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn changed_tiles_add_up_to_a_full_conversion(
        format in proptest::sample::select(&FORMATS[..]),
        width in 16..300_u32, height in 16..90_u32, padding in 0..70_usize,
        steps in proptest::collection::vec(
            ((0..300_u32, 0..90_u32, 0..120_u32, 0..40_u32), any::<u32>(), any::<bool>()), 1..8,
        ),
    ) {
        let size = Size::new(width, height);
        let mut random = 0x1234_5678_u32;
        let mut next = move || {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            random.to_be_bytes()[0]
        };
        let mut planes: Vec<(Vec<u8>, usize)> = format
            .planes(size)
            .map(|(line, lines)| ((0..line * lines).map(|_| next()).collect(), line))
            .collect();
        let mut converter = Converter::new();
        converter.update(&padded(&planes, padding, info(format, size, 0, Damage::Unknown)))
            .expect("whole");
        for (sequence, ((x, y, w, h), seed, known)) in (1..).zip(steps) {
            // Scribble over a rectangle with even edges, in every plane.
            let rect = Rect { x: x & !1, y: y & !1, width: w & !1, height: h & !1 }
                .intersection(Rect::whole(size.even()));
            // An empty one may lie beyond the picture.
            let rect = if rect.is_empty() { Rect::default() } else { rect };
            let mut seed = seed;
            for (index, (data, line)) in planes.iter_mut().enumerate() {
                let shape = pixels::shape(format, index).expect("the plane exists");
                let first = shape.lines(rect.y as usize);
                for row in first..first + shape.lines(rect.height as usize) {
                    let start = row * *line + shape.bytes(rect.x as usize);
                    for byte in &mut data[start..start + shape.bytes(rect.width as usize)] {
                        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        *byte = seed.to_be_bytes()[0];
                    }
                }
            }
            let damage = if known { Damage::Within(rect) } else { Damage::Unknown };
            let update = converter
                .update(&padded(&planes, padding, info(format, size, sequence, damage)))
                .expect("whole");
            if let Update::Changed { rect: changed, .. } = update {
                prop_assert_eq!(changed.union(Rect::whole(size.even())), Rect::whole(size.even()));
            }
            let mut full = Converter::new();
            full.update(&padded(&planes, 0, info(format, size, 0, Damage::Unknown)))
                .expect("whole");
            for (got, want) in converter.picture().planes.iter().zip(full.picture().planes) {
                prop_assert!(*got == want, "{:?} {} after {}", format, size, sequence);
            }
        }
    }
}
