//! A picture as NV12, packed into the pixels of an ordinary target: OpenGL ES 2.0 draws into nothing else everywhere.
//!
//! The target is a row of bytes, four to a pixel, whatever its own lines are: the encoder says how the picture lies in them, and
//! need not agree with the GPU's driver. Each pixel is four samples of luma side by side, or two pairs of Cb and Cr.
//! A sample of chroma is the mean of its four pixels and lies between them (`chroma_sample_loc_type` 1 of H.264), BT.709 in
//! limited range: both as the CPU makes them.

use std::ffi::CStr;
use std::rc::Rc;

use soft_kvm_core::Size;
use soft_kvm_video::frame::{FrameInfo, Range};

use super::device::{Device, Target, Texture};
use super::pass::{Program, Values, real};
use crate::v4l2::m2m::Nv12Layout;

/// Columns of a target, as in the program: drivers put no bytes between lines of this length.
const COLUMNS: u32 = 1024;

/// Bytes of a target's line.
pub(super) const STRIDE: u32 = 4 * COLUMNS;

/// `source` has the picture's columns and lines, and what makes its samples 0 to 1; `memory` the pixels of the target for a line
/// of the picture and the lines of luma. Beyond the picture its edge is repeated: odd sides have half a sample of chroma, and
/// codecs whole macroblocks. The bytes of a pixel of ARGB8888 are blue, green, red and alpha.
const PACK: &CStr = c"
#extension GL_OES_EGL_image_external : require
#ifndef GL_FRAGMENT_PRECISION_HIGH
#error half precision does not tell the columns of a picture apart
#endif
precision highp float;
uniform samplerExternalOES picture;
uniform vec4 source;
uniform vec4 memory;
varying vec2 place;
const vec3 WEIGHTS = vec3(0.2126, 0.7152, 0.0722);
vec3 pixel(vec2 at) {
    vec2 inside = (min(at, source.xy - 1.0) + 0.5) / source.xy;
    return texture2D(picture, inside).rgb * source.z + source.w;
}
float luma(vec2 at) {
    return dot(pixel(at), WEIGHTS) * (219.0 / 255.0) + 16.0 / 255.0;
}
vec2 chroma(vec2 at) {
    vec3 upper = pixel(at) + pixel(at + vec2(1.0, 0.0));
    vec3 lower = pixel(at + vec2(0.0, 1.0)) + pixel(at + vec2(1.0, 1.0));
    vec3 mean = (upper + lower) * 0.25;
    vec2 difference = (mean.br - dot(mean, WEIGHTS)) * 0.5 / (1.0 - WEIGHTS.br);
    return difference * (224.0 / 255.0) + 128.0 / 255.0;
}
void main() {
    vec2 own = floor(place);
    float index = own.y * 1024.0 + own.x;
    float line = floor(index / memory.x);
    // Not every GPU divides exactly; the rest is exact.
    float rest = index - line * memory.x;
    if (rest < 0.0) {
        line -= 1.0;
        rest += memory.x;
    } else if (rest >= memory.x) {
        line += 1.0;
        rest -= memory.x;
    }
    float left = rest * 4.0;
    if (line < memory.y) {
        gl_FragColor.b = luma(vec2(left, line));
        gl_FragColor.g = luma(vec2(left + 1.0, line));
        gl_FragColor.r = luma(vec2(left + 2.0, line));
        gl_FragColor.a = luma(vec2(left + 3.0, line));
    } else {
        float upper = (line - memory.y) * 2.0;
        gl_FragColor.bg = chroma(vec2(left, upper));
        gl_FragColor.ra = chroma(vec2(left + 2.0, upper));
    }
}";

/// The program.
#[derive(Debug)]
pub(super) struct Nv12(Program);

impl Nv12 {
    pub(super) fn new(device: &Rc<Device>) -> Result<Self, String> {
        Program::new(device, PACK).map(Self)
    }

    /// Draws all of the picture into the target, which has the size that [`target`] says.
    pub(super) fn draw(
        &self,
        picture: &Texture,
        info: &FrameInfo,
        layout: Nv12Layout,
        target: &Target,
    ) -> Result<(), String> {
        self.0
            .draw(picture, target, values(info, layout, target.size))
    }
}

/// The size of a target that holds a picture of `size` and all that the encoder maps.
///
/// # Errors
/// The layout is none for such a picture, or one that is not packed.
pub(super) fn target(layout: Nv12Layout, size: Size) -> Result<Size, String> {
    let Nv12Layout {
        stride,
        lines,
        bytes,
    } = layout;
    let holds = stride >= size.width.next_multiple_of(2) && lines >= size.height;
    if !holds || !stride.is_multiple_of(4) {
        return Err(format!(
            "{lines} lines of {stride} bytes are not drawn for pictures of {size}"
        ));
    }
    let both = lines.saturating_add(lines.div_ceil(2));
    let bytes = stride.saturating_mul(both).max(bytes);
    Ok(Size::new(COLUMNS, bytes.div_ceil(STRIDE)))
}

fn values(info: &FrameInfo, layout: Nv12Layout, target: Size) -> Values {
    // What was Y, Cb and Cr has become full-range RGB when it is read.
    let [gain, black] = match info.color.range {
        Range::Limited if !info.format.is_ycbcr() => [255.0 / 219.0, -16.0 / 219.0],
        Range::Limited | Range::Full => [1.0, 0.0],
    };
    [
        [0.0, 0.0, real(target.width), real(target.height)],
        [real(info.size.width), real(info.size.height), gain, black],
        [real(layout.stride / 4), real(layout.lines), 0.0, 0.0],
    ]
}

#[cfg(test)]
mod tests {
    use soft_kvm_core::MonoTime;
    use soft_kvm_video::frame::{Colorimetry, Damage, PixelFormat};

    use super::*;

    const fn layout(stride: u32, lines: u32, bytes: u32) -> Nv12Layout {
        Nv12Layout {
            stride,
            lines,
            bytes,
        }
    }

    #[test]
    fn a_target_holds_the_picture_and_all_that_the_encoder_maps() {
        for (layout, size, lines) in [
            (layout(640, 480, 460_800), (640, 480), 113),
            // A codec of whole macroblocks, and one that wants some bytes more.
            (layout(1920, 1088, 3_133_440), (1920, 1080), 765),
            (layout(1920, 1088, 3_133_441), (1920, 1080), 766),
            // Odd sides, and lines that are longer than the picture's.
            (layout(768, 481, 0), (641, 481), 136),
        ] {
            let got = target(layout, Size::new(size.0, size.1));
            assert_eq!(got, Ok(Size::new(1024, lines)), "{layout:?}");
        }
        for layout in [
            layout(636, 480, 0),
            layout(642, 480, 0),
            layout(640, 472, 0),
        ] {
            target(layout, Size::new(640, 480)).expect_err("it does not fit");
        }
        assert!(PACK.to_string_lossy().contains(&format!("{COLUMNS}.0")));
    }

    #[test]
    fn only_limited_rgb_is_stretched() {
        let stretched = |format, color| {
            let info = FrameInfo {
                format,
                color,
                size: Size::new(641, 479),
                sequence: 0,
                captured: MonoTime::ZERO,
                damage: Damage::Unknown,
                cpu_bytes: 0,
            };
            let [_, [.., gain, black], _] = values(&info, layout(768, 479, 0), Size::default());
            [16.0, 235.0].map(|sample| sample / 255.0 * gain + black)
        };
        let near = |got: [f32; 2], wanted: [f32; 2]| {
            let pairs = got.iter().zip(wanted);
            let off = pairs.map(|(got, wanted)| (got - wanted).abs());
            assert!(off.fold(0.0, f32::max) < 1e-5, "{got:?} {wanted:?}");
        };
        let limited = Colorimetry::default();
        near(stretched(PixelFormat::Rgb24, limited), [0.0, 1.0]);
        let same = [16.0 / 255.0, 235.0 / 255.0];
        near(stretched(PixelFormat::Rgb24, Colorimetry::RGB), same);
        near(stretched(PixelFormat::Yuyv, limited), same);
    }
}
