//! Input datagrams as SRTP packets: payload type 97, one SSRC for each direction.

use soft_kvm_core::MonoTime;

use super::MAX_DATAGRAM;
use crate::media::{
    HEADER_LEN, Header, INPUT_PAYLOAD_TYPE, Opener, RTP_OVERHEAD, Sealer, SrtpError, header_len,
};

/// Makes SRTP packets of input payloads. No call allocates.
#[derive(Debug)]
pub struct InputSealer {
    sealer: Sealer,
    sequence: u16,
    packet: Vec<u8>,
}

impl InputSealer {
    /// Packets for the stream of `sealer`, the first with sequence number 0.
    #[must_use]
    pub fn new(sealer: Sealer) -> Self {
        Self {
            sealer,
            sequence: 0,
            packet: vec![0; HEADER_LEN + MAX_DATAGRAM + RTP_OVERHEAD],
        }
    }

    /// The datagram that carries `payload`, of at most [`MAX_DATAGRAM`] bytes. The RTP timestamp counts milliseconds.
    ///
    /// # Errors
    /// [`SrtpError`]: the payload is too long, or the key is used up.
    pub fn seal(&mut self, now: MonoTime, payload: &[u8]) -> Result<&[u8], SrtpError> {
        if payload.len() > MAX_DATAGRAM {
            return Err(SrtpError::NoRoom);
        }
        let millis = now.as_micros() / 1_000;
        let header = Header {
            marker: false,
            payload_type: INPUT_PAYLOAD_TYPE,
            sequence: self.sequence,
            timestamp: u32::try_from(millis & u64::from(u32::MAX)).unwrap_or(0),
            ssrc: self.sealer.ssrc(),
        };
        let len = HEADER_LEN + payload.len();
        let room = self.packet.get_mut(..len).ok_or(SrtpError::NoRoom)?;
        let (head, body) = room.split_at_mut(HEADER_LEN);
        head.copy_from_slice(&header.to_bytes(false));
        body.copy_from_slice(payload);
        let sealed = self.sealer.seal_rtp(&mut self.packet, len)?;
        self.sequence = self.sequence.wrapping_add(1);
        self.packet.get(..sealed).ok_or(SrtpError::NoRoom)
    }
}

/// Opens an SRTP packet in place and gives its payload.
///
/// # Errors
/// [`SrtpError`]: not sealed with this key, seen before, or malformed.
pub fn open<'a>(opener: &mut Opener, datagram: &'a mut [u8]) -> Result<&'a [u8], SrtpError> {
    let (_, plain) = opener.open_rtp(datagram)?;
    header_len(plain)
        .and_then(|len| plain.get(len..))
        .ok_or(SrtpError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{MasterKey, Ssrc};

    #[test]
    fn payloads_come_out_once_and_as_they_went_in() {
        let key = MasterKey::new([7; 16], [9; 12]);
        let mut sealer = InputSealer::new(Sealer::new(&key, Ssrc(5)));
        let mut opener = Opener::new(&key, Ssrc(5));
        let now = MonoTime::from_nanos(3_000_000);
        let mut packet = sealer.seal(now, b"keys").expect("short payload").to_vec();
        let mut again = packet.clone();
        assert_eq!(open(&mut opener, &mut packet), Ok(&b"keys"[..]));
        assert!(open(&mut opener, &mut again).is_err());
        assert!(sealer.seal(now, &[0; MAX_DATAGRAM + 1]).is_err());
        let mut next = sealer
            .seal(now, &[1; MAX_DATAGRAM])
            .expect("just fits")
            .to_vec();
        assert_eq!(open(&mut opener, &mut next), Ok(&[1; MAX_DATAGRAM][..]));
    }
}
