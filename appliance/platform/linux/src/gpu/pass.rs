//! What is drawn: by a program over all of the target, and first of all a part of a picture, pixel by pixel.

use std::ffi::{CStr, c_int, c_uint};
use std::ptr;
use std::rc::Rc;

use soft_kvm_core::Size;
use soft_kvm_video::frame::Rect;

use super::abi;
use super::device::{Device, Target, Texture};

/// One triangle that covers the target, and where its corners are in the picture.
const VERTEX: &CStr = c"
attribute vec2 corner;
uniform vec4 part;
varying vec2 place;
void main() {
    place = part.xy + corner * part.zw;
    gl_Position = vec4(corner * 2.0 - 1.0, 0.0, 1.0);
}";

/// A large picture has more columns than half precision tells apart.
const COPY: &CStr = c"
#extension GL_OES_EGL_image_external : require
#ifdef GL_FRAGMENT_PRECISION_HIGH
precision highp float;
#else
precision mediump float;
#endif
uniform samplerExternalOES picture;
varying vec2 place;
void main() {
    gl_FragColor = texture2D(picture, place);
}";

/// The target is the square from 0 to 1.
const CORNERS: [[f32; 2]; 3] = [[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]];

/// Number of the attribute `corner`.
const CORNER: c_uint = 0;

/// A program on the GPU.
#[derive(Debug)]
pub(super) struct Program {
    device: Rc<Device>,
    number: c_uint,
    uniforms: [c_int; UNIFORMS.len()],
}

/// Of four numbers each. `part` is where the target's corners are in `place`; the others are the program's own, and it need not
/// have them.
const UNIFORMS: [&CStr; 3] = [c"part", c"source", c"memory"];

/// A value for each of [`UNIFORMS`].
pub(super) type Values = [[f32; 4]; UNIFORMS.len()];

impl Program {
    /// Compiles it; `fragment` is what makes a pixel.
    pub(super) fn new(device: &Rc<Device>, fragment: &CStr) -> Result<Self, String> {
        let library = device.library();
        // SAFETY: the context is current. The texts end with a zero; the program keeps the shaders.
        let number = unsafe {
            let number = (library.create_program)();
            for (kind, source) in [
                (abi::VERTEX_SHADER, VERTEX),
                (abi::FRAGMENT_SHADER, fragment),
            ] {
                let shader = (library.create_shader)(kind);
                let text = source.as_ptr();
                (library.shader_source)(shader, 1, &raw const text, ptr::null());
                (library.compile_shader)(shader);
                (library.attach_shader)(number, shader);
                (library.delete_shader)(shader);
            }
            (library.bind_attribute)(number, CORNER, c"corner".as_ptr());
            (library.link_program)(number);
            number
        };
        let mut program = Self {
            device: Rc::clone(device),
            number,
            uniforms: [0; UNIFORMS.len()],
        };
        let mut linked = 0;
        // SAFETY: the context is current, and the number is ours to write to.
        unsafe { (library.program_value)(number, abi::LINK_STATUS, &raw mut linked) };
        if linked == 0 {
            return Err(format!("the GPU's program: {}", program.log()));
        }
        // SAFETY: a linked program, and texts that end with a zero.
        program.uniforms =
            UNIFORMS.map(|name| unsafe { (library.uniform_location)(number, name.as_ptr()) });
        device.check("the GPU's program")?;
        Ok(program)
    }

    /// What the driver's compiler says.
    fn log(&self) -> String {
        let mut text = [0_u8; 512];
        // SAFETY: the context is current; the text has room for as much as we say, the end included.
        unsafe {
            let room = i32::try_from(text.len()).unwrap_or(0);
            let start = text.as_mut_ptr().cast();
            (self.device.library().program_log)(self.number, room, ptr::null_mut(), start);
        }
        let text = CStr::from_bytes_until_nul(&text).unwrap_or_default();
        text.to_string_lossy().trim().to_owned()
    }

    /// Draws over all of the target.
    pub(super) fn draw(
        &self,
        picture: &Texture,
        target: &Target,
        values: Values,
    ) -> Result<(), String> {
        let library = self.device.library();
        let [right, bottom] = [target.size.width, target.size.height]
            .map(|side| i32::try_from(side).unwrap_or(i32::MAX));
        // SAFETY: the context is current; all objects are its own. What is set at the place of a uniform that the program does
        // not have is ignored. The corners are read while the call draws.
        unsafe {
            (library.bind_framebuffer)(abi::FRAMEBUFFER, target.framebuffer);
            (library.viewport)(0, 0, right, bottom);
            (library.use_program)(self.number);
            for (place, [x, y, z, w]) in self.uniforms.iter().zip(values) {
                (library.uniform_4f)(*place, x, y, z, w);
            }
            (library.bind_texture)(abi::TEXTURE_EXTERNAL, picture.number);
            let corners = CORNERS.as_ptr().cast();
            (library.attribute_pointer)(CORNER, 2, abi::FLOAT, 0, 0, corners);
            (library.enable_attribute)(CORNER);
            (library.draw_arrays)(abi::TRIANGLES, 0, 3);
        }
        self.device.check("drawing a picture")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the context is current on this thread, which made the program.
        unsafe { (self.device.library().delete_program)(self.number) };
    }
}

/// Copies pixels.
#[derive(Debug)]
pub(super) struct Pass(Program);

impl Pass {
    pub(super) fn new(device: &Rc<Device>) -> Result<Self, String> {
        Program::new(device, COPY).map(Self)
    }

    /// Draws `part` of a picture of `size` over all of the target, which is as large as the part.
    pub(super) fn draw(
        &self,
        picture: &Texture,
        size: Size,
        part: Rect,
        target: &Target,
    ) -> Result<(), String> {
        let share = |of, whole: u32| real(of) / real(whole.max(1));
        let [x, width] = [part.x, part.width].map(|across| share(across, size.width));
        let [y, height] = [part.y, part.height].map(|down| share(down, size.height));
        let values = [[x, y, width, height], [0.0; 4], [0.0; 4]];
        self.0.draw(picture, target, values)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "columns and lines of a picture are below 2^24"
)]
pub(super) const fn real(count: u32) -> f32 {
    count as f32
}
