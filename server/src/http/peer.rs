//! The TLS certificate at the other end of a connection: the accept loop puts it into each request.

use axum::http::Extensions;
use gossamer_protocol::problem::ProblemType;
use tokio_rustls::server::TlsStream;

use super::problem::Refusal;
use crate::certificate::Certificate;

/// What the listener asked for, and what the peer showed. The handshake has checked who signed it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Peer {
    asked: bool,
    shown: Option<Certificate>,
}

impl Peer {
    /// Of a connection whose handshake is done.
    pub(crate) fn of<IO>(stream: &TlsStream<IO>, asked: bool) -> Self {
        let chain = stream.get_ref().1.peer_certificates();
        let shown = chain.and_then(|chain| Certificate::read(chain.first()?));
        Self { asked, shown }
    }

    /// Of a request.
    pub(crate) fn behind(extensions: &Extensions) -> Self {
        extensions.get::<Self>().copied().unwrap_or_default()
    }

    /// The certificate; none where the listener asks for none.
    ///
    /// # Errors
    /// `no-certificate` where it asks for one and the peer showed none.
    pub(crate) fn shown(&self) -> Result<Option<Certificate>, Refusal> {
        if self.asked && self.shown.is_none() {
            let detail = "connect with a certificate that the operator's CA signed";
            return Err(Refusal::new(ProblemType::NoCertificate, detail));
        }
        Ok(self.shown.filter(|_| self.asked))
    }
}
