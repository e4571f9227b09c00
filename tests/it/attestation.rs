//! Who may enrol, where the operator has a verifier: a toy one, of devices that share a secret with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gossamer_client::client::{Attester, ClientError};
use gossamer_protocol::attestation::Attestation;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::problem::ProblemType;
use gossamer_server::attestation::{Asking, Unattested, Verifier};
use gossamer_tests::{TestServer, base};

fn statement(secret: &str, challenge: &[u8; 32]) -> Vec<u8> {
    Digest::of(&[secret.as_bytes(), challenge].concat()).0.to_vec()
}

/// Takes what is made with the secret; the first time it is asked it is away.
#[derive(Default)]
struct Toy(AtomicUsize);

#[async_trait::async_trait]
impl Verifier for Toy {
    async fn verify(&self, asking: &Asking<'_>) -> Result<(), Unattested> {
        let refuse = |why: &str| Err(Unattested::Refused(why.to_owned()));
        if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
            return Err(Unattested::Away("asleep".to_owned()));
        }
        assert_eq!(asking.project.to_string(), "default");
        let Some(attestation) = asking.attestation.filter(|made| made.kind == "toy") else {
            return refuse("expected a statement of the kind \"toy\"");
        };
        let made = attestation.statement().map_err(|e| Unattested::Refused(e.to_string()))?;
        if made == statement("secret", &asking.challenge.0) {
            Ok(())
        } else {
            refuse("it is not over this enrolment")
        }
    }
}

enum Device {
    Makes(&'static str),
    /// A statement that another device made.
    Copies(Attestation),
    Breaks,
}

#[async_trait::async_trait]
impl Attester for Device {
    async fn attest(
        &self,
        challenge: &[u8; 32],
    ) -> Result<Attestation, Box<dyn std::error::Error + Send + Sync>> {
        match self {
            Self::Makes(secret) => Ok(Attestation::new("toy", &statement(secret, challenge))),
            Self::Copies(made) => Ok(made.clone()),
            Self::Breaks => Err("no such hardware".into()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_decides_who_enrols() {
    let (server, base) = (TestServer::start().await, base());
    let enrol = async |n, device: Option<Device>| {
        let mut builder = server.client(n, &base).await;
        if let Some(device) = device {
            builder = builder.attester(Arc::new(device));
        }
        builder.connect().await.map(|client| client.id())
    };
    // Nobody asks by default, whatever a device says.
    enrol(0, None).await.expect("enrols");
    enrol(1, Some(Device::Makes("anything"))).await.expect("enrols");
    server.coordinator.set_verifier(Arc::new(Toy::default()));
    let others = Attestation::new("toy", &statement("secret", &[7; 32]));
    for (n, device) in [
        (2, None),
        (3, Some(Device::Makes("guess"))),
        (4, Some(Device::Copies(others))),
        (5, Some(Device::Copies(Attestation::new("other", b"")))),
    ] {
        let refused = enrol(n, device).await.expect_err("not attested");
        let ClientError::Transport(refused) = refused else { panic!("{refused:?}") };
        assert_eq!(refused.problem(), Some(ProblemType::Unattested), "{n}: {refused}");
    }
    let refused = enrol(6, Some(Device::Breaks)).await.expect_err("no statement");
    assert!(matches!(refused, ClientError::Attestation(_)), "{refused:?}");
    assert_eq!(server.coordinator.fleet_len(), 2);
    let used =
        server.coordinator.tokens(100).await.expect("told").iter().map(|t| t.used).sum::<u32>();
    assert_eq!(used, 2, "what is refused uses no token up");

    let client = enrol(7, Some(Device::Makes("secret"))).await.expect("enrols");
    let log = server.coordinator.store().audit(&None, u64::MAX, 10).await.expect("read");
    let told = log.iter().map(|entry| entry.entry.to_string());
    let told = told.filter(|entry| entry.contains(&client.to_string())).collect::<Vec<_>>();
    assert!(told.iter().any(|entry| entry.contains("\"attestation\":\"toy\"")), "{told:?}");
    server.close().await;
}
