//! Several planes of a screen put together into one picture by the CPU.

use soft_kvm_core::Size;

use crate::convert::expand;
use crate::frame::{Colorimetry, PixelFormat, Plane};

/// What a plane's fourth byte means (`pixel blend mode` of the kernel's "Plane Composition Properties").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Blend {
    /// Nothing: every pixel hides what is below.
    #[default]
    Opaque,
    /// Opacity, and the colours are multiplied by it already.
    Premultiplied,
    /// Opacity, and the colours are as they are.
    Coverage,
}

/// A part of a framebuffer, in 1/65536 of a pixel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Source {
    /// First column.
    pub x: u32,
    /// First line.
    pub y: u32,
    /// Columns.
    pub width: u32,
    /// Lines.
    pub height: u32,
}

impl Source {
    /// The whole of a picture.
    #[must_use]
    pub const fn whole(size: Size) -> Self {
        Self {
            x: 0,
            y: 0,
            width: size.width << 16,
            height: size.height << 16,
        }
    }
}

/// Where on the screen a plane is; any part of it may lie outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Target {
    /// First column.
    pub x: i32,
    /// First line.
    pub y: i32,
    /// Columns and lines.
    pub size: Size,
}

/// One plane.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    /// Memory layout: a packed RGB format of screens, or NV12.
    pub format: PixelFormat,
    /// What the samples mean.
    pub color: Colorimetry,
    /// The framebuffer's memory.
    pub planes: [Option<Plane<'a>>; 3],
    /// The part of the framebuffer that is shown, scaled to the target.
    pub source: Source,
    /// Where.
    pub target: Target,
    /// Opacity of the whole plane, 65535 is opaque.
    pub alpha: u16,
    /// Opacity of single pixels.
    pub blend: Blend,
}

/// Puts `layers`, lowest first, over black into `canvas`: bytes B G R x, lines of `size.width * 4` bytes.
///
/// Scaled planes take the nearest pixel. Lines that a layer's memory does not have stay as they are below it.
/// `line` is working memory that is kept from call to call. Gives how many bytes of pixels were read and written.
pub fn compose<'a>(
    layers: impl IntoIterator<Item = Layer<'a>>,
    size: Size,
    canvas: &mut [u8],
    line: &mut Vec<[u8; 4]>,
) -> u64 {
    let width = size.width as usize;
    let (canvas, _) = canvas.as_chunks_mut::<4>();
    canvas.fill([0, 0, 0, 255]);
    let mut pixels = canvas.len();
    for layer in layers {
        let source = layer.source;
        let first = source.x >> 16;
        let end = (u64::from(source.x) + u64::from(source.width)).div_ceil(1 << 16);
        let columns = usize::try_from(end)
            .unwrap_or(0)
            .saturating_sub(first as usize);
        let Some(across) = Visible::new(layer.target.x, layer.target.size.width, size.width) else {
            continue;
        };
        let Some(down) = Visible::new(layer.target.y, layer.target.size.height, size.height) else {
            continue;
        };
        line.clear();
        line.resize(columns, [0; 4]);
        let mut loaded = None;
        for y in 0..down.count {
            let wanted = sample(
                down.skipped + y,
                source.y,
                source.height,
                layer.target.size.height,
            );
            if loaded != Some(wanted) {
                loaded = None;
                if !expand::line(
                    layer.format,
                    layer.color,
                    &layer.planes,
                    wanted,
                    first as usize,
                    line,
                ) {
                    continue;
                }
                loaded = Some(wanted);
                pixels += columns;
            }
            let start = (down.first + y) as usize * width + across.first as usize;
            let Some(target) = canvas.get_mut(start..start + across.count as usize) else {
                continue;
            };
            pixels += target.len();
            let opaque = layer.blend == Blend::Opaque && layer.alpha == u16::MAX;
            for (x, below) in (across.skipped..).zip(target) {
                let column = sample(x, source.x & 0xffff, source.width, layer.target.size.width);
                let Some(&above) = line.get(column) else {
                    continue;
                };
                *below = if opaque {
                    above
                } else {
                    over(*below, above, layer.alpha, layer.blend)
                };
            }
        }
    }
    pixels as u64 * 4
}

/// The part of a plane inside the screen, along one axis.
#[derive(Clone, Copy, Debug)]
struct Visible {
    /// On the screen.
    first: u32,
    /// Of the plane, before its first visible one.
    skipped: u32,
    count: u32,
}

impl Visible {
    fn new(at: i32, length: u32, screen: u32) -> Option<Self> {
        let (at, screen) = (i64::from(at), i64::from(screen));
        let first = at.max(0);
        let count = (at + i64::from(length)).min(screen) - first;
        Some(Self {
            first: u32::try_from(first).ok()?,
            skipped: u32::try_from(first - at).ok()?,
            count: u32::try_from(count).ok().filter(|&count| count > 0)?,
        })
    }
}

/// The source pixel under the middle of target pixel `at`.
fn sample(at: u32, start: u32, length: u32, target: u32) -> usize {
    let middle = (u64::from(at) * 2 + 1) * u64::from(length) / (u64::from(target.max(1)) * 2);
    usize::try_from((u64::from(start) + middle) >> 16).unwrap_or(usize::MAX)
}

/// One pixel over another, as the kernel's document has the equations.
fn over(below: [u8; 4], above: [u8; 4], plane: u16, blend: Blend) -> [u8; 4] {
    let plane = u32::from(plane >> 8) + u32::from(plane >> 15);
    let own = match blend {
        Blend::Opaque => 255,
        Blend::Premultiplied | Blend::Coverage => u32::from(above[3]),
    };
    // Plane opacity in 1/256, pixel opacity in 1/255: together in 1/65280.
    let opacity = plane * own;
    let colour = if blend == Blend::Coverage {
        opacity
    } else {
        plane * 255
    };
    let mix = |below: u8, above: u8| {
        let sum = u32::from(above) * colour + u32::from(below) * (65_280 - opacity);
        u8::try_from((sum + 32_640) / 65_280).unwrap_or(255)
    };
    [
        mix(below[0], above[0]),
        mix(below[1], above[1]),
        mix(below[2], above[2]),
        255,
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layer(data: &[u8], size: Size, target: Target) -> Layer<'_> {
        Layer {
            format: PixelFormat::Bgrx,
            color: Colorimetry::RGB,
            planes: [
                Some(Plane {
                    data,
                    stride: size.width as usize * 4,
                }),
                None,
                None,
            ],
            source: Source::whole(size),
            target,
            alpha: u16::MAX,
            blend: Blend::Opaque,
        }
    }

    fn pixel(canvas: &[u8], width: usize, x: usize, y: usize) -> [u8; 3] {
        let at = (y * width + x) * 4;
        [canvas[at], canvas[at + 1], canvas[at + 2]]
    }

    #[test]
    fn planes_lie_over_each_other_where_they_are_put() {
        let screen = Size::new(8, 6);
        let (ground, small) = (vec![10; 8 * 6 * 4], vec![200; 2 * 2 * 4]);
        let below = layer(
            &ground,
            screen,
            Target {
                x: 0,
                y: 0,
                size: screen,
            },
        );
        let mut above = layer(
            &small,
            Size::new(2, 2),
            Target {
                x: 5,
                y: -1,
                size: Size::new(4, 4),
            },
        );
        let (mut canvas, mut line) = (vec![0; 8 * 6 * 4], Vec::new());
        let bytes = compose([below, above], screen, &mut canvas, &mut line);
        assert_eq!(pixel(&canvas, 8, 4, 0), [10; 3]);
        assert_eq!(pixel(&canvas, 8, 5, 0), [200; 3]);
        assert_eq!(pixel(&canvas, 8, 7, 2), [200; 3]);
        assert_eq!(pixel(&canvas, 8, 7, 3), [10; 3]);
        // Canvas once, the ground read and written, 2 lines of 2 read, 9 pixels written.
        assert_eq!(bytes, (48 * 3 + 4 + 9) * 4);
        above.alpha = 0x8000;
        compose([below, above], screen, &mut canvas, &mut line);
        assert!(pixel(&canvas, 8, 6, 1)[0].abs_diff(105) <= 1);
    }

    #[test]
    fn pixel_opacity_is_as_the_kernel_says() {
        let half = [100, 50, 0, 128];
        for (blend, alpha, expected) in [
            (Blend::Opaque, u16::MAX, [100, 50, 0]),
            (Blend::Premultiplied, u16::MAX, [200, 150, 100]),
            (Blend::Coverage, u16::MAX, [150, 125, 100]),
            (Blend::Coverage, 0, [200; 3]),
        ] {
            let got = over([200; 4], half, alpha, blend);
            for (got, expected) in got.iter().zip(expected) {
                assert!(got.abs_diff(expected) <= 1, "{blend:?} {got} {expected}");
            }
        }
    }

    #[test]
    fn a_part_of_the_framebuffer_is_shown() {
        let data: Vec<u8> = (0..4u8).flat_map(|x| [x * 10; 4]).collect();
        let target = Target {
            x: 0,
            y: 0,
            size: Size::new(2, 1),
        };
        let mut part = layer(&data, Size::new(4, 1), target);
        part.source = Source {
            x: 2 << 16,
            y: 0,
            width: 2 << 16,
            height: 1 << 16,
        };
        let mut canvas = vec![0; 8];
        compose([part], Size::new(2, 1), &mut canvas, &mut Vec::new());
        assert_eq!(pixel(&canvas, 2, 0, 0), [20; 3]);
        assert_eq!(pixel(&canvas, 2, 1, 0), [30; 3]);
    }

    proptest! {
        #[test]
        fn any_numbers_stay_inside(
            x in any::<i32>(), y in any::<i32>(), width in any::<u32>(), height in 0..5_000_u32,
            source in any::<[u16; 4]>(), alpha in any::<u16>(), cut in 0..64_usize,
        ) {
            let [left, top, columns, lines] = source;
            let data = vec![7; 64 - cut];
            let mut any = layer(&data, Size::new(4, 4), Target { x, y, size: Size::new(width, height) });
            any.source = Source {
                x: u32::from(left) << 5, y: u32::from(top) << 5,
                width: u32::from(columns) << 5, height: u32::from(lines) << 5,
            };
            any.alpha = alpha;
            any.blend = Blend::Coverage;
            let mut canvas = vec![0; 9 * 7 * 4];
            compose([any], Size::new(9, 7), &mut canvas, &mut Vec::new());
            let fine = canvas.chunks_exact(4).all(|pixel| pixel[0] <= 7 && pixel[3] == 255);
            prop_assert!(fine);
        }
    }
}
