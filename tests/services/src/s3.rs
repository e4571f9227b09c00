//! An S3 server over a temporary folder, on a port of this machine; it can be made to fail.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::prefix::PrefixStore;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;

/// Whoever shows these is let in.
pub const ACCESS_KEY: &str = "gossamer-tests";
/// The other half.
pub const SECRET_KEY: &str = "not a secret at all";
/// The one bucket.
pub const BUCKET: &str = "gossamer";
/// Where it is said to be.
pub const REGION: &str = "us-east-1";

/// A running S3 server.
#[derive(Debug)]
pub struct S3 {
    address: SocketAddr,
    away: Arc<AtomicBool>,
    prefixes: AtomicU32,
    folder: TempDir,
}

/// The one of this test binary.
///
/// # Panics
/// Where it does not start.
pub fn s3() -> &'static S3 {
    static ONE: OnceLock<S3> = OnceLock::new();
    ONE.get_or_init(S3::start)
}

impl S3 {
    /// Starts one, in a thread of its own.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join(BUCKET)).expect("a bucket");
        let mut service =
            S3ServiceBuilder::new(FileSystem::new(folder.path()).expect("a folder is an S3 root"));
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = service.build();
        let away = Arc::new(AtomicBool::new(false));
        let (tell, told) = std::sync::mpsc::channel();
        let is_away = away.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
                tell.send(listener.local_addr().expect("bound")).expect("somebody waits");
                loop {
                    let Ok((socket, _)) = listener.accept().await else { continue };
                    let (service, away) = (service.clone(), is_away.clone());
                    let answer = move |request: Request<Incoming>| {
                        let (service, away) = (service.clone(), away.clone());
                        async move {
                            if away.load(Ordering::Relaxed) {
                                let mut refused = Response::new(s3s::Body::empty().boxed());
                                *refused.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                                return Ok::<_, s3s::HttpError>(refused);
                            }
                            let answer = hyper::service::Service::call(&service, request).await?;
                            Ok(answer.map(|body| body.boxed()))
                        }
                    };
                    tokio::spawn(async move {
                        let answer = hyper::service::service_fn(answer);
                        let http = Builder::new(TokioExecutor::new());
                        let _ = http.serve_connection(TokioIo::new(socket), answer).await;
                    });
                }
            });
        });
        let address = told.recv().expect("it starts");
        Self { address, away, prefixes: AtomicU32::new(0), folder }
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A place in the bucket that nobody uses yet.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("test{}", self.prefixes.fetch_add(1, Ordering::Relaxed))
    }

    /// A client's view of the bucket under `prefix`.
    ///
    /// # Panics
    /// Where the client cannot be made.
    #[must_use]
    pub fn place(&self, prefix: &str) -> Arc<dyn ObjectStore> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let bucket = AmazonS3Builder::new()
            .with_bucket_name(BUCKET)
            .with_region(REGION)
            .with_endpoint(self.endpoint())
            .with_allow_http(true)
            .with_access_key_id(ACCESS_KEY)
            .with_secret_access_key(SECRET_KEY)
            .with_retry(object_store::RetryConfig { max_retries: 1, ..Default::default() })
            .build();
        Arc::new(PrefixStore::new(bucket.expect("a client"), prefix))
    }

    /// Whether every request is refused with 503 from now on.
    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::Relaxed);
    }

    /// The folder that the bucket's objects are files in.
    #[must_use]
    pub fn folder(&self) -> std::path::PathBuf {
        self.folder.path().join(BUCKET)
    }
}
