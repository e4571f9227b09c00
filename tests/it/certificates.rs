//! Clients that show certificates, where the aggregator asks for them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gossamer_client::client::{Client, ClientError};
use gossamer_client::transport::certificate::ClientCertificate;
use gossamer_client::transport::https::Https;
use gossamer_client::transport::{Transport as _, TransportError};
use gossamer_protocol::message::{CheckIn, Enrolment, JoinToken};
use gossamer_protocol::problem::ProblemType;
use gossamer_protocol::sign::SigningKey;
use gossamer_tests::{TestServer, base, deliver, identity, impatient, manifest, task};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

/// Who signs devices' certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut terms = CertificateParams::new(Vec::new()).expect("no names");
        terms.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        terms.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        terms.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(terms, key).expect("signed"))
    }

    /// A chain and its key, PEM.
    fn issue(&self, device: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut terms = CertificateParams::new(Vec::new()).expect("no names");
        terms.distinguished_name.push(DnType::CommonName, device);
        terms.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let made = terms.signed_by(&key, &self.0).expect("signed");
        (made.pem(), key.serialize_pem())
    }

    fn certificate(&self, device: &str) -> ClientCertificate {
        let (chain, key) = self.issue(device);
        ClientCertificate::from_pem(chain.as_bytes(), key.as_bytes())
    }
}

/// A server that takes certificates of `authority` alone.
async fn start(authority: &Authority) -> TestServer {
    let pem = authority.0.pem();
    TestServer::start_with(|config| {
        std::fs::write(config.dir.join("tls/clients.pem"), pem).expect("written");
        config.tls.client_ca = Some("tls/clients.pem".into());
    })
    .await
}

async fn connect(
    server: &TestServer,
    folder: &Path,
    certificate: Option<ClientCertificate>,
) -> Result<Client, ClientError> {
    let mut builder = Client::builder(&server.url).base(base()).backoff(impatient());
    builder = builder.state_dir(folder).token(server.token().await);
    if let Some(certificate) = certificate {
        builder = builder.certificate(certificate);
    }
    builder.connect().await
}

fn named(refused: &ClientError) -> Option<ProblemType> {
    match refused {
        ClientError::Transport(refused) => refused.problem(),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_shows_its_own_certificate_or_is_told_why_not() {
    let (authority, base) = (Authority::new("devices"), base());
    let server = start(&authority).await;
    server.coordinator.create_run(&manifest(&base, 1, 4)).await.expect("sound");
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path();

    let refused = connect(&server, dir, None).await.expect_err("none");
    assert_eq!(named(&refused), Some(ProblemType::NoCertificate));
    // A load balancer has none, and asks without.
    let ca = std::fs::read(server.dir().join("tls/ca.pem")).expect("there");
    let plain = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(&ca).expect("a CA")])
        .build()
        .expect("a client");
    let health = plain.get(format!("{}/readyz", server.url)).send().await.expect("an answer");
    assert_eq!(health.status().as_u16(), 200);

    let first = authority.certificate("device 1");
    let client = connect(&server, dir, Some(first.clone())).await.expect("enrols");
    let id = client.id();
    deliver(&client, &base).await.expect("round 0");
    drop(client);
    let bound = async || server.coordinator.client(id).await.expect("there").row.certificate;
    let before = bound().await.expect("bound");

    // Another device's, by the same authority; whoever has the folder has the key.
    let other = authority.certificate("device 2");
    let client = connect(&server, dir, Some(other.clone())).await.expect("is enrolled");
    let refused = client.step(&task(&base, 0)).await.expect_err("another device's");
    assert_eq!(named(&refused), Some(ProblemType::OtherCertificate));
    assert_eq!(bound().await, Some(before));
    drop(client);
    let client = connect(&server, dir, None).await.expect("is enrolled");
    let refused = client.step(&task(&base, 0)).await.expect_err("none");
    assert_eq!(named(&refused), Some(ProblemType::NoCertificate));
    drop(client);

    // A renewed one is told to the server by itself; the one before is then no more the client's.
    let renewed = authority.certificate("device 1");
    let client = connect(&server, dir, Some(renewed)).await.expect("is enrolled");
    deliver(&client, &base).await.expect("round 1");
    let after = bound().await.expect("bound");
    assert_ne!(after, before);
    // Its key can be changed over it, too.
    client.rotate_key().await.expect("changed");
    deliver(&client, &base).await.expect("round 2");
    drop(client);

    // A whole other one, once the operator has freed the client.
    server.coordinator.free_certificate(id).await.expect("freed");
    let client = connect(&server, dir, Some(other)).await.expect("is enrolled");
    deliver(&client, &base).await.expect("round 3");
    assert!(bound().await.is_some_and(|bound| bound != after));
    drop(client);
    server.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_authoritys_certificate_does_not_get_through_the_handshake() {
    let (authority, stranger) = (Authority::new("devices"), Authority::new("devices"));
    let server = start(&authority).await;
    let token = JoinToken::decode(&server.token().await).expect("a token");
    let key = Arc::new(SigningKey::from_seed(&identity(0)));
    let way = |certificate: Option<ClientCertificate>| {
        let (url, ca) = (&server.url, token.ca.as_deref());
        Https::with_certificate(url, ca, key.clone(), certificate.as_ref()).expect("an address")
    };
    let enrolment = Enrolment::new(&token.secret, &key);
    let refused = way(Some(stranger.certificate("device 1"))).enrol(&enrolment).await;
    assert!(matches!(refused, Err(TransportError::Unreachable { .. })), "{refused:?}");
    assert_eq!(server.coordinator.fleet_len(), 0);
    // Enrolled before certificates were asked for: the first one that it shows is its own.
    server.coordinator.enrol(&enrolment).await.expect("enrols");
    let mine = way(Some(authority.certificate("device 1")));
    mine.check_in(&CheckIn::default()).await.expect("bound");
    let theirs = way(Some(authority.certificate("device 2")));
    let refused = theirs.check_in(&CheckIn::default()).await.expect_err("bound to another");
    assert_eq!(refused.problem(), Some(ProblemType::OtherCertificate));
    tokio::time::timeout(Duration::from_secs(60), server.close()).await.expect("ends");
}
