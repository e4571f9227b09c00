//! A way to the aggregator on which requests and answers come to harm.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use gossamer_protocol::rng::Stream;
use gossamer_server::config::Config;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// What comes to pass with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// It does not arrive.
    Request,
    /// It arrives; its answer does not.
    Answer,
    /// It arrives late.
    Late,
    /// Half of its body arrives.
    Half,
    /// It arrives twice.
    Twice,
}

const FAULTS: [Fault; 5] = [Fault::Request, Fault::Answer, Fault::Late, Fault::Half, Fault::Twice];

/// Forwards to an aggregator with the aggregator's own certificate, so that nobody sees it.
pub(crate) struct Proxy {
    pub(crate) url: String,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

struct Shared {
    to: String,
    http: reqwest::Client,
    rng: Mutex<Stream>,
    /// One request in so many comes to harm.
    one_in: u64,
    met: [AtomicU64; FAULTS.len()],
}

impl Proxy {
    /// In front of the aggregator of `config` at `to`.
    pub(crate) async fn start(config: &Config, to: &str, one_in: u64, seed: u64) -> Self {
        // Fails where another test of this process did it before.
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        let certificate = config.path(&config.tls.certificate);
        let tls =
            gossamer_server::tls::server_config(&certificate, &config.path(&config.tls.key), None);
        let mut tls = tokio_rustls::rustls::ServerConfig::clone(&tls.expect("a certificate"));
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let ca = std::fs::read(config.path(&config.tls.ca)).expect("the CA");
        let ca = reqwest::Certificate::from_pem(&ca).expect("a certificate");
        let http = reqwest::Client::builder().tls_certs_only([ca]).build().expect("a client");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = TcpListener::bind(address).await.expect("a free port");
        let url = format!("https://{}", listener.local_addr().expect("bound"));
        let rng = Mutex::new(Stream::new(seed, "faults", &[]));
        let met = Default::default();
        let shared = Arc::new(Shared { to: to.to_owned(), http, rng, one_in, met });
        let mut serving = JoinSet::new();
        let through = shared.clone();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(connection(socket, acceptor.clone(), through.clone()));
            }
        });
        Self { url, shared, _serving: serving }
    }

    /// How often each fault came to pass.
    pub(crate) fn met(&self) -> Vec<(Fault, u64)> {
        let counts = self.shared.met.iter().map(|count| count.load(Ordering::Relaxed));
        FAULTS.into_iter().zip(counts).collect()
    }
}

async fn connection(socket: TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let Ok(stream) = acceptor.accept(socket).await else { return };
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { shared.pass(request).await }
    });
    // An error in the service closes the connection without an answer, as it is meant to.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

impl Shared {
    fn draw(&self) -> (Fault, u64) {
        let mut rng = self.rng.lock().expect("no panic");
        let more = rng.below(200);
        if rng.below(self.one_in) > 0 {
            return (Fault::None, more);
        }
        let at = rng.below(FAULTS.len() as u64) as usize;
        self.met[at].fetch_add(1, Ordering::Relaxed);
        (FAULTS[at], more)
    }

    async fn pass(&self, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let forward = async |body: reqwest::Body| {
            let request = self.http.request(parts.method.clone(), format!("{}{path}", self.to));
            let mut headers = parts.headers.clone();
            headers.remove("host");
            request.headers(headers).body(body).send().await.map_err(io::Error::other)
        };
        let lost = |what| Err(io::Error::other(what));
        let (fault, more) = self.draw();
        let answer = match fault {
            Fault::Request => return lost("the request does not arrive"),
            Fault::Answer => {
                let _ = forward(body.into()).await?.bytes().await;
                return lost("the answer does not arrive");
            }
            Fault::Half => {
                let half = body.slice(..body.len() / 2);
                let pieces = [Ok(half), Err(io::Error::other("cut off"))];
                let _ =
                    forward(reqwest::Body::wrap_stream(futures_util::stream::iter(pieces))).await;
                return lost("half of the body does not arrive");
            }
            Fault::Late => {
                tokio::time::sleep(Duration::from_millis(more)).await;
                forward(body.into()).await?
            }
            Fault::Twice => {
                let (first, second) =
                    tokio::join!(forward(body.clone().into()), forward(body.into()));
                if more % 2 == 0 { first? } else { second? }
            }
            Fault::None => forward(body.into()).await?,
        };
        let mut response = Response::builder().status(answer.status());
        for (name, value) in answer.headers() {
            response = response.header(name, value);
        }
        let bytes = answer.bytes().await.map_err(io::Error::other)?;
        response.body(Full::new(bytes)).map_err(io::Error::other)
    }
}
