//! Small independent readers of what our programs write.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use soft_kvm_core::Size;
use soft_kvm_video::barcode::Barcode;
use soft_kvm_video::draw::{Canvas, Color, Font};

/// `GET PATH` on a loopback port; the head and the body of the answer.
///
/// # Errors
/// Nobody answers, or not in UTF-8.
pub fn http_get(port: u16, path: &str) -> anyhow::Result<(String, String)> {
    http_get_as(port, "localhost", path)
}

/// The same with what stands in the request's `Host`.
///
/// # Errors
/// Nobody answers, or not in UTF-8.
pub fn http_get_as(port: u16, host: &str, path: &str) -> anyhow::Result<(String, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    Ok((head.to_owned(), body.to_owned()))
}

/// A picture as RGB, three bytes for each pixel, rows from the top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rgb {
    /// Width and height.
    pub size: Size,
    pixels: Vec<u8>,
}

impl Rgb {
    /// Reads a PNG file of 8 bits for each channel.
    ///
    /// # Errors
    /// It is none.
    pub fn read_png(path: &Path) -> anyhow::Result<Self> {
        let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
        let mut reader = png::Decoder::new(std::io::BufReader::new(file)).read_info()?;
        let mut bytes = vec![0; reader.output_buffer_size().context("a huge picture")?];
        let info = reader.next_frame(&mut bytes)?;
        anyhow::ensure!(info.bit_depth == png::BitDepth::Eight, "{info:?}");
        let channels = info.color_type.samples();
        anyhow::ensure!(channels >= 3, "{info:?}");
        let pixels = bytes
            .chunks_exact(channels)
            .filter_map(|pixel| pixel.first_chunk::<3>())
            .flatten()
            .copied()
            .collect();
        Ok(Self {
            size: Size::new(info.width, info.height),
            pixels,
        })
    }

    /// From rows of red, green, blue.
    #[must_use]
    pub const fn new(size: Size, pixels: Vec<u8>) -> Self {
        Self { size, pixels }
    }

    /// The color at a place; black outside.
    #[must_use]
    pub fn at(&self, x: u32, y: u32) -> [u8; 3] {
        let index = (u64::from(y) * u64::from(self.size.width) + u64::from(x)) * 3;
        usize::try_from(index)
            .ok()
            .and_then(|index| self.pixels.get(index..)?.first_chunk().copied())
            .unwrap_or_default()
    }

    /// The test card's code in the picture, if it can be read.
    #[must_use]
    pub fn barcode(&self) -> Option<Barcode> {
        // Green alone tells white from black.
        let green: Vec<u8> = self.pixels.iter().copied().skip(1).step_by(3).collect();
        Barcode::read_luma(&green, usize::try_from(self.size.width).ok()?, self.size)
    }

    /// Pixels of exactly this color.
    #[must_use]
    pub fn count(&self, color: [u8; 3]) -> usize {
        let (pixels, _) = self.pixels.as_chunks();
        pixels.iter().filter(|&&pixel| pixel == color).count()
    }

    /// Characters of the small font from a place on, light on dark: each is what its cell looks most like.
    #[must_use]
    pub fn text(&self, x: u32, y: u32, characters: u32) -> String {
        let glyphs: Vec<(char, Vec<u8>)> = (' '..='~').map(|c| (c, glyph(c))).collect();
        let nearest = |left: u32| {
            let cell: Vec<u8> = (0..16)
                .flat_map(|line| (0..8).map(move |column| (left + column, y + line)))
                .map(|(x, y)| self.at(x, y)[1])
                .collect();
            let distance = |glyph: &[u8]| -> u64 {
                let pixels = glyph.iter().zip(&cell);
                pixels.map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum()
            };
            let glyph = glyphs.iter().min_by_key(|(_, glyph)| distance(glyph));
            glyph.map_or('?', |(character, _)| *character)
        };
        (0..characters)
            .map(|index| nearest(x + 8 * index))
            .collect()
    }

    /// Colors in the picture, counted roughly: 16 steps for each channel.
    #[must_use]
    pub fn colors(&self) -> usize {
        let mut seen = std::collections::BTreeSet::new();
        for pixel in self.pixels.chunks_exact(3) {
            seen.insert(pixel.iter().map(|value| value >> 4).collect::<Vec<_>>());
        }
        seen.len()
    }
}

/// The green of a character as the test card's echo draws it.
fn glyph(character: char) -> Vec<u8> {
    let mut pixels = vec![0; 8 * 16 * 4];
    let mut canvas = Canvas::new(&mut pixels, 8 * 4, Size::new(8, 16));
    let (light, dark) = (Color::rgb(214, 222, 235), Color::rgb(20, 32, 52));
    let text = character.encode_utf8(&mut [0; 4]).to_owned();
    canvas.text(0, 0, &text, Font::Small, light, Some(dark));
    pixels.iter().copied().skip(1).step_by(4).collect()
}
