//! The bytes of a question and of an answer. Both ends run on one machine and come from one package: native byte order.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Kind;
use crate::kms::Fb2;

/// Bytes of a question.
pub const QUESTION_LEN: usize = 256;
/// Bytes of an answer.
pub const ANSWER_LEN: usize = 128;
/// Version of the protocol, in the first byte of both.
const VERSION: u8 = 1;
/// Where the path begins; the rest is zero.
const PATH: usize = 8;

/// What is asked: version, kind, the question's number, the framebuffer's id or the gadget's step, the node's path or
/// what the story calls the device.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) kind: Kind,
    pub(super) number: u16,
    pub(super) id: u32,
    path: [u8; QUESTION_LEN - PATH],
}

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {} {}", self.kind, self.path().display(), self.id)
    }
}

impl Question {
    /// `None` for a path that is too long for a device node.
    pub(super) fn new(kind: Kind, path: &Path, id: u32) -> Option<Self> {
        let bytes = path.as_os_str().as_bytes();
        let mut question = Self {
            kind,
            number: 0,
            id,
            path: [0; QUESTION_LEN - PATH],
        };
        // One zero byte stays at the end.
        if bytes.len() >= question.path.len() || bytes.contains(&0) {
            return None;
        }
        question.path.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(question)
    }

    pub(super) fn path(&self) -> &Path {
        let length = self.path.iter().position(|byte| *byte == 0).unwrap_or(0);
        Path::new(OsStr::from_bytes(
            self.path.get(..length).unwrap_or_default(),
        ))
    }

    pub(super) fn bytes(&self) -> [u8; QUESTION_LEN] {
        let mut bytes = [0; QUESTION_LEN];
        let (head, path) = bytes.split_at_mut(PATH);
        path.copy_from_slice(&self.path);
        let kind = match self.kind {
            Kind::Video => 1,
            Kind::Screen => 2,
            Kind::Framebuffer => 3,
            Kind::Uinput => 4,
            Kind::Gadget => 5,
            Kind::Button => 6,
            Kind::Monitor => 7,
            Kind::Media => 8,
            Kind::Memory => 9,
        };
        let [a, b, c, d] = self.id.to_ne_bytes();
        let [n, m] = self.number.to_ne_bytes();
        head.copy_from_slice(&[VERSION, kind, n, m, a, b, c, d]);
        bytes
    }

    /// `None` for what no client of this version asks.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; QUESTION_LEN] = bytes.try_into().ok()?;
        let (&[VERSION, kind, n, m, a, b, c, d], path) = bytes.split_first_chunk::<PATH>()? else {
            return None;
        };
        let kind = match kind {
            1 => Kind::Video,
            2 => Kind::Screen,
            3 => Kind::Framebuffer,
            4 => Kind::Uinput,
            5 => Kind::Gadget,
            6 => Kind::Button,
            7 => Kind::Monitor,
            8 => Kind::Media,
            9 => Kind::Memory,
            _ => return None,
        };
        let path: [u8; QUESTION_LEN - PATH] = path.try_into().ok()?;
        let length = path.iter().position(|byte| *byte == 0)?;
        let rest = path.get(length..)?;
        rest.iter().all(|byte| *byte == 0).then_some(Self {
            kind,
            number: u16::from_ne_bytes([n, m]),
            id: u32::from_ne_bytes([a, b, c, d]),
            path,
        })
    }
}

/// What is answered: the question's number, the kernel's error number or 0, and of a framebuffer what the kernel tells about it. The handles say
/// which of the descriptors each plane is in, from 1 on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Answer {
    pub(super) number: u16,
    pub(super) error: i32,
    pub(super) fb: Fb2,
}

impl Answer {
    pub(super) fn bytes(&self) -> [u8; ANSWER_LEN] {
        let fb = &self.fb;
        let mut bytes = [0; ANSWER_LEN];
        let first = u32::from(VERSION) | u32::from(self.number) << 16;
        let words = [
            first,
            self.error.cast_unsigned(),
            fb.width,
            fb.height,
            fb.fourcc,
            fb.flags,
        ];
        let arrays = [fb.handles, fb.pitches, fb.offsets];
        let words = words.into_iter().chain(arrays.into_iter().flatten());
        let (low, high) = bytes.split_at_mut(18 * 4);
        for (place, word) in low.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        for (place, word) in high.chunks_exact_mut(8).zip(fb.modifiers) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; ANSWER_LEN] = bytes.try_into().ok()?;
        let mut words = [0_u32; 18];
        let (low, high) = bytes.split_at(18 * 4);
        for (word, place) in words.iter_mut().zip(low.as_chunks::<4>().0) {
            *word = u32::from_ne_bytes(*place);
        }
        let mut modifiers = [0_u64; 4];
        for (word, place) in modifiers.iter_mut().zip(high.as_chunks::<8>().0) {
            *word = u64::from_ne_bytes(*place);
        }
        let [first, error, width, height, fourcc, flags, rest @ ..] = words;
        let [h0, h1, h2, h3, p0, p1, p2, p3, o0, o1, o2, o3] = rest;
        (first & 0xffff == u32::from(VERSION)).then_some(Self {
            number: (first >> 16) as u16,
            error: error.cast_signed(),
            fb: Fb2 {
                id: 0,
                width,
                height,
                fourcc,
                flags,
                handles: [h0, h1, h2, h3],
                pitches: [p0, p1, p2, p3],
                offsets: [o0, o1, o2, o3],
                modifiers,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_pass() {
        let question =
            Question::new(Kind::Framebuffer, Path::new("/dev/dri/card0"), 77).expect("short");
        assert_eq!(Question::parse(&question.bytes()), Some(question));
        assert_eq!(question.path(), Path::new("/dev/dri/card0"));
        let answer = Answer {
            number: 9,
            error: libc::ENOENT,
            fb: Fb2 {
                width: 64,
                handles: [1, 2, 0, 0],
                offsets: [0, 9, 0, 8],
                modifiers: [1, 2, 3, u64::MAX],
                ..Fb2::default()
            },
        };
        let back = Answer::parse(&answer.bytes()).expect("its own bytes");
        assert_eq!(
            (back.number, back.error, back.fb.width),
            (9, libc::ENOENT, 64)
        );
        assert_eq!(
            (back.fb.handles, back.fb.offsets),
            ([1, 2, 0, 0], [0, 9, 0, 8])
        );
        assert_eq!(back.fb.modifiers, [1, 2, 3, u64::MAX]);
    }

    #[test]
    fn anything_else_is_no_question() {
        let long = format!("/dev/{}", "x".repeat(QUESTION_LEN));
        assert!(Question::new(Kind::Video, Path::new(&long), 0).is_none());
        let good = Question::new(Kind::Video, Path::new("/dev/video0"), 0)
            .expect("short")
            .bytes();
        assert!(Question::parse(&good[1..]).is_none(), "short");
        for (at, value) in [(0, 2), (1, 0), (1, 10), (QUESTION_LEN - 1, 1), (30, 1)] {
            let mut bad = good;
            bad[at] = value;
            assert!(Question::parse(&bad).is_none(), "byte {at} is {value}");
        }
        let mut unended = good;
        unended[PATH..].fill(b'x');
        assert!(Question::parse(&unended).is_none());
        assert!(Answer::parse(&[0; ANSWER_LEN]).is_none());
    }
}
