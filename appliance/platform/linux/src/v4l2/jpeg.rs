//! MJPEG to pixels, into a few long-lived buffers.

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use soft_kvm_core::Size;
use soft_kvm_video::frame::{FramePool, Plane};
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

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
        if decode_into(jpeg, self.size, pixels).is_some() {
            Decoded::Picture(u32::try_from(index).unwrap_or(0))
        } else {
            picture.lent.store(false, Ordering::Release);
            Decoded::Broken
        }
    }
}

fn decode_into(jpeg: &[u8], size: Size, pixels: &mut [u8]) -> Option<()> {
    // Cameras pad their buffers; a picture without its end marker was cut off on the way.
    let end = jpeg.windows(2).rposition(|pair| pair == [0xff, 0xd9])? + 2;
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
