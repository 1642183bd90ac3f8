//! Capture nodes that are the end of a way through sub-devices (the kernel's media controller): receivers on CSI-2, such
//! as the TC358743 on a Raspberry Pi 5. Links, formats and timings are set on the sub-devices; the node streams.

mod abi;
mod graph;
mod ioctl;
mod negotiate;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use soft_kvm_core::Size;
use soft_kvm_video::source::SourceError;

use self::abi::FrameFormat;
use self::graph::{Graph, Hop, Number, Pad};
use self::negotiate::{Pads, Refusal, negotiate};
use super::color::Fields;
use super::device::{failed, open_error};
use crate::broker::{self, Kind};

/// The way to an opened node, with its links on.
#[derive(Debug)]
pub(super) struct Pipeline {
    way: Vec<Hop>,
    /// By entity; those without a node follow by themselves.
    subdevices: BTreeMap<u32, OwnedFd>,
    /// The entity that receives a signal with timings.
    receiver: Option<u32>,
    /// The way for people.
    pub(super) names: String,
}

/// What comes out of a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Output {
    /// `MEDIA_BUS_FMT_*`.
    pub(super) code: u32,
    pub(super) size: Size,
    /// `None` where the sub-devices do not tell what their samples mean.
    pub(super) color: Option<Fields>,
}

impl Pipeline {
    /// Finds the way to the node that is opened as `node`, switches its links on and opens its sub-devices.
    pub(super) fn open(node: &OwnedFd, device: &str) -> Result<Self, SourceError> {
        let number = number(node).map_err(|errno| failed(device, "fstat", errno))?;
        let (media, path, graph) = media_of(number, device)?;
        let unsupported = |what: String| SourceError::Unsupported {
            device: device.to_owned(),
            what,
        };
        let way = graph.entity_of(number).and_then(|entity| graph.way(entity));
        let way = way.ok_or_else(|| {
            let path = path.display();
            unsupported(format!("no receiver and no sensor can be joined to it on {path}: is one in the device tree?"))
        })?;
        for (hop, on) in graph.switches(&way) {
            let (source, sink) = (
                graph.name_of(hop.source.entity),
                graph.name_of(hop.sink.entity),
            );
            tracing::info!(device, source, sink, on, "a link is switched");
            ioctl::setup_link(&media, hop, on)
                .map_err(|errno| failed(device, "MEDIA_IOC_SETUP_LINK", errno))?;
        }
        let mut subdevices = BTreeMap::new();
        for hop in &way {
            let entity = hop.source.entity;
            if let Some(path) = graph
                .node_of(entity)
                .and_then(|number| named("v4l-subdev", number))
            {
                let fd = broker::open(Kind::Media, &path)
                    .map_err(|error| open_error(&path.display().to_string(), error))?;
                subdevices.insert(entity, fd);
            }
        }
        let names = way.iter().map(|hop| graph.name_of(hop.source.entity));
        let names = names.collect::<Vec<_>>().join(" → ");
        tracing::info!(device, way = names, "pictures come through sub-devices");
        let first = way.first().map(|hop| hop.source.entity);
        let receiver = first.filter(|entity| {
            let fd = subdevices.get(entity);
            fd.is_some_and(|fd| matches!(super::ioctl::query_dv_timings(fd), Ok(Some(_))))
        });
        Ok(Self {
            way,
            subdevices,
            receiver,
            names,
        })
    }

    /// The sub-device that has timings, an EDID and events of its signal.
    pub(super) fn receiver(&self) -> Option<&OwnedFd> {
        self.subdevices.get(&self.receiver?)
    }

    /// Sets the formats of the whole way, so that the node can give what comes in a format that `is_taken`.
    pub(super) fn configure(
        &self,
        device: &str,
        size: Size,
        is_taken: &mut dyn FnMut(u32) -> bool,
    ) -> Result<Output, SourceError> {
        let mut opened = Opened {
            pipeline: self,
            is_taken,
        };
        let format = negotiate(&mut opened, &self.way, Some(size));
        let format = format.map_err(|refusal| self.refused(device, &refusal))?;
        let color = Fields {
            colorspace: format.colorspace,
            ycbcr_enc: format.ycbcr_enc.into(),
            quantization: format.quantization.into(),
        };
        Ok(Output {
            code: format.code,
            size: Size::new(format.width, format.height),
            color: (format.colorspace != 0).then_some(color),
        })
    }

    fn refused(&self, device: &str, refusal: &Refusal) -> SourceError {
        if let (true, Some(errno)) = (refusal.codes.is_empty(), refusal.errno) {
            return failed(device, "VIDIOC_SUBDEV_S_FMT", errno);
        }
        let codes = refusal.codes.iter().map(|code| format!("{code:#06x}"));
        let codes = codes.collect::<Vec<_>>().join(", ");
        let names = &self.names;
        let what = format!(
            "{names} gives nothing that can be shown (media bus codes {codes}): raw pictures of a camera need an ISP"
        );
        SourceError::Unsupported {
            device: device.to_owned(),
            what,
        }
    }
}

/// The pads of a pipeline's sub-devices.
struct Opened<'a> {
    pipeline: &'a Pipeline,
    is_taken: &'a mut dyn FnMut(u32) -> bool,
}

impl Opened<'_> {
    fn fd(&self, pad: Pad) -> Result<&OwnedFd, Errno> {
        self.pipeline
            .subdevices
            .get(&pad.entity)
            .ok_or(Errno::ENODEV)
    }
}

impl Pads for Opened<'_> {
    fn get(&mut self, pad: Pad) -> Result<FrameFormat, Errno> {
        ioctl::get_pad_format(self.fd(pad)?, pad.index)
    }

    fn set(&mut self, pad: Pad, format: FrameFormat) -> Result<FrameFormat, Errno> {
        ioctl::set_pad_format(self.fd(pad)?, pad.index, format)
    }

    fn code(&mut self, pad: Pad, index: u32) -> Option<u32> {
        ioctl::enum_code(self.fd(pad).ok()?, pad.index, index)
    }

    fn is_taken(&mut self, code: u32) -> bool {
        (self.is_taken)(code)
    }
}

/// The media device that a node belongs to.
fn media_of(node: Number, device: &str) -> Result<(OwnedFd, PathBuf, Graph), SourceError> {
    let mut refused = None;
    for path in nodes("media") {
        let fd = match broker::open(Kind::Media, &path) {
            Ok(fd) => fd,
            Err(error) => {
                refused = Some(open_error(&path.display().to_string(), error));
                continue;
            }
        };
        match ioctl::topology(&fd) {
            Ok(graph) if graph.entity_of(node).is_some() => return Ok((fd, path, graph)),
            Ok(_) => {}
            Err(errno) => tracing::debug!(path = %path.display(), %errno, "MEDIA_IOC_G_TOPOLOGY"),
        }
    }
    Err(refused.unwrap_or_else(|| SourceError::Unsupported {
        device: device.to_owned(),
        what: "needs its media device, and there is none in /dev".to_owned(),
    }))
}

/// The nodes in `/dev` that are called `prefix` and a number, in order.
fn nodes(prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir("/dev").into_iter().flatten().flatten();
    let mut numbers: Vec<u32> = entries
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .strip_prefix(prefix)?
                .parse()
                .ok()
        })
        .collect();
    numbers.sort_unstable();
    numbers
        .into_iter()
        .map(|number| Path::new("/dev").join(format!("{prefix}{number}")))
        .collect()
}

/// The node with this number.
fn named(prefix: &str, wanted: Number) -> Option<PathBuf> {
    nodes(prefix).into_iter().find(|path| {
        path.metadata()
            .is_ok_and(|metadata| split(metadata.rdev()) == wanted)
    })
}

fn number(node: &OwnedFd) -> Result<Number, Errno> {
    nix::sys::stat::fstat(node.as_fd()).map(|stat| split(stat.st_rdev))
}

fn split(device: u64) -> Number {
    (libc::major(device), libc::minor(device))
}
