//! Datagrams that one system call sends.

/// Most segments of one UDP GSO send (`UDP_MAX_SEGMENTS` of `linux/udp.h`, before Linux 6.9).
const SEGMENTS_MAX: usize = 64;
/// Most bytes of one UDP GSO send: a 16-bit length less IPv6, its options and UDP headers.
const BYTES_MAX: usize = 65_000;

/// Datagrams of equal size in one contiguous buffer, of which only the last may be shorter: what UDP GSO
/// (`UDP_SEGMENT` of `udp(7)`) takes at once. Keep one and reuse it.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    buffer: Vec<u8>,
    segment_size: usize,
    segments: usize,
    /// A shorter segment has been added: nothing may follow.
    closed: bool,
}

impl Batch {
    /// An empty batch with room for the largest one.
    #[must_use]
    pub fn new() -> Self {
        Self {
            buffer: Vec::with_capacity(BYTES_MAX),
            ..Self::default()
        }
    }

    /// All datagrams, one behind the other.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Bytes of each datagram but the last, which has from 1 to this many.
    #[must_use]
    pub const fn segment_size(&self) -> usize {
        self.segment_size
    }

    /// How many datagrams there are, at most 64.
    #[must_use]
    pub const fn segments(&self) -> usize {
        self.segments
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.segments == 0
    }

    /// The datagrams one by one, for kernels without GSO.
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        self.buffer.chunks(self.segment_size.max(1))
    }

    pub(crate) fn clear(&mut self) {
        self.buffer.clear();
        self.segment_size = 0;
        self.segments = 0;
        self.closed = false;
    }

    /// Whether a datagram of `len` bytes may follow.
    pub(crate) const fn fits(&self, len: usize) -> bool {
        self.segments == 0
            || (!self.closed
                && len <= self.segment_size
                && self.segments < SEGMENTS_MAX
                && self.buffer.len() + len <= BYTES_MAX)
    }

    /// Appends a datagram that [fits](Self::fits).
    pub(crate) fn push(&mut self, datagram: &[u8]) {
        if self.segments == 0 {
            self.segment_size = datagram.len();
        }
        self.closed |= datagram.len() < self.segment_size;
        self.segments += 1;
        self.buffer.extend_from_slice(datagram);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_datagram_is_shorter() {
        let mut batch = Batch::new();
        assert!(batch.is_empty() && batch.fits(70_000));
        batch.push(&[1; 10]);
        assert!(!batch.fits(11) && batch.fits(10) && batch.fits(3));
        batch.push(&[2; 10]);
        batch.push(&[3; 3]);
        assert!(!batch.fits(3));
        let lens: Vec<_> = batch.datagrams().map(<[u8]>::len).collect();
        assert_eq!(
            (lens, batch.segment_size(), batch.segments()),
            (vec![10, 10, 3], 10, 3)
        );
    }

    #[test]
    fn a_batch_ends_at_the_limits_of_gso() {
        let mut batch = Batch::new();
        while batch.fits(1_200) {
            batch.push(&[0; 1_200]);
        }
        assert_eq!(batch.segments(), 54);
        batch.clear();
        while batch.fits(100) {
            batch.push(&[0; 100]);
        }
        assert_eq!(batch.segments(), 64);
    }
}
