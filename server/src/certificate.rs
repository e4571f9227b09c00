//! What is kept of a client's TLS certificate, which the handshake has checked.

use gossamer_protocol::digest::{Digest, Hasher};
use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// A certificate that a peer showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// SHA-256 of its DER.
    pub fingerprint: Digest,
    /// SHA-256 of whom it is for: its subject and its alternative names. A renewed one has the same.
    pub names: Digest,
}

impl Certificate {
    /// Reads one; none where it is no X.509 certificate.
    #[must_use]
    pub fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let mut names = Hasher::default();
        let mut add = |part: &[u8]| {
            names.update(&(part.len() as u64).to_le_bytes());
            names.update(part);
        };
        add(certificate.subject().as_raw());
        for extension in certificate.extensions() {
            if extension.oid == OID_X509_EXT_SUBJECT_ALT_NAME {
                add(extension.value);
            }
        }
        Some(Self { fingerprint: Digest::of(der), names: names.finish() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    fn made(common: &str, alternative: &str, year: i32) -> Vec<u8> {
        let mut terms = CertificateParams::new(vec![alternative.to_owned()]).expect("a name");
        terms.distinguished_name.push(DnType::CommonName, common);
        terms.not_before = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        terms.self_signed(&key).expect("signed").der().to_vec()
    }

    #[test]
    fn a_renewed_one_is_for_the_same_and_no_other_is() {
        let der = made("device 1", "one.example", 2020);
        let first = Certificate::read(&der).expect("a certificate");
        assert_eq!(first.fingerprint, Digest::of(&der));
        let read = |common, alternative, year| {
            Certificate::read(&made(common, alternative, year)).expect("a certificate")
        };
        let renewed = read("device 1", "one.example", 2021);
        assert_ne!(renewed.fingerprint, first.fingerprint);
        assert_eq!(renewed.names, first.names);
        assert_ne!(read("device 2", "one.example", 2020).names, first.names);
        assert_ne!(read("device 1", "two.example", 2020).names, first.names);
        assert_eq!(Certificate::read(b"none"), None);
        assert_eq!(Certificate::read(&der[..der.len() - 1]), None);
    }
}
