//! From a URL to a store.
//!
//! | URL | store |
//! |---|---|
//! | `file:///folder` | a folder, made if missing |
//! | `s3://bucket/prefix?endpoint=…&region=…&profile=…` | S3 and what speaks like it |
//! | `gs://bucket/prefix?endpoint=…` | Google Cloud Storage |
//! | `az://container/prefix?account=…&endpoint=…` | Azure Blob Storage |
//!
//! A URL holds no secret: it is shown to people, and stands in process lists.
//! Plain HTTP leaves the machine only with `allow_http=true`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::prefix::PrefixStore;
use object_store::signer::Url;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use super::profile::{self, Profile};
use super::s3::S3;
use super::{BlobError, Blobs, Move};

/// Time to make a connection to a store.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A store that sends nothing for so long is asked again. An upload of a part must be
/// answered within it: 64 MiB in flight at 9 Mbit/s.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Waits between tries of a request, shortest and longest; jittered, doubling.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Tries of one request after the first.
const RETRIES_MAX: usize = 10;
/// No new try is begun after so long; signatures live for 15 minutes.
const RETRY_FOR: Duration = Duration::from_secs(120);

/// Variables that name the server of S3 when the URL does not, the first that is set.
const ENDPOINTS: [&str; 3] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];

const FILE: &str = "file:///srv/deployctl/blobs";
const S3_URL: &str = "s3://bucket/prefix?region=eu-central-1";
const GS_URL: &str = "gs://bucket/prefix";
const AZ_URL: &str = "az://container/prefix?account=NAME";

/// A store's URL, taken apart.
struct Place {
    url: Url,
    /// Scheme, bucket and prefix: how errors name it.
    name: String,
    bucket: String,
    prefix: ObjectPath,
    options: BTreeMap<String, String>,
    example: &'static str,
}

/// Opens the store at `url`. Asks no server anything.
///
/// # Errors
/// [`BlobError::Url`] with what is wrong; [`BlobError::Io`] when a folder can't be made.
pub(super) fn open(url: &str) -> Result<Blobs, BlobError> {
    let scheme = scheme(url);
    if scheme == "file" {
        return folder(url);
    }
    let place = Place::of(url)?;
    // An error means that another part of the process installed it first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match scheme {
        "s3" => place.s3(),
        "gs" => place.gs(),
        _ => place.az(),
    }
}

fn scheme(url: &str) -> &str {
    url.split_once("://").map_or("", |(scheme, _)| scheme)
}

/// Whether the stores at two URLs are one, or one lies in the other: an object of the one may be
/// the other's too. Two names of one server are not seen through.
pub(super) fn overlap(one: &str, other: &str) -> bool {
    let (Some((one, inside)), Some((other, within))) = (spot(one), spot(other)) else {
        return false;
    };
    let depth = inside.len().min(within.len());
    one == other && inside[..depth] == within[..depth]
}

/// Where a store is: the server with its bucket, and the folders from there on.
fn spot(url: &str) -> Option<(String, Vec<String>)> {
    if scheme(url) == "file" {
        let path = std::path::absolute(url.strip_prefix("file://")?).ok()?;
        // By another name it is the same folder, also one that is not made yet.
        let made = path.ancestors().find_map(|up| Some((up, up.canonicalize().ok()?)));
        let path = match made {
            Some((up, real)) => real.join(path.strip_prefix(up).unwrap_or(&path)),
            None => path,
        };
        let parts = path.components().map(|part| part.as_os_str().to_string_lossy().into_owned());
        return Some(("file".to_owned(), parts.collect()));
    }
    let place = Place::of(url).ok()?;
    let endpoint = place.option("endpoint").map(str::to_owned);
    let variables: &[&str] = if scheme(url) == "s3" { &ENDPOINTS } else { &[] };
    let endpoint = endpoint.or_else(|| variables.iter().find_map(|name| std::env::var(name).ok()));
    let server = match endpoint.map(|endpoint| Url::parse(&endpoint)) {
        Some(parsed) => {
            let parsed = parsed.ok()?;
            let port = parsed.port_or_known_default().unwrap_or_default();
            format!("{}:{port}{}", parsed.host_str()?, parsed.path().trim_end_matches('/'))
        }
        None => place.option("account").unwrap_or_default().to_owned(),
    };
    let root = format!("{} {server} {}", scheme(url), place.bucket);
    Some((root, place.prefix.parts().map(|part| part.as_ref().to_owned()).collect()))
}

fn wrong(url: &str, why: impl ToString, example: &'static str) -> BlobError {
    // Whatever stands before an @ is somebody's secret.
    let shown = match url.split_once("://").zip(url.rsplit_once('@')) {
        Some(((scheme, _), (_, rest))) => format!("{scheme}://…@{rest}"),
        None => url.to_owned(),
    };
    BlobError::Url { url: shown, why: why.to_string(), example }
}

fn folder(url: &str) -> Result<Blobs, BlobError> {
    let path = url.strip_prefix("file://").filter(|path| path.starts_with('/'));
    let path = PathBuf::from(path.ok_or_else(|| wrong(url, "its folder is not absolute", FILE))?);
    let io = |source| BlobError::Io { path: path.display().to_string(), source };
    std::fs::create_dir_all(&path).map_err(io)?;
    let store = LocalFileSystem::new_with_prefix(&path);
    let store = store.map_err(|source| BlobError::Store { store: url.to_owned(), source })?;
    let store = Arc::new(store.with_fsync(true));
    Ok(Blobs { store, name: url.into(), folder: Some(path), by: Move::Through })
}

impl Place {
    fn of(url: &str) -> Result<Self, BlobError> {
        let (example, known): (_, &[&str]) = match scheme(url) {
            "s3" => (S3_URL, &["endpoint", "region", "profile", "allow_http", "virtual_host"]),
            "gs" => (GS_URL, &["endpoint", "allow_http"]),
            "az" => (AZ_URL, &["account", "endpoint", "allow_http"]),
            _ => {
                let why = "it begins with none of file://, s3://, gs:// and az://";
                return Err(wrong(url, why, FILE));
            }
        };
        Self::parse(url, known, example)
    }

    fn parse(url: &str, known: &[&str], example: &'static str) -> Result<Self, BlobError> {
        let fail = |why: String| wrong(url, why, example);
        let parsed = Url::parse(url).map_err(|e| fail(e.to_string()))?;
        let bucket = parsed.host_str().unwrap_or_default().to_owned();
        if bucket.is_empty() {
            return Err(fail("it names no bucket".into()));
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(fail("it holds credentials; they belong in the environment".into()));
        }
        if parsed.port().is_some() || parsed.fragment().is_some() {
            return Err(fail("it has a port or a fragment; a server is ?endpoint=URL".into()));
        }
        let prefix = ObjectPath::from_url_path(parsed.path()).map_err(|e| fail(e.to_string()))?;
        let mut options = BTreeMap::new();
        for (name, value) in parsed.query_pairs() {
            if !known.contains(&&*name) {
                let known = known.join(", ");
                return Err(fail(format!("it has no option {name:?}, only {known}")));
            }
            if options.insert(name.to_string(), value.to_string()).is_some() {
                return Err(fail(format!("{name} is there twice")));
            }
        }
        let slash = if prefix.as_ref().is_empty() { "" } else { "/" };
        let name = format!("{}://{bucket}{slash}{prefix}", parsed.scheme());
        Ok(Self { url: parsed, name, bucket, prefix, options, example })
    }

    fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    fn fail(&self, why: impl ToString) -> BlobError {
        wrong(self.url.as_str(), why, self.example)
    }

    fn truth(&self, name: &str) -> Result<bool, BlobError> {
        match self.option(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(self.fail(format!("{name} is {other:?}, not true or false"))),
        }
    }

    /// Whether `endpoint` speaks plain HTTP; refuses one that is not on this machine,
    /// unless it was allowed.
    fn is_plain(&self, endpoint: &str) -> Result<bool, BlobError> {
        let allowed = self.truth("allow_http")?;
        let parsed = Url::parse(endpoint);
        let parsed = parsed.map_err(|e| self.fail(format!("endpoint {endpoint:?}: {e}")))?;
        let host = parsed.host_str().unwrap_or_default();
        let inner = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        let local = host == "localhost" || inner.is_ok_and(|address| address.is_loopback());
        match parsed.scheme() {
            "https" => Ok(false),
            "http" if local || allowed => Ok(true),
            "http" => Err(self.fail(format!(
                "{endpoint} would send credentials and artifacts in clear over a network; \
                 use https, or add allow_http=true"
            ))),
            _ => Err(self.fail(format!("endpoint {endpoint:?} is no http:// or https:// URL"))),
        }
    }

    fn s3(self) -> Result<Blobs, BlobError> {
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(&self.bucket);
        let of_environment = || ENDPOINTS.iter().find_map(|name| std::env::var(name).ok());
        let endpoint = self.option("endpoint").map(str::to_owned).or_else(of_environment);
        let plain = match &endpoint {
            Some(endpoint) => {
                use object_store::aws::AmazonS3ConfigKey::S3Endpoint;
                builder = builder.with_config(S3Endpoint, endpoint);
                self.is_plain(endpoint)?
            }
            None => false,
        };
        if let Some(region) = self.option("region") {
            builder = builder.with_region(region);
        }
        if let Some(profile) = self.profile()? {
            builder = builder.with_credentials(Arc::new(profile));
        }
        let store = builder
            .with_virtual_hosted_style_request(self.truth("virtual_host")?)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_client_options(client(plain))
            .with_retry(retry())
            .build()
            .map_err(|e| self.fail(e))?;
        let s3 = S3::new(store, &self.bucket, self.prefix.clone());
        Ok(self.blobs(s3.store(), Move::Parts(Arc::new(s3))))
    }

    /// The profile whose keys are used, when it is named, or nothing better is there.
    fn profile(&self) -> Result<Option<Profile>, BlobError> {
        let profile = match self.option("profile") {
            Some(name) => Some(Profile::named(name)),
            None => profile::fallback(),
        };
        profile
            .map(|profile| profile.check().map(|()| profile))
            .transpose()
            .map_err(|e| self.fail(e))
    }

    fn gs(self) -> Result<Blobs, BlobError> {
        let mut builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(&self.bucket);
        let mut plain = false;
        if let Some(endpoint) = self.option("endpoint") {
            plain = self.is_plain(endpoint)?;
            builder = builder.with_config(GoogleConfigKey::BaseUrl, endpoint);
        }
        let builder = builder.with_client_options(client(plain)).with_retry(retry());
        let store = builder.build().map_err(|e| self.fail(e))?;
        Ok(self.blobs(Arc::new(store), Move::Copy))
    }

    fn az(self) -> Result<Blobs, BlobError> {
        let mut builder = MicrosoftAzureBuilder::from_env().with_container_name(&self.bucket);
        let mut plain = false;
        if let Some(account) = self.option("account") {
            builder = builder.with_account(account);
        }
        if let Some(endpoint) = self.option("endpoint") {
            plain = self.is_plain(endpoint)?;
            builder = builder.with_endpoint(endpoint.to_owned());
        }
        let builder = builder.with_client_options(client(plain));
        let store = builder.with_retry(retry()).build().map_err(|e| self.fail(e))?;
        Ok(self.blobs(Arc::new(store), Move::Through))
    }

    fn blobs(self, store: Arc<dyn ObjectStore>, by: Move) -> Blobs {
        let store: Arc<dyn ObjectStore> = match self.prefix.as_ref().is_empty() {
            true => store,
            false => Arc::new(PrefixStore::new(store, self.prefix)),
        };
        Blobs { store, name: self.name.into(), folder: None, by }
    }
}

fn client(plain: bool) -> ClientOptions {
    ClientOptions::new()
        .with_allow_http(plain)
        .with_connect_timeout(CONNECT_TIMEOUT)
        // A body takes as long as its reader does; silence ends it.
        .with_timeout_disabled()
        .with_read_timeout(SILENCE_MAX)
}

/// How requests are tried again: after 5xx, 429 and broken connections.
fn retry() -> RetryConfig {
    let (init_backoff, max_backoff) = BACKOFF;
    RetryConfig {
        backoff: BackoffConfig { init_backoff, max_backoff, base: 2. },
        max_retries: RETRIES_MAX,
        retry_timeout: RETRY_FOR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_stores_open_and_the_error_says_why() {
        for (bad, why) in [
            ("", "begins with none"),
            ("/tmp/x", "begins with none"),
            ("ftp://x", "begins with none"),
            ("file://relative", "not absolute"),
            ("s3:///prefix", "no bucket"),
            ("s3://key:secret@bucket", "holds credentials"),
            ("s3://bucket:80", "?endpoint=URL"),
            ("s3://bucket?secret=x", "no option \"secret\""),
            ("s3://bucket?region=a&region=b", "twice"),
            ("s3://bucket?endpoint=http://10.0.0.1", "allow_http=true"),
            ("s3://bucket?endpoint=x", "endpoint"),
            ("s3://bucket?virtual_host=1", "not true or false"),
            ("s3://bucket?profile=nobody-has-this", "nobody-has-this"),
            ("az://container?profile=x", "no option \"profile\""),
        ] {
            let error = Blobs::open(bad).map(drop).expect_err(bad).to_string();
            assert!(error.contains(why), "{bad}: {error}");
            assert!(!error.contains("key:secret"), "{error}");
        }
    }

    #[test]
    fn one_store_is_known_by_all_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().display();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("a"), folder.path().join("b")).unwrap();
        let file = |path: &str| format!("file://{at}/{path}");
        let s3 = |rest: &str| format!("s3://bucket/{rest}");
        let at = |rest: &str, endpoint: &str| s3(&format!("{rest}?endpoint={endpoint}"));
        for (one, other, same) in [
            (file("a"), file("a/"), true),
            (file("a"), file("b"), true),
            (file("b"), file("a/eu"), true),
            (file(""), file("a"), true),
            (file("a"), file("ab"), false),
            (file("eu"), file("us"), false),
            (s3("p"), s3("p/?region=eu-central-1"), true),
            (s3(""), s3("p"), true),
            (s3("p/q"), s3("p"), true),
            (s3("p"), s3("pq"), false),
            (at("p", "https://h"), at("p", "https://H:443/"), true),
            (at("p", "https://h"), at("p", "https://g"), false),
            (s3("p"), "s3://other/p".into(), false),
            (s3("p"), "gs://bucket/p".into(), false),
            ("az://c/p?account=a".into(), "az://c/p?account=b".into(), false),
            (file("bucket"), s3(""), false),
        ] {
            assert_eq!(overlap(&one, &other), same, "{one} {other}");
            assert_eq!(overlap(&other, &one), same, "{other} {one}");
        }
    }

    #[test]
    fn a_url_names_its_store() {
        for (url, name) in [
            ("s3://b?endpoint=http://127.0.0.1:1&region=x", "s3://b"),
            ("s3://b/p/q/?endpoint=http://10.0.0.1&allow_http=true", "s3://b/p/q"),
            ("s3://b/p?endpoint=http://[::1]:5", "s3://b/p"),
            ("gs://b/p", "gs://b/p"),
            ("az://c/p?account=a", "az://c/p"),
        ] {
            match Blobs::open(url) {
                Ok(blobs) => assert_eq!(&*blobs.name, name),
                Err(error) => panic!("{url}: {error}"),
            }
        }
    }
}
