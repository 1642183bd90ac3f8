//! A machine's own key.

use std::fmt;
use std::path::Path;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::{Fingerprint, StateDir, StateError};

/// The key and its certificate, one file so that they cannot disagree.
const FILE: &str = "identity.pem";

/// A key pair (ECDSA on P-256) with its self-signed certificate.
///
/// P-256 on both sides: browsers accept no Ed25519 certificate, and TPMs and smart cards rarely make one.
/// The certificate is only the key's wrapping for TLS; nothing in it but the key is ever checked.
pub struct Identity {
    key: Zeroizing<Vec<u8>>,
    certificate: CertificateDer<'static>,
    fingerprint: Fingerprint,
}

impl Identity {
    /// The identity kept in `state`; made, and written, at the first start.
    ///
    /// # Errors
    ///
    /// The file cannot be read or written, others may read it, or it is damaged; a damaged file is left as it is.
    pub fn load_or_create(state: &StateDir) -> Result<Self, StateError> {
        if let Some(identity) = Self::load(state)? {
            return Ok(identity);
        }
        let (pem, identity) = Self::generate()?;
        if state.create(FILE, pem.as_bytes())? {
            return Ok(identity);
        }
        // Another process was quicker; its key is the one that peers will see.
        Self::load(state)?.ok_or_else(|| StateError::Io {
            path: state.file(FILE),
            action: "read",
            source: std::io::ErrorKind::NotFound.into(),
        })
    }

    /// An identity that lives as long as the process; for tests and one-off tools.
    ///
    /// # Errors
    ///
    /// The system's random number generator fails.
    pub fn ephemeral() -> Result<Self, StateError> {
        Self::generate().map(|(_, identity)| identity)
    }

    /// The name of the key.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The self-signed certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The private key (PKCS #8).
    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.to_vec()).into()
    }

    fn load(state: &StateDir) -> Result<Option<Self>, StateError> {
        let Some(pem) = state.read(FILE)? else {
            return Ok(None);
        };
        Self::parse(&pem)
            .map(Some)
            .map_err(|reason| corrupt(&state.file(FILE), reason))
    }

    fn parse(pem: &[u8]) -> Result<Self, String> {
        let PrivateKeyDer::Pkcs8(key) = PrivateKeyDer::from_pem_slice(pem)
            .map_err(|e| format!("holds no usable private key ({e})"))?
        else {
            return Err("its private key is not in PKCS #8 form".into());
        };
        let certificate = CertificateDer::from_pem_slice(pem)
            .map_err(|e| format!("holds no usable certificate ({e})"))?;
        CertifiedKey::from_der(
            vec![certificate.clone()],
            key.clone_key().into(),
            &default_provider(),
        )
        .map_err(|e| format!("its key and certificate do not belong together ({e})"))?;
        Ok(Self {
            fingerprint: Fingerprint::of_certificate(&certificate)
                .map_err(|e| format!("its certificate is malformed ({e})"))?,
            key: Zeroizing::new(key.secret_pkcs8_der().to_vec()),
            certificate,
        })
    }

    fn generate() -> Result<(Zeroizing<String>, Self), StateError> {
        let failed = |e: rcgen::Error| StateError::Key(e.to_string());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut parameters = CertificateParams::new(Vec::new()).map_err(failed)?;
        parameters.distinguished_name = DistinguishedName::new();
        parameters
            .distinguished_name
            .push(DnType::CommonName, "Soft KVM");
        // Machines without a battery-backed clock start in 1970, and a key does not wear out.
        parameters.not_before = rcgen::date_time_ymd(1970, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(9999, 12, 31);
        let certificate = parameters.self_signed(&key).map_err(failed)?;
        let secret = Zeroizing::new(key.serialize_pem());
        let pem = Zeroizing::new(format!("{}{}", *secret, certificate.pem()));
        let identity = Self::parse(pem.as_bytes()).map_err(StateError::Key)?;
        Ok((pem, identity))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.fingerprint).finish()
    }
}

fn corrupt(path: &Path, reason: String) -> StateError {
    StateError::Corrupt {
        path: path.to_owned(),
        reason,
        cost: "this machine then has a new key, and every peer has to pair again",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_key_outlives_the_process() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open(root.path().join("s")).unwrap();
        let first = Identity::load_or_create(&state).unwrap();
        let second = Identity::load_or_create(&state).unwrap();
        assert_eq!(first.fingerprint(), second.fingerprint());
        assert_eq!(first.certificate(), second.certificate());
        assert_ne!(
            first.fingerprint(),
            Identity::ephemeral().unwrap().fingerprint()
        );
        assert!(!format!("{first:?}").contains("key"));
    }

    #[test]
    fn processes_that_start_together_agree_on_one_key() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open(root.path().join("s")).unwrap();
        let fingerprints: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| Identity::load_or_create(&state).unwrap().fingerprint()))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(fingerprints.windows(2).all(|pair| pair[0] == pair[1]));
    }

    #[test]
    fn a_damaged_file_is_refused_and_kept() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open(root.path().join("s")).unwrap();
        Identity::load_or_create(&state).unwrap();
        let good = fs::read_to_string(state.file(FILE)).unwrap();
        let (_, other) = good.split_once("-----BEGIN CERT").unwrap();
        let (_, stranger) = {
            let (pem, _) = Identity::generate().unwrap();
            let key_end = pem.find("-----BEGIN CERT").unwrap();
            (0, format!("{}-----BEGIN CERT{other}", &pem[..key_end]))
        };
        for bad in [
            String::new(),
            good[..good.len() / 3].to_owned(),
            good.replace("CERTIFICATE", "CERT"),
            good.replacen('M', "A", 3),
            stranger,
        ] {
            state.replace(FILE, bad.as_bytes()).unwrap();
            let error = Identity::load_or_create(&state).unwrap_err();
            assert!(matches!(error, StateError::Corrupt { .. }), "{error}");
            assert!(error.to_string().contains("move it away"), "{error}");
            assert_eq!(fs::read_to_string(state.file(FILE)).unwrap(), bad);
        }
    }
}
