//! TLS by rustls with ring alone, and a development CA.

use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A PEM file cannot be read.
    #[error("cannot read {path}: {why}")]
    Pem {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        why: String,
    },
    /// Certificate and key do not go together, or rustls refuses them.
    #[error("the certificate cannot be used")]
    Refused(#[from] rustls::Error),
    /// No certificate of clients can be checked with these.
    #[error("{path} cannot be used as the CA of clients: {why}")]
    ClientCa {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        why: String,
    },
    /// The development certificates cannot be made.
    #[error("the development certificates cannot be made")]
    Make(#[from] rcgen::Error),
}

/// A certificate chain's leaf with its key, and the CA behind it; PEM.
#[derive(Clone)]
pub struct DevelopmentCertificates {
    /// The CA's certificate, for clients.
    pub ca: String,
    /// The server's certificate.
    pub certificate: String,
    /// The server's key.
    pub key: String,
}

/// Makes a CA and a server certificate for `names` (DNS names and IP addresses). The CA's key is
/// used once and forgotten, so nobody can make another certificate that these clients trust.
///
/// # Errors
/// [`TlsError::Make`] for a name that is none.
pub fn development(names: &[String]) -> Result<DevelopmentCertificates, TlsError> {
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.distinguished_name.push(DnType::CommonName, "Gossamer development CA");
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;

    let key = KeyPair::generate()?;
    let mut server = CertificateParams::new(names.to_vec())?;
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.distinguished_name.push(DnType::CommonName, "Gossamer aggregator");
    server.use_authority_key_identifier_extension = true;
    let certificate = server.signed_by(&key, &ca)?;
    Ok(DevelopmentCertificates {
        ca: ca.pem(),
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

/// What the accept loop needs: this certificate, HTTP/2 and HTTP/1.1.
///
/// With `client_ca` a peer may show a certificate that one of these signed, and no other. One that shows none gets
/// through the handshake, so that it can be told by name what it lacks.
///
/// # Errors
/// [`TlsError`] where a file is missing or the two do not go together.
pub fn server_config(
    certificate: &Path,
    key: &Path,
    client_ca: Option<&Path>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(certificate)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|e| pem(key, &e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = match client_ca {
        Some(path) => peers(path, provider.clone())?,
        None => WebPkiClientVerifier::no_client_auth(),
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Takes certificates that the CAs in `path` signed.
fn peers(
    path: &Path,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let bad = |why: String| TlsError::ClientCa { path: path.to_owned(), why };
    let mut roots = RootCertStore::empty();
    for ca in certificates(path)? {
        roots.add(ca).map_err(|e| bad(e.to_string()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    verifier.allow_unauthenticated().build().map_err(|e| bad(e.to_string()))
}

/// The certificates in a PEM file, at least one.
///
/// # Errors
/// [`TlsError::Pem`] where there is none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(|e| pem(path, &e))?
        .collect::<Result<_, _>>()
        .map_err(|e| pem(path, &e))?;
    if found.is_empty() {
        let why = "no certificate in it".to_owned();
        return Err(TlsError::Pem { path: path.to_owned(), why });
    }
    Ok(found)
}

fn pem(path: &Path, error: &rustls_pki_types::pem::Error) -> TlsError {
    TlsError::Pem { path: path.to_owned(), why: error.to_string() }
}
