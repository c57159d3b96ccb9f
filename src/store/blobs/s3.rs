//! What `object_store` has no call for: copies of any size inside S3, and uploads
//! that somebody began and never ended.
//!
//! S3 copies at most 5 GB in one request, and keeps whoever asks waiting meanwhile.
//! So parts are copied, several at once, each within its time.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path as ObjectPath;
use object_store::signer::{HeaderName, HeaderValue, Method, SignedUrlOptions, Signer};
use object_store::{Error, ObjectStore, Result};
use serde::Deserialize;

use crate::net::body::{self, BodyError};

/// Bytes of one part of a copy: 10 GiB are 40 of them.
pub(super) const COPY_PART_BYTES: u64 = 256 << 20;
/// Parts of one copy under way at once.
const COPIES: usize = 4;
/// Time for the copy of one part: 256 MiB at under 1 MiB/s.
const COPY_TIMEOUT: Duration = Duration::from_secs(300);
/// Tries of one part, and the first wait between them; it doubles.
const TRIES: (u32, Duration) = (6, Duration::from_millis(200));
/// How long a signature on a request may be used.
const SIGNED_FOR: Duration = Duration::from_secs(900);
/// Longest answer that is read, bytes: a list of 1,000 uploads.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// An S3 store with its raw requests.
pub(super) struct S3 {
    store: Arc<AmazonS3>,
    bucket: String,
    prefix: ObjectPath,
    http: reqwest::Client,
}

/// The answer to a copied part.
#[derive(Deserialize)]
struct CopyPartResult {
    #[serde(rename = "ETag")]
    e_tag: String,
}

/// The answer to a question for unfinished uploads.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Unfinished {
    #[serde(default)]
    upload: Vec<Begun>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Begun {
    key: String,
    upload_id: String,
    initiated: String,
}

impl S3 {
    pub(super) fn new(store: AmazonS3, bucket: &str, prefix: ObjectPath) -> Self {
        let http = reqwest::Client::builder().timeout(COPY_TIMEOUT).http1_only();
        let http = http.build().expect("the client's options are constants");
        Self { store: Arc::new(store), bucket: bucket.to_owned(), prefix, http }
    }

    pub(super) fn store(&self) -> Arc<dyn ObjectStore> {
        self.store.clone()
    }

    /// Whether there are credentials at all; asks whoever gives them.
    pub(super) async fn credentials(&self) -> Result<()> {
        self.store.credentials().get_credential().await.map(drop)
    }

    fn full(&self, path: &ObjectPath) -> ObjectPath {
        self.prefix.parts().chain(path.parts()).collect()
    }

    /// A URL for one `range` of an object, for `valid`.
    pub(super) async fn signed_range(
        &self,
        path: &ObjectPath,
        range: Range<u64>,
        valid: Duration,
    ) -> Result<String> {
        let range = format!("bytes={}-{}", range.start, range.end - 1);
        let range = HeaderValue::from_str(&range).map_err(failed)?;
        let name = HeaderName::from_static("range");
        let options = SignedUrlOptions::new().with_signed_header(name, range);
        let path = self.full(path);
        let url = self.store.signed_url_opts(Method::GET, &path, valid, &options).await?;
        Ok(url.into())
    }

    /// Copies an object of `bytes`, not 0, in parts of `part_bytes`.
    pub(super) async fn copy(
        &self,
        from: &ObjectPath,
        to: &ObjectPath,
        bytes: u64,
        part_bytes: u64,
    ) -> Result<()> {
        let (from, to) = (self.full(from), self.full(to));
        let id = self.store.create_multipart(&to).await?;
        let starts = (0..bytes).step_by(usize::try_from(part_bytes).unwrap_or(usize::MAX));
        let parts = starts.enumerate().map(|(index, start)| {
            let last = (start + part_bytes).min(bytes) - 1;
            self.copy_part(&from, &to, &id, index + 1, format!("bytes={start}-{last}"))
        });
        let parts = futures_util::stream::iter(parts).buffered(COPIES).try_collect().await;
        let done = match parts {
            Ok(parts) => self.store.complete_multipart(&to, &id, parts).await.map(drop),
            Err(error) => Err(error),
        };
        if done.is_err() {
            // What can't be given up now is swept.
            let _ = self.store.abort_multipart(&to, &id).await;
        }
        done
    }

    async fn copy_part(
        &self,
        from: &ObjectPath,
        to: &ObjectPath,
        upload: &str,
        number: usize,
        range: String,
    ) -> Result<PartId> {
        let source = format!("/{}/{}", self.bucket, encoded(from.as_ref()));
        let number = number.to_string();
        let query = [("partNumber", number.as_str()), ("uploadId", upload)];
        let headers = [("x-amz-copy-source", source), ("x-amz-copy-source-range", range)];
        let answer = self.ask(Method::PUT, to, &query, &headers).await?;
        let copied: CopyPartResult = quick_xml::de::from_str(&answer).map_err(failed)?;
        Ok(PartId { content_id: copied.e_tag })
    }

    /// Gives up uploads under `folder` that were begun before `oldest`; says how many.
    pub(super) async fn give_up(&self, folder: &str, oldest: SystemTime) -> Result<usize> {
        let mut within = self.full(&ObjectPath::from(folder)).to_string();
        within.push('/');
        let query = [("uploads", ""), ("prefix", within.as_str())];
        let answer = self.ask(Method::GET, &ObjectPath::default(), &query, &[]).await?;
        let begun: Unfinished = quick_xml::de::from_str(&answer).map_err(failed)?;
        let mut given_up = 0;
        for Begun { key, upload_id, initiated } in begun.upload {
            let at = initiated.parse::<jiff::Timestamp>().map_err(failed)?;
            // Some servers do not look at the prefix.
            if SystemTime::from(at) < oldest && key.starts_with(&within) {
                let path = ObjectPath::parse(key).map_err(failed)?;
                // Another process may sweep at the same time.
                let aborted = self.store.abort_multipart(&path, &upload_id).await;
                given_up += usize::from(aborted.is_ok());
            }
        }
        Ok(given_up)
    }

    /// One signed request, tried again after 5xx, 429 and broken connections.
    async fn ask(
        &self,
        method: Method,
        path: &ObjectPath,
        query: &[(&str, &str)],
        headers: &[(&'static str, String)],
    ) -> Result<String> {
        let mut options = SignedUrlOptions::new().with_query(query.iter().copied());
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).map_err(failed)?;
            options = options.with_signed_header(HeaderName::from_static(name), value);
        }
        let mut wait = TRIES.1;
        for left in (0..TRIES.0).rev() {
            // Signed anew: credentials may have changed meanwhile.
            let url = self.store.signed_url_opts(method.clone(), path, SIGNED_FOR, &options);
            let mut request = self.http.request(method.clone(), url.await?);
            if method == Method::PUT {
                // Servers want to hear that there is no body.
                request = request.header(reqwest::header::CONTENT_LENGTH, 0);
            }
            let sent = request.headers(options.signed_headers.clone()).send().await;
            let error = match heard(sent).await {
                Ok(answer) => return Ok(answer),
                Err((error, true)) if left > 0 => error,
                Err((error, _)) => return Err(error),
            };
            tracing::info!(%error, "S3 is asked again");
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
        unreachable!("the last try returns")
    }
}

/// The body of an answer that is none of an error; else the error, and whether the
/// same request may succeed later.
async fn heard(
    sent: reqwest::Result<reqwest::Response>,
) -> std::result::Result<String, (Error, bool)> {
    // A signed URL is a secret of its own.
    let broken = |error: reqwest::Error| (failed(error.without_url()), true);
    let answer = sent.map_err(broken)?;
    let status = answer.status();
    let body = body::whole(answer, ANSWER_BYTES_MAX).await.map_err(|error| match error {
        BodyError::Broken(error) => broken(error),
        BodyError::TooLong(_) => (failed(error), false),
    })?;
    let body = String::from_utf8_lossy(&body).into_owned();
    // A copy that fails after it was accepted says so in a body of 200.
    let refused = body.contains("<Error>");
    if status.is_success() && !refused {
        return Ok(body);
    }
    let passing = status.is_success() || status.is_server_error() || status.as_u16() == 429;
    Err((failed(format!("the server said {status}: {body}")), passing))
}

fn failed(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic { store: "S3", source: why.into() }
}

/// A key as it stands in a header: all but unreserved characters and `/` are escaped.
fn encoded(key: &str) -> String {
    key.bytes().fold(String::new(), |mut text, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                text.push(byte.into());
            }
            _ => write!(text, "%{byte:02X}").expect("a string takes all"),
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let copied = "<?xml version=\"1.0\"?><CopyPartResult xmlns=\"http://s3.amazonaws.com/\">\
                      <LastModified>2026-01-01T00:00:00.000Z</LastModified>\
                      <ETag>\"9b2c-1\"</ETag></CopyPartResult>";
        let copied: CopyPartResult = quick_xml::de::from_str(copied).unwrap();
        assert_eq!(copied.e_tag, "\"9b2c-1\"");
        let none = "<ListMultipartUploadsResult><Bucket>b</Bucket></ListMultipartUploadsResult>";
        assert!(quick_xml::de::from_str::<Unfinished>(none).unwrap().upload.is_empty());
        let two = "<ListMultipartUploadsResult><Bucket>b</Bucket>\
                   <Upload><Key>uploads/a</Key><UploadId>1</UploadId>\
                   <Initiated>2026-01-01T00:00:00.000Z</Initiated></Upload>\
                   <Upload><Key>uploads/b</Key><UploadId>2</UploadId><Owner><ID>x</ID></Owner>\
                   <Initiated>2026-01-01T00:00:00Z</Initiated></Upload>\
                   </ListMultipartUploadsResult>";
        let two: Unfinished = quick_xml::de::from_str(two).unwrap();
        let keys: Vec<_> = two.upload.iter().map(|u| (&*u.key, &*u.upload_id)).collect();
        assert_eq!(keys, [("uploads/a", "1"), ("uploads/b", "2")]);
    }

    #[test]
    fn a_key_is_escaped_for_a_header() {
        assert_eq!(encoded("a/b c+d%/é"), "a/b%20c%2Bd%25/%C3%A9");
    }
}
