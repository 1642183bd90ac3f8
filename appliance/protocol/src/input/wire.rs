//! A reading cursor over untrusted bytes and the matching writers. Big endian throughout.

use super::INPUT_VERSION;

/// Why bytes are not an input message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The message ends inside a field.
    #[error("input message ends early: {need} more bytes expected")]
    Short {
        /// Bytes that were missing, at least.
        need: usize,
    },
    /// Bytes follow the last field.
    #[error("input message has {extra} bytes too many")]
    Long {
        /// Bytes that were left over.
        extra: usize,
    },
    /// Another version of the form.
    #[error(
        "input message of version {0}, this program speaks version {INPUT_VERSION}: update the older side"
    )]
    Version(u8),
    /// A kind that does not exist, or not here.
    #[error("input message of unexpected kind {0}")]
    Kind(u8),
    /// A field outside its bounds.
    #[error("input message has a bad {field}: {value}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What it said.
        value: i64,
    },
    /// A text that is not UTF-8 or holds control characters.
    #[error("input message has a bad text in {0}")]
    Text(&'static str),
}

/// A cursor over received bytes; every read says when it fails.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(DecodeError::Short {
            need: count.saturating_sub(self.0.len()),
        })?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(DecodeError::Short {
            need: N.saturating_sub(self.0.len()),
        })?;
        self.0 = tail;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn i16(&mut self) -> Result<i16, DecodeError> {
        self.array().map(i16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_be_bytes)
    }

    /// The rest must be empty.
    pub(super) const fn finish(self) -> Result<(), DecodeError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Long {
                extra: self.0.len(),
            })
        }
    }

    pub(super) const fn rest(&self) -> &'a [u8] {
        self.0
    }
}

/// Reads version and kind.
pub(super) fn read_head(reader: &mut Reader<'_>) -> Result<u8, DecodeError> {
    let version = reader.u8()?;
    if version != INPUT_VERSION {
        return Err(DecodeError::Version(version));
    }
    reader.u8()
}

/// Reads version and kind and checks the kind.
pub(super) fn expect_kind(reader: &mut Reader<'_>, kind: u8) -> Result<(), DecodeError> {
    match read_head(reader)? {
        found if found == kind => Ok(()),
        found => Err(DecodeError::Kind(found)),
    }
}

pub(super) fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(super) fn put_i16(out: &mut Vec<u8>, value: i16) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(super) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(super) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(super) fn put_i32(out: &mut Vec<u8>, value: i32) {
    out.extend_from_slice(&value.to_be_bytes());
}
