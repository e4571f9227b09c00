//! Where a store's rows and objects are.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use super::StoreError;

/// Where a store's rows and objects are: in a directory, unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The server's directory.
    pub dir: PathBuf,
    /// The Postgres database with the rows, `postgres://...`.
    pub database: Option<String>,
    /// The objects, `s3://BUCKET/PREFIX`.
    pub objects: Option<String>,
    /// Where that bucket is spoken to, where that is not AWS.
    pub endpoint: Option<String>,
}

impl Places {
    /// All within `dir`.
    #[must_use]
    pub fn within(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), database: None, objects: None, endpoint: None }
    }

    /// The object store; none where the directory is it.
    pub(super) fn place(&self) -> Result<Option<Arc<dyn ObjectStore>>, StoreError> {
        let Some(url) = &self.objects else { return Ok(None) };
        let bad = |why: &str| StoreError::Place { place: url.clone(), why: why.to_owned() };
        let rest = url.strip_prefix("s3://").ok_or_else(|| bad("expected s3://BUCKET/PREFIX"))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(bad("it names no bucket"));
        }
        // Short enough that a request that cannot be answered is refused while its client waits.
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(50),
                max_backoff: Duration::from_secs(2),
                base: 2.0,
            },
            max_retries: 6,
            retry_timeout: Duration::from_secs(15),
        };
        let limits = ClientOptions::new()
            .with_connect_timeout(Duration::from_secs(3))
            .with_timeout(Duration::from_secs(30));
        // Who may use the bucket comes from the environment (AWS_ACCESS_KEY_ID, ...), and from nowhere else.
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_client_options(limits)
            .with_retry(retry);
        if let Some(endpoint) = &self.endpoint {
            let plain = endpoint.starts_with("http://");
            builder = builder.with_endpoint(endpoint).with_allow_http(plain);
        }
        // `object_store`'s client has no cryptography of its own; whatever was chosen before serves too.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let place = builder.build()?;
        Ok(Some(match prefix.trim_matches('/') {
            "" => Arc::new(place),
            prefix => Arc::new(PrefixStore::new(place, prefix)),
        }))
    }
}
