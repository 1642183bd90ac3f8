//! MJPEG to pixels, into a few long-lived buffers.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use soft_kvm_core::Size;
use soft_kvm_video::frame::{FramePool, Plane};
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

/// The Huffman tables of ITU-T T.81 annex K as one DHT segment: K.3 to K.6.
const STANDARD_TABLES: &[u8] = include_bytes!("../../fixtures/standard-huffman-tables.bin");

/// Pictures that may be lent out at once.
const PICTURES: usize = 4;

#[derive(Debug)]
struct Picture {
    /// Set from the moment that the picture is handed out for writing until its frame is dropped.
    lent: AtomicBool,
    pixels: UnsafeCell<Box<[u8]>>,
}

/// Decoded pictures, bytes B G R x.
#[derive(Debug)]
pub(super) struct JpegPool {
    size: Size,
    pictures: Vec<Picture>,
    /// A picture with its tables put in; kept, so that its memory is.
    completed: Mutex<Vec<u8>>,
}

// SAFETY: pixels are written only by the one `decode` that turned `lent` from false to true, before the
// frame exists, and read only through that frame: never both at once.
unsafe impl Sync for JpegPool {}

/// What became of one JPEG.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    Picture(u32),
    /// Truncated, damaged or of another size.
    Broken,
    /// All pictures are lent out.
    Full,
}

impl JpegPool {
    pub(super) fn new(size: Size) -> Arc<Self> {
        let picture = || Picture {
            lent: AtomicBool::new(false),
            pixels: UnsafeCell::new(vec![0; size.pixels() * 4].into_boxed_slice()),
        };
        Arc::new(Self {
            size,
            pictures: (0..PICTURES).map(|_| picture()).collect(),
            completed: Mutex::default(),
        })
    }

    /// Decodes into a free picture. The decoder's own tables are allocated for each picture.
    pub(super) fn decode(&self, jpeg: &[u8]) -> Decoded {
        let claim = |picture: &Picture| !picture.lent.swap(true, Ordering::AcqRel);
        let Some(index) = self.pictures.iter().position(claim) else {
            return Decoded::Full;
        };
        let picture = &self.pictures[index];
        // SAFETY: this call claimed the picture, so no frame reads it and no other call writes it.
        let pixels = unsafe { &mut *picture.pixels.get() };
        let mut completed = self
            .completed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let jpeg = complete(jpeg, &mut completed);
        // The decoder asserts where it should refuse; a device's bytes must not end the capture thread.
        let decoded = catch_unwind(AssertUnwindSafe(|| decode_into(jpeg, self.size, pixels)));
        if matches!(decoded, Ok(Some(()))) {
            Decoded::Picture(u32::try_from(index).unwrap_or(0))
        } else {
            picture.lent.store(false, Ordering::Release);
            Decoded::Broken
        }
    }
}

/// The picture with Huffman tables: many devices leave them out, as AVI's MJPEG does, and mean the standard's.
fn complete<'a>(jpeg: &'a [u8], completed: &'a mut Vec<u8>) -> &'a [u8] {
    const DHT: u8 = 0xc4;
    const SOS: u8 = 0xda;
    let mut at = 2;
    while let Some([0xff, marker, high, low]) = jpeg.get(at..).and_then(<[u8]>::first_chunk) {
        match *marker {
            DHT => return jpeg,
            SOS => {
                let (head, scan) = jpeg.split_at(at);
                completed.clear();
                completed.extend_from_slice(head);
                completed.extend_from_slice(STANDARD_TABLES);
                completed.extend_from_slice(scan);
                return completed;
            }
            _ => at += 2 + usize::from(u16::from_be_bytes([*high, *low])),
        }
    }
    jpeg
}

/// Whether it is what cameras and dongles send: one baseline frame, grey or 4:4:4, 4:2:2 or 4:2:0 (ITU-T T.81 B.2.2).
/// The decoder panics on some other sampling factors.
fn is_ordinary(jpeg: &[u8]) -> bool {
    const SOF_BASELINE: u8 = 0xc0;
    const SOS: u8 = 0xda;
    let mut frames = 0;
    let mut at = 2;
    while let Some([0xff, marker, high, low]) = jpeg.get(at..).and_then(<[u8]>::first_chunk) {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        match *marker {
            SOS => return frames == 1,
            SOF_BASELINE => {
                frames += 1;
                // Behind the length: precision, height, width; then for each component id, sampling, table.
                let Some([_, _, _, _, _, components, rest @ ..]) = jpeg.get(at + 4..) else {
                    return false;
                };
                let sampling = |index: usize| rest.get(index * 3 + 1).copied();
                let factors =
                    [sampling(0), sampling(1), sampling(2)].map(Option::unwrap_or_default);
                // Each 4 bits across and down. 22 over 12 is 4:2:2 as FFmpeg writes it.
                let known = match (components, factors) {
                    (1, [luma, ..]) => luma == 0x11,
                    (3, [luma, cb, cr]) => {
                        cb == cr && matches!((luma, cb), (0x11 | 0x21 | 0x22, 0x11) | (0x22, 0x12))
                    }
                    _ => false,
                };
                if !known {
                    return false;
                }
            }
            // Other kinds of frames; C4, C8 and CC are none.
            0xc1..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => return false,
            _ => {}
        }
        at += 2 + length;
    }
    false
}

fn decode_into(jpeg: &[u8], size: Size, pixels: &mut [u8]) -> Option<()> {
    // Cameras pad their buffers; a picture without its end marker was cut off on the way.
    let end = jpeg.windows(2).rposition(|pair| pair == [0xff, 0xd9])? + 2;
    if !is_ordinary(jpeg) {
        return None;
    }
    let (width, height) = (size.width as usize, size.height as usize);
    let options = DecoderOptions::default()
        .set_max_width(width)
        .set_max_height(height)
        .set_strict_mode(true)
        .jpeg_set_out_colorspace(ColorSpace::BGRA);
    let mut decoder = JpegDecoder::new_with_options(jpeg.get(..end)?, options);
    decoder.decode_headers().ok()?;
    let info = decoder.info()?;
    if (usize::from(info.width), usize::from(info.height)) != (width, height)
        || decoder.output_buffer_size()? != pixels.len()
    {
        return None;
    }
    decoder.decode_into(pixels).ok()
}

impl FramePool for JpegPool {
    fn plane(&self, buffer: u32, plane: usize) -> Option<Plane<'_>> {
        let picture = self.pictures.get(buffer as usize)?;
        (plane == 0).then(|| Plane {
            // SAFETY: the caller holds the picture's frame, so it is lent and nobody writes to it.
            data: unsafe { &*picture.pixels.get() },
            stride: self.size.width as usize * 4,
        })
    }

    fn release(&self, buffer: u32) {
        if let Some(picture) = self.pictures.get(buffer as usize) {
            picture.lent.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 64x48, 4:2:2 as UVC devices send it: red, green, blue, white quarters (made with ffmpeg's colour source).
    const QUARTERS: &[u8] = include_bytes!("../../fixtures/quarters-422.jpg");

    fn shows_the_quarters(jpeg: &[u8]) {
        let pool = JpegPool::new(Size::new(64, 48));
        let Decoded::Picture(buffer) = pool.decode(jpeg) else {
            panic!("a valid picture is {:?}", pool.decode(jpeg));
        };
        let plane = pool.plane(buffer, 0).expect("one plane");
        let quarters = [
            ((16, 12), [0, 0, 255]),
            ((48, 12), [0, 255, 0]),
            ((16, 36), [255, 0, 0]),
            ((48, 36), [255, 255, 255]),
        ];
        for ((x, y), bgr) in quarters {
            let pixel = &plane.data[y * plane.stride + x * 4..][..3];
            let near = pixel
                .iter()
                .zip(bgr)
                .all(|(got, want)| got.abs_diff(want) <= 6);
            assert!(near, "at {x},{y}: {pixel:?} instead of {bgr:?}");
        }
    }

    #[test]
    fn a_picture_has_its_colours() {
        shows_the_quarters(QUARTERS);
    }

    #[test]
    fn padding_behind_the_end_does_not_matter_and_a_cut_does() {
        let mut padded = QUARTERS.to_vec();
        padded.extend([0; 512]);
        shows_the_quarters(&padded);
        let pool = JpegPool::new(Size::new(64, 48));
        assert_eq!(
            pool.decode(&QUARTERS[..QUARTERS.len() / 2]),
            Decoded::Broken
        );
        assert_eq!(
            JpegPool::new(Size::new(64, 64)).decode(QUARTERS),
            Decoded::Broken
        );
    }

    /// Many capture dongles leave the Huffman tables out, as AVI's MJPEG does: those of ITU-T T.81 annex K count.
    #[test]
    fn tables_that_are_left_out_are_the_standards() {
        let mut bare = Vec::new();
        let mut rest = QUARTERS;
        bare.extend_from_slice(&rest[..2]);
        rest = &rest[2..];
        while rest[..2] != [0xff, 0xda] {
            let length = 2 + usize::from(u16::from_be_bytes([rest[2], rest[3]]));
            if rest[1] != 0xc4 {
                bare.extend_from_slice(&rest[..length]);
            }
            rest = &rest[length..];
        }
        bare.extend_from_slice(rest);
        assert!(
            bare.len() < QUARTERS.len() - 300,
            "there were tables to leave out"
        );
        shows_the_quarters(&bare);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            let pool = JpegPool::new(Size::new(16, 16));
            let mut framed = vec![0xff, 0xd8, 0xff];
            framed.extend(bytes);
            framed.extend([0xff, 0xd9]);
            prop_assert_eq!(pool.decode(&framed), Decoded::Broken);
            prop_assert!(pool.pictures.iter().all(|p| !p.lent.load(Ordering::Relaxed)));
        }
    }
}
