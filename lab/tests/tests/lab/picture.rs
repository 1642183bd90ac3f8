//! Looks at screenshots.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::{Context as _, ensure};

/// The 75 % colour bars of video generators, left to right, as sRGB: white, yellow, cyan, green, magenta, red,
/// blue, black (SMPTE RP 219 order).
pub(crate) const COLOUR_BARS: [[u8; 3]; 8] = [
    [191, 191, 191],
    [191, 191, 0],
    [0, 191, 191],
    [0, 191, 0],
    [191, 0, 191],
    [191, 0, 0],
    [0, 0, 191],
    [0, 0, 0],
];
/// How far a decoded colour may be off; the nearest two bars differ by 191 in one component.
const TOLERANCE: u8 = 12;

/// A decoded screenshot.
#[derive(Debug)]
pub(crate) struct Picture {
    width: usize,
    height: usize,
    /// RGB, 3 bytes for each pixel, without padding.
    pixels: Vec<u8>,
}

impl Picture {
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let mut reader = png::Decoder::new(BufReader::new(file)).read_info()?;
        let mut pixels = vec![0; reader.output_buffer_size().context("too large a picture")?];
        let info = reader.next_frame(&mut pixels)?;
        ensure!(info.color_type == png::ColorType::Rgb, "not RGB");
        Ok(Self {
            width: info.width as usize,
            height: info.height as usize,
            pixels,
        })
    }

    pub(crate) fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// The mean colour of `width` x `height` pixels around a point.
    pub(crate) fn colour(
        &self,
        (x, y): (usize, usize),
        (width, height): (usize, usize),
    ) -> anyhow::Result<[u8; 3]> {
        let mut sums = [0_usize; 3];
        for line in y - height / 2..y + height / 2 {
            let start = (line * self.width + x - width / 2) * 3;
            let bytes = self.pixels.get(start..start + width * 3);
            for pixel in bytes.context("outside the picture")?.chunks_exact(3) {
                for (sum, byte) in sums.iter_mut().zip(pixel) {
                    *sum += usize::from(*byte);
                }
            }
        }
        let count = width * (height / 2 * 2);
        Ok(sums.map(|sum| u8::try_from(sum / count).unwrap_or(u8::MAX)))
    }

    /// The number of pixels that look different.
    pub(crate) fn differing(&self, other: &Self) -> usize {
        let pairs = self.pixels.chunks(3).zip(other.pixels.chunks(3));
        let far = |(a, b): &(&[u8], &[u8])| a.iter().zip(*b).any(|(a, b)| a.abs_diff(*b) > 80);
        pairs.filter(far).count()
    }

    /// The share of the pixels, from 0 to 1, that are `wanted`.
    pub(crate) fn share(&self, wanted: impl Fn([u8; 3]) -> bool) -> f64 {
        let pixels = self.pixels.chunks_exact(3);
        let all = pixels.len();
        let count = pixels
            .filter(|pixel| <[u8; 3]>::try_from(*pixel).is_ok_and(&wanted))
            .count();
        #[expect(
            clippy::cast_precision_loss,
            reason = "pictures are far below 2^52 pixels"
        )]
        let share = count as f64 / all as f64;
        share
    }

    /// Checks that the lower half shows [`COLOUR_BARS`]; vivid writes text over the upper one.
    pub(crate) fn check_bars(&self) -> anyhow::Result<()> {
        let bar = self.width / COLOUR_BARS.len();
        for (number, wanted) in COLOUR_BARS.into_iter().enumerate() {
            let middle = (bar * number + bar / 2, self.height * 3 / 4);
            let got = self.colour(middle, (bar / 2, self.height / 4))?;
            ensure!(near(got, wanted), "bar {number} is {got:?}, not {wanted:?}");
        }
        Ok(())
    }
}

/// Whether two colours are the same to a decoder.
pub(crate) fn near(got: [u8; 3], wanted: [u8; 3]) -> bool {
    got.iter()
        .zip(wanted)
        .all(|(got, wanted)| got.abs_diff(wanted) <= TOLERANCE)
}
