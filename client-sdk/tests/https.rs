//! The HTTPS transport against an aggregator, or something in between, that misbehaves.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use gossamer_client::transport::https::{CHUNK, Https};
use gossamer_client::transport::retry::{Backoff, Retrying};
use gossamer_client::transport::{Slot, Transport, TransportError};
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{Attempt, ClientId, RoundId, RunId};
use gossamer_protocol::message::CheckIn;
use gossamer_protocol::problem::{Problem, ProblemType};
use gossamer_protocol::request::Authorization;
use gossamer_protocol::sign::{Purpose, SigningKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A request as it arrived.
struct Asked {
    method: String,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

/// What is answered; every connection is closed behind it.
struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Without any answer.
    hang_up: bool,
}

impl Reply {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: vec![], body: body.into(), hang_up: false }
    }

    fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    fn problem(kind: ProblemType, status: u16) -> Self {
        let (title, detail) = (kind.title().into(), "a test".into());
        let problem = Problem { kind, title, status, detail, retry_ms: None };
        Self::new(status, serde_json::to_vec(&problem).expect("JSON"))
    }

    fn receipt() -> Self {
        let signature = SigningKey::from_seed(&[2; 32]).sign(Purpose::Receipt, b"{}");
        Self::new(200, "{}").with("gossamer-signature", signature)
    }
}

/// Speaks just enough HTTP/1.1 over TLS; the client trusts it.
async fn serve(answer: impl Fn(Asked) -> Reply + Send + Sync + 'static) -> Https {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let der = made.cert.der().clone();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring speaks them")
        .with_no_client_auth()
        .with_single_cert(vec![der.clone()], key.into())
        .expect("its own key");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("https://{}", listener.local_addr().expect("bound"));
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, answer) = (acceptor.clone(), answer.clone());
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.ok()?;
                let mut got = Vec::new();
                let head = loop {
                    if let Some(at) = got.windows(4).position(|w| w == b"\r\n\r\n") {
                        break at;
                    }
                    (stream.read_buf(&mut got).await.ok()? > 0).then_some(())?;
                };
                let text = String::from_utf8(got[..head].to_vec()).ok()?;
                let headers: HashMap<String, String> = text
                    .lines()
                    .filter_map(|line| line.split_once(": "))
                    .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                    .collect();
                let len = headers.get("content-length").and_then(|len| len.parse().ok());
                let end = head + 4 + len.unwrap_or(0);
                while got.len() < end {
                    (stream.read_buf(&mut got).await.ok()? > 0).then_some(())?;
                }
                let method = text.split(' ').next()?.to_owned();
                let is_head = method == "HEAD";
                let reply = answer(Asked { method, headers, body: got[head + 4..].to_vec() });
                if reply.hang_up {
                    return None;
                }
                let mut out = format!("HTTP/1.1 {} x\r\nconnection: close\r\n", reply.status);
                for (name, value) in &reply.headers {
                    out += &format!("{name}: {value}\r\n");
                }
                out += &format!("content-length: {}\r\n\r\n", reply.body.len());
                stream.write_all(out.as_bytes()).await.ok()?;
                if !is_head {
                    // The client may have heard enough.
                    let _ = stream.write_all(&reply.body).await;
                }
                stream.shutdown().await.ok()
            });
        }
    });
    let key = Arc::new(SigningKey::from_seed(&[1; 32]));
    Https::new(&url, Some(&BASE64.encode(der)), key).expect("an address")
}

fn slot() -> Slot {
    let (run, client) = (RunId([1; 16]), ClientId([2; 16]));
    Slot { run, round: RoundId(3), attempt: Attempt(0), client }
}

fn frame(len: usize) -> Bytes {
    (0..len).map(|i| (i % 251) as u8).collect::<Vec<u8>>().into()
}

/// Keeps what arrives; the second part's answer is lost, the third is called misplaced once, though it
/// is not.
#[tokio::test]
async fn what_arrived_of_an_upload_is_not_sent_again() {
    let whole = frame(3 * CHUNK + CHUNK / 2);
    let stands = Arc::new(Mutex::new(Vec::new()));
    let (patches, heads, sent) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
    );
    let https = {
        let (stands, patches, heads, sent) =
            (stands.clone(), patches.clone(), heads.clone(), sent.clone());
        let (len, digest) = (whole.len(), Digest::of(&whole));
        serve(move |asked| {
            let mut stands = stands.lock().expect("no panic");
            assert_eq!(asked.headers["upload-digest"], digest.to_string());
            if asked.method == "HEAD" {
                heads.fetch_add(1, Ordering::Relaxed);
                return Reply::new(204, "").with("upload-offset", stands.len());
            }
            assert_eq!(
                (asked.method.as_str(), &*asked.headers["upload-length"]),
                ("PATCH", &*len.to_string())
            );
            sent.fetch_add(asked.body.len(), Ordering::Relaxed);
            let at: usize = asked.headers["upload-offset"].parse().expect("a number");
            let nth = patches.fetch_add(1, Ordering::Relaxed);
            if nth == 2 || at != stands.len() {
                return Reply::problem(ProblemType::WrongOffset, 409);
            }
            stands.extend(asked.body);
            match stands.len() {
                _ if nth == 1 => Reply { hang_up: true, ..Reply::new(0, "") },
                stood if stood == len => Reply::receipt(),
                stood => Reply::new(202, "").with("upload-offset", stood),
            }
        })
        .await
    };
    let backoff = Backoff { first: Duration::ZERO, longest: Duration::ZERO, tries: 3 };
    let transport = Retrying::new(Box::new(https), backoff, 1);
    let signed = transport.upload(&slot(), &whole).await.expect("arrives");
    assert_eq!(signed.bytes, b"{}");
    assert_eq!(*stands.lock().expect("no panic"), whole);
    assert_eq!(heads.load(Ordering::Relaxed), 3, "asked where it stands, at each try");
    // Twice the third part, which was turned away; nothing else.
    assert_eq!(sent.load(Ordering::Relaxed), whole.len() + CHUNK);
}

/// Killed between the last part and the receipt, the aggregator has it all.
#[tokio::test]
async fn an_upload_that_stands_whole_gets_its_receipt() {
    let len = CHUNK + 1;
    let https = serve(move |asked| match &*asked.method {
        "HEAD" => Reply::new(204, "").with("upload-offset", len),
        _ => {
            assert!(asked.body.is_empty() && asked.headers["upload-offset"] == len.to_string());
            Reply::receipt()
        }
    })
    .await;
    https.upload(&slot(), &frame(len)).await.expect("its receipt");
}

/// The answer to HEAD has no body to name the problem.
#[tokio::test]
async fn a_long_update_that_is_late_is_told_so() {
    let https = serve(|_| Reply::new(410, "").with("retry-after", 3)).await;
    let refused = https.upload(&slot(), &frame(CHUNK + 1)).await.expect_err("late");
    assert_eq!(refused.problem(), Some(ProblemType::StaleRound), "{refused:?}");
    assert_eq!(refused.retry_after(), Some(Duration::from_secs(3)));
}

#[tokio::test]
async fn no_more_is_kept_than_was_asked_for() {
    let https = serve(|asked| {
        let whole = asked.headers["range"] == "bytes=100-199";
        Reply::new(if whole { 200 } else { 206 }, frame(5 << 20))
    })
    .await;
    let object = async |range| https.object(slot().run, Digest::of(b""), range).await;
    // A cache that sends all of it, and a server that sends more than the part.
    assert_eq!(object(100..200).await.expect("in there"), frame(200)[100..]);
    assert_eq!(object(300..400).await.expect("a part"), frame(100));

    let https = serve(|asked| match &*asked.method {
        "POST" => Reply::new(200, vec![b' '; 2 << 20]),
        _ => Reply::new(503, vec![b'<'; 2 << 20]),
    })
    .await;
    let refused = https.check_in(&CheckIn::default()).await.expect_err("no answer is so long");
    assert!(matches!(refused, TransportError::Malformed(_)), "{refused:?}");
    let refused = https.record(slot().run, RoundId(0)).await.expect_err("a proxy's long page");
    assert_eq!(refused.problem(), Some(ProblemType::Busy), "{refused:?}");
}

#[tokio::test]
async fn a_clock_that_is_off_is_mended_once() {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let ahead = Duration::from_secs(3_600);
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = tries.clone();
    let https = serve(move |asked| {
        let signed: Authorization = asked.headers["authorization"].parse().expect("signed");
        let there = now() + ahead;
        let date = httpdate::fmt_http_date(UNIX_EPOCH + there);
        let nth = counted.fetch_add(1, Ordering::Relaxed);
        if u128::from(signed.expires_ms) <= there.as_millis() || nth > 1 {
            return Reply::problem(ProblemType::Expired, 401).with("date", date);
        }
        Reply::new(200, r#"{"answer":"over","reason":"a test"}"#).with("date", date)
    })
    .await;
    https.check_in(&CheckIn::default()).await.expect("signed for the aggregator's clock");
    assert_eq!(tries.load(Ordering::Relaxed), 2);
    let refused = https.check_in(&CheckIn::default()).await.expect_err("whatever the clock");
    assert_eq!(refused.problem(), Some(ProblemType::Expired));
    assert_eq!(tries.load(Ordering::Relaxed), 4, "no third try");
}
