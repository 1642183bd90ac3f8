//! A new key that follows an old one, so that pins follow too.
//!
//! A key that was rotated shows, behind its own certificate, a pair for each key before it: the new key certified by
//! the old one (RFC 4210 §4.4, "NewWithOld") and the old key's own certificate ("OldWithOld"). Whoever pinned the old key
//! can check by it alone that its holder has named the new one. Dates and names mean nothing in them either.

use std::time::Duration;

use rcgen::{Issuer, KeyPair};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::{Fingerprint, identity};

/// How many earlier keys a key shows; whoever has missed more rotations has to pair again.
pub const MAX_PREDECESSORS: usize = 4;

/// Any date does: our certificates are valid from 1970 to 9999.
const DATE: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(1_000_000_000));

/// The certificate "NewWithOld": of the key `new`, signed by the key `old` (PKCS #8).
pub(crate) fn certify(new: &KeyPair, old: &[u8]) -> Result<CertificateDer<'static>, rcgen::Error> {
    let old = KeyPair::try_from(&PrivatePkcs8KeyDer::from(old))?;
    let issuer = Issuer::new(identity::parameters()?, old);
    let certificate = identity::parameters()?.signed_by(new, &issuer)?;
    Ok(certificate.der().clone())
}

/// The keys whose holders have named the key of `shown` as the one that follows, the newest first.
///
/// `behind` is what the peer sent after its own certificate; at most [`MAX_PREDECESSORS`] signatures are checked, and what
/// follows the first pair that does not hold counts for nothing.
#[must_use]
pub fn predecessors(shown: &CertificateDer<'_>, behind: &[CertificateDer<'_>]) -> Vec<Fingerprint> {
    let Ok(mut key) = Fingerprint::of_certificate(shown) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let (pairs, _) = behind.as_chunks();
    for [link, old] in pairs.iter().take(MAX_PREDECESSORS) {
        if Fingerprint::of_certificate(link) != Ok(key) || !is_signed(link, old) {
            break;
        }
        let Ok(before) = Fingerprint::of_certificate(old) else {
            break;
        };
        key = before;
        found.push(key);
    }
    found
}

/// Whether the key of `old` has signed `link`.
fn is_signed(link: &CertificateDer<'_>, old: &CertificateDer<'_>) -> bool {
    let (Ok(link), Ok(anchor)) = (EndEntityCert::try_from(link), anchor_from_trusted_cert(old))
    else {
        return false;
    };
    let algorithms = default_provider().signature_verification_algorithms;
    let usage = KeyUsage::client_auth();
    link.verify_for_usage(algorithms.all, &[anchor], &[], DATE, usage, None, None)
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Identity, StateDir};

    /// A key that was rotated `times` times, and all its names, the newest first.
    fn rotated(times: usize) -> (tempfile::TempDir, Identity, Vec<Fingerprint>) {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open(root.path().join("s")).unwrap();
        let mut identity = Identity::load_or_create(&state).unwrap();
        let mut names = vec![identity.fingerprint()];
        for _ in 0..times {
            identity = Identity::rotate(&state).unwrap();
            names.insert(0, identity.fingerprint());
        }
        let again = Identity::load_or_create(&state).unwrap();
        assert_eq!(again.chain(), identity.chain());
        (root, identity, names)
    }

    fn named(chain: &[CertificateDer<'_>]) -> Vec<Fingerprint> {
        let (own, behind) = chain.split_first().unwrap();
        predecessors(own, behind)
    }

    #[test]
    fn each_key_is_vouched_for_by_the_one_before() {
        for times in 0..=MAX_PREDECESSORS + 1 {
            let (_root, identity, names) = rotated(times);
            let expected = &names[1..names.len().min(MAX_PREDECESSORS + 1)];
            assert_eq!(named(&identity.chain()), expected, "{times}");
            assert_eq!(identity.chain().len(), 1 + 2 * expected.len());
        }
    }

    #[test]
    fn nobody_names_himself_as_another_keys_successor() {
        let (_root, victim, names) = rotated(2);
        let (_other, thief, own) = rotated(1);
        let (good, stolen) = (victim.chain(), thief.chain());
        // Whatever he puts behind his certificate, of what he has seen and what he can sign.
        let pieces: Vec<_> = good.iter().chain(&stolen).collect();
        let mut checked = 0;
        for link in &pieces {
            for old in &pieces {
                for next in &pieces {
                    let chain = [&stolen[0], *link, *old, &good[1], &good[2], *next, &good[4]]
                        .map(Clone::clone);
                    let found = named(&chain);
                    assert!(found.iter().all(|key| own.contains(key)), "{found:?}");
                    checked += found.len();
                }
            }
        }
        assert!(checked > 0, "the thief's own chain is fine");
        // Nor does the victim's old key name an older one's successor by a chain with a gap.
        let gap = [&good[0], &good[3], &good[4]].map(Clone::clone);
        assert_eq!(named(&gap), []);
        assert_eq!(named(&good), &names[1..]);
    }

    #[test]
    fn bytes_that_changed_name_nobody() {
        let (_root, identity, names) = rotated(1);
        let chain = identity.chain();
        for piece in [1, 2] {
            for at in 0..chain[piece].len() {
                let mut bytes = chain[piece].to_vec();
                bytes[at] ^= 1;
                let mut changed = chain.clone();
                changed[piece] = bytes.into();
                // An old key's own signature on itself is not looked at: its key alone counts.
                let found = named(&changed);
                assert!(
                    found.is_empty() || (piece == 2 && found == names[1..]),
                    "{at}"
                );
            }
        }
        for cut in [&chain[..1], &chain[..2], &[]] {
            let behind = cut.get(1..).unwrap_or_default();
            assert_eq!(predecessors(&chain[0], behind), []);
        }
    }
}
