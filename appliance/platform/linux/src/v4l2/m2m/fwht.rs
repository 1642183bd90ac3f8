//! The frame header of the Fast Walsh Hadamard Transform format (`vicodec/codec-fwht.h`, `struct fwht_cframe_hdr`).

/// Both magic words.
const MAGIC: [u8; 8] = *b"OOOO\xff\xff\xff\xff";

/// `V4L2_FWHT_FL_I_FRAME`.
const I_FRAME: u32 = 1 << 10;

/// Whether a frame needs none before it; false for what is no frame.
pub(super) fn is_key_frame(frame: &[u8]) -> bool {
    // Behind the magic: version, width, height, flags, all of 32 bits, big-endian.
    let flags = frame.get(20..24).and_then(|bytes| bytes.first_chunk());
    frame.starts_with(&MAGIC)
        && flags.is_some_and(|flags| u32::from_be_bytes(*flags) & I_FRAME != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_frames_have_the_flag() {
        let mut frame = MAGIC.to_vec();
        for word in [3_u32, 640, 480, I_FRAME | 0x101, 0] {
            frame.extend_from_slice(&word.to_be_bytes());
        }
        assert!(is_key_frame(&frame));
        frame[22] &= !4;
        assert!(!is_key_frame(&frame));
        for length in 0..24 {
            assert!(!is_key_frame(&frame[..length]));
        }
    }
}
