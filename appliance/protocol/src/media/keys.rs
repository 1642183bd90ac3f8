//! SRTP keys: the exporter's 56 bytes, and the key derivation of RFC 3711 §4.3 with the 96-bit salts of RFC 7714 §11.

use std::fmt;

use aes::Aes128;
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit, StreamCipher};
use zeroize::Zeroize;

/// Bytes of an AES-128 master or session key.
pub const KEY_LEN: usize = 16;
/// Bytes of an AEAD master or session salt (RFC 7714 §12).
pub const SALT_LEN: usize = 12;
/// Bytes that the TLS exporter has to give for both directions.
pub const EXPORT_LEN: usize = 2 * (KEY_LEN + SALT_LEN);

/// One direction's master key and master salt. Wiped on drop, never printed.
#[derive(Clone)]
pub struct MasterKey {
    key: [u8; KEY_LEN],
    salt: [u8; SALT_LEN],
}

impl MasterKey {
    /// From a key and a salt that both ends know.
    #[must_use]
    pub const fn new(key: [u8; KEY_LEN], salt: [u8; SALT_LEN]) -> Self {
        Self { key, salt }
    }

    /// The session key and salt for RTP packets.
    pub(crate) fn rtp(&self) -> SessionKey {
        self.derive(Label::RtpKey, Label::RtpSalt)
    }

    /// The session key and salt for RTCP packets.
    pub(crate) fn rtcp(&self) -> SessionKey {
        self.derive(Label::RtcpKey, Label::RtcpSalt)
    }

    fn derive(&self, key_label: Label, salt_label: Label) -> SessionKey {
        let mut session = SessionKey {
            key: [0; KEY_LEN],
            salt: [0; SALT_LEN],
        };
        // RFC 7714 §11: the 96-bit salt takes the place of the upper 96 of the 112 bits.
        let mut salt = [0; 14];
        for (to, from) in salt.iter_mut().zip(self.salt) {
            *to = from;
        }
        derive(&self.key, &salt, key_label, &mut session.key);
        derive(&self.key, &salt, salt_label, &mut session.salt);
        salt.zeroize();
        session
    }
}

impl Drop for MasterKey {
    fn drop(&mut self) {
        self.key.zeroize();
        self.salt.zeroize();
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

/// Both directions' master keys of one session.
#[derive(Clone)]
pub struct SrtpKeys {
    client: MasterKey,
    server: MasterKey,
}

impl SrtpKeys {
    /// Splits what the TLS exporter gave, in the order of RFC 5764 §4.2:
    /// client key (16), server key (16), client salt (12), server salt (12).
    #[must_use]
    pub fn from_exporter(material: &[u8; EXPORT_LEN]) -> Self {
        let mut keys = Self {
            client: MasterKey::new([0; KEY_LEN], [0; SALT_LEN]),
            server: MasterKey::new([0; KEY_LEN], [0; SALT_LEN]),
        };
        let mut bytes = material.iter().copied();
        for part in [
            &mut keys.client.key[..],
            &mut keys.server.key[..],
            &mut keys.client.salt[..],
            &mut keys.server.salt[..],
        ] {
            part.iter_mut()
                .zip(&mut bytes)
                .for_each(|(to, from)| *to = from);
        }
        keys
    }

    /// What the client seals with and the server opens with.
    #[must_use]
    pub const fn client(&self) -> &MasterKey {
        &self.client
    }

    /// What the server seals with and the client opens with.
    #[must_use]
    pub const fn server(&self) -> &MasterKey {
        &self.server
    }
}

impl fmt::Debug for SrtpKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SrtpKeys(..)")
    }
}

/// A derived key and salt.
pub(crate) struct SessionKey {
    pub(crate) key: [u8; KEY_LEN],
    pub(crate) salt: [u8; SALT_LEN],
}

impl Drop for SessionKey {
    fn drop(&mut self) {
        self.key.zeroize();
        self.salt.zeroize();
    }
}

/// RFC 3711 §4.3.1 and §4.3.2: what a derived key is for.
#[derive(Clone, Copy)]
enum Label {
    RtpKey = 0,
    RtpSalt = 2,
    RtcpKey = 3,
    RtcpSalt = 5,
}

/// RFC 3711 §4.3.3: the AES-CM key stream of the salt with the label, with a key derivation rate of zero.
fn derive(key: &[u8; KEY_LEN], salt: &[u8; 14], label: Label, out: &mut [u8]) {
    let mut iv = [0; 16];
    for (to, from) in iv.iter_mut().zip(salt) {
        *to = *from;
    }
    iv[7] ^= label as u8;
    out.fill(0);
    Ctr128BE::<Aes128>::new(key.into(), &iv.into()).apply_keystream(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
    }

    #[test]
    fn rfc_3711_appendix_b_3() {
        let key = hex("e1f97a0d3e018be0d64fa32c06de4139");
        let salt = hex("0ec675ad498afeebb6960b3aabe6");
        let mut session_key = [0; 16];
        derive(&key, &salt, Label::RtpKey, &mut session_key);
        assert_eq!(session_key, hex("c61e7a93744f39ee10734afe3ff7a087"));
        let mut session_salt = [0; 14];
        derive(&key, &salt, Label::RtpSalt, &mut session_salt);
        assert_eq!(session_salt, hex("30cbbc08863d8c85d49db34a9ae1"));
    }

    #[test]
    fn the_exporter_is_split_in_the_order_of_rfc_5764() {
        let material: [u8; EXPORT_LEN] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        let keys = SrtpKeys::from_exporter(&material);
        assert_eq!(keys.client().key, material[..16]);
        assert_eq!(keys.server().key, material[16..32]);
        assert_eq!(keys.client().salt, material[32..44]);
        assert_eq!(keys.server().salt, material[44..]);
        assert_eq!(
            format!("{keys:?} {:?}", keys.client()),
            "SrtpKeys(..) MasterKey(..)"
        );
    }
}
