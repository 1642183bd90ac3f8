//! TLS 1.3 between pinned keys.
//!
//! * Only TLS 1.3, both ends show a certificate, ALPN `http/1.1`.
//! * Dates, names and issuers are ignored by design: a machine without a clock must stay reachable, and trust comes
//!   from the pin. The handshake signature is always checked, so a fingerprint proves possession of its key.
//! * No session tickets and no early data: a resumed handshake skips the verifiers, so a pin would be checked
//!   against what a ticket remembers instead of a signature made now, and the 0.3 ms saved do not pay for that.
//! * A server accepts any key at this layer, since a client must be able to pair; *what the key may do* is decided
//!   for each request from [`peer_fingerprint`]. A key that is not in the [`PeerStore`](crate::PeerStore) reaches
//!   nothing but the pairing path.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring::default_provider, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, CommonState, ConnectionCommon, DigitallySignedStruct,
    DistinguishedName, Error, PeerIncompatible, ServerConfig, SignatureScheme,
};
use soft_kvm_protocol::control::SRTP_EXPORTER_LABEL;
use soft_kvm_protocol::pairing::PAIRING_EXPORTER_LABEL;
use zeroize::Zeroizing;

use crate::succession::predecessors;
use crate::{Fingerprint, Identity};

/// The one application protocol that is spoken (RFC 7301).
pub const ALPN: &[u8] = b"http/1.1";

/// Key material of one session's SRTP: two AES-128 master keys and two 96-bit salts, in bytes.
pub const SRTP_KEYING_LEN: usize = 56;

/// The configuration of a server.
///
/// # Errors
///
/// The identity's key cannot be used with TLS 1.3.
pub fn server_config(identity: &Identity) -> Result<Arc<ServerConfig>, Error> {
    let provider = Arc::new(default_provider());
    let verifier = Arc::new(AnyKey {
        algorithms: provider.signature_verification_algorithms,
    });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain(), identity.private_key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// The configuration of a client that talks only to a server with one of `pins`.
///
/// Several pins are for a name that several paired servers carry. With none, every handshake fails.
///
/// # Errors
///
/// The identity's key cannot be used with TLS 1.3.
pub fn client_config(
    identity: &Identity,
    pins: impl Into<Vec<Fingerprint>>,
) -> Result<Arc<ClientConfig>, Error> {
    client(identity, Some(pins.into()))
}

/// The configuration of a client that talks to whoever answers: for the pairing exchange and nothing else.
///
/// # Errors
///
/// The identity's key cannot be used with TLS 1.3.
pub fn unpinned_client_config(identity: &Identity) -> Result<Arc<ClientConfig>, Error> {
    client(identity, None)
}

/// The name that a client gives for a server. It is not checked by anyone; sent because browsers' servers want one.
#[must_use]
pub fn server_name() -> ServerName<'static> {
    const NAME: &str = "soft-kvm.local";
    ServerName::try_from(NAME).expect("a constant that is a valid DNS name")
}

/// The key that the peer of an established session has proved to hold.
#[must_use]
pub fn peer_fingerprint(connection: &CommonState) -> Option<Fingerprint> {
    let certificate = connection.peer_certificates()?.first()?;
    Fingerprint::of_certificate(certificate).ok()
}

/// The earlier keys whose holders have named the peer's key as the one that follows, the newest first.
///
/// Costs a signature check for each, so at most [`MAX_PREDECESSORS`](crate::succession::MAX_PREDECESSORS), and none for a
/// key that was never rotated.
#[must_use]
pub fn peer_predecessors(connection: &CommonState) -> Vec<Fingerprint> {
    match connection.peer_certificates() {
        Some([shown, behind @ ..]) => predecessors(shown, behind),
        _ => Vec::new(),
    }
}

/// Key material for SRTP, tied to this TLS session and to the media session's id (RFC 8446 §7.5).
///
/// # Errors
///
/// The handshake is not complete.
pub fn export_srtp_keys<D>(
    connection: &ConnectionCommon<D>,
    session_id: &[u8; 16],
) -> Result<Zeroizing<[u8; SRTP_KEYING_LEN]>, Error> {
    let mut keys = Zeroizing::new([0; SRTP_KEYING_LEN]);
    connection.export_keying_material(keys.as_mut(), SRTP_EXPORTER_LABEL, Some(session_id))?;
    Ok(keys)
}

/// The value that ties a pairing exchange to this TLS session: equal at both ends, different for every session.
///
/// # Errors
///
/// The handshake is not complete.
pub fn export_pairing_binding<D>(
    connection: &ConnectionCommon<D>,
) -> Result<Zeroizing<[u8; 32]>, Error> {
    let mut value = Zeroizing::new([0; 32]);
    connection.export_keying_material(value.as_mut(), PAIRING_EXPORTER_LABEL, None)?;
    Ok(value)
}

fn client(identity: &Identity, pins: Option<Vec<Fingerprint>>) -> Result<Arc<ClientConfig>, Error> {
    let provider: Arc<CryptoProvider> = Arc::new(default_provider());
    let verifier = Arc::new(PinnedServer {
        pins,
        algorithms: provider.signature_verification_algorithms,
    });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(identity.chain(), identity.private_key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(Arc::new(config))
}

/// Accepts a server by its key alone, or by a pinned key that vouches for it; by any key when there are no pins at all.
#[derive(Debug)]
struct PinnedServer {
    pins: Option<Vec<Fingerprint>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for PinnedServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let shown = Fingerprint::of_certificate(end_entity)?;
        match &self.pins {
            Some(pins)
                if !pins.contains(&shown)
                    && !predecessors(end_entity, intermediates)
                        .iter()
                        .any(|key| pins.contains(key)) =>
            {
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Demands a client key and proof of it, and accepts any.
#[derive(Debug)]
struct AnyKey {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Fingerprint::of_certificate(end_entity).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use rustls::{ClientConnection, ServerConnection};

    use super::*;

    /// A handshake in memory.
    pub(crate) fn connect(
        client: Arc<ClientConfig>,
        server: Arc<ServerConfig>,
    ) -> Result<(ClientConnection, ServerConnection), Error> {
        let mut client = ClientConnection::new(client, server_name())?;
        let mut server = ServerConnection::new(server)?;
        let mut wire = Vec::new();
        while client.is_handshaking() || server.is_handshaking() {
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            let mut bytes = wire.as_slice();
            while !bytes.is_empty() {
                server.read_tls(&mut bytes).unwrap();
                server.process_new_packets()?;
            }
            wire.clear();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            let mut bytes = wire.as_slice();
            while !bytes.is_empty() {
                client.read_tls(&mut bytes).unwrap();
                client.process_new_packets()?;
            }
            wire.clear();
        }
        Ok((client, server))
    }

    fn identities() -> (Identity, Identity) {
        (
            Identity::ephemeral().unwrap(),
            Identity::ephemeral().unwrap(),
        )
    }

    #[test]
    fn each_end_learns_the_others_key() {
        let (ours, theirs) = identities();
        let (client, server) = connect(
            client_config(&ours, [theirs.fingerprint()]).unwrap(),
            server_config(&theirs).unwrap(),
        )
        .unwrap();
        assert_eq!(peer_fingerprint(&client), Some(theirs.fingerprint()));
        assert_eq!(peer_fingerprint(&server), Some(ours.fingerprint()));
        assert_eq!(client.alpn_protocol(), Some(ALPN));
        assert_eq!(
            client.protocol_version(),
            Some(rustls::ProtocolVersion::TLSv1_3)
        );
    }

    #[test]
    fn exporters_agree_within_a_session_and_differ_between_sessions_and_uses() {
        let (ours, theirs) = identities();
        let client_side = client_config(&ours, [theirs.fingerprint()]).unwrap();
        let server_side = server_config(&theirs).unwrap();
        let (client, server) = connect(client_side.clone(), server_side.clone()).unwrap();
        let (other, _) = connect(client_side, server_side).unwrap();
        let keys = export_srtp_keys(&client, &[1; 16]).unwrap();
        assert_eq!(keys, export_srtp_keys(&server, &[1; 16]).unwrap());
        assert_ne!(keys, export_srtp_keys(&server, &[2; 16]).unwrap());
        assert_ne!(keys, export_srtp_keys(&other, &[1; 16]).unwrap());
        let binding = export_pairing_binding(&client).unwrap();
        assert_eq!(binding, export_pairing_binding(&server).unwrap());
        assert_ne!(binding, export_pairing_binding(&other).unwrap());
        assert_ne!(binding.as_slice(), &keys[..32]);
    }

    #[test]
    fn another_key_than_the_pinned_one_is_refused() {
        let (ours, theirs) = identities();
        for pins in [vec![], vec![ours.fingerprint()]] {
            let error = connect(
                client_config(&ours, pins).unwrap(),
                server_config(&theirs).unwrap(),
            )
            .unwrap_err();
            assert_eq!(
                error,
                CertificateError::ApplicationVerificationFailure.into()
            );
        }
        let unpinned = unpinned_client_config(&ours).unwrap();
        assert!(connect(unpinned, server_config(&theirs).unwrap()).is_ok());
    }

    /// An identity whose certificate is good in these years only.
    fn dated(years: (i32, i32)) -> Identity {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut parameters = crate::identity::parameters().unwrap();
        parameters.not_before = rcgen::date_time_ymd(years.0, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        let certificate = parameters.self_signed(&key).unwrap();
        let certificate = pem::Pem::new("CERTIFICATE", certificate.der().as_ref());
        let text = key.serialize_pem() + &pem::encode(&certificate);
        Identity::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn no_date_makes_a_pin_invalid() {
        let (expired, not_yet) = (dated((1970, 1971)), dated((9000, 9999)));
        for (ours, theirs) in [(&expired, &not_yet), (&not_yet, &expired)] {
            let pinned = client_config(ours, [theirs.fingerprint()]).unwrap();
            let (client, server) = connect(pinned, server_config(theirs).unwrap()).unwrap();
            assert_eq!(peer_fingerprint(&client), Some(theirs.fingerprint()));
            assert_eq!(peer_fingerprint(&server), Some(ours.fingerprint()));
        }
    }

    #[test]
    fn a_rotated_key_is_taken_for_the_pinned_one_before_it() {
        let root = tempfile::tempdir().unwrap();
        let state = crate::StateDir::open(root.path().join("s")).unwrap();
        let old = Identity::load_or_create(&state).unwrap();
        let new = Identity::rotate(&state).unwrap();
        let ours = Identity::ephemeral().unwrap();
        let pinned = client_config(&ours, [old.fingerprint()]).unwrap();
        let (client, server) = connect(pinned, server_config(&new).unwrap()).unwrap();
        assert_eq!(peer_fingerprint(&client), Some(new.fingerprint()));
        assert_eq!(peer_predecessors(&client), [old.fingerprint()]);
        assert_eq!(peer_predecessors(&server), []);
        // Not the other way round: who has followed to the new key is done with the old one.
        let followed = client_config(&ours, [new.fingerprint()]).unwrap();
        assert!(connect(followed, server_config(&old).unwrap()).is_err());
        let other = server_config(&ours).unwrap();
        let client = client_config(&new, [ours.fingerprint()]).unwrap();
        let (_, server) = connect(client, other).unwrap();
        assert_eq!(peer_fingerprint(&server), Some(new.fingerprint()));
        assert_eq!(peer_predecessors(&server), [old.fingerprint()]);
    }

    #[test]
    fn a_copied_certificate_without_its_key_is_refused_by_both_ends() {
        let (ours, theirs) = identities();
        let thief = Identity::ephemeral().unwrap();
        let stolen = |victim: &Identity| {
            // `with_single_cert` would notice, a resolver does not.
            let signer =
                rustls::crypto::ring::sign::any_supported_type(&thief.private_key()).unwrap();
            Arc::new(rustls::sign::SingleCertAndKey::from(
                rustls::sign::CertifiedKey::new(vec![victim.certificate().clone()], signer),
            ))
        };
        let mut fake_server = (*server_config(&theirs).unwrap()).clone();
        fake_server.cert_resolver = stolen(&theirs);
        let pinned = client_config(&ours, [theirs.fingerprint()]).unwrap();
        let error = connect(pinned.clone(), Arc::new(fake_server)).unwrap_err();
        assert_eq!(error, CertificateError::BadSignature.into());
        let mut fake_client = (*pinned).clone();
        fake_client.client_auth_cert_resolver = stolen(&ours);
        let error = connect(Arc::new(fake_client), server_config(&theirs).unwrap()).unwrap_err();
        assert_eq!(error, CertificateError::BadSignature.into());
    }

    #[test]
    fn a_client_without_a_key_and_one_with_another_alpn_are_refused() {
        let (ours, theirs) = identities();
        let pinned = client_config(&ours, [theirs.fingerprint()]).unwrap();
        let mut keyless = (*pinned).clone();
        keyless.client_auth_cert_resolver = Arc::new(NoKey);
        let error = connect(Arc::new(keyless), server_config(&theirs).unwrap()).unwrap_err();
        assert_eq!(error, Error::NoCertificatesPresented);
        let mut foreign = (*pinned).clone();
        foreign.alpn_protocols = vec![b"h2".to_vec()];
        let error = connect(Arc::new(foreign), server_config(&theirs).unwrap()).unwrap_err();
        assert_eq!(error, Error::NoApplicationProtocol);
    }

    #[derive(Debug)]
    struct NoKey;

    impl rustls::client::ResolvesClientCert for NoKey {
        fn resolve(
            &self,
            _hints: &[&[u8]],
            _schemes: &[SignatureScheme],
        ) -> Option<Arc<rustls::sign::CertifiedKey>> {
            None
        }

        fn has_certs(&self) -> bool {
            false
        }
    }

    #[test]
    fn the_second_session_is_a_full_handshake_too() {
        let (ours, theirs) = identities();
        let client_side = client_config(&ours, [theirs.fingerprint()]).unwrap();
        let server_side = server_config(&theirs).unwrap();
        for _ in 0..2 {
            let (client, server) = connect(client_side.clone(), server_side.clone()).unwrap();
            let full = Some(rustls::HandshakeKind::Full);
            assert_eq!(
                (client.handshake_kind(), server.handshake_kind()),
                (full, full)
            );
        }
    }
}
