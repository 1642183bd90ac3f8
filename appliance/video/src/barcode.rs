//! A machine-readable code in the picture: frame number and input count, through any H.264.
//!
//! 88 cells of 16x16 pixels (a macroblock each) from the picture's top left, line by line, as many in a
//! line as fit; white is 1, most significant bit first: the byte [`MARK`], the frame number (32 bits), the count
//! of input reports echoed (32 bits), CRC-16/IBM-3740 over those nine bytes.

use soft_kvm_core::Size;

use crate::codec::I420Ref;
use crate::draw::{Canvas, Color, clamp};

/// Pixels of a cell each way.
pub const CELL: u32 = 16;

/// First byte of every code: neither all black nor all white.
pub const MARK: u8 = 0xA5;

const BYTES: usize = 11;
const CELLS: u32 = 88;

/// What the code says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Barcode {
    /// Number of the picture, counted by the source.
    pub frame: u32,
    /// How many input reports the picture already shows.
    pub reports: u32,
}

impl Barcode {
    /// The pixels that a code takes in a picture of this size; `None` if the picture is too small for one.
    #[must_use]
    pub fn size(picture: Size) -> Option<Size> {
        let columns = (picture.width / CELL).min(CELLS);
        let rows = CELLS.checked_div(columns)? + u32::from(!CELLS.is_multiple_of(columns));
        let size = Size::new(columns * CELL, rows * CELL);
        (size.height <= picture.height).then_some(size)
    }

    /// Draws the code at the top left. Does nothing if the picture is too small.
    pub fn draw(self, canvas: &mut Canvas<'_>) {
        let Some(size) = Self::size(canvas.size()) else {
            return;
        };
        canvas.fill(0, 0, size.width, size.height, Color::BLACK);
        let columns = size.width / CELL;
        let bytes = self.to_bytes();
        let bits = bytes
            .iter()
            .flat_map(|byte| (0..8).map(move |bit| byte & (0x80 >> bit) != 0));
        for (cell, _) in (0..).zip(bits).filter(|&(_, on)| on) {
            let (x, y) = (cell % columns * CELL, cell / columns * CELL);
            canvas.fill(clamp(x), clamp(y), CELL, CELL, Color::WHITE);
        }
    }

    /// Reads the code from a decoded picture; `None` if there is none or it is damaged.
    #[must_use]
    pub fn read(picture: I420Ref<'_>) -> Option<Self> {
        let [luma, ..] = picture.planes;
        let [stride, ..] = picture.strides;
        Self::read_luma(luma, stride, picture.size)
    }

    /// Reads the code from a plane of luma, `stride` bytes from one line to the next.
    #[must_use]
    pub fn read_luma(luma: &[u8], stride: usize, picture: Size) -> Option<Self> {
        let columns = Self::size(picture)?.width / CELL;
        let mut bytes = [0_u8; BYTES];
        let cells = (0..CELLS).map(|cell| (cell % columns * CELL, cell / columns * CELL));
        for (index, (x, y)) in cells.enumerate() {
            let white = cell_is_white(luma, stride, x as usize, y as usize)?;
            let byte = bytes.get_mut(index / 8)?;
            *byte = *byte << 1 | u8::from(white);
        }
        Self::from_bytes(bytes)
    }

    fn to_bytes(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        let (payload, check) = bytes.split_at_mut(BYTES - 2);
        payload[0] = MARK;
        payload[1..5].copy_from_slice(&self.frame.to_be_bytes());
        payload[5..9].copy_from_slice(&self.reports.to_be_bytes());
        check.copy_from_slice(&crc16(payload).to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; BYTES]) -> Option<Self> {
        let (payload, check) = bytes.split_last_chunk::<2>()?;
        let (&mark, payload_rest) = payload.split_first()?;
        let (frame, rest) = payload_rest.split_first_chunk::<4>()?;
        let reports = rest.first_chunk::<4>()?;
        (mark == MARK && crc16(payload) == u16::from_be_bytes(*check)).then(|| Self {
            frame: u32::from_be_bytes(*frame),
            reports: u32::from_be_bytes(*reports),
        })
    }
}

/// Looks at the middle quarter: the edges ring and bleed.
fn cell_is_white(luma: &[u8], stride: usize, x: usize, y: usize) -> Option<bool> {
    const MARGIN: usize = 4;
    const INNER: usize = 8;
    let mut sum = 0_u32;
    for line in 0..INNER {
        let start = (y + MARGIN + line) * stride + x + MARGIN;
        sum += luma
            .get(start..start + INNER)?
            .iter()
            .map(|&byte| u32::from(byte))
            .sum::<u32>();
    }
    // Halfway between black (16) and white (235).
    Some(sum > 125 * 64)
}

/// CRC-16/IBM-3740: polynomial 0x1021, start 0xFFFF, not reflected.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |crc, &byte| {
        (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| {
            crc << 1 ^ if crc & 0x8000 == 0 { 0 } else { 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Draws the code and takes the green channel, squeezed to 16..=235, for luma.
    fn drawn(code: Barcode, size: Size) -> Vec<u8> {
        let mut data = vec![0x40; size.pixels() * 4];
        code.draw(&mut Canvas::new(&mut data, size.width as usize * 4, size));
        data.chunks_exact(4)
            .map(|pixel| u8::try_from(16 + u16::from(pixel[1]) * 219 / 255).expect("at most 235"))
            .collect()
    }

    #[test]
    fn the_crc_is_the_catalogued_one() {
        assert_eq!(crc16(b"123456789"), 0x29B1);
    }

    #[test]
    fn small_pictures_have_no_code() {
        assert_eq!(
            Barcode::size(Size::new(1920, 1080)),
            Some(Size::new(1408, 16))
        );
        assert_eq!(
            Barcode::size(Size::new(1280, 720)),
            Some(Size::new(1280, 32))
        );
        assert_eq!(Barcode::size(Size::new(640, 480)), Some(Size::new(640, 48)));
        for (width, height) in [(0, 0), (15, 4000), (16, 16), (160, 120)] {
            assert_eq!(Barcode::size(Size::new(width, height)), None);
        }
    }

    #[test]
    fn flat_and_short_pictures_hold_no_code() {
        let size = Size::new(640, 480);
        for level in [0, 16, 128, 235, 255] {
            assert_eq!(
                Barcode::read_luma(&vec![level; size.pixels()], 640, size),
                None
            );
        }
        assert_eq!(Barcode::read_luma(&[], 640, size), None);
    }

    proptest! {
        #[test]
        fn what_is_drawn_is_read_through_noise(
            frame: u32, reports: u32, seed: u32, width in 320..2000_u32, height in 200..300_u32,
        ) {
            let size = Size::new(width, height);
            let code = Barcode { frame, reports };
            let mut luma = drawn(code, size);
            let mut random = seed | 1;
            for byte in &mut luma {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = byte.saturating_add_signed(random.to_be_bytes()[0].cast_signed() / 2);
            }
            prop_assert_eq!(Barcode::read_luma(&luma, width as usize, size), Some(code));
        }

        #[test]
        fn one_wrong_cell_is_noticed(frame: u32, reports: u32, cell in 0..88_usize) {
            let size = Size::new(1408, 16);
            let mut luma = drawn(Barcode { frame, reports }, size);
            for line in luma.chunks_exact_mut(1408) {
                for byte in &mut line[cell * 16..][..16] {
                    *byte = 251 - *byte;
                }
            }
            prop_assert_eq!(Barcode::read_luma(&luma, 1408, size), None);
        }

        #[test]
        fn random_memory_never_panics(
            luma in proptest::collection::vec(any::<u8>(), 0..4000),
            stride in 0..3000_usize, width: u32, height: u32,
        ) {
            let _ = Barcode::read_luma(&luma, stride, Size::new(width, height));
        }
    }
}
