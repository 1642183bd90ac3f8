//! The pointer's picture, which goes to the viewer beside the video.

use std::io;
use std::sync::Arc;

use soft_kvm_core::Size;

/// Largest width and height of a cursor's picture; drivers have 64 to 256.
pub const MAX_CURSOR: u32 = 256;

/// A cursor's picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CursorImage {
    /// Columns and lines, 1 to [`MAX_CURSOR`].
    pub size: Size,
    /// The pixel that points, from the upper left corner; mostly inside.
    pub hot: (i32, i32),
    /// Bytes B G R A for each pixel, line by line; the colours are multiplied by A already.
    pub pixels: Vec<u8>,
}

/// The cursor at a moment.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    /// How it looks; the same `Arc` as long as it looks the same. None while there is no cursor to be drawn.
    pub image: Option<Arc<CursorImage>>,
    /// Where its upper left corner is in the picture, in the picture's pixels; it may lie outside.
    pub position: (i32, i32),
}

impl Cursor {
    /// Whether both look the same in the same place.
    #[must_use]
    pub fn is_as(&self, other: &Self) -> bool {
        let images = match (&self.image, &other.image) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => return true,
            _ => false,
        };
        images && self.position == other.position
    }
}

impl CursorImage {
    /// A picture with its hot spot from a PNG file with 8-bit RGBA.
    ///
    /// # Errors
    /// It is no such file, damaged, or larger than [`MAX_CURSOR`] allows.
    pub fn from_png(png: &[u8], hot: (i32, i32)) -> io::Result<Self> {
        let limits = png::Limits { bytes: 1 << 20 };
        let decoder = png::Decoder::new_with_limits(io::Cursor::new(png), limits);
        let mut reader = decoder.read_info()?;
        let info = reader.info();
        let size = Size::new(info.width, info.height);
        let fits =
            (1..=MAX_CURSOR).contains(&size.width) && (1..=MAX_CURSOR).contains(&size.height);
        if !fits
            || info.color_type != png::ColorType::Rgba
            || info.bit_depth != png::BitDepth::Eight
        {
            return Err(io::Error::other(format!("a PNG of {size}, not 8-bit RGBA")));
        }
        let mut pixels = vec![0; size.pixels() * 4];
        reader.next_frame(&mut pixels)?;
        let (all, _) = pixels.as_chunks_mut::<4>();
        for pixel in all {
            let [r, g, b, a] = *pixel;
            let times = |colour: u8| {
                let sum = u32::from(colour) * u32::from(a) + 127;
                u8::try_from(sum / 255).unwrap_or(255)
            };
            *pixel = [times(b), times(g), times(r), a];
        }
        Ok(Self { size, hot, pixels })
    }

    /// Draws the cursor over a picture of `size`; `blend` gets each pixel's place, counted line by line, and its bytes B G R A.
    pub fn draw(&self, position: (i32, i32), size: Size, mut blend: impl FnMut(usize, [u8; 4])) {
        let (pixels, _) = self.pixels.as_chunks::<4>();
        let width = self.size.width.max(1) as usize;
        let (left, top) = (i64::from(position.0), i64::from(position.1));
        for (line, row) in (top..).zip(pixels.chunks_exact(width)) {
            let Some(y) = inside(line, size.height) else {
                continue;
            };
            for (column, pixel) in (left..).zip(row) {
                if pixel[3] > 0
                    && let Some(x) = inside(column, size.width)
                {
                    blend(y * size.width as usize + x, *pixel);
                }
            }
        }
    }
}

/// A premultiplied colour of opacity `alpha` over another.
#[must_use]
pub fn over(below: u8, above: u8, alpha: u8) -> u8 {
    let rest = u32::from(below) * u32::from(255 - alpha);
    u8::try_from(u32::from(above) + (rest + 127) / 255).unwrap_or(255)
}

fn inside(at: i64, length: u32) -> Option<usize> {
    let at = u32::try_from(at).ok().filter(|&at| at < length)?;
    usize::try_from(at).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_inside_is_drawn() {
        let image = CursorImage {
            size: Size::new(2, 2),
            hot: (0, 0),
            pixels: vec![1, 1, 1, 255, 2, 2, 2, 255, 3, 3, 3, 0, 4, 4, 4, 128],
        };
        let drawn = |position| {
            let mut places = Vec::new();
            image.draw(position, Size::new(4, 3), |at, pixel| {
                places.push((at, pixel[0]))
            });
            places
        };
        assert_eq!(drawn((1, 1)), [(5, 1), (6, 2), (10, 4)]);
        assert_eq!(drawn((-1, -1)), [(0, 4)]);
        assert_eq!(drawn((3, 2)), [(11, 1)]);
        assert_eq!(drawn((i32::MAX - 1, 0)), []);
        assert_eq!(
            (over(200, 50, 128), over(9, 255, 255), over(9, 0, 0)),
            (150, 255, 9)
        );
    }
}
