//! `--record`: the received H.264 in an MP4 file, copied, not encoded again.
//!
//! The file is a fragmented MP4: about every second, and before every IDR picture, what came since is written with one
//! `write`. So a player can open the file at any moment, and after a crash it has all but the last second.
//!
//! The sample entry is `avc1` with the parameter sets in `avcC`, the form that every player and browser takes. A picture of
//! another size needs another sample entry, which players handle badly in the middle of a file: the
//! recording goes on in `NAME-2.mp4`, and so on. Parameter sets that change while the size stays (an encoder that numbers
//! them anew) are kept in the stream, where decoders find them.

mod fragment;
mod h264;
mod thread;

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use soft_kvm_core::{MonoTime, Size};
use soft_kvm_protocol::media::SequenceParameterSet;

use fragment::{Sample, TIMESCALE};
pub use thread::{RecordStatus, RecordThread};

/// A fragment is written when it holds this much, in ticks.
const FRAGMENT_TICKS: u64 = TIMESCALE as u64;
/// A fragment is written when it holds this many bytes, whatever its duration.
const FRAGMENT_BYTES: usize = 64 << 20;
/// A pause longer than this is stored as this, in ticks: an hour.
const LONGEST_TICKS: u64 = TIMESCALE as u64 * 3_600;
/// Numbers tried for further files of a recording.
const MOST_FILES: u32 = 9_999;
/// What the very last picture of a recording lasts when it has no predecessor, in ticks.
const LAST_TICKS: u64 = TIMESCALE as u64 / 30;

/// Why a recording stopped. What was written before stays playable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The file exists, and `overwrite` was not given.
    #[error("{}: the file exists: give another name, or allow overwriting it", .0.display())]
    Exists(PathBuf),
    /// The file cannot be made.
    #[error("{}: cannot create the recording: {source}", .path.display())]
    Create {
        /// The file that was to be made.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Writing failed: disk full, medium gone.
    #[error(
        "{}: the recording stopped: {source}; what was written before is kept", .path.display()
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk does not keep up.
    #[error("{}: the recording stopped: the disk is too slow; what was written before is kept", .0.display())]
    TooSlow(PathBuf),
    /// The stream cannot be stored in an MP4 file.
    #[error("{}: the recording stopped: {what}", .path.display())]
    Stream {
        /// The file.
        path: PathBuf,
        /// What is wrong with the stream.
        what: String,
    },
}

/// A recording. Writes on the calling thread; [`RecordThread`] has a thread of its own.
///
/// After an error it takes no more pictures and gives the same kind of answer as a finished one: nothing.
#[derive(Debug)]
pub struct Recorder {
    /// The name that was asked for; later files are numbered after it.
    first: PathBuf,
    path: PathBuf,
    overwrite: bool,
    /// Created at the start, so that a wrong path is known before the session; `None` between two files.
    file: Option<File>,
    /// Files so far.
    files: u32,
    stopped: bool,
    track: Option<Track>,
    timeline: Timeline,
    /// Reused for each fragment: `moof`, `mdat` and the samples.
    out: Vec<u8>,
    written: u64,
}

/// The file that is being filled.
#[derive(Debug)]
struct Track {
    size: Size,
    sps: Vec<u8>,
    pps: Vec<u8>,
    /// The parameter sets have changed once: they stay in the stream from here on.
    in_band: bool,
    /// Bytes of the file up to the last complete fragment.
    length: u64,
    fragments: u32,
    /// Decode time of the fragment's first sample and of the pending one, in ticks since the file's start.
    start: u64,
    pending_at: u64,
    /// The last sample's duration is known only when the next one comes.
    pending: Option<(u32, bool)>,
    samples: Vec<Sample>,
    data: Vec<u8>,
}

/// Capture times to ticks that always go up: a peer that starts again starts its clock again, too.
#[derive(Debug, Default)]
struct Timeline {
    last: Option<MonoTime>,
    /// Nanoseconds since the file's start.
    nanos: u64,
}

impl Timeline {
    fn ticks(&mut self, captured: MonoTime) -> u64 {
        let before = self.as_ticks();
        if let Some(last) = self.last.replace(captured) {
            let step = u64::try_from(captured.since(last).as_nanos()).unwrap_or(u64::MAX);
            let longest = LONGEST_TICKS * 1_000_000_000 / u64::from(TIMESCALE);
            let shortest = 1_000_000_000u64.div_ceil(u64::from(TIMESCALE));
            self.nanos += step.clamp(shortest, longest);
        }
        self.as_ticks().max(before)
    }

    fn as_ticks(&self) -> u64 {
        let ticks = u128::from(self.nanos) * u128::from(TIMESCALE) / 1_000_000_000;
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }
}

impl Recorder {
    /// Creates the file. Nothing is written before the first IDR picture.
    ///
    /// # Errors
    /// [`RecordError::Exists`] when the file is there and `overwrite` is not set; [`RecordError::Create`].
    pub fn create(path: &Path, overwrite: bool) -> Result<Self, RecordError> {
        let file = create(path, overwrite)?;
        Ok(Self {
            first: path.to_owned(),
            path: path.to_owned(),
            overwrite,
            file: Some(file),
            files: 1,
            stopped: false,
            track: None,
            timeline: Timeline::default(),
            out: Vec::new(),
            written: 0,
        })
    }

    /// The file that is being written now.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes written so far, over all files.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.written
    }

    /// Takes one access unit in Annex B form. Those before the first IDR picture are left out.
    ///
    /// `captured` may be of any one clock; when it jumps back, the recording goes on without a gap.
    ///
    /// # Errors
    /// [`RecordError`], once; the recording is over then, and later calls do nothing.
    pub fn push(&mut self, access_unit: &[u8], captured: MonoTime) -> Result<(), RecordError> {
        if self.stopped {
            return Ok(());
        }
        let result = self.try_push(access_unit, captured);
        self.stopped = result.is_err();
        result
    }

    /// Writes what is left. The files are complete without it, except for the last second.
    ///
    /// # Errors
    /// [`RecordError`] when writing fails.
    pub fn finish(mut self) -> Result<(), RecordError> {
        if self.stopped {
            return Ok(());
        }
        self.close_file()
    }

    fn try_push(&mut self, access_unit: &[u8], captured: MonoTime) -> Result<(), RecordError> {
        let unit = Unit::of(access_unit);
        if unit.idr {
            self.start_here(&unit)?;
        }
        let Some(track) = &mut self.track else {
            return Ok(());
        };
        if !unit.has_picture {
            return Ok(());
        }
        let at = self.timeline.ticks(captured);
        track.complete_pending(at);
        if unit.idr || at - track.start >= FRAGMENT_TICKS || track.data.len() > FRAGMENT_BYTES {
            self.write_fragment()?;
        }
        if let Some(track) = &mut self.track {
            track.add(access_unit, unit.idr, at);
        }
        Ok(())
    }

    /// An IDR picture: opens a file when there is none for pictures of this size.
    fn start_here(&mut self, unit: &Unit<'_>) -> Result<(), RecordError> {
        let (Some(sps), Some(pps)) = (unit.sps, unit.pps) else {
            // Nothing changes for a stream that has told its parameter sets before.
            return Ok(());
        };
        let Some(info) = SequenceParameterSet::parse(sps) else {
            return Err(self.bad_stream("the sequence parameter set is not understood"));
        };
        match &mut self.track {
            Some(track) if track.size == info.size() => {
                track.in_band |= track.sps != sps || track.pps != pps;
                return Ok(());
            }
            Some(_) => {
                self.close_file()?;
                self.open_next()?;
            }
            None => {}
        }
        self.begin(sps, pps, info)
    }

    fn begin(
        &mut self,
        sps: &[u8],
        pps: &[u8],
        info: SequenceParameterSet,
    ) -> Result<(), RecordError> {
        let header = fragment::header(sps, pps, info)
            .map_err(|error| self.bad_stream(&error.to_string()))?;
        self.append(&header, 0)?;
        self.timeline = Timeline::default();
        self.track = Some(Track {
            size: info.size(),
            sps: sps.to_owned(),
            pps: pps.to_owned(),
            in_band: false,
            length: u64::try_from(header.len()).unwrap_or(u64::MAX),
            fragments: 0,
            start: 0,
            pending_at: 0,
            pending: None,
            samples: Vec::new(),
            data: Vec::new(),
        });
        Ok(())
    }

    fn close_file(&mut self) -> Result<(), RecordError> {
        if let Some(track) = &mut self.track {
            let last = track
                .samples
                .last()
                .map_or(LAST_TICKS, |sample| u64::from(sample.duration));
            track.complete_pending(track.pending_at + last);
            self.write_fragment()?;
        }
        self.track = None;
        self.file = None;
        Ok(())
    }

    /// The next number that is free: an earlier recording's file is not in the way.
    fn open_next(&mut self) -> Result<(), RecordError> {
        loop {
            self.files += 1;
            let path = numbered(&self.first, self.files);
            match create(&path, self.overwrite) {
                Err(RecordError::Exists(_)) if self.files < MOST_FILES => {}
                Err(error) => return Err(error),
                Ok(file) => {
                    self.file = Some(file);
                    self.path = path;
                    return Ok(());
                }
            }
        }
    }

    fn write_fragment(&mut self) -> Result<(), RecordError> {
        let Some(track) = &mut self.track else {
            return Ok(());
        };
        if track.samples.is_empty() {
            return Ok(());
        }
        let mut out = std::mem::take(&mut self.out);
        let made = fragment::fragment_head(
            &mut out,
            track.fragments + 1,
            track.start,
            &track.samples,
            track.data.len(),
        );
        out.extend_from_slice(&track.data);
        let length = track.length;
        track.fragments += 1;
        track.start = track.pending_at;
        track.samples.clear();
        track.data.clear();
        made.map_err(|error| self.bad_stream(&error.to_string()))?;
        self.append(&out, length)?;
        if let Some(track) = &mut self.track {
            track.length += u64::try_from(out.len()).unwrap_or(0);
        }
        self.out = out;
        Ok(())
    }

    /// One write at the end of the file, which is `length` bytes long. What could be written only in part is cut off.
    fn append(&mut self, bytes: &[u8], length: u64) -> Result<(), RecordError> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        if let Err(source) = file.write_all(bytes).and_then(|()| file.flush()) {
            // The first error is the one to tell; a file that cannot be cut is still playable up to there.
            drop(file.set_len(length));
            drop(file.seek(SeekFrom::Start(length)));
            return Err(RecordError::Write {
                path: self.path.clone(),
                source,
            });
        }
        self.written += u64::try_from(bytes.len()).unwrap_or(0);
        Ok(())
    }

    fn bad_stream(&self, what: &str) -> RecordError {
        RecordError::Stream {
            path: self.path.clone(),
            what: what.to_owned(),
        }
    }
}

impl Track {
    fn complete_pending(&mut self, at: u64) {
        if let Some((size, idr)) = self.pending.take() {
            let duration = u32::try_from(at.saturating_sub(self.pending_at)).unwrap_or(u32::MAX);
            self.samples.push(Sample {
                duration,
                size,
                idr,
            });
        }
        self.pending_at = at;
    }

    /// Start codes become lengths; what `avcC` holds is left out.
    fn add(&mut self, access_unit: &[u8], idr: bool, at: u64) {
        let before = self.data.len();
        for nal in h264::nal_units(access_unit) {
            let known = match h264::nal_type(nal) {
                h264::AUD => true,
                h264::SPS => !self.in_band && nal == self.sps,
                h264::PPS => !self.in_band && nal == self.pps,
                _ => false,
            };
            if let (false, Ok(length)) = (known, u32::try_from(nal.len())) {
                self.data.extend_from_slice(&length.to_be_bytes());
                self.data.extend_from_slice(nal);
            }
        }
        let size = u32::try_from(self.data.len() - before).unwrap_or(u32::MAX);
        self.pending = Some((size, idr));
        self.pending_at = at;
    }
}

/// What an access unit holds.
struct Unit<'a> {
    idr: bool,
    has_picture: bool,
    sps: Option<&'a [u8]>,
    pps: Option<&'a [u8]>,
}

impl<'a> Unit<'a> {
    fn of(access_unit: &'a [u8]) -> Self {
        let mut unit = Self {
            idr: false,
            has_picture: false,
            sps: None,
            pps: None,
        };
        for nal in h264::nal_units(access_unit) {
            match h264::nal_type(nal) {
                h264::SPS => unit.sps = Some(nal),
                h264::PPS => unit.pps = Some(nal),
                h264::IDR => (unit.idr, unit.has_picture) = (true, true),
                1..=4 => unit.has_picture = true,
                _ => {}
            }
        }
        unit
    }
}

fn create(path: &Path, overwrite: bool) -> Result<File, RecordError> {
    let mut options = OpenOptions::new();
    options.write(true);
    if overwrite {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    options.open(path).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => RecordError::Exists(path.to_owned()),
        _ => RecordError::Create {
            path: path.to_owned(),
            source,
        },
    })
}

/// `a/b.mp4` → `a/b-2.mp4`.
fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{number}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}
