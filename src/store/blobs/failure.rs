//! Why a blob store did not do what was asked, and what to do about it.

use object_store::Error as StoreError;

use super::Key;

/// What a server answers when credentials are not, or no longer, good: AWS, Google,
/// Azure and Ceph use these codes, and not always a status of 401 or 403.
const REFUSALS: &[&str] = &[
    "ExpiredToken",
    "TokenRefreshRequired",
    "InvalidToken",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "RequestTimeTooSkewed",
    "AuthenticationFailed",
    "InvalidAuthenticationInfo",
];
/// What is answered when a bucket is asked for in another region than its own.
const ELSEWHERE: &[&str] =
    &["PermanentRedirect", "AuthorizationHeaderMalformed", "incorrectly configured region"];
/// Longest part of a server's answer that is shown, bytes.
const SHOWN_BYTES_MAX: usize = 300;

/// Why a blob store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The URL names no store that this build knows.
    #[error("{url:?} is not a blob store: {why}; such as {example}")]
    Url {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        why: String,
        /// One that is right.
        example: &'static str,
    },
    /// A region's store and the main one share objects.
    #[error(
        "the blob store of region {name}, {region}, shares its objects with the main store, \
         {main}: what is deleted in one would be gone from both; give the region a folder, \
         prefix or bucket of its own"
    )]
    Same {
        /// The main store, without options.
        main: String,
        /// The region's, without options.
        region: String,
        /// The region.
        name: String,
    },
    /// There is no such object.
    #[error("{0} is not in the blob store")]
    NotFound(Key),
    /// The object is larger than its bound.
    #[error("{key} has {bytes} bytes, over the limit of {limit}")]
    TooLarge {
        /// The object.
        key: Key,
        /// Its length.
        bytes: u64,
        /// The bound.
        limit: u64,
    },
    /// The store does not accept this process' credentials, or it has none.
    #[error("{store} refuses this process: {why}; {hint}")]
    Denied {
        /// The store.
        store: String,
        /// What it said.
        why: String,
        /// What to type.
        hint: &'static str,
    },
    /// There is no such bucket or container.
    #[error("{store}: there is no such bucket; make it, or correct the URL")]
    NoBucket {
        /// The store.
        store: String,
    },
    /// The bucket is in another region.
    #[error("{store} is in another region; say which in its URL: ?region=NAME")]
    Elsewhere {
        /// The store.
        store: String,
    },
    /// The store failed.
    #[error("blob store {store}: {source}")]
    Store {
        /// The store.
        store: String,
        /// Why.
        source: StoreError,
    },
    /// A local file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

impl BlobError {
    /// Whether somebody has to change something before it can work.
    #[must_use]
    pub fn is_setup(&self) -> bool {
        match self {
            Self::Url { .. }
            | Self::Same { .. }
            | Self::Denied { .. }
            | Self::NoBucket { .. }
            | Self::Elsewhere { .. } => true,
            Self::NotFound(_) | Self::TooLarge { .. } | Self::Store { .. } | Self::Io { .. } => {
                false
            }
        }
    }

    /// What `source`, an answer of `store`, means; `key` is what was asked for.
    pub(super) fn of(store: &str, key: Option<Key>, source: StoreError) -> Self {
        let said = told(&source);
        let store = store.to_owned();
        if ["NoSuchBucket", "ContainerNotFound"].iter().any(|code| said.contains(code)) {
            return Self::NoBucket { store };
        }
        if ELSEWHERE.iter().any(|code| said.contains(code)) {
            return Self::Elsewhere { store };
        }
        let refused = REFUSALS.iter().any(|code| said.contains(code));
        match (source, key) {
            (StoreError::NotFound { .. }, Some(key)) => Self::NotFound(key),
            (StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. }, _) => {
                Self::denied(store, &said)
            }
            _ if refused => Self::denied(store, &said),
            (source, _) => Self::Store { store, source },
        }
    }

    fn denied(store: String, said: &str) -> Self {
        let hint = hint(&store);
        Self::Denied { store, why: short(said), hint }
    }

    /// No credentials were found for `store`.
    pub(super) fn no_credentials(store: &str, source: &StoreError) -> Self {
        Self::denied(store.to_owned(), &format!("no credentials found: {}", told(source)))
    }
}

/// How to get credentials for a store.
fn hint(store: &str) -> &'static str {
    match store.split(':').next() {
        Some("gs") => {
            "set GOOGLE_APPLICATION_CREDENTIALS, or type `gcloud auth application-default login`"
        }
        Some("az") => {
            "set AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_KEY, or give the machine an identity"
        }
        Some("file") => "type `ls -ld` on the folder and its parents",
        _ => {
            "renew AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the profile \
             (`eval \"$(aws configure export-credentials --format env)\"`), and start again"
        }
    }
}

/// Everything that an error and its causes say.
fn told(error: &StoreError) -> String {
    let mut said = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        let next_said = next.to_string();
        if !said.contains(&next_said) {
            said = format!("{said}: {next_said}");
        }
        cause = next.source();
    }
    said
}

/// A server's code and message, when its answer is XML; else the beginning of it.
fn short(said: &str) -> String {
    let between = |tag: &str| {
        let after = said.split_once(&format!("<{tag}>"))?.1;
        Some(after.split_once("</")?.0.trim().to_owned())
    };
    let parts: Vec<String> = ["Code", "Message"].iter().filter_map(|tag| between(tag)).collect();
    let said = if parts.is_empty() { said.to_owned() } else { parts.join(": ") };
    let end = said.char_indices().map(|(at, _)| at).find(|at| *at >= SHOWN_BYTES_MAX);
    said[..end.unwrap_or(said.len())].replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: &str) -> StoreError {
        let why = format!("Error performing GET http://x/b/k in 2ms - Server returned {status}");
        StoreError::Generic { store: "S3", source: why.into() }
    }

    #[test]
    fn what_somebody_must_change_is_told_in_one_line_with_what_to_type() {
        let expired = "400 Bad Request: <Error><Code>ExpiredToken</Code>\
                       <Message>The provided token has expired.</Message></Error>";
        let error = BlobError::of("s3://b/p", None, answer(expired));
        assert!(error.is_setup());
        let said = error.to_string();
        assert!(said.starts_with(
            "s3://b/p refuses this process: ExpiredToken: The provided token has expired.; renew"
        ));
        assert!(said.contains("AWS_SESSION_TOKEN") && !said.contains('\n'), "{said}");
        let missing = answer("404 Not Found: <Error><Code>NoSuchBucket</Code></Error>");
        assert!(matches!(BlobError::of("s3://b", None, missing), BlobError::NoBucket { .. }));
        let elsewhere = answer("301: <Error><Code>PermanentRedirect</Code></Error>");
        assert!(BlobError::of("s3://b", None, elsewhere).to_string().contains("?region=NAME"));
        let busy = answer("503 Service Unavailable: <Error><Code>SlowDown</Code></Error>");
        assert!(!BlobError::of("s3://b", None, busy).is_setup());
    }

    #[test]
    fn a_long_answer_is_cut() {
        assert!(short(&"ü".repeat(1000)).len() <= SHOWN_BYTES_MAX + 1);
        assert_eq!(short("a\nb"), "a b");
    }
}
