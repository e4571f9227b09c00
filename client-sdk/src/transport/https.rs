//! Over HTTPS, every request signed.
//!
//! Frames longer than [`CHUNK`] travel in pieces and resume where the aggregator stands: `HEAD` asks
//! for the offset, `PATCH` appends. A clock that is off is noticed by the aggregator's `Date` and
//! mended for this process. A renewed certificate is made known where the one before is expected.

use std::ops::Range;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{RoundId, RunId};
use gossamer_protocol::inclusion::Inclusion;
use gossamer_protocol::message::{Answer, CheckIn, Enrolled, Enrolment, Measured, Signed};
use gossamer_protocol::problem::{Problem, ProblemType};
use gossamer_protocol::request::{LIFETIME_MS, Request};
use gossamer_protocol::rotation::{NewKey, Rotation};
use gossamer_protocol::sign::Signature;
use gossamer_protocol::tag::TagName;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, RANGE, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode, Url};
use ring::rand::{SecureRandom, SystemRandom};

use super::certificate::ClientCertificate;
use super::signer::Signer;
use super::{Slot, Transport, TransportError};

/// Bytes of one piece of an upload.
pub const CHUNK: usize = 1 << 20;
/// Most bytes of a manifest: a layout may have many tensors.
const MANIFEST_MAX: usize = 64 << 20;
/// Most bytes of a record, a receipt, an answer or a problem.
const DOCUMENT_MAX: usize = 1 << 20;
/// One request and its answer: of a piece of 1 MiB, 2 kB a second.
const REQUEST_MAX: Duration = Duration::from_secs(600);

const CERTIFICATE: &str = "/v1/certificate";
const SIGNATURE: &str = "gossamer-signature";
const UPLOAD_DIGEST: &str = "upload-digest";
const UPLOAD_LENGTH: &str = "upload-length";
const UPLOAD_OFFSET: &str = "upload-offset";

/// Why no connection can be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpsError {
    /// Not an `https://` address, or more than host and port: paths are the protocol's, and keys, not
    /// passwords, tell who asks.
    #[error("{0:?} is not an https://HOST:PORT address")]
    Url(String),
    /// The token's certificate authority is not one.
    #[error("the token's certificate authority is malformed")]
    Authority,
    /// The device's own certificate is not one.
    #[error("the TLS certificate of this device: {0}")]
    Certificate(String),
    /// The TLS library refused.
    #[error("cannot set up TLS")]
    Tls(#[from] reqwest::Error),
}

/// An aggregator at the other end of HTTPS.
#[derive(Debug)]
pub struct Https {
    http: reqwest::Client,
    url: Url,
    signer: Signer,
    /// Whether it has a certificate to show.
    certified: bool,
    random: SystemRandom,
    /// Milliseconds that the aggregator's clock is ahead of ours.
    ahead_ms: AtomicI64,
}

/// A request before it is signed.
struct Call<'a> {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: &'a Bytes,
}

impl<'a> Call<'a> {
    fn new(method: Method, path: String, body: &'a Bytes) -> Self {
        Self { method, path, headers: HeaderMap::new(), body }
    }

    fn header(mut self, name: &'static str, value: impl ToString) -> Self {
        if let Ok(value) = value.to_string().parse() {
            self.headers.insert(name, value);
        }
        self
    }
}

static NOTHING: Bytes = Bytes::new();

impl Https {
    /// Prepares to talk to the aggregator at `url`, as `signer`: for a client with the key that it enrols with, that
    /// key.
    ///
    /// `ca`: the only certificate authority to trust, DER in URL-safe base64; none: the platform's.
    ///
    /// # Errors
    /// [`HttpsError`] where address or authority are malformed.
    pub fn new(url: &str, ca: Option<&str>, signer: impl Into<Signer>) -> Result<Self, HttpsError> {
        Self::with_certificate(url, ca, signer, None)
    }

    /// The same, with a certificate to show to an aggregator that asks for one.
    ///
    /// # Errors
    /// As for [`new`](Self::new), and [`HttpsError::Certificate`].
    pub fn with_certificate(
        url: &str,
        ca: Option<&str>,
        signer: impl Into<Signer>,
        certificate: Option<&ClientCertificate>,
    ) -> Result<Self, HttpsError> {
        // An app may have chosen a provider before; then that one serves.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let plain = |u: &Url| {
            let bare = u.path() == "/" && u.query().is_none() && u.fragment().is_none();
            let nobody = u.username().is_empty() && u.password().is_none();
            u.scheme() == "https" && u.has_host() && bare && nobody
        };
        let parsed = Url::parse(url).ok().filter(plain);
        let url = parsed.ok_or_else(|| HttpsError::Url(url.to_owned()))?;
        let mut builder = reqwest::Client::builder()
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_secs(60))
            .timeout(REQUEST_MAX)
            .user_agent(concat!("gossamer-client/", env!("CARGO_PKG_VERSION")));
        if let Some(ca) = ca {
            let der = BASE64.decode(ca).map_err(|_| HttpsError::Authority)?;
            let ca = reqwest::Certificate::from_der(&der).map_err(|_| HttpsError::Authority)?;
            builder = builder.tls_certs_only([ca]);
        }
        if let Some(certificate) = certificate {
            builder = builder.identity(certificate.identity()?);
        }
        let http = builder.build()?;
        let ahead_ms = AtomicI64::new(0);
        Ok(Self {
            http,
            url,
            signer: signer.into(),
            certified: certificate.is_some(),
            random: SystemRandom::new(),
            ahead_ms,
        })
    }

    fn now_ms(&self) -> u64 {
        our_ms().saturating_add_signed(self.ahead_ms.load(Ordering::Relaxed))
    }

    fn sign(&self, call: &Call<'_>) -> Result<String, TransportError> {
        let mut nonce = [0; 16];
        let drawn = self.random.fill(&mut nonce);
        drawn.map_err(|_| TransportError::Malformed("no random numbers on this device".into()))?;
        let body = Digest::of(call.body);
        let request = Request { method: call.method.as_str(), path: &call.path, body };
        let expires_ms = self.now_ms() + LIFETIME_MS / 2;
        Ok(self.signer.sign(&request, nonce, expires_ms).to_string())
    }

    /// Sends `call` signed; a refusal becomes an error.
    async fn send(&self, call: Call<'_>) -> Result<Response, TransportError> {
        let (mut mended, mut renewed) = (false, false);
        loop {
            let authorization = self.sign(&call)?;
            let mut url = self.url.clone();
            url.set_path(&call.path);
            let request = self
                .http
                .request(call.method.clone(), url)
                .headers(call.headers.clone())
                .header(AUTHORIZATION, authorization)
                .body(call.body.clone());
            let answer = request.send().await.map_err(|e| self.unreachable(e))?;
            if answer.status().is_success() {
                return Ok(answer);
            }
            let date =
                answer.headers().get(DATE).and_then(|date| http_date_ms(date.to_str().ok()?));
            let refusal = self.refusal(answer).await?;
            match date {
                Some(theirs) if refusal.kind == ProblemType::Expired && !mended => {
                    let ahead = theirs.cast_signed().saturating_sub(our_ms().cast_signed());
                    self.ahead_ms.store(ahead, Ordering::Relaxed);
                    mended = true;
                }
                // A renewed one, which the aggregator takes for the same names.
                _ if refusal.kind == ProblemType::OtherCertificate
                    && self.certified
                    && !renewed
                    && call.path != CERTIFICATE =>
                {
                    renewed = true;
                    let renew = Call::new(Method::POST, CERTIFICATE.into(), &NOTHING);
                    Box::pin(self.send(renew)).await?;
                }
                _ => return Err(TransportError::Refused(refusal)),
            }
        }
    }

    async fn refusal(&self, answer: Response) -> Result<Problem, TransportError> {
        let status = answer.status();
        let retry_s = answer.headers().get(RETRY_AFTER).and_then(|s| s.to_str().ok()?.parse().ok());
        // However long a proxy's page is, its beginning shows that it is no problem document.
        let body = self.read(answer, 0..DOCUMENT_MAX as u64).await?;
        if let Ok(problem) = serde_json::from_slice::<Problem>(&body) {
            return Ok(problem);
        }
        // A proxy's page, or the answer to HEAD, which has no body: keep what the status says.
        let kind = match status {
            StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS => ProblemType::Busy,
            StatusCode::INSUFFICIENT_STORAGE => ProblemType::StoreFull,
            StatusCode::UNAUTHORIZED => ProblemType::Expired,
            StatusCode::NOT_FOUND => ProblemType::NoRoute,
            // Late, or the run is over: the next check-in tells which.
            StatusCode::GONE => ProblemType::StaleRound,
            status if status.is_server_error() => ProblemType::Internal,
            _ => ProblemType::BadRequest,
        };
        Ok(Problem {
            kind,
            title: kind.title().into(),
            status: status.as_u16(),
            detail: "the answer is no problem document".into(),
            retry_ms: retry_s.map(|s: u64| s.saturating_mul(1_000)),
        })
    }

    /// The part `range` of the body, or what there is of it; nothing else is kept, nothing behind it
    /// is read.
    async fn read(&self, mut answer: Response, range: Range<u64>) -> Result<Bytes, TransportError> {
        let (mut part, mut at) = (Vec::new(), 0_u64);
        while at < range.end
            && let Some(piece) = answer.chunk().await.map_err(|e| self.unreachable(e))?
        {
            let within = |place: u64| place.saturating_sub(at).min(piece.len() as u64) as usize;
            part.extend_from_slice(&piece[within(range.start)..within(range.end)]);
            at += piece.len() as u64;
        }
        Ok(part.into())
    }

    /// The whole body, which may have `max` bytes.
    async fn document(&self, answer: Response, max: usize) -> Result<Bytes, TransportError> {
        let body = self.read(answer, 0..max as u64 + 1).await?;
        if body.len() > max {
            return Err(TransportError::Malformed(format!("more than {max} bytes")));
        }
        Ok(body)
    }

    async fn json<T: serde::de::DeserializeOwned>(
        &self,
        call: Call<'_>,
    ) -> Result<T, TransportError> {
        let answer = self.send(call.header(CONTENT_TYPE.as_str(), "application/json")).await?;
        let body = self.document(answer, DOCUMENT_MAX).await?;
        serde_json::from_slice(&body).map_err(|e| TransportError::Malformed(e.to_string()))
    }

    async fn signed(&self, answer: Response, max: usize) -> Result<Signed, TransportError> {
        let signature = answer.headers().get(SIGNATURE).and_then(|s| s.to_str().ok());
        let signature: Option<Signature> = signature.and_then(|s| s.parse().ok());
        let missing = || TransportError::Malformed(format!("no {SIGNATURE} header"));
        let signature = signature.ok_or_else(missing)?;
        let bytes = self.document(answer, max).await?.to_vec();
        Ok(Signed { bytes, signature })
    }

    fn unreachable(&self, error: reqwest::Error) -> TransportError {
        let peer = self.url.origin().ascii_serialization();
        TransportError::Unreachable { peer, source: error.without_url().into() }
    }

    /// Sends the rest of a long frame piece by piece.
    async fn resume(&self, path: String, frame: &Bytes) -> Result<Signed, TransportError> {
        let digest = Digest::of(frame);
        let ask = Call::new(Method::HEAD, path.clone(), &NOTHING).header(UPLOAD_DIGEST, digest);
        let mut offset = upload_offset(&self.send(ask).await?)?;
        loop {
            // All of it may stand without a receipt, where the aggregator was killed in between; then a
            // piece of nothing asks for that.
            if offset > frame.len() {
                return Err(TransportError::Malformed(format!(
                    "the aggregator stands at byte {offset} of {}",
                    frame.len()
                )));
            }
            let piece = frame.slice(offset..frame.len().min(offset + CHUNK));
            let call = Call::new(Method::PATCH, path.clone(), &piece)
                .header(UPLOAD_DIGEST, digest)
                .header(UPLOAD_LENGTH, frame.len())
                .header(UPLOAD_OFFSET, offset);
            let answer = self.send(call).await?;
            if answer.status() == StatusCode::OK {
                return self.signed(answer, DOCUMENT_MAX).await;
            }
            let next = upload_offset(&answer)?;
            if next <= offset {
                return Err(TransportError::Malformed(format!("the upload stands at {next}")));
            }
            offset = next;
        }
    }
}

fn upload_offset(answer: &Response) -> Result<usize, TransportError> {
    let offset = answer.headers().get(UPLOAD_OFFSET).and_then(|offset| offset.to_str().ok());
    let missing = || TransportError::Malformed(format!("no {UPLOAD_OFFSET} header"));
    offset.and_then(|offset| offset.parse().ok()).ok_or_else(missing)
}

#[async_trait::async_trait]
impl Transport for Https {
    async fn enrol(&self, enrolment: &Enrolment) -> Result<Enrolled, TransportError> {
        let body = json_bytes(enrolment)?;
        self.json(Call::new(Method::POST, "/v1/enrol".into(), &body)).await
    }

    async fn check_in(&self, ask: &CheckIn) -> Result<Answer, TransportError> {
        let body = json_bytes(ask)?;
        self.json(Call::new(Method::POST, "/v1/check-in".into(), &body)).await
    }

    async fn manifest(&self, run: RunId) -> Result<Signed, TransportError> {
        let path = format!("/v1/runs/{run}/manifest");
        let answer = self.send(Call::new(Method::GET, path, &NOTHING)).await?;
        self.signed(answer, MANIFEST_MAX).await
    }

    async fn record(&self, run: RunId, round: RoundId) -> Result<Signed, TransportError> {
        let path = format!("/v1/runs/{run}/records/{round}");
        let answer = self.send(Call::new(Method::GET, path, &NOTHING)).await?;
        self.signed(answer, DOCUMENT_MAX).await
    }

    async fn object(
        &self,
        run: RunId,
        of: Digest,
        range: Range<u64>,
    ) -> Result<Bytes, TransportError> {
        let path = format!("/v1/runs/{run}/objects/{of}");
        let asked = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
        let call = Call::new(Method::GET, path, &NOTHING).header(RANGE.as_str(), asked);
        let answer = self.send(call).await?;
        // A cache in between may ignore the range; what was asked for is still in there.
        let part = match answer.status() {
            StatusCode::OK => range,
            _ => 0..range.end.saturating_sub(range.start),
        };
        self.read(answer, part).await
    }

    async fn difference(
        &self,
        run: RunId,
        round: RoundId,
        held: RoundId,
        most: u64,
    ) -> Result<Bytes, TransportError> {
        let path = format!("/v1/runs/{run}/rounds/{round}/differences/{held}");
        let answer = self.send(Call::new(Method::GET, path, &NOTHING)).await?;
        self.document(answer, usize::try_from(most).unwrap_or(usize::MAX)).await
    }

    async fn upload(&self, slot: &Slot, frame: &Bytes) -> Result<Signed, TransportError> {
        let Slot { run, round, attempt, client } = slot;
        let path = format!("/v1/runs/{run}/rounds/{round}/attempts/{attempt}/updates/{client}");
        if frame.len() > CHUNK {
            return self.resume(path, frame).await;
        }
        let answer = self.send(Call::new(Method::PUT, path, frame)).await?;
        self.signed(answer, DOCUMENT_MAX).await
    }

    async fn measured(&self, slot: &Slot, measured: &Measured) -> Result<(), TransportError> {
        let Slot { run, round, client, .. } = slot;
        let path = format!("/v1/runs/{run}/rounds/{round}/evaluations/{client}");
        let body = json_bytes(measured)?;
        let call = Call::new(Method::PUT, path, &body);
        self.send(call.header(CONTENT_TYPE.as_str(), "application/json")).await?;
        Ok(())
    }

    async fn tagged(&self, tag: &TagName) -> Result<Signed, TransportError> {
        let path = format!("/v1/adapters/{tag}");
        let answer = self.send(Call::new(Method::GET, path, &NOTHING)).await?;
        self.signed(answer, DOCUMENT_MAX).await
    }

    async fn keys(&self) -> Result<Vec<Rotation>, TransportError> {
        self.json(Call::new(Method::GET, "/v1/keys".into(), &NOTHING)).await
    }

    async fn change_key(&self, new: &NewKey) -> Result<Enrolled, TransportError> {
        let body = json_bytes(new)?;
        self.json(Call::new(Method::POST, "/v1/key".into(), &body)).await
    }

    async fn inclusion(&self, run: RunId, round: RoundId) -> Result<Inclusion, TransportError> {
        let path = format!("/v1/runs/{run}/rounds/{round}/inclusion");
        self.json(Call::new(Method::GET, path, &NOTHING)).await
    }
}

/// Unix milliseconds by this device's clock.
fn our_ms() -> u64 {
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(ours.as_millis()).unwrap_or(u64::MAX)
}

fn json_bytes<T: serde::Serialize>(body: &T) -> Result<Bytes, TransportError> {
    let json = serde_json::to_vec(body).map_err(|e| TransportError::Malformed(e.to_string()))?;
    Ok(json.into())
}

/// Unix milliseconds of an HTTP date (RFC 9110, section 5.6.7).
fn http_date_ms(text: &str) -> Option<u64> {
    let date = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(date.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gossamer_protocol::sign::SigningKey;

    use super::*;

    #[test]
    fn only_https_is_spoken() {
        let key = Arc::new(SigningKey::from_seed(&[1; 32]));
        for bad in [
            "http://a",
            "a.example",
            "https://",
            "",
            "https://a/path",
            "https://a/?query",
            "https://a#part",
            "https://user:word@a",
        ] {
            let refused = Https::new(bad, None, key.clone()).expect_err(bad);
            assert!(refused.to_string().contains("https://"), "{refused}");
        }
        let refused = Https::new("https://a", Some("AAAA"), key).expect_err("no certificate");
        assert!(matches!(refused, HttpsError::Authority | HttpsError::Tls(_)), "{refused}");
    }
}
