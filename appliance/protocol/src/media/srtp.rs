//! SRTP and SRTCP with AEAD_AES_128_GCM (RFC 3711, RFC 7714), in place, one SSRC and direction for each context.

use std::fmt;

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::keys::{MasterKey, SALT_LEN, SessionKey};
use super::rtp::{self, Ssrc};

/// Bytes of the authentication tag behind the ciphertext.
pub const TAG_LEN: usize = 16;
/// Bytes that sealing adds to an RTP packet.
pub const RTP_OVERHEAD: usize = TAG_LEN;
/// Bytes that sealing adds to a compound RTCP packet: the tag, then the E bit with the 31-bit index.
pub const RTCP_OVERHEAD: usize = TAG_LEN + 4;
/// Packets behind the newest that can still be opened once.
pub const REPLAY_WINDOW: u64 = 1024;

/// Bytes of the RTCP header that stay readable: the first four and the sender's SSRC.
const RTCP_CLEAR: usize = 8;
/// The E bit of the SRTCP trailer: the packet is encrypted.
const ENCRYPTED: u32 = 1 << 31;
/// One more than the largest RTP packet index (48 bits, RFC 3711 §3.3.1).
const RTP_INDEX_END: u64 = 1 << 48;

/// Why a packet was not sealed or opened. Drop it and go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SrtpError {
    /// Not an RTP or RTCP packet of version 2.
    #[error("not an RTP or RTCP packet")]
    Malformed,
    /// Another stream's packet.
    #[error("packet of stream {0}, which this context is not for")]
    WrongSsrc(Ssrc),
    /// Opened before.
    #[error("packet was received before")]
    Replayed,
    /// So old that it can't be told whether it was opened before.
    #[error("packet is older than the replay window")]
    TooOld,
    /// The tag is wrong: altered on the way, or another key.
    #[error("authentication failed: altered on the way, or sealed with another key")]
    Unauthentic,
    /// No room behind the packet for the tag.
    #[error("no room for the authentication tag")]
    NoRoom,
    /// All packet indices of this key are used: a new session is needed.
    #[error("the key is used up: start a new session")]
    KeyExhausted,
}

/// Seals the packets of one SSRC.
pub struct Sealer {
    ssrc: Ssrc,
    rtp: Cipher,
    rtcp: Cipher,
    /// Roll-over counter and sequence number of the last RTP packet.
    rtp_index: Option<u64>,
    rtcp_index: u32,
}

impl Sealer {
    /// A context that seals packets of `ssrc` from its first one on.
    ///
    /// Two sealers with the same key must have different SSRCs: GCM is broken by a nonce used twice.
    #[must_use]
    pub fn new(master: &MasterKey, ssrc: Ssrc) -> Self {
        Self::with_session(&master.rtp(), &master.rtcp(), ssrc)
    }

    fn with_session(rtp: &SessionKey, rtcp: &SessionKey, ssrc: Ssrc) -> Self {
        Self {
            ssrc,
            rtp: Cipher::new(rtp),
            rtcp: Cipher::new(rtcp),
            rtp_index: None,
            rtcp_index: 0,
        }
    }

    /// The stream that this context is for.
    #[must_use]
    pub const fn ssrc(&self) -> Ssrc {
        self.ssrc
    }

    /// Seals the RTP packet in the first `len` bytes of `buffer` and returns its new length, `len` + [`RTP_OVERHEAD`].
    ///
    /// Sequence numbers have to go up by less than 32768 from call to call.
    ///
    /// # Errors
    /// [`SrtpError`]; the buffer's content is then undefined.
    pub fn seal_rtp(&mut self, buffer: &mut [u8], len: usize) -> Result<usize, SrtpError> {
        let packet = buffer.get(..len).ok_or(SrtpError::NoRoom)?;
        let header_len = rtp::header_len(packet).ok_or(SrtpError::Malformed)?;
        let (sequence, ssrc) = rtp::sequence_and_ssrc(packet).ok_or(SrtpError::Malformed)?;
        self.check(ssrc)?;
        let index = match self.rtp_index {
            None => u64::from(sequence),
            Some(last) => {
                let step = sequence.wrapping_sub(low_16(last));
                if step == 0 || step >= 0x8000 {
                    return Err(SrtpError::Replayed);
                }
                last + u64::from(step)
            }
        };
        if index >= RTP_INDEX_END {
            return Err(SrtpError::KeyExhausted);
        }
        self.rtp_index = Some(index);
        let (packet, room) = buffer.split_at_mut(len);
        let room = room.first_chunk_mut().ok_or(SrtpError::NoRoom)?;
        let (header, payload) = packet.split_at_mut(header_len);
        let nonce = self.rtp.rtp_nonce(ssrc, index);
        *room = self.rtp.seal(nonce, header, payload)?;
        Ok(len + RTP_OVERHEAD)
    }

    /// Seals the compound RTCP packet in the first `len` bytes of `buffer` and returns its new length,
    /// `len` + [`RTCP_OVERHEAD`].
    ///
    /// # Errors
    /// [`SrtpError`]; the buffer's content is then undefined.
    pub fn seal_rtcp(&mut self, buffer: &mut [u8], len: usize) -> Result<usize, SrtpError> {
        let packet = buffer.get(..len).ok_or(SrtpError::NoRoom)?;
        self.check(rtcp_ssrc(packet).ok_or(SrtpError::Malformed)?)?;
        if self.rtcp_index >= ENCRYPTED {
            return Err(SrtpError::KeyExhausted);
        }
        let index = self.rtcp_index;
        self.rtcp_index += 1;
        let trailer = (index | ENCRYPTED).to_be_bytes();
        let (packet, room) = buffer.split_at_mut(len);
        let (room, rest) = room
            .split_first_chunk_mut::<TAG_LEN>()
            .ok_or(SrtpError::NoRoom)?;
        let rest = rest.first_chunk_mut().ok_or(SrtpError::NoRoom)?;
        let (header, body) = packet
            .split_first_chunk_mut::<RTCP_CLEAR>()
            .ok_or(SrtpError::Malformed)?;
        let nonce = self.rtcp.rtcp_nonce(self.ssrc, index);
        *room = self.rtcp.seal(nonce, &rtcp_aad(header, trailer), body)?;
        *rest = trailer;
        Ok(len + RTCP_OVERHEAD)
    }

    fn check(&self, ssrc: Ssrc) -> Result<(), SrtpError> {
        if ssrc == self.ssrc {
            Ok(())
        } else {
            Err(SrtpError::WrongSsrc(ssrc))
        }
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer")
            .field("ssrc", &self.ssrc)
            .field("rtp_index", &self.rtp_index)
            .field("rtcp_index", &self.rtcp_index)
            .finish_non_exhaustive()
    }
}

/// Opens the packets of one SSRC, each at most once.
pub struct Opener {
    ssrc: Ssrc,
    rtp: Cipher,
    rtcp: Cipher,
    rtp_window: ReplayWindow,
    rtcp_window: ReplayWindow,
}

impl Opener {
    /// A context that opens packets of `ssrc`, whose sender begins with a roll-over counter of zero.
    #[must_use]
    pub fn new(master: &MasterKey, ssrc: Ssrc) -> Self {
        Self::with_session(&master.rtp(), &master.rtcp(), ssrc)
    }

    fn with_session(rtp: &SessionKey, rtcp: &SessionKey, ssrc: Ssrc) -> Self {
        Self {
            ssrc,
            rtp: Cipher::new(rtp),
            rtcp: Cipher::new(rtcp),
            rtp_window: ReplayWindow::default(),
            rtcp_window: ReplayWindow::default(),
        }
    }

    /// The stream that this context is for.
    #[must_use]
    pub const fn ssrc(&self) -> Ssrc {
        self.ssrc
    }

    /// Opens an RTP packet in place: its 48-bit index (roll-over counter and sequence number) and the plain packet.
    ///
    /// # Errors
    /// [`SrtpError`]; the packet's content is then undefined, this context unchanged.
    pub fn open_rtp<'a>(&mut self, packet: &'a mut [u8]) -> Result<(u64, &'a [u8]), SrtpError> {
        let header_len = rtp::header_len(packet).ok_or(SrtpError::Malformed)?;
        let (sequence, ssrc) = rtp::sequence_and_ssrc(packet).ok_or(SrtpError::Malformed)?;
        if ssrc != self.ssrc {
            return Err(SrtpError::WrongSsrc(ssrc));
        }
        let index = estimate_index(self.rtp_window.newest, sequence).ok_or(SrtpError::TooOld)?;
        self.rtp_window.check(index)?;
        let nonce = self.rtp.rtp_nonce(ssrc, index);
        let (header, body) = packet
            .split_at_mut_checked(header_len)
            .ok_or(SrtpError::Malformed)?;
        let len = self.rtp.open(nonce, header, body)?;
        self.rtp_window.accept(index);
        let plain = packet.get(..header_len + len).ok_or(SrtpError::Malformed)?;
        Ok((index, plain))
    }

    /// Opens a compound RTCP packet in place.
    ///
    /// # Errors
    /// [`SrtpError`]; the packet's content is then undefined, this context unchanged.
    pub fn open_rtcp<'a>(&mut self, packet: &'a mut [u8]) -> Result<&'a [u8], SrtpError> {
        let ssrc = rtcp_ssrc(packet).ok_or(SrtpError::Malformed)?;
        if ssrc != self.ssrc {
            return Err(SrtpError::WrongSsrc(ssrc));
        }
        let (sealed, trailer) = packet
            .split_last_chunk_mut::<4>()
            .ok_or(SrtpError::Malformed)?;
        let trailer = *trailer;
        let word = u32::from_be_bytes(trailer);
        let index = word & !ENCRYPTED;
        self.rtcp_window.check(u64::from(index))?;
        let nonce = self.rtcp.rtcp_nonce(ssrc, index);
        let (header, body) = sealed
            .split_first_chunk_mut::<RTCP_CLEAR>()
            .ok_or(SrtpError::Malformed)?;
        if word & ENCRYPTED == 0 {
            // We never send such packets, and nobody else has the key.
            return Err(SrtpError::Unauthentic);
        }
        let len = self.rtcp.open(nonce, &rtcp_aad(header, trailer), body)?;
        self.rtcp_window.accept(u64::from(index));
        packet.get(..RTCP_CLEAR + len).ok_or(SrtpError::Malformed)
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener")
            .field("ssrc", &self.ssrc)
            .field("rtp_newest", &self.rtp_window.newest)
            .field("rtcp_newest", &self.rtcp_window.newest)
            .finish_non_exhaustive()
    }
}

/// RFC 3711 §3.3.1: the packet index nearest to the newest one with these low 16 bits; `None` below zero.
pub(crate) fn estimate_index(newest: Option<u64>, sequence: u16) -> Option<u64> {
    let Some(newest) = newest else {
        return Some(u64::from(sequence));
    };
    let ahead = sequence.wrapping_sub(low_16(newest));
    if ahead < 0x8000 {
        let index = newest + u64::from(ahead);
        (index < RTP_INDEX_END).then_some(index)
    } else {
        newest.checked_sub(u64::from(ahead.wrapping_neg()))
    }
}

/// The sequence number in a packet index.
#[expect(clippy::cast_possible_truncation, reason = "the low 16 bits are meant")]
pub(crate) const fn low_16(index: u64) -> u16 {
    index as u16
}

fn rtcp_ssrc(packet: &[u8]) -> Option<Ssrc> {
    let header = packet.first_chunk::<RTCP_CLEAR>()?;
    let [first, _, _, _, ssrc @ ..] = *header;
    (first >> 6 == 2).then_some(Ssrc(u32::from_be_bytes(ssrc)))
}

/// RFC 7714 §9.2: the clear header, then the trailer.
fn rtcp_aad(header: &[u8; RTCP_CLEAR], trailer: [u8; 4]) -> [u8; 12] {
    let [a, b, c, d, e, f, g, h] = *header;
    let [i, j, k, l] = trailer;
    [a, b, c, d, e, f, g, h, i, j, k, l]
}

struct Cipher {
    key: LessSafeKey,
    salt: [u8; SALT_LEN],
}

impl Cipher {
    fn new(session: &SessionKey) -> Self {
        let key = UnboundKey::new(&AES_128_GCM, &session.key).expect("an AES-128 key has 16 bytes");
        Self {
            key: LessSafeKey::new(key),
            salt: session.salt,
        }
    }

    /// RFC 7714 §8.1: 16 zero bits, SSRC, 48-bit index, exclusive or the salt.
    fn rtp_nonce(&self, ssrc: Ssrc, index: u64) -> Nonce {
        let value = (u128::from(ssrc.0) << 48) | u128::from(index);
        self.nonce(value)
    }

    /// RFC 7714 §9.1: 16 zero bits, SSRC, 16 zero bits, a zero bit and the 31-bit index, exclusive or the salt.
    fn rtcp_nonce(&self, ssrc: Ssrc, index: u32) -> Nonce {
        let value = (u128::from(ssrc.0) << 48) | u128::from(index);
        self.nonce(value)
    }

    fn nonce(&self, value: u128) -> Nonce {
        let bytes = value.to_be_bytes();
        let mut nonce = self.salt;
        for (to, from) in nonce.iter_mut().zip(bytes.iter().skip(4)) {
            *to ^= from;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    fn seal(&self, nonce: Nonce, aad: &[u8], text: &mut [u8]) -> Result<[u8; TAG_LEN], SrtpError> {
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(aad), text)
            .map_err(|_| SrtpError::Malformed)?;
        let mut bytes = [0; TAG_LEN];
        for (to, from) in bytes.iter_mut().zip(tag.as_ref()) {
            *to = *from;
        }
        Ok(bytes)
    }

    /// Opens ciphertext and tag in place; the length of the text.
    fn open(&self, nonce: Nonce, aad: &[u8], text: &mut [u8]) -> Result<usize, SrtpError> {
        let plain = self
            .key
            .open_in_place(nonce, Aad::from(aad), text)
            .map_err(|_| SrtpError::Unauthentic)?;
        Ok(plain.len())
    }
}

const WINDOW_WORDS: usize = (REPLAY_WINDOW / 64) as usize;

/// RFC 3711 §3.3.2 with a wider window: late retransmissions are wanted. A bit for each index modulo the window.
#[derive(Debug)]
struct ReplayWindow {
    newest: Option<u64>,
    seen: [u64; WINDOW_WORDS],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self {
            newest: None,
            seen: [0; WINDOW_WORDS],
        }
    }
}

impl ReplayWindow {
    fn check(&mut self, index: u64) -> Result<(), SrtpError> {
        match self.newest {
            Some(newest) if index <= newest => {
                if newest - index >= REPLAY_WINDOW {
                    return Err(SrtpError::TooOld);
                }
                let (word, bit) = self.word(index);
                if *word & bit != 0 {
                    return Err(SrtpError::Replayed);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn accept(&mut self, index: u64) {
        let newest = self.newest.unwrap_or(index);
        if index > newest {
            if index - newest >= REPLAY_WINDOW {
                self.seen = [0; WINDOW_WORDS];
            } else {
                for skipped in newest + 1..index {
                    let (word, bit) = self.word(skipped);
                    *word &= !bit;
                }
            }
        }
        self.newest = Some(newest.max(index));
        let (word, bit) = self.word(index);
        *word |= bit;
    }

    fn word(&mut self, index: u64) -> (&mut u64, u64) {
        let slot = (index % REPLAY_WINDOW / 64) as usize;
        (&mut self.seen[slot], 1 << (index % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len() / 2)
            .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
            .collect()
    }

    fn rfc_7714_session() -> SessionKey {
        SessionKey {
            key: unhex("000102030405060708090a0b0c0d0e0f")
                .try_into()
                .unwrap(),
            salt: unhex("517569642070726f2071756f").try_into().unwrap(),
        }
    }

    const RTP: &str = "8040f17b8041f8d35501a0b247616c6c696120657374206f6d6e697320646976697361\
        20696e207061727465732074726573";
    const SRTP: &str = "8040f17b8041f8d35501a0b2f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f\
        42a5f47a51c7d19b36de3adf8833899d7f27beb16a9152cf765ee4390cce";
    const RTCP: &str = "81c8000d4d6172734e5450314e545032525450200000042a0000e9304c756e61deadbeef\
        deadbeefdeadbeefdeadbeefdeadbeef";
    const SRTCP: &str = "81c8000d4d61727363e94885dcdab67ca727d7662f6b7e997ff5c0f76c06f32dc676a5f1\
        730d6fda4ce09b4686303ded0bb9275bc84aa45896cf4d2fc5abf87245d9eade800005d4";

    #[test]
    fn rfc_7714_section_16_1_both_ways() {
        let (session, ssrc) = (rfc_7714_session(), Ssrc(0x5501_a0b2));
        let mut packet = unhex(RTP);
        let len = packet.len();
        packet.resize(len + RTP_OVERHEAD, 0);
        let mut sealer = Sealer::with_session(&session, &session, ssrc);
        assert_eq!(sealer.seal_rtp(&mut packet, len), Ok(len + 16));
        assert_eq!(packet, unhex(SRTP));
        let mut opener = Opener::with_session(&session, &session, ssrc);
        let (index, plain) = opener.open_rtp(&mut packet).unwrap();
        assert_eq!((index, plain), (0xf17b, &unhex(RTP)[..]));
    }

    #[test]
    fn rfc_7714_section_17_1_both_ways() {
        let (session, ssrc) = (rfc_7714_session(), Ssrc(0x4d61_7273));
        let mut packet = unhex(RTCP);
        let len = packet.len();
        packet.resize(len + RTCP_OVERHEAD, 0);
        let mut sealer = Sealer::with_session(&session, &session, ssrc);
        sealer.rtcp_index = 0x5d4;
        assert_eq!(sealer.seal_rtcp(&mut packet, len), Ok(len + 20));
        assert_eq!(packet, unhex(SRTCP));
        let mut opener = Opener::with_session(&session, &session, ssrc);
        assert_eq!(opener.open_rtcp(&mut packet.clone()).unwrap(), unhex(RTCP));
        assert_eq!(opener.open_rtcp(&mut packet), Err(SrtpError::Replayed));
    }

    #[test]
    fn indices_are_estimated_across_the_wrap() {
        assert_eq!(estimate_index(None, 65_535), Some(65_535));
        assert_eq!(estimate_index(Some(65_535), 0), Some(65_536));
        assert_eq!(estimate_index(Some(65_536), 65_535), Some(65_535));
        assert_eq!(estimate_index(Some(65_540), 2), Some(65_538));
        assert_eq!(estimate_index(Some(3), 65_535), None);
        assert_eq!(estimate_index(Some(RTP_INDEX_END - 1), 0), None);
    }

    #[test]
    fn each_index_passes_the_window_once() {
        let mut window = ReplayWindow::default();
        for index in [100, 99, 101, 900, 899, 1_100, 50_000, 49_000] {
            assert_eq!(window.check(index), Ok(()), "{index}");
            window.accept(index);
            assert_eq!(window.check(index), Err(SrtpError::Replayed), "{index}");
        }
        assert_eq!(window.check(50_000 - REPLAY_WINDOW), Err(SrtpError::TooOld));
        assert_eq!(window.check(49_500), Ok(()));
    }
}
