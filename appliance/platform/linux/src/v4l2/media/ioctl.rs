//! One function per ioctl of media devices and sub-devices.

use std::os::fd::AsFd;

use nix::errno::Errno;

use super::abi::{self, FrameFormat, Zeroed, request};
use super::graph::{Entity, Graph, Hop, Link, Pad};
use crate::v4l2::ioctl::{call, ioctl, text};

type Result<T> = std::result::Result<T, Errno>;

/// Most entities, pads, links or interfaces of a device: those of today's have a few hundred.
const MOST: u32 = 4096;

/// What the device consists of.
pub(super) fn topology(fd: &impl AsFd) -> Result<Graph> {
    // It may grow between the question for the numbers and that for the rest: then the kernel says ENOSPC.
    for _ in 0..8 {
        let mut raw = abi::Topology::zeroed();
        ioctl!(fd, G_TOPOLOGY, &mut raw)?;
        let counts = [raw.entities, raw.interfaces, raw.pads, raw.links];
        if counts.iter().any(|count| *count > MOST) {
            return Err(Errno::E2BIG);
        }
        let mut entities = room::<abi::Entity>(raw.entities);
        let mut interfaces = room::<abi::Interface>(raw.interfaces);
        let mut pads = room::<abi::Pad>(raw.pads);
        let mut links = room::<abi::Link>(raw.links);
        raw.entities_at = place(&mut entities);
        raw.interfaces_at = place(&mut interfaces);
        raw.pads_at = place(&mut pads);
        raw.links_at = place(&mut links);
        match ioctl!(fd, G_TOPOLOGY, &mut raw) {
            Ok(()) => {}
            Err(Errno::ENOSPC) => continue,
            Err(errno) => return Err(errno),
        }
        entities.truncate(length(raw.entities));
        interfaces.truncate(length(raw.interfaces));
        pads.truncate(length(raw.pads));
        links.truncate(length(raw.links));
        return Ok(graph(&entities, &interfaces, &pads, &links));
    }
    Err(Errno::EAGAIN)
}

fn length(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

fn room<T: Zeroed>(count: u32) -> Vec<T> {
    vec![T::zeroed(); length(count)]
}

fn place<T>(array: &mut [T]) -> u64 {
    // No place means to the kernel that nothing is wanted.
    if array.is_empty() {
        return 0;
    }
    array.as_mut_ptr().expose_provenance() as u64
}

fn graph(
    entities: &[abi::Entity],
    interfaces: &[abi::Interface],
    pads: &[abi::Pad],
    links: &[abi::Link],
) -> Graph {
    let entity = |raw: &abi::Entity| Entity {
        id: raw.id,
        name: text(&raw.name),
        connector: raw.flags & abi::ENTITY_CONNECTOR != 0,
    };
    let pad = |raw: &abi::Pad| Pad {
        id: raw.id,
        entity: raw.entity_id,
        index: raw.index,
        sink: raw.flags & abi::PAD_SINK != 0,
    };
    let of_type = |wanted: u32| {
        links
            .iter()
            .filter(move |raw| raw.flags & abi::LINK_TYPE == wanted)
    };
    let link = |raw: &abi::Link| Link {
        source: raw.source_id,
        sink: raw.sink_id,
        enabled: raw.flags & abi::LINK_ENABLED != 0,
        immutable: raw.flags & abi::LINK_IMMUTABLE != 0,
    };
    let node = |raw: &abi::Link| {
        let interface = interfaces
            .iter()
            .find(|interface| interface.id == raw.source_id)?;
        Some(((interface.major, interface.minor), raw.sink_id))
    };
    Graph {
        entities: entities.iter().map(entity).collect(),
        pads: pads.iter().map(pad).collect(),
        links: of_type(abi::LINK_DATA).map(link).collect(),
        nodes: of_type(abi::LINK_INTERFACE).filter_map(node).collect(),
    }
}

/// Switches a link.
pub(super) fn setup_link(fd: &impl AsFd, hop: Hop, on: bool) -> Result<()> {
    let end = |pad: Pad| {
        let mut raw = abi::PadDesc::zeroed();
        raw.entity = pad.entity;
        raw.index = u16::try_from(pad.index).unwrap_or(u16::MAX);
        raw
    };
    let mut raw = abi::LinkDesc::zeroed();
    (raw.source, raw.sink) = (end(hop.source), end(hop.sink));
    raw.flags = if on { abi::LINK_ENABLED } else { 0 };
    ioctl!(fd, SETUP_LINK, &mut raw)
}

pub(super) fn get_pad_format(fd: &impl AsFd, pad: u32) -> Result<FrameFormat> {
    let mut raw = abi::PadFormat::zeroed();
    (raw.which, raw.pad) = (abi::ACTIVE, pad);
    ioctl!(fd, SUBDEV_G_FMT, &mut raw)?;
    Ok(raw.format)
}

/// Sets a pad's format, or what the driver thinks is nearest: look at what comes back.
pub(super) fn set_pad_format(fd: &impl AsFd, pad: u32, format: FrameFormat) -> Result<FrameFormat> {
    let mut raw = abi::PadFormat::zeroed();
    (raw.which, raw.pad, raw.format) = (abi::ACTIVE, pad, format);
    ioctl!(fd, SUBDEV_S_FMT, &mut raw)?;
    Ok(raw.format)
}

/// The code with this index; `None` behind the last, and for drivers that list none.
pub(super) fn enum_code(fd: &impl AsFd, pad: u32, index: u32) -> Option<u32> {
    let mut raw = abi::MbusCode::zeroed();
    (raw.pad, raw.index, raw.which) = (pad, index, abi::ACTIVE);
    ioctl!(fd, SUBDEV_ENUM_MBUS_CODE, &mut raw).ok()?;
    Some(raw.code)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Links of the three types; an interface of nobody.
    #[test]
    fn the_kernels_lists_become_a_graph() {
        let mut entity = abi::Entity::zeroed();
        entity.id = 7;
        entity.name[..6].copy_from_slice(b"Sensor");
        let mut interface = abi::Interface::zeroed();
        (interface.id, interface.major, interface.minor) = (3, 81, 5);
        let mut pad = abi::Pad::zeroed();
        (pad.id, pad.entity_id, pad.index, pad.flags) = (9, 7, 1, abi::PAD_SINK);
        let link = |source_id, sink_id, flags| abi::Link {
            source_id,
            sink_id,
            flags,
            ..abi::Link::zeroed()
        };
        let links = [
            link(8, 9, abi::LINK_ENABLED | abi::LINK_IMMUTABLE),
            link(3, 7, abi::LINK_INTERFACE | abi::LINK_ENABLED),
            link(4, 7, abi::LINK_INTERFACE),
            link(7, 7, 2 << 28),
        ];
        let graph = graph(&[entity], &[interface], &[pad], &links);
        assert_eq!(graph.name_of(7), "Sensor");
        assert_eq!(graph.entity_of((81, 5)), Some(7));
        assert_eq!((graph.nodes.len(), graph.links.len()), (1, 1));
        assert!(graph.links[0].enabled && graph.links[0].immutable && graph.pads[0].sink);
    }
}
