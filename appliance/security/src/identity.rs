//! A machine's own key.

use std::fmt;
use std::path::Path;

use pem::Pem;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::succession::{self, MAX_PREDECESSORS};
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
    /// What earlier keys say of this one; see [`succession`].
    vouchers: Vec<CertificateDer<'static>>,
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
        let (pem, identity) = Self::generate(None)?;
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

    /// Puts a new key in place of the one kept in `state`, vouched for by it, so that pins follow. Programs that run have the
    /// old one until they start again.
    ///
    /// # Errors
    ///
    /// As [`Self::load_or_create`]; the old key is kept then.
    pub fn rotate(state: &StateDir) -> Result<Self, StateError> {
        let old = Self::load_or_create(state)?;
        let (pem, identity) = Self::generate(Some(&old))?;
        state.replace(FILE, pem.as_bytes())?;
        Ok(identity)
    }

    /// An identity that lives as long as the process; for tests and one-off tools.
    ///
    /// # Errors
    ///
    /// The system's random number generator fails.
    pub fn ephemeral() -> Result<Self, StateError> {
        Self::generate(None).map(|(_, identity)| identity)
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

    /// What is shown in the handshake: the certificate, and behind it what earlier keys say of this one.
    #[must_use]
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        let own = std::iter::once(&self.certificate);
        own.chain(&self.vouchers).cloned().collect()
    }

    /// The keys before this one that vouch for it, the newest first.
    #[must_use]
    pub fn predecessors(&self) -> Vec<Fingerprint> {
        succession::predecessors(&self.certificate, &self.vouchers)
    }

    /// Hands the memory of the private key to `keep`, which may ask the system not to swap it out.
    ///
    /// # Errors
    /// Those of `keep`.
    pub fn pin<E>(&self, keep: impl FnOnce(&[u8]) -> Result<(), E>) -> Result<(), E> {
        keep(&self.key)
    }

    /// The private key (PKCS #8).
    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.to_vec()).into()
    }

    /// The file's text, secret.
    pub(crate) fn text(state: &StateDir) -> Result<Zeroizing<String>, StateError> {
        let bytes = state.read(FILE)?.unwrap_or_default();
        let text = str::from_utf8(&bytes)
            .map_err(|e| corrupt(&state.file(FILE), format!("is no text ({e})")))?;
        Ok(Zeroizing::new(text.to_owned()))
    }

    /// Puts a text that [`Self::parse`] takes in place of the file.
    pub(crate) fn replace(state: &StateDir, text: &str) -> Result<(), StateError> {
        state.replace(FILE, text.as_bytes())
    }

    /// Forgets the key; says whether there was one.
    pub(crate) fn remove(state: &StateDir) -> Result<bool, StateError> {
        state.remove(FILE)
    }

    pub(crate) fn load(state: &StateDir) -> Result<Option<Self>, StateError> {
        let Some(pem) = state.read(FILE)? else {
            return Ok(None);
        };
        Self::parse(&pem)
            .map(Some)
            .map_err(|reason| corrupt(&state.file(FILE), reason))
    }

    pub(crate) fn parse(pem: &[u8]) -> Result<Self, String> {
        let PrivateKeyDer::Pkcs8(key) = PrivateKeyDer::from_pem_slice(pem)
            .map_err(|e| format!("holds no usable private key ({e})"))?
        else {
            return Err("its private key is not in PKCS #8 form".into());
        };
        let mut certificates = CertificateDer::pem_slice_iter(pem)
            .take(1 + 2 * MAX_PREDECESSORS)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| format!("holds a malformed certificate ({e})"))?
            .into_iter();
        let certificate = certificates.next().ok_or("holds no certificate")?;
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
            vouchers: certificates.collect(),
        })
    }

    fn generate(old: Option<&Self>) -> Result<(Zeroizing<String>, Self), StateError> {
        let failed = |e: rcgen::Error| StateError::Key(e.to_string());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let own = parameters()
            .and_then(|all| all.self_signed(&key))
            .map_err(failed)?;
        let mut chain = vec![own.der().clone()];
        if let Some(old) = old {
            chain.push(succession::certify(&key, &old.key).map_err(failed)?);
            chain.extend(old.chain());
            chain.truncate(1 + 2 * MAX_PREDECESSORS);
        }
        let mut pem = Zeroizing::new(key.serialize_pem());
        for certificate in &chain {
            pem.push_str(&pem::encode(&Pem::new("CERTIFICATE", certificate.as_ref())));
        }
        let identity = Self::parse(pem.as_bytes()).map_err(StateError::Key)?;
        Ok((pem, identity))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.fingerprint).finish()
    }
}

/// Of every certificate of ours.
pub(crate) fn parameters() -> Result<CertificateParams, rcgen::Error> {
    let mut parameters = CertificateParams::new(Vec::new())?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters
        .distinguished_name
        .push(DnType::CommonName, "Soft KVM");
    // Machines without a battery-backed clock start in 1970, and a key does not wear out.
    parameters.not_before = rcgen::date_time_ymd(1970, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(9999, 12, 31);
    Ok(parameters)
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
            let (pem, _) = Identity::generate(None).unwrap();
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
