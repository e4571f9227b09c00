//! `--tls-cert`, `--tls-key`: the certificate that a device shows.

use std::path::PathBuf;

use clap::Args;

use crate::client::Builder;
use crate::transport::certificate::ClientCertificate;
use crate::transport::https::HttpsError;

#[derive(Args)]
pub(super) struct Certificate {
    /// The TLS certificate to show, a PEM chain, where the aggregator asks for one.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl Certificate {
    /// `builder` with it, where one is given.
    pub(super) fn with(self, builder: Builder) -> Result<Builder, HttpsError> {
        match (self.tls_cert, self.tls_key) {
            (Some(chain), Some(key)) => {
                Ok(builder.certificate(ClientCertificate::read(&chain, &key)?))
            }
            _ => Ok(builder),
        }
    }
}
