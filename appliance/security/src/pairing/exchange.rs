//! SPAKE2 and the key confirmation.

use std::fmt;

use ring::hmac;
use soft_kvm_protocol::pairing::{CONFIRMATION_LEN, HexBytes, PeerName, SHARE_LEN};
use spake2::{Ed25519Group, Identity as Party, Password, Spake2};
use zeroize::Zeroizing;

use super::{Binding, PairingCode, PairingError};

#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    Client,
    Server,
}

/// SPAKE2, with our share sent.
pub(super) struct Exchange {
    state: Spake2<Ed25519Group>,
    side: Side,
    pub(super) share: [u8; SHARE_LEN],
}

impl Exchange {
    pub(super) fn start(side: Side, code: &PairingCode, binding: &Binding) -> Self {
        let code = Password::new(code.reveal());
        let client = Party::new(binding.client.as_bytes());
        let server = Party::new(binding.server.as_bytes());
        let (state, message) = match side {
            Side::Client => Spake2::start_a(&code, &client, &server),
            Side::Server => Spake2::start_b(&code, &client, &server),
        };
        let share = message
            .try_into()
            .expect("a share is a side letter and a compressed Edwards point");
        Self { state, side, share }
    }

    pub(super) fn finish(
        self,
        theirs: &[u8; SHARE_LEN],
        binding: &Binding,
        [client_name, server_name]: [&PeerName; 2],
    ) -> Result<Keys, PairingError> {
        let key = self
            .state
            .finish(theirs)
            .map(Zeroizing::new)
            .map_err(|_| PairingError::BadMessage("a share that is none"))?;
        let (client_share, server_share) = match self.side {
            Side::Client => (&self.share, theirs),
            Side::Server => (theirs, &self.share),
        };
        let mut transcript = Vec::new();
        for part in [
            binding.exporter.as_slice(),
            binding.client.as_bytes(),
            binding.server.as_bytes(),
            client_share,
            server_share,
            client_name.as_str().as_bytes(),
            server_name.as_str().as_bytes(),
        ] {
            // Lengths in front: no two lists of parts give the same bytes.
            let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
            transcript.extend_from_slice(&length.to_be_bytes());
            transcript.extend_from_slice(part);
        }
        Ok(Keys {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            transcript,
        })
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").finish_non_exhaustive()
    }
}

/// What both sides have when both know the code.
pub(super) struct Keys {
    key: hmac::Key,
    transcript: Vec<u8>,
}

impl Keys {
    /// What `side` signs: its role, so that a confirmation sent back proves nothing, and all that both sides saw.
    fn statement(&self, side: Side) -> Vec<u8> {
        let role: &[u8] = match side {
            Side::Client => b"soft-kvm pairing 1 client\0",
            Side::Server => b"soft-kvm pairing 1 server\0",
        };
        [role, &self.transcript].concat()
    }

    pub(super) fn confirm(&self, side: Side) -> HexBytes<CONFIRMATION_LEN> {
        let mut mac = [0; CONFIRMATION_LEN];
        mac.copy_from_slice(hmac::sign(&self.key, &self.statement(side)).as_ref());
        HexBytes(mac)
    }

    /// Compares in constant time.
    pub(super) fn check(
        &self,
        side: Side,
        mac: &HexBytes<CONFIRMATION_LEN>,
    ) -> Result<(), PairingError> {
        hmac::verify(&self.key, &self.statement(side), &mac.0).map_err(|_| PairingError::WrongCode)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}
