//! DMA-BUFs as surfaces, and the driver's video processing that makes NV12 of them.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::rc::Rc;

use nix::sys::stat::fstat;
use soft_kvm_core::Size;
use soft_kvm_video::codec::CodecError;
use soft_kvm_video::frame::{Colorimetry, Frame, Matrix, PixelFormat, Range};

use super::abi::{self, Plain, entrypoint, fourcc, profile, rt_format};
use super::display::{Config, Context, Display, Part, Surface};
use super::error;

/// Surfaces that are kept: as many as sources have buffers.
const KEPT: usize = 8;

/// One plane: which DMA-BUF, first byte, bytes from line to line.
type Place = (usize, u32, u32);

/// A frame's memory, with descriptors of its own: it stays whatever becomes of the frame.
#[derive(Debug)]
pub(super) struct Imported {
    /// The DMA-BUFs with their inode numbers, which tell them apart, and their lengths.
    memory: Vec<(OwnedFd, u64, u32)>,
    planes: Vec<Place>,
    fourcc: u32,
    modifier: u64,
    size: Size,
    format: PixelFormat,
    pub(super) color: Colorimetry,
}

impl Imported {
    pub(super) fn of(frame: &Frame) -> Result<Self, CodecError> {
        let info = frame.info();
        let dma = frame
            .dma_buf()
            .ok_or_else(|| error("the picture is in memory that devices cannot import"))?;
        let mut imported = Self {
            memory: Vec::new(),
            planes: Vec::new(),
            fourcc: dma.fourcc,
            modifier: dma.modifier,
            size: info.size,
            format: info.format,
            color: info.color,
        };
        for plane in dma.planes.iter().flatten() {
            let number = fstat(plane.fd).map_err(|errno| error(format!("fstat: {errno}")))?;
            let known = imported
                .memory
                .iter()
                .position(|(_, inode, _)| *inode == number.st_ino);
            let index = match known {
                Some(index) => index,
                None => {
                    let fd = plane
                        .fd
                        .try_clone_to_owned()
                        .map_err(|why| error(format!("a descriptor for the picture: {why}")))?;
                    imported.memory.push((fd, number.st_ino, plane.length));
                    imported.memory.len() - 1
                }
            };
            imported.planes.push((index, plane.offset, plane.stride));
        }
        Ok(imported)
    }

    pub(super) fn is_nv12(&self) -> bool {
        self.format == PixelFormat::Nv12
    }

    /// libva's names for the format.
    fn names(&self) -> Result<(u32, u32), CodecError> {
        Ok(match self.format {
            PixelFormat::Nv12 => (fourcc::NV12, rt_format::YUV420),
            PixelFormat::Bgrx => (fourcc::BGRX, rt_format::RGB32),
            PixelFormat::Rgbx => (fourcc::RGBX, rt_format::RGB32),
            PixelFormat::Rgb565 => (fourcc::RGB565, rt_format::RGB16),
            PixelFormat::Xrgb2101010 => (fourcc::X2R10G10B10, rt_format::RGB32_10),
            PixelFormat::Yuyv => (fourcc::YUY2, rt_format::YUV422),
            PixelFormat::Uyvy => (fourcc::UYVY, rt_format::YUV422),
            other => {
                let what = format!("libva has no surfaces of {other:?} that drivers import");
                return Err(error(what));
            }
        })
    }

    fn surface(&self, display: &Rc<Display>) -> Result<Surface, CodecError> {
        let (fourcc, rt_format) = self.names()?;
        let mut descriptor = abi::PrimeDescriptor {
            fourcc,
            width: self.size.width,
            height: self.size.height,
            num_objects: u32::try_from(self.memory.len()).unwrap_or(0),
            num_layers: 1,
            ..abi::PrimeDescriptor::zeroed()
        };
        for (object, (fd, _, length)) in descriptor.objects.iter_mut().zip(&self.memory) {
            *object = abi::PrimeObject {
                fd: fd.as_raw_fd(),
                size: *length,
                modifier: self.modifier,
            };
        }
        let layer = &mut descriptor.layers[0];
        layer.drm_format = self.fourcc;
        for (at, (index, offset, stride)) in self.planes.iter().take(4).enumerate() {
            layer.object_index[at] = u32::try_from(*index).unwrap_or(0);
            layer.offset[at] = *offset;
            layer.pitch[at] = *stride;
            layer.num_planes += 1;
        }
        Surface::import(display, rt_format, &descriptor)
    }

    fn same_memory(&self, key: &Key) -> bool {
        let inodes = self.memory.iter().map(|(_, inode, _)| *inode);
        self.planes == key.planes && inodes.eq(key.inodes.iter().copied())
    }
}

/// Which memory a surface is. Inode numbers of DMA-BUFs are unique while they exist, and a surface keeps its memory.
#[derive(Debug)]
struct Key {
    inodes: Vec<u64>,
    planes: Vec<Place>,
}

/// Surfaces of memory that was imported lately.
#[derive(Debug)]
pub(super) struct Imports {
    display: Rc<Display>,
    /// The one used last at the end.
    kept: Vec<(Key, Surface)>,
}

impl Imports {
    pub(super) fn new(display: &Rc<Display>) -> Self {
        Self {
            display: Rc::clone(display),
            kept: Vec::new(),
        }
    }

    /// The picture as a surface.
    pub(super) fn surface(&mut self, picture: &Imported) -> Result<&Surface, CodecError> {
        let known = self
            .kept
            .iter()
            .position(|(key, _)| picture.same_memory(key));
        let entry = match known {
            Some(index) => self.kept.remove(index),
            None => {
                if self.kept.len() >= KEPT {
                    self.kept.remove(0);
                }
                let key = Key {
                    inodes: picture.memory.iter().map(|(_, inode, _)| *inode).collect(),
                    planes: picture.planes.clone(),
                };
                (key, picture.surface(&self.display)?)
            }
        };
        self.kept.push(entry);
        let last = self.kept.last().map(|(_, surface)| surface);
        last.ok_or_else(|| error("no surface"))
    }
}

/// The driver's video processing.
#[derive(Debug)]
pub(super) struct Vpp {
    context: Context,
}

impl Vpp {
    pub(super) fn new(display: &Rc<Display>, size: Size) -> Result<Self, CodecError> {
        let config = Config::new(display, profile::NONE, entrypoint::VIDEO_PROC, &mut [])
            .map_err(|why| error(format!("no video processing for the colours: {}", why.what)))?;
        Ok(Self {
            context: Context::new(config, size, &[])?,
        })
    }

    /// Makes NV12 of BT.709 with limited range in `to` of the picture in `from`, and waits for it: encoders may run
    /// beside the video processing.
    pub(super) fn convert(
        &self,
        from: &Surface,
        picture: &Imported,
        to: &Surface,
    ) -> Result<(), CodecError> {
        let rgb = !matches!(picture.format, PixelFormat::Yuyv | PixelFormat::Uyvy);
        let standard = match picture.color.matrix {
            _ if rgb => abi::STANDARD_SRGB,
            Matrix::Bt601 => abi::STANDARD_BT601,
            Matrix::Bt709 => abi::STANDARD_BT709,
            Matrix::Bt2020 => abi::STANDARD_BT2020,
        };
        let range = match picture.color.range {
            Range::Full => abi::RANGE_FULL,
            Range::Limited => abi::RANGE_REDUCED,
        };
        let properties = |color_range| abi::ColorProperties {
            color_range,
            ..abi::ColorProperties::zeroed()
        };
        let pipeline = abi::Pipeline {
            surface: from.id,
            surface_color_standard: standard,
            output_color_standard: abi::STANDARD_BT709,
            // Opaque black: where nothing is drawn, though all of it is.
            output_background_color: 0xFF00_0000,
            input_color_properties: properties(range),
            output_color_properties: properties(abi::RANGE_REDUCED),
            ..abi::Pipeline::zeroed()
        };
        self.context.render(to, &[Part::Pipeline(&pipeline)])?;
        to.sync()
    }
}
