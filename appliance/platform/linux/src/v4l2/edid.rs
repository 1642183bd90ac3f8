//! What an HDMI input tells the machine at its other end: its EDID (VESA E-EDID 1.3 with a CTA-861 extension).

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

/// Bytes of a block.
pub(super) const BLOCK: usize = 128;
/// Most blocks (VESA E-EDID 2.2.1: a count of 255 behind the first).
pub(super) const BLOCKS_MAX: usize = 256;

/// A display's description with valid check sums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edid(Vec<u8>);

/// An EDID that can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EdidError {
    /// The file can't be read.
    #[error("EDID file {path}: {source}")]
    File {
        /// Which one.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The bytes are not an EDID.
    #[error("{what}: write the bytes of an EDID (1 to 256 blocks of 128 bytes) into the file")]
    Broken {
        /// What is wrong.
        what: String,
    },
}

/// One mode of CTA-861 and what else the receiver takes.
struct Mode {
    name: &'static str,
    /// In 10 kHz.
    clock: u16,
    /// Columns: active, blank, front porch, sync.
    across: [u16; 4],
    /// Lines: the same.
    down: [u16; 4],
    /// Video identification codes (CTA-861, table 3), the preferred first; 0x80 marks the native one.
    codes: &'static [u8],
    /// `HDMI_VIC` of HDMI 1.4b, table 8-13: 4K modes.
    hdmi_code: Option<u8>,
    /// Highest TMDS clock in 5 MHz.
    tmds: u8,
    /// Highest line rate in kHz.
    lines: u8,
}

const MODES: [Mode; 4] = [
    Mode {
        name: "1080p60",
        clock: 14_850,
        across: [1920, 280, 88, 44],
        down: [1080, 45, 4, 5],
        codes: &[0x80 | 16, 34, 4, 1],
        hdmi_code: None,
        tmds: 30,
        lines: 68,
    },
    Mode {
        name: "1080p30",
        clock: 7_425,
        across: [1920, 280, 88, 44],
        down: [1080, 45, 4, 5],
        codes: &[0x80 | 34, 4, 1],
        hdmi_code: None,
        tmds: 15,
        lines: 46,
    },
    Mode {
        name: "720p60",
        clock: 7_425,
        across: [1280, 370, 110, 40],
        down: [720, 30, 5, 5],
        codes: &[0x80 | 4, 1],
        hdmi_code: None,
        tmds: 15,
        lines: 46,
    },
    Mode {
        name: "4K30",
        clock: 29_700,
        across: [3840, 560, 176, 88],
        down: [2160, 90, 8, 10],
        codes: &[95, 16, 34, 4, 1],
        hdmi_code: Some(1),
        tmds: 60,
        lines: 68,
    },
];

impl Edid {
    /// Names of the built-in ones, as in the story.
    pub const NAMES: [&'static str; 4] =
        [MODES[0].name, MODES[1].name, MODES[2].name, MODES[3].name];

    /// A built-in one by its name: RGB only, one preferred mode and smaller ones beside it.
    #[must_use]
    pub fn built_in(name: &str) -> Option<Self> {
        MODES.iter().find(|mode| mode.name == name).map(build)
    }

    /// A built-in one by its name, else from the file of that path.
    ///
    /// # Errors
    /// [`EdidError`]: the file can't be read or holds no EDID.
    pub fn load(name: &str) -> Result<Self, EdidError> {
        if let Some(edid) = Self::built_in(name) {
            return Ok(edid);
        }
        let failed = |source| EdidError::File {
            path: name.to_owned(),
            source,
        };
        let file = fs::File::open(Path::new(name)).map_err(failed)?;
        let mut bytes = Vec::new();
        file.take((BLOCK * BLOCKS_MAX + 1) as u64)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        Self::parse(bytes)
    }

    /// Takes bytes that are whole blocks with right check sums.
    ///
    /// # Errors
    /// [`EdidError::Broken`].
    pub fn parse(bytes: Vec<u8>) -> Result<Self, EdidError> {
        let broken = |what: String| Err(EdidError::Broken { what });
        let (blocks, rest) = bytes.as_chunks::<BLOCK>();
        let Some(first) = blocks.first().filter(|_| rest.is_empty()) else {
            return broken(format!("{} bytes are no EDID", bytes.len()));
        };
        if !first.starts_with(&HEADER) {
            return broken("an EDID starts with 00 ff ff ff ff ff ff 00".to_owned());
        }
        let named = usize::from(first[BLOCK - 2]) + 1;
        if named != blocks.len() {
            return broken(format!("it says {named} blocks and has {}", blocks.len()));
        }
        for (index, block) in blocks.iter().enumerate() {
            if sum(block) != 0 {
                return broken(format!("the check sum of block {index} is wrong"));
            }
        }
        Ok(Self(bytes))
    }

    /// Whole blocks of 128 bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

const HEADER: [u8; 8] = [0, 255, 255, 255, 255, 255, 255, 0];

fn sum(block: &[u8]) -> u8 {
    block.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn build(mode: &Mode) -> Edid {
    let mut bytes = Vec::with_capacity(2 * BLOCK);
    bytes.extend(HEADER);
    // Manufacturer LNX (five bits a letter), product 1, no serial number, 2026.
    bytes.extend([0x31, 0xd8, 1, 0, 0, 0, 0, 0, 0, 36]);
    // EDID 1.3; digital; size unknown; gamma 2.2; RGB, sRGB by default, the first timing is preferred.
    bytes.extend([1, 3, 0x80, 0, 0, 120, 0x0e]);
    // sRGB's primaries and white (E-EDID 3.7).
    bytes.extend([0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54]);
    // 640x480 at 60 Hz, which every display has; no standard timings.
    bytes.extend([0x20, 0, 0]);
    bytes.extend([1; 16]);
    bytes.extend(timing(mode));
    bytes.extend(*b"\0\0\0\xfc\0Soft KVM\n    ");
    // Range limits: 24 to 61 Hz, from 30 kHz on, pixel clock in 10 MHz.
    let clock = u8::try_from(mode.clock.div_ceil(1_000)).unwrap_or(u8::MAX);
    bytes.extend([0, 0, 0, 0xfd, 0, 24, 61, 30, mode.lines, clock, 0]);
    bytes.extend(*b"\n      ");
    // A dummy descriptor; one extension.
    bytes.extend([0, 0, 0, 0x10]);
    bytes.extend([0; 14]);
    bytes.push(1);
    seal(&mut bytes, BLOCK);

    let mut blocks = Vec::new();
    data_block(&mut blocks, 2, mode.codes);
    // HDMI's vendor block (HDMI 1.4b, 8.3.2): address 1.0.0.0, highest clock, and 4K modes by their own codes.
    let mut vendor = vec![0x03, 0x0c, 0x00, 0x10, 0x00, 0x00, mode.tmds];
    if let Some(code) = mode.hdmi_code {
        vendor.extend([0x20, 0, 1 << 5, code]);
    }
    data_block(&mut blocks, 3, &vendor);
    // Video capabilities: the range of RGB may be chosen; both kinds of formats are always underscanned.
    data_block(&mut blocks, 7, &[0, 0x4a]);
    // CTA-861 extension 3; timings would follow the data blocks; underscan, no audio, RGB only, one native timing.
    let end = u8::try_from(4 + blocks.len()).unwrap_or(4);
    bytes.extend([2, 3, end, 0x81]);
    bytes.extend(blocks);
    seal(&mut bytes, 2 * BLOCK);
    Edid(bytes)
}

/// Fills a block up and adds its check sum.
fn seal(bytes: &mut Vec<u8>, end: usize) {
    bytes.resize(end - 1, 0);
    let block = bytes.get(end - BLOCK..).unwrap_or_default();
    bytes.push(sum(block).wrapping_neg());
}

/// A data block of a CTA-861 extension: tag and length in one byte.
fn data_block(blocks: &mut Vec<u8>, tag: u8, payload: &[u8]) {
    blocks.push(tag << 5 | u8::try_from(payload.len()).unwrap_or(0));
    blocks.extend(payload);
}

/// A detailed timing descriptor (E-EDID 3.10.2), both sync pulses positive.
fn timing(mode: &Mode) -> [u8; 18] {
    let low = |value: u16| value.to_le_bytes()[0];
    let high = |value: u16| value.to_le_bytes()[1];
    let ([width, blank, porch, sync], [height, gap, front, pulse]) = (mode.across, mode.down);
    [
        low(mode.clock),
        high(mode.clock),
        low(width),
        low(blank),
        high(width) << 4 | high(blank),
        low(height),
        low(gap),
        high(height) << 4 | high(gap),
        low(porch),
        low(sync),
        low(front) << 4 | low(pulse) & 15,
        high(porch) << 6 | high(sync) << 4 | low(front) >> 4 << 2 | low(pulse) >> 4,
        0,
        0,
        0,
        0,
        0,
        0x1e,
    ]
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn built_in_ones_are_two_whole_blocks_with_the_timing_first() {
        for (name, size, millihertz) in [
            ("1080p60", (1920, 1080), 60_000),
            ("1080p30", (1920, 1080), 30_000),
            ("720p60", (1280, 720), 60_000),
            ("4K30", (3840, 2160), 30_000),
        ] {
            let edid = Edid::built_in(name).expect("a name of the list");
            assert_eq!(edid.bytes().len(), 2 * BLOCK);
            assert_eq!(Edid::parse(edid.0.clone()).expect("valid"), edid);
            let t = edid.0[54..72]
                .iter()
                .map(|byte| u64::from(*byte))
                .collect::<Vec<_>>();
            let across = (t[2] | (t[4] >> 4) << 8, t[3] | (t[4] & 15) << 8);
            let down = (t[5] | (t[7] >> 4) << 8, t[6] | (t[7] & 15) << 8);
            assert_eq!((across.0, down.0), size);
            let total = (across.0 + across.1) * (down.0 + down.1);
            assert_eq!((t[0] | t[1] << 8) * 10_000_000 / total, millihertz);
        }
        assert_eq!(Edid::NAMES.len(), 4);
        assert_eq!(Edid::built_in("8K"), None);
    }

    /// Debian's `edid-decode`, where it is there, finds nothing that fails conformity.
    #[test]
    fn edid_decode_accepts_them() {
        for name in Edid::NAMES {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let path = folder.path().join(name);
            fs::write(&path, Edid::built_in(name).expect("a name").bytes()).expect("written");
            let Ok(output) = Command::new("edid-decode")
                .args(["--check".as_ref(), path.as_os_str()])
                .stdin(Stdio::null())
                .output()
            else {
                return;
            };
            let told = String::from_utf8_lossy(&output.stdout);
            assert!(told.contains("EDID conformity: PASS"), "{name}: {told}");
        }
    }

    #[test]
    fn files_are_read_and_checked() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("edid.bin").display().to_string();
        let good = Edid::built_in("720p60").expect("a name");
        fs::write(&path, good.bytes()).expect("written");
        assert_eq!(Edid::load(&path).expect("a file"), good);
        for (at, what) in [
            (0, "starts with"),
            (60, "check sum of block 0"),
            (126, "blocks"),
            (200, "block 1"),
        ] {
            let mut bad = good.0.clone();
            bad[at] ^= 4;
            fs::write(&path, &bad).expect("written");
            let told = Edid::load(&path).expect_err("broken").to_string();
            assert!(told.contains(what), "{told}");
        }
        assert!(matches!(
            Edid::load("/nowhere"),
            Err(EdidError::File { .. })
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(Edid::parse(bytes).is_err());
        }
    }
}
