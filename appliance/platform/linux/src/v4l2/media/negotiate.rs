//! One format for all pads of a way: set from the source on, and what comes out at the node is a format that is taken.

use nix::errno::Errno;
use soft_kvm_core::Size;

use super::abi::FrameFormat;
use super::graph::{Hop, Pad};

/// Formats that may be set before it is given up: drivers list dozens of codes, and each is tried on the whole way.
const TRIES: u32 = 400;
/// Codes of one pad that are tried.
const CODES_MAX: usize = 64;

/// Pads of opened sub-devices, and what the node at the end makes of their formats.
pub(super) trait Pads {
    /// The format that is set.
    fn get(&mut self, pad: Pad) -> Result<FrameFormat, Errno>;
    /// Sets a format, or what the driver thinks is nearest.
    fn set(&mut self, pad: Pad, format: FrameFormat) -> Result<FrameFormat, Errno>;
    /// The code with this index (`MEDIA_BUS_FMT_*`); `None` behind the last.
    fn code(&mut self, pad: Pad, index: u32) -> Option<u32>;
    /// Whether the node gives pictures of this code in a format that is taken.
    fn is_taken(&mut self, code: u32) -> bool;
}

/// Why no format goes the whole way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Codes that came to the node, and are none that it gives pictures of.
    pub(super) codes: Vec<u32>,
    /// The last error of a driver.
    pub(super) errno: Option<Errno>,
}

/// Sets the pads of a way, and gives the format at its end. `size` is asked of the source, which may have its own.
pub(super) fn negotiate(
    pads: &mut dyn Pads,
    way: &[Hop],
    size: Option<Size>,
) -> Result<FrameFormat, Refusal> {
    let mut search = Search {
        pads,
        way,
        size,
        left: TRIES,
        refusal: Refusal::default(),
    };
    match search.from(0, None) {
        Some(format) => Ok(format),
        None => Err(search.refusal),
    }
}

struct Search<'a> {
    pads: &'a mut dyn Pads,
    way: &'a [Hop],
    size: Option<Size>,
    left: u32,
    refusal: Refusal,
}

impl Search<'_> {
    /// Sets what the hop with this index joins and all behind it; `came` is what the entity before it takes.
    fn from(&mut self, index: usize, came: Option<FrameFormat>) -> Option<FrameFormat> {
        let hop = *self.way.get(index)?;
        let now = self.pads.get(hop.source);
        let now = self.noted(now)?;
        for code in self.codes(hop.source, now.code, came.map(|format| format.code)) {
            self.left = self.left.checked_sub(1)?;
            let mut wanted = FrameFormat { code, ..now };
            if let (0, Some(size)) = (index, self.size) {
                (wanted.width, wanted.height) = (size.width, size.height);
            }
            let set = self.pads.set(hop.source, wanted);
            let Some(set) = self.noted(set).filter(|set| set.code == code) else {
                continue;
            };
            if index + 1 == self.way.len() {
                if self.pads.is_taken(code) {
                    return Some(set);
                }
                if !self.refusal.codes.contains(&code) {
                    self.refusal.codes.push(code);
                }
                continue;
            }
            let given = self.pads.set(hop.sink, set);
            let fits = |given: &FrameFormat| {
                (given.code, given.width, given.height) == (set.code, set.width, set.height)
            };
            let Some(given) = self.noted(given).filter(fits) else {
                continue;
            };
            if let Some(format) = self.from(index + 1, Some(given)) {
                return Some(format);
            }
        }
        None
    }

    /// The codes to try on a source pad: what is set, what came in, what is listed.
    fn codes(&mut self, pad: Pad, now: u32, came: Option<u32>) -> Vec<u32> {
        let mut codes = vec![now];
        let listed = (0_u32..).map_while(|index| self.pads.code(pad, index));
        for code in came.into_iter().chain(listed.take(CODES_MAX)) {
            if !codes.contains(&code) {
                codes.push(code);
            }
        }
        codes
    }

    fn noted<T>(&mut self, result: Result<T, Errno>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(errno) => {
                self.refusal.errno = Some(errno);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::abi::Zeroed as _;
    use super::*;

    const RAW: u32 = 0x3014;
    const RGB: u32 = 0x100a;
    const YUV: u32 = 0x200f;

    fn pad(entity: u32, index: u32, sink: bool) -> Pad {
        Pad {
            id: entity * 10 + index,
            entity,
            index,
            sink,
        }
    }

    fn way(entities: u32) -> Vec<Hop> {
        let hop = |entity| Hop {
            source: pad(entity, 1, false),
            sink: pad(entity + 1, 0, true),
            enabled: true,
        };
        (0..entities).map(hop).collect()
    }

    /// Entity 0 makes pictures of `makes`; the others pass what comes, but for the `converter`, which makes RGB or YUV
    /// of raw pictures. `fixed` is a size that the source cannot change, `most` what a sink takes.
    struct Chain {
        makes: Vec<u32>,
        converter: Option<u32>,
        fixed: Option<Size>,
        most: u32,
        taken: Vec<u32>,
        formats: BTreeMap<u32, FrameFormat>,
        sets: u32,
    }

    impl Chain {
        fn new(makes: &[u32], taken: &[u32]) -> Self {
            Self {
                makes: makes.to_vec(),
                converter: None,
                fixed: None,
                most: 4096,
                taken: taken.to_vec(),
                formats: BTreeMap::new(),
                sets: 0,
            }
        }

        fn codes(&self, pad: Pad) -> Vec<u32> {
            match (pad.entity, pad.sink) {
                (0, _) => self.makes.clone(),
                (entity, true) if self.converter == Some(entity) => vec![RAW],
                (entity, false) if self.converter == Some(entity) => vec![RGB, YUV],
                (_, true) => vec![RAW, RGB, YUV],
                (entity, false) => {
                    let sink = self.formats.get(&(entity * 10));
                    vec![sink.map_or(RGB, |format| format.code)]
                }
            }
        }
    }

    impl Pads for Chain {
        fn get(&mut self, pad: Pad) -> Result<FrameFormat, Errno> {
            let codes = self.codes(pad);
            let mut format = self
                .formats
                .get(&pad.id)
                .copied()
                .unwrap_or_else(|| FrameFormat {
                    width: 320,
                    height: 240,
                    ..FrameFormat::zeroed()
                });
            if !codes.contains(&format.code) {
                format.code = codes[0];
            }
            Ok(format)
        }

        fn set(&mut self, pad: Pad, mut format: FrameFormat) -> Result<FrameFormat, Errno> {
            self.sets += 1;
            let codes = self.codes(pad);
            if !codes.contains(&format.code) {
                format.code = codes[0];
            }
            if let (0, Some(size)) = (pad.entity, self.fixed) {
                (format.width, format.height) = (size.width, size.height);
            }
            format.width = format.width.min(self.most);
            self.formats.insert(pad.id, format);
            if pad.sink {
                // As drivers do: the entity's other side follows.
                let follow = Pad {
                    id: pad.id + 1,
                    index: 1,
                    sink: false,
                    ..pad
                };
                let followed = FrameFormat {
                    code: self.codes(follow)[0],
                    ..format
                };
                self.formats.insert(follow.id, followed);
            }
            Ok(format)
        }

        fn code(&mut self, pad: Pad, index: u32) -> Option<u32> {
            self.codes(pad).get(index as usize).copied()
        }

        fn is_taken(&mut self, code: u32) -> bool {
            self.taken.contains(&code)
        }
    }

    const HD: Size = Size::new(1280, 720);

    #[test]
    fn the_size_and_a_code_that_is_taken_reach_the_end() {
        let mut chain = Chain::new(&[RAW, YUV, RGB], &[RGB]);
        let format = negotiate(&mut chain, &way(3), Some(HD)).expect("RGB all along");
        assert_eq!((format.code, format.width, format.height), (RGB, 1280, 720));
        for id in [1, 10, 11, 20, 21] {
            assert_eq!(chain.formats[&id].code, RGB, "pad {id}");
            assert_eq!(chain.formats[&id].width, 1280, "pad {id}");
        }
    }

    #[test]
    fn a_converter_on_the_way_makes_what_is_taken() {
        let mut chain = Chain::new(&[RAW], &[YUV]);
        chain.converter = Some(1);
        let format = negotiate(&mut chain, &way(3), Some(HD)).expect("YUV behind the converter");
        assert_eq!(format.code, YUV);
        assert_eq!(
            (chain.formats[&10].code, chain.formats[&11].code),
            (RAW, YUV)
        );
        assert_eq!(chain.formats[&20].code, YUV);
    }

    #[test]
    fn a_receiver_keeps_the_size_of_its_signal() {
        let mut chain = Chain::new(&[YUV], &[YUV]);
        chain.fixed = Some(Size::new(800, 600));
        let format = negotiate(&mut chain, &way(2), Some(HD)).expect("a format");
        assert_eq!((format.width, format.height), (800, 600));
    }

    #[test]
    fn what_cannot_be_is_told() {
        let mut chain = Chain::new(&[RAW], &[RGB]);
        let refusal = negotiate(&mut chain, &way(2), None).expect_err("raw pictures only");
        assert_eq!(refusal.codes, [RAW]);
    }

    #[test]
    fn a_driver_with_codes_without_end_ends_the_search() {
        struct Endless(u32);
        impl Pads for Endless {
            fn get(&mut self, _: Pad) -> Result<FrameFormat, Errno> {
                Ok(FrameFormat::zeroed())
            }
            fn set(&mut self, _: Pad, format: FrameFormat) -> Result<FrameFormat, Errno> {
                self.0 += 1;
                Ok(format)
            }
            fn code(&mut self, _: Pad, index: u32) -> Option<u32> {
                Some(index)
            }
            fn is_taken(&mut self, _: u32) -> bool {
                false
            }
        }
        let mut endless = Endless(0);
        assert!(negotiate(&mut endless, &way(5), None).is_err());
        assert!(endless.0 <= 2 * TRIES);
        struct Broken;
        impl Pads for Broken {
            fn get(&mut self, _: Pad) -> Result<FrameFormat, Errno> {
                Err(Errno::EIO)
            }
            fn set(&mut self, _: Pad, _: FrameFormat) -> Result<FrameFormat, Errno> {
                Err(Errno::EIO)
            }
            fn code(&mut self, _: Pad, _: u32) -> Option<u32> {
                None
            }
            fn is_taken(&mut self, _: u32) -> bool {
                true
            }
        }
        let refusal = negotiate(&mut Broken, &way(1), None).expect_err("nothing works");
        assert_eq!(refusal.errno, Some(Errno::EIO));
    }
}
